"""Grids of runs: plans, processes that fail in every way, resuming, and the notebooks that run them."""
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from helpers import experiment_cells
from hypothesis import given, settings
from hypothesis import strategies as st

from pedarr.training import grid_results as answers_, grid as grid_
from pedarr.signals.settings import PreprocessConfig
from pedarr.signals.build import build_store
from pedarr.core.array_files import read_arrays, write_arrays
from pedarr.core.errors import PedarrError, error_line
from pedarr.core.locks import lock_holder
from pedarr.synthetic.files import TWIN_VERSION
from pedarr.training.config import make_config
from pedarr.training.finished_runs import open_finished
from pedarr.training.kept_answers import (
    keep_answers, keep_grid, kept_grid_classes, kept_grid_scores)
from pedarr.training.train import run_training
from pedarr.use.steps import NOTEBOOK_PROGRAM

ROOT = Path(__file__).resolve().parents[1]
SMALL = dict(dim=16, depth=1, heads=2, epochs=1, n_folds=2, single_subject_classes='keep', resamples=100)


@pytest.fixture(scope='module')
def runs(store, tmp_path_factory):
    "Two losses, two seeds, both protocols; two runs at a time."
    out = tmp_path_factory.mktemp('grid')/'runs'
    jobs = grid_.plan_jobs({'loss': {k: grid_.QUESTIONS['loss'][k] for k in ('cross-entropy', 'focal')}}, out,
                           seeds=2, store=str(store), **SMALL)
    # in this process: starting eight takes a minute
    for j in jobs: run_training(make_config(**j.params), progress=False)
    assert grid_.run_grid(jobs, progress=False).status.tolist() == ['already']*8
    return jobs


SYSTEMS = st.dictionaries(st.text('xyz +', min_size=1, max_size=4),
                          st.fixed_dictionaries({'lr': st.sampled_from([.1, .2, .3])}), min_size=1,
                          max_size=3)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from('abcd'), SYSTEMS, min_size=1),
       st.integers(1, 3), st.sampled_from([['patient'], ['segment'], ['patient', 'segment']]))
def test_a_plan_has_every_system_once_and_a_folder_does_one_thing(questions, seeds, splits):
    try: jobs = grid_.plan_jobs(questions, 'out', splits, seeds)
    except PedarrError as e:
        assert 'another name' in str(e)
        return
    assert len(jobs) == seeds*len(splits)*sum(map(len, questions.values()))
    does, folder = {}, {}
    for job in jobs:
        what = json.dumps({k: v for k, v in job.params.items() if k != 'run'}, sort_keys=True)
        assert does.setdefault(job.run, what) == what
        assert folder.setdefault(what, job.run) == job.run


def test_seeds_must_be_a_count():
    for bad in (0, -1, True, 2.5, '3'):
        with pytest.raises(PedarrError, match='seeds'): grid_.plan_jobs({'a': {'b': {}}}, 'out', seeds=bad)


def test_answers_are_those_of_the_runs(runs):
    scores, notes = answers_.score_table(runs, 200)
    assert not notes and len(scores) == 2*2*5 and (scores.seeds == 2).all()
    for (split, system), part in scores.groupby(['split', 'system']):
        t = pd.concat([pd.read_csv(Path(j.run)/'predictions.csv') for j in runs
                       if (j.split, j.system) == (split, system)])
        assert part.set_index('metric').value['top1'] == pytest.approx((t.label == t.predicted).mean())
    first = scores[scores.system == 'cross-entropy']
    assert first.gain.isna().all() and first.holm.isna().all()
    assert (scores.holm.dropna() >= scores.p.dropna() - 1e-12).all()


def test_an_unfinished_system_is_named_and_left_out(runs, tmp_path):
    jobs = [j.model_copy(update=dict(run=str(tmp_path/'none')))
            if (j.system, j.split, j.seed) == ('focal', 'patient', 1) else j for j in runs]
    scores, notes = answers_.score_table(jobs, 100)
    assert len(notes) == 1 and 'focal' in notes[0]
    assert set(scores[scores.split == 'patient'].system) == {'cross-entropy'}
    assert set(scores[scores.split == 'segment'].system) == {'cross-entropy', 'focal'}
    assert 'not run' in answers_.question_table(scores, 'loss').loc['focal'].tolist()
    with pytest.raises(PedarrError, match='no system'):
        answers_.score_table([jobs[3].model_copy(update=dict(run=str(tmp_path/'none')))])


