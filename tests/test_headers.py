"""The WFDB header specification (wfdb-spec, HEADERS.md 10) by the sentence; headers that break it."""
import os
import re
import time

import numpy as np
import pytest

from conftest import real
from pedarr.core.errors import PedarrError, error_line
from pedarr.data.known_databases import DATABASES
from pedarr.data.channels import CHANNELS, find_channels, match_channels
from pedarr.data.masks import PLAUSIBLE_AMPLITUDE, is_implausible, robust_amplitude
from pedarr.data.streams import RecordStream
from pedarr.data.records import open_record
from pedarr.data.headers import parse_header, parse_signal
from pedarr.data.annotations import read_annotations

SIGNALS = ['r.dat 16 200(0)/mV 16 0 1 -6 0 II', 'r.dat 16 200(0)/mV 16 0 2 -6 0 V1']
DATA = np.array([[1, 2], [-3, -4], [5, 6], [-9, -10]], '<i2')      # sums -6, -6


def write(folder, text, encoding='utf-8', name='r'):
    (folder/f'{name}.hea').write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    (folder/'r.dat').write_bytes(DATA.tobytes())
    return folder/name


def lines(*more, record='r 2 250 4', signals=SIGNALS): return '\n'.join([record, *signals, *more]) + '\n'


def each(old, new, times=-1):
    "The usual header, with a change in both signal lines."
    return lines(signals=[s.replace(old, new, times) for s in SIGNALS])


def second(old, new, times=-1):
    "The usual header, with a change in the line of the second signal."
    return lines(signals=[SIGNALS[0], SIGNALS[1].replace(old, new, times)])


def opened(folder, text, **how):
    "The record, after all of it was read and verified."
    record = open_record(write(folder, text, **how))
    record.verify()
    assert np.array_equal(record.digital(), DATA.T)
    return record


