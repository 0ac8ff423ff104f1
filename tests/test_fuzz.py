"""Thousands of damaged, odd and lawful headers, annotation files and tables: a right answer, or one line
that names the file.

A normal run tries few examples, always the same. `PEDARR_FUZZ=10000 pytest tests/test_fuzz.py` tries as many
as it says, new ones each time. The oracles are written here after the WFDB manual, or are what the example
was made from; they share no reading code with pedarr."""
import contextlib
import json
import math
import os
import re
import shutil
import signal
import struct
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
import wfdb
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings, strategies as st

from conftest import REAL, real
from pedarr.use.command import pedarr_command
from pedarr.data.known_databases import DATABASES
from pedarr.data.listing import list_records, record_names
from pedarr.data.subjects import parse_age
from pedarr.core.names import natural_key
from pedarr.data.check import check_folder
from pedarr.data.leipzig import layout_table, parse_duration, subject_table, unknown_annotations
from pedarr.data.checksums import parse_checksums
from pedarr.data.channels import CHANNELS
from pedarr.data.records import open_record
from pedarr.data.annotations import read_annotations
from pedarr.data.rhythms import BEAT_SYMBOLS, LEIPZIG_RHYTHMS, parse_episodes, poor_signal
from pedarr.core.errors import PedarrError
from pedarr.signals.build import build_store
from pedarr.signals.settings import PreprocessConfig

MANY = int(os.environ.get('PEDARR_FUZZ') or 0)


def fuzz(few: int, share: float = 1.):
    """Settings of one test: `few` examples in a normal run; `share` of what PEDARR_FUZZ asks for in a long
    one."""
    return settings(max_examples=max(few, int(MANY*share)) if MANY else few, derandomize=not MANY,
                    deadline=None, database=None, suppress_health_check=list(HealthCheck))


class Hangs(BaseException): "Not an Exception, so that no `except Exception` under test can swallow it."


@contextlib.contextmanager
def within(seconds: float):
    """A watchdog: raises in the tested code itself, even in an endless loop. (Only in the main thread of a
    Unix process.)"""
    if not hasattr(signal, 'setitimer') or threading.current_thread() is not threading.main_thread():
        yield
        return
    def bark(*_): raise Hangs(f'no answer within {seconds} s')
    old = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def outcome(function, *names, seconds: float = 10.):
    """What `function()` returns, or None if it raised a PedarrError of one line that names one of `names`.
    Anything else, a warning too, is a failure."""
    with within(seconds), warnings.catch_warnings():
        warnings.simplefilter('error')
        try: return function()
        except PedarrError as e: said = str(e)
    assert said.strip() and len(said.splitlines()) == 1 and said.isprintable(), f'not one line: {said!r}'
    assert not names or any(str(n) in said for n in names), f'names none of {names}: {said}'
    assert ': ' in said, f'names no remedy: {said}'
    return None


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('fuzz')


# ---- annotation files: lawful ones ---------------------------------------------------------------

CODES = {1: 'N', 2: 'L', 3: 'R', 4: 'a', 5: 'V', 6: 'F', 7: 'J', 8: 'A', 9: 'S', 10: 'E', 11: 'j', 12: '/',
         13: 'Q', 14: '~', 16: '|', 18: 's', 19: 'T', 20: '*',
         21: 'D', 22: '"', 23: '=', 24: 'p', 25: 'B', 26: '^', 27: 't', 28: '+', 29: 'u', 30: '?', 31: '!',
         32: '[', 33: ']', 34: 'e', 35: 'n', 36: '@', 37: 'x',
         38: 'f', 39: '(', 40: ')', 41: 'r'}     # annotation codes, from the manual's page annot(5)
SIG_LEN, FS = 2_000_000, 977


def word(code, value): return struct.pack('<H', code << 10 | value)
def text_bytes(text): return word(63, len(text)) + text + b'\0'*(len(text) % 2)
# as a reader in C ends a string
def plain(text): return text.decode('latin-1').lstrip('\0 \t\r\n').split('\0')[0].strip()
def skip(n): return word(59, 0) + struct.pack('<HH', (n & 0xffffffff) >> 16, n & 0xffff)


@st.composite
def interval(draw, n):
    """The bytes that let `n` samples pass, in one of the lawful ways, and what is left for the mark's own
    word."""
    raw, left = b'', n
    way = draw(st.integers(0, 3))
    if way == 1 and n <= 1023: return raw, left
    # also negative skips
    if way == 2:
        back = draw(st.integers(0, 1023))
        raw += skip(left - back)
        left = back
    # a place-holder
    if way == 3:
        some = draw(st.integers(0, min(left, 1023)))
        left -= some
        raw += word(0, some) if some else b''
    if left > 1023:
        raw += skip(left)
        left = 0
    return raw, left


names_of_rhythms = 'N VT IVR AVRT AVNRT AFIB EAT AFL A B J /A /V (( ÄÖ'.split() + ['MADE UP', '']
rhythm = st.sampled_from(names_of_rhythms).map(lambda r: r.encode('latin-1'))
padding = st.sampled_from([b'', b'\0', b'\0\0', b' \0', b' ', b'\0\0\0\0'])
mark = st.fixed_dictionaries({
    'gap': st.one_of(st.integers(0, 1023), st.integers(0, 40_000)),
    'code':
    st.one_of(st.sampled_from([28, 28, 28, 14, 1, 42, 43]), st.sampled_from(list(CODES)),
                  st.integers(1, 58)),
    'rhythm': rhythm,
    'pad': padding,
    'text': st.binary(max_size=255),
    'sub': st.none() | st.integers(-128, 127),
    'extra': st.lists(st.sampled_from([60, 62]), max_size=2),
    'order': st.booleans()})
labels = st.dictionaries(st.integers(42, 49), st.sampled_from(['X', 'b', 'w', 'VT', '~~']), max_size=3)


@st.composite
def annotation_file(draw):
    "The bytes of a valid annotation file, and the annotations in it: (sample, symbol, text, subtype)."
    own, marks, raw, want, at = draw(labels), draw(st.lists(mark, max_size=25)), b'', [], 0
    note = lambda text: word(22, 0) + text_bytes(text)
    if draw(st.booleans()): raw += note(f'## time resolution: {FS}'.encode())
    if own:
        raw += note(b'## annotation type definitions')
        for c, s in own.items(): raw += note(f'{c} {s} made for this test'.encode())
        raw += note(b'## end of definitions')
    for m in marks:
        gap = min(m['gap'], SIG_LEN - 1 - at)
        passed, left = draw(interval(gap))
        raw, at = raw + passed + word(m['code'], left), at + gap
        text = b'' if m['text'].startswith(b'##') else m['text']
        if m['code'] == 28: text = b'(' + m['rhythm'] + m['pad']
        parts = [text_bytes(text)] if text else []
        if m['sub'] is not None: parts.append(word(61, m['sub'] & 255))
        parts += [word(e, 3) for e in m['extra']]
        raw += b''.join(parts[::-1] if m['order'] else parts)
        want.append((at, {**CODES, **own}.get(m['code'], f'[{m["code"]}]'), plain(text), m['sub'] or 0))
    return raw + b'\0\0'*draw(st.integers(1, 3)), want


