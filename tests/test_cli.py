"""The command's answers: each kind of bad input gives one line and status 2, and leaves nothing half-written.

Most commands run in this process; what needs one of its own (signals, memory) is in test_process.py."""
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import wfdb
from click.testing import CliRunner

from conftest import ROOT, everywhere, real
from pedarr.core.errors import PedarrError
from pedarr.core.parameters import allowed_values
from pedarr.model.encoder_registry import ENCODERS
from pedarr.signals import build as build_
from pedarr.training.config import TrainConfig
from pedarr.use.command import pedarr_command
from pedarr.use.notebook import (
    execute_notebook, find_notebook, no_notebook, read_notebook, with_parameters)
from pedarr.use.options import parse_params

pytestmark = pytest.mark.usefixtures('two_cases_here')
SMALL = dict(epochs=1, n_folds=2, dim=32, depth=1, heads=2, batch_size=32, resamples=200)
BARS = re.compile(r'(annotations|segments|verify|check|simulate|compare|training|fold \d)\b')


def pairs(**params): return [x for name, value in params.items() for x in ('-p', name, value)]


def pedarr(*args, ok=False):
    "The command, called in this process."
    r = CliRunner().invoke(pedarr_command, [str(a) for a in args])
    if ok: assert r.exit_code == 0, r.stderr[-2000:]
    return SimpleNamespace(returncode=r.exit_code, stdout=r.stdout, stderr=r.stderr)


def refused(*args):
    "The one line of an expected refusal (progress does not count)."
    p = pedarr(*args)
    lines = [l for l in p.stderr.replace('\r', '\n').splitlines() if l.strip() and not BARS.match(l)]
    assert p.returncode == 2 and len(lines) == 1, (p.returncode, p.stderr[-1500:])
    assert lines[0].startswith('pedarr: ') and lines[0].isprintable() and 'a defect' not in lines[0], lines
    assert not p.stdout
    return lines[0]


@pytest.fixture
def db(simulated, tmp_path):
    "A database whose files may be harmed: without the list of checksums, which would know."
    path = Path(shutil.copytree(simulated, tmp_path/'db'))
    (path/'SHA256SUMS.txt').unlink()
    return path


@pytest.fixture(scope='module')
def store(simulated, tmp_path_factory):
    path = tmp_path_factory.mktemp('cli')/'store'
    pedarr('preprocess', simulated, path, '--rate', 250, '--iegm-band', 30, 110, ok=True)
    return path


@pytest.fixture(scope='module')
def finished(store, tmp_path_factory):
    "A finished run with its notebook: (folder, what the command said)."
    run = tmp_path_factory.mktemp('cli')/'run'
    return run, pedarr('train', store, '--run', run, *pairs(**SMALL), ok=True)


def record(db): return sorted(db.glob('*.hea'))[0].with_suffix('')


# --- Recordings ---------------------------------------------------------------

def refused_build(db, *args):
    before = {p: p.read_bytes() for p in db.iterdir()}
    line = refused('preprocess', db, db.parent/'store', *args)
    assert not (db.parent/'store').exists(), 'nothing half-written under the final name'
    assert {p: p.read_bytes() for p in db.iterdir()} == before, 'and the recordings are untouched'
    return line


def harm_dat(db):
    p = record(db).with_suffix('.dat')
    p.write_bytes(p.read_bytes()[:-999])


def lose_dat(db): record(db).with_suffix('.dat').unlink()


def flip_bit(db):
    p = record(db).with_suffix('.dat')
    raw = bytearray(p.read_bytes())
    raw[30] ^= 1
    p.write_bytes(raw)


def lengthen(db):
    p = record(db).with_suffix('.hea')
    first, *rest = p.read_text().splitlines()
    name, n, fs, length = first.split()[:4]
    p.write_text('\n'.join([f'{name} {n} {fs} {int(length) + 5000}', *rest]) + '\n')


def annotate(db, name, sample, notes):
    wfdb.wrann(name, 'atr', np.array(sample), symbol=['+']*len(sample), aux_note=notes, write_dir=str(db))


def late(db): annotate(db, record(db).name, [10, 10_000_000], ['(N', '(N'])


def disorder(db):
    "A beat at sample 500, then one 256 samples before it."
    word = lambda code, step: (code << 10 | step).to_bytes(2, 'little')
    skip = word(59, 0) + (0xffff).to_bytes(2, 'little') + (0xff00).to_bytes(2, 'little')
    record(db).with_suffix('.atr').write_bytes(word(1, 500) + skip + word(1, 0) + bytes(2))


def no_table(db): (db/'children-subject-info.csv').unlink()


def all_short(db):
    for hea in db.glob('*.hea'):
        marks = np.arange(0, int(hea.read_text().split()[3]), 900)
        annotate(db, hea.stem, marks, [('(N', '(VT')[i % 2] for i in range(len(marks))])


@pytest.mark.parametrize('harm, say', [
    (lose_dat, 'missing: fetch'), (harm_dat, 'truncated'), (flip_bit, 'damaged'), (lengthen, 'truncated'),
    (late, 'outside the recording'), (disorder, 'comes before|outside the recording'),
    (no_table, 'subject table is missing'), (all_short, 'segment')])
def test_bad_recordings(db, harm, say):
    harm(db)
    line = refused_build(db)
    assert re.search(say, line), line
    if harm not in (no_table, all_short): assert record(db).name in line, 'the line names the file'


def test_damaged_recordings_can_be_left_out(db, tmp_path):
    harm_dat(db)
    name = record(db).name
    assert '--skip-damaged' in refused_build(db)
    for _ in range(2):           # built, and opened again
        p = pedarr('preprocess', db, tmp_path/'s', '--skip-damaged')
        assert p.returncode == 1 and 'for evaluation' in p.stdout
        assert f'left out: 1 of 8 recordings ({name})' in p.stderr
        assert f'{name}: left out' in p.stderr, 'the notes say why'


def test_files_that_changed_are_refused_or_accepted(simulated, tmp_path):
    db = shutil.copytree(simulated, tmp_path/'db')
    table = db/'children-subject-info.csv'
    rows = table.read_text().splitlines()
    cells = rows[1].split(',')
    cells[3] = '55.5'
    table.write_text('\n'.join([rows[0], ','.join(cells), *rows[2:]]) + '\n')
    assert '--accept-changed' in refused('preprocess', db, tmp_path/'s') and not (tmp_path/'s').exists()
    p = pedarr('preprocess', db, tmp_path/'s', '--accept-changed', ok=True)
    assert table.name in p.stderr, 'the notes say it'


