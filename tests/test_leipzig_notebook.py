"""The Leipzig notebook, end to end, on SIMULATED recordings in the layout of the release behind a server on
this machine: a small cohort in every run of the tests, a piece of the twin (`make long`)."""
import contextlib
import functools
import http.server
import threading
from pathlib import Path

import nbformat
import papermill
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = dict(dim=16, depth=1, heads=2)
AT_250_HZ = dict(rate=250, iegm_band=[30, 110])
QUICK = dict(preprocess=AT_250_HZ, n_folds=2, seeds=1, epochs=1, jobs=2, common=dict(resamples=100))
METRICS = ['top-1', 'macro precision', 'macro recall', 'macro F1', 'macro F2']


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@contextlib.contextmanager
def served(folder: Path):
    "The address of a server of the files in `folder`."
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def execute(place: Path, page: str, **params) -> str:
    "Execute the notebook into `place`; what it printed and showed."
    given = dict(folder=str(place/'data'), out=str(place/'runs')) | QUICK | params
    papermill.execute_notebook(str(ROOT/'nbs/experiments/leipzig.ipynb'), str(place/page), given,
                               cwd=str(place), kernel_name='python3', progress_bar=False)
    outputs = [o for c in nbformat.read(place/page, 4).cells if c.cell_type == 'code' for o in c.outputs]
    return '\n'.join(str(o.get('text', '') or o.get('data', {}).get('text/html', '')) for o in outputs)


def table(place: Path, name: str) -> pd.DataFrame:
    "A table that the notebook wrote; every row says that the data are simulated."
    t = pd.read_csv(place/'runs'/'results'/f'{name}.csv', keep_default_na=False)
    assert len(t) and set(t.data) == {'SIMULATED'}
    return t


def test_from_a_server_to_the_tables_of_the_cohorts(simulated, tmp_path):
    with served(simulated) as address:
        text = execute(tmp_path, 'a.ipynb', address=address, own={'tiny': TINY}, systems='tiny',
                       others='tiny', parts='cohorts')
    assert 'nothing here is a result on patients' in text and '97.76' in text
    assert (tmp_path/'data'/'SHA256SUMS.txt').exists()
    runs = sorted(p.name for p in (tmp_path/'runs'/'runs').iterdir() if p.is_dir())
    assert runs == ['tiny-adults-only-patient-0', 'tiny-children-only-patient-0', 'tiny-cohort-0',
                    'tiny-patient-0']
    t = table(tmp_path, 'cohorts').set_index(['tested', 'trained'])
    assert set(t.index) == {('adults', 'everyone'), ('adults', 'adults only'), ('adults', 'children only'),
                            ('children', 'everyone'), ('children', 'children only'),
                            ('children', 'adults only')}
    assert (t.groupby('tested').segments.nunique() == 1).all()              # the same in all rows
    assert list(table(tmp_path, 'protocols').columns[3:8]) == METRICS
