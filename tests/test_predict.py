"""A trained network on somebody else's recording: the same probabilities, refusals, files, model folders."""
import dataclasses
import gc
import json
import pickle
import re
import shutil
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from safetensors import safe_open
from safetensors.torch import save_file

import pedarr
from conftest import real
from helpers import append, bard, command, edit_json, prucka, refused
from pedarr.core.errors import PedarrError
from pedarr.core.files import sha256
from pedarr.core.project import find_model
from pedarr.data.checksums import CHECKSUMS
from pedarr.data.known_databases import LEIPZIG
from pedarr.data.lab_exports import convert_export, find_exports
from pedarr.data.records import open_record
from pedarr.signals.arrays import store_from_arrays
from pedarr.training.config import make_config
from pedarr.training.finished_runs import file_hashes, open_finished
from pedarr.training.run_list import list_runs
from pedarr.training.run_networks import run_store
from pedarr.training.runs import find_store
from pedarr.training.train import run_training
from pedarr.use.input_files import FileFormat, find_recordings, open_recording
from pedarr.use.inputs import array_record
from pedarr.use.model_cards import describe_preprocessing
from pedarr.use.model_folder import export_model, open_model
from pedarr.use.predict_files import predict_recordings
from pedarr.use.predictor import Predictor, load_predictor
from pedarr.use.unlike import cloud_distance, fit_cloud

SMALL = dict(epochs=1, dim=16, depth=1, heads=2, n_folds=2, resamples=100, single_subject_classes='keep')
LEADS = ['I', 'II', 'III', 'aVR', 'aVL', 'aVF', 'V1', 'V2', 'V3', 'V4', 'V5', 'V6']


@pytest.fixture(scope='module')
def run(store, tmp_path_factory) -> Path:
    "A run of a small network on SIMULATED recordings."
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp('predict')/'run'
    return run_training(make_config(store=store, run=place, **SMALL), False)


@pytest.fixture(scope='module')
def folder(run) -> Path: return export_model(run, run.parent/'model')


@pytest.fixture(scope='module')
def model(folder): return load_predictor(folder)


def beats(n: int, fs: float, channels: int = 12) -> np.ndarray:
    "An array [channel, time] that looks a little like an ECG, in mV."
    t = np.arange(n)/fs
    one = np.exp(-((t % .8 - .4)/.02)**2) + .2*np.exp(-((t % .8 - .65)/.06)**2)
    return np.linspace(.5, 1.5, channels)[:, None]*one


# --- the same probabilities

def gap(model_of, predictions, classes, place) -> float:
    "The largest difference between the table of a run and what its folds say of the same windows, cut anew."
    columns, worst = [f'p_{c}' for c in classes], 0.
    for (record, k), rows in predictions.groupby(['record', 'fold']):
        rows = rows.sort_values('start')
        again = model_of(k).predict_record(place/record, starts=rows.start.to_numpy()).windows
        worst = max(worst, np.abs(again[columns].to_numpy() - rows[columns].to_numpy()).max())
    return worst


@pytest.mark.parametrize('what', ['run', 'model'])
def test_a_tested_window_gets_its_stored_probability(run, folder, simulated, what):
    finished = open_finished(run)
    own = {k: load_predictor(run if what == 'run' else folder, fold=k) for k in finished.folds}
    assert gap(own.get, finished.predictions, finished.classes, simulated) < 1e-4


def test_and_so_does_one_of_a_network_with_rates_of_its_own(store, simulated, tmp_path):
    c = make_config(store=store, run=tmp_path/'run', **SMALL, fold=0, modalities='ecg', encoder='residual',
                    model_options={'ecg_rate': 100., 'pooling': 'mean-max'})
    finished = open_finished(run_training(c, False))
    own = load_predictor(tmp_path/'run')
    assert gap(lambda k: own, finished.predictions, finished.classes, simulated) < 1e-4


def test_segments_that_were_filtered_alone_are_again(tmp_path):
    "A store from arrays: each segment was resampled and filtered without its neighbours."
    rng = np.random.default_rng(0)
    x = np.stack([beats(1500, 300, 2)*rng.uniform(.5, 2) + rng.normal(0, .05, (2, 1500)) for _ in range(24)])
    who = [f'p{i//2}' for i in range(24)]
    made = store_from_arrays(tmp_path/'s', x, 300, ['II', 'V1'], ['A', 'B']*12, who,
                             records=[f'r{i}' for i in range(24)], store_rate=250, ecg_band=(.5, 40.))
    run_training(make_config(store=made.path, run=tmp_path/'run', modalities='ecg', **SMALL), False)
    finished = open_finished(tmp_path/'run')
    own = {k: load_predictor(export_model(tmp_path/'run', tmp_path/f'm{k}'), fold=k) for k in finished.folds}
    for row in finished.predictions.itertuples():
        said = own[row.fold].predict(x[int(row.record[1:])], 300, ['II', 'V1'])
        assert np.allclose(said.prob, [row.p_A, row.p_B], atol=1e-4) and len(said.windows) == 1


