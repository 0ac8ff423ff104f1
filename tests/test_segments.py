"""Properties and faults of splits, augmentation and batches that are no lesson."""
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from pedarr.core.errors import PedarrError
from pedarr.signals.splits import SPLITS, check_split, make_split, repeated_splits, split_notes, train_test
from pedarr.signals.roles import (
    all_roles, cap_training, check_roles, make_roles, read_roles, read_split, split_table, within_cohort)
from pedarr.signals.augmentation import (
    Augment, drop_channels, drop_modality, normalise_signals, thin_channels, time_shift)
from pedarr.signals.batches import SAMPLINGS, SegmentDataset, make_loader, sampled_counts, split_views

CLASSES = ['SR', 'AVNRT', 'VT']


def toy_store(n=60, T=200, seed=0):
    "In memory, with what a store has; about a third of the rows lack the electrograms."
    rng = np.random.default_rng(seed)
    mask = rng.random((n, 19)) < .9
    mask[::3, 12:] = False
    mask[:, 0] = True
    x = rng.standard_normal((n, 19, T)).astype('float16') * mask[..., None]
    segments = pd.DataFrame(dict(segment=np.arange(n), subject=[f's{i % 12:02}' for i in range(n)],
                                 evaluate=np.arange(n) % 4 > 0,
                                 label=np.where(np.arange(n) < 6, 'VT',
                                                np.where(np.arange(n) < 20, 'AVNRT', 'SR'))))
    return SimpleNamespace(ecg=x[:, :12], iegm=x[:, 12:], mask=mask, segments=segments, classes=CLASSES,
                           fs=500.)


def table(subjects, seed=0):
    "subjects: list of lists of (class, segments) -> a segments table in random order."
    rows = [(f'p{i}', c, e % 3 < 2) for i, s in enumerate(subjects) for c, n in s for e in range(n)]
    return pd.DataFrame(rows, columns=['subject', 'label',
                                       'evaluate']).sample(frac=1, random_state=seed).reset_index(drop=True)


def same(a, b): return all(x is y is None or torch.equal(x, y) for x, y in zip(a, b))


# ---- splits

subjects = st.lists(st.lists(st.tuples(st.sampled_from('ABCD'), st.integers(1, 30)), min_size=1, max_size=3),
                    min_size=5, max_size=14)


@settings(max_examples=40, deadline=None)
@given(subjects, st.integers(2, 5), st.integers(0, 99))
def test_patient_split_properties(subjects, n_folds, seed):
    t = table(subjects)
    fold = make_split(t, 'patient', n_folds, seed)
    assert (t.assign(fold=fold).groupby('subject').fold.nunique() == 1).all()
    assert set(fold) == set(range(n_folds))                                 # no fold without a subject
    assert np.array_equal(fold, make_split(t, 'patient', n_folds, seed))
    tested = []
    for k in range(n_folds):
        train, test = train_test(t, fold, k, 'patient')
        assert not set(t.subject[train]) & set(t.subject[test]) and t.evaluate[test].all()
        tested += test.tolist()
    assert sorted(tested) == np.flatnonzero(t.evaluate).tolist()  # each evaluation row is tested once


@st.composite
def uneven(draw):
    """A table of few subjects, very uneven, some without an evaluation window, and as many folds as it allows
    or fewer."""
    count = st.sampled_from([1, 2, 3, 30, 200])
    rows = draw(st.lists(st.tuples(st.sampled_from('ABCD'), count, st.sampled_from('tto')),
                         min_size=3, max_size=16))
    name = st.sampled_from(['x1', 'x01', 'x10', '1e3', 'NA', 'b', 'c', 'd'])
    names = draw(st.lists(name, min_size=len(rows), max_size=len(rows)))
    t = pd.DataFrame([(s, c, kind == 't' and i % 2 == 0) for s, (c, n, kind) in zip(names, rows)
                      for i in range(n)], columns=['subject', 'label', 'evaluate'])
    tested = t[t.evaluate].subject.nunique()
    return t, draw(st.integers(2, max(2, tested))), tested


@settings(max_examples=60, deadline=None)
@given(uneven(), st.integers(0, 99))
def test_every_fold_has_a_test_segment_wherever_that_is_possible(case, seed):
    """Folds up to the number of subjects that can be tested: none is empty (scikit-learn's own leave some
    empty), no subject in two."""
    t, n_folds, tested = case
    if tested < n_folds:
        with pytest.raises(PedarrError,
                           match=f'{tested} subjects with an evaluation segment are fewer than {n_folds}'):
            make_split(t, 'patient', n_folds, seed)
        return
    for kind in ('patient', 'loso'):
        fold = make_split(t, kind, n_folds, seed)
        check_split(t, fold, kind)
        assert set(fold[t.evaluate]) == set(range(n_folds if kind == 'patient' else tested))
        assert np.array_equal(fold, make_split(t, kind, n_folds, seed))


@settings(max_examples=60, deadline=None)
@given(uneven(), st.data())
def test_an_empty_fold_gets_the_smallest_subject_that_can_be_spared(case, data):
    """Whatever was dealt: each fold is tested afterwards, no more subjects moved than folds were empty, none
    of a fold that had one only."""
    from pedarr.signals.splits import _fill_folds
    t, n, tested = case
    n = min(n, tested)
    if not n: return
    names = sorted(t.subject.unique())
    home = dict(zip(names,
                    data.draw(st.lists(st.integers(0, n - 1), min_size=len(names), max_size=len(names)))))
    dealt = t.subject.map(home).to_numpy()
    evaluate, subject = t.evaluate.to_numpy(), t.subject.to_numpy(str)
    fold = _fill_folds(dealt.copy(), subject, evaluate, n)
    assert set(fold[evaluate]) == set(range(n)) and (pd.Series(fold).groupby(subject).nunique() == 1).all()
    moved = set(subject[fold != dealt])
    assert len(moved) == n - len(set(dealt[evaluate]))
    sizes = t[t.evaluate].subject.value_counts()
    for s in moved:
        stayed = [o for o in sizes.index if home[o] == home[s] and o not in moved]
        assert stayed and all(sizes[s] <= sizes[o] for o in stayed)


