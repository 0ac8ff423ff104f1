"""What a store is made of, verified and noted, what is left out; and reading one that somebody edited."""
import errno
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pedarr
import scipy
import pytest
import wfdb

from conftest import everywhere, real
from helpers import append, edit
from pedarr.signals import build as build_
from pedarr.signals import parts as parts_
from pedarr.data import checksums as checksums_
from pedarr.core import files as files_
from pedarr.core import tables as tables_
from pedarr.core import locks as locks_
from pedarr.signals import store as store_
from pedarr.signals import windows as windows_
from pedarr.core.errors import PassingError, PedarrError
from pedarr.data.databases import Database
from pedarr.data.common_readers import annotated_episodes, whole_record_episode
from pedarr.signals.settings import PreprocessConfig, default_config
from pedarr.signals.build import build_store
from pedarr.signals.store import open_store
from pedarr.data.channels import ECG_LEADS, IEGM_CHANNELS
from pedarr.data.groupings import GROUPINGS

FS, SECONDS = 250., 20.
CONFIG = PreprocessConfig(rate=125., ecg_band=(.5, 40.), iegm_band=(10., 50.))


def write_record(folder, name, seed=0, leads=('I', 'II'), seconds=SECONDS, fs=FS, x=None, scale=1.,
                 gain=1000., comments=()):
    "A made-up 16-bit record."
    folder.mkdir(parents=True, exist_ok=True)
    n = round(seconds*fs)
    if x is None:
        noise = np.random.default_rng(seed).normal(size=(n, len(leads))).cumsum(0)*.01
        x = scale*(noise + np.sin(np.arange(n)/fs*7)[:, None])
    k = len(leads)
    wfdb.wrsamp(name, fs=fs, units=['mV']*k, sig_name=list(leads), p_signal=x, fmt=['16']*k,
                adc_gain=[gain]*k, baseline=[0]*k, comments=list(comments), write_dir=str(folder))


def one_each(paths, folder, db):
    names = [p.stem for p in paths]
    return pd.DataFrame({'subject': names, 'cohort': 'c', 'age': np.nan, 'sex': ''}, index=names)


def sinus(record, db): return whole_record_episode(record, 'N')


MINE = Database('mine', 'made up', 'rhythm8', sinus, one_each)


def build(folder, store, db=MINE, **how):
    return build_store(folder, store, db, **{'config': CONFIG, 'progress': False, **how})


def write_sums(folder, names=None, style='{sha}  {name}'):
    "A checksum list of the files in `folder`."
    names = names or sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()
                            and p.name != checksums_.CHECKSUMS)
    lines = [style.format(sha=hashlib.sha256((folder/n).read_bytes()).hexdigest(), name=n) for n in names]
    (folder/checksums_.CHECKSUMS).write_text('\n'.join(lines) + '\n')


def swapped(raw):
    "Two samples of the same signal change places: the 16-bit sum of the signal stays."
    return raw[:1000] + raw[1204:1206] + raw[1002:1204] + raw[1000:1002] + raw[1206:]


@pytest.fixture
def db(tmp_path):
    "Three records, a list of them, a table and a licence."
    folder = tmp_path/'db'
    for i, name in enumerate('abc'): write_record(folder, name, seed=i)
    (folder/'RECORDS').write_text('a\nb\nc\n')
    (folder/'subjects.csv').write_text('record,sex\na,F\n')
    (folder/'LICENSE.txt').write_text('free\n')
    return folder


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A store that tests copy before they harm it."
    folder = tmp_path_factory.mktemp('made')
    for i, name in enumerate('abc'): write_record(folder/'db', name, seed=i)
    return build(folder/'db', folder/'store')


# ---- what a store is made from

def other_labels(record, db): return whole_record_episode(record, 'AFIB' if record.name == 'b' else 'N')


def poor_at_the_start(record, db):
    episodes, poor = whole_record_episode(record, 'N')
    return episodes, pd.DataFrame({'start': [0], 'stop': [100]}) if record.name == 'c' else poor


def other_people(paths, folder, db): return one_each(paths, folder, db).assign(subject=['x', 'y', 'z'])
def other_ages(paths, folder, db): return one_each(paths, folder, db).assign(age=7.)


@pytest.mark.parametrize('change, words', [
    (dict(db=replace(MINE, read_episodes=other_labels)), 'other labels of record b'),
    (dict(db=replace(MINE, read_episodes=poor_at_the_start)), 'other labels of record c'),
    (dict(db=replace(MINE, aliases={'II': 'V1'})), 'other channels of record a, b, c'),
    (dict(db=replace(MINE, read_subjects=other_people)), 'other subjects'),
    (dict(db=replace(MINE, read_subjects=other_ages)), 'other subjects'),
    (dict(db=replace(MINE, name='yours')), r'another database \(mine\)'),
    (dict(grouping='svt4'), r'another grouping \(rhythm8\)'),
    (dict(config=CONFIG.replace(rate=250.)), r'rate 125 \(asked for: 250\)'),
    (dict(config=CONFIG.replace(guard=0., dtype='float32')),
     r'guard 0.25 \(asked for: 0\); dtype float16 \(asked for: float32\)')])
def test_a_store_made_otherwise_is_not_taken_and_what_differs_is_said(db, tmp_path, change, words):
    first = build(db, tmp_path/'s')
    before = (first.path/'store.json').read_bytes()
    with pytest.raises(PedarrError, match=f'{words}.*choose another name') as e:
        build(db, tmp_path/'s', **change)
    assert '\n' not in str(e.value) and (first.path/'store.json').read_bytes() == before
    assert not (tmp_path/'s.part').exists()


def test_a_changed_grouping_of_the_same_name(db, tmp_path, monkeypatch):
    monkeypatch.setitem(GROUPINGS, 'own', {'N': 'sinus'})
    assert build(db, tmp_path/'s', grouping='own').classes == ['sinus']
    monkeypatch.setitem(GROUPINGS, 'own', {'N': 'SR'})
    with pytest.raises(PedarrError, match='another content of grouping own'):
        build(db, tmp_path/'s', grouping='own')
    monkeypatch.setitem(GROUPINGS, 'own', {'N': 3})
    with pytest.raises(PedarrError, match="'N'.*must be two names"): build(db, tmp_path/'t', grouping='own')


@pytest.mark.parametrize('what', ['pedarr', 'numpy', 'scipy'])
def test_another_version(db, tmp_path, monkeypatch, what):
    build(db, tmp_path/'s')
    monkeypatch.setattr({'pedarr': pedarr, 'numpy': np, 'scipy': scipy}[what], '__version__', '99.0')
    with pytest.raises(PedarrError, match=rf'made by {what} \S+ \(this is 99.0\)'): build(db, tmp_path/'s')


def test_label_files_are_known_by_what_comes_out_of_them(db, tmp_path):
    file = db/'labels.txt'
    def read(record, _):
        return whole_record_episode(record, dict(l.split(',') for l in file.read_text().split())[record.name])
    file.write_text('a,N\nb,N\nc,VT\n')
    described = replace(MINE, read_episodes=read)
    build(db, tmp_path/'s', described)
    file.write_text('a,N\nb,N\nc,VT\n\n')                     # nothing that is read
    build(db, tmp_path/'s', described)
    file.write_text('a,N\nb,VT\nc,VT\n')
    with pytest.raises(PedarrError, match='other labels of record b'): build(db, tmp_path/'s', described)