READ = {     # the specification's sentence: (header, what the record must be, a word of its note or None)
    'header files are UTF-8 text': (
    lines('# Größe 170 cm, µV').encode(), dict(comments=['Größe 170 cm, µV']), None),
    'a byte-order mark is no text': (lines().encode('utf-8-sig'), dict(n_sig=2), None),
    'a byte-order mark before a comment': (
    ('# by hand\n' + lines('# 69 M')).encode('utf-8-sig'),
    dict(comments=['69 M']),
    'by hand'),
    'old software wrote Latin-1': (
    lines().replace('/mV', '/µV').encode('latin-1'), dict(units=['µV', 'µV']), 'Latin-1'),
    'CR LF ends a line': (lines('# 69 M').replace('\n', '\r\n'), dict(comments=['69 M']), None),
    'CR ends a line': (lines('# 69 M').replace('\n', '\r'), dict(comments=['69 M']), None),
    'blanks at the ends, blank lines': ('\n  \n' + lines('# 69 M  ').replace('\n', '  \t\n\n '),
                                        dict(names=['II', 'V1'], comments=['69 M']), None),
    'fields are separated by blanks or tabs': (lines().replace(' ', '\t '), dict(names=['II', 'V1']), None),
    'no line break at the end': (lines().rstrip(), dict(names=['II', 'V1']), None),
    'the first line that is no comment is the record line': ('# a\n\n#b\n' + lines('# 69 M'),
                                                             dict(comments=['69 M']), "'a' and 1 more"),
    'the record name': (lines(record='other_1 2 250 4'), dict(name='r'), "names the record 'other_1'"),
    'a record name with a folder': (lines(record='medians/r 2 250 4'), dict(name='r'), 'medians/r'),
    'a record name with a folder that is a number': (
    lines(record='medians/2 2 250 4'), dict(name='r', n_sig=2), 'medians/2'),
    'a rate as scanf reads it: 360.': (lines(record='r 2 360. 4'), dict(fs=360), None),
    'a rate as scanf reads it: 3.6e2': (lines(record='r 2 3.6e2 4'), dict(fs=360), None),
    'a rate as scanf reads it: +360.0': (lines(record='r 2 +360.0 4'), dict(fs=360), None),
    'a rate that is no simple fraction': (lines(record='r 2 62.4725 4'), dict(fs=62.4725), None),
    'no rate means 250': (lines(record='r 2'), dict(fs=250, sig_len=4), '250 Hz'),
    'a counter frequency': (lines(record='r 2 360/12.5 4'), dict(fs=360, sig_len=4), None),
    'a counter frequency that is not positive': (lines(record='r 2 360/-1 4'), dict(fs=360, sig_len=4), None),
    'a base counter value': (lines(record='r 2 360/360(0) 4'), dict(fs=360, sig_len=4), None),
    'a base counter value below 0': (lines(record='r 2 360/1e2(-12.5) 4'), dict(fs=360, sig_len=4), None),
    'a length of 0 is unspecified': (lines(record='r 2 250 0'), dict(sig_len=4), 'length'),
    'no length is unspecified': (lines(record='r 2 250'), dict(sig_len=4), 'length'),
    'without a length checksums are not compared': (
    lines(record='r 2 250', signals=[s.replace('-6', '7') for s in SIGNALS]),
    dict(sig_len=4),
    'not compared'),
    'a base time': (lines(record='r 2 250 4 13:5:0'), dict(sig_len=4), None),
    'a base time and date': (lines(record='r 2 250 4 13:05:00.125 25/4/1989'), dict(sig_len=4), None),
    'another time and date, as in the challenge of 2021': (
    lines(record='r 2 250 4 05-Feb-2020 11:39:16'), dict(sig_len=4), '05-Feb-2020'),
    'extra signal lines are disregarded': (
    lines('b.dat 16 200/mV 16 0 0 0 0 III', 'nonsense'),
    dict(names=['II', 'V1']),
    "III' and 1 more"),
    'info strings behind extra lines': (lines('b.dat 16', '# 69 M'), dict(comments=['69 M']), 'b.dat'),
    'x1:0+0 are the defaults': (each(' 16 200', ' 16x1:0+0 200'), dict(names=['II', 'V1']), None),
    'a gain with an exponent': (each('200', '2e2'), dict(mv=1/200), None),
    'a gain below 0 turns the signal round': (each('200', '-200'), dict(mv=-1/200), None),
    'no gain means 200, uncalibrated': (
    lines(signals=['r.dat 16', 'r.dat 16']), dict(mv=1/200, names=['', '']), 'not calibrated'),
    'a gain of 0 means 200, uncalibrated': (
    each('200(0)/mV', '0'),
    dict(mv=1/200),
    'not calibrated (gain 0 or missing), read at 200 units per mV: II, V1'),
    'a gain of 0 with baseline and unit': (each('200', '0.0'), dict(mv=1/200), 'not calibrated'),
    'a baseline': (each('(0)', '(-9)'), dict(mv=10/200), None),
    'no baseline means the ADC zero': (each('200(0)/mV 16 0', '200 16 11'), dict(mv=-10/200), None),
    'no ADC zero means 0': (
    lines(signals=['r.dat 16 200 16', 'r.dat 16 200 16']),
    dict(mv=1/200),
    '(signal 0), (signal 1)'),
    'a unit': (each('200(0)/mV', '200/uV'), dict(mv=1/200_000), None),
    'no unit means mV': (each('/mV', ''), dict(mv=1/200, units=['mV', 'mV']), None),
    'a resolution of 0': (each('/mV 16', '/mV 0'), dict(mv=1/200), None),
    'a checksum may be written without sign': (each('-6', '65530'), dict(mv=1/200), None),
    'checksums of 0 are place-holders': (each('-6', '0'), dict(mv=1/200), None),
    'a block size below 0': (each('-6 0', '-6 -512'), dict(names=['II', 'V1']), None),
    'a description with blanks': (
    lines(signals=[SIGNALS[0], SIGNALS[1].replace('V1', ' ECG  lead V1 (sternum) ')]),
    dict(names=['II', 'ECG  lead V1 (sternum)']),
    'sternum'),
    'no description': (lines(signals=[SIGNALS[0], SIGNALS[1][:-3]]), dict(names=['II', '']), '(signal 1)'),
    'a description with text of other scripts': (
    second('V1', 'Ableitung Ⅱ Größe'), dict(names=['II', 'Ableitung Ⅱ Größe']), 'Größe'),
    'a comment between signal lines': (
    lines('# 69 M', signals=[SIGNALS[0], '# note', SIGNALS[1]]),
    dict(comments=['69 M']),
    "'note'"),
    'blanks before the # of a comment': (lines('  #69 M'), dict(comments=['69 M']), None),
    './ before the file': (each('r.dat', './r.dat'), dict(names=['II', 'V1']), None),
    'a folder and back': (each('r.dat', 'x/../r.dat'), dict(names=['II', 'V1']), None),
}


