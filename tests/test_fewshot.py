"""Few shots: properties, a plain loop, faults. What is a lesson stands in the chapter."""
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedarr.evaluation.few_patients import (
    FewPatients, few_patients, few_patients_classes, few_patients_table)
from pedarr.evaluation.fewshot import (
    GAINS, METHODS, few_shot, few_shot_classes, few_shot_table, format_few_shot, number_episodes)
from pedarr.evaluation.prototypes import (
    Prototypes, adapt_prototypes, fit_prototypes, prior_weight, subject_means)
from pedarr.evaluation.fewshot import _draw_support, _far_from_support
from pedarr.evaluation.subgroups import SINGLE_SUBJECT
from pedarr.core.errors import PedarrError
from pedarr.core.tables import read_json
from pedarr.data.channels import ECG_LEADS
from pedarr.signals.arrays import store_from_arrays
from pedarr.training.config import make_config
from pedarr.training.pretrain import run_pretraining
from pedarr.training.pretrain_config import PretrainConfig
from pedarr.training.train import run_training


def study(subjects=8, segments=6, classes=3, d=5, seed=0, between=1.):
    "(embedding, label, subject, start, stop): windows of 3 s a minute apart, classes in turn."
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(subjects), classes*segments)
    label = np.tile(np.arange(classes), subjects*segments)
    of_class = 2*np.eye(classes, d)[label]
    of_subject = between*rng.standard_normal((subjects, classes, d))[who, label]
    x = of_class + of_subject + rng.standard_normal((len(who), d))
    start = np.tile(np.arange(classes*segments)*60., subjects)
    return x, label, np.char.add('s', who.astype(str)), start, start + 3


def unit(x): return x/np.linalg.norm(x, axis=-1, keepdims=True)


def test_subject_means_and_prototypes():
    x, label, who, *_ = study()
    mean, of, n = subject_means(x, label, who)
    assert len(mean) == 24 and n.sum() == len(x)
    np.testing.assert_allclose(mean[0], x[(label == 0) & (who == 's0')].mean(0))
    fitted = fit_prototypes(x, label, who, 4)
    want = np.mean([unit(x)[(label == 1) & (who == s)].mean(0) for s in np.unique(who)], axis=0)
    np.testing.assert_allclose(fitted.mean[1], want)
    assert np.isnan(fitted.mean[3]).all() and fitted.k0 > 0
    doubled = fit_prototypes(np.concatenate([x, x[who == 's0']]), np.concatenate([label, label[who == 's0']]),
                             np.concatenate([who, who[who == 's0']]), 4)
    np.testing.assert_allclose(doubled.mean, fitted.mean)  # a subject with twice the segments weighs the same


@pytest.mark.parametrize('between', [.3, 1., 3.])
def test_prior_weight_is_unbiased_enough(between):
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(400), rng.integers(2, 12, 400))          # uneven groups
    label = who % 3
    x = between*rng.standard_normal((400, 6))[who] + rng.standard_normal((len(who),
                                                                          6)) + 5*np.eye(3, 6)[label]
    assert prior_weight(x, label, who) == pytest.approx(1/between**2, rel=.2)


def test_prior_weight_equals_one_way_anova():
    "With one class and equal groups: MSW / ((MSB - MSW)/n), from the textbook."
    rng = np.random.default_rng(1)
    groups = 2*rng.standard_normal((7, 1)) + rng.standard_normal((7, 5))
    msb, msw = 5*groups.mean(1).var(ddof=1), groups.var(axis=1, ddof=1).mean()
    got = prior_weight(groups.reshape(-1, 1), np.zeros(35, int), np.repeat(np.arange(7), 5))
    assert got == pytest.approx(msw/((msb - msw)/5))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.floats(0, 50))
def test_adapt_lies_between(seed, k, k0):
    rng = np.random.default_rng(seed)
    p, support = rng.standard_normal((3, 4)), rng.standard_normal((k, 4))
    got = adapt_prototypes(Prototypes(p, k0), support, np.ones(k, int))
    assert np.array_equal(got[[0, 2]], p[[0, 2]])
    np.testing.assert_allclose(got[1], (k0*p[1] + support.sum(0))/(k0 + k), atol=1e-9)
    before = p.copy()
    adapt_prototypes(Prototypes(p, k0), support, np.ones(k, int))
    assert np.array_equal(p, before)


