"""Runs: repeatable, resumable, refused when mixed up; checkpoints and run folders under fault."""
import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from conftest import real
from pedarr.preprocess import PreprocessConfig, build_store, open_store
from pedarr.report import choose_cases, percent, write_report
from pedarr.rhythms import PedarrError
from pedarr.losses import LOSSES, loss_terms
from pedarr.segments import train_test
from pedarr.train import (TrainConfig, check_parameters, fit_fold, learning_rate, load_model, make_config, plan_split, predict, regroup, run_training)

SMALL = dict(epochs=1, batch_size=32, dim=32, depth=1, heads=2, n_folds=2, resamples=200)


@pytest.fixture(scope='module')
def run(store, tmp_path_factory):
    return run_training(make_config(store=store, run=tmp_path_factory.mktemp('runs')/'r', **SMALL), progress=False)


def test_run_folder_is_whole(run):
    names = {p.name for p in run.iterdir()}
    assert {'params.json', 'environment.json', 'split.csv', 'history.csv', 'predictions.csv', 'metrics.json', 'model.json', 'model-0.safetensors', 'model-1.safetensors'} <= names
    assert not [n for n in names if 'checkpoint' in n or n.endswith('.part') or n.startswith(('fold-', 'history-'))]
    assert not list(run.rglob('*.pt')) + list(run.rglob('*.pkl')), 'nothing needs pickle'


def test_every_evaluation_segment_is_predicted_once(run, store):
    p, t = pd.read_csv(run/'predictions.csv', dtype={'record': str}), open_store(store).segments
    assert sorted(p.segment) == sorted(t.segment[t.evaluate])
    probs = p[[c for c in p.columns if c.startswith('p_')]].to_numpy()
    assert np.allclose(probs.sum(1), 1, atol=1e-4)
    assert (np.array(open_store(store).classes)[probs.argmax(1)] == p.predicted).mean() > .999


def test_no_subject_on_both_sides(run):
    s = pd.read_csv(run/'split.csv', dtype={'subject': str})
    assert s.groupby('subject').fold.nunique().max() == 1


def test_same_seed_same_predictions(run, store, tmp_path):
    again = run_training(make_config(store=store, run=tmp_path/'r', **SMALL), progress=False)
    assert (again/'predictions.csv').read_bytes() == (run/'predictions.csv').read_bytes()


def test_another_seed_another_result(run, store, tmp_path):
    other = run_training(make_config(store=store, run=tmp_path/'r', **SMALL, seed=1), progress=False)
    assert (other/'predictions.csv').read_bytes() != (run/'predictions.csv').read_bytes()


def test_report_is_self_contained_and_says_simulated(run):
    html = write_report(run).read_text()
    assert 'Simulated data' in html and 'src="data:image/png;base64' in html and '<script' not in html and 'src="http' not in html
    assert 'no subject is in training and test at once' in html.lower()
    for c in json.loads((run/'metrics.json').read_text())['classes']: assert c in html


def test_other_parameters_in_the_same_folder_are_refused(run, store):
    with pytest.raises(PedarrError, match='holds a run with epochs=1, not 2'): run_training(make_config(**{**SMALL, 'epochs': 2}, store=store, run=run), progress=False)