def test_a_changed_subject_table_is_no_longer_the_same_store(db, tmp_path):
    pedarr('preprocess', db, tmp_path/'s', ok=True)
    table = db/'children-subject-info.csv'
    rows = table.read_text().splitlines()
    cells = rows[1].split(',')
    cells[3] = '55.5'
    table.write_text('\n'.join([rows[0], ','.join(cells), *rows[2:]]) + '\n')
    assert 'subject' in refused('preprocess', db, tmp_path/'s')
    table.write_text('\n'.join([*rows, rows[1]]) + '\n')
    assert rows[1].split(',')[0] in refused('preprocess', db, tmp_path/'t')


def test_flat_and_nan_channels_are_masked_and_reported(db, tmp_path):
    from pedarr.signals.store import open_store
    rec = record(db)
    r = wfdb.rdrecord(str(rec), physical=False)
    d = r.d_signal.copy()
    d[:, 0], d[:, 1] = 100, -2**23
    same = {k: getattr(r, k) for k in ('fs', 'units', 'sig_name', 'fmt', 'adc_gain', 'baseline')}
    wfdb.wrsamp(rec.name, d_signal=d, write_dir=str(db), **same)
    p = pedarr('preprocess', db, tmp_path/'store', ok=True)
    for lead in ('I', 'II'): assert f'{rec.name}: channel {lead} is flat or invalid' in p.stderr
    s = open_store(tmp_path/'store')
    mine = (s.segments.record == rec.name).to_numpy()
    assert not s.mask[mine, :2].any() and not s.ecg[mine, :2].any() and s.mask[~mine, :2].all()


def test_two_builds_of_one_store_do_not_mix(db, tmp_path):
    fcntl = pytest.importorskip('fcntl')
    (tmp_path/'s.part').mkdir()
    with open(tmp_path/'s.part'/'lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        assert 'build' in refused('preprocess', db, tmp_path/'s')


def test_a_description_of_ones_own(tmp_path):
    "A database, its rate and its bands come from a file of the user: for preprocess and check."
    for i in range(4):
        x = np.random.default_rng(i).normal(size=(10_000, 2)).cumsum(0)*.01
        (tmp_path/'db').mkdir(exist_ok=True)
        wfdb.wrsamp(f'r{i}', fs=500, units=['mV']*2, sig_name=['I', 'II'], p_signal=x, fmt=['16']*2,
                    write_dir=str(tmp_path/'db'))
    (tmp_path/'mine.py').write_text('''
import pandas as pd
from pedarr.data.databases import Database; from pedarr.data.known_databases import whole_record_episode
def subjects(paths, folder, db):
    names = [p.stem for p in paths]
    return pd.DataFrame(dict(subject=names, cohort='c', age=None, sex=''), index=names)
def rhythms(record, db): return whole_record_episode(record, ['N', 'VT'][int(record.name[1:]) % 2])
DB = Database('mine', 'Mine', 'rhythm8', rhythms, subjects, rate=125., ecg_band=(.5, 40.))
''')
    mine = ['--database', f'{tmp_path}/mine.py:DB']
    out = pedarr('preprocess', tmp_path/'db', tmp_path/'s', *mine, ok=True).stdout
    assert 'SR' in out and 'VT' in out
    config = json.loads((tmp_path/'s'/'store.json').read_text())['config']
    assert (config['rate'], config['ecg_band']) == (125, [.5, 40])
    pedarr('preprocess', tmp_path/'db', tmp_path/'t', *mine, '--rate', 100, ok=True)
    assert json.loads((tmp_path/'t'/'store.json').read_text())['config']['rate'] == 100
    assert 'no problems' in pedarr('check', tmp_path/'db', *mine, ok=True).stdout
    assert "no 'DC' in it" in refused('check', tmp_path/'db', '--database', f'{tmp_path}/mine.py:DC')


def some_of_ludb(db):
    "A folder of twenty real recordings of LUDB."
    folder = real('ludb')
    (db/'data').mkdir(parents=True)
    names = [f'data/{i}' for i in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 34, 38, 42, 45, 51, 54, 56, 67)]
    for n in names:
        for suffix in ('.hea', '.dat'): shutil.copy(folder/f'{n}{suffix}', db/f'{n}{suffix}')
    (db/'RECORDS').write_text('\n'.join(names) + '\n')
    return db


def test_ludb_end_to_end(tmp_path):
    "Real recordings through the command: 12 leads, no electrograms, whose band need not fit the rate."
    from pedarr.training.config import make_config
    from pedarr.training.train import run_training
    db = some_of_ludb(tmp_path/'ludb')
    out = pedarr('preprocess', db, tmp_path/'store', '--database', 'ludb', '--rate', 250, ok=True).stdout
    assert 'SR' in out
    c = make_config(store=tmp_path/'store', run=tmp_path/'run', single_subject_classes='keep', **SMALL)
    m = json.loads((run_training(c, progress=False)/'metrics.json').read_text())
    assert m['subjects'] == 20 and m['segments'] == 60


def test_check_speaks_of_the_database_that_was_asked_for(simulated, tmp_path):
    assert 'no problems' in pedarr('check', simulated, '--html', tmp_path/'a.html', ok=True).stdout
    assert 'a.html: is there already' in refused('check', simulated, '--html', tmp_path/'a.html')
    pedarr('check', simulated, '--html', tmp_path/'a.html', '--force', ok=True)
    assert (tmp_path/'a.html').read_text().startswith('<!doctype')
    bad = shutil.copytree(simulated, tmp_path/'bad')
    harm_dat(bad)
    assert pedarr('check', bad).returncode == 1, 'finished, and the answer is no'
    ludb = pedarr('check', some_of_ludb(tmp_path/'ludb'), '--database', 'ludb')
    assert re.search(r'(?<![\d-])20 ', ludb.stdout), ludb.stdout
    assert 'Leipzig' not in ludb.stdout and 'download' not in ludb.stdout, ludb.stdout


# --- Stores and runs ----------------------------------------------------------