@pytest.mark.parametrize('harm', ['signal', 'header', 'touched', 'record gone', 'record new', 'neighbours'])
def test_files_that_changed_since(db, tmp_path, harm, capsys):
    first = build(db, tmp_path/'s')
    if harm == 'signal':
        old, raw = (db/'b.dat').stat(), (db/'b.dat').read_bytes()
        (db/'b.dat').write_bytes(swapped(raw))         # the same sum, so the header's checksum holds
        os.utime(db/'b.dat', ns=(old.st_atime_ns, old.st_mtime_ns))
    if harm == 'header': append(db/'b.hea', '# corrected\n')
    if harm == 'touched': os.utime(db/'b.dat')
    if harm == 'record gone': (db/'RECORDS').write_text('a\nc\n')
    if harm == 'record new':
        write_record(db, 'd', seed=9)
        (db/'RECORDS').write_text('a\nb\nc\nd\n')
    if harm == 'neighbours':
        wfdb.wrann('a', 'qrs', np.array([100, 300]), ['N', 'N'], fs=FS, write_dir=str(db))
        for e in ('hea', 'dat'): shutil.copy(db/f'a.{e}', db/f'a.1.{e}')
        (db/'a.txt').write_text('remarks')
    words = {
        'signal': 'other files of record b', 'header': 'other files of record b',
        'record gone': 'other records: b', 'record new': 'other records: d'}.get(harm)
    if words is None:
        assert build(db, tmp_path/'s', progress=True).meta == first.meta
        assert 'already built' in capsys.readouterr().err
        assert sorted(first.meta['sources']['a']) == ['a.dat', 'a.hea']
    else:
        with pytest.raises(PedarrError, match=words): build(db, tmp_path/'s')


def test_what_was_left_behind_after_the_end_is_removed(db, tmp_path):
    first = build(db, tmp_path/'s')
    (tmp_path/'s.part'/'0123456789abcdef'/'store').mkdir(parents=True)  # as after a kill behind the rename
    build(db, tmp_path/'s')
    assert not (tmp_path/'s.part').exists() and first.unchanged() is None


# ---- what was published

def test_nothing_is_said_where_all_agrees_or_there_is_no_list(db, tmp_path):
    assert build(db, tmp_path/'s').meta['notes'] == []
    write_sums(db)
    assert build(db, tmp_path/'t').meta['notes'] == []


@pytest.mark.parametrize('content', ['', '\n\n', '\ufeff', ' \r\n'])
def test_a_list_that_names_nothing_is_said(db, tmp_path, content):
    (db/'SHA256SUMS.txt').write_text(content)
    assert any('names no file' in note for note in build(db, tmp_path/'s').meta['notes'])


@pytest.mark.parametrize('style', ['{sha} {name}', '{sha} *{name}', '{sha}  ./{name}', '{sha} *./{name}'])
def test_spellings_of_a_checksum_list(db, tmp_path, style):
    write_sums(db, style=style)
    assert build(db, tmp_path/'s').meta['notes'] == []
    append(db/'a.hea', '# one\n')
    with pytest.raises(PedarrError, match='a.hea differs'): build(db, tmp_path/'t')


HARMS = {'a.hea': lambda raw: raw + b'# a comment\n', 'b.dat': swapped,
         'RECORDS': lambda raw: raw[:4], 'subjects.csv': lambda raw: raw + b'b,F\n'}


@pytest.mark.parametrize('names', [[n] for n in HARMS] + [['a.hea', 'subjects.csv']])
def test_a_file_that_is_read_and_differs_is_refused_or_noted(db, tmp_path, names):
    write_sums(db)
    for name in names: (db/name).write_bytes(HARMS[name]((db/name).read_bytes()))
    with pytest.raises(PedarrError, match='differs? from SHA256SUMS.txt.*--accept-changed') as e:
        build(db, tmp_path/'s')
    assert all(name in str(e.value) for name in names)
    assert '\n' not in str(e.value)
    assert not (tmp_path/'s').exists()
    store = build(db, tmp_path/'s', accept_changed=True)
    assert any(all(name in n for name in names) and 'as was asked for' in n for n in store.meta['notes'])
    # and not reused without the word
    with pytest.raises(PedarrError, match='--accept-changed'): build(db, tmp_path/'s')


def test_changed_signals_are_all_named_and_cost_nothing_twice(db, tmp_path, monkeypatch):
    write_sums(db)
    for name in ('a.dat', 'c.dat'): (db/name).write_bytes(HARMS['b.dat']((db/name).read_bytes()))
    with pytest.raises(PedarrError, match='a.dat, c.dat differ from'): build(db, tmp_path/'s')
    everywhere(monkeypatch, windows_, 'cut_windows', None)              # all parts are there
    assert len(build(db, tmp_path/'s', accept_changed=True))


def test_a_wrong_gain_and_wrong_annotations_are_seen(db, tmp_path):
    marked = replace(MINE, read_episodes=annotated_episodes, annotator='atr')
    for name in 'abc':
        wfdb.wrann(name, 'atr', np.array([10, 2500]), ['+', '+'], aux_note=['(N', '(AFIB'], fs=FS,
                   write_dir=str(db))
    write_sums(db)
    assert build(db, tmp_path/'s', marked).classes == ['SR', 'AT']
    wfdb.wrann('b', 'atr', np.array([10, 2500]), ['+', '+'], aux_note=['(N', '(VT'], fs=FS, write_dir=str(db))
    edit(db/'c.hea', ('1000.0(0)', '100.0(0)'))
    with pytest.raises(PedarrError, match='b.atr, c.hea differ'): build(db, tmp_path/'t', marked)


def test_texts_that_nobody_reads_are_a_note(db, tmp_path):
    (db/'README').write_text('read me')
    write_sums(db)
    (db/'README').unlink()
    (db/'LICENSE.txt').write_text('another licence')
    notes = build(db, tmp_path/'s').meta['notes']
    assert len(notes) == 1 and 'LICENSE.txt differs' in notes[0] and 'README is missing' in notes[0]


def test_files_and_records_beside_the_list(db, tmp_path):
    write_record(db, 'd', seed=7)
    write_sums(db)
    write_record(db, 'e', seed=8)                             # not in the list
    for f in db.glob('d.*'): f.unlink()                       # in the list, not here
    (db/'RECORDS').unlink()
    notes = build(db, tmp_path/'s').meta['notes']
    assert any('e.dat, e.hea' in n or 'e.hea, e.dat' in n for n in notes)
    assert any(': d (records of the list that are not here)' in n for n in notes)
    assert any('RECORDS is missing' in n for n in notes)


@pytest.mark.parametrize('text', ['rubbish\n', '0'*64 + '  ../../etc/passwd\n', b'\xff\xfe\x00'])
def test_a_list_that_is_none(db, tmp_path, text):
    (db/checksums_.CHECKSUMS).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PedarrError, match='SHA256SUMS.txt.*--accept-changed') as e: build(db, tmp_path/'s')
    assert '\n' not in str(e.value)
    assert any('SHA256SUMS.txt could not be used' in n
               for n in build(db, tmp_path/'s', accept_changed=True).meta['notes'])