def test_a_folder_with_other_things_is_left_alone(store, tmp_path):
    (tmp_path/'thesis.txt').write_text('precious')
    with pytest.raises(PedarrError, match='not a run folder'): run_training(make_config(store=store, run=tmp_path, **SMALL), progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


def test_a_model_for_other_classes_is_refused(run):
    with pytest.raises(PedarrError, match='knows the classes'): load_model(run, classes=['SR', 'AF'])


def test_a_damaged_model_is_refused(run, tmp_path):
    import shutil
    bad = shutil.copytree(run, tmp_path/'bad')
    (bad/'model-0.safetensors').write_bytes(b'not tensors')
    with pytest.raises(PedarrError, match='model-0.safetensors'): load_model(bad, 0)
    with pytest.raises(PedarrError, match='has no fold 7'): load_model(run, 7)


def test_a_damaged_checkpoint_is_refused(store, tmp_path):
    c = make_config(store=store, run=tmp_path/'r', **SMALL)
    (tmp_path/'r').mkdir(); (tmp_path/'r'/'params.json').write_text(json.dumps(dataclasses.asdict(c)))
    (tmp_path/'r'/'checkpoint-0.safetensors').write_bytes(b'\x00'*100)
    with pytest.raises(PedarrError, match='checkpoint-0.safetensors.*delete it'): run_training(c, progress=False)


def test_an_unfinished_run_has_no_report(tmp_path):
    with pytest.raises(PedarrError, match='not a finished run'): write_report(tmp_path)


def test_a_full_disk_leaves_no_half_written_run(store, tmp_path, monkeypatch):
    import pedarr.train as t
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(t, 'save_file', full)
    with pytest.raises(PedarrError, match='No space left on device.*free some space'): run_training(make_config(store=store, run=tmp_path/'r', **SMALL), progress=False)
    assert not (tmp_path/'r'/'metrics.json').exists() and not list((tmp_path/'r').glob('*.part'))


@pytest.mark.parametrize('loss', [*LOSSES, 'ldam+agcacl'])
def test_every_loss_trains_and_is_finite(store, tmp_path, loss):
    c = make_config(store=store, run=tmp_path/'r', **{**SMALL, 'fold': 0, 'loss': loss, 'logit_adjust': 1.0 if loss_terms(loss)[0] == 'ce' else 0.})
    m = json.loads((run_training(c, progress=False)/'metrics.json').read_text())
    h = pd.read_csv(tmp_path/'r'/'history.csv')
    assert np.isfinite(h[['classification', 'contrastive']]).all(axis=None) and (loss_terms(loss)[1] == 'none') == (h.contrastive == 0).all()
    assert m['loss'] == loss


@pytest.mark.parametrize('loss', ['proco', 'bcl', 'ldam+agcacl'])
def test_a_run_cut_off_after_any_epoch_ends_the_same(store, tmp_path, loss):
    c = make_config(store=store, run='x', **{**SMALL, 'epochs': 3, 'loss': loss, 'loss_options': {'defer': .5} if 'ldam' in loss else {}})
    s = open_store(store)
    train, test = train_test(s.segments, plan_split(s, c)[0], 0, c.split)
    class Stop:
        def __init__(self, after): self.left = after + 1
        def update(self, n=1):
            self.left -= 1
            if not self.left: raise KeyboardInterrupt
        def set_postfix(self, **kw): pass
    whole = fit_fold(s, train, test, c)[0].state_dict()
    for after in (1, 2):
        try: fit_fold(s, train, test, c, tmp_path/f'{after}.safetensors', Stop(after))
        except KeyboardInterrupt: pass
        again = fit_fold(s, train, test, c, tmp_path/f'{after}.safetensors')[0].state_dict()
        assert whole.keys() == again.keys() and all(torch.equal(v, again[k]) for k, v in whole.items())


def test_names_that_mean_the_same_give_the_same_run(store, tmp_path):
    runs = [run_training(make_config(store=store, run=tmp_path/str(i), **{**SMALL, 'fold': 0, **o}), progress=False)/'predictions.csv'
            for i, o in enumerate([dict(loss='none'), dict(loss='ce'), dict(loss='none', logit_adjust=1.), dict(loss='logit')])]
    a, b, c, d = (p.read_bytes() for p in runs)
    assert a == b and c == d and a != c


def test_model_options_reach_the_network_and_come_back(store, tmp_path):
    c = make_config(store=store, run=tmp_path/'r', **{**SMALL, 'fold': 0, 'model_options': {'proj_dim': 8}, 'loss': 'ldam', 'loss_options': {'scale': 20.}})
    run = run_training(c, progress=False)
    assert json.loads((run/'params.json').read_text())['model_options'] == {'proj_dim': 8}
    model, meta = load_model(run)
    assert model.config['proj_dim'] == 8 and model.head.scale == meta['cosine_head'] == 20
    with pytest.raises(PedarrError, match='holds a run with model_options'): run_training(make_config(store=store, run=run, **{**SMALL, 'fold': 0, 'loss': 'ldam', 'loss_options': {'scale': 20.}}), progress=False)


def test_a_run_from_before_model_options_and_encoders_is_still_known(store, run, tmp_path):
    import shutil
    old = shutil.copytree(run, tmp_path/'old')
    params = json.loads((old/'params.json').read_text())
    del params['model_options'], params['encoder']
    (old/'params.json').write_text(json.dumps(params))
    meta = json.loads((old/'model.json').read_text())
    del meta['cosine_head'], meta['model']['encoder'], meta['model']['centre']
    (old/'model.json').write_text(json.dumps(meta))
    assert run_training(make_config(store=store, run=old, **SMALL), progress=False) == old
    assert load_model(old)[0].config['encoder'] == 'plain'
    with pytest.raises(PedarrError, match="holds a run with encoder='plain'"): run_training(make_config(store=store, run=old, **SMALL, encoder='deep'), progress=False)


@pytest.mark.parametrize('options', [dict(modalities='ecg'), dict(modalities='iegm'), dict(precision='bf16'), dict(split='segment'), dict(balanced=True), dict(grouping='svt4'), dict(workers=1)])
def test_options_run(store, tmp_path, options):
    c = make_config(store=store, run=tmp_path/'r', **{**SMALL, 'fold': 0, **options})
    m = json.loads((run_training(c, progress=False)/'metrics.json').read_text())
    if options.get('split') == 'segment': assert 'overstates' in m['notes'][0]
    if options.get('grouping') == 'svt4': assert m['classes'] == ['SR', 'AVNRT', 'AVRT', 'OTHER']
    p = pd.read_csv(tmp_path/'r'/'predictions.csv')
    if options.get('modalities') == 'ecg': assert (p.weight_iegm == 0).all()


@pytest.mark.parametrize('params, say', [
    (dict(epohcs=3), "unknown parameter 'epohcs': use one of store"), (dict(epochs=2.5), 'epochs must be a whole number'), (dict(epochs=True), 'epochs must be a whole number'),
    (dict(lr='fast'), 'lr must be a number'), (dict(lr=float('nan')), 'lr must be a number'), (dict(lr=-1.), 'lr must be positive'), (dict(balanced=1), 'balanced must be true or false'),
    (dict(loss='hinge'), "unknown loss 'hinge': use one of none, agcacl"), (dict(split='random'), "unknown split 'random': use one of"), (dict(grouping='g'), "unknown grouping 'g': use one of rhythm8"),
    (dict(fold='first'), 'fold must be a whole number'), (dict(n_folds=1), 'n_folds must be at least 2'), (dict(store=3), 'store must be a text'), (dict(precision='fp4'), 'unknown precision'),
    (dict(modalities='eeg'), 'unknown modalities'), (dict(resamples=0), 'resamples must be at least'),
    (dict(loss='agcacl+ldam'), 'in this order'), (dict(model_options=3), 'model_options must be a dictionary'), (dict(model_options={'layers': 3}), "unknown model option 'layers'"),
    (dict(model_options={'dropout': .3}), "'dropout' is a parameter of its own")])
def test_wrong_parameters_are_refused_by_name(params, say):
    with pytest.raises(PedarrError, match=say): make_config(**params)


@pytest.mark.parametrize('params, say', [(dict(device='tpu'), "device 'tpu' is not available"), (dict(fold=9), 'fold is 9'), (dict(n_folds=50), 'fold'), (dict(loss_options={'nope': 1}), 'nope'),
                                         (dict(loss='focal', logit_adjust=1.), 'takes no logit_adjust'), (dict(loss='ldam', loss_options={'tau': .1}), 'it takes margin'),
                                         (dict(model_options={'proj_dim': 'wide'}), 'model_options'), (dict(model_options={'proj_dim': 0}), 'proj_dim'), (dict(heads=3), 'heads|dim'), (dict(normalise='zscore'), 'zscore'), (dict(grouping='ludb7'), 'finds 0 of its classes')])
def test_impossible_runs_are_refused(store, tmp_path, params, say):
    with pytest.raises(PedarrError, match=say): run_training(make_config(store=store, run=tmp_path/'r', **{**SMALL, **params}), progress=False)


def test_papermill_cells_are_read(): 
    check_parameters(['', 'x = 1', '# Parameters\nepochs = 1\nstore = "a"'])
    with pytest.raises(PedarrError, match='epohcs'): check_parameters(['# Parameters\nepohcs = 1'])


@given(st.integers(1, 500), st.floats(0, .9))
@settings(max_examples=50)
def test_learning_rate_rises_then_falls(steps, warmup):
    r = np.array([learning_rate(s, steps, 1., warmup) for s in range(steps)])
    peak = int(r.argmax())
    assert (r > 0).all() and r.max() <= 1 and (np.diff(r[:peak + 1]) >= 0).all() and (np.diff(r[peak:]) <= 0).all()


@given(st.floats(0, 1))
def test_percent(v): assert percent(dict(value=v, low=None)).endswith('one subject)')


def test_cases_follow_the_rule():
    p = pd.DataFrame({'segment': range(4), 'label': list('aabb'), 'predicted': list('abab'), 'p_a': [.9, .2, .6, .1], 'p_b': [.1, .8, .4, .9]})
    cases = choose_cases(p, ['a', 'b'], 2, 2)
    assert cases.right.tolist() == [True, True, False, False] and cases.segment.tolist()[2:] == [1, 2]


def test_both_modalities_of_a_real_recording(tmp_path):
    "iafdb: surface leads and coronary sinus electrograms of a real recording go through the network."
    from pedarr.model import PedArrNet
    from pedarr.segments import SegmentDataset, make_loader
    s = build_store(real('iafdb'), tmp_path/'s', 'iafdb', progress=False)
    assert s.mask[:, :12].sum(1).min() == 3 and s.mask[:, 12:].any(1).all()
    out = predict(PedArrNet(8).eval(), make_loader(SegmentDataset(s, np.arange(len(s))), 16, shuffle=False), torch.device('cpu'))
    assert np.isfinite(out['prob']).all() and (out['weights'] > 0).all() and np.allclose(out['weights'].sum(1), 1, atol=1e-5)


def test_safetensors_own_error_on_a_full_disk_is_one_line_too(store, tmp_path, monkeypatch):
    from safetensors import SafetensorError
    import pedarr.train as t
    def full(*a, **k): raise SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)')
    monkeypatch.setattr(t, 'save_file', full)
    with pytest.raises(PedarrError, match='No space left on device'): run_training(make_config(store=store, run=tmp_path/'r', **SMALL), progress=False)


