"""Exports of laboratories: Bard LabSystem Pro and GE CardioLab, read as records and converted to WFDB."""
import pickle

import numpy as np
import pytest
import wfdb
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import folder_bytes, interrupt_move, real
from helpers import LABELS, bard, command, prucka, refused
from pedarr.core.errors import PedarrError
from pedarr.core.files import sha256
from pedarr.data.channels import CHANNELS
from pedarr.data.check import check_folder
from pedarr.data.lab_exports import convert_export, find_exports, read_export
from pedarr.data.records import open_record
from pedarr.data.streams import RecordStream
from pedarr.use.command import pedarr_command

def drawn(n=1500, size=1., seed=0):
    "Six channels (mV), the last of them without signal."
    x = np.random.default_rng(seed).normal(0, .2*size, (len(LABELS), n))
    x[-1] = 0
    return x


WRITERS = pytest.mark.parametrize('write, fs, step', [(bard, 1000, 5/32768), (prucka, 977, .001)])


@WRITERS
def test_an_export_is_a_record(tmp_path, write, fs, step):
    x = drawn()
    r = open_record(write(tmp_path/'study.txt', x))
    assert (r.fs, r.sig_len, r.names, r.windowed) == (fs, x.shape[1], LABELS, False)
    assert [CHANNELS[i] for i in np.flatnonzero(r.rows >= 0)] == ['I', 'II', 'ABL12', 'RVA12', 'CS12']
    assert abs(r.physical() - x).max() <= step
    assert any('HIS d' in note and 'stands for channel ABL12' in note for note in r.notes)
    assert any('constant' in note and 'A1-A2' in note for note in r.notes)
    np.testing.assert_array_equal(r.standard(100, 900), r.standard()[:, 100:900])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(r)).standard(), r.standard())
    with RecordStream(r) as stream:
        np.testing.assert_array_equal(stream.standard(0, 500), r.standard(0, 500))
        assert 'study.inf' in (hashes := stream.finish()) or write is bard
        assert all(len(sha) == 64 for sha in hashes.values())
    r.verify()


@WRITERS
def test_wfdb_reads_what_was_converted(tmp_path, write, fs, step):
    x = drawn()
    source = write(tmp_path/'my study.txt', x)
    hea = convert_export(source, tmp_path/'out')
    r = wfdb.rdrecord(str(hea.with_suffix('')))
    assert (hea.name, r.fs, r.sig_name) == ('my_study.hea', fs, LABELS)
    assert abs(r.p_signal.T - x).max() <= step
    ours = open_record(hea)
    ours.verify()
    np.testing.assert_array_equal(ours.standard(), open_record(source).standard())
    assert 'SECRET' not in hea.read_text()
    before = hea.read_bytes()
    with pytest.raises(PedarrError, match='--force'): convert_export(source, tmp_path/'out')
    convert_export(source, tmp_path/'out', force=True)
    assert hea.read_bytes() == before and len(list((tmp_path/'out').iterdir())) == 2


def test_ranges_differ_by_channel_and_rails_are_said(tmp_path):
    x = drawn(size=2.)
    x[1, :300], x[4, :30] = 9.9998, -4.9999
    r = open_record(bard(tmp_path/'b.txt', x, ranges=[5, 10, 5, 2.5, 5, 5]))
    assert abs(r.physical() - x).max() < .001
    said = [note for note in r.notes if 'rails' in note]
    assert len(said) == 1 and 'II (20.0 %)' in said[0] and 'RV 1-2 (2.0 %)' in said[0]
    x = drawn()
    x[2, :150], x[0, 0] = 2.048, -2.047                 # one sample is no rail
    said = [n for n in open_record(prucka(tmp_path/'p.txt', x)).notes if 'rails' in n]
    assert len(said) == 1 and 'CS 1-2 (10.0 %)' in said[0] and 'I (' not in said[0]


