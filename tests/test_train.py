"""Runs: repeatable, resumable, refused when mixed up; checkpoints and run folders under fault."""
import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from conftest import everywhere, real
from helpers import AT_250_HZ
from pedarr.core import files as files_
from pedarr.exploration import figures as figures_
from pedarr.signals import batches as batches_
from pedarr.training import config as config_
from pedarr.training import folds as folds_
from pedarr.training import loop as loop_
from pedarr.training import runs as runs_
from pedarr.training import train as train_
from pedarr.training import tree_runs as tree_runs_
from pedarr.signals.settings import PreprocessConfig
from pedarr.signals.build import build_store
from pedarr.signals.store import open_store
from pedarr.training.run_figures import choose_cases
from pedarr.use.report import percent, write_report
from pedarr.core.errors import PassingError, PedarrError
from pedarr.losses.registry import LOSSES, loss_terms
from pedarr.training.config import TrainConfig, check_parameters, make_config
from pedarr.training.finished_runs import open_finished, read_scores
from pedarr.training.run_files import read_params
from pedarr.signals.roles import all_roles, read_roles, split_table
from pedarr.training.folds import fit_fold, rows_of
from pedarr.training.loop import _learning_rate
from pedarr.training.folds import predict
from pedarr.training.saved_models import load_model
from pedarr.training.train import run_training
from pedarr.training.prepare import plan_roles, plan_split, prepare_run

pytestmark = pytest.mark.usefixtures('two_cases_here')
SMALL = dict(epochs=1, batch_size=32, dim=32, depth=1, heads=2, n_folds=2, resamples=200)


@pytest.fixture(scope='module')
def run(store, tmp_path_factory):
    return run_training(make_config(store=store, run=tmp_path_factory.mktemp('runs')/'r', **SMALL),
                        progress=False)


@pytest.fixture
def words_alone(monkeypatch):
    "The figures of a report are drawn, and not written: for tests that read its words."
    def shown(figure):
        plt.close(figure)
        return '<svg></svg>'
    everywhere(monkeypatch, figures_, 'figure_svg', shown)


def test_one_cohort_and_a_cap_reach_the_run_and_its_report(store, tmp_path, words_alone):
    c = make_config(store=store, run=tmp_path/'r', cohort='children', most_per_record=3,
                    single_subject_classes='keep', **SMALL)
    run = open_finished(run_training(c, progress=False))
    segments = open_store(store).segments
    child = (segments.cohort == 'children').to_numpy()
    roles = run.split.filter(like='role_').to_numpy(str)
    assert set(run.predictions.subject) == set(segments.subject[child & segments.evaluate])
    assert (roles[~child] == '').all() and read_params(run.path) == c
    for k in run.folds:
        assert segments.record[roles[:, k] == 'train'].value_counts().max() == 3
    assert write_report(run.path).exists() and load_model(run.path, 0)
    with pytest.raises(PedarrError, match="unknown cohort 'child'"):
        prepare_run(c.replace(run=str(tmp_path/'no'), cohort='child'))


def test_a_share_of_the_labels_trains_and_everyone_is_tested(store, run, tmp_path):
    "Half of the patients of each role but the test, another half by another seed; the tested stay the same."
    c = make_config(store=store, run=tmp_path/'r', label_share=.5, single_subject_classes='keep', **SMALL)
    segments = open_store(store).segments
    def patients(c, role):
        data, fold, *_ = prepare_run(c)
        roles = plan_roles(data, fold, c)
        return [set(segments.subject[roles[:, k] == role]) for k in range(roles.shape[1])]
    for role in ('train', 'validation'):
        for some, other, whole in zip(*(patients(x, role) for x in (
                c, c.replace(label_share=.25), c.replace(label_share=1.)))):
            assert some <= whole and other <= some and len(other) >= 1
            assert role != 'train' or len(other) < len(some) < len(whole)
    assert patients(c, 'test') == patients(c.replace(label_share=1.), 'test')
    with pytest.raises(PedarrError, match='label_share'): c.replace(label_share=0.)


def test_run_folder_is_whole(run):
    names = {p.name for p in run.iterdir()}
    assert {
        'params.json', 'environment.json', 'split.csv', 'history.csv', 'predictions.csv', 'metrics.json',
        'model.json', 'model-0.safetensors', 'model-1.safetensors'} <= names
    assert not [n for n in names if 'checkpoint' in n or n.endswith('.part')
                or n.startswith(('fold-', 'history-', 'lock'))]
    assert not list(run.rglob('*.pt')) + list(run.rglob('*.pkl')), 'nothing needs pickle'


def test_every_evaluation_segment_is_predicted_once(run, store):
    p, t = open_finished(run).predictions, open_store(store).segments
    assert sorted(p.segment) == sorted(t.segment[t.evaluate])
    probs = p[[c for c in p.columns if c.startswith('p_')]].to_numpy()
    assert np.allclose(probs.sum(1), 1, atol=1e-4)
    assert (np.array(open_store(store).classes)[probs.argmax(1)] == p.predicted).mean() > .999


def test_no_subject_on_both_sides(run):
    s = pd.read_csv(run/'split.csv', dtype={'subject': str}, keep_default_na=False)
    assert s.groupby('subject').fold.nunique().max() == 1
    for k in (0, 1):
        sides = [set(s.subject[s[f'role_{k}'] == role]) for role in ('train', 'validation', 'test')]
        assert all(sides) and len(set.union(*sides)) == sum(map(len, sides))


def test_same_seed_same_predictions(run, store, tmp_path):
    again = run_training(make_config(store=store, run=tmp_path/'r', **SMALL), progress=False)
    assert (again/'predictions.csv').read_bytes() == (run/'predictions.csv').read_bytes()


def test_another_seed_another_result(run, store, tmp_path):
    other = run_training(make_config(store=store, run=tmp_path/'r', **SMALL, seed=1), progress=False)
    assert (other/'predictions.csv').read_bytes() != (run/'predictions.csv').read_bytes()


def test_report_is_self_contained_and_says_simulated(run):
    html = write_report(run).read_text()
    assert 'Simulated data' in html
    assert 'src="data:image/svg+xml,' in html
    assert '<script' not in html
    assert 'src="http' not in html
    assert 'no subject is in training and test at once' in html.lower()
    for c in json.loads((run/'metrics.json').read_text())['classes']: assert c in html


def test_other_parameters_in_the_same_folder_are_refused(run, store):
    with pytest.raises(PedarrError, match='holds a run with epochs=1, not 2'):
        run_training(make_config(**{**SMALL, 'epochs': 2}, store=store, run=run), progress=False)


