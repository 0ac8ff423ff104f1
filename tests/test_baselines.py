"""Properties and faults of pedarr.model.baselines that are no lesson."""
import dataclasses
import inspect
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.signal import resample_poly

from conftest import assert_learns, everywhere
from pedarr.model.baselines import MODELS, InceptionTime, XResNet1d, make_model
from pedarr.model.encoder_registry import ENCODERS
from pedarr.model.features import annotated_beats, interval_features, segment_features, shape_features
from pedarr.model.trees import boosted_trees, prediction_table
from pedarr.model.pedarrnet import ModelConfig, NetworkOptions, PedArrNet
from pedarr.model.variants import NETWORK_VARIANTS, count_multiply_adds
from pedarr.signals.build import build_store
from pedarr.core.errors import PedarrError
from pedarr.signals.roles import make_roles
from pedarr.signals.splits import make_split
from pedarr.training.config import make_config
from pedarr.training.network import build_model

RIVALS = ['xresnet1d', 'inceptiontime']


def net(name, n_classes=3, **options):
    torch.manual_seed(0)
    return make_model(name, n_classes, **{**dict(width=8, proj_dim=8), **options}).eval()


def batch(n=4, T=450, seed=0):
    g = torch.Generator().manual_seed(seed)
    ecg, iegm = (torch.randn(n, channels, T, generator=g) for channels in (12, 7))
    return ecg, iegm, torch.ones(n, 19, dtype=torch.bool)


def same(a, b): return all(torch.equal(x, y) for x, y in zip(a, b))


# ---- networks

@pytest.mark.parametrize('name', RIVALS)
@pytest.mark.parametrize('rubbish', [float('nan'), float('inf'), -float('inf'), 1e30])
@settings(max_examples=5, deadline=None)
@given(has=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=4),
       channels=st.integers(0, 2**19 - 1))
def test_absent_changes_nothing_to_the_bit(name, rubbish, has, channels):
    model, (ecg, iegm, _) = net(name), batch(len(has))
    some = torch.tensor([bool(channels >> i & 1) for i in range(19)])
    mask = torch.stack([torch.cat([some[:12] & e, some[12:] & i]) for e, i in has])
    spoil = lambda x, m: torch.where(m[..., None], x, rubbish)
    for mode in ('eval', 'train'):  # in training the batch statistics must not see it either
        clean = getattr(net(name, dropout=0.), mode)()(ecg, iegm, mask)
        spoilt = getattr(net(name, dropout=0.), mode)()(spoil(ecg, mask[:, :12]), spoil(iegm, mask[:, 12:]),
                                                        mask)
        assert same(clean, spoilt) and all(o.isfinite().all() for o in spoilt)
    present = torch.stack([mask[:, :12].any(1), mask[:, 12:].any(1)], 1)
    assert (spoilt.modality_weights[~present] == 0).all()


@pytest.mark.parametrize('name', RIVALS)
def test_single_modality_never_looks_at_the_other(name):
    (ecg, iegm, mask) = batch()
    model = net(name, modalities=('ecg',))
    out = model(ecg, iegm, mask)
    assert same(out, model(ecg, iegm * float('nan'), mask))
    assert (out.modality_weights == torch.tensor([1., 0.])).all()
    model = net(name, modalities=['iegm'])
    assert same(model(ecg, iegm, mask), model(ecg * float('nan'), iegm, mask))


@pytest.mark.parametrize('name', RIVALS)
@pytest.mark.parametrize('T', [180, 181, 1000, 1500, 2931])
def test_any_length(name, T):
    out = net(name)(*batch(2, T))
    assert out.logits.shape == (2, 3)
    assert out.embedding.shape == (2, 8)
    assert out.modality_weights.shape == (2, 2)
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize('name', RIVALS)
def test_empty_batch(name):
    assert net(name)(*batch(0)).logits.shape == (0, 3)