@pytest.mark.parametrize('sentence', READ)
def test_what_the_specification_allows_is_read(tmp_path, sentence):
    text, want, note = READ[sentence]
    want = dict(want)
    record = opened(tmp_path, text)
    if 'mv' in want:
        assert record.physical(0, 1, np.float64)[0, 0] == pytest.approx(want.pop('mv'), rel=1e-12)
    for what, value in want.items(): assert getattr(record, what) == value
    notes = ' | '.join(record.notes)
    if note is None: assert not record.notes
    else: assert note in notes


REFUSED = {     # why it is refused: (header, what the answer says)
    'no text at all': ('', r'the header file is empty \(0 bytes\)'),
    'only zeros, as after a power cut': (bytes(300), 'empty .300 bytes, all zero'),
    'only blanks': ('\n \r\n', 'empty'),
    'only comments': ('# a\n', 'not a WFDB header'), 'one word': ('r', 'not a WFDB header'),
    'prose': ('what is this', "number of signals 'is' is not a whole number"),
    'UTF-16': (lines().encode('utf-16'), 'not UTF-8 text .*save it as UTF-8'),
    'UTF-16 without mark': (lines().encode('utf-16-le'), 'not UTF-8 text'),
    'a sidecar of macOS': (bytes([0, 5, 22, 7, 0, 2, 0, 0]) + b'Mac OS X        ', 'sidecar file of macOS'),
    'no signals': ('r 0 250 4\n', 'describes no signal'),
    'a negative number of signals': (lines(record='r -2 250 4'), "'-2' is not a whole number"),
    'fewer signal lines than announced':
    (lines(record='r 3 250 4'), '3 signals are announced, 2 are described'),
    'a rate of 0': (lines(record='r 2 0 4'), 'not greater than 0'),
    'a negative rate': (lines(record='r 2 -250 4'), 'not greater than 0'),
    'a rate too low': (lines(record='r 2 1 4'), '1 Hz is too low'),
    'a rate that is infinite': (lines(record='r 2 inf 4'), "sampling rate 'inf' is not a number"),
    'a rate with a comma': (lines(record='r 2 977,5 4'), "'977,5' is not a number"),
    'a counter frequency that is none': (lines(record='r 2 250/x 4'), "counter frequency 'x'"),
    'a base counter value that is not closed': (lines(record='r 2 250/250(0 4'), 'counter frequency'),
    'a negative length': (lines(record='r 2 250 -4'), "length '-4' is not a whole number"),
    'a length in words': (lines(record='r 2 250 four'), "length 'four'"),
    'a length of 5000 digits': (lines(record='r 2 250 ' + '9'*5000), 'length'),
    'a format that is none': (each(' 16 ', ' 17 ', 1), 'format 17 is none'),
    'format 0': (each(' 16 ', ' 0 ', 1), 'format 0, that is, no samples'),
    'a format in words': (lines(signals=['r.dat sixteen']*2), "format 'sixteen'"),
    '0 samples per frame': (each(' 16 ', ' 16x0 ', 1), '0 samples per frame'),
    'a negative skew': (each(' 16 ', ' 16:-1 ', 1), 'format'),
    'no format': (lines(signals=['r.dat', 'r.dat']), 'has no format'),
    'a gain with a comma': (each('200', '2,00'), "II: gain '2,00"),
    'a gain that is nothing': (each('200', '1e-300'), 'a gain of'),
    'a gain that is not closed': (each('(0)', '(0'), 'gain'),
    'a baseline with decimals': (each('(0)', '(0.5)'), 'gain'),
    'a unit with a blank': (each('/mV', '/milli V'), "resolution 'V' is not a whole number"),
    'a unit that is no voltage': (each('/mV', '/mmHg'), "is in 'mmHg', not a voltage"),
    'a zero in words': (each('16 0', '16 nil'), "zero 'nil'"),
    'a checksum in hexadecimal': (each('-6', '0xfa'), "checksum '0xfa'"),
    'a block size in words': (each('-6 0', '-6 none'), "block size 'none'"),
    'control characters in a name': (lines(signals=[SIGNALS[0] + '\x1b[2J', SIGNALS[1]]),
                                     'holds control characters'),
    'a bell in a file name': (each('r.dat', 'r\x07.dat'), 'holds control characters'),
    'standard input': (each('r.dat', '-'), "'-' stands for the standard input"),
    'no samples': (each('r.dat', '~'), "'~' stands for no samples"),
    'an absolute path': (each('r.dat', '/etc/passwd'), "'/etc/passwd' has an absolute path"),
    'a path out of the folder': (each('r.dat', '../r.dat'), r"'\.\./r.dat' lies outside"),
    'a hidden way out': (each('r.dat', 'x/../../r.dat'), 'lies outside'),
    'a backslash': (each('r.dat', 'x\\r.dat'), 'backslash'),
    'a folder that is not there': (each('r.dat', 'db/r.dat'),
                                   r'db/r\.dat: the signal file named by the header is missing'),
    'the folder itself': (each('r.dat', '.'), 'is a folder'),
    'signals of a file that do not stand together':
    (lines(record='r 3 250 2', signals=[SIGNALS[0], 'b.dat 16 200(0)/mV 16 0 1 -6 0 I', SIGNALS[1]]),
         'do not stand together'),
    'two formats in one file': (second(' 16 ', ' 212 ', 1), 'two formats or offsets'),
    'a wrong checksum': (second('-6', '7'), 'checksum of signal V1 is 65530, the header says 7'),
    'an offset behind the end': (each(' 16 ', ' 16+99 ', 1), 'truncated: 0 bytes'),
    'more samples than the file': (lines(record='r 2 250 5'),
                                   'truncated: 16 bytes of samples where the header promises 20'),
    'a billion billion samples': (lines(record='r 2 250 999999999999999'), 'truncated'),
    'a million signals': (lines(record='r 1000000 250 4'), '1000000 signals are announced, 2 are described'),
    'a channel named twice': (second('V1', 'ii'), r'signal 0 \(II\) and signal 1 \(ii\) are both channel II'),
}