def test_a_run_of_another_store_is_not_taken_for_this_one(run, simulated, tmp_path):
    other = build_store(simulated, tmp_path/'other', 'leipzig', config=PreprocessConfig(rate=250., iegm_band=(30., 110.), window=2.), progress=False)
    with pytest.raises(PedarrError, match='store with other contents'): run_training(make_config(store=other.path, run=run, **SMALL), progress=False)
    with pytest.raises(PedarrError, match='store with other contents'): write_report(run, other)


def test_environment_without_git(store, run, monkeypatch):
    import pedarr.train as t
    monkeypatch.setenv('PATH', '')
    assert t.environment(open_store(store), torch.device('cpu'))['commit'] is None


def test_a_resume_elsewhere_is_recorded(run, tmp_path):
    from pedarr.train import write_environment
    for device in ('a', 'a', 'b', 'b', 'a'): write_environment(tmp_path, dict(device=device))
    assert json.loads((tmp_path/'environment.json').read_text()) == dict(device='a', resumed=[dict(device='b')])


def test_a_diverged_network_is_one_line_not_a_traceback():
    class Broken(torch.nn.Module):
        def forward(self, *inputs): return type('Out', (), {k: torch.full((2, 3), float('nan')) for k in ('logits', 'modality_weights', 'embedding')})
    batch = type('Batch', (), dict(index=torch.arange(2)))
    from pedarr import train as T
    keep, T._inputs = T._inputs, lambda batch, device: ()
    try:
        with pytest.raises(PedarrError, match='diverged'): T.predict(Broken(), [batch], torch.device('cpu'))
    finally: T._inputs = keep


