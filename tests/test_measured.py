"""A head for measured numbers: the same probabilities from raw, training rows alone, no leak, refusals."""
import errno
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import count_measured
from helpers import edit_json, refused

from pedarr.core.array_files import read_arrays, write_arrays
from pedarr.core.errors import PedarrError
from pedarr.core.locks import hold_lock
from pedarr.data.channels import CHANNELS, ECG_LEADS, IEGM_CHANNELS, N_ECG
from pedarr.exploration.waves import drawn_study
from pedarr.model import measured
from pedarr.model.measured import (
    MEASURED, MeasuredHead, StoreMeasured, measure_windows, measured_file)
from pedarr.signals.arrays import store_from_arrays
from pedarr.signals.batches import make_loader, take_signals
from pedarr.signals.roles import read_roles
from pedarr.signals.store import mask_channels, open_store
from pedarr.training.config import make_config
from pedarr.training.estimator import memory_store
from pedarr.training.finished_runs import open_finished
from pedarr.training.folds import fit_fold, predict
from pedarr.training.loop import supervised_objective
from pedarr.training.run_networks import open_folds
from pedarr.training.saved_models import load_model
from pedarr.training.train import run_training
from pedarr.use.missing import predict_without
from pedarr.use.model_folder import export_model
from pedarr.use.predictor import load_predictor

SMALL = dict(epochs=1, dim=16, depth=1, heads=2, n_folds=2, resamples=100, single_subject_classes='keep')


@pytest.fixture(scope='module')
def run(store, tmp_path_factory) -> Path:
    "A run of a small network with a head for measured numbers on SIMULATED recordings."
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp('measured')/'run'
    return run_training(make_config(store=store, run=place, **SMALL, measured=True), False)


@pytest.fixture(scope='module')
def folder(run) -> Path: return export_model(run, run.parent/'model')


def eight_windows() -> np.ndarray:
    "SIMULATED windows of two leads, 3 s at 250 Hz, each with another rate."
    beats = .5 + np.cumsum(np.linspace(.5, .9, 36))
    mv = drawn_study(beats, seconds=26., fs=250)[[1, 6]]
    return np.stack([mv[:, 750*k:750*k + 750] for k in range(8)])


@pytest.fixture
def windows_in_memory(): return memory_store(eight_windows(), ['A', 'B']*4, ['A', 'B'], ['II', 'V1'], 250.)


@pytest.fixture
def kept_windows(tmp_path):
    "The same in a folder, measured with all channels alone."
    store = store_from_arrays(tmp_path/'s', eight_windows(), 250., ['II', 'V1'], ['A', 'B']*4, [*'aabbccdd'])
    StoreMeasured(store).table
    return store


@pytest.mark.parametrize('what', ['run', 'model'])
def test_a_tested_window_gets_its_stored_probability(run, folder, simulated, what):
    finished, worst = open_finished(run), 0.
    columns = [f'p_{c}' for c in finished.classes]
    for (record, k), rows in finished.predictions.groupby(['record', 'fold']):
        rows = rows.sort_values('start')
        own = load_predictor(run if what == 'run' else folder, fold=k)
        again = own.predict_record(simulated/record, starts=rows.start.to_numpy()).windows
        worst = max(worst, np.abs(again[columns].to_numpy() - rows[columns].to_numpy()).max())
    assert worst < 1e-4


def test_the_head_is_part_of_the_answer(run):
    fold, _ = next(open_folds(run))
    both = predict(fold.model, make_loader(fold.data, 64, shuffle=False), 'cpu')['prob']
    del fold.model.measured
    alone = predict(fold.model, make_loader(fold.data, 64, shuffle=False), 'cpu')['prob']
    assert abs(both - alone).max() > .001


def test_the_scale_is_that_of_the_training_rows_alone(run):
    finished = open_finished(run)
    store = open_store(finished.params.store)
    roles = read_roles(run/'split.csv', store.segments, finished.params.split)
    table = StoreMeasured(store).table
    for k in finished.folds:
        own, other = load_model(run, k)[0].measured, MeasuredHead(len(finished.classes))
        other.fit_scale(table[roles[:, k] == 'train'])
        assert torch.equal(own.knots, other.knots) and torch.equal(own.known, other.known)
        other.fit_scale(table)
        assert not torch.equal(own.knots, other.knots)


