"""Several labels a window: scores against scikit-learn, runs on a made-up database with statements, and
pretrained encoders."""
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

from conftest import everywhere
from helpers import drop_key, edit_json
from pedarr.core.errors import PedarrError
from pedarr.data.databases import Database
from pedarr.data.common_readers import whole_record_episode
from pedarr.data.groupings import GROUPINGS
from pedarr.evaluation.multilabel import (
    MULTI_METRICS, bootstrap_multilabel, by_recording, choose_thresholds, per_statement, rank_scores,
    statement_scores)
from pedarr.model.pretrained import save_pretrained
from pedarr.signals.batches import SegmentDataset, split_views
from pedarr.signals.augmentation import Augment
from pedarr.signals.build import build_store
from pedarr.signals.settings import PreprocessConfig
from pedarr.signals.store import open_store
from pedarr.training import folds as folds_
from pedarr.training.config import NETWORK_ONLY, make_config
from pedarr.training.finished_runs import open_finished, read_scores
from pedarr.training.folds import fit_fold, rows_of
from pedarr.training.network import build_model
from pedarr.signals.statements import with_statements
from pedarr.training.kept_answers import keep_answers, kept_scores, read_kept, run_answers
from pedarr.training.prepare import labelled_store, plan_roles, plan_split, prepare_run
from pedarr.training.run_files import read_params
from pedarr.training.saved_models import load_model
from pedarr.training.train import run_training
from pedarr.use.command import pedarr_command
from pedarr.use.report import write_report
from test_store import write_record

SMALL = dict(epochs=2, batch_size=16, dim=32, depth=1, heads=2, resamples=200, task='multi', split='official',
             fold='last', lr=3e-3)
CONFIG = PreprocessConfig(rate=100., ecg_band=(.5, 40.), iegm_band=(10., 45.), window=2.)


def said(name: str) -> list:
    "Statements of the made-up record p<i>: its number decides."
    i = int(name[1:])
    out = ['FAST']*(i % 2) + ['TALL']*(i % 3 == 0) + ['BOTH']*(i % 6 == 3)
    return out + ['TRAINED']*(i == 1) + ['TESTED']*(i == 49)          # fold 1 alone, the last fold alone


def one_in_two(paths, folder, db):
    "Two records a patient, both in one official fold."
    names = [p.stem for p in paths]
    subjects = [f's{int(n[1:])//2}' for n in names]
    return pd.DataFrame({'subject': subjects, 'cohort': 'c', 'age': np.nan, 'sex': ''}, index=names)


DB = Database('mine', 'made up', 'rhythm8',
              read_episodes=lambda record, db: whole_record_episode(record, 'N'),
              read_subjects=one_in_two,
              read_statements=lambda record, db: said(record.name),
              read_folds=lambda paths, folder, db: {p.stem: 1 + int(p.stem[1:])//10 for p in paths})


def trained(spoken, folder, **options):
    "The folder of a small run on `spoken`."
    return run_training(make_config(store=spoken, run=folder, **SMALL | options), progress=False)


@pytest.fixture(scope='module')
def spoken(tmp_path_factory):
    "Fifty records of two leads in five official folds; what is said of them can be seen in them."
    folder, rng = tmp_path_factory.mktemp('spoken'), np.random.default_rng(0)
    t = np.arange(500)/100
    for i in range(50):
        x = np.sin(2*np.pi*(9. if i % 2 else 3.)*t + rng.random()*6)*(2. if i % 3 == 0 else .4)
        noise = .05*rng.normal(size=(500, 2))
        write_record(folder/'db', f'p{i:02d}', x=np.stack([x, -x], 1) + noise, fs=100.)
    return build_store(folder/'db', folder/'store', DB, config=CONFIG, progress=False).path


@pytest.fixture(scope='module')
def run(spoken, tmp_path_factory): return trained(spoken, tmp_path_factory.mktemp('runs')/'r', epochs=8)


# ---- scores

@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 30))
def test_ranks_are_those_of_scikit_learn(seed, n, levels):
    rng = np.random.default_rng(seed)
    truth, score = rng.random(n) < .4, rng.integers(0, levels, n)/levels
    weight = rng.integers(0, 3, (n, 3)).astype(float)
    got = np.stack(rank_scores(truth, score, weight))
    for r, w in enumerate(weight.T):
        both = w[truth].sum() > 0 and w[~truth].sum() > 0
        assert np.isfinite(got[:, r]).all() == both
        if both:
            want = [f(truth, score, sample_weight=w) for f in (roc_auc_score, average_precision_score)]
            np.testing.assert_allclose(got[:, r], want, atol=1e-12)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12))
