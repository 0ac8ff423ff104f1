"""The Leipzig notebook, end to end, on SIMULATED recordings in the layout of the release behind a server on
this machine: a small cohort in every run of the tests, a piece of the twin (`make long`)."""
import contextlib
import functools
import http.server
import re
import threading
from pathlib import Path

import nbformat
import papermill
import pandas as pd
import pytest
import yaml

from pedarr.core.errors import PedarrError
from pedarr.core.names import choices_in, words_in
from pedarr.synthetic.twin import simulate_twin
from pedarr.training.config import make_config
from pedarr.training.grid import QUESTIONS

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT/'nbs/experiments/leipzig.ipynb'
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
    papermill.execute_notebook(str(NOTEBOOK), str(place/page), given,
                               cwd=str(place), kernel_name='python3', progress_bar=False)
    outputs = [o for c in nbformat.read(place/page, 4).cells if c.cell_type == 'code' for o in c.outputs]
    return '\n'.join(str(o.get('text', '') or o.get('data', {}).get('text/html', '')) for o in outputs)


def table(place: Path, name: str) -> pd.DataFrame:
    "A table that the notebook wrote; every row but the paper's claims says that the data are simulated."
    t = pd.read_csv(place/'runs'/'results'/f'{name}.csv', keep_default_na=False)
    claimed = t.system.str.startswith('paper') if name == 'protocols' else pd.Series(False, t.index)
    assert set(t.data[~claimed]) == {'SIMULATED'} and set(t.data[claimed]) <= {"the paper's"}
    return t


@pytest.mark.long
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
    protocols = table(tmp_path, 'protocols')
    assert list(protocols.columns[3:8]) == METRICS
    p = pd.read_csv(tmp_path/'runs'/'runs'/'tiny-patient-0'/'predictions.csv')
    assert protocols['top-1'].iloc[-1].startswith(f'{100*(p.label == p.predicted).mean():.1f} % [')


def as_make_has_it() -> dict:
    "The parameters of `make rehearsal` that no place decides."
    command = (ROOT/'Makefile').read_text().split('\nrehearsal: install\n')[1].split('\n\n')[0]
    given = {}
    for text in re.findall(r"-y '(.*)'", command): given |= yaml.safe_load(text)
    return given


def test_the_rehearsal_gives_parameters_that_the_notebook_has():
    cells = nbformat.read(NOTEBOOK, 4).cells
    cell = next(c.source for c in cells if 'parameters' in c.metadata.get('tags', []))
    known = set(re.findall(r'(?m)^(\w+) = ', cell))
    assert {'common', 'own', 'preprocess', 'cap'} <= set(as_make_has_it()) <= known


@pytest.mark.parametrize('systems, others', [
    (None, None), ('default network, network with AGCACL, xresnet1d, boosted trees', 'default network')])
def test_the_notebook_knows_its_systems(systems, others):
    "By default they are the peers; earlier names mean the same networks, and rivals lose no channel."
    cells = nbformat.read(NOTEBOOK, 4).cells
    at = next(i for i, c in enumerate(cells) if 'parameters' in c.metadata.get('tags', []))
    space = dict(In=[], check_parameters=lambda *a, **k: None, as_table=lambda x, _: x,
                 choices_in=choices_in, words_in=words_in, PedarrError=PedarrError, QUESTIONS=QUESTIONS)
    exec(cells[at].source, space)
    space |= dict(folder='a', out='b') | ({} if systems is None else dict(systems=systems, others=others))
    exec(cells[at + 1].source, space)
    found, peers = space['SYSTEMS'], QUESTIONS['peers']
    assert systems is not None or space['chosen'] == list(peers) and len(space['further']) == 2
    assert found['default network'] == peers['PedArrNet']
    assert found['network with AGCACL'] == peers['PedArrNet + AGCACL'] == {'loss': 'agcacl'}
    rivals = [make_config(**found[name]) for name in ('xresnet1d', 'InceptionTime')]
    assert [c.channel_dropout for c in rivals] == [0, 0]
    for parts in ('', 'protocols'): exec(cells[at + 1].source, space | dict(parts=parts, others=''))
    for parts in ('loso', 'protocols, long'):
        with pytest.raises(PedarrError, match='others: name at least one'):
            exec(cells[at + 1].source, space | dict(parts=parts, others=''))


@pytest.mark.long
def test_the_rehearsal_from_a_server_to_all_tables(tmp_path):
    """As `make rehearsal`; first with too few hours, then whole, then once more without a training."""
    release, given = tmp_path/'release', as_make_has_it()
    simulate_twin(release, scale=.02)
    with served(release) as address:
        with pytest.raises(papermill.PapermillExecutionError, match='more than hours=1e-06'):
            execute(tmp_path, 'a.ipynb', address=address, hours=1e-6, **given)
        assert not (tmp_path/'runs'/'runs').exists()
        assert 'already right' in execute(tmp_path, 'b.ipynb', address=address, **given)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob('runs/runs/*/metrics.json')}
    assert len(before) == 24
    execute(tmp_path, 'c.ipynb', fetch=False, **given)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob('runs/runs/*/metrics.json')}
    protocols = table(tmp_path, 'protocols')
    assert set(protocols.protocol[protocols.data == 'SIMULATED']) == {'inter-patient', 'intra-patient',
                                                                    'leave one subject out'}
    assert protocols.system.nunique() == 8                     # six, and the paper's two
    for name in ('windows', 'longest', 'scores', 'classes', 'gaps', 'subjects', 'cohorts', 'long', 'speeds'):
        assert len(table(tmp_path, name)) > 1
    long = table(tmp_path, 'long')
    assert set(long.trained) == {'all', 'at most 10 a recording'} and set(long.tested) >= {'long recordings'}
