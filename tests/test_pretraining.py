"Learning before labels: objectives, views, features, the loop."
import errno
import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from scipy.signal import resample_poly
from sklearn.metrics import roc_auc_score

from helpers import edit_json, experiment_cells, unpacked_probabilities
from pedarr.core import files
from pedarr.core.array_files import read_arrays
from pedarr.core.errors import PassingError, PedarrError
from pedarr.core.files import sha256
from pedarr.core.parameters import cell_text
from pedarr.core.project import real_recordings
from pedarr.data.channels import ECG_LEADS, IEGM_CHANNELS
from pedarr.evaluation.means_over_draws import MeanScores, paired_seeds
from pedarr.exploration.waves import drawn_study
from pedarr.losses.contrastive import SupCon
from pedarr.losses.feature_targets import (
    beat_targets, physioclr, physiological_pairs, pool_beats, soft_targets)
from pedarr.losses.unlabelled import cmsc, nt_xent, soft_contrast
from pedarr.model.encoder_registry import ENCODERS
from pedarr.model.given import check_sums
from pedarr.model.pretrained import load_pretrained, save_pretrained
from pedarr.signals import physiology
from pedarr.signals.arrays import store_from_arrays
from pedarr.signals.beat_classes import beat_classifier_file
from pedarr.signals.beat_order import first_part
from pedarr.signals.physiology import measure_beats, physiology_file, physiology_of, reduce_features
from pedarr.signals.shuffled_beats import cut_points, shuffled_index
from pedarr.signals.vectorcardiogram import turn_ecg, turned_view
from pedarr.training import pretrain, pretrain_objectives
from pedarr.training.config import make_config
from pedarr.training.network import build_model
from pedarr.training.pretrain import (
    check_same_pretraining, read_pretraining, run_pretraining, what_is_known, windows_to_learn)
from pedarr.training.pretrain_config import BEATSSL_ABLATION, PRETRAININGS, PretrainConfig, needs_features
from pedarr.training.probes import (
    cached_features, frozen_encoder, linear_probe, moved_by, probe_answer, probe_of_views, windows_as)
from pedarr.training.run_files import read_entries
from pedarr.training.run_list import run_row
from pedarr.use.command import pedarr_command
from pedarr.use.notebook import find_notebook


def drawn(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- objectives

@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_classes_as_targets_give_supcon(seed, n):
    z, y = drawn(n, 4, seed=seed), torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(seed))
    same = (y[:, None] == y).double()
    assert soft_contrast(z, same, .2).item() == pytest.approx(SupCon(.2)(z, y).item(), abs=1e-9)


def test_soft_contrast_by_a_loop():
    z, t = drawn(5, 3), torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).double()
    t[2] = 0
    unit, rows = torch.nn.functional.normalize(z, dim=1), []
    for i in [0, 1, 3, 4]:
        below = sum((unit[i] @ unit[j]/.3).exp() for j in range(5) if j != i)
        pull = [t[i, j]*((unit[i] @ unit[j]/.3).exp()/below).log() for j in range(5) if j != i]
        rows.append(-sum(pull)/sum(t[i, j] for j in range(5) if j != i))
    assert soft_contrast(z, t, .3).item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-12)


def test_physioclr_by_a_loop_official_and_bounded():
    f, z, v = drawn(6, 2, seed=3), drawn(6, 4, seed=4), drawn(2, 6, 4, seed=5)
    positive, negative = physiological_pairs(f)
    cosine = lambda a, b: (a @ b/(a.norm()*b.norm())).item()/.1
    for bounded in (True, False):
        rows = []
        for i in range(6):
            near = [cosine(z[i], v[k, i]) for k in (0, 1)]
            near += [cosine(z[i], z[j]) for j in range(6) if positive[i, j]]
            far = [cosine(z[i], z[j]) for j in range(6) if negative[i, j]]
            above = near + far if bounded else far
            if far: rows.append(np.logaddexp.reduce(above) - np.logaddexp.reduce(near))
        assert physioclr(z, v, positive, negative, .1, bounded).item() == pytest.approx(np.mean(rows))


def test_windows_without_features_keep_their_own_views():
    f = torch.full((4, 3), torch.nan)
    positive, negative = physiological_pairs(f)
    z, v = drawn(4, 3), drawn(2, 4, 3, seed=1)
    assert not positive.any() and not negative.any() and physioclr(z, v, positive, negative).item() == 0
    both = torch.cat([z, v[0]])
    want = nt_xent(z, v[0]).item()
    assert soft_contrast(both, soft_targets(f, 5.)).item() == pytest.approx(want, abs=1e-6)


def test_beats_of_unknown_class_and_none_at_all():
    unknown = beat_targets(torch.full((3,), -1))
    assert torch.equal(unknown, soft_targets(torch.full((3, 1), torch.nan)))
    assert soft_contrast(torch.zeros(0, 4), beat_targets(torch.zeros(0, dtype=torch.long))).item() == 0
    beat, there = pool_beats(torch.ones(1, 2, 5), torch.full((1, 3), -1), 16, 100.)
    assert not there.any() and not beat.any()


def test_objectives_in_half_precision_are_computed_in_float32():
    z = drawn(8, 4).to(torch.bfloat16)
    who = torch.arange(4)
    for value in (nt_xent(z[:4], z[4:]), cmsc(z[:4], z[4:], who), soft_contrast(z, torch.ones(8, 8))):
        assert value.dtype == torch.float32 and value.isfinite()


# ---- views

@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_turn_and_its_inverse(seed):
    "A dipole that is turned about one axis and back is what it was; the limb leads keep Einthoven's law."
    g = torch.Generator().manual_seed(seed)
    still, same = torch.zeros(1, 3), torch.ones(1, 3)
    ecg = turn_ecg(torch.randn(1, 12, 30, generator=g).double(), still, same)         # a dipole now
    for axis in range(3):
        angle = torch.zeros(1, 3)
        angle[0, axis] = torch.rand((), generator=g)
        there = turn_ecg(ecg, angle, same)
        torch.testing.assert_close(turn_ecg(there, -angle, same), ecg, atol=1e-6, rtol=0)
        one, two, three, right, left, foot = there[0, :6]
        torch.testing.assert_close(one + three, two)
        torch.testing.assert_close(right + left + foot, torch.zeros_like(one), atol=1e-9, rtol=0)


def test_few_leads_are_not_turned():
    x = torch.randn(2, 12, 50)
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, 1], mask[1, :7] = True, True                       # one lead; all but V2 to V6
    view, seen = turned_view(x, mask, hidden='none')
    assert torch.equal(view, torch.where(mask[..., None], x, 0.)) and torch.equal(seen, mask)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 100), max_size=12), st.integers(0, 10**6))
def test_shuffling_loses_no_sample_and_cuts_nowhere_else(cuts, seed):
    index = shuffled_index(100, cuts, np.random.default_rng(seed))
    assert sorted(index) == list(range(100))
    joins = np.flatnonzero(np.diff(index) != 1)
    assert set(index[joins] + 1) <= set(cuts) and set(index[joins + 1]) <= set(cuts)


