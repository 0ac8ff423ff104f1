"""Scores against scikit-learn, the bootstrap against a plain loop, properties, and bad input."""
import time

import numpy as np
import pandas as pd
import pytest
from conftest import everywhere
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import fbeta_score, precision_recall_fscore_support

from pedarr.evaluation import bootstrap as bootstrap_
from pedarr.evaluation.subgroups import SINGLE_SUBJECT, macro_table, per_class, per_subject, recall_by_subject
from pedarr.evaluation.comparison import (
    format_protocols, holm_correction, paired_bootstrap, paired_classes, paired_scores, permutation_test,
    protocol_gap)
from pedarr.evaluation.metrics import METRICS, confusion_matrix, plot_confusion, scores
from pedarr.evaluation.bootstrap import bootstrap_scores, format_scores, summary_row
from pedarr.evaluation.reliability import plot_reliability, reliability
from pedarr.core.errors import PedarrError

C = 5


def cases(max_size=60):
    "Random (y_true, y_pred, subject) of equal length."
    row = st.tuples(st.integers(0, C - 1), st.integers(0, C - 1), st.integers(0, 5))
    return st.lists(row, min_size=1, max_size=max_size).map(lambda rows: tuple(np.array(rows).T))


def sklearn_scores(y_true, y_pred):
    kw = dict(labels=np.unique(y_true), average='macro', zero_division=0)
    p, r, f1, _ = precision_recall_fscore_support(y_true, y_pred, **kw)
    return [(y_true == y_pred).mean(), p, r, f1, fbeta_score(y_true, y_pred, beta=2, **kw)]


def study(n=600, subjects=12, seed=0, accuracy=0.7):
    rng = np.random.default_rng(seed)
    y_true, who = rng.integers(0, C, n), rng.integers(0, subjects, n)
    return y_true, np.where(rng.random(n) < accuracy, y_true, rng.integers(0, C, n)), who


@settings(max_examples=60, deadline=None)
@given(cases())
def test_scores_equal_scikit_learn(case):
    y_true, y_pred, _ = case
    got = scores(y_true, y_pred, C)
    assert list(got) == list(METRICS) == ['top1', 'precision', 'recall', 'f1', 'f2']
    np.testing.assert_allclose(list(got.values()), sklearn_scores(y_true, y_pred), atol=1e-12)
    np.testing.assert_array_equal(confusion_matrix(y_true, y_pred, C),
                                  sklearn_confusion_matrix(y_true, y_pred, labels=range(C)))


@settings(max_examples=40, deadline=None)
@given(cases(), st.permutations(range(C)))
def test_scores_do_not_depend_on_class_numbers_nor_row_order(case, new):
    y_true, y_pred, who = case
    new, order = np.array(new), np.random.default_rng(0).permutation(len(y_true))
    want = list(scores(y_true, y_pred, C).values())
    np.testing.assert_allclose(list(scores(new[y_true], new[y_pred], C).values()), want, atol=1e-12)
    a = bootstrap_scores(y_true, y_pred, who, C, n_resamples=50)
    pd.testing.assert_frame_equal(a,
                                  bootstrap_scores(y_true[order], y_pred[order], who[order], C,
                                                   n_resamples=50))


@settings(max_examples=40, deadline=None)
@given(cases())
def test_tables_agree_with_scores(case):
    y_true, y_pred, who = case
    names = list('abcde')
    table = per_class(y_true, y_pred, who, names)
    assert table['class'].tolist() == names and list(table) == [
        'class', 'support', 'subjects', 'precision', 'recall', 'f1', 'f2', 'note']
    want = scores(y_true, y_pred, C)
    np.testing.assert_allclose(table[['precision', 'recall', 'f1', 'f2']].mean(), list(want.values())[1:],
                               atol=1e-12)
    for c in range(C):
        assert table.subjects[c] == len(np.unique(who[y_true == c]))
        assert table.support[c] == (y_true == c).sum()
        assert np.isnan(table.f1[c]) == (c not in y_true)
    each = per_subject(y_true, y_pred, who, C)
    assert each.subject.tolist() == sorted(set(who.tolist()))
    np.testing.assert_allclose((each.top1*each.segments).sum()/each.segments.sum(), want['top1'], atol=1e-12)
    for row in each.itertuples():
        mine = who == row.subject
        np.testing.assert_allclose([row.top1, row.precision, row.recall, row.f1, row.f2],
                                   sklearn_scores(y_true[mine], y_pred[mine]), atol=1e-12)
        assert (row.segments, row.classes) == (mine.sum(), len(np.unique(y_true[mine])))