def test_no_threshold_is_better_than_the_one_chosen(seed, n, levels):
    rng = np.random.default_rng(seed)
    truth, score = rng.random(n) < .4, rng.integers(0, levels, n)/levels
    chosen, = choose_thresholds(truth[:, None], score[:, None])
    best = max(f1_score(truth, score >= t, zero_division=0) for t in np.unique(score))
    if truth.any(): assert f1_score(truth, score >= chosen) == pytest.approx(best)
    else: assert chosen == .5


def five_scores(truth, prob, threshold) -> tuple:
    "The five scores by scikit-learn, and the statements that the macro means count."
    can = [c for c in range(truth.shape[1]) if 0 < truth[:, c].sum() < len(truth)]
    answer = prob >= threshold
    macro = lambda score, given: np.mean([score(truth[:, c], given[:, c]) for c in can])
    found = [macro(roc_auc_score, prob), macro(average_precision_score, prob), macro(f1_score, answer),
             f1_score(truth, answer, average='micro', zero_division=0),
             jaccard_score(truth, answer, average='samples', zero_division=1)]
    return found, can


def test_the_bootstrap_is_that_of_written_out_tables():
    rng = np.random.default_rng(1)
    truth, prob = rng.random((90, 4)) < [.5, .3, .05, 0], rng.random((90, 4)).round(1)
    who = rng.integers(0, 20, 90)
    table = bootstrap_multilabel(truth, prob, who, np.full(4, .4), 100, seed=3)
    draw, found, lacked = np.random.default_rng(3), [], 0
    rows_of_each = [np.flatnonzero(who == name) for name in np.unique(who)]
    n = len(rows_of_each)
    for _ in range(100):
        rows = np.concatenate([rows_of_each[s] for s in draw.integers(0, n, n)])
        five, can = five_scores(truth[rows], prob[rows], .4)
        found.append(five)
        lacked += 3 - len(can)
    low, high = np.quantile(found, [.025, .975], axis=0)
    np.testing.assert_allclose(table[['low', 'high']].to_numpy(), np.stack([low, high], 1), atol=1e-12)
    assert (table.statements == 3).all() and table.absent.iloc[0] == lacked/100 > 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(2, 5))
def test_the_jaccard_score_is_that_of_python_sets(seed, n, c):
    rng = np.random.default_rng(seed)
    truth, prob = rng.random((n, c)) < .3, rng.random((n, c))
    weight = rng.integers(0, 3, (n, 2)).astype(float)
    pairs = [[set(np.flatnonzero(x)) for x in rows] for rows in zip(truth, prob >= .5)]
    each = np.array([len(a & b)/len(a | b) if a | b else 1. for a, b in pairs])
    got = statement_scores(truth, prob, np.full(c, .5), weight)['jaccard']
    for w, value in zip(weight.T, got):
        if w.sum(): assert value == pytest.approx((w*each).sum()/w.sum())
        else: assert np.isnan(value)
    said_nothing = statement_scores(truth, prob, np.full(c, 2.))['jaccard'].item()
    assert said_nothing == pytest.approx((~truth.any(1)).mean())


def test_statements_that_cannot_be_scored_are_listed_and_left_out():
    truth = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]])
    prob = np.array([[.9, .5, .1], [.1, .5, .1], [.8, .5, .1], [.2, .5, .1]])
    table = per_statement(truth, prob, list('aabb'), ['A', 'EVERY', 'NONE'], np.full(3, .5))
    assert table.note.tolist() == ['', 'true of every recording: not scored', 'absent: not scored']
    assert bootstrap_multilabel(truth, prob, list('aabb'), np.full(3, .5), 100).value.auroc == 1
    with pytest.raises(PedarrError, match='nothing to score'):
        bootstrap_multilabel(truth[:, 1:], prob[:, 1:], list('aabb'), np.full(2, .5), 100)
    one = bootstrap_multilabel(truth, prob, list('aaaa'), np.full(3, .5), 100)
    assert one[['low', 'high']].isna().all().all() and one.value.notna().all()