def test_a_run_that_cannot_be_read_is_named_and_left_out(runs, tmp_path):
    """Metrics that were altered, predictions that were cut short, a file that is gone: the others still make
    their table."""
    harms = {
        'metrics.json': lambda t: t.replace('"value": 0', '"value": 1', 1),
        'predictions.csv': lambda t: t[:-20],
        'environment.json': lambda t: '{}'}
    for name, harm in harms.items():
        bad = Path(shutil.copytree(runs[1].run, tmp_path/name.partition('.')[0]))
        assert harm((bad/name).read_text()) != (bad/name).read_text()
        (bad/name).write_text(harm((bad/name).read_text()))
        jobs = [j.model_copy(update=dict(run=str(bad))) if j.run == runs[1].run else j for j in runs]
        scores, notes = answers_.score_table(jobs, 100)
        assert len(notes) == 1
        assert name in notes[0]
        assert 'focal is left out' in notes[0]
        assert '\n' not in notes[0]
        assert set(scores[scores.split == 'patient'].system) == {'cross-entropy'}
        assert len(answers_.recall_table(jobs))


def test_kept_tables_can_be_read():
    for folder in ('twin', 'twin_intra', 'modality', 'ludb'):
        scores, classes, made = answers_.load_grid_results(ROOT/'nbs'/'results'/folder)
        assert scores.value.between(0, 1).all()
        assert scores.segments.dtype == scores.subjects.dtype == classes.support.dtype == 'int64'
        assert made['runs'] > 0
        for q in scores.question.unique(): assert len(answers_.question_table(scores, q))


def test_a_damaged_table_of_results_says_so(runs, tmp_path):
    scores, notes = answers_.score_table(runs, 100)
    class Fake: meta = dict(database='d', simulated=True, sha256={}, config={})
    answers_.save_grid_results(tmp_path/'k', Fake, runs, scores, answers_.recall_table(runs), notes)
    again, classes, made = answers_.load_grid_results(tmp_path/'k')
    pd.testing.assert_frame_equal(again, scores.round(5), check_dtype=False)
    assert made['runs'] == 8 and made['simulated']
    for name, harm in (
            ('scores.csv', lambda t: t.replace('top1,0', 'top1,x', 1)),
            ('classes.csv', lambda t: t.replace('support', 'suport', 1)),
            ('made.json', lambda t: t.replace('true', '3', 1))):
        whole = (tmp_path/'k'/name).read_text()
        (tmp_path/'k'/name).write_text(harm(whole))
        with pytest.raises(PedarrError, match=f'{name}: damaged'): answers_.load_grid_results(tmp_path/'k')
        (tmp_path/'k'/name).write_text(whole)


def test_kept_answers_of_a_grid_give_its_tables(runs, tmp_path):
    """scores.csv and classes.csv to the digit they are written with, from the answers alone: the runs are
    gone when they are computed. A system with an unfinished run is left out."""
    elsewhere = lambda run: str(shutil.copytree(run, tmp_path/Path(run).name))
    jobs = [j.model_copy(update=dict(run=elsewhere(j.run))) for j in runs]
    said, _ = answers_.score_table(jobs, 100)
    recall = answers_.recall_table(jobs)
    keep_grid(jobs, tmp_path/'answers')
    assert sum(f.stat().st_size for f in (tmp_path/'answers').glob('*.xz')) < 40_000
    for j in jobs: shutil.rmtree(j.run)
    now = kept_grid_scores(tmp_path/'answers', 100)
    pd.testing.assert_frame_equal(now[said.columns].round(5), said.round(5), check_dtype=False)
    now = kept_grid_classes(tmp_path/'answers')
    columns = [c for c in recall if c in now]
    pd.testing.assert_frame_equal(now[columns].round(5), recall[columns].round(5), check_dtype=False)
    assert {'support', 'recall', 'f1', 'class', 'system', 'split'} <= set(columns)

    none = runs[1].model_copy(update=dict(run=str(tmp_path/'none')))
    keep_grid([none if j is runs[1] else j for j in runs], tmp_path/'less')
    less = kept_grid_scores(tmp_path/'less', 100)
    gone = runs[1].system, runs[1].split
    assert gone not in set(zip(less.system, less.split)) and len(less) == len(said) - 5


