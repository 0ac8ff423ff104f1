"""Work shared by processes: order, errors, and that no worker outlives its parent."""
import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pedarr.core.errors import PassingError, PedarrError
from pedarr.core.files import write_atomic
from pedarr.core.parallel import parallel_map

POSIX = pytest.mark.skipif(sys.platform == 'win32', reason='no POSIX signals')


@pytest.mark.parametrize('jobs', [1, 2, 3])
def test_results_come_in_order_whatever_takes_longest(jobs):
    expected = [x*x for x in range(20)]
    assert list(parallel_map(lambda x: (time.sleep(.02*(x % 3)), x*x)[1], range(20), jobs)) == expected


@pytest.mark.parametrize('jobs', [1, 2])
def test_the_first_error_in_order_counts_and_what_came_before_it_is_given(jobs):
    def work(x):
        if x == 4: time.sleep(.3)
        if x >= 4: raise PedarrError(f'item {x}')
        return x
    got = []
    with pytest.raises(PedarrError, match='item 4'):
        for x in parallel_map(work, range(12), jobs): got.append(x)
    assert got == [0, 1, 2, 3]
    assert list(parallel_map(lambda x: x, range(3), jobs)) == [0, 1, 2]           # and the next call works


ERRORS = [
    (OSError(errno.EIO, 'Input/output error', 'a.dat'), PassingError, 'a.dat.*check the disk'),
    (OSError(errno.ENOSPC, 'No space left on device'), PassingError, 'make room'),
    (OSError(errno.EMFILE, 'Too many open files'), PassingError, 'ulimit -n'),
    (MemoryError('Unable to allocate 3 GiB'), PassingError, 'out of memory.*3 GiB'),
    (PassingError('try again'), PassingError, 'try again'), (KeyError('x'), KeyError, 'x')]


@pytest.mark.parametrize('jobs, error, kind, words',
                         [(1, *e) for e in ERRORS] + [(2, *e) for e in ERRORS[::3]])
def test_errors_of_the_system_arrive_as_passing(jobs, error, kind, words):
    def work(x):
        if x: raise error
    with pytest.raises(kind, match=words) as e: list(parallel_map(work, range(3), jobs))
    assert type(e.value) is kind


def test_an_error_that_cannot_be_sent_keeps_its_words():
    class Odd(Exception):
        def __init__(self, a, b): super().__init__('a strange case')
    def work(x): raise Odd(1, 2)
    with pytest.raises(Exception, match='a strange case'): list(parallel_map(work, range(3), 2))


def test_a_worker_that_is_killed_is_no_fault_of_the_input():
    def work(x):
        if x == 2: os.kill(os.getpid(), signal.SIGKILL)
        return x
    with pytest.raises(PassingError, match='ended from outside'): list(parallel_map(work, range(5), 2))
    assert list(parallel_map(lambda x: x, range(3), 2)) == [0, 1, 2]


def test_what_cannot_be_sent_to_a_process_is_said():
    import threading
    with pytest.raises(PedarrError, match='cannot be sent.*lock.*--jobs 1'):
        list(parallel_map(str, [threading.Lock()]*3, 2))


@pytest.mark.parametrize('jobs', [0, -1, 1.5, True, '2', None, 10**9])
def test_numbers_of_processes_that_make_no_sense(jobs):
    with pytest.raises(PedarrError, match='jobs=.*whole number'): list(parallel_map(str, range(3), jobs))


def test_leaving_early_leaves_nothing_running():
    for _ in range(2):
        work = parallel_map(lambda x: (time.sleep(.05), os.getpid())[1], range(100), 2)
        pid = next(work)
        work.close()
        with pytest.raises(ProcessLookupError): os.kill(pid, 0)


def test_two_at_once_and_one_left_in_the_middle_do_not_disturb_each_other():
    left, other = parallel_map(abs, range(0, -20, -1), 2), parallel_map(str, range(20), 2)
    assert next(left) == 0 and next(other) == '0'
    left.close()
    assert list(other) == [str(i) for i in range(1, 20)]


def descendants(session: int) -> list:
    "Living processes of a session, by /proc."
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try: state, *rest = open(f'/proc/{pid}/stat').read().rsplit(') ', 1)[1].split()
        except OSError: continue
        if int(rest[2]) == session and state != 'Z': found.append(int(pid))
    return found


@POSIX
@pytest.mark.parametrize('by_thread', [False, True])
def test_ctrl_c_while_processes_are_started_is_put_off_and_not_lost(by_thread):
    "Also where another thread of the process gets the signal."
    code = ('import os, signal, sys, threading, time\n'
            'from pedarr.core.parallel import _no_interrupt\n'
            'if sys.argv[1] == "True": threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n'
            'try:\n'
            '    with _no_interrupt():\n'
            '        os.kill(os.getpid(), signal.SIGINT)\n'
            '        time.sleep(.2)\n'
            '        print("went on")\n'
            'except KeyboardInterrupt: print("heard")')
    command = [sys.executable, '-c', code, str(by_thread)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.stdout.split('\n')[:2] == ['went on', 'heard']


@POSIX
@pytest.mark.skipif(not os.path.isdir('/proc'), reason='no /proc')
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(number):
    code = ('import time; from pedarr.core.parallel import parallel_map\n'
            'for x in parallel_map(lambda i: time.sleep(60*(i > 1)), range(6), 2): print(x, flush=True)')
    parent = subprocess.Popen([sys.executable, '-c', code], start_new_session=True, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
    try:
        assert parent.stdout.readline()                                       # its workers are at work
        assert len(descendants(parent.pid)) >= 3
        parent.send_signal(number)
        limit = time.monotonic() + 5
        while descendants(parent.pid) and time.monotonic() < limit: time.sleep(.05)
        assert descendants(parent.pid) == []
        assert parent.wait(5) == -number
    finally:
        for pid in descendants(parent.pid): os.kill(pid, signal.SIGKILL)


def test_a_file_that_many_write_is_never_seen_half(tmp_path):
    "Each has an unfinished file of its own; nothing of them is left."
    file, long = tmp_path/'x', 200_000
    write_atomic(file, 'a'*long)
    seen = lambda: {(len(text), len({*text})) for text in (file.read_text() for _ in range(300))}
    with ThreadPoolExecutor(5) as pool:
        looks = pool.submit(seen)
        writes = [pool.submit(write_atomic, file, letter*long) for letter in 'bcde' for _ in range(25)]
        assert all(w.result() == file for w in writes) and looks.result() == {(long, 1)}
    assert [*tmp_path.iterdir()] == [file]
