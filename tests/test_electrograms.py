"One electrogram and nothing else: rate and regularity, on simulated signals."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedarr.exploration.waves import drawn_study
from pedarr.model.features import activations, electrogram_features, segment_features
from pedarr.signals.arrays import store_from_arrays


def rva(beats, seed=0):
    return drawn_study(beats, seconds=8., noise=.01, seed=seed)[13]

@settings(max_examples=25, deadline=None)
@given(cycle=st.floats(.2, 1.), gain=st.floats(.01, 100), seed=st.integers(0, 99))
def test_a_clock_is_counted_whatever_its_unit(cycle, gain, seed):
    beats = np.arange(.3, 7.8, cycle)
    n = electrogram_features(gain * rva(beats, seed), 1000)
    assert len(activations(gain * rva(beats, seed), 1000)) == len(beats)
    assert n['egm_cycle'] == pytest.approx(cycle, abs=.004) and n['egm_jitter'] < .03 and n['egm_alike'] > .95

def test_fibrillation_is_irregular_and_unlike():
    rng = np.random.default_rng(0)
    t = np.arange(2000) / 250
    wild = sum(rng.normal() * np.sin(2*np.pi*f*t + rng.uniform(0, 6)) for f in rng.uniform(15, 55, 60))
    vf, vt = electrogram_features(wild, 250), electrogram_features(rva(np.arange(.3, 7.8, .33))[::4], 250)
    assert vf['egm_alike'] < .5 < vt['egm_alike'] and vf['egm_jitter'] > 3 * vt['egm_jitter']
    assert vf['egm_active'] > 2 * vt['egm_active']

@pytest.mark.parametrize('x', [np.zeros(500), np.full(500, np.nan), np.r_[np.nan, np.ones(499)]])
def test_nothing_is_measured_where_nothing_is(x):
    assert np.isnan(list(electrogram_features(x, 250).values())).all()

def test_only_stores_without_leads_have_these_features(tmp_path):
    x = np.stack([rva(np.arange(.3, 7.8, c)) for c in (.3, .7, .3, .7)])[:, None]
    how = dict(labels=['VT', 'SR'] * 2, subjects=list('aabb'))
    alone = segment_features(store_from_arrays(tmp_path/'one', x, 1000, ['RVA12'], **how))
    assert np.allclose(alone.egm_cycle, [.3, .7, .3, .7], atol=.004)
    both = store_from_arrays(tmp_path/'two', np.concatenate([x, x], 1), 1000, ['II', 'RVA12'], **how)
    assert not any(c.startswith('egm_') for c in segment_features(both))