def test_damaged_stores(store, tmp_path):
    flip = lambda b: b[:-1] + bytes([b[-1] ^ 1])
    other = lambda b: re.sub(rb'"store_version": \d+', b'"store_version": 99', b)
    for name, harm, say in [('ecg.npy', flip, 'ecg.npy'), ('mask.npy', lambda b: b[:-1], 'mask.npy'),
                            ('store.json', other, 'version'), ('store.json', lambda b: b'{', 'store.json')]:
        bad = shutil.copytree(store, tmp_path/name, dirs_exist_ok=True)
        (bad/name).write_bytes(harm((store/name).read_bytes()))
        assert say in refused('train', bad, '--run', tmp_path/'run') and not (tmp_path/'run').exists()
        shutil.rmtree(bad)


@pytest.mark.parametrize('pair, say', [
    (('epohcs', '3'), "unknown parameter 'epohcs'"), (('epochs', 'ten'), 'whole number'),
    (('loss', 'hinge'), 'use one of none, agcacl'), (('split', 'random'), 'use one of'), (('lr', '0'), 'lr'),
    (('run', 'other'), '-p run'), (('seed', str(10**20)), 'at most'), (('epochs', '('*5000), 'whole number'),
    (('lr', '9'*5000), 'number'), (('\x1b[31m', '1'), 'unknown parameter')])
def test_bad_parameters_leave_no_run(store, tmp_path, pair, say):
    assert re.search(say, refused('train', store, '--run', tmp_path/'run', '-p', *pair))
    assert not (tmp_path/'run').exists()


@pytest.mark.parametrize('params, say', [
    (dict(epochs=3), 'epochs'), (dict(model_options="{'depth': 3}"), 'use one of max_iter'),
    (dict(model_options="{'max_iter': 0}"), 'max_iter'),
    (dict(model_options="{'beats': 'nowhere'}"), 'nowhere')])
def test_bad_parameters_of_trees_leave_no_run(store, tmp_path, params, say):
    assert say in refused('train', store, '--run', tmp_path/'run', *pairs(model='trees', **params))
    assert not (tmp_path/'run').exists()


def test_numbers_as_they_are_typed():
    values = {'epochs': {'3': 3, '+2': 2}, 'lr': {'1e-3': 1e-3, '1E3': 1e3, '.5': .5, '-1': -1},
              'augment': {'true': True, 'False': False}, 'loss_options': {"{'a': 1}": {'a': 1}},
              'run': {'ten': 'ten', '007': '007', '7': '7', '': '', '('*5000: '('*5000}}
    for name, texts in values.items():
        for text, value in texts.items():
            got = parse_params([(name, text)])[name]
            assert got == value and type(got) is type(value)


def test_a_parameter_that_is_given_twice(store, tmp_path):
    assert 'epochs is given twice' in refused('train', store, '--run', tmp_path/'r', '-p', 'epochs', '1',
                                              '-p', 'epochs', '2')


def test_segmentation_is_no_task_of_train(store, tmp_path):
    "One line that names what there is for it: a command that exists and an experiment that is there."
    for task in ('dense', 'segmentation'):
        line = refused('train', store, '--run', tmp_path/'r', '-p', 'task', task)
        assert line.startswith(f"pedarr: task '{task}': ")
        command, notebook = re.search(r'by pedarr (\w+) and learnt by (\S+)$', line).groups()
        assert command in pedarr_command.commands and (ROOT/notebook).is_file()
        assert not (tmp_path/'r').exists()


def test_help_of_train_lists_every_parameter():
    from pedarr.training.config import TrainConfig
    text = CliRunner().invoke(pedarr_command, ['train', '--help']).output
    assert all(f'  {name} ' in text for name in TrainConfig.model_fields if name not in ('store', 'run'))


def test_a_class_with_one_subject(store, tmp_path):
    "Refused by name under a patient split; kept or dropped when told so, and then said in the notes."
    import hashlib
    from pedarr.signals.store import open_store
    from pedarr.training.config import make_config
    from pedarr.training.train import run_training
    odd = shutil.copytree(store, tmp_path/'odd')
    t = open_store(odd).segments
    first = t.subject[t.label == 'VT'].iloc[0]
    t.loc[(t.label == 'VT') & (t.subject != first), 'label'] = 'SR'
    t.to_csv(odd/'segments.csv', index=False, lineterminator='\n')
    meta = json.loads((odd/'store.json').read_text())
    meta['sha256']['segments.csv'] = hashlib.sha256((odd/'segments.csv').read_bytes()).hexdigest()
    (odd/'store.json').write_text(json.dumps(meta))
    line = refused('train', odd, '--run', tmp_path/'run')
    assert f'class VT stands in 1 subject ({first})' in line and 'single_subject_classes' in line
    assert not (tmp_path/'run').exists()
    made = {}
    for what in ('keep', 'drop'):
        c = make_config(store=odd, run=tmp_path/what, single_subject_classes=what, **SMALL)
        made[what] = json.loads((run_training(c, progress=False)/'metrics.json').read_text())
    assert any('VT stands in 1 subject: untestable' in n for n in made['keep']['notes'])
    assert any('VT stands in 1 subject and was left out' in n for n in made['drop']['notes'])
    old = pedarr('train', odd, '--run', tmp_path/'keep', *pairs(lone_classes='keep', **SMALL), ok=True).stderr
    assert 'parameter lone_classes is called single_subject_classes now' in old and 'already finished' in old
    assert 'given twice' in refused('train', odd, '--run', tmp_path/'keep',
                                    *pairs(single_subject_classes='keep', lone_classes='keep'))
    assert 'VT' not in made['drop']['classes']
    assert made['drop']['segments'] == made['keep']['segments'] - int(((t.label == 'VT') & t.evaluate).sum())