def test_kept_answers_of_other_rows_are_one_line(runs, tmp_path):
    "A seed that lost a row, a file that was cut off, one that is gone; and two runs of one name."
    def spoilt(harm):
        folder = tmp_path/str(len([*tmp_path.iterdir()]))
        keep_grid(runs, folder)
        file = next(folder/f'{Path(j.run).name}.safetensors.xz' for j in runs if j.seed == 1)
        harm(file)
        with pytest.raises(PedarrError, match=re.escape(file.name)) as e: kept_grid_scores(folder, 100)
        text, status = error_line(e.value)
        assert '\n' not in text and status == 2
        return text
    shorter = lambda f: write_arrays(f, {k: x[:-1] for k, x in read_arrays(f, '').items()})
    assert 'rows that are not those of the first seed' in spoilt(shorter)
    longer = lambda f: write_arrays(f, {k: x if k == 'subject' else np.append(x, x[:1])
                                        for k, x in read_arrays(f, '').items()})
    assert 'do not fit each other' in spoilt(longer)
    assert 'it was cut off' in spoilt(lambda f: f.write_bytes(f.read_bytes()[:-20]))
    spoilt(Path.unlink)
    copy = shutil.copytree(runs[0].run, tmp_path/'b'/Path(runs[0].run).name)
    twin = runs[0].model_copy(update=dict(run=str(copy)))
    with pytest.raises(PedarrError, match='two runs are called'): keep_grid([runs[0], twin], tmp_path/'twice')


def test_answers_of_recordings_without_a_licence_are_refused(runs, tmp_path):
    run = open_finished(runs[0].run)
    environment = run.environment.model_copy(update=dict(database='tinyml-eight'))
    contest = dataclasses.replace(run, environment=environment)
    with pytest.raises(PedarrError, match='without a licence.*answers False'):
        keep_answers(contest, tmp_path/'kept', 'one')
    assert not (tmp_path/'kept').exists()


def test_without_its_first_system_a_question_has_no_gains(runs, tmp_path):
    jobs = [j.model_copy(update=dict(run=str(tmp_path/'none'))) if j.system == 'cross-entropy' else j
            for j in runs]
    scores, notes = answers_.score_table(jobs, 100)
    assert scores.gain.isna().all() and len(notes) == 2


def test_runs_of_other_segments_are_not_pooled(runs, tmp_path):
    other = run_training(make_config(**runs[0].params | dict(run=str(tmp_path/'run'), fold=0)),
                         progress=False)
    with pytest.raises(PedarrError, match='other segments'): answers_.pool_predictions([runs[0].run, other])
    with pytest.raises(PedarrError, match='other segments'): answers_.paired_table([runs[0].run], [other])


DIES = 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'
ONE_DIES = f"""import io, json, sys
text = sys.stdin.read()
if json.loads(text)['loss'] == 'none': exec({DIES!r})
sys.stdin = io.StringIO(text)
{grid_.TRAIN_PROGRAM}"""


def test_a_crash_is_an_entry_of_the_table(store, tmp_path):
    jobs = grid_.plan_jobs({'q': {'a': {'loss': 'none'}, 'b': {'loss': 'focal'}}}, tmp_path/'runs',
                           ['patient'], 1, store=str(store), **SMALL)
    state = grid_.run_grid(jobs, program=ONE_DIES, progress=False).set_index('run')
    assert state.status[jobs[0].run] == 'failed'
    assert '-9' in state.why[jobs[0].run]
    assert state.status[jobs[1].run] == 'done'
    again = grid_.run_grid(jobs, program='', progress=False)     # what failed is tried again, no other
    assert again.set_index('run').status.to_dict() == {jobs[0].run: 'done', jobs[1].run: 'already'}


def test_a_run_that_hangs_is_ended(store, tmp_path):
    job = grid_.plan_jobs({'q': {'a': {}}}, tmp_path/'runs', ['patient'], 1, store=str(store), **SMALL)[0]
    began = time.time()
    said = grid_.run_job(job, program='import time; time.sleep(60)', limit=1)
    assert said['status'] == 'failed' and 'longer than 1 s' in said['why'] and time.time() - began < 30