@pytest.mark.parametrize('why', REFUSED)
def test_what_is_refused_is_refused_with_the_reason(tmp_path, why):
    text, say = REFUSED[why]
    with pytest.raises(PedarrError, match=say) as e: open_record(write(tmp_path, text)).verify()
    said, status = error_line(e.value)
    assert str(tmp_path) in said and '\n' not in str(e.value) and len(said) < 500 and status == 2
    assert said.isprintable() and str(e.value).isprintable(), 'no control character reaches a terminal'


@pytest.mark.parametrize('name', ['II', 'V1\u202e', 'Größe', 'a' * 3000])
def test_names_with_odd_characters_are_escaped(tmp_path, name):
    record = opened(tmp_path, lines(signals=[SIGNALS[0].replace('II', name), SIGNALS[1]]))
    assert all(text.isprintable() for text in [*record.names, *record.notes, *record.unknown, repr(record)])


def test_a_folder_with_control_characters_in_its_name(tmp_path):
    folder = tmp_path/'a\x1b[2J\nb'
    folder.mkdir()
    for text in ('r', lines(record='r 2 250 5'), each('r.dat', 'q.dat')):
        with pytest.raises(PedarrError) as e: open_record(write(folder, text))
        assert str(e.value).isprintable()
    with pytest.raises(PedarrError) as e: read_annotations(folder/'none')
    assert str(e.value).isprintable()