def test_train_leaves_an_executed_notebook_and_a_report(store, finished):
    run, p = finished
    assert 'top-1' in p.stdout and '[' in p.stdout and str(run/'report.html') in p.stdout
    assert ' SIMULATED test segments of ' in p.stdout
    assert 'note of the store: ' in p.stderr, 'what was left out of the store is left out of every result'
    nb = nbformat.read(run/'train.ipynb', 4)
    nbformat.validate(nb)
    injected = [c for c in nb.cells if 'injected-parameters' in c.metadata.get('tags', [])]
    assert len(injected) == 1 and 'epochs = 1' in injected[0].source
    shown = [o for c in nb.cells if c.cell_type == 'code' for o in c.outputs]
    assert sum('image/svg+xml' in o.get('data', {}) for o in shown) >= 6
    assert not any(o.output_type == 'error' for o in shown)
    assert json.loads((run/'params.json').read_text())['epochs'] == 1
    names = {x.name for x in run.iterdir()}
    assert not [n for n in names if n.startswith('.') or n.endswith('.part')] and 'lock' not in names
    again = pedarr('train', store, '--run', run, *pairs(**SMALL), ok=True)
    assert again.stdout == p.stdout and 'already finished' in again.stderr
    assert 'epochs=1' in refused('train', store, '--run', run, *pairs(**{**SMALL, 'epochs': 2}))
    shots = pedarr('fewshot', run, '--shots', 1, '--draws', 2, ok=True).stdout
    assert 'support' in shots and 'points' in shots
    assert 'give runs by patient' in refused('protocols', '-a', run, '-b', run)
    same = pedarr('compare', '-a', run, '-b', run, ok=True).stdout
    assert 'same parameters as the other' in same and '+0.0 points' in same


def test_missing_channels_are_drawn(finished, tmp_path):
    run, _ = finished
    out = pedarr('missing', run, '--draws', 1, '--kind', 'iegm', '--figure', tmp_path/'m.SVG', ok=True).stdout
    assert str(run) in out and '<svg' in (tmp_path/'m.SVG').read_text() and len(list(tmp_path.iterdir())) == 1


def test_trees_are_a_run_like_any_other(store, finished, tmp_path):
    "Trained, compared with a network, set side by side under both splits, reported; they embed nothing."
    from pedarr.training.config import make_config
    from pedarr.training.runs import open_run
    from pedarr.training.train import run_training
    trees = dict(model='trees', n_folds=2, resamples=200, model_options={'max_iter': 5})
    r = {k: tmp_path/k for k in ('patient', 'segment')} | {'net': finished[0]}
    out = pedarr('train', store, '--run', r['patient'], *pairs(**trees), ok=True).stdout
    assert 'loss: log loss of boosting' in out and 'rounds of boosting/s' in out and 'agcacl' not in out
    names = {p.name for p in r['patient'].iterdir()}
    assert {'train.ipynb', 'report.html', 'metrics.json', 'features.csv'} <= names
    assert not {'learning.svg', 'weights.svg'} & {p.name for p in (r['patient']/'figures').iterdir()}
    c = make_config(store=store, run=r['segment'], split='segment', **trees)
    (open_run(c.run, c)/'features.csv').write_bytes((r['patient']/'features.csv').read_bytes())
    run_training(c, progress=False)
    said = pedarr('compare', '-a', r['patient'], '-b', r['net'], ok=True).stdout
    a, b = (next(l for l in said.splitlines() if l.startswith(f'{x}: ')) for x in 'ab')
    assert "model='trees'" in a and 'loss=' not in a and 'epochs=' not in a
    assert "loss='none'" in b and "model='pedarrnet'" in b
    assert 'gap' in pedarr('protocols', '-a', r['patient'], '-b', r['segment'], ok=True).stdout.lower()
    assert 'no network and no embeddings' in refused('fewshot', r['patient'])
    pedarr('report', r['patient'], ok=True)


@pytest.mark.parametrize('name, text', [
    ('metrics.json', '{}'), ('params.json', '[]'), ('model.json', '{}'), ('environment.json', '[]'),
    ('predictions.csv', ''), ('predictions.csv', 'a,b\n1,2\n'), ('history.csv', '')])
def test_damaged_run_folders(finished, tmp_path, name, text):
    bad = shutil.copytree(finished[0], tmp_path/'run')
    (bad/name).write_text(text)
    assert name in refused('report', bad)


def test_parameters_are_listed():
    out = pedarr('train', '--params', ok=True).stdout
    assert re.search(r'epochs +30', out) and '(none: cross-entropy)' in out
    for name in ('modalities', 'task', 'split', 'single_subject_classes', 'normalise', 'precision', 'model'):
        words = allowed_values(TrainConfig.model_fields[name])
        assert ' | ' in words and re.search(rf'\n  {name} .*\({re.escape(words)}\)', out), name
    assert f'({" | ".join(ENCODERS)})' in out
    assert 'with several labels a window (none is bce there):' in out


@pytest.mark.parametrize('args, said', [
    (['--kind', 'eg'], "unknown kind 'eg': did you mean 'ecg'? use one of ecg, iegm, all"),
    (['--metric', 'recal'], "unknown metric 'recal': did you mean 'recall'? use one of top1, precision"),
    (['--draws', '0'], 'parameter draws is 0: it must be at least 1')])
def test_what_can_be_missing_is_a_choice_that_is_typed_once(tmp_path, args, said):
    from pedarr.evaluation.metrics import METRICS
    from pedarr.use.missing import _CHANNEL_KINDS
    assert said in refused('missing', tmp_path, *args)
    for names in (_CHANNEL_KINDS, METRICS): assert f'({" | ".join(names)})' in helps('missing')


def test_the_help_of_preprocess_says_how_far_a_band_may_reach():
    assert helps('preprocess').count('(2 numbers, from 0.01 to 10000, or none none;') == 2


# --- The notebook of a training -----------------------------------------------

def test_odd_names_of_runs(store, tmp_path, monkeypatch):
    """A name is a name: braces, blanks, quotes and whatever else stands in it. A path is seen from the
    working folder."""
    monkeypatch.chdir(store.parent)
    name = '-width-{dim} fold{0} { it\'s 100 % of "#1"\té心 $HOME %s'
    few = dict(model='trees', model_options={'max_iter': 2}, n_folds=2, resamples=200)
    run = os.path.relpath(tmp_path/name, store.parent)
    p = pedarr('train', store.name, *pairs(**few), '--run', run, ok=True)
    assert (tmp_path/name/'train.ipynb').exists() and 'top-1' in p.stdout
    assert (tmp_path/name/'report.html').exists() and [x.name for x in tmp_path.iterdir()] == [name]


