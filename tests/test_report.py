"""Two protocols in one table, and few shots from a run: what is compared, and what is refused."""
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from helpers import AT_250_HZ, drop_key, edit_json
from pedarr.evaluation.fewshot import METHODS
from pedarr.evaluation.subgroups import SINGLE_SUBJECT
from pedarr.evaluation.comparison import paired_bootstrap
from pedarr.evaluation.bootstrap import bootstrap_scores
from pedarr.core.errors import PedarrError
from pedarr.core.pages import PAGE_STYLE, contrast_ratio
from pedarr.use.report import class_score_table
from pedarr.training.run_figures import plot_recalls
from pedarr.training.protocols import protocol_table
from pedarr.training.run_networks import run_few_shot, run_store
from pedarr.evaluation.subgroups import macro_table
from pedarr.training.run_tables import subjects_per_class
from pedarr.training.finished_runs import compute_metrics, prediction_codes, split_warning
from pedarr.training.config import make_config

CLASSES = ['SR', 'AVNRT', 'VT']


def truth(n=240, subjects=12, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(dict(segment=np.arange(n), subject=[f'x{i % subjects:03}' for i in range(n)],
                             label=np.array(CLASSES)[rng.choice(3, n, p=[.6, .3, .1])]))


def probabilities(predicted, classes):
    "Columns p_: the predicted class has most."
    return {f'p_{c}': np.where(predicted == c, .5 + .5/len(classes), .5/len(classes)) for c in classes}


def write_run(folder, table, split, share, seed=0, store='a'*64, **params):
    "A finished run of a network that nobody trained; `share` of its answers are right by construction."
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    classes = [c for c in CLASSES if (table.label == c).any()]
    predicted = np.where(rng.random(len(table)) < share, table.label, rng.choice(classes, len(table)))
    t = table.assign(fold=0, record='r', start=table.segment*10, stop=table.segment*10 + 5, rhythm='N',
                     predicted=predicted, **probabilities(predicted, classes), weight_ecg=1., weight_iegm=0.)
    t.sample(frac=1, random_state=seed).to_csv(folder/'predictions.csv', index=False)
    rows = pd.DataFrame(dict(segment=range(table.segment.max() + 1), record='r', subject='nobody', label='',
                             evaluate=False, fold=-1))
    rows.loc[table.segment, ['subject', 'label']] = table[['subject', 'label']].to_numpy()
    rows.loc[table.segment, ['evaluate', 'fold']] = [True, 0]
    rows.to_csv(folder/'split.csv', index=False)
    history = dict(fold=0, epoch=0, segments=9, classification=1., contrastive=0., seconds=1., wait_share=0.,
                   validation_top1=.5)
    pd.DataFrame([history]).to_csv(folder/'history.csv', index=False)
    config = make_config(**dict(store='somewhere', run=str(folder), split=split, seed=seed, loss='none',
                                resamples=100) | params)
    def write(name, value):
        text = json.dumps(value, default=lambda x: x.item()).replace('NaN', 'null')
        (folder/f'{name}.json').write_text(text)
    write('params', config.__dict__)
    named = ('pedarr', 'python', 'torch', 'numpy', 'sklearn', 'device', 'store', 'database')
    found = dict(commit=None, changed=False, store_sha256={'ecg.npy': store})
    write('environment', dict.fromkeys(named, 'x') | found)
    write('model', dict(network=config.model, model={}, classes=classes, folds=[0]))
    metrics = compute_metrics(t, classes, config, [split_warning(split)], subjects_per_class(rows))
    write('metrics', metrics | dict(speed={}))
    return folder, pd.Series(predicted, index=table.segment)


def codes(labels): return pd.Series(labels).map({c: i for i, c in enumerate(CLASSES)}).to_numpy()


def test_protocol_table_is_the_paired_difference(tmp_path):
    t = truth()
    (a, pa), (b, pb) = write_run(tmp_path/'a', t, 'patient', .5), write_run(tmp_path/'b', t, 'segment', .8)
    both = protocol_table(a, str(b), n_resamples=300)
    y, who = codes(t.label), t.subject.to_numpy()
    pd.testing.assert_series_equal(both.overall['patient'].value,
                                   bootstrap_scores(y, codes(pa), who, 3, n_resamples=300).value)
    want = paired_bootstrap(y, codes(pb), codes(pa), who, 3, n_resamples=300)
    np.testing.assert_allclose(both.overall['gap'].value, want.value, atol=1e-12)
    assert both.classes['class'].tolist() == CLASSES and both.classes.support.sum() == len(t)
    np.testing.assert_allclose(both.classes.gap, both.classes.segment - both.classes.patient)
    assert len(both.notes) == 1 and 'same subjects' in both.notes[0]


def test_several_seeds_are_pooled_by_subject(tmp_path):
    t = truth()
    runs = [[write_run(tmp_path/f'{kind}{seed}', t, kind, share, seed=seed)[0] for seed in (0, 1)]
            for kind, share in (('loso', .5), ('segment', .8))]
    both = protocol_table(*runs, n_resamples=200)
    singles = [protocol_table(a, b, n_resamples=200).overall.loc['top1', ('gap', 'value')]
               for a, b in zip(*runs)]
    assert both.overall.loc['top1', ('gap', 'value')] == pytest.approx(np.mean(singles))
    assert both.classes.support.sum() == len(t)
    with pytest.raises(PedarrError, match='1 runs by patient and 2 by segment'):
        protocol_table(runs[0][:1], runs[1])
    with pytest.raises(PedarrError, match='differ in seed'): protocol_table(runs[0], runs[1][::-1])


def test_a_class_that_one_run_left_out_is_said(tmp_path):
    t = truth()
    few = t[t.label != 'VT']
    a = write_run(tmp_path/'a', few, 'patient', 1., single_subject_classes='drop')[0]
    b = write_run(tmp_path/'b', t, 'segment', 1., single_subject_classes='keep')[0]
    both = protocol_table(a, b, n_resamples=100)
    assert both.classes['class'].tolist() == CLASSES[:2]
    assert both.notes[1].startswith('VT was tested by one of the two only')
    one = t.assign(label=np.where((t.label == 'VT') & (t.subject != 'x003'), 'SR', t.label))
    assert ((one.label == 'VT') & (one.subject == 'x003')).any()
    a, b = write_run(tmp_path/'c', one, 'patient', .5)[0], write_run(tmp_path/'d', one, 'segment', .8)[0]
    assert protocol_table(a, b, n_resamples=100).classes.set_index('class').note['VT'] == SINGLE_SUBJECT


@pytest.mark.parametrize('change, says', [
    (dict(split='patient'), 'give runs by patient'),
    (dict(store='b'*64), 'different stores'),
    (dict(loss='agcacl'), 'differ in loss'),
    (dict(grouping='svt4', lr=1.), 'differ in grouping .*, lr')])
def test_runs_that_do_not_compare(tmp_path, change, says):
    t = truth()
    a = write_run(tmp_path/'a', t, 'patient', .5)[0]
    b = write_run(tmp_path/'b', t, **dict(split='segment', share=.5) | change)[0]
    with pytest.raises(PedarrError, match=says) as e: protocol_table(a, b, n_resamples=50)
    assert '\n' not in str(e.value)


def test_damaged_runs(tmp_path):
    t = truth()
    a, b = write_run(tmp_path/'a', t, 'patient', .5)[0], write_run(tmp_path/'b', t, 'segment', .5)[0]
    whole = pd.read_csv(b/'predictions.csv')
    other = t.assign(label=np.where(t.segment == 0, 'AVNRT' if t.label[0] != 'AVNRT' else 'SR', t.label))
    with pytest.raises(PedarrError, match='under other labels'):
        protocol_table(a, write_run(tmp_path/'c', other, 'segment', .5)[0])
    for change, why in (
            (dict(predicted='XX'), 'a class that the run does not know'),
            (dict(label='SR'), 'not the test segments of split.csv'),
            (dict(p_SR=7.), 'a probability outside 0 to 1')):
        whole.assign(**change).to_csv(b/'predictions.csv', index=False)
        with pytest.raises(PedarrError, match=why): protocol_table(a, b)
    (b/'predictions.csv').unlink()
    with pytest.raises(PedarrError, match='predictions.csv: cannot be read'): protocol_table(a, b)
    with pytest.raises(PedarrError, match='no such folder'): protocol_table(a, tmp_path/'nowhere')


def test_recall_figure_and_notes():
    t = truth().assign(predicted='SR')
    label = t.label.replace('VT', 'SR').where(t.index != 0, 'VT')      # one segment of VT
    fig = plot_recalls(t.assign(label=label), CLASSES)
    ticks = [x.get_text() for x in fig.axes[0].get_xticklabels()]
    assert ticks[2] == 'VT\n1\nuntestable' and 'untestable' not in ticks[0]
    import matplotlib.pyplot as plt
    plt.close(fig)
    # many subjects: no taller than a page
    fig = plot_recalls(pd.concat([t.assign(subject=t.subject + str(i)) for i in range(8)]), CLASSES)
    assert fig.get_size_inches()[1] <= 12
    plt.close(fig)
    old = dict(per_class=[{'class': 'VT', 'support': 3, 'subjects': 1, 'precision': None, 'recall': 0.,
                           'f1': 0.,
                           'f2': 0.}])      # from before there were notes
    assert class_score_table(old).note.tolist() == [SINGLE_SUBJECT]
    assert class_score_table(old).precision.tolist() == ['-']


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A run by patient on simulated recordings: two folds, one epoch."
    from pedarr.signals.settings import PreprocessConfig
    from pedarr.signals.build import build_store
    from pedarr.synthetic.studies import simulate_database
    from pedarr.training.train import run_training
    root = tmp_path_factory.mktemp('report')
    simulate_database(root/'db', subjects=6, minutes=1., seed=2)
    build_store(root/'db', root/'store', 'leipzig', config=AT_250_HZ, progress=False)
    c = make_config(store=root/'store', run=root/'run', epochs=1, dim=32, depth=1, n_folds=2,
                    single_subject_classes='drop', resamples=100)
    return run_training(c, progress=False)


def test_few_shots_of_a_run(tiny, tmp_path):
    found, classes = run_few_shot(tiny, shots=(1,), draws=4)
    p = pd.read_csv(tiny/'predictions.csv', dtype={'subject': str})
    assert set(found.subject) <= set(p.subject)
    assert ((found[list(METHODS)] >= 0) & (found[list(METHODS)] <= 1)).all(axis=None)
    n = p.groupby(['subject', 'label']).size()
    for r in found.itertuples(): assert 1 <= r.segments <= n[r.subject, classes[getattr(r, '_3')]] - 1
    pd.testing.assert_frame_equal(found, run_few_shot(tiny, shots=(1,), draws=4)[0])
    store, roles = run_store(tiny)
    assert roles.shape == (len(store), 2)
    assert set(roles.ravel()) == {'train', 'validation', 'test', ''}
    assert store.classes == classes
    # the split was edited: a subject in two folds
    copy = tmp_path/'run'
    shutil.copytree(tiny, copy)
    drop_key(copy/'metrics.json', 'files')      # as in an older run
    t = pd.read_csv(copy/'split.csv', keep_default_na=False)
    t.loc[t.index[t.fold >= 0][0], 'fold'] ^= 1
    t.to_csv(copy/'split.csv', index=False)
    with pytest.raises(PedarrError, match='not the test segments of split.csv'):
        run_few_shot(copy, shots=(1,))
    (copy/'split.csv').unlink()
    with pytest.raises(PedarrError, match='split.csv: cannot be read'): run_few_shot(copy, shots=(1,))
    t = pd.read_csv(tiny/'split.csv', keep_default_na=False)  # a validation subject was made to train
    t['role_0'] = t.role_0.replace('validation', 'train')
    t.loc[t.index[(t.role_0 == 'train')][0], 'role_0'] = 'validation'
    t.to_csv(copy/'split.csv', index=False)
    with pytest.raises(PedarrError, match='is in train and validation'): run_few_shot(copy, shots=(1,))


@pytest.fixture(scope='module')
def html(tiny):
    "The report of that run."
    from pedarr.use.report import write_report
    return write_report(tiny).read_text()


class Tags(HTMLParser):
    "The start tags of a page: (name, attributes)."
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs): self.found.append((tag, dict(attrs)))

    def all(self, name): return [attributes for tag, attributes in self.found if tag == name]


