"""Two protocols in one table, and few shots from a run: what is compared, and what is refused. Run folders are written by hand where no network is needed."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from pedarr.fewshot import METHODS
from pedarr.metrics import LONE, bootstrap_scores, paired_bootstrap
from pedarr.report import class_table, macro_table, plot_recalls, prediction_codes, protocol_table, run_few_shot, run_store
from pedarr.rhythms import PedarrError
from pedarr.train import METRIC_KEYS

CLASSES = ['SR', 'AVNRT', 'VT']


def truth(n=240, subjects=12, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(dict(segment=np.arange(n), subject=[f'x{i % subjects:03}' for i in range(n)], label=np.array(CLASSES)[rng.choice(3, n, p=[.6, .3, .1])]))


def write_run(folder, table, split, share, seed=0, store='abc', **params):
    "A finished run as protocol_table reads it; `share` of its answers are right by construction."
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    predicted = np.where(rng.random(len(table)) < share, table.label, rng.choice(CLASSES, len(table)))
    table.assign(predicted=predicted).sample(frac=1, random_state=seed).to_csv(folder/'predictions.csv', index=False)
    (folder/'params.json').write_text(json.dumps(dict(split=split, grouping='', seed=seed, loss='none', store='somewhere', run=str(folder)) | params))
    (folder/'environment.json').write_text(json.dumps(dict(store_sha256=store)))
    (folder/'metrics.json').write_text(json.dumps(dict.fromkeys(METRIC_KEYS, 0) | dict(classes=[c for c in CLASSES if (table.label == c).any()])))
    return folder, pd.Series(predicted, index=table.segment)


def codes(labels): return pd.Series(labels).map({c: i for i, c in enumerate(CLASSES)}).to_numpy()


def test_protocol_table_is_the_paired_difference(tmp_path):
    t = truth()
    (a, pa), (b, pb) = write_run(tmp_path/'a', t, 'patient', .5), write_run(tmp_path/'b', t, 'segment', .8)
    both = protocol_table(a, str(b), n_resamples=300)
    y, who = codes(t.label), t.subject.to_numpy()
    pd.testing.assert_series_equal(both.overall['patient'].value, bootstrap_scores(y, codes(pa), who, 3, n_resamples=300).value)
    want = paired_bootstrap(y, codes(pb), codes(pa), who, 3, n_resamples=300)
    np.testing.assert_allclose(both.overall['gap'].value, want.value, atol=1e-12)
    assert both.classes['class'].tolist() == CLASSES and both.classes.support.sum() == len(t)
    np.testing.assert_allclose(both.classes.gap, both.classes.segment - both.classes.patient)
    assert len(both.notes) == 1 and 'same subjects' in both.notes[0]


def test_several_seeds_are_pooled_by_subject(tmp_path):
    t = truth()
    runs = [[write_run(tmp_path/f'{kind}{seed}', t, kind, share, seed=seed)[0] for seed in (0, 1)] for kind, share in (('loso', .5), ('segment', .8))]
    both = protocol_table(*runs, n_resamples=200)
    singles = [protocol_table(a, b, n_resamples=200).overall.loc['top1', ('gap', 'value')] for a, b in zip(*runs)]
    assert both.overall.loc['top1', ('gap', 'value')] == pytest.approx(np.mean(singles))
    assert both.classes.support.sum() == len(t)
    with pytest.raises(PedarrError, match='1 runs by patient and 2 by segment'): protocol_table(runs[0][:1], runs[1])
    with pytest.raises(PedarrError, match='differ in seed'): protocol_table(runs[0], runs[1][::-1])


def test_a_class_that_one_run_left_out_is_said(tmp_path):
    t = truth()
    few = t[t.label != 'VT']
    a, b = write_run(tmp_path/'a', few, 'patient', 1., lone_classes='drop')[0], write_run(tmp_path/'b', t, 'segment', 1., lone_classes='keep')[0]
    both = protocol_table(a, b, n_resamples=100)
    assert both.classes['class'].tolist() == CLASSES[:2] and both.notes[1].startswith('VT was tested by one of the two only')
    lone = t.assign(label=np.where((t.label == 'VT') & (t.subject != 'x003'), 'SR', t.label))
    assert ((lone.label == 'VT') & (lone.subject == 'x003')).any()
    a, b = write_run(tmp_path/'c', lone, 'patient', .5)[0], write_run(tmp_path/'d', lone, 'segment', .8)[0]
    assert protocol_table(a, b, n_resamples=100).classes.set_index('class').note['VT'] == LONE


@pytest.mark.parametrize('change, says', [
    (dict(split='patient'), 'give runs by patient'), (dict(store='other'), 'different stores'), (dict(loss='agcacl'), 'differ in loss'), (dict(grouping='beats'), 'differ in grouping')])
def test_runs_that_do_not_compare(tmp_path, change, says):
    t = truth()
    a, b = write_run(tmp_path/'a', t, 'patient', .5)[0], write_run(tmp_path/'b', t, **dict(split='segment', share=.5) | change)[0]
    with pytest.raises(PedarrError, match=says) as e: protocol_table(a, b, n_resamples=50)
    assert '\n' not in str(e.value)


def test_damaged_runs(tmp_path):
    t = truth()
    a, b = write_run(tmp_path/'a', t, 'patient', .5)[0], write_run(tmp_path/'b', t, 'segment', .5)[0]
    t.assign(predicted='SR', label='SR').to_csv(b/'predictions.csv', index=False)
    with pytest.raises(PedarrError, match='under other labels'): protocol_table(a, b)
    t.assign(predicted='XX').to_csv(b/'predictions.csv', index=False)
    with pytest.raises(PedarrError, match="'XX' is none of"): protocol_table(a, b)
    (b/'predictions.csv').unlink()
    with pytest.raises(PedarrError, match='missing'): protocol_table(a, b)
    with pytest.raises(PedarrError, match='missing'): protocol_table(a, tmp_path/'nowhere')


def test_recall_figure_and_notes():
    t = truth().assign(predicted='SR')
    fig = plot_recalls(t.assign(label=np.where(t.label == 'VT', 'SR', t.label)).assign(label=lambda x: np.where(x.index == 0, 'VT', x.label)), CLASSES)
    ticks = [x.get_text() for x in fig.axes[0].get_xticklabels()]
    assert ticks[2] == 'VT\n1\nuntestable' and 'untestable' not in ticks[0]
    import matplotlib.pyplot as plt
    plt.close(fig)
    fig = plot_recalls(pd.concat([t.assign(subject=t.subject + str(i)) for i in range(8)]), CLASSES)       # many subjects: no taller than a page
    assert fig.get_size_inches()[1] <= 12
    plt.close(fig)
    old = dict(per_class=[{'class': 'VT', 'support': 3, 'subjects': 1, 'precision': None, 'recall': 0., 'f1': 0., 'f2': 0.}])      # from before there were notes
    assert class_table(old).note.tolist() == [LONE] and class_table(old).precision.tolist() == ['-']


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A run by patient on simulated recordings: two folds, one epoch."
    from pedarr.preprocess import PreprocessConfig, build_store
    from pedarr.simulate import simulate_database
    from pedarr.train import make_config, run_training
    root = tmp_path_factory.mktemp('report')
    simulate_database(root/'db', subjects=6, minutes=1., seed=2)
    build_store(root/'db', root/'store', 'leipzig', config=PreprocessConfig(rate=250., iegm_band=(30., 110.)), progress=False)
    c = make_config(store=root/'store', run=root/'run', epochs=1, dim=32, depth=1, n_folds=2, lone_classes='drop', resamples=100)
    return run_training(c, progress=False)


def test_few_shots_of_a_run(tiny, tmp_path):
    found, classes = run_few_shot(tiny, shots=(1,), draws=4)
    p = pd.read_csv(tiny/'predictions.csv', dtype={'subject': str})
    assert set(found.subject) <= set(p.subject) and ((found[list(METHODS)] >= 0) & (found[list(METHODS)] <= 1)).all(axis=None)
    n = p.groupby(['subject', 'label']).size()
    for r in found.itertuples(): assert 1 <= r.segments <= n[r.subject, classes[getattr(r, '_3')]] - 1
    pd.testing.assert_frame_equal(found, run_few_shot(tiny, shots=(1,), draws=4)[0])
    store, fold = run_store(tiny)
    assert (np.sort(np.unique(fold[fold >= 0])) == [0, 1]).all() and store.classes == classes
    copy = tmp_path/'run'; shutil.copytree(tiny, copy)                          # the split was edited: a subject in two folds
    t = pd.read_csv(copy/'split.csv', keep_default_na=False); t.loc[t.index[t.fold >= 0][0], 'fold'] ^= 1; t.to_csv(copy/'split.csv', index=False)
    with pytest.raises(PedarrError, match='training and test'): run_few_shot(copy, shots=(1,))
    (copy/'split.csv').unlink()
    with pytest.raises(PedarrError, match='split.csv: missing'): run_few_shot(copy, shots=(1,))


def test_report_of_a_run_has_the_tables(tiny):
    from pedarr.report import write_report
    html = write_report(tiny).read_text()
    assert 'alt="recalls"' in html and '<th>note</th>' in html
    p = pd.read_csv(tiny/'predictions.csv', dtype={'subject': str})
    classes = json.loads((tiny/'metrics.json').read_text())['classes']
    rows = macro_table(*prediction_codes(p, classes), p.subject.to_numpy(), classes, n_resamples=100)
    assert ('macro means with and without' in html) == (len(rows) > 1)


def test_what_trees_do_not_have_may_differ(tmp_path):
    "Runs of trees keep a loss in params.json that they were not trained with; it must neither be compared nor shown."
    from pedarr.report import describe_model
    t = truth()
    a, b = (write_run(tmp_path/split, t, split, .6, model='trees', loss=loss, model_options={})[0] for split, loss in (('patient', 'agcacl'), ('segment', 'none')))
    assert len(protocol_table(a, b, n_resamples=200).classes) == len(CLASSES)
    c, d = (write_run(tmp_path/f'net-{split}', t, split, .6, loss=loss)[0] for split, loss in (('patient', 'agcacl'), ('segment', 'none')))
    with pytest.raises(PedarrError, match='differ in loss'): protocol_table(c, d)
    with pytest.raises(PedarrError, match='differ in'): protocol_table(a, d)
    assert 'agcacl' not in describe_model(json.loads((a/'params.json').read_text())) and 'annotated beats' in describe_model(dict(model='trees', model_options={'beats': 'db'}))


def test_a_run_without_a_contrastive_loss_has_no_empty_panel():
    from pedarr.report import plot_learning
    history = pd.DataFrame(dict(fold=[0, 0], epoch=[0, 1], classification=[1., .5], contrastive=0., test_top1=[.5, .6]))
    titles = [[ax.get_title() for ax in plot_learning(history.assign(contrastive=c)).axes] for c in (0., 1.)]
    assert titles == [['classification loss', 'top-1 on the test fold'], ['classification loss', 'contrastive loss', 'top-1 on the test fold']]
