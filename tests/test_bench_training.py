"""A training against a bare loop, as a ratio in one run; printed by `make bench`. The aim is 0.95.

The training is the project's own (`fit_fold`): batches from a store, varied; clipping, schedule, validation
and a checkpoint each epoch. Timed are its passes over the batches. The bare loop has the same network,
losses, batch size, optimiser and threads, and its batches lie in memory. The two take turns, an epoch each.

Without more, on a small SIMULATED store. PEDARR_BENCH_STORE=FOLDER takes any other with one class a
window."""
import os
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from conftest import everywhere
from helpers import AT_250_HZ

from pedarr.signals.build import build_store
from pedarr.signals.store import open_store
from pedarr.synthetic.studies import simulate_database
from pedarr.training import folds as folds_
from pedarr.training.config import make_config
from pedarr.training.loop import make_optimizer, network_inputs, pick_device
from pedarr.training.network import build_model, fold_losses

pytestmark = pytest.mark.bench
EPOCHS, STEPS = 6, 6                 # the first epoch is not counted


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    if os.environ.get('PEDARR_BENCH_STORE'): return open_store(Path(os.environ['PEDARR_BENCH_STORE']))
    folder = tmp_path_factory.mktemp('bench')
    simulate_database(folder/'db', subjects=8, minutes=8., seed=3)
    return build_store(folder/'db', folder/'store', 'leipzig', config=AT_250_HZ, progress=False)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def clocks(device):
    "Wall, the processor time of this thread, that of the process."
    if device.type == 'cuda': torch.cuda.synchronize(device)
    return np.array([time.perf_counter(), time.thread_time(), time.process_time()])


class BareLoop:
    "One epoch of training as one writes it first, on batches in memory; `took`: what each call took."
    def __init__(self, store, train, c, device):
        self.device, self.gamma, self.took = device, c.gamma, []
        self.model = build_model(c, len(store.classes), rate=store.fs)
        losses = fold_losses(store, train, self.model.config['proj_dim'], c)
        setup = folds_.prepare_training(store, train, c, self.model, losses)
        self.batches = [(network_inputs(b, device), b.label.to(device)) for b in setup.batches]
        self.classify, self.contrastive = setup.losses
        self.optimizer = make_optimizer([self.model, self.contrastive], c.lr, c.weight_decay)

    def __call__(self):
        began = clocks(self.device)
        self.model.train()
        for inputs, label in self.batches:
            out = self.model(*inputs)
            loss = self.classify(out.logits, label) + self.gamma*self.contrastive(out.embedding, label)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.took.append(clocks(self.device) - began)


def in_turn(fit, bare, device, took):
    "`fit` with a stopwatch around each of its passes, and an epoch of the bare loop after each."
    def fit_in_turn(model, batches, objective, optimizer, epochs, after_epoch, before_epoch, history):
        def start(epoch):
            before_epoch(epoch)
            took.append(-clocks(device))
        def stop(model, history):
            took[-1] += clocks(device)
            after_epoch(model, history)
            bare()
        return fit(model, batches, objective, optimizer, epochs, stop, start, history)
    return fit_in_turn


@pytest.mark.parametrize('name, batch, options', [('the default network', 64, {}),
                                                  ('a small network', 32, dict(dim=16, heads=2))])
def test_training_against_a_bare_loop(store, tmp_path, monkeypatch, one_thread, name, batch, options):
    rows = np.random.default_rng(0).permutation(np.flatnonzero((store.segments.label != '').to_numpy()))
    train, validation = np.sort(rows[:STEPS*batch]), np.sort(rows[STEPS*batch:][:batch])
    c = make_config(store=str(store.path), run=str(tmp_path/'run'), loss='agcacl', batch_size=batch,
                    epochs=EPOCHS, **options)
    device, took = pick_device(c.device), []
    bare = BareLoop(store, train, c, device)
    everywhere(monkeypatch, folds_, 'fit', in_turn(folds_.fit, bare, device, took))
    history = folds_.fit_fold(store, train, validation, c, tmp_path/'checkpoint.safetensors')[2]
    ours, alone = np.array(took[1:]), np.array(bare.took[1:])
    wall, thread, process = np.median(alone/ours, axis=0)
    segments, waited = history[-1]['segments'], median(row['wait_share'] for row in history[1:])
    busy = 1 - np.median(ours[:, 1]/ours[:, 0])
    print(f'\n{name}, {sum(p.numel() for p in bare.model.parameters()):,} parameters, batch {batch}, '
          f'{store.ecg.shape[-1]} samples, {device}, {torch.get_num_threads()} thread of {os.cpu_count()}; '
          f'medians of {len(ours)} epochs in turn')
    for what, seconds in (('training', ours), ('bare loop', alone)):
        print(f'  {what:10s}{segments/np.median(seconds[:, 0]):7.0f} segments/s; '
              f'{segments/np.median(seconds[:, 1]):7.0f} a second of its thread\'s processor time')
    print(f'  training / bare loop: {wall:.3f} by the clock, {thread:.3f} by its thread\'s processor time, '
          f'{process:.3f} with the thread that prepares batches (aim 0.95)')
    print(f'  {100*waited:.1f} % of the passes waiting for data (aim 2); the thread had no processor, or '
          f'waited, {100*busy:.0f} % of the time', flush=True)
    if device.type == 'cpu': assert thread > .8              # loose: other processes disturb caches