def draws(y_true, y_pred, who, n_resamples, seed):
    """Scores of each resample by a plain loop: collect the segments of the drawn subjects and score them with
    scikit-learn."""
    names, rng = np.unique(who), np.random.default_rng(seed)
    rows = [np.flatnonzero(who == s) for s in names]
    out = []
    for _ in range(n_resamples):
        i = np.concatenate([rows[s] for s in rng.integers(0, len(names), len(names))])
        out.append(sklearn_scores(y_true[i], y_pred[i]))
    return np.array(out)


def test_bootstrap_equals_the_plain_loop():
    # 8 subjects with 3 to 40 segments, classes that belong to single subjects, so that resamples lack classes
    rng = np.random.default_rng(5)
    who = np.repeat(np.arange(8), rng.integers(3, 40, 8))
    y_true = np.where(rng.random(len(who)) < 0.5, 0, who % C)
    y_pred = np.where(rng.random(len(who)) < 0.6, y_true, rng.integers(0, C, len(who)))
    loop = draws(y_true, y_pred, who, 60, seed=9)
    table = bootstrap_scores(y_true, y_pred, who, C, n_resamples=60, level=0.9, seed=9)
    np.testing.assert_allclose(table.value, sklearn_scores(y_true, y_pred), atol=1e-12)
    np.testing.assert_allclose(table[['low', 'high']].T, np.quantile(loop, [0.05, 0.95], axis=0), atol=1e-12)
    other = np.where(rng.random(len(who)) < 0.5, y_true, y_pred)
    d = loop - draws(y_true, other, who, 60, seed=9)
    paired = paired_bootstrap(y_true, y_pred, other, who, C, n_resamples=60, level=0.9, seed=9)
    np.testing.assert_allclose(paired[['low', 'high']].T, np.quantile(d, [0.05, 0.95], axis=0), atol=1e-11)
    fewer = np.minimum((d <= 1e-12).sum(0), (d >= -1e-12).sum(0))
    np.testing.assert_allclose(paired.p, np.minimum(1, 2*(fewer + 1)/61))


def test_blocks_do_not_change_the_draws(monkeypatch):
    y_true, y_pred, who = study()
    want = bootstrap_scores(y_true, y_pred, who, C, n_resamples=500)
    everywhere(monkeypatch, bootstrap_, 'MAX_DRAWS', 120)
    pd.testing.assert_frame_equal(bootstrap_scores(y_true, y_pred, who, C, n_resamples=500), want)


def test_blocks_bound_the_memory():
    import tracemalloc
    y_true, y_pred, _ = study(n=10_000)
    tracemalloc.start()
    # 6 * 10^6 draws: 48 MB if held at once, and their counts twice as much
    bootstrap_scores(y_true, y_pred, np.arange(10_000), C, n_resamples=600)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 90e6, f'{peak/1e6:.0f} MB'