def test_scikit_learn_leaves_a_fold_empty_and_we_do_not():
    t = table([[('A', 9)], [('B', 3)], [('B', 30), ('A', 30)]])
    fold = make_split(t, 'patient', 3)
    assert t.assign(fold=fold).groupby('fold').subject.nunique().tolist() == [1, 1, 1]


def test_a_split_without_empty_folds_is_left_as_it_is():
    from pedarr.signals.splits import _dealt_folds
    for seed in range(20):
        t = table([[('A', 9), ('B', 3)]]*3 + [[('A', 6)], [('B', 30)]], seed)
        assert np.array_equal(_dealt_folds(t.label.to_numpy(str), t.subject.to_numpy(str), 4, seed),
                              make_split(t, 'patient', 4, seed))


# ---- roles

@settings(max_examples=25, deadline=None)
@given(subjects, st.integers(2, 5), st.integers(0, 99), st.sampled_from([0., .1, .2, .5, .8]),
       st.sampled_from(['patient', 'loso']))
def test_roles_keep_subjects_apart_and_every_class_in_training(subjects, n_folds, seed, share, kind):
    t = table(subjects)
    fold = make_split(t, kind, n_folds, seed)
    roles = all_roles(t, fold, kind, share, seed)
    assert np.array_equal(roles, all_roles(t, fold, kind, share, seed))                      # deterministic
    for k in range(roles.shape[1]):
        role = roles[:, k]
        train, test = train_test(t, fold, k, kind)
        who = {r: set(t.subject[role == r]) for r in ('train', 'validation', 'test')}
        assert not who['train'] & who['validation'] and not (who['train'] | who['validation']) & who['test']
        assert np.array_equal(np.flatnonzero(role == 'test'), test)
        assert set(np.flatnonzero((role == 'train') | (role == 'validation'))) <= set(train)
        assert t.evaluate[role == 'validation'].all()
        assert set(t.label[role == 'train']) == set(t.label.iloc[train])  # no class lost its training
        n = t.subject.iloc[train].nunique()
        assert len(who['validation']) <= max(1, round(share*n)) and (share or not who['validation'])
        spare = [s for s in t.subject.iloc[train].unique() if t.evaluate[t.subject == s].any()
                 and set(t.label.iloc[train][t.subject.iloc[train] != s]) == set(t.label.iloc[train])]
        if share and n >= 3 and spare: assert who['validation']  # at least one, where one can be spared
        if n < 3: assert not who['validation']


@pytest.mark.parametrize('seed', range(5))
def test_validation_is_stratified(seed):
    "Counts as in LUDB: a fifth of the subjects, and of each class a fifth, to within two subjects."
    counts = [143, 25, 15, 8, 4, 3, 2]
    t = table([[(c, 3)] for c, n in zip('ABCDEFG', counts) for _ in range(n)], seed)
    fold = make_split(t, 'patient', 5, seed)
    role = make_roles(t, fold, 0, seed=seed)
    held = t.assign(role=role)[role != ''].groupby(['label', 'role']).subject.nunique().unstack(fill_value=0)
    n = held.train + held.validation
    assert held.validation.sum() == round(.2*n.sum())
    assert (abs(held.validation - .2*n) < 2).all()
    assert (held.train > 0).all()
    assert not np.array_equal(role, make_roles(t, fold, 0, seed=seed + 1))                   # the seed draws


def test_validation_under_a_segment_split_is_a_fifth_of_each_class():
    t = table([[('A', 60), ('B', 30)], [('C', 3), ('A', 9)]]*2)
    fold = make_split(t, 'segment', 3)
    for k in range(3):
        role = make_roles(t, fold, k, 'segment')
        fitted = t.assign(role=role)[np.isin(role, ['train', 'validation'])]
        n = fitted.groupby(['label', 'role']).size().unstack(fill_value=0)
        total = n.sum(axis=1)
        assert (abs(n.validation - .2*total) <= .5).all() and (n.train > 0).all()
        assert (role[fold == -1] == '').all()
    with pytest.raises(PedarrError, match='validation=1'): make_roles(t, fold, 0, 'segment', 1)


def test_without_three_training_subjects_there_is_no_validation():
    t = table([[('A', 6)], [('A', 6)], [('A', 6)]])
    assert not (all_roles(t, make_split(t, 'loso'), 'loso') == 'validation').any()
    t = table([[(c, 6)] for c in 'ABCDE'])     # single-subject classes all
    assert not (all_roles(t, make_split(t, 'loso'), 'loso') == 'validation').any()


@pytest.mark.parametrize('windows', [1, 3])
@pytest.mark.parametrize('seed', range(5))
def test_one_rhythm_per_subject_is_spread_evenly(windows, seed):
    """Counts as in LUDB: per class the folds differ by one subject at most, so a class with enough subjects
    is in each fold."""
    counts = [143, 25, 15, 8, 4, 3, 2]
    t = table([[(c, windows)] for c, n in zip('ABCDEFG', counts) for _ in range(n)], seed)
    fold = make_split(t, 'patient', 5, seed)
    held = t.assign(fold=fold).groupby(['label', 'fold']).subject.nunique().unstack(fill_value=0)
    assert (held.max(axis=1) - held.min(axis=1)).max() <= 1
    assert (held.loc[list('ABCD')] > 0).all().all()
    if windows == 3: assert len(split_notes(t, fold)) == 3