@pytest.mark.parametrize('name', RIVALS)
def test_learns_and_every_parameter_has_a_gradient(name):
    model, (ecg, iegm, mask) = net(name, dropout=0.).train(), batch(16)
    mask[:4, 3] = False
    assert_learns(model, ecg, iegm, mask)


@pytest.mark.parametrize('name', RIVALS)
def test_config_rebuilds_and_no_tensor_is_shared(name, tmp_path):
    from safetensors.torch import load_file, save_file
    model, b = net(name, modality_dropout=.2, modalities=['iegm']), batch()
    # running statistics are part of the state
    model.train()(*b)
    model.eval()
    save_file(model.state_dict(), tmp_path/'model.safetensors')
    again = make_model(name, **json.loads(json.dumps(model.config))).eval()
    again.load_state_dict(load_file(tmp_path/'model.safetensors'))
    assert same(model(*b), again(*b)) and again.config == model.config


@pytest.mark.parametrize('name', RIVALS)
def test_bfloat16_autocast_returns_float32(name):
    model, b = net(name), batch()
    with torch.autocast('cpu', dtype=torch.bfloat16): out = model(*b)
    assert {o.dtype for o in out} == {torch.float32}
    torch.testing.assert_close(out.logits, model(*b).logits, atol=.1, rtol=.1)


@pytest.mark.parametrize('name', RIVALS)
def test_modality_dropout_only_in_training(name):
    model, b = net(name, modality_dropout=1.), batch(32)
    assert (model(*b).modality_weights == .5).all()
    weights = model.train()(*b).modality_weights
    assert ((weights == 0).sum(1) == 1).all() and 4 < (weights[:, 0] == 0).sum() < 28


def test_counts_by_hand():
    "The inception trunk, 36 steps of 180 samples, two classes of module: of the first and of the others."
    w, n = 8, 36
    module = lambda c: n * (c * w + w * w * (39 + 19 + 9) + c * w)
    trunk = n * w * 15 * 19 + sum(module(c) + 2 * module(4 * w) + n * c * 4 * w for c in (w, 4 * w))
    heads = 8 * w * 3 + 8 * w * 8 * w + 8 * w * 8
    assert count_multiply_adds(net('inceptiontime'), 180) == trunk + heads


def test_registry_makes_what_the_classes_make():
    assert type(make_model('pedarrnet', 3, dim=16, heads=2)) is PedArrNet
    assert type(net('xresnet1d')) is XResNet1d and type(net('inceptiontime')) is InceptionTime
    for options in NETWORK_VARIANTS.values(): make_model('pedarrnet', 3, **{'dim': 16, 'heads': 2, **options})
    # options that all of them know
    for name in MODELS: make_model(name, 3, dropout=.2, modality_dropout=.1, proj_dim=8, modalities=('ecg',))


@pytest.mark.parametrize('name, options, says', [
    ('resnet', {}, 'unknown model .resnet.'),
    ('xresnet1d', dict(depth=2), 'unknown option of xresnet1d'),
    ('pedarrnet', dict(width=8), 'unknown option of pedarrnet'),
    ('xresnet1d', dict(n_classes=1), 'at least 2 classes'),
    ('inceptiontime', dict(width=6), 'width is 6: it must be at least 8'),
    ('xresnet1d', dict(proj_dim=0), 'proj_dim'),
    ('inceptiontime', dict(width=9), 'width is 9: it must be a multiple of 2'),
    ('xresnet1d', dict(width=10**9), 'width is 1000000000: it must be at most 8192'),
    ('xresnet1d', dict(dropout=1.), 'dropout is 1.0: it must be less than 1'),
    ('inceptiontime', dict(modality_dropout=-1.), 'modality_dropout is -1.0: it must be at least 0'),
    ('xresnet1d', dict(modalities=['mri']), 'of ecg, iegm'),
    ('xresnet1d', dict(ecg_rate=100.), 'at one rate'),
    ('xresnet1d', dict(ecg_rate=100., modalities=['ecg']), 'need the rate of the windows')])