def test_seed_and_level():
    case = study()
    a, b, c = (bootstrap_scores(*case, C, n_resamples=400, seed=s) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(a, b)
    assert not a.low.equals(c.low) and a.value.equals(c.value)
    narrow = bootstrap_scores(*case, C, n_resamples=400, level=0.5)
    assert (a.low <= narrow.low).all()
    assert (narrow.high <= a.high).all()
    assert ((a.high - a.low) > (narrow.high - narrow.low)).all()
    assert ((a.low <= a.value) & (a.value <= a.high)).all()


def test_width_of_the_interval_is_the_normal_one_when_segments_are_independent():
    rng = np.random.default_rng(0)
    y_pred = (rng.random(2000) < 0.2).astype(int)
    row = bootstrap_scores(np.zeros(2000, int), y_pred, np.arange(2000), 2, n_resamples=4000).loc['top1']
    assert (row.high - row.low)/2 == pytest.approx(1.96*np.sqrt(row.value*(1 - row.value)/2000), rel=0.06)


def test_clustered_interval_is_wider_and_repeated_segments_buy_nothing():
    rng = np.random.default_rng(1)
    y_true, right = np.zeros(20, int), rng.integers(0, 2, 20)
    one = bootstrap_scores(y_true, right, np.arange(20), 2, n_resamples=2000)
    many = bootstrap_scores(np.repeat(y_true, 50), np.repeat(right, 50), np.repeat(np.arange(20), 50), 2,
                            n_resamples=2000)
    pd.testing.assert_frame_equal(one, many)
    naive = bootstrap_scores(np.repeat(y_true, 50), np.repeat(right, 50), np.arange(1000), 2, n_resamples=500)
    assert (many.high - many.low)['top1'] > 4*(naive.high - naive.low)['top1']


def test_absent_class_is_left_out_of_a_resample():
    # subject 1 alone carries class 1, and it is always missed: recall is 1 where the resample lacks it, 1/2
    # where it is there
    y_true, y_pred, who = np.array([0, 0, 1]), np.array([0, 0, 0]), np.array(['a', 'b', 'c'])
    table = bootstrap_scores(y_true, y_pred, who, 3, n_resamples=3000)
    # 0.0: all three draws are the missed subject (1 in 27)
    assert table.loc['recall'].tolist() == [0.5, 0.0, 1.0]


def test_one_subject_has_no_interval():
    y_true, y_pred, _ = study(50)
    table = bootstrap_scores(y_true, y_pred, ['x001']*50, C, n_resamples=20)
    assert table[['low', 'high']].isna().all(axis=None) and table.value.notna().all()
    assert 'one subject: no interval' in format_scores(table)
    paired = paired_bootstrap(y_true, y_pred, y_true, ['x001']*50, C, n_resamples=20)
    assert paired[['low', 'high', 'p']].isna().all(axis=None)
    assert format_scores(paired).splitlines()[0].endswith('no interval]')


def test_paired_bootstrap_properties():
    y_true, a, who = study()
    b = np.where(np.random.default_rng(4).random(len(a)) < 0.3, 0, a)
    ab, ba = paired_bootstrap(y_true, a, b, who, C, 500), paired_bootstrap(y_true, b, a, who, C, 500)
    np.testing.assert_allclose(ab[['value', 'low', 'high']], -ba[['value', 'high', 'low']].to_numpy(),
                               atol=1e-12)
    np.testing.assert_array_equal(ab.p, ba.p)
    np.testing.assert_allclose(ab.value, np.subtract(*[list(scores(y_true, p, C).values()) for p in (a, b)]),
                               atol=1e-11)
    # the smallest p that 500 resamples can show
    assert ab.p['top1'] == pytest.approx(2/501) and ab.low['top1'] > 0
    same = paired_bootstrap(y_true, a, a, who, C, 100)
    assert (same.p == 1).all() and (same[['value', 'low', 'high']] == 0).all(axis=None)


def test_label_types():
    import torch
    y_true, y_pred, who = study(80)
    want = bootstrap_scores(y_true, y_pred, who, C, 50)
    named = pd.Series([f's{w:02d}' for w in who])
    pd.testing.assert_frame_equal(bootstrap_scores(torch.tensor(y_true), pd.Series(y_pred).astype('int8'),
                                                   named, C, 50), want)
    pd.testing.assert_frame_equal(bootstrap_scores(y_true.tolist(), y_pred.astype('uint8'), named.tolist(), C,
                                                   50), want)


BAD = {
    'lengths differ': (dict(y_pred=[0, 1]), 'y_pred: 2 values for 4 segments'),
    'label too large': (dict(y_true=[0, 1, 2, 5]), 'label 5 is outside 0..4'),
    'label negative': (dict(y_pred=[0, -1, 2, 1]), 'label -1 is outside'),
    'empty': (dict(y_true=[], y_pred=[], subject=[]), 'non-empty'),
    'names for labels': (dict(y_true=['SR', 'VT', 'SR', 'VT']), 'map class names'),
    'floats for labels': (dict(y_pred=[0., 1., np.nan, 1.]), 'integers are needed'),
    'logits for labels': (dict(y_pred=np.zeros((4, 5))), r'shape \(4, 5\)'),
    'subjects too few': (dict(subject=['a', 'b']), 'subject: shape'),
    'subject missing': (dict(subject=['a', 'b', None, 'a']), 'segment 2 has none'),
    'subject NaN': (dict(subject=[1, np.nan, 2, 1]), 'segment 1 has none'),
    'no resamples': (dict(n_resamples=0), 'at least one'),
    'level in per cent': (dict(level=95), 'between 0 and 1')}


@pytest.mark.parametrize('name', BAD)
@pytest.mark.parametrize('paired', [False, True])
def test_bad_input_is_one_line(name, paired):
    change, message = BAD[name]
    kw = {**dict(y_true=[0, 1, 2, 3], y_pred=[0, 1, 2, 1], subject=['a', 'b', 'c', 'a'], n_classes=C,
                 n_resamples=10), **change}
    if paired:
        kw['pred_a'] = kw['pred_b'] = kw.pop('y_pred')
        message = message.replace('y_pred', 'pred_a')
    with pytest.raises(PedarrError, match=message) as error:
        (paired_bootstrap if paired else bootstrap_scores)(**kw)
    assert '\n' not in str(error.value)


def test_bad_input_of_the_other_functions():
    with pytest.raises(PedarrError, match='outside'): scores([0, 3], [0, 1], 3)
    with pytest.raises(PedarrError, match='outside'): per_class([0, 2], [0, 1], ['a', 'b'], ['SR', 'VT'])
    with pytest.raises(PedarrError, match='has none'): per_subject([0, 1], [0, 1], ['a', None], 2)
    with pytest.raises(PedarrError, match='2 x 2'): plot_confusion(np.zeros((3, 3)), ['SR', 'VT'])
    table = bootstrap_scores([0, 1], [0, 1], ['a', 'b'], 2, 10)
    with pytest.raises(PedarrError, match='unknown metric .*top1'):
        format_scores(table.rename(index={'f1': 'F-one'}))


@pytest.mark.parametrize('bins', [1, 4, 10, 15])
def test_reliability_equals_scikit_learn(bins):
    rng = np.random.default_rng(bins)
    prob = rng.dirichlet(np.full(C, 0.5), 700)
    prob[:3] = np.eye(C)[:3]                                    # full confidence belongs to the last bin
    prob[3:5] = [.3, .3, .2, .1, .1], [.5, .5, 0, 0, 0]         # bin edges, and ties
    y_true = rng.integers(0, C, 700)
    table, ece = reliability(prob, y_true, bins)
    confidence, hit = prob.max(1), prob.argmax(1) == y_true
    accuracy, mean = calibration_curve(hit, confidence, n_bins=bins, strategy='uniform')
    np.testing.assert_allclose(table.accuracy, accuracy, atol=1e-12)
    np.testing.assert_allclose(table.confidence, mean, atol=1e-12)
    assert ((table.low < table.confidence) & (table.confidence <= table.high + 1e-12)).all()
    assert table.segments.sum() == 700
    assert ece == pytest.approx(np.sum(table.segments*abs(accuracy - mean))/700)
    # of 5 classes the best has 0.2 at least: low bins are empty
    assert (table.segments > 0).all() and (bins < 10 or len(table) < bins)


def test_reliability_extremes_and_bad_input():
    y = np.arange(C)
    assert reliability(np.eye(C), y)[1] == 0 and reliability(np.eye(C), (y + 1) % C)[1] == 1
    # rounding of float16 is accepted
    half = reliability(np.eye(C).astype('float16')*np.float16(0.999) + np.float16(0.0002), y)[1]
    assert half < 0.01
    for prob, message in [
            (np.eye(C)[:3], 'for 5 segments'), (np.eye(C)*7, 'row 0 is no probability'),
            (np.full((C, C), np.nan), 'row 0'), (np.eye(C)*3 - 0.5, 'softmax'), (np.zeros(C), 'one row')]:
        with pytest.raises(PedarrError, match=message): reliability(prob, y)
    with pytest.raises(PedarrError, match='bins=0'): reliability(np.eye(C), y, bins=0)
    with pytest.raises(PedarrError, match='outside 0..4'): reliability(np.eye(C), y + 1)


def test_text():
    table = pd.DataFrame({'value': [0.912], 'low': [0.881], 'high': [0.94]}, index=['top1'])
    assert format_scores(table) == 'top-1            91.2 % [88.1, 94.0]'
    assert summary_row(table, loss='agcacl') == {'loss': 'agcacl', 'top-1': '91.2 % [88.1, 94.0]'}
    expected = '-1.2 points [-3.0, +0.4], p = 0.12'
    assert summary_row(table.assign(value=-0.012, low=-0.03, high=0.004, p=0.1234))['top-1'] == expected


# ---- the permutation test

def two_runs(n=300, subjects=8, seed=0, a=.7, b=.5):
    rng = np.random.default_rng(seed)
    y_true, who = rng.integers(0, C, n), rng.integers(0, subjects, n)
    return y_true, *(np.where(rng.random(n) < share, y_true, rng.integers(0, C, n)) for share in (a, b)), who


@pytest.mark.parametrize('subjects', [1, 2, 6])
def test_exact_permutation_equals_the_plain_loop(subjects):
    import itertools
    y_true, a, b, who = two_runs(subjects=subjects, n=120)
    seen = np.subtract(sklearn_scores(y_true, a), sklearn_scores(y_true, b))
    as_large = []
    for coin in itertools.product([False, True], repeat=subjects):
        swap = np.array(coin)[who]
        x, y = np.where(swap, b, a), np.where(swap, a, b)
        as_large.append(abs(np.subtract(sklearn_scores(y_true, x),
                                        sklearn_scores(y_true, y))) >= abs(seen) - 1e-12)
    table = permutation_test(y_true, a, b, who, C)
    np.testing.assert_allclose(table.p, np.mean(as_large, axis=0), atol=1e-12)
    np.testing.assert_allclose(table.value, seen, atol=1e-11)
    assert (table.smallest == 2/2**subjects).all() and (table.p >= table.smallest).all()


def test_random_permutation_approaches_the_exact_one():
    case = two_runs(subjects=12, a=.62, b=.55)
    exact = permutation_test(*case, C, n_permutations=2**12)
    drawn = permutation_test(*case, C, n_permutations=2**12 - 1, seed=3)
    assert not np.array_equal(exact.p, drawn.p)
    np.testing.assert_allclose(exact.p, drawn.p, atol=4*np.sqrt(.25/4095))
    assert (drawn.smallest == 1/4096).all()
    pd.testing.assert_frame_equal(drawn, permutation_test(*case, C, n_permutations=2**12 - 1, seed=3))


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(0, 99), st.booleans())
def test_permutation_properties(case, seed, exact):
    y_true, a, who = case
    b = np.random.default_rng(seed).permutation(a)
    options = dict(n_permutations=64 if exact else 20, seed=seed)
    ab = permutation_test(y_true, a, b, who, C, **options)
    ba = permutation_test(y_true, b, a, who, C, **options)
    # who is called a does not matter
    assert ab.p.tolist() == ba.p.tolist() and ab.value.tolist() == (-ba.value).tolist()
    assert ((ab.p >= ab.smallest) & (ab.p <= 1)).all()
    order = np.random.default_rng(seed).permutation(len(a))
    pd.testing.assert_frame_equal(ab,
                                  permutation_test(y_true[order], a[order], b[order], who[order], C,
                                                   **options))
    assert (permutation_test(y_true, a, a, who, C, **options).p == 1).all()


