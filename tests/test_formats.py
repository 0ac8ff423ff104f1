"""Every WFDB format, samples per frame, skew and segments, against wfdb.rdrecord and our own encoders."""
import hashlib
import os
import pickle
import random
import resource
import socket
import struct
import time
import tracemalloc

import numpy as np
import pytest
from conftest import everywhere
from helpers import append, edit, os_error
import soundfile
import wfdb

from pedarr.core.errors import PassingError, PedarrError
from pedarr.data.multi_segment import GAP_VALUE
from pedarr.data.formats import INVALID_VALUES, n_bytes
from pedarr.data.samples import MOST_WHOLE
from pedarr.data.streams import RecordStream
from pedarr.data.records import open_record
from pedarr.data.annotations import read_annotations

PLAIN = ['8', '16', '24', '32', '61', '80', '160', '212', '310', '311']
FLAC = {'508': 8, '516': 16, '524': 24}


def encode(x, fmt, initial=None) -> bytes:
    "The bytes of the samples `x [time, signal]` in a format, by the manual's page signal(5)."
    if fmt == '8': return np.diff(x, axis=0, prepend=[initial]).astype('i1').tobytes()
    flat = [int(v) for v in x.reshape(-1)]
    if fmt in ('16', '61', '32'):
        return b''.join(struct.pack({'16': '<h', '61': '>h', '32': '<i'}[fmt], v) for v in flat)
    if fmt == '24': return b''.join(v.to_bytes(3, 'little', signed=True) for v in flat)
    if fmt == '80': return bytes(v + 128 for v in flat)
    if fmt == '160': return b''.join(struct.pack('<H', v + 32768) for v in flat)
    size = {'212': 2, '310': 3, '311': 3}[fmt]
    want, out = n_bytes(fmt, len(flat)), b''
    flat += [0]*(-len(flat) % size)
    for k in range(0, len(flat), size):
        if fmt == '212':
            a, b = (v & 0xfff for v in flat[k:k + 2])
            out += bytes([a & 255, a >> 8 | (b >> 8) << 4, b & 255])
            continue
        a, b, c = (v & 0x3ff for v in flat[k:k + 3])
        if fmt == '310': out += struct.pack('<HH', a << 1 | (c & 31) << 11, b << 1 | (c >> 5) << 11)
        else: out += struct.pack('<I', a | b << 10 | c << 20)
    return out[:want]


def samples(fmt, n, k, seed=0):
    "Random samples `[time, signal]` over the whole range of a format, some of them invalid."
    rng = np.random.default_rng(seed)
    if fmt == '8': return np.cumsum(rng.integers(-127, 127, (n, k)), axis=0) + 40
    bits = int(-INVALID_VALUES[fmt]).bit_length()
    x = rng.integers(-2**(bits - 1) + 1, 2**(bits - 1), (n, k))
    x[rng.random((n, k)) < .05] = INVALID_VALUES[fmt]
    return x


NAMES = 'II', 'V1', 'CS12', 'CS34', 'ABL12', 'RVA12'


def header(folder, name, x, fmt, frames=None, skews=None, fs=250, names=NAMES, length=True,
           gain='200.5(7)/mV', initial=None, offset=''):
    "The text of the header of samples `x [frame, sample of all signals]`."
    frames = frames or [1]*x.shape[1]
    lines, at = [f'{name} {len(frames)} {fs}' + f' {len(x)}'*length], 0
    for i, frame in enumerate(frames):
        total = int(x[:, at:at + frame].sum()) & 0xffff
        spec = fmt + (f'x{frame}' if frame > 1 else '') + (f':{skews[i]}' if skews and skews[i]
                                                           else '') + offset
        first = int(initial[i]) if initial is not None else int(x[0, at])
        lines.append(f'{name}.dat {spec} {gain} 12 0 {first} {total - 65536*(total > 32767)} 0 {names[i]}')
        at += frame
    (folder/f'{name}.hea').write_text('\n'.join(lines) + '\n')