@pytest.mark.long
def test_a_job_may_leave_its_notebook_and_report(store, tmp_path):
    job = grid_.plan_jobs({'q': {'a': {}}}, tmp_path/'runs', ['patient'], 1, store=str(store), **SMALL)[0]
    assert grid_.run_job(job, program=NOTEBOOK_PROGRAM)['status'] == 'done'
    assert {'train.ipynb', 'report.html', 'metrics.json'} <= {p.name for p in Path(job.run).iterdir()}
    assert grid_.run_job(job, program=NOTEBOOK_PROGRAM)['status'] == 'already'


def test_a_store_that_is_not_there_fails_every_run_in_one_line(tmp_path):
    jobs = grid_.plan_jobs({'q': {'a': {}}}, tmp_path/'runs', ['patient'], 1, store=str(tmp_path/'none'),
                           **SMALL)
    state = grid_.run_grid(jobs, progress=False)
    assert state.status.tolist() == ['failed'] and 'not a store' in state.why[0] and '\n' not in state.why[0]


def test_a_finished_run_on_another_store_is_refused(runs, simulated, tmp_path):
    build_store(simulated, tmp_path/'other', 'leipzig',
                config=PreprocessConfig(rate=250, iegm_band=(30, 100)), progress=False)
    params = runs[0].params | {'store': str(tmp_path/'other')}
    said = grid_.run_job(runs[0].model_copy(update=dict(params=params)))
    assert said['status'] == 'failed' and 'other contents' in said['why']


def test_a_damaged_plan_says_so(tmp_path):
    with pytest.raises(PedarrError, match='plan.json: cannot be read'): grid_.load_plan(tmp_path)
    job = dict(question='q', system='s', split='patient', seed=0, run='r', params={})
    changes = [*(dict(run=name) for name in ('../x', '/etc', '', '..')), dict(seed='0'), dict(params=[])]
    changed = [json.dumps({'jobs': [job | change]}) for change in changes]
    for text in ('{', '[]', '{"jobs": [{"run": "x"}]}', '{"jobs": [3]}', *changed):
        (tmp_path/'plan.json').write_text(text)
        with pytest.raises(PedarrError): grid_.load_plan(tmp_path)


def test_plans_in_one_folder_are_joined(tmp_path):
    one, two = (grid_.plan_jobs({q: {'s': dict(loss=q)}}, tmp_path, ['patient'], 1)
                for q in ('focal', 'none'))
    two = [j.model_copy(update=dict(run=str(tmp_path/'t'), params=j.params | {'run': str(tmp_path/'t')}))
           for j in two]
    grid_.save_plan(one)
    grid_.save_plan(two)
    grid_.save_plan(one)
    assert sorted(j.question for j in grid_.load_plan(tmp_path)) == ['focal', 'none']


def test_a_plan_of_an_older_version_is_read_under_todays_names(tmp_path):
    jobs = grid_.plan_jobs({'q': {'s': {}}}, tmp_path, ['patient'], 1, single_subject_classes='keep')
    grid_.save_plan(jobs)
    file = tmp_path/'plan.json'
    file.write_text(file.read_text().replace('"single_subject_classes"', '"lone_classes"'))
    assert 'lone_classes' in file.read_text() and grid_.load_plan(tmp_path) == jobs


SHARED = """import sys
from pedarr.training import grid
grid._PAUSE, met, one = .5, [], grid.run_job
def watched(*args):
    row = one(*args)
    if row['status'] == 'busy' and row['run'] not in met: met.append(row['run'])
    return row
grid.run_job = watched
state = grid.run_grid(grid.load_plan(sys.argv[1]), 1, 1, progress=False)
print(' '.join(state.status), *filter(None, state.why), len(met))"""

def wait_for(there, process, seconds=240):
    "Wait until `there()`, as long as the process lives."
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(.02)


@pytest.mark.parametrize('killed', [pytest.param(False, marks=pytest.mark.long), True])
def test_two_processes_share_a_grid(store, tmp_path, killed):
    """The second one meets the run of the first, goes on with the other, and waits; where the first is
    killed, with the training that it started, the second takes its run up."""
    jobs = grid_.plan_jobs({'q': {'plain': dict(loss='none')}}, tmp_path/'runs', ['patient'], 2,
                           store=str(store), **SMALL)
    grid_.save_plan(jobs)
    start = lambda: subprocess.Popen([sys.executable, '-W', 'ignore', '-c', SHARED, tmp_path/'runs'],
                                     stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT)
    first = start()
    wait_for(lambda: lock_holder(Path(jobs[0].run)/'lock'), first)
    os.killpg(first.pid, signal.SIGSTOP)          # it holds its lock until it goes on, or is killed
    second = start()
    wait_for((Path(jobs[1].run)/'metrics.json').exists, second)
    time.sleep(1)
    assert second.poll() is None and not (Path(jobs[0].run)/'metrics.json').exists()
    os.killpg(first.pid, signal.SIGKILL if killed else signal.SIGCONT)
    said = [p.communicate(timeout=300)[0].strip() for p in (first, second)]
    assert second.returncode == 0
    assert said == (['', 'done done 1'] if killed else ['done already 0', 'already done 1'])
    assert all(grid_._is_done(j) for j in jobs)
    assert sorted(p.name for p in (tmp_path/'runs').iterdir()) == sorted(
        ['plan.json', *(Path(j.run).name for j in jobs)])