def test_seed_matters():
    t = table([[('A', 2)]] * 30)
    assert not np.array_equal(make_split(t, seed=0), make_split(t, seed=1))


def test_the_last_published_fold_takes_no_part_in_development():
    t = table([[('A', 2), ('B', 1)]]*40)
    t['official'] = t.groupby('subject', sort=False).ngroup() % 4 + 1
    fold = make_split(t, 'development')
    assert set(fold[t.official == 4]) == {-1} and set(fold) == {-1, 0, 1, 2}
    roles = all_roles(t, fold, 'development')
    assert (roles[t.official == 4] == '').all() and (roles[t.official == 3, 2] == 'test').all()
    assert (roles[t.official == 2, 2] == 'validation').all() and (roles[t.official == 1, 2] == 'train').all()
    check_split(t, fold, 'development')
    with pytest.raises(PedarrError, match='names one, not 2'): repeated_splits(t, 'development', repeats=2)


def test_loso():
    t = table([[('A', 3)], [('A', 3), ('B', 3)], [('B', 3)]])
    fold = make_split(t, 'loso')
    assert sorted(set(fold)) == [0, 1, 2]
    assert (t.assign(fold=fold).groupby('fold').subject.nunique() == 1).all()
    notes = split_notes(t, fold)
    assert len(notes) == 1 and 'all folds together' in notes[0]


def test_segment_split_leaks_subjects_but_no_overlapping_window():
    t = table([[('A', 30), ('B', 12)]] * 4)
    fold = make_split(t, 'segment', 4)
    assert ((fold == -1) == ~t.evaluate).all()
    held = t.assign(fold=fold)[fold >= 0].groupby(['label', 'fold']).size().unstack()
    assert (held.max(axis=1) - held.min(axis=1)).max() <= 1
    train, test = train_test(t, fold, 0, 'segment')
    assert set(t.subject[train]) & set(t.subject[test])
    assert t.evaluate[train].all()
    assert not set(train) & set(test)
    with pytest.raises(PedarrError, match='is in training and test'): train_test(t, fold, 0, 'patient')
    assert split_notes(t, fold) == []


def test_notes_of_a_leaking_split():
    t = table([[('A', 30)], [('B', 3)]])
    notes = split_notes(t, make_split(t, 'segment', 5))
    alone = 'stands in 1 subject: untestable per subject (its score tells of that subject alone)'
    assert notes == [f'A {alone}', f'B {alone}', 'B has 2 test segments: 3 of 5 folds hold none']


def test_notes_name_every_untestable_class():
    t = table([[('SR', 6)]] * 6 + [[('VT', 6), ('SR', 6)]] + [[('AFL', 3)]] * 2)
    notes = split_notes(t, make_split(t, 'patient', 3))
    assert notes == ['AFL stands in 2 subjects, fewer than the 3 folds: 1 fold holds no AFL test segment',
                     'VT stands in 1 subject: untestable per subject (never in train and test at once)']


def test_notes_when_a_class_has_subjects_enough_but_a_fold_lacks_it():
    t = pd.DataFrame(dict(subject=list('abcdef'), label=['A', 'A', 'A', 'B', 'B', 'B'], evaluate=True))
    assert split_notes(t, [0, 0, 1, 0, 1, 2])[0] == 'A stands in 3 subjects: 1 fold holds no A test segment'


@settings(max_examples=30, deadline=None)
@given(subjects, st.integers(2, 5), st.integers(1, 4), st.integers(0, 99))
def test_repeated_splits_are_splits_and_differ_by_seed(subjects, n_folds, repeats, seed):
    t = table(subjects)
    folds = repeated_splits(t, 'patient', n_folds, repeats, seed)
    assert folds.shape == (repeats, len(t))
    for r, fold in enumerate(folds):
        assert np.array_equal(fold, make_split(t, 'patient', n_folds, seed + r))
        check_split(t, fold)


def test_repeated_splits_deal_anew():
    t = table([[('A', 6), ('B', 3)]]*20)
    folds = repeated_splits(t, repeats=6)
    assert len({tuple(f) for f in folds}) == 6
    with pytest.raises(PedarrError, match='repeats=0'): repeated_splits(t, repeats=0)
    assert np.array_equal(repeated_splits(t, 'loso', repeats=1)[0], make_split(t, 'loso'))


def of_kind(kind):
    "A table, its folds under this split, and which rows have a class."
    t = table([[('A', 9), ('B', 6)]]*6).assign(evaluate=True)
    t['label'] = np.where(np.arange(len(t)) % 10 == 0, '', t.label)  # rows of no class are in no fold
    t['official'] = t.subject.str[1:].astype(int) % 3
    t['cohort'] = t.official.map({0: 'adults', 1: 'children', 2: 'infants'})
    fold = np.full(len(t), -1)
    named = (t.label != '').to_numpy()
    fold[named] = make_split(t[named].reset_index(drop=True), kind, n_folds=3)
    return t, fold, named


@pytest.mark.parametrize('kind', SPLITS)
def test_split_file_is_read_as_it_was_written(tmp_path, kind):
    t, fold, named = of_kind(kind)
    path, roles = tmp_path/'split.csv', all_roles(t, fold, kind)
    written = split_table(t.assign(segment=range(len(t)), record='r'), fold, roles)
    written.to_csv(path, index=False)
    assert np.array_equal(read_split(path, t, kind), fold)
    assert np.array_equal(read_roles(path, t, kind), roles)
    # from before there were roles
    written.drop(columns=[c for c in written if c.startswith('role_')]).to_csv(path, index=False)
    old = read_roles(path, t, kind)
    assert np.array_equal(read_split(path, t, kind), fold) and set(old.ravel()) == {'train', 'test', ''}
    assert np.array_equal(old == 'test', roles == 'test')