def toy(tmp_path, *sources):
    "A notebook of these cells, the first with the parameters."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    nb.cells[0].metadata['tags'] = ['parameters']
    (tmp_path/'in.ipynb').write_text(nbformat.writes(nb))
    return tmp_path/'in.ipynb'


def test_cells_show_what_they_show_in_jupyter(tmp_path, monkeypatch):
    source = toy(tmp_path, 'a = 1', 'print(1)\ndisplay(2)\nprint(3)\na', 'a;',
                 'import pandas as pd\npd.DataFrame({"x": [a]})', 'len(In), In[1]',
                 'print("lost")\nfrom IPython.display import clear_output\nclear_output()', '%time 1')
    before = sys.modules['__main__'], sys.displayhook, sys.stdout, sorted(tmp_path.iterdir())
    with monkeypatch.context() as m:
        blocked(m, 'nbformat')                                                  # its import takes seconds
        execute_notebook(source, tmp_path/'out.ipynb', dict(a='it\'s {0} "x" \udcff'))
    nb = nbformat.read(tmp_path/'out.ipynb', 4)
    nbformat.validate(nb)
    written = nbformat.writes(nb).encode('utf-8', 'backslashreplace') + b'\n'
    assert (tmp_path/'out.ipynb').read_bytes() == written
    cells = nb.cells
    outputs = [[(o.output_type, o.get('text') or o.data['text/plain']) for o in c.outputs] for c in cells]
    assert outputs[2] == [('stream', '1\n'), ('display_data', '2'), ('stream', '3\n'),
                          ('execute_result', repr('it\'s {0} "x" \udcff'))]
    assert outputs[3] == [] and outputs[6] == [] and 'text/html' in cells[4].outputs[0].data
    assert outputs[5] == [('execute_result', "(7, 'a = 1')")] and 'Wall time' in outputs[7][0][1]
    assert [c.execution_count for c in cells] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert before == (sys.modules['__main__'], sys.displayhook, sys.stdout, [tmp_path/'in.ipynb'])
    assert {x.name for x in tmp_path.iterdir()} == {'in.ipynb', 'out.ipynb'} and not no_notebook()


RAISED = ['PedarrError("a: b")', 'KeyboardInterrupt', 'MemoryError', 'SystemExit(3)', 'OSError(5, "x")']


@pytest.mark.parametrize('raised', RAISED)
def test_what_a_cell_raises_is_raised(tmp_path, raised, capsys):
    source = toy(tmp_path, 'from pedarr.core.errors import PedarrError', f'raise {raised}', 'print("never")')
    with pytest.raises(BaseException) as e: execute_notebook(source, tmp_path/'out.ipynb', {})
    assert type(e.value).__name__ == raised.split('(')[0]
    assert [x.name for x in tmp_path.iterdir()] == ['in.ipynb']
    assert capsys.readouterr() == ('', '') and not no_notebook()


def test_a_cell_that_is_no_python(tmp_path):
    with pytest.raises(SyntaxError): execute_notebook(toy(tmp_path, 'a ='), tmp_path/'out.ipynb', {})


def test_injected_parameters_replace_earlier_ones(tmp_path):
    nb = with_parameters(read_notebook(toy(tmp_path, 'a = 1', 'b')), dict(a=2))
    nb = with_parameters(nb, dict(a=3))
    assert [c['source'] for c in nb['cells']] == ['a = 1', '# Parameters\na = 3', 'b']


def blocked(monkeypatch, library):
    "Importing `library` fails."
    for name in [n for n in sys.modules if n.split('.')[0] == library]: monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)


def test_training_without_a_notebook(store, tmp_path, monkeypatch):
    "The library of notebooks is missing: the training does not need it."
    blocked(monkeypatch, 'IPython')
    p = pedarr('train', store, '--run', tmp_path/'r', *pairs(**SMALL), ok=True)
    assert 'training without it' in p.stderr and 'IPython' in p.stderr
    assert (tmp_path/'r'/'report.html').exists() and not (tmp_path/'r'/'train.ipynb').exists()


def test_a_wrong_name_is_refused_by_the_notebook_itself(tmp_path):
    with pytest.raises(PedarrError, match="unknown parameter 'epohcs'"):
        execute_notebook(find_notebook(), tmp_path/'out.ipynb', dict(epohcs=3))
    assert not list(tmp_path.iterdir())


def test_papermill_itself_refuses_a_wrong_name(store, tmp_path):
    import papermill
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'epohcs'"):
        papermill.execute_notebook(str(find_notebook()), str(tmp_path/'out.ipynb'), dict(epohcs=3),
                                   progress_bar=False, kernel_name='python3')
    assert not (tmp_path/'run').exists()


@pytest.mark.long
def test_papermill_as_the_readme_has_it(store, tmp_path):
    "The notebook may be written into the run folder itself."
    import papermill
    (tmp_path/'run').mkdir()
    params = dict(store=str(store), run=str(tmp_path/'run'), **SMALL, fold=0, precision='bf16')
    papermill.execute_notebook(str(find_notebook()), str(tmp_path/'run'/'train.ipynb'), params,
                               progress_bar=False, kernel_name='python3')
    assert (tmp_path/'run'/'report.html').exists()
    assert (tmp_path/'run'/'model-0.safetensors').stat().st_mode & 0o044


def test_paths_in_jupyterlab_are_seen_from_the_clone(tmp_path, monkeypatch):
    from pedarr.core.project import project_path
    monkeypatch.chdir(ROOT/'nbs'/'experiments')
    assert project_path('stores/none') == str(ROOT/'stores'/'none') and project_path('') == ''
    assert project_path('train.ipynb') == 'train.ipynb' and project_path('/stores/x') == '/stores/x'
    monkeypatch.chdir(tmp_path)
    assert project_path('stores/none') == 'stores/none'


def test_notebook_parameters_are_those_of_the_configuration():
    "Each field once, with its default and its help: the cell is the one that the parameters make."
    from pedarr.core.parameters import cell_text
    from pedarr.training.config import TrainConfig
    names, given = cell_parameters(find_notebook())
    assert given == TrainConfig().model_dump() and len(names) == len(given)
    assert tagged_cell(find_notebook()) == cell_text(TrainConfig)


WITH_TRAININGS = 'ablations', 'bedside', 'crossval', 'losses', 'report', 'sim_to_real', 'speed', 'why'

