"""A training against a bare loop, as a ratio in one run; printed by `make bench`. The aim is 0.95. And
steps in bf16 and of a compiled network.

The training is the project's own (`fit_fold`): batches from a store, varied; clipping, schedule, validation
and a checkpoint each epoch. Timed are its passes over the batches. The bare loop has the same network,
losses, batch size, optimiser and threads, and its batches lie in memory; it clips nothing. The two take
turns, an epoch each.

Without more, on a small SIMULATED store. PEDARR_BENCH_STORE=FOLDER takes any other with one class a
window."""
import json
import os
import re
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import everywhere
from helpers import AT_250_HZ, experiment_cells, keep_bench
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from pedarr.signals.batches import take_signals
from pedarr.signals.build import build_store
from pedarr.signals.store import open_store
from pedarr.synthetic.studies import simulate_database
from pedarr.training import folds as folds_
from pedarr.training.config import make_config
from pedarr.training.loop import make_optimizer, network_inputs, pick_device
from pedarr.training.network import build_model, fold_losses

EPOCHS, STEPS = 6, 12                # the first epoch is not counted; twelve batches, as of a small twin


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


def against_bare_loop(store, run, monkeypatch, batch, options, epochs=EPOCHS, steps=STEPS) -> dict:
    "Segments a second of a training and of a bare loop in turn, their ratios, the shares of waiting."
    rows = np.random.default_rng(0).permutation(np.flatnonzero((store.segments.label != '').to_numpy()))
    train, validation = np.sort(rows[:steps*batch]), np.sort(rows[steps*batch:][:batch])
    c = make_config(store=str(store.path), run=str(run), loss='agcacl', batch_size=batch, epochs=epochs,
                    **options)
    device, took = pick_device(c.device), []
    bare = BareLoop(store, train, c, device)
    everywhere(monkeypatch, folds_, 'fit', in_turn(folds_.fit, bare, device, took))
    history = folds_.fit_fold(store, train, validation, c, run/'checkpoint.safetensors')[2]
    monkeypatch.undo()
    ours, alone = np.array(took[1:]), np.array(bare.took[1:])
    segments = history[-1]['segments']
    clip = lambda: torch.nn.utils.clip_grad_norm_(bare.model.parameters(), c.clip)
    clipping = Timer('clip()', globals=dict(clip=clip)).blocked_autorange(min_run_time=.5).median
    return dict(parameters=sum(p.numel() for p in bare.model.parameters()), batch=batch,
                samples=store.ecg.shape[-1], epochs=len(ours),
                segments_per_second=segments/np.median(ours[:, 0]),
                bare_segments_per_second=segments/np.median(alone[:, 0]),
                **dict(zip(('ratio', 'ratio_of_thread', 'ratio_of_process'), np.median(alone/ours, axis=0))),
                waiting=median(row['wait_share'] for row in history[1:]),
                clipping=clipping*steps/np.median(ours[:, 0]),
                without_processor=1 - np.median(ours[:, 1]/ours[:, 0]))


NETWORKS = {'the default network': (64, {}), 'the earlier encoder, plain': (64, dict(encoder='plain')),
            'a small network': (32, dict(dim=16, heads=2))}


@pytest.mark.bench
@pytest.mark.parametrize('name', NETWORKS)
def test_training_against_a_bare_loop(store, tmp_path, monkeypatch, one_thread, name):
    "Its aims: a ratio of 0.95, and under 2 % of the passes waiting for data."
    found = against_bare_loop(store, tmp_path, monkeypatch, *NETWORKS[name])
    device = pick_device('auto')
    keep_bench(f'training, {name}', store, device, **found)
    print(f'\n{name}, {found["parameters"]:,} parameters, batch {found["batch"]}, '
          f'{found["samples"]} samples, {device}, {torch.get_num_threads()} thread of {os.cpu_count()}; '
          f'medians of {found["epochs"]} epochs in turn')
    print('  segments/s: training {segments_per_second:.0f}, bare loop {bare_segments_per_second:.0f}'
          .format(**found))
    print('  training / bare loop: {ratio:.3f} by the clock, {ratio_of_thread:.3f} by its thread\'s '
          'processor time,\n  {ratio_of_process:.3f} with the thread that prepares batches (aim 0.95)'
          .format(**found))
    print(f'  {100*found["waiting"]:.1f} % of the passes waiting for data (aim 2); '
          f'{100*found["clipping"]:.1f} % clipping gradients, which the bare loop does not;'
          f'\n  the thread had no processor, or waited, {100*found["without_processor"]:.0f} % of the time',
          flush=True)
    if device.type == 'cpu': assert found['ratio_of_thread'] > .8   # loose: other processes disturb caches


