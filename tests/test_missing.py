"""Missing channels: the draws, that nothing leaks from a masked channel, what is compared and refused."""
import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import everywhere
from helpers import AT_250_HZ
from hypothesis import given, settings
from hypothesis import strategies as st

from pedarr.evaluation.metrics import METRICS, scores
from pedarr.evaluation.bootstrap import bootstrap_scores
from pedarr.evaluation.comparison import paired_bootstrap
from pedarr.use.missing import (
    _CHANNEL_KINDS, MISSING_CASES, MaskedPredictions, _ask, draw_subsets, format_missing, missing_curve,
    missing_difference, plot_missing, predict_masked, predict_without)
from pedarr.training.run_networks import open_folds
from pedarr.signals.settings import PreprocessConfig
from pedarr.signals.build import build_store
from pedarr.signals.store import mask_channels, open_store
from pedarr.data.channels import CHANNELS, ECG_LEADS, IEGM_CHANNELS, N_ECG
from pedarr.core.errors import PedarrError
from pedarr.training.config import make_config
from pedarr.training.grid import CHANNEL_SUBSETS
from pedarr.training.finished_runs import open_finished
from pedarr.training.saved_models import load_model
from pedarr.use.channel_subsets import subset_answers, subset_difference
from pedarr.use.predictor import load_predictor
from pedarr.training.train import run_training


@pytest.fixture(scope='module')
def made(simulated, tmp_path_factory):
    "A store and two runs on it of one epoch: one that looks at both modalities, one at the ECG alone."
    root = tmp_path_factory.mktemp('missing')
    build_store(simulated, root/'store', 'leipzig', config=AT_250_HZ, progress=False)
    small = dict(store=root/'store', loss='none', epochs=1, batch_size=32, dim=16, heads=2, depth=1,
                 n_folds=2, single_subject_classes='keep', resamples=100)
    runs = [run_training(make_config(**small, modalities=m, run=root/m), progress=False)
            for m in ('both', 'ecg')]
    return open_store(root/'store'), *runs


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(_CHANNEL_KINDS)), st.sets(st.sampled_from(CHANNELS)), st.integers(0, 2**31),
       st.integers(1, 4), st.data())
def test_draws_are_nested_and_depend_on_the_seed_alone(kind, there, seed, draws, data):
    names = [c for c in _CHANNEL_KINDS[kind] if c in there]
    if not names:
        with pytest.raises(PedarrError, match='no test segment has such a channel'):
            draw_subsets(kind, 0, there)
        return
    small, large = sorted(data.draw(st.lists(st.integers(0, len(names)), min_size=2, max_size=2)))
    a, b = draw_subsets(kind, small, there, draws, seed), draw_subsets(kind, large, there, draws, seed)
    for sets, n in ((a, small), (b, large)):
        assert len(sets) == (1 if n in (0, len(names)) else draws)
        for s in sets:
            assert len(s) == len(set(s)) == n
            assert set(s) <= set(names)
            assert list(s) == sorted(s, key=CHANNELS.index)
    if len(a) == len(b): assert all(set(x) <= set(y) for x, y in zip(a, b))
    assert draw_subsets(kind, large, there, draws + 1, seed)[:len(b)] == b


def test_draws_differ_and_every_channel_has_its_turn():
    sets = draw_subsets('all', 1, draws=400)
    counts = pd.Series([s[0] for s in sets]).value_counts()
    assert len(counts) == len(CHANNELS) and counts.max() < 3*400/len(CHANNELS)
    assert draw_subsets('all', 6, seed=0) != draw_subsets('all', 6, seed=1)


@pytest.mark.parametrize('drop', [['V2'], ['I', 'CS34', 'RVA12'], IEGM_CHANNELS, ECG_LEADS])
def test_nothing_leaks_from_a_masked_channel(made, drop, monkeypatch):
    """Garbage in the channels that were taken away changes no bit, not even through the normalisation; in a
    channel that is there it does."""
    from pedarr.signals import batches as batches_
    store, run, _ = made
    rng, real, whole = np.random.default_rng(0), batches_.take_signals, predict_without(run, drop, store)
    def garbage(gone):
        def take(store, rows):
            signals = [np.array(x) for x in real(store, rows)]
            for x, g in zip(signals, (gone[:N_ECG], gone[N_ECG:])):
                x[:, g] = 50*rng.standard_normal((len(x), g.sum(), x.shape[-1]))
            return signals
        return take
    everywhere(monkeypatch, batches_, 'take_signals', garbage(np.isin(CHANNELS, drop)))
    pd.testing.assert_frame_equal(predict_without(run, drop, store), whole, check_exact=True)
    everywhere(monkeypatch, batches_, 'take_signals', garbage(~np.isin(CHANNELS, drop)))
    assert not predict_without(run, drop, store).equals(whole)