@pytest.mark.parametrize('kind', SPLITS)
def test_a_split_file_that_was_altered_is_refused(tmp_path, kind):
    t, fold, named = of_kind(kind)
    path, roles = tmp_path/'split.csv', all_roles(t, fold, kind)
    written = split_table(t.assign(segment=range(len(t)), record='r'), fold, roles)
    written.to_csv(path, index=False)
    row = int(np.flatnonzero(fold >= 0)[3])

    def refused(change, says):
        change.to_csv(path, index=False)
        with pytest.raises(PedarrError, match=says) as e: read_split(path, t, kind)
        assert str(path) in str(e.value) and '\n' not in str(e.value)
    if kind != 'segment':
        refused(written.assign(fold=np.where(written.index == row, (fold + 1) % 3, fold)),
                'in training and test')
    unlisted = kind in ('official', 'development', 'cohort')
    says = 'does not fit the folds' if unlisted else f'row {row} .1 in all. is for evaluation'
    refused(written.assign(fold=np.where(written.index == row, -1, fold)), says)
    refused(written.iloc[:-1], 'another table')
    refused(written.assign(subject=written.subject[::-1].to_numpy()), 'another table')
    refused(written.drop(columns='fold'), "'fold' is missing")
    refused(written.assign(fold=.5), 'not a whole number')
    refused(written.assign(fold=np.where(written.index == row, 10**9, fold)), 'not numbered')
    refused(written.assign(fold=np.where(written.index == row, -2, fold)), 'not numbered')
    refused(written.drop(columns='role_1'), 'role_1 is missing')
    refused(written.assign(role_1='train'), 'role_1 does not fit the folds')
    refused(written.assign(role_0=np.where(written.role_0 == 'train', 'validation', written.role_0)),
            'no training segment')
    refused(written.assign(role_0=np.where(written.role_0 == 'train', 'boss', written.role_0)),
            'role_0 does not fit')
    path.write_bytes(b'')
    with pytest.raises(PedarrError, match='damaged'): read_split(path, t, kind)
    path.unlink()
    with pytest.raises(PedarrError, match='check the path'): read_split(path, t, kind)


@pytest.mark.parametrize('kind, options, says', [
    ('fold', {}, 'use one of patient, loso, segment'),
    ('patient', dict(n_folds=1), 'at least 2 folds'),
    ('patient', dict(n_folds=7), '3 subjects with an evaluation segment are fewer than 7 folds'),
    ('segment', dict(n_folds=40), 'no class has 40'),
    ('patient', dict(n_folds=2, strict=True), 'VT stands in 1 subject only; group it'),
    ('loso', dict(strict=True), 'VT stands in 1 subject only')])
def test_bad_splits(kind, options, says):
    t = table([[('SR', 6)], [('SR', 6), ('VT', 6)], [('SR', 6)]])
    with pytest.raises(PedarrError, match=says) as e: make_split(t, kind, **options)
    assert '\n' not in str(e.value)


def test_missing_or_single_subject():
    t = table([[('SR', 6)], [('SR', 6)]])
    with pytest.raises(PedarrError, match='has no subject'):
        make_split(t.assign(subject=[None] + t.subject.tolist()[1:]), n_folds=2)
    with pytest.raises(PedarrError, match='1 subjects with an evaluation segment are fewer than 2'):
        make_split(t[t.subject == 'p0'], 'loso')


def test_bad_train_test():
    t = table([[('SR', 6)]] * 4)
    fold = make_split(t, n_folds=2)
    with pytest.raises(PedarrError, match=r'fold 5: no test segments; the folds are \[0, 1\]'):
        train_test(t, fold, 5)
    with pytest.raises(PedarrError, match='3 folds for 24 segments'): train_test(t, fold[:3], 0)
    with pytest.raises(PedarrError, match='no training segments'): train_test(t, np.zeros(24, int), 0)
    with pytest.raises(PedarrError, match='unknown split'): train_test(t, fold, 0, 'x')
    doctored = fold.copy()
    doctored[0] = 1 - doctored[0]
    with pytest.raises(PedarrError, match=f'subject {t.subject[0]} is in training and test'):
        train_test(t, doctored, 0)


def test_excluded_rows_stay_out():
    t = table([[('SR', 6)]] * 4)
    fold = make_split(t, n_folds=2)
    fold[:7] = -1
    train, test = train_test(t, fold, 0)
    assert min(train.min(), test.min()) >= 7


def test_rows_are_read_through_the_store():
    """Whatever reads segments asks the store's own reader, so that a file that became shorter is an error and
    not the end of the process."""
    store, asked = toy_store(), []
    def take(rows):
        asked.append(np.asarray(rows).tolist())
        return [store.ecg[rows], store.iegm[rows]]
    whole = SegmentDataset(store, [3, 5], in_memory=False).__getitems__([0, 1])
    store.take = take
    again = SegmentDataset(store, [3, 5], in_memory=False).__getitems__([0, 1])
    assert asked == [[3, 5]] and same(whole, again)
    def short(rows): raise PedarrError('ecg.npy: became shorter')
    store.take = short
    with pytest.raises(PedarrError, match='became shorter'): SegmentDataset(store, [3, 5])


# ---- augmentation

