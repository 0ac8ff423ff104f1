"""Mutated folders and killed commands: a right answer or one line, nothing lost without a word, nothing left
behind.

`make test` runs some eighty mutations; `make long` 3,000 with other seeds, and 20 kills of each command.
Every case is a number: `mutate` draws the same damage from the same number, so a failure names
what to try again."""
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pedarr.core.errors import PedarrError, one_line

NASTY = [b'', b'0', b'-1', b'1e308', b'-1e308', b'nan', b'NaN', b'inf', b'null', b'true', b'[]', b'{}', b'""',
         b'10'*30, b'0.5', b'x'*500,
         b'\0', b'\x1b[2J', b'\xff\xfe', b'\xef\xbb\xbf', '\u202e'.encode(), b'../../etc/passwd',
         b'/dev/zero', b'a b', b',', b'\n', b'"',
         b"'", b'%s{0}', b'1_000', b'0x10', b'1,5', b'True', b'None', b'9'*400]


def _field(raw: bytes, rng) -> bytes:
    "One field of a text is replaced."
    import re
    fields = [m.span() for m in re.finditer(rb'[^\s,:()\[\]{}/]+', raw)] or [(0, len(raw))]
    a, b = fields[rng.integers(len(fields))]
    return raw[:a] + NASTY[rng.integers(len(NASTY))] + raw[b:]


def _line(raw: bytes, rng) -> bytes:
    "A line is dropped, doubled, moved or made empty."
    lines = raw.split(b'\n')
    i, j = rng.integers(len(lines), size=2)
    how = rng.integers(4)
    if how == 0: del lines[i]
    elif how == 1: lines.insert(j, lines[i])
    elif how == 2: lines[i], lines[j] = lines[j], lines[i]
    else: lines[i] = b''
    return b'\n'.join(lines)


def _bytes(raw: bytes, rng) -> bytes:
    "Some bytes are changed, dropped, doubled, zeroed, or the file is cut."
    if not raw: return b'x'
    a = int(rng.integers(len(raw)))
    b = min(len(raw), a + int(rng.choice([1, 2, 7, 64, 1000])))
    how = rng.integers(6)
    if how == 0: return raw[:a] + rng.integers(0, 256, b - a, dtype=np.uint8).tobytes() + raw[b:]
    if how == 1: return raw[:a] + raw[b:]
    if how == 2: return raw[:b] + raw[a:]
    if how == 3: return raw[:a] + bytes(b - a) + raw[b:]
    if how == 4: return raw[:a]
    return raw + raw[a:b]


def _whole(path: Path, rng) -> str:
    "The file itself is replaced by something else."
    how = rng.choice(['gone', 'empty', 'folder', 'pipe', 'loop', 'huge', 'zeros', 'other'])
    size, others = path.stat().st_size, sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    if how == 'other':
        shutil.copy(others[rng.integers(len(others))], path)
        return how
    path.unlink()
    if how == 'empty': path.write_bytes(b'')
    if how == 'folder': path.mkdir()
    if how == 'pipe': os.mkfifo(path)
    if how == 'loop': path.symlink_to(path.name)
    if how == 'zeros': path.write_bytes(bytes(size))
    if how == 'huge':
        with open(path, 'wb') as f: f.truncate(1 << 40)
    return how


TEXT = ('.hea', '.csv', '.json', '.txt', '')


def mutate(folder: Path, rng) -> str:
    "Damage one file of `folder`; says which and how."
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    path = files[rng.integers(len(files))]
    name, text = path.relative_to(folder).as_posix(), path.suffix in TEXT
    how = rng.choice(['field', 'line', 'bytes', 'whole'] if text else ['bytes', 'bytes', 'whole'])
    if how == 'whole': return f'{name}: {_whole(path, rng)}'
    if path.stat().st_size > 1 << 30: return f'{path.name}: huge already'      # mutated before
    raw = path.read_bytes()
    path.write_bytes({'field': _field, 'line': _line, 'bytes': _bytes}[how](raw, rng))
    return f'{name}: {how}'


class Hangs(BaseException): "No `except Exception` under test swallows it."


def outcome(function, case, seconds=60):
    """What `function()` returns, or None after one honest line. Anything else fails, and says which case it
    was."""
    def bark(*_): raise Hangs(f'{case}: no answer within {seconds} s')
    old = signal.signal(signal.SIGALRM, bark)
    signal.alarm(seconds)
    try: return function()
    except PedarrError as e: said = str(e)
    except Hangs: raise
    except BaseException as e: raise AssertionError(f'{case}: {type(e).__name__}: {e}') from e
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert said.strip(), f'{case}: not one line with a remedy: {said!r}'
    assert len(said.splitlines()) == 1, f'{case}: not one line with a remedy: {said!r}'
    assert ': ' in said, f'{case}: not one line with a remedy: {said!r}'
    return None


def content(store) -> dict:
    "What a store holds, by record: the samples and labels of its windows."
    out = {}
    for name, rows in store.segments.groupby('record').indices.items():
        h = hashlib.sha256()
        for a in (store.ecg, store.iegm, store.mask): h.update(np.ascontiguousarray(a[rows]).tobytes())
        t = store.segments.iloc[rows].drop(columns='segment')
        out[name] = h.hexdigest() + hashlib.sha256(t.to_csv(index=False).encode()).hexdigest()
    return out