def test_under_the_null_p_is_uniform_or_larger():
    rng, p = np.random.default_rng(0), []
    # 20 subjects, each with a difficulty of its own, which both systems share; answers drawn alike
    for i in range(400):
        who, y_true = np.repeat(np.arange(20), 10), rng.integers(0, 2, 200)
        hard = rng.beta(2, 2, 20)[who]
        a, b = (np.where(rng.random(200) < hard, y_true, 1 - y_true) for _ in 'ab')
        p.append(permutation_test(y_true, a, b, who, 2, n_permutations=199, seed=i).p[['top1', 'f1']])
    p = np.array(p)
    for level in (.05, .1, .25, .5, .75):
        assert ((p <= level).mean(0) < level + 3.5*np.sqrt(level*(1 - level)/400)).all()  # never too often
        # nor hardly ever (ties make it a little too seldom)
        assert ((p <= level).mean(0) > .7*level - .03).all()


def test_segments_of_one_subject_are_no_evidence():
    y_true, who = np.zeros(200, int), np.repeat([0, 1], 100)
    a, b = np.zeros(200, int), np.ones(200, int)                          # a always right, b never
    assert (permutation_test(y_true, a, b, who, 2).p == .5).all()         # two subjects can't say more
    assert permutation_test(y_true, a, b, np.arange(200), 2).p['top1'] < .001