def test_each_segment_of_a_long_record_is_its_own(model, tmp_path):
    "Read from a file in blocks, as a model of segments needs them: the answers are those of its array."
    x = beats(20_000, 500)*(1 + np.arange(20_000)//1500 % 3) + np.random.default_rng(0).normal(0, .02, 20_000)
    wfdb.wrsamp('long', 500, ['mV']*12, LEADS, x.T, fmt=['16']*12, write_dir=str(tmp_path))
    prep = model.model.prep.model_copy(update=dict(cut='segment'))
    alone = Predictor(model.model._replace(prep=prep), 'cpu')
    one = alone.predict_record(tmp_path/'long').windows
    other = alone.predict(open_record(tmp_path/'long').physical(), 500, LEADS).windows
    shares = [f'p_{c}' for c in model.classes]
    assert len(one) == 13 and np.allclose(one[shares], other[shares], atol=1e-4)


def test_a_run_whose_store_is_gone_is_not_guessed_at(run, store, tmp_path):
    "Its store alone says how recordings were cut: refused, with the remedy, which helps."
    np.save(tmp_path/'x.npy', X)
    told = tmp_path/'x.npy', '--rate', 500, '--channels', ','.join(LEADS)
    moved = Path(shutil.move(store, tmp_path/'moved'))
    try:
        line = refused('predict', run, *told)
        assert command('export', run, tmp_path/'m', '--store', moved).status == 0
    finally: shutil.move(moved, store)
    assert 'store' in line and 'pedarr export' in line and '--store' in line
    assert command('predict', tmp_path/'m', *told).status == 0
    assert command('predict', run, *told).status == 0


def test_a_run_is_usable_from_any_folder(run, store, tmp_path, monkeypatch):
    "A relative path to the store is seen from the run's own folder, too; only its own store is taken."
    place = tmp_path/'work'
    moved = Path(shutil.copytree(run, place/'runs'/'a'))
    edit_json(moved/'params.json', store='data/store')
    edit_json(moved/'metrics.json', files=file_hashes(moved))
    shutil.copytree(store, place/'data'/'store')
    other = Path(shutil.copytree(store, tmp_path/'data'/'store'))              # of the same path, but another
    edit_json(other/'store.json', simulated=False)
    for here in (place, tmp_path, place/'runs', place/'runs'/'a'):
        monkeypatch.chdir(here)
        assert find_store(moved, 'data/store').resolve() == place/'data'/'store'
    answer = load_predictor(Path('.')).predict(X, 500, LEADS)
    assert np.array_equal(answer.prob, load_predictor(run).predict(X, 500, LEADS).prob)
    run_store(moved)
    shutil.rmtree(place/'data')
    line = refused('predict', moved, tmp_path/'x.npy')
    assert 'data/store is not there' in line and str(place/'runs') in line and '--store' in line


def test_several_labels(tmp_path):
    "Probabilities and thresholds: the largest of the windows, yes from the mean threshold of the folds."
    x = np.stack([beats(2500, 250, 2)*(1 + i % 3) for i in range(40)])
    said = [['A'] if i % 2 else ['A', 'B'] if i % 3 else ['B'] for i in range(40)]
    store_from_arrays(tmp_path/'s', x, 250, ['II', 'V1'], ['']*40, [f'p{i//2}' for i in range(40)],
                      records=[f'r{i}' for i in range(40)], statements=said)
    c = make_config(store=tmp_path/'s', run=tmp_path/'run', task='multi', modalities='ecg', **SMALL)
    finished = open_finished(run_training(c, False))
    own = load_predictor(export_model(tmp_path/'run', tmp_path/'m'))
    folds = own.model.facts.thresholds
    answer = own.predict(np.concatenate([x[0], x[1]], 1), 250, ['II', 'V1'])
    shares = answer.windows[['p_A', 'p_B']].to_numpy()
    assert len(shares) == 2 and np.allclose(answer.prob, shares.max(0), atol=1e-5)
    assert 'largest' in answer.rule and set(folds) == {'0', '1'}
    yes = [c for c, p, t in zip('AB', answer.prob, np.mean(list(folds.values()), 0)) if p >= t]
    assert answer.answer == '|'.join(yes)
    row = finished.predictions.iloc[0]
    alone = load_predictor(tmp_path/'m', fold=row.fold).predict(x[int(row.record[1:])], 250, ['II', 'V1'])
    assert np.allclose(alone.prob, [row.p_A, row.p_B], atol=1e-4)


def test_folds_are_averaged(folder, model, simulated):
    path = LEIPZIG.records(simulated)[0]
    each = [load_predictor(folder, fold=k).predict_record(path).prob for k in (0, 1)]
    assert np.allclose(model.predict_record(path).prob, np.mean(each, 0), atol=1e-6)


@pytest.mark.parametrize('fs', [250, 360, 500, 977, 1000.5])
def test_any_rate_length_and_set_of_leads(model, fs):
    for seconds, names in ((3, ['II']), (10.7, LEADS), (35, ['V1', 'Lead I', 'x'])):
        answer = model.predict(beats(int(np.ceil(fs*seconds)), fs, len(names)), fs, names)
        t = answer.windows
        assert len(t) == seconds//3 and np.allclose(t.stop - t.start, 3, atol=.01)
        assert np.allclose(t[[f'p_{c}' for c in model.classes]].sum(1), 1, atol=1e-4)
        assert np.allclose(answer.prob.sum(), 1) and answer.answer in model.classes


def test_order_and_unit_of_channels_do_not_matter(model):
    x = beats(3000, 500)
    one = model.predict(x, 500, LEADS)
    for other in (model.predict(x[::-1], 500, LEADS[::-1]), model.predict(1000*x, 500, LEADS, 'uV'),
                  model.predict(np.asfortranarray(x), 500, LEADS),
                  model.predict(torch.from_numpy(x), 500, tuple(LEADS))):
        assert np.allclose(one.prob, other.prob, atol=1e-4)


def test_gaps_and_flat_leads_are_no_signal(model):
    x = beats(6000, 500)
    x[0, 100:300], x[3] = np.nan, 0
    answer = model.predict(x, 500, LEADS)
    assert np.isfinite(answer.prob).all()
    x[:, :1500] = np.nan
    t = model.predict(x, 500, LEADS).windows
    assert t.answer[0] == '' and t.answer[1] != '' and np.isnan(t.unlike[0])


def test_a_gap_in_all_leads_is_said(model, tmp_path):
    "Of an array and of files: the share of the answered windows that nobody has seen."
    x = beats(6000, 500)
    said = lambda a: [w for w in a.warnings if 'missing' in w]
    assert said(model.predict(x, 500, LEADS)) == []
    x[1:, 900:3300], x[0, 1000:3200] = np.nan, np.nan       # 1,000 to 3,200: all; of windows 1 and 3, not 2
    answer = model.predict(x, 500, LEADS)
    assert list(answer.windows.answer != '') == [True, False, True, True]
    assert said(answer)[0].startswith('16 % of the answered time is missing in every channel')
    np.savez(tmp_path/'a.npz', signals=x, fs=500, channels=LEADS)
    (_, same), = predict_recordings(model, [('a', tmp_path/'a.npz')])
    assert same.warnings == answer.warnings and not said(model.predict(x[:, 3170:], 500, LEADS))
    assert not said(model.predict(x, 500, LEADS, starts=[3700]))


def test_names_of_the_own_database_are_known(run, store, model, tmp_path):
    "In files as in arrays: a database that pedarr does not list tells them in its store."
    named = {'Wand': 'V1', 'Seite': 'v6'}
    moved = shutil.copytree(store, tmp_path/'store')
    edit_json(moved/'store.json', aliases=named)
    older = open_finished(run)
    unsealed = older.environment.model_copy(update=dict(store_json_sha256=None))
    prep = describe_preprocessing(dataclasses.replace(older, environment=unsealed), moved)
    assert prep.aliases == {'Wand': 'V1', 'Seite': 'V6'}
    own = Predictor(model.model._replace(prep=prep), 'cpu')
    x, want = X[[6, 11]], own.predict(X[[6, 11]], 500, ['V1', 'V6']).prob
    wfdb.wrsamp('a', 500, ['mV']*2, [*named], x.T, fmt=['16']*2, write_dir=str(tmp_path))
    pd.DataFrame(x.T, columns=[*named]).to_csv(tmp_path/'b.csv', index=False)
    said = [own.predict(x, 500, [*named]), own.predict_record(tmp_path/'a'),
            own.predict_record(tmp_path/'b.csv', rate=500)]
    said += [a for _, a in predict_recordings(own, [('a', tmp_path/'a')])]
    assert len(said) == 4 and all(np.allclose(a.prob, want, atol=1e-3) for a in said)
    with pytest.raises(PedarrError, match='no channel'): model.predict_record(tmp_path/'a')


def test_masked_samples_are_missing(model):
    "What a masked array holds below its mask is no signal."
    x = beats(6000, 500)
    gaps = np.zeros(x.shape, bool)
    gaps[1, 500:900], gaps[:, 3000:4500] = True, True
    masked = np.ma.MaskedArray(np.where(gaps, 3., x), gaps)
    told = 500, LEADS
    assert np.array_equal(array_record(masked, *told).standard(),
                          array_record(np.where(gaps, np.nan, x), *told).standard(), equal_nan=True)
    whole = np.ma.MaskedArray((1000*masked.data).astype('i2'), gaps)
    assert np.isnan(array_record(whole, *told, 'uV').standard()[:12][gaps]).all()
    assert model.predict(masked, *told).windows.answer[2] == ''


def test_embeddings(model):
    x = model.embed(beats(6000, 500), 500, LEADS)
    assert x.shape[0] == 4 and np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    flat = beats(6000, 500)
    flat[:, 1500:3000] = 0
    y = model.embed(flat, 500, LEADS)
    assert np.isnan(y[1]).all() and np.allclose(np.linalg.norm(y[[0, 2, 3]], axis=1), 1, atol=1e-5)


def test_an_answer_is_text_of_python(model):
    answer = model.predict(X, 500, LEADS)
    assert type(answer.answer) is str and all(type(a) is str for a in answer.windows.answer)


# --- arrays that are refused

X = beats(3000, 500)
REFUSED = {
    'time first': (X.T, 500, LEADS), 'has no samples': (X[:, :0], 500, LEADS),
    '1,499 samples': (X[:, :1499], 500, LEADS), 'unknown unit': (X, 500, LEADS, 'mmHg'),
    'whole numbers': ((1000*X).astype(int), 500, LEADS), "no heart's": (1000*X, 500, LEADS),
    'every sample is missing': (X*np.nan, 500, LEADS), 'infinite': (np.full_like(X, np.inf), 500, LEADS),
    'is a lead': (X[:2], 500, ['EEG', 'SpO2']), 'too low for this model': (X, 120, LEADS),
    'at most 1,000': (X, 500, ['x']*10**6), 'flat or invalid': (0*X, 500, LEADS),
    'sampling rate': (X, float('nan'), LEADS), 'give \\[channel, time\\]': (X[0], 500, ['I']),
    'not real numbers': (X.astype(object), 500, LEADS), 'both channel': (X[:2], 500, ['Lead II', 'ECG II']),
    'no array of numbers': ([[1., 2.], [3.]], 500, LEADS[:2]),
    'names of channels': (X, 500, LEADS[:3]), 'list of names': (X[:1], 500, 'I')}


@pytest.mark.parametrize('why', REFUSED)
def test_arrays_that_are_refused(model, why):
    with pytest.raises(PedarrError, match=why) as e: model.predict(*REFUSED[why])
    assert '\n' not in str(e.value) and len(str(e.value)) < 400


# --- model folders

def test_two_exports_are_equal_byte_for_byte(run, folder, tmp_path):
    again = export_model(run, tmp_path/'elsewhere'/'again')
    one, other = ({p.name: p.read_bytes() for p in place.iterdir()} for place in (folder, again))
    assert one == other


def test_the_folder_stands_alone(folder, tmp_path):
    "In a process of its own, in a place where neither run nor store is."
    moved = Path(shutil.copytree(folder, tmp_path/'m'))
    np.savez(tmp_path/'x.npz', signals=X, fs=500, channels=LEADS)
    code = (f'import pedarr, numpy as np\nz = np.load("x.npz")\n'
            'print(pedarr.load("m").predict(z["signals"], float(z["fs"]), list(z["channels"])))')
    p = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    assert 'SIMULATED MODEL run' in p.stdout and 'mean of its windows' in p.stdout
    card = (moved/'README.md').read_text()
    words = 'SIMULATED MODEL', 'no medical device', 'inter-patient', 'cannot name', '%'
    assert all(word in card for word in words)


def sealed(folder: Path) -> Path:
    "The list of hashes made again, as somebody would who means harm."
    names = [line.split('  ')[1] for line in (folder/CHECKSUMS).read_text().splitlines()]
    (folder/CHECKSUMS).write_text(''.join(f'{sha256(folder/n)}  {n}\n' for n in names if (folder/n).exists()))
    return folder


def flip(file: Path) -> None: file.write_bytes(file.read_bytes()[:-5] + b'x' + file.read_bytes()[-4:])


def resize(file: Path, size: int) -> None:
    "Claim another size in the header of a safetensors file."
    raw = file.read_bytes()
    n, = struct.unpack('<Q', raw[:8])
    head = json.loads(raw[8:8 + n])
    first = next(k for k in head if k != '__metadata__')
    head[first]['data_offsets'][1] = head[first]['data_offsets'][0] + size
    text = json.dumps(head).encode()
    file.write_bytes(struct.pack('<Q', len(text)) + text + raw[8 + n:])


def other_classes(folder: Path, first: list) -> None:
    "Let config.json name other classes: `first` in the place of the first one."
    file = folder/'config.json'
    edit_json(file, classes=[*first, *json.loads(file.read_text())['classes'][1:]])


HARM = {
    'altered since it was exported': (lambda d: flip(d/'model-0.safetensors'), False),
    'model-1.safetensors: is missing': (lambda d: (d/'model-1.safetensors').unlink(), False),
    'config.json: is missing in': (lambda d: unlist(d, 'config.json'), False),
    'preprocess.json: is missing in': (lambda d: (d/'preprocess.json').unlink(), True),
    'no list of hashes': (lambda d: append(d/CHECKSUMS, 'x'), False),
    'answers SR': (lambda d: other_classes(d, ['X']), True),
    'config.json: damaged, 8 classes where 7': (lambda d: other_classes(d, []), True),
    'version 2': (lambda d: edit_json(d/'config.json', model_version=2), True),
    'no weights': (lambda d: resize(d/'model-0.safetensors', 10**15), True),
    'no weights ': (lambda d: (d/'model-0.safetensors').write_bytes(b'\xff'*100), True),
    'must be at most': (lambda d: edit_json(d/'config.json', model=dict(dim=10**9)), True),
    'of other sizes': (lambda d: shutil.copy(d/'unlike-1.safetensors', d/'unlike-0.safetensors')
                       and edit_unlike(d/'unlike-0.safetensors'), True),
    'preprocess.json': (lambda d: edit_json(d/'preprocess.json', settings={'rate': -1}), True),
    'preprocess.json: damaged': (lambda d: edit_json(d/'preprocess.json', channels=['V17']), True)}


def unlist(folder: Path, name: str) -> None:
    "Strike a file from the list of hashes, so that nobody sees that it is altered."
    lines = (folder/CHECKSUMS).read_text().splitlines(keepends=True)
    (folder/CHECKSUMS).write_text(''.join(line for line in lines if not line.endswith(f'  {name}\n')))


def edit_unlike(file: Path) -> None:
    from safetensors.numpy import load_file, save_file
    save_file({n: a[..., :3] for n, a in load_file(file).items()}, file)


@pytest.mark.parametrize('why', HARM)
def test_a_damaged_folder_is_one_line(folder, tmp_path, why):
    copy = Path(shutil.copytree(folder, tmp_path/'m'))
    change, seal = HARM[why]
    change(copy)
    if seal: sealed(copy)
    with pytest.raises(PedarrError, match=why.strip()) as e: open_model(copy)
    assert '\n' not in str(e.value)
    np.save(tmp_path/'x.npy', X)
    refused('predict', copy, tmp_path/'x.npy', '--rate', 500, '--channels', ','.join(LEADS))


@pytest.mark.parametrize('what', ['run', 'model'])
def test_weights_that_are_no_numbers_are_refused_with_their_file(run, folder, tmp_path, what):
    moved = Path(shutil.copytree(run if what == 'run' else folder, tmp_path/'m'))
    file = moved/'model-1.safetensors'
    with safe_open(file, 'pt') as f: said, state = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    next(iter(state.values())).view(-1)[0] = float('nan')
    save_file(state, file, said)
    if what == 'run': edit_json(moved/'metrics.json', files=file_hashes(moved))
    else: sealed(moved)
    with pytest.raises(PedarrError, match='model-1.safetensors: holds weights that are no finite numbers'):
        load_predictor(moved)


def test_names_of_shipped_models(folder, tmp_path, monkeypatch):
    place = tmp_path/'pedarr'/'weights'
    shutil.copytree(folder, place/'ptbxl-rhythm')
    assert find_model('ptbxl-rhythm', place) == place/'ptbxl-rhythm'
    with pytest.raises(PedarrError, match="did you mean 'ptbxl-rhythm'"): find_model('ptbxl-rythm', place)
    monkeypatch.setattr(pedarr, '__file__', str(tmp_path/'pedarr'/'__init__.py'))
    assert pedarr.load('ptbxl-rhythm', fold=1).classes
    assert 'did you mean' in refused('predict', 'ptbxlrhythm', 'x')


# --- the command

def test_answers_never_take_the_place_of_a_recording(folder, tmp_path):
    table = tmp_path/'x.csv'
    table.write_text('I,II\n' + '0.1,0.2\n'*2000)
    before = table.read_bytes()
    for out in (table, tmp_path/'.'/'x.csv'):
        args = ('predict', folder, table, '--rate', 250, '--out', out, '--force')
        assert 'is a recording that is read' in refused(*args)
    assert table.read_bytes() == before


def test_predict_a_folder(folder, simulated, tmp_path):
    "A damaged record among many is named, skipped and counted; the others are answered."
    place = Path(shutil.copytree(simulated, tmp_path/'db'))
    dat = sorted(place.glob('*.dat'))[1]
    dat.write_bytes(dat.read_bytes()[:1000])
    r = command('predict', folder, place, '--out', tmp_path/'o.csv')
    n = len(LEIPZIG.records(simulated))
    assert r.status == 1 and f'left out: 1 of {n}' in r.err and dat.stem in r.err
    t = pd.read_csv(tmp_path/'o.csv')
    assert t.recording.nunique() == n - 1 and dat.stem not in set(t.recording)
    assert {'start', 'stop', 'answer', 'p_SR', 'unlike', 'recording_answer', 'rule', 'model'} <= set(t)
    assert 'cannot name: ' in r.out and 'no medical device' in r.out
    assert 'is there already' in refused('predict', folder, place, '--out', tmp_path/'o.csv')
    assert command('predict', folder, simulated, '--out', tmp_path/'o.csv', '--force').status == 0


def test_predict_files_of_all_kinds(folder, tmp_path):
    np.save(tmp_path/'a.npy', X)
    np.savez(tmp_path/'b.npz', signals=1000*X, fs=500, channels=LEADS, units='uV')
    table = pd.DataFrame(dict(zip(LEADS, X))).assign(time=np.arange(X.shape[1])/500)
    table.to_csv(tmp_path/'c.csv', index=False)
    options = '--rate', 500, '--channels', ','.join(LEADS)
    r = command('predict', folder, *sorted(tmp_path.iterdir()), *options, '--out', tmp_path/'o.csv')
    assert r.status == 0, r.err
    t = pd.read_csv(tmp_path/'o.csv')
    assert list(t.recording.unique()) == ['a.npy', 'b.npz', 'c.csv']
    assert all('SIMULATED MODEL' in m for m in t.model)
    shares = t[[c for c in t if c.startswith('p_')]].to_numpy().reshape(3, 2, -1)
    assert np.allclose(shares[0], shares[1], atol=1e-3) and np.allclose(shares[0], shares[2], atol=1e-3)
    assert 'does not say its rate' in refused('predict', folder, tmp_path/'a.npy')
    assert 'no such folder' in refused('predict', tmp_path/'nothing', tmp_path/'a.npy')
    r = command('predict', folder, tmp_path/'a.npy', tmp_path/'x')
    assert r.status == 2 and 'none of 2 recordings' in r.err.splitlines()[-1]


@pytest.mark.parametrize('typed, said', [('I,II,II', 'II stands there twice'), (',,', 'names no channel'),
                                         ('I,II', 'shape (3, 5000) for 2 names of channels')])
def test_every_command_that_takes_arrays_doubts_the_names(folder, tmp_path, typed, said):
    np.save(tmp_path/'a.npy', np.zeros((3, 5000)))
    told, out = ('--rate', 500, '--channels', typed), tmp_path/'out'
    for args in (['predict', folder, tmp_path/'a.npy'], ['measure', tmp_path/'a.npy', '--out', out],
                 ['delineate', tmp_path/'a.npy', '--out', out]):
        assert said in refused(*args, *told)
    assert not out.exists()


def test_a_folder_of_exports_and_tables_beside_records(folder, tmp_path):
    "Exports are answered, the record that was made of one alone; tables beside records are said and counted."
    for name in 'ab': bard(tmp_path/f'{name}.txt', X[:2], ['I', 'II'], 500)
    prucka(tmp_path/'c.txt', X[:2], ['I', 'II'], 500)
    (tmp_path/'README.txt').write_text('Dear colleague,')
    names = lambda: [name for name, _ in find_recordings([tmp_path]).recordings]
    assert names() == ['a.txt', 'b.txt', 'c.txt'] == [p.name for p in find_exports(tmp_path)]
    r = command('predict', folder, tmp_path)
    assert r.status == 0 and all(f'\n{name}: ' in r.out for name in names())
    assert r.err.startswith('note: leads that are absent: III') and r.err.count('\n') == 1
    convert_export(tmp_path/'b.txt', tmp_path)
    for name in 'xy': pd.DataFrame(dict(I=X[0], II=X[1])).to_csv(tmp_path/f'{name}.csv', index=False)
    (tmp_path/'subjects.csv').write_text('record,age\nb,7\n')
    assert names() == ['b', 'a.txt', 'c.txt']
    r = command('predict', folder, tmp_path, '--rate', 500)
    note, end = [line for line in r.err.strip().splitlines() if 'leads that are absent' not in line]
    assert r.status == 0 and '(x.csv, y.csv)' in note and '*.csv' in note
    assert end.startswith('not read: 2 tables')


def test_german_tables(tmp_path):
    "Semicolons, and a comma or a point in the numbers; what is no number is still none."
    table, told = pd.DataFrame(dict(Zeit=np.arange(900), I=X[0, :900], II=X[1, :900])), FileFormat(500)
    want = array_record(table[['I', 'II']].to_numpy().T, 500, ['I', 'II']).standard()
    for how in (dict(sep=';', decimal=','), dict(sep=';'), dict(sep='\t', decimal=',')):
        table.assign(Notiz='a, b').to_csv(tmp_path/'a.csv', index=False, **how)
        got = open_recording(tmp_path/'a.csv', told).standard()
        assert np.allclose(got, want, atol=1e-6, equal_nan=True)
    for text, said in (('Zeit;Kanal\n0;1,5\n', 'no column is a channel (Zeit, Kanal)'),
                       ('Zeit;I\n0;1.234,5\n', 'column I holds no numbers'), ('', 'is empty')):
        (tmp_path/'a.csv').write_text(text)
        with pytest.raises(PedarrError, match=re.escape(said)): open_recording(tmp_path/'a.csv', told)


@pytest.mark.parametrize('clock, header, rate', [
    (np.arange(2000)/500, 'time', 500), (np.arange(2000)/360, 'Time (s)', 360),
    (2*np.arange(2000), 'ms', 500),
    (np.arange(2000)/360, 't', 360), (np.round(np.arange(2000)/360, 3), 'time [s]', 360),
    (7 + np.arange(2000)*4., 'time_ms', 250), (np.arange(2000)/976.5625, 'Zeit', 976.5625),
    (1000*np.arange(2000), 'us', 1000), (4*np.arange(2000), 'time', 250),
    ([f'0:00:{i/250:06.3f}' for i in range(2000)], 'Elapsed time', 250),
    ([f"'[12:00:{i/250:06.3f} 01/02/2020]'" for i in range(2000)], "'Time and date'", None),
    ([f'2020-02-01 12:00:{i/250:06.3f}' for i in range(2000)], 'timestamp', 250),
    (np.arange(2000), 'sample', None), (np.arange(2000), 'index', None), (np.arange(2000), 'time', None)])
def test_a_clock_is_no_channel_and_gives_the_rate(tmp_path, clock, header, rate):
    "Where it says one: a told rate that is another is refused, and one that is the same is taken."
    file, x = tmp_path/'a.csv', beats(2000, 500, 2)
    pd.DataFrame({header: clock, 'II': x[0], 'V1': x[1]}).to_csv(file, index=False)
    if rate is None:
        with pytest.raises(PedarrError, match='does not say its rate'): open_recording(file)
        assert open_recording(file, FileFormat(200)).fs == 200
    else:
        assert open_recording(file).fs == open_recording(file, FileFormat(rate)).fs == rate
        assert any(f'{rate:g} Hz by its column' in note for note in open_recording(file).notes)
        with pytest.raises(PedarrError, match=f'says {rate:g} Hz, not 200'):
            open_recording(file, FileFormat(200))
    assert (open_recording(file, FileFormat(rate or 200)).rows >= 0).sum() == 2


@pytest.mark.parametrize('t', [
    np.delete(np.arange(2000), 700), np.arange(2000) % 1000, np.zeros(2000), np.arange(2000)[::-1],
    np.where(np.arange(2000) == 5, np.nan, np.arange(2000))])
def test_an_uneven_clock_is_refused(tmp_path, t):
    x = beats(2000, 500, 1)[0][:len(t)]
    for header in ('time (s)', 'sample'):
        pd.DataFrame({header: t/500, 'II': x}).to_csv(tmp_path/'a.csv', index=False)
        for told in (None, 500):
            with pytest.raises(PedarrError, match='does not go on evenly') as e:
                open_recording(tmp_path/'a.csv', FileFormat(told))
            assert '\n' not in str(e.value) and 'a.csv' in str(e.value)


def test_the_unit_in_a_header_counts(tmp_path):
    "In any spelling, and below the names as PhysioNet writes it; one that contradicts --units is refused."
    file, x = tmp_path/'a.csv', beats(2000, 500, 2)
    told = FileFormat(500)
    def read(header, values, form=told, below=''):
        rows = '\n'.join(f'{a:.6f},{b:.6f}' for a, b in values.T)
        file.write_text(f'{header}\n{below}{rows}\n')
        return open_recording(file, form).standard()[[1, 6]]
    assert np.allclose(read('II,V1', x), x, atol=1e-5)
    for header in ('II (mV),V1 [mV]', 'II_mV,V1_mv', 'II mV,V1/mV', 'lead II (millivolts),V1 (mV)'):
        assert np.allclose(read(header, x), x, atol=1e-5), header
    for header in ('II (uV),V1 [µV]', 'II_uV,V1_uV', 'II (μV),V1 (microvolts)'):
        assert np.allclose(read(header, 1000*x), x, atol=1e-5), header
    assert np.allclose(read('II (V),V1_V', x/1000), x, atol=2e-3)
    assert np.allclose(read('II (mV),V1 (uV)', x*[[1], [1000]]), x, atol=1e-5)
    assert np.allclose(read("'II','V1'", x, below="'mV','mV'\n"), x, atol=1e-5)
    assert np.allclose(read("'II','V1'", 1000*x, below="'uV','uV'\n"), x, atol=1e-5)
    assert np.allclose(read('II (uV),V1 (uV)', 1000*x, FileFormat(500, 'uV')), x, atol=1e-5)
    for header, form, why in (('II (mV),V1 (mV)', FileFormat(500, 'uV'), 'says its unit is mV, not uV'),
                              ('II (mV),V1', told, 'V1 does not say its unit'),
                              ('II (adu),V1 (adu)', told, 'a unit that is not known')):
        with pytest.raises(PedarrError, match=why) as e: read(header, x, form)
        assert '\n' not in str(e.value) and 'a.csv' in str(e.value)


def test_a_table_that_was_cut_off_is_refused(tmp_path):
    "Wherever within a row, with quotes or without; and so is a row of too many values."
    file = tmp_path/'a.csv'
    pd.DataFrame(dict(zip(LEADS, X[:, :400]))).to_csv(file, index=False)
    whole = file.read_text()
    assert open_recording(file, FileFormat(500)).sig_len == 400
    last = whole.rstrip().rfind('\n') + 1
    for text in (whole, whole.replace('V6', '"V6"')):
        for end in (last + 5, text.rfind(',')):
            file.write_text(text[:end])
            said = 'a.csv: row 401 has .* values, the header names 12: .*cut off'
            with pytest.raises(PedarrError, match=said): open_recording(file, FileFormat(500))
    for more in ('', '\n', '\r\n', '\n\n'):
        file.write_text(whole.rstrip().replace('\n', '\r\n') + more, newline='')
        assert open_recording(file, FileFormat(500)).sig_len == 400
    file.write_text(whole.replace('\n', ',9\n').replace('V6,9', 'V6'))
    with pytest.raises(PedarrError, match='row 2 has 13 values'): open_recording(file, FileFormat(500))


def test_columns_that_are_no_channel_are_said(tmp_path):
    table = pd.DataFrame(dict(t=np.arange(900)/500, II=X[1, :900], Vl=X[0, :900]))
    table.to_csv(tmp_path/'a.csv', index=False)
    assert any('not read: Vl' in note for note in open_recording(tmp_path/'a.csv').notes)


def test_recordings_of_one_name_stay_apart(folder, tmp_path):
    "Of two folders, good and damaged: each is named by its path, and counted."
    for place in 'abcd':
        (tmp_path/place/'db').mkdir(parents=True)
        file = tmp_path/place/'db'/'x.npz'
        np.savez(file, signals=X, fs=500, channels=LEADS)
        if place in 'cd': file.write_bytes(file.read_bytes()[:100])
    files = [tmp_path/place/'db'/'x.npz' for place in 'abcd']
    names = [str(f) for f in files]
    for given in (files, [f.parent for f in files]):
        r = command('predict', folder, *given, '--out', tmp_path/'o.csv', '--force')
        assert r.status == 1 and 'left out: 2 of 4 recordings' in r.err
        assert list(pd.read_csv(tmp_path/'o.csv').recording.unique()) == names[:2]
    for place in 'ef':
        (tmp_path/place/'db').mkdir(parents=True)
        (tmp_path/place/'db'/'y.hea').write_text('')
        np.savez(tmp_path/place/'db'/'x.npz', signals=X, fs=500, channels=LEADS)
        wfdb.wrsamp('z', 500, ['mV']*12, LEADS, X.T, fmt=['16']*12, write_dir=str(tmp_path/place/'db'))
    r = command('predict', folder, tmp_path/'e'/'db', tmp_path/'f'/'db')
    assert 'left out: 2 of 6 recordings' in r.err, r.err


def damage(rng: np.random.Generator, raw: bytes) -> bytes:
    "Some bytes changed, taken out or put in, near an end of the file, where what it promises stands."
    raw = bytearray(raw)
    for kind in rng.integers(3, size=2):
        at = int(rng.integers(130))
        at = at if rng.integers(2) else max(len(raw) - 5*at, 0)
        piece = rng.choice(list(b'({[\'\\,:\n\0'), 2).tolist()
        raw[at:at + (4 if kind == 1 else 1)] = b'' if kind == 1 else bytes(piece if kind else piece[:1])
    return bytes(raw)


def encrypted(raw: bytes) -> bytes:
    "A zip file that says of its first member that it is encrypted."
    at = raw.index(b'PK\1\2')
    return raw[:6] + b'\1' + raw[7:at + 8] + b'\1' + raw[at + 9:]


def test_damaged_arrays_are_one_line(tmp_path):
    rng, told = np.random.default_rng(0), FileFormat(500, None, LEADS[:2])
    np.save(tmp_path/'a.npy', X[:2, :600])
    np.savez_compressed(tmp_path/'b.npz', signals=X[:2, :600], fs=500, channels=LEADS[:2])
    pd.DataFrame(X[:2, :600].T, columns=LEADS[:2]).to_csv(tmp_path/'c.csv', index=False)
    raw = {p: p.read_bytes() for p in sorted(tmp_path.iterdir())}
    npz = raw[tmp_path/'b.npz']
    middle = len(npz)//4
    cases = [(p, damage(rng, b)) for p, b in raw.items() for _ in range(150)]
    cases += [(tmp_path/'b.npz', npz[:middle] + b'\xff'*20 + npz[middle + 20:]),
              (tmp_path/'b.npz', encrypted(npz)),
              (tmp_path/'a.npy', raw[tmp_path/'a.npy'].replace(b'(2, 600), }', b'(2, 600,  {')),
              (tmp_path/'c.csv', b'"' + b'I'*200_000 + raw[tmp_path/'c.csv'])]
    said = []
    for path, content in cases:
        path.write_bytes(content)
        try: open_recording(path, told if path.suffix == '.npy' else FileFormat(500))
        except PedarrError as e: said.append(str(e))
    assert len(said) > 200 and not any('\n' in s for s in said)


def test_export_and_runs(run, store, tmp_path):
    r = command('export', run, tmp_path/'m')
    assert r.status == 0 and '2 networks' in r.out and 'SIMULATED MODEL' in r.out
    assert 'not an empty folder' in refused('export', run, tmp_path/'m')
    moved = Path(shutil.copytree(run, tmp_path/'runs'/'a'))
    edit_json(Path(shutil.copytree(run, tmp_path/'runs'/'b'))/'metrics.json', segments=7)
    assert command('export', moved, tmp_path/'n', '--store', store).status == 0
    r = command('runs', tmp_path/'runs', '--csv', tmp_path/'r.csv', '--sort', 'f1')
    written = (tmp_path/'r.csv').read_bytes()
    assert 'is there already' in refused('runs', tmp_path/'runs', '--csv', tmp_path/'r.csv')
    assert (tmp_path/'r.csv').read_bytes() == written
    assert command('runs', tmp_path/'runs', '--csv', tmp_path/'r.csv', '--force').status == 0
    t = pd.read_csv(tmp_path/'r.csv')
    assert r.status == 0 and list(t.run) == ['a', 'b'] and list(t.status) == ['finished', 'damaged']
    assert t.top1_low[0] <= t.top1[0] <= t.top1_high[0] and 'damaged' in r.out
    assert "did you mean 'minutes'" in refused('runs', tmp_path/'runs', '--sort', 'minute')
    assert 0 <= list_runs(tmp_path/'runs').minutes[0] < 60


# --- what other processes get, and what stays open

@pytest.mark.parametrize('order', 'CF')
def test_processes_get_the_place_of_a_mapped_array_and_not_what_it_holds(tmp_path, order):
    path = tmp_path/'long.npy'
    np.save(path, np.asarray(np.random.default_rng(0).normal(0, .2, (12, 50_000)), np.float32, order=order))
    record = open_recording(path, FileFormat(rate=500., channels=LEADS))
    sent = pickle.dumps(record)
    assert len(sent) < 5000 < path.stat().st_size
    np.testing.assert_array_equal(pickle.loads(sent).standard(), record.standard())
    part = array_record(record.x[:, 100:20_000], 500., LEADS)      # of a part the file says nothing
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(part)).standard(), part.standard())
    del record, part
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(PedarrError, match='long.npy: became shorter'): pickle.loads(sent)
    path.unlink()
    with pytest.raises(PedarrError, match='long.npy'): pickle.loads(sent)


