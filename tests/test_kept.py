"""The tables of nbs/results, made again from the answers that lie beside them."""
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from functools import cache
from glob import glob
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from helpers import unpacked_probabilities
from pedarr.core.array_files import arrays_file, compressed, decompressed, few_bits, read_arrays
from pedarr.core.errors import PedarrError, error_line
from pedarr.core.tables import read_json
from pedarr.data.known_databases import data_source
from pedarr.evaluation.bootstrap import bootstrap_scores, format_score, summary_row
from pedarr.evaluation.comparison import holm_correction, paired_scores
from pedarr.evaluation.few_patients import few_patients_classes, few_patients_difference, few_patients_table
from pedarr.evaluation.fewshot import GAINS, METHODS, few_shot_difference, few_shot_table
from pedarr.evaluation.means_over_draws import mean_difference, mean_over_draws, mean_table, paired_seeds
from pedarr.evaluation.multilabel import MULTI_RESAMPLES, paired_multilabel, per_statement
from pedarr.evaluation.ranking import Ranking, auroc, average_precision
from pedarr.evaluation.shares import shares_of_young
from pedarr.evaluation.subgroups import per_class
from pedarr.signals.store import open_store
from pedarr.training.grid import folder_name
from pedarr.training.kept_answers import (
    kept_grid_classes, kept_grid_scores, kept_scores, read_few_patients, read_kept, read_kept_grid)
from pedarr.training.kept_waves import kept_rivals, read_kept_waves
from pedarr.training.natural_tail import RAREST, decide_natural, natural_table, read_natural
from pedarr.training.new_rhythms import asked_classes
from pedarr.training.probe_jobs import probe_scores, run_probe_job, statement_task
from pedarr.training.probes import cached_features
from pedarr.training.segmentation_jobs import segment_gains, segment_tables
from pedarr.training.tail import RARE_RHYTHMS, TailJob, read_card, read_tail_job
from pedarr.training.tail_results import (
    OFFSETS, TailAnswers, complete_draws, read_recordings, short_logs,
    tail_bootstrap, tail_scores, tail_table, tune_offsets, with_averages)
from pedarr.use.channel_subsets import subset_difference
from pedarr.use.kept_asked import read_masked, read_subsets
from pedarr.use.missing import missing_curve, missing_difference

RESULTS = Path(__file__).parents[1]/'nbs'/'results'
GRIDS = [f for f in sorted(RESULTS.rglob('grid.json')) if (f.parents[1]/'scores.csv').exists()]
MULTI, ATRIAL, WHOLE = RESULTS/'multi_label', RESULTS/'atrial', RESULTS/'pretraining'
KEPT = [f for f in sorted(RESULTS.glob('*/answers/*.json'))
        if f.name != 'waves.json' and f.with_name('grid.json') not in GRIDS
        and not {MULTI, ATRIAL, WHOLE} & {*f.parents}]
TAIL = RESULTS/'tail'
LICENCE = re.compile('CC BY|ODC-By|^SIMULATED')
INTERVAL = ['value', 'low', 'high']


@pytest.mark.parametrize('file', KEPT, ids=lambda f: f'{f.parents[1].name}-{f.stem}')
def test_the_answers_give_the_scores_that_are_said(file):
    kept = read_kept(file.parent, file.stem)
    was = pd.DataFrame(kept.said['overall']).T
    now = kept_scores(kept, 2).loc[was.index]                    # its values; later versions know more scores
    moved = (now.value - was.loc[now.index, 'value'].astype(float)).abs()           # by seven bits
    assert moved.get('auroc', 0) < 5e-4 and moved.max() < 3e-3
    table = pd.read_csv(file.parents[1]/'scores.csv')
    where = dict(zip(('task', 'system', 'seed'), file.stem.rsplit('-', 2)))
    own = table[(table[list(where)].astype(str) == pd.Series(where)).all(axis=1)].set_index('metric')
    assert set(own.index) == set(now.index)
    for column in ('value', 'low', 'high'):
        assert np.allclose(own.loc[now.index, column], was.loc[now.index, column], atol=1e-4)


@pytest.mark.parametrize('task', ['all', 'super', 'sub', 'rhythm'])
def test_kept_answers_give_the_means_of_statements(task):
    "The mean of three trainings, its interval and its spread."
    table = pd.read_csv(RESULTS/'statements'/'means.csv').query('task == @task').set_index('metric')
    kept = [read_kept(RESULTS/'statements'/'answers', f'{task}-pedarrnet-{seed}') for seed in range(3)]
    assert all((a.truth == kept[0].truth).all() and (a.subject == kept[0].subject).all() for a in kept)
    answers = [(a.prob, a.thresholds) for a in kept]
    mean = mean_over_draws(kept[0].truth, answers, kept[0].subject, MULTI_RESAMPLES)
    now = mean_table(mean).loc[table.index]
    moved = (now[['value', 'low', 'high', 'spread']] - table[['value', 'low', 'high', 'spread']]).abs()
    assert (moved.loc['auroc'] < 5e-4).all() and moved.max().max() < 3e-3 and (table.seeds == 3).all()


@pytest.mark.parametrize('task', ['super', 'rhythm'])
def test_kept_answers_give_the_networks_beside_the_probes(task):
    "With all labels: the network from scratch, xresnet1d, and their difference."
    kept = {name: read_kept(WHOLE/'answers', f'{task}-{folder_name(name)}')
            for name in ('from scratch', 'xresnet1d')}
    table = pd.read_csv(WHOLE/'trained.csv').query('share == 1 and task == @task')
    table = table.set_index(['system', 'metric'])
    for name, a in kept.items():
        assert np.allclose(kept_scores(a, 2).value.loc[table.value[name].index], table.value[name], atol=2e-3)
    one, other = kept.values()
    assert (one.truth == other.truth).all() and (one.subject == other.subject).all()
    answers = [(a.prob, a.thresholds) for a in (one, other)]
    said = pd.read_csv(WHOLE/'trained-pairs.csv').query('task == @task').set_index('metric')
    now = paired_multilabel(one.truth, *answers, one.subject, MULTI_RESAMPLES).loc[said.index]
    columns = ['value', 'low', 'high', 'p']
    assert np.allclose(now[columns], said[columns], atol=1.1e-5)


ENCODERS = {'random encoder': 'simclr-0', 'SimCLR': 'simclr-0', '3KG': '3kg-0', 'PhysioCLR': 'physioclr-0',
            'Beat-SSL, rhythms': 'beatssl-rhythm-0', 'Beat-SSL, rhythms and beats': 'beatssl-0',
            'Beat-SSL, classes of beats': 'beatssl-classes-0'}


def chosen_file(name) -> str:
    "The weights of the epoch that fold 9 chose, of a method's first pretraining; '' is the random encoder."
    if name == 'random encoder': return ''
    epochs = pd.read_csv(WHOLE/'epochs.csv').query('encoder == @name and seed == 0')
    best = epochs.epoch[epochs.auroc.idxmax()]
    return 'encoder.safetensors' if best == epochs.epoch.max() else f'encoder-{best}.safetensors'


@pytest.fixture(scope='module')
def probed(whole_ptbxl, tmp_path_factory) -> dict:
    "Encoder -> (task, share) -> seed 0 -> mean scores: features and probes of the kept encoders, again."
    store, found = open_store(whole_ptbxl), {}
    for name, folder in ENCODERS.items():
        place = tmp_path_factory.mktemp('probed')
        shutil.copytree(WHOLE/'encoders'/folder, place/'run')
        x = cached_features(place/'run', store, chosen_file(name))
        for task, share in product(('all', 'rhythm', 'super'), (.01, .1, 1.)):
            asked, draws = statement_task(store, f'ptbxl_{task}'), range(5 if share < 1 else 1)
            for draw in draws: run_probe_job(x, asked, task, share, draw, place)
            scores, _ = probe_scores(place, asked, task, share, draws, MULTI_RESAMPLES)
            found.setdefault(name, {})[task, share] = {0: scores}
    return found


@pytest.mark.long
def test_kept_encoders_give_the_probes_of_their_seed(probed):
    """Their answers are not kept: the rows of first pretrainings, alone and in pairs. Where two strengths are
    level on fold 9, a last digit decides between them, so a few scores differ more than the others."""
    def moved(now, said): return (now[INTERVAL] - said.set_index('metric')[INTERVAL]).abs()
    seeds = pd.read_csv(WHOLE/'probe-seeds.csv').query('seed == 0')
    means, pairs = (pd.read_csv(WHOLE/f'{f}.csv').query('seeds == 1') for f in ('probes', 'probe-pairs'))
    found = []
    for table in (seeds, means):
        for (name, *case), said in table.groupby(['encoder', 'task', 'share']):
            found.append(moved(mean_table(probed[name][tuple(case)][0]), said))
    for (name, against, *case), said in pairs.groupby(['encoder', 'against', 'task', 'share']):
        found.append(moved(paired_seeds(*(probed[n][tuple(case)] for n in (name, against))), said))
    most = pd.concat(found).groupby(level=0).max().max(axis=1)
    assert len(found) == 9*(7 + 4 + 18) and most['auroc'] < .006 and most.max() < .015
    assert np.median(np.concatenate([m.to_numpy().ravel() for m in found])) < 5e-4


