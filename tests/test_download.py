"""The download: servers that misbehave in every way, what stands in the way, and the list of checksums."""
import errno
import gzip
import hashlib
import http.server
import io
import os
import random
import re
import shutil
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st

from conftest import everywhere
from helpers import os_error
from pedarr.data import http_requests as requests_
from pedarr.data import download as download_
from pedarr.core import files as files_
from pedarr.data import transfer as transfer_
from pedarr.data.listing import list_records
from pedarr.data.checksums import CHECKSUMS, MIRROR_URL, RELEASE_URL, parse_checksums, safe_name
from pedarr.data.download import choose_files, download_release
from pedarr.data.transfer import waiting_time
from pedarr.data.http_requests import retry_after
from pedarr.core.errors import PassingError, PedarrError, system_error
from pedarr.core.files import sha256

QUICK = dict(progress=False, backoff=.001, timeout=5., jobs=4)


# ---------------------------------------------------------------- a server that can do anything wrong

class Server:
    """Serves `files` on 127.0.0.1. `faults[name]` is a list of faults, used up one per GET; `always[name]`
    is one that never ends, `heads[name]` what is sent to HEAD. A fault that is a function gets the socket's
    file and does as it likes."""
    def __init__(self, files):
        self.files, self.faults, self.always, self.heads, self.log = files, {}, {}, {}, []
        self.lock, outer = threading.Lock(), self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args): pass
            def do_HEAD(self): outer.answer(self, head=True)
            def do_GET(self):
                try: outer.answer(self)
                except (BrokenPipeError, ConnectionResetError): pass

        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(.01,), daemon=True).start()
        self.url = f'http://127.0.0.1:{self.http.server_port}/base/'

    def answer(self, h, head=False):
        name = h.path.removeprefix('/base/').partition('?')[0]
        if head and name in self.heads: return self.heads[name](h.wfile)
        if name not in self.files: return h.send_error(404)
        raw, asked = self.files[name], h.headers.get('Range')
        start = int(re.fullmatch(r'bytes=(\d+)-', asked)[1]) if asked else 0
        with self.lock:
            fault = None if head else self.always.get(name)
            if not head and not fault and self.faults.get(name): fault = self.faults[name].pop(0)
            if not head: self.log.append((name, start, time.monotonic()))
        if callable(fault):
            h.close_connection = True
            return fault(h.wfile)
        kind, *args = fault if isinstance(fault, tuple) else (fault,)
        if kind == 'status': return self.status(h, *args)
        if kind == 'no range': start = 0
        if start and start >= len(raw) and kind != 'wrong range': return h.send_error(416)
        body, length = self.spoilt(raw[start:], kind, *args)
        if start:
            first = start - (kind == 'wrong range')
            h.send_response(206)
            h.send_header('Content-Range', f'bytes {first}-{len(raw) - 1}/{len(raw)}')
        else: h.send_response(200)
        if length is not None: h.send_header('Content-Length', str(length))
        h.end_headers()
        if not head: self.send(h, body, kind, *args)

    @staticmethod
    def spoilt(body, kind, *args):
        "What is sent of `body`, and the length that is promised."
        length = len(body)
        if kind == 'corrupt': return bytes([body[0] ^ 255]) + body[1:], length
        if kind == 'drop': return body[:args[0]], length      # the body ends early
        if kind == 'truncate': return body[:args[0]], min(args[0], length)
        if kind == 'promise more': return body, length + args[0]
        return body, None if kind == 'no length' else length

    @staticmethod
    def send(h, body, kind, *args):
        "In pieces with pauses, a little and then nothing for a while, or all at once."
        if kind == 'slow':
            for i in range(0, len(body), args[0]):
                h.wfile.write(body[i:i + args[0]])
                h.wfile.flush()
                time.sleep(.005)
        elif kind == 'stall':
            h.wfile.write(body[:10])
            h.wfile.flush()
            time.sleep(args[0])
        else: h.wfile.write(body)

    def status(self, h, code, wait=None):
        h.send_response(code)
        if wait is not None: h.send_header('Retry-After', str(wait))
        h.send_header('Content-Length', '5')
        h.end_headers()
        h.wfile.write(b'sorry')

    def gets(self, name): return [start for n, start, _ in self.log if n == name]