def test_ludb_builds_with_a_note_on_its_licence(tmp_path):
    store = build_store(real('ludb'), tmp_path/'s', 'ludb', progress=False)
    notes = [n for n in store.meta['notes'] if checksums_.CHECKSUMS in n]
    assert len(notes) == 1
    assert 'LICENSE.txt differs' in notes[0]
    assert 'README is missing' in notes[0]
    assert store.meta['skipped'] == []


# ---- what is left out

def harm_record(db, name, how):
    "Make a record unusable; the word that the note must have."
    if how == 'flat': write_record(db, name, x=np.zeros((5000, 2)))
    if how == 'zero length':
        head, *lines = (db/f'{name}.hea').read_text().splitlines()
        (db/f'{name}.hea').write_text('\n'.join([' '.join([*head.split()[:3], '0']), *lines]) + '\n')
        (db/f'{name}.dat').write_bytes(b'')
    if how == 'no channel': write_record(db, name, leads=('ART', 'CVP'))
    if how == 'cut': os.truncate(db/f'{name}.dat', 5000)
    if how == 'checksum':
        with open(db/f'{name}.dat', 'r+b') as f: f.write(b'\x05\x01')
    if how == 'header': (db/f'{name}.hea').write_text('rubbish')
    if how == 'no signal file': (db/f'{name}.dat').unlink()
    if how == 'empty header': (db/f'{name}.hea').write_text('')
    if how == 'no header': (db/f'{name}.hea').unlink()
    return {'flat': 'flat or invalid', 'zero length': 'no samples', 'no channel': 'ART, CVP'}.get(how, name)


@pytest.mark.parametrize('how', ['flat', 'zero length', 'no channel'])
def test_records_with_nothing_in_them_are_left_out_with_a_note(db, tmp_path, how):
    clean = shutil.copytree(db, tmp_path/'clean')
    (clean/'RECORDS').write_text('a\nc\n')
    word = harm_record(db, 'b', how)
    store = build(db, tmp_path/'s')
    assert store.meta['skipped'] == ['b']
    assert any('left out' in n and word in n and n.startswith('b') for n in store.meta['notes'])
    without = build(clean, tmp_path/'t')
    assert store.segments.equals(without.segments)
    assert (store.path/'ecg.npy').read_bytes() == (without.path/'ecg.npy').read_bytes()
    assert build(db, tmp_path/'s').meta == store.meta            # and is found again


DAMAGE = ['cut', 'checksum', 'header', 'no signal file', 'empty header', 'no header']


@pytest.mark.parametrize('how', DAMAGE)
@pytest.mark.parametrize('jobs', [1])
def test_damaged_records_are_refused_or_left_out_if_asked(db, tmp_path, how, jobs):
    harm_record(db, 'b', how)
    with pytest.raises(PedarrError, match='b.*--skip-damaged') as e: build(db, tmp_path/'s', jobs=jobs)
    assert '\n' not in str(e.value) and not (tmp_path/'s').exists()
    store = build(db, tmp_path/'s', skip_damaged=True, jobs=jobs)
    assert store.meta['skipped'] == ['b'] and set(store.segments.record) == {'a', 'c'}
    assert any('left out' in n and 'b' in n for n in store.meta['notes'])
    assert open_store(store.path).meta['skipped'] == ['b']
    assert build(db, tmp_path/'s', skip_damaged=True).meta == store.meta


def test_all_damaged_records_are_named_at_once(tmp_path):
    db = tmp_path/'db'
    for i in range(7): write_record(db, f'r{i}', seed=i)
    for i, how in enumerate(DAMAGE[:4], 1): harm_record(db, f'r{i}', how)
    with pytest.raises(PedarrError) as e: build(db, tmp_path/'s')
    # the checksum is seen later
    assert '3 of 7' in str(e.value) and all(f'r{i}' in str(e.value) for i in (1, 3, 4))
    with pytest.raises(PedarrError, match='r2.*checksum.*--skip-damaged'):
        for i in (1, 3, 4):
            for f in db.glob(f'r{i}.*'): f.unlink()
        build(db, tmp_path/'s')
    assert '\n' not in str(e.value)


def test_late_damage_is_gathered_too_and_leaves_finished_parts(tmp_path, monkeypatch):
    db = tmp_path/'db'
    for i in range(6): write_record(db, f'r{i}', seed=i)
    for i in (1, 4): harm_record(db, f'r{i}', 'checksum')
    everywhere(monkeypatch, parts_, 'SMALLEST_PART', 1)
    with pytest.raises(PedarrError, match=r'2 of 6 records cannot be used \(r1, r4\)'):
        build(db, tmp_path/'s')
    assert len([*(tmp_path/'s.part').rglob('part-*.json')]) == 4
    seen, real_cut = [], windows_.cut_windows
    def counting(record, *a, **k):
        seen.append(record.name)
        return real_cut(record, *a, **k)
    everywhere(monkeypatch, windows_, 'cut_windows', counting)
    store = build(db, tmp_path/'s', skip_damaged=True)
    assert seen == ['r1', 'r4']
    assert store.meta['skipped'] == ['r1', 'r4']
    assert store.segments.record.nunique() == 4
    assert (store.segments.segment == np.arange(len(store))).all() and store.mask.any(1).all()


def test_where_nothing_can_be_used_all_is_said(tmp_path):
    db = tmp_path/'db'
    for name, how in zip('ab', ('flat', 'no channel')): write_record(db, name), harm_record(db, name, how)
    with pytest.raises(PedarrError, match='2 records can be used.*ART'): build(db, tmp_path/'s')
    with pytest.raises(PedarrError, match='cannot be used'):
        harm_record(db, 'a', 'cut'), harm_record(db, 'b', 'cut'), build(db, tmp_path/'s')
    with pytest.raises(PedarrError, match='none of the 2 records'): build(db, tmp_path/'s', skip_damaged=True)
    assert not (tmp_path/'s').exists()


def test_a_record_without_episode_is_left_out_and_a_class_that_goes_with_it_is_gone(db, tmp_path):
    def some(record, _):
        if record.name == 'a':
            episodes, poor = whole_record_episode(record, 'N')[:2]
            return episodes.iloc[:0], poor, ['two diagnoses in the header']
        return whole_record_episode(record, 'VT' if record.name == 'b' else 'N')
    harm_record(db, 'b', 'flat')
    store = build(db, tmp_path/'s', replace(MINE, read_episodes=some))
    assert store.classes == ['SR'] and store.meta['skipped'] == ['a', 'b'] and store.meta['rare'] == []
    assert any(n.startswith('a: two diagnoses') for n in store.meta['notes'])
    assert any('no episode' in n for n in store.meta['notes'])