@pytest.mark.long
def test_kept_encoders_give_what_is_said_of_shuffled_halves(whole_ptbxl, tmp_path):
    "The experiment again, from kept encoders: probes and trees of windows of five seconds."
    folders = {name: WHOLE/'encoders'/ENCODERS[name] for name in ('SimCLR', 'PhysioCLR')}
    given = dict(store=str(whole_ptbxl), out=str(tmp_path),
                 encoders={name: str(f/'encoder.safetensors') for name, f in folders.items()})
    page = RESULTS.parent/'experiments'/'shuffled.ipynb'
    papermill.execute_notebook(str(page), str(tmp_path/'page.ipynb'), given, progress_bar=False)
    for name in ('encoders', 'encoders-differences', 'encoders-moved'):
        now, said = (pd.read_csv(place/f'{name}.csv') for place in (tmp_path, RESULTS/'shuffled'))
        about = said.columns[~said.columns.isin([*INTERVAL, 'named', 'kept', 'other', 'moved', 'p'])]
        assert now[about].equals(said[about])
        scores = said.columns.intersection([*INTERVAL, 'other', 'moved'])
        moved = (now[scores] - said[scores]).abs()
        assert moved.max().max() < .05 and moved.stack().median() < .002, (name, moved.max())


@pytest.fixture(scope='module')
def many_labels() -> dict:
    "System (as a name of a file) -> its answers, seed after seed."
    kept = {}
    for file in sorted((MULTI/'answers').glob('*.json')):
        kept.setdefault(file.stem.rpartition('-official-')[0], []).append(read_kept(file.parent, file.stem))
    return kept


def test_kept_answers_give_the_scores_of_many_labels(many_labels):
    "Scores of each system, means over its seeds."
    scores = pd.read_csv(MULTI/'scores.csv')
    assert len(many_labels) == scores.system.nunique() + 2
    for system, said in scores.groupby('system'):
        found = [kept_scores(a, 2).value for a in many_labels[folder_name(system)]]
        now, said = sum(found)/len(found), said.set_index('metric')
        assert len(found) == said.seeds.iloc[0]
        assert np.allclose(now.loc[said.index], said.value, atol=1.1e-5)


def test_kept_answers_give_the_tables_of_statements(many_labels):
    "AUROC, average precision and F1 of every statement, and of those that were left out of a training."
    table, each = pd.read_csv(MULTI/'statements.csv'), pd.read_csv(MULTI/'zero_shot_each.csv')
    each, zero = each.set_index('class'), pd.read_csv(MULTI/'zero_shot.csv').set_index('system')
    of = lambda a: per_statement(a.truth, a.prob, a.subject, a.classes, a.thresholds).set_index('class')
    for system, said in table.groupby('system'):
        own, said = [of(a) for a in many_labels[folder_name(system)]], said.set_index('class')
        assert (own[0].loc[said.index, ['support', 'subjects']] == said[['support', 'subjects']]).all(None)
        for column in ('auroc', 'average_precision', 'f1'):
            now = sum(t[column] for t in own).loc[said.index]/len(own)
            assert np.allclose(now, said[column], atol=1.1e-5, equal_nan=True), (system, column)
    assert set(zero.index) == set(each.columns[3:])
    shuffled = of(many_labels['the-same-shuffled-words'][0]).auroc.loc[each.index].mean()
    for system in zero.index:
        now = of(many_labels[folder_name(system)][0]).auroc.loc[each.index]
        assert np.allclose(now, each[system], atol=1.1e-5)
        assert now.mean() == pytest.approx(zero.value[system], abs=1.1e-5)
        assert len(now) == zero.statements[system]
    gains = zero.minus_shuffled_value.dropna()
    assert len(gains) == 2 and np.allclose(zero.value[gains.index] - shuffled, gains, atol=1.1e-5)


def agree(now, said, columns, near=1.1e-5):
    "Are the `columns` of a table made again those of the table `said`, whose rows are as many?"
    assert len(now) == len(said) > 0
    for column in columns:
        assert np.allclose(now[column].loc[said.index], said[column], atol=near, equal_nan=True), column


def parts_of_statements(one):
    "(by, part) -> which statements those are that groups.csv takes together and the test can score."
    about = pd.read_csv(MULTI/'statements.csv').drop_duplicates('class').set_index('class').loc[one.classes]
    edges = {'under 100': (0, 100), '100 to 999': (100, 1000), '1,000 and more': (1000, np.inf)}
    between = lambda edge: about.training.between(*edge, inclusive='left')
    parts = {('number', name): between(edge) for name, edge in edges.items()}
    parts |= {('kind', kind): about.kind == kind for kind in ('diagnostic', 'form', 'rhythm')}
    can = one.truth.any(0) & ~one.truth.all(0)
    return {part: can & chosen.to_numpy() for part, chosen in parts.items()}


@pytest.mark.parametrize('resamples, columns', [
    (2, ['value']), pytest.param(MULTI_RESAMPLES, [*INTERVAL, 'p'], marks=pytest.mark.long)])
def test_kept_answers_give_the_differences_of_many_labels(many_labels, resamples, columns):
    """Scores of each system, and these less those of binary cross-entropy with as many seeds, on all
    statements and on groups of them; the long test draws their intervals, too."""
    one, read = many_labels['bce'][0], lambda name: pd.read_csv(MULTI/f'{name}.csv').set_index('metric')
    parts = parts_of_statements(one)
    @cache
    def means(system, part=None, n=None):
        chosen = slice(None) if part is None else parts[part]
        draws = [(a.prob[:, chosen], a.thresholds[:, chosen]) for a in many_labels[folder_name(system)][:n]]
        return mean_over_draws(one.truth[:, chosen], draws, one.subject, resamples)
    def minus_bce(system, part=None):
        return mean_difference(means(system, part), means('BCE', part, len(many_labels[folder_name(system)])))
    scores = [c for c in columns if c != 'p'] + ['spread']
    for system, said in read('scores').groupby('system'): agree(mean_table(means(system)), said, scores)
    for system, said in read('paired').groupby('system'): agree(minus_bce(system), said, columns)
    groups = read('groups')
    assert {*groups[['by', 'part']].itertuples(index=False, name=None)} == set(parts)
    for (system, *part), said in groups.groupby(['system', 'by', 'part']):
        part = tuple(part)
        assert (said.statements == parts[part].sum()).all()
        agree(mean_table(means(system, part)).loc[said.index], said, scores)
        gain = minus_bce(system, part).loc[said.index].add_prefix('minus_bce_')
        agree(gain, said, [f'minus_bce_{c}' for c in columns if c != 'p'])


@pytest.fixture(scope='module')
def waves() -> tuple:
    """The true waves of LUDB, and row -> answer. Subjects are kept as numbers, and have their names again
    here, since the bootstrap draws them in the order of these."""
    truth, answers = read_kept_waves(RESULTS/'segmentation'/'answers')
    return truth._replace(subject=np.array([f'ludb-{int(k) + 1}' for k in truth.subject])), answers


def read_waves(name, *keys): return pd.read_csv(RESULTS/'segmentation'/f'{name}.csv').set_index([*keys])


EDGE_COLUMNS = ['true', *(f'{score}{end}' for score in ('sensitivity', 'precision', 'f1', 'mean', 'sd')
                          for end in ('', '_low', '_high')), 'cse']


def test_kept_waves_give_the_tables_of_segmentation(waves):
    "Samples of every fifth row; borders of the row that is shipped; one gain; intervals with them."
    (truth, answers), folder = waves, RESULTS/'segmentation'
    samples = read_waves('samples', 'row', 'score')
    assert list(answers) == list(samples.index.unique('row'))
    some = {name: answer for i, (name, answer) in enumerate(answers.items()) if i % 5 == 0}
    assert len(some) > 3
    agree(segment_tables(truth, some, ())['samples'], samples.loc[[*some]], INTERVAL)
    row = 'unet, alone'
    edges = segment_tables(truth, {row: answers[row]})
    for name in ('30-ms', '150-ms'):
        said = read_waves(name, 'row', 'wave', 'edge')
        assert list(answers) == list(said.index.unique('row'))
        agree(edges[name.replace('-', ' ')], said.loc[[row]], EDGE_COLUMNS)
    gains, rivals = read_waves('gains', 'row', 'rival', 'score'), kept_rivals(folder/'answers')
    assert len(gains) == 14*len(rivals) >= 140
    agree(segment_gains(truth, answers, {row: rivals[row]}), gains.loc[[row]], INTERVAL)


@pytest.mark.long
def test_kept_waves_give_the_borders_of_all_rows(waves):
    "Samples, borders at both tolerances, and gains, with their intervals."
    (truth, answers), folder = waves, RESULTS/'segmentation'
    now = segment_tables(truth, answers)
    agree(now['samples'], read_waves('samples', 'row', 'score'), INTERVAL)
    for name in ('30-ms', '150-ms'):
        said = read_waves(name, 'row', 'wave', 'edge')
        assert len(said) == 6*len(answers)
        agree(now[name.replace('-', ' ')], said, EDGE_COLUMNS)
    agree(segment_gains(truth, answers, kept_rivals(folder/'answers')),
          read_waves('gains', 'row', 'rival', 'score'), INTERVAL)


@pytest.mark.parametrize('file', GRIDS, ids=lambda f: f.parents[1].name)
def test_kept_grids_give_their_tables(file):
    "Values, gains, their intervals and p, as they are printed."
    folder, keys = file.parent, ['question', 'split', 'system', 'metric']
    said = pd.read_csv(folder.parent/'scores.csv').set_index(keys)
    now = kept_grid_scores(folder, questions={*said.index.get_level_values('question')}).set_index(keys)
    assert set(now.index) == set(said.index)
    gains = [c for c in ('gain', 'gain_low', 'gain_high', 'p', 'holm') if c in said]
    for column in ('value', 'low', 'high', 'seeds', 'segments', 'subjects', *gains):
        assert np.allclose(now[column].loc[said.index], said[column], atol=1e-5, equal_nan=True)
    keys, classes = ['question', 'split', 'system', 'class'], pd.read_csv(folder.parent/'classes.csv')
    now, said = kept_grid_classes(folder).set_index(keys), classes.set_index(keys)
    for column in ('support', 'precision', 'recall', 'f1'):
        assert np.allclose(now[column].loc[said.index], said[column], atol=1e-5, equal_nan=True)