def checksum_list(files):
    return ''.join(f'{hashlib.sha256(raw).hexdigest()} {name}\n' for name, raw in files.items()).encode()


@pytest.fixture
def server(monkeypatch):
    for key in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'): monkeypatch.delenv(key, raising=False)
    rng = random.Random(5)
    sizes = dict(hea=300, dat=200_000, atr=1500)
    files = {f'{r}.{e}': rng.randbytes(sizes[e]) for r in ('x001', 'x002', 'x0010') for e in sizes}
    files |= {'RECORDS': b'x001\nx002\nx0010\n', 'children-subject-info.csv': b'a,b\n'}
    files['doc/read me+.txt'] = b'hello'
    files[CHECKSUMS] = checksum_list(files)
    from urllib.parse import quote
    s = Server({quote(n): raw for n, raw in files.items()})
    s.plain = files
    yield s
    s.http.shutdown()
    s.http.server_close()


def get(server, folder, **options):
    return download_release(folder, base_url=server.url, **{**QUICK, **options})


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


# ---------------------------------------------------------------- download

def test_download_then_nothing_then_mending(server, tmp_path):
    report = get(server, tmp_path/'db')
    assert report.ok and len(report.fetched) == 12 and contents(tmp_path/'db') == server.plain
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path/'db').rglob('*')}
    server.log.clear()
    again = get(server, tmp_path/'db')
    assert again.ok and not again.fetched and len(again.kept) == 12
    assert [n for n, *_ in server.log] == [CHECKSUMS]
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path/'db').rglob('*')}
    (tmp_path/'db'/'x001.dat').write_bytes(server.plain['x001.dat'][:70_000])  # cut short by another program
    # damaged, of the right length
    (tmp_path/'db'/'x002.dat').write_bytes(b'?' + server.plain['x002.dat'][1:])
    (tmp_path/'db'/'x0010.hea').unlink()
    third = get(server, tmp_path/'db')
    assert sorted(third.fetched) == ['x001.dat', 'x0010.hea', 'x002.dat']
    assert sorted(third.replaced) == ['x001.dat', 'x002.dat']
    assert contents(tmp_path/'db') == server.plain, 'a file cut short is completed, not fetched anew'
    assert server.gets('x001.dat') == [70_000], 'a file cut short is completed, not fetched anew'
    assert 'replaced' in third.text() and '3 files fetched' in third.text()


@pytest.mark.parametrize('faults', [
    [('drop', 1000)]*5, [('truncate', 5000)], ['corrupt'], ['corrupt', ('drop', 50_000), 'corrupt'],
    [('status', 429, 0)], [('status', 429)]*3, [('status', 500)]*3,
    [('status', 503, 'soon')], [('drop', 90_000), 'no range'], [('drop', 90_000), 'wrong range'],
    [('promise more', 1000)], ['no length'], [('slow', 20_000)],
    [('drop', 90_000), ('status', 416)], [('status', 416)], [('drop', 0)]*3,
    [('drop', 10), ('status', 500), 'corrupt', ('status', 429, 0), ('drop', 100_000)],
    [('drop', 199_999)], [('stall', 1.5)]], ids=str)
def test_every_fault_that_passes_ends_in_a_whole_file(server, tmp_path, faults):
    server.faults = {n: list(faults) for n in ('x001.dat', 'x002.dat')}
    report = get(server, tmp_path, timeout=.5)
    assert report.ok, report.text()
    assert contents(tmp_path) == server.plain
    assert not any(server.faults.values()), 'every fault was met'


def test_list_behind_faults(server, tmp_path):
    server.faults = {CHECKSUMS: [('status', 500), ('drop', 100), ('status', 429, 0)]}
    assert get(server, tmp_path).ok and contents(tmp_path) == server.plain


def test_a_line_that_always_drops_still_arrives(server, tmp_path):
    # 29 connections; each brings the file on, so none counts as a failure
    server.always = {'x001.dat': ('drop', 7000)}
    assert get(server, tmp_path, retries=1).ok
    assert server.gets('x001.dat') == list(range(0, 200_000, 7000))


@pytest.mark.parametrize('fault, words', [
    ('corrupt', 'differs from its checksum'), (('truncate', 5000), 'differs from its checksum'),
    (('status', 404), '404'), (('status', 403), '403'), (('status', 500), '500'),
    (('status', 429, 0), '429'), (('drop', 0), 'connection ended after 0 of'), ('no-such-fault', '')],
                         ids=str)