def test_no_file_is_left_open(folder, tmp_path, monkeypatch):
    "Python's own watch: what is collected open is an error that nobody can catch, and is noted here."
    x, names = beats(3000, 500.), ','.join(LEADS)
    np.save(tmp_path/'a.npy', x)
    (tmp_path/'b.csv').write_text(f'{names}\n' + '\n'.join(','.join(f'{v:.4f}' for v in row) for row in x.T))
    wfdb.wrsamp('c', 500, ['mV']*12, LEADS, x.T, fmt=['16']*12, write_dir=str(tmp_path))
    prucka(tmp_path/'d.txt', np.random.default_rng(0).normal(0, .2, (6, 12_000)))
    told = '--rate', 500, '--channels', names
    lines = [('predict', folder, tmp_path/'a.npy', *told),
             ('predict', folder, tmp_path/'b.csv', '--rate', 500),
             ('predict', folder, tmp_path/'c'), ('predict', folder, tmp_path/'d.txt'),
             ('measure', tmp_path/'c', '--out', tmp_path/'m'),
             ('convert', tmp_path/'d.txt', '--out', tmp_path/'w')]
    gc.collect()                                             # what earlier tests have left is not ours
    left = []
    monkeypatch.setattr(sys, 'unraisablehook', lambda said: left.append(said.exc_value))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        warnings.simplefilter('error', ResourceWarning)
        open(tmp_path/'a.npy')                               # the watch sees one
        gc.collect()
        assert [type(e) for e in left] == [ResourceWarning]
        for line in lines: assert command(*line).status == 0, line
        gc.collect()
    assert len(left) == 1 and (tmp_path/'m').exists() and (tmp_path/'w'/'d.hea').exists(), left