def test_kept_answers_give_the_table_of_fibrillation_and_flutter():
    "Share of each patient's windows that is called as the header says, all seeds."
    said = pd.read_csv(ATRIAL/'patients.csv').set_index(['header', 'patient'])
    who = sorted(said.index.unique('patient'))
    (systems,) = read_kept_grid(ATRIAL/'answers').values()
    assert set(systems) == set(said.columns) and len(who) == 7
    for system, seeds in systems.items():
        each = pd.concat([pd.DataFrame(dict(header=np.array(a.classes)[a.truth], right=a.called == a.truth,
                                            patient=np.array(who)[a.subject])) for a in seeds])
        now = each.groupby(['header', 'patient']).right.mean()
        assert set(now.index) == set(said.index)
        assert np.allclose(now.loc[said.index], said[system], atol=1e-4)
    views = pd.read_csv(ATRIAL/'views.csv').set_index('system')
    mean = said.groupby('header').mean().T
    assert np.allclose(views[['AFIB', 'AFL']], mean.loc[views.index, ['AFIB', 'AFL']], atol=1e-4)
    assert np.allclose(views['both alike'], mean.loc[views.index].mean(axis=1), atol=1e-4)


def of_the_tail(folder):
    "Where the answers of the tables in `folder` lie: beside them, or those of the losses."
    return folder if (folder/'test').exists() else TAIL


def tail_complete(folder):
    "What is complete, of the losses that the tables in `folder` name, in the folder of their answers."
    made = json.loads((folder/'made.json').read_text())
    jobs = [json.loads(f.read_text())['job'] for f in sorted((of_the_tail(folder)/'test').glob('*.json'))]
    jobs = [job for job in jobs if job['loss'] in made['losses'] and str(job['size']) in made['draws']]
    rows = {name for pair in made['pairs'].split(', ') for name in pair.split(' - ')} if made['pairs'] else ()
    complete = complete_draws(with_averages(pd.DataFrame(jobs)[['loss', 'size', 'draw']], rows))
    said = {int(size): draws for size, draws in made['draws'].items()}
    assert {size: draws for size, (_, draws) in complete.items() if draws} == said
    return {size: own for size, own in complete.items() if own[1]}


@pytest.mark.parametrize('folder, pair, whole', [
    (TAIL, ('agcacl', 'ce'), False), (TAIL.with_name('tail_starts'), ('simclr', 'scratch'), False),
    (TAIL.with_name('tail_parts'), ('agcacl-again', 'no-phi'), False),
    (TAIL.with_name('tail_recipes'), ('ce-again', 'ce-default'), False),
    (TAIL.with_name('tail_trees'), ('agcacl & trees', 'trees'), False),
    (TAIL.with_name('tail_rivals'), ('agcacl', 'supcon'), False), (TAIL.with_name('tail_sizes'), (), True),
    *(pytest.param(TAIL.with_name(name), (), True, marks=pytest.mark.long)
      for name in ('tail', 'tail_starts', 'tail_parts', 'tail_recipes', 'tail_trees', 'tail_rivals'))],
    ids=lambda x: x.name if isinstance(x, Path) else None)
def test_kept_answers_give_the_tables_of_the_controlled_tail(folder, pair, whole):
    """Values of scores.csv, pairs included, and draws.csv, from the answers and the table of recordings:
    those of one pair, and all; of the losses, and of the starts without labels."""
    keys, at = ['size', 'test', 'loss', 'rhythm', 'score'], ['size', 'test', 'loss', 'draw']
    said = pd.read_csv(folder/'scores.csv').set_index(keys)
    draws = pd.read_csv(folder/'draws.csv').set_index(at)
    pairs = [tuple(x.split(' - ')) for x in said.index.unique('loss') if ' - ' in x]
    complete = tail_complete(folder)
    tests = json.loads((folder/'made.json').read_text())['tests'] if whole else ['left out']
    if not whole: complete = {20: ([*pair], complete[20][1])}
    recordings, about = read_recordings(of_the_tail(folder))
    assert about.source.endswith('CC BY 4.0') and not about.simulated
    now, by_draw = tail_scores(of_the_tail(folder)/'test', recordings, complete, pairs, 1, tests)
    now, by_draw = now.set_index(keys), by_draw.set_index(at)
    if whole: assert set(now.index) == set(said.index) and set(by_draw.index) == set(draws.index)
    assert len(now) >= 60 and (whole or ' - '.join(pair) in now.index.unique('loss'))
    assert np.allclose(now.value, said.value.loc[now.index], atol=1.1e-5)
    assert (now.family == said.family.loc[now.index].fillna('')).all()
    assert np.allclose(by_draw, draws.loc[by_draw.index, by_draw.columns], atol=1.1e-5)


@pytest.mark.long
@pytest.mark.parametrize('folder, pair', [
    ('tail', ('agcacl', 'ce')), ('tail_trees', ('agcacl & trees', 'agcacl'))])
def test_kept_answers_give_the_intervals_of_the_controlled_tail(folder, pair):
    "At 20 recordings: AGCACL against cross-entropy, and averaged with trees against alone."
    folder = RESULTS/folder
    said = pd.read_csv(folder/'scores.csv').query('size == 20 and test == "left out"')
    keys = ['loss', 'rhythm', 'score']
    recordings, (_, draws) = read_recordings(TAIL)[0], tail_complete(folder)[20]
    resamples = json.loads((folder/'made.json').read_text())['resamples']
    now, _ = tail_scores(TAIL/'test', recordings, {20: ([*pair], draws)}, [pair], resamples, ['left out'])
    now, said = now.set_index(keys), said.set_index(keys)
    assert set(now.index.unique('rhythm')) == {*RARE_RHYTHMS, 'mean'}
    for column in ('low', 'high', 'p'):
        assert np.allclose(now[column], said[column].loc[now.index], atol=1.1e-5, equal_nan=True)


def test_kept_answers_give_the_intervals_on_fold_10_at_other_sizes():
    "AGCACL against cross-entropy, at 5 and 80 recordings: intervals and p, none of them corrected."
    folder, keys = TAIL.with_name('tail_sizes'), ['size', 'loss', 'rhythm', 'score']
    made, said = read_json(folder/'made.json'), pd.read_csv(folder/'scores.csv').set_index(keys)
    assert made['tests'] == ['fold 10'] and {*said.test} == {'fold 10'} and said.holm.isna().all()
    pair, draws = ('agcacl', 'ce'), {size: own for size, (_, own) in tail_complete(folder).items()}
    asked = {size: ([*pair], own) for size, own in draws.items()}
    recordings = read_recordings(folder)[0]
    now, _ = tail_scores(folder/'test', recordings, asked, [pair], made['resamples'], made['tests'])
    now = now.set_index(keys)
    assert {*now.index.unique('size')} == {5, 80}
    for column in ('value', 'low', 'high', 'p'):
        assert np.allclose(now[column], said[column].loc[now.index], atol=1.1e-5, equal_nan=True)


def test_kept_answers_give_the_tables_of_the_natural_tail():
    folder = RESULTS/'natural_tail'
    made, was = read_json(folder/'made.json'), pd.read_csv(folder/'scores.csv')
    answers = {loss: read_natural(folder, loss, folds=made['folds']) for loss in made['losses']}
    pairs = [tuple(x.split(' - ')) for x in was.loss.unique() if ' - ' in x]
    points = dict(list(pd.read_csv(folder/'points.csv').groupby('loss')))       # tuned before the rounding
    assert {*points} == {*made['points']} == {*made['losses']}
    tables = [natural_table(answers, pairs, merged, n_resamples=made['resamples'], points=points)
              for merged in (False, True)]
    keys = ['loss', 'rhythm', 'score']
    now = pd.concat(tables, ignore_index=True).set_index(keys)
    was = was.set_index(keys)
    assert len(now) == len(was) and not made['missing'] and not made['simulated']
    same = now.loc[was.index]
    assert (same.recordings == was.recordings).all() and (same.patients == was.patients).all()
    for column in ('value', 'low', 'high', 'p'):
        assert np.allclose(same[column], was[column], atol=1e-5, equal_nan=True), column
    rare = was[was.p.notna() & was.index.isin(RAREST, 'rhythm')]
    holm = rare.groupby(['loss', 'score']).p.transform(holm_correction)
    assert len(holm) and np.allclose(holm, was.holm[was.holm.notna()], atol=6e-5)   # of p that were rounded
    largest = pd.read_csv(folder/'scores-largest.csv').set_index(keys)
    now = natural_table(answers, (), tuned=False, n_resamples=2).set_index(keys)
    assert set(now.index) == set(largest.index)
    for column in largest: assert np.allclose(now.loc[largest.index, column], largest[column], atol=1e-5)
    test = answers['ce'][answers['ce'].role == 'test']
    assert len(test) == test.row.nunique() == was.recordings[~was.index.get_level_values(1).isin(
        ['rarest', 'SVT'])].groupby(level=1).first().sum()                            # each recording once
    young, age = pd.read_csv(folder/'under18.csv'), pd.read_csv(folder/'young.csv').set_index('row').age
    for loss, said in young.groupby('loss'):
        a, t = decide_natural(answers[loss], points=points[loss]), answers[loss]
        names, rows = np.array(a.names), t.row[t.role == 'test']
        table = pd.DataFrame(dict(truth=names[a.truth], answer=names[a.called], patient=a.subject,
                                  age=age.reindex(rows).to_numpy()))
        now = shares_of_young(table).set_index(['group', 'rhythm'])
        said = said.set_index(['group', 'rhythm'])
        assert set(now.index) == set(said.index)
        for column in ('n', 'patients', 'right', 'recall', 'recall_low', 'recall_high'):
            assert np.allclose(now[column].loc[said.index], said[column], atol=1.1e-5), (loss, column)