@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_augment_respects_the_mask(seed, channel, thin, modality):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(8, 19, generator=g) < .7
    mask[0, 12:], mask[1, :12], mask[2] = False, False, False
    ecg = torch.randn(8, 12, 100, generator=g) * mask[:, :12, None]
    iegm = torch.randn(8, 7, 100, generator=g) * mask[:, 12:, None]
    before = ecg.clone(), iegm.clone(), mask.clone()
    vary = Augment(channel=channel, thin=thin, modality=modality, shift=.02)
    m = vary.lose_channels(mask, g)
    e, i = vary(ecg, iegm, m, 500., g)
    assert same(before, (ecg, iegm, mask))                                  # the input is left alone
    assert not (m & ~mask).any() and (e[~m[:, :12]] == 0).all() and (i[~m[:, 12:]] == 0).all()
    assert torch.equal(m.any(1), mask.any(1))                               # never the last modality
    if not modality:
        assert all(torch.equal(m[:, s].any(1), mask[:, s].any(1)) for s in (slice(12), slice(12, 19)))


def test_augment_off_is_the_identity():
    s = toy_store()
    b = SegmentDataset(s, np.arange(20)).__getitems__(np.arange(20))
    off = Augment(scale=0, noise=0, shift=0, channel=0, modality=0)
    assert torch.equal(off.lose_channels(b.mask), b.mask)
    assert same(off(b.ecg, b.iegm, b.mask, 500., torch.Generator()), b[:2])


@given(st.integers(-120, 120))
@settings(max_examples=20, deadline=None)
def test_time_shift_equals_slicing(k):
    x = torch.randn(1, 3, 100)
    want = torch.zeros_like(x)
    if abs(k) < 100: want[..., max(k, 0):100 + min(k, 0)] = x[..., max(-k, 0):100 - max(k, 0)]
    assert torch.equal(time_shift(x, torch.tensor([k])), want)


def test_modalities_are_shifted_together_and_lead_ratios_stay():
    x = torch.zeros(40, 12, 300)
    x[:, :, 150] = torch.arange(1., 13)
    e, i = Augment(shift=.1)(x, x[:, :7], torch.ones(40, 19, dtype=torch.bool), 500.,
                            torch.Generator().manual_seed(0))
    where = e[:, 0].argmax(1)
    assert torch.equal(where, i[:, 0].argmax(1))
    assert len(set(where.tolist())) > 20
    assert (where - 150).abs().max() <= 50
    peaks = e.amax(2)
    torch.testing.assert_close(peaks / peaks[:, :1], torch.arange(1., 13).expand(40, 12))
    assert .8 <= peaks[:, 0].min() < .9 < 1.1 < peaks[:, 0].max() <= 1.2
    assert not torch.allclose(peaks[:, 0], i.amax(2)[:, 0])  # each modality has a factor of its own


def test_a_shift_is_in_seconds_at_any_rate():
    "At 500 Hz the default is what it was in samples (50); at another rate it is as long in time."
    x = torch.randn(30, 12, 400, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(30, 19, dtype=torch.bool)
    for fs, most in ((500., 50), (250., 25), (1000., 100)):
        g = torch.Generator().manual_seed(0)
        moved = Augment(scale=0, shift=.1)(x, x[:, :7], mask, fs, g)[0]
        shift = torch.randint(-most, most + 1, (30,), generator=torch.Generator().manual_seed(0))
        assert torch.equal(moved, time_shift(x, shift))


@pytest.mark.parametrize('rate', [0., .3, 1.])
def test_drop_rates(rate):
    g, mask = torch.Generator().manual_seed(0), torch.ones(4000, 19, dtype=torch.bool)
    lost = ~drop_modality(mask, rate, g)
    assert abs(lost[:, 0].float().mean() - rate/2) < .04
    assert abs(lost[:, 12].float().mean() - rate/2) < .04
    assert not (lost[:, 0] & lost[:, 12]).any()
    assert abs((~drop_channels(mask, .3, g)).float().mean() - .3) < .01


def test_a_thinned_window_loses_whole_catheters_and_any_number_of_leads():
    mask = torch.ones(4000, 19, dtype=torch.bool)
    thinned = thin_channels(mask, .5, torch.Generator().manual_seed(0))
    touched = ~thinned.all(1)
    assert abs(touched.float().mean() - .5) < .03
    leads = torch.bincount(thinned[touched, :12].sum(1), minlength=13)
    assert (leads[1:] > touched.sum()/40).all() and leads[0] == 0           # from one to twelve
    few = thinned[touched, 12:]
    cs = few[:, 2:]
    assert (~cs.any(1) & few[:, :2].any(1)).float().mean() > .2             # no catheter in the sinus
    assert ((cs.sum(1) > 0) & ~few[:, :2].any(1)).float().mean() > .1       # that one alone


def test_what_a_window_loses_is_lost_before_it_is_normalised():
    "A window without leads in training is the same as one recorded without them."
    s = toy_store()
    s.mask[:] = True
    lost = Augment(scale=0, noise=0, shift=0, channel=0, thin=1.)
    batch = SegmentDataset(s, np.arange(20), lost, seed=3).__getitems__(np.arange(20))
    ecg, iegm = [torch.from_numpy(np.array(a[:20])).float() for a in (s.ecg, s.iegm)]
    assert same(normalise_signals(ecg, iegm, batch.mask), batch[:2])
    assert not batch.mask.all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.sampled_from([1, 7, 200]), st.booleans(),
       st.sampled_from(['whole', 'one', 'numbers']), st.integers(0, 99))
def test_scaling_and_silencing_as_written_plainly(n, length, turned, kind, seed):
    "Any strides, junk in masked channels, a mask for all windows or of 0 and 1; inputs stay as they are."
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, length, 19, generator=g).mT if turned else torch.randn(n, 19, length, generator=g)
    mask = torch.rand(1 if kind == 'one' else n, 19, generator=g) < .7
    x = torch.where(mask[..., None], x, torch.nan)
    ecg, iegm, given_mask = x[:, :12], x[:, 12:], mask.to(torch.uint8) if kind == 'numbers' else mask
    before = x.clone()
    got = torch.cat(normalise_signals(ecg, iegm, given_mask, 'none'), 1)
    assert torch.equal(got, torch.where(mask[..., None], x, 0.))
    varied = Augment(scale=0., thin=0., modality=0.)(*normalise_signals(ecg, iegm, given_mask, 'none'),
                                                     mask.expand(n, 19), 250.)
    assert torch.equal(torch.cat(varied, 1), got) and torch.equal(x.nan_to_num(9.), before.nan_to_num(9.))