def test_a_folder_with_other_things_is_left_alone(store, tmp_path):
    (tmp_path/'thesis.txt').write_text('precious')
    with pytest.raises(PedarrError, match='not a run folder'):
        run_training(make_config(store=store, run=tmp_path, **SMALL), progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


def test_a_model_for_other_classes_is_refused(run):
    with pytest.raises(PedarrError, match='knows the classes'): load_model(run, classes=['SR', 'AF'])


def test_a_damaged_model_is_refused(run, tmp_path):
    bad = shutil.copytree(run, tmp_path/'bad')
    (bad/'model-0.safetensors').write_bytes(b'not tensors')
    with pytest.raises(PedarrError, match='model-0.safetensors'): load_model(bad, 0)
    with pytest.raises(PedarrError, match='has no fold 7'): load_model(run, 7)


def test_a_damaged_checkpoint_is_refused(store, tmp_path, monkeypatch):
    c = make_config(store=store, run=tmp_path/'r', **SMALL)
    def stop(*a, **k): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(train_, 'run_fold', stop)
        with pytest.raises(KeyboardInterrupt): run_training(c, progress=False)
    (tmp_path/'r'/'checkpoint-0.safetensors').write_bytes(b'\x00'*100)
    with pytest.raises(PedarrError, match='checkpoint-0.safetensors.*delete it'):
        run_training(c, progress=False)


def test_an_unfinished_run_has_no_report(tmp_path):
    with pytest.raises(PedarrError, match='not a finished run'): write_report(tmp_path)


def test_a_full_disk_leaves_no_half_written_run_and_the_same_command_ends_it(run, store, tmp_path,
                                                                             monkeypatch):
    real = files_.create_file
    def full(path):
        if path.name.startswith('model-1'): raise OSError(errno.ENOSPC, 'No space left on device')
        return real(path)
    everywhere(monkeypatch, files_, 'create_file', full)
    c = make_config(store=store, run=tmp_path/'r', **SMALL)
    with pytest.raises(PassingError, match='model-1.safetensors.*No space left on device.*make room') as e:
        run_training(c, progress=False)
    assert 'delete' not in str(e.value)
    assert not (tmp_path/'r'/'metrics.json').exists()
    assert not list((tmp_path/'r').glob('*.part'))
    assert not (tmp_path/'r'/'lock').exists()
    monkeypatch.undo()
    run_training(c, progress=False)
    assert (tmp_path/'r'/'predictions.csv').read_bytes() == (run/'predictions.csv').read_bytes()


@pytest.mark.parametrize('loss', [*LOSSES, 'ldam+agcacl'])
def test_every_loss_trains_and_is_finite(store, tmp_path, loss):
    c = make_config(store=store, run=tmp_path/'r',
                    **{**SMALL, 'fold': 0, 'loss': loss,
                       'loss_options': {'start': 0.} if loss == 'agcacl_late' else {},
                       'logit_adjust': 1.0 if loss_terms(loss)[0] == 'ce' else 0.})
    m = json.loads((run_training(c, progress=False)/'metrics.json').read_text())
    h = pd.read_csv(tmp_path/'r'/'history.csv')
    assert np.isfinite(h[['classification', 'contrastive']]).all(axis=None)
    assert (loss_terms(loss)[1] == 'none') == (h.contrastive == 0).all()
    assert m['loss'] == loss


@pytest.mark.parametrize('loss', ['proco', 'bcl', 'ldam+agcacl'])
def test_a_run_cut_off_after_any_epoch_ends_the_same(store, tmp_path, loss):
    c = make_config(store=store, run='x',
                    **{**SMALL, 'epochs': 3, 'loss': loss,
                       'loss_options': {'defer': .5} if 'ldam' in loss else {}})
    s = open_store(store)
    train, validation = (rows_of(plan_roles(s, plan_split(s, c)[0], c), 0, role)
                         for role in ('train', 'validation'))
    def stop(after):
        seen = []
        def row(r):
            seen.append(r)
            if len(seen) == after: raise KeyboardInterrupt
        return row
    model, _, history = fit_fold(s, train, validation, c)
    whole = model.state_dict()
    for after in (1, 2):
        with contextlib.suppress(KeyboardInterrupt):
            fit_fold(s, train, validation, c, tmp_path/f'{after}.safetensors', stop(after))
        again, _, rows = fit_fold(s, train, validation, c, tmp_path/f'{after}.safetensors')
        again = again.state_dict()
        assert whole.keys() == again.keys() and all(torch.equal(v, again[k]) for k, v in whole.items())
        expected = [{k: v for k, v in r.items() if k not in ('seconds', 'wait_share')} for r in history]
        assert [{k: v for k, v in r.items() if k not in ('seconds', 'wait_share')} for r in rows] == expected


def test_names_that_mean_the_same_give_the_same_run(store, tmp_path):
    def answers(name, **loss):
        config = make_config(store=store, run=tmp_path/name, **{**SMALL, 'fold': 0, **loss})
        return (run_training(config, progress=False)/'predictions.csv').read_bytes()
    plain = answers('none', loss='none')
    adjusted = answers('adjusted', loss='none', logit_adjust=1.)
    assert answers('ce', loss='ce') == plain
    assert answers('logit', loss='logit') == adjusted
    assert plain != adjusted


def test_model_options_reach_the_network_and_come_back(store, tmp_path):
    c = make_config(store=store, run=tmp_path/'r',
                    **{**SMALL, 'fold': 0, 'model_options': {'proj_dim': 8}, 'loss': 'ldam',
                       'loss_options': {'scale': 20.}})
    run = run_training(c, progress=False)
    assert json.loads((run/'params.json').read_text())['model_options'] == {'proj_dim': 8}
    model, meta = load_model(run)
    assert model.config['proj_dim'] == 8 and model.head.scale == meta['cosine_head'] == 20
    with pytest.raises(PedarrError, match='holds a run with model_options'):
        run_training(make_config(store=store, run=run,
                                 **{**SMALL, 'fold': 0, 'loss': 'ldam', 'loss_options': {'scale': 20.}}),
                     progress=False)


LATER_OPTIONS = ('encoder', 'pooling', 'stochastic_depth', 'rate', 'ecg_rate', 'iegm_rate', 'crop')

def older(run: Path, folder: Path) -> Path:
    """A run as it was written before there were model options, encoders, validation, seals and notes: it
    watched its test."""
    old = Path(shutil.copytree(run, folder))
    edit(old/'params.json',
         lambda p: {k: v for k, v in p.items()
                    if k not in ('model_options', 'encoder', 'validation', 'channel_dropout')}
         | {'watch': True})
    edit(old/'params.json',
         lambda p: {'lone_classes' if k == 'single_subject_classes' else k: v for k, v in p.items()})
    edit(old/'environment.json',
         lambda e: {k: v for k, v in e.items() if k not in ('store_json_sha256', 'simulated')})
    edit(old/'model.json',
         lambda m: {k: v for k, v in m.items()
                    if k != 'cosine_head'} | {'model': {k: v for k, v in m['model'].items()
                                                        if k not in (*LATER_OPTIONS, 'centre')}})
    def plainer(m):
        del m['files']
        for row in m['per_class']: del row['note']
        for row in m['per_subject']: del row['alone']
        return m
    edit(old/'metrics.json', plainer)
    h = pd.read_csv(old/'history.csv')
    h = h.drop(columns=['validation_loss', 'validation_top1']).assign(test_top1=.5)
    h.to_csv(old/'history.csv', index=False)
    t = pd.read_csv(old/'split.csv', keep_default_na=False)
    t[[c for c in t if not c.startswith('role_')]].to_csv(old/'split.csv', index=False)
    return old


def edit(file: Path, change) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def unvouched(run: Path, folder: Path) -> Path:
    """A copy of a run whose metrics.json has no hashes, as those of older runs: its files are judged by their
    contents."""
    copy = Path(shutil.copytree(run, folder))
    edit(copy/'metrics.json', lambda m: {k: v for k, v in m.items() if k != 'files'})
    return copy


def test_a_run_from_before_validation_is_still_known_and_reported(store, tmp_path, words_alone):
    config = make_config(store=store, run=tmp_path/'new', **SMALL, validation=0, encoder='plain',
                         channel_dropout=0, model_options={'pooling': 'cls'})
    new = run_training(config, progress=False)
    old = older(new, tmp_path/'old')
    assert run_training(config.replace(run=str(old), model_options={}), progress=False) == old
    a, b = (load_model(r)[0] for r in (old, new))
    rates = dict.fromkeys(('rate', 'ecg_rate', 'iegm_rate'), 250.)
    assert a.config | rates == b.config and read_params(old).validation == 0
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    with pytest.raises(PedarrError,
                       match="holds a run with validation=0.0, not 0.2; encoder='plain', not 'deep'"):
        run_training(make_config(store=store, run=old, **SMALL, encoder='deep', channel_dropout=0),
                     progress=False)
    html = write_report(old).read_text()
    assert 'its curve is the test' in html and 'Simulated data' in html
    assert 'No subjects were set aside' in write_report(tmp_path/'new').read_text()


def stopped(store, folder: Path, monkeypatch, where: str) -> TrainConfig:
    """A run that an earlier version began, in which the network of the same parameters reads another rate and
    pooling: it was stopped between two folds, or inside the first."""
    c = make_config(store=store, run=folder, **{**SMALL, 'epochs': 2})
    build = folds_.build_model
    was = {'ecg_rate': 125., 'iegm_rate': 125., 'pooling': 'cls'}
    def stop(*a, **k): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(folds_, 'build_model', lambda c, *a, **k: build(c.replace(model_options=was), *a, **k))
        m.setattr(train_, 'build_model', folds_.build_model)
        if where == 'inside a fold': m.setattr(folds_, '_answers', stop)
        else:
            run_fold = train_.run_fold
            m.setattr(train_, 'run_fold', lambda *a: run_fold(*a) if a[2] == 0 else stop())
        with pytest.raises(KeyboardInterrupt): run_training(c, progress=False)
    return c


@pytest.mark.parametrize('where', ['between folds', 'inside a fold'])
def test_a_run_that_was_begun_with_another_network_is_not_mixed(store, tmp_path, monkeypatch, where):
    c = stopped(store, tmp_path/'r', monkeypatch, where)
    names = {p.name for p in (tmp_path/'r').iterdir()}
    assert ('fold-0.csv' in names) == (where == 'between folds') != ('checkpoint-0.safetensors' in names)
    before = {p.name: p.read_bytes() for p in (tmp_path/'r').iterdir()}
    with pytest.raises(PedarrError, match="network .*pooling was 'cls', is 'mean-max'.*: train again"):
        run_training(c, progress=False)
    (tmp_path/'r'/'model.json').unlink()                     # older runs wrote it at the end
    with pytest.raises(PedarrError, match='another network .it is not written down.: train again') as e:
        run_training(c, progress=False)
    assert '\n' not in str(e.value)
    assert {p.name: p.read_bytes() for p in (tmp_path/'r').iterdir()} | {
        'model.json': before['model.json']} == before, 'the folder was touched'


@pytest.mark.parametrize('options', [
    dict(modalities='ecg'), dict(modalities='iegm'), dict(precision='bf16'), dict(split='segment'),
    dict(sampling='balanced'), dict(sampling='square-root'), dict(grouping='svt4'), dict(workers=1)])
def test_options_run(store, tmp_path, options):
    c = make_config(store=store, run=tmp_path/'r', **{**SMALL, 'fold': 0, **options})
    m = json.loads((run_training(c, progress=False)/'metrics.json').read_text())
    if options.get('split') == 'segment': assert 'overstates' in m['notes'][0]
    if options.get('grouping') == 'svt4': assert m['classes'] == ['SR', 'AVNRT', 'AVRT', 'OTHER']
    p = open_finished(tmp_path/'r').predictions
    if options.get('modalities') == 'ecg': assert (p.weight_iegm == 0).all()


@pytest.mark.parametrize('params, say', [
    (dict(epohcs=3), "unknown parameter 'epohcs': did you mean 'epochs'"),
    (dict(epochs=2.5), 'epochs .*must be a whole number'),
    (dict(epochs=True), 'epochs .*must be a whole number'),
    (dict(lr='fast'), 'lr .*must be a number'),
    (dict(lr=float('nan')), 'lr .*must be a finite number'),
    (dict(epochs='3.0'), 'epochs is .*3.0.*must be a whole number'),
    (dict(epochs=10**5000), 'epochs is a number with thousands of digits: it must be at most 100000'),
    (dict(dim=10**9), 'dim .*must be at most'),
    (dict(depth=10**6), 'depth .*must be at most'),
    (dict(validation=1), 'validation .*must be at most'),
    (dict(loss_options={'tau': float('nan')}), 'holds something'),
    (dict(model_options={'proj_dim': object()}), 'holds something'),
    (dict(watch=False), "unknown parameter 'watch'"),
    (dict(sampling=1), 'sampling .*must be a text'),
    (dict(sampling='blanced'), "unknown sampling 'blanced': did you mean 'balanced'"),
    (dict(loss='hinge'), "unknown loss 'hinge': use one of none, agcacl"),
    (dict(split='random'), "unknown split 'random': use one of"),
    (dict(fold='first'), 'fold .*must be a whole number'),
    (dict(n_folds=1), 'n_folds .*must be at least 2'),
    (dict(store=3), 'store .*must be a text'),
    (dict(precision='fp4'), 'unknown precision'),
    (dict(modalities='eeg'), 'unknown modalities'),
    (dict(resamples=0), 'resamples .*must be at least'),
    (dict(loss='agcacl+ldam'), 'in this order'),
    (dict(model_options=3), 'model_options .*must be a dictionary'),
    (dict(model_options={'layers': 3}), "unknown model option 'layers'"),
    (dict(model_options={'dropout': .3}), "'dropout' is a parameter of its own")])
def test_wrong_parameters_are_refused_by_name(params, say):
    with pytest.raises(PedarrError, match=say): make_config(**params)


@pytest.mark.parametrize('params, say', [
    (dict(device='tpu'), "device 'tpu' is not available"),
    (dict(fold=9), 'fold is 9'),
    (dict(n_folds=50), 'fold'),
    (dict(loss_options={'nope': 1}), 'nope'),
    (dict(loss='focal', logit_adjust=1.), 'takes no logit_adjust'),
    (dict(loss='ldam', loss_options={'tau': .1}), 'it takes margin'),
    (dict(model_options={'proj_dim': 'wide'}), 'model_options'),
    (dict(model_options={'proj_dim': 0}), 'proj_dim'),
    (dict(heads=3), 'heads|dim'),
    (dict(normalise='zscore'), 'zscore'),
    (dict(grouping='g'), "unknown grouping 'g': use one of rhythm8"),
    (dict(dim=8192, depth=256), 'GiB of memory'),
    (dict(model_options={'proj_dim': 10**9}), 'proj_dim is 1000000000: it must be at most 65536'),
    (dict(workers=1000), 'workers must be at most'),
    (dict(device='meta'), "unknown device 'meta'"),
    (dict(grouping='ludb7'), 'finds 0 of its classes')])
def test_impossible_runs_are_refused(store, tmp_path, params, say):
    with pytest.raises(PedarrError, match=say):
        run_training(make_config(store=store, run=tmp_path/'r', **{**SMALL, **params}), progress=False)


def test_papermill_cells_are_read():
    check_parameters(['', 'x = 1', '# Parameters\nepochs = 1\nstore = "a"'])
    with pytest.raises(PedarrError, match='epohcs'): check_parameters(['# Parameters\nepohcs = 1'])


@given(st.integers(1, 500), st.floats(0, .9))
@settings(max_examples=50)
def test_learning_rate_rises_then_falls(steps, warmup):
    r = np.array([_learning_rate(s, steps, 1., warmup) for s in range(steps)])
    peak = int(r.argmax())
    assert (r > 0).all()
    assert r.max() <= 1
    assert (np.diff(r[:peak + 1]) >= 0).all()
    assert (np.diff(r[peak:]) <= 0).all()


@given(st.floats(0, 1))
def test_percent(v): assert percent(dict(value=v, low=None)).endswith('one subject)')


def test_cases_follow_the_rule():
    p = pd.DataFrame({
        'segment': range(4), 'label': list('aabb'), 'predicted': list('abab'), 'p_a': [.9, .2, .6, .1],
        'p_b': [.1, .8, .4, .9]})
    cases = choose_cases(p, ['a', 'b'], 2, 2)
    assert cases.right.tolist() == [True, True, False, False] and cases.segment.tolist()[2:] == [1, 2]


def test_both_modalities_of_a_real_recording(tmp_path):
    "iafdb: surface leads and coronary sinus electrograms of a real recording go through the network."
    from pedarr.model.pedarrnet import PedArrNet
    from pedarr.signals.batches import SegmentDataset, make_loader
    s = build_store(real('iafdb'), tmp_path/'s', 'iafdb', progress=False)
    assert s.mask[:, :12].sum(1).min() == 3 and s.mask[:, 12:].any(1).all()
    out = predict(PedArrNet(8).eval(), make_loader(SegmentDataset(s, np.arange(len(s))), 16, shuffle=False),
                  torch.device('cpu'))
    assert np.isfinite(out['prob']).all()
    assert (out['weights'] > 0).all()
    assert np.allclose(out['weights'].sum(1), 1, atol=1e-5)


def test_a_run_of_another_store_is_not_taken_for_this_one(run, simulated, tmp_path):
    other = build_store(simulated, tmp_path/'other', 'leipzig',
                        config=PreprocessConfig(rate=250., iegm_band=(30., 110.), window=2.), progress=False)
    with pytest.raises(PedarrError, match='store with other contents'):
        run_training(make_config(store=other.path, run=run, **SMALL), progress=False)
    with pytest.raises(PedarrError, match='store with other contents'): write_report(run, other)


def test_environment_without_git(store, run, monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert runs_.describe_environment(open_store(store), torch.device('cpu'))['commit'] is None


def test_a_resume_elsewhere_is_recorded(run, tmp_path):
    from pedarr.training.runs import write_environment
    for device in ('a', 'a', 'b', 'b', 'a'): write_environment(tmp_path, dict(device=device))
    expected = dict(device='a', resumed=[dict(device='b')])
    assert json.loads((tmp_path/'environment.json').read_text()) == expected


def test_a_diverged_network_is_one_line_not_a_traceback():
    class Broken(torch.nn.Module):
        def forward(self, *inputs):
            return type('Out', (),
                        {k: torch.full((2, 3), float('nan'))
                         for k in ('logits', 'modality_weights', 'embedding')})
    batch = type('Batch', (), dict(index=torch.arange(2), target=None))
    keep, folds_.network_inputs = folds_.network_inputs, lambda batch, device: ()
    try:
        with pytest.raises(PedarrError, match='diverged'):
            folds_.predict(Broken(), [batch], torch.device('cpu'))
    finally: folds_.network_inputs = keep


@pytest.mark.parametrize('name', ['xresnet1d', 'inceptiontime'])
def test_a_baseline_trains_reports_and_is_rebuilt(store, tmp_path, name, words_alone):
    done = run_training(make_config(store=store, run=tmp_path/'r', **SMALL, model=name,
                                    model_options={'width': 8}), progress=False)
    meta = json.loads((done/'model.json').read_text())
    assert meta['network'] == name and meta['model']['width'] == 8
    model, _ = load_model(done)
    assert type(model).__name__.lower() == name
    rates = dict.fromkeys(('rate', 'ecg_rate', 'iegm_rate'), 0.)           # what runs of before did not have
    edit(done/'model.json', lambda m: m | {'model': {k: v for k, v in m['model'].items() if k not in rates}})
    edit(done/'metrics.json', lambda m: {k: v for k, v in m.items() if k != 'files'})
    assert load_model(done)[0].config == model.config | rates
    html = write_report(done).read_text()
    assert f'Network: {name}' in html and 'does not weigh the modalities' in html


def test_unknown_networks_and_options_of_another_network():
    with pytest.raises(PedarrError, match='unknown model'): make_config(model='resnet')
    with pytest.raises(PedarrError, match='unknown model option'):
        make_config(model='xresnet1d', model_options={'fusion': 'late'})


def test_a_split_that_changed_under_a_run_is_refused(run, store, tmp_path):
    again = Path(shutil.copytree(run, tmp_path/'r'))
    (again/'metrics.json').unlink()
    segments, fold = open_store(store).segments, 1 - pd.read_csv(again/'split.csv').fold.to_numpy()
    split_table(segments, fold, all_roles(segments, fold)).to_csv(again/'split.csv', index=False)
    config = make_config(**{**SMALL, 'store': store, 'run': again})
    with pytest.raises(PedarrError, match='another split'): run_training(config, progress=False)
    table = pd.read_csv(again/'split.csv', keep_default_na=False)
    table.assign(fold=1 - table.fold).to_csv(again/'split.csv', index=False)
    with pytest.raises(PedarrError, match='split.csv: split: role_0 does not fit the folds'):
        run_training(config, progress=False)


TREES = dict(model='trees', n_folds=2, resamples=200, model_options={'max_iter': 5})


@pytest.fixture(scope='module')
def grown(store, tmp_path_factory):
    return run_training(make_config(store=store, run=tmp_path_factory.mktemp('trees')/'r', **TREES),
                        progress=False)


def test_trees_leave_the_folder_of_a_run(grown, run, store):
    mine, theirs = (json.loads((r/'metrics.json').read_text()) for r in (grown, run))
    assert list(mine) == list(theirs)
    assert mine['notes'] == theirs['notes']
    assert mine['classes'] == theirs['classes']
    assert list(mine['speed']) == list(theirs['speed'])
    assert 0 < mine['speed']['wait_share'] < 1
    assert mine['speed']['segments_per_second'] > 0
    assert mine['loss'] == 'log loss of boosting' and 'agcacl' not in json.dumps(mine)
    p, q = (pd.read_csv(r/'predictions.csv', dtype={'record': str}).sort_values('segment', ignore_index=True)
            for r in (grown, run))
    assert list(p) == list(q)
    assert p[['segment', 'fold', 'record', 'label']].equals(q[['segment', 'fold', 'record', 'label']])
    assert (grown/'split.csv').read_bytes() == (run/'split.csv').read_bytes()
    assert {p.name for p in grown.iterdir()} == {
        'params.json', 'environment.json', 'split.csv', 'history.csv', 'predictions.csv', 'metrics.json',
        'model.json', 'features.csv'}
    assert len(pd.read_csv(grown/'history.csv')) == 2
    assert open_finished(grown).history.validation_top1.between(0, 1).all()


def test_trees_of_a_run_are_those_of_chapter_07a(grown, store):
    from pedarr.model.features import segment_features
    from pedarr.model.trees import tree_fold
    s = open_store(store)
    roles, features = read_roles(grown/'split.csv', s.segments), segment_features(s)
    want = pd.concat([tree_fold(s, features, roles[:, k], k, max_iter=5)[0] for k in (0, 1)],
                     ignore_index=True)
    got = open_finished(grown).predictions
    assert (got.predicted == want.predicted).all()
    assert np.array_equal(got.filter(like='p_'), want.filter(like='p_'))


@pytest.mark.long
def test_trees_killed_between_folds_end_the_same(grown, store, tmp_path, monkeypatch):
    """SIGKILL when the second fold begins; the resumed run reads the features and the first fold, and ends
    byte for byte as the undisturbed one."""
    script = f"""
import os, signal
from pedarr.training import config as config_, train as train_, tree_runs as tree_runs_
grow = tree_runs_.run_trees
def deadly(store, features, measured, roles, k, *rest):
    if k == 1: os.kill(os.getpid(), signal.SIGKILL)
    return grow(store, features, measured, roles, k, *rest)
tree_runs_.run_trees = deadly
config = config_.make_config(store={str(store)!r}, run={str(tmp_path/'r')!r}, **{TREES!r})
train_.run_training(config, progress=False)
"""
    assert subprocess.run([sys.executable, '-c', script], capture_output=True).returncode == -9
    r = tmp_path/'r'
    assert (r/'fold-0.csv').exists() and not (r/'fold-1.csv').exists() and not (r/'metrics.json').exists()
    stamps = {n: (r/n).stat().st_mtime_ns for n in ('features.csv', 'fold-0.csv')}
    measured = []
    measure = tree_runs_.segment_features
    def counted(*a, rows=None, **k):
        measured.append(rows)
        return measure(*a, rows=rows, **k)
    monkeypatch.setattr(tree_runs_, 'segment_features', counted)
    run_training(make_config(store=store, run=r, **TREES), progress=False)
    assert all(rows is not None and len(rows) <= 3 for rows in measured), 'the features were measured again'
    assert (r/'features.csv').stat().st_mtime_ns == stamps['features.csv']
    assert (r/'predictions.csv').read_bytes() == (grown/'predictions.csv').read_bytes()
    a, b = (json.loads((f/'metrics.json').read_text()) for f in (r, grown))
    expected = {k: v for k, v in b.items() if k not in ('speed', 'files')}
    assert {k: v for k, v in a.items() if k not in ('speed', 'files')} == expected
    # times and folders differ
    expected = {'split.csv', 'predictions.csv', 'model.json', 'environment.json'}
    assert {k for k in a['files'] if a['files'][k] == b['files'][k]} == expected
    assert not list(r.glob('fold-*')) and not list(r.glob('history-*')) and not list(r.glob('*.part'))


@pytest.mark.parametrize('options', [
    dict(modalities='ecg'),
    dict(split='segment'),
    dict(grouping='svt4', sampling='balanced'),
    dict(fold=1, workers=1),
    dict(model_options={'max_iter': 3, 'max_features': .5})])
def test_options_of_trees_run(store, grown, tmp_path, options):
    from pedarr.training.runs import open_run
    c = make_config(store=store, run=tmp_path/'r', **{**TREES, **options})
    # those of another run of the store, to save time
    if c.modalities == 'both':
        (open_run(c.run, c)/'features.csv').write_bytes((grown/'features.csv').read_bytes())
    m = json.loads((run_training(c, progress=False)/'metrics.json').read_text())
    p = pd.read_csv(tmp_path/'r'/'predictions.csv')
    if c.split == 'segment': assert 'overstates' in m['notes'][0]
    if c.grouping: assert m['classes'] == ['SR', 'AVNRT', 'AVRT', 'OTHER']
    if c.modalities == 'ecg':
        assert (p.weight_iegm == 0).all() and pd.read_csv(tmp_path/'r'/'features.csv').va.isna().all()
    if c.fold == 1:
        assert (p.fold == 1).all() and json.loads((tmp_path/'r'/'model.json').read_text())['folds'] == [1]


def test_annotated_beats_are_used_and_noted(store, simulated, grown, tmp_path):
    c = make_config(store=store, run=tmp_path/'r',
                    **{**TREES, 'model_options': {'max_iter': 3, 'beats': str(simulated)}})
    m = json.loads((run_training(c, progress=False)/'metrics.json').read_text())
    assert 'annotations' in m['notes'][-1]
    a, b = (pd.read_csv(r/'features.csv') for r in (tmp_path/'r', grown))
    assert not np.allclose(a.rr, b.rr, equal_nan=True)
    assert 'annotated beats' in write_report(tmp_path/'r').read_text()


@pytest.mark.parametrize('harm, say', [
    (lambda b: b[:200], 'features.csv'),
    (lambda b: b'', 'features.csv: damaged'),
    (lambda b: b.replace(b'rr', b'RR', 1), "damaged, column 'rr' is missing"),
    (lambda b: b[:b.rindex(b'\n', 0, -1) + 1], 'damaged')])
def test_features_of_something_else_are_refused(grown, store, tmp_path, harm, say):
    bad = Path(shutil.copytree(grown, tmp_path/'r'))
    (bad/'metrics.json').unlink()
    (bad/'features.csv').write_bytes(harm((bad/'features.csv').read_bytes()))
    with pytest.raises(PedarrError, match=say):
        run_training(make_config(store=store, run=bad, **TREES), progress=False)


@pytest.mark.parametrize('params, say', [
    (dict(epochs=3), 'epochs means nothing to model trees'),
    (dict(loss='focal'), 'loss means nothing'),
    (dict(loss_options={'a': 1}), 'loss_options means nothing'),
    (dict(augment=False), 'augment means nothing'),
    (dict(model_options={'trees': 5}), "unknown model option 'trees'"),
    (dict(model_options={'class_weight': 'balanced'}), "unknown model option 'class_weight'"),
    (dict(model_options={'max_iter': '5'}), "options .* no trees can be grown .*max_iter"),
    (dict(model_options={'learning_rate': -1.}), 'learning_rate'),
    (dict(model_options={'beats': 3}), 'beats .* must be a text')])
def test_wrong_parameters_of_trees_are_refused_by_name(params, say):
    with pytest.raises(PedarrError, match=say): make_config(model='trees', **params)


@pytest.mark.parametrize('params, say', [
    (dict(model_options={'beats': '/nowhere'}), 'nowhere'),
    (dict(fold=9), 'fold is 9'),
    (dict(n_folds=50), 'fold')])
def test_impossible_runs_of_trees_leave_nothing(store, tmp_path, params, say):
    with pytest.raises(PedarrError, match=say):
        run_training(make_config(store=store, run=tmp_path/'r', **{**TREES, **params}), progress=False)
    assert not (tmp_path/'r').exists()


def test_a_run_of_trees_has_no_network(grown, store):
    from pedarr.training.run_networks import embed_segments, run_few_shot
    s = open_store(store)
    for ask in (lambda: load_model(grown), lambda: embed_segments(grown, 0, s, [0]),
                lambda: run_few_shot(grown)):
        with pytest.raises(PedarrError, match='boosted trees, which has no network and no embeddings'): ask()


def test_a_run_of_trees_and_a_network_are_not_mixed_up(grown, run, store):
    with pytest.raises(PedarrError, match="holds a run with"):
        run_training(make_config(store=store, run=grown, **SMALL), progress=False)
    with pytest.raises(PedarrError, match="holds a run with"):
        run_training(make_config(store=store, run=run, **TREES), progress=False)


# ---- nobody watches the test

class Counting:
    "A store that notes which rows are read, in order; everything else is the store's own."
    def __init__(self, store): self._store, self.read = store, []
    def __getattr__(self, name): return getattr(self._store, name)
    def __len__(self): return len(self._store)
    def take(self, rows):
        rows = np.asarray(rows)
        self.read.append(rows)
        return [np.asarray(self._store.ecg[rows]), np.asarray(self._store.iegm[rows])]


def test_test_segments_are_read_once_and_after_the_last_epoch(store, tmp_path, monkeypatch):
    """Every read of a fold's training is counted: no test row before the last epoch's step, each once after
    it; validation in every epoch."""
    c = make_config(store=store, run=tmp_path/'r', **{**SMALL, 'epochs': 2})
    s = Counting(open_store(store))
    fold, roles = plan_split(s, c)[0], plan_roles(s, plan_split(s, c)[0], c)
    said, epochs = [], []
    everywhere(monkeypatch, loop_, 'start_epoch',
               lambda *a, real=loop_.start_epoch: (epochs.append(len(s.read)), real(*a))[1])
    everywhere(monkeypatch, batches_, 'SegmentDataset',
               lambda *a, real=batches_.SegmentDataset, **k: real(*a, **{**k, 'in_memory': False}))
    everywhere(monkeypatch, folds_, 'predict',
               lambda model, loader, device, real=folds_.predict: (said.append(sorted(loader.dataset.index)),
                                                                   real(model, loader, device))[1])
    (tmp_path/'r').mkdir()
    folds_.run_fold(s, roles, 0, c, tmp_path/'r', folds_.ProgressDisplay(2, 4, show=False))
    test, validation = rows_of(roles, 0, 'test').tolist(), rows_of(roles, 0, 'validation').tolist()
    assert len(epochs) == 2 and validation and said == [validation, validation, test]
    reads = [set(r.tolist()) & set(test) for r in s.read]
    first = next(i for i, r in enumerate(reads) if r)
    assert first > epochs[-1]
    assert all(reads[first:])
    assert sorted(np.concatenate(s.read[first:]).tolist()) == test
    assert not {i for r in s.read for i in r.tolist()} & set(np.flatnonzero(roles[:, 0] == '').tolist())


def test_changing_the_test_signals_changes_no_weight(store, run, tmp_path):
    """The same training on a store whose test segments of fold 0 are noise ends in the same weights, to the
    bit."""
    c = make_config(store=store, run='x', **SMALL)
    s = open_store(store)
    roles = plan_roles(s, plan_split(s, c)[0], c)
    class Doctored(Counting):
        def take(self, rows):
            ecg, iegm = super().take(rows)
            ecg[np.isin(rows, rows_of(roles, 0, 'test'))] = 7
            return [ecg, iegm]
    sides = [rows_of(roles, 0, role) for role in ('train', 'validation')]
    a, b = (fit_fold(x, *sides, c)[0].state_dict() for x in (s, Doctored(s)))
    assert all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize('validation, some', [(0, False), (.3, True)])
def test_validation_is_kept_in_the_history(store, tmp_path, validation, some):
    done = run_training(make_config(store=store, run=tmp_path/'r', **SMALL, validation=validation, fold=0),
                        progress=False)
    history = open_finished(done).history
    assert history.validation_top1.notna().all() == history.validation_loss.notna().all() == some
    assert 'test_top1' not in history
    assert (read_roles(done/'split.csv', open_store(store).segments) == 'validation').any() == some


# ---- what is said while it runs

def test_without_a_terminal_each_epoch_is_one_line_that_names_the_fold(store, tmp_path, capfd):
    c = make_config(store=store, run=tmp_path/'r', **{**SMALL, 'epochs': 2})
    run_training(c)
    lines = capfd.readouterr().err.splitlines()
    expected = [f'fold {k} of 2, epoch {e} of 2' for k in (1, 2) for e in (1, 2)]
    assert [line.split(': loss')[0] for line in lines] == expected
    assert all('validation top-1' in line and '\r' not in line for line in lines)
    run_training(c)
    assert capfd.readouterr().err == f'already finished: {tmp_path/"r"}\n'


def test_on_a_terminal_the_bar_names_the_fold(monkeypatch, capfd):
    from pedarr.training.folds import ProgressDisplay
    monkeypatch.setenv('PEDARR_TERMINAL', '1')
    follower = ProgressDisplay(5, 4)
    follower.fold(1, 2)(dict(classification=.5, validation_top1=.25, epoch=0))
    follower.close()
    said = capfd.readouterr().err
    assert 'fold 2 of 5' in said and 'validation top-1 0.25' in said and '1/4' in said


# ---- one process at a time

HOLD = """
import sys
import pedarr.training.config as config_
import pedarr.training.folds as folds_, pedarr.training.train as train_
real = folds_.fit
def slow(*a):
    print('training', flush=True)
    sys.stdin.readline()
    return real(*a)
folds_.fit = slow
train_.run_training(config_.make_config(**{params!r}), progress=False)
"""


def test_a_second_training_is_told_who_trains_and_touches_nothing(store, tmp_path):
    """While another process trains: the same run, and another seed, are refused in one line; afterwards the
    same run is 'already finished'."""
    params = dict(store=str(store), run=str(tmp_path/'r'), **SMALL)
    first = subprocess.Popen([sys.executable, '-c', HOLD.format(params=params)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == 'training\n'
        before = {p.name: p.stat().st_mtime_ns for p in (tmp_path/'r').iterdir()}
        with pytest.raises(PedarrError,
                           match=f'process {first.pid} on .* is training into this folder: wait for it') as e:
            run_training(make_config(**params), progress=False)
        assert '\n' not in str(e.value) and 'delete' not in str(e.value)
        with pytest.raises(PedarrError, match='holds a run with seed=0, not 1: choose another'):
            run_training(make_config(**{**params, 'seed': 1}), progress=False)
        assert {p.name: p.stat().st_mtime_ns for p in (tmp_path/'r').iterdir()} == before
    finally: first.communicate('\n\n\n')
    assert first.returncode == 0 and not (tmp_path/'r'/'lock').exists()
    with contextlib.redirect_stderr(io.StringIO()) as said: run_training(make_config(**params))
    assert said.getvalue() == f'already finished: {tmp_path/"r"}\n'


@pytest.mark.long
def test_a_killed_training_leaves_no_lock_and_ends_the_same(store, run, tmp_path):
    "SIGKILL in the second fold; the same command goes on, and ends byte for byte as the undisturbed run."
    params = dict(store=str(store), run=str(tmp_path/'r'), **SMALL)
    first = subprocess.Popen([sys.executable, '-c', HOLD.format(params=params)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    first.stdout.readline()
    first.stdin.write('\n')
    first.stdin.flush()
    assert first.stdout.readline() == 'training\n' and (tmp_path/'r'/'fold-0.csv').exists()
    first.kill()
    first.communicate()
    assert run_training(make_config(**params), progress=False)
    expected = {p.name for p in run.iterdir()} - {'report.html', 'figures'}
    assert {p.name for p in (tmp_path/'r').iterdir()} == expected
    for name in ('predictions.csv', 'split.csv', 'model-0.safetensors', 'model-1.safetensors'):
        assert (tmp_path/'r'/name).read_bytes() == (run/name).read_bytes()


def test_what_a_kill_at_the_very_end_leaves_is_removed(run, store, tmp_path):
    again = Path(shutil.copytree(run, tmp_path/'r'))
    for name in ('fold-0.csv', 'history-1.csv', 'checkpoint-1.safetensors', 'metrics.json.part'):
        (again/name).write_text('left')
    run_training(make_config(store=store, run=again, **SMALL), progress=False)
    assert {p.name for p in again.iterdir()} == {p.name for p in run.iterdir()}


def test_every_parameter_that_differs_is_named(run, store):
    with pytest.raises(PedarrError) as e:
        run_training(make_config(**{**SMALL, 'epochs': 2, 'dim': 64}, seed=5, lr=1, store=store, run=run),
                     progress=False)
    for said in ('epochs=1, not 2', 'dim=32, not 64', 'seed=0, not 5', 'lr=0.002, not 1.0'):
        assert said in str(e.value)


# ---- the store under a run

def test_an_edited_description_of_the_store_is_named_by_report_and_resume(simulated, tmp_path, words_alone):
    "`simulated` flipped in store.json after the training: no report without its banner, no resuming."
    config = AT_250_HZ
    build_store(simulated, tmp_path/'s', 'leipzig', config=config, progress=False)
    c = make_config(store=tmp_path/'s', run=tmp_path/'r', **SMALL, fold=0)
    run_training(c, progress=False)
    whole = (tmp_path/'s'/'store.json').read_text()
    for change, why in (({'simulated': False}, 'simulated is False, was True'),
                        ({'versions': {}}, 'its SHA-256 differs')):
        edit(tmp_path/'s'/'store.json', lambda m: m | change)
        for call in (lambda: write_report(tmp_path/'r'), lambda: run_training(c, progress=False),
                     lambda: prepare_run(c)):
            with pytest.raises(PedarrError, match=f'store.json.*altered since.*{why}'): call()
        (tmp_path/'s'/'store.json').write_text(whole)
    assert 'Simulated data' in write_report(tmp_path/'r').read_text()


def test_an_edited_rate_of_the_store_is_named(run, store, tmp_path):
    s = open_store(store)
    edited = dataclasses.replace(s, meta=s.meta | {'config': s.meta['config'] | {'rate': 500.}},
                                 **({'seal': 'f'*64} if hasattr(s, 'seal') else {}), path=tmp_path)
    (tmp_path/'store.json').write_text('{}')
    with pytest.raises(PedarrError, match='store.json: altered since .*rate is 500.0, was 250.0'):
        write_report(run, edited)
    bad = Path(shutil.copytree(run, tmp_path/'r'))  # and where the run's own file was edited, that is named
    edit(bad/'environment.json', lambda e: e | {'simulated': False})
    with pytest.raises(PedarrError, match='environment.json: (damaged|altered)'): write_report(bad)
    with pytest.raises(PedarrError, match='environment.json: damaged, simulated is False'):
        run_training(make_config(store=store, run=bad, **SMALL), progress=False)


def test_a_store_that_changes_while_it_is_trained_on_ends_the_run_in_one_line(store, tmp_path, monkeypatch):
    """The store is asked after every epoch, fold and run; what was trained on other bytes is neither a
    checkpoint nor a fold."""
    from pedarr.signals.store import Store
    asked = []
    def unchanged(self):
        asked.append(sorted(p.name for p in (tmp_path/'r').iterdir()))
        if len(asked) == fails:
            raise PedarrError(f'{self.path}/ecg.npy: changed while it was trained on: restore it')
    monkeypatch.setattr(Store, 'unchanged', unchanged, raising=False)
    c = make_config(store=store, run=tmp_path/'r', **SMALL)
    fails = 3  # the epoch of the second fold
    with pytest.raises(PedarrError, match='changed while it was trained on'): run_training(c, progress=False)
    names = {p.name for p in (tmp_path/'r').iterdir()}
    assert 'fold-0.csv' in names
    assert not names & {'fold-1.csv', 'checkpoint-1.safetensors', 'metrics.json', 'lock'}
    fails = 10**9
    run_training(c, progress=False)
    assert 'fold-1.csv' not in asked[3] and 'metrics.json' not in asked[-1] and 'model.json' in asked[-1]


# ---- names that look like something else

@pytest.mark.parametrize('names', [
    ('NA', '1e3'), ('<b>x</b>', 'c, "d" '), *(pytest.param(x, marks=pytest.mark.long) for x in (
        ('0', '1'), ('True', 'False'), ('1e3', '2e3'), ('426783006', '164889003'), ('NA', 'nan'),
        ('a,b', 'c "d"'), ('<b>x</b>', ' x ')))])
def test_classes_with_odd_names_are_trained_reported_and_compared(store, tmp_path, monkeypatch, names):
    from pedarr.training.grid_results import paired_table
    from pedarr.training.run_networks import run_few_shot
    from pedarr.data.groupings import GROUPINGS
    monkeypatch.setitem(GROUPINGS, 'odd', {r: names[r != 'N'] for r in GROUPINGS['rhythm13']})
    c = make_config(store=store, run=tmp_path/'r', **SMALL, grouping='odd')
    r = open_finished(run_training(c, progress=False))
    assert set(r.predictions.label) == set(r.classes) == set(names)
    truth = open_store(store).segments.set_index('segment').rhythm[r.predictions.segment].eq('N').to_numpy()
    assert (r.predictions.label.to_numpy() == np.where(truth, names[0], names[1])).all()
    right = r.predictions.label == r.predictions.predicted
    assert read_scores(r)['overall']['top1']['value'] == right.mean()
    assert '<b>x' not in write_report(tmp_path/'r').read_text()
    assert (paired_table([r], [r], 100).value == 0).all() and len(run_few_shot(r, shots=(1,), draws=2)[0])


def test_a_grouping_that_nobody_registered_here_is_the_stores_own(simulated, tmp_path, monkeypatch,
                                                                  words_alone):
    from pedarr.training.run_networks import run_few_shot, run_store
    from pedarr.data.groupings import GROUPINGS
    with monkeypatch.context() as m:
        m.setitem(GROUPINGS, 'mine', {'N': 'calm', 'VT': 'wild', 'AVNRT': 'wild', 'AVRT': 'wild'})
        build_store(simulated, tmp_path/'s', 'leipzig', grouping='mine', config=AT_250_HZ, progress=False)
    assert 'mine' not in GROUPINGS
    for grouping in ('', 'mine'):
        c = make_config(store=tmp_path/'s', run=tmp_path/f'r{grouping}', **SMALL, grouping=grouping)
        done = run_training(c, progress=False)
        html = write_report(done).read_text()
        assert 'ventricular tachycardia' in html
        assert 'calm' in html
        assert run_store(done)[0].classes == open_finished(done).classes == ['calm', 'wild']
        assert len(run_few_shot(done, shots=(1,), draws=2)[0])
    with monkeypatch.context() as m:                                            # one that the run alone knows
        m.setitem(GROUPINGS, 'once', {'N': 'still', 'VT': 'fast', 'AVNRT': 'fast', 'AVRT': 'fast'})
        once = run_training(c.replace(run=str(tmp_path/'once'), grouping='once'), progress=False)
    html = write_report(once).read_text()
    assert 'still' in html and 'atrioventricular nodal' in html
    assert len(run_few_shot(once, shots=(1,), draws=2)[0])
    with pytest.raises(PedarrError, match="unknown grouping 'mein': did you mean 'mine'"):
        prepare_run(c.replace(run=str(tmp_path/'x'), grouping='mein'))


def test_a_class_that_one_tested_subject_has_is_not_a_class_of_one_subject(store, tmp_path, words_alone):
    "A single fold: notes count over the whole store."
    r = open_finished(run_training(make_config(store=store, run=tmp_path/'r', **{**SMALL, 'n_folds': 4},
                                               fold=0, single_subject_classes='keep'), progress=False))
    of = r.split[r.split.label != ''].groupby('label').subject.nunique()
    rows = {row['class']: row for row in read_scores(r)['per_class']}
    few = [c for c, row in rows.items() if row['subjects'] == 1 and of[c] > 1]
    assert few and all(rows[c]['note'] == 'one subject in this test' for c in few)
    html = write_report(tmp_path/'r').read_text()
    assert 'fold 0 of 4 alone' in html and ('untestable' in html) == any(of == 1)


def test_an_odd_class_name_is_refused_before_training(store, tmp_path, monkeypatch):
    from pedarr.data.groupings import GROUPINGS
    monkeypatch.setitem(GROUPINGS, 'odd', {'N': 'a\nb', 'AVNRT': 'c'})
    with pytest.raises(PedarrError, match='without line breaks') as e:
        prepare_run(make_config(store=store, run=tmp_path/'r', **SMALL, grouping='odd'))
    assert '\n' not in str(e.value)


# ---- files that are doubted

def test_a_fault_of_the_moment_is_never_answered_with_delete(run, store, tmp_path, monkeypatch):
    """EIO, EMFILE or a missing permission while a run is read: one line that blames no file, and nothing is
    gone."""
    from pedarr.training.grid_results import paired_table
    again = Path(shutil.copytree(run, tmp_path/'r'))
    before = {p.name for p in again.iterdir()}
    real = os.open
    for number in (errno.EIO, errno.EMFILE, errno.EACCES, errno.ENOMEM):
        for victim in (
                'metrics.json', 'predictions.csv', 'params.json', 'environment.json',
                'model-0.safetensors'):
            def failing(path, *a, **k):
                if str(path).endswith(victim): raise OSError(number, os.strerror(number), str(path))
                return real(path, *a, **k)
            monkeypatch.setattr(os, 'open', failing)
            with pytest.raises(PassingError) as e:
                open_finished(again)
                load_model(again, 0)
            assert victim in str(e.value)
            assert not any(w in str(e.value) for w in ('delete', 'damaged', 'restore', 'train again'))
            monkeypatch.undo()
    assert {p.name for p in again.iterdir()} == before


def test_a_checkpoint_that_cannot_be_read_now_is_kept(store, tmp_path, monkeypatch):
    c = make_config(store=store, run=tmp_path/'r', **{**SMALL, 'epochs': 2})
    s = open_store(store)
    sides = [rows_of(plan_roles(s, plan_split(s, c)[0], c), 0, role) for role in ('train', 'validation')]
    def stop(row): raise KeyboardInterrupt
    with contextlib.suppress(KeyboardInterrupt): fit_fold(s, *sides, c, tmp_path/'c.safetensors', stop)
    real = os.open
    def failing(path, *a, **k):
        if str(path).endswith('c.safetensors'): raise OSError(errno.EIO, 'Input/output error', str(path))
        return real(path, *a, **k)
    monkeypatch.setattr(os, 'open', failing)
    with pytest.raises(PassingError, match='Input/output error') as e:
        fit_fold(s, *sides, c, tmp_path/'c.safetensors')
    assert 'delete' not in str(e.value)
    monkeypatch.undo()
    assert len(fit_fold(s, *sides, c, tmp_path/'c.safetensors')[2]) == 2


@pytest.mark.parametrize('change, why', [
    (dict(dim=10**9), 'dim is 1000000000: it must be at most 8192'),
    (dict(dim=4096), 'is of another network|needs about'),
    (dict(depth=10**6), 'depth is 1000000: it must be at most 256'),
    (dict(depth=200), 'is of another network'),
    (dict(dim='x'), 'must be a whole number'),
    (dict(modalities='both'), 'choose one'),
    (dict(n_classes=10**9), 'damaged'),
    (dict(heads=0), 'at least 1'),
    (dict(nope=1), 'unknown option')])
def test_a_description_that_asks_for_much_memory_gets_none(run, tmp_path, change, why):
    import resource, time
    again = unvouched(run, tmp_path/'r')
    edit(again/'model.json', lambda m: m | {'model': m['model'] | change})
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(PedarrError, match=why) as e: load_model(again)
    assert '\n' not in str(e.value) and time.perf_counter() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000                      # kB


def test_numbers_come_from_the_predictions(run, tmp_path):
    again = unvouched(run, tmp_path/'r')
    whole = json.loads((again/'metrics.json').read_text())
    def top1(v):
        return lambda m: m | {'overall': m['overall'] | {'top1': m['overall']['top1'] | {'value': v}}}
    for change, why in (
            (top1(1e9), 'less than or equal to 1'),
            (top1(.99), 'overall.top1.value is not what predictions.csv gives'),
            (top1('0.5'), 'valid number'),
            (lambda m: m | {'segments': 3}, 'segments is not what'),
            (lambda m: m | {'classes': m['classes'][::-1]}, 'do not belong together'),
            (lambda m: m | {'per_class': m['per_class'][1:]}, 'per_class lists others'),
            (lambda m: m | {'split': 'segment'}, 'do not belong together')):
        (again/'metrics.json').write_text(json.dumps(change(json.loads(json.dumps(whole)))))
        for call in (lambda: open_finished(again), lambda: write_report(again), lambda: read_scores(again)):
            with pytest.raises(PedarrError, match=why) as e: call()
            assert str(again) in str(e.value) and '\n' not in str(e.value)
    wide = json.loads(json.dumps(whole))
    wide['overall']['top1'] |= {'low': 0., 'high': 1.}  # an edited interval is not shown
    (again/'metrics.json').write_text(json.dumps(wide))
    assert read_scores(again)['overall'] == whole['overall']
    t = open_finished(run).predictions
    others = pd.concat([t.predicted, t.label])
    t.loc[0, 'predicted'] = others[others != t.predicted[0]].iloc[0]
    t.to_csv(again/'predictions.csv', index=False)
    with pytest.raises(PedarrError,
                       match='predictions.csv: damaged, an answer that is not the most probable'):
        open_finished(again)
    open_finished(run).predictions.iloc[1:].to_csv(again/'predictions.csv', index=False)
    with pytest.raises(PedarrError, match='not the test segments of split.csv'): open_finished(again)


@pytest.mark.parametrize('harm, why', [
    (lambda b: b[:-1], 'not a checkpoint'),
    (lambda b: b[:8] + b[8:].replace(b'epoch', b'opech', 1), 'not a checkpoint'),
    (lambda b: b'', 'not a checkpoint'),
    (lambda b: b[:8] + b[8:].replace(b'"history', b'"hystori', 1), 'not a checkpoint')])
def test_damaged_checkpoints_are_one_line(store, tmp_path, harm, why):
    c = make_config(store=store, run=tmp_path/'r', **{**SMALL, 'epochs': 2})
    s = open_store(store)
    sides = [rows_of(plan_roles(s, plan_split(s, c)[0], c), 0, role) for role in ('train', 'validation')]
    def stop(row): raise KeyboardInterrupt
    file = tmp_path/'c.safetensors'
    with contextlib.suppress(KeyboardInterrupt): fit_fold(s, *sides, c, file, stop)
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(PedarrError, match=f'{why}.*delete it') as e: fit_fold(s, *sides, c, file)
    assert '\n' not in str(e.value)
    with pytest.raises(PedarrError, match='not a checkpoint'): fit_fold(s, *sides, c.replace(dim=64), file)


def test_every_file_of_a_finished_run_is_vouched_for(run, grown, tmp_path):
    """One flipped bit, a row less, or another file under its name: named before any number is made of it,
    weights and features too."""
    from pedarr.use.missing import predict_masked
    from pedarr.training.run_networks import run_few_shot
    for source in (run, grown):
        files = json.loads((source/'metrics.json').read_text())['files']
        assert set(files) == {p.name for p in source.iterdir()
                              if p.suffix in ('.csv', '.json', '.safetensors')} - {'metrics.json'}
        for name in files.keys() - {'features.csv'}:  # read again only to grow the trees again
            bad = Path(shutil.copytree(source, tmp_path/f'{source.parent.name}-{name}'))
            raw = bytearray((bad/name).read_bytes())
            raw[-3] ^= 1
            (bad/name).write_bytes(raw)
            calls = [lambda: load_model(bad, int(name[6])), lambda: run_few_shot(bad, shots=(1,), draws=1),
                     lambda: predict_masked(bad, (1,), draws=1)] if 'model-' in name else \
                    [lambda: open_finished(bad), lambda: write_report(bad), lambda: read_scores(bad)]
            for call in calls:
                with pytest.raises(PedarrError,
                                   match=f'{name}: (altered since the run was finished|damaged)') as e:
                    call()
                assert '\n' not in str(e.value)