def test_kept_points_of_the_natural_tail_are_those_that_validation_asks_for():
    "The mean F1 of the rounded validation at the kept points, and at points that are tuned on it again."
    folder, gaps = RESULTS/'natural_tail', []
    for loss, points in pd.read_csv(folder/'points.csv').groupby('loss'):
        t = read_natural(folder, loss)
        t = t[t.role == 'validation']
        asked = pd.concat([t, t.assign(role='test')])                   # tuned on it, and asked about it
        both = decide_natural(asked, points=points), decide_natural(asked)
        for fold in t.fold.unique():
            own = (t.fold == fold).to_numpy()
            kept, again = (f1_score(a.truth[own], a.called[own], labels=range(len(a.names) - 1),
                                    average='macro', zero_division=0) for a in both)
            gaps.append(again - kept)
    gaps = np.array(gaps)
    assert len(gaps) == 25 and (gaps == 0).sum() >= 8 and abs(gaps).mean() < .005       # of seven bits
    assert 0 < abs(gaps).max() < .03


def test_kept_answers_give_the_tables_of_few_patients():
    folder = RESULTS/'few_patients'
    found = read_few_patients(folder/'few_patients-answers.safetensors.xz')
    said = read_json(folder/'few_patients.json')['strengths']
    assert said == {name: {str(k): x for k, x in own.strength.items()} for name, own in found.items()}
    table = pd.read_csv(folder/'few_patients.csv').set_index(['k', 'method'])
    gains = pd.read_csv(folder/'few_patients-differences.csv').set_index(['k', 'method'])
    for network, own in found.items():
        was = table[table.network == network]
        now = few_patients_table(own, 1000).loc[was.index]
        for column in ('value', 'low', 'high'): assert np.allclose(now[column], was[column], atol=1e-5)
        was = gains[gains.network == network]
        now = few_patients_difference(own, found['random encoder'], 2)
        assert not len(was) or np.allclose(now.loc[was.index].value, was.value, atol=1e-5)
    assert len(table) == 12*len(found) and len(gains) == 8*(len(found) - 1)


def test_kept_answers_give_the_rhythms_of_few_patients():
    folder, keys = RESULTS/'few_patients', ['network', 'k', 'method', 'rhythm']
    found = read_few_patients(folder/'few_patients-answers.safetensors.xz')
    rhythms, first = read_json(folder/'few_patients.json')['rhythms'], next(iter(found.values()))
    names = dict(zip(first.classes.tolist(), rhythms))
    now = pd.concat([few_patients_classes(own, names, n_resamples=2).assign(network=network)
                     for network, own in found.items()]).set_index(keys)
    said = pd.read_csv(folder/'few_patients-rhythms.csv').set_index(keys)
    assert set(now.index) == set(said.index) and said.patients.min() < 10
    now = now.loc[said.index]
    assert np.allclose(now.value, said.value, atol=1e-5) and (now.patients == said.patients).all()
    assert (now.low.isna() == said.low.isna()).all()


def test_kept_answers_give_the_tables_of_new_rhythms():
    folder, keys = RESULTS/'new_rhythms', ['asked', 'loss', 'k', 'method']
    table = pd.read_csv(folder/'new_rhythms.csv').set_index(keys).sort_index()
    gains = pd.read_csv(folder/'differences.csv').set_index(keys).sort_index()
    asked = [*table.index.unique('asked')]
    found = {how: read_few_patients(folder/f"{how.replace(', ', '-').replace(' ', '-')}.safetensors.xz")
             for how in asked}
    for how, own in found.items():
        for loss, answers in own.items():
            was = table.loc[how, loss]
            whole = (how, loss) == ('state', 'ce')             # its intervals, too: of all they take long
            now = few_patients_table(answers, 1000 if whole else 1)
            assert set(now.index) == set(was.index)
            for column in ['value', 'low', 'high'] if whole else ['value']:
                assert np.allclose(now[column].loc[was.index], was[column], atol=1e-5)
        for pair in gains.loc[how].index.unique('loss'):
            a, b = pair.split(' - ')
            was = gains.loc[how, pair]
            now = few_patients_difference(own[a], own[b], 1).loc[was.index]
            assert np.allclose(now.value, was.value, atol=1e-5)
    assert len(asked) == 3 and len(found['state']) == 6


def test_kept_answers_give_the_rhythms_and_the_seeds_of_new_rhythms():
    "Recall of each rhythm, with intervals; and network by network, of which each loss has one."
    folder, made = RESULTS/'new_rhythms', read_json(RESULTS/'new_rhythms'/'made.json')
    assert made['seeds'] == [0]
    rhythms = pd.read_csv(folder/'rhythms.csv').set_index(['asked', 'loss', 'k', 'method', 'rhythm'])
    seeds = pd.read_csv(folder/'seeds.csv').set_index(['asked', 'loss', 'k', 'method'])
    each, one = {}, {}
    for how in rhythms.index.unique('asked'):
        found = read_few_patients(folder/f"{how.replace(', ', '-').replace(' ', '-')}.safetensors.xz")
        names = asked_classes([0], how != 'state, six rhythms')[1]
        for loss, answers in found.items():
            each[how, loss] = few_patients_classes(answers, names, n_resamples=made['resamples']).set_index(
                ['k', 'method', 'rhythm'])
            if how in seeds.index: one[how, loss] = few_patients_table(answers, 1)
    agree(pd.concat(each), rhythms, [*INTERVAL, 'patients'])
    assert (seeds.seed == 0).all() and len(one) == 12
    agree(pd.concat(one), seeds, ['value'])


def test_kept_labels_say_whose_they_are():
    "Every file of answers has a card beside it with the source and the licence of its labels."
    of = lambda file: read_json(RESULTS/file)['source']
    ptbxl = data_source('ptbxl', False)
    assert ptbxl.endswith('CC BY 4.0') and of('few_patients/few_patients.json') == ptbxl
    made = read_json(RESULTS/'natural_tail'/'made.json')
    jobs = {f'{loss}_natural_{fold}.json' for loss in made['losses'] for fold in made['folds']}
    natural = {f.name: of(f) for f in (RESULTS/'natural_tail').glob('*.json')}
    assert natural == dict.fromkeys(jobs | {'made.json', 'recordings.json'}, ptbxl)
    assert of('tail/recordings.json') == ptbxl
    for file in (f for f in RESULTS.glob('*/answers/*.json') if f.name not in ('grid.json', 'waves.json')):
        said = read_json(file)['said']
        assert said['source'] == data_source(said['database'], said['simulated']), file
    assert of('tail_starts/recordings.json') == of('tail_sizes/recordings.json') == ptbxl
    tails = {TAIL/'test', TAIL/'tune', *(RESULTS/x/'test' for x in ('tail_starts', 'tail_sizes'))}     # above
    folders = {f.parent for f in RESULTS.rglob('*.xz')} - tails
    assert len(folders) >= 11
    for folder in folders:
        cards = [read_json(f) for f in folder.glob('*.json')]
        said = [c.get('source') or c.get('about') or c.get('said', {}).get('source') for c in cards]
        assert any(LICENCE.search(s) for s in said if isinstance(s, str)), folder


def test_the_list_of_fold_10_is_whole():
    "Each page and experiment that speaks of fold 10 is in the list, or is known not to ask it."
    said = pd.read_csv(RESULTS/'fold10.csv', keep_default_na=False)
    words = lambda f: '\n'.join(''.join(c['source']) for c in read_json(f)['cells'])
    speaks = lambda folder: {f.stem for f in (RESULTS.parent/folder).glob('*.ipynb')
                             if re.search('fold 10|official fold', words(f), re.I)}
    assert {*said.page} - {''} <= speaks('results') <= {*said.page, 'aims'}
    # one learns from folds 1 to 8, one reads answers
    assert speaks('experiments') - {'pretrain', 'tail_report'} <= {*said.by}
    assert all((RESULTS/f).exists() for f in said.kept if f) and len(said) > 20
    assert all(glob(str(RESULTS/f)) for s in said['set'] if '/' in s for f in s.split())


def test_what_asked_fold_10_was_set_before_it_was_opened():
    "In the history: the commit that opened it has the answers, and follows the one that set what was asked."
    if not shutil.which('git'): pytest.skip('there is no git to ask the history with')
    git = lambda *args: subprocess.run(['git', *args], cwd=RESULTS, capture_output=True, text=True)
    said = pd.read_csv(RESULTS/'fold10.csv', keep_default_na=False).query('opened != ""')
    is_whole = git('rev-parse', '--is-shallow-repository').stdout.strip() == 'false'
    if not is_whole or all(git('cat-file', '-e', commit).returncode for commit in said.opened):
        pytest.skip('no history is at hand, or a part of it')
    for row in said.itertuples():
        files = [] if '/' not in row.set else [f for p in row.set.split() for f in glob(str(RESULTS/p))]
        commits = [re.search(r'commit\W+([0-9a-f]{7})', Path(f).read_text())[1] for f in files] or [row.set]
        for commit in commits:
            assert not git('merge-base', '--is-ancestor', commit, row.opened).returncode, row
        last = git('log', '--format=%H', '-1', row.opened, '--', row.kept).stdout
        assert last.startswith(row.opened), row


