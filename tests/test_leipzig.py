"""The Leipzig database: counts against the published ones, and a check of folders that are damaged."""
import dataclasses
import errno
import hashlib
import html
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pedarr.data.streams
import pytest
import wfdb
from hypothesis import Phase, given, settings, strategies as st

from conftest import ROOT, everywhere, real
from helpers import append, edit, os_error
from pedarr.data import findings as findings_
from pedarr.data import check_report as report_
from pedarr.core import files as files_
from pedarr.data import integrity as integrity_
from pedarr.data.known_databases import DATABASES, LEIPZIG
from pedarr.data.common_readers import whole_record_episode
from pedarr.data.databases import Database
from pedarr.data.listing import list_records
from pedarr.data.checksums import CHECKSUMS
from pedarr.data.leipzig import (PUBLISHED, annotation_counts, annotation_totals, layout_table,
                                 parse_duration, release_facts, subject_table, unknown_annotations)
from pedarr.data.check_report import class_totals, rhythm_table
from pedarr.data.release import (
    RELEASE_RECORDS, agreement_table, compare_with_release, difference_sentences, release_summary)
from pedarr.data.integrity import stated_scale
from pedarr.data.quality import channel_quality, scan_samples
from pedarr.data.check import check_folder
from pedarr.data.findings import fold_sentences, signal_notes
from pedarr.data.channels import CHANNELS, ECG_LEADS
from pedarr.data.records import open_record
from pedarr.data.annotations import read_annotations
from pedarr.core.errors import PedarrError, one_line, system_error
from pedarr.core.files import sha256
from pedarr.data.rhythms import BEAT_SYMBOLS, parse_episodes, rhythm_name


def checksum_list(files):
    return ''.join(f'{hashlib.sha256(raw).hexdigest()} {name}\n' for name, raw in files.items()).encode()


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


# ---------------------------------------------------------------- counts against the release

def test_counts_of_the_release():
    folder = real('leipzig')
    t = pd.read_csv(folder/'annotation-sequence.csv.gz', dtype=str, keep_default_na=False)
    totals = [annotation_totals(part.symbol) for _, part in t.groupby('record')]
    assert {'records': len(totals), **{k: sum(x[k] for x in totals) for k in totals[0]}} == PUBLISHED
    assert set(t.record) == RELEASE_RECORDS and len(unknown_annotations(t.symbol, t.aux)) == 0
    want = t.groupby(['symbol', 'aux']).size()
    got = annotation_counts(t.symbol, t.aux)
    assert got.set_index(['symbol', 'aux']).n.to_dict() == want.to_dict() and got.n.is_monotonic_decreasing


def test_episodes_of_the_release():
    folder = real('leipzig')
    t = pd.read_csv(folder/'annotation-sequence.csv.gz', dtype=str, keep_default_na=False)
    parts, outside = [], {}
    for record, part in t.groupby('record', sort=False):
        e = parse_episodes(np.arange(len(part)), part.symbol.to_numpy(), part.aux.to_numpy(), len(part),
                           record)
        parts.append(e.assign(record=record, seconds=1.))
        totals = annotation_totals(part.symbol)
        if n := totals['beats'] + totals['unclassifiable'] - e.beats.sum(): outside[record] = n
    ours = rhythm_table(pd.concat(parts)).set_index(['record', 'rhythm'])
    theirs = pd.read_csv(folder/'episode-statistics.csv', keep_default_na=False)
    theirs = theirs[theirs.rhythm != '']
    theirs = theirs.assign(rhythm=theirs.rhythm.map(rhythm_name)).set_index(['record', 'rhythm'])
    assert outside == {'x0013': 2} and set(ours.index) == set(theirs.index) and (ours.label != '').all()
    pd.testing.assert_frame_equal(ours.loc[theirs.index, theirs.columns], theirs, check_dtype=False)
    assert ours.beats.sum() == PUBLISHED['beats'] + PUBLISHED['unclassifiable'] - 2
    assert ours.episodes.sum() == PUBLISHED['rhythm_marks']
    assert class_totals(ours.reset_index()).beats.sum() == ours.beats.sum()


def test_subjects_and_layouts_of_the_release(tmp_path):
    folder = real('leipzig')
    t = subject_table(folder)
    assert len(t) == 39
    assert t.age['x007'] == 14.3
    assert list(t.index[:2]) == ['x001', 'x002']
    assert t.index[9] == 'x0010'
    assert not t.isna().any().any()
    assert t.stated_seconds['x003'] == pytest.approx(2*3600 + 30*60 + 31.749)
    assert (t.pathway != '').sum() == 16
    assert t.pathway['x104'] == ''
    names = pd.read_csv(folder/'channel-layouts.csv').set_index('record').names.str.split().to_dict()
    layouts = layout_table(names)
    assert layouts.n.tolist() == [27, 5, 4, 1, 1, 1] and layouts.channels.tolist() == [19, 14, 18, 20, 20, 19]
    assert layouts.loc[layouts.missing == 'ABL12', 'records'].tolist() == ['x002 x005 x0015 x0029']
    for f in folder.glob('*-subject-info.csv'):
        (tmp_path/f.name).write_text(f.read_text().replace('14.3,', '.14.3,', 1) if 'children' in f.name
                                     else f.read_text())
    raw = subject_table(tmp_path)
    assert raw.age['x007'] == 14.3 and raw.age_text['x007'] == '.14.3'
    seconds = raw.stated_seconds + np.where(raw.index == 'x005', 2.8, .01)
    notes = findings_.subject_notes(raw, pd.DataFrame({'seconds': seconds}))
    assert len(notes) == 2 and "'.14.3'" in notes[0] and notes[1].startswith('x005')


@given(st.text())
def test_durations(text):
    s = parse_duration(text)
    assert np.isnan(s) or s >= 0


# ---------------------------------------------------------------- check

