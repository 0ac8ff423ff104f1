"""The tables of nbs/results, made again from the answers that lie beside them."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pedarr.training.kept_answers import kept_scores, read_kept
from pedarr.training.kept_waves import read_kept_waves
from pedarr.training.segmentation_jobs import segment_tables

RESULTS = Path(__file__).parents[1]/'nbs'/'results'
KEPT = sorted(RESULTS.glob('*/answers/*.safetensors'))


@pytest.mark.parametrize('file', KEPT, ids=lambda f: f'{f.parents[1].name}-{f.stem}')
def test_the_answers_give_the_scores_that_are_said(file):
    kept = read_kept(file.parent, file.stem)
    was = pd.DataFrame(kept.said['overall']).T
    now = kept_scores(kept, 100).loc[was.index]                  # later versions know more scores
    assert np.allclose(now.value, was.loc[now.index, 'value'], atol=2e-3)
    table = pd.read_csv(file.parents[1]/'scores.csv')
    where = dict(zip(('task', 'system', 'seed'), file.stem.rsplit('-', 2)))
    own = table[(table[list(where)].astype(str) == pd.Series(where)).all(axis=1)].set_index('metric')
    assert set(own.index) == set(now.index)
    for column in ('value', 'low', 'high'):
        assert np.allclose(own.loc[now.index, column], was.loc[now.index, column], atol=1e-4)


def test_kept_waves_give_the_tables_of_segmentation():
    "Scores of samples of all rows; borders of the row that is shipped, the row with one lead."
    folder = RESULTS/'segmentation'
    truth, answers = read_kept_waves(folder/'answers')
    said = {name: pd.read_csv(folder/f'{name}.csv').set_index('row') for name in ('samples', '30-ms')}
    for table in said.values(): assert list(answers) == list(dict.fromkeys(table.index))
    now = segment_tables(truth, answers, (), 2)['samples']
    assert np.allclose(now.value, said['samples'].value, atol=1e-4)
    row = 'unet, alone'
    edges, was = segment_tables(truth, {row: answers[row]}, (.03,), 2)['30 ms'], said['30-ms'].loc[row]
    for column in ('sensitivity', 'precision', 'f1', 'mean', 'sd'):
        assert np.allclose(edges[column], was[column], atol=1e-4)


def test_answers_lie_beside_their_tables():
    assert sum(f.stat().st_size for f in RESULTS.rglob('*.safetensors*')) < 20e6