def test_the_report_fits_a_phone_and_names_its_parts(html):
    tags = Tags(html)
    assert dict(name='viewport', content='width=device-width,initial-scale=1') in tags.all('meta')
    assert [a['href'] for a in tags.all('a')] == ['#' + h['id'] for h in tags.all('h2')]
    titles = set(re.findall('<h2 id=s.*?>(.*?)</h2>', html))
    assert {'What was tested', 'How well', 'Cases', 'Limits'} <= titles
    assert not tags.all('script') and not tags.all('link') and len(html) < 1_000_000
    assert html.count('<p class=headline>Top-1 ') == html.count('<b>Simulated data.</b>') == 1
    assert re.search(r'<td>SR</td><td class=n>\d+</td><td class=n>\d+</td><td class=n>\d+[.]\d</td>', html)


def test_every_figure_of_the_report_is_a_legible_svg_with_words(html):
    images = Tags(html).all('img')
    words = [i['alt'] for i in images]
    assert len(set(words)) == len(words) >= 7 and all(len(w) > 20 for w in words)
    assert any('Leads II and V1 over the electrograms, ' in w and 'annotated' in w for w in words)
    assert sum(w.startswith('Twelve leads on paper') for w in words) == sum('Leads II' in w for w in words)
    for image in images:
        svg = ElementTree.fromstring(unquote(image['src'].removeprefix('data:image/svg+xml,')))
        for text in svg.iter('{http://www.w3.org/2000/svg}text'):
            fill = re.search('fill: (#......)', text.get('style', ''))
            if fill and fill[1] != '#ffffff':          # white: on the dark squares of a matrix
                assert contrast_ratio(fill[1], '#fff3f0') >= 4.5, text.text