def test_check_of_a_sound_folder(simulated, tmp_path):
    report = check_folder(simulated, progress=False)
    assert report.ok and report.problems == [] and (report.tables['files'].status == 'ok').all()
    records, t = report.tables['records'].set_index('record'), report.tables
    for p in list_records(simulated):       # against wfdb, which shares none of the counting
        a = wfdb.rdann(str(p.with_suffix('')), 'atr')
        r = wfdb.rdrecord(str(p.with_suffix('')), physical=False)
        assert records.annotations[p.stem] == len(a.symbol)
        assert records.rhythm_marks[p.stem] == a.symbol.count('+')
        assert records.beats[p.stem] == sum(s not in '+~Q' for s in a.symbol)
        assert records.channels[p.stem] == r.n_sig
        mine = t['marks_by_record'].query('record == @p.stem')
        want = pd.Series([s + '|' + x.rstrip('\0')
                          for s, x in zip(a.symbol, a.aux_note)]).value_counts().to_dict()
        assert {f'{m.symbol}|{m.aux}': m.n for m in mine.itertuples()} == want
        q = t['quality'].query('record == @p.stem')
        np.testing.assert_allclose(q.high, r.d_signal.max(axis=0)/2000, atol=1e-9)
        np.testing.assert_allclose(q.low, r.d_signal.min(axis=0)/2000, atol=1e-9)
    assert t['classes'].seconds.sum() == pytest.approx(t['rhythms'].seconds.sum())
    assert t['rhythms'].seconds.sum() <= records.seconds.sum() + 1e-6
    # a simulated folder is not put beside the published counts
    assert t['totals'].columns.tolist() == ['what', 'here']
    dead = t['quality'].query('flat == 1')
    assert all(f'{d.record}: {d.channel} carries no signal' in '\n'.join(report.notes)
               for d in dead.itertuples())
    page = report.write_html(tmp_path/'check.html').read_text()
    assert all(r in page for r in records.index)
    assert not re.search(r'(src|href)=(?!"#)|<script', page) and 'name="viewport"' in page
    assert [p.name for p in tmp_path.iterdir()] == ['check.html']
    assert 'Problems: none' in report.text()


def test_jobs_change_nothing(simulated):
    a, b = check_folder(simulated, progress=False), check_folder(simulated, jobs=2, progress=False)
    assert a.problems == b.problems and a.notes == b.notes
    for name in a.tables: pd.testing.assert_frame_equal(a.tables[name], b.tables[name])


@pytest.fixture
def db(simulated, tmp_path):
    "A copy of the first three records of the SIMULATED database, with lists of its own."
    folder = tmp_path/'db'
    folder.mkdir()
    stems = [p.stem for p in list_records(simulated)[:3]]
    for s in stems:
        for e in ('hea', 'dat', 'atr'): shutil.copy(simulated/f'{s}.{e}', folder)
    for f in simulated.glob('*.csv'): shutil.copy(f, folder)
    (folder/'RECORDS').write_text('\n'.join(stems))
    relist(folder)
    return folder


def relist(folder):
    (folder/CHECKSUMS).write_bytes(checksum_list({n: raw for n, raw in contents(folder).items()
                                                  if n != CHECKSUMS}))


def first(db, e): return sorted(db.glob(f'*.{e}'))[0]


def test_damage_is_named(db):
    dat, hea, atr = (first(db, e) for e in ('dat', 'hea', 'atr'))
    assert check_folder(db, progress=False).ok
    raw = bytearray(dat.read_bytes())
    raw[3*777] ^= 1
    dat.write_bytes(raw)
    problems = check_folder(db, progress=False).problems
    assert len(problems) == 2 and str(dat) in problems[0] and 'differs from its checksum' in problems[0]
    assert str(hea) in problems[1] and 'the data are damaged' in problems[1]
    dat.write_bytes(raw[:-900])
    relist(db)
    problems = check_folder(db, progress=False).problems
    assert len(problems) == 1 and 'truncated' in problems[0]
    dat.unlink()
    atr.rename(atr.with_suffix('.atr.part'))
    problems = check_folder(db, progress=False).problems
    assert any('is missing' in p and str(dat) in p for p in problems)
    assert any('unfinished download' in p for p in problems)
    (db/'RECORDS').unlink()
    hea.unlink()
    problems = check_folder(db, progress=False).problems
    assert any(f'1 records of its checksum list are not here: {hea.stem}' in p for p in problems)
    assert not any(f'{hea}: is missing' in p for p in problems)
    assert all('\n' not in p for p in problems)


def test_lists_and_tables_that_are_gone_or_wrong(db):
    (db/CHECKSUMS).write_text('<html>sign in</html>')
    assert any('no checksum line' in p for p in check_folder(db, progress=False).problems)
    (db/CHECKSUMS).unlink()
    assert any('checksum list is missing' in p for p in check_folder(db, progress=False).problems)
    relist(db)
    (db/'adults-subject-info.csv').write_bytes(b'\xff\xfe,')
    relist(db)
    assert any('not a subject table' in p for p in check_folder(db, progress=False).problems)
    (db/'adults-subject-info.csv').unlink()
    relist(db)
    assert any('subject table is missing' in p for p in check_folder(db, progress=False).problems)
    for bad in (dict(folder=db/'nowhere'), dict(folder=db, jobs=0), dict(folder=db, grouping='x')):
        with pytest.raises(PedarrError): check_folder(**{'progress': False, **bad})


def test_unknown_words_and_a_subject_without_row(db):
    path = list_records(db)[0]
    record = open_record(path)
    a = read_annotations(path, 'atr', record.sig_len)
    symbol, aux = list(a.symbol), list(a.aux)
    mark = symbol.index('+')
    aux[mark] = '(NEW'
    beat = [i for i, s in enumerate(symbol) if s == 'N'][0]
    symbol[beat], aux[beat] = 'e', '<odd>'
    own = pd.DataFrame({'label_store': [42, 43], 'symbol': ['X', 'b'], 'description': ['x', 'b']})
    wfdb.wrann(path.stem, 'atr', a.sample, symbol=symbol, aux_note=aux, custom_labels=own, write_dir=str(db))
    edit(path, (' V6\n', ' V6b\n'))
    table = db/'children-subject-info.csv'
    table.write_text('\n'.join(line for line in table.read_text().splitlines()
                               if f',{path.stem},' not in line))
    relist(db)
    report = check_folder(db, progress=False)
    text = '\n'.join(report.problems)
    for w in (
            "unknown rhythm 'NEW' (1 time)", "unknown symbol 'e'", "unknown text '<odd>'",
            "unknown channel 'V6b'", 'no row in the subject tables'):
        assert w in text
    assert f'{path.stem}: without V6' in '\n'.join(report.notes)
    page = report.write_html(db.parent/'c.html').read_text()
    assert '<odd>' not in page and '&lt;odd&gt;' in page


@pytest.mark.parametrize('unit, gain, size', [
    ('V', '2', 'large'), ('uV', '2e+06', 'small'), ('mV', '2000', '')])