def write(folder, fmt, x, name='r', offset=0, **more):
    "A record of samples `x [frame, sample of all signals]`."
    if fmt == '8': more['initial'] = initial = x[0] - 3
    else: initial = None
    header(folder, name, x, fmt, offset=f'+{offset}' if offset else '', **more)
    (folder/f'{name}.dat').write_bytes(b'\x55'*offset + encode(x, fmt, initial))
    return folder/name


def write_flac(folder, fmt, x, name='r', frames=None, **more):
    frames = frames or [1]*x.shape[1]
    header(folder, name, x, fmt, frames=frames, **more)
    y = x.reshape(len(x), len(frames), frames[0]).transpose(0, 2, 1).reshape(-1, len(frames))
    kind = {'508': 'PCM_S8', '516': 'PCM_16', '524': 'PCM_24'}[fmt]
    soundfile.write(folder/f'{name}.dat', (y << 32 - FLAC[fmt]).astype(np.int32), 96000, subtype=kind,
                    format='FLAC')
    return folder/name


def agrees(path, starts=((0, None), (1, 2), (33, 78))):
    """Digital and physical values equal wfdb's; float32 is float64 rounded once; checksums pass; the tape
    gives the same and the true hashes."""
    record = open_record(path)
    digital = wfdb.rdrecord(str(path), physical=False).d_signal.T
    physical = wfdb.rdrecord(str(path)).p_signal.T
    for a, b in starts:
        assert np.array_equal(record.digital(a, b), digital[:, a:b])
        assert np.array_equal(record.physical(a, b, np.float64), physical[:, a:b], equal_nan=True)
        assert np.array_equal(record.physical(a, b), physical[:, a:b].astype(np.float32), equal_nan=True)
    record.verify()
    same_tape(record)
    return record


def same_tape(record):
    with RecordStream(record) as tape:
        assert np.array_equal(tape.standard(0, min(9, record.sig_len)),
                              record.standard(0, min(9, record.sig_len)), equal_nan=True)
        assert np.array_equal(tape.standard(5, record.sig_len), record.standard(5), equal_nan=True)
        found = tape.finish()
    folder = record.path.parent
    assert found == {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
                     for p in record.sources if p != record.path}
    with RecordStream(record) as tape:
        assert np.array_equal(np.concatenate([d.copy() for d in tape.blocks(7)], axis=1), record.digital())


@pytest.mark.parametrize('fmt', PLAIN)
@pytest.mark.parametrize('k, n', [(1, 100), (2, 101), (3, 100), (5, 121)])
def test_formats_equal_wfdb_and_their_definition(tmp_path, fmt, k, n):
    x = samples(fmt, n, k)
    record = agrees(write(tmp_path, fmt, x))
    assert np.array_equal(record.digital(), x.T) and record.windowed == (fmt in ('16', '24', '212'))


@pytest.mark.parametrize('fmt', PLAIN)
def test_an_offset_is_skipped(tmp_path, fmt):
    x = samples(fmt, 50, 3)
    assert np.array_equal(agrees(write(tmp_path, fmt, x, offset=24), [(0, None)]).digital(), x.T)


@pytest.mark.parametrize('fmt', FLAC)
@pytest.mark.parametrize('frame', [1, 2])
def test_flac_equals_wfdb(tmp_path, fmt, frame):
    x = samples(fmt, 3000, 2*frame)
    path = write_flac(tmp_path, fmt, x, frames=[frame]*2)
    if frame == 1: assert np.array_equal(agrees(path).digital(), x.T)
    else: agrees_by_frame(path, frame)


def agrees_by_frame(path, frame):
    """Several samples per frame, the same for all signals: wfdb's expanded signals, at a rate that many times
    the header's."""
    record, theirs = open_record(path), wfdb.rdrecord(str(path), smooth_frames=False)
    assert (record.fs, record.sig_len) == (theirs.fs*frame, theirs.sig_len*frame)
    assert np.array_equal(record.physical(dtype=np.float64), np.stack(theirs.e_p_signal), equal_nan=True)
    record.verify()
    same_tape(record)
    return record