@settings(max_examples=30)
@given(st.lists(st.sampled_from('abc'), min_size=1, max_size=12), st.integers(0, 10**6))
def test_windows_make_one_answer(recording, seed):
    x = np.random.default_rng(seed).random((len(recording), 2))
    names = list(dict.fromkeys(recording))
    for how, f in (('max', np.max), ('mean', np.mean)):
        want = [f(x[[r == name for r in recording]], axis=0) for name in names]
        np.testing.assert_allclose(by_recording(x, recording, how), want)


# ---- the store and its batches

def test_statements_become_targets_and_those_without_are_left_out(spoken):
    store, notes = with_statements(open_store(spoken))
    assert store.classes == ['BOTH', 'FAST', 'TALL', 'TESTED', 'TRAINED'] == store.meta['statements']
    for name, label, row in zip(store.segments.record, store.segments.label, store.target):
        names = said(name)
        assert [c for c, x in zip(store.classes, row) if x] == sorted(names)
        assert label in (names or [''])
    lost = sum(not said(n) for n in store.segments.record)
    assert lost and notes == [f'{lost} segments have no statement of the task and are left out']
    fold, _ = plan_split(store, make_config(split='official'))
    assert ((fold < 0) == (store.segments.label == '')).all()


def test_batches_carry_targets_only_where_there_are_several(spoken):
    plain = open_store(spoken)
    store, _ = with_statements(plain)
    target = torch.from_numpy(store.target).float()
    batch = SegmentDataset(store, [3, 5], Augment(), views=2).__getitems__([0, 1])
    assert batch.target.dtype == torch.float32
    assert torch.equal(batch.target, target[[3, 5, 3, 5]])
    for view in split_views(batch, 2): assert torch.equal(view.target, target[[3, 5]])
    one = SegmentDataset(plain, [3, 5], Augment(), views=2).__getitems__([0, 1])
    assert one.target is None and all(v.target is None for v in split_views(one, 2))
    assert torch.equal(SegmentDataset(store, [3])[0].target, target[3])


def test_official_folds_say_who_validates(spoken):
    c = make_config(**SMALL)
    store, _ = labelled_store(open_store(spoken), c)
    fold, _ = plan_split(store, c)
    roles = plan_roles(store, fold, c)
    for k in range(5):
        own = lambda role: set(store.segments.official[rows_of(roles, k, role)])
        test, validation = k + 1, (k - 1) % 5 + 1
        assert own('test') == {test}
        assert own('validation') == {validation}
        assert own('train') == {1, 2, 3, 4, 5} - {test, validation}
    assert not (plan_roles(store, fold, c.replace(validation=0)) == 'validation').any()


# ---- runs

def metrics(run) -> dict: return json.loads((run/'metrics.json').read_text())


def truth_and_probabilities(table, classes):
    "Of each recording in a table of predictions: two arrays [recordings, classes]."
    return [by_recording(table[[f'{x}_{c}' for c in classes]].to_numpy(), table.record) for x in 'tp']


def test_a_run_predicts_what_is_said_of_its_last_fold(run):
    found = open_finished(run)
    p = found.predictions
    assert found.folds == [4] and 'predicted' not in p
    assert set(p.record) == {f'p{i}' for i in range(40, 50) if said(f'p{i}')}
    for row in p.itertuples():
        assert {c for c in found.classes if getattr(row, f't_{c}')} == set(said(row.record))
    assert set(found.validation.record) <= {f'p{i}' for i in range(30, 40)}


def test_the_scores_of_a_run_are_those_of_scikit_learn(run):
    m, seen = metrics(run), ['FAST', 'TALL']
    auroc = {r['class']: r['auroc'] for r in m['per_class']}
    truth, prob = truth_and_probabilities(open_finished(run).predictions, seen)
    assert [auroc[c] for c in seen] == pytest.approx(roc_auc_score(truth, prob, average=None).tolist())
    assert auroc['FAST'] > .8                                   # it learned; guessing gives .5
    assert set(m['overall']) == set(MULTI_METRICS)
    scored = [x for x in auroc.values() if x is not None]
    assert np.allclose(m['overall']['auroc']['value'], np.mean(scored))


def test_a_run_learns_and_keeps_what_its_numbers_rest_on(run):
    found, m = open_finished(run), metrics(run)
    h = found.history
    assert h.validation_auroc.between(0, 1).all() and 'validation_top1' not in h
    assert h.classification.iloc[-1] < h.classification.iloc[0]
    assert not list(run.glob('validation-*')) and m['files'].keys() >= {'validation.csv', 'predictions.csv'}
    assert dict(read_scores(run)) == {k: v for k, v in m.items() if k != 'files'}
    assert m['task'] == load_model(run, 4, found.classes)[1]['task'] == 'multi'