def test_permutation_blocks_and_bad_input(monkeypatch):
    case = two_runs(subjects=30)
    want = permutation_test(*case, C, n_permutations=500)
    everywhere(monkeypatch, bootstrap_, 'MAX_DRAWS', 64)
    got = permutation_test(*case, C, n_permutations=500)
    assert (got.value == want.value).all()
    exact = permutation_test(*two_runs(subjects=6), C)
    monkeypatch.undo()
    pd.testing.assert_frame_equal(exact, permutation_test(*two_runs(subjects=6), C))
    with pytest.raises(PedarrError, match='n_permutations=0'): permutation_test(*case, C, n_permutations=0)
    with pytest.raises(PedarrError, match='pred_b'):
        permutation_test(case[0], case[1], case[2][:5], case[3], C)


def test_many_subjects_do_not_overflow():
    y_true, a, b, _ = two_runs(n=300)
    table = permutation_test(y_true, a, b, np.arange(300), C, n_permutations=500)
    assert (table.p[['top1', 'recall']] < .02).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_by_its_definition(p):
    got, order = holm_correction(p), np.argsort(p, kind='stable')
    for level in (.01, .05, .2, .5):
        reject = np.zeros(len(p), bool)  # step down: stop at the first that is too large
        for i, k in enumerate(order):
            if p[k]*(len(p) - i) > level: break
            reject[k] = True
        np.testing.assert_array_equal(got <= level, reject)
    assert (got >= p).all()