@pytest.mark.parametrize('fmt', PLAIN)
@pytest.mark.parametrize('frame', [2, 3])
def test_several_samples_per_frame_are_read_at_their_rate(tmp_path, fmt, frame):
    x = samples(fmt, 77, 2*frame)
    if fmt == '8':      # differences run through the samples of one signal
        y = np.cumsum(np.random.default_rng(0).integers(-100, 100, (2, 77*frame)), axis=1)
        raw = np.diff(y, axis=1, prepend=0).astype('i1').reshape(2, 77, frame).transpose(1, 0, 2).tobytes()
        x = y.reshape(2, 77, frame).transpose(1, 0, 2).reshape(77, -1)
        header(tmp_path, 'r', x, fmt, frames=[frame]*2, initial=[0, 0])
        (tmp_path/'r.dat').write_bytes(raw)
    else: write(tmp_path, fmt, x, frames=[frame]*2)
    record = agrees_by_frame(tmp_path/'r', frame)
    assert np.array_equal(record.digital(), x.reshape(77, 2, frame).transpose(1, 0, 2).reshape(2, -1))


def test_signals_at_another_rate_than_the_channels_are_named_not_read(tmp_path):
    x = samples('16', 60, 4 + 1 + 4)
    path = write(tmp_path, '16', x, frames=[4, 1, 4], names=['II', 'Resp', 'V'])
    record, theirs = open_record(path), wfdb.rdrecord(str(path), smooth_frames=False)
    assert (record.fs, record.sig_len, record.per_frame) == (1000, 240, 4)
    got = record.physical(dtype=np.float64)
    assert np.array_equal(got[0], theirs.e_p_signal[0], equal_nan=True) and np.isnan(got[1]).all()
    assert np.array_equal(got[2], theirs.e_p_signal[2], equal_nan=True)
    assert any('another rate' in note and 'Resp' in note for note in record.notes)
    assert record.unknown == ['Resp', 'V']
    record.verify()
    # in Resp
    raw = bytearray((tmp_path/'r.dat').read_bytes())
    raw[8] ^= 1
    (tmp_path/'r.dat').write_bytes(raw)
    with pytest.raises(PedarrError, match='signal Resp .*damaged'): open_record(path).verify()


def test_channels_of_different_rates_are_refused_with_the_reason(tmp_path):
    write(tmp_path, '16', samples('16', 60, 3), frames=[1, 2], names=['II', 'CS12'])
    with pytest.raises(PedarrError, match='II has 1, CS12 has 2 samples per frame') as e:
        open_record(tmp_path/'r')
    assert 'r.hea' in str(e.value)


def test_annotations_count_frames(tmp_path):
    "Marks of a record with four samples per frame stand at four times their number."
    write(tmp_path, '16', samples('16', 100, 8), frames=[4, 4])
    wfdb.wrann('r', 'atr', np.array([10, 99]), ['+', 'N'], aux_note=['(N', ''], write_dir=str(tmp_path))
    record = open_record(tmp_path/'r')
    assert read_annotations(record.path, 'atr', record.sig_len, record.fs).sample.tolist() == [40, 396]
    # counts in samples, and says so
    wfdb.wrann('r', 'atr', np.array([10, 399]), ['+', 'N'], aux_note=['(N', ''], fs=1000,
               write_dir=str(tmp_path))
    assert read_annotations(record.path, 'atr', record.sig_len, record.fs).sample.tolist() == [10, 399]
    wfdb.wrann('r', 'atr', np.array([10, 399]), ['+', 'N'], aux_note=['(N', ''], fs=300,
               write_dir=str(tmp_path))
    with pytest.raises(PedarrError, match='counts time at 300 Hz where the recording has 1000 Hz'):
        read_annotations(record.path, 'atr', record.sig_len, record.fs)


@pytest.mark.parametrize('fmt', [f for f in PLAIN if f != '8'])
@pytest.mark.parametrize('skews', [[0, 3], [5, 2], [1, 100]])
def test_skew_equals_wfdb(tmp_path, fmt, skews):
    x = samples(fmt, 100, 2)
    record = open_record(write(tmp_path, fmt, x, skews=skews))
    want = np.full((2, 100), INVALID_VALUES[fmt])
    for i, s in enumerate(skews): want[i, :100 - s] = x[s:, i]
    assert np.array_equal(record.digital(), want)
    assert any('skew' in note for note in record.notes)
    record.verify()       # the checksum counts all samples, the skewed ones too
    same_tape(record)
    if skews[0]: return   # wfdb fails if a signal's skew is less than the largest, and not 0
    theirs = wfdb.rdrecord(str(tmp_path/'r'))
    assert np.array_equal(record.physical(dtype=np.float64), theirs.p_signal.T, equal_nan=True)