def test_classes_that_one_side_lacks_are_said(run):
    notes = ' '.join(open_finished(run).metrics.notes)
    assert 'nobody in training has TESTED' in notes and 'nobody in test has TRAINED' in notes
    assert 'left out of macro means: TRAINED' in notes


def test_thresholds_come_from_validation_alone(run):
    found = open_finished(run)
    chosen = choose_thresholds(*truth_and_probabilities(found.validation, found.classes))
    assert [r['threshold'] for r in found.scores['per_class']] == pytest.approx(chosen.tolist())


def test_the_same_parameters_give_the_same_run_also_after_a_cut(run, spoken, tmp_path, monkeypatch):
    c = make_config(store=spoken, run=tmp_path/'r', **SMALL | dict(epochs=8))
    real = folds_.save_checkpoint
    def cut(path, model, contrastive, optimizer, epoch, history):
        real(path, model, contrastive, optimizer, epoch, history)
        if epoch == 3: raise KeyboardInterrupt
    monkeypatch.setattr(folds_, 'save_checkpoint', cut)
    with pytest.raises(KeyboardInterrupt): run_training(c, progress=False)
    monkeypatch.setattr(folds_, 'save_checkpoint', real)
    again = run_training(c, progress=False)
    for name in ('predictions.csv', 'validation.csv'):
        assert (again/name).read_bytes() == (run/name).read_bytes()


def test_report_and_commands(run, spoken, tmp_path):
    page = write_report(run).read_text()
    for words in ('macro AUROC', '<td>FAST</td>', 'binary cross-entropy'): assert words in page
    assert 'confused' not in page
    other = trained(spoken, tmp_path/'o', seed=1)
    said = CliRunner().invoke(pedarr_command, ['compare', '-a', str(run), '-b', str(other)])
    assert said.exit_code == 0 and 'macro AUROC' in said.output and 'top-1' not in said.output
    for args in (['fewshot', str(run)], ['missing', str(run)], ['protocols', '-a', str(run), '-b', str(run)]):
        said = CliRunner().invoke(pedarr_command, args)
        assert said.exit_code == 2 and 'Traceback' not in said.output, (args, said.output)


@pytest.mark.parametrize('change, said', [
    (lambda m: m['overall']['f1'].update(value=.123), 'overall.f1.value is not what predictions.csv gives'),
    (lambda m: m['overall']['jaccard'].update(value=.123), 'overall.jaccard.value is not what'),
    (lambda m: m['overall']['auroc'].update(statements=99), 'overall.auroc.statements is not what'),
    (lambda m: m.update(per_class=m['per_class'][:1]), 'per_class lists others than predictions.csv'),
    (lambda m: m['per_class'].append(m['per_class'][0] | {'class': 'INVENTED'}), 'per_class lists others'),
    (lambda m: m.update(loss='focal'), 'loss is not what')])
def test_numbers_that_were_altered_are_refused(run, tmp_path, change, said):
    bad = shutil.copytree(run, tmp_path/'bad')
    altered = metrics(bad) | dict(files={})
    change(altered)
    edit_json(bad/'metrics.json', **altered)
    with pytest.raises(PedarrError, match=said): open_finished(bad)


def test_a_run_from_before_the_jaccard_score_opens(run, tmp_path):
    old = shutil.copytree(run, tmp_path/'old')
    m = metrics(old) | dict(files={})
    del m['overall']['jaccard']
    edit_json(old/'metrics.json', **m)
    found = open_finished(old)
    assert 'jaccard' not in found.metrics.model_dump()['overall']
    assert found.scores['overall']['jaccard'] == metrics(run)['overall']['jaccard']      # computed again
    keep_answers(old, tmp_path, 'old')
    kept = kept_scores(read_kept(tmp_path, 'old'), 200).value.jaccard
    assert kept == pytest.approx(found.scores['overall']['jaccard']['value'], abs=.02)
    write_report(old)


@pytest.mark.parametrize('options', [
    dict(validation=0),
    dict(split='patient', n_folds=3, fold='all'),
    dict(sampling='balanced', fold=4),
    dict(modalities='ecg', model='xresnet1d', dim=64, depth=1, heads=4),
    dict(loss='bce', workers=1)])