# --- what is unlike

def test_noise_is_said_to_be_unlike(model, simulated):
    rng, t = np.random.default_rng(0), np.arange(5000)/500
    hum = np.tile(.3*np.sin(2*np.pi*50*t), (12, 1)) + rng.normal(0, .001, (12, 5000))
    for x in (rng.normal(0, .3, (12, 5000)), hum):
        assert 'UNLIKE' in model.predict(x, 500, LEADS).line()
    share = [np.mean(model.predict_record(p).windows.unlike > 1) for p in LEIPZIG.records(simulated)]
    assert np.mean(share) < .1


def test_what_training_never_had_does_not_count():
    "Electrograms where training had leads alone: their statistics have no place from which to be far."
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(500, 3)), np.array([[.1, .2, 50.], [.1, .2, np.nan], [9., 0., 0.]])
    x[:, 2] = np.nan
    far = cloud_distance(fit_cloud(x), new)
    assert far[0] == far[1] < 1 and far[2] > 20
    assert np.isnan(cloud_distance(fit_cloud(x), np.array([[np.nan, np.nan, 1.]]))[0])


def test_exchanged_arms_warn_on_real_recordings(model):
    from pedarr.data.known_databases import LUDB
    record = LUDB.open(LUDB.records(real('ludb'))[0])
    x = record.window(0, record.sig_len)[0][:12]
    turned = x[[0, 2, 1, 4, 3, *range(5, 12)]]*np.where(np.arange(12) == 0, -1, 1)[:, None]
    assert 'arms' not in model.predict(x, 500, LEADS).line()
    assert 'arms exchanged' in model.predict(turned, 500, LEADS).line()