def test_skew_of_formats_where_wfdb_fails(tmp_path):
    x = samples('8', 100, 2)
    record = open_record(write(tmp_path, '8', x, skews=[0, 4]))
    assert np.array_equal(record.digital()[1, :96], x[4:, 1]) and np.isnan(record.physical()[1, 96:]).all()
    x = samples('516', 100, 2)
    record = open_record(write_flac(tmp_path, '516', x, name='f', skews=[0, 4]))
    assert np.array_equal(record.digital()[1, :96], x[4:, 1]) and np.isnan(record.physical()[1, 96:]).all()


def test_the_initial_value_of_differences_is_the_adc_zero_where_it_is_missing(tmp_path):
    (tmp_path/'r.hea').write_text('r 1 250 3\nr.dat 8 200 10 77\n')
    (tmp_path/'r.dat').write_bytes(bytes([1, 1, 255]))
    assert open_record(tmp_path/'r').digital().tolist() == [[78, 79, 78]]


# ---- segments ------------------------------------------------------------------------------------

def fixed(folder, null=False):
    "Two segments of different formats; the first twice, and a gap if `null`."
    a, b = samples('212', 40, 2, 1), samples('16', 31, 2, 2)
    write(folder, '212', a, 'a')
    write(folder, '16', b, 'b')
    lines = ['a 40', 'b 31', *(['~ 9'] if null else []), 'a 40']
    (folder/'multi.hea').write_text(f'multi/{len(lines)} 2 250 {111 + 9*null}\n' + '\n'.join(lines) + '\n')
    return folder/'multi'


def test_a_fixed_layout_equals_wfdb(tmp_path):
    path = fixed(tmp_path)
    record, theirs = open_record(path), wfdb.rdrecord(str(path))
    assert (record.n_sig, record.fs, record.sig_len) == (2, 250, 111)
    for a, b in ((0, 111), (39, 41), (35, 75), (70, 111)):
        assert np.array_equal(record.physical(a, b, np.float64), theirs.p_signal[a:b].T, equal_nan=True)
        assert np.array_equal(record.physical(a, b), theirs.p_signal[a:b].T.astype(np.float32),
                              equal_nan=True)
    assert np.array_equal(record.digital(), wfdb.rdrecord(str(path), physical=False).d_signal.T)
    assert [p.name for p in record.sources] == ['multi.hea', 'a.hea', 'b.hea', 'a.dat', 'b.dat']
    record.verify()
    same_tape(record)
    copy = pickle.loads(pickle.dumps(record))
    assert np.array_equal(copy.standard(), record.standard(), equal_nan=True)


def test_a_null_segment_is_a_gap(tmp_path):
    record = open_record(fixed(tmp_path, null=True))
    x = record.physical()
    assert np.isnan(x[:, 71:80]).all() and (record.digital(71, 80) == GAP_VALUE).all()
    assert np.array_equal(x[:, 80:], x[:, :40], equal_nan=True)
    assert '9 of 120 samples are gaps between segments' in record.notes
    record.verify()
    same_tape(record)


def variable(folder):
    "A layout of three signals; segments with some of them, in another order, with gains of their own."
    layout = ['lay 3 250 0', '~ 0 100(0)/mV 12 0 0 0 0 II', '~ 0 100/mV 12 0 0 0 0 CS12',
              '~ 0 100/mV 12 0 0 0 0 ART']
    (folder/'lay.hea').write_text('\n'.join(layout) + '\n')
    write(folder, '80', samples('80', 25, 2, 1), 'a', names=['CS12', 'II'], gain='50(3)/mV')
    write(folder, '16', samples('16', 30, 3, 2), 'b', names=['ART', 'II', 'extra'], gain='1234.5(-9)/mV')
    (folder/'var.hea').write_text('var/4 3 250 65\nlay 0\na 25\n~ 10\nb 30\n')
    return folder/'var'