def test_gain_and_unit_are_one_quantity(db, unit, gain, size):
    "2000/V is a right number with a wrong unit: neither the number nor the unit alone tells."
    for p in list_records(db): edit(p, ('/mV', f'/{unit}'))
    relist(db)
    report = check_folder(db, progress=False)
    amplitude = [n for n in report.notes if 'for a heart' in n]
    if unit == 'mV':
        assert report.ok and not amplitude
        return
    assert report.problems == [f'x001, x002, x003: 977 Hz, format 24, {gain} units per mV '
                               'where the release has 977, 24 and 2000: check where they come from']
    assert len(amplitude) == 1
    assert amplitude[0].startswith(f'x001, x002, x003: too {size} for a heart on ')
    assert 'gain and unit' in amplitude[0]
    other = check_folder(db, dataclasses.replace(LEIPZIG, name='mine'), progress=False)
    assert other.ok and amplitude[0] in other.notes, 'an amplitude is judged in any database'


def test_a_stray_spike_and_an_offset_are_no_amplitude(tmp_path):
    rng, n = np.random.default_rng(0), 977*20
    d = rng.integers(-1000, 1000, (n, 4))
    d[5000, 0] = 2**22
    d[:, 1] += 2**22
    d[:, 2] *= 2000
    d[:977*15, 3] = 7
    (tmp_path/'q.dat').write_bytes(packed(d, '24'))
    (tmp_path/'q.hea').write_text(f'q 4 977 {n}\n' + ''.join(f'q.dat 24 2000/mV 24 0 0 0 0 {c}\n'
                                                             for c in ('I', 'II', 'III', 'V1')))
    q = channel_quality(LEIPZIG.open(tmp_path/'q'))
    np.testing.assert_allclose(q.span, [1, 1, 2000, 1], rtol=.01)
    assert len(findings_.amplitude_notes(q)) == 1
    assert '(III of q typically spans 2e+03 mV)' in findings_.amplitude_notes(q)[0]


FAULTS = {
    'fifo': os.mkfifo,
    'device': lambda p: os.mknod(p, 0o20600, os.makedev(1, 3)),
    'folder': Path.mkdir,
    'empty': lambda p: p.write_bytes(b''),
    'link to itself': lambda p: p.symlink_to(p),
    'link to zeros': lambda p: p.symlink_to('/dev/zero'),
    'gone': lambda p: None}

@pytest.mark.parametrize('fault', FAULTS)
@pytest.mark.parametrize('name',
                         ['x001.hea', 'x001.dat', 'x001.atr', CHECKSUMS, 'children-subject-info.csv',
                          'RECORDS', 'LICENSE.txt'])
def test_whatever_lies_there_is_one_sentence(db, name, fault):
    (db/'LICENSE.txt').write_text('ODC-By')
    relist(db)
    (db/name).unlink()
    try: FAULTS[fault](db/name)
    except PermissionError: pytest.skip('this system makes no devices')
    try: report = check_folder(db, progress=False)
    except PedarrError as e:
        assert name == 'RECORDS' and str(e).startswith(f'{db/name}: ') and '\n' not in str(e)
        return
    about = [p for p in report.problems if p.startswith(f'{db/name}: ')]
    if name == 'LICENSE.txt':
        assert report.ok, 'a licence is no recording, but it is named'
        assert len([n for n in report.notes
                    if n.startswith(f'{db/name}: ')]) == 1, 'a licence is no recording, but it is named'
        return
    assert 1 <= len(about) <= 2 and len(report.problems) == len(about) and all('\n' not in p for p in about)
    if name.startswith('x001'):
        assert len(report.tables['rhythms'].record.unique()) == 2, 'the others were looked at'
    assert 'pedarr download' in about[0] or fault in ('fifo', 'device', 'folder',
                                                      'link to zeros') or name == CHECKSUMS


def test_sidecars_hidden_folders_and_records_beside_the_list(db):
    for p in list(db.iterdir()): (db/f'._{p.name}').write_bytes(b'\0\5\x16\7' + bytes(60))
    shutil.copytree(db, db/'.backup', ignore=shutil.ignore_patterns('.*'))
    (db/'RECORDS').write_text('x001\nx002\n')
    relist_visible(db)
    (db/'linked').symlink_to(db.parent/'elsewhere')
    shutil.copytree(db, db.parent/'elsewhere', ignore=shutil.ignore_patterns('.*', 'linked'))
    report = check_folder(db, progress=False)
    assert report.ok, report.problems
    assert any('hidden, or of another system' in n and '._x001.hea' in n and '.backup/' in n
               for n in report.notes)
    assert any('headers are not in RECORDS and were left out: linked/x001' in n and 'x003' in n
               for n in report.notes)


def relist_visible(folder):
    (folder/CHECKSUMS).write_bytes(checksum_list({n: raw for n, raw in contents(folder).items()
                                                  if n != CHECKSUMS and not n.startswith('.')}))


def test_one_waveform_under_two_names(db):
    for e in ('hea', 'atr', 'dat'):
        raw_ = (db/f'x001.{e}').read_bytes()
        (db/f'x0011.{e}').write_bytes(raw_.replace(b'x001', b'x0011') if e == 'hea' else raw_)
    (db/'RECORDS').unlink()
    relist(db)
    report = check_folder(db, progress=False)
    assert 'x001, x0011: the same signals, byte for byte' in report.notes
    assert any(p.startswith('x0011: no row in the subject tables') for p in report.problems)


def test_a_file_that_changes_while_it_is_read(db, monkeypatch):
    stamps = iter(range(10**6))
    everywhere(monkeypatch, files_, 'file_stamp', lambda p: next(stamps) if Path(p).name == 'x001.dat' else 0)
    expected = [f'{db/"x001.dat"}: changed while it was read: check again when nothing writes to it']
    assert [p for p in check_folder(db, progress=False).problems] == expected


def test_a_disk_that_fails_is_not_called_damage(db, monkeypatch):
    def broken(path, *args): raise system_error(os_error(errno.EIO), path, 'cannot be read')
    everywhere(monkeypatch, files_, 'sha256', broken)
    everywhere(monkeypatch, pedarr.data.streams, 'RecordStream',
               lambda record: broken(record.path.with_suffix('.dat')))
    report = check_folder(db, progress=False)
    assert len(report.problems) == 1
    assert 'Input/output error' in report.problems[0]
    assert 'check the disk' in report.problems[0]
    assert 'download' not in report.text(), 'no advice to fetch anew or to delete'
    assert 'checksum:' not in report.text(), 'no advice to fetch anew or to delete'


