"""The command in a process of its own: faults of the machine, signals, outputs, code that must not run."""
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pedarr.signals.build
from conftest import ROOT, everywhere
import pytest
from click.testing import CliRunner

from pedarr.use.command import pedarr_command
from pedarr.use.process import refuse_shadows
from pedarr.core.errors import PassingError, PedarrError, Terminated, error_line

ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
SMALL = '-p n_folds 2 -p dim 16 -p heads 2 -p resamples 200 -p single_subject_classes keep'.split()
TINY, LONG = ['-p', 'epochs', '1', *SMALL], ['-p', 'epochs', '100000', *SMALL]
linux = pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='looks at /proc')
posix = pytest.mark.skipif(os.name != 'posix', reason='signals and limits of POSIX')


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "A folder with a small SIMULATED database and its store."
    from pedarr.signals.settings import PreprocessConfig
    from pedarr.signals.build import build_store
    from pedarr.synthetic.studies import simulate_database
    folder = tmp_path_factory.mktemp('small')
    simulate_database(folder/'db', subjects=6, minutes=.5, seed=1)
    config = PreprocessConfig(rate=125., ecg_band=(.5, 40.), iegm_band=(20., 55.))
    build_store(folder/'db', folder/'store', 'leipzig', config=config, progress=False)
    return folder


def hear_signals():
    "What a process does first, to hear what `nohup` or a script's & would have it ignore."
    for name in ('SIGINT', 'SIGTERM', 'SIGHUP'): signal.signal(getattr(signal, name), signal.SIG_DFL)


def start(*args, inject='', **options):
    "The command, started as a process; `inject` is code that runs first in it."
    code = f'{inject}\nfrom pedarr.use.command import pedarr_command\npedarr_command()'
    begin = ['-c', code] if inject else ['-m', 'pedarr']
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors='replace', env=ENVIRONMENT)
    if os.name == 'posix': pipes['preexec_fn'] = hear_signals
    return subprocess.Popen([sys.executable, *begin, *map(str, args)], **{**pipes, **options})


def ended(p, timeout=120):
    "(exit status, standard output, lines of standard error without progress)."
    out, err = p.communicate(timeout=timeout)
    lines = [l for l in (err or '').replace('\r', '\n').splitlines() if l.strip()]
    said = [l for l in lines if l.startswith('pedarr: ')]
    assert 'Traceback' not in (err or '') and 'Exception ignored' not in (err or ''), err[-2000:]
    return p.returncode, out, said


def fails(p, words, status=2):
    code, _, said = ended(p)
    assert code == status and len(said) == 1 and words in said[0], (code, said)


# --- What is said of an exception ---------------------------------------------

def caused(outer, inner):
    outer.__cause__ = inner
    return outer


class TerminatedWorkerError(RuntimeError): "As joblib's."
class DeadKernelError(RuntimeError): "As Jupyter's."


EXCEPTIONS = [
    (PedarrError('a.hea: no rate: give it'), 2, 'a.hea: no rate: give it'),
    (PassingError('x: full'), 2, 'x: full'),
    (OSError(errno.EIO, 'Input/output error', 'a.dat'), 2, 'a.dat (Input/output error): check the disk'),
    (OSError(errno.EMFILE, 'Too many open files'), 2, 'ulimit -n'),
    (OSError(errno.ENOSPC, 'No space left on device'), 2, 'make room'),
    (OSError('strange'), 2, 'strange'),
    (MemoryError(), 2, 'out of memory'),
    (np.exceptions.AxisError('x') if hasattr(np, 'exceptions') else TypeError('x'), 2, 'a defect'),
    (RecursionError('maximum recursion depth exceeded'), 2, 'nested too deeply'),
    (RuntimeError("can't start new thread"), 2, 'close other programs'),
    (RuntimeError('CUDA out of memory. Tried to allocate 2 GiB'), 2, 'close other programs'),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, 'close other programs'),
    (RuntimeError('std::bad_alloc'), 2, 'close other programs'),
    (ImportError('libx.so: failed to map segment from shared object'), 2, 'close other programs'),
    (ModuleNotFoundError("No module named 'wfdb'"), 2, 'install pedarr again'),
    (TerminatedWorkerError('x'), 2, 'ended by the system'),
    (DeadKernelError('Kernel died'), 2, 'ended by the system'),
    (RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.'), 2, 'ended by the system'),
    (caused(RuntimeError('a cell failed'), MemoryError('3 GB')), 2, 'out of memory (3 GB)'),
    (caused(caused(RuntimeError('a'), RuntimeError('b')), OSError(errno.EIO, 'I/O', 'f')), 2, 'f (I/O)'),
    (BrokenPipeError(errno.EPIPE, 'Broken pipe'), 2, 'nobody reads'),
    (KeyboardInterrupt(), 130, 'the same command resumes'),
    (caused(RuntimeError('wrapped'), KeyboardInterrupt()), 130, 'the same command resumes'),
    (Terminated(), 143, 'the same command resumes'),
    (Terminated(1), 129, 'the same command resumes'),
    (KeyError('a\x1b[31m\nb'), 2, 'a defect of pedarr (KeyError'),
    (TypeError('x'*10_000), 2, 'a defect of pedarr (TypeError')]