def test_a_passing_fault_is_no_damage(db, tmp_path):
    def away(record, _):
        if record.name == 'b': raise OSError(errno.EIO, 'Input/output error', str(record.path))
        return whole_record_episode(record, 'N')
    with pytest.raises(PassingError, match='b.hea.*check the disk'):
        build(db, tmp_path/'s', replace(MINE, read_episodes=away), skip_damaged=True)
    assert not (tmp_path/'s').exists()


# ---- what is noted

def test_one_recording_under_two_names(db, tmp_path):
    def twin(name, of):
        shutil.copy(db/f'{of}.dat', db/f'{name}.dat')
        shutil.copy(db/f'{of}.hea', db/f'{name}.hea')
        edit(db/f'{name}.hea', (f'{of}.dat', f'{name}.dat'))
        edit(db/f'{name}.hea', (f'{of} ', f'{name} '), times=1)
    twin('d', 'a'), twin('e', 'b')
    (db/'RECORDS').unlink()
    def people(paths, folder, db):
        return one_each(paths, folder, db).assign(subject=['A', 'B', 'C', 'D', 'B'])
    notes = build(db, tmp_path/'s', replace(MINE, read_subjects=people)).meta['notes']
    assert any(n.startswith('a, d have the same signal files') and '2 subjects (A, D)' in n for n in notes)
    assert any(n.startswith('b, e have the same signal files') and 'of one subject' in n for n in notes)
    assert len(notes) == 2


@pytest.mark.parametrize('scale, unit, words', [
    (1, 'V', r'leads I, II of 3 records \(a, b, c\): amplitude 2\d{3} mV, outside 0.02 to 50 mV'),
    (1, 'uV', 'leads I, II of 3 records.*amplitude 0.00'),
    (1, 'mV', None)])
def test_amplitudes_that_cannot_be_are_noted_in_one_line(db, tmp_path, scale, unit, words):
    for name in 'abc':
        text = (db/f'{name}.hea').read_text()
        assert '/mV' in text
        (db/f'{name}.hea').write_text(text.replace('/mV', f'/{unit}'))
    notes = build(db, tmp_path/'s', config=CONFIG.replace(dtype='float32')).meta['notes']
    odd = [n for n in notes if 'amplitude' in n]
    assert len(odd) == bool(words)
    if words:
        import re
        assert re.search(words, odd[0]) and 'check gain and unit' in odd[0]


def test_one_odd_lead_of_one_record(db, tmp_path):
    lines = (db/'b.hea').read_text().splitlines()
    lines[2] = lines[2].replace('/mV', '/V')
    (db/'b.hea').write_text('\n'.join(lines) + '\n')
    notes = [n for n in build(db, tmp_path/'s', config=CONFIG.replace(dtype='float32')).meta['notes']
             if 'amplitude' in n]
    assert len(notes) == 1 and notes[0].startswith('lead II of b: amplitude')


def test_notes_of_records_and_descriptions_reach_the_store_one_line_a_kind(tmp_path, capsys):
    db = tmp_path/'db'
    for i, name in enumerate('abcdefghi'): write_record(db, name, seed=i, leads=('I', 'II', 'HIS D'))
    def late(record, _):
        start = 1000 + 100*int(record.name == 'c')
        episode = dict(start=[start], stop=[record.sig_len], rhythm=['N'], beats=[-1])
        return pd.DataFrame(episode), whole_record_episode(record, 'N')[1]
    store = build(db, tmp_path/'s', replace(MINE, read_episodes=late), progress=True)
    unknown = [n for n in store.meta['notes'] if 'HIS D' in n]
    assert len(unknown) == 1 and unknown[0].startswith('a, b, c, d, e, f and 3 more: ')
    late = [n for n in store.meta['notes'] if 'belong to no rhythm' in n]
    assert len(late) == 1
    assert late[0].startswith('a: 4.0 of 20.0 s')
    assert late[0].endswith('likewise b, c, d, e, f, g and 2 more')
    said = capsys.readouterr().err
    assert all(f'note: {n}' in said for n in store.meta['notes'])


def test_no_locks_is_a_note_and_a_second_build_waits(db, tmp_path, monkeypatch):
    import fcntl
    def refuse(*_): raise OSError(errno.ENOLCK, 'No locks available')
    with monkeypatch.context() as m:
        m.setattr(fcntl, 'flock', refuse)
        assert any('no locks' in n for n in build(db, tmp_path/'s').meta['notes'])
    (tmp_path/'t.part').mkdir()
    with locks_.hold_lock(tmp_path/'t.part'/'lock', 'building this store'):
        with pytest.raises(PedarrError, match=f'process {os.getpid()} on .* is building this store'):
            build(db, tmp_path/'t')
        assert (tmp_path/'t.part'/'lock').exists()
    assert len(build(db, tmp_path/'t')) and not (tmp_path/'t.part').exists()


# ---- rates and bands

def test_the_band_of_electrograms_matters_only_where_there_are_some(db, tmp_path):
    config = PreprocessConfig(rate=250.)
    assert build(db, tmp_path/'s', config=config).fs == 250
    write_record(db, 'c', leads=('II', 'CS12'))
    with pytest.raises(PedarrError, match='iegm_band.*half the rate, 125 Hz: use --iegm-band 30 110') as e:
        build(db, tmp_path/'t', config=config)
    assert '\n' not in str(e.value) and not (tmp_path/'t.part').exists()
    assert build(db, tmp_path/'t', config=config.replace(iegm_band=(30., 110.))).mask[:, 12:].any()


def test_a_database_may_have_its_own_rate_and_bands(db, tmp_path):
    slow = replace(MINE, rate=100., ecg_band=(.5, 40.))
    assert default_config(slow) == PreprocessConfig(rate=100., ecg_band=(.5, 40.))
    assert default_config(MINE) == PreprocessConfig()
    assert default_config(slow, rate=200, window=None, guard=0).rate == 200
    assert default_config(slow, ecg_band=(1, 30)).ecg_band == (1., 30.)
    assert build_store(db, tmp_path/'s', slow, progress=False).fs == 100


@pytest.mark.parametrize('settings', [
    dict(order=np.int64(2)), dict(rate=np.float64(125)), dict(rate=np.int32(125)),
    dict(ecg_band=np.array([.5, 40.])), dict(window=np.float32(3))])
def test_numbers_of_numpy_are_numbers(db, tmp_path, settings):
    config = CONFIG.replace(**settings)
    assert all(type(v) in (int, float, str, tuple, type(None)) for v in vars(config).values())
    assert build(db, tmp_path/'s', config=config).config == CONFIG


@pytest.mark.parametrize('settings', [
    dict(order=True), dict(order=2.5), dict(order='two'), dict(rate=True), dict(rate='125 Hz'),
    dict(window=np.bool_(True)), dict(ecg_band='30'), dict(ecg_band=(True, 40)), dict(rate=[125]),
    dict(guard=np.nan), dict(rate=None)])
def test_what_is_no_number_is_refused(settings):
    name, = settings
    with pytest.raises(PedarrError, match=f'parameter {name}[.0]* is .*: it must be [a-z]') as e:
        CONFIG.replace(**settings)
    assert '\n' not in str(e.value)


# ---- reading a store