def test_files_in_folders_below_the_header(tmp_path):
    (tmp_path/'signals').mkdir()
    (tmp_path/'signals'/'r.dat').write_bytes(DATA.tobytes())
    (tmp_path/'r.hea').write_text(each('r.dat', 'signals/r.dat'))
    record = open_record(tmp_path/'r')
    assert np.array_equal(record.digital(), DATA.T)
    with RecordStream(record) as tape: assert list(tape.finish()) == ['signals/r.dat']


# ---- bounds --------------------------------------------------------------------------------------

def quickly(action, say):
    start = time.perf_counter()
    with pytest.raises(PedarrError, match=say): action()
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize('make, say', [
    (os.mkfifo, 'is a named pipe'),
    (lambda p: os.symlink('/dev/zero', p), 'is a device'),
    (os.mkdir, 'is a folder')])
def test_only_regular_files_are_read_and_nothing_is_waited_for(tmp_path, make, say):
    write(tmp_path, lines())
    make(tmp_path/'pipe.hea'), make(tmp_path/'pipe.dat'), make(tmp_path/'r.atr')
    (tmp_path/'s.hea').write_text(each('r.dat', 'pipe.dat'))
    (tmp_path/'m.hea').write_text('m/1 2 250 4\npipe 4\n')
    for name in ('pipe', 's', 'm'): quickly(lambda: open_record(tmp_path/name), say)
    quickly(lambda: read_annotations(tmp_path/'r', sig_len=4, fs=250), say)
    record = open_record(tmp_path/'r')
    (tmp_path/'r.dat').unlink()
    make(tmp_path/'r.dat')             # exchanged after the header was read
    quickly(lambda: record.physical(), say)
    quickly(lambda: RecordStream(record), say)


def test_files_of_absurd_size_are_refused_before_they_are_read(tmp_path):
    write(tmp_path, lines())
    with open(tmp_path/'big.hea', 'wb') as f: f.truncate(1 << 40)
    quickly(lambda: open_record(tmp_path/'big'), 'bytes where at most 1,048,576 are expected')
    with open(tmp_path/'r.atr', 'wb') as f: f.truncate(1 << 40)
    quickly(lambda: read_annotations(tmp_path/'r'), 'bytes where at most')


def test_empty_files_are_called_empty(tmp_path):
    path = write(tmp_path, lines())
    (tmp_path/'r.atr').write_bytes(b'')
    with pytest.raises(PedarrError, match='r.atr: the annotation file is empty'): read_annotations(path)
    (tmp_path/'r.dat').write_bytes(b'')
    with pytest.raises(PedarrError, match='r.dat: the signal file is empty'): open_record(path)
    (tmp_path/'r.hea').write_bytes(b'')
    with pytest.raises(PedarrError, match='r.hea: the header file is empty'): open_record(path)


def test_half_a_million_lines_are_read_in_a_moment(tmp_path):
    start = time.perf_counter()
    write(tmp_path, 'x\n'*500_000)
    with pytest.raises(PedarrError): open_record(tmp_path/'r')
    opened(tmp_path, '#\n'*200_000 + lines() + '#\n'*200_000)
    n = 15_000
    write(tmp_path, f'r {n} 250 4\n' + f'r.dat 16 200/mV 12 0 1 2 0 name of a signal\n'*n)
    with pytest.raises(PedarrError, match='truncated'): open_record(tmp_path/'r')
    write(tmp_path,
          f'r {n} 250 4\n' + ''.join(f'f{i} 16 200/mV 12 0 1 2 0 name of a signal\n' for i in range(n)))
    with pytest.raises(PedarrError, match='missing'): open_record(tmp_path/'r')
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize('path', ['.', '/', '', 'a\0b', 'a'*300, '/'.join('ab'*3000)])
def test_paths_that_are_no_records(path):
    for action in (open_record, read_annotations):
        with pytest.raises(PedarrError) as e: action(path)
        assert str(e.value).isprintable()