@pytest.mark.parametrize('options', [
    dict(scale=-1), dict(shift=-1), dict(thin=2), dict(shift=601), dict(channel=1.1), dict(modality=-.1),
    dict(noise=-1), dict(band=2), dict(tempo=.4)])
def test_bad_augment(options):
    name, = options
    with pytest.raises(PedarrError, match=f'parameter {name} is .*: it must be at [a-z]+ [0-9]'):
        Augment(**options)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.floats(0, 1), st.floats(0, .3), st.sampled_from([100., 250., 500.]))
def test_another_band_and_tempo_respect_the_mask_and_the_common_clock(seed, band, tempo, fs):
    g = torch.Generator().manual_seed(seed)
    mask = torch.ones(6, 19, dtype=torch.bool)
    mask[0, 12:], mask[1] = False, False
    x = torch.randn(6, 1, 300, generator=g).expand(-1, 19, -1)*mask[..., None]
    vary = Augment(scale=0, band=band, tempo=tempo)
    again = [vary(x[:, :12], x[:, 12:], mask, fs, torch.Generator().manual_seed(seed)) for _ in range(2)]
    e, i = again[0]
    assert same(*again) and e.isfinite().all() and i.isfinite().all()
    assert (e[~mask[:, :12]] == 0).all() and (i[~mask[:, 12:]] == 0).all()
    if not band: torch.testing.assert_close(e[2:, :7], i[2:])               # one signal, one clock


def test_another_tempo_keeps_the_order_of_things_and_changes_intervals_by_no_more_than_it_says():
    places = torch.tensor([200, 300, 380, 700])
    x = torch.zeros(200, 19, 1000)
    for k in range(-4, 5): x[..., places + k] = 1 - abs(k)/5                 # wide enough to be found again
    mask = torch.ones(200, 19, dtype=torch.bool)
    e, i = Augment(scale=0, tempo=.1)(x[:, :12], x[:, 12:], mask, 500., torch.Generator().manual_seed(0))
    assert torch.allclose(e[:, :7], i)
    found = [np.flatnonzero((w[1:-1] > .5) & (w[1:-1] >= w[:-2]) & (w[1:-1] > w[2:]))
             for w in e[:, 0].numpy()]
    found = np.array([f for f in found if len(f) == 4])
    ratio = np.diff(found)/places.diff().numpy()
    assert len(found) > 150 and .88 < ratio.min() < .95 and 1.05 < ratio.max() < 1.13


def test_what_is_off_draws_no_number():
    "A training without band and tempo sees the windows that it saw before there were any."
    x, mask = torch.randn(5, 19, 200), torch.ones(5, 19, dtype=torch.bool)
    g = torch.Generator().manual_seed(3)
    e, i = Augment(scale=.2, shift=.1, noise=.1)(x[:, :12], x[:, 12:], mask, 250., g)
    a = torch.Generator().manual_seed(3)
    shift = torch.randint(-25, 26, (5,), generator=a)
    for made, part in ((e, x[:, :12]), (i, x[:, 12:])):
        want = time_shift(part*(1 + .2*(2*torch.rand(5, 1, 1, generator=a) - 1)), shift)
        assert torch.equal(made, want + .1*torch.randn(part.shape, generator=a))


def test_a_mistyped_variation_is_answered_with_the_one_that_was_meant():
    with pytest.raises(PedarrError, match="unknown parameter 'nois': did you mean 'noise'"): Augment(nois=.1)


# ---- batches

def test_batch_is_the_normalised_store():
    s, rows = toy_store(), [7, 3, 50]
    index = np.array([50, 3, 20, 7])
    b = SegmentDataset(s, index, normalise='none').__getitems__([3, 1, 0])
    assert b.index.tolist() == rows
    expected = (torch.float32, torch.bool, torch.int64, torch.int64)
    assert (b.ecg.dtype, b.mask.dtype, b.label.dtype, b.index.dtype) == expected
    np.testing.assert_array_equal(b.ecg, s.ecg[rows].astype('float32'))
    np.testing.assert_array_equal(b.iegm, s.iegm[rows].astype('float32'))
    np.testing.assert_array_equal(b.mask, s.mask[rows])
    assert [CLASSES[i] for i in b.label] == s.segments.label.iloc[rows].tolist()
    scaled = SegmentDataset(s, index).__getitems__([3, 1, 0])
    assert same(scaled[:2], normalise_signals(b.ecg, b.iegm, b.mask, 'modality'))
    assert not torch.equal(scaled.ecg, b.ecg)
    one = SegmentDataset(s, index)[1]
    assert torch.equal(one.ecg, scaled.ecg[1]) and one.label.shape == ()


def test_memory_and_memmap_agree_and_the_store_stays_as_it_is(tmp_path):
    s = toy_store()
    np.save(tmp_path/'e.npy', s.ecg)
    np.save(tmp_path/'i.npy', s.iegm)
    m = SimpleNamespace(**{**vars(s), 'ecg': np.load(tmp_path/'e.npy', mmap_mode='r'),
                           'iegm': np.load(tmp_path/'i.npy', mmap_mode='r')})
    index = np.arange(5, 45)
    ecg = s.ecg.copy()
    a, b, c = [SegmentDataset(st, index, Augment(), in_memory=mem) for st, mem in (
        (s, True), (m, False), (m, 'auto'))]
    assert b.memory is None and c.memory is not None and same(a.__getitems__([4, 9]), b.__getitems__([4, 9]))
    assert np.array_equal(ecg, s.ecg)