def altered(made, tmp_path, change):
    "A copy of the store with its `store.json` changed by a function."
    path = shutil.copytree(made.path, tmp_path/'s')
    meta = json.loads((path/'store.json').read_text())
    change(meta)
    (path/'store.json').write_text(json.dumps(meta))
    return path


def test_the_seal_covers_what_the_hashes_do_not(made, tmp_path):
    assert made.seal == hashlib.sha256((made.path/'store.json').read_bytes()).hexdigest()
    path = altered(made, tmp_path, lambda meta: meta.update(simulated=True))
    other = open_store(path)
    assert other.meta['simulated'] is True
    assert other.seal != made.seal
    assert other.meta['sha256'] == made.meta['sha256']


@pytest.mark.parametrize('entry, value', [
    ('simulated', 'no'), ('simulated', 0), ('segments', -1), ('segments', 10**12), ('segments', '18'),
    ('segments', True), ('classes', []), ('classes', ['SR', 'SR']), ('classes', 'SR'), ('notes', 'x'),
    ('notes', [1]), ('sha256', {}), ('sha256', {'ecg.npy': 'x'}),
    ('records', {'a': {'fs': 0, 'sig_len': 5}}), ('records', None), ('config', {}),
    ('config', {'rate': 1e9}), ('config', {'nope': 1}), ('unit', 'V'), ('database', ''), ('versions', []),
    ('mapping', {'N': ''}), ('skipped', None)])
def test_entries_of_store_json_have_a_type_and_a_range(made, tmp_path, entry, value):
    path = altered(made, tmp_path, lambda meta: meta.update({entry: value}))
    with pytest.raises(PedarrError, match='damaged|belong|no hash|altered') as e:
        open_store(path, verify=entry == 'config')
    assert '\n' not in str(e.value) and type(e.value) is PedarrError


@pytest.mark.parametrize('entry', [
    'simulated', 'config', 'sha256', 'classes', 'segments', 'notes', 'skipped', 'records', 'sources',
    'labels', 'versions'])
def test_every_entry_must_be_there(made, tmp_path, entry):
    path = altered(made, tmp_path, lambda meta: meta.pop(entry))
    with pytest.raises(PedarrError, match=f'store.json: damaged.*{entry}'): open_store(path)


def test_no_size_is_believed_before_the_file_has_it(made, tmp_path):
    "A store that claims a terabyte is refused by the length of its files, not by the memory."
    def bigger(meta): meta['config'].update(window=600, rate=10_000, chunk=600)
    path = altered(made, tmp_path, bigger)
    with pytest.raises(PedarrError, match='ecg.npy: damaged.*bytes where.*takes'):
        open_store(path, verify=False)


@pytest.mark.parametrize('header', [
    b"{'descr': '<f2', 'fortran_order': True", b'\x93NUMPY\x02\x00', bytes(64)])
def test_the_header_of_an_array_is_compared_not_evaluated(made, tmp_path, header):
    path = shutil.copytree(made.path, tmp_path/'s')
    raw = bytearray((path/'ecg.npy').read_bytes())
    at = 10 if header.startswith(b'{') else 0
    raw[at:at + len(header)] = header
    (path/'ecg.npy').write_bytes(raw)
    with pytest.raises(PedarrError, match='ecg.npy: damaged'): open_store(path, verify=False)


@pytest.mark.parametrize('change, words', [
    (lambda t: t.assign(label='XX'), 'no class'),
    (lambda t: t.assign(record='zz'), 'not one of store.json'),
    (lambda t: t.assign(subject=''), 'no subject'),
    (lambda t: t.assign(start=t.stop), 'begin before it ends'),
    (lambda t: t.assign(segment=0), 'numbered'),
    (lambda t: t.iloc[:-1], 'rows where'),
    (lambda t: t.assign(beats=-2), 'beats'),
    (lambda t: t.assign(start='x'), "'x' in row 1"),
    (lambda t: t.assign(evaluate='yes'), "'yes' in row 1"),
    (lambda t: t.drop(columns='age'), 'age'),
    (lambda t: t.assign(more=1), 'columns'),
    (lambda t: t.iloc[:0], 'no row'),
    (lambda t: t.assign(age='inf'), 'inf')])
def test_a_table_that_somebody_edited(made, tmp_path, change, words):
    path = shutil.copytree(made.path, tmp_path/'s')
    change(made.segments).to_csv(path/'segments.csv', index=False, lineterminator='\n')
    with pytest.raises(PedarrError, match=f'segments.csv: damaged.*{words}') as e:
        open_store(path, verify=False)
    assert '\n' not in str(e.value)


def test_names_that_look_like_something_else_stay_text(db, tmp_path, monkeypatch):
    names = {'N': '1', 'AFIB': 'True', 'VT': 'NA', 'AVRT': '1e5', 'AFL': 'a,"b"', 'A': 'None'}
    monkeypatch.setitem(GROUPINGS, 'odd', names)
    def parts(record, _):
        edges = np.linspace(0, record.sig_len, len(names) + 1).astype(int)
        episodes = dict(start=edges[:-1], stop=edges[1:], rhythm=list(names), beats=-1)
        return pd.DataFrame(episodes), whole_record_episode(record, 'N')[1]
    def people(paths, folder, db):
        return one_each(paths, folder, db).assign(subject=['007', 'nan', 'False'], cohort='1.0')
    config = CONFIG.replace(window=1., rare_stride=None)
    store = open_store(build(db, tmp_path/'s', replace(MINE, read_episodes=parts, read_subjects=people),
                             grouping='odd', config=config).path)
    assert store.classes == list(names.values())
    assert store.segments.label.unique().tolist() == list(names.values())
    assert store.segments.subject.unique().tolist() == ['007', 'nan', 'False']
    assert set(store.segments.cohort) == {'1.0'}
    assert set(store.segments.sex) == {''}
    assert store.segments.age.isna().all() and store.segments.rhythm.unique().tolist() == list(names)


def test_passing_faults_do_not_say_damaged(made, tmp_path, monkeypatch):
    real_open = os.open
    def failing(number):
        def opened(path, *a, **k):
            if str(path).endswith('ecg.npy'): raise OSError(number, os.strerror(number), str(path))
            return real_open(path, *a, **k)
        return opened
    for number in (errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOMEM):
        store_._VERIFIED.clear()
        with monkeypatch.context() as m:
            m.setattr(os, 'open', failing(number))
            for verify in (True, False):
                with pytest.raises(PassingError, match='ecg.npy') as e: open_store(made.path, verify=verify)
                assert 'delete' not in str(e.value) and 'damaged' not in str(e.value)
    assert len(open_store(made.path)) == len(made)


def test_folders_and_pipes_in_the_place_of_files(made, tmp_path):
    path = shutil.copytree(made.path, tmp_path/'s')
    for name in ('mask.npy', 'segments.csv', 'store.json'):
        (path/name).rename(path/'aside')
        os.mkfifo(path/name)
        with pytest.raises(PedarrError, match=f'{name}.*pipe'): open_store(path)
        (path/name).unlink()
        (path/name).mkdir()
        with pytest.raises(PedarrError, match=name): open_store(path)
        (path/name).rmdir()
        (path/'aside').rename(path/name)
    assert len(open_store(path)) == len(made)