def test_text_of_a_page_stands_out_in_the_light_and_in_the_dark():
    blocks = re.findall(':root{(.*?)}', PAGE_STYLE)
    looks = [dict(re.findall('--(.*?):(#......);', block)) for block in blocks]
    assert len(looks) == 2 and looks[0] != looks[1]
    for look in looks:
        for ink in ('ink', 'soft', 'link', 'bad'): assert contrast_ratio(look[ink], look['ground']) >= 4.5
        for ground in ('notice', 'bar'): assert contrast_ratio(look['ink'], look[ground]) >= 4.5
    coloured = re.findall(r'[{;](?:color|background):([^;}]+)', PAGE_STYLE)
    assert set(coloured) <= {*(f'var(--{name})' for name in looks[0]), '#fff'}


def test_report_of_a_run_has_the_tables(tiny, html):
    assert 'alt="Recall of each of ' in html and '<th>note</th>' in html
    p = pd.read_csv(tiny/'predictions.csv', dtype={'subject': str})
    classes = json.loads((tiny/'metrics.json').read_text())['classes']
    rows = macro_table(*prediction_codes(p, classes), p.subject.to_numpy(), classes, n_resamples=100)
    assert ('macro means with and without' in html) == (len(rows) > 1)


def test_what_trees_do_not_have_may_differ(tmp_path):
    """Runs of trees keep a loss in params.json that they were not trained with; it must neither be compared
    nor shown."""
    from pedarr.use.report import describe_model
    t = truth()
    a, b = (write_run(tmp_path/split, t, split, .6, model='trees', model_options={})[0]
            for split in ('patient', 'segment'))
    edit_json(a/'params.json', loss='agcacl', epochs=9)      # the defaults of another day
    assert len(protocol_table(a, b, n_resamples=200).classes) == len(CLASSES)
    c, d = (write_run(tmp_path/f'net-{split}', t, split, .6, loss=loss)[0]
            for split, loss in (('patient', 'agcacl'), ('segment', 'none')))
    with pytest.raises(PedarrError, match='differ in loss'): protocol_table(c, d)
    with pytest.raises(PedarrError, match='differ in'): protocol_table(a, d)
    assert 'agcacl' not in describe_model(json.loads((a/'params.json').read_text()))
    assert 'annotated beats' in describe_model(dict(model='trees', model_options={'beats': 'db'}))


