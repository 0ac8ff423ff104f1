"""Shared by all tests: where the real recordings are, a small simulated database, and the benchmark mark."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get('PEDARR_REAL_DATA') or ROOT/'../shared/data')


def pytest_configure(config):
    config.addinivalue_line('markers', 'bench: a benchmark that prints ratios; run by `make bench` (pytest -m bench)')


def pytest_collection_modifyitems(config, items):
    if config.option.markexpr: return
    slow = [i for i in items if i.get_closest_marker('bench')]
    config.hook.pytest_deselected(items=slow)
    items[:] = [i for i in items if i not in slow]


def real(name: str) -> Path:
    "The folder of real recordings `name`, or skip the test, saying why."
    folder = REAL/name
    if not folder.exists(): pytest.skip(f'real recordings are not here: {folder} (set PEDARR_REAL_DATA)')
    return folder


@pytest.fixture(scope='session')
def simulated(tmp_path_factory) -> Path:
    "A small SIMULATED database in the Leipzig format."
    from pedarr.simulate import simulate_database
    folder = tmp_path_factory.mktemp('simulated')/'db'
    simulate_database(folder, subjects=8, minutes=1.0, seed=3)
    return folder