@pytest.mark.parametrize('name', WITH_TRAININGS)
def test_parameters_of_an_experiment_are_values_of_a_training(name):
    "Where an experiment has a parameter of a training, its default is a value of it, and another one."
    from pedarr.training.config import TrainConfig
    names, given = cell_parameters(ROOT/'nbs'/'experiments'/f'{name}.ipynb')
    assert len(names) == len(set(names)) and 'store' in names
    shared = {n: v for n, v in given.items() if n in TrainConfig.model_fields}
    assert TrainConfig(**shared).model_dump().items() >= shared.items()
    default = TrainConfig().model_dump()                 # what a training has by itself is not typed again
    assert not [n for n, v in shared.items() if v and v == default[n] and n != 'resamples']


def tagged_cell(path):
    "The source of the parameter cell of a notebook."
    cells = nbformat.read(path, 4).cells
    return next(c.source for c in cells if 'parameters' in c.metadata.get('tags', []))


def cell_parameters(path):
    "(the names in the order in which the parameter cell of a notebook sets them, name -> value)."
    import ast
    set_ = [(n.targets[0].id, ast.literal_eval(n.value)) for n in ast.parse(tagged_cell(path)).body]
    return [name for name, _ in set_], dict(set_)


# --- Options that are made of parameters

def helps(command):
    "The help of a command on one line."
    return ' '.join(pedarr(command, '-h', ok=True).stdout.split())


def test_every_setting_of_preprocessing_is_an_option_with_its_help_and_default():
    from pedarr.core.parameters import field_line
    from pedarr.signals.settings import FROM_DATABASE, PreprocessConfig
    said = helps('preprocess')
    for name, field in PreprocessConfig.model_fields.items():
        line = said[said.index(f'--{name.replace("_", "-")} '):][:250]
        shown = ' '.join(field_line('', field).split())
        assert shown.split(' (')[0] in line and allowed_values(field) in line, line
        assert ('; a database may have its own)' in line.split(' --')[0]) == (name in FROM_DATABASE)


def test_the_help_of_every_command_has_one_line_an_option():
    "In the groups of the parameters; nothing that may be typed is missing from the help of a training."
    from pedarr.core.parameters import parameter_groups
    from pedarr.signals.augmentation import Augment
    from pedarr.training.pretrain_config import PretrainConfig
    said = pedarr('pretrain', '-h', ok=True).stdout
    for title, fields in parameter_groups(PretrainConfig):
        lines = said.split(f'\n{title} (default, meaning):\n')[1].split('\n\n')[0].splitlines()
        shown = [line.split()[0] for line in lines]
        assert shown == [f'--{n.replace("_", "-")}' for n in fields if n not in ('store', 'run')], title
    said = pedarr('train', '-h', ok=True).stdout
    for title, names in {'model_options of pedarrnet': ['pooling', 'crop', 'ecg_rate', 'fusion'],
                         'augment_options': ['noise', 'shift'],
                         'loss, and its': ['agcacl', 'jaccard_c']}.items():
        part = said.split(f'\n{title}')[1].split('\n\n')[0]
        assert all(f'\n  {name} ' in part for name in names), part
    assert 'tau 0.1' in said and Augment.model_fields['scale'].description in said


def typed_options(settings: dict) -> list:
    "Words of a command line for these settings."
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f'--{name.replace("_", "-")}', *map(str, values)]
    return words


def test_what_is_typed_for_a_setting_reaches_the_store_and_nothing_else(simulated, tmp_path, monkeypatch):
    from pedarr.data.known_databases import get_database
    from pedarr.signals.settings import PreprocessConfig, default_config
    class Seen(Exception): pass
    def stop(*args, config, **more): raise Seen(config)
    everywhere(monkeypatch, build_, 'build_store', stop)
    def config(*args):
        words = ['preprocess', str(simulated), str(tmp_path/'s'), *args]
        with pytest.raises(Seen) as e, pedarr_command.make_context('pedarr', words) as context:
            pedarr_command.invoke(context)
        return e.value.args[0]
    assert config() == PreprocessConfig()
    assert config('--database', 'mitdb') == default_config(get_database('mitdb'))
    typed = dict(rate=250., window=2., guard=0., ecg_band=(1., 40.), iegm_band=(30., 110.), order=3,
                 notch=50., stride=1., rare_stride=None, rare_below=.1, dtype='float32', chunk=60., pad=4.)
    assert typed.keys() == PreprocessConfig.model_fields.keys()
    assert config(*typed_options(typed)) == PreprocessConfig(**typed)


@pytest.mark.parametrize('args, said', [
    (['--rate', 'nan'], "parameter rate is 'nan': it must be a number"),
    (['--window', '1e9'], 'parameter window is 1000000000.0: it must be at most 600'),
    (['--dtype', 'float23'], "unknown dtype 'float23': did you mean 'float32'? use one of float16, float32"),
    (['--ecg-band', '100', '1'], 'parameter ecg_band is (100, 1) Hz: it must rise'),
    (['--guard', 'none'], "parameter guard is 'none': it must be a number"),
    (['--windw', '3'], '--window')])
def test_a_wrong_setting_is_named_with_what_it_must_be(simulated, tmp_path, args, said):
    assert said in refused('preprocess', simulated, tmp_path/'s', *args)


def test_the_help_names_the_databases_that_there_are():
    from pedarr.data.known_databases import DATABASES
    choice = f'One of {", ".join(DATABASES)}, or a description of your own'
    for command in ('preprocess', 'check'): assert choice in helps(command)


def test_defaults_of_simulations_are_those_of_their_parameters(tmp_path):
    import inspect
    from pedarr.synthetic.studies import CohortParameters, simulate_database
    from pedarr.synthetic.twin import TwinParameters, simulate_twin
    from pedarr.use.demonstration import Demo
    for kind, function in ((CohortParameters, simulate_database), (TwinParameters, simulate_twin)):
        signature = inspect.signature(function).parameters
        assert {n: signature[n].default for n in kind.model_fields} == kind().model_dump()
    assert '--subjects 16 ' in helps('demo') and '--minutes 2 ' in helps('demo')
    assert Demo().minutes == 2 and CohortParameters().minutes == 3
    said = refused('demo', tmp_path/'d', '--epochs', 10**6)
    assert 'parameter epochs is 1000000: it must be at most 100000' in said
    assert not list(tmp_path.iterdir())