def test_segments_with_gains_of_their_own(tmp_path):
    "Two segments of one signal, the second with half the gain: extremes and spans are in mV all the same."
    rng = np.random.default_rng(2)
    d = rng.integers(-1000, 1000, (2, 500*4, 2))
    d[1, 3, 1] = -2**15
    for i, gain in enumerate((2000, 1000)):
        (tmp_path/f's{i}.dat').write_bytes(packed(d[i], '16'))
        (tmp_path/f's{i}.hea').write_text(f's{i} 2 500 2000\n' +
                ''.join(f's{i}.dat 16 {gain}/mV 16 0 0 {x.sum() % 65536} 0 {c}\n'
                        for c, x in zip(('I', 'II'), d[i].T)))
    (tmp_path/'m.hea').write_text('m/2 2 500 4000\ns0 2000\ns1 2000\n')
    record = open_record(tmp_path/'m')
    scan, hashes, problems = scan_samples(record)
    q, mv = scan.quality(), record.physical(dtype=np.float64)
    assert problems == [] and hashes[tmp_path/'s1.dat'] == sha256(tmp_path/'s1.dat')
    np.testing.assert_allclose(q[['low', 'high']], np.stack([np.nanmin(mv, 1), np.nanmax(mv, 1)], 1),
                               atol=1e-6)
    assert (q.invalid*4000).tolist() == [0, 1] and q.span.between(1, 2).all()
    mine = Database('mine', 't', 'rhythm8', lambda r, db: whole_record_episode(r, 'N'), one_each)
    report = check_folder(tmp_path, mine, progress=False)
    assert report.ok and len(report.tables['records']) == 1


def one_each(paths, folder, db):
    return pd.DataFrame({
        'subject': [p.stem for p in paths], 'cohort': 'c', 'age': np.nan, 'sex': ''},
                        index=[p.stem for p in paths])


@pytest.mark.parametrize('fmt', ['80', '61', '32'])
def test_formats_that_are_read_whole(tmp_path, fmt):
    d = np.random.default_rng(3).integers(-100, 100, (2000, 2))
    stored = {'80': (d + 128).astype('<u1'), '61': d.astype('>i2'), '32': d.astype('<i4')}[fmt]
    (tmp_path/'w.dat').write_bytes(stored.tobytes())
    signals = [f'w.dat {fmt} 100/mV 16 0 0 {x.sum() % 65536} 0 {lead}' for lead, x in zip(('I', 'II'), d.T)]
    (tmp_path/'w.hea').write_text('\n'.join(['w 2 500 2000', *signals]) + '\n')
    scan, hashes, problems = scan_samples(open_record(tmp_path/'w'))
    assert problems == [] and hashes == {tmp_path/'w.dat': sha256(tmp_path/'w.dat')}
    np.testing.assert_allclose(scan.quality()[['low', 'high']], np.stack([d.min(0), d.max(0)], 1)/100)


NASTY = ['x001 (copy)', 'x 12 (3)', '(', '1,000 (x)', '<b>&"x', 'ü\u202e', 'nan (1)']

def test_no_text_is_read_as_a_number(db):
    "Records with names that look like the cells of the table of subjects."
    for name in NASTY:
        for e in ('hea', 'atr'): shutil.copy(db/f'x001.{e}', db/f'{name}.{e}')
    (db/'RECORDS').unlink()
    report = check_folder(db, progress=False)
    page = report.write_html(db.parent/'c.html').read_text()
    whole = {html.unescape(cell) for cell in re.findall(r'<td>([^<]*)</td>', page)}
    assert {n for n in NASTY if n.isprintable()} <= whole
    assert '<b>' not in page
    assert '\u202e' not in page
    assert '\u202e' not in report.text()
    t, shares = report.tables['subjects'], report.tables['shares']
    assert shares.shape == t.shape
    assert shares.drop(columns=['record', 'poor signal']).sum(axis=1).dropna().to_numpy() == pytest.approx(1)
    bars = [float(x) for x in re.findall(r'var\(--bar\) (\d+)%', page)]
    assert len(bars) == int((shares.drop(columns='record') > 0).sum().sum())
    assert all(0 <= b <= 100 for b in bars)


CONTROL = '\x1b[31m\x07\x9b'

def test_control_characters_reach_neither_terminal_nor_page(db):
    for p in list_records(db): edit(p, ('#', f'#{CONTROL} '), times=1)
    for name in ('children-subject-info.csv', 'adults-subject-info.csv'):
        head, *rows = (db/name).read_text().splitlines()
        (db/name).write_text('\n'.join([head,
                                        *(r.replace('AVNRT', f'AV{CONTROL}NRT').replace(',M,', f',{CONTROL},')
                                          for r in rows)]))
    marks = wfdb.rdann(str(db/'x001'), 'atr')
    marks.aux_note[0] = f'({CONTROL}'
    labels = pd.DataFrame({'label_store': [42, 43], 'symbol': ['X', 'b'], 'description': ['x', 'b']})
    wfdb.wrann('x001', 'atr', marks.sample, symbol=marks.symbol, aux_note=marks.aux_note,
               custom_labels=labels, write_dir=str(db))
    (db/f'note{CONTROL}.txt').write_text('x')
    (db/os.fsdecode(b'\xff\xfe.txt')).write_text('x')
    report = check_folder(db, progress=False)
    page = report.write_html(db.parent/'c.html').read_text()
    for text in (report.text(), page, '\n'.join(report.problems + report.notes)):
        assert text.replace('\n', '').isprintable() and r'\x1b[31m' in text


def test_tables_on_the_page_have_an_end(monkeypatch, simulated, tmp_path):
    everywhere(monkeypatch, report_, 'MOST_ROWS', 5)
    report = check_folder(simulated, progress=False)
    report.tables['marks'].loc[report.tables['marks'].index[0], 'aux'] = 'a'*10**6
    page = report.write_html(tmp_path/'c.html').read_text()
    assert len(page) < 100_000 and 'the first 5 of them' in page and 'a'*197 + '...' in page


ALIKE = ['a: is 1', 'b: is 2', '/x/c: is 33', "d: is 'x'", 'e: is']


@given(st.lists(st.text(max_size=30) | st.sampled_from(ALIKE)))
def test_folding_loses_no_kind(sentences):
    folded = fold_sentences(sentences)
    assert all('\n' not in s and s.isprintable() for s in folded) and len(folded) <= len(sentences)
    more = [re.search(r'\(and (\d+) more like it', s) for s in folded]
    expected = len(set(map(one_line, sentences)))
    assert sum(int(m[1].replace(',', '')) for m in more if m) + len(folded) == expected