def test_masking_only_takes_away(made):
    store = made[0]
    before = np.array(store.mask)
    less = mask_channels(store, ['V1', 'CS12'])
    assert (less.mask <= before).all() and np.array_equal(store.mask, before) and less.ecg is store.ecg
    t = predict_without(made[1], ['V1', 'CS12'])
    assert np.array_equal(t.removed + t.left, before[t.segment].sum(1)) and set(t.removed) <= {0, 1, 2}
    absent = ~before[t.segment, CHANNELS.index('CS12')]
    assert (t.removed[absent] <= 1).all()


def test_each_fold_is_asked_with_its_own_network(made):
    store, run, _ = made
    saved = open_finished(run).predictions.set_index('segment')
    for part, full in open_folds(run):
        own = _ask(part, full)['prob']
        want = saved.loc[part.rows, [c for c in saved if c.startswith('p_')]].to_numpy()
        np.testing.assert_allclose(own, want, atol=2e-6)
        other = part._replace(model=load_model(run, 1 - part.k)[0])
        assert abs(_ask(other, full)['prob'] - want).max() > 1e-4  # so the comparison above can fail


def test_answers_are_those_of_predict_without(made):
    _, run, _ = made
    a = predict_masked(run, (2, 5), 'ecg', draws=2, seed=4)
    for i, n in ((1, 2), (2, 5)):
        for d, drop in enumerate(draw_subsets('ecg', n, draws=2, seed=4)):
            t = predict_without(run, drop).set_index('segment').loc[a.segment]
            assert np.array(a.classes)[a.predicted[i][d]].tolist() == t.predicted.tolist()
            assert t.label.tolist() == np.array(a.classes)[a.truth].tolist()
            assert t.subject.tolist() == a.subject.tolist()
    assert a.rows.case.tolist() == ['', '', ''] + list(MISSING_CASES)
    assert a.rows.removed.tolist()[:3] == [0, 2, 5]


def test_a_network_of_the_ecg_alone_does_not_miss_the_electrograms(made):
    store, _, run = made
    a = predict_masked(run, (3, 7), 'iegm', draws=2)
    for p in a.predicted[1:3]: assert (p == a.predicted[0]).all()
    rows = a.rows.set_index('case')
    assert rows.blank['no IEGM at all'] == 0 and rows.blank['no ECG at all'] == 1
    change = missing_curve(a, n_resamples=100).query('case == "no IEGM at all"')
    assert (change[['change', 'change_low', 'change_high']] == 0).all(axis=None)


def test_a_store_without_electrograms(made):
    "As LUDB: they can't be lost, and the draws over all channels are draws over the leads."
    store, run, _ = made
    bare = mask_channels(store, IEGM_CHANNELS)
    with pytest.raises(PedarrError, match='kind iegm: no test segment has such a channel'):
        predict_masked(run, kind='iegm', store=bare)
    with pytest.raises(PedarrError, match='the test segments have 12 of kind all: use 0 to 12'):
        predict_masked(run, (13,), store=bare)
    a = predict_masked(run, (3,), store=bare, draws=2)
    assert a.rows.removed[1] == 3
    assert (a.predicted[0] == a.predicted[a.rows.case.tolist().index('no IEGM at all')]).all()
    assert a.rows.set_index('case').unchanged['no IEGM at all'] == 1
    assert a.rows.set_index('case').blank['no ECG at all'] == 1


def test_a_run_on_two_leads_never_sees_another_channel(made, tmp_path, monkeypatch):
    """Garbage in the channels that are left out changes no byte of the run: not in training, not in
    validation, not in the test. Its model says what it takes, and so does whoever asks it again."""
    store, whole, _ = made
    params = dict(open_finished(whole).params.model_dump(), channels='V1,II', epochs=1)
    run = run_training(make_config(**params | dict(run=str(tmp_path/'a'))), progress=False)
    from pedarr.signals import batches as batches_
    rng, real, gone = np.random.default_rng(0), batches_.take_signals, ~np.isin(CHANNELS, ['II', 'V1'])
    def garbage(store, rows):
        signals = [np.array(x) for x in real(store, rows)]
        for x, g in zip(signals, (gone[:N_ECG], gone[N_ECG:])):
            x[:, g] = 50*rng.standard_normal((len(x), g.sum(), x.shape[-1]))
        return signals
    everywhere(monkeypatch, batches_, 'take_signals', garbage)
    again = run_training(make_config(**params | dict(run=str(tmp_path/'b'))), progress=False)
    for name in ('predictions.csv', 'model-0.safetensors', 'model-1.safetensors'):
        assert (run/name).read_bytes() == (again/name).read_bytes()
    opened = open_finished(run)
    assert opened.params.channels == 'II V1' and opened.card.channels == ['II', 'V1']
    assert load_predictor(run).model.prep.channels == ['II', 'V1']
    asked = predict_without(run)
    assert (asked.left <= 2).all() and asked.predicted.tolist() == opened.predictions.predicted.tolist()
    a = subset_answers([whole], [run], store)
    table = subset_difference(a, 100).set_index('metric')
    left = predict_without(whole, [c for c in CHANNELS if c not in ('II', 'V1')]).sort_values('segment')
    assert table.asked['top1'] == pytest.approx((left.label == left.predicted).mean())
    assert table.trained['top1'] == pytest.approx((asked.label == asked.predicted).mean())
    with pytest.raises(PedarrError, match='II V1 alone: give a run on all channels'):
        subset_answers([run], [run])


