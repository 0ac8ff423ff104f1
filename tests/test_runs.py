"""Damaged, edited and half-written run folders: a right answer, or one line that names the file; and
trainings that are killed.

Mutations are drawn from a seed that stands in the test's name. `make long` tries a thousand, and twenty
kills."""
import contextlib
import json
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import drop_key
from pedarr.training.grid_results import paired_table, recall_table, score_table
from pedarr.training.grid import Job
from pedarr.core.errors import PedarrError
from pedarr.use.missing import predict_masked
from pedarr.signals.store import open_store
from pedarr.training.protocols import protocol_table
from pedarr.training.run_networks import run_few_shot
from pedarr.use.report import write_report
from pedarr.training.config import make_config
from pedarr.training.run_files import read_params
from pedarr.training.finished_runs import open_finished, read_scores
from pedarr.training.kept_answers import keep_answers, kept_scores, read_kept
from pedarr.training.saved_models import load_model
from pedarr.training.train import run_training

SMALL = dict(epochs=1, batch_size=32, dim=16, depth=1, heads=2, n_folds=2, single_subject_classes='keep',
             resamples=100)
ODD = [None, True, False, 0, -1, 1, 10**9, 10**30, -10**9, .5, 1e308, -1e-9, '', 'x', '0', '1e3', 'nan', [],
       {}, [1], {'a': 1}, 'a'*5000, '\x1b[2J', '../..', 10**400]


@pytest.fixture(scope='module')
def runs(store, tmp_path_factory):
    "A run by patient, one by segment and one of trees, on SIMULATED recordings."
    root = tmp_path_factory.mktemp('runs')
    small = dict(store=store, **SMALL)
    run_training(make_config(**small, run=root/'patient'), progress=False)
    run_training(make_config(**small, run=root/'segment', split='segment'), progress=False)
    run_training(make_config(store=store, run=root/'trees', model='trees', model_options={'max_iter': 3},
                             n_folds=2, single_subject_classes='keep', resamples=100), progress=False)
    return root


# ---- mutations

def places(value, at=()):
    "Where something stands in a JSON value."
    if isinstance(value, dict): inside = value.items()
    else: inside = enumerate(value[:4]) if isinstance(value, list) else ()
    return [at] + [place for k, v in inside for place in places(v, (*at, k))]


def changed(value, at, new):
    "`value` with `new` at the place `at`; without that place if `new` is Ellipsis."
    if not at: return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) == 1 and new is ...: del copy[at[0]]
    else: copy[at[0]] = changed(copy[at[0]], at[1:], new)
    return copy


def spoilt_bytes(raw: bytes, rng) -> bytes:
    i = rng.randrange(max(1, len(raw)))
    noise = bytes(rng.randrange(256) for _ in range(20))
    return rng.choice([raw[:i], raw[:i] + noise[:1] + raw[i + 1:], b'', raw[:i] + bytes(30) + raw[i:],
                       bytes(len(raw)), raw + raw[i:], raw[:i] + noise + raw[i + 20:]])


def spoilt_json(raw: bytes, rng) -> bytes:
    if rng.random() < .12: return spoilt_bytes(raw, rng)
    if rng.random() < .03: return b'['*100_000
    value = json.loads(raw)
    return json.dumps(changed(value, rng.choice(places(value)[1:]), rng.choice([..., *ODD]))).encode()


def spoilt_table(raw: bytes, rng) -> bytes:
    if rng.random() < .2: return spoilt_bytes(raw, rng)
    rows = [line.split(',') for line in raw.decode().splitlines()]
    i, j, odd = rng.randrange(len(rows)), rng.randrange(len(rows[0])), str(rng.choice(ODD)).replace(',', ';')
    kind = rng.choice(['cell', 'cell', 'column', 'drop column', 'drop row', 'twice'])
    if kind == 'cell': rows[i][j] = odd
    elif kind == 'column': rows = [rows[0], *([*r[:j], odd[:50], *r[j + 1:]] for r in rows[1:])]
    elif kind == 'drop column': rows = [r[:j] + r[j + 1:] for r in rows]
    elif kind == 'drop row': del rows[i]
    else: rows.insert(i, rows[i])
    return '\n'.join(map(','.join, rows)).encode() + b'\n'


def spoilt_weights(raw: bytes, rng) -> bytes:
    if rng.random() < .4: return spoilt_bytes(raw, rng)
    n, = struct.unpack('<Q', raw[:8])
    head = json.loads(raw[8:8 + n])
    head = json.dumps(changed(head, rng.choice(places(head)[1:]), rng.choice([..., *ODD]))).encode()
    return struct.pack('<Q', len(head)) + head + raw[8 + n:]


SPOILT = {'.json': spoilt_json, '.csv': spoilt_table, '.safetensors': spoilt_weights}


def unfinish(run: Path) -> None:
    "Make of a finished run one that was interrupted after its first fold."
    (run/'metrics.json').unlink()
    for whole, part in (('predictions.csv', 'fold-0.csv'), ('history.csv', 'history-0.csv')):
        t = pd.read_csv(run/whole, dtype=str, keep_default_na=False)
        t[t.fold == '0'].to_csv(run/part, index=False)
    (run/'predictions.csv').unlink()