def test_a_resumed_training_keeps_the_scale(run, tmp_path):
    store = open_store(open_finished(run).params.store)
    store.segments['label'] = store.segments.label.where(store.segments.label != '', store.classes[0])
    rows, c = np.arange(0, len(store), 2), make_config(**SMALL, measured=True)
    for epochs in (1, 2):
        model, _, history = fit_fold(store, rows, rows[:0], c.replace(epochs=epochs), tmp_path/'checkpoint')
    other = MeasuredHead(len(store.classes))
    other.fit_scale(StoreMeasured(store).table[rows])
    assert len(history) == 2 and torch.equal(model.measured.knots, other.knots) and other.knots.any()


def test_nothing_leaks_from_a_masked_modality(run):
    "Electrograms that are masked may hold anything."
    fold, full = next(open_folds(run))
    less = mask_channels(full, IEGM_CHANNELS)
    noise = np.random.default_rng(0).normal(size=full.iegm.shape).astype(np.float32)
    answers = []
    for store in (less, _Other(less, noise)):
        fold.data.store, fold.data.memory = store, None
        answers.append(predict(fold.model, make_loader(fold.data, 64, shuffle=False), 'cpu')['prob'])
    assert np.array_equal(*answers)


class _Other:
    "A store with other electrograms."
    def __init__(self, store, iegm): self.store, self.iegm = store, iegm
    def __getattr__(self, name): return getattr(self.store, name)
    def take(self, rows): return [take_signals(self.store, rows)[0], self.iegm[rows]]


def test_a_lost_channel_takes_its_numbers_with_it(run):
    store = open_store(open_finished(run).params.store)
    rows, measure = np.arange(0, len(store), 5), StoreMeasured(store)
    full, less = measure(store, rows), measure(mask_channels(store, [c for c in CHANNELS if 'CS' in c]), rows)
    va = MEASURED.index('va')
    assert not np.isnan(full[:, va]).all() and np.isnan(less[:, va]).all()
    none = measure(mask_channels(store, CHANNELS), rows)
    assert np.isnan(none).all()


def test_without_any_channel_the_network_answers_alone(run):
    a = predict_without(run, CHANNELS)
    columns = [c for c in a if c.startswith('p_')]
    for k, rows in a.groupby('fold'):
        model = load_model(run, k)[0]
        zero = [torch.zeros(1, n, 750) for n in (N_ECG, len(IEGM_CHANNELS))]
        with torch.no_grad(): own = model(*zero, torch.zeros(1, 19, dtype=torch.bool)).logits.softmax(1)
        assert np.allclose(rows[columns], own, atol=1e-6)


def test_a_training_starts_from_such_a_model_and_the_other_way_round(run, folder, store, tmp_path):
    for i, measured in enumerate([True, False]):
        c = make_config(store=store, run=tmp_path/f'r{i}', pretrained=str(folder), **SMALL, fold=0,
                        measured=measured)
        assert open_finished(run_training(c, False)).params.measured is measured


def test_the_table_is_measured_once(run):
    store = open_store(open_finished(run).params.store)
    file = measured_file(store, ['ecg', 'iegm'])
    made = file.stat().st_mtime_ns
    assert len(StoreMeasured(store).table) == len(store)
    assert file.stat().st_mtime_ns == made


def test_what_is_asked_without_a_channel_is_measured_once(run, monkeypatch):
    "As a network that measures every window anew would answer; a second seed measures nothing."
    asked, lost = count_measured(monkeypatch), ['aVR', 'CS12']
    measured_file(open_store(open_finished(run).params.store), ['ecg', 'iegm']).unlink()
    first = predict_without(run, lost)
    assert sum(asked) == len(first)                            # not the windows with all channels, too
    again = predict_without(run, lost)
    assert sum(asked) == len(first)
    anew = lambda self, store, rows: measure_windows(*take_signals(store, rows), store.mask[rows], store.fs)
    monkeypatch.setattr(StoreMeasured, '__call__', anew)
    monkeypatch.setattr(StoreMeasured, 'keep', lambda self, store, rows: None)
    other = predict_without(run, lost)
    assert first.equals(again) and first.equals(other)


def test_windows_without_a_channel_are_not_measured(run, monkeypatch):
    store, asked = open_store(open_finished(run).params.store), count_measured(monkeypatch)
    found = StoreMeasured(store).keep(mask_channels(store, CHANNELS), np.arange(5))
    assert np.isnan(found).all() and not asked