def test_paired_scores_join_interval_and_test():
    case = two_runs(subjects=4)
    table = paired_scores(*case, C, n_resamples=300, seed=1)
    pd.testing.assert_frame_equal(table[['value', 'low', 'high']],
                                  paired_bootstrap(*case, C, n_resamples=300,
                                                   seed=1)[['value', 'low', 'high']])
    pd.testing.assert_frame_equal(table[['value', 'p', 'smallest']], permutation_test(*case, C))
    assert '(at least 0.12: few subjects)' in format_scores(table)
    assert 'few' not in format_scores(paired_scores(*two_runs(subjects=9), C, n_resamples=300))
    assert 'no interval' in format_scores(paired_scores(*case[:3], np.zeros(300, int), C, n_resamples=50))


# ---- classes that stand in one subject

def single_subject_study(seed=0):
    "Class 4 in subject 0 only; the others in all of 9 subjects."
    y_true, a, b, who = two_runs(subjects=9, n=400, seed=seed)
    return np.where((y_true == 4) & (who != 0), 0, y_true), a, b, who


def test_macro_means_with_and_without_single_subject_classes():
    y_true, a, _, who = single_subject_study()
    table = per_class(y_true, a, who, list('abcde'))
    assert table.note.tolist() == [''] * 4 + [SINGLE_SUBJECT]
    few = bootstrap_scores(y_true, a, who, C, n_resamples=200, min_subjects=2)
    np.testing.assert_allclose(few.value[['precision', 'recall', 'f1', 'f2']],
                               table[['precision', 'recall', 'f1', 'f2']][:4].mean(), atol=1e-12)
    full = bootstrap_scores(y_true, a, who, C, n_resamples=200)
    pd.testing.assert_series_equal(few.loc['top1'], full.loc['top1'])
    rows = macro_table(y_true, a, who, list('abcde'), n_resamples=200)
    assert rows['macro means over'].tolist() == ['all 5 classes', f'4, without e ({SINGLE_SUBJECT})']
    assert rows['top-1'].nunique() == 1
    assert len(macro_table(y_true[who > 0], a[who > 0], who[who > 0], list('abcde'), n_resamples=50)) == 1
    # nothing but single-subject classes
    assert len(macro_table([0, 1], [0, 1], ['x', 'x'], list('ab'), n_resamples=50)) == 1
    assert per_subject(y_true, a, who, list('abcde')).alone.tolist() == ['e'] + ['']*8
    assert 'alone' not in per_subject(y_true, a, who, C)