def test_a_run_without_a_contrastive_loss_has_no_empty_panel():
    from pedarr.training.run_figures import plot_learning
    history = pd.DataFrame(dict(fold=[0, 0], epoch=[0, 1], classification=[1., .5], contrastive=0.,
                                validation_top1=[.5, .6]))
    titles = [[ax.get_title() for ax in plot_learning(history.assign(contrastive=c)).axes] for c in (0., 1.)]
    assert titles == [['classification loss', 'top-1 in validation'],
                      ['classification loss', 'contrastive loss', 'top-1 in validation']]
    old = history.rename(columns={'validation_top1': 'test_top1'})  # a run from before there was validation
    assert plot_learning(old).axes[-1].get_title() == 'top-1 on the test fold'
    none = plot_learning(history.assign(validation_top1=np.nan)).axes[-1]
    assert [t.get_text() for t in none.texts] == ['no validation']


def test_many_subjects_are_one_shape():
    from pedarr.training.run_figures import plot_subjects
    names, top1 = [f'x{i}' for i in range(90)], np.repeat([.5, 1, .25], 30)
    (shape,) = plot_subjects(pd.DataFrame(dict(subject=names, segments=2, top1=top1))).axes[0].patches
    np.testing.assert_array_equal(shape.get_data().values, [1, .5, .25])
    np.testing.assert_array_equal(shape.get_data().edges, [-.5, 29.5, 59.5, 89.5])