def test_a_damaged_table_of_recordings_is_one_line(tmp_path):
    for name in ('recordings.csv.xz', 'recordings.json'): shutil.copy(TAIL/name, tmp_path/name)
    file, raw = tmp_path/'recordings.csv.xz', (TAIL/'recordings.csv.xz').read_bytes()
    head = 'record,subject,label,official\n00001_lr,p1,SR,'
    for bad, why in ((raw[:-30], 'damaged \\(it was cut off\\)'), (raw[:6] + b'x'*40, 'damaged'),
                     (compressed(f'{head}3\n'.encode()), '1 rows where 21,799'),
                     (compressed(f'{head}three\n'.encode()), 'column official'), (None, 'recordings.csv.xz')):
        if bad is None: file.unlink()
        else: file.write_bytes(bad)
        with pytest.raises(PedarrError, match=why) as e: read_recordings(tmp_path)
        text, status = error_line(e.value)
        assert '\n' not in text and 'recordings.csv.xz' in text and status == 2


def test_damaged_answers_are_one_line(tmp_path):
    "A file that was cut off, and one whose row numbers are those of a longer table."
    job, recordings = TailJob('ce', 20, 3, {}), read_recordings(TAIL)[0]
    for end in ('json', 'safetensors.xz'): shutil.copy(TAIL/'test'/f'{job.name}.{end}', tmp_path)
    with pytest.raises(PedarrError, match='safetensors.xz: its recordings are not those') as e:
        read_tail_job(tmp_path, job, recordings.iloc[:20_000])
    assert '\n' not in str(e.value)
    file = tmp_path/f'{job.name}.safetensors.xz'
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(PedarrError, match='safetensors.xz: damaged .it was cut off.: delete it') as e:
        read_tail_job(tmp_path, job, recordings)
    assert error_line(e.value)[1] == 2 and '\n' not in str(e.value)


def test_seven_bits_of_a_logarithm_are_enough():
    "Average precision and AUROC of each rare rhythm, before a rounding (one draw of its noise) and after."
    recordings, _ = read_recordings(TAIL)
    moved, rng = {'average precision': 0., 'AUROC': 0.}, np.random.default_rng(0)
    t = read_tail_job(TAIL/'test', TailJob('agcacl+la', 20, 3, {}), recordings).query('role == "left out"')
    for rhythm in RARE_RHYTHMS:
        truth, log, one = (t.label == rhythm).to_numpy(), t[f'log_{rhythm}'].to_numpy(), np.ones(len(t))
        finer = log*(1 + rng.uniform(-2**-8, 2**-8, len(t)))
        assert (finer != log).mean() > .5 and (few_bits(finer) == log).mean() > .95
        for name, score in (('average precision', average_precision), ('AUROC', auroc)):
            was, now = (score(Ranking(truth, x), one) for x in (finer, log))
            moved[name] = max(moved[name], abs(was - now))
    assert 0 < moved['average precision'] <= 1.5e-3 and 0 < moved['AUROC'] <= 3e-4


@pytest.mark.parametrize('folder', ['tail', 'tail_starts', 'tail_sizes'])
def test_the_tails_answers_are_short_and_have_their_offsets(folder):
    files = sorted((RESULTS/folder/'test').glob('*.xz'))
    assert len(files) == len([*(RESULTS/folder/'test').glob('*.json')]) >= 30
    recordings = read_recordings(RESULTS/folder)[0]
    for file in files:
        found = read_arrays(file, 'make it again')
        assert {*found} == {'log', 'offsets', 'rows'} and found['rows'].shape == (32,), file
        assert np.array_equal(short_logs(found['log']), found['log']), file
        assert np.isin(found['offsets'], OFFSETS).all(), file
        job = read_card(file.with_name(file.name.replace('.safetensors.xz', '.json'))).job
        assert len(read_tail_job(file.parent, job, recordings)) == len(found['log'])     # of these recordings


def test_kept_offsets_of_a_tail_are_nearly_those_that_fold_9_asks_for():
    "Mean F1 of the rounded validation at the kept offsets, and at offsets that are tuned on it again."
    recordings, gaps = read_recordings(TAIL)[0], []
    for name in ('ce_20_3', 'agcacl_20_4', 'agcacl+la_20_5', 'agcacl_20_6'):      # others have no fold 9
        loss, size, draw = name.split('_')
        t = read_tail_job(TAIL/'test', TailJob(loss, int(size), int(draw), {}), recordings)
        again = t.copy()
        again.attrs = dict(offsets=tune_offsets(t[t.role == 'validation']).tolist())
        one = np.ones((t.role == 'validation').sum())
        kept, tuned = (TailAnswers(x, 'validation').scores(one)[:, 3].mean() for x in (t, again))
        gaps.append(tuned - kept)
    assert min(gaps) > -1e-9 and max(gaps) < .01


def test_the_losses_on_the_twin_have_the_answers_of_its_networks():
    "Cross-entropy and AGCACL are rows of two pages: the same answers. So is what both modalities say."
    own = RESULTS/'twin_losses'/'answers'
    names = {'absent-channels-not-told': 'cross-entropy', 'not-told-agcacl': 'agcacl'}
    for folder, runs in (('twin_absent', ['patient-0', 'patient-1', 'patient-2']),
                         ('twin_absent_intra', ['segment-0'])):
        for name, run in product(names, runs):
            file = RESULTS/folder/'answers'/f'{name}-{run}.safetensors.xz'
            assert (own/f'{names[name]}-{run}.safetensors.xz').read_bytes() == file.read_bytes()
    for k in range(3):
        file = RESULTS/'modality'/'answers'/f'both-modalities-patient-{k}.safetensors.xz'
        assert (own/f'cross-entropy-patient-{k}.safetensors.xz').read_bytes() == file.read_bytes()


def test_seven_bits_are_enough_for_many_labels():
    "Scores of 71 statements in the mean, before a rounding (three draws of its noise) and after."
    a = read_kept(RESULTS/'statements'/'answers', 'all-pedarrnet-0')
    log, was = np.log(a.prob), kept_scores(a, 2).value
    for seed in range(3):
        finer = log*(1 + np.random.default_rng(seed).uniform(-2**-8, 2**-8, log.shape))
        assert (few_bits(finer) == few_bits(log)).mean() > .95
        moved = (kept_scores(a._replace(prob=np.exp(finer)), 2).value - was).abs()
        assert 0 < moved.auroc <= 2e-4 and 0 < moved.max() <= 2e-3


def test_kept_logarithms_have_the_bits_that_are_said():
    "In every file whose card says how many; of the natural tail and of many labels, in all."
    cards = {f: read_json(f) for f in RESULTS.rglob('*.json')}
    said = {f: card['log_bits'] for f, card in cards.items() if 'log_bits' in card}
    for folder in (RESULTS/'natural_tail', MULTI/'answers'):
        assert {f.with_suffix('') for f in said if f.parent == folder} == {
            f.with_suffix('').with_suffix('') for f in folder.glob('*.safetensors.xz')}
    for card, bits in said.items():
        log = read_arrays(arrays_file(card.parent, card.stem), 'restore it', names=['log'])['log']
        assert np.array_equal(few_bits(log, bits), log) and (few_bits(log, bits - 1) != log).any(), card


def test_answers_lie_beside_their_tables():
    "All answers within 20 MB, compressed. Weights are no answers: those of the encoders are counted apart."
    weights = set((RESULTS/'pretraining'/'encoders').glob('*/encoder*.safetensors'))
    answers = set(RESULTS.rglob('*.safetensors*')) - weights | {*RESULTS.rglob('*.xz')}
    assert all(f.suffix == '.xz' for f in answers)
    assert sum(f.stat().st_size for f in answers) < 20e6
    assert sum(f.stat().st_size for f in weights) < 15e6


def test_encoders_hold_nothing_but_their_own():
    "No cached features, no checkpoint, and no weights twice."
    known = {'encoder.safetensors', 'environment.json', 'history.csv', 'params.json', 'pretraining.json'}
    files = [f for f in (RESULTS/'pretraining'/'encoders').rglob('*') if f.is_file()]
    weights = [f.read_bytes() for f in files if f.suffix == '.safetensors']
    assert len(set(weights)) == len(weights)
    assert all(f.name in known or f.match('encoder-[0-9]*.safetensors') for f in files)


def test_answers_of_the_contest_are_never_kept():
    "Its recordings of defibrillators have no licence."
    text = (RESULTS.parent/'experiments'/'defibrillators.ipynb').read_text()
    assert 'tinyml-' in text and 'keep_' not in text


def asked_in(*names):
    "The files of answers of these names, as folder and name."
    found = sorted(f for name in names for f in RESULTS.rglob(f'asked/{name}.json'))
    assert len(found) >= 4
    return [(f.parent.parent.relative_to(RESULTS).as_posix(), f.stem) for f in found]


MISSING = [folder for folder, _ in asked_in('missing')]
MISSING_KEYS = ['system', 'case', 'number', 'metric']


def missing_tables(folder, n_resamples):
    "missing.csv, and the same from the answers."
    said = pd.read_csv(RESULTS/folder/'missing.csv', keep_default_na=False)
    said = said.assign(number=pd.to_numeric(said.number)).fillna(-1).set_index(MISSING_KEYS)
    found = read_masked(RESULTS/folder/'asked', 'missing')
    now = pd.concat([missing_curve(a, n_resamples).assign(system=name) for name, a in found.items()])
    return now.fillna(dict(number=-1)).set_index(MISSING_KEYS), said