def test_a_class_without_prototype_takes_the_support():
    p = np.array([[1., 0], [np.nan, np.nan]])
    np.testing.assert_allclose(adapt_prototypes(Prototypes(p, np.inf), np.array([[0., 2]]), np.array([1])),
                               [[1, 0], [0, 2]])
    x = np.array([[1., 0]]*4 + [[0, 1.]]*4)
    t = np.arange(8)*60.
    found = few_shot(x, [0]*4 + [1]*4, ['a']*8, t, t + 3, Prototypes(p, 1.), shots=(1,))
    row = found[found['class'] == 1].iloc[0]
    assert (row.zero, row.told, row.shots, row.both) == (0, 0, 1, 1)  # unknown without support, found with it


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 4), st.sampled_from([0., 3., 7., 20., 'episode']))
def test_support_is_never_tested_and_the_distance_holds(seed, k, apart):
    rng = np.random.default_rng(seed)
    n = 40
    start = np.sort(rng.integers(0, 300, n)).astype(float)
    stop = start + rng.choice([3., 5.], n)
    record, label, group = rng.integers(0, 2, n), rng.integers(0, 3, n), rng.integers(0, 9, n)
    group = pd.factorize(group)[0]
    classes = np.flatnonzero(np.bincount(label, minlength=3) > k)
    if not len(classes): return
    support = _draw_support(group, label, classes, k, rng)
    assert len(np.unique(support)) == len(support)
    assert (np.bincount(label[support], minlength=3)[classes] == k).all()
    clear = _far_from_support(support, start, stop, record, group, apart)
    assert not clear[support].any()
    for i in range(n):                                                  # the definition, pair by pair
        if apart == 'episode': near = any(group[i] == group[s] for s in support)
        else:
            near = i in support or any(record[i] == record[s]
                                       and max(start[i] - stop[s], start[s] - stop[i]) < apart
                                       for s in support)
        assert clear[i] == (not near)


def test_few_episodes_give_support():
    group, label = np.repeat(np.arange(4), 5), np.zeros(20, int)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        # one episode fills five shots
        assert len(np.unique(group[_draw_support(group, label, [0], 5, rng)])) == 1
        assert len(np.unique(group[_draw_support(group, label, [0], 6, rng)])) == 2


def test_equals_a_plain_loop():
    "One draw in which every segment but one per class is support: leave one out by hand."
    x, label, who, start, stop = study(segments=3)
    fitted = fit_prototypes(x, label, who, 3, k0=2.)
    found = few_shot(x, label, who, start, stop, fitted, shots=(2,), draws=60, apart=0.)
    u = unit(x)
    for s in np.unique(who):
        mine = who == s
        rows = found[found.subject == s].set_index('class')
        for c in range(3):  # the expected recall, over all 27 choices of the tested segments
            hits = []
            for left in np.ndindex(3, 3, 3):
                mean = fitted.mean.copy()
                for j in range(3):
                    own = np.flatnonzero(mine & (label == j))
                    mean[j] = (2*mean[j] + u[np.delete(own, left[j])].sum(0))/4
                test = np.flatnonzero(mine & (label == c))[left[c]]
                hits.append((unit(mean) @ u[test]).argmax() == c)
            assert rows.shots[c] == pytest.approx(np.mean(hits), abs=.26)      # 60 draws of a share
            np.testing.assert_allclose(rows.zero[c]*60 % 1, 0, atol=1e-9)
    assert found.shots.mean() == pytest.approx(found.both.mean())              # every subject has all classes
    assert (found.zero == found.told).all()


def test_row_order_names_and_seed():
    x, label, who, start, stop = study()
    fitted = fit_prototypes(x, label, who, 3)
    a = few_shot(x, label, who, start, stop, fitted, draws=5)
    pd.testing.assert_frame_equal(a, few_shot(x, label, who, start, stop, fitted, draws=5))
    assert not a.equals(few_shot(x, label, who, start, stop, fitted, draws=5, seed=1))
    # only directions count
    pd.testing.assert_frame_equal(a, few_shot(3*x, label, who, start, stop, fitted, draws=5))
    folds = np.where(np.char.endswith(who, '1'), 1, 0)
    pd.testing.assert_frame_equal(a,
                                  few_shot(x, label, who, start, stop, {0: fitted, 1: fitted}, fold=folds,
                                           draws=5))
    other = few_shot(x, label, who, start, stop, {0: fitted, 1: fitted._replace(mean=fitted.mean[::-1])},
                     fold=folds, draws=5)
    assert other[other.subject != 's1'].equals(a[a.subject != 's1']) and not other.equals(a)