def test_a_store_is_hashed_once_in_a_process(made, tmp_path, monkeypatch):
    path = shutil.copytree(made.path, tmp_path/'s')
    hashed, real_hash = [], files_.sha256
    everywhere(monkeypatch, files_, 'sha256',
               lambda file, *a: (hashed.append(file.name), real_hash(file, *a))[1])
    open_store(path)
    assert sorted(hashed) == sorted(store_.FILES)
    open_store(path)
    assert len(hashed) == 5
    os.utime(path/'ecg.npy')
    open_store(path)
    assert hashed[5:] == ['ecg.npy']
    raw = bytearray((path/'mask.npy').read_bytes())
    raw[-1] ^= 1
    (path/'mask.npy').write_bytes(raw)
    with pytest.raises(PedarrError, match='mask.npy: altered'): open_store(path)


# ---- only the channels that exist, and the beats

def test_a_store_holds_only_the_channels_that_a_record_has(made, tmp_path):
    """Two leads: two rows on the disk, twelve and seven for who reads; whole and as before where all are
    there."""
    n, samples = len(made), CONFIG.samples
    assert made.meta['stored'] == ['I', 'II'] and (made.path/'ecg.npy').stat().st_size == 128 + 2*2*n*samples
    assert (made.path/'iegm.npy').stat().st_size == 128
    assert made.ecg.shape == (n, 12, samples)
    assert made.iegm.shape == (n, 7, samples)
    assert made.ecg.dtype == np.float16
    ecg, iegm = made.take(slice(None))
    assert ecg.shape == (n, 12, samples)
    assert iegm.shape == (n, 7, samples)
    assert ecg[:, :2].any()
    assert not ecg[:, 2:].any()
    assert not iegm.any()
    np.testing.assert_array_equal(np.asarray(made.ecg), ecg)
    np.testing.assert_array_equal(made.ecg[3], ecg[3])
    some = np.arange(n) % 2 == 0
    for key in ((some, slice(2)), (slice(None), 1, slice(5, 9)), (4, 0), ([3, 1], slice(None), 7)):
        np.testing.assert_array_equal(made.ecg[key], ecg[key])
    leads = [*ECG_LEADS, *IEGM_CHANNELS]
    write_record(tmp_path/'db', 'a', leads=leads[::-1])
    write_record(tmp_path/'db', 'b', seed=1)
    both = build(tmp_path/'db', tmp_path/'s')
    assert both.meta['stored'] == leads and isinstance(both.ecg, np.memmap)
    only_b = lambda r, db: whole_record_episode(r, 'N' if r.name == 'b' else 'XYZ')
    alone = build(tmp_path/'db', tmp_path/'t', db=replace(MINE, read_episodes=only_b))
    assert alone.meta['stored'] == leads  # a record without a window counts


def test_channels_of_several_records_come_together(tmp_path):
    write_record(tmp_path/'db', 'a', leads=('V2', 'I'))
    write_record(tmp_path/'db', 'b', seed=1, leads=('CS12',))
    store = build(tmp_path/'db', tmp_path/'s')
    ecg, iegm = store.take(slice(None))
    a = (store.segments.record == 'a').to_numpy()
    assert store.meta['stored'] == ['I', 'V2', 'CS12']
    assert np.array_equal(store.mask, np.concatenate([ecg.any(2), iegm.any(2)], axis=1))
    assert ecg[a][:, [0, 7]].any(2).all()
    assert iegm[~a][:, 2].any(1).all()
    assert not ecg[~a].any()
    assert not iegm[a].any()
    other = build(tmp_path/'db', tmp_path/'t', config=CONFIG.replace(dtype='float32'))
    np.testing.assert_allclose(other.take([0])[0], store.take([0])[0], atol=2e-3)
    assert pickle.loads(pickle.dumps(store)).take([1])[0].shape == (1, 12, CONFIG.samples)


@pytest.mark.parametrize('version', [1, 2])
def test_a_store_of_an_older_version_is_refused(made, tmp_path, version):
    path = altered(made, tmp_path, lambda meta: meta.update(store_version=version))
    with pytest.raises(PedarrError,
                       match=f'has version {version}, this pedarr reads version 3: move it away') as e:
        open_store(path)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('stored, words', [
    (['I'], 'ecg.npy: damaged.*bytes where'), (['I', 'XX'], 'store.json: damaged.*stored'),
    ([], 'ecg.npy: damaged')])
def test_channels_that_the_arrays_do_not_have(made, tmp_path, stored, words):
    path = altered(made, tmp_path, lambda meta: meta.update(stored=stored))
    with pytest.raises(PedarrError, match=words): open_store(path, verify=False)


def test_beats_lie_where_they_were_annotated(tmp_path):
    "Some beats a window, in samples of the store; -1 and none where beats were not annotated."
    for i, name in enumerate('ab'): write_record(tmp_path/'db', name, seed=i)
    at = {'a': np.array([10, 500, 501, 1500, 2600, 4999]), 'b': np.arange(62, 4900, 250)}
    for name, x in at.items(): wfdb.wrann(name, 'atr', x, ['N']*len(x), write_dir=str(tmp_path/'db'))
    store = build(tmp_path/'db', tmp_path/'s', db=replace(MINE, annotator='atr'))
    assert (store.segments.beats >= 0).all()
    assert len(store.beats) == len(store)
    assert sum(map(len, store.beats)) > 20
    for row, beats in zip(store.segments.itertuples(), store.beats):
        x = at[row.record]
        want = (x[(x >= row.start) & (x < row.stop)] - row.start)/FS*CONFIG.rate
        assert len(beats) == row.beats == len(want) and np.abs(beats - want).max(initial=0) <= 1
        assert beats.dtype == np.int32 and (np.diff(beats) >= 0).all()
    without = build(tmp_path/'db', tmp_path/'t')
    assert (without.segments.beats == -1).all() and [len(b) for b in without.beats] == [0]*len(without)
    raw = bytearray((store.path/'beats.npy').read_bytes())
    raw[-4:] = np.int32(CONFIG.samples).tobytes()
    (store.path/'beats.npy').write_bytes(raw)
    with pytest.raises(PedarrError, match='beats.npy: altered'): open_store(store.path)
    with pytest.raises(PedarrError, match='beats.npy: damaged.*outside its window'):
        open_store(store.path, verify=False)


# ---- windows without a label

def half(record, db):
    "Ten seconds of sinus rhythm, three of a rhythm that no grouping has; the rest is not annotated."
    episodes = pd.DataFrame({
        'start': [0, 2500], 'stop': [2500, 3500], 'rhythm': ['N', 'XYZ'], 'beats': [-1, -1]})
    return episodes, pd.DataFrame({'start': pd.Series(dtype=int), 'stop': pd.Series(dtype=int)})


def nothing(record, db): return half(record, db)[0].iloc[:0], half(record, db)[1]


HALF = replace(MINE, read_episodes=half)