@pytest.mark.parametrize('folder', MISSING)
def test_what_was_asked_with_channels_missing_gives_its_table(folder):
    "Every score of every condition, from the answers; intervals are not drawn again."
    now, said = missing_tables(folder, 2)
    assert set(now.index) == set(said.index)
    for column in ('value', 'change', 'worst', 'removed', 'unchanged', 'blank', 'draws'):
        assert np.allclose(now[column].loc[said.index], said[column].astype(float), atol=1.1e-5)


@pytest.mark.long
@pytest.mark.parametrize('folder', MISSING)
def test_what_was_asked_with_channels_missing_gives_its_intervals(folder):
    now, said = missing_tables(folder, 10_000)
    for column in ('low', 'high', 'change_low', 'change_high'):
        assert np.allclose(now[column].loc[said.index], said[column].astype(float), atol=1.1e-5), column


@pytest.mark.parametrize('folder', MISSING)
def test_what_was_asked_with_channels_missing_gives_its_differences(folder):
    "Macro F1 of each system less the first's with the same channels missing, with its interval."
    found, keys = read_masked(RESULTS/folder/'asked', 'missing'), MISSING_KEYS
    first, *others = found
    now = pd.concat([missing_difference(found[name], found[first]).assign(system=name) for name in others])
    said = pd.read_csv(RESULTS/folder/'missing_paired.csv', keep_default_na=False)
    said = said.assign(number=pd.to_numeric(said.number))
    now, said = (t.fillna(dict(number=-1)).set_index(keys) for t in (now.query('metric == "f1"'), said))
    agree(now, said, [*INTERVAL, 'draws', 'removed'])


SUBSETS = asked_in('subsets', 'fewer')
SUBSET_TABLES = dict(subsets='subsets.csv', fewer='asked.csv')


def subset_tables(folder, name, n_resamples):
    "Of each subset (and system): its rows of the table, and the same from the answers."
    said = pd.read_csv(RESULTS/folder/SUBSET_TABLES[name])
    key = said.subset if name == 'subsets' else said.system + ', ' + said.subset
    found = read_subsets(RESULTS/folder/'asked', name)
    assert set(found) == set(key)
    for own, t in said.groupby(key):
        now = subset_difference(found[own], n_resamples).set_index('metric')
        now['seeds'] = len(found[own].asked)
        if name == 'fewer': now = now.rename(columns=lambda c: c.replace('trained', 'rival'))
        assert set(now.index) == set(t.metric)
        yield own, now, t.set_index('metric')


@pytest.mark.parametrize('folder, name', SUBSETS)
def test_what_was_asked_of_subsets_gives_its_table(folder, name):
    "Each pair on each subset: both scores and the difference."
    other = 'rival' if name == 'fewer' else 'trained'
    for _, now, said in subset_tables(folder, name, 2): agree(now, said, ['value', 'asked', other, 'seeds'])


@pytest.mark.long
@pytest.mark.parametrize('folder, name', SUBSETS)
def test_what_was_asked_of_subsets_gives_its_intervals(folder, name):
    columns = pd.read_csv(RESULTS/folder/SUBSET_TABLES[name], nrows=0)
    ends = [c for c in columns if c.endswith(('low', 'high'))]
    assert len(ends) == 6
    for _, now, said in subset_tables(folder, name, 10_000): agree(now, said, ends)


@pytest.fixture(scope='module')
def windows_of_iafdb() -> pd.DataFrame:
    "What each network that learnt from the SIMULATED twin said of each real window."
    folder = RESULTS/'sim_to_real'
    raw = decompressed((folder/'windows.csv.xz').read_bytes(), 'windows', 'restore it')
    each = pd.read_csv(io.BytesIO(raw))
    return each.assign(patient=each.record.str.split('_').str[0])


def test_kept_windows_give_the_tables_from_twin_to_real(windows_of_iafdb):
    "Share called AT by patient and by record, with its probability, confidence, and what is said instead."
    each, folder = windows_of_iafdb, RESULTS/'sim_to_real'
    now = 100*each.groupby(['system', 'patient']).called.mean().unstack()
    said = pd.read_csv(folder/'patients.csv').set_index('system')
    agree(now, said, said.columns, 6e-4)
    said = pd.read_csv(folder/'today.csv', keep_default_na=False).set_index('record')
    today = each[each.system == 'today, rhythm8']
    by = today.groupby('record')
    now = by[['p', 'called', 'confidence']].mean().assign(windows=by.size())
    agree(now.assign(called=100*now.called), said, ['windows', 'called'], .051)
    agree(now, said, ['p', 'confidence'], .0051)
    instead = today[today.called == 0].groupby('record').instead.agg(
        lambda x: ' '.join(x.value_counts().index[:2]))
    assert instead.reindex(said.index, fill_value='').to_dict() == said.instead.to_dict()


def test_kept_windows_give_fibrillation_and_flutter(windows_of_iafdb):
    "Which of the two has the larger part, how surely, and the probability of both, by record and by patient."
    keys = ['system', 'patient', 'record', 'header']
    said = pd.read_csv(RESULTS/'sim_to_real'/'rhythms.csv')
    told = windows_of_iafdb.dropna(subset=['AFIB'])
    header = said[said.record != 'all'].drop_duplicates('record').set_index('record').header
    told = told.assign(header=told.record.map(header), p=told.AFIB + told.AFL)
    told['right'] = 100.*np.where(told.header == 'AFIB', told.AFIB > told.AFL, told.AFIB < told.AFL)
    told['confidence'] = told[['AFIB', 'AFL']].max(axis=1)/told.p
    by = pd.concat([told, told.assign(record='all')]).groupby(keys)
    now = by[['right', 'confidence', 'p']].mean().assign(windows=by.size())
    agree(now, said.set_index(keys), ['windows', 'right', 'confidence', 'p'], 6e-4)


SIMS = 'sim_to_real', 'sim_to_real/other-hearts'
SHAPED = 'iaf1', 'iaf2', 'iaf5'
AT = 'AT', 'AFIB', 'AFL', 'EAT'


def kept_csv(folder, name) -> pd.DataFrame:
    "A table of sim_to_real that is kept compressed; patients by their records."
    t = pd.read_csv(RESULTS/folder/f'{name}.csv.xz', keep_default_na=False)
    return t.assign(patient=t.record.str.split('_').str[0]) if 'record' in t else t


@pytest.mark.parametrize('folder', SIMS)
def test_kept_windows_give_what_variants_say_of_patients(folder):
    by = kept_csv(folder, 'windows').groupby(['system', 'patient'])[['called', 'p', 'confidence']].mean()
    by['called'] *= 100
    said = pd.read_csv(RESULTS/folder/'variants.csv').set_index('system')
    shaped = by.index.isin(SHAPED, level='patient')
    for name, part in (('the three', by[shaped]), ('the five', by[~shaped])):
        mean, least = part.groupby('system').mean(), part.called.groupby('system').min()
        now = pd.DataFrame({f'{name}: AT': mean.called, f'{name}: least': least,
                            f'{name}: confidence': mean.confidence})
        agree(now, said, now.columns, 6e-4)
    now, patients = by.called.unstack(), pd.read_csv(RESULTS/folder/'patients.csv').set_index('system')
    agree(now, patients, patients.columns, 6e-4)


@pytest.mark.parametrize('folder', SIMS)
def test_kept_changed_windows_give_the_experiments(folder):
    "Windows of three patients, one thing changed: each patient's share of AT, and the mean of the three."
    by = kept_csv(folder, 'changed').groupby(['change', 'patient'])
    mean = by[['called', 'p', 'confidence']].mean()
    mean['called'] *= 100
    now = mean.groupby('change').mean().assign(windows=by.size().groupby('change').sum())
    now = now.join(mean.called.unstack().add_prefix('called, '))
    said = pd.read_csv(RESULTS/folder/'experiments.csv').set_index('change')
    agree(now, said, said.columns.drop(['p', 'confidence']), 6e-5)
    agree(now, said, ['p', 'confidence'], 2e-4)                       # kept to four digits


def row_of_the_twin(t):
    "Windows of AT, shares (%) of AT and of others called AT, of all that is right, macro F1: seeds' means."
    def of(one):
        mine, called = one.label.isin(AT), one.predicted.isin(AT)
        f1 = f1_score(one.label, one.predicted, average='macro', labels=sorted({*one.label}), zero_division=0)
        return mine.sum(), *(100*x for x in (called[mine].mean(), called[~mine].mean(),
                                             (one.label == one.predicted).mean(), f1))
    assert t.seed.nunique() == 3
    return np.mean([of(one) for _, one in t.groupby('seed')], axis=0)


@pytest.mark.parametrize('folder', SIMS)
def test_kept_classes_of_the_twin_give_its_columns(folder):
    """What each seed calls the SIMULATED windows: with channels taken away, changed, and of each variant with
    its macro F1 and top-1."""
    found = {key: row_of_the_twin(t) for key, t in kept_csv(folder, 'twin').groupby(['system', 'change'])}
    now = pd.DataFrame(found, index=['windows', 'AT', 'others', 'right', 'f1']).T
    today = now.loc['today, rhythm8']
    for file, key in (('twin_channels', 'channels'), ('twin_changed', 'change')):
        said = pd.read_csv(RESULTS/folder/f'{file}.csv').set_index(key)
        agree(today.loc[said.index], said, said.columns, 6e-4)
    said = pd.read_csv(RESULTS/folder/'variants.csv').set_index('system')
    whole, cut = (now.xs(what, level=1) for what in ('all channels', 'those of iafdb'))
    assert set(whole.index) == set(cut.index) == set(said.index)
    whole = whole.rename(columns={'f1': 'twin F1', 'right': 'twin top-1'})
    agree(whole, said, ['twin F1', 'twin top-1'], 6e-4)
    agree(cut.rename(columns={'AT': 'twin cut down, AT', 'others': 'twin cut down, others'}), said,
          ['twin cut down, AT', 'twin cut down, others'], 6e-4)