def test_views_of_a_segment():
    "Each segment as often as there are views, in the same order; one view is what it was without the option."
    s = toy_store()
    plain = SegmentDataset(s, np.arange(30), Augment(), seed=4)
    three = SegmentDataset(s, np.arange(30), Augment(), seed=4, views=3)
    b = three.__getitems__([2, 7])
    parts = split_views(b, 3)
    assert len(three) == 30
    assert b.index.tolist() == [2, 7]*3
    assert all(p.index.tolist() == [2, 7] for p in parts)
    assert not torch.equal(parts[0].ecg, parts[1].ecg) and same(b, three.__getitems__([2, 7]))
    assert same(plain.__getitems__([2, 7]),
                SegmentDataset(s, np.arange(30), Augment(), seed=4, views=1).__getitems__([2, 7]))
    still = SegmentDataset(s, np.arange(30), Augment(scale=0, noise=0, shift=0, channel=0),
                           views=2).__getitems__([5])
    assert torch.equal(still.ecg[0], still.ecg[1])
    sizes = [len(x) for x in map(lambda b: b.index, make_loader(three, 8))]
    assert sizes == [24, 24, 24, 18] and same(split_views(b, 1)[0], b)
    with pytest.raises(PedarrError, match='does not hold 2 views'): split_views(b, 2)
    with pytest.raises(PedarrError, match='at least 1'): SegmentDataset(s, [0], Augment(), views=0)
    with pytest.raises(PedarrError, match='give an Augment'): SegmentDataset(s, [0], views=2)


def test_chance_depends_on_seed_epoch_and_rows_alone():
    s = toy_store()
    d = SegmentDataset(s, np.arange(30), Augment(), seed=4)
    first = d.__getitems__([1, 2])
    d.__getitems__([5])
    torch.manual_seed(9)
    assert same(first, d.__getitems__([1, 2]))
    d.set_epoch(1)
    assert not torch.equal(first.ecg, d.__getitems__([1, 2]).ecg)
    d.set_epoch(0)
    assert same(first, d.__getitems__([1, 2]))
    assert not torch.equal(first.ecg,
                           SegmentDataset(s, np.arange(30), Augment(), seed=5).__getitems__([1, 2]).ecg)


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_give_the_same_batches(method):
    s = toy_store()
    make = lambda w: make_loader(SegmentDataset(s, np.arange(60), Augment(), seed=1), 16, sampling='balanced',
                                 seed=2, workers=w)
    here, there = make(0), make(2)
    there.multiprocessing_context = method
    for _ in range(2 if method == 'fork' else 1):                           # the second epoch too
        a, b = list(here), list(there)
        assert len(a) == len(b) == 4 and all(same(x, y) for x, y in zip(a, b))


def test_epochs_advance_resume_and_cover():
    loader = make_loader(SegmentDataset(toy_store(), np.arange(10, 60)), 8, seed=3)
    seen = [torch.cat([b.index for b in loader]).tolist() for _ in range(3)]
    assert all(sorted(x) == list(range(10, 60)) for x in seen) and seen[0] != seen[1] != seen[2]
    fresh = make_loader(SegmentDataset(toy_store(), np.arange(10, 60)), 8, seed=3)
    fresh.dataset.set_epoch(2)
    assert torch.cat([b.index for b in fresh]).tolist() == seen[2]


def test_order_without_shuffle_and_drop_last():
    d = SegmentDataset(toy_store(), np.arange(20)[::-1])
    assert torch.cat([b.index for b in make_loader(d, 8, shuffle=False)]).tolist() == list(range(20))[::-1]
    loader = make_loader(d, 8, drop_last=True)
    assert len(loader) == 2 and [len(b.label) for b in loader] == [8, 8]
    assert len(make_loader(d, 8)) == 3


def test_balanced_draws_classes_alike():
    loader = make_loader(SegmentDataset(toy_store(), np.arange(60)), 20, sampling='balanced')
    label = torch.cat([b.label for _ in range(30) for b in loader])
    share = torch.bincount(label, minlength=3) / len(label)
    assert (share - 1/3).abs().max() < .04                                  # 6, 14 and 40 of 60 in the store
    # no VT: no share for it
    two = make_loader(SegmentDataset(toy_store(), np.arange(6, 60)), 20, sampling='balanced')
    assert not (torch.cat([b.label for b in two]) == 2).any()


@pytest.mark.parametrize('sampling', SAMPLINGS)
def test_the_sampler_draws_what_it_tells_the_losses(sampling):
    loader = make_loader(SegmentDataset(toy_store(), np.arange(60)), 20, sampling=sampling, seed=4)
    n = np.bincount(loader.dataset.label)
    drawn = [np.bincount(torch.cat([b.label for b in loader]), minlength=3) for _ in range(60)]
    assert all(d.sum() == 60 for d in drawn)
    told, spread = sampled_counts(n, sampling), np.std(drawn, 0)/60**.5
    assert (abs(np.mean(drawn, 0) - told) <= 4*spread + 1e-9).all()
    assert (spread == 0).all() == (sampling == 'natural')
    loader.dataset.set_epoch(7)
    assert np.bincount(torch.cat([b.label for b in loader]), minlength=3).tolist() == drawn[7].tolist()


def test_pickles():
    d = pickle.loads(pickle.dumps(SegmentDataset(toy_store(), np.arange(9), Augment())))
    assert len(d) == 9 and d.__getitems__([0]).ecg.shape == (1, 12, 200)


def test_network_takes_a_batch():
    from pedarr.model.pedarrnet import PedArrNet
    b = next(iter(make_loader(SegmentDataset(toy_store(), np.arange(60), Augment(modality=.5)), 8)))
    out = PedArrNet(3, dim=16, heads=2, depth=1)(b.ecg, b.iegm, b.mask)
    assert out.logits.shape == (8, 3) and out.logits.isfinite().all()