def read_bytes(folder, raw: bytes, **more):
    "What pedarr reads from an annotation file of these bytes, as tuples; None for a refusal."
    (folder/'a.atr').write_bytes(raw)
    got = outcome(lambda: read_annotations(folder/'a', 'atr', **{'sig_len': SIG_LEN, 'fs': FS, **more}),
                  'a.atr')
    if got is None: return None
    assert len(got.sample) == len(got.symbol) == len(got.aux) == len(got.subtype)
    return list(zip(got.sample.tolist(), got.symbol.tolist(), got.aux, got.subtype.tolist()))


def episodes_of(marks, sig_len=SIG_LEN):
    "Episodes from annotations, one by one, by the definition in chapter 00."
    out = []
    for at, symbol, text, _ in marks:
        if symbol == '+':
            if out: out[-1][1] = at
            if at < sig_len: out.append([at, sig_len, text.removeprefix('(').strip(), 0])
        elif symbol in BEAT_SYMBOLS and out and at < sig_len: out[-1][3] += 1
    # nobody marked beats
    if not any(symbol in BEAT_SYMBOLS for _, symbol, *_ in marks): out = [[*e[:3], -1] for e in out]
    return out


def poor_of(marks, sig_len=SIG_LEN):
    out, since = [], None
    for at, symbol, *_ in marks:
        if symbol != '~': continue
        if since is None: since = at
        else:
            out.append([since, at])
            since = None
    return out + ([[since, sig_len]] if since is not None else [])


@fuzz(150)
@given(made=annotation_file())
def test_lawful_annotation_files_give_their_marks_and_episodes(folder, made):
    raw, want = made
    got = read_bytes(folder, raw)
    assert got == want
    sample, symbol, text, _ = map(list, zip(*got)) if got else ([], [], [], [])
    found = parse_episodes(sample, symbol, text, SIG_LEN).values.tolist()
    assert found == episodes_of(want), 'no episode is lost, moved or renamed'
    assert poor_signal(sample, symbol, SIG_LEN).values.tolist() == poor_of(want)


@fuzz(60, .2)
@given(marks=st.lists(st.tuples(st.integers(0, 50_000), st.sampled_from(list('++NV~Xb')), rhythm),
                      min_size=1, max_size=30))
def test_what_wfdb_writes_we_read(folder, marks):
    marks = sorted(marks, key=lambda m: m[0])
    texts = ['(' + r.decode('latin-1') if s == '+' else '' for _, s, r in marks]
    wfdb.wrann('w', 'atr', np.array([m[0] for m in marks]), symbol=[m[1] for m in marks], aux_note=texts,
               fs=FS, write_dir=str(folder),
               custom_labels=[(42, 'X', 'tachycardia beat'), (43, 'b', 'beat with block')])
    got = read_annotations(folder/'w', sig_len=SIG_LEN, fs=FS)
    expected = ([m[0] for m in marks], [m[1] for m in marks], [t.strip() for t in texts])
    assert (got.sample.tolist(), got.symbol.tolist(), got.aux) == expected
    e = parse_episodes(got.sample, got.symbol, got.aux, SIG_LEN)
    assert e.rhythm.tolist() == [r.decode('latin-1').strip() for _, s, r in marks if s == '+']


@fuzz(40, .2)
@given(marks=st.lists(st.tuples(st.integers(-5, 120), st.sampled_from(['+', 'N', '~'])), min_size=1,
                      max_size=8))
def test_marks_out_of_order_or_range_are_refused(folder, marks):
    raw, at = b'', 0
    for sample, symbol in marks:
        code = {'+': 28, 'N': 1, '~': 14}[symbol]
        raw += skip(sample - at) + word(code, 0)
        if symbol == '+': raw += text_bytes(b'(N')
        at = sample
    got = read_bytes(folder, raw + b'\0\0', sig_len=100)
    samples = [s for s, _ in marks]
    right = samples == sorted(samples) and samples[0] >= 0 and samples[-1] <= 100
    assert (got is not None) == right
    if right: assert [(s, y) for s, y, *_ in got] == marks


# ---- annotation files: damaged ones --------------------------------------------------------------

def by_the_manual(raw: bytes):
    "Marks (sample, code, text, subtype) by annot(5), or None where the bytes break a rule of it."
    out, at, i, n = [], 0, 0, len(raw)
    while True:
        if i + 2 > n: return None
        code, value = raw[i + 1] >> 2, raw[i] + 256*(raw[i + 1] & 3)
        i += 2
        if code == value == 0: return None if raw[i:].strip(b'\0') or n % 2 else [m for m in out if m[1]]
        if code == 59:
            if i + 4 > n: return None
            at += int.from_bytes(raw[i + 2:i + 4] + raw[i:i + 2], 'little', signed=True)
            i += 4
        elif code < 59:
            at += value
            out.append([at, code, None, 0])
        elif not out: return None
        elif code == 61: out[-1][3] = int.from_bytes(raw[i - 2:i - 1], 'little', signed=True)
        elif code == 63:
            if value > 255 or out[-1][2] is not None or i + value > n: return None
            out[-1][2] = raw[i:i + value]
            i += value + value % 2


def allowed(got, raw, sig_len=SIG_LEN):
    """A file that was read holds by the manual just those marks; a file that the manual, order and range
    allow was read, notes at sample 0 apart."""
    want = by_the_manual(raw)
    notes = want is not None and any(m[:2] == [0, 22] and (m[2] or b'').strip(b'\0 ').startswith(b'##')
                                     for m in want)
    if got is None:
        if want is None or notes: return
        at = [m[0] for m in want]
        assert at != sorted(at) or (at and not 0 <= at[0] <= at[-1] <= sig_len), 'refused, but lawful'
        return
    assert want is not None, 'read, but damaged'
    if notes:      # which notes are definitions is another test's business: all other marks must be there
        want = [m for m in want if m[:2] != [0, 22]]
        got = [g for g in got if not (g[0] == 0 and g[1] == '"')]
    assert [(g[0], g[3]) for g in got] == [(m[0], m[3]) for m in want]
    for g, m in zip(got, want): assert g[2] == plain(m[2] or b'')
    rhythms = [m[0] for m in want if m[1] == 28]
    assert [g[0] for g in got if g[1] == '+'] == rhythms, 'no rhythm annotation is lost or added'