def test_two_plans_that_are_written_at_once_are_both_kept(tmp_path):
    "Without a lock one would be read before the other was written."
    plans = [grid_.plan_jobs({f'q{k}': {f's{k}': dict(loss='none', lr=k/100)}}, tmp_path, ['patient'], 1)
             for k in range(1, 13)]
    with ThreadPoolExecutor(12) as pool: list(pool.map(grid_.save_plan, plans))
    assert len(grid_.load_plan(tmp_path)) == 12


@pytest.mark.parametrize('listed', [True, False])
def test_a_run_told_by_an_earlier_default_is_done_where_that_is_asked_by_name(store, tmp_path, listed):
    "Its version listed `presence` in model.json, or had no such option yet; asked as today it is another."
    common = dict(store=str(store), **SMALL)
    plan = lambda **own: grid_.plan_jobs({'q': {'s': own}}, tmp_path, ['patient'], 1, **common)[0]
    named, today = plan(model_options=dict(presence=True)), plan()
    run = run_training(make_config(**named.params), progress=False)
    told = {'presence': True} if listed else {}
    for name, entry, left in (('params', 'model_options', {}), ('model', 'model', told)):
        file = run/f'{name}.json'
        was = json.loads(file.read_text())
        rest = {k: v for k, v in was[entry].items() if k != 'presence'}
        file.write_text(json.dumps(was | {entry: rest | left}))
    assert grid_._is_done(named) and run_training(make_config(**named.params), progress=False) == run
    with pytest.raises(PedarrError, match='presence was True, is False'): grid_._is_done(today)


def _run(name, page, tmp_path, **params):
    papermill.execute_notebook(str(ROOT/f'nbs/experiments/{name}.ipynb'), str(page), parameters=params,
                               cwd=str(tmp_path), kernel_name='python3', progress_bar=False)
    outputs = [o for c in nbformat.read(page, 4).cells if c.cell_type == 'code' for o in c.outputs]
    return '\n'.join(str(o.get('text', '') or o.get('data', {}).get('text/html', '')) for o in outputs)


@pytest.mark.long
def test_the_ablations_notebook_runs_a_grid_of_ones_own_and_keeps_going_after_a_failure(store, tmp_path):
    own = {'mine': {'plain': {'loss': 'none'}, 'odd': {'model': 'xresnet1d', 'model_options': {'width': 7}}}}
    common = {k: v for k, v in SMALL.items() if k != 'single_subject_classes'}
    why = '1 of 2 runs failed.*width is 7: it must be a multiple of 2'
    with pytest.raises(papermill.PapermillExecutionError, match=why):
        _run('ablations', tmp_path/'a.ipynb', tmp_path, store=str(store), out=str(tmp_path/'runs'),
             questions='', own=own, splits='patient', seeds=1, common=common)
    text = _run('report', tmp_path/'r.ipynb', tmp_path, out=str(tmp_path/'runs'),
                results=str(tmp_path/'results'), resamples=200)
    assert 'SIMULATED' in text and 'odd is left out' in text
    scores, classes, made = answers_.load_grid_results(tmp_path/'results')
    assert set(scores.system) == {'plain'}
    assert made['simulated'] and made['twin_version'] == [TWIN_VERSION]
    assert made['shared']['dim'] == 16
    assert (tmp_path/'results'/'mine.svg').exists()
    with pytest.raises(papermill.PapermillExecutionError, match='seed'):
        _run('ablations', tmp_path/'b.ipynb', tmp_path, store=str(store), out=str(tmp_path/'runs'), seed=1)