def all_but_probed(numbers):
    "`numbers` [M, F], all but those of the three pairs by which a file is believed counted up by one."
    probed = np.unique(np.linspace(0, len(numbers) - 1, 3).astype(int))
    other = numbers + 1
    other[probed] = numbers[probed]
    return other


@pytest.mark.parametrize('spoil', [
    lambda f: f | dict(pairs=f['pairs'] + (len(f['pairs'])*4 << 19)),      # of more windows than there are
    lambda f: f | dict(numbers=f['numbers'] + 1),
    lambda f: f | dict(key=f['key'][::-1].copy(), numbers=all_but_probed(f['numbers']))])
def test_a_file_that_is_not_believed_is_made_again(kept_windows, spoil):
    store, file = kept_windows, measured_file(kept_windows, ['ecg', 'iegm'])
    table, right = StoreMeasured(store).table, read_arrays(file, '')
    write_arrays(file, spoil(right))
    np.testing.assert_array_equal(StoreMeasured(store).table, table)
    again = read_arrays(file, '')
    for name in ('key', 'pairs', 'numbers'): np.testing.assert_array_equal(again[name], right[name])


@pytest.mark.parametrize('spoil', [
    lambda f: f | dict(numbers=f['numbers'][:-5]), lambda f: f | dict(numbers=f['numbers'][:, 0].copy()),
    lambda f: f | dict(pairs=f['pairs'].astype(float)), lambda f: f | dict(pairs=f['pairs'][::-1].copy())])
def test_a_file_of_another_form_is_one_line(kept_windows, spoil):
    file = measured_file(kept_windows, ['ecg', 'iegm'])
    write_arrays(file, spoil(read_arrays(file, '')))
    with pytest.raises(PedarrError, match='do not fit each other.*delete it') as e:
        StoreMeasured(kept_windows).table
    assert '\n' not in str(e.value) and file.name in str(e.value)


def test_what_another_training_keeps_meanwhile_stays(run):
    "One that wants to keep waits for the lock, and adds to what is there by then."
    store = open_store(open_finished(run).params.store)
    file, rows = measured_file(store, ['ecg', 'iegm']), np.arange(4)
    StoreMeasured(store).table
    one, other = (mask_channels(store, [name]) for name in ('aVR', 'aVF'))
    def pairs(): return read_arrays(file, '')['pairs']
    before = len(pairs())
    waiting = StoreMeasured(store)
    thread = threading.Thread(target=waiting.keep, args=(one, rows))
    with hold_lock(file.with_suffix('.lock'), 'keeping'):
        thread.start()
        time.sleep(.5)
        assert len(pairs()) == before
        found = measure_windows(*take_signals(store, rows), other.mask[rows], store.fs)
        kept = read_arrays(file, '')
        new = rows.astype(np.int64)*2**19 + other.mask[rows] @ 2**np.arange(19)
        order = np.argsort(np.append(kept['pairs'], new))
        write_arrays(file, kept | dict(pairs=np.append(kept['pairs'], new)[order],
                                       numbers=np.concatenate([kept['numbers'], found])[order]))
    thread.join()
    assert len(pairs()) == before + 2*len(rows) and not file.with_suffix('.lock').exists()


def test_where_nothing_can_be_written_the_numbers_are_there(run, monkeypatch):
    store = open_store(open_finished(run).params.store)
    less, rows = mask_channels(store, ['V6', 'V5']), np.arange(5)
    def full(*_): raise PedarrError('the disk is full: make room')
    monkeypatch.setattr(measured, 'write_arrays', full)
    with pytest.warns(UserWarning, match='not kept: the disk is full'):
        found = StoreMeasured(store).keep(less, rows)
    right = measure_windows(*take_signals(store, rows), less.mask[rows], store.fs)
    np.testing.assert_array_equal(found, right)


def test_where_the_lock_file_cannot_be_written_the_numbers_are_there(run, monkeypatch):
    store = open_store(open_finished(run).params.store)
    less, rows = mask_channels(store, ['V6', 'V4']), np.arange(3)
    def full(*_): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'write', full)
    with pytest.warns(UserWarning, match='not kept: .*[Nn]o space left'):
        found = StoreMeasured(store).keep(less, rows)
    monkeypatch.undo()
    right = measure_windows(*take_signals(store, rows), less.mask[rows], store.fs)
    np.testing.assert_array_equal(found, right)
    assert not list(store.path.parent.glob('*.lock'))