def test_bad_options(name, options, says):
    with pytest.raises(PedarrError, match=says) as e: make_model(name, **{'n_classes': 3, **options})
    assert '\n' not in str(e.value)


def test_an_option_that_all_networks_have_is_typed_once():
    for rival in RIVALS:
        shared = inspect.signature(MODELS[rival]).parameters.keys() & ModelConfig.model_fields
        assert shared == NetworkOptions.model_fields.keys() >= {'dropout', 'rate', 'ecg_rate', 'iegm_rate'}
        for name in shared:
            assert inspect.signature(MODELS[rival]).parameters[name].default == \
                ModelConfig.model_fields[name].get_default(call_default_factory=True)
        with pytest.raises(PedarrError, match='proj_dim is 65537: it must be at most 65536'):
            make_model(rival, 3, proj_dim=65_537)
    assert make_model('inceptiontime', 3).config['width'] == 32 != make_model('xresnet1d', 3).config['width']


@pytest.mark.parametrize('own', [*(dict(model=name, model_options=dict(width=8)) for name in RIVALS),
                                 *(dict(dim=16, heads=2, encoder=name) for name in ENCODERS),
                                 dict(dim=16, heads=2, model_options=dict(fusion='early'))])
def test_a_run_answers_the_same_on_windows_of_500_hz_and_their_250_hz_version(own):
    "A kernel is as long in seconds in every network; told no rate, as those of before, it is not."
    (ecg, iegm, mask), c = batch(2, T=1500), make_config(**own)
    fine, slow = (build_model(c, 3, rate=rate).eval() for rate in (500., 250.))
    fine.load_state_dict(slow.state_dict())
    half = [torch.from_numpy(resample_poly(x.numpy(), 1, 2, axis=-1)) for x in (ecg, iegm)]
    with torch.no_grad():
        got, want = fine(ecg, iegm, mask), slow(*half, mask)
        before = build_model(c, 3).eval()(ecg, iegm, mask)
    for a, b in zip(got, want): torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert (before.logits - want.logits).abs().max() > 1e-3


@pytest.mark.parametrize('name', RIVALS)
def test_bad_batches(name):
    ecg, iegm, mask = batch()
    for bad in [
            (ecg[:, :11], iegm, mask), (ecg, iegm[..., :-1], mask), (ecg, iegm, mask.float()),
            (ecg[..., :100], iegm[..., :100], mask)]:
        with pytest.raises(PedarrError): net(name)(*bad)


# ---- features and trees

@pytest.fixture(scope='module')
def store(simulated, tmp_path_factory):
    return build_store(simulated, tmp_path_factory.mktemp('baselines')/'store', 'leipzig', progress=False)


@pytest.fixture(scope='module')
def features(store): return segment_features(store)


@pytest.mark.parametrize('kind', ['nan', 'zeros', 'noise', 'constant', 'ecg only', 'iegm only', 'one lead'])
def test_features_of_anything(kind):
    "Rubbish and holes give the same columns, finite or NaN, and no exception."
    rng = np.random.default_rng(0)
    x = rng.standard_normal((19, 1500))
    if kind in (same := dict(nan=np.nan, zeros=0., constant=1.)): x[:] = same[kind]
    if kind == 'ecg only': x[12:] = np.nan
    if kind == 'iegm only': x[:12] = np.nan
    if kind == 'one lead': x[1:] = np.nan
    out = interval_features(x, 500.) | shape_features(x, 500.)
    assert len(out) == 38
    assert all(isinstance(v, float) for v in out.values())
    assert not np.isinf(list(out.values())).any()