def readers(run: Path, source: Path, figures: bool) -> list:
    "All that is asked of a run."
    c = read_params(source).replace(run=str(run))
    job = Job(question='q', system='s', split='patient', seed=0, run=str(run), params=c.model_dump())
    calls = [lambda: read_scores(run), lambda: load_model(run),
             lambda: (score_table([job], 100), recall_table([job])),
             lambda: paired_table([run], [source], 100),
             lambda: run_training(c, progress=False),
             lambda: protocol_table(run, source.parent/'segment', 100),
             lambda: run_few_shot(run, shots=(1,), draws=1), lambda: predict_masked(run, (1,), draws=1)]
    return calls + [lambda: write_report(run)]*figures


class Hangs(BaseException): "Not an Exception, so that nothing under test can swallow it."


@contextlib.contextmanager
def bounded(seconds: float = 60., mebibytes: float = 300.):
    "Fails if the code within hangs or takes much memory. (Linux counts kB, macOS bytes.)"
    def bark(*_): raise Hangs(f'no answer within {seconds} s')
    old, before = signal.signal(signal.SIGALRM, bark), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    if sys.platform == 'linux':
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/1024 < mebibytes


def spoil(runs: Path, folder: Path, seed: int, cases: int) -> int:
    "Spoil a file of a run, ask everything of it, `cases` times; how often it was refused."
    rng, refused = random.Random(seed), 0
    for n in range(cases):
        source = runs/rng.choice(['patient', 'patient', 'patient', 'trees'])
        run = Path(shutil.copytree(source, folder/f'{n}'))
        if rng.random() < .7: drop_key(run/'metrics.json', 'files')      # as older runs
        if rng.random() < .25: unfinish(run)
        file = rng.choice(sorted(p for p in run.iterdir() if p.suffix in SPOILT))
        file.write_bytes(SPOILT[file.suffix](file.read_bytes(), rng))
        for i, call in enumerate(readers(run, source, figures=n % 30 == 0)):
            with bounded():
                try: call()
                except PedarrError as e:
                    refused += 1
                    assert len(str(e).splitlines()) == 1, (seed, n, file.name, i, str(e))
                    assert str(e).isprintable(), (seed, n, file.name, i, str(e))
                    assert len(str(e)) < 1500, (seed, n, file.name, i, str(e))
                    assert ': ' in str(e), (seed, n, file.name, i, str(e))
                except Exception as e:
                    case = f'seed {seed}, case {n}: {source.name}/{file.name}, reader {i}'
                    raise AssertionError(f'{case}: {type(e).__name__}: {e}') from e
        shutil.rmtree(run)
    return refused


@pytest.mark.usefixtures('two_cases')
def test_spoilt_runs(runs, tmp_path): assert spoil(runs, tmp_path, 1, 8) > 8


@pytest.mark.long
@pytest.mark.parametrize('seed', range(100, 110))
def test_many_spoilt_runs(runs, tmp_path, seed): assert spoil(runs, tmp_path, seed, 100) > 100


# ---- kills

@pytest.mark.long
def test_twenty_kills_of_a_training_end_in_the_same_bytes(store, tmp_path):
    """SIGKILL after a random time, again and again; the last start ends, byte for byte as an undisturbed
    training, and leaves nothing else."""
    params = dict(store=str(store), **{**SMALL, 'epochs': 6})
    whole = run_training(make_config(**params, run=tmp_path/'whole'), progress=False)
    script = f'''
from pedarr.training.config import make_config
from pedarr.training.train import run_training
print("begun", flush=True)
run_training(make_config(**{params!r}, run={str(tmp_path/"r")!r}), progress=False)
'''
    rng, killed = random.Random(0), 0
    while killed < 20:
        p = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True)
        p.stdout.readline()
        time.sleep(rng.uniform(0, 4))
        p.kill()
        p.communicate()
        # finished before it could be killed: anew
        if p.returncode == 0 or (tmp_path/'r'/'metrics.json').exists(): shutil.rmtree(tmp_path/'r')
        else: killed += 1
    run_training(make_config(**params, run=tmp_path/'r'), progress=False)
    assert {p.name for p in (tmp_path/'r').iterdir()} == {p.name for p in whole.iterdir()}
    for name in ('predictions.csv', 'split.csv', 'model.json', 'model-0.safetensors', 'model-1.safetensors'):
        assert (tmp_path/'r'/name).read_bytes() == (whole/name).read_bytes()
    assert read_scores(tmp_path/'r')['overall'] == read_scores(whole)['overall'] and open_store(store)


def test_kept_answers_of_windows_with_one_class(runs, tmp_path):
    for name in ('patient', 'trees'):
        keep_answers(runs/name, tmp_path, name)
        now, was = kept_scores(read_kept(tmp_path, name), 100), open_finished(runs/name).metrics
        assert np.allclose(now.value, [was.model_dump()['overall'][k]['value'] for k in now.index], atol=2e-3)