def test_a_resample_without_any_kept_class_is_left_out():
    # class 0 in subjects 0 and 1, the others in 2 and 3
    y_true, who = np.array([0]*2 + [1, 2, 3]*2), np.array([0, 1] + [2]*3 + [3]*3)
    y_true = np.where(y_true > 0, y_true + who - 2, 0)  # ... and now each of the others in one
    y_true = np.minimum(y_true, 4)
    keep = [np.unique(who[y_true == c]).size for c in range(5)]
    assert keep[0] == 2
    table = bootstrap_scores(y_true, np.zeros(8, int), who, 5, n_resamples=300, min_subjects=2)
    assert np.isfinite(table.to_numpy()).all()
    p = paired_bootstrap(y_true, np.zeros(8, int), y_true, who, 5, n_resamples=300, min_subjects=2).p
    assert ((p > 0) & (p <= 1)).all()


def test_recall_by_subject_is_the_recall_of_each():
    y_true, a, _, who = single_subject_study()
    table = recall_by_subject(y_true, a, who, list('abcde'))
    for s in range(9):
        for c, name in enumerate('abcde'):
            mine = (who == s) & (y_true == c)
            want = (a[mine] == c).mean() if mine.any() else np.nan
            np.testing.assert_allclose(table.loc[s, name], want)


def test_paired_classes():
    y_true, a, b, who = single_subject_study()
    table = paired_classes(y_true, a, b, who, list('abcde') + ['absent'], metric='f1', n_resamples=500)
    one, other = (per_class(y_true, x, who, list('abcde') + ['absent']).f1 for x in (a, b))
    np.testing.assert_allclose(table.value, one - other, atol=1e-12)
    assert table.note.tolist() == ['']*4 + [SINGLE_SUBJECT, 'absent']
    assert table[['low', 'high', 'p', 'holm']].isna().any(axis=1).tolist() == [False]*4 + [True]*2
    np.testing.assert_allclose(table.holm[:4], holm_correction(table.p[:4]))
    assert ((table.low <= table.value) & (table.value <= table.high))[:4].all()
    import itertools  # exact p of class 0 by a plain loop over 2^9 swaps
    recall = lambda answers: per_class(y_true, answers, who, list('abcde')).recall[0]
    gap = lambda x, y: recall(x) - recall(y)
    seen = abs(gap(a, b))
    larger = 0
    for coin in itertools.product([False, True], repeat=9):
        swap = np.array(coin)[who]
        x, y = np.where(swap, b, a), np.where(swap, a, b)
        mine = y_true == 0
        larger += abs((x[mine] == 0).mean() - (y[mine] == 0).mean()) >= seen - 1e-12
    assert paired_classes(y_true, a, b, who, list('abcde'), n_resamples=512).p[0] == larger/512
    with pytest.raises(PedarrError, match='metric'):
        paired_classes(y_true, a, b, who, list('abcde'), metric='top1')


def test_protocols_side_by_side():
    y_true, a, b, who = two_runs(subjects=15)
    table = protocol_gap(y_true, b, a, who, C, n_resamples=300, seed=2)
    pd.testing.assert_frame_equal(table['patient'],
                                  bootstrap_scores(y_true, b, who, C, n_resamples=300, seed=2))
    pd.testing.assert_frame_equal(table['gap'],
                                  paired_bootstrap(y_true, a, b, who, C, n_resamples=300,
                                                   seed=2)[['value', 'low', 'high']])
    text = format_protocols(table)
    expected = ['metric', 'split by patient', 'split by segment', 'gap (segment minus patient)']
    assert text.columns.tolist() == expected
    assert text.iloc[0, 3].startswith('+')
    assert 'points' in text.iloc[0, 3]
    assert 'p =' not in text.iloc[0, 3]
    assert '%' in text.iloc[0, 1]