@pytest.mark.parametrize('error, status, words', EXCEPTIONS, ids=lambda e: type(e).__name__)
def test_every_exception_is_one_line(small, monkeypatch, error, status, words):
    def build(*args, **kwargs): raise error
    everywhere(monkeypatch, pedarr.signals.build, 'build_store', build)
    r = CliRunner().invoke(pedarr_command, ['preprocess', str(small/'db'), str(small/'new')])
    lines = r.stderr.splitlines()
    assert r.exit_code == status and len(lines) == 1 and words in lines[0] and len(lines[0]) < 1000, r.stderr
    assert lines[0].startswith('pedarr: ') and lines[0].isprintable()
    if not isinstance(error, PedarrError) or isinstance(error, PassingError): assert 'delete' not in lines[0]


def test_what_happened_earlier_does_not_hide_a_defect():
    try:
        try: open('/nowhere')
        except OSError: {}['x']
    except KeyError as e: assert 'a defect' in error_line(e)[0]
    try:
        try: raise MemoryError
        except MemoryError: {}['x']
    except KeyError as e: assert 'out of memory' in error_line(e)[0]


def test_the_traceback_is_shown_to_those_who_ask(small, monkeypatch):
    monkeypatch.setenv('PEDARR_TRACEBACK', '1')
    r = CliRunner().invoke(pedarr_command, ['check', str(small/'nowhere')])
    assert r.exit_code == 2 and 'Traceback' in r.stderr and r.stderr.splitlines()[-1].startswith('pedarr: ')


# --- Outputs ------------------------------------------------------------------

@linux
@pytest.mark.parametrize('args', [
    ['--version'], ['-h'], pytest.param(['train', '--params'], marks=pytest.mark.long)])
def test_a_full_output(args):
    with open('/dev/full', 'w') as full: p = start(*args, stdout=full)
    fails(p, 'standard output: could not be written')


@posix
def test_closed_outputs(small):
    close = lambda *numbers: lambda: [os.close(n) for n in numbers]
    fails(start('--version', stdout=None, preexec_fn=close(1)), 'standard output is closed')
    assert ended(start('--version', stdin=None, preexec_fn=close(0)))[0] == 0
    assert ended(start('--version', stdin=None, stdout=None, stderr=None, preexec_fn=close(0, 1, 2)))[0] == 2
    assert ended(start('nothing', stderr=None, preexec_fn=close(2)))[0] == 2


NOISE = '''
import os
import pedarr.core.files
create = pedarr.core.files.create_file
def loud(path):
    f = create(path)
    os.write(2, b"noise")
    return f
pedarr.core.files.create_file = loud'''


@posix
def test_no_message_gets_into_a_file(small, tmp_path):
    "With standard error closed its number is the next file's: what libraries print must not land in a store."
    from pedarr.signals.store import open_store
    options = ['--rate', 125, '--ecg-band', .5, 40, '--iegm-band', 20, 55]
    p = start('preprocess', small/'db', tmp_path/'s', *options, inject=NOISE, stderr=None,
              preexec_fn=lambda: os.close(2))
    assert ended(p)[0] == 0 and len(open_store(tmp_path/'s')) == len(open_store(small/'store'))
    for name in ('ecg.npy', 'iegm.npy', 'mask.npy', 'segments.csv'):
        assert (tmp_path/'s'/name).read_bytes() == (small/'store'/name).read_bytes()