@pytest.mark.long
def test_the_search_notebook_asks_one_change_at_a_time(store, tmp_path):
    text = _run('search', tmp_path/'s.ipynb', tmp_path, choices=str(store), recipe=str(store),
                out=str(tmp_path/'runs'), epochs=1)
    folder = tmp_path/'runs'/'choices'
    trained = pd.read_csv(tmp_path/'runs'/'recipe'/'costs.csv').set_index('change')
    assert trained.options['lr .001'] == '{"lr": 0.001}' and trained.epochs['twice as long'] == 2
    t = pd.read_csv(folder/'scores.csv').set_index(['system', 'metric'])
    default, costs = t.loc['the default'], pd.read_csv(folder/'costs.csv').set_index('change')
    assert default.gain.isna().all() and costs.options['the default'] == '{}' and 'encoder plain' in text
    changed = t.drop('the default')
    base = default.value.reindex(changed.index.get_level_values('metric')).to_numpy()
    assert len(changed) > 30 and np.allclose(changed.gain, changed.value - base, atol=1e-4)
    assert (costs.minutes >= 0).all() and costs.minutes.sum() > 0          # a change takes hundredths of one
    assert set(costs.index) == set(t.index.unique('system'))
    assert not (tmp_path/'runs'/'runs.csv').exists() and (folder/'answers'/'grid.json').exists()
    _run('search', tmp_path/'t.ipynb', tmp_path, choices=str(store), out=str(tmp_path/'runs'), epochs=1,
         changes='dim 32; no Transformer', results=str(tmp_path/'some'))
    t = pd.read_csv(tmp_path/'some'/'choices'/'scores.csv')
    assert set(t.system) == {'the default', 'dim 32', 'no Transformer'}
    for own, why in ((dict(changes='dim 33', choices=str(store)), "unknown change 'dim 33'"),
                     (dict(changes='dim 32', twin=str(store)), 'superclasses: give one')):
        with pytest.raises(papermill.PapermillExecutionError, match=why):
            _run('search', tmp_path/'u.ipynb', tmp_path, out=str(tmp_path/'runs'), epochs=1, **own)


@pytest.mark.long
def test_the_search_notebook_asks_rivals_and_windows(store, tmp_path):
    "Known networks and trees at other sizes, each against the default; windows by themselves."
    _run('search', tmp_path/'s.ipynb', tmp_path, rivals=str(store), windows={3: str(store)},
         out=str(tmp_path/'runs'), epochs=2)
    t = pd.read_csv(tmp_path/'runs'/'rivals'/'scores.csv').set_index(['system', 'metric'])
    assert {'xresnet1d 128', 'InceptionTime 64', 'boosted trees, small'} < set(t.index.unique('system'))
    assert t.loc['the default'].gain.isna().all() and t.drop('the default').gain.notna().all()
    other = pd.read_csv(tmp_path/'runs'/'windows.csv')
    assert other.change.tolist() == ['windows of 3 s'] and other.f1.notna().all()
    assert not (tmp_path/'runs'/'runs.csv').exists() and not (tmp_path/'runs'/'choices').exists()


@pytest.mark.long
def test_the_cross_validation_notebook(store, tmp_path):
    text = _run('crossval', tmp_path/'c.ipynb', tmp_path, store=str(store), out=str(tmp_path/'runs'), seeds=1,
                common=dict(n_folds=2, epochs=1) | {k: SMALL[k] for k in ('dim', 'depth', 'heads')})
    assert 'gap (segment minus patient)' in text and 'macro means over' in text and 'SIMULATED' in text
    expected = ['plan.json', 'run-patient-0', 'run-segment-0']
    assert sorted(p.name for p in (tmp_path/'runs').iterdir()) == expected


def bedside_cells(*texts: str, **given) -> dict:
    "The names of `bedside` after its imports, how it finds runs, and its cells with one of `texts`."
    cells = [c['source'].replace('%matplotlib inline', '') for c in experiment_cells('bedside')]
    names = {}
    for cell in cells[:2]: exec(cell, names)
    names |= dict(is_finished=lambda run: run != 'none', left='channels', whole='all channels', lose='')
    names |= given
    for cell in cells:
        if any(text in cell for text in ('def runs_of', *texts)): exec(cell, names)
    return names


