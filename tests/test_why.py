"""The notebook that looks into AGCACL while it trains: its trainings are kept, its tables were measured."""
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from pedarr.use.command import pedarr_command
from pedarr.evaluation.metrics import scores
from pedarr.core.tables import read_json

NOTEBOOK = Path(__file__).resolve().parents[1]/'nbs'/'experiments'/'why.ipynb'
pytestmark = pytest.mark.long
SYSTEMS = ['cross-entropy', 'AGCACL', 'warm-up', 'two stages', 'detached', 'centred']


@pytest.fixture(scope='module')
def done(simulated, tmp_path_factory):
    "(folder of the trainings, folder of the results) of a tiny run on SIMULATED data."
    import papermill
    from click.testing import CliRunner
    folder = tmp_path_factory.mktemp('why')
    built = CliRunner().invoke(pedarr_command, [
        'preprocess', str(simulated), str(folder/'store'), '--rate', '250', '--iegm-band', '30', '110'])
    assert built.exit_code == 0, built.output
    small = dict(n_folds=2, folds=[0], seeds=[0], epochs=2, batch_size=32,
                 common=dict(dim=16, depth=1, single_subject_classes='keep', device='cpu'))
    papermill.execute_notebook(str(NOTEBOOK), str(folder/'why.ipynb'), progress_bar=False,
                               kernel_name='python3',
                               parameters=dict(store=str(folder/'store'), out=str(folder/'out'),
                                               results=str(folder/'results'), systems=SYSTEMS) | small)
    return folder/'out'/'trainings', folder/'results'


def test_everything_is_kept(done):
    trainings, results = done
    assert {read_json(f)['system'] for f in trainings.glob('*.json')} == set(SYSTEMS)
    assert len(list(trainings.iterdir())) == len(SYSTEMS)
    tables = {f'{n}.csv' for n in (
        'outcome', 'gradients', 'geometry', 'recalls', 'ways', 'verdicts', 'history')}
    figures = {f'{n}.svg' for n in ('gradients', 'prototypes', 'recalls')}
    assert {p.name for p in results.iterdir()} >= tables | figures | {'made.json'}
    assert read_json(results/'made.json')['simulated'] is True


def test_tables_are_what_the_predictions_say(done):
    trainings, results = done
    overall, outcome, ways = (pd.read_csv(results/f'{n}.csv', index_col=0)
                              for n in ('overall', 'outcome', 'ways'))
    for run in map(read_json, sorted(trainings.glob('*.json'))):
        for way, predicted in run['readings'].items():
            f1 = 100*scores(run['truth'], predicted, len(run['classes']))['f1']
            assert ways.loc[run['system'], way] == pytest.approx(f1, abs=.06)
            if way == 'linear head':
                assert overall.loc[run['system'], 'macro F1'] == pytest.approx(f1, abs=.06)
                assert outcome.loc[run['system'], 'test F1'] == overall.loc[run['system'], 'macro F1']


def test_each_system_does_what_its_name_says(done):
    t = pd.read_csv(done[1]/'history.csv').set_index(['system', 'epoch']).sort_index()
    assert t.loc['cross-entropy', 'gradient'].isna().all()
    assert (t.loc['detached', 'gradient'] == 0).all()
    assert (t.loc['AGCACL', 'gradient'] > 0).all()
    assert t.loc['warm-up', 'gamma'].tolist() == [0, 0, .5] and t.loc['AGCACL', 'gamma'].tolist() == [.5]*3
    start = t.xs(0, level='epoch')
    assert t.validation_f1.notna().all() and t.test_f1.notna().sum() == len(SYSTEMS)
    assert t.xs(2, level='epoch').test_f1.notna().all()      # the test is asked once, at the end
    assert np.ptp(start.ce) < 1e-3  # the same network to begin with, whatever the loss
    assert t.loc[('centred', 2), 'S_mean'] < t.loc[('AGCACL', 2), 'S_mean']


def test_committed_without_outputs():
    cells = [c for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == 'code']
    assert all(not c.outputs and c.execution_count is None for c in cells)