def test_faults_that_stay_are_named(server, tmp_path, fault, words):
    server.always = {'x002.dat': fault}
    report = get(server, tmp_path, retries=2)
    if not words:
        assert report.ok  # the server itself is sound
        return
    assert list(report.failed) == ['x002.dat']
    assert words in report.failed['x002.dat']
    assert 'failed: x002.dat' in report.text()
    assert not (tmp_path/'x002.dat').exists() and len(report.fetched) == 11
    expected = {n: raw for n, raw in server.plain.items() if n != 'x002.dat'}
    assert {n: raw for n, raw in contents(tmp_path).items() if not n.endswith('.part')} == expected
    tries = 1 if '40' in words else 3
    assert len(server.gets('x002.dat')) == tries, 'no second try where it is pointless, `retries` otherwise'
    server.always = {}
    assert get(server, tmp_path).ok and contents(tmp_path) == server.plain


def test_wrong_file_is_not_left_under_its_name(server, tmp_path):
    (tmp_path/'x001.dat').write_bytes(b'old and wrong')
    server.always = {'x001.dat': ('status', 404)}
    assert list(get(server, tmp_path).failed) == ['x001.dat'] and not (tmp_path/'x001.dat').exists()


def test_range_ignored_for_ever_is_given_up(server, tmp_path):
    server.files['x001.dat'] = server.plain['x001.dat']
    server.always = {'x001.dat': ('drop', 1000)}
    answer = server.answer
    def no_range(h, head=False):
        if 'Range' in h.headers: del h.headers['Range']
        answer(h, head)
    server.answer = no_range
    report = get(server, tmp_path, retries=2)
    # one that brought something, then 1 + 2 without progress
    assert list(report.failed) == ['x001.dat'] and server.gets('x001.dat') == [0]*4


def test_a_part_of_another_version_is_discarded(server, tmp_path):
    (tmp_path/'x001.dat.part').write_bytes(b'something else, and resumable')
    (tmp_path/'x002.dat.part').write_bytes(bytes(300_000))       # longer than the file
    assert get(server, tmp_path).ok and contents(tmp_path) == server.plain


def test_retry_after_is_honoured(server, tmp_path):
    date = formatdate(time.time() + 2, usegmt=True)
    server.faults = {'x001.hea': [('status', 429, 1)], 'x002.hea': [('status', 503, date)]}
    assert get(server, tmp_path).ok
    for name in server.faults:
        a, b = [t for n, _, t in server.log if n == name]
        assert .8 < b - a < 3


@given(st.integers(0, 60), st.floats(0, 10), st.floats(0, 1e6))
def test_pause(failures, backoff, asked):
    p = waiting_time(failures, backoff, asked)
    assert 0 <= p <= 300 and (p >= asked or p == 300)


@given(st.text())
def test_retry_after_takes_anything(text): assert retry_after(text) >= 0


def test_some_records(server, tmp_path):
    report = get(server, tmp_path, records=['x002', 'x0010'])
    assert set(contents(tmp_path)) == set(server.plain) - {'x001.hea', 'x001.dat', 'x001.atr', 'RECORDS'}
    assert report.ok and [p.stem for p in list_records(tmp_path)] == ['x002', 'x0010']
    assert get(server, tmp_path).ok and contents(tmp_path) == server.plain
    with pytest.raises(PedarrError, match="unknown record 'x003': .*use one of x001, x002, x0010"):
        get(server, tmp_path, records=['x001', 'x003'])


def test_bad_input_is_one_line(server, tmp_path):
    (tmp_path/'file').write_text('')
    for what, words in (
            (dict(folder=tmp_path/'file'), 'cannot be made a folder'),
            (dict(jobs=0), 'jobs=0'),
            (dict(base_url='ftp://x/'), 'not a web address'),
            (dict(base_url='x'), 'not a web address'),
            (dict(base_url=server.url + 'elsewhere/'), '404'),
            (dict(base_url='http://127.0.0.1:9/', retries=1), 'no answer'),
            (dict(base_url='http://[::1', retries=0), '')):
        with pytest.raises(PedarrError) as e:
            download_release(**{'folder': tmp_path/'db', 'base_url': server.url, **QUICK, **what})
        assert words in str(e.value) and '\n' not in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == ['file'], 'a refused download leaves nothing behind'