def kinds_of_steps(store, batch, options, kinds, seconds) -> dict:
    """Milliseconds of a step by kind: 'float32', 'bf16' or 'compile', and seconds of the first step.

    By turns; of the wall on a GPU, of the processor elsewhere, since other processes may run."""
    c = make_config(store=str(store.path), run='not_made', batch_size=batch, **options)
    device = pick_device(c.device)
    rows = np.flatnonzero((store.segments.label != '').to_numpy())[:batch]
    label = torch.tensor(store.segments.label[rows].map(list(store.classes).index).to_numpy(), device=device)
    x = [torch.as_tensor(a, device=device) for a in inputs_of(store, rows)]
    clock = lambda: clocks(device)[0 if device.type == 'cuda' else 2]
    def stepper(kind):
        model = build_model(c, len(store.classes), rate=store.fs).to(device).train()
        run = torch.compile(model) if kind == 'compile' else model
        optimizer = make_optimizer([model], c.lr, 0.)
        def step():
            began = clock()
            with torch.autocast(device.type, torch.bfloat16, enabled=kind == 'bf16'): out = run(*x)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(out.logits.float(), label).backward()
            optimizer.step()
            return clock() - began
        return step
    made = {kind: stepper(kind) for kind in kinds}
    first, times = {}, []
    for kind, step in made.items():
        try: first[kind] = step()
        except RuntimeError as e:                        # no compiler is found, or it fails
            print(f'{kind} is left out: {(str(e).splitlines() or [""])[0]}')
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds*len(first):
        times.append({kind: 1000*made[kind]() for kind in first})
    return {kind: dict(ms=median(t[kind] for t in times), first=first[kind]) for kind in first}


def inputs_of(store, rows):
    "ECG, electrograms and mask of the `rows`, as a network takes them."
    ecg, iegm = take_signals(store, rows)
    return ecg.astype(np.float32), iegm.astype(np.float32), np.array(store.mask[rows])


@pytest.mark.bench
@pytest.mark.parametrize('name', NETWORKS)
def test_half_precision_and_compiling(store, one_thread, name):
    "A step in bf16 and in a compiled network, beside one in float32."
    found = kinds_of_steps(store, *NETWORKS[name], ('float32', 'bf16', 'compile'), 8.)
    device = pick_device('auto')
    keep_bench(f'steps, {name}', store, device, **found)
    plain = found['float32']['ms']
    print(f'\n{name}, a step on {device}, {torch.get_num_threads()} thread: ' + ', '.join(
        f'{kind} {t["ms"]:.1f} ms ({t["ms"]/plain:.2f} times)' for kind, t in found.items())
        + '; the first of each took ' + ', '.join(f'{t["first"]:.1f} s' for t in found.values()), flush=True)
    assert all(t['ms'] > 0 for t in found.values())


def profile_of_a_step(store, batch, options, steps=10) -> dict:
    """What a step of AGCACL's training is made of: milliseconds of the operations by kind (as the notebook
    `speed` sorts them; each operation in its quickest step), the quickest `step` by the clock, and the share
    of it that is in no operation: of two minima, so a bound."""
    sorted_by = next(c['source'] for c in experiment_cells('speed') if 'def kind_of' in c['source'])
    c = make_config(store=str(store.path), run='not_made', loss='agcacl', batch_size=batch, **options)
    rows = np.flatnonzero((store.segments.label != '').to_numpy())[:batch]
    device, known = pick_device('cpu'), dict(re=re, pd=pd, profile=profile, ProfilerActivity=ProfilerActivity,
                                             gpu=None, step=None)
    bare = BareLoop(store, rows, c, device)
    known['step'] = bare
    bare.batches = bare.batches[:1]
    for _ in range(steps): bare()
    exec(sorted_by, known)
    parts = known['table'].ms.to_dict()
    clock = 1000*min(took[0] for took in bare.took[1:steps])
    return dict(parts, step=clock, between=1 - sum(parts.values())/clock)


@pytest.mark.bench
@pytest.mark.parametrize('name', NETWORKS)
def test_what_a_step_is_made_of(store, one_thread, name):
    "Operations by kind on the processor, and the share of a step that is in none."
    found = profile_of_a_step(store, *NETWORKS[name])
    keep_bench(f'profile, {name}', store, pick_device('cpu'), **found)
    share = found.pop('between')
    print(f'\n{name}: {found.pop("step"):.1f} ms a step, {100*share:.0f} % of it between '
          'operations;', ', '.join(f'{kind} {ms:.1f}' for kind, ms in found.items()), flush=True)
    assert found['convolution'] > 0 and -.3 < share < 1


TOY = dict(dim=16, heads=2, depth=1)


def test_what_the_benchmarks_keep(simulated, tmp_path, monkeypatch, one_thread):
    "On a toy: the numbers, and the card with the machine that they are from."
    store = build_store(simulated, tmp_path/'store', 'leipzig', config=AT_250_HZ, progress=False)
    found = against_bare_loop(store, tmp_path, monkeypatch, 16, TOY | dict(encoder='plain'), 2, 2)
    monkeypatch.setenv('PEDARR_BENCH', str(tmp_path/'kept'))
    assert found['epochs'] == 1 and found['segments_per_second'] > 0 and 0 <= found['waiting'] < 1
    both = kinds_of_steps(store, 16, TOY, ('float32', 'bf16'), 0.)
    assert all(t['ms'] > 0 and t['first'] > 0 for t in both.values())
    file = keep_bench('steps, a toy', store, torch.device('cpu'), **both)
    card = json.loads(file.read_text())
    assert file == tmp_path/'kept'/'steps-a-toy.json' and card['found'] == both
    assert card['machine']['simulated']
    assert {'cpu', 'cpus', 'load', 'commit', 'torch', 'threads', 'date'} <= set(card['machine'])
    monkeypatch.delenv('PEDARR_BENCH')
    assert keep_bench('steps, a toy', store, torch.device('cpu')) is None