@linux
@pytest.mark.parametrize('command', [
    'preprocess', pytest.param('train', marks=pytest.mark.long)])    # twelve seconds, by the same stream
def test_progress_that_cannot_be_written_stops_nothing(small, tmp_path, command):
    options = {'preprocess': [small/'db', tmp_path/'s', '--rate', 125, '--ecg-band', .5, 40,
                              '--iegm-band', 20, 55],
               'train': [small/'store', '--run', tmp_path/'r', *TINY]}
    with open('/dev/full', 'w') as full:
        p = start(command, *options[command], stderr=full)
        assert {'preprocess': 'segments', 'train': 'top-1'}[command] in ended(p)[1] and p.returncode == 0


@posix
def test_a_reader_that_went_away(small):
    reader, writer = os.pipe()
    os.close(reader)
    p = start('check', '-h', stdout=writer)
    os.close(writer)
    fails(p, 'nobody reads')


def test_odd_encodings(tmp_path):
    for encoding in ('ascii', 'latin-1', 'utf-8'):
        p = start('check', tmp_path/'é心\x1b[2J', env={**ENVIRONMENT, 'PYTHONIOENCODING': encoding})
        fails(p, 'no such folder')


# --- Limits -------------------------------------------------------------------

@posix
@pytest.mark.parametrize('megabytes', [450, pytest.param(900, marks=pytest.mark.long)])
def test_little_memory(small, tmp_path, megabytes):
    "Of the address space, so that an allocation fails: wherever it does, it is one line, or it worked."
    import resource
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    code, _, said = ended(start('train', small/'store', '--run', tmp_path/'r', *TINY, preexec_fn=limit))
    assert code == 0 or code == 2 and len(said) == 1 and 'delete' not in said[0], (code, said)


@posix
@pytest.mark.parametrize('args', [
    ['preprocess', '@db', '@/new'], pytest.param(['train', '@store', '--run', '@/new', *TINY],
                                                 marks=pytest.mark.long)], ids=lambda args: args[0])
def test_few_open_files(small, tmp_path, args):
    import resource
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))
    places = {'@store': small/'store', '@db': small/'db', '@/new': tmp_path/'new'}
    code, _, said = ended(start(*[places.get(a, a) for a in args], preexec_fn=limit))
    assert code == 0 or code == 2 and len(said) == 1, (code, said)


@posix
@pytest.mark.parametrize('args', [['simulate', '@/new', '--subjects', 4, '--minutes', .5],
                                  ['preprocess', '@db', '@/new', '--rate', 250, '--iegm-band', 30, 110]])
def test_files_that_may_not_grow(small, tmp_path, args):
    import resource
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    args = [str(a).replace('@db', str(small/'db')).replace('@', str(tmp_path)) for a in args]
    fails(start(*args, preexec_fn=limit), 'make room on the disk')
    assert not (tmp_path/'new').exists()


NO_THREADS = '''import threading
def start(self): raise RuntimeError("can't start new thread")
import pedarr.use.command, pedarr.training.train
threading.Thread.start = start'''


@pytest.mark.parametrize('args', [
    pytest.param(['train', '@store', '--run', '@/new', *TINY], marks=pytest.mark.long),
    ['preprocess', '@db', '@/new', '--rate', 250, '--jobs', 2]])
def test_no_more_threads(small, tmp_path, args):
    "A pool that could not start its threads cannot join them either: the first error is said."
    places = {'@store': small/'store', '@db': small/'db', '@/new': tmp_path/'new'}
    p = start(*[places.get(a, a) for a in args], inject=NO_THREADS)
    fails(p, "can't start new thread: close other programs")


# --- Signals ------------------------------------------------------------------


def until(condition, p, seconds=90):
    "Wait until `condition` holds."
    end = time.monotonic() + seconds
    while not condition():
        assert p.poll() is None and time.monotonic() < end, p.returncode
        time.sleep(.05)


def children(mark):
    "The processes that carry the environment variable MARK=`mark`."
    found = []
    for p in Path('/proc').glob('[0-9]*'):
        try: found += [int(p.name)] if f'MARK={mark}\0'.encode() in (p/'environ').read_bytes() else []
        except OSError: pass
    return found