def test_other_windows_in_memory_are_measured_anew(windows_in_memory):
    store = windows_in_memory
    table = StoreMeasured(store, ['ecg']).table
    parts = {name: getattr(store, name)[3:] for name in ('ecg', 'iegm', 'mask')}
    part = replace(store, **parts, segments=store.segments.iloc[3:].reset_index(drop=True))
    np.testing.assert_array_equal(StoreMeasured(part, ['ecg']).table, table[3:])
    assert not np.array_equal(table[:-3], table[3:])


def test_what_is_refused_in_one_line(run, store, tmp_path):
    c = ['train', store, '--run', tmp_path/'r', '-p', 'single_subject_classes', 'keep', '-p', 'n_folds', 2]
    def said(*more): return refused(*c, '-p', 'measured', 'true', *more)
    assert 'measured means nothing to model trees' in said('-p', 'model', 'trees')
    assert 'leave measured out' in said('-p', 'modalities', 'iegm')
    assert 'leave measured out' in said('-p', 'loss', 'ldam')
    assert not (tmp_path/'r').exists()


def test_windows_that_cannot_be_measured_are_refused(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 2, 600)).astype(np.float32)
    who, records = ([f'{x}{i//n}' for i in range(12)] for x, n in (('p', 2), ('r', 1)))
    made = store_from_arrays(tmp_path/'s', x, 120, ['II', 'V1'], ['A', 'B']*6, who, records=records,
                             store_rate=100, ecg_band=(.5, 40.))
    c = make_config(store=made.path, run=tmp_path/'r', modalities='ecg', **SMALL, measured=True)
    with pytest.raises(PedarrError, match='200 Hz'): run_training(c, False)
    assert not (tmp_path/'r').exists()


def test_a_model_of_other_numbers_is_not_asked(run, tmp_path):
    shutil.copytree(run, tmp_path/'run')
    (tmp_path/'run'/'metrics.json').unlink()
    edit_json(tmp_path/'run'/'model.json', measured=[*MEASURED[1:], 'mood'])
    with pytest.raises(PedarrError, match='does not measure'): load_model(tmp_path/'run')


def test_the_loss_of_the_head_reaches_nothing_of_the_network(run):
    fold, _ = next(open_folds(run))
    batch, losses = fold.data.__getitems__(range(8)), {}
    batch = batch._replace(label=torch.zeros(8, dtype=torch.long))
    objective = supervised_objective(torch.nn.CrossEntropyLoss(), None, 0.)
    def gradients(*names):
        fold.model.zero_grad()
        said = objective(fold.model.eval().requires_grad_(True), batch, 0.)
        losses.update(said)
        sum(said[name] for name in names).backward()
        return {name: p.grad.clone() for name, p in fold.model.named_parameters() if p.grad is not None}
    both, alone = gradients('classification', 'measured'), gradients('classification')
    assert set(losses) >= {'classification', 'measured'}
    head = {name for name in both if name.startswith('measured.')}
    assert head and both.keys() - head == alone.keys()
    assert all(torch.equal(both[name], alone[name]) for name in alone)


def test_measured_numbers_with_several_statements_a_window(tmp_path):
    "SIMULATED: it trains, validates and answers; the head is among its weights."
    x = np.stack([drawn_study(np.arange(.4, 4.8, .6 + .1*(i % 3)), pr=.12, seconds=5., fs=250, noise=.01,
                              seed=i)[:12] for i in range(40)])
    made = store_from_arrays(tmp_path/'s', x, 250., ECG_LEADS, ['']*40, [f's{i//2}' for i in range(40)],
                             folds=[1 + i//2 % 10 for i in range(40)], simulated=True,
                             statements=[['A', 'B'][:1 + i//20] for i in range(40)])
    small = {k: v for k, v in SMALL.items() if k not in ('n_folds', 'single_subject_classes')}
    c = make_config(store=made.path, run=tmp_path/'r', split='official', fold='last', task='multi',
                    loss='bce', modalities='ecg', **small, measured=True)
    done = open_finished(run_training(c, False))
    assert done.predictions.filter(like='p_').to_numpy().min() >= 0
    assert any(name.startswith('measured.') for name, _ in load_model(done.path, 9)[0].named_parameters())