def test_options_run(spoken, tmp_path, options):
    run = trained(spoken, tmp_path/'r', **dict(epochs=1) | options)
    write_report(run)
    assert open_finished(run).multi


def test_a_grouping_of_statements(spoken, tmp_path, monkeypatch):
    monkeypatch.setitem(GROUPINGS, 'mine2', {'FAST': 'RATE', 'BOTH': 'RATE', 'TALL': 'SIZE'})
    c = make_config(store=spoken, run=tmp_path/'r', **SMALL, grouping='mine2')
    store = prepare_run(c)[0]
    assert store.classes == ['RATE', 'SIZE']
    for name, row in zip(store.segments.record, store.target):
        rate, size = {'FAST', 'BOTH'} & set(said(name)), 'TALL' in said(name)
        assert row.tolist() == [bool(rate), size]


# ---- what can't be

def refused(spoken, folder, why, **options):
    "Preparing such a run is refused in one line that says `why`, and nothing is written."
    with pytest.raises(PedarrError, match=why) as e:
        prepare_run(make_config(store=spoken, run=folder, **SMALL | options))
    assert '\n' not in str(e.value) and not folder.exists()


TREES = dict(model='trees', epochs=30, batch_size=32, dim=64, depth=1, heads=4, lr=2e-3)


@pytest.mark.parametrize('options, why', [
    (TREES, 'one class a window: choose a network'),
    (dict(loss='focal'), 'is for one class a window'),
    (dict(logit_adjust=1.), 'logit_adjust is for one class'),
    (dict(grouping='rhythm8'), 'finds 0 of its classes among the statements'),
    (dict(task='single', loss='bce'), 'is for several labels at once'),
    (dict(task='', loss='bce'), 'is for several labels at once: set task to multi'),
    (dict(task='many'), "unknown task 'many'"),
    (dict(loss_options={'tau': 1}), "no option 'tau'")])
def test_impossible_runs_are_refused(spoken, tmp_path, options, why):
    refused(spoken, tmp_path/'r', why, **options)


def test_a_store_without_statements(store, tmp_path):
    with pytest.raises(PedarrError, match='carry no statements'):
        prepare_run(make_config(store=store, run=tmp_path/'r', task='multi'))


def test_every_target_positive(spoken, tmp_path, monkeypatch):
    "Each recording of the test has both statements: nothing can be ranked, and that is said in a line."
    monkeypatch.setitem(GROUPINGS, 'alike', {'TALL': 'A', 'FAST': 'B'})
    store, _ = with_statements(open_store(spoken), 'alike')
    both = replace(store, target=np.ones_like(store.target), segments=store.segments.assign(label='A'))
    c = make_config(store=spoken, run=tmp_path/'r', **SMALL)
    fold, _ = plan_split(both, c)
    roles = plan_roles(both, fold, c)
    model, _, history = fit_fold(both, rows_of(roles, 4, 'train'), rows_of(roles, 4, 'validation'), c)
    assert all(np.isnan(row['validation_auroc']) and row['classification'] > 0 for row in history)


# ---- weights that were learnt elsewhere

@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp('w')/'w.safetensors'
    return save_pretrained(build_model(make_config(dim=32, depth=1, heads=2, seed=5), 3), file, rate=100.)


def encoders(model): return torch.cat([p.detach().flatten() for p in model.views.encoders.parameters()])


def test_weights_arrive_and_a_resume_does_not_ask_again(spoken, weights, tmp_path, monkeypatch):
    mine = tmp_path/'w.safetensors'
    mine.write_bytes(weights.read_bytes())
    c = make_config(store=spoken, run=tmp_path/'r', **SMALL, pretrained=str(mine))
    assert 'encoders for ecg, iegm start from' in ' '.join(prepare_run(c)[2])
    began, real = [], folds_.prepare_training
    def look(*a):
        began.append(encoders(a[3]).clone())
        return real(*a)
    everywhere(monkeypatch, folds_, 'prepare_training', look)
    store, _ = labelled_store(open_store(spoken), c)
    fold, _ = plan_split(store, c)
    roles = plan_roles(store, fold, c)
    given_ = store, rows_of(roles, 4, 'train'), rows_of(roles, 4, 'validation'), c, tmp_path/'c.safetensors'
    whole = fit_fold(*given_)[0]
    assert torch.equal(began[0], encoders(build_model(make_config(dim=32, depth=1, heads=2, seed=5), 5)))
    mine.unlink()                        # two of two epochs are done: the checkpoint has all that is needed
    assert torch.equal(encoders(fit_fold(*given_)[0]), encoders(whole))