def test_bedside_tells_a_subset_that_is_not_finished_from_one_that_is_none(capsys):
    job = lambda system, run='done': SimpleNamespace(question='channels', system=system, run=run, seed=0)
    grid = [job('all channels'), job('no channel dropout'), job('II and V1'), job('V1 alone', 'none')]
    ask = lambda subsets: bedside_cells('named = ', grid=grid, subsets=subsets)
    assert ask('II and V1, V1 alone')['pairs'] == ['no channel dropout', 'II and V1']
    assert 'not finished, left out: V1 alone\n' in capsys.readouterr().out
    for wrong in ('all channels', 'no channel dropout', 'V2 alone', 'II and V1, II and V1'):
        with pytest.raises(PedarrError, match='subset') as e: ask(wrong)
        assert '\n' not in str(e.value)


def test_bedside_asks_a_system_once():
    ask = lambda systems: bedside_cells('only = ', grid=[], systems=systems)
    assert ask('a; b, c')['only'] == ['a', 'b, c'] and not ask('')['only']      # a name may have a comma
    with pytest.raises(PedarrError, match='system: .*a stands there twice'): ask('a; b; a')


@pytest.mark.long
def test_the_bedside_notebook_joins_seeds_and_asks_runs_by_patient_only(runs, tmp_path):
    out = Path(runs[0].run).parent
    text = _run('bedside', tmp_path/'b.ipynb', tmp_path, out=str(out), results=str(tmp_path/'kept'),
                few='loss', shots='1', lose='loss', systems='cross-entropy; focal', draws=1, resamples=100,
                left='loss')
    assert 'SIMULATED' in text
    shots, missing, paired = (pd.read_csv(tmp_path/'kept'/f'{n}.csv')
                              for n in ('shots', 'missing', 'missing_paired'))
    assert set(shots.system) == set(missing.system) == {'cross-entropy', 'focal'}
    assert set(paired.system) == {'focal'}
    whole = missing[(missing.system == 'focal') & (missing.metric == 'top1') & (missing.number == 0)].iloc[0]
    predictions = pd.concat([pd.read_csv(Path(j.run)/'predictions.csv') for j in runs
                             if (j.split, j.system) == ('patient', 'focal')])
    # two seeds
    assert whole.value == pytest.approx((predictions.label == predictions.predicted).mean(), abs=1e-5)
    assert whole.draws == 2
    asked = pd.read_csv(tmp_path/'kept'/'asked.csv').query('subset == "all 19" and metric == "top1"').iloc[0]
    assert (asked.system, asked.seeds) == ('focal', 2) and asked.asked == pytest.approx(whole.value, abs=1e-5)
    assert asked.value == pytest.approx(asked.asked - asked.rival, abs=2e-5)
    assert (shots[shots.system == 'cross-entropy'].against_value.fillna(0) == 0).all()
    assert json.loads((tmp_path/'kept'/'bedside.json').read_text())['simulated']
    with pytest.raises(papermill.PapermillExecutionError, match='by patient'):
        alone = tmp_path/'segments'
        grid_.save_plan([j.model_copy(update=dict(run=str(alone/Path(j.run).name))) for j in runs
                         if j.split == 'segment'])
        _run('bedside', tmp_path/'c.ipynb', tmp_path, out=str(alone))


@pytest.mark.long
def test_the_speed_notebook_trains_end_to_end_and_leaves_its_measurements(store, tmp_path):
    small = dict(n_folds=2, device='cpu') | {k: SMALL[k] for k in ('dim', 'depth', 'heads', 'resamples')}
    params = dict(store=str(store), run=str(tmp_path/'run'), epochs=1, batch_size=32, seconds=.02,
                  options=small)
    text = _run('speed', tmp_path/'s.ipynb', tmp_path, **params)
    assert 'SIMULATED' in text and 'bf16' in text and (tmp_path/'run'/'model-1.safetensors').exists()
    measured = json.loads((tmp_path/'run'/'speed.json').read_text())
    found = measured['found']
    assert all(v > 0 for v in found.values())
    assert list(measured['steps']) == ['float32', 'bf16']
    assert measured['parts']['convolution'] > 0 and measured['parts']['optimiser'] > 0
    assert found['losses (share of a step)'] < 1
    assert found['batch'] <= 32
    # a finished run isn't repeated, nor its time made up
    _run('speed', tmp_path/'again.ipynb', tmp_path, **params)
    again = json.loads((tmp_path/'run'/'speed.json').read_text())['found']
    assert again['seconds from store to scores'] is None
