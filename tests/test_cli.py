"""The command, as a user runs it: each kind of bad input gives one line, status 2, and leaves nothing half-written."""
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import wfdb

from conftest import ROOT, real
from pedarr.cli import find_notebook



def pedarr(*args, ok=False):
    p = subprocess.run([sys.executable, '-c', 'from pedarr.cli import main; main()', *map(str, args)], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '2'})
    if ok: assert p.returncode == 0, p.stderr[-2000:]
    return p


def refused(*args):
    "The one line of an expected refusal (progress bars end in carriage returns and don't count)."
    p = pedarr(*args)
    lines = [l for l in p.stderr.replace('\r', '\n').splitlines() if l.strip() and not l.startswith(('annotations:', 'segments:', 'training:'))]
    assert p.returncode == 2 and len(lines) == 1 and lines[0].startswith('pedarr: '), (p.returncode, p.stderr[-1500:])
    return lines[0]


@pytest.fixture
def db(simulated, tmp_path): return Path(shutil.copytree(simulated, tmp_path/'db'))


def record(db): return sorted(db.glob('*.hea'))[0].with_suffix('')


def refused_build(db, *args):
    before = {p: p.read_bytes() for p in db.iterdir()}
    line = refused('preprocess', db, db.parent/'store', *args)
    assert not (db.parent/'store').exists(), 'nothing half-written under the final name'
    assert {p: p.read_bytes() for p in db.iterdir()} == before, 'and the recordings are untouched'
    return line


def harm_dat(db): p = record(db).with_suffix('.dat'); p.write_bytes(p.read_bytes()[:-999])
def lose_dat(db): record(db).with_suffix('.dat').unlink()
def flip_bit(db): p = record(db).with_suffix('.dat'); b = bytearray(p.read_bytes()); b[30] ^= 1; p.write_bytes(b)
def lengthen(db):
    p = record(db).with_suffix('.hea'); first, *rest = p.read_text().splitlines()
    name, n, fs, length = first.split()[:4]; p.write_text('\n'.join([f'{name} {n} {fs} {int(length) + 5000}', *rest]) + '\n')
def marks(db, sample, symbol=None):
    wfdb.wrann(record(db).name, 'atr', np.array(sample), symbol=symbol or ['+']*len(sample), aux_note=['(N']*len(sample), write_dir=str(db))
def late(db): marks(db, [10, 10_000_000])
def disorder(db):
    p = record(db).with_suffix('.atr')
    word = lambda code, step: (code << 10 | step).to_bytes(2, 'little')
    p.write_bytes(word(1, 500) + word(59, 0) + (0xffff).to_bytes(2, 'little') + (0xff00).to_bytes(2, 'little') + word(1, 0) + bytes(2))   # N at 500, then SKIP -256, N
def no_channel(db):
    p = record(db).with_suffix('.hea'); lines = p.read_text().splitlines()
    p.write_text('\n'.join([lines[0], *[l.rsplit(' ', 1)[0] + f' ch{i}' if not l.startswith('#') else l for i, l in enumerate(lines[1:])]]) + '\n')