def test_a_bard_range_with_the_gain_of_cardiolab_has_its_own_rail(tmp_path):
    x = 100*drawn()
    x[0, :150] = -32.768                                # 32768 steps over 32.768 mV: 1000 a mV
    path = bard(tmp_path/'b.txt', x.clip(-32.768, 32.767), ranges=[32.768]*6)
    said = [note for note in read_export(path).header.notes if 'rails' in note]
    assert len(said) == 1 and 'I (10.' in said[0]
    made = open_record(convert_export(path, tmp_path/'w'))
    made.verify()
    np.testing.assert_array_equal(made.physical(), open_record(path).physical())


@pytest.mark.parametrize('fs', [976.5625, 1017.252604])
@pytest.mark.parametrize('write', [bard, prucka])
def test_a_rate_keeps_its_digits(tmp_path, write, fs):
    made = convert_export(write(tmp_path/'x.txt', drawn(), fs=fs), tmp_path/'w')
    assert open_record(made).fs == fs == wfdb.rdheader(str(made.with_suffix(''))).fs


@pytest.mark.parametrize('asked', ['p.txt', 'p.inf'])
def test_either_file_of_cardiolab_that_changes_is_read_again(tmp_path, asked):
    inf = prucka(tmp_path/'p.txt', drawn()).with_suffix('.inf')
    assert read_export(tmp_path/asked).header.fs == 977
    inf.write_text(inf.read_text().replace('977', '2000'))
    assert read_export(tmp_path/asked).header.fs == 2000
    prucka(tmp_path/'p.txt', 2*drawn())
    assert abs(read_export(tmp_path/asked).digital/1000 - 2*drawn()).max() < .001


@pytest.mark.parametrize('unit', ['mmHg', ' mmHg ', 'kPa', ' °C', 'cm H2O'])
def test_a_pressure_of_bard_is_left_out(tmp_path, unit):
    x = drawn()
    path = bard(tmp_path/'b.txt', x, units=['mv ']*2 + [unit] + ['mv ']*3)
    r = open_record(path)
    assert r.names == LABELS[:2] + LABELS[3:] and r.units == ['mV']*5
    assert any('left out' in note and 'CS 1-2 (' in note for note in r.notes)
    assert abs(r.physical() - np.delete(x, 2, 0)).max() < .001
    assert open_record(convert_export(path, tmp_path/'out')).names == r.names


def test_a_pressure_of_cardiolab_is_left_out(tmp_path):
    x = drawn()
    x[2] *= 1e5                                                     # no rail of an amplifier holds for it
    r = open_record(prucka(tmp_path/'p.txt', x, labels=['I', 'II', 'ART', *LABELS[3:]]))
    assert r.units == ['mV']*5 and 'ART' not in r.names
    assert 'left out, no voltage: ART (mmHg)' in r.notes
    assert abs(r.physical() - np.delete(x, 2, 0)).max() < .001


@pytest.mark.parametrize('unit', ['5', 'mmHg', '5uV', '0mv'])
def test_a_range_that_cannot_be_understood_is_one_line(tmp_path, unit):
    path = bard(tmp_path/'b.txt', drawn())
    path.write_text(path.read_text().replace('Range: 5mv', f'Range: {unit}', 1))
    with pytest.raises(PedarrError, match='b.txt: I: ') as e: open_record(path)
    assert '\n' not in str(e.value)


def test_a_label_with_a_slash_is_read(tmp_path):
    labels = ['I', 'II/avF', *LABELS[2:]]
    path = bard(tmp_path/'b.txt', drawn(), labels=labels)
    assert open_record(path).names == labels
    path.write_text(path.read_text().replace('Range: 5mv', 'Range:'))
    with pytest.raises(PedarrError, match='b.txt: I: the header'): open_record(path)


def test_an_export_of_pressures_alone_is_one_line(tmp_path):
    with pytest.raises(PedarrError, match='b.txt: no channel is a voltage: export'):
        open_record(bard(tmp_path/'b.txt', drawn(), units=['mmHg']*6))


def cut(path): path.write_bytes(path.read_bytes()[:-30_000])
def cut_in_the_header(path): path.write_bytes(path.read_bytes()[:100])
def unequal(path): path.write_bytes(path.read_bytes() + b'1,2,3,4,5,6,7\n')
def words(path): path.write_bytes(path.read_bytes().replace(b'\n0', b'\nzero', 1) + b'a,b,c,d,e,f\n')
def binary(path): path.write_bytes(bytes(range(256))*20)
def letter(path): path.write_text('Dear colleague,\nthank you for the patient.\n')
def empty(path): path.write_bytes(b'')