@pytest.mark.parametrize('name', [
    '../outside', '/etc/outside', 'a/../../outside', '..\\outside', 'C:outside', 'x001.dat/y'])
def test_list_that_leaves_the_folder(server, tmp_path, name):
    server.files[CHECKSUMS] = server.plain[CHECKSUMS] + f'{"0"*64} {name}\n'.encode()
    (tmp_path/'db').mkdir()
    (tmp_path/'db'/CHECKSUMS).write_text('old list')
    with pytest.raises(PedarrError, match='refuses|also a file'): get(server, tmp_path/'db')
    assert contents(tmp_path) == {f'db/{CHECKSUMS}': b'old list'}, 'nothing was written, the old list stands'


def test_symlinks_that_leave_the_folder(server, tmp_path):
    (tmp_path/'outside').mkdir()
    (tmp_path/'db').mkdir()
    (tmp_path/'db'/'doc').symlink_to(tmp_path/'outside')
    with pytest.raises(PedarrError, match='symbolic link'): get(server, tmp_path/'db')
    (tmp_path/'db'/'doc').unlink()
    (tmp_path/'db'/'x001.dat.part').symlink_to(tmp_path/'outside'/'victim')
    with pytest.raises(PedarrError, match='symbolic link'): get(server, tmp_path/'db')
    (tmp_path/'db'/'x001.dat.part').unlink()
    (tmp_path/'outside'/'victim').write_bytes(b'mine')
    # a link in a file's own place is replaced, its target untouched
    (tmp_path/'db'/'x001.dat').symlink_to(tmp_path/'outside'/'victim')
    assert get(server, tmp_path/'db').ok
    assert (tmp_path/'outside'/'victim').read_bytes() == b'mine'
    assert not (tmp_path/'db'/'x001.dat').is_symlink()


def test_folder_in_a_files_place(server, tmp_path):
    (tmp_path/'x001.dat').mkdir()
    with pytest.raises(PedarrError, match='a folder stands'): get(server, tmp_path)