def test_the_hash_of_the_weights_is_kept(spoken, weights, tmp_path):
    from pedarr.core.files import sha256
    run = trained(spoken, tmp_path/'r', epochs=1, pretrained=str(weights))
    assert open_finished(run).card.pretrained == sha256(weights)


@pytest.mark.parametrize('options, why', [
    (dict(encoder='deep'), "encoder is 'deep', but .* has 'residual': leave encoder out"),
    (dict(dim=64), 'dim is 64, but .* has 32: leave dim out'),
    (dict(model_options=dict(ecg_rate=50)), 'ecg_rate is 50, but .* has 100.0: leave .* out of model_opt'),
    (dict(pretrained='/nowhere/w'), '/nowhere/w')])
def test_weights_that_do_not_fit_are_one_line(spoken, weights, tmp_path, options, why):
    refused(spoken, tmp_path/'r', why, **dict(pretrained=str(weights)) | options)


def test_weights_of_another_rate(store, weights, tmp_path):
    "Windows are brought to it; where it is said otherwise, also past `make_config`, that is refused."
    given = dict(dim=32, depth=1, heads=2, n_folds=2, pretrained=str(weights))
    c = make_config(store=store, run=tmp_path/'r', **given)
    assert c.model_options == {'ecg_rate': 100., 'iegm_rate': 100.}
    assert 'encoders for ecg, iegm start from' in ' '.join(prepare_run(c)[2])
    why = 'learned at 100 Hz, this one reads 250 Hz: .*{"ecg_rate": 100} .model_options'
    with pytest.raises(PedarrError, match=why): prepare_run(c.replace(model_options={}))


def test_older_runs_have_the_default_and_trees_have_none(run, tmp_path):
    old = shutil.copytree(run, tmp_path/'old')
    drop_key(old/'params.json', 'pretrained')
    assert read_params(old).pretrained == '' and 'pretrained' in NETWORK_ONLY
    with pytest.raises(PedarrError, match='pretrained means nothing to model trees'):
        make_config(model='trees', pretrained='w')


def test_ptbxl_statements_decide_the_task(spoken):
    "The groupings of PTB-XL's statements are known as such, and its rhythms are one class a window."
    from pedarr.signals.statements import task_of
    store = open_store(spoken)
    for grouping in ('all', 'super', 'sub'): assert task_of(store, f'ptbxl_{grouping}') == 'multi'
    assert task_of(store, 'ptbxl_rhythm') == 'single'
    with pytest.raises(PedarrError, match='set task to multi'): task_of(store, 'ptbxl_super', 'single')


def test_kept_answers_are_those_of_the_run(run, tmp_path):
    "To seven bits of a logarithm: in a few recordings that may make a tie, so scores are of the run's own."
    keep_answers(run, tmp_path/'answers', 'mine')
    kept, whole = read_kept(tmp_path/'answers', 'mine'), open_finished(run)
    assert kept.multi and kept.classes == whole.classes and kept.said['params']['seed'] == 0
    exact, was = run_answers(whole), pd.DataFrame(whole.metrics.model_dump()['overall']).T
    now = kept_scores(exact, 200)
    assert np.allclose(now.value, was.loc[now.index, 'value'], atol=1e-5)
    assert np.allclose(np.log(kept.prob), np.log(np.maximum(exact.prob, 1e-7)), rtol=2**-7)
    assert np.allclose(kept.thresholds, exact.thresholds, rtol=2**-6)
    assert (kept.truth == exact.truth).all() and (kept.subject == exact.subject).all()
    assert np.isfinite(kept_scores(kept, 20).value).all()
    text = (tmp_path/'answers'/'mine.json').read_text()
    assert str(tmp_path) not in text and str(run) not in text          # no place on a machine


def test_kept_answers_that_do_not_fit_are_one_line(run, tmp_path):
    keep_answers(run, tmp_path, 'mine')
    edit_json(tmp_path/'mine.json', classes=['FAST'])
    with pytest.raises(PedarrError, match='mine.safetensors.xz: damaged'): read_kept(tmp_path, 'mine')