def test_windows_without_a_label_are_kept_if_asked_for(db, tmp_path):
    some, more = build(db, tmp_path/'s', db=HALF), build(db, tmp_path/'m', db=HALF, unlabelled=True)
    t = more.segments
    none = (t.label == '').to_numpy()
    assert set(t.rhythm[none]) == {'', 'XYZ'}
    assert not t.evaluate[none].any()
    assert set(t.label[~none]) == {'SR'}
    assert more.classes == ['SR']
    same = [c for c in t if c != 'segment']
    assert t[~none][same].reset_index(drop=True).equals(some.segments[same])
    # cut from other chunks: equal but for the last digit
    for x, y in zip(more.take(~none), some.take(slice(None))):
        np.testing.assert_allclose(x.astype(float), y.astype(float), atol=2e-3)
    assert (t.stop[none & (t.rhythm == '')] <= SECONDS*FS).all()
    assert (t.start[none & (t.rhythm == '')] >= 3500).all()
    assert any('give segments without a label' in n for n in more.meta['notes'])
    assert more.meta['unlabelled']
    assert not some.meta['unlabelled']
    for other, words in ((False, 'made with windows'), (True, 'made without windows')):
        with pytest.raises(PedarrError, match=f'{words} that have no label'):
            build(db, (more, some)[other].path, db=HALF, unlabelled=other)


def test_no_split_and_no_balance_uses_windows_without_a_label(db, tmp_path):
    from pedarr.signals.batches import SegmentDataset, make_loader
    from pedarr.signals.roles import all_roles, check_roles
    from pedarr.signals.splits import check_split, make_split, split_notes
    store = build(db, tmp_path/'s', db=HALF, unlabelled=True)
    none = (store.segments.label == '').to_numpy()
    for kind, folds in (('patient', 3), ('loso', 3), ('segment', 3)):
        fold = make_split(store.segments, kind, folds)
        only = make_split(store.segments[~none].reset_index(drop=True), kind, folds)
        assert (fold[none] == -1).all() and np.array_equal(fold[~none], only)
        check_split(store.segments, fold, kind)
        roles = all_roles(store.segments, fold, kind)
        check_roles(store.segments, fold, roles, kind)
        assert (roles[none] == '').all()
        assert split_notes(store.segments, fold) == split_notes(store.segments[~none], only)
    data = SegmentDataset(store, np.arange(len(store)))
    assert (data.label[none] == -1).all()
    assert (data.label[~none] == 0).all()
    assert len(next(iter(make_loader(data, 4))).index) == 4
    with pytest.raises(PedarrError, match='balanced batches need a label'):
        make_loader(data, 4, sampling='balanced')


def test_a_store_without_any_label(db, tmp_path):
    bare = replace(MINE, read_episodes=nothing)
    with pytest.raises(PedarrError, match='it has no episode'): build(db, tmp_path/'s', db=bare)
    store = build(db, tmp_path/'s', db=bare, unlabelled=True)
    assert store.classes == []
    assert set(store.segments.label) == {''}
    assert len(open_store(store.path)) == len(store) > 10
    path = altered(store, tmp_path/'x', lambda meta: meta.update(unlabelled=False))
    with pytest.raises(PedarrError, match='store.json: damaged.*classes'): open_store(path)
    with pytest.raises(PedarrError, match='fewer than'):
        from pedarr.signals.splits import make_split
        make_split(store.segments, n_folds=2)


def test_an_unlabelled_row_in_a_store_that_has_none(made, tmp_path):
    path = shutil.copytree(made.path, tmp_path/'s')
    text = (path/'segments.csv').read_text().replace(',SR,', ',,', 1)
    (path/'segments.csv').write_text(text)
    with pytest.raises(PedarrError, match='a label is no class'): open_store(path, verify=False)


# ---- statements on a recording, and the database's own folds

@dataclass(frozen=True)
class Described(Database):
    "A description that knows statements and folds."
    read_statements: Callable = None
    read_folds: Callable = None


SAID = {'a': ['SR', 'NORM'], 'b': [], 'c': ('IRBBB', 'SR', 'SR')}
FULL = Described('mine', 'made up', 'rhythm8', sinus, one_each,
                 read_statements=lambda record, db: SAID[record.name],
                 read_folds=lambda paths, folder, db: {p.stem: 3*i for i, p in enumerate(paths)
                                                       if p.stem != 'b'})


def test_statements_of_a_recording_and_their_targets(db, tmp_path, made):
    store = build(db, tmp_path/'s', db=FULL)
    of = store.segments.groupby('record').statements.first().to_dict()
    assert of == {
        'a': 'NORM|SR', 'b': '', 'c': 'IRBBB|SR'} and store.meta['statements'] == ['IRBBB', 'NORM', 'SR']
    targets = store.targets()
    assert targets.shape == (len(store), 3) and targets.dtype == np.float32
    for row, name in enumerate(store.segments.record):
        assert targets[row].tolist() == {'a': [0, 1, 1], 'b': [0, 0, 0], 'c': [1, 0, 1]}[name]
    np.testing.assert_array_equal(store.targets([5, 0]), targets[[5, 0]])
    assert made.targets().shape == (len(made), 0)
    assert made.meta['statements'] == []
    assert (made.segments.official == -1).all()
    for x, y in zip(store.take(slice(None)), made.take(slice(None))): np.testing.assert_array_equal(x, y)
    path = altered(store, tmp_path/'x', lambda meta: meta.update(statements=['SR']))
    with pytest.raises(PedarrError, match='a statement is none of store.json'): open_store(path)
    other = replace(FULL, read_statements=lambda record, db: ['SR'])
    with pytest.raises(PedarrError, match='other labels of record a, b, c'): build(db, tmp_path/'s', db=other)


@pytest.mark.parametrize('said', ['SR', ['A|B'], [3], [''], 7, {'SR': 1}])
def test_statements_that_are_no_names(db, tmp_path, said):
    with pytest.raises(PedarrError, match='its statements .* must be a list of names') as e:
        build(db, tmp_path/'s', db=replace(FULL, read_statements=lambda record, db: said))
    assert '\n' not in str(e.value) and not (tmp_path/'s').exists()


def test_official_folds(db, tmp_path):
    from pedarr.signals.roles import all_roles, check_roles, read_split, split_table
    from pedarr.signals.splits import check_split, make_split
    store = build(db, tmp_path/'s', db=FULL)
    assert store.segments.groupby('record').official.first().to_dict() == {
        'a': 0, 'b': -1, 'c': 6} and store.meta['folds'] == {'a': 0, 'b': -1, 'c': 6}
    fold = make_split(store.segments, 'official', n_folds=1)
    assert store.segments.assign(fold=fold).groupby('record').fold.unique().map(list).to_dict() == {
        'a': [0], 'b': [-1], 'c': [1]}
    check_split(store.segments, fold, 'official')
    roles = all_roles(store.segments, fold, 'official')
    check_roles(store.segments, fold, roles, 'official')
    tables_.write_table(tmp_path/'split.csv', split_table(store.segments, fold, roles))
    assert np.array_equal(read_split(tmp_path/'split.csv', store.segments, 'official'), fold)
    with pytest.raises(PedarrError, match='names one, not 2'):
        from pedarr.signals.splits import repeated_splits
        repeated_splits(store.segments, 'official', repeats=2)
    moved = replace(FULL, read_folds=lambda paths, folder, db: dict(a=1, b=1, c=2))
    with pytest.raises(PedarrError, match='other official folds'): build(db, tmp_path/'s', db=moved)