@pytest.mark.parametrize('name', ['xresnet1d', 'inceptiontime'])
def test_a_baseline_trains_reports_and_is_rebuilt(store, tmp_path, name):
    done = run_training(make_config(store=store, run=tmp_path/'r', **SMALL, model=name, model_options={'width': 8}), progress=False)
    meta = json.loads((done/'model.json').read_text())
    assert meta['network'] == name and meta['model']['width'] == 8
    model, _ = load_model(done)
    assert type(model).__name__.lower() == name
    html = write_report(done).read_text()
    assert f'Network: {name}' in html and 'does not weigh the modalities' in html


def test_unknown_networks_and_options_of_another_network():
    with pytest.raises(PedarrError, match='unknown model'): make_config(model='resnet')
    with pytest.raises(PedarrError, match='unknown model option'): make_config(model='xresnet1d', model_options={'fusion': 'late'})


def test_a_split_that_changed_under_a_run_is_refused(run, store, tmp_path):
    import shutil
    again = Path(shutil.copytree(run, tmp_path/'r'))
    (again/'metrics.json').unlink()
    table = pd.read_csv(again/'split.csv'); table['fold'] = 1 - table.fold; table.to_csv(again/'split.csv', index=False)
    config = make_config(**{**SMALL, 'store': store, 'run': again})
    params = json.loads((again/'params.json').read_text()); params['run'] = str(again); (again/'params.json').write_text(json.dumps(params))
    with pytest.raises(PedarrError, match='another split'): run_training(config, progress=False)