def no_table(db): (db/'children-subject-info.csv').unlink()
def all_short(db):
    for hea in db.glob('*.hea'):
        n = int(hea.read_text().split()[3])
        wfdb.wrann(hea.stem, 'atr', np.arange(0, n, 900), symbol=['+']*len(range(0, n, 900)), aux_note=['(N', '(VT']*(len(range(0, n, 900))//2) + ['(N']*(len(range(0, n, 900)) % 2), write_dir=str(db))


@pytest.mark.parametrize('harm, say', [(lose_dat, 'missing: fetch'), (harm_dat, 'truncated'), (flip_bit, 'damaged'), (lengthen, 'truncated'), (late, 'outside the recording'), (disorder, 'comes before|outside the recording'),
                                       (no_channel, 'none of its channels'), (no_table, 'subject table is missing'), (all_short, 'segment')])
def test_bad_recordings(db, harm, say):
    harm(db)
    line = refused_build(db)
    import re
    assert re.search(say, line), line
    if harm in (lose_dat, harm_dat, flip_bit, lengthen, late, disorder, no_channel): assert record(db).name in line, 'the line names the file'


def test_unknown_names(db):
    assert 'use one of leipzig, mitdb, ludb, iafdb' in refused_build(db, '--database', 'mimic')
    assert 'use one of rhythm8' in refused_build(db, '--grouping', 'mine')
    assert 'no such folder' in refused('preprocess', db/'no', db.parent/'store')


def test_flat_and_nan_channels_are_masked_and_reported(db, tmp_path):
    rec = record(db); r = wfdb.rdrecord(str(rec), physical=False)
    d = r.d_signal.copy(); d[:, 0] = 100; d[:, 1] = -2**23
    wfdb.wrsamp(rec.name, fs=r.fs, units=r.units, sig_name=r.sig_name, d_signal=d, fmt=r.fmt, adc_gain=r.adc_gain, baseline=r.baseline, write_dir=str(db))
    p = pedarr('preprocess', db, tmp_path/'store', ok=True)
    assert f'{rec.name}: channel I is flat or invalid' in p.stderr and f'{rec.name}: channel II is flat or invalid' in p.stderr
    from pedarr.preprocess import open_store
    s = open_store(tmp_path/'store'); mine = (s.segments.record == rec.name).to_numpy()
    assert not s.mask[mine, :2].any() and not s.ecg[mine, :2].any() and s.mask[~mine, :2].all()


@pytest.fixture(scope='module')
def store(simulated, tmp_path_factory):
    path = tmp_path_factory.mktemp('cli')/'store'
    pedarr('preprocess', simulated, path, '--rate', 250, '--iegm-band', 30, 110, ok=True)
    return path


def test_damaged_stores(store, tmp_path):
    for name, harm, say in [('ecg.npy', lambda b: b[:-1] + bytes([b[-1] ^ 1]), 'ecg.npy'), ('mask.npy', lambda b: b[:-1], 'mask.npy'),
                            ('store.json', lambda b: b.replace(b'"store_version": 1', b'"store_version": 99'), 'version'), ('store.json', lambda b: b'{', 'store.json')]:
        bad = shutil.copytree(store, tmp_path/name, dirs_exist_ok=True)
        (bad/name).write_bytes(harm((store/name).read_bytes()))
        line = refused('train', bad, '--run', tmp_path/'run')
        assert say in line and not (tmp_path/'run'/'metrics.json').exists(), line
        shutil.rmtree(bad); shutil.rmtree(tmp_path/'run', ignore_errors=True)


@pytest.mark.parametrize('pair, say', [(('epohcs', '3'), "unknown parameter 'epohcs'"), (('epochs', 'ten'), 'whole number'), (('loss', 'hinge'), 'use one of none, agcacl'),
                                       (('split', 'random'), 'use one of'), (('lr', '0'), 'positive')])
def test_bad_parameters_leave_no_run(store, tmp_path, pair, say):
    assert say in refused('train', store, '--run', tmp_path/'run', '-p', *pair)
    assert not (tmp_path/'run').exists()


def test_a_class_with_one_subject(store, tmp_path):
    "Refused by name under a patient split; kept or dropped when told so, and then said in the notes."
    import pandas as pd
    from pedarr.preprocess import open_store
    from pedarr.train import make_config, run_training
    odd = shutil.copytree(store, tmp_path/'odd')
    t = open_store(odd).segments
    first = t.subject[t.label == 'VT'].iloc[0]
    t.loc[(t.label == 'VT') & (t.subject != first), 'label'] = 'SR'
    t.to_csv(odd/'segments.csv', index=False, lineterminator='\n')
    import hashlib
    meta = json.loads((odd/'store.json').read_text()); meta['sha256']['segments.csv'] = hashlib.sha256((odd/'segments.csv').read_bytes()).hexdigest()
    (odd/'store.json').write_text(json.dumps(meta))
    line = refused('train', odd, '--run', tmp_path/'run')
    assert f'class VT stands in 1 subject ({first})' in line and 'lone_classes' in line and not (tmp_path/'run').exists()
    small = dict(store=odd, epochs=1, n_folds=2, dim=32, depth=1, heads=2, resamples=200)
    kept = json.loads((run_training(make_config(run=tmp_path/'k', lone_classes='keep', **small), progress=False)/'metrics.json').read_text())
    assert any('VT stands in 1 subject: untestable' in n for n in kept['notes'])
    left = json.loads((run_training(make_config(run=tmp_path/'d', lone_classes='drop', **small), progress=False)/'metrics.json').read_text())
    assert 'VT' not in left['classes'] and any('VT stands in 1 subject and was left out' in n for n in left['notes'])
    assert left['segments'] == kept['segments'] - int(((t.label == 'VT') & t.evaluate).sum())


def test_train_leaves_an_executed_notebook_and_a_report(store, tmp_path):
    run = tmp_path/'run'
    p = pedarr('train', store, '--run', run, *sum([['-p', k, v] for k, v in dict(epochs=1, n_folds=2, dim=32, depth=1, heads=2, batch_size=32, resamples=200).items()], []), ok=True)
    assert 'top-1' in p.stdout and '[' in p.stdout and str(run/'report.html') in p.stdout
    nb = nbformat.read(run/'train.ipynb', 4)
    injected = [c for c in nb.cells if 'injected-parameters' in c.metadata.get('tags', [])]
    assert len(injected) == 1 and 'epochs = 1' in injected[0].source
    assert sum(any('image/png' in o.get('data', {}) for o in c.get('outputs', [])) for c in nb.cells) >= 6
    assert json.loads((run/'params.json').read_text())['epochs'] == 1
    again = pedarr('train', store, '--run', run, *sum([['-p', k, v] for k, v in dict(epochs=1, n_folds=2, dim=32, depth=1, heads=2, batch_size=32, resamples=200).items()], []), ok=True)
    assert again.stdout == p.stdout, 'a finished run is not repeated'
    assert 'holds a run with' in refused('train', store, '--run', run, '-p', 'epochs', '2')
    shots = pedarr('fewshot', run, '--shots', 1, '--draws', 2, ok=True).stdout
    assert 'support' in shots and 'points' in shots
    assert 'give runs by patient' in refused('protocols', '-a', run, '-b', run)
    same = pedarr('compare', '-a', run, '-b', run, ok=True).stdout
    assert 'same parameters as the other' in same and '+0.0 points' in same


def test_papermill_itself_refuses_a_wrong_name(store, tmp_path):
    import papermill
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'epohcs'"):
        papermill.execute_notebook(str(find_notebook()), str(tmp_path/'out.ipynb'), parameters=dict(store=str(store), run=str(tmp_path/'run'), epohcs=3), progress_bar=False, kernel_name='python3')
    assert not (tmp_path/'run').exists()


def test_parameters_tags_survive_cleaning():
    "nbdev_clean would delete papermill's tag, and papermill would then ignore every parameter, if settings.ini did not allow it."
    for path in (ROOT/'nbs'/'experiments').glob('*.ipynb'):
        tagged = [c for c in nbformat.read(path, 4).cells if 'parameters' in c.metadata.get('tags', [])]
        assert len(tagged) == 1, path


def test_nbdev_clean_keeps_the_tag(tmp_path):
    shutil.copytree(ROOT/'nbs'/'experiments', tmp_path/'nbs'/'experiments')
    for name in ('settings.ini',): shutil.copy(ROOT/name, tmp_path/name)
    (tmp_path/'pedarr').mkdir(); (tmp_path/'pedarr'/'__init__.py').write_text('')
    subprocess.run([Path(sys.executable).parent/'nbdev_clean'], cwd=tmp_path, check=True)
    nb = nbformat.read(tmp_path/'nbs'/'experiments'/'train.ipynb', 4)
    assert sum('parameters' in c.metadata.get('tags', []) for c in nb.cells) == 1


def test_notebook_parameters_are_those_of_the_configuration():
    import ast
    from dataclasses import asdict
    from pedarr.train import TrainConfig
    cell = next(c for c in nbformat.read(find_notebook(), 4).cells if 'parameters' in c.metadata.get('tags', []))
    given = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(cell.source).body}
    assert given == asdict(TrainConfig())


def test_import_is_light():
    "pedarr imports in under 3 s and needs neither nbdev nor IPython (blocked here)."
    code = '''
import sys, time
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('nbdev', 'IPython', 'fastcore', 'jupyter_client', 'papermill'): raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Block())
import pedarr, pkgutil, importlib
for m in pkgutil.iter_modules(pedarr.__path__):
    if not m.name.startswith('_'): importlib.import_module('pedarr.' + m.name)
print('ok')
'''
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert p.stdout.strip() == 'ok', p.stderr


@pytest.mark.bench
def test_bench_import():
    times = []
    for _ in range(5):
        t = time.perf_counter(); subprocess.run([sys.executable, '-c', 'import pedarr'], check=True); times.append(time.perf_counter() - t)
        t = time.perf_counter(); subprocess.run([sys.executable, '-c', 'import torch'], check=True); times[-1] = (times[-1], time.perf_counter() - t)
    print(f'\nimport pedarr: {np.median([a for a, _ in times]):.2f} s; import torch alone: {np.median([b for _, b in times]):.2f} s')


def test_ludb_end_to_end(tmp_path):
    "Real recordings through the command: 12 leads, no electrograms."
    folder = real('ludb')
    db = tmp_path/'ludb'; (db/'data').mkdir(parents=True)
    names = [f'data/{i}' for i in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 34, 38, 42, 45, 51, 54, 56, 67)]
    for n in names:
        for suffix in ('.hea', '.dat'): shutil.copy(folder/f'{n}{suffix}', db/f'{n}{suffix}')
    (db/'RECORDS').write_text('\n'.join(names) + '\n')
    out = pedarr('preprocess', db, tmp_path/'store', '--database', 'ludb', '--rate', 250, '--iegm-band', 30, 110, ok=True).stdout
    assert 'SR' in out
    from pedarr.train import make_config, read_json, run_training
    run = run_training(make_config(store=tmp_path/'store', run=tmp_path/'run', epochs=1, n_folds=2, dim=32, depth=1, heads=2, resamples=200, lone_classes='keep'), progress=False)
    m = read_json(run/'metrics.json')
    assert m['subjects'] == 20 and m['segments'] == 60