def test_a_variable_layout_equals_wfdb(tmp_path):
    path = variable(tmp_path)
    record, theirs = open_record(path), wfdb.rdrecord(str(path))
    assert record.names == ['II', 'CS12', 'ART'] and theirs.sig_name == record.names
    for a, b in ((0, 65), (20, 40), (34, 65)):
        assert np.array_equal(record.physical(a, b, np.float64), theirs.p_signal[a:b].T, equal_nan=True)
        assert np.array_equal(record.physical(a, b), theirs.p_signal[a:b].T.astype(np.float32),
                              equal_nan=True)
    assert 'segment b: not in the layout, not used: extra' in record.notes
    assert 'not used: ART' in ' '.join(record.notes)
    record.verify()
    same_tape(record)


def test_units_may_change_between_segments(tmp_path):
    write(tmp_path, '16', samples('16', 20, 2, 1), 'a', gain='200/mV')
    write(tmp_path, '16', samples('16', 20, 2, 1), 'b', gain='0.2/uV')
    (tmp_path/'m.hea').write_text('m/2 2 250 40\na 20\nb 20\n')
    x = open_record(tmp_path/'m').physical(dtype=np.float64)
    np.testing.assert_allclose(x[:, :20], x[:, 20:], rtol=1e-12)


@pytest.mark.parametrize('top, say', [
    ('m/1 2 250 40\nm 40\n', 'consists of segments itself'),
    ('m/2 2 250 80\na 40\na 41\n', '40 samples by its own header, 41 here'),
    ('m/2 2 250 81\na 40\na 40\n', 'hold 80 samples, the record line says 81'),
    ('m/1 2 500 40\na 40\n', 'a has 250 Hz, the record 500 Hz'),
    ('m/1 3 250 40\na 40\n', 'segment a has 2 signals, the record 3'),
    ('m/2 2 250 80\na 40\n', '2 segments are announced, 1 are described'),
    ('m/1 2 250 40\n~ 40\n', 'only gaps'),
    ('m/2 2 250 40\n~ 0\na 40\n', 'only gaps'),
    ('m/1 2 250 40\nnone 40\n', 'none.hea: no such header'),
    ('m/1 2 250 40\n../a 40\n', 'outside the folder'),
    ('m/1 2 250 40\n/tmp/a 40\n', 'absolute path'),
    ('m/0 2 250 40\na 40\n', '0 segments'),
    ('m/1 2 250 9000000000000\n~ 9000000000000\n', 'only gaps'),
    ('m/2 2 250 9000000000040\na 40\n~ 9000000000000\n', '9,000,000,000,040 samples where at most')])
def test_segments_that_contradict_each_other_are_refused(tmp_path, top, say):
    write(tmp_path, '16', samples('16', 40, 2), 'a')
    (tmp_path/'m.hea').write_text(top)
    with pytest.raises(PedarrError, match=say) as e: open_record(tmp_path/'m')
    assert 'm.hea' in str(e.value) or 'none.hea' in str(e.value)


def test_segments_of_a_fixed_layout_must_have_the_same_signals(tmp_path):
    write(tmp_path, '16', samples('16', 40, 2), 'a')
    write(tmp_path, '16', samples('16', 40, 2), 'b', names=['V1', 'II'])
    (tmp_path/'m.hea').write_text('m/2 2 250 80\na 40\nb 40\n')
    with pytest.raises(PedarrError, match='segment b has other signals than the first'):
        open_record(tmp_path/'m')


def test_info_strings_of_segments(tmp_path):
    write(tmp_path, '16', samples('16', 40, 2), 'a')
    append(tmp_path/'a.hea', '# <age>: 9\n')
    (tmp_path/'m.hea').write_text('m/1 2 250 40\na 40\n')
    assert open_record(tmp_path/'m').comments == ['<age>: 9']
    (tmp_path/'m.hea').write_text('m/1 2 250 40\na 40\n# Location: micu\n')
    assert open_record(tmp_path/'m').comments == ['Location: micu']