def test_a_wrong_unit_of_a_real_ecg_is_warned_of():
    "Twenty times too large or too small is answered with a warning; as it is, there is none. Never refused."
    from pedarr.data.known_databases import LUDB
    shipped, records = load_predictor('ptbxl-rhythm'), LUDB.records(real('ludb'))[:5]
    for record in map(LUDB.open, records):
        x = record.window(0, record.sig_len)[0][:12]
        assert 'times as large' not in shipped.predict(x, 500, LEADS).line()
        for factor in (20, 1/20):
            said = shipped.predict(factor*x, 500, LEADS).warnings
            assert sum('times as large' in w and 'is the unit right?' in w for w in said) == 1


# --- the estimator

def two_beats(n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    "Windows [n, 2, 500] at 250 Hz of two classes, and their class: the second is twice as high."
    rng = np.random.default_rng(0)
    x = np.stack([beats(500, 250, 2)*(1 + i % 2) + rng.normal(0, .05, (2, 500)) for i in range(n)])
    return x, np.arange(n) % 2


def test_estimator_by_patient_equals_the_loop():
    "fit is fit_fold on the same windows: the same weights after nine steps; groups of patients stay whole."
    from sklearn.model_selection import GroupKFold, cross_val_score
    from pedarr.training.estimator import RhythmClassifier, memory_store
    from pedarr.training.folds import fit_fold
    (x, y), small = two_beats(), dict(dim=16, depth=1, heads=2, modality_dropout=0.)
    more = dict(epochs=3, batch_size=8, lr=5e-3, seed=4)
    e = RhythmClassifier(['II', 'V1'], 250, **more, params=small).fit(x, y)
    store = memory_store(x, [str(i) for i in y], ['0', '1'], ['II', 'V1'], 250)
    c = make_config(modalities='ecg', **more, **small)
    same = lambda model: all(torch.equal(a, b) for a, b in zip(model.state_dict().values(),
                                                               e.network_.state_dict().values()))
    model, _, history = fit_fold(store, np.arange(24), np.zeros(0, int), c)
    assert same(model) and [row['classification'] for row in history] == [
        row['classification'] for row in e.history_]
    for other in (dict(lr=4e-3), dict(batch_size=12), dict(seed=5)):
        assert not same(fit_fold(store, np.arange(24), np.zeros(0, int), c.replace(**other))[0]), other
    e.set_params(epochs=1)
    scores = cross_val_score(e, x, y, groups=np.arange(24)//4, cv=GroupKFold(2))
    assert len(scores) == 2 and np.isfinite(scores).all()


def test_estimator_has_the_defaults_of_a_run():
    from pedarr.training.config import TrainConfig
    from pedarr.training.estimator import RhythmClassifier
    given = RhythmClassifier().get_params()
    assert given.pop('channels') == ('II',)     # names of X; in a run, those that are read
    assert {k: v for k, v in given.items() if k in TrainConfig.model_fields} == {
        k: TrainConfig.model_fields[k].default
        for k in ('model', 'loss', 'epochs', 'batch_size', 'lr', 'seed', 'device')}


@pytest.mark.parametrize('given, why', [
    (dict(y=np.zeros(24)), 'two classes'), (dict(y=[np.nan, 1.]*12), 'NaN'),
    (dict(y=['a', np.nan]*12), 'NaN'), (dict(y=['a', 1]*12), 'both texts and numbers'),
    (dict(y=[0, 1]), 'one class for each'), (dict(y=np.linspace(0, 1, 24)), 'label type: continuous'),
    (dict(channels=['q', 'V1']), 'channels: '), (dict(epochs=0), 'epochs'),
    (dict(rate='fast'), "rate='fast' must be a frequency"), (dict(rate=0), 'rate=0 must be a frequency'),
    (dict(store_rate=0), 'store_rate=0 must be a frequency'), (dict(X=3.), 'signals of shape'),
    (dict(X=np.full((24, 2, 500), np.nan)), 'window 0 has no usable channel'),
    (dict(params=dict(batch_size=16)), 'params: batch_size is an argument: give batch_size='),
    (dict(params=dict(lr=.1)), 'params: lr is an argument'),
    (dict(params=dict(split='segment')), 'split is of a run'),
    (dict(params=dict(validation=.5)), 'validation is of a run'),
    (dict(params=dict(nope=1)), "unknown parameter")])
def test_estimator_refuses_what_it_would_ignore_in_one_line(given, why):
    from pedarr.training.estimator import RhythmClassifier
    x, y = two_beats()
    own = {'channels': ['II', 'V1'], 'rate': 250, 'epochs': 1} | given
    x, y = own.pop('X', x), own.pop('y', y)
    with pytest.raises(PedarrError, match=why) as e: RhythmClassifier(**own).fit(x, y)
    assert '\n' not in str(e.value)


def test_the_estimator_refuses_windows_of_another_length_than_it_was_fitted_on():
    from pedarr.training.estimator import RhythmClassifier
    x, y = two_beats()
    e = RhythmClassifier(['II', 'V1'], 250, epochs=1, params=dict(dim=16, depth=1, heads=2)).fit(x, y)
    assert e.n_samples_in_ == 500 and len(e.predict(x[:3])) == 3 and len(e.predict(list(x[:3]))) == 3
    for other in (x[..., :499], list(x[..., :250]), np.tile(x, 2)):
        for ask in (e.predict, e.predict_proba):
            with pytest.raises(ValueError, match='was fitted on windows of 500 .2 s.: cut them so') as said:
                ask(other)
            assert '\n' not in str(said.value)
    assert len(e.fit(x[..., :250], y).predict(x[..., :250])) == 24        # fitted anew


@pytest.mark.parametrize('what', [None, 3, '', b'ptbxl-rhythm', ['ptbxl-rhythm'], 'a\0b', 'x'*5000,
                                  Path('/nothing/there'), Path('nothing'), '/etc/hostname/x'])
def test_what_is_no_model_or_file_is_one_line(model, what):
    for ask in (pedarr.load, model.predict_record):
        with pytest.raises(PedarrError) as e: ask(what)
        assert '\n' not in str(e.value) and len(str(e.value)) < 300 and ': ' in str(e.value)


def test_channels_that_were_not_used_are_said(folder, tmp_path):
    "On the screen once, and in the file: a misspelt name is not dropped without a word."
    rng = np.random.default_rng(0)
    for name in 'ab': np.save(tmp_path/f'{name}.npy', rng.normal(0, .1, (3, 6000)))
    r = command('predict', folder, tmp_path/'a.npy', tmp_path/'b.npy', '--rate', 500,
                '--channels', 'II,V7,Vsix', '--out', tmp_path/'o.csv')
    assert r.status == 0 and r.err.count('not used: V7, Vsix') == 1 and '(2 of 2 recordings)' in r.err
    t = pd.read_csv(tmp_path/'o.csv')
    for said in ('not used: V7, Vsix', 'leads that are absent'): assert t.notes.str.contains(said).all()
