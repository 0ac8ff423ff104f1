"""The reader of intervals: on studies drawn by hand, on damaged input, on real recordings."""
import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings, strategies as st

from conftest import real
from pedarr.exploration import intervals as intervals_
from pedarr.exploration import rhythm_rules as rules_
from pedarr.exploration import waves as waves_
from pedarr.exploration.rhythm_rules import (ASKED_FIRST, ATRIA_AHEAD, DISSOCIATED, ONE_TO_ONE,
                                            WIDE_ONE_TO_ONE, read_rhythm)
from pedarr.exploration.waves import drawn_study as study
from pedarr.data.channels import CHANNELS
from pedarr.data.known_databases import get_database
from pedarr.data.records import open_record
from pedarr.data.rhythms import LEIPZIG_RHYTHMS
from pedarr.core.errors import PedarrError

few = settings(max_examples=12, deadline=None)


def retrograde(rr=.35, va=.11, **kw):
    v = np.arange(.4, 7.4, rr)
    return study(v, v + va, **kw), v


@pytest.mark.parametrize('module', [waves_, intervals_, rules_])
def test_it_knows_nothing_of_the_simulator(module):
    """The reader's modules import numpy, pandas, scipy, and of the package channels, errors and each other
    alone."""
    tree = ast.parse(Path(module.__file__).read_text())
    above = {0: '', 1: 'pedarr.exploration.', 2: 'pedarr.'}
    names = {above[n.level] + n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert names <= {
        '__future__', 'functools', 'typing', 'numpy', 'pandas', 'scipy.ndimage', 'scipy.signal',
        'pedarr.core.errors',
        'pedarr.data.channels', 'pedarr.data.masks', 'pedarr.exploration.waves',
        'pedarr.exploration.intervals'}


@few
@given(rr=st.floats(.33, .9), va=st.floats(.02, .16), step=st.floats(.003, .011), left=st.booleans(),
       qrs=st.floats(.06, .11), seed=st.integers(0, 99))
def test_intervals_come_out_as_drawn(rr, va, step, left, qrs, seed):
    # where the T wave runs into the next QRS, its onset is read early (the chapter says so)
    assume(rr > qrs + .28)
    v = np.arange(.4, 7.2, rr)
    delay = step * (np.arange(5) if left else np.arange(4, -1, -1))
    r = intervals_.beat_intervals(study(v, v + va, qrs=qrs, cs=delay, seed=seed), 1000)
    t = r.beats[1:-1]
    assert len(r.beats) == len(v) and len(r.waves) == len(v) and not len(r.stimuli)
    assert abs(t.rr - rr).max() < .004 and abs(t.qrs - qrs).max() < .02 and abs(t.va - va).max() < .006
    assert set(t.earliest) == {'CS12' if left else 'CS90'}
    assert abs(t[waves_.CS_BIPOLES].to_numpy() - (v[1:-1, None] + va + delay)).max() < .005
    assert intervals_.av_association(np.nanmin(r.waves, 1), v) > .99


@few
@given(pr=st.floats(.1, .2), hv=st.floats(.03, .055), rr=st.floats(.6, 1.), seed=st.integers(0, 99))
def test_conduction_from_above(pr, hv, rr, seed):
    v = np.arange(.5, 7.3, rr)
    t = intervals_.beat_intervals(study(v, v - pr + .045, pr=pr, his=hv, seed=seed), 1000).beats[1:-1]
    assert abs(t.hv - hv).max() < .006 and abs(t.av - (pr - .045)).max() < .006
    assert abs(t.pr - pr).median() < .015


@few
@given(size=st.floats(.4, 2.5), offset=st.floats(-2, 2),
       flip=st.lists(st.booleans(), min_size=19, max_size=19))
def test_size_offset_and_polarity_do_not_matter(size, offset, flip):
    x, v = retrograde()
    y = size * x * np.where(flip, -1, 1)[:, None] + offset
    a, b = read_rhythm(x, 1000), read_rhythm(y, 1000)
    assert a.rhythm == b.rhythm == 'AVRT' and len(a.beats) == len(b.beats)
    assert abs(a.beats.qrs_on - b.beats.qrs_on).max() < .003 and np.nanmax(abs(a.waves - b.waves)) < .003


@pytest.mark.parametrize('fs', [500, 977, 2000])
def test_any_sampling_rate(fs):
    x, v = retrograde(fs=fs)
    r = read_rhythm(x, fs)
    assert r.rhythm == 'AVRT'
    assert abs(r.numbers.va - .11) < .008
    assert abs(r.numbers.rr - .35) < .004
    assert r.numbers.earliest == 'CS90'


@pytest.mark.parametrize('fs', [200, 240, 250])
@pytest.mark.parametrize('channels', [12, 19])
def test_the_lowest_rates_have_all_but_the_his_bundle(fs, channels):
    x, v = retrograde(fs=fs, his=.04)
    x[channels:] = np.nan
    r = read_rhythm(x, fs)
    assert abs(r.beats.rr[:-1] - .35).max() < .02 and r.beats.hv.isna().all()
    assert r.rhythm in ('AVRT', '?')
    with pytest.raises(PedarrError, match='give a faster one'): waves_.butterworth_band(x[:12], fs, 120.)


def test_input_is_not_changed_and_given_beats_are_used():
    x, v = retrograde()
    keep = x.copy()
    x.flags.writeable = False
    found = read_rhythm(x, 1000)
    given_ = read_rhythm(x, 1000, waves_.find_beats(x, 1000))
    np.testing.assert_array_equal(x, keep)
    pd.testing.assert_frame_equal(found.beats, given_.beats)
    some = intervals_.beat_intervals(x, 1000, (1000 * (v[3:6] + .03)).astype(int)).beats
    assert len(some) == 3 and abs(some.qrs_on - v[3:6]).max() < .004


def test_what_is_absent_is_not_measured():
    x, _ = retrograde(his=.04)
    no = lambda *names: np.where(np.isin(CHANNELS, names)[:, None], np.nan, x)
    assert intervals_.beat_intervals(x, 1000).beats.hv.median() == pytest.approx(.04, abs=.005)
    assert intervals_.beat_intervals(no('ABL12'), 1000).beats[['his', 'hv', 'ah']].isna().all(axis=None)
    r = read_rhythm(no(*waves_.CS_BIPOLES), 1000)
    assert r.rhythm == '?'
    assert not len(r.waves)
    assert r.beats[['va', 'av', 'atrium', *waves_.CS_BIPOLES]].isna().all(axis=None)
    assert (r.beats.earliest == '').all()
    one = read_rhythm(no('CS12', 'CS34', 'CS56', 'CS90', 'RVA12', 'ABL12', 'V1', 'V2', 'III'), 1000)
    assert one.rhythm == 'AVRT' and one.numbers.earliest == 'CS78'
    zeros = np.nan_to_num(no('CS12'))       # as Record.window gives absent channels
    assert np.isnan(intervals_.beat_intervals(zeros, 1000).waves[:, 0]).all()


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_never_a_traceback(data):
    """Any subset of channels absent, flat, clipped or full of noise: a reading, in the vocabulary, without an
    exception or a warning turned error."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    fs = data.draw(st.sampled_from([250, 500, 977]))
    x, _ = retrograde(rr=rng.uniform(.28, 1.2), va=rng.uniform(0, .2), fs=fs,
                      seconds=data.draw(st.floats(1, 9)))
    for c in range(19):
        what = data.draw(st.sampled_from(['', '', 'nan', 'flat', 'noise', 'clip', 'holes']))
        if what == 'nan': x[c] = np.nan
        elif what == 'flat': x[c] = .076
        elif what == 'noise': x[c] = rng.normal(0, 10. ** rng.uniform(-3, 1), x.shape[1])
        elif what == 'clip': x[c] = np.clip(50 * x[c], -10.24, 10.24)
        elif what == 'holes': x[c, rng.random(x.shape[1]) < .02] = np.nan
    r = read_rhythm(x, fs)
    assert r.rhythm in {*LEIPZIG_RHYTHMS, '?'} and r.reason and r.waves.shape[1:] == (5,)
    assert r.beats.qrs_on.is_monotonic_increasing and (r.beats.qrs.dropna() >= intervals_.NARROWEST_QRS).all()
    if r.beats.n_atrial.notna().any(): assert (r.beats.n_atrial.dropna() >= 0).all()


def test_silence():
    for x in (np.zeros((19, 3000)), np.full((19, 3000), np.nan)):
        r = read_rhythm(x, 1000)
        assert r.rhythm == '?' and not len(r.beats) and not len(r.waves)


@pytest.mark.parametrize('bad, word', [
    ((np.zeros((12, 4000)), 1000), '19 channels'), ((np.zeros(4000), 1000), '19 channels'),
    ((np.zeros((19, 500)), 1000), 'at least 1 s'), ((np.zeros((19, 4000)), 100), '200 Hz'),
    ((np.zeros((19, 4000)), 1000, [5000]), 'outside'), ((np.zeros((19, 4000)), 1000, [-1]), 'outside')])
def test_bad_input_is_one_line(bad, word):
    with pytest.raises(PedarrError, match=word) as e: intervals_.beat_intervals(*bad)
    assert '\n' not in str(e.value)


@few
@given(cycle=st.floats(.4, .8), width=st.integers(1, 2), size=st.floats(.15, 3),
       sign=st.sampled_from([-1, 1]), seed=st.integers(0, 99))
def test_stimuli_are_found_and_nothing_else_is_one(cycle, width, size, sign, seed):
    s = np.arange(.3, 7.5, cycle)
    x = study(s + .015, s + .16, qrs=.16, seed=seed)
    at = (1000 * s).astype(int)
    assert len(waves_.find_stimuli(x, 1000)) == 0
    for w in range(width): x[:, at + w] += sign * size * np.linspace(.3, 1, 19)[:, None]
    found = waves_.find_stimuli(x, 1000)
    assert len(found) == len(at) and abs(found - at).max() <= 3
    assert read_rhythm(x, 1000).rhythm == '/V'


def test_sharp_electrograms_are_no_stimuli_unless_the_skin_shows_them():
    v = np.arange(.5, 7.6, .7)
    x, at, lags = study(v, v - .07, pr=.12), (1000*(v - .3)).astype(int), (0, 60, 120)
    for row, lag in zip((12, 13, 16), lags): x[row, at + lag] += .5       # each catheter at its own time
    assert len(waves_.find_stimuli(x, 1000)) == 0
    truth = np.sort(np.concatenate([at + lag for lag in lags]))
    x[0, truth] += .015                                     # a field on the skin, too weak for a vote
    found = waves_.find_stimuli(x, 1000)
    assert len(found) == len(truth) and abs(found - truth).max() <= 3


def test_real_fibrillation_has_few_stimuli():
    found, seconds = 0, 0.
    for file in sorted(real('iafdb').glob('iaf[1357]_svc.hea')):
        record = get_database('iafdb').open(file)
        for start in range(0, record.sig_len, 10_000):
            part = record.standard(start, min(record.sig_len, start + 10_000))
            if part.shape[1] <= 3000: continue
            found += len(waves_.find_stimuli(part, 1000))
            seconds += 10
    assert seconds > 100 and found <= .1*seconds     # .02/s; 1.8/s if electrograms are their own witnesses


def test_association_is_uniform_without_association():
    rng = np.random.default_rng(0)
    at = lambda low, high, n: np.cumsum(rng.uniform(low, high, n))
    values = [intervals_.av_association(at(.4, .8, 40), at(.3, .5, 60)) for _ in range(50)]
    assert np.mean(values) < .35 and np.isnan(intervals_.av_association([1., 2.], [1.5]))
    assert intervals_.av_association(np.arange(0, 9, .3), np.arange(.1, 8, .9)) == pytest.approx(1)


def test_real_fibrillation_is_read_as_fibrillation():
    r = open_record(real('iafdb')/'iaf1_afw')
    read = [read_rhythm(r.standard(i, i + 10000), 1000) for i in range(0, 150000, 10000)]
    assert sum(q.rhythm == 'AFIB' for q in read) >= 12
    # the peak of the raw spectrum is at 5.6 Hz
    df = np.median([q.numbers.df for q in read])
    assert 4.5 < df < 7


def test_real_ecgs_beats_against_the_annotators():
    from pedarr.data.annotations import read_annotations
    from pedarr.data.known_databases import get_database
    folder = real('mitdb')
    for name in ('100', '103', '105'):
        r = get_database('mitdb').open(folder/name)
        n = int(120 * r.fs)
        a = read_annotations(folder/name, 'atr', r.sig_len)
        truth = a.sample[~np.isin(a.symbol, list('+~|"'))]
        truth = truth[(truth > r.fs) & (truth < n - r.fs)]
        b = waves_.find_beats(r.standard(0, n), r.fs)
        b = b[(b > r.fs) & (b < n - r.fs)]
        assert (abs(truth[:, None] - b).min(1) < .1 * r.fs).mean() > .99
        assert (abs(b[:, None] - truth).min(1) < .1 * r.fs).mean() > .99


def test_real_ecgs_without_electrograms_give_no_rhythm():
    folder = real('ludb')/'data'
    assert {read_rhythm(open_record(folder/str(i)).standard(), 500).rhythm
            for i in range(1, 12)} <= {'?', '/V'}


nan = float('nan')
SINUS = dict(beats=12, stands_out=30., alike=.99, qrs_seen=1., v_paced=0., a_paced=0., ratio=1., aa=.8,
             aa_jitter=.01, rr_jitter=.01, locked=1., early=0., va=.65, av=.15, rr=.8, qrs=.08, hv=.045,
             av_spread=.002, va_spread=.002, leader=1., p_II=.1, earliest='CS90')
ALONE = dict(locked=.1, av_spread=.1, va_spread=.1)  # atria and ventricles by themselves
BACK = dict(va=.1, av=.25, rr=.35, aa=.35, leader=0., p_II=nan, hv=nan)  # a tachycardia whose atria follow
BLOCK = dict(ratio=4., aa=.257, aa_jitter=.05, rr_jitter=.3, early=.4)      # iaf5: flutter, variable block
ROWS = [        # table, row, what differs from sinus rhythm: one case for each rule
    (ASKED_FIRST, 0, dict(beats=2)),
    (ASKED_FIRST, 1, dict(stands_out=1.5)),
    (ASKED_FIRST, 2, dict(alike=.6)),
    (ASKED_FIRST, 3, dict(qrs_seen=.3)),
    (ASKED_FIRST, 4, dict(v_paced=.9)),
    (ASKED_FIRST, 5, dict(a_paced=.9)),
    (ASKED_FIRST, 6, dict(ratio=nan)),
    (ATRIA_AHEAD, 0, dict(ratio=2., aa=.32, va=.03)),
    (ATRIA_AHEAD, 1, ALONE | BLOCK),
    (ATRIA_AHEAD, 2, dict(ratio=3., aa=.2, aa_jitter=.1, rr_jitter=.2, locked=.3)),
    (ATRIA_AHEAD, 3, dict(locked=.6, early=.4, rr_jitter=.4)),
    (ATRIA_AHEAD, 4, dict(early=.3, aa_jitter=.3)),
    (ATRIA_AHEAD, 5, dict(ratio=2., aa=.19)),
    (ATRIA_AHEAD, 6, dict(ratio=2., aa=.4)),
    (DISSOCIATED, 0, ALONE | dict(ratio=2., rr=1.2)),
    (DISSOCIATED, 1, ALONE | dict(rr=.6)),
    (DISSOCIATED, 2, ALONE | dict(rr=.4)),
    (DISSOCIATED, 3, ALONE | dict(qrs=.15, hv=nan, rr=.4)),
    (DISSOCIATED, 4, ALONE | dict(qrs=.17, hv=nan, rr=.6)),
    (DISSOCIATED, 5, ALONE | dict(qrs=.13, hv=nan, rr=.6)),
    (WIDE_ONE_TO_ONE, 0, BACK | dict(qrs=.17)),
    (WIDE_ONE_TO_ONE, 1, BACK | dict(qrs=.13, rr=.6)),
    (WIDE_ONE_TO_ONE, 2, BACK | dict(qrs=.15)),
    (ONE_TO_ONE, 0, BACK | dict(va=.03)),
    (ONE_TO_ONE, 1, BACK | dict(va=.03, rr=.6)),
    (ONE_TO_ONE, 2, BACK | dict(va=.25, av=.1)),
    (ONE_TO_ONE, 3, BACK),
    (ONE_TO_ONE, 4, {}),
    (ONE_TO_ONE, 5, dict(p_II=nan)),
    (ONE_TO_ONE, 6, dict(p_II=-.1)),
    (ONE_TO_ONE, 7, dict(p_II=-.1, leader=nan))]


@pytest.mark.parametrize('table, row, change', ROWS)
def test_each_rule_decides_for_its_case(table, row, change):
    n = SimpleNamespace(**SINUS | change)
    rule = table[row]
    assert rule.holds(n) and not any(r.holds(n) for r in table[:row])
    side = rules_.PATHWAY_SIDE[n.earliest]
    seen = dict(va=f'{1000*n.va:.0f}', aa=f'{1000*n.aa:.0f}', earliest=n.earliest, side=side)
    assert rules_.decide_rhythm(n) == (rule.rhythm, rule.reason.format(**seen))


@pytest.mark.parametrize('aa, aa_jitter, ratio, rhythm', [
    (.257, .097, 4.5, 'AFL'),
    (.340, .020, 2.0, 'AFL'),
    (.200, .050, 3.0, 'AFL'),
    (.257, .120, 4.5, 'AFIB'),
    (.190, .050, 4.0, 'AFIB'),
    (.360, .020, 3.0, '?')])
def test_a_regular_atrial_cycle_is_flutter_at_any_ratio(aa, aa_jitter, ratio, rhythm):
    n = SimpleNamespace(**SINUS | ALONE | dict(aa=aa, aa_jitter=aa_jitter, ratio=ratio, rr=1., rr_jitter=.3))
    assert rules_.decide_rhythm(n)[0] == rhythm


def test_real_flutter_is_read_as_flutter():
    r = open_record(real('iafdb')/'iaf5_tva')
    read = [read_rhythm(r.standard(i, i + 10000), 1000).rhythm for i in range(0, 50000, 10000)]
    assert read == ['AFL'] * 5


def test_each_rule_has_a_case_and_the_rhythms_are_those_of_the_database():
    tables = [ASKED_FIRST, ATRIA_AHEAD, DISSOCIATED, WIDE_ONE_TO_ONE, ONE_TO_ONE]
    assert [(t, i) for t, i, _ in ROWS] == [(t, i) for t in tables for i in range(len(t))]
    assert {r.rhythm for t in tables for r in t} <= {*LEIPZIG_RHYTHMS, '?'}


def test_the_first_rule_that_holds_decides():
    always, never = rules_.Rule('N', '', lambda n: True), rules_.Rule('J', '', lambda n: False)
    assert rules_.first_that_holds([never, always], None) is always
    assert rules_.first_that_holds([never], None) is None


def test_the_ventricle_in_the_coronary_sinus_is_left_out_only_where_it_is_the_lower():
    v = np.arange(.5, 7.6, .7)
    x = study(v, v - .07)
    edges = np.stack([v, v + .08], 1)
    for size, n in ((.4, 1), (1.5, 2)):
        y = x + size * study((), v + .05, noise=0)
        assert len(waves_.atrial_waves(y[14:], 1000)) == 2 * len(v)
        assert len(waves_.atrial_waves(y[14:], 1000, qrs=edges)) == n * len(v)
