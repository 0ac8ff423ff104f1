"""Readers that share no code with pedarr nor wfdb, and a third-party QRS detector, on real recordings."""
import numpy as np
import pytest
import scipy.io
from wfdb import processing

from conftest import real
from pedarr.data.records import open_record
from pedarr.data.annotations import read_annotations
from pedarr.data.rhythms import BEAT_SYMBOLS


def annotation_bytes(path):
    """MIT annotation format by its definition: 16-bit words, the type in the upper 6 bits, the interval in
    the lower 10."""
    words, out, at, i = np.fromfile(path, '<u2'), [], 0, 0
    while words[i]:
        kind, value = int(words[i]) >> 10, int(words[i]) & 1023
        # SKIP
        if kind == 59:
            at += (int(words[i + 1]) << 16 | int(words[i + 2])) - (int(words[i + 1]) >> 15 << 32)
            i += 2
        # AUX
        elif kind == 63:
            out[-1][2] = words[i + 1:].tobytes()[:value].rstrip(b'\0').decode()
            i += (value + 1)//2
        elif kind == 0: at += value   # a place-holder
        elif kind < 60:
            at += value  # 60-62: NUM, SUB, CHN
            out.append([at, kind, ''])
        i += 1
    return out


def test_mat_records_against_scipy():
    for hea in sorted(real('cinc2021').glob('*.hea'))[::5]:
        np.testing.assert_array_equal(open_record(hea).digital(),
                                      scipy.io.loadmat(hea.with_suffix('.mat'))['val'])


def test_format_16_against_a_plain_array():
    for name in ('1', '100', '200'):
        path = real('ludb')/'data'/name
        want = np.fromfile(path.with_suffix('.dat'), '<i2').reshape(-1, 12).T
        np.testing.assert_array_equal(open_record(path).digital(), want)


def test_format_212_against_its_definition():
    path = real('mitdb')/'100'
    a, b, c = np.fromfile(path.with_suffix('.dat'), 'u1').astype(int).reshape(-1, 3).T
    want = np.stack([a | (b & 15) << 8, c | (b >> 4) << 8])
    np.testing.assert_array_equal(open_record(path).digital(), want - 4096*(want > 2047))


def test_format_24_against_its_definition(simulated):
    record = open_record(simulated/'x001')
    raw = np.fromfile(simulated/'x001.dat', 'u1').reshape(-1, record.n_sig, 3).astype(int)
    want = (raw * [1, 256, 65536]).sum(-1).T
    np.testing.assert_array_equal(record.digital(), want - (want >> 23 << 24))
    np.testing.assert_allclose(record.physical(dtype=np.float64), record.digital()/2000, atol=1e-12)


def agree(path):
    """Annotations by pedarr and by the definition of the format: places, texts, and one type number for each
    symbol."""
    want, record = annotation_bytes(path.with_suffix('.atr')), open_record(path)
    got = read_annotations(path, 'atr', record.sig_len)
    # notes at the start hold the time resolution and the custom labels: no annotations
    while want[0][:2] == [0, 22]: want.pop(0)
    assert got.sample.tolist() == [w[0] for w in want]
    assert [a.strip('\0') for a in got.aux] == [w[2] for w in want]
    pairs = set(zip(got.symbol, (w[1] for w in want)))
    assert len({s for s, _ in pairs}) == len({k for _, k in pairs}) == len(pairs)
    assert ('N', 1) in pairs or ('/', 12) in pairs


@pytest.mark.parametrize('name', ['100', '102', '104', '106'])
def test_annotations_against_the_definition_of_the_format(name): agree(real('mitdb')/name)


def test_simulated_annotations_against_the_definition_of_the_format(simulated):
    for hea in sorted(simulated.glob('*.hea'))[:3]: agree(hea.with_suffix(''))


def found(path, lead, seconds, tolerance=0.1):
    """(Sensitivity, precision) of the GQRS detector on one lead against the record's own beat marks, after 5
    s to learn in."""
    record = open_record(path)
    stop = int(seconds*record.fs)
    marks = read_annotations(path, 'atr', record.sig_len)
    beat = np.array([s for s, symbol in zip(marks.sample, marks.symbol) if symbol in BEAT_SYMBOLS])
    x = record.physical(0, stop)[record.names.index(lead)].astype(float)
    qrs = processing.gqrs_detect(x, fs=record.fs)
    inside = lambda s: s[(s > 5*record.fs) & (s < stop - record.fs)]
    near = lambda a, b: (np.abs(a[:, None] - b[None]).min(1) < tolerance*record.fs).mean()
    return near(inside(beat), qrs), near(inside(qrs), beat)


def test_detector_on_a_real_recording():        # the control: if this fails, the comparison itself is wrong
    assert min(found(real('mitdb')/'100', 'MLII', 60)) > 0.98


def test_detector_finds_the_simulated_beats(simulated):
    rates = np.array([found(hea.with_suffix(''), 'II', 55) for hea in sorted(simulated.glob('*.hea'))])
    assert (rates[:, 1] > .9).all(), 'what it finds are beats'
    # it was made for adults: of tachycardias above 180 beats a minute it loses up to every second beat
    assert np.median(rates[:, 0]) > .9 and (rates[:, 0] > .7).all(), rates.round(3)