def test_the_seven_channels_are_the_first_draw_of_twelve_missing():
    gone = draw_subsets('all', 12, draws=1)[0]
    assert CHANNEL_SUBSETS['7 of 19'].split() == [c for c in CHANNELS if c not in gone]
    for names in CHANNEL_SUBSETS.values(): assert make_config(channels=names).channels.split()


def answers(predicted, truth, subject, case='no ECG at all', **key):
    rows = pd.DataFrame([dict(kind='all', case='', number=0., draws=1, removed=0., unchanged=1., blank=0.),
                         dict(kind='all', case=case, number=np.nan, draws=len(predicted[1]), removed=3.,
                              unchanged=0., blank=0.)])
    truth, predicted = np.array(truth), [np.array(p) for p in predicted]
    key = dict(store='x', kind='all', numbers=(0.,), draws=2, seed=0) | key
    segments, subject = np.arange(len(truth)), np.array(subject)
    return MaskedPredictions(rows, predicted, segments, truth, subject, ['a', 'b'], key)


def test_the_curve_by_hand():
    "Four segments, all right; one draw loses one of them, the other two."
    a = answers([[[0, 0, 1, 1]], [[0, 1, 1, 1], [1, 1, 1, 1]]], [0, 0, 1, 1], ['s', 's', 't', 'u'])
    t = missing_curve(a, n_resamples=200).query('case != ""').set_index('metric')
    assert t.value['top1'] == pytest.approx((3/4 + 2/4)/2)
    assert t.change['top1'] == pytest.approx(-3/8)
    assert t.worst['top1'] == .5
    assert t.value['recall'] == pytest.approx((1/4 + 1)/2) and t.worst['recall'] == .5
    assert t.change_low['top1'] <= t.change['top1'] <= t.change_high['top1'] <= 0
    again = missing_curve(a, n_resamples=200).query('case != ""').set_index('metric')
    pd.testing.assert_frame_equal(t, again)


def test_intervals_are_those_of_the_metrics_and_draws_are_no_patients():
    rng = np.random.default_rng(0)
    truth, who = rng.integers(0, 2, 60), np.repeat(np.arange(10), 6)
    base = np.where(rng.random(60) < .8, truth, 1 - truth)
    drawn = np.where(rng.random(60) < .5, truth, 1 - truth)
    t = missing_curve(answers([base[None], drawn[None]], truth, who), n_resamples=300)
    want = bootstrap_scores(truth, drawn, who, 2, n_resamples=300)
    np.testing.assert_allclose(t[['value', 'low', 'high']][5:], want)
    cost = paired_bootstrap(truth, drawn, base, who, 2, n_resamples=300)
    np.testing.assert_allclose(t[['change', 'change_low', 'change_high']][5:], cost[['value', 'low', 'high']])
    repeated = missing_curve(answers([base[None], np.repeat(drawn[None], 6, axis=0)], truth, who),
                             n_resamples=300)
    np.testing.assert_allclose(repeated[['low', 'high', 'worst']], t[['low', 'high', 'worst']])
    assert t.worst[5:].tolist() == pytest.approx([scores(truth, drawn, 2)[m] for m in METRICS])


def test_one_subject_has_no_interval():
    a = answers([[[0, 1]], [[1, 1]]], [0, 1], ['s', 's'])
    t = missing_curve(a, n_resamples=100)
    assert t[['low', 'high', 'change_low', 'change_high']].isna().all(axis=None)
    assert 'one subject' in format_missing(t).iloc[1, 3]