TREES = dict(model='trees', n_folds=2, resamples=200, model_options={'max_iter': 5})


@pytest.fixture(scope='module')
def grown(store, tmp_path_factory):
    return run_training(make_config(store=store, run=tmp_path_factory.mktemp('trees')/'r', **TREES), progress=False)


def test_trees_leave_the_folder_of_a_run(grown, run, store):
    mine, theirs = (json.loads((r/'metrics.json').read_text()) for r in (grown, run))
    assert list(mine) == list(theirs) and mine['notes'] == theirs['notes'] and mine['classes'] == theirs['classes']
    assert list(mine['speed']) == list(theirs['speed']) and 0 < mine['speed']['wait_share'] < 1 and mine['speed']['segments_per_second'] > 0
    assert mine['loss'] == 'log loss of boosting' and 'agcacl' not in json.dumps(mine)
    p, q = (pd.read_csv(r/'predictions.csv', dtype={'record': str}).sort_values('segment', ignore_index=True) for r in (grown, run))
    assert list(p) == list(q) and p[['segment', 'fold', 'record', 'label']].equals(q[['segment', 'fold', 'record', 'label']])
    assert (grown/'split.csv').read_bytes() == (run/'split.csv').read_bytes()
    assert {p.name for p in grown.iterdir()} == {'params.json', 'environment.json', 'split.csv', 'history.csv', 'predictions.csv', 'metrics.json', 'model.json', 'features.csv'}
    assert len(pd.read_csv(grown/'history.csv')) == 2


def test_trees_of_a_run_are_those_of_chapter_07a(grown, store):
    from pedarr.baselines import boosted_trees, segment_features
    s = open_store(store)
    want = boosted_trees(s, segment_features(s), plan_split(s, make_config(**TREES))[0], max_iter=5)
    got = pd.read_csv(grown/'predictions.csv', dtype={'record': str, 'subject': str})
    assert (got.predicted == want.predicted).all() and np.array_equal(got.filter(like='p_'), want.filter(like='p_'))


def test_trees_killed_between_folds_end_the_same(grown, store, tmp_path):
    "SIGKILL when the second fold begins; the resumed run reads the features and the first fold, and ends byte for byte as the undisturbed one."
    import subprocess, sys
    script = f"""
import os, signal, pedarr.train as t
grow = t.run_trees
def deadly(store, features, measured, fold, k, *rest):
    if k == 1: os.kill(os.getpid(), signal.SIGKILL)
    grow(store, features, measured, fold, k, *rest)
t.run_trees = deadly
t.run_training(t.make_config(store={str(store)!r}, run={str(tmp_path/'r')!r}, **{TREES!r}), progress=False)
"""
    assert subprocess.run([sys.executable, '-c', script], capture_output=True).returncode == -9
    r = tmp_path/'r'
    assert (r/'fold-0.csv').exists() and not (r/'fold-1.csv').exists() and not (r/'metrics.json').exists()
    stamps = {n: (r/n).stat().st_mtime_ns for n in ('features.csv', 'fold-0.csv')}
    import pedarr.train as t
    measured = []
    keep, t.segment_features = t.segment_features, lambda *a, rows=None, **k: (measured.append(rows), keep(*a, rows=rows, **k))[1]
    try: run_training(make_config(store=store, run=r, **TREES), progress=False)
    finally: t.segment_features = keep
    assert all(rows is not None and len(rows) <= 3 for rows in measured), 'the features were measured again'
    assert (r/'features.csv').stat().st_mtime_ns == stamps['features.csv']
    assert (r/'predictions.csv').read_bytes() == (grown/'predictions.csv').read_bytes()
    a, b = (json.loads((f/'metrics.json').read_text()) for f in (r, grown))
    assert {k: v for k, v in a.items() if k != 'speed'} == {k: v for k, v in b.items() if k != 'speed'}
    assert not list(r.glob('fold-*')) and not list(r.glob('history-*')) and not list(r.glob('*.part'))