def test_official_folds_that_cannot_be(db, tmp_path, made):
    from pedarr.signals.splits import make_split
    with pytest.raises(PedarrError, match='names no folds of its own'): make_split(made.segments, 'official')
    for folds, words in (
            (dict(a=.5), "fold '0.5' of record a"), (dict(a=-2), "fold '-2'"),
            (dict(a=True), "fold 'True'")):
        with pytest.raises(PedarrError, match=words):
            build(db, tmp_path/'s', db=replace(FULL, read_folds=lambda *a, f=folds: f))
    people = lambda paths, folder, db: one_each(paths, folder, db).assign(subject='x')
    with pytest.raises(PedarrError, match='the folds part subject x'):
        build(db, tmp_path/'s', db=replace(FULL, read_subjects=people))
    def broken(paths, folder, db): return 1/0
    with pytest.raises(PedarrError, match="read_folds of database 'mine' failed with ZeroDivisionError"):
        build(db, tmp_path/'s', db=replace(FULL,
         read_folds=broken))


# ---- used for hours

def test_take_gives_what_the_maps_give(made):
    for rows in ([0], [3, 1, 1, 7], np.array([5, 2]), slice(2, 9), slice(None), np.arange(len(made)) % 3 == 0,
                 -1, []):
        for taken, x in zip(made.take(rows), (made.ecg, made.iegm)):
            np.testing.assert_array_equal(taken,
                                          np.atleast_3d(x[rows]) if np.ndim(x[rows]) == 3 else x[rows][None])
            assert taken.dtype == x.dtype
    changed = replace(made, mask=made.mask & False)
    np.testing.assert_array_equal(changed.take([4])[0], made.take([4])[0])
    other = pickle.loads(pickle.dumps(replace(made, classes=['only'], mask=made.mask & False)))
    np.testing.assert_array_equal(other.take([4])[1], made.take([4])[1])
    assert other.classes == ['only'] and not other.mask.any() and other.seal == made.seal
    with pytest.raises(IndexError): made.take([len(made)])


def test_overwritten_in_place_with_the_same_size(made, tmp_path):
    path = shutil.copytree(made.path, tmp_path/'s')
    store = open_store(path)
    assert store.unchanged() is None
    with open(path/'ecg.npy', 'r+b') as f:
        f.seek(5000)
        f.write(b'\x12\x34'*1000)
    with pytest.raises(PedarrError, match='ecg.npy: was changed while it was used') as e: store.unchanged()
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('name', [*store_.FILES, 'store.json'])
def test_each_file_is_looked_at_again(made, tmp_path, name):
    path = shutil.copytree(made.path, tmp_path/'s')
    store = open_store(path)
    os.utime(path/name)
    assert store.unchanged() is None                            # only touched
    raw = (path/name).read_bytes()
    (path/name).write_bytes(raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:])
    with pytest.raises(PedarrError, match=f'{name}: was changed'): store.unchanged()
    (path/name).write_bytes(raw)
    assert store.unchanged() is None                            # as it was
    (path/name).unlink()
    with pytest.raises(PedarrError, match=name): store.unchanged()


def test_a_store_that_took_the_place_of_another_is_not_opened_by_workers(made, tmp_path):
    path = shutil.copytree(made.path, tmp_path/'s')
    sent = pickle.dumps(open_store(path))
    meta = json.loads((path/'store.json').read_text())
    (path/'store.json').write_text(json.dumps(meta | {'simulated': True}))
    with pytest.raises(PedarrError, match='another store took the place'): pickle.loads(sent)


CUT_SHORT = """
import os, sys
from pedarr.core.errors import PedarrError
from pedarr.signals.store import open_store
store = open_store(sys.argv[1])
os.truncate(store.path/'ecg.npy', 8192)
os.truncate(store.path/'iegm.npy', 8192)
try: store.take(range(len(store)))
except PedarrError as e: print(e)
try: store.unchanged()
except PedarrError as e: print(e)
"""


def test_cut_short_while_it_is_used_is_an_error_not_the_end_of_the_process(made, tmp_path):
    path = shutil.copytree(made.path, tmp_path/'s')
    done = subprocess.run([sys.executable, '-c', CUT_SHORT, str(path)], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr[-300:])          # not -SIGBUS
    first, second = done.stdout.splitlines()
    assert 'ecg.npy: became shorter while it was used' in first
    assert 'ecg.npy: was changed while it was used' in second


def test_what_is_built_is_what_is_opened(made):
    "Everything in store.json that decides bytes is there, and reads back as it was written."
    raw = json.loads((made.path/'store.json').read_text())
    assert made.meta == raw and set(raw) == set(store_.StoreMeta.model_fields)
    assert raw['versions'].keys() == {'pedarr', 'numpy', 'scipy', 'wfdb'} and raw['signals']['a'] == [0, 1]
    assert raw['mapping'] == GROUPINGS['rhythm8'] and len(raw['labels']['a']) == 64


def test_a_description_of_lambdas_goes_to_other_processes(db, tmp_path):
    described = replace(MINE,
                        read_episodes=lambda record, _: whole_record_episode(record,
                                                                     'N' if record.name < 'c' else 'VT'),
                        read_subjects=lambda paths, folder, _: one_each(paths, folder, None))
    harm_record(db, 'b', 'cut')
    one, two = (build(db, tmp_path/f'{jobs}', described, jobs=jobs, skip_damaged=True) for jobs in (1, 2))
    for name in (*store_.FILES, 'store.json'):
        assert (one.path/name).read_bytes() == (two.path/name).read_bytes()
    assert one.classes == ['SR', 'VT'] and one.meta['skipped'] == ['b']


def test_a_record_of_segments_is_verified_file_by_file(tmp_path, monkeypatch):
    db = tmp_path/'db'
    for i, name in enumerate(('ma', 'mb', 'c')): write_record(db, name, seed=i)
    (db/'m.hea').write_text(f'm/3 2 {FS:g} 12000\nma 5000\n~ 2000\nmb 5000\n')
    write_sums(db)
    with monkeypatch.context() as m:
        everywhere(m, build_, '_seal', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt): build(db, tmp_path/'s')
    real_cut = windows_.cut_windows
    everywhere(monkeypatch, windows_, 'cut_windows', None)  # the finished part is taken as it is
    store = build(db, tmp_path/'s')
    everywhere(monkeypatch, windows_, 'cut_windows', real_cut)
    assert sorted(store.meta['sources']['m']) == ['m.hea', 'ma.dat', 'ma.hea', 'mb.dat', 'mb.hea']
    for name, sha in store.meta['sources']['m'].items():
        assert hashlib.sha256((db/name).read_bytes()).hexdigest() == sha
    assert set(store.segments.record) == {'c', 'm'}
    assert any('gaps between segments' in n for n in store.meta['notes'])
    (db/'mb.dat').write_bytes(swapped((db/'mb.dat').read_bytes()))
    with pytest.raises(PedarrError, match='mb.dat differs'): build(db, tmp_path/'t')
