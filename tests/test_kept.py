"""The tables of nbs/results, made again from the answers that lie beside them."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pedarr.training.kept_answers import kept_scores, read_kept

RESULTS = Path(__file__).parents[1]/'nbs'/'results'
KEPT = sorted(RESULTS.glob('*/answers/*.safetensors'))


@pytest.mark.parametrize('file', KEPT, ids=lambda f: f'{f.parents[1].name}-{f.stem}')
def test_the_answers_give_the_scores_that_are_said(file):
    kept = read_kept(file.parent, file.stem)
    now, was = kept_scores(kept, 100), pd.DataFrame(kept.said['overall']).T
    assert np.allclose(now.value, was.loc[now.index, 'value'], atol=2e-3)
    table = pd.read_csv(file.parents[1]/'scores.csv')
    where = dict(zip(('task', 'system', 'seed'), file.stem.rsplit('-', 2)))
    own = table[(table[list(where)].astype(str) == pd.Series(where)).all(axis=1)].set_index('metric')
    assert set(own.index) == set(now.index)
    for column in ('value', 'low', 'high'):
        assert np.allclose(own.loc[now.index, column], was.loc[now.index, column], atol=1e-4)


def test_answers_lie_beside_their_tables():
    assert sum(f.stat().st_size for f in RESULTS.rglob('*.safetensors')) < 20e6