@st.composite
def harmed(draw, raw: bytes, pieces=(
    b'\0', b'\0\0', b'\xff', word(59, 0), word(63, 255), word(28, 5), text_bytes(b'## x'))):
    "`raw` after some changes of bytes, cuts, insertions, repetitions, swaps."
    raw = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        how, i = draw(st.integers(0, 6)), draw(st.integers(0, len(raw)))
        j = min(len(raw), i + draw(st.integers(0, 40)))
        if how == 0 and i < len(raw): raw[i] ^= 1 << draw(st.integers(0, 7))
        elif how == 1 and i < len(raw): raw[i] = draw(st.integers(0, 255))
        elif how == 2: del raw[i:]
        elif how == 3: del raw[i:j]
        elif how == 4: raw[i:i] = raw[i:j]*draw(st.integers(1, 3))
        elif how == 5: raw[i:i] = draw(st.sampled_from(pieces))
        elif how == 6: raw[i:j] = draw(st.binary(max_size=8))
    return bytes(raw)


@fuzz(200)
@given(data=st.data())
def test_damaged_annotation_files(folder, data):
    raw = data.draw(harmed(data.draw(annotation_file())[0]))
    allowed(read_bytes(folder, raw, fs=None), raw)


codes = st.sampled_from([0, 1, 14, 22, 28, 59, 60, 61, 62, 63])
words = st.lists(st.tuples(codes, st.integers(0, 9)), max_size=30)
word_files = words.map(lambda pairs: b''.join(word(*w) for w in pairs) + b'\0\0')


@fuzz(60, .3)
@given(raw=st.one_of(st.binary(max_size=60), word_files))
# wfdb.rdann never returns
@example(raw=word(22, 0) + text_bytes(b'## foo') + word(28, 1) + text_bytes(b'(N') + b'\0\0')
# two texts: wfdb shifts all that follow
@example(raw=word(28, 1) + text_bytes(b'(N') + text_bytes(b'(VT') + word(28, 9) + text_bytes(b'(A') + b'\0\0')
# wfdb reads on behind the end
@example(raw=word(28, 1) + text_bytes(b'(N') + b'\0\0' + word(28, 9) + text_bytes(b'(VT') + b'\0\0')
@example(raw=word(28, 1) + word(63, 9) + b'(N\0\0')      # cut short, yet it ends in two zero bytes
@example(raw=skip(-2**31)*40 + word(28, 0) + b'\0\0')
@example(raw=skip(2**31 - 1)*4000 + word(28, 0) + b'\0\0')
def test_any_bytes_as_annotations(folder, raw): allowed(read_bytes(folder, raw, fs=None), raw)


@fuzz(40, .3)
@given(data=st.data())
def test_damaged_real_annotations(folder, data):
    raw = (real('mitdb')/f'{data.draw(st.sampled_from([100, 102, 103, 104, 106]))}.atr').read_bytes()
    start = data.draw(st.sampled_from([0, len(raw) - 400]))
    part = data.draw(harmed(raw[start:start + 400]))       # where it hurts most: the beginning and the end
    raw = raw[:start] + part + raw[start + 400:]
    allowed(read_bytes(folder, raw, fs=None, sig_len=650_000), raw, 650_000)


@pytest.mark.parametrize('name', ['100', '106'])
def test_no_cut_of_a_real_annotation_file_is_read(folder, name):
    raw = (real('mitdb')/f'{name}.atr').read_bytes()
    ends = range(len(raw)) if MANY else [*range(120), *range(len(raw) - 120, len(raw))]
    for n in ends:
        assert read_bytes(folder, raw[:n], fs=None) is None or by_the_manual(raw[:n]) == by_the_manual(raw)


@pytest.mark.parametrize('notes, say', [
    (['## annotation type definitions', '42 X beat'], 'no end'),
    (['## annotation type definitions', '28 X beat', '## end of definitions'], '28 X'),
    (['## annotation type definitions', '44 + beat', '## end of definitions'], r'44 \+'),
    (['## annotation type definitions', 'nonsense', '## end of definitions'], 'nonsense'),
    (['## time resolution: 250'], 'counts time at 250 Hz')])
def test_label_definitions_that_would_hide_rhythms_are_refused(folder, notes, say):
    raw = b''.join(word(22, 0) + text_bytes(n.encode())
                   for n in notes) + word(28, 4) + text_bytes(b'(N') + b'\0\0'
    (folder/'a.atr').write_bytes(raw)
    with pytest.raises(PedarrError, match=say): read_annotations(folder/'a', sig_len=100, fs=977)


@fuzz(80, .3)
@given(sample=st.lists(st.one_of(st.integers(-3, 30), st.integers(-2**70, 2**70), st.floats(),
                                 st.sampled_from(['5', None])), max_size=5),
       symbol=st.lists(st.sampled_from(['+', 'N', '~', '', None]), max_size=5),
       aux=st.lists(st.sampled_from(['(N', '', '(VT\0', None]), max_size=5))
def test_marks_that_do_not_fit_each_other(sample, symbol, aux):
    e = outcome(lambda: parse_episodes(sample, symbol, aux, 20, 'x.atr'), 'x.atr')
    if e is not None:
        assert len(sample) == len(symbol) == len(aux)
        assert e.start.tolist() == [s for s, y in zip(sample, symbol) if y == '+' and s < 20]
    p = outcome(lambda: poor_signal(sample, symbol, 20, 'x.atr'), 'x.atr')
    if p is not None: assert len(p) == (symbol.count('~') + 1)//2


# ---- headers -------------------------------------------------------------------------------------