def test_figures(tmp_path):
    import matplotlib.pyplot as plt
    before = plt.get_fignums()                                   # another file's tests may share the process
    y_true, y_pred, _ = study()
    fig = plot_confusion(confusion_matrix(y_true, y_pred, C + 1),
                         [f'class {i}' for i in range(C)] + ['absent'])
    fig.savefig(tmp_path/'confusion.png')
    cells = [int(t.get_text()) for t in fig.axes[0].texts]
    assert sum(cells) == len(y_true)
    colour = fig.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.asarray(colour).sum(1), [100]*C + [0])
    table, ece = reliability(np.random.default_rng(0).dirichlet(np.ones(C), 600), y_true)
    fig = plot_reliability(table, ece)
    fig.savefig(tmp_path/'reliability.png')
    assert sum(bar.get_height() for bar in fig.axes[1].patches) == 600
    assert f'{ece:.3f}' in fig.axes[0].get_title()
    assert plt.get_fignums() == before                           # nothing is left behind in pyplot


def test_evaluation_needs_predictions_only():
    import subprocess, sys
    code = """
import sys
from pedarr.evaluation import bootstrap, comparison, fewshot, metrics, multilabel
from pedarr.evaluation import prototypes, reliability, subgroups
heavy = ('torch', 'sklearn', 'matplotlib', 'seaborn', 'IPython', 'nbdev', 'pedarr.training', 'pedarr.model')
print([name for name in heavy if name in sys.modules])"""
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=True).stdout.strip() == '[]'


@pytest.mark.bench
def test_benchmark_against_a_loop_over_resamples():
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 13, 10_000)
    y_pred = rng.integers(0, 13, 10_000)
    who = rng.integers(0, 200, 10_000)
    began = time.perf_counter()
    bootstrap_scores(y_true, y_pred, who, 13, n_resamples=10_000)
    fast = (time.perf_counter() - began)/10_000
    rows, n = [np.flatnonzero(who == s) for s in range(200)], 100
    began = time.perf_counter()
    for _ in range(n):
        i = np.concatenate([rows[s] for s in rng.integers(0, 200, 200)])
        scores(y_true[i], y_pred[i], 13)
    loop = (time.perf_counter() - began)/n
    began = time.perf_counter()
    for _ in range(5): sklearn_scores(y_true, y_pred)
    sklearn = (time.perf_counter() - began)/5
    print(f'\nbootstrap, 10,000 resamples of 10,000 segments of 200 subjects, 13 classes: '
          f'{10_000*fast:.2f} s; '
          f'{loop/fast:.0f} times as fast as a loop over resamples ({1e6*loop:.0f} us each), '
          f'{sklearn/fast:.0f} times as fast as scikit-learn on each resample')
    assert min(loop, sklearn) > 5*fast


@pytest.mark.bench
def test_benchmark_permutation_against_scipy():
    """Ratio in one run: our permutations against scipy.stats.permutation_test, which calls a Python function
    for each; the function scores counts, not segments."""
    from scipy.stats import permutation_test as scipy_test
    rng = np.random.default_rng(0)
    y_true, who = rng.integers(0, 13, 10_000), rng.integers(0, 40, 10_000)
    answers = rng.integers(0, 13, (2, 10_000))
    began = time.perf_counter()
    permutation_test(y_true, *answers, who, 13)
    fast = (time.perf_counter() - began)/10_000
    take = lambda system: scores(y_true, answers[system.astype(int)[who], np.arange(10_000)], 13)['f1']
    began = time.perf_counter()
    scipy_test((np.zeros(40), np.ones(40)), lambda x, y: take(x) - take(y), permutation_type='samples',
               n_resamples=200, vectorized=False, rng=0)
    slow = (time.perf_counter() - began)/200
    print(f'\npermutation test, 10,000 permutations of 10,000 segments of 40 subjects, 13 classes: '
          f'{10_000*fast:.2f} s; {slow/fast:.0f} times as fast as '
          f'scipy.stats.permutation_test with our scores of the segments')
    assert slow > 5*fast