def test_lists_that_do_not_cover_everything(db):
    """A file of a record that the list lacks: a problem in a copy of the release, a note elsewhere. So is an
    empty list."""
    lines = [line for line in (db/CHECKSUMS).read_text().splitlines() if not line.endswith('x001.dat')]
    (db/CHECKSUMS).write_text('\n'.join(lines))
    sentence, mine = f'{db/"x001.dat"}: {integrity_.UNLISTED}', dataclasses.replace(LEIPZIG, name='mine')
    assert check_folder(db, progress=False).problems == [sentence]
    other = check_folder(db, mine, progress=False)
    assert other.ok and sentence in other.notes
    (db/CHECKSUMS).write_text(f'{"0"*64} X.txt\n{"0"*64} x.txt\n')
    assert any('X.txt and x.txt are one file on some disks' in n
               for n in check_folder(db, mine, progress=False).notes)
    (db/CHECKSUMS).write_text('')
    expected = [f'{db/CHECKSUMS}: the checksum list is empty, so that no file could be verified']
    assert check_folder(db, progress=False).problems == expected
    (db/CHECKSUMS).unlink()
    assert check_folder(db, mine, progress=False).ok
    assert any(n.endswith(integrity_.UNVERIFIED) for n in check_folder(db, mine, progress=False).notes)


@st.composite
def recordings(draw):
    """(format, digital values [time, channel], how the channels are spread over files) with constants, rails
    and invalid samples."""
    fmt = draw(st.sampled_from(['16', '24', '212']))
    k, n, top = draw(st.integers(1, 4)), draw(st.integers(1, 700)), {
        '16': 2**15, '24': 2**23, '212': 2**11}[fmt]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d = rng.integers(-draw(st.integers(1, top - 1)), draw(st.integers(1, top - 1)), (n, k))
    for j in range(k):
        kind = draw(st.sampled_from(['', 'constant', 'rail', 'invalid', 'all invalid']))
        a, b = sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        if kind == 'constant': d[a:b, j] = 7
        if kind == 'rail':
            d[a:b:3, j] = top - 1
            d[a + 1:b:3, j] = 1 - top
        if kind == 'invalid': d[a:b:2, j] = -top
        if kind == 'all invalid': d[:, j] = -top
    return fmt, d, draw(st.integers(0, k - 1)), draw(st.sampled_from([0, 3, 512]))