# --- Simulation and demonstration ---------------------------------------------

def test_simulate_a_twin_and_a_small_cohort(tmp_path):
    said = pedarr('simulate', tmp_path/'twin', '--scale', .001, '--seed', 2, '--jobs', 1, ok=True).stdout
    assert '39 simulated recordings' in said and len((tmp_path/'twin'/'RECORDS').read_text().split()) == 39
    pedarr('simulate', tmp_path/'small', '--subjects', 4, '--minutes', .5, ok=True)
    assert len((tmp_path/'small'/'RECORDS').read_text().split()) == 4
    (tmp_path/'s.csv').write_text('record,symbol,aux\nx0027,+,(N\n' + 'x0027,N,\n'*9)
    pedarr('simulate', tmp_path/'scripted', '--script', tmp_path/'s.csv', ok=True)
    assert wfdb.rdann(str(tmp_path/'scripted'/'x0027'), 'atr').symbol == ['+', *'N'*9]


@pytest.mark.parametrize('args, function, words', [
    (['simulate', '@', '--subjects', 4], 'pedarr.synthetic.studies.simulate_database', 'command begins anew'),
    (['check', '@'], 'pedarr.data.check.check_folder', 'command begins anew'),
    (['measure', '@', '--out', '@'], 'pedarr.use.input_files.open_recording', '--force begins anew'),
    (['convert', '@', '--out', '@'], 'pedarr.data.lab_exports.convert_export', '--force begins anew'),
    (['download', '@'], 'pedarr.data.download.download_release', 'is kept, and the same command resumes'),
    (['preprocess', '@', '@'], 'pedarr.signals.build.build_store', 'the same command resumes')])
def test_a_stopped_command_says_what_is_left_of_it(tmp_path, monkeypatch, args, function, words):
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(function, stop)
    p = pedarr(*[tmp_path if a == '@' else a for a in args])
    assert p.returncode == 130 and words in p.stderr and not list(tmp_path.iterdir())


def test_a_demonstration_is_resumed_and_not_mixed(tmp_path, monkeypatch):
    "Stopped after each of its parts, it goes on where it was; other numbers are refused before any work."
    from pedarr.core import parallel as parallel_
    from pedarr.use import command as command_
    real_map = parallel_.parallel_map                        # in this process: two more take seconds to start
    everywhere(monkeypatch, parallel_, 'parallel_map', lambda work, items, jobs=1: real_map(work, items))
    few = ['demo', tmp_path/'d', '--subjects', 6, '--minutes', 1, '--epochs', 1]
    def stop(*args, **kwargs): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        everywhere(m, build_, 'build_store', stop)
        p = pedarr(*few)
        assert p.returncode == 130 and 'the same command resumes' in p.stderr
        assert {x.name for x in (tmp_path/'d').iterdir()} == {'demo.json', 'database'}
    line = refused('demo', tmp_path/'d', '--subjects', 8, '--minutes', 2, '--epochs', 1)
    assert 'subjects=6, not 8' in line and 'minutes=1.0, not 2.0' in line
    whole = {f: f.stat().st_mtime_ns for f in (tmp_path/'d'/'database').iterdir()}
    with monkeypatch.context() as m:
        everywhere(m, command_, 'train_run', stop)
        assert pedarr(*few).returncode == 130
    p = pedarr(*few, ok=True)
    assert whole == {f: f.stat().st_mtime_ns for f in (tmp_path/'d'/'database').iterdir()}
    assert 'top-1' in p.stdout
    again = pedarr(*few, ok=True)
    assert again.stdout == p.stdout and 'already finished' in again.stderr
    (tmp_path/'d'/'demo.json').write_text('{"subjects": "six"}')
    assert 'demo.json' in refused(*few)


# --- Wrong invocations --------------------------------------------------------

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder of odd things."
    p = tmp_path_factory.mktemp('odd')
    (p/'file').write_text('x')
    (p/'folder').mkdir()
    (p/'folder'/'x').write_text('y')
    (p/'empty').mkdir()
    (p/'red\x1b[31m\n').mkdir()
    (p/'loop').symlink_to(p/'loop')
    os.mkdir(os.fsencode(p) + b'/\xff')
    if hasattr(os, 'mkfifo'): os.mkfifo(p/'pipe')
    return p


@pytest.mark.skipif(os.name != 'posix', reason='names that Windows does not have')
@pytest.mark.parametrize('name', ['q\x1b[2J', 'q\n\x9bx', 'red\x1b[31m\x07'])
def test_a_file_name_of_control_characters_does_not_reach_the_terminal(db, tmp_path, name):
    "Neither while the store is built nor when it is found: each note is one printable line."
    (db/'RECORDS').unlink(missing_ok=True)
    (db/f'{name}.hea').write_text('x')
    for _ in range(2):
        done = pedarr('preprocess', db, tmp_path/'s\x1b[2J', '--skip-damaged')
        said = (done.stdout + done.stderr).replace('\r', '\n').split('\n')
        assert done.returncode == 1 and all(line.isprintable() for line in said), said
        assert sum(line.startswith('left out: 1 of') for line in said) == 1
        assert sum(line.startswith('note: ') and 'cannot be read' in line for line in said) == 1