def test_bad_datasets_and_loaders():
    s = toy_store()
    for index in ([60], [-1]):
        with pytest.raises(PedarrError, match='the store has 60'): SegmentDataset(s, index)
    s2 = toy_store()
    s2.segments.loc[4, 'label'] = 'XX'
    with pytest.raises(PedarrError, match="label 'XX' is none of SR, AVNRT, VT"): SegmentDataset(s2, [3, 4])
    assert len(SegmentDataset(s2, [3, 5])) == 2  # a strange label elsewhere does no harm
    d = SegmentDataset(s, np.arange(9))
    with pytest.raises(PedarrError, match='no segments'): make_loader(SegmentDataset(s, []), 4)
    with pytest.raises(PedarrError, match='batch_size=0'): make_loader(d, 0)
    with pytest.raises(PedarrError, match='workers=-1'): make_loader(d, 4, workers=-1)
    with pytest.raises(PedarrError, match='use shuffle=True'):
        make_loader(d, 4, shuffle=False, sampling='balanced')
    with pytest.raises(PedarrError, match='unknown normalisation'):
        SegmentDataset(s, [0], normalise='z').__getitems__([0])


cohorts = st.lists(st.sampled_from(['adults', 'children', '']), min_size=5, max_size=14)


@settings(max_examples=40, deadline=None)
@given(subjects, cohorts, st.integers(0, 99), st.sampled_from([0., .2]))
def test_a_cohort_is_tested_by_whoever_learnt_from_the_other(subjects, cohorts, seed, share):
    t = table(subjects)
    t['cohort'] = [cohorts[int(s[1:]) % len(cohorts)] for s in t.subject]
    named = sorted(set(t.cohort[t.cohort != '']))
    able = t[(t.cohort != '') & t.evaluate].cohort.nunique()
    if len(named) < 2 or able < 2 or t.subject[t.evaluate].nunique() < 2: return
    fold = make_split(t, 'cohort')
    roles = all_roles(t, fold, 'cohort', share, seed)
    assert roles.shape[1] == 2 and (roles[(t.cohort == '').to_numpy()] == '').all()
    for k, name in enumerate(named):
        assert set(t.cohort[roles[:, k] == 'test']) == {name}
        assert set(t.cohort[roles[:, k] == 'train']) == set(named) - {name}
    alone = within_cohort(t, named[0])
    assert ((alone.label == '') == (t.cohort != named[0])).all()
    assert (alone.label[alone.label != ''] == t.label[alone.label != '']).all()


@settings(max_examples=30, deadline=None)
@given(subjects, st.integers(1, 12), st.integers(0, 9))
def test_a_cap_takes_training_windows_alone_and_leaves_every_class(subjects, most, seed):
    t = table(subjects)
    t['record'] = t.subject
    roles = all_roles(t, make_split(t, 'patient', 2, seed), 'patient', .2, seed)
    capped = cap_training(t, roles, most, seed)
    assert np.array_equal(cap_training(t, roles, most, seed), capped)
    assert np.array_equal(cap_training(t, roles, 0, seed), roles)
    changed = capped != roles
    assert (roles[changed] == 'train').all() and (capped[changed] == '').all()
    for k in range(roles.shape[1]):
        before, after = t[roles[:, k] == 'train'], t[capped[:, k] == 'train']
        held, had = after.record.value_counts(), before.record.value_counts()
        assert held.to_dict() == had.clip(upper=most).to_dict()
        n = after.groupby(['record', 'label']).size().unstack(fill_value=0)
        for record, row in before.groupby(['record', 'label']).size().unstack(fill_value=0).iterrows():
            kept = {name: n.loc[record].get(name, 0) for name in row[row > 0].index}
            assert all(kept[name] == row[name] or kept[name] >= max(kept.values()) - 1 for name in kept)
    check_roles(t, make_split(t, 'patient', 2, seed), capped)


def test_a_cap_and_a_cohort_that_cannot_be():
    t = table([[('A', 3)], [('B', 3)]]).assign(record='r', cohort='adults')
    with pytest.raises(PedarrError, match="only the cohort 'adults', two are needed"): make_split(t, 'cohort')
    with pytest.raises(PedarrError, match="unknown cohort 'adult': did you mean 'adults'"):
        within_cohort(t, 'adult')
    with pytest.raises(PedarrError, match='0 .no cap. or more'): cap_training(t, np.full((6, 1), 'train'), -1)
    with pytest.raises(PedarrError, match='leave each cohort out, not 2'):
        repeated_splits(t, 'cohort', repeats=2)


def test_split_names_have_explanations():
    names = ['patient', 'loso', 'segment', 'official', 'development', 'cohort']
    assert list(SPLITS) == names and all(SPLITS.values())


def test_real_ludb_headers_split():
    "The real counts: 200 subjects, the seven rhythms of the headers, each in as even folds as can be."
    from conftest import real
    from pedarr.data.known_databases import get_database
    folder, db = real('ludb'), get_database('ludb')
    who = db.subjects(folder)
    rhythm = [db.episodes(db.open(p))[0].rhythm.iloc[0] for p in db.records(folder)]
    t = pd.DataFrame(dict(subject=who.subject.to_numpy(), label=rhythm, evaluate=True))
    fold = make_split(t, 'patient', 5)
    held = t.assign(fold=fold).groupby(['label', 'fold']).subject.nunique().unstack(fill_value=0)
    assert len(t) == 200 and (held.max(axis=1) - held.min(axis=1)).max() <= 1
    assert all('fewer than the 5 folds' in n for n in split_notes(t, fold))