def without_range(path):
    path.write_text(path.read_text().replace('Range: 5mv', 'Range:', 1))


def two_rates(path):
    head, _, rest = path.read_text().rpartition('Sample rate: 1000Hz')
    path.write_text(f'{head}Sample rate: 500Hz{rest}')


def without_rate(path): path.write_text(path.read_text().replace('Rate: 1000Hz', 'Rate: 0Hz'))
def a_channel_more(path): path.write_text(path.read_text().replace('exported: 6', 'exported: 7'))


@pytest.mark.parametrize('damage', [
    cut, cut_in_the_header, unequal, words, binary, letter, empty, without_range, two_rates, without_rate,
    a_channel_more])
def test_bad_exports_of_bard_are_one_line(tmp_path, damage):
    path = bard(tmp_path/'b.txt', drawn())
    damage(path)
    with pytest.raises(PedarrError) as e: open_record(path)
    assert 'b.txt' in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('damage', [
    lambda p: cut(p), lambda p: binary(p), lambda p: p.with_suffix('.inf').unlink(), lambda p: p.unlink(),
    lambda p: letter(p.with_suffix('.inf')), lambda p: empty(p), lambda p: empty(p.with_suffix('.inf')),
    lambda p: p.write_text(p.read_text().replace('0.', 'nan.', 1)),
    lambda p: p.write_text(p.read_text().replace('0.', '1e99 ', 1))])