def test_what_each_network_says_alone_gives_what_all_say_together(windows_of_iafdb):
    "The mean of the networks' probabilities of AT is that of windows.csv.xz."
    each = kept_csv('sim_to_real', 'networks')
    mean = each.groupby('window').p.mean()
    whole = windows_of_iafdb[windows_of_iafdb.system == 'today, rhythm8'].set_index('window')
    assert np.allclose(mean, whole.p.loc[mean.index], atol=6e-4)
    assert (each.groupby(['seed', 'fold']).size() == len(whole)).all() and each.seed.nunique() == 3


def printed_rows(page) -> list[list[str]]:
    "The cells of every row of the tables that a page shows, without tags."
    cells = [c for c in read_json(RESULTS/f'{page}.ipynb')['cells'] if c['cell_type'] == 'code']
    html = '\n'.join(''.join(out.get('data', {}).get('text/html', '')) for c in cells for out in c['outputs'])
    return [re.findall(r'<t[hd]>(.*?)</t[hd]>', row, re.S) for row in re.findall(r'<tr>.*?</tr>', html, re.S)]


def test_kept_answers_give_what_the_page_of_few_leads_prints():
    "few_leads.csv is what was answered; labels and patients are those of PTB-XL's fold 10."
    folder, page = RESULTS/'few_leads', printed_rows('few_leads')
    said, made = pd.read_csv(folder/'few_leads.csv'), read_json(folder/'few_leads.json')
    known = read_recordings(TAIL)[0].set_index('record').loc[said.record]
    assert (known.official == 10).all() and (known.subject.to_numpy() == said.subject).all()
    assert (known.label.to_numpy() == np.array(made['classes'])[said.truth]).all()
    given = dict(subject=said.subject, n_classes=len(made['classes']), n_resamples=2000)
    words = lambda t, sign='': [f'{100*r.value:{sign}.1f} [{100*r.low:{sign}.1f}, {100*r.high:{sign}.1f}]'
                                for r in t.loc[['top1', 'f1']].itertuples()]
    whole = next(iter(made['leads']))
    for name in made['leads']:
        row = words(bootstrap_scores(said.truth, said[name], **given))
        less = words(paired_scores(said.truth, said[name], said[whole], **given), '+')
        assert [name, *row, *(['', ''] if name == whole else less)] in page


def test_kept_answers_give_what_the_page_of_transfers_prints_of_frozen_encoders():
    "finetune-probes.csv is what was answered; recordings and rhythms are those of the networks beside them."
    folder = RESULTS/'transfers'
    one = read_kept_grid(folder/'answers')['finetune', 'patient']['from scratch']
    told = pd.read_csv(folder/'finetune-probes.csv').sort_values(['seed', 'subject'])
    code = lambda names: pd.Categorical(names, one[0].classes).codes.astype(int)
    truth, who = code(told.truth), told.subject.to_numpy(str)
    assert (np.concatenate([a.truth[np.argsort(a.subject)] for a in one]) == truth).all()
    cells = read_json(RESULTS/'transfers.ipynb')['cells']
    page = ''.join(''.join(out.get('text', '')) for c in cells for out in c.get('outputs', []))
    given = who, len(one[0].classes), 10_000
    for name in told.columns[4:]:
        score = bootstrap_scores(truth, code(told[name]), *given)
        less = paired_scores(truth, code(told[name]), code(told['random encoder']), *given)
        for metric in ('top1', 'f1'):
            line = f'{name}, {metric}; {format_score(score.loc[metric])}'
            if name != 'random encoder': line += f'; less random {format_score(less.loc[metric])}; '
            assert line in page, line


def test_every_table_is_made_again_or_says_why_not():
    "tables.csv has each table once, with the test that makes it again, the reason why not, or why not all."
    said = pd.read_csv(RESULTS/'tables.csv', keep_default_na=False)
    fits = {row.tables: {*RESULTS.glob(row.tables)} for row in said.itertuples()}
    assert all(fits.values()) and len(fits) == len(said), [name for name, own in fits.items() if not own]
    times = Counter(file for own in fits.values() for file in own)
    tables = {*RESULTS.rglob('*.csv')}
    assert {*times} == tables, sorted({*times} ^ tables)
    assert set(times.values()) == {1}, [file for file, n in times.items() if n > 1]
    assert ((said.test != '') | (said.why_not != '')).all()
    assert said[said.test != ''].why_not.str.match('$|rows of ').all()
    known = {name for name, thing in globals().items() if name.startswith('test_') and callable(thing)}
    assert {*said.test} - {''} <= known
    grids = {file for row in said.itertuples() for file in fits[row.tables] if 'test_kept_grids' in row.test}
    assert grids == {f.parents[1]/f'{name}.csv' for f in GRIDS for name in ('classes', 'scores')}
    notebooks = {name for why in said.why_not for name in re.findall(r'nbs/\S+\.ipynb', why)}
    assert notebooks and all((RESULTS.parents[1]/name).exists() for name in notebooks)


def test_every_figure_that_is_kept_is_shown():
    "A figure beside the tables is linked or read by a page; others only weigh."
    pages = ''.join(f.read_text() for f in RESULTS.glob('*.ipynb'))
    kept = [f for end in ('svg', 'png') for f in RESULTS.rglob(f'*.{end}')]
    assert kept and [f.name for f in kept if f"/'{f.name}'" not in pages and f'/{f.name})' not in pages] == []


def measurement_row(own, measure):
    "What measurements.csv tells of one measure by one method, from the kept errors `own` (tenths of ms)."
    asked = {'PR': 'has_p', 'P duration': 'has_p', 'T duration': 'has_t'}
    marked = own[own[asked[measure]] == 1] if measure in asked else own
    e = marked[measure].dropna()/10
    return dict(complexes=len(marked), found=len(e)/len(marked), bias=e.mean(), sd=e.std(),
                far=(abs(e) > 40).mean() if len(e) else np.nan,
                no_p=own.said_p[own.has_p == 0].mean() if measure == 'PR' else np.nan)


def test_kept_errors_give_the_table_of_measurements():
    "Every row of measurements.csv, but the seconds, from the errors of each complex of LUDB."
    folder = RESULTS/'measurements'
    said, each = pd.read_csv(folder/'measurements.csv'), pd.read_csv(folder/'errors.csv.xz')
    by = {key: own for key, own in each.groupby(['method', 'view'])}
    assert len(said) == 6*len(by) and each.record.nunique() == 200
    now = pd.DataFrame([measurement_row(by[row.method, row.view], row.measure) for row in said.itertuples()])
    apart = (now - said[now.columns]).abs().max()
    assert (now.isna() == said[now.columns].isna()).all(axis=None)
    assert (apart[['bias', 'sd']] < 5e-3).all() and (apart.drop(['bias', 'sd']) < 6e-5).all()


@pytest.mark.parametrize('epochs, n_seeds', [(30, 3), (120, 2)])
def test_kept_answers_give_the_tables_of_fine_tuning(epochs, n_seeds):
    "Scores, gains over from scratch, and classes, with intervals and p."
    folder = RESULTS/'finetune'/f'{epochs}-epochs'
    (systems,) = read_kept_grid(folder/'answers').values()
    classes, scores = systems['from scratch'][0].classes, pd.read_csv(folder/'finetune-scores.csv')
    scores = scores.set_index('system')
    assert set(systems) == set(scores.index) and all(len(seeds) == n_seeds for seeds in systems.values())
    pooled = {name: [np.concatenate([getattr(a, what) for a in seeds])
                     for what in ('truth', 'called', 'subject')] for name, seeds in systems.items()}
    for name, own in pooled.items():
        assert summary_row(bootstrap_scores(*own, len(classes))) == scores.loc[name].to_dict()
    given, scratch = pooled['from given weights'], pooled['from scratch']
    said = pd.read_csv(folder/'finetune-paired.csv').set_index('metric')
    gains = paired_scores(*given[:2], scratch[1], given[2], len(classes))
    for column in ('value', 'low', 'high', 'p'):
        assert np.allclose(gains[column], said[column].loc[gains.index], atol=1e-6)
    said = pd.read_csv(folder/'finetune-classes.csv').set_index(['system', 'class'])
    for name, own in pooled.items():
        now = per_class(*own, classes).set_index('class')
        assert (now.support == n_seeds*said.loc[name].support.loc[now.index]).all()
        for column in ('precision', 'recall', 'f1', 'subjects'):
            assert np.allclose(now[column], said.loc[name, column].loc[now.index], atol=1e-5, equal_nan=True)