def packed(d, fmt):
    d = d.reshape(-1)
    if fmt == '16': return d.astype('<i2').tobytes()
    if fmt == '24': return (d & 0xffffff).astype('<u4').reshape(-1, 1).view('u1')[:, :3].tobytes()
    a, b = (np.append(d, 0)[:(len(d) + 1)//2*2].reshape(-1, 2) & 0xfff).T
    return np.stack([a & 255, a >> 8 | b >> 8 << 4, b & 255], 1).astype('u1').tobytes()[:(3*len(d) + 1)//2]


@settings(max_examples=60, deadline=None)
@given(recordings(), st.integers(1, 9))
def test_one_pass_sees_what_three_would(tmp_path_factory, recording, seconds):
    """Hashes, sums and quality of the streaming pass against the whole array, for one file or two, each
    format, any block."""
    (fmt, d, split, offset), fs, folder = recording, 50, tmp_path_factory.mktemp('scan')
    n, k, bad = *d.shape, {'16': -2**15, '24': -2**23, '212': -2**11}[fmt]
    parts = {'a.dat': d[:, :split or k], **({'b.dat': d[:, split:]} if split else {})}
    lines = [f'{name} {fmt}+{offset} 100/mV 12 0 0 {d_.sum() % 65536} 0 c{name}{j}'
             for name, part in parts.items() for j, d_ in enumerate(part.T)]
    (folder/'r.hea').write_text('\n'.join([f'r {k} {fs} {n}', *lines]) + '\n')
    for name, part in parts.items(): (folder/name).write_bytes(b'?'*offset + packed(part, fmt))
    record = open_record(folder/'r')
    scan, hashes, problems = scan_samples(record, seconds)
    assert hashes == {folder/name: sha256(folder/name) for name in parts} and problems == []
    quality = scan.quality()
    for j, q in enumerate(quality.itertuples()):
        x, rail = d[:, j][d[:, j] != bad], 0
        flat = sum(len(s) for i in range(0, n, fs) if (s := d[i:i + fs, j]).size and (g := s[s != bad]).size
                   and np.ptp(g)*.01 <= 1e-3)
        for v in {x.min(), x.max()} if x.size else ():
            rail += (x == v).sum() if abs(v) >= 1024 and (x == v).sum() >= 3 and np.ptp(x) else 0
        assert q.invalid*n == pytest.approx(n - len(x))
        assert q.flat*n == pytest.approx(flat)
        assert q.clipped*n == pytest.approx(rail)
        if x.size: assert (q.low, q.high) == pytest.approx((x.min()/100, x.max()/100))
        else: assert np.isnan(q.low) and np.isnan(q.high)
    shutil.rmtree(folder)


def test_quality_of_faults_made_to_measure(tmp_path):
    rng, fs, n = np.random.default_rng(0), 977, 977*70 + 123
    d = rng.integers(-3000, 3000, (n, 5))
    d[:, 1] = 152
    d[1000:1500, 2] = 20480
    d[5000:5100, 2] = -20480
    d[60_000, 3] = 25_000
    d[977*10:977*13, 4] = 7
    d[400:500, 4] = -2**23
    raw = (d & 0xffffff).astype('<u4').reshape(-1, 1).view('u1')[:, :3].tobytes()
    (tmp_path/'q.dat').write_bytes(raw)
    names = ['I', 'ABL12', 'V1', 'CS12', 'CS34']
    (tmp_path/'q.hea').write_text(f'q 5 {fs} {n}\n' + ''.join(f'q.dat 24 2000/mV 24 0 0 0 0 {c}\n'
                                                              for c in names))
    q = channel_quality(LEIPZIG.open(tmp_path/'q'), seconds=7).set_index('channel')
    assert (q.clipped*n).round().tolist() == [
        0, 0, 600, 0, 0] and (q.invalid*n).round().tolist() == [0, 0, 0, 0, 100]
    assert (q.flat*n).round().tolist() == [0, n, 0, 0, 3*977] and q.high['CS12'] == 12.5
    notes = '\n'.join(signal_notes(q.reset_index()))
    assert 'ABL12 carries no signal' in notes
    assert 'clipped on the surface ECG (1 channels' in notes
    assert 'invalid (1 channels' in notes


def test_memory_stays_small(tmp_path):
    "Twenty minutes of nineteen channels (67 MB on disk) are looked at in blocks of half a minute."
    import tracemalloc
    n = 977*1200
    (tmp_path/'q.dat').write_bytes(bytes(3*19*n))
    (tmp_path/'q.hea').write_text(f'q 19 977 {n}\n' + ''.join(f'q.dat 24 2000/mV 24 0 0 0 0 {c}\n'
                                                              for c in CHANNELS))
    tracemalloc.start()
    q = channel_quality(LEIPZIG.open(tmp_path/'q'))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (q.flat == 1).all() and peak < 60e6


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "One record of two seconds: a folder that is checked in no time."
    folder = tmp_path_factory.mktemp('tiny')
    d = np.random.default_rng(1).integers(-3000, 3000, (1954, 14))
    (folder/'x001.dat').write_bytes((d & 0xffffff).astype('<u4').reshape(-1, 1).view('u1')[:, :3].tobytes())
    signals = [f'x001.dat 24 2000/mV 24 0 {d[0, i]} {d[:, i].sum() % 65536} 0 {c}\n'
               for i, c in enumerate(ECG_LEADS + ['ABL12', 'RVA12'])]
    (folder/'x001.hea').write_text('x001 14 977 1954\n' + ''.join(signals) + '#Simulated for a test\n')
    wfdb.wrann('x001', 'atr', np.array([5, 10, 500, 900, 1500]), symbol=['+', 'N', 'A', '+', 'V'],
                   aux_note=['(N', 'N-Prex', '', '(VT', ''], write_dir=str(folder))
    head = 'subject_id,file_name,gender,age,diagnosis,ap_loacation,ecg_duration\n'
    (folder/'children-subject-info.csv').write_text(head + '001,x001,M,.6.6,AVRT,right lateral,0:0:2.000\n')
    (folder/'adults-subject-info.csv').write_text('subject_id,file_name,gender,age,diagnosis,ecg_duration\n')
    (folder/'RECORDS').write_text('x001\n')
    relist(folder)
    assert check_folder(folder, progress=False).ok
    return folder


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.data())
def test_any_damage_to_small_files_is_a_sentence(tiny, data):
    """Bytes of one header, annotation file or table changed, cut or doubled: `check_folder` ends with a
    report or one line."""
    db = tiny
    names = ['x001.hea', 'x001.atr', 'children-subject-info.csv', 'adults-subject-info.csv', 'RECORDS',
             CHECKSUMS]
    file = db/data.draw(st.sampled_from(names))
    raw = bytearray(before := file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        i = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(['change', 'cut', 'double']))
        if kind == 'change': raw[i] = data.draw(st.integers(0, 255))
        elif kind == 'cut': del raw[i:i + data.draw(st.integers(1, 40))]
        else: raw[i:i] = raw[i:i + 20]
        if not raw: break
    try:
        file.write_bytes(raw)
        report = check_folder(db, progress=False)
        assert report.problems or bytes(raw) == before or file.name == CHECKSUMS
        assert all('\n' not in p for p in report.problems + report.notes) and report.text()
    except PedarrError as e: assert '\n' not in str(e)
    finally: file.write_bytes(before)


def test_simulated_recordings_are_called_so(simulated):
    found = check_folder(simulated, progress=False)
    assert found.notes[0].startswith('SIMULATED: 8 of 8 records') and 'SIMULATED' in found.text()


# ---------------------------------------------------------------- against the release

def test_facts_are_whole_and_consistent():
    facts = release_facts()
    assert list(facts) == ['records', 'episodes', 'marks'] and set(facts['records'].record) == RELEASE_RECORDS
    assert not any(t.isna().any().any() for t in facts.values())
    assert [str(facts['episodes'][c].dtype) for c in ('episodes', 'beats', 'longest')] == ['int64']*3
    marks, key = facts['marks'], ['record', 'rhythm']
    assert marks.n.dtype == 'int64'
    assert facts['records'].subject_id.str.startswith('00').sum() == 29, 'subject numbers keep their zeros'
    beats = marks[marks.symbol.isin(list(BEAT_SYMBOLS))].groupby(key).n.sum().sort_index()
    of_episodes = facts['episodes'].set_index(key).beats.sort_index()
    pd.testing.assert_series_equal(beats, of_episodes, check_names=False)


def test_facts_are_packed(tmp_path):
    "setup.py puts the tables and their source beside the modules."
    pytest.importorskip('setuptools')
    import sys
    root = ROOT
    subprocess.run([sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path)], cwd=root,
                   check=True, capture_output=True)
    assert {p.name for p in (tmp_path/'pedarr'/'facts').iterdir()} == {
        'records.csv', 'episodes.csv', 'marks.csv', 'opening.csv', 'rates.csv', 'README.md'}


@pytest.fixture(scope='module')
def claims(tmp_path_factory):
    """A folder that claims to be the release: x0027 with the annotations that the facts allow, at invented
    times, and noise for signals."""
    folder, facts = tmp_path_factory.mktemp('claims'), release_facts()
    fact = facts['records'].set_index('record').loc['x0027']
    names, n = fact.channels.split(), round(977*parse_duration(fact.duration))
    d = np.random.default_rng(1).integers(-3000, 3000, (n, len(names)))
    (folder/'x0027.dat').write_bytes(packed(d, '24'))
    signals = [f'x0027.dat 24 2000/mV 24 0 {d[0, i]} {d[:, i].sum() % 65536} 0 {c}\n'
               for i, c in enumerate(names)]
    (folder/'x0027.hea').write_text(f'x0027 {len(names)} 977 {n}\n' + ''.join(signals))
    script = [
        ('(N', 'N', 'N-Prex', 94), ('(/A', '/', '/A', 8), ('(AVRT', 'X', 'AVRT', 23),
        ('(/A', '/', '/A', 8), ('(N', 'N', 'N-Prex', 3)]
    marks = [m for rhythm, symbol, aux, k in script for m in [('+', rhythm)] + [(symbol, aux)]*k]
    write_marks(folder, marks)
    rows = ','.join([fact.subject_id, 'x0027', fact.sex, fact.age, fact.diagnosis, fact.pathway,
                     fact.duration])
    columns = 'subject_id,file_name,gender,age,diagnosis,ap_loacation,ecg_duration'
    (folder/'children-subject-info.csv').write_text(f'{columns}\n{rows}\n')
    (folder/'adults-subject-info.csv').write_text(columns.replace('ap_loacation,', '') + '\n')
    relist(folder)
    return folder, marks


def write_marks(folder, marks):
    labels = pd.DataFrame({'label_store': [42, 43], 'symbol': ['X', 'b'], 'description': ['x', 'b']})
    wfdb.wrann('x0027', 'atr', 100 + 500*np.arange(len(marks)), symbol=[s for s, _ in marks],
               aux_note=[a for _, a in marks],
                   custom_labels=labels, write_dir=str(folder))


def test_a_record_of_the_release_agrees_and_a_changed_one_is_a_problem(claims, tmp_path):
    source, marks = claims
    folder = tmp_path/'db'
    shutil.copytree(source, folder)
    report = check_folder(folder, progress=False)
    assert report.ok
    assert report.summary == "counts equal the release's in 1 of 39 records (1 here)"
    assert report.summary in report.text()
    assert report.tables['against'].agrees.all() and report.tables['agreement'].equal.tolist() == [1]*8
    other = 'text (none): 1 here, 0 there'
    cases = (([('Q', '') if i == 3 else m for i, m in enumerate(marks)],
              ['symbol N: 96 here, 97 there', 'symbol Q: 1 here, 0 there', other], 0),
             ([('+', '(VT') if m == ('+', '(AVRT') else m for m in marks],
              ['episodes AVRT: 0 here, 1 there', 'beats VT: 23 here, 0 there'], 0),
             # a beat of one episode in another: all counts are equal
             (marks[:1] + marks[2:] + marks[1:2], ['longest N: 93 here, 94 there'], 1),
             (marks[1:], ['beats before the first rhythm annotation: 94 here, 0 there',
                          'symbol +: 4 here, 5 there'], 0))
    for change, words, equal in cases:
        write_marks(folder, change)
        relist(folder)
        report = check_folder(folder, progress=False)
        assert len(report.problems) == 1
        assert report.problems[0].startswith('x0027: ')
        assert 'differ from the release' in report.problems[0]
        assert all(w in difference_sentences(report.tables['against'], 99)[0] for w in words)
        assert report.summary.startswith(f"counts equal the release's in {equal} of 39")
        page = report.write_html(tmp_path/'c.html').read_text()
        assert 'Facts that differ from the release' in page and f'in {equal} of 39 records' in page


def test_a_simulated_record_is_compared_and_what_differs_is_a_note(claims, tmp_path):
    source, _ = claims
    folder = tmp_path/'db'
    shutil.copytree(source, folder)
    header = folder/'x0027.hea'
    before = header.read_text()
    append(header, '#Simulated: no patient\n')
    relist(folder)
    summary = check_folder(folder, progress=False).summary
    assert summary == '', 'one simulated record that states no scale is no twin'
    header.write_text(before)
    edit(header, (' II\n', ' tmp\n'), (' I\n', ' II\n'), (' tmp\n', ' I\n'))
    append(header, '#Simulated, scale 0.5\n')
    relist(folder)
    report = check_folder(folder, progress=False)
    assert report.ok and 'scale 0.5' in report.summary and report.summary.endswith('in 0 of 39 records')
    assert any('other channels, or in another order' in n for n in report.notes)
    assert report.tables['agreement'].what.tolist() == ['layout', 'subject']
    table = folder/'children-subject-info.csv'
    header.write_text(before)
    edit(table, (',M,', ',F,'))
    relist(folder)
    assert 'sex: F here, M there' in check_folder(folder, progress=False).problems[0]


def test_the_release_agrees_with_its_own_sequence():
    """The annotation sequence as published, through the functions that `check_folder` uses: 39 of 39; as a
    simulated twin, differences are notes."""
    folder, facts = real('leipzig'), release_facts()
    t = pd.read_csv(folder/'annotation-sequence.csv.gz', dtype=str, keep_default_na=False)
    fact, results = facts['records'].set_index('record'), []
    for record, part in t.groupby('record', sort=False):
        e = parse_episodes(np.arange(len(part)), part.symbol.to_numpy(), part.aux.to_numpy(), len(part),
                           record).assign(record=record, seconds=1.)
        totals = annotation_totals(part.symbol)
        seconds = parse_duration(fact.duration[record]) + (2.9 if record == 'x005' else .7)
        results.append({
            'record': record,
            'names': fact.channels[record].split(),
            'simulated': False,
            'scale': 1.,
            'rhythms': rhythm_table(e),
            'marks': annotation_counts(part.symbol, part.aux),
            'row':
            {'seconds': seconds,
                 'no_episode': totals['beats'] + totals['unclassifiable'] - e.beats.sum()}})
    against = compare_with_release(results, subject_table(folder))
    assert against.agrees.all()
    assert (agreement_table(against).equal == 39).all()
    assert release_summary(against).startswith("counts equal the release's in 39 of 39")
    assert difference_sentences(against) == []
    assert not len(compare_with_release([{**r, 'simulated': True} for r in results[:38]],
                                   subject_table(folder))), 'a simulated folder of 38 is no twin'
    assert release_summary(compare_with_release([{**r, 'simulated': True} for r in results],
                                           pd.DataFrame())).endswith('39 of 39 records')


@pytest.mark.parametrize('name, records', [('mitdb', 7), ('ludb', 200), ('iafdb', 26), ('cinc2021', 104)])
def test_another_database_is_called_so_in_one_line(name, records):
    report = check_folder(real(name), progress=False)
    assert len(report.problems) == 1
    assert f'this is not the Leipzig database (none of its {records} records' in report.problems[0]
    fits = 'name it with --database (leipzig, mitdb, ludb, iafdb'
    if name in DATABASES: fits = f'--database {name} seems to fit'
    assert fits in report.problems[0] and 'pedarr download' not in report.text() and report.summary == ''
    assert len(report.text().split('\n')) < 60
    assert not any(len(line) > 400 for line in report.text().split('\n'))


@pytest.mark.parametrize('name, records, subjects', [('mitdb', 7, 7), ('ludb', 200, 200), ('iafdb', 26, 8)])
def test_another_database_by_its_own_readers(name, records, subjects):
    report = check_folder(real(name), name, progress=False)
    t = report.tables
    assert report.problems == []
    assert len(t['records']) == records
    assert t['records'].subject.nunique() == subjects
    assert 'download' not in report.text() and 'Leipzig' not in report.text() and not len(t['against'])
    if name == 'ludb':
        assert t['classes'].set_index('label').records['AFIB'] == 15
        assert t['classes'].beats.isna().all(), 'beats were not annotated: no count of 0'
        assert any('LICENSE.txt: differs from its checksum; no recording depends on it' in n
                   for n in report.notes)
    if name == 'mitdb':
        assert t['totals'].set_index('what').here['annotations'] > 15_000
        assert 'MLII' not in ' '.join(t['layouts'].leads)
    if name == 'iafdb':
        assert sum("diagnosis 'Atrial Fib/Flutter' names several rhythms" in n for n in report.notes) == 3


def test_a_description_of_ones_own(tmp_path):
    "The CinC 2021 records, whose diagnoses are codes in the header."
    def episodes(record, db):
        return whole_record_episode(record,
                            next(c.split(': ')[1].split(',')[0] for c in record.comments
                                 if c.startswith('Dx')))
    def subjects(paths, folder, db):
        return pd.DataFrame({
            'subject': [p.stem for p in paths], 'cohort': 'cinc', 'age': np.nan, 'sex': ''},
                            index=[p.stem for p in paths])
    db = Database('cinc', 'CinC 2021', 'rhythm8', episodes, subjects)
    report = check_folder(real('cinc2021'), db, progress=False)
    assert report.ok
    assert len(report.tables['records']) == 104
    assert report.tables['rhythms'].label.unique().tolist() == ['']
    assert any('unknown rhythm' in n and 'more like it' in n for n in report.notes)
    for n in [p.stem for p in (real('cinc2021')).glob('*.hea')][:5]:
        for e in ('hea', 'mat'): shutil.copy(real('cinc2021')/f'{n}.{e}', tmp_path)
    bad = check_folder(tmp_path, Database('bad', 't', 'rhythm8', lambda r, d: 1/0, subjects), progress=False)
    assert len(bad.problems) == 1
    assert 'failed with ZeroDivisionError' in bad.problems[0]
    assert '(and 4 more like it' in bad.problems[0]


def test_faults_of_one_kind_are_one_line(tmp_path):
    for i in range(60): (tmp_path/f'r{i}.hea').write_text(f'r{i} 1 500 0 what\n')
    report = check_folder(tmp_path, progress=False)
    assert len(report.problems) == 2
    assert 'r0.hea' in report.problems[1]
    assert 'and 59 more like it: r1.hea, r2.hea' in report.problems[1]
    page = report.write_html(tmp_path/'c.html').read_text()
    assert len(report.text().split('\n')) < 40 and all(f'r{i}.hea' in page for i in range(60))


def test_poor_signal_and_classes_by_subject(simulated, tmp_path):
    report = check_folder(simulated, progress=False)
    t, records = report.tables['subjects'].set_index('record'), report.tables['records'].set_index('record')
    assert list(t.index) == [*records.index, 'all']
    assert t['poor signal']['all'] == f'{records.poor_seconds.sum():,.0f}'
    assert records.poor_seconds.sum() > 0
    rhythms = report.tables['rhythms'].groupby(['record', 'label'])[['seconds', 'episodes']].sum()
    assert all(t[label][record] == f'{x.seconds:,.0f} ({int(x.episodes)})'
               for (record, label), x in rhythms.iterrows())
    page, text = report.write_html(tmp_path/'c.html').read_text(), report.text()
    for words in (t['SR']['all'], 'poor signal', 'AVNRT'): assert words in page and words in text
    order = [page.index(w) for w in (
        'Problems', 'Counts', 'Rhythm classes', 'Seconds (episodes)', 'Notes', 'Channel layouts')]
    assert order == sorted(order) and '(SIMULATED)' in page


@given(st.lists(st.text(max_size=40), max_size=3))
def test_any_comment_has_a_scale(comments): assert stated_scale(comments) >= 0


@pytest.mark.bench
def test_bench_check_reads_once(tmp_path):
    """One pass (hash, sums, quality) over an hour of nineteen SIMULATED channels takes less than three times
    as long as reading the file whole and hashing it (1.4 to 1.9 times, on two busy cores)."""
    from pedarr.synthetic.studies import simulate_database
    simulate_database(tmp_path/'db', subjects=4, minutes=1.0, seed=1)
    path = next(p for p in list_records(tmp_path/'db') if LEIPZIG.open(p).n_sig == 19)
    header, raw = path.read_text().split('\n'), path.with_suffix('.dat').read_bytes()
    fields = header[0].split()
    fields[3] = str(60*int(fields[3]))
    with open(path.with_suffix('.dat'), 'wb') as f:
        for _ in range(60): f.write(raw)
    signals = [line.split() if line.startswith(path.stem) else None for line in header[1:]]
    lines = [' '.join([*x[:6], str(60*int(x[6]) % 65536), *x[7:]]) if x else line
             for x, line in zip(signals, header[1:])]
    path.write_text('\n'.join([' '.join(fields), *lines]))
    record, file, times = LEIPZIG.open(path), path.with_suffix('.dat'), []
    def timed(f):
        begun = time.perf_counter()
        f()
        return time.perf_counter() - begun
    acts = [lambda: hashlib.sha256(file.read_bytes()).hexdigest(), lambda: sha256(file),
            lambda: scan_samples(record), record.verify]
    for _ in range(5): times.append([timed(act) for act in acts])
    mb, (whole, stream, once, verify) = file.stat().st_size/1e6, np.median(times, axis=0)
    print(f'\ncheck, {mb:.0f} MB: one pass {mb/once:.0f} MB/s; '
          f'plain read + sha256 {mb/whole:.0f} MB/s ({once/whole:.2f} of its time), '
          f'by blocks {mb/stream:.0f} MB/s; Record.verify alone {mb/verify:.0f} MB/s')
    assert once < 3*whole


@pytest.mark.parametrize('name', ['x001.atr', 'x001.hea', 'x001.dat', 'subject-info-pediatric.csv'])
def test_a_listed_file_of_a_tebibyte_is_not_hashed(db, name):
    "A sparse file that takes no room on the disk would take an hour to read: it is refused by its size."
    name = name if (db/name).exists() else sorted(p.name for p in db.glob(f'*{Path(name).suffix}'))[0]
    with open(db/name, 'r+b') as f: f.truncate(1 << 40)
    report = check_folder(db, progress=False)
    assert not report.ok and any(Path(name).stem in problem for problem in report.problems)
