"""Shared by all tests: where the real recordings are, a small simulated database, and the benchmark mark."""
import gc
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, so that a change fails for what it changed; `PEDARR_FUZZ=1 pytest` draws
# new ones.
settings.register_profile('same', derandomize=True, deadline=None)
settings.register_profile('new', derandomize=False, deadline=None)
settings.load_profile('new' if os.environ.get('PEDARR_FUZZ') else 'same')

# What a script starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get('PEDARR_REAL_DATA') or ROOT/'../shared/data')


def everywhere(monkeypatch, module, name: str, value) -> None:
    "Put `value` in the place of `module.name`, in that chapter and in all that import it."
    old = getattr(module, name)
    for other in [m for n, m in sys.modules.items() if n.split('.')[0] == 'pedarr']:
        if vars(other).get(name, other) is old: monkeypatch.setattr(other, name, value)


def count_measured(monkeypatch) -> list[int]:
    "How many windows are measured from now on, a number a call."
    from pedarr.model import measured
    asked, now = [], measured.measure_rows
    def measure(store, rows, *other):
        asked.append(len(rows))
        return now(store, rows, *other)
    monkeypatch.setattr(measured, 'measure_rows', measure)
    return asked


def interrupt_move(monkeypatch, count: int) -> None:
    "Ctrl-C comes when `count` files have been moved to another name."
    real_replace, moved = os.replace, []
    def replace(a, b):
        real_replace(a, b)
        moved.append(b)
        if len(moved) == count: raise KeyboardInterrupt
    monkeypatch.setattr(os, 'replace', replace)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    "Name -> bytes of each file in a folder; none where there is no folder."
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


def pytest_collection(session): gc.disable()       # what is imported and collected stays


def pytest_collection_finish(session):
    "Modules and tests are not searched for garbage again and again: that is a tenth of the time."
    gc.collect()
    gc.freeze()
    gc.set_threshold(2000, 10, 30)
    gc.enable()


def pytest_configure(config):
    config.addinivalue_line('markers',
                            'bench: a benchmark that prints ratios; run by `make bench` (pytest -m bench)')
    config.addinivalue_line('markers',
                            'long: takes too long for every change; run by `make long` (pytest -m long)')


def pytest_collection_modifyitems(config, items):
    if config.option.markexpr: return
    slow = [i for i in items if i.get_closest_marker('bench') or i.get_closest_marker('long')]
    config.hook.pytest_deselected(items=slow)
    items[:] = [i for i in items if i not in slow]


def real(name: str) -> Path:
    "The folder of real recordings `name`, or skip the test, saying why."
    folder = REAL/name
    if not folder.exists(): pytest.skip(f'real recordings are not here: {folder} (set PEDARR_REAL_DATA)')
    return folder


@pytest.fixture(scope='session')
def first500(request) -> Path:
    "The first 500 of PTB-XL's recordings, unpacked once into pytest's cache; skipped without the shards."
    real('ptbxl')
    tool = REAL.parent/'tools'/'unpack-ptbxl'
    if not tool.exists(): pytest.skip(f'the tool that unpacks PTB-XL is not here: {tool}')
    folder = request.config.cache.mkdir('ptbxl')/'first500'
    run = [sys.executable, str(tool), str(folder), '--records', '500']
    subprocess.run(run, check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture(scope='session')
def whole_ptbxl(tmp_path_factory) -> Path:
    "A store of all of PTB-XL, by its statements (some minutes); skipped without the shards."
    from pedarr.signals.build import build_store
    real('ptbxl')
    tool, folder = REAL.parent/'tools'/'unpack-ptbxl', tmp_path_factory.mktemp('ptbxl')
    if not tool.exists(): pytest.skip(f'the tool that unpacks PTB-XL is not here: {tool}')
    run = [sys.executable, str(tool), str(folder/'db')]
    subprocess.run(run, check=True, capture_output=True, timeout=900)
    build_store(folder/'db', folder/'s', 'ptbxl', 'ptbxl_all', progress=False)
    return folder/'s'


@pytest.fixture(scope='session')
def simulated(tmp_path_factory) -> Path:
    "A small SIMULATED database in the Leipzig format."
    from pedarr.synthetic.studies import simulate_database
    folder = tmp_path_factory.mktemp('simulated')/'db'
    simulate_database(folder, subjects=8, minutes=1.0, seed=3)
    return folder


@pytest.fixture(scope='session')
def built_store(simulated, tmp_path_factory) -> Path:
    "A store of that database at 250 Hz: to be copied, not to be used."
    from pedarr.signals.settings import PreprocessConfig
    from pedarr.signals.build import build_store
    path = tmp_path_factory.mktemp('built')/'s'
    build_store(simulated, path, 'leipzig', config=PreprocessConfig(rate=250., iegm_band=(30., 110.)),
                progress=False)
    return path


@pytest.fixture(scope='module')
def store(built_store, tmp_path_factory) -> Path:
    "That store, a copy for each file of tests that has none of its own."
    return Path(shutil.copytree(built_store, tmp_path_factory.mktemp('store')/'s'))


def draw_two_cases():
    "Reports draw one right and one wrong case, not six: drawing them all takes longer than a training does."
    from pedarr.use import report
    with pytest.MonkeyPatch.context() as m:
        m.setattr(report, 'choose_cases', partial(report.choose_cases, right=1, wrong=1))
        yield


two_cases = pytest.fixture(draw_two_cases)                                # in one test
two_cases_here = pytest.fixture(scope='module')(draw_two_cases)           # in a file, with what it shares


def assert_learns(model, ecg, iegm, mask, classes=3, steps=25):
    "A network in training halves its loss on one batch, and every parameter takes part."
    import torch
    label = torch.arange(len(mask)) % classes
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(steps):
        out = model(ecg, iegm, mask)
        loss = torch.nn.functional.cross_entropy(out.logits, label) + (out.embedding @ out.embedding.T).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        assert all(p.grad is not None for p in model.parameters())
    assert losses[-1] < losses[0]/2