def test_features_see_only_what_they_may(store, features):
    ecg = segment_features(first(store, 25), modalities=('ecg',))
    of_electrograms = ['va', 'ratio', 'earliest', 'df', 'size_RVA12']
    assert list(ecg) == list(features)
    assert ecg[of_electrograms].isna().all(axis=None)
    assert ecg.rr.notna().any()
    iegm = segment_features(first(store, 25), modalities=('iegm',))
    assert iegm[['direction_II', 'ecg_3_9Hz']].isna().all().all() and iegm.aa.notna().any()


def first(store, n): return dataclasses.replace(store, segments=store.segments.head(n))


def test_features_do_not_depend_on_jobs(store, features):
    pd.testing.assert_frame_equal(segment_features(first(store, 6), jobs=2), features.head(6))


def test_annotated_beats_use_times_only(store, simulated, monkeypatch):
    "The symbol of a beat and the text of a rhythm annotation change nothing."
    from pedarr.data import annotations as annotations_
    from pedarr.data import rhythms as rhythms_
    before = annotated_beats(store, simulated)
    assert [len(x) for x in before] == store.segments.beats.tolist()
    assert all((x >= 0).all() and (x < 3.001).all() and (np.diff(x) > 0).all() for x in before)
    read = annotations_.read_annotations
    def renamed(*args):
        marks = read(*args)
        beat = np.isin(marks.symbol, list(rhythms_.BEAT_SYMBOLS))
        return marks._replace(symbol=np.where(beat, 'N', marks.symbol), aux=['(VT'] * len(marks.aux))
    everywhere(monkeypatch, annotations_, 'read_annotations', renamed)
    assert all(np.array_equal(x, y) for x, y in zip(before, annotated_beats(store, simulated)))


def test_labels_do_not_reach_the_features(store, features):
    blind = dataclasses.replace(store,
                                segments=store.segments.head(25).assign(rhythm='?', label=store.classes[0],
                                                                        beats=0, age=0., sex='M'))
    pd.testing.assert_frame_equal(segment_features(blind), features.head(25))


@pytest.mark.parametrize('kind', ['patient', 'segment'])
def test_trees_predict_each_evaluation_segment_once(store, features, kind):
    fold = make_split(store.segments, kind, n_folds=2)
    t = boosted_trees(store, features, fold, kind, max_iter=5)
    expected = store.segments[store.segments.evaluate & (fold >= 0)]
    assert sorted(t.segment) == expected.segment.tolist()
    assert (t.set_index('segment').label[expected.segment].to_numpy() == expected.label.to_numpy()).all()
    np.testing.assert_allclose(t.filter(like='p_').sum(axis=1), 1, atol=1e-5)
    assert (t.predicted == t.filter(like='p_').idxmax(axis=1).str[2:]).all()
    if kind == 'patient': assert (t.groupby('subject').fold.nunique() == 1).all()
    # same seed, same table
    pd.testing.assert_frame_equal(t, boosted_trees(store, features, fold, kind, max_iter=5))


def test_columns_are_those_of_a_run(store, features):
    from pedarr.training.folds import _prediction_rows
    rows = np.arange(5)
    prob = np.full((5, len(store.classes)), 1 / len(store.classes))
    ours = prediction_table(store, rows, prob, 1)
    theirs = _prediction_rows(store, dict(index=rows, prob=prob, weights=np.full((5, 2), .5)), 1)
    assert list(ours) == list(theirs) and [d.kind for d in ours.dtypes] == [d.kind for d in theirs.dtypes]


def test_trees_learn_and_shuffled_labels_do_not(store, features):
    "A test that leaks would score well on shuffled labels too."
    fold = make_split(store.segments, 'patient', n_folds=2)
    right = boosted_trees(store, features, fold, max_iter=20)
    rng = np.random.default_rng(0)
    labels = rng.permutation(store.segments.label)
    shuffled = dataclasses.replace(store, segments=store.segments.assign(label=labels))
    wrong = boosted_trees(shuffled, features, fold, max_iter=20)
    most = store.segments.label.value_counts(normalize=True).max()
    assert (right.predicted == right.label).mean() > most + .05 > (wrong.predicted == wrong.label).mean()