@pytest.mark.parametrize('options', [dict(modalities='ecg'), dict(split='segment'), dict(grouping='svt4', balanced=True), dict(fold=1, workers=1), dict(model_options={'max_iter': 3, 'max_features': .5})])
def test_options_of_trees_run(store, grown, tmp_path, options):
    from pedarr.train import open_run
    c = make_config(store=store, run=tmp_path/'r', **{**TREES, **options})
    if c.modalities == 'both': (open_run(c.run, c)/'features.csv').write_bytes((grown/'features.csv').read_bytes())     # those of another run of the store, to save time
    m, p = json.loads((run_training(c, progress=False)/'metrics.json').read_text()), pd.read_csv(tmp_path/'r'/'predictions.csv')
    if c.split == 'segment': assert 'overstates' in m['notes'][0]
    if c.grouping: assert m['classes'] == ['SR', 'AVNRT', 'AVRT', 'OTHER']
    if c.modalities == 'ecg': assert (p.weight_iegm == 0).all() and pd.read_csv(tmp_path/'r'/'features.csv').va.isna().all()
    if c.fold == 1: assert (p.fold == 1).all() and json.loads((tmp_path/'r'/'model.json').read_text())['folds'] == [1]


def test_annotated_beats_are_used_and_noted(store, simulated, grown, tmp_path):
    c = make_config(store=store, run=tmp_path/'r', **{**TREES, 'model_options': {'max_iter': 3, 'beats': str(simulated)}})
    m = json.loads((run_training(c, progress=False)/'metrics.json').read_text())
    assert 'annotations' in m['notes'][-1]
    a, b = (pd.read_csv(r/'features.csv') for r in (tmp_path/'r', grown))
    assert not np.allclose(a.rr, b.rr, equal_nan=True)
    assert 'annotated beats' in write_report(tmp_path/'r').read_text()


@pytest.mark.parametrize('harm, say', [(lambda b: b[:200], 'features.csv'), (lambda b: b'', 'features.csv: missing or no table'), (lambda b: b.replace(b'rr', b'RR', 1), 'damaged, or measured in other segments'),
                                       (lambda b: b[:b.rindex(b'\n', 0, -1) + 1], 'damaged')])
def test_features_of_something_else_are_refused(grown, store, tmp_path, harm, say):
    import shutil
    bad = Path(shutil.copytree(grown, tmp_path/'r'))
    (bad/'metrics.json').unlink()
    (bad/'features.csv').write_bytes(harm((bad/'features.csv').read_bytes()))
    with pytest.raises(PedarrError, match=say): run_training(make_config(store=store, run=bad, **TREES), progress=False)


@pytest.mark.parametrize('params, say', [
    (dict(epochs=3), 'epochs means nothing to model trees'), (dict(loss='focal'), 'loss means nothing'), (dict(loss_options={'a': 1}), 'loss_options means nothing'), (dict(augment=False), 'augment means nothing'),
    (dict(model_options={'trees': 5}), "unknown model option 'trees': use one of max_iter"), (dict(model_options={'class_weight': 'balanced'}), "unknown model option 'class_weight'"),
    (dict(model_options={'max_iter': '5'}), "options .* no trees can be grown .*max_iter"), (dict(model_options={'learning_rate': -1.}), 'learning_rate'), (dict(model_options={'beats': 3}), 'beats .* must be a text')])
def test_wrong_parameters_of_trees_are_refused_by_name(params, say):
    with pytest.raises(PedarrError, match=say): make_config(model='trees', **params)


@pytest.mark.parametrize('params, say', [(dict(model_options={'beats': '/nowhere'}), 'nowhere'), (dict(fold=9), 'fold is 9'), (dict(n_folds=50), 'fold')])
def test_impossible_runs_of_trees_leave_nothing(store, tmp_path, params, say):
    with pytest.raises(PedarrError, match=say): run_training(make_config(store=store, run=tmp_path/'r', **{**TREES, **params}), progress=False)
    assert not (tmp_path/'r').exists()


def test_a_run_of_trees_has_no_network(grown, store):
    from pedarr.report import embed, run_few_shot
    s = open_store(store)
    for ask in (lambda: load_model(grown), lambda: embed(grown, 0, s, [0]), lambda: run_few_shot(grown)):
        with pytest.raises(PedarrError, match='boosted trees, which has no network and no embeddings'): ask()


def test_a_run_of_trees_and_a_network_are_not_mixed_up(grown, run, store):
    with pytest.raises(PedarrError, match="holds a run with"): run_training(make_config(store=store, run=grown, **SMALL), progress=False)
    with pytest.raises(PedarrError, match="holds a run with"): run_training(make_config(store=store, run=run, **TREES), progress=False)