def test_a_changed_subject_table_is_no_longer_the_same_store(db, tmp_path):
    small = ('--rate', 250, '--iegm-band', 30, 110)
    pedarr('preprocess', db, tmp_path/'s', *small, ok=True)
    table = db/'children-subject-info.csv'
    lines = table.read_text().splitlines(); row = lines[1].split(','); row[3] = '55.5'; lines[1] = ','.join(row)
    table.write_text('\n'.join(lines) + '\n')
    assert 'other subjects' in refused('preprocess', db, tmp_path/'s', *small)
    table.write_text('\n'.join([*lines, lines[1]]) + '\n')
    assert 'more than one row for record' in refused('preprocess', db, tmp_path/'t', *small)


def test_two_builds_of_one_store_do_not_mix(db, tmp_path):
    fcntl = pytest.importorskip('fcntl')
    (tmp_path/'s.part').mkdir()
    with open(tmp_path/'s.part'/'lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        assert 'another process is building this store' in refused('preprocess', db, tmp_path/'s')


def test_odd_places_and_options(db, store, tmp_path):
    (tmp_path/'file').write_text('x')
    assert 'no store can be written here' in refused('preprocess', db, tmp_path/'file'/'s')
    assert 'no run can be written here' in refused('train', store, '--run', tmp_path/'file'/'r')
    assert 'iaf' in refused('preprocess', db, tmp_path/'s', '--database', 'iafdb')
    assert pedarr('preprocess', db, tmp_path/'s', '--jobs', 0).returncode == 2
    assert '-p run' in refused('train', store, '--run', tmp_path/'r', '-p', 'run', 'other')
    assert 'at most' in refused('train', store, '--run', tmp_path/'r', '-p', 'seed', str(10**20))
    assert (tmp_path/'file').read_text() == 'x' and not (tmp_path/'r').exists()


@pytest.mark.parametrize('name, text', [('metrics.json', '{}'), ('params.json', '[]'), ('model.json', '{}'), ('environment.json', '[]'), ('predictions.csv', ''), ('predictions.csv', 'a,b\n1,2\n'), ('history.csv', '')])
def test_damaged_run_folders(store, tmp_path_factory, name, text):
    from pedarr.train import make_config, run_training
    base = tmp_path_factory.getbasetemp()/'whole-run'
    if not (base/'metrics.json').exists(): run_training(make_config(store=store, run=base, epochs=1, n_folds=2, dim=32, depth=1, heads=2, resamples=200), progress=False)
    bad = shutil.copytree(base, tmp_path_factory.mktemp('bad')/'run')
    (bad/name).write_text(text)
    assert name in refused('report', bad)


def test_papermill_as_the_readme_has_it(store, tmp_path):
    "The notebook may be written into the run folder itself."
    import papermill
    (tmp_path/'run').mkdir()
    papermill.execute_notebook(str(find_notebook()), str(tmp_path/'run'/'train.ipynb'), progress_bar=False, kernel_name='python3',
                               parameters=dict(store=str(store), run=str(tmp_path/'run'), epochs=1, n_folds=2, fold=0, dim=32, depth=1, heads=2, resamples=200, precision='bf16'))
    assert (tmp_path/'run'/'report.html').exists() and (tmp_path/'run'/'model-0.safetensors').stat().st_mode & 0o044


def test_parameters_are_listed():
    out = pedarr('train', '--params', ok=True).stdout
    assert 'epochs             25' in out and 'none is cross-entropy alone' in out


def test_simulate_a_twin_and_a_small_cohort(tmp_path):
    said = pedarr('simulate', tmp_path/'twin', '--scale', .003, '--seed', 2, '--jobs', 2, ok=True).stdout
    assert '39 simulated recordings' in said and len((tmp_path/'twin'/'RECORDS').read_text().split()) == 39
    pedarr('simulate', tmp_path/'small', '--subjects', 4, '--minutes', .5, ok=True)
    assert len((tmp_path/'small'/'RECORDS').read_text().split()) == 4
    (tmp_path/'s.csv').write_text('record,symbol,aux\nx0027,+,(N\n' + 'x0027,N,\n'*9)
    pedarr('simulate', tmp_path/'scripted', '--script', tmp_path/'s.csv', ok=True)
    assert wfdb.rdann(str(tmp_path/'scripted'/'x0027'), 'atr').symbol == ['+', *'N'*9]


@pytest.mark.parametrize('options, words', [(['--scale', 2], 'scale=2'), (['--scale', .1, '--minutes', 2], 'choose one'), (['--scale', .1, '--script', 's.csv'], 'leave out'),
                                            (['--script', 'missing.csv'], 'missing.csv'), (['--minutes', 1e9], 'minutes='), (['--scale', .01, '--seed', -1], 'seed=-1')])
def test_simulate_refuses(tmp_path, options, words):
    assert words in refused('simulate', tmp_path/'db', *options) and not list(tmp_path.iterdir())


def test_trees_are_a_run_like_any_other(store, tmp_path):
    "Trained, compared with a network, set side by side under both splits, reported; refused where there is nothing to embed."
    trees = ['-p', 'model', 'trees', '-p', 'n_folds', 2, '-p', 'resamples', 200, '-p', 'model_options', "{'max_iter': 5}"]
    r = {k: tmp_path/k for k in ('net', 'patient', 'segment')}
    out = pedarr('train', store, '--run', r['patient'], *trees, ok=True).stdout
    assert 'loss log loss of boosting' in out and 'rounds of boosting/s' in out and 'agcacl' not in out
    assert {'train.ipynb', 'report.html', 'metrics.json', 'features.csv'} <= {p.name for p in r['patient'].iterdir()}
    assert not {'learning.png', 'weights.png'} & {p.name for p in (r['patient']/'figures').iterdir()}
    nb = nbformat.read(r['patient']/'train.ipynb', 4)
    assert not [o for c in nb.cells if c.cell_type == 'code' for o in c.outputs if o.output_type == 'error']
    from pedarr.train import make_config, open_run, run_training
    c = make_config(store=store, run=r['segment'], model='trees', n_folds=2, resamples=200, split='segment', model_options={'max_iter': 5})
    (open_run(c.run, c)/'features.csv').write_bytes((r['patient']/'features.csv').read_bytes())
    run_training(c, progress=False)
    run_training(make_config(store=store, run=r['net'], epochs=1, n_folds=2, dim=32, depth=1, heads=2, batch_size=32, resamples=200, loss='none'), progress=False)
    said = pedarr('compare', '-a', r['patient'], '-b', r['net'], ok=True).stdout
    a, b = (next(l for l in said.splitlines() if l.startswith(f'{x}: ')) for x in 'ab')
    assert "model='trees'" in a and 'loss=' not in a and 'epochs=' not in a and "loss='none'" in b and "model='pedarrnet'" in b
    assert 'gap' in pedarr('protocols', '-a', r['patient'], '-b', r['segment'], ok=True).stdout.lower()
    assert 'no network and no embeddings' in refused('fewshot', r['patient'])
    pedarr('report', r['patient'], ok=True)


@pytest.mark.parametrize('pairs, say', [((('epochs', 3),), 'epochs means nothing to model trees'), ((('model_options', "{'depth': 3}"),), 'use one of max_iter'), ((('model_options', "{'max_iter': 0}"),), 'no trees can be grown'),
                                        ((('model_options', "{'beats': 'nowhere'}"),), 'nowhere')])
def test_bad_parameters_of_trees_leave_no_run(store, tmp_path, pairs, say):
    assert say in refused('train', store, '--run', tmp_path/'run', '-p', 'model', 'trees', *sum([['-p', *p] for p in pairs], []))
    assert not (tmp_path/'run').exists()