def test_many_segments_are_quick(tmp_path):
    "Twenty thousand mentions of one segment: read once, copied."
    write(tmp_path, '61', samples('61', 4, 2), 'a')
    (tmp_path/'m.hea').write_text('m/20000 2 250 80000\n' + 'a 4\n'*20_000)
    record = open_record(tmp_path/'m')
    assert np.array_equal(record.physical(40_000, 40_004), record.physical(0, 4), equal_nan=True)


def test_gaps_take_no_memory(tmp_path):
    """Eleven days of gap between two short segments: a window is read in a moment, and only a window's memory
    is taken."""
    write(tmp_path, '61', samples('61', 40, 2), 'a')
    (tmp_path/'m.hea').write_text(f'm/3 2 1000 {950_000_080}\na 40\n~ 950000000\na 40\n')
    edit(tmp_path/'a.hea', (' 250 ', ' 1000 '))
    tracemalloc.start()
    try:
        record = open_record(tmp_path/'m')
        x = record.standard(950_000_030, 950_000_050)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally: tracemalloc.stop()
    assert np.isnan(x[:, :10]).all() and np.array_equal(x[:, 10:], record.standard(0, 10), equal_nan=True)


def test_a_flac_file_that_promises_too_much_is_not_given_memory(tmp_path):
    "The header and the file's own properties promise 900 million samples; there are a hundred."
    path = write_flac(tmp_path, '516', samples('516', 100, 1))
    n = 900_000_000
    edit(tmp_path/'r.hea', (' 250 100\n', f' 250 {n}\n'))
    raw = bytearray((tmp_path/'r.dat').read_bytes())
    raw[21:26] = (int.from_bytes(raw[21:26], 'big') >> 36 << 36 | n).to_bytes(5, 'big')
    (tmp_path/'r.dat').write_bytes(raw)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PedarrError, match='damaged FLAC file'): open_record(path).physical(0, 10)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB; 3.6 GB were promised


# ---- faults --------------------------------------------------------------------------------------