def test_a_class_that_is_not_in_training_has_probability_0(store, features):
    absent = store.segments.label[0]
    fold = np.where((store.segments.label == absent).to_numpy(), 0, 1)
    fold[np.flatnonzero(fold)[::4]] = 0
    t = boosted_trees(store, features, fold, 'segment', max_iter=5)
    assert (t.loc[t.fold == 0, f'p_{absent}'] == 0).all() and t[f'p_{absent}'].notna().all()


def test_bad_input(store, features, simulated, tmp_path):
    fold = make_split(store.segments, 'patient', n_folds=2)
    with pytest.raises(PedarrError, match='the store has'): boosted_trees(store, features.iloc[1:], fold)
    with pytest.raises(PedarrError, match='no feature was seen'):
        boosted_trees(store, features * np.nan, fold)
    with pytest.raises(PedarrError, match='the store has'): segment_features(store, beats=[])
    with pytest.raises(PedarrError, match='choose one or both'): segment_features(store, modalities=('mri',))
    with pytest.raises(PedarrError, match='no such annotation file'): annotated_beats(store, tmp_path)


def test_a_fold_alone_is_that_fold_of_all(store, features):
    from pedarr.model.trees import tree_fold
    fold = make_split(store.segments, 'patient', n_folds=2)
    whole = boosted_trees(store, features, fold, max_iter=5)
    part, grown = tree_fold(store, features, make_roles(store.segments, fold, 1, validation=0), 1, max_iter=5)
    pd.testing.assert_frame_equal(part, whole[whole.fold == 1].reset_index(drop=True))
    assert np.isnan(grown['validation_top1']) and np.isnan(grown['validation_loss'])
    assert grown['rounds'] == 5
    assert grown['segments'] == ((fold != 1) & (fold >= 0)).sum()
    assert 0 < grown['loss'] < np.log(len(store.classes))


def test_validation_segments_are_answered_and_not_learnt_from(store, features):
    from pedarr.model.trees import tree_fold
    fold = make_split(store.segments, 'patient', n_folds=2)
    roles = make_roles(store.segments, fold, 1)
    validation = np.flatnonzero(roles == 'validation')
    part, grown = tree_fold(store, features, roles, 1, max_iter=5)
    assert grown['segments'] == (roles == 'train').sum()
    assert 0 <= grown['validation_top1'] <= 1
    assert grown['validation_loss'] > 0
    noise = features.copy()
    noise.iloc[validation] = np.random.default_rng(0).standard_normal((len(validation), features.shape[1]))
    other, _ = tree_fold(store, noise, roles, 1, max_iter=5)
    pd.testing.assert_frame_equal(part, other)


def test_one_class_in_training_is_always_answered(store, features):
    fold = np.where((store.segments.label == 'SR').to_numpy(), 1, 0)
    fold[np.flatnonzero(fold)[:3]] = 0
    t = boosted_trees(store, features, fold, 'segment', max_iter=3)
    assert (t[t.fold == 0].predicted == 'SR').all() and np.allclose(t.filter(like='p_').sum(1), 1, atol=1e-5)


def test_rows_alone_measure_the_same(store, features):
    rows = [3, 17, len(store) - 1]
    pd.testing.assert_frame_equal(segment_features(store, rows=rows),
                                  features.iloc[rows].reset_index(drop=True))


@pytest.mark.parametrize('options, says', [
    (dict(max_iter=0), 'max_iter'),
    (dict(max_iter=10**9), 'at most 100,000'),
    (dict(depth=3), 'depth'),
    (dict(early_stopping=True, validation_fraction=.0001), 'no trees can be grown')])
def test_options_that_trees_do_not_take(store, features, options, says):
    with pytest.raises(PedarrError, match=says):
        boosted_trees(store, features, make_split(store.segments, 'patient', n_folds=2), **options)