# ---- channels ------------------------------------------------------------------------------------

MEANS = {
    'I':
    ['I', 'i', ' I ', 'ECG I', 'ECG-I', 'ECG_I', 'Lead I', 'LEAD_I', 'ECG lead I', 'MDC_ECG_LEAD_I',
         'ekg i', 'ECGI', 'ECG: I'],
    'II': ['ii', 'Lead II', 'ecg.II', 'MDC_ECG_LEAD_II', 'MDC_ECG_ELEC_POTL_II'],
    'III': ['III', 'lead-iii'],
    'aVR': ['aVR', 'AVR', 'avr', 'aV R', 'a.VR', 'ECG aVR', 'MDC_ECG_LEAD_AVR', 'Lead aVR', 'AV-R'],
    'aVL': ['AVL', 'avl'],
    'aVF': ['AVF', 'aV_F'],
    'V1': ['V1', 'v1', 'V 1', 'V-1', 'V_1', 'C1', 'c1', 'C 1', 'ECG V1', 'MDC_ECG_LEAD_V1', 'V01'],
    'V6': ['C6', 'Lead V6', 'v.6'],
    'ABL12':
    ['ABL12', 'abl12', 'ABL d', 'ABL D', 'ABLd', 'ABL_D', 'ABL 1-2', 'ABL1-2', 'ABL 12', 'MAP d', 'MAPd',
         'Map 1-2', 'ABL dist', 'ABL D-2', 'ABL 1,2'],
    'RVA12':
    ['RVA12', 'RVA', 'RVa', 'RVa d', 'RVAd', 'RV 1-2', 'RV12', 'RVA 1-2', 'RV d', 'RV apex', 'RV Apex d',
         'rva_1_2'],
    'CS12':
    ['CS12', 'cs12', 'CS 1-2', 'CS1-2', 'CS 1,2', 'CS 12', 'CS_1_2', 'CS-1-2', 'CS 1/2', 'CS d',
         'CS 1.2'],
    'CS34': ['CS 3-4', 'CS3,4', 'CS34'],
    'CS56': ['CS5-6', 'cs 5 6'],
    'CS78': ['CS 7-8', 'CS78'],
    'CS90': ['CS90', 'CS 9-10', 'CS9-10', 'CS 9,10', 'CS910', 'CS 9/10', 'CS 9-0', 'cs_9_10']}
NONE = [
    '', None, '-aVR', '−aVR', 'ECG -II', '-II', 'I-II', 'I I', 'V1-V2', 'V1R', 'V3R', 'V7', 'V', 'C',
    'C7', 'X', 'Y', 'MLII', 'MCL1', 'ECG', 'ECG1', 'Lead', 'MAP', 'ART', 'ABL', 'ABL p', 'ABL P',
    'ABL 3-4', 'ABL_uni', 'RV', 'RV p', 'RVA p', 'RVA 3-4', 'RVOT', 'HIS', 'HISTORY d', 'HRA', 'CS', 'CS p',
    'CS 2-1', 'CS 10-9', 'CS 1', 'CS 2-3', 'CS 11-12', 'CS 19-20', 'CS 1-2-3', 'PLETH', 'IV', 'IIII',
    'V1 V2', 'LA d', 'aV', 'VR', 'CS12x', 'V12']


def test_the_usual_spellings_of_the_channels():
    for channel, spellings in MEANS.items():
        for name in spellings:
            rows = find_channels(['Resp', name])
            assert rows[CHANNELS.index(channel)] == 1 and (rows >= 0).sum() == 1, f'{name!r} is {channel}'
    for name in NONE: assert (find_channels([name]) < 0).all(), f'{name!r} is none of ours'
    found = match_channels(NONE)
    assert len(found.unknown) == len(NONE)
    assert found.unknown[:3] == ['(signal 0)', '(signal 1)', '-aVR']
    assert 'and' in found.notes[0]


