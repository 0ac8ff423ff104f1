"""A run and a store from before the redesign (tests/earlier_run): what today's code makes of them."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from formula import write_formula_database
from helpers import append, command, refused
from pedarr.core.errors import PedarrError
from pedarr.signals.arrays import store_from_arrays
from pedarr.signals.batches import make_loader
from pedarr.signals.build import build_store
from pedarr.signals.settings import PreprocessConfig
from pedarr.signals.store import open_store
from pedarr.training.finished_runs import open_finished
from pedarr.training.folds import predict
from pedarr.training.run_networks import open_folds
from pedarr.training.runs import check_same_store

EARLIER = Path(__file__).parent/'earlier_run'
META = json.loads((EARLIER/'store.json').read_text())
CONFIG = PreprocessConfig(rate=100., ecg_band=(.5, 40.), iegm_band=(10., 45.))


@pytest.fixture(scope='module')
def database(tmp_path_factory): return write_formula_database(tmp_path_factory.mktemp('formula')/'database')


@pytest.fixture(scope='module')
def rebuilt(database):
    "The store of the run, built again today."
    return build_store(database, database.parent/'rebuilt', 'leipzig', config=CONFIG, progress=False)


def as_options(settings: dict) -> list:
    "The settings in a store.json as one types them behind `pedarr preprocess`."
    out = []
    for name, value in settings.items():
        words = value if isinstance(value, list) else ['none' if value is None else value]
        out += ['--' + name.replace('_', '-'), *words]
    return out


def need_equal_signals(rebuilt) -> None:
    "Skip the test where another numpy, scipy or processor filters: it may round otherwise."
    for name in ('numpy', 'scipy'):
        was, now = (meta['versions'][name] for meta in (META, rebuilt.meta))
        if was != now: pytest.skip(f'the hashes are of {name} {was}, and here is {now}')
    kernels = {blas.get('architecture') for blas in threadpool_info() if blas['internal_api'] == 'openblas'}
    if kernels != {'SkylakeX'}: pytest.skip(f'the hashes are of the kernels SkylakeX, and here is {kernels}')


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A working folder with the run, and its store of version 1, whose arrays nobody reads any more."
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EARLIER/'run', 'run')
    Path('store').mkdir()
    shutil.copy(EARLIER/'store.json', 'store')
    return tmp_path


def test_signals_and_segments_are_those_of_before_the_redesign(rebuilt):
    "Bit for bit, where numpy, scipy and the processor's kernels are those of that day."
    need_equal_signals(rebuilt)
    for name in ('ecg.npy', 'iegm.npy', 'mask.npy'):
        assert rebuilt.meta['sha256'][name] == META['sha256'][name], name
    check_same_store(EARLIER/'run', rebuilt)           # the shared columns of segments.csv, too


def test_networks_of_before_give_the_probabilities_that_they_gave(rebuilt):
    run = open_finished(EARLIER/'run')
    need_equal_signals(rebuilt)
    for fold, _ in open_folds(run, rebuilt, 'cpu'):
        out = predict(fold.model, make_loader(fold.data, 16, shuffle=False), torch.device('cpu'))
        said = run.predictions[[f'p_{c}' for c in run.classes]].to_numpy()
        np.testing.assert_allclose(out['prob'], said, atol=1e-4)


def test_tables_of_an_earlier_run_open_without_its_store(place):
    shutil.rmtree('store')
    said = command('runs', '.')
    assert said.status == 0 and '47.2 %' in said.out, said
    said = command('compare', '-a', 'run', '-b', 'run')
    assert said.status == 0 and 'macro F1' in said.out, said


def test_a_store_of_version_1_is_refused_with_a_remedy_that_helps(place, database, rebuilt):
    for args in (('report', 'run'), ('fewshot', 'run'), ('export', 'run', 'model')):
        assert refused(*args).endswith(
            'reads version 3: move it away and preprocess again, with the settings in its store.json')
    assert 'move it away and preprocess again' in refused('predict', 'run', database, '--out', 'x.csv')
    assert 'move it away, or choose a new folder' in refused('preprocess', database, 'store')
    x, t = np.zeros((2, 2, 300)), np.arange(2)
    with pytest.raises(PedarrError, match='move it away, or choose'):
        store_from_arrays('store', x, 100., ['I', 'II'], ['SR', 'VT'], t)
    assert json.loads(Path('store/store.json').read_text()) == META
    Path('store').rename('away')
    again = command('preprocess', database, 'store', *as_options(META['config']))
    assert again.status == 0, again.err
    need_equal_signals(rebuilt)
    for args in (('report', 'run'), ('export', 'run', 'model')):
        done = command(*args)
        assert done.status == 0, done.err
    assert json.loads(Path('model/preprocess.json').read_text())['settings']['rate'] == 100


@pytest.mark.parametrize('change', ['row', 'signals'])
def test_a_rebuilt_store_with_anything_else_in_it_is_another(place, rebuilt, change):
    store = open_store(shutil.copytree(rebuilt.path, place/'other'))
    file = store.path/'segments.csv'
    if change == 'row': append(file, file.read_text().splitlines()[-1] + '\n')
    else: store.meta['sha256']['iegm.npy'] = '0'*64
    with pytest.raises(PedarrError, match='store with other contents.*its tables still open') as e:
        check_same_store('run', store)
    assert '\n' not in str(e.value)