def test_disk_too_small_or_full(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(PedarrError, match='still to come'): get(server, tmp_path/'small')
    monkeypatch.undo()

    class Full(io.BytesIO):
        def write(self, block): raise os_error(errno.ENOSPC)
    real_open = transfer_.open_part
    everywhere(monkeypatch, transfer_, 'open_part',
               lambda part, offset: Full() if part.name == 'x001.dat.part' else real_open(part, offset))
    server.always = {'x002.dat': ('status', 503, 60)}  # another thread waits for a minute: it must be woken
    begun = time.monotonic()
    with pytest.raises(PassingError, match='No space left.*make room') as e: get(server, tmp_path/'full')
    assert time.monotonic() - begun < 20
    assert '\n' not in str(e.value)
    assert not (tmp_path/'full'/'x001.dat').exists()
    monkeypatch.undo()
    server.always = {}
    assert get(server, tmp_path/'full').ok and contents(tmp_path/'full') == server.plain


def test_interrupted_download_resumes(server, tmp_path, monkeypatch):
    server.always = {'x001.dat': ('slow', 2000)}
    fetch_all = download_._fetch_all
    def interrupted(*args, **kw):
        for n, why in fetch_all(*args, **kw):
            yield n, why
            if n == 'x002.dat': raise KeyboardInterrupt
    everywhere(monkeypatch, download_, '_fetch_all', interrupted)
    with pytest.raises(KeyboardInterrupt): get(server, tmp_path)
    monkeypatch.undo()
    server.always = {}
    assert get(server, tmp_path).ok and contents(tmp_path) == server.plain


# ---------------------------------------------------------------- servers without measure

OK = b'HTTP/1.1 200 OK\r\n'
CHUNKED = OK + b'Transfer-Encoding: chunked\r\n\r\n'


def flood(head, block=bytes(1 << 16)):
    "Sends `head` and then blocks, three gigabytes of them."
    def send(f):
        f.write(head)
        for _ in range((3 << 30)//len(block)): f.write(block)
    return send


def drip(head, byte=b'0'):
    "Sends `head` and then a byte every 20 ms, for a minute."
    def send(f):
        f.write(head)
        for _ in range(3000):
            f.write(byte)
            f.flush()
            time.sleep(.02)
    return send


def raw(answer): return lambda f: f.write(answer)


HURRY = dict(timeout=1., slowest=1000., window=.3, longest=2., retries=1)


@pytest.mark.parametrize('fault, words', [
    (flood(OK + b'Content-Length: 3221225472\r\n\r\n'), 'announces 3,221,225,472 bytes where at most 300'),
    (flood(OK + b'\r\n'), 'more than 300 bytes'),
    (flood(CHUNKED + b'F' * 20 + b'\r\n'), 'more than 300 bytes'),
    (flood(CHUNKED, b'10000\r\n' + bytes(1 << 16) + b'\r\n'), 'more than 300 bytes'),
    (flood(CHUNKED + b'0\r\n', b'a: b\r\n'*9999), 'without end'),
    (flood(OK, b'X: ' + b'y'*60_000 + b'\r\n'), 'no answer|without end'),
    (flood(OK + b'X: ', b'y'*60_000), 'no answer'),
    (flood(b'', b'HTTP/1.1 100 Continue\r\n\r\n'*999), 'without end'),
    (drip(b'HTTP/1.1 200 '), 'too slow'),
    (drip(OK + b'X: '), 'too slow'),
    (drip(OK + b'Content-Length: 300\r\n\r\n'), 'too slow'),
    (drip(CHUNKED), 'too slow'),
    (drip(CHUNKED + b'0\r\n', b'a: b\r\n'), 'too slow'),
    (drip(b'', b'HTTP/1.1 100 Continue\r\n\r\n'), 'too slow|not finished')], ids=list(map(str, range(14))))
def test_answers_without_end_or_haste_are_cut_off(server, tmp_path, fault, words):
    server.always = {'x001.hea': fault}
    begun = time.monotonic()
    report = get(server, tmp_path, **HURRY)
    assert time.monotonic() - begun < 10
    assert list(report.failed) == ['x001.hea']
    assert re.search(words, report.failed['x001.hea'])
    assert sum(len(c) for c in contents(tmp_path).values()) < 700_000 and not (tmp_path/'x001.hea').exists()
    server.always = {}
    assert get(server, tmp_path).ok and contents(tmp_path) == server.plain


def test_one_byte_a_connection_is_no_progress(server, tmp_path):
    server.always = {'x001.dat': ('drop', 1)}
    report = get(server, tmp_path, retries=3)
    assert list(report.failed) == ['x001.dat'] and len(server.gets('x001.dat')) == 4


def test_a_silent_server_does_not_hold_up_an_interrupt(server, tmp_path):
    server.always = {'x001.hea': ('stall', 20)}
    stop = threading.Event()
    threading.Timer(.3, stop.set).start()
    begun = time.monotonic()
    assert transfer_.fetch_file(server.url + 'x001.hea', tmp_path/'x', '0'*64,
                                requests_.Patience(timeout=15.), stop=stop) == 'interrupted'
    assert time.monotonic() - begun < 5
    assert 'timed out' in transfer_.fetch_file(server.url + 'x001.hea', tmp_path/'x', '0'*64,
                                               requests_.Patience(timeout=1.2, retries=0))


def test_what_the_server_says_beforehand_bounds_the_file(server, tmp_path):
    server.heads = {
        'x001.hea': raw(OK + b'Content-Length: 999999999999999\r\n\r\n'),
        'x002.hea': raw(b'HTTP/1.1 405 No\r\n\r\n'),
        'x0010.hea': drip(OK + b'X: '),
        'x001.atr': raw(OK + b'Content-Length: ' + b'9'*5000 + b'\r\n\r\n'),
        'x002.atr': raw(b'')}
    report = get(server, tmp_path, **HURRY)
    assert list(report.failed) == ['x001.hea']
    assert 'announces 999,999,999,999,999 bytes where at most 1,048,576' in report.failed['x001.hea']
    assert not server.gets('x001.hea') and len(report.fetched) == 11


@pytest.mark.parametrize('to, words', [
    ('/base/x002.hea', 'checksum'), ('file:///etc/passwd', 'do not follow'),
    ('ftp://127.0.0.1/x', 'do not follow'), ('data:,x', 'do not follow'), ('', 'do not follow'),
    ('/base/x001.hea', 'do not follow'), ('http://[::1', 'do not follow'),
    ('http://127.0.0.1:1/', 'no answer'), ('\x1b[2J://x', '404')])
def test_redirections(server, tmp_path, to, words):
    server.always = {'x001.hea': raw(b'HTTP/1.1 302 F\r\nLocation: ' + to.encode() + b'\r\n\r\n')}
    report = get(server, tmp_path, **HURRY)
    assert list(report.failed) == ['x001.hea']
    assert words in report.failed['x001.hea']
    assert report.text().replace('\n', '').isprintable()


def test_redirections_that_are_followed_and_that_have_no_end(server, tmp_path):
    server.files['there'] = server.plain['x001.hea']
    # the body is not read
    server.always = {'x001.hea': flood(b'HTTP/1.1 301 F\r\nLocation: /base/there\r\n\r\n')}
    assert get(server, tmp_path).ok and contents(tmp_path) == server.plain
    def elsewhere(f): f.write(b'HTTP/1.1 302 F\r\nLocation: ?%d\r\n\r\n' % time.monotonic_ns())
    server.always = {'x002.hea': elsewhere}
    (tmp_path/'x002.hea').unlink()
    server.log.clear()
    assert 'more than 5 redirections' in get(server, tmp_path).failed['x002.hea']
    assert len(server.gets('x002.hea')) == 6


@pytest.mark.parametrize('url, to, ok', [
    ('https://a/x', '/y', True), ('https://a/x', 'https://b/y', True),
    ('https://a/x', 'http://a/x', False), ('http://a/x', 'https://a/x', True),
    ('http://a/x', 'http://b/x', True), ('http://a/x', 'file:///x', False)])
def test_a_redirection_keeps_the_protection(url, to, ok):
    response = SimpleNamespace(headers={'Location': to}, close=lambda: None)
    if ok: assert requests_._moved_to(url, response).split(':')[0] in ('http', 'https')
    else:
        with pytest.raises(requests_.Failure, match='do not follow') as e: requests_._moved_to(url, response)
        assert e.value.final


def test_compressed_bodies_and_words_of_the_server(server, tmp_path):
    bomb = gzip.compress(bytes(10**7))
    server.always = {
        'x001.hea': raw(OK + b'Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n' % len(bomb) + bomb),
        'x002.hea': raw(b'HTTP/1.1 403 \x1b]0;evil\x07\x1b[2J' + b'A'*5000 + b'\r\n\r\n'),
        'x0010.hea': raw(OK + b'Content-Encoding: \x1b[31mx\r\n\r\n')}
    report = get(server, tmp_path, **HURRY)
    assert 'compressed it (gzip)' in report.failed['x001.hea']
    assert r'403 \x1b]0;evil' in report.failed['x002.hea']
    assert len(report.failed) == 3
    assert report.text().replace('\n', '').isprintable() and max(map(len, report.text().split('\n'))) < 300


@pytest.mark.parametrize('answer, words', [
    (flood(OK + b'\r\n'), 'more than 4,194,304 bytes'),
    (drip(OK + b'\r\n'), 'too slow'),
    (raw(OK + b'\r\n<\x1b[2J>'), r'no checksum line \(.<.x1b\[2J>'),
    (raw(OK + b'\r\n'), 'the list is empty'),
    (raw(b'HTTP/1.1 302 F\r\nLocation: file:///etc/hostname\r\n\r\n'), 'do not follow'),
    (raw(OK + b'\r\n' + b'0'*64 + b' a.dat\n' + b'0'*64 + b' A.DAT\n'),
     'a.dat and A.DAT are one file on some disks')], ids=list(map(str, range(6))))
def test_lists_without_measure(server, tmp_path, answer, words):
    server.always = {CHECKSUMS: answer}
    with pytest.raises(PedarrError, match=words) as e: get(server, tmp_path, **HURRY)
    assert str(e.value).isprintable() and contents(tmp_path) == {}


@pytest.fixture(scope='session')
def certificate(tmp_path_factory):
    "A key and a certificate for 127.0.0.1, in one file."
    if not shutil.which('openssl'): pytest.skip('openssl is not installed')
    file = tmp_path_factory.mktemp('tls')/'both.pem'
    command = ('openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 '
               '-addext subjectAltName=IP:127.0.0.1 -keyout both.pem -out both.crt')
    subprocess.run(command.split(), cwd=file.parent, check=True, capture_output=True)
    file.write_text(file.read_text() + file.with_suffix('.crt').read_text())
    return file


def test_a_protected_address(server, tmp_path, monkeypatch, certificate):
    """Over https the same bounds hold; a certificate that nobody vouches for is refused; nobody leads us to
    an open address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    server.url = server.url.replace('http:', 'https:')
    with pytest.raises(PedarrError, match='CERTIFICATE_VERIFY_FAILED'): get(server, tmp_path, retries=0)
    trusting = ssl.create_default_context(cafile=certificate.with_suffix('.crt'))
    everywhere(monkeypatch, requests_, '_context', lambda: trusting)
    server.always = {
        'x001.hea': drip(OK + b'X: '),
        'x002.hea': flood(OK + b'\r\n'),
        'x0010.hea':
        raw(b'HTTP/1.1 302 F\r\nLocation: ' + server.url.replace('https', 'http').encode() + b'\r\n\r\n')}
    report = get(server, tmp_path, **HURRY)
    assert {n: why.split(':')[0].split(' ')[0] for n, why in report.failed.items()} == {
        'x001.hea': 'too', 'x002.hea': 'the', 'x0010.hea': 'redirected'}
    server.always = {'x001.hea': ('drop', 100)}
    assert get(server, tmp_path, retries=9).ok and contents(tmp_path) == server.plain


def test_lists_of_other_makers():
    assert parse_checksums(f'\ufeff{"a"*64}  ./x.dat\n') == {'x.dat': 'a'*64}
    with pytest.raises(PedarrError, match='refuses'): parse_checksums(f'{"a"*64}  ././x.dat\n')
    assert retry_after('9'*400) == 0 and retry_after('٣') == 0 and retry_after('1_0') == 0


# ---------------------------------------------------------------- what stands in the way, and fault

def beside(folder): return folder.parent/'mine'

IN_THE_WAY = {
    'a named pipe': os.mkfifo,
    'a folder': Path.mkdir,
    'a device or socket': lambda p: os.mknod(p, 0o20600, os.makedev(1, 3)),
    'a symbolic link': lambda p: p.symlink_to(beside(p.parent)),
    'a second name': lambda p: os.link(beside(p.parent), p)}

@pytest.mark.parametrize('kind', IN_THE_WAY)
@pytest.mark.parametrize('name',
                         ['x001.dat', 'x001.dat.part', 'RECORDS', CHECKSUMS, f'{CHECKSUMS}.part',
                          download_.LOCK])
def test_what_stands_in_the_way(server, tmp_path, name, kind):
    db = tmp_path/'db'
    db.mkdir()
    beside(db).write_bytes(b'mine')
    try: IN_THE_WAY[kind](db/name)
    except PermissionError: pytest.skip('this system makes no devices')
    own = name.endswith('.part') and kind == 'a second name'
    left = {name: b'mine'} if own and name != 'x001.dat.part' else {}        # a name that nobody needs
    replaced = own or (kind in ('a symbolic link', 'a second name') and not name.endswith(('.part', '.lock')))
    if replaced: assert get(server, db).ok and contents(db) == server.plain | left
    else:
        with pytest.raises(PedarrError) as e: get(server, db)
        assert str(e.value).count('\n') == 0 and str(db/name) in str(e.value)
        assert os.path.lexists(db/name), 'nothing of the user is removed'
    assert beside(db).read_bytes() == b'mine'


def test_a_second_download_is_told(server, tmp_path):
    server.always = {'x001.dat': ('slow', 500)}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(get, server, tmp_path)
        while not (tmp_path/'x001.dat.part').exists(): time.sleep(.005)
        with pytest.raises(PedarrError,
                           match=f'process {os.getpid()} on .* is downloading into this folder: wait'):
            get(server, tmp_path)
        assert running.result().ok and contents(tmp_path) == server.plain


def test_a_fault_of_the_machine_removes_nothing(server, tmp_path, monkeypatch):
    get(server, tmp_path)
    (tmp_path/'x001.dat').write_bytes(b'cut short')
    before, read = contents(tmp_path), files_.sha256
    def broken(path, *args):
        if Path(path).name == 'x002.dat': raise system_error(os_error(errno.EIO), path, 'cannot be read')
        return read(path, *args)
    everywhere(monkeypatch, files_, 'sha256', broken)
    with pytest.raises(PassingError, match='x002.dat: cannot be read .*check the disk'): get(server, tmp_path)
    assert contents(tmp_path) == before
    monkeypatch.undo()
    def no_more(*args, **kw): raise os_error(errno.EMFILE)
    monkeypatch.setattr('socket.create_connection', no_more)
    with pytest.raises(PassingError, match='Too many open files.*raise the limit'): get(server, tmp_path)
    assert contents(tmp_path) == before


def test_a_refused_download_leaves_no_empty_folder(server, tmp_path):
    for i, url in enumerate(('ftp://x/', server.url + 'elsewhere/')):
        with pytest.raises(PedarrError):
            download_.download_release(tmp_path/f'new{i}', base_url=url, progress=False, retries=0,
                                       backoff=0.)
    assert not list(tmp_path.iterdir())
    mine = tmp_path/'mine'
    mine.mkdir()                                        # an empty folder of the user's stays
    with pytest.raises(PedarrError): download_.download_release(mine, base_url='ftp://x/', progress=False)
    assert mine.is_dir()


def test_addresses():
    for url in (RELEASE_URL, MIRROR_URL):
        assert url.startswith('https://') and url.endswith('/leipzig-heart-center-ecg/1.0.0/')


# ---------------------------------------------------------------- the checksum list

PARTS = ['a', '..', '.', '', 'C:', '\\', '/', ' ', 'x.dat', '\0', '~', 'é', 'con', 'a.part', '-']


@given(st.text(max_size=60) | st.lists(st.sampled_from(PARTS)).map('/'.join))
@settings(max_examples=500)
def test_safe_names_stay_inside(name):
    try: assert safe_name(name) == name
    except PedarrError as e:
        assert '\n' not in str(e)
        return
    for flavour in (__import__('posixpath'), __import__('ntpath')):
        path = flavour.normpath(flavour.join('/base' if flavour.__name__ == 'posixpath' else 'D:\\base',
                                             name))
        assert path.replace('\\', '/').startswith(('/base/', 'D:/base/')) and '..' not in name.split('/')


NAMES = st.lists(st.from_regex(r'[A-Za-z0-9_+-]{1,8}(\.[a-z]{1,3})?', fullmatch=True).filter(
                 lambda n: not re.fullmatch(r'(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?', n)),
                 min_size=1, max_size=3).map('/'.join)

@given(st.dictionaries(NAMES, st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=8),
       st.sampled_from([' ', '  ', ' *', '\t']), st.sampled_from(['\n', '\r\n', '\n\n']))
def test_lists_round_trip(sums, gap, end):
    nested = any(a.startswith(b + '/') for a in sums for b in sums)
    text = ''.join(f'{d.upper()}{gap}{n}{end}' for n, d in sums.items())
    if nested:
        with pytest.raises(PedarrError): parse_checksums(text)
    else: assert parse_checksums(text) == sums


@given(st.text() | st.lists(st.sampled_from(['a'*64, ' ', '  ', '\n', 'x', '../', '*', '\\', '\r', 'g'*64,
                                             'é'])).map(''.join))
@settings(max_examples=500)
def test_any_text_is_a_list_or_one_line(text):
    try: sums = parse_checksums(text)
    except PedarrError as e:
        assert '\n' not in str(e)
        return
    assert all(re.fullmatch('[0-9a-f]{64}', d) and safe_name(n) == n for n, d in sums.items())


def test_sha256sum_agrees(tmp_path):
    "The list that coreutils writes is read, where it is installed."
    if not shutil.which('sha256sum'): pytest.skip('sha256sum is not installed')
    for n in ('a.txt', 'b c.txt'): (tmp_path/n).write_bytes(n.encode()*1000)
    for flag in ('--text', '--binary'):
        out = subprocess.run(['sha256sum', flag, 'a.txt', 'b c.txt'], cwd=tmp_path, capture_output=True,
                             text=True, check=True).stdout
        assert parse_checksums(out) == {n: sha256(tmp_path/n) for n in ('a.txt', 'b c.txt')}


def test_choose_files_in_subfolders():
    names = [f'data/{r}.{e}' for r in ('x001', 'x002') for e in ('hea', 'dat')]
    sums = dict.fromkeys([*names, 'RECORDS', 'notes.txt'], '')
    assert choose_files(sums, ['x002']) == ['data/x002.hea', 'data/x002.dat', 'notes.txt']