def test_bad_exports_of_cardiolab_are_one_line(tmp_path, damage):
    path = prucka(tmp_path/'p.txt', drawn())
    damage(path)
    left = path if path.exists() else path.with_suffix('.inf')
    with pytest.raises(PedarrError) as e: open_record(left)
    assert f'{tmp_path}/p.' in str(e.value) and '\n' not in str(e.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_exports_are_read_or_refused(tmp_path_factory, data):
    path = bard(tmp_path_factory.mktemp('x')/'b.txt', drawn(40))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try: export = read_export(path)
    except PedarrError as e: assert '\n' not in str(e)
    else: assert export.digital.shape[0] == export.header.n_sig


def test_the_command_converts_and_refuses(tmp_path):
    path = prucka(tmp_path/'p.txt', drawn())
    run = lambda *args: CliRunner().invoke(pedarr_command, [str(a) for a in ('convert', *args)])
    assert run(path, '--out', tmp_path/'w').exit_code == 0
    assert open_record(tmp_path/'w'/'p').sig_len == 1500
    again = run(path, '--out', tmp_path/'w')
    assert again.exit_code == 2 and '--force' in again.stderr and len(again.stderr.splitlines()) == 1
    assert run(tmp_path/'w'/'p.hea', '--out', tmp_path/'v').exit_code == 2
    assert run(tmp_path/'none.txt', '--out', tmp_path/'v').exit_code == 2
    assert not (tmp_path/'v').exists()


def test_a_name_that_wfdb_lacks_is_said_with_the_one_it_gets(tmp_path):
    path = bard(tmp_path/'p Größe.txt', drawn())
    r = command('convert', path, '--out', tmp_path/'w')
    assert r.status == 0 and 'the record of p Größe.txt is called p_Gr_e' in r.err
    assert (tmp_path/'w'/'p_Gr_e.hea').exists()
    assert 'is called' not in command('convert', bard(tmp_path/'p.txt', drawn()), '--out', tmp_path/'w').err


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-16-be'])
def test_text_in_utf_16_is_called_so(tmp_path, encoding):
    for name, changed in (('bard', 'bard.txt'), ('prucka', 'prucka.txt'), ('prucka', 'prucka.inf')):
        {'bard': bard, 'prucka': prucka}[name](tmp_path/f'{name}.txt', drawn())
        text = (tmp_path/changed).read_text()
        (tmp_path/changed).write_bytes(text.encode(encoding))
        for path in sorted(tmp_path.glob(f'{name}.*')):
            with pytest.raises(PedarrError, match=f'{changed}: is text in UTF-16'): read_export(path)
    assert [p.name for p in find_exports(tmp_path)] == ['bard.txt', 'prucka.txt']


@pytest.fixture
def lab(tmp_path):
    "A folder of two exports: one clean, one with an unused channel at the rails for a part of its time."
    folder = tmp_path/'the lab'
    folder.mkdir()
    bard(folder/'a.txt', drawn())
    x = drawn()
    x[2, :150] = 2.048
    prucka(folder/'b.txt', x)
    (folder/'README.txt').write_text('Dear colleague,')
    return folder


def test_check_reads_a_folder_of_exports(lab, tmp_path):
    "Records, rates, channels, flat and railed channels; that there are no labels is said, and is no problem."
    for more in ((), ('--database', 'ludb')):
        r = command('check', lab, '--html', tmp_path/'c.html', '--force', *more)
        assert r.status == 0 and '2 records' in r.out and 'no problems' in r.out
        assert 'hold no annotations' in r.out and 'not the Leipzig database' not in r.out
        assert 'rails of the amplifier for part of the time: CS 1-2 (10.0 %)' in r.out
    seen = check_folder(lab, progress=False).tables
    assert seen['records'].set_index('record').fs.to_dict() == {'a': 1000, 'b': 977}
    assert list(seen['records'].channels) == [6, 6] and not len(seen['rhythms'])
    flat = seen['quality'].query('flat == 1')
    assert set(flat.channel) == {'A1-A2'} and set(flat.record) == {'a', 'b'}


def test_check_names_an_export_that_is_damaged_and_one_that_was_altered(lab):
    names = 'a.txt', 'b.inf', 'b.txt'
    (lab/'SHA256SUMS.txt').write_text(''.join(f'{sha256(lab/n)} {n}\n' for n in names))
    assert command('check', lab).status == 0
    (lab/'a.txt').write_text((lab/'a.txt').read_text().replace('-1', '-2', 1))
    (lab/'b.txt').write_bytes(b''.join((lab/'b.txt').read_bytes().splitlines(True)[:-90]))
    r = command('check', lab)
    assert r.status == 1 and 'a.txt: differs from its checksum' in r.out and 'cut off' in r.out


def test_exports_beside_records_do_not_hide_the_records(lab):
    convert_export(lab/'a.txt', lab)
    seen = check_folder(lab, 'ludb', progress=False)
    assert list(seen.tables['records'].record) == ['a'] and 'no annotations' not in seen.text()


def test_a_store_of_exports_is_told_the_command(lab, tmp_path):
    said = refused('preprocess', lab, tmp_path/'store')
    assert 'but exports of a laboratory (a.txt, b.txt)' in said
    assert f"pedarr convert '{lab}/a.txt' --out DIR" in said


@pytest.mark.parametrize('old, moved', [(False, 1), (False, 2), (True, 1), (True, 2), (True, 3), (True, 4)])
def test_ctrl_c_between_two_files_leaves_no_half_record(tmp_path, monkeypatch, old, moved):
    path, out = tmp_path/'p.txt', tmp_path/'w'
    if old: convert_export(prucka(path, drawn(seed=1)), out)
    before = folder_bytes(out)
    prucka(path, drawn())
    interrupt_move(monkeypatch, moved)
    with pytest.raises(KeyboardInterrupt): convert_export(path, out, force=old)
    assert folder_bytes(out) == before and out.exists() == old
    monkeypatch.undo()
    open_record(convert_export(path, out, force=old)).verify()
    assert len(folder_bytes(out)) == 2 and folder_bytes(out) != before


def test_real_exports():
    folder = real('exports')
    r = open_record(folder/'bard-avnrt.txt')
    assert (r.fs, r.sig_len, r.n_sig, int((r.rows >= 0).sum())) == (1000, 3522, 11, 10)
    assert .5 < np.ptp(r.standard()[0]) < 3                        # mV, lead I
    r = open_record(folder/'prucka.inf')
    assert (r.fs, r.sig_len, r.n_sig, int((r.rows >= 0).sum())) == (977, 4027, 28, 14)
    assert any('V2 (15.4 %)' in note and 'RVa d' in note for note in r.notes)