@settings(max_examples=60, deadline=None)
@given(st.floats(.3, 2.), st.floats(.2, .95), st.floats(.2, .95), st.booleans(), st.booleans())
def test_no_cut_parts_a_wave_that_was_seen(rr, t_share, p_share, has_t, has_p):
    "A cut lies between the beats: after a T wave's end, before a P wave; in their overlap, if they have one."
    t_end, p_on = t_share*rr if has_t else np.nan, p_share*rr if has_p else np.nan
    cut, = cut_points([0, rr], [t_end, np.nan], [np.nan, p_on])
    assert 0 <= cut <= rr
    if t_end > p_on: assert cut == pytest.approx((t_end + p_on)/2)
    else: assert not cut < t_end - 1e-9 and not cut > p_on + 1e-9


# ---- features

def test_a_window_of_every_kind_has_an_answer():
    x = drawn_study(np.arange(.5, 5.5, .8), pr=.14, seconds=6., fs=250)[:12]
    all_, one = np.ones(12, bool), np.arange(12) == 7
    assert len(measure_beats(x, all_, 250.)) == len(measure_beats(x, one, 250.)) == 7
    x[:, 600:700] = np.nan
    assert len(measure_beats(x, all_, 250.)) and measure_beats(x*0, all_, 250.).empty
    assert measure_beats(x, ~all_, 250.).empty and measure_beats(x[:, :100], all_, 250.).empty


def test_constant_and_unseen_features_take_no_place():
    x = np.random.default_rng(0).normal(size=(30, 5))
    wide = np.concatenate([x, np.ones((30, 2)), np.full((30, 1), np.nan), 1e6 + 0*x[:, :1]], 1)
    a, b = (reduce_features(part, np.arange(30)) for part in (x, wide))
    np.testing.assert_allclose(abs(a), abs(b), atol=1e-4)
    with pytest.raises(PedarrError, match='objective without features'):
        reduce_features(wide[:, 5:], np.arange(30))
    with pytest.raises(PedarrError, match='^a/store: in 30 training windows .* without features$') as e:
        reduce_features(wide[:, 5:7], np.arange(30), source=Path('a/store'))
    assert '\n' not in str(e.value)


def test_one_process_or_two_measure_the_same(drawn_store, monkeypatch):
    one, two = (physiology.measure_physiology(drawn_store, jobs) for jobs in (1, 2))
    monkeypatch.setattr(physiology, '_MANY', 2)                   # as many as there are cores
    for found in (two, physiology.measure_physiology(drawn_store)):
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, found))


def test_what_was_measured_by_earlier_rules_is_measured_again(drawn_store, monkeypatch):
    physiology_of(drawn_store)
    measured, measure = [], physiology.measure_physiology
    monkeypatch.setattr(physiology, 'measure_physiology', lambda *a: measured.append(1) or measure(*a))
    physiology_of(drawn_store)
    assert not measured
    monkeypatch.setattr(physiology, '_RULES', physiology._RULES + 1)
    for _ in range(2): physiology_of(drawn_store)
    assert len(measured) == 1
    monkeypatch.undo()
    physiology_of(drawn_store)


# ---- runs

SMALL = dict(dim=16, proj_dim=8, batch_size=8, epochs=2, device='cpu', clusters=3)