@pytest.mark.parametrize('fmt', PLAIN + list(FLAC))
def test_a_cut_is_noticed_and_so_is_a_flipped_bit(tmp_path, fmt):
    path = (write_flac if fmt in FLAC else write)(tmp_path, fmt, samples(fmt, 600, 2))
    dat = tmp_path/'r.dat'
    raw = dat.read_bytes()
    dat.write_bytes(raw[:-7])
    with pytest.raises(PedarrError, match='r.dat: (truncated|damaged)'): open_record(path).verify()
    harmed = bytearray(raw)
    harmed[len(raw)//2] ^= 4
    dat.write_bytes(harmed)
    with pytest.raises(PedarrError, match='damaged'): open_record(path).verify()
    with pytest.raises(PedarrError, match='damaged'), RecordStream(open_record(path)) as tape: tape.finish()
    dat.write_bytes(raw + b'1234567')
    if fmt not in FLAC:
        with pytest.raises(PedarrError, match='different versions'): open_record(path)
    dat.write_bytes(b'')
    with pytest.raises(PedarrError, match='r.dat: the signal file is empty'): open_record(path)


def test_flac_that_is_not_what_the_header_says(tmp_path):
    write_flac(tmp_path, '524', samples('524', 100, 2))
    hea, dat = tmp_path/'r.hea', tmp_path/'r.dat'
    text = hea.read_text()
    for old, new, say in (
            ('524', '516', '24 bits, not those of format 516'),
            (' 100\n', ' 99\n', 'different versions'),
            (' 100\n', ' 101\n', 'truncated'),
            ('r.dat 524 ', 'r.dat 524x2 ', 'truncated|samples per frame')):
        hea.write_text(text.replace(old, new) if old != ' 100\n' else text.replace(old, new, 1))
        with pytest.raises(PedarrError, match=say): open_record(tmp_path/'r')
    hea.write_text('\n'.join(text.splitlines()[:2]).replace('r 2', 'r 1') + '\n')
    with pytest.raises(PedarrError, match='2 signals are in it, the header describes 1'):
        open_record(tmp_path/'r')
    hea.write_text(text)
    dat.write_bytes(b'RIFF' + dat.read_bytes()[4:])
    with pytest.raises(PedarrError, match='this is no FLAC file'): open_record(tmp_path/'r')


def test_flac_without_a_length_in_the_header(tmp_path):
    x = samples('516', 100, 2)
    record = open_record(write_flac(tmp_path, '516', x, length=False))
    assert record.sig_len == 100 and np.array_equal(record.digital(), x.T)


@pytest.mark.parametrize('fmt', PLAIN)
@pytest.mark.parametrize('n', [99, 100, 101])
def test_a_length_that_is_missing_is_that_of_the_file(tmp_path, fmt, n):
    x = samples(fmt, n, 1)
    record = open_record(write(tmp_path, fmt, x, length=False))
    assert n <= record.sig_len <= n + 1      # half a byte triple can't be told from a sample
    assert np.array_equal(record.digital(0, n), x.T)
    assert any('no length is given' in note for note in record.notes)


def test_what_does_not_fit_into_memory_is_refused_before_memory_is_taken(tmp_path):
    n = MOST_WHOLE//4 + 1
    (tmp_path/'r.hea').write_text(f'r 1 1000 {n}\nr.dat 80 200 8 0 0 0 0 II\n')
    with open(tmp_path/'r.dat', 'wb') as f: f.truncate(n)
    with pytest.raises(PedarrError, match='read whole, which takes 4.0 GB of memory'):
        open_record(tmp_path/'r')


def test_nothing_goes_to_the_network_or_to_the_screen(tmp_path, monkeypatch, capfd):
    def no(*_, **__): raise AssertionError('the network was asked')
    monkeypatch.setattr(socket, 'create_connection', no)
    monkeypatch.setattr(socket.socket, 'connect', no)
    for name in ('s3://bucket/x.dat', 'http://example.org/x.dat', 'a::b', 'mitdb'):
        (tmp_path/'r.hea').write_text(f'r 1 250 10\n{name} 80 200 8 0 0 0 0 II\n')
        with pytest.raises(PedarrError, match='missing'): open_record(tmp_path/'r')
    (tmp_path/'s3:').mkdir(), (tmp_path/'s3:'/'bucket').mkdir()
    (tmp_path/'s3:'/'bucket'/'x.dat').write_bytes(bytes(range(100, 110)))
    (tmp_path/'r.hea').write_text('r 1 250 10\ns3://bucket/x.dat 80 200 8 0 0 0 0 II\n')
    assert open_record(tmp_path/'r').digital().tolist() == [list(range(-28, -18))]
    assert capfd.readouterr() == ('', '')


def test_a_passing_fault_is_no_damage(tmp_path, monkeypatch):
    import errno
    path = write(tmp_path, '61', samples('61', 600, 2))
    windowed = write(tmp_path, '16', samples('16', 600, 2), 'w')
    class Failing:
        def __init__(self, inner): self.inner = inner
        def readinto(self, _): raise os_error(errno.EIO)
        def __getattr__(self, name): return getattr(self.inner, name)
        def __enter__(self): return self
        def __exit__(self, *_): self.inner.close()
    from pedarr.core import files as files_
    opened, records = files_.open_regular, [open_record(path), open_record(windowed)]
    everywhere(monkeypatch, files_, 'open_regular', lambda *a, **k: Failing(opened(*a, **k)))
    for record in records:
        for action in (lambda: record.physical(), record.verify,
                       lambda: RecordStream(record).standard(0, 100), lambda: RecordStream(record).finish()):
            with pytest.raises(PassingError, match=r'\.dat: cannot be read .*check the disk') as e: action()
            assert 'fetch' not in str(e.value)
            assert 'damaged' not in str(e.value)
            assert 'delete' not in str(e.value)


def test_too_many_open_files_and_no_permission_are_passing_faults(tmp_path, monkeypatch):
    import errno
    path = write(tmp_path, '16', samples('16', 60, 2))
    wfdb.wrann('r', 'atr', np.array([10]), ['N'], write_dir=str(tmp_path))
    for number in (errno.EMFILE, errno.EACCES, errno.EIO):
        def fail(*_, **__): raise OSError(number, os.strerror(number))
        record = open_record(path)
        with monkeypatch.context() as m:
            m.setattr(os, 'open', fail)
            for action in (lambda: open_record(path), lambda: record.physical(),
                           lambda: read_annotations(path), lambda: RecordStream(record)):
                with pytest.raises(PassingError) as e: action()
                assert 'run the same command again' in str(e.value)


# ---- mutations -----------------------------------------------------------------------------------

PIECES = [b' ', b'\n', b'\r', b'/', b'(', b')', b'-', b'.', b'e', b'+24', b'x2', b':3', b'#', b'\0', b'\xb5',
          b'9'*30, b'nan', b'inf', b'1e400', b'~', b'\x0b', b'\xe2\x80\xa8', b'\xd9\xa3', b'2 ', b'0 ',
          b'\t', b'\x1b[2J', b'../', b'./', b'\xef\xbb\xbf', b'\xff', b'999999999999999', b'-1', b'16',
          b'212', b'310', b'8', b'516', b'0x10', b'II', b'V1', b'\xc2\xa0']
LAYOUTS = {
    '212': lambda d: write(d, '212', samples('212', 60, 3)),
    '311': lambda d: write(d, '311', samples('311', 60, 3)),
    '8': lambda d: write(d, '8', samples('8', 60, 3)),
    'FLAC': lambda d: write_flac(d, '516', samples('516', 60, 2)),
    'frames': lambda d: write(d, '16', samples('16', 30, 5), frames=[2, 2, 1], names=['II', 'V1', 'Resp']),
    'skew': lambda d: write(d, '61', samples('61', 30, 3), skews=[0, 3, 5]),
    'fixed': lambda d: fixed(d, null=True).with_suffix('.hea').rename(d/'r.hea'),
    'variable': lambda d: variable(d).with_suffix('.hea').rename(d/'r.hea')}


def mutated(raw: bytes, rng: random.Random) -> bytes:
    "`raw` after one to three changes of bytes, cuts, insertions, repetitions, exchanged words."
    raw = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        how, i = rng.randrange(8), rng.randint(0, len(raw))
        j = min(len(raw), i + rng.randint(0, 30))
        words = bytes(raw).split(b' ')
        if how == 0 and i < len(raw): raw[i] ^= 1 << rng.randrange(8)
        elif how == 1: raw[i:i] = rng.choice(PIECES)
        elif how == 2: del raw[i:]
        elif how == 3: del raw[i:j]
        elif how == 4: raw[i:i] = raw[i:j]*rng.randint(1, 3)
        elif how == 5: raw[i:j] = rng.randbytes(rng.randint(0, 8))
        else:
            words[rng.randrange(len(words))] = rng.choice(words + PIECES)
            raw = bytearray(b' '.join(words))
    return bytes(raw)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_mutated_records_are_read_rightly_or_refused_in_one_line(tmp_path, layout):
    "Always the same cases; `PEDARR_FUZZ=3000 pytest` tries as many of each layout, others each time."
    many = int(os.environ.get('PEDARR_FUZZ') or 0)
    rng = random.Random(None if many else layout)
    LAYOUTS[layout](tmp_path)
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for _ in range(many or 60):
        name = rng.choice(sorted(f for f in files if f.endswith('.hea'))*3 + sorted(files))
        for f, raw in files.items(): (tmp_path/f).write_bytes(raw)
        (tmp_path/name).write_bytes(mutated(files[name], rng))
        start = time.perf_counter()
        try:
            record = open_record(tmp_path/'r')
            assert all(text.isprintable() for text in record.notes + record.unknown)
            x = record.physical(dtype=np.float64)
            once_rounded = np.array_equal(record.physical(), x.astype(np.float32), equal_nan=True)
            assert once_rounded, (name, (tmp_path/name).read_bytes())
            with RecordStream(record) as tape:
                assert np.array_equal(tape.standard(0, record.sig_len), record.standard(), equal_nan=True)
            record.verify()
        except PedarrError as e: assert str(e).isprintable() and len(str(e)) < 700 and str(tmp_path) in str(e)
        assert time.perf_counter() - start < 5, (name, (tmp_path/name).read_bytes())