THINGS = ['nowhere', 'file', 'folder', 'empty', 'red\x1b[31m\n', 'loop', '\udcff', 'pipe', 'a'*300]
WRONG = [
    *[['preprocess', f'@/{x}', '@/new'] for x in THINGS], *[['check', f'@/{x}'] for x in THINGS],
    *[['train', f'@/{x}', '--run', '@/new'] for x in THINGS], *[['report', f'@/{x}'] for x in THINGS],
    *[['missing', f'@/{x}'] for x in THINGS], *[['fewshot', f'@/{x}'] for x in THINGS],
    *[['preprocess', '@db', f'@/{x}'] for x in ('file', 'folder', 'file/new', 'loop', 'pipe', 'a'*300)],
    *[['train', '@store', '--run', f'@/{x}'] for x in ('file', 'folder', 'file/new', 'loop', 'pipe')],
    ['train', '@store', '--run', '@/' + 'a'*300],
    *[['demo', f'@/{x}'] for x in ('file', 'folder', 'file/new', 'loop', 'pipe', 'a'*300)],
    *[['simulate', f'@/{x}', '--minutes', '.5'] for x in ('file', 'folder', 'file/new', 'a'*300)],
    *[[c, ''] for c in ('check', 'simulate', 'demo', 'report', 'fewshot', 'missing', 'download')],
    ['preprocess', '', '@/new'], ['preprocess', '@db', ''],
    ['train', '', '--run', '@/new'], ['train', '@store', '--run', ''],
    *[['preprocess', '@db', '@/new', o, v] for o, v in [
        ('--rate', 'nan'), ('--rate', 'inf'), ('--rate', '-1'), ('--rate', '1e99'), ('--rate', 'x'),
        ('--window', '0'), ('--window', 'nan'), ('--guard', '-1'), ('--guard', '1e9'),
        ('--notch', '0'), ('--notch', '1e4'), ('--notch', '260'), ('--dtype', 'int8'),
        ('--jobs', '0'), ('--jobs', '9'*6000), ('--jobs', '1.5'), ('--grouping', 'x\x1b[31m'),
        ('--database', 'x'), ('--database', ''), ('--database', '@/no.py:DB'), ('--database', '@/file.py'),
        ('--ecg-band', '1')]],
    ['preprocess', '@db', '@/new', '--ecg-band', 'nan', '1'],
    ['preprocess', '@db', '@/new', '--ecg-band', '100', '1'],
    ['preprocess', '@db', '@/new', '--iegm-band', '1', '9000'],
    *[['simulate', '@/new', *o] for o in [
        ('--scale', '2'), ('--scale', '0'), ('--scale', 'nan'), ('--subjects', '3'), ('--subjects', '1'*10),
        ('--minutes', '1e9'), ('--minutes', 'nan'), ('--scale', '.01', '--seed', '-1'),
        ('--scale', '.1', '--minutes', '2'), ('--scale', '.1', '--script', 's.csv'),
        ('--script', '@/nowhere'), ('--script', '@/folder')]],
    *[['demo', '@/new', *o] for o in [
        ('--subjects', '1'*10), ('--minutes', 'nan'), ('--epochs', '0'), ('--epochs', '1e9'),
        ('--seed', '-1')]],
    ['check', '@db', '--html', '@/folder'], ['check', '@db', '--html', '@/nowhere/x.html'],
    ['check', '@db', '--jobs', 'x'],
    ['fewshot', '@/folder', '--shots', '0'], ['fewshot', '@/folder', '--shots', '1000000000'], ['missing'],
    ['missing', '@/folder', '--kind', 'x'], ['missing', '@/folder', '--metric', 'x'],
    ['missing', '@/folder', '--figure', '@/x.txt'], ['missing', '@/folder', '--figure', '@/nowhere/x.png'],
    ['compare'], ['compare', '-a', '@/folder'], ['compare', '-a', '@/nowhere', '-b', '@/file'],
    ['protocols', '-a', '@/nowhere', '-b', '@/file'], ['report', '@/x', '@/y'],
    ['trian'], ['--trian'], ['\x1b[31m'], ['train', '@store', '--run', '@/new', '--epochs', '3'],
    ['train', '@store', '--run', '@/new', '-p', 'epochs'], ['preprocess', '@db'], ['train', '@store']]


def test_wrong_invocations(simulated, store, place):
    "One line, status 2, at once, and nothing is made."
    assert len(WRONG) > 120
    before, given = sorted(place.rglob('*')), {'@store': store, '@db': simulated, '@/': f'{place}/'}
    for args in WRONG:
        begun = time.monotonic()
        line = refused(*(re.sub('@(store|db|/)', lambda m: str(given[m[0]]), a) for a in args))
        assert len(line) < 900 and time.monotonic() - begun < 30 and sorted(place.rglob('*')) == before, args


HELP = [['-h'], ['--help'], ['-V'], ['--version'], [], *[[name, '-h'] for name in pedarr_command.commands]]


@pytest.mark.parametrize('args', HELP)
def test_help_and_version(args):
    p = pedarr(*args, ok=True)
    assert p.stdout and not p.stderr
    assert ('Usage: pedarr' in p.stdout) == (args not in (['-V'], ['--version']))


# --- The package --------------------------------------------------------------

def test_parameters_tags_survive_cleaning():
    "nbdev_clean would delete papermill's tag, if settings.ini did not allow it, and parameters be ignored."
    for path in (ROOT/'nbs'/'experiments').glob('*.ipynb'):
        tagged = [c for c in nbformat.read(path, 4).cells if 'parameters' in c.metadata.get('tags', [])]
        assert len(tagged) == 1, path


def test_nbdev_clean_keeps_the_tag(tmp_path):
    shutil.copytree(ROOT/'nbs'/'experiments', tmp_path/'nbs'/'experiments')
    shutil.copy(ROOT/'settings.ini', tmp_path/'settings.ini')
    (tmp_path/'pedarr').mkdir()
    (tmp_path/'pedarr'/'__init__.py').write_text('')
    subprocess.run([Path(sys.executable).parent/'nbdev_clean'], cwd=tmp_path, check=True)
    nb = nbformat.read(tmp_path/'nbs'/'experiments'/'train.ipynb', 4)
    assert sum('parameters' in c.metadata.get('tags', []) for c in nb.cells) == 1


def test_import_is_light():
    "All of pedarr can be imported without nbdev, IPython and Jupyter (blocked here)."
    code = '''
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('nbdev', 'IPython', 'fastcore', 'jupyter_client', 'papermill', 'nbformat'):
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Block())
import pedarr, pkgutil, importlib
for m in pkgutil.iter_modules(pedarr.__path__):
    if m.name != '_modidx': importlib.import_module('pedarr.' + m.name)
print('ok')
'''
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert p.stdout.strip() == 'ok', p.stderr


@pytest.mark.bench
def test_bench_import():
    times = {}
    for code in ['import pedarr', 'import torch']*5:
        begun = time.perf_counter()
        subprocess.run([sys.executable, '-c', code], check=True)
        times.setdefault(code, []).append(time.perf_counter() - begun)
    print('\n' + '; '.join(f'{code}: {np.median(t):.2f} s' for code, t in times.items()))
    assert np.median(times['import pedarr']) < np.median(times['import torch'])