@pytest.fixture(scope='module')
def drawn_store(tmp_path_factory):
    "Sixteen windows of 6 s without labels: noise in one, a single lead in another; electrograms, too."
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp('drawn')
    rr = rng.uniform(.5, 1., 16)
    make = lambda i: drawn_study(np.arange(.4, 5.8, rr[i]), pr=.12, seconds=6., fs=100, noise=.02, seed=i)
    x = np.stack([make(i) for i in range(16)])
    x[2], x[3, 1:12], x[4:, 12:] = rng.normal(0, .02, x[2].shape), np.nan, np.nan
    return store_from_arrays(folder/'store', x, 100., [*ECG_LEADS, *IEGM_CHANNELS], ['']*16,
                             [f's{i//2}' for i in range(16)], folds=[1 + i//4 for i in range(16)])


def config(store, run, **options) -> PretrainConfig:
    return PretrainConfig(store=str(store.path), run=str(run), **SMALL | options)


@pytest.mark.parametrize('method', PRETRAININGS)
def test_every_method_learns_and_leaves_weights_that_a_training_takes(drawn_store, tmp_path, method):
    c = config(drawn_store, tmp_path/'r', method=method, crop=3.)
    before = cached_random(c)
    said, history = read_pretraining(run_pretraining(c, progress=False))
    assert said.windows == 16 and np.isfinite(history.to_numpy()).all()
    assert (history[['contrast', 'reconstruction']].sum(1) > 0).all()
    after = pretrain.Pretrainer(c, 100.).net
    assert load_pretrained(after, tmp_path/'r'/'encoder.safetensors', 100.).loaded == ['ecg']
    assert any(not torch.equal(a, b) for a, b in zip(before, after.views.encoders.parameters()))
    has_no_beat = any('no beat was found' in note for note in said.notes)
    assert has_no_beat == (method in ('physioclr', 'beatssl'))


def test_a_loss_that_no_history_holds_is_refused(drawn_store, tmp_path, monkeypatch):
    own = lambda model, v, known, c: {'agreement': model.net.head.weight.sum() + 1}
    monkeypatch.setitem(pretrain_objectives._METHODS, 'simclr', own)
    with pytest.raises(PedarrError, match="unknown term 'agreement': .*contrast.* add it to TERMS in") as e:
        run_pretraining(config(drawn_store, tmp_path/'r'), progress=False)
    assert '\n' not in str(e.value)
    assert set(pretrain_objectives.TERMS) < set(pretrain.PretrainRow.model_fields)


def cached_random(c) -> list:
    "The weights of the encoder that a pretraining starts from."
    torch.manual_seed(c.seed)
    return [p.detach().clone() for p in pretrain.Pretrainer(c, 100.).net.views.encoders.parameters()]


@pytest.mark.parametrize('options', [
    dict(method='masked', modality='iegm'), dict(method='simclr', modality='iegm', encoder='plain'),
    dict(method='beatssl', beats='soft', hidden='leads', residual=True),
    dict(method='beatssl', rhythms='none'),
    dict(method='beatssl', rhythms='none', beats='soft', exponent=1.),
    dict(method='physioclr', bounded=False, self_counts=True, at_r=True),
    dict(method='beatssl', rate=50.), dict(method='simclr', precision='bf16', keep_every=1)])
def test_options_run(drawn_store, tmp_path, options):
    c = config(drawn_store, tmp_path/'r', epochs=1, **options)
    said, _ = read_pretraining(run_pretraining(c, progress=False))
    assert said.rate == (options.get('rate') or 100) and said.modality == c.modality
    if c.modality == 'iegm': assert said.windows == 4 and '12 windows have no channel' in said.notes[0]
    if c.keep_every: assert (tmp_path/'r'/'encoder-1.safetensors').exists()


@pytest.mark.parametrize('row', BEATSSL_ABLATION, ids=lambda row: '-'.join(map(str, row[:3])))
def test_each_row_of_the_ablation_is_a_choice(drawn_store, tmp_path, row):
    "Ten rows, each its own; a term that is left out is zero in the history."
    assert len({r[:3] for r in BEATSSL_ABLATION}) == len(BEATSSL_ABLATION) == 10
    c = config(drawn_store, tmp_path/'r', method='beatssl', **dict(zip(row._fields[:3], row)))
    history = read_pretraining(run_pretraining(c, progress=False))[1]
    terms = {name for name in pretrain_objectives.TERMS if history[name].any()}
    assert terms == {'contrast'} | ({'beats'} if row.beats != 'none' else set())


def test_without_rhythms_the_loss_is_that_of_beats(drawn_store, tmp_path):
    "The projection of windows keeps its weights, but for decay; with rhythms it learns."
    c = config(drawn_store, tmp_path/'r', method='beatssl', weight_decay=0.)
    rows = np.arange(16)
    start = pretrain._set_up(drawn_store, rows, c).model.net.project.state_dict()
    start = {name: value.clone() for name, value in start.items()}
    moved = {}
    for rhythms in ('none', 'hard', 'soft'):
        own = c.replace(rhythms=rhythms)
        folder = tmp_path/rhythms
        folder.mkdir()
        known = what_is_known(drawn_store, rows, own)[0]
        model, history = pretrain._fit(drawn_store, rows, known, own, folder, show=False)
        weights = dict(model.net.project.named_parameters())
        moved[rhythms] = any(not torch.equal(weights[name], start[name]) for name in weights)
        assert all((row['contrast'] == 0) == (rhythms == 'none') and row['beats'] > 0 for row in history)
    assert moved == dict(none=False, hard=True, soft=True)


@pytest.mark.parametrize('name', ENCODERS)
def test_a_training_starts_from_what_was_learnt_at_500_hz(tmp_path, name):
    "Windows are read at the rate at which a training with the same encoder reads them."
    made = pretrain.Pretrainer(PretrainConfig(dim=16, encoder=name), 500.)
    file = save_pretrained(made.net, tmp_path/'encoder.safetensors', 500.)
    net = build_model(make_config(dim=16, encoder=name), 3, rate=500.)
    assert load_pretrained(net, file, 500.).loaded == ['ecg']


def test_any_encoder_by_name(drawn_store, tmp_path):
    for name in ENCODERS:
        run_pretraining(config(drawn_store, tmp_path/name, encoder=name, epochs=1, crop=4.), progress=False)
        card = read_pretraining(tmp_path/name)[0]
        assert card.method == 'simclr'


def test_who_is_learnt_from(drawn_store, tmp_path):
    (tmp_path/'out.csv').write_text('subject,fold\ns0,1\ns7,1\n')
    c = config(drawn_store, tmp_path/'r', folds='1-2,4', left_out=str(tmp_path/'out.csv'))
    rows, notes = windows_to_learn(drawn_store, c)
    learnt = drawn_store.segments.iloc[rows]
    assert set(learnt.official) == {1, 2, 4} and not {'s0', 's7'} & set(learnt.subject)
    assert notes == ['4 windows are of other folds than 1-2,4: left out',
                     f'4 windows are of subjects in {tmp_path/"out.csv"}: left out']


def test_what_is_known_comes_from_the_windows_that_are_learnt(drawn_store, tmp_path):
    c = config(drawn_store, tmp_path/'r', method='beatssl')
    some, all_ = (what_is_known(drawn_store, rows, c)[0] for rows in (np.arange(8), np.arange(16)))
    assert some.features[2].isnan().all() and some.features.shape[1] < all_.features.shape[1]
    assert (some.peaks[2] == -1).all() and torch.equal(some.peaks, all_.peaks)
    assert physiology_file(drawn_store).exists() and len(physiology_of(drawn_store).ends) == 16
    more = what_is_known(drawn_store, np.arange(16), c.replace(durations=True))[0]      # of P and of T
    for known, durations in ((all_, False), (more, True)):
        found = physiology_of(drawn_store, durations=durations).windows
        want = torch.from_numpy(reduce_features(found, np.arange(16)))
        assert found.shape[1] == 94 + 8*durations and torch.allclose(known.features, want, equal_nan=True)
    seen = all_.features.isfinite().all(1)
    assert seen.sum() > 10 and not torch.allclose(more.features[seen, :2], all_.features[seen, :2])
    at_r = what_is_known(drawn_store, np.arange(8), c.replace(at_r=True))[0]
    peaks = [row[row >= 0].tolist() for row in all_.peaks]
    assert [x.tolist() for x in at_r.cuts] == peaks and all_.cuts[0].tolist() != peaks[0]


@pytest.mark.parametrize('options, sought', [
    (dict(method='physioclr'), []), (dict(method='beatssl', beats='none'), []),
    (dict(method='beatssl', beats='soft'), ['of_beats']), (dict(method='beatssl', beats='hard'), ['kinds'])])
def test_kinds_of_beats_are_sought_only_where_they_are_compared(drawn_store, tmp_path, monkeypatch, options,
                                                                sought):
    asked, real = [], pretrain.kinds_of_beats
    monkeypatch.setattr(pretrain, 'kinds_of_beats', lambda *a: asked.append(a) or real(*a))
    c = config(drawn_store, tmp_path/'r', epochs=1, **options)
    said = read_pretraining(run_pretraining(c, progress=False))[0].notes
    assert len(asked) == any('clusters of features' in note for note in said) == ('kinds' in sought)
    known, notes = what_is_known(drawn_store, np.arange(16), c)
    assert [name for name in ('kinds', 'of_beats') if getattr(known, name) is not None] == sought
    assert all(note in said for note in notes) and known.features is not None


SHIPPED = Path(__file__).parents[1]/'nbs'/'results'/'pretraining'/'encoders'

@pytest.mark.parametrize('run', sorted(SHIPPED.iterdir()), ids=lambda p: p.name)
def test_a_pretraining_of_before_is_the_same_today(run):
    "Its parameters lack those that were typed later, which had no effect then."
    given = read_entries(run/'params.json')
    check_same_pretraining(run, PretrainConfig(**given))
    with pytest.raises(PedarrError, match='epochs=20, not 21'):
        check_same_pretraining(run, PretrainConfig(**given | dict(epochs=21)))


@pytest.mark.parametrize('run', sorted(SHIPPED.iterdir()), ids=lambda p: p.name)
def test_a_note_on_kinds_of_beats_holds_or_is_corrected(run):
    "Kinds were sought where nothing compared them: the run says so, and so does costs.csv."
    said, c = read_pretraining(run)[0], PretrainConfig(**read_entries(run/'params.json'))
    noted = any('clusters of features' in note for note in said.notes)
    assert noted == (needs_features(c.method) and not c.beat_classes)
    assert len(said.corrections) == (noted and c.beats_by != 'hard')
    notes = pd.read_csv(SHIPPED.parent/'costs.csv').notes
    assert (notes == '; '.join([*said.notes, *said.corrections])).any()


@pytest.mark.parametrize('method', PRETRAININGS)
def test_a_killed_run_goes_on_to_the_same_weights(drawn_store, tmp_path, method, monkeypatch):
    whole = run_pretraining(config(drawn_store, tmp_path/'whole', method=method, epochs=3), progress=False)
    c = config(drawn_store, tmp_path/'cut', method=method, epochs=3)
    class Killed(Exception): pass
    def once(path, *rest):
        real(path, *rest)
        raise Killed
    real = pretrain.save_checkpoint
    monkeypatch.setattr(pretrain, 'save_checkpoint', once)
    with pytest.raises(Killed): run_pretraining(c, progress=False)
    monkeypatch.undo()
    run_pretraining(c, progress=False)
    assert sha256(tmp_path/'cut'/'encoder.safetensors') == sha256(whole/'encoder.safetensors')
    assert run_pretraining(c, progress=False) == tmp_path/'cut'              # finished: left alone


@pytest.mark.parametrize('options, why', [
    (dict(method='3kg', modality='iegm'), 'method 3kg is for ECGs'), (dict(run=''), 'parameter run is empty'),
    (dict(crop=.1), 'set crop to'), (dict(method='cmsc', crop=4.), 'leave crop at 0'),
    (dict(method='physioclr', crop=6.), 'leave crop at 0'),
    (dict(method='beatssl', rhythms='none', beats='none'), 'nothing to learn, make one of them hard or soft'),
    (dict(folds='one'), 'as in 1-8'), (dict(folds='7'), '0 windows are left'),
    (dict(left_out='nowhere.csv'), 'nowhere.csv'), (dict(encoder='unet'), 'unknown encoder')])
def test_impossible_pretrainings_are_refused(drawn_store, tmp_path, options, why):
    places = dict(store=str(drawn_store.path), run=str(tmp_path/'r'))
    with pytest.raises(PedarrError, match=why): run_pretraining(PretrainConfig(**SMALL | places | options))
    assert not (tmp_path/'r').exists()


@pytest.mark.parametrize('method', ['physioclr', 'beatssl'])
def test_a_store_without_a_beat_is_answered_in_one_line(tmp_path, method):
    x = np.random.default_rng(0).normal(0, .02, (8, 12, 600))
    store = store_from_arrays(tmp_path/'silent', x, 100., ECG_LEADS, ['']*8, [f's{i}' for i in range(8)])
    with pytest.raises(PedarrError, match='silent: in 0 training windows .* objective without features') as e:
        run_pretraining(config(store, tmp_path/'r', method=method), progress=False)
    assert '\n' not in str(e.value) and not (tmp_path/'r'/'pretraining.json').exists()


@pytest.mark.parametrize('method', PRETRAININGS)
@pytest.mark.parametrize('leads', [['II'], ECG_LEADS])
def test_windows_that_cannot_be_turned_are_counted(tmp_path, method, leads):
    x = np.stack([drawn_study(np.arange(.4, 5.8, .6 + .05*i), pr=.12, seconds=6., fs=100, noise=.02, seed=i)
                  for i in range(8)])[:, [ECG_LEADS.index(name) for name in leads]]
    store = store_from_arrays(tmp_path/'store', x, 100., leads, ['']*8, [f's{i}' for i in range(8)])
    said, _ = read_pretraining(run_pretraining(config(store, tmp_path/'r', method=method, epochs=1),
                                               progress=False))
    notes = [note for note in said.notes if 'not turned' in note]
    note = '8 windows lack one of the eight leads that a turn needs: they are not turned'
    assert notes == ([note] if leads == ['II'] and method in ('3kg', 'beatssl') else [])


def test_another_run_is_not_written_over_and_damage_is_said(drawn_store, tmp_path):
    run = run_pretraining(config(drawn_store, tmp_path/'r', epochs=1), progress=False)
    with pytest.raises(PedarrError, match='epochs=1, not 2'):
        run_pretraining(config(drawn_store, tmp_path/'r'), progress=False)
    edit_json(run/'pretraining.json', method='cmsc')
    assert read_pretraining(run)[0].method == 'cmsc' and run_row(run)['status'] == 'pretraining'
    (run/'history.csv').write_text((run/'history.csv').read_text().replace('0,', '1,', 1))
    with pytest.raises(PedarrError, match='history.csv: was altered'): read_pretraining(run)


# ---- command, notebook, probes

def test_the_command_runs_its_notebook(drawn_store, tmp_path):
    args = ['pretrain', str(drawn_store.path), '--run', str(tmp_path/'r'), '--method', 'cmsc']
    for name in ('dim', 'epochs', 'device'): args += [f'--{name}', str(SMALL[name])]
    out = CliRunner().invoke(pedarr_command, args)
    assert out.exit_code == 0 and 'cmsc: 16 windows of 8 subjects' in out.output, out.output
    page = json.loads((tmp_path/'r'/'pretrain.ipynb').read_text())
    assert any('image/png' in o.get('data', {}) for cell in page['cells'] for o in cell.get('outputs', []))
    again = CliRunner().invoke(pedarr_command, args)
    assert again.exit_code == 0 and 'already finished' in again.output


def printed_commands() -> dict[str, list[str]]:
    "The words of the commands that the chapter of parameters prints, by the name of their run."
    chapter = json.loads((RESULTS.parent/'8_training'/'24_pretrain_config.ipynb').read_text())
    text = ''.join(''.join(o.get('text', '')) for cell in chapter['cells'] for o in cell.get('outputs', []))
    lines = text.replace('\\\n', ' ').splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.startswith('pedarr pretrain ')]
    return {Path(words[words.index('--run') + 1]).name: words[1:] for words in found}


def test_the_chapter_prints_the_command_of_each_form():
    "All rows of Beat-SSL's ablation, beats without rhythms, and PhysioCLR's official form."
    known = printed_commands()
    rows = {f'beatssl-{r}-{b}-{e:g}': dict(rhythms=r, beats=b, exponent=e)
            for r, b, e, *_ in BEATSSL_ABLATION}
    rows['beatssl-none-hard-50'] = dict(rhythms='none', beats='hard', exponent=50.)
    rows['physioclr-official'] = dict(bounded='false', self_counts='true', at_r='true')
    assert known.keys() == rows.keys()
    for name, words in known.items():
        pairs = zip(words, words[1:])
        options = {word[2:].replace('-', '_'): value for word, value in pairs if word[:2] == '--'}
        assert {key: type(value)(options[key]) for key, value in rows[name].items()} == rows[name]
        assert options['method'] == name.split('-')[0]


@pytest.mark.parametrize('name', ['physioclr-official', 'beatssl-none-hard-50'])
def test_a_printed_command_runs(drawn_store, tmp_path, name):
    "On a toy store, and small; its terms are those of its form."
    words = printed_commands()[name]
    words[1], words[words.index('--run') + 1] = str(drawn_store.path), str(tmp_path/'r')
    for option, value in SMALL.items(): words += [f"--{option.replace('_', '-')}", str(value)]
    words[words.index('--folds') + 1] = '1-4'
    out = CliRunner().invoke(pedarr_command, words)
    assert out.exit_code == 0, out.output
    c, history = read_entries(tmp_path/'r'/'params.json'), read_pretraining(tmp_path/'r')[1]
    if name == 'physioclr-official': assert (c['bounded'], c['self_counts'], c['at_r']) == (False, True, True)
    else: assert (history.contrast == 0).all() and (history.beats > 0).all()


def test_the_cell_of_the_notebook_is_that_of_the_parameters():
    cells = json.loads(find_notebook('pretrain').read_text())['cells']
    tagged = [''.join(c['source']) for c in cells if 'parameters' in c['metadata'].get('tags', [])]
    assert tagged == [cell_text(PretrainConfig)]


def test_features_are_those_of_the_encoder_and_kept(drawn_store, tmp_path):
    run = run_pretraining(config(drawn_store, tmp_path/'r', epochs=1), progress=False)
    learnt, chance = cached_features(run, drawn_store), cached_features(run, drawn_store, '')
    assert learnt.shape == (16, 32) and np.isfinite(learnt).all() and not np.allclose(learnt, chance)
    for file in run.glob('features-*.safetensors'): file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(PedarrError, match='features-.*safetensors: damaged .*: delete it'):
        cached_features(run, drawn_store)
    with pytest.raises(PedarrError, match='none of 2 labelled windows'):
        linear_probe(np.full((4, 3), np.nan), np.eye(4), np.arange(2), np.arange(4))


def test_a_probe_asks_the_test_for_nothing():
    "Other labels and other features of the test windows change neither what is learnt nor what is chosen."
    rng, who = np.random.default_rng(0), [f'p{i//2}' for i in range(300)]
    x, y = rng.normal(size=(300, 5)), rng.random((300, 3)) < .3
    rows = dict(train=np.arange(180), validation=np.arange(180, 240), test=np.arange(240, 300))
    for share in (.3, 1.):
        a = probe_answer(x, y, who, rows, share)
        other_y, other_x = y.copy(), x.copy()
        other_y[240:], other_x[241:] = ~y[240:], 1e3*x[241:]
        b, c = probe_answer(x, other_y, who, rows, share), probe_answer(other_x, other_y, who, rows, share)
        assert np.array_equal(a.prob, b.prob) and np.array_equal(a.prob[0], c.prob[0])
        for k in (b, c): assert a.strength == k.strength and np.array_equal(a.thresholds, k.thresholds)


@pytest.mark.parametrize('read, name', [
    (physiology_of, 'store.physiology.safetensors'),
    (lambda store: cached_features(store.path.parent, store, ''), f'features-random-{"a"*12}.safetensors')])
def test_a_passing_fault_is_no_damage(tmp_path, monkeypatch, read, name):
    "A disk that answers with an error is no reason to delete what was measured."
    (tmp_path/name).touch()
    def answer(*a, **k): raise OSError(errno.EIO, 'Input/output error')
    monkeypatch.setattr(files.os, 'open', answer)
    with pytest.raises(PassingError, match=f'{name}: cannot be read .*run the same command again'):
        read(SimpleNamespace(path=tmp_path/'store', seal='a'*64))


def test_intervals_on_real_ecgs_at_100_hz():
    "Twelve records of LUDB, thinned to 100 Hz: its annotated beats are found, and its intervals met."
    folder = real_recordings('ludb')
    files = sorted(folder.rglob('[1-9].hea')) + sorted(folder.rglob('1[0-2].hea'))
    if not files: pytest.skip(f'{folder} is not here')
    errors = []
    for file in files:
        record, marks = wfdb.rdrecord(file.with_suffix('')), wfdb.rdann(str(file.with_suffix('')), 'ii')
        order = [record.sig_name.index(name.lower()) for name in ECG_LEADS]
        x = resample_poly(record.p_signal.T[order], 1, 5, axis=1)
        found = measure_beats(x, np.ones(12, bool), 100.)
        at, kind = marks.sample/record.fs, np.array(marks.symbol)
        for i in np.flatnonzero(kind == 'N'):
            near = found.iloc[(found.beat - at[i]).abs().argmin()]
            assert abs(near.beat - at[i]) < .15
            errors.append(near.qrs - (at[i + 1] - at[i - 1]))
    assert len(files) == 12 and len(errors) > 90
    assert abs(np.median(errors)) < .02 and np.std(errors) < .04


@pytest.mark.long
def test_electrograms_are_pretrained_probed_and_trained_from_scratch(tmp_path):
    "On SIMULATED noise: every encoder and share has a row, and nobody of a test was learnt from."
    import papermill
    from conftest import ROOT
    rng = np.random.default_rng(0)
    store_from_arrays(tmp_path/'s', rng.normal(0, .1, (48, 1, 1250)), 250., ['RVA12'], ['SR', 'VT', 'AF']*16,
                      [f's{i//4}' for i in range(48)], simulated=True)
    given = dict(store=str(tmp_path/'s'), out=str(tmp_path/'out'), n_folds=2, epochs=1, shares='0.5,1',
                 draws=2, tuned={'0.5': 1, '1': 1}, resamples=100, common={'batch_size': 8},
                 results=str(tmp_path/'new'/'kept'))
    source = ROOT/'nbs'/'experiments'/'pretrained_electrograms.ipynb'
    papermill.execute_notebook(str(source), str(tmp_path/'done.ipynb'), given, progress_bar=False)
    t = pd.read_csv(tmp_path/'new'/'kept'/'electrograms.csv')
    rows = set(zip(t.encoder, t.share))
    assert rows >= {(name, share) for name in ('random encoder', 'simclr', 'masked') for share in (.5, 1.)}
    assert rows >= {('from scratch', .5), ('from scratch', 1.)}
    left = [set(pd.read_csv(tmp_path/'out'/f'left-out-{k}.csv').subject) for k in range(2)]
    assert not left[0] & left[1] and len(left[0] | left[1]) == 12


# ---- shuffled rhythms

@pytest.fixture(scope='module')
def drawn_rhythms(tmp_path_factory):
    """Drawn windows of 10 s, two of each of 50 patients, official folds 1 to 10: a bigeminy, its intervals in
    any order, a regular rhythm."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp('rhythms')
    cycles = {'BIGU': lambda: np.tile([.5, 1.], 8), 'AFIB': lambda: rng.permutation(np.tile([.5, 1.], 8)),
              'SR': lambda: np.full(16, rng.uniform(.6, .9))}
    said = [list(cycles)[i//2 % 3] for i in range(100)]
    starts = [.4 + np.cumsum(cycles[name]()) for name in said]
    x = np.stack([drawn_study(s[s < 9.6], pr=.12, seconds=10., fs=100, noise=.01, seed=i)[:12]
                  for i, s in enumerate(starts)])
    return store_from_arrays(folder/'store', x, 100., ECG_LEADS, ['']*100, [f's{i//2}' for i in range(100)],
                             folds=[1 + i//2 % 10 for i in range(100)], statements=[[name] for name in said],
                             simulated=True)


@pytest.mark.long
def test_a_bigeminy_does_not_survive_its_shuffling(drawn_rhythms, tmp_path):
    import papermill
    source = find_notebook('pretrain').with_name('shuffled.ipynb')
    run = lambda **given: papermill.execute_notebook(
        str(source), str(tmp_path/'done.ipynb'), dict(
            store=str(drawn_rhythms.path), out=str(tmp_path), rhythms='BIGU,AFIB', draws=2, trees=20,
            resamples=100) | given, progress_bar=False, kernel_name='python3')
    run()
    table = pd.read_csv(tmp_path/'shuffled.csv').query('metric == "auroc"').set_index(['rhythm', 'view'])
    was, cuts = 'as it is', ['cut between T and P', 'cut at R']
    assert (table.kept[:, was] == 1).all() and (table.value[:, was] > .95).all()
    for cut in cuts:
        assert table.kept['BIGU', cut] < .7 < table.kept['AFIB', cut]
        assert table.value['BIGU', cut] < table.value['BIGU', was]
    paired = pd.read_csv(tmp_path/'shuffled-differences.csv')
    assert set(paired.view) == set(cuts)
    said, windows = read_arrays(tmp_path/'said.safetensors.xz', ''), pd.read_csv(tmp_path/'windows.csv.xz')
    for name in ('BIGU', 'AFIB'):
        assert said[f'said-{name}'].shape == (5, len(windows)) and said[f'thresholds-{name}'].shape == (5,)
        now = roc_auc_score(windows[name], unpacked_probabilities(said[f'said-{name}'][0]))
        assert now == pytest.approx(table.value[name, was], abs=1e-3)
    with pytest.raises(papermill.PapermillExecutionError, match="unknown rhythm 'TRIGU'"):
        run(rhythms='TRIGU')


@pytest.fixture(scope='module')
def saved_start(drawn_rhythms, tmp_path_factory):
    "A folder as of a pretraining whose encoder is the random one that it starts from."
    run = tmp_path_factory.mktemp('saved')
    c = PretrainConfig(dim=16, proj_dim=8, store=str(drawn_rhythms.path), run=str(run), normalise='none')
    (run/'params.json').write_text(json.dumps(c.model_dump()))
    save_pretrained(frozen_encoder(run, 100., '')[0], run/'encoder.safetensors', 100., normalise='none')
    return run


@pytest.mark.long
def test_encoders_are_asked_about_shuffled_halves(drawn_rhythms, saved_start, tmp_path):
    "Two encoders of the same weights have the same rows, and nothing between them."
    import papermill
    source = find_notebook('pretrain').with_name('shuffled.ipynb')
    run = lambda file: papermill.execute_notebook(
        str(source), str(tmp_path/'done.ipynb'), dict(
            store=str(drawn_rhythms.path), out=str(tmp_path), rhythms='BIGU,AFIB', draws=2, trees=20,
            resamples=100, encoders={'toy': str(file)}), progress_bar=False, kernel_name='python3')
    run(saved_start/'encoder.safetensors')
    table = pd.read_csv(tmp_path/'encoders.csv')
    assert table.groupby(['encoder', 'folds']).size().to_dict() == {
        (name, folds): 18 for name in ('trees', 'random encoder', 'toy') for folds in ('1-10', '9-10')}
    of = {name: t.drop(columns='encoder').reset_index(drop=True) for name, t in table.groupby('encoder')}
    pd.testing.assert_frame_equal(of['toy'], of['random encoder'])
    gaps = pd.read_csv(tmp_path/'encoders-differences.csv')
    between = gaps[(gaps.encoder == 'toy') & (gaps.minus == 'random encoder')]
    assert len(between) == 18 and (between[['value', 'low', 'high']] == 0).all(None)
    own = gaps[(gaps.encoder == 'trees') & (gaps.minus == 'as it is') & (gaps.metric == 'auroc')]
    assert (own[own.rhythm == 'BIGU'].value < 0).all() and len(own) == 8
    moved = pd.read_csv(tmp_path/'encoders-moved.csv')
    assert set(moved.encoder) == {'toy', 'random encoder'} and (moved.moved > 0).all()
    assert (moved.other > .5).all()
    assert len(list((tmp_path/'features').glob('*.safetensors'))) == 10        # of two encoders, five views
    with pytest.raises(papermill.PapermillExecutionError, match='toy: no file .*: give one of weights'):
        run(tmp_path/'nothing')


def test_the_view_of_a_probe_is_that_of_the_pretraining(drawn_rhythms):
    "The first half, in the order that the same chance draws, at the cuts that lie in it."
    found = physiology_of(drawn_rhythms)
    half = first_part(found, 500)
    x, rows = torch.from_numpy(drawn_rhythms.take([4])[0]).float(), torch.tensor([4])
    cuts = [found.of_window('cuts', i) for i in range(len(drawn_rhythms))]
    known = pretrain_objectives.Known(rows, cuts=cuts)
    torch.manual_seed(3)
    chance = np.random.default_rng(int(torch.randint(2**31, ())))
    order = shuffled_index(500, half.of_window('cuts', 4), chance)
    torch.manual_seed(3)
    v = pretrain_objectives._Views(x, torch.ones(1, 12, dtype=torch.bool), rows, 500)
    shuffled = pretrain_objectives._shuffled_half(v, x[..., :500], known)
    seen = windows_as(drawn_rhythms, np.array([4]), order[None])
    assert (order != np.arange(500)).any() and np.array_equal(seen.take([0])[0], shuffled.numpy())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_probe_learns_from_its_first_view_alone(seed):
    rng = np.random.default_rng(seed)
    x, other = rng.normal(size=(2, 60, 3)).astype(np.float32)
    y = (x[:, :1] + rng.normal(size=(60, 1)) > 0).astype(int)
    y[:2] = [[0], [1]]
    first = lambda *views: probe_of_views([x, *views], y, np.arange(30), np.arange(30, 60)).prob[0]
    assert np.array_equal(first(other), first(1e3*other)) and np.array_equal(first(other), first(x, other))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(.01, 100))
def test_how_far_features_move_has_no_unit(seed, factor):
    rng = np.random.default_rng(seed)
    x, view = rng.normal(size=(2, 9, 4))
    scale = factor**np.arange(4)
    np.testing.assert_allclose(moved_by(x, view), moved_by(x*scale + 3, view*scale + 3), rtol=1e-6)
    assert (moved_by(x, x) == 0).all()


def test_beats_have_the_classes_of_a_shipped_classifier(drawn_store, tmp_path):
    "And a wrong name, a damaged file and a method without classes are one line each."
    given = dict(store=str(drawn_store.path), dim=16, proj_dim=8, batch_size=8, epochs=1, device='cpu',
                 method='beatssl')
    c = PretrainConfig(**given, run=str(tmp_path/'run'), beat_classes='mitdb-beats')
    rows = windows_to_learn(drawn_store, c)[0]
    known, notes = what_is_known(drawn_store, rows, c)
    assert set(known.kinds.unique().tolist()) <= {-1, 0, 1, 2, 3} and (known.kinds == 0).any()
    assert any('by a classifier, learnt from DS1 of the MIT-BIH' in note for note in notes)
    said, _ = read_pretraining(run_pretraining(c, progress=False))
    assert any('MIT-BIH' in note for note in said.notes)
    with pytest.raises(PedarrError, match="beat_classes='mitdb-beats', not ''"):
        run_pretraining(c.replace(beat_classes=''), progress=False)
    bad = tmp_path/'beats.json'
    bad.write_text('{"version": "beats-1"}')
    for name, why in (('mitdb-beat', 'no such classifier of beats'), (str(bad), 'beats.json: damaged')):
        with pytest.raises(PedarrError, match=why) as e:
            run_pretraining(c.replace(run=str(tmp_path/'other'), beat_classes=name), progress=False)
        assert '\n' not in str(e.value) and not (tmp_path/'other').exists()
    with pytest.raises(PedarrError, match='leave it out'): c.replace(method='simclr')


def test_the_shipped_classifier_of_beats_is_what_was_tested():
    folder = beat_classifier_file('mitdb-beats').parent
    assert set(check_sums(folder)) == {'beats.json', 'README.md'}
    card, table = (folder/'README.md').read_text(), pd.read_csv(RESULTS/'beats'/'classes.csv')
    for t in table.itertuples():
        assert f'| {t[1]} | {t.beats:,} | {t.sensitivity:.1%} | {t.predictivity:.1%} |' in card
    assert 'ODC-By' in card


RESULTS = Path(__file__).parents[1]/'nbs'/'results'
SMALL_PRETRAININGS = dict(epochs=2, keep_every=1, tasks='super', shares='0.5,1', draws=2, resamples=100,
                          common=dict(dim=16, proj_dim=8, batch_size=16, clusters=3))


@pytest.fixture
def statement_store(tmp_path) -> Path:
    "A store of drawn windows (SIMULATED) of fifty persons with one statement each, in ten folds."
    rng, said = np.random.default_rng(0), ['NORM', 'IMI', 'LVH', 'CLBBB', 'NDT']
    x = np.stack([drawn_study(np.arange(.4, 9.6, rng.uniform(.5, 1.)), pr=.12, seconds=10., fs=100, noise=.02,
                              qrs=.06 + .02*((i//2 + i//20) % 5), seed=i)[:12] for i in range(100)])
    return store_from_arrays(tmp_path/'store', x, 100., ECG_LEADS, ['']*100, [f's{i//2}' for i in range(100)],
                             folds=[1 + i//2 % 10 for i in range(100)],
                             statements=[[said[(i//2 + i//20) % 5]] for i in range(100)], simulated=True).path


def test_a_pair_is_made_of_the_seeds_of_both_sides():
    "By hand: of three seeds beside one, one gap; beside two, mean and spread of two; none shared is refused."
    drawn = np.linspace(-.1, .1, 200)[:, None]*np.ones(5)
    made = lambda v: MeanScores(np.full(5, v), v + drawn, np.full(5, np.nan), 40)
    ours, one = {0: made(.7), 1: made(.8), 2: made(.3)}, {0: made(.6)}
    two = {0: made(.6), 1: made(.5), 7: made(0.)}
    t = paired_seeds(ours, one)
    assert np.allclose(t.value, .1) and (t.seeds == 1).all() and t.seed_spread.isna().all()
    t = paired_seeds(ours, two)
    assert np.allclose(t.value, .2) and (t.seeds == 2).all()
    assert np.allclose(t.seed_spread, np.std([.1, .3], ddof=1))
    assert np.allclose(paired_seeds(two, ours).value, -.2)
    with pytest.raises(PedarrError, match='none is in both'): paired_seeds(one, {1: made(.5)})


def test_the_kept_pairs_of_fine_tuning_say_of_how_many_seeds_they_are():
    "As the table of today's notebook: of one seed each, so no spread; values are those of finetuned.csv."
    folder = RESULTS/'pretraining'
    pairs, runs = (pd.read_csv(folder/f'finetuned{name}.csv') for name in ('-pairs', ''))
    assert (pairs.seeds == 1).all() and pairs.seed_spread.isna().all()
    value = runs.set_index(['share', 'system', 'metric']).value
    for r in pairs.itertuples():
        gap = value[r.share, r.system, r.metric] - value[r.share, 'from scratch', r.metric]
        assert r.value == pytest.approx(gap, abs=2e-5)


def test_the_kept_pairs_of_probes_are_differences_of_their_seeds():
    "Value, number and spread of each pair of probe-pairs.csv, from the seeds that both sides have."
    folder, key = RESULTS/'pretraining', ['task', 'share', 'metric']
    pairs, each = (pd.read_csv(folder/f'probe-{name}.csv') for name in ('pairs', 'seeds'))
    value = each.pivot(index=key, columns=['encoder', 'seed'], values='value')
    assert len(pairs) > 900
    for (name, other), own in pairs.groupby(['encoder', 'against']):
        own = own.set_index(key)
        gap = (value[name] - value[other]).dropna(axis=1, how='all').loc[own.index]
        assert (own.seeds == gap.shape[1]).all() and np.allclose(own.value, gap.mean(1), atol=3e-5)
        if gap.shape[1] > 1: assert np.allclose(own.seed_spread, gap.std(1), atol=3e-5)
        else: assert own.seed_spread.isna().all()


def run_cells(name, until, **given):
    "Run the code of the experiment `name` here, to the cell with the text `until`; returns its names."
    found = {'In': []}
    for cell in experiment_cells(name):
        exec(compile(cell['source'], name, 'exec'), found)
        if 'parameters' in cell['metadata'].get('tags', []): found |= given
        if until in cell['source']: return found
    raise AssertionError(f'{name}: no cell has {until!r}')


def test_kept_encoders_are_taken_with_their_parameters_alone(statement_store, tmp_path, monkeypatch):
    "Those of the results, copied as their page says: others are refused before anything is pretrained."
    shutil.copytree(SHIPPED, tmp_path/'out'/'encoders')
    learnt = []
    monkeypatch.setattr(pretrain, 'run_pretraining', lambda c: learnt.append(c.run))
    again = lambda **more: run_cells('pretrainings', 'not finished', **dict(
        store=str(statement_store), out=str(tmp_path/'out'), epochs=20, common={}) | more)
    found = again()
    assert len(found['ready']) == 6 and not learnt
    official = dict(methods='physioclr', common='{"bounded": false}')
    wrong = {'physioclr-0: .* bounded=True, not False': official,
             'simclr-0: .* epochs=20, not 50': dict(epochs=50),
             'simclr-0: .* tau=0.1, not 0.2': dict(common={'tau': .2}, steps='probe')}
    for why, more in wrong.items():
        with pytest.raises(PedarrError, match=f'encoders/{why}.*another run folder') as e: again(**more)
        assert '\n' not in str(e.value) and not learnt
    with pytest.raises(PedarrError, match='beats is set by method beatssl-rhythm'):
        again(common={'beats': 'soft'})


def test_electrograms_are_not_probed_with_encoders_of_other_parameters(tmp_path, monkeypatch):
    "Nor with those that left out the patients of other folds, whom a probe would be asked about."
    rng, out = np.random.default_rng(0), tmp_path/'out'
    store_from_arrays(tmp_path/'s', rng.normal(0, .1, (48, 1, 1250)), 250., ['RVA12'], ['SR', 'VT', 'AF']*16,
                      [f's{i//4}' for i in range(48)], simulated=True)
    learnt = []
    def learn(c):
        learnt.append(c.run)
        pretrain._write_asked(Path(c.run), c)
        raise Stopped
    class Stopped(Exception): pass
    monkeypatch.setattr(pretrain, 'run_pretraining', learn)
    again = lambda **more: run_cells('pretrained_electrograms', 'run_pretraining(c)', **dict(
        store=str(tmp_path/'s'), out=str(out), n_folds=2, epochs=2) | more)
    (out/'encoders'/'simclr-0').mkdir(parents=True)
    with pytest.raises(Stopped): again()
    (out/'encoders'/'simclr-0'/'pretraining.json').write_text('{}')
    (out/'encoders'/'masked-0').mkdir()
    with pytest.raises(Stopped): again()                       # the first is finished, the second begins
    assert [Path(run).name for run in learnt] == ['simclr-0', 'masked-0']
    for why, more in {'simclr-0: .* epochs=2, not 3': dict(epochs=3),
                      'simclr-0: was learnt without other subjects than those of': dict(n_folds=3)}.items():
        with pytest.raises(PedarrError, match=why) as e: again(**more)
        assert '\n' not in str(e.value) and len(learnt) == 2


@pytest.mark.parametrize('methods, why', [
    ('', 'methods: name at least one'), ('masked, masked', 'masked stands there twice'),
    ('simcl', "did you mean 'simclr'")])
def test_methods_for_electrograms_are_named_and_once(methods, why, tmp_path):
    with pytest.raises(PedarrError, match=why) as e:
        run_cells('pretrained_electrograms', 'methods, shares', store='s', out=str(tmp_path), methods=methods)
    assert '\n' not in str(e.value)


@pytest.mark.long
def test_other_parameters_are_refused_where_pretrainings_lie(statement_store, tmp_path):
    "Pretrained for two epochs; the same folder asked for three, then for another objective."
    import papermill
    given = SMALL_PRETRAININGS | dict(store=str(statement_store), out=str(tmp_path/'out'),
                                      methods='physioclr', steps='pretrain')
    run = lambda **more: papermill.execute_notebook(
        str(find_notebook('pretrain').with_name('pretrainings.ipynb')), str(tmp_path/'done.ipynb'),
        given | more, progress_bar=False, kernel_name='python3')
    run()
    before = sha256(tmp_path/'out'/'encoders'/'physioclr-0'/'encoder.safetensors')
    run()                                                      # the same parameters: nothing to do
    official = given['common'] | dict(bounded=False, self_counts=True, at_r=True)
    wrong = {'epochs=2, not 3': dict(epochs=3), 'bounded=True, not False': dict(common=official)}
    for why, more in wrong.items():
        with pytest.raises(papermill.PapermillExecutionError, match=f'physioclr-0: holds a run with .*{why}'):
            run(**more)
    assert sha256(tmp_path/'out'/'encoders'/'physioclr-0'/'encoder.safetensors') == before
    run(out=str(tmp_path/'own'), common=official)              # in a folder of its own
    assert read_entries(tmp_path/'own'/'encoders'/'physioclr-0'/'params.json')['bounded'] is False


@pytest.mark.long
def test_pretrainings_beside_each_other(statement_store, tmp_path):
    "Pretrained, probed and drawn; a second call with fine-tuning alone starts from the chosen encoders."
    import papermill
    out = tmp_path/'out'
    given = SMALL_PRETRAININGS | dict(store=str(statement_store), out=str(out), methods='simclr,beatssl',
                                      tuned={'0.5': 1, '1': 1})
    run = lambda steps: papermill.execute_notebook(
        str(find_notebook('pretrain').with_name('pretrainings.ipynb')), str(tmp_path/'done.ipynb'),
        given | dict(steps=steps), progress_bar=False, kernel_name='python3')
    run('pretrain,probe')
    t = pd.read_csv(out/'probes.csv')
    assert set(t.encoder) == {'random encoder', 'SimCLR', 'Beat-SSL, rhythms and beats'}
    assert set(t.share) == {.5, 1.} and (out/'embeddings.png').exists()
    run('finetune')
    t = pd.read_csv(out/'finetuned.csv')
    assert set(zip(t.system, t.share)) == {
        (name, share) for name in ('xresnet1d', 'from scratch', 'SimCLR', 'Beat-SSL, rhythms and beats')
        for share in (.5, 1.)}
    run('train')                                               # superclasses, with all weights
    t = pd.read_csv(out/'trained.csv')
    assert set(zip(t.task, t.system, t.share)) == {
        ('super', name, share) for name in ('from scratch', 'xresnet1d') for share in (.5, 1.)}


@pytest.mark.long
def test_several_pretrainings_of_a_method_are_one_row(statement_store, tmp_path):
    "SimCLR twice and 3KG once: the mean over seeds, their spread by hand, and what was there before stays."
    import papermill
    out = tmp_path/'out'
    given = SMALL_PRETRAININGS | dict(store=str(statement_store), out=str(out), methods='simclr,3kg',
                                      tuned={'1': 1})
    run = lambda **more: papermill.execute_notebook(
        str(find_notebook('pretrain').with_name('pretrainings.ipynb')), str(tmp_path/'done.ipynb'),
        given | more, progress_bar=False, kernel_name='python3')
    run(steps='pretrain,probe')
    one = pd.read_csv(out/'probes.csv')
    assert (one.seeds == 1).all() and one.seed_spread.isna().all()
    before = {p: p.stat().st_mtime_ns for p in out.rglob('*.safetensors')}
    run(pretrain_seeds=2, seeded='simclr')
    assert sorted(p.name for p in (out/'encoders').iterdir()) == ['3kg-0', 'simclr-0', 'simclr-1']
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    key, each = ['task', 'share', 'encoder', 'metric'], pd.read_csv(out/'probe-seeds.csv')
    pooled, by_seed = pd.read_csv(out/'probes.csv').set_index(key), each.groupby(key).value
    assert pooled.groupby('encoder').seeds.first().to_dict() == {'SimCLR': 2, '3KG': 1, 'random encoder': 2}
    assert np.allclose(pooled.value, by_seed.mean()[pooled.index], atol=2e-5)
    assert np.allclose(pooled.seed_spread, by_seed.std()[pooled.index], atol=2e-5, equal_nan=True)
    assert np.allclose(one.set_index(key).loc[lambda t: t.index.isin(['3KG'], level=2)].low,
                       pooled.loc[lambda t: t.index.isin(['3KG'], level=2)].low)
    pairs = pd.read_csv(out/'probe-pairs.csv')
    assert pairs.groupby(['encoder', 'against']).seeds.first().to_dict() == {
        ('SimCLR', 'random encoder'): 2, ('3KG', 'random encoder'): 1, ('3KG', 'SimCLR'): 1}
    first = each[each.seed == 0].set_index(key).value
    for r in pairs[pairs.encoder == '3KG'].itertuples():           # 3KG has one seed
        gap = first[r.task, r.share, '3KG', r.metric] - first[r.task, r.share, r.against, r.metric]
        assert r.value == pytest.approx(gap, abs=3e-5)
    runs = pd.read_csv(out/'finetuned.csv').groupby('system').seed.unique().map(list).to_dict()
    assert runs == {'from scratch': [0, 1], 'SimCLR': [0], 'SimCLR, pretraining 1': [1], '3KG': [0],
                    'xresnet1d': [0]}
    tuned = pd.read_csv(out/'finetuned-means.csv')
    assert tuned.groupby('system').seeds.first().to_dict() == {
        'from scratch': 2, 'SimCLR': 2, '3KG': 1, 'xresnet1d': 1}
    means = pd.read_csv(out/'finetuned.csv').groupby(['system', 'metric']).value.mean()
    own = tuned.set_index(['system', 'metric']).value
    assert np.allclose(own['from scratch'], means['from scratch'][own['from scratch'].index], atol=2e-5)