def stop(signals, until_there, *args, pause=1.):
    "Start the command, send `signals` once the file `until_there` is there: (process, those left)."
    mark = f'{os.getpid()}-{time.time()}'
    p = start(*args, env={**ENVIRONMENT, 'MARK': mark}, start_new_session=True)
    until(until_there.exists, p)
    time.sleep(pause)
    for s in signals: os.killpg(p.pid, s) if s == signal.SIGINT else p.send_signal(s)
    begun = time.monotonic()
    while p.poll() is None or children(mark):
        if time.monotonic() - begun > 10: break
        time.sleep(.1)
    return p, children(mark)


@linux
@pytest.mark.parametrize('signals, status', [
    (['SIGINT']*3, 130),
    *(pytest.param(s, n, marks=pytest.mark.long) for s, n in (
        (['SIGKILL'], -9), (['SIGINT'], 130), (['SIGTERM'], 143), (['SIGHUP'], 129), (['SIGTERM']*2, 143)))])
def test_a_training_that_is_stopped(small, tmp_path, signals, status):
    "One line, no half-written file, no process left, and the same command goes on."
    run = tmp_path/'r'
    p, left = stop([getattr(signal, s) for s in signals], run/'checkpoint-0.safetensors',
                   'train', small/'store', '--run', run, *LONG)
    code, _, said = ended(p)
    assert code == status and not left
    assert said == ['pedarr: stopped: what is finished is kept, and the same command resumes']*(status > 0)
    names = {x.name for x in run.iterdir()}
    assert 'train.ipynb' not in names and not {n for n in names if n.startswith('.')}
    if status > 0: assert not {n for n in names if n.endswith('.part')} and 'lock' not in names


@linux
@pytest.mark.parametrize('signals, status', [
    (['SIGTERM'], 143),
    *(pytest.param(s, n, marks=pytest.mark.long) for s, n in ((['SIGINT'], 130), (['SIGKILL'], -9)))])
def test_a_build_by_two_processes_that_is_stopped(small, tmp_path, signals, status):
    from pedarr.synthetic.studies import simulate_database
    if not (small/'more').exists(): simulate_database(small/'more', subjects=10, minutes=4, seed=1)
    p, left = stop([getattr(signal, s) for s in signals], tmp_path/'new.part',
                   'preprocess', small/'more', tmp_path/'new', '--jobs', 2, pause=.3)
    code, _, said = ended(p)
    assert code == status and not left and len(said) == (status > 0) and not (tmp_path/'new').exists()


def test_stopped_while_it_starts():
    "Before the command can speak for itself, too."
    from pedarr.__main__ import start_error
    assert start_error(KeyboardInterrupt())[1] == 130
    block = '''import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == 'pydantic': raise %s
sys.meta_path.insert(0, Block())
from pedarr.__main__ import main
main()
raise SystemExit'''
    for error, status, words in (
            ('KeyboardInterrupt', 130, 'starts again'), ('MemoryError', 2, 'close other programs'),
            ('ImportError("pydantic")', 2, 'install pedarr again')):
        p = subprocess.run([sys.executable, '-c', block % error], capture_output=True, text=True)
        assert p.returncode == status and len(p.stderr.splitlines()) == 1 and words in p.stderr, p.stderr


@posix
def test_signals_that_were_ignored_stay_so():
    "nohup starts a command deaf to SIGHUP."
    code = ('from pedarr.use import process; process._obey_signals(); import signal; '
            'print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)')
    deaf = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, preexec_fn=deaf)
    assert p.stdout == 'True\n'


# --- Whose code runs ----------------------------------------------------------

NAMES = ('wfdb numpy pandas json torch random traceback IPython ipykernel nbformat papermill joblib psutil '
         'lz4 click tempfile matplotlib tornado zmq').split()


@pytest.fixture
def trap(tmp_path):
    "A working folder whose modules leave a trace when they are executed: (folder, trace)."
    folder, trace = tmp_path/'trap', tmp_path/'TRACE'
    folder.mkdir()
    for name in NAMES:
        (folder/f'{name}.py').write_text(f'open({str(trace)!r}, "a").write("{name} ")\nraise SystemExit(9)\n')
    return folder, trace