def test_difference_is_antisymmetric_and_paired(made):
    _, both, ecg = made
    a, b = (predict_masked(r, (4,), 'all', draws=2) for r in (both, ecg))
    ab, ba = missing_difference(a, b, n_resamples=200), missing_difference(b, a, n_resamples=200)
    np.testing.assert_allclose(ab.value, -ba.value, atol=1e-12)
    np.testing.assert_allclose(ab.low, -ba.high, atol=1e-12)
    one, other = (missing_curve(x, n_resamples=10).value for x in (a, b))
    np.testing.assert_allclose(ab.value, one - other, atol=1e-9)


def test_what_cannot_be_compared():
    a = answers([[[0, 1]], [[1, 1]]], [0, 1], ['s', 't'])
    for k, v in dict(store='y', kind='ecg', numbers=(0., 2.), draws=3, seed=1).items():
        with pytest.raises(PedarrError, match=f'differ in {k} '):
            missing_difference(a, a._replace(key=a.key | {k: v}))
    with pytest.raises(PedarrError, match='other segments or classes'):
        missing_difference(a, a._replace(segment=a.segment + 1))
    with pytest.raises(PedarrError, match='other segments or classes'):
        missing_difference(a, a._replace(classes=['a', 'c']))


@pytest.mark.parametrize('options, message', [
    (dict(numbers=(20,)), r'numbers: 20 channels cannot be removed'),
    (dict(numbers=(-1,)), r'numbers: -1 channels'),
    (dict(numbers=(1.5,)), 'numbers: 1.5 is no whole number'),
    (dict(numbers=(True,)), 'numbers: True is no whole number'),
    (dict(draws=0), 'draws=0: at least one'),
    (dict(kind='eeg'), "unknown kind 'eeg': did you mean 'ecg'")])
def test_bad_options(made, options, message):
    with pytest.raises(PedarrError, match=message) as e: predict_masked(made[1], **options)
    assert '\n' not in str(e.value)


def test_runs_that_cannot_be_asked(made, tmp_path):
    _, run, _ = made
    grown = run_training(make_config(store=made[0].path, run=tmp_path/'trees', model='trees',
                                     model_options=dict(max_iter=2), n_folds=2,
                                     single_subject_classes='keep', resamples=100), progress=False)
    half = shutil.copytree(run, tmp_path/'half')
    (half/'model-1.safetensors').unlink()
    damaged = shutil.copytree(run, tmp_path/'damaged')
    (damaged/'model-0.safetensors').write_bytes(b'no weights')
    for folder, message in ((grown, 'has no network to ask again'), (half, 'model-1.safetensors is missing'),
                            (damaged, 'model-0.safetensors: altered'), (tmp_path, 'not a finished run'),
                            (tmp_path/'none', 'no such folder')):
        for call in (lambda: predict_without(folder), lambda: predict_masked(folder, (1,), draws=1)):
            with pytest.raises(PedarrError, match=message) as e: call()
            assert '\n' not in str(e.value)
    with pytest.raises(PedarrError, match="unknown channel 'MLII'"): predict_without(run, ['MLII'])


def test_a_moved_store_and_another_store(made, tmp_path):
    store, run, _ = made
    moved = shutil.copytree(store.path, tmp_path/'elsewhere')
    pd.testing.assert_frame_equal(predict_without(run, 'V1', open_store(moved)), predict_without(run, 'V1'))
    hashes = store.meta['sha256'] | {'ecg.npy': 'other'}
    other = dataclasses.replace(store, meta=store.meta | {'sha256': hashes})
    with pytest.raises(PedarrError, match='store with other contents'): predict_without(run, 'V1', other)


def test_the_figure():
    a = answers([[[0, 0, 1, 1]], [[0, 1, 1, 1]]], [0, 0, 1, 1], ['s', 's', 't', 'u'])
    t = missing_curve(a, n_resamples=50)
    left, right = plot_missing({'one': t, 'two': t}, 'f1').axes
    assert [x.get_text() for x in left.get_legend().get_texts()] == ['one', 'two']
    assert len(left.lines) == 2
    assert len(left.collections) == 2
    assert left.lines[0].get_color() != left.lines[1].get_color()
    assert left.lines[0].get_marker() != left.lines[1].get_marker()
    assert [x.get_text() for x in right.get_xticklabels()] == ['no ECG at all']
    assert left.get_ylabel() == 'macro F1 (%)'
    for call, message in (
            (lambda: plot_missing({}), '0 curves'),
            (lambda: plot_missing({'a': t, 'b': t.assign(kind='ecg')}), 'kinds all, ecg'),
            (lambda: plot_missing({'a': t}, 'acc'), "unknown metric 'acc'")):
        with pytest.raises(PedarrError, match=message): call()