def test_a_catheter_at_the_bundle_stands_for_an_ablation_catheter_where_there_is_none():
    abl = CHANNELS.index('ABL12')
    for names, chosen in ((['HIS m', 'HIS d'], 1), (['His 3-4'], 0), (['HIS p', 'HIS mid'], 1)):
        found = match_channels(names)
        assert found.rows[abl] == chosen and 'stands for channel ABL12' in found.notes[0]
    found = match_channels(['HIS d', 'ABL d'])
    assert found.rows[abl] == 1 and found.unknown == ['HIS d']
    assert find_channels(['HIS d', 'HIS D'])[abl] == -1                  # nobody can choose


def test_the_apex_goes_before_another_place_in_the_right_ventricle():
    for names in (['RV d', 'RVA d'], ['RVa', 'RV 1-2', 'RV apex d']):
        found = match_channels(names)
        assert names[found.rows[CHANNELS.index('RVA12')]].lower().startswith(('rva', 'rv a'))
        assert any('RVA12' in note and 'is not used' in note for note in found.notes)


def test_a_lab_record(tmp_path):
    lab = [
        'I', 'III', 'V1', 'ABL D', 'ABL P', 'CS 1-2', 'CS 3-4', 'CS 5-6', 'CS 7-8', 'CS 9-10', 'HIS D',
        'RV 1-2']
    n = len(lab)
    (tmp_path/'r.dat').write_bytes(np.arange(3*n, dtype='<i2').tobytes())
    (tmp_path/'r.hea').write_text(f'r {n} 977 3\n' + ''.join(f'r.dat 16 200/mV 12 0 0 0 0 {name}\n'
                                                             for name in lab))
    record = open_record(tmp_path/'r')
    assert [CHANNELS[i] for i in np.flatnonzero(record.rows >= 0)] == [
        'I', 'III', 'V1', 'ABL12', 'RVA12', 'CS12', 'CS34', 'CS56', 'CS78', 'CS90']
    assert record.unknown == ['ABL P', 'HIS D']
    assert record.notes == ['none of the nineteen channels, not used: ABL P, HIS D']
    assert [int(v) for v in record.standard(0, 1)[record.rows >= 0, 0]*200] == [0, 1, 2, 3, 11, 5, 6, 7, 8, 9]


@pytest.mark.parametrize('names, aliases, channel, signal, note', [
    (['MLII', 'II'], {'MLII': 'II'}, 'II', 1, 'channel II is signal 1 (II); signal 0 (MLII) is not used'),
    (['Lead II', 'MLII'], {'MLII': 'II'}, 'II', 1, 'signal 0 (Lead II) is not used'),
    (['RVa', 'RVa d'], {}, 'RVA12', 1, 'signal 0 (RVa) is not used'),
    (['ABL', 'ABL d'], {}, 'ABL12', 1, 'not used: ABL'),
    (['C2', 'V2'], {}, 'V2', 1, 'signal 0 (C2) is not used'),
    (['II', 'odd'], {'odd': 'V1', 'gone': 'V2'}, 'V1', 1, None)])
def test_the_better_name_wins_and_the_other_is_noted(names, aliases, channel, signal, note):
    found = match_channels(names, aliases)
    assert found.rows[CHANNELS.index(channel)] == signal
    assert (note or '') in ' | '.join(found.notes)
    assert bool(found.notes) == bool(note)


@pytest.mark.parametrize('names', [
    ['II', 'ii'], ['Lead I', 'ECG I'], ['CS 1-2', 'CS d'], ['C1', 'ECG V1'], ['RVA', 'RV apex'],
    ['ABL d', 'MAP d']])
def test_two_equally_good_names_are_an_error_that_names_both(names):
    with pytest.raises(PedarrError,
                       match=re.escape(f'signal 0 ({names[0]}) and signal 1 ({names[1]}) are both channel')):
        match_channels(names, source='x.hea')


def test_electrodes_of_an_eeg_are_no_chest_leads():
    assert (find_channels(['C3', 'C4', 'O1', 'O2', 'A1']) < 0).all()
    assert (find_channels(['C3', 'C4'])[8:10] == [0, 1]).all()