def test_subjects_stand_in_the_order_of_their_numbers():
    from pedarr.training.run_figures import plot_subjects
    names = ['x100', 'x0010', 'x002', 'x1']
    t = pd.DataFrame(dict(subject=[n for n in names for _ in range(4)], label=CLASSES[:2]*8, predicted='SR'))
    c = make_config(resamples=100)
    rows = compute_metrics(t, CLASSES, c, [])['per_subject']
    assert [r['subject'] for r in rows] == ['x1', 'x002', 'x0010', 'x100']
    # all alike: ties are in their order too
    fig = plot_subjects(pd.DataFrame(rows).sample(frac=1, random_state=0))
    expected = ['x1 (4)', 'x002 (4)', 'x0010 (4)', 'x100 (4)']
    assert [x.get_text() for x in fig.axes[0].get_xticklabels()] == expected
    expected = ['x1', 'x002', 'x0010', 'x100']
    assert [x.get_text() for x in plot_recalls(t, CLASSES).axes[0].get_yticklabels()] == expected
    assert 'untestable' not in plot_recalls(t.assign(subject='x1'), CLASSES,
                                            dict.fromkeys(CLASSES, 6)).axes[0].get_xticklabels()[0].get_text()


def test_cases_do_not_depend_on_the_order_of_rows():
    from pedarr.training.run_figures import choose_cases
    t = pd.DataFrame(dict(segment=range(12), label=['SR', 'VT', 'AVNRT']*4, predicted=['SR', 'VT', 'AVNRT']*4,
                          **probabilities(np.array(['SR', 'VT', 'AVNRT']*4), CLASSES)))
    cases = [choose_cases(t.sample(frac=1, random_state=s), CLASSES, right=2).segment.tolist()
             for s in range(6)]
    assert all(c == cases[0] for c in cases)