BYTES = {'16': lambda n: 2*n, '24': lambda n: 3*n, '212': lambda n: (3*n + 1)//2}
MV = {'mV': 1, 'uV': 1e-3, 'µV': 1e-3, 'V': 1e3, 'nV': 1e-6}
sig_name = st.one_of(st.sampled_from(CHANNELS + ['MLII', 'ART', 'avr', '']),
                     st.text('abdXYZ 019+-()/#é', min_size=1, max_size=12).map(str.strip))


@st.composite
def header(draw):
    "A lawful header: its text, and what it says. The data are random, in one or two files."
    n_sig, n = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    fs = draw(st.sampled_from(['977', '360', '500.5', '1e3', '977/977', '360/360(0)', '1000.']))
    signals = []
    for i in range(n_sig):
        depth = draw(st.integers(0, 6))       # how many of the optional fields follow, from the left
        gain = draw(st.sampled_from(['200', '2000.0', '1716', '0.5', '-400', '1e3', '.25']))
        base = draw(st.none() | st.integers(-9999, 9999))
        zero = draw(st.integers(-9999, 9999))
        unit = draw(st.sampled_from([None, *MV]))
        name = draw(sig_name) if depth == 6 else ''
        fields = [gain + ('' if base is None else f'({base})') + ('' if unit is None else f'/{unit}'), '12',
                  str(zero), '5', '-77', '0', name][:depth + (depth == 6)]
        signals.append(dict(fields=fields, name=name or None, checksum=-77 if depth >= 5 else None,
                            unit=unit if depth and unit else 'mV', gain=float(gain) if depth else 200.,
                            baseline=base if depth and base is not None else zero if depth >= 3 else 0))
    cut = draw(st.integers(0, n_sig)) or n_sig
    files = [(f'r{k}.dat', draw(st.sampled_from(list(BYTES))), draw(st.sampled_from([0, 0, 24])), part)
             for k, part in enumerate((signals[:cut], signals[cut:])) if part]
    blank = lambda: draw(st.sampled_from([' ', ' ', ' ', '\t', '  ']))
    length = draw(st.booleans()) or any(f[1] == '212' for f in files)
    tail = [str(n), *draw(st.sampled_from([[], ['12:00:00'], ['12:00:00', '01/02/2020']]))] if length else []
    lines = [blank().join([draw(st.sampled_from(['r', 'A1.mat', '0010'])), str(n_sig), fs, *tail])]
    for file, fmt, offset, part in files:
        for s in part:
            more = f'+{offset}' if offset else draw(st.sampled_from(['', 'x1', ':0', '+0', 'x1:0+0']))
            lines.append(blank().join([file, fmt + more, *s['fields']]))
    said = st.sampled_from(['Rhythm: Sinus rhythm.', '<age>: 9 <sex>: F', '69 M 1085', '', 'x'])
    comments = draw(st.lists(said, max_size=3))
    above = draw(st.integers(0, 2))       # comments before the last signal line are no info strings
    for _ in range(above): lines.insert(draw(st.sampled_from([0, 1])), '# made by hand')
    lines += ['# ' + c for c in comments]
    end = draw(st.sampled_from(['\n', '\r\n']))
    text = end.join(lines) + draw(st.sampled_from([end, '']))
    rate = float(fs.split('/')[0])
    return text, dict(n=n, fs=rate, signals=signals, files=files, comments=comments, above=above)


def write_record(folder, text, what, rng):
    "Writes header and data; returns the digital values [signal, time] as a plain reader finds them."
    (folder/'r.hea').write_bytes(text if isinstance(text, bytes) else text.encode())
    rows = []
    for file, fmt, offset, part in what['files']:
        raw = rng.integers(0, 256, BYTES[fmt](what['n']*len(part)), dtype=np.uint8).tobytes()
        (folder/file).write_bytes(b'\0'*offset + raw)
        if fmt == '212':
            flat = []
            for k in range(0, len(raw), 3):
                a, b, c = (raw + b'\0')[k:k + 3]
                flat += [a | (b & 15) << 8, c | (b >> 4) << 8]
            flat = [v - 4096*(v > 2047) for v in flat]
        else:
            size = int(fmt)//8
            flat = [int.from_bytes(raw[k:k + size], 'little', signed=True) for k in range(0, len(raw), size)]
        rows += [[flat[t*len(part) + k] for t in range(what['n'])] for k in range(len(part))]
    return np.array(rows)


def known(name):
    lower = {c.lower(): c for c in CHANNELS}
    return lower.get((name or '').lower())


@fuzz(120)
@given(made=header(), seed=st.integers(0, 2**32 - 1))
def test_lawful_headers_say_what_they_say(folder, made, seed):
    text, want = made
    digital = write_record(folder, text, want, np.random.default_rng(seed))
    channels = [known(s['name']) for s in want['signals']]
    twice = len([c for c in channels if c]) > len({c for c in channels if c})
    got = outcome(lambda: open_record(folder/'r'), 'r.hea')
    assert (got is None) == twice, 'a channel named twice, and nothing else, is a reason to refuse'
    if got is None: return
    expected = (want['fs'], want['n'], len(want['signals']), want['comments'])
    assert (got.fs, got.sig_len, got.n_sig, got.comments) == expected
    assert any('made by hand' in note for note in got.notes) == (want['above'] > 0)
    for i, s in enumerate(want['signals']):
        expected = (s['name'] or '', s['gain'], s['baseline'], s['unit'], s['checksum'])
        assert (got.names[i], got.gain[i, 0], got.baseline[i, 0], got.units[i], got.checksum[i]) == expected
        assert channels[i] is None or got.rows[CHANNELS.index(channels[i])] == i
    assert np.array_equal(got.digital(), digital)
    for i, s in enumerate(want['signals']):
        x = (digital[i] - s['baseline'])/s['gain']*MV[s['unit']]
        lowest = {'16': -2**15, '24': -2**23, '212': -2**11}[next(f[1] for f in want['files'] if s in f[3])]
        np.testing.assert_allclose(got.physical(dtype=np.float64)[i],
                                   np.where(digital[i] == lowest, np.nan, x), rtol=1e-12)


def plausible(record, raw: bytes):
    "What was accepted must stand in the file word for word, read by splitting at blanks."
    try: text = raw.decode('utf-8-sig')
    except UnicodeDecodeError: text = raw.decode('latin-1')
    lines = [re.split('[ \t]+', l.strip()) for l in text.replace('\r', '\n').split('\n') if l.strip()
             and not l.strip().startswith('#')]
    first, rest = lines[0], lines[1:]
    if '/' in first[0]: return                     # segments: another test's business
    assert len(rest) >= record.n_sig == int(first[1])
    assert len(rest) == record.n_sig or any('what follows them is not used' in note for note in record.notes)
    fs = float(first[2].split('/')[0]) if len(first) > 2 else 250.
    n = int(first[3]) if len(first) > 3 else 0
    assert record.fs == fs*record.per_frame and (not n or record.sig_len == n*record.per_frame)
    for i, f in enumerate(rest[:record.n_sig]):
        gain = f[2].split('/')[0] if len(f) > 2 else '200'
        assert math.isclose(record.gain[i, 0], float(gain.split('(')[0]) or 200., rel_tol=1e-12)
        base = gain.split('(')[1].rstrip(')') if '(' in gain else f[4] if len(f) > 4 else '0'
        assert record.baseline[i, 0] == int(base)
        assert record.units[i] == (f[2].split('/', 1)[1] if len(f) > 2 and '/' in f[2] else 'mV')
        assert record.checksum[i] == (int(f[6]) if len(f) > 6 else None)
        assert not (name := ' '.join(f[8:])).isprintable() or record.names[i].split() == name.split()


HEADER_PIECES = (b' ', b'\n', b'/', b'(', b')', b'-', b'.', b'e', b'+24', b'x2', b':3', b'#', b'\0', b'\xb5',
                 b'9'*30, b'nan', b'inf', b'1e400', b'~', b'\x0b', b'\xe2\x80\xa8', b'\xd9\xa3', b'2 ', b'0 ',
                 b'\t')


@fuzz(150)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_damaged_headers(folder, data, seed):
    text, want = data.draw(header())
    write_record(folder, text, want, np.random.default_rng(seed))
    raw = data.draw(harmed(text.encode(), HEADER_PIECES))
    (folder/'r.hea').write_bytes(raw)
    path = folder/'r.hea'
    got = outcome(lambda: open_record(path), folder)
    if got is None: return
    plausible(got, raw)
    assert outcome(got.physical).shape == (got.n_sig, got.sig_len)
    assert outcome(lambda: got.window(0, got.sig_len)) is not None
    outcome(got.verify, 'r.hea')


@fuzz(60, .5)
@given(data=st.data())
def test_damaged_real_headers(folder, data):
    name = data.draw(st.sampled_from([
        'mitdb/100', 'mitdb/106', 'ludb/data/1', 'ludb/data/77', 'iafdb/iaf1_afw', 'cinc2021/A1041',
        'cinc2021/E00271']))
    base = real(name.split('/')[0]).parent/name
    here = folder/base.name
    for p in base.parent.glob(base.name + '.*'):
        if p.suffix in ('.dat', '.mat', '.atr') and not (folder/p.name).exists():
            (folder/p.name).symlink_to(p.resolve())
    raw = data.draw(harmed(base.with_suffix('.hea').read_bytes(), HEADER_PIECES))
    here.with_suffix('.hea').write_bytes(raw)
    db = DATABASES[name.split('/')[0]] if not name.startswith('cinc') else DATABASES['ludb']
    got = outcome(lambda: db.open(here), folder)
    if got is None: return
    plausible(got, raw)
    outcome(lambda: got.window(0, min(got.sig_len, 2000)))
    found = outcome(lambda: db.episodes(got), folder)
    if found is not None and name.startswith('ludb'):
        said = re.findall(r'^[ \t]*#[ \t#]*Rhythm:[ \t]*(.*?)[ \t]*\.?[ \t]*\r?$',
                          raw.decode('utf-8', 'replace'), re.M)
        rhythms = {s.strip() for s in said}
        expected = [[0, got.sig_len, *rhythms, -1]] if len(rhythms) == 1 and rhythms != {''} else []
        assert found[0].values.tolist() == expected
    outcome(lambda: db.read_subjects([here.with_suffix('.hea')], folder, db))


@pytest.mark.parametrize('text, say', [
    ('r 1 977 1000000000000\nr.dat 24 2000 24 0 1 2 0 II\n', 'truncated'),
    ('r 1000000 977 1000\nr.dat 24 2000 24 0 1 2 0 II\n', '1000000 signals are announced'),
    ('r 1 977 ' + '9'*5000 + '\nr.dat 24\n', 'length'),
    ('r ' + '9'*5000 + ' 977 10\nr.dat 24\n', 'number of signals'),
    ('r 1 977\nr.dat 24+999999999999 2000 24 0 1 2 0 II\n', 'no samples'),
    ('r 1 1e300 10\nr.dat 24\n', 'sampling rate'),
    ('r 1 977 10\nr.dat 24 1e-300 24 0 1 2 0 II\n', 'gain'),
    ('r 2 977 10\nr.dat 24\nr.dat 16\n', 'two formats')])
def test_headers_that_promise_too_much_are_refused_at_once(tmp_path, text, say):
    (tmp_path/'r.hea').write_text(text)
    (tmp_path/'r.dat').write_bytes(b'\0'*30)
    tracemalloc.start()
    try:
        with within(2), pytest.raises(PedarrError, match=say) as e: open_record(tmp_path/'r')
        assert tracemalloc.get_traced_memory()[1] < 20e6
        assert len(str(e.value).splitlines()) == 1
        assert len(str(e.value)) < 500
    finally: tracemalloc.stop()


# ---- episodes by database ------------------------------------------------------------------------

@fuzz(60, .3)
@given(made=annotation_file(), name=st.sampled_from(['leipzig', 'mitdb']), n_sig=st.integers(1, 3))
def test_episodes_of_a_database(folder, made, name, n_sig):
    raw, marks = made
    n = (marks[-1][0] if marks else 0) + 1
    (folder/'d.hea').write_text(f'd {n_sig} {FS} {n}\n' + ''.join(f'd.dat 16 200 12 0 0 0 0 {c}\n'
                                                                  for c in CHANNELS[:n_sig]))
    with open(folder/'d.dat', 'wb') as f: f.truncate(2*n*n_sig)
    (folder/'d.atr').write_bytes(raw)
    db = DATABASES[name]
    got = outcome(lambda: db.episodes(db.open(folder/'d')), 'd.atr')
    assert got[0].values.tolist() == [e for e in episodes_of(marks, n) if e[0] < e[1]]
    if name == 'leipzig': assert got[1].values.tolist() == poor_of(marks, n)
    else:
        noise = [(m[0], m[3]) for m in marks if m[1] == '~']
        ends = [a for a, _ in noise[1:]] + [n]
        bad = [[a, b] for (a, s), b in zip(noise, ends) if s < 0 or s >> n_sig
               or all(s >> k & 1 for k in range(n_sig))]
        assert got[1].values.tolist() == bad


COMMENTS = [
    'Rhythm: Sinus rhythm.', 'Rhythm: Atrial fibrillation', ' Rhythm:', 'Rhythm: .', 'rhythm: x',
    '<age>: 51', '<sex>: F', '<age>: ', '69 M 1085']


@fuzz(60, .3)
@given(comments=st.lists(st.sampled_from(COMMENTS) | st.text(max_size=20), max_size=5),
       name=st.sampled_from(['ludb', 'iafdb', 'mitdb']), stem=st.sampled_from(['iaf1_x', '7', '202']))
def test_comments_of_headers(folder, comments, name, stem):
    comments = [c.replace('\n', ' ').replace('\r', ' ').encode('utf-8', 'replace').decode() for c in comments]
    text = f'{stem} 1 500 10\nc.dat 16 200 12 0 0 0 0 II\n' + ''.join(f'# {c}\n' for c in comments)
    (folder/f'{stem}.hea').write_text(text, encoding='utf-8', newline='')
    (folder/'c.dat').write_bytes(bytes(20))
    db = DATABASES[name]
    record = outcome(lambda: db.open(folder/stem), stem)
    assert record is not None
    who = outcome(lambda: db.read_subjects([folder/f'{stem}.hea'], folder, db), stem)
    assert len(who) == 1 and (math.isnan(who.age.iloc[0]) or 0 <= who.age.iloc[0] <= 130)
    if name == 'mitdb': return
    got = outcome(lambda: db.episodes(record), stem)
    said = [c.strip(' \t#').strip()[7:].strip().removesuffix('.').strip() for c in comments
            if c.strip(' \t#').strip().startswith('Rhythm:')]
    if name == 'iafdb':
        assert len(got[0]) == 0 if stem.startswith('iaf') else got is None, 'no diagnosis, no label'
    else: assert got[0].rhythm.tolist() == (said[:1] if len(set(said)) == 1 and said[0] else [])


# ---- subject tables, ages, durations, checksum lists, names --------------------------------------

COLUMNS = {'children': [
    'subject_id', 'file_name', 'gender', 'age', 'diagnosis', 'ap_loacation', 'ecg_duration'],
           'adults': ['subject_id', 'file_name', 'gender', 'age', 'diagnosis', 'ecg_duration']}
cell = st.text(st.characters(codec='utf-8', exclude_characters='\r\0', exclude_categories=['Cs']),
               max_size=12)
row = st.fixed_dictionaries({
    'subject_id': cell,
    'gender': st.sampled_from(['M', 'F', '', 'NA', 'nan']),
    'age': st.sampled_from(['6.6', '11', '.14.3', '', '0.5', 'NA', '>89', '3 months', '-1', '64.16']),
    'diagnosis': cell,
    'ap_loacation': cell,
    'ecg_duration': st.sampled_from(['2:25:29.201', '0:3:6', '', 'x', '1:2'])})
AGES = {'6.6': 6.6, '11': 11., '.14.3': 14.3, '0.5': .5, '>89': 89., '64.16': 64.16}


def write_table(path, columns, rows, extra=''):
    quote = lambda v: '"' + v.replace('"', '""') + '"' if any(c in v for c in ',"\n') else v
    path.write_text('\n'.join([','.join(columns),
                               *(','.join(quote(r[c]) for c in columns) + extra for r in rows)]) + '\n',
                    encoding='utf-8', newline='')


def same(a, b):
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


FILE_NAMES = ['x001', 'x0010', 'NA', 'null', 'x100', '7', 'nan', 'True', '1e5', '007']


@fuzz(50, .5)
@given(children=st.lists(row, max_size=5), adults=st.lists(row, max_size=5),
       names=st.permutations(FILE_NAMES), extra=st.sampled_from(['', ',', ',,']))
def test_lawful_subject_tables(folder, children, adults, names, extra):
    for i, r in enumerate(children + adults): r['file_name'] = names[i]
    for cohort, rows in (('children', children), ('adults', adults)):
        write_table(folder/f'{cohort}-subject-info.csv', COLUMNS[cohort], rows, extra)
    t = outcome(lambda: subject_table(folder), 'subject-info.csv', str(folder))
    who = outcome(lambda: DATABASES['leipzig'].read_subjects([], folder, DATABASES['leipzig']),
                  'subject-info.csv', str(folder))
    assert t is not None and who is not None and len(t) == len(who) == len(children + adults)
    assert t.index.tolist() == sorted(t.index, key=natural_key)
    for i, r in enumerate(children + adults):
        name = r['file_name']
        cohort = 'children' if i < len(children) else 'adults'
        age = AGES.get(r['age'], math.nan)
        assert who.loc[name, ['subject', 'cohort', 'sex']].tolist() == [name, cohort, r['gender']]
        assert same(float(who.loc[name, 'age']), age)
        pathway = r['ap_loacation'].strip() if cohort == 'children' else ''
        expected = [cohort, r['gender'], r['diagnosis'].strip(), pathway, r['age']]
        assert t.loc[name, ['cohort', 'sex', 'diagnosis', 'pathway', 'age_text']].tolist() == expected
        assert same(float(t.loc[name, 'age']), age)


def three_subjects(cohort, first, side):
    "A lawful table of three subjects."
    rows = [f'0{i},x00{i},M,{i}.5,AVRT-WPW{side},0:3:6' for i in range(first, first + 3)]
    return ('\n'.join([','.join(COLUMNS[cohort]), *rows]) + '\n').encode()


@fuzz(120, .5)
@given(data=st.data())
def test_damaged_subject_tables(folder, data):
    "Whatever is read, names, sexes and ages stand together in one line of the file."
    if data.draw(st.booleans()) and (REAL/'leipzig').exists():
        texts = {c: (REAL/'leipzig'/f'{c}-subject-info.csv').read_bytes() for c in COLUMNS}
    else:
        texts = {'children': three_subjects('children', 1, ',left'),
                 'adults': three_subjects('adults', 5, '')}
    harm = data.draw(st.sampled_from(list(texts)))
    texts[harm] = data.draw(harmed(texts[harm],
                                   (b',', b'"', b'\n', b'\0', b'\xff', b'\r', b';', b'\xef\xbb\xbf', b',,,',
                                    b'"\n', b'9'*5000)))
    for c, raw in texts.items(): (folder/f'{c}-subject-info.csv').write_bytes(raw)
    t = outcome(lambda: subject_table(folder), 'subject-info.csv', str(folder))
    who = outcome(lambda: DATABASES['leipzig'].read_subjects([], folder, DATABASES['leipzig']),
                  'subject-info.csv', str(folder))
    if t is not None:
        assert who is not None
        assert sorted(t.index) == sorted(who.index)
        assert (t.sex.reindex(who.index) == who.sex).all()
    for found in (t, who):
        if found is None: continue
        for name, r in found.iterrows():
            lines = [l for l in texts[r.cohort].decode('utf-8', 'replace').split('\n') if name and name in l]
            assert lines, f'{name!r} is made up'
            if '"' not in texts[r.cohort].decode('utf-8', 'replace') and b'\r' not in texts[harm]:
                assert any([name, r.sex] == [v.strip() for v in l.split(',')[k:k + 2]] for l in lines
                           for k in range(9)), 'values of two lines, or of two columns, are mixed'


@fuzz(200, .5)
@given(text=st.one_of(st.text(max_size=10), st.floats(), st.integers(),
                      st.from_regex(r'[<>.]?[0-9]{0,3}[.,]?[0-9]{0,3}( months| y)?', fullmatch=True),
                      st.none()))
@example(text='9'*5000)
@example(text='²')
def test_ages_are_numbers_of_years_or_unknown(text):
    age = outcome(lambda: parse_age(text))
    assert isinstance(age, float) and (math.isnan(age) or 0 <= age <= 130)
    try: plain = float(str(text).strip())
    except ValueError: plain = None
    if plain is not None and 0 <= plain <= 130 and re.fullmatch(r'\d*\.?\d*', str(text).strip(), re.ASCII):
        assert age == plain
    if plain is not None and not 0 <= plain <= 130: assert math.isnan(age)
    if any(c.isalpha() for c in str(text)) and not str(text).strip().endswith('y'): assert math.isnan(age)


@fuzz(120, .3)
@given(text=st.one_of(st.text(max_size=12),
                      st.from_regex(r'[0-9]{1,3}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]{1,3})?', fullmatch=True),
                      st.none()))
@example(text='9'*400 + ':0:0')
def test_durations(text):
    got = outcome(lambda: parse_duration(text))
    assert isinstance(got, float) and (math.isnan(got) or 0 <= got < 1e12)
    if isinstance(text, str) and re.fullmatch(r'\d{1,3}:\d{1,2}:\d{1,2}(\.\d+)?', text.strip(), re.ASCII):
        h, m, s = map(float, text.split(':'))
        assert math.isnan(got) if max(m, s) >= 60 else math.isclose(got, 3600*h + 60*m + s)


@fuzz(120, .5)
@given(files=st.dictionaries(st.text('ax0/.-_ é~', min_size=1, max_size=10),
                             st.text('0123456789abcdefABCDEF', min_size=64, max_size=64), max_size=5),
       data=st.data())
def test_checksum_lists(files, data):
    text = ''.join(f'{h}  {n}\n' for n, h in files.items())
    got = outcome(lambda: parse_checksums(text, 'SUMS'), 'SUMS')
    # as find writes names
    if got is not None: assert got == {n.removeprefix('./'): h.lower() for n, h in files.items()}
    harm = data.draw(harmed(text.encode(),
                            (b'../', b'/', b'\0', b'\n', b'  ', b'*', b'\\',
                             b'a'*64 + b'  x\n'))).decode('utf-8', 'replace')
    got = outcome(lambda: parse_checksums(harm, 'SUMS'), 'SUMS')
    if got is not None:
        for n, h in got.items():
            assert not n.startswith('/')
            assert '..' not in n.split('/')
            assert re.fullmatch('[0-9a-f]{64}', h)
            assert h in harm.lower()
            assert n in harm
        assert len(got) == len({l.rstrip('\r')[65:].lstrip(' *') for l in harm.split('\n')
                                if l.strip()} - {'SHA256SUMS.txt'}) or any(n != n.strip() for n in got)


odd_names = ['x001', 'x²', 'x' + '9'*5000, '../x', '/etc/x', 'a/x', 'b/x', 'x\0', 'data/1']


@fuzz(100, .3)
@given(names=st.lists(st.one_of(st.text(max_size=8), st.sampled_from(odd_names)), max_size=6))
def test_lists_of_records(folder, names):
    (folder/'RECORDS').write_text('\n'.join(names), encoding='utf-8', errors='replace', newline='')
    try: got = outcome(lambda: list_records(folder), str(folder))
    finally: (folder/'RECORDS').unlink()
    if got is None: return
    want = {n.strip() for n in '\n'.join(names).encode('utf-8', 'replace').decode().splitlines() if n.strip()}
    assert {p.relative_to(folder).as_posix()[:-4] for p in got} == want
    assert len(record_names(got, folder)) == len(got) == len(want)


@fuzz(60, .3)
@given(names=st.dictionaries(st.text(max_size=5),
                             st.lists(st.sampled_from(CHANNELS + ['ART', '', 'x y']), max_size=6),
                             max_size=6))
def test_layouts_lose_no_record(names):
    t = outcome(lambda: layout_table(names))
    assert t.n.sum() == len(names) and len(t) == len({tuple(v) for v in names.values()})


UNKNOWN = '', '(new', 'N-Prex', 'odd', '('
symbols = st.sampled_from(['+', 'N', 'X', '[50]', '~', '?'])


@fuzz(60, .3)
@given(marks=st.lists(st.tuples(symbols, st.sampled_from(['(N', '(AVNRT', *UNKNOWN])), max_size=12))
def test_unknown_words_are_counted(marks):
    t = outcome(lambda: unknown_annotations([m[0] for m in marks], [m[1] for m in marks]))
    got = {(r.kind, r.name): r.n for r in t.itertuples(index=False)} if len(t) else {}
    assert sum(n for (k, _), n in got.items() if k == 'symbol') == sum(m[0] in ('[50]', '?') for m in marks)
    expected = sum(symbol == '+' and text in UNKNOWN for symbol, text in marks)
    assert sum(n for (k, _), n in got.items() if k == 'rhythm') == expected


# ---- whole folders and stores --------------------------------------------------------------------

TINY = 4 * FS      # samples of a recording


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "Two recordings of 4 s in the Leipzig format, noise in three channels; three rhythms each."
    from hashlib import sha256
    folder, rng = tmp_path_factory.mktemp('tiny')/'db', np.random.default_rng(0)
    folder.mkdir()
    for name in ('x001', 'x100'):
        d = rng.integers(-2000, 2000, (TINY, 3))
        wfdb.wrsamp(name, fs=FS, units=['mV']*3, sig_name=['II', 'V1', 'CS12'], d_signal=d, fmt=['24']*3,
                    adc_gain=[2000.]*3, baseline=[0]*3, write_dir=str(folder))
        at = [100, 100, 1200, 1500, 1501, 1700, 2600, 2600, 3300]
        wfdb.wrann(name, 'atr', np.array(at), symbol=list('+NN~+~+XX'),
                   aux_note=['(N', '', '', '', '(VT', '', '(AVNRT', '', ''], fs=FS,
                   custom_labels=[(42, 'X', 'tachycardia beat')], write_dir=str(folder))
    write_table(folder/'children-subject-info.csv', COLUMNS['children'],
                [dict(subject_id='1', file_name='x001', gender='M', age='6.6', diagnosis='AVRT',
                      ap_loacation='left', ecg_duration='0:0:4')])
    write_table(folder/'adults-subject-info.csv', COLUMNS['adults'],
                [dict(subject_id='100', file_name='x100', gender='F', age='50', diagnosis='TOF with VT',
                      ecg_duration='0:0:4')])
    (folder/'RECORDS').write_text('x001\nx100\n')
    (folder/'SHA256SUMS.txt').write_text(''.join(f'{sha256(p.read_bytes()).hexdigest()}  {p.name}\n'
                                                 for p in sorted(folder.iterdir())))
    return folder


def windows_of(marks, n, seconds=.5, guard=.05):
    """Evaluation windows (start, rhythm) by the definition in chapter 05: side by side within the clear parts
    of an episode, a guard away from its ends."""
    width, guard, out, poor = round(seconds*FS), math.ceil(guard*FS), [], poor_of(marks, n)
    for start, stop, name, _ in episodes_of(marks, n):
        clear = [t for t in range(start + guard, stop - guard)
                 if not any(a <= t < b for a, b in poor)] if name in LEIPZIG_RHYTHMS else []
        runs, since = [], None
        for t in clear:
            if since is None or t != last + 1:
                since = t
                runs.append([t, t])
            last = runs[-1][1] = t
        out += [(s, name) for a, b in runs for s in range(a, b + 2 - width, width)]
    return sorted(out)


def marks_of(folder, name):
    """A record's marks by the manual, with the symbols that are of interest; None where the file breaks its
    rules."""
    marks = by_the_manual((folder/f'{name}.atr').read_bytes())
    if marks is None: return None
    return [(m[0], {**CODES, 42: 'X'}.get(m[1], '?'), plain(m[2] or b''), m[3]) for m in marks
            if m[:2] != [0, 22]]


@fuzz(8, .05)
@given(data=st.data())
def test_damaged_folders(tiny, tmp_path_factory, data):
    base = tmp_path_factory.mktemp('damaged')
    folder = base/'db'
    which = data.draw(st.sampled_from(sorted(p.name for p in tiny.iterdir()) + ['x001.atr']*4))
    shutil.copytree(tiny, folder)
    pieces = (b'\0', b',', b'\n', b'  ', b'x001', b'/', word(28, 3), text_bytes(b'(VT'), word(59, 0))
    (folder/which).write_bytes(data.draw(harmed((tiny/which).read_bytes(), pieces)))
    if data.draw(st.integers(0, 9)) == 0: (folder/which).unlink()
    try:
        found = outcome(lambda: check_folder(folder, progress=False), folder, seconds=30)
        if found is not None:
            assert outcome(found.text).startswith(str(folder))
            assert outcome(lambda: found.write_html(base/'c.html')).exists()
            same_bytes = (folder/which).exists() and (folder/which).read_bytes() == (tiny/which).read_bytes()
            assert same_bytes or not found.ok, 'a changed file, and nobody says so'
            for p in found.problems: assert len(p.splitlines()) == 1 and p.isprintable(), p
        config = PreprocessConfig(window=.5, guard=.05, rare_stride=None)
        def build(): return build_store(folder, base/'store', 'leipzig', config=config, progress=False)
        store = outcome(build, folder, 'x001', 'x100', seconds=30)
        left = {p.name for p in base.iterdir()} - {'db', 'store', 'c.html'}
        assert not left or store is None, 'leftovers'
        if store is None:
            assert not (base/'store').exists(), 'half a store'
            return
        for path in list_records(folder):
            marks = marks_of(folder, path.stem)
            assert marks is not None
            s = store.segments[(store.segments.record == path.stem) & store.segments.evaluate]
            try: length = open_record(path).sig_len
            except PedarrError:
                assert not len(s)
                assert any(path.stem in n for n in store.meta['notes']), 'left out without a word'
                continue
            expected = windows_of(marks, length)
            assert sorted(zip(s.start, s.rhythm)) == expected, 'windows are not where the rhythms are'
            for r in {m[2].removeprefix('(').strip() for m in marks if m[1] == '+'} - set(LEIPZIG_RHYTHMS):
                assert any(repr(r) in n
                           for n in store.meta['notes']), f'the episode {r!r} went without a word'
    finally: shutil.rmtree(base)


@pytest.fixture(scope='module')
def store(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp('store')/'store'
    build_store(tiny, path, 'leipzig', config=PreprocessConfig(window=.5, guard=.05), progress=False)
    return path


def places(obj, at=()):
    "The paths to all values within a JSON value."
    yield at
    for k, v in obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, list) else ():
        yield from places(v, (*at, k))


anything = st.sampled_from([None, True, -1, 0, 1, 10**9, 1e308, -1e-9, float('nan'), float('inf'), '', 'x',
                            '../..', [], [[]], {}, {'a': 1}, ['N', 'N'], [1, 2], 'float64', 'rhythm13'])


@fuzz(50, .2)
@given(data=st.data())
def test_store_json_altered_with_its_hashes(store, tmp_path_factory, data):
    from hashlib import sha256
    from pedarr.signals.store import open_store
    path = tmp_path_factory.mktemp('altered')/'store'
    shutil.copytree(store, path)
    try:
        file = data.draw(st.sampled_from(['store.json']*3 + ['segments.csv', 'mask.npy', 'ecg.npy',
                                                             'iegm.npy']))
        meta = json.loads((path/'store.json').read_text())
        if file == 'store.json':
            hashes = [p for p in places(meta) if p and p[0] in ('sha256', 'sources')]
            others = [p for p in places(meta) if p and p[0] not in ('sha256', 'sources')]
            at = data.draw(st.sampled_from(others + hashes[:3]))
            spot = meta
            for k in at[:-1]: spot = spot[k]
            if data.draw(st.integers(0, 3)): spot[at[-1]] = data.draw(anything)
            else: del spot[at[-1]]
        else:
            raw = (path/file).read_bytes()
            if file == 'segments.csv': raw = data.draw(harmed(raw, (b'9', b',', b'\n', b'"', b'nan', b'-')))
            else: raw = data.draw(harmed(raw[:200], (b'9', b',', b'\n', b"'", b'(', b'1e9'))) + raw[200:]
            (path/file).write_bytes(raw)
            meta['sha256'][file] = sha256((path/file).read_bytes()).hexdigest()
        (path/'store.json').write_text(json.dumps(meta))
        got = outcome(lambda: open_store(path), path)
        if got is None: return
        assert outcome(lambda: repr(got)) and len(got) == len(got.ecg) == len(got.iegm) == len(got.mask)
        assert set(got.segments.label) <= set(got.classes)
        assert got.ecg.dtype == got.iegm.dtype == np.dtype(got.config.dtype)
        assert got.mask.dtype == bool
        assert (got.segments.start >= 0).all()
        assert (got.segments.stop > got.segments.start).all()
        assert got.segments.evaluate.dtype == bool
        assert got.segments.subject.map(bool).all() and got.segments.record.map(bool).all()
    finally: shutil.rmtree(path.parent)


ABSURD = ['-1', '0', 'nan', 'inf', '1e308', '1e9', 'abc', '']


BANDS = ['0 100', '100 1', 'nan 5', '1 inf', '-1 5', '1 249.999', '1 1.0000001']
NUMBERS = ['epochs', 'n_folds', 'batch_size', 'lr', 'seed', 'dim', 'depth', 'heads']
COMMANDS = [
    *(f'simulate NEW {o} {v or "_"}' for o in ('--subjects', '--minutes') for v in ABSURD),
    *(f'preprocess DB NEW {o} {v or "_"}' for o in ('--rate', '--window', '--notch') for v in ABSURD),
    *(f'preprocess DB NEW {o} {v}' for o in ('--ecg-band', '--iegm-band') for v in BANDS),
    *(f'preprocess DB NEW --guard {v}' for v in ('-1', 'nan', '1e308')),
    'preprocess DB NEW --dtype float8', 'preprocess DB NEW --database x', 'preprocess DB NEW --grouping x',
    'preprocess DB NEW --grouping ludb7', 'preprocess DB NEW --database ludb',
    'preprocess DB NEW --database iafdb', 'preprocess DB NEW --jobs 0', 'preprocess /nope NEW',
    'preprocess DB DB',
    *(f'train STORE --run NEW -p {o} {v}' for o in NUMBERS for v in ('-1', 'nan', 'inf', 'abc')),
    'train /nope --run NEW', 'train STORE --run NEW -p nope 1', 'train STORE --run NEW -p store x',
    'train STORE --run DB', 'report /nope', 'report DB', 'compare -a /nope -b /nope',
    'compare -a DB -b DB', 'check /nope', 'check DB --jobs 0', 'download NEW --base-url ftp://x',
    'download NEW --jobs -3']


@pytest.mark.parametrize('words', COMMANDS)
def test_absurd_options_are_refused_in_one_line(tiny, store, tmp_path, words):
    args = [dict(NEW=str(tmp_path/'new'), DB=str(tiny), STORE=str(store), _='').get(w, w)
            for w in words.split()]
    with within(20): result = CliRunner().invoke(pedarr_command, args)
    said = [l for l in result.stderr.replace('\r', '\n').splitlines()
            if l.startswith(('pedarr: ', 'Error: '))]
    assert (result.exit_code, type(result.exception)) == (2, SystemExit), (words, result.exit_code,
                                                                           result.exception)
    assert len(said) == 1 and 'Traceback' not in result.stderr and not [*tmp_path.rglob('new/*')]