def test_an_alias_for_a_channel_that_is_not_there_is_an_error():
    with pytest.raises(PedarrError, match="alias 'MLII' stands for 'IIII'"):
        find_channels(['II'], {'MLII': 'IIII'})
    assert find_channels(['MLII'], {'MLII': 'ii'})[1] == 0


ROWS = {
    'mitdb': ({'II': 0, 'V5': 1}, '100'),
    'iafdb':
    ({'II': 0, 'V1': 1, 'aVF': 2, 'CS12': 3, 'CS34': 4, 'CS56': 5, 'CS78': 6, 'CS90': 7}, 'iaf1_afw'),
    'ludb': ({c: i for i, c in enumerate(CHANNELS[:12])}, 'data/1')}


@pytest.mark.parametrize('name', ROWS)
def test_channels_of_real_records_are_as_before(name):
    want, record = ROWS[name]
    rows = DATABASES[name].open(real(name)/record).rows
    assert {CHANNELS[i]: int(r) for i, r in enumerate(rows) if r >= 0} == want


@pytest.mark.parametrize('name', ['mitdb', 'iafdb', 'ludb', 'cinc2021'])
def test_real_headers_need_no_note(name):
    for path in sorted(real(name).rglob('*.hea')):
        record = (DATABASES.get(name) or DATABASES['ludb']).open(path)
        assert record.windowed and not record.notes, (path, record.notes)


def test_the_channels_of_all_leipzig_layouts():
    import csv
    with open(real('leipzig')/'channel-layouts.csv') as f:
        layouts = {r['record']: r['names'].split() for r in csv.DictReader(f)}
    for record, names in layouts.items():
        found = match_channels(names)
        assert found.unknown == [n for n in names if n not in CHANNELS], record
        assert set(found.unknown) <= {'ABL_uni', 'ART'}, record
        assert [names[r] for r in found.rows if r >= 0] == [c for c in CHANNELS if c in names]


def test_the_real_leipzig_header_is_understood():
    h = parse_header((real('leipzig')/'x0010.hea').read_text())
    assert (h.fs, h.sig_len, len(h.signals), h.notes, h.comments) == (977, 310_260, 19, [], [])
    assert {(s.fmt, s.gain, s.baseline, s.unit, s.calibrated) for s in h.signals} == {(
        '24', 2000., 0, 'mV', True)}


# ---- amplitudes ----------------------------------------------------------------------------------

def test_real_amplitudes_are_plausible_and_a_wrong_unit_is_not():
    seen = {'ecg': [], 'iegm': []}
    for name, paths in (
            ('mitdb', sorted(real('mitdb').glob('*.hea'))),
            ('iafdb', sorted(real('iafdb').glob('*.hea'))[::3]),
            ('ludb', sorted((real('ludb')/'data').glob('*.hea'))[::20])):
        for path in paths:
            record = DATABASES[name].open(path)
            for channel, a in zip(CHANNELS,
                                  robust_amplitude(record.standard(0,
                                                                   min(record.sig_len, round(20*record.fs))),
                                                   record.fs)):
                if np.isfinite(a):
                    seen['ecg' if channel in CHANNELS[:12] else 'iegm'].append((channel, float(a)))
    assert len(seen['ecg']) > 100 and len(seen['iegm']) > 30
    for found in seen.values():
        assert not any(is_implausible(c, a) for c, a in found)
        for wrong in (1000, .001): assert np.mean([is_implausible(c, wrong*a) for c, a in found]) > .9


def test_amplitudes_at_the_edges():
    for kind, channel in (('ecg', 'V1'), ('iegm', 'CS12')):
        low, high = PLAUSIBLE_AMPLITUDE[kind]
        assert [is_implausible(channel, a) for a in (low, high, low*.99, high*1.01, 0., np.nan, np.inf)] == [
            False, False, True, True, False, False, True]
    assert np.isnan(robust_amplitude(np.full((2, 500), np.nan), 250)).all()
    assert np.isnan(robust_amplitude(np.zeros((2, 0)), 250)).all()
    assert robust_amplitude(np.array([[0, 1., np.nan, 3]]), 1000).tolist() == [3.]