# ---- a tiny SIMULATED database, its store and a run ----------------------------------------------

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with database, store and run, all small."
    from pedarr.signals.settings import PreprocessConfig
    from pedarr.signals.build import build_store
    from pedarr.synthetic.studies import simulate_database
    from pedarr.training.config import make_config
    from pedarr.training.train import run_training
    home = tmp_path_factory.mktemp('hostile')
    simulate_database(home/'db', subjects=4, minutes=.5, seed=5)
    build_store(home/'db', home/'store', 'leipzig', config=CONFIG(), progress=False)
    run_training(make_config(**PARAMS, store=str(home/'store'), run=str(home/'run')), progress=False)
    return home


def CONFIG():
    from pedarr.signals.settings import PreprocessConfig
    return PreprocessConfig(rate=125., ecg_band=(.5, 40.), iegm_band=(20., 60.), window=2., guard=.1)


PARAMS = dict(epochs=1, n_folds=2, dim=16, depth=1, heads=2, resamples=100, single_subject_classes='keep')


def try_database(home: Path, work: Path, rng, number: int) -> None:
    """A mutated database: `check_folder` says something, `build_store` refuses or says what is missing, and
    never gives other content in silence."""
    from pedarr.data.check import check_folder
    from pedarr.signals.build import build_store
    from pedarr.signals.store import open_store
    shutil.copytree(home/'db', work/'db')
    if number % 2: (work/'db'/'SHA256SUMS.txt').unlink(missing_ok=True)      # half of the cases have no list
    done = [mutate(work/'db', rng) for _ in range(1 + number % 3 // 2)]
    case = f'database {number} ({"; ".join(done)})'
    found = outcome(lambda: check_folder(work/'db', progress=False), case)
    if found is not None:
        outcome(found.text, case)
        outcome(lambda: found.write_html(work/'check.html'), case)
    store = outcome(lambda: build_store(work/'db', work/'store', 'leipzig', config=CONFIG(), progress=False),
                    case)
    left = sorted(p.name for p in work.iterdir() if p.name not in ('db', 'store', 'check.html'))
    if store is None:
        assert not (work/'store').exists(), f'{case}: half a store'
        return
    assert not left, f'{case}: left behind {left}'
    before, now, said = content(open_store(home/'store')), content(store), ' '.join(store.meta['notes'])
    if (work/'db'/'SHA256SUMS.txt').is_file() and 'SHA256SUMS' not in ' '.join(done):
        assert now == before or said, f'{case}: other content without a word'
    lost = [r for r in before if r not in now and r not in said and 'RECORDS' not in said]
    assert not lost, f'{case}: {lost} went without a word: {said}'


def try_store(home: Path, work: Path, rng, number: int) -> None:
    "A mutated store: opened with the same content, or refused; the report and a training refuse it too."
    from pedarr.signals.store import open_store
    from pedarr.training.config import make_config
    from pedarr.training.prepare import prepare_run
    shutil.copytree(home/'store', work/'store')
    case = f'store {number} ({mutate(work/"store", rng)})'
    verify = bool(number % 4)
    store = outcome(lambda: open_store(work/'store', verify=verify), case)
    outcome(lambda: prepare_run(make_config(**PARAMS, store=str(work/'store'), run=str(work/'run'))), case)
    if store is None: return
    outcome(lambda: store.take(np.arange(len(store))), case)
    outcome(lambda: repr(store), case)
    if verify:
        assert content(store) == content(open_store(home/'store')), f'{case}: other content without a word'


def try_run(home: Path, work: Path, rng, number: int) -> None:
    """A mutated run folder: reports, tables, networks and a resumed training refuse it or give the same
    numbers."""
    from pedarr.training.grid_results import paired_table
    from pedarr.use.report import write_report
    from pedarr.training.saved_models import load_model
    from pedarr.training.train import run_training
    from pedarr.training.config import make_config
    shutil.copytree(home/'run', work/'run')
    case = f'run {number} ({mutate(work/"run", rng)})'
    outcome(lambda: write_report(work/'run'), case)
    outcome(lambda: paired_table([work/'run'], [home/'run']), case)
    outcome(lambda: load_model(work/'run'), case)
    if number % 3 == 0:
        again = make_config(**PARAMS, store=str(home/'store'), run=str(work/'run'))
        outcome(lambda: run_training(again, progress=False), case)


KINDS = {'database': try_database, 'store': try_store, 'run': try_run}


def hunt(kind: str, numbers, home: Path, work: Path) -> None:
    """All cases of a kind, each in a folder of its own; failures are collected, so that one run shows all of
    them."""
    failed = []
    for number in numbers:
        place = work/f'{kind}-{number}'
        place.mkdir()
        try: KINDS[kind](home, place, np.random.default_rng([number, len(kind)]), number)
        except (AssertionError, Hangs) as e: failed.append(one_line(e))
        finally: shutil.rmtree(place, ignore_errors=True)
    assert not failed, f'{len(failed)} of {len(numbers)}:\n' + '\n'.join(failed)


@pytest.mark.usefixtures('two_cases')
@pytest.mark.parametrize('kind, n', [('database', 14), ('store', 60), ('run', 6)])
def test_mutations(home, tmp_path, kind, n): hunt(kind, range(n), home, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize('part', range(10))
@pytest.mark.parametrize('kind', list(KINDS))
def test_many_mutations(home, tmp_path, kind, part):
    hunt(kind, range(1000 + 100*part, 1100 + 100*part), home, tmp_path)


# ---- kills ---------------------------------------------------------------------------------------

def command(*words) -> list:
    return [sys.executable, '-c',
            'import sys; from pedarr.use.command import pedarr_command; sys.exit(pedarr_command())',
            *map(str, words)]


def processes(mark: str) -> list:
    "Processes whose command line or environment names `mark`."
    found = []
    for p in Path('/proc').glob('[0-9]*'):
        try: text = (p/'cmdline').read_bytes() + (p/'environ').read_bytes()
        except OSError: continue
        if mark.encode() in text and int(p.name) != os.getpid(): found.append(int(p.name))
    return found


def run(words, mark: str, kill_after: float | None = None) -> tuple:
    "Run a command, killed after some seconds: (exit status, seconds, standard error)."
    env = {**os.environ, 'PEDARR_TEST_MARK': mark, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    begun = time.perf_counter()
    p = subprocess.Popen(command(*words), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                         text=True)
    try: _, said = p.communicate(timeout=kill_after or 900)
    except subprocess.TimeoutExpired:
        p.kill()
        p.stdout, p.stderr = None, None
        p.wait()
        said = ''
    return p.returncode, time.perf_counter() - begun, said


def tree(folder: Path, skip=()) -> dict:
    "Hash of each file below `folder`."
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob('*')) if p.is_file() and p.name not in skip}


# hold times or paths
TIMED = ('report.html', 'history.csv', 'metrics.json', 'environment.json', 'params.json', 'train.ipynb')


def job(what: str, home: Path, out: Path) -> tuple:
    "(words of the command, files that differ from run to run) for a job that writes `out`."
    if what == 'simulate':
        return ['simulate', out, '--subjects', 4, '--minutes', .5, '--seed', 5, '--jobs', 2], ()
    if what == 'preprocess':
        return ['preprocess', home/'db', out, '--rate', 125, '--ecg-band', .5, 40, '--iegm-band', 20, 60,
                '--window', 2, '--jobs', 2], ()
    pairs = [w for k, v in {**PARAMS, 'epochs': 4}.items() for w in ('-p', k, v)]
    return ['train', home/'store', '--run', out, *pairs], TIMED


def kill_and_resume(what: str, home: Path, work: Path, kills: int, seed: int = 0) -> None:
    """Kill a job at moments spread over its length; each time the same command then ends in the same bytes,
    with nothing left behind."""
    rng, mark = np.random.default_rng(seed), f'mark-{work.name}-{what}'
    words, timed = job(what, home, work/'whole')
    status, seconds, said = run(words, mark)
    assert status == 0, said
    want = tree(work/'whole', timed)
    figures = {p.relative_to(work/'whole').as_posix() for p in (work/'whole').rglob('*')}
    for k in range(kills):
        place = work/f'k{k}'
        place.mkdir()
        words, _ = job(what, home, place/'whole')
        moment = seconds*(k + rng.random())/kills
        run(words, mark, kill_after=max(moment, .05))
        deadline = time.time() + 10
        while processes(mark) and time.time() < deadline: time.sleep(.1)
        assert not processes(mark), f'{what}: processes live on after a kill at {moment:.2f} s'
        # renamed into place before the kill: it must be whole as it stands
        if what == 'simulate' and (place/'whole').exists():
            assert tree(place/'whole',
                        timed) == want, f'{what}: in place but not whole after a kill at {moment:.2f} s'
            continue
        status, _, said = run(words, mark)
        assert status == 0, f'{what} after a kill at {moment:.2f} s: {said[-500:]}'
        assert tree(place/'whole', timed) == want, f'{what}: other bytes after a kill at {moment:.2f} s'
        left = sorted(p.name for p in place.iterdir())
        assert left == ['whole'], f'{what}: left behind {left}'
        assert {p.relative_to(place/'whole').as_posix()
                for p in (place/'whole').rglob('*')} == figures, f'{what}: other files'
        shutil.rmtree(place)


@pytest.mark.long
@pytest.mark.skipif(not Path('/proc').is_dir(), reason='counts processes in /proc')
@pytest.mark.parametrize('what', ['preprocess', 'train'])
def test_one_kill(home, tmp_path, what): kill_and_resume(what, home, tmp_path, 1, seed=7)


@pytest.mark.long
@pytest.mark.skipif(not Path('/proc').is_dir(), reason='counts processes in /proc')
@pytest.mark.parametrize('what', ['simulate', 'preprocess', 'train'])
def test_twenty_kills(home, tmp_path, what): kill_and_resume(what, home, tmp_path, 20)