def test_zero_and_infinite_weight():
    x, label, who, start, stop = study()
    still = few_shot(x, label, who, start, stop, fit_prototypes(x, label, who, 3, k0=np.inf), draws=3)
    assert (still.zero == still.shots).all() and (still.told == still.both).all()
    free = fit_prototypes(x, label, who, 3, k0=0.)
    a, b = (few_shot(x, label, who, start, stop, Prototypes(m, 0.), draws=3) for m in (free.mean, -free.mean))
    # weight 0: the training prototype is forgotten
    assert (a.shots == b.shots).all() and not (a.zero == b.zero).all()


def test_only_classes_with_enough_segments_count():
    x, label, who, start, stop = study(segments=4)
    keep = ~((who == 's0') & (label == 2)) | (np.arange(len(x)) % 7 == 0)
    x, label, who, start, stop = (a[keep] for a in (x, label, who, start, stop))
    n = ((who == 's0') & (label == 2)).sum()
    found = few_shot(x, label, who, start, stop, fit_prototypes(x, label, who, 3), shots=(1, 2, 3), draws=4)
    for k in (1, 2, 3):
        assert len(found[(found.k == k) & (found.subject == 's0') & (found['class'] == 2)]) == (n > k)
    assert len(found[found.k == 3]) == 24 - (n <= 3)
    alone = few_shot(x, np.where(who == 's1', 0, label), who, start, stop, fit_prototypes(x, label, who, 3),
                     shots=(1,), draws=2)
    assert 's1' not in set(alone.subject)  # one class: told would be right by definition
    assert 's1' in set(few_shot(x, np.where(who == 's1', 0, label), who, start, stop,
                                fit_prototypes(x, label, who, 3), shots=(1,), draws=2, min_classes=1).subject)


def test_tables():
    x, label, who, start, stop = study()
    found = few_shot(x, label, who, start, stop, fit_prototypes(x, label, who, 3), shots=(1, 5), draws=4)
    table = few_shot_table(found, n_resamples=400)
    each = found[found.k == 1].groupby('subject')[list(METHODS)].mean()
    np.testing.assert_allclose(table.loc[1].value[list(METHODS)], each.mean())
    np.testing.assert_allclose(table.loc[1].value['both - told'], (each.both - each.told).mean())
    assert ((table.low <= table.value) & (table.value <= table.high)).all()
    wide = format_few_shot(table)
    assert wide.k.tolist() == [1, 5]
    assert 'points' in wide[GAINS['both - told']][0]
    assert wide[METHODS['zero']][0].endswith(']')
    lone = few_shot_table(found[found.subject == 's0'])
    assert lone[['low', 'high']].isna().all(axis=None)
    assert 'no interval' in format_few_shot(lone)[METHODS['zero']][0]
    by_class = few_shot_classes(found[(found['class'] < 2) | (found.subject == 's0')], ['SR', 'VT', 'AFL'],
                                n_resamples=200)
    assert by_class[by_class['class'] == 'AFL'].note.tolist() == [SINGLE_SUBJECT]*2
    assert by_class[by_class['class'] == 'AFL'].low.isna().all()
    with pytest.raises(PedarrError, match='largest k'):
        few_shot_table(found[(found.k == 1) == (found.subject == 's0')], common=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from('xy'), st.integers(0, 60), st.integers(0, 1)), min_size=1,
                max_size=30, unique_by=lambda r: r[:2]), st.integers(0, 99))
def test_episodes_do_not_depend_on_row_order(rows, seed):
    record, start, label = map(np.array, zip(*rows))
    start = start*3.
    got = number_episodes(record, start, start + 3, label)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert np.array_equal(got[order],
                          number_episodes(record[order], start[order], start[order] + 3, label[order]))
    t = pd.DataFrame(dict(e=got, record=record, label=label, start=start)).sort_values(['record', 'start'])
    assert (t.groupby('e')[['record', 'label']].nunique() == 1).all(axis=None)
    assert all(g.start.diff().max() <= 13 for _, g in t.groupby('e') if len(g) > 1)


@pytest.mark.parametrize('change, says', [
    (dict(embedding=np.zeros(5)), 'segments, dimensions'),
    (dict(embedding=np.full((144, 5), np.nan)), 'row 0 is not finite'),
    (dict(label=np.zeros(3, int)), 'label: shape'),
    (dict(stop=np.zeros(144)), 'pass seconds'),
    (dict(fold=np.arange(144) % 2), 'split by patient'),
    (dict(fold=np.full(144, 7), prototypes={0: Prototypes(np.eye(3, 5), 1.)}), 'fold 7 has none'),
    (dict(label=np.full(144, 3)), 'class numbers 0..2'),
    (dict(label=np.zeros(144)), 'class numbers 0..2'),
    (dict(prototypes=Prototypes(np.eye(3), 1.)), 'same network'),
    (dict(apart='episode'), 'number_episodes'),
    (dict(apart='beat'), 'apart='),
    (dict(apart=-1.), 'apart='),
    (dict(shots=()), 'at least 1'),
    (dict(shots=(0,)), 'at least 1'),
    (dict(draws=0), 'at least 1'),
    (dict(shots=(50,)), 'no subject has 2 classes'),
    (dict(apart=1e6), 'no subject has 2 classes')])