@pytest.mark.skipif(sys.version_info < (3, 11), reason='such a folder is refused')
def test_code_in_the_working_folder_is_not_executed(small, tmp_path, trap):
    "Neither by the command nor by its workers; a notebook and its workers are in the next test but one."
    folder, trace = trap
    code, _, said = ended(start('preprocess', small/'db', tmp_path/'s', '--jobs', 2, cwd=folder))
    assert (code, said, trace.exists()) == (0, [], False), trace.read_text() if trace.exists() else said
    assert len(list(folder.iterdir())) == len(NAMES)


def test_folders_that_would_be_executed_are_refused(tmp_path):
    "What Python 3.10 does instead."
    refuse_shadows(tmp_path)
    (tmp_path/'my_own_analysis.py').touch()
    (tmp_path/'json').mkdir()
    refuse_shadows(tmp_path)
    (tmp_path/'json'/'__init__.py').touch()
    with pytest.raises(PedarrError, match='in place of the library json'): refuse_shadows(tmp_path)
    (tmp_path/'json'/'__init__.py').unlink()
    (tmp_path/'numpy.py').touch()
    with pytest.raises(PedarrError, match='numpy'): refuse_shadows(tmp_path)


def test_kernels_and_settings_of_the_user_play_no_part(small, tmp_path, trap):
    """A kernel of another Python, start-up files of IPython, a home that is not there, and modules of the
    working folder (Python 3.10 refuses such a folder): in one training, since one takes twelve seconds."""
    folder, trace = trap
    kernel, profile = tmp_path/'hub'/'kernels'/'python3', tmp_path/'ipython'/'profile_default'
    settings = tmp_path/'SETTINGS'
    kernel.mkdir(parents=True)
    (kernel/'kernel.json').write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
    (profile/'startup').mkdir(parents=True)
    for file in (profile/'startup'/'00.py', profile/'ipython_config.py', tmp_path/'start.py'):
        file.write_text(f'open({str(settings)!r}, "w")')
    odd = dict(JUPYTER_PATH='hub', IPYTHONDIR='ipython', PYTHONSTARTUP='start.py', HOME='nowhere')
    odd = {name: str(tmp_path/value) for name, value in odd.items()} | dict(TMPDIR='/proc')
    where = folder if sys.version_info >= (3, 11) else tmp_path
    p = start('train', small/'store', '--run', tmp_path/'r', *TINY, '-p', 'workers', 1, cwd=where,
              env={**ENVIRONMENT, **odd})
    code, _, said = ended(p)
    assert (code, said, trace.exists()) == (0, [], False), trace.read_text() if trace.exists() else said
    assert (tmp_path/'r'/'train.ipynb').exists() and len(list(folder.iterdir())) == len(NAMES)
    assert not settings.exists()


@linux
def test_the_working_folder_is_gone(tmp_path):
    (tmp_path/'gone').mkdir()
    p = start('check', 'x', cwd=tmp_path/'gone', inject=f'import os; os.rmdir({str(tmp_path/"gone")!r})')
    fails(p, 'the working folder is gone')


def test_the_console_script_begins_where_nothing_but_python_is_needed():
    from configparser import ConfigParser
    parser = ConfigParser(delimiters=['='])
    parser.read(Path(__file__).parents[1]/'settings.ini')
    assert parser['DEFAULT']['console_scripts'] == 'pedarr=pedarr.__main__:main'
    for name in ('ipykernel', 'ipython', 'nbformat', 'papermill', 'pydantic'):
        assert f' {name}>=' in parser['DEFAULT']['requirements']
    seen = 'import sys, pedarr.__main__\nprint(sorted({"numpy", "pandas", "click"} & set(sys.modules)))'
    p = subprocess.run([sys.executable, '-c', seen], capture_output=True, text=True)
    assert p.stdout.strip() == '[]'


@posix
@pytest.mark.parametrize('entries', ['{root}:', ':{root}', '.:{root}', '{root}:./'])
def test_python_paths_that_mean_the_working_folder(tmp_path, entries):
    """A file of the working folder that bears a library's name is not executed; folders named by their full
    path are."""
    (tmp_path/'wfdb.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    (tmp_path/'click.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    environment = {**os.environ, 'PYTHONPATH': entries.format(root=ROOT)}
    done = subprocess.run([sys.executable, '-m', 'pedarr', 'check', tmp_path], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path/'ran').exists(), done.stderr