def test_kept_counts_give_the_tables_of_beats():
    "Of DS2 the confusion and the scores, of DS1 the choice, from counts per record."
    folder, names = RESULTS/'beats', ['N', 'S', 'V', 'F']
    each = pd.read_csv(folder/'beats.csv.xz')
    of_ds2, of_ds1 = (each[each.set == s] for s in ('DS2', 'DS1'))
    assert of_ds2.record.nunique() == 21 and of_ds1.record.nunique() == 22
    assert not {*of_ds2.record} & {*of_ds1.record}
    count = lambda t: t.groupby(['annotated', 'answer']).beats.sum()
    confusion = pd.read_csv(folder/'confusion.csv').set_index('annotated')
    assert (count(of_ds2).unstack(fill_value=0).reindex_like(confusion).fillna(0) == confusion).all(None)
    def f1_of(n):
        of = lambda level: n.groupby(level=level).sum().reindex(names, fill_value=0)
        total = of('annotated') + of('answer')
        return {name: 2*n.get((name, name), 0)/total[name] for name in names}
    said = pd.read_csv(folder/'classes.csv').set_index('class')
    right = np.diag(confusion.loc[names, names])
    assert (said.beats == confusion.loc[names].sum(axis=1)).all()
    assert np.allclose(said.sensitivity, right/said.beats, atol=1e-6)
    assert np.allclose(said.predictivity, right/confusion[names].sum(), atol=1e-6)
    assert np.allclose(said.f1, pd.Series(f1_of(count(of_ds2))), atol=1e-6)
    choice = pd.read_csv(folder/'choice.csv').set_index(['width', 'power']).f1
    for key, own in of_ds1.groupby(['width', 'power']):
        assert np.mean([*f1_of(count(own)).values()]) == pytest.approx(choice[key], abs=6e-5), key
    assert {*of_ds2[['width', 'power']].itertuples(index=False, name=None)} == {choice.idxmax()}


def test_kept_shares_give_the_table_of_ectopic_beats():
    "AUROC of PVC and PAC by the share of a class, or a cluster, of beats, on fold 10."
    said = pd.read_csv(RESULTS/'beats'/'ptbxl.csv').set_index(['statement', 'kinds'])
    each = pd.read_csv(RESULTS/'beats'/'ptbxl.csv.xz')
    assert each.record.is_unique
    for (statement, kinds), row in said.iterrows():
        assert each[statement].sum() == row.recordings
        now = roc_auc_score(each[statement], each[f'{statement} by {kinds}'])
        assert now == pytest.approx(row.auroc, abs=2e-4)


def of_shuffled(rhythm, cut, n_resamples):
    "Mean scores over the orders of a cut ('' is none) of what trees said, and the share still named."
    folder = RESULTS/'shuffled'
    said, windows = read_arrays(folder/'said.safetensors.xz', ''), pd.read_csv(folder/'windows.csv.xz')
    of = read_recordings(TAIL)[0].set_index('record').subject
    views, truth = read_json(folder/'said.json')['views'], windows[rhythm].to_numpy(bool)
    at, probs = said[f'thresholds-{rhythm}'][windows.pair], unpacked_probabilities(said[f'said-{rhythm}'])
    parts = [(p[:, None], at[:, None]) for p, view in zip(probs, views) if view.startswith(f'{cut}, ')]
    named = truth & (probs[0] >= at)
    kept = np.mean([(p[:, 0] >= at)[named].mean() for p, _ in parts])
    who = of.loc[windows.record].to_numpy(str)
    return mean_over_draws(truth[:, None], parts, who, n_resamples), kept


@pytest.mark.parametrize('rhythm', ['BIGU', 'TRIGU', 'AFIB'])
def test_kept_answers_give_the_scores_of_shuffled_beats(rhythm):
    "By trees, of ten seconds: the values, and the share that is still named."
    table = pd.read_csv(RESULTS/'shuffled'/'shuffled.csv').query('rhythm == @rhythm')
    for cut, said in table.groupby('view'):
        mean, kept = of_shuffled(rhythm, cut, 2)
        now = mean_table(mean).value.loc[said.metric]
        assert np.allclose(now, said.value, atol=6e-5) and kept == pytest.approx(said.kept.iloc[0], abs=6e-5)


@pytest.mark.long
@pytest.mark.parametrize('rhythm', ['BIGU', 'TRIGU', 'AFIB'])
def test_kept_answers_give_the_intervals_of_shuffled_beats(rhythm):
    "Intervals of the scores, and the differences to recordings as they are with their p."
    n = read_json(RESULTS/'shuffled'/'said.json')['resamples']
    tables = (pd.read_csv(RESULTS/'shuffled'/f'{name}.csv') for name in ('shuffled', 'shuffled-differences'))
    table, less = (t[t.rhythm == rhythm] for t in tables)
    means = {cut: of_shuffled(rhythm, cut, n)[0] for cut in table.view.unique()}
    for cut, said in table.groupby('view'):
        now = mean_table(means[cut]).loc[said.metric, INTERVAL]
        assert np.allclose(now, said[INTERVAL], atol=6e-5)
    for cut, said in less.groupby('view'):
        columns = [*INTERVAL, 'p']
        now = mean_difference(means[cut], means['as it is']).loc[said.metric, columns]
        assert np.allclose(now, said[columns], atol=6e-5)


def test_recalls_of_new_patients_give_the_table_of_few_windows():
    "Every way to answer at every k, the gains, and each loss less the first, with their intervals."
    folder, keys = RESULTS/'new_patient', ['system', 'k', 'answer']
    each, said = pd.read_csv(folder/'shots_each.csv.xz'), pd.read_csv(folder/'shots.csv').set_index(keys)
    found = {system: t.drop(columns=['system', 'rhythm']) for system, t in each.groupby('system', sort=False)}
    first = said.index[0][0]
    for system, t in found.items():
        now = few_shot_table(t, n_resamples=10_000)
        agree(now, said.loc[system], [*INTERVAL, 'subjects', 'classes'])
        gap = few_shot_difference(t, found[first], 10_000).add_prefix('against_')
        agree(gap, said.loc[system].loc[gap.index], list(gap))
    assert {*found} == {*said.index.unique('system')} and {*said.index.unique('answer')} == {*METHODS, *GAINS}
    made = read_json(folder/'bedside.json')
    assert made['simulated'] and not made['changed'] and made['seeds'] == 3
    assert set(each.k) == {int(k) for k in made['asked']['shots'].split()}


def test_kept_answers_give_the_first_table_of_the_search():
    "Top-1 and macro F1 of each run on the twin, and of those averaged with a linear model."
    said = pd.read_csv(RESULTS/'search'/'runs.csv').set_index(['change', 'seed'])
    (kept,) = read_kept_grid(RESULTS/'search'/'twin'/'answers').values()
    now = pd.DataFrame({(name, seed): kept_scores(a, 2).value for name, own in kept.items()
                        for seed, a in enumerate(own)}).T
    rest = said.drop(now.index)
    assert len(now) == 18
    agree(now, said.loc[now.index], ['top1', 'f1'], 6e-5)
    averaged = rest[rest.index.get_level_values(0).str.endswith('on measured intervals')]
    windows = pd.read_csv(RESULTS/'search'/'averaged.csv.xz')
    assert windows.seed.value_counts().to_dict() == dict.fromkeys(range(3), 1041)
    for seed, t in windows.groupby('seed'):
        (own,) = averaged.xs(seed, level='seed').itertuples()
        f1 = f1_score(t.truth, t.called, average='macro', labels=sorted({*t.truth}), zero_division=0)
        assert abs((t.truth == t.called).mean() - own.top1) < 6e-5 and abs(f1 - own.f1) < 6e-5
    assert len(averaged) == 3 and rest.drop(averaged.index).data.str.startswith('PTB-XL').all()


def test_kept_answers_give_what_was_chosen_of_superclasses():
    "Macro AUROC and F1 on PTB-XL's fold 9, of answers of seven bits."
    said = pd.read_csv(RESULTS/'search'/'superclasses.csv').set_index('change')
    (kept,) = read_kept_grid(RESULTS/'search'/'superclasses'/'answers').values()
    now = pd.DataFrame({name: kept_scores(a, 2).value for name, (a,) in kept.items()}).T
    agree(now, said, ['auroc'], 3e-4)
    agree(now, said, ['f1'], 3e-3)


def test_kept_answers_give_what_was_chosen_of_the_controlled_tail():
    "Ranking on fold 9 of the trials of tier 2, and of those of tier 1 that were trained again."
    recordings = read_recordings(TAIL)[0]
    first, again = (pd.read_csv(TAIL/f'{name}.csv').set_index('trial') for name in ('tuning', 'tuning_again'))
    said = pd.concat([first.drop(again.index), again])
    files, apart = sorted((TAIL/'tune').glob('*.json')), []
    for file in files:
        job = read_card(file).job
        t = read_tail_job(file.parent, job, recordings)
        assert (job.size, job.draw) == (20, 0) and {*t.role} == {'validation'}
        own = [Ranking(t.label == name, t[f'log_{name}']) for name in RARE_RHYTHMS]
        each = [average_precision(x) for x in own]
        now = [*each, np.mean(each), np.mean([auroc(x) for x in own])]
        assert np.allclose(now, said.loc[job.loss], atol=8e-3), job.loss      # of seven bits, few recordings
        apart.append(abs(now[3] - said.AP[job.loss]))
    assert len(apart) == 44 + len(again) == 64 and np.mean(apart) < 7e-4


def test_kept_windows_of_other_lengths_give_their_rows():
    "Top-1 and macro F1 of the search's runs on windows of three, five and ten seconds."
    said = pd.read_csv(RESULTS/'search'/'windows.csv').set_index('change')
    (kept,) = read_kept_grid(RESULTS/'search'/'windows'/'answers').values()
    now = pd.DataFrame({name: kept_scores(a, 2).value for name, (a,) in kept.items()}).T
    agree(now, said, ['top1', 'f1'], 6e-5)