def test_faults_are_one_line(change, says):
    x, label, who, start, stop = study()
    given = dict(embedding=x, label=label, subject=who, start=start, stop=stop,
                 prototypes=Prototypes(np.eye(3, 5), 1.)) | change
    with pytest.raises(PedarrError, match=says) as e: few_shot(**given)
    assert '\n' not in str(e.value)


def test_faults_of_prototypes():
    x, label, who, *_ = study()
    with pytest.raises(PedarrError, match='outside 0..1'): fit_prototypes(x, label, who, 2)
    with pytest.raises(PedarrError, match='k0=-1'): fit_prototypes(x, label, who, 3, k0=-1)
    with pytest.raises(PedarrError, match='give k0 yourself'): fit_prototypes(x[:1], label[:1], who[:1], 3)
    assert fit_prototypes(x[:1], label[:1], who[:1], 3, k0=2).k0 == 2


def between(seed=0, n=240, classes=4):
    "Features [n, 6] with some sense, labels, patients of two windows each, and rows by role."
    rng = np.random.default_rng(seed)
    subject = np.char.add('p', np.char.zfill((np.arange(n)//2).astype(str), 3))
    label = rng.integers(-1, classes, n)                                         # -1: of no class
    x = rng.normal(size=(n, 6)) + 2*np.eye(classes + 1, 6)[label]
    part = np.arange(n)//2 % 3
    rows = {role: np.flatnonzero(part == i) for i, role in enumerate(('train', 'validation', 'test'))}
    return x, label, subject, rows


def test_support_between_patients_is_nested_and_the_same_for_all_features():
    x, label, subject, rows = between()
    a, b = (few_patients(f, label, subject, rows, shots=(1, 3), draws=4) for f in (x, x[:, ::-1]))
    assert np.array_equal(a.support, b.support) and a.support.shape == (4, 4, 3)
    assert np.isin(a.support, rows['train']).all()
    for draw in a.support:
        assert (label[draw] == a.classes[:, None]).all()
        assert all(len(set(subject[own])) == 3 for own in draw)
    assert len({tuple(draw.ravel()) for draw in a.support}) == 4
    fewer = few_patients(x, label, subject, rows, shots=(1,), draws=4)
    assert np.array_equal(fewer.support, a.support[:, :, :1])              # begins with the same patients


def test_between_patients_equals_a_plain_loop():
    from sklearn.linear_model import LogisticRegression
    x, label, subject, rows = between()
    found = few_patients(x, label, subject, rows, shots=(2,), draws=3)
    z = (x - x[rows['train']].mean(0))/x[rows['train']].std(0)
    test = rows['test'][label[rows['test']] >= 0]
    recalls = []
    for d in range(3):
        own = found.support[d].ravel()
        fitted = LogisticRegression(C=found.strength[2], max_iter=300).fit(z[own], label[own])
        assert np.array_equal(found.called[2, 'linear'][d], fitted.predict(z[test]))
        u = z/np.linalg.norm(z, axis=1, keepdims=True)
        means = np.stack([u[own][label[own] == c].mean(0) for c in range(4)])
        near = (u[test] @ (means/np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(1)
        assert np.array_equal(found.called[2, 'prototype'][d], near)
        recalls.append([(near[label[test] == c] == c).mean() for c in range(4)])
    table = few_patients_table(found, 20)
    assert table.value[2, 'prototype'] == pytest.approx(np.mean(recalls))
    by_class = few_patients_classes(found, [*'abcd'], n_resamples=20)
    by_class = by_class[by_class.method == 'prototype']
    np.testing.assert_allclose(by_class.value, np.mean(recalls, 0))


def test_the_test_has_no_part_in_the_strength():
    x, label, subject, rows = between()
    other = label.copy()
    other[rows['test']] = np.random.default_rng(1).permutation(label[rows['test']])
    one, two = (few_patients(x, own, subject, rows, (1, 2), 2) for own in (label, other))
    assert one.strength == two.strength
    noise = x.copy()
    noise[rows['test']] = np.random.default_rng(2).normal(size=(len(rows['test']), 6))
    assert few_patients(noise, label, subject, rows, (1, 2), 2).strength == one.strength


def test_intervals_between_patients_widen_with_draws_that_differ():
    truth, subject = np.tile([0, 1], 50), np.array([f'p{i:02}' for i in range(100)])
    right, wrong = truth[None], 1 - truth[None]
    def width(called):
        both = {(1, m): called for m in ('prototype', 'linear')}
        row = few_patients_table(FewPatients(both, truth, subject, np.arange(2), np.zeros((2, 2, 1), int),
                                             {1: 1.}), 200).loc[(1, 'linear')]
        assert row.value == called.shape[0] - 1 or row.value == .5
        return row.high - row.low
    assert width(np.concatenate([right, right])) == 0
    assert width(np.concatenate([right, wrong])) > .9              # the draws are resampled, too


@pytest.mark.parametrize('change, why', [
    (dict(shots=()), 'at least 1'), (dict(draws=0), 'at least 1'), (dict(shots=(50,)), 'lower shots'),
    (dict(rows=dict(train=[0], validation=[2])), 'none for test'),
    (dict(rows=dict(train=np.arange(100), validation=np.arange(99, 160), test=np.arange(160, 240))),
     'p049 is in train and in validation')])
def test_bad_input_between_patients_is_one_line(change, why):
    x, label, subject, rows = between()
    with pytest.raises(PedarrError, match=why) as e:
        few_patients(**dict(x=x, label=label, subject=subject, rows=rows) | change)
    assert '\n' not in str(e.value)


@pytest.mark.long
def test_few_patients_of_a_pretraining_and_of_a_training(tmp_path):
    "On a SIMULATED store: both kinds of networks have their rows, and one that has seen the test is refused."
    import papermill
    rng, i = np.random.default_rng(0), np.arange(240)
    label = np.array(['SR', 'AFIB', 'BIGU', ''])[rng.choice(4, 240, p=[.4, .3, .28, .02])]
    hertz = pd.Series(label).map({'SR': 2, 'AFIB': 6, 'BIGU': 12, '': 20}).to_numpy()
    x = rng.normal(0, .1, (240, 12, 1000)) + np.sin(2*np.pi*hertz[:, None]*np.arange(1000)/100)[:, None]
    store = store_from_arrays(tmp_path/'store', x, 100., ECG_LEADS, label, [f's{k//2:03}' for k in i],
                              folds=1 + i//2 % 10, simulated=True)
    for name, folds in (('net', '1-8'), ('sees', '1-10')):
        run_pretraining(PretrainConfig(store=str(store.path), run=str(tmp_path/name), dim=16, proj_dim=8,
                                       epochs=1, batch_size=16, folds=folds), False)
    run_training(make_config(store=str(store.path), run=str(tmp_path/'run'), dim=16, depth=1, epochs=1,
                             batch_size=16, modalities='ecg', split='official', fold='last'), False)
    source = Path(__file__).parents[1]/'nbs'/'experiments'/'few_patients.ipynb'
    given = dict(store=str(store.path), out=str(tmp_path/'out'), shots='1,4', draws=3, resamples=50)
    run = lambda networks: papermill.execute_notebook(
        str(source), str(tmp_path/'done.ipynb'), given | dict(networks=','.join(networks)),
        progress_bar=False, kernel_name='python3')
    shutil.copytree(tmp_path/'net', tmp_path/'file')
    run([str(tmp_path/'net'), str(tmp_path/'file'/'encoder.safetensors'), str(tmp_path/'run')])
    t = pd.read_csv(tmp_path/'out'/'few_patients.csv').set_index(['network', 'method', 'k'])
    assert {*t.index.get_level_values('network')} == {'net', 'file', 'run', 'random encoder'}
    assert t.loc['net'].equals(t.loc['file'])                                   # a folder, or its weights
    assert t.value['net', 'linear', 4] > .6                                     # guessing gives a third
    said = read_json(tmp_path/'out'/'few_patients.json')
    assert said['simulated'] is True and {*said['rhythms']} == {'SR', 'AFIB', 'BIGU'}
    gains = pd.read_csv(tmp_path/'out'/'few_patients-differences.csv')
    assert {*gains.network} == {'net', 'file', 'run'} and {*gains.minus} == {'random encoder'}
    with pytest.raises(papermill.PapermillExecutionError, match='sees: learnt from folds'):
        run([str(tmp_path/'sees')])
