"""Database descriptions on real headers and on odd folders."""
import dataclasses
import errno
import math
import os
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given, strategies as st

from conftest import real
from pedarr.core.errors import PassingError, PedarrError
from pedarr.data.known_databases import DATABASES, LEIPZIG, get_database, leipzig_subjects
from pedarr.data.common_readers import annotated_episodes, comment_subjects, whole_record_episode
from pedarr.data.own_database import load_database
from pedarr.data.subjects import read_subject_table
from pedarr.data.databases import Database
from pedarr.data.listing import FoundRecords, list_records, record_names
from pedarr.data.labels import check_episodes
from pedarr.data.subjects import parse_age
from pedarr.core.names import natural_key
from pedarr.data.annotations import read_annotations
from pedarr.data.groupings import get_grouping
from pedarr.data.rhythms import parse_episodes, poor_signal


@given(st.floats(0, 120).map(lambda a: round(a, 2)))
def test_ages_survive_the_slips_of_the_tables(age):
    assert parse_age(str(age)) == age
    assert parse_age(f'.{age}') == age or '.' not in str(age)


@pytest.mark.parametrize('text',
                         ['', 'unknown', None, float('nan'), '-1', 'NaN', '3 months', '14 d', '1e1', '131',
                          '9'*5000, '²'])
def test_unknown_ages_are_nan(text): assert math.isnan(parse_age(text))


@pytest.mark.parametrize('text, age', [
    ('.5', .5), ('0.5', .5), ('.14.3', 14.3), ('14,3', 14.3), ('>89', 89), ('12 years', 12), (7, 7),
    ('130', 130)])
def test_ages_as_tables_write_them(text, age): assert parse_age(text) == age


@given(st.lists(st.integers(0, 2000), min_size=1, unique=True))
def test_natural_order_is_by_number(numbers):
    assert [int(n[1:]) for n in sorted((f'x{n}' for n in numbers), key=natural_key)] == sorted(numbers)


def test_descriptions_are_frozen_and_complete():
    for name, db in DATABASES.items():
        assert db.name == name and db.licence and db.citation and get_grouping(db.grouping)
        with pytest.raises(FrozenInstanceError): db.name = 'other'


def test_unknown_database_lists_the_known():
    with pytest.raises(PedarrError, match='leipzig, mitdb, ludb, iafdb'): get_database('ptb')


def test_ludb_is_what_its_authors_published():
    db, folder = get_database('ludb'), real('ludb')
    paths = db.records(folder)
    assert len(paths) == 200 and paths[1].stem == '2'
    rhythms = pd.Series([db.episodes(db.open(p))[0].rhythm.item() for p in paths]).map(get_grouping('ludb7'))
    assert rhythms.value_counts().to_dict() == dict(SR=143, SB=25, AFIB=15, SA=8, ST=4, AFL=3, ISR=2)
    who = db.subjects(folder)
    assert who.subject.nunique() == 200 and set(who.sex) == {'M', 'F'} and who.age.between(10, 90).all()


def test_mitdb_episodes_and_subjects():
    db, folder = get_database('mitdb'), real('mitdb')
    who = db.subjects(folder)
    assert who.loc['100'].tolist() == ['mitdb-100', 'mitdb', 69.0, 'M'] and math.isnan(who.loc['103'].age)
    episodes, poor = db.episodes(db.open(folder/'106'))
    assert episodes.rhythm.value_counts().to_dict() == {'N': 21, 'B': 18, 'VT': 1, 'T': 1}
    assert (episodes.start.to_numpy()[1:] == episodes.stop.to_numpy()[:-1]).all()


def test_noise_of_one_lead_does_not_cost_a_recording():
    db, folder = get_database('mitdb'), real('mitdb')
    rec = db.open(folder/'105')      # a noisy record: 88 marks
    _, poor = db.episodes(rec)
    assert 0 < (poor.stop - poor.start).sum() < .2*rec.sig_len


def test_leipzig_tables():
    t = leipzig_subjects([], real('leipzig'), LEIPZIG)
    assert len(t) == 39
    assert t.loc['x007', 'age'] == 14.3
    assert t.cohort.value_counts().to_dict() == dict(children=29, adults=10)


def test_the_malformed_age_of_the_release(tmp_path):
    columns = ['subject_id', 'file_name', 'gender', 'age', 'diagnosis', 'ap_loacation', 'ecg_duration']
    row = '007,x007,M,.14.3,AVRT-PJRT,right,0:3:6'
    (tmp_path/'children-subject-info.csv').write_text(','.join(columns) + f'\n{row}\n')
    columns.remove('ap_loacation')
    (tmp_path/'adults-subject-info.csv').write_text(','.join(columns) + '\n')
    assert leipzig_subjects([], tmp_path, LEIPZIG).loc['x007', 'age'] == 14.3


@pytest.mark.parametrize('text, say', [
    ('', 'no column file_name'),
    ('file_name,age,age\n', 'more than one column age'),
    ('file_name,age\nx001\n', 'row 1 has 1 values for 2 columns'),
    ('file_name,age\nx001,1,2\n', 'row 1 has 3 values'),
    ('file_name,age\n,1\n', 'row 1 has no file_name'),
    ('file_name,age\n"x001,1\n', 'unexpected end of data'),
    ('file_name;age\nx001;1\n', 'no column file_name'),
    ('\udcff', "codec can't decode")])
def test_tables_that_lost_something_are_refused(tmp_path, text, say):
    (tmp_path/'t.csv').write_text(text, encoding='utf-8', errors='surrogateescape')
    with pytest.raises(PedarrError, match=f't.csv: .*{say}') as e:
        read_subject_table(tmp_path/'t.csv', ['file_name', 'age'])
    assert '\n' not in str(e.value)


def test_lawful_tables_are_read_as_they_are(tmp_path):
    (tmp_path/'t.csv').write_text('\ufefffile_name, age,note\n NA ,.5,"a, b"\n\nnull,,,,\n', encoding='utf-8')
    expected = [['NA', '.5', 'a, b'], ['null', '', '']]
    assert read_subject_table(tmp_path/'t.csv', ['file_name', 'age']).values.tolist() == expected


@pytest.mark.parametrize('names, say', [
    ('../x', "'../x' cannot"), ('a/../../x', 'cannot'), ('a//x', 'cannot'), ('/etc/x', 'cannot'),
    ('x\0', 'cannot'), ('y'*300, 'cannot')])
def test_lists_of_records_with_tricks_are_refused(tmp_path, names, say):
    (tmp_path/'RECORDS').write_text(names)
    with pytest.raises(PedarrError, match=f'RECORDS: .*{say}'): list_records(tmp_path)


def test_odd_names_can_be_sorted():
    (names := ['x²', 'x2', 'x' + '9'*5000, 'x10', '٣', '']).sort(key=natural_key)
    assert names.index('x2') < names.index('x10')


@pytest.mark.parametrize('comments, rhythm', [
    (['Rhythm: Sinus rhythm.'], 'Sinus rhythm'),
    (['x', '  Rhythm: Atrial flutter, typical. '], 'Atrial flutter, typical'),
    (['Rhythm: .'], None),
    (['Rhythm:'], None),
    (['Rhythm: A', 'Rhythm: B'], None),
    (['Rhythm: A', 'Rhythm: A.'], 'A'),
    (['Rhythm: A', 'Rhythm:'], None),
    ([], None)])
def test_one_rhythm_in_the_header(tmp_path, comments, rhythm):
    below = ''.join(f'#{c}\n' for c in comments)
    (tmp_path/'r.hea').write_text('r 1 500 10\nr.dat 16 200 12 0 0 0 0 II\n' + below)
    (tmp_path/'r.dat').write_bytes(bytes(20))
    db = get_database('ludb')
    found = db.labels(db.open(tmp_path/'r'))
    assert found.episodes.values.tolist() == ([[0, 10, rhythm, -1]] if rhythm else [])
    assert [n.startswith('r: left out: the header') for n in found.notes] == ([] if rhythm else [True])


def test_odd_folders(tmp_path):
    with pytest.raises(PedarrError, match='no WFDB records'): list_records(tmp_path)
    with pytest.raises(PedarrError, match='no such folder'): list_records(tmp_path/'x')
    (tmp_path/'RECORDS').write_text('\nx2\n\nx10\nx2\n')
    assert [p.stem for p in list_records(tmp_path)] == ['x2', 'x10']
    for name in ('x2', 'x10'): (tmp_path/f'{name}.hea').write_text('x 1 977 10')
    with pytest.raises(PedarrError, match='subject table is missing'): LEIPZIG.subjects(tmp_path)
    for odd in ('no\0folder', 'x'*300, 'RECORDS'):
        with pytest.raises(PedarrError, match='no such folder'): LEIPZIG.find(tmp_path/odd)


# ---- which files are records ---------------------------------------------------------------------

def header(folder, *names, text='x 1 250 10\n'):
    "Headers (of no signal) under `folder`."
    for name in names:
        path = folder/f'{name}.hea'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def sinus(record, db): return whole_record_episode(record, 'N')


def one_each(paths, folder, db):
    stems = [p.stem for p in paths]
    return pd.DataFrame({'subject': stems, 'cohort': 'c', 'age': math.nan, 'sex': ''}, index=stems)


def described(episodes=sinus, subjects=one_each, **more):
    return Database('mine', 'My cases', 'rhythm8', episodes, subjects, **more)


DB = described()


@pytest.mark.parametrize('odd', [
    '._a', '.hidden', '.backup/a', '.backup/deep/a', '__MACOSX/a', '__MACOSX/._a', '@eaDir/a',
    '$RECYCLE.BIN/a', 'sub/._b', 'sub/.git/a', 'lost+found/a'])
def test_files_of_other_systems_are_no_records(tmp_path, odd):
    header(tmp_path, 'a', odd)
    (tmp_path/'.DS_Store').write_bytes(b'\0')
    (tmp_path/'Thumbs.db').write_bytes(b'\0')
    found = DB.find(tmp_path)
    assert found.names == ['a'] and found.paths == [tmp_path/'a.hea'] == DB.records(tmp_path)
    looks_like_one = not odd.endswith('deep/a') and '__MACOSX/._' not in odd
    assert len(found.notes) == looks_like_one and all('left out' in n for n in found.notes)


def test_a_folder_named_like_a_header_is_searched_and_capitals_are_noted(tmp_path):
    header(tmp_path, 'a', 'b.hea/c')
    (tmp_path/'D.HEA').write_text('D 1 250 10\n')
    found = DB.find(tmp_path)
    assert found.names == ['a', 'c'] and any('D.HEA' in n and 'rename' in n for n in found.notes)


def test_linked_folders_are_followed_once(tmp_path):
    db, disk = tmp_path/'db', tmp_path/'disk2'
    header(db, 'one/a')
    header(disk, 'two/b', 'two/deep/c')
    (db/'two').symlink_to(disk/'two')
    (db/'again').symlink_to(disk/'two'/'deep')            # what is also reached through `two`
    (db/'one'/'up').symlink_to(db)                         # a circle
    (db/'one'/'self').symlink_to('self')                   # a link to itself
    (disk/'two'/'back').symlink_to(db)
    found = DB.find(db)
    there = [db/'one'/'a.hea', disk/'two'/'b.hea', disk/'two'/'deep'/'c.hea']
    assert sorted(p.resolve() for p in found.paths) == sorted(there)
    assert found.names == DB.find(db).names and any('one/up' in n and 'back' in n for n in found.notes)


def test_a_real_folder_counts_before_a_link_to_it(tmp_path):
    header(tmp_path, 'z/real/a')
    (tmp_path/'b').symlink_to(tmp_path/'z'/'real')
    assert DB.find(tmp_path).paths == [tmp_path/'z'/'real'/'a.hea']


def test_all_headers_that_cannot_be_read_are_named_at_once(tmp_path):
    header(tmp_path, 'good')
    header(tmp_path, 'empty1', 'empty2', text='')
    (tmp_path/'gone.hea').symlink_to(tmp_path/'nowhere')
    (tmp_path/'round.hea').symlink_to('round.hea')
    os.mkfifo(tmp_path/'pipe.hea')
    (tmp_path/'new\nline.hea').write_text('x')
    with pytest.raises(PedarrError, match='6 of 7 headers cannot be read') as e: DB.find(tmp_path)
    for said in ('empty: empty1, empty2', 'not there: gone', 'no regular file: pipe', 'round', 'new\\nline',
                 'printed'):
        assert said in str(e.value)
    assert not isinstance(e.value, PassingError) and '\n' not in str(e.value)
    damaged = {}
    assert DB.find(tmp_path, damaged).names == ['good'] and len(damaged) == 6 and damaged['empty1'] == 'empty'


def test_records_that_are_listed_but_absent_are_named_at_once(tmp_path):
    header(tmp_path, 'x2')
    (tmp_path/'RECORDS').write_text('x2\nx10\nsub/x3\n')
    with pytest.raises(PedarrError,
                       match=r'2 of 3 records in RECORDS cannot be read \(not there: sub/x3, x10\)'):
        DB.find(tmp_path)
    assert DB.find(tmp_path, damaged := {}).names == ['x2']
    assert damaged == {'x10': 'not there', 'x3': 'not there'}
    (tmp_path/'x2.hea').unlink()
    with pytest.raises(PedarrError, match='3 of 3'): DB.find(tmp_path, {})


def test_headers_that_are_not_listed_are_noted(tmp_path):
    header(tmp_path, *(f'x{i}' for i in range(1, 30)), 'sub/y')
    (tmp_path/'RECORDS').write_text('x10\nx2\n')
    found = DB.find(tmp_path)
    assert found.names == ['x2', 'x10']
    expected = ['28 headers are not in RECORDS and were left out: sub/y, x1, x3, x4, x5, x6 and 22 more']
    assert found.notes == expected
    (tmp_path/'RECORDS').write_text('')
    with pytest.raises(PedarrError, match='RECORDS: lists no record, but 30 headers lie beside it'):
        DB.find(tmp_path)


def test_a_record_listed_through_a_link_is_not_another_one(tmp_path):
    header(tmp_path, 'real/a')
    (tmp_path/'link').symlink_to(tmp_path/'real')
    (tmp_path/'RECORDS').write_text('link/a\n')
    found = DB.find(tmp_path)
    assert found.names == ['a'] and not any('not in RECORDS' in n for n in found.notes)


@pytest.mark.parametrize('text', [
    'p1/\np2/\n', 'p1\np2', './p1/\n./p2/a\n./p2/b', 'p1/a.hea\np2/a.hea\np2/b.hea',
    '\ufeffp1/a\r\np2/\r\n', 'p1/\np1/a\np2/\np2/\n'])
def test_lists_as_people_and_physionet_write_them(tmp_path, text):
    header(tmp_path, 'p1/a', 'p2/a', 'p2/b')
    (tmp_path/'RECORDS').write_text(text, encoding='utf-8')
    assert DB.find(tmp_path).names == ['p1/a', 'p2/a', 'b']


def test_a_listed_folder_has_a_list_of_its_own(tmp_path):
    header(tmp_path, 'p1/a', 'p1/b', 'p1/deep/c')
    for below, text in (('', 'p1/\n'), ('p1', 'b\ndeep/\n')): (tmp_path/below/'RECORDS').write_text(text)
    assert DB.find(tmp_path).names == ['b', 'c']
    (tmp_path/'p1'/'deep'/'RECORDS').write_text('c\nup/\n')
    (tmp_path/'p1'/'deep'/'up').symlink_to(tmp_path)                       # the lists lead round in a circle
    assert DB.find(tmp_path).names == ['b', 'c']
    for text in ('p1/\nempty/\n', 'p1/\nabsent/\n'):
        (tmp_path/'empty').mkdir(exist_ok=True)
        (tmp_path/'RECORDS').write_text(text)
        with pytest.raises(PedarrError,
                           match='RECORDS lists the folder (empty|absent)/, which holds no records'):
            DB.find(tmp_path)


def test_a_list_that_is_no_file_or_no_text_is_refused(tmp_path):
    header(tmp_path, 'a')
    no_text, no_end = (lambda p: p.write_bytes(b'\xff\xfe')), (lambda p: p.symlink_to('nowhere'))
    for make in (os.mkfifo, Path.mkdir, no_end, no_text):
        make(tmp_path/'RECORDS')
        with pytest.raises(PedarrError, match='RECORDS: '): DB.find(tmp_path)
        shutil.rmtree(tmp_path/'RECORDS') if (tmp_path/'RECORDS').is_dir() else (tmp_path/'RECORDS').unlink()
    with open(tmp_path/'RECORDS', 'wb') as f: f.truncate(1 << 40)          # a terabyte of nothing
    with pytest.raises(PedarrError, match='bytes where at most'): DB.find(tmp_path)


@pytest.mark.parametrize('error', [
    PermissionError(errno.EACCES, 'Permission denied'), OSError(errno.EIO, 'Input/output error')])
def test_a_folder_that_cannot_be_read_now_is_said_and_not_skipped(tmp_path, monkeypatch, error):
    header(tmp_path, 'a', 'private/b')
    scan = os.scandir
    def scandir(path):
        if Path(path).name == 'private': raise error
        return scan(path)
    monkeypatch.setattr(os, 'scandir', scandir)
    with pytest.raises(PassingError, match='private: cannot be searched'): DB.find(tmp_path)
    (tmp_path/'RECORDS').write_text('a\n')
    found = DB.find(tmp_path)
    assert found.names == ['a'] and any('private' in n for n in found.notes)


def test_segments_are_no_records_of_their_own(tmp_path):
    header(tmp_path, 'sub/s1', 'sub/s2', 'sub/s9', 's1')
    header(tmp_path, 'sub/multi', text='# pieces\nmulti/4 2 250 100\nlayout 0\ns1 50\n~ 10\ns2 40\n')
    header(tmp_path, 'sub/layout', text='layout 2 250 0\n')
    header(tmp_path, 'loop', text='loop/2 2 250 100\nloop 50\nsub/multi 50\n')
    for listed in (None, 'loop\ns1\nsub/multi\nsub/s9\n', 'loop\ns1\nsub/\n'):
        if listed: (tmp_path/'RECORDS').write_text(listed)
        found = DB.find(tmp_path)
        assert found.names == ['loop', 's1', 'multi', 's9'], listed
        said = [n for n in found.notes if 'segments' in n]
        assert len(said) == (listed is None or 'sub/\n' in listed) and all('sub/s1' in n for n in said)
        assert not any('not in RECORDS' in n for n in found.notes)


def test_the_same_name_in_several_folders(tmp_path):
    header(tmp_path, 'Person_01/rec_1', 'Person_02/rec_1', 'Person_02/rec_2', 'rec_1')
    found = DB.find(tmp_path)
    assert found.names == ['Person_01/rec_1', 'Person_02/rec_1', 'rec_2', 'rec_1']
    assert found.names == record_names(found.paths, tmp_path)
    def of_folders(paths, folder, db):
        return one_each(paths, folder, db).assign(subject=[p.parent.name for p in paths])
    who = described(subjects=of_folders).subjects(tmp_path).subject
    assert who.to_dict() == dict(zip(found.names, ['Person_01', 'Person_02', 'Person_02', tmp_path.name]))


def test_order_does_not_depend_on_chance(tmp_path):
    header(tmp_path, 'p1', 'p01', 'p001', 'p10', 'p2', 'é', 'P2')
    program = '''
import sys
from pedarr.data.known_databases import LEIPZIG
from pedarr.data.listing import list_records
found = LEIPZIG.find(sys.argv[1])
listed = [p.name for p in list_records(sys.argv[1])]
print([ascii(n) for n in found.names], listed == [p.name for p in found.paths])
'''
    def run(seed):
        return subprocess.run([sys.executable, '-c', program, str(tmp_path)], capture_output=True, text=True,
                              check=True, env={**os.environ, 'PYTHONHASHSEED': str(seed)}).stdout
    said = {run(seed) for seed in range(3)}
    assert said == {str([ascii(n) for n in ['P2', 'p001', 'p01', 'p1', 'p2', 'p10', 'é']]) + ' True\n'}


# ---- labels ------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def record(tmp_path_factory):
    "A record of 100 samples at 50 Hz, the least that is accepted."
    folder = tmp_path_factory.mktemp('record')
    (folder/'r.hea').write_text('r 1 50 100\nr.dat 16 200 12 0 0 0 0 II\n')
    (folder/'r.dat').write_bytes(bytes(200))
    return DB.open(folder/'r')


def table(*rows): return pd.DataFrame(rows, columns=['start', 'stop', 'rhythm', 'beats'][:len(rows[0])])


NONE = pd.DataFrame({'start': [], 'stop': []})


def labels(record, *given): return described(lambda record, db: given).labels(record)


@pytest.mark.parametrize('kind', [
    int, float, np.int64, np.int16, np.uint32, np.float32, 'Int64', 'Float64', object])
def test_whole_numbers_of_every_type_are_taken(record, kind):
    t = table([40, 100, 'AVNRT', 7], [10, 40, 'N', 3]).astype({c: kind for c in ('start', 'stop', 'beats')})
    found = labels(record, t, NONE)
    assert found.episodes.values.tolist() == [[10, 40, 'N', 3], [40, 100, 'AVNRT', 7]]
    assert [str(t) for t in found.episodes.dtypes[['start', 'stop', 'beats']]] == ['int64']*3
    assert all(isinstance(x, int) for x in found.episodes.start.tolist())


@pytest.mark.parametrize('episodes, said', [
    (table([0, 100, 'N'], [0, 100, 'AFIB']), r'N \[0, 100\) and AFIB \[0, 100\) overlap'),
    (table([0, 60, 'N'], [59, 100, 'AFIB']), r'N \[0, 60\) and AFIB \[59, 100\) overlap'),
    (table([0, 100, 'N'], [90, 95, 'AFL'], [10, 20, 'VT']), r'N \[0, 100\) and VT \[10, 20\) overlap'),
    (table([0, 101, 'N']), r'row 0, \[0, 101\), lies outside the recording of 100 samples'),
    (table([-1, 50, 'N']), r'row 0, \[-1, 50\), lies outside'),
    (table([0, 9, 'N'], [50, 40, 'N']), r'row 1, \[50, 40\), stops before it starts'),
    (table([.5, 50, 'N']), r'start in row 0 is 0.5, not a whole number: give sample numbers, not seconds'),
    (table(['0', 50, 'N']), r"start in row 0 is '0'"), (table([0, None, 'N']), 'stop in row 0 is None'),
    (table([0, math.nan, 'N']), 'stop in row 0 is nan'),
    (table([True, 50, 'N']), 'start in row 0 is True'),
    (table([pd.Timedelta(0), 50, 'N']), 'start in row 0 is Timedelta'),
    (table([2.**70, 2.**71, 'N']), 'not a whole number'),
    (table([0, 50, 3]), 'rhythm in row 0 is 3, not text'),
    (table([0, 50, None]), 'rhythm in row 0 is None'),
    (table([0, 50, 'N', -2]), '-2 beats cannot be'), (table([0, 50, 'N', 1.5]), 'beats in row 0 is 1.5'),
    (table([0, 50, 'N']).drop(columns='rhythm'), "has no column 'rhythm'"),
    (table([0, 50, 'N']).set_axis(['start', 'start', 'rhythm'], axis=1), "2 columns 'start'"),
    (None, 'is a NoneType, not a pandas DataFrame'), ([(0, 50, 'N')], 'is a list'),
    (pd.DataFrame(), "no column 'start'")])
def test_episodes_that_cannot_be_are_refused_in_one_line(record, episodes, said):
    with pytest.raises(PedarrError, match=said) as e: labels(record, episodes, NONE)
    assert str(record.path) in str(e.value) and "read_episodes of database 'mine'" in str(e.value)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('returned, said', [
    (None, 'returned a NoneType'), (table([0, 50, 'N']), 'returned a DataFrame'),
    ((table([0, 50, 'N']),), 'returned a tuple'),
    ((table([0, 50, 'N']), NONE, [1]), 'notes that are no list'),
    ((table([0, 50, 'N']), NONE, 7), 'notes that are no list'),
    ((table([0, 50, 'N']), table([0, 101])), r'poor signal: row 0, \[0, 101\), lies outside'),
    ((table([0, 50, 'N']), 'none'), 'poor signal is a str')])
def test_other_things_than_tables_are_refused(record, returned, said):
    with pytest.raises(PedarrError, match=said): described(lambda r, db: returned).labels(record)


def test_what_is_lawful_though_odd(record):
    episodes = table([0, 0, 'VT', None], [0, 50, 'N', math.nan], [50, 100, 'AFIB', 4])
    found = labels(record, episodes, None, 'one sentence\nof two lines')
    assert found.episodes.values.tolist() == [[0, 50, 'N', -1], [50, 100, 'AFIB', 4]]
    assert len(found.poor) == 0 and found.beats is None
    assert found.notes == ['r: one sentence of two lines', 'r: 1 episode of no length left out']
    poor = labels(record, table([0, 100, 'N']), table([60, 70], [10, 65], [100, 100])).poor
    assert poor.values.tolist() == [[10, 65], [60, 70], [100, 100]]
    categories = table([0, 100, 'N']).astype({'rhythm': 'category'})
    assert labels(record, categories, NONE).episodes.rhythm.tolist() == ['N']
    assert described(lambda r, db: (table([0, 100, 'N']), NONE)).labels(record, 'p1/r').notes == []


def test_tables_of_a_description_are_not_changed(record):
    t = table([50, 100, 'N', 3.], [0, 50, 'VT', None])
    before = t.copy(deep=True)
    assert labels(record, t, NONE).episodes.start.tolist() == [0, 50] and t.equals(before)


@pytest.mark.parametrize('rows, seconds, where', [
    ([(60, 100, 'N')], 1.2, 'before the first rhythm annotation'),
    ([(0, 40, 'N')], 1.2, 'after the last episode'),
    ([(0, 20, 'N'), (80, 100, 'VT')], 1.2, 'between episodes'),
    ([(51, 100, 'N')], 1.0, 'before the first rhythm annotation'),
    ([(30, 70, 'N')], 1.2, '0.6 s before the first rhythm annotation, 0.6 s after the last episode')])
def test_time_without_a_rhythm_is_said(record, rows, seconds, where):
    notes = described(lambda r, db: (table(*rows), NONE)).labels(record, 'p1/r').notes
    assert notes == [f'p1/r: {seconds} of 2.0 s belong to no rhythm: {where}']


@pytest.mark.parametrize('start', [49, 0])
def test_less_than_half_of_the_time_without_a_rhythm_is_not_said(record, start):
    assert described(lambda r, db: (table((start, 100, 'N')), NONE)).labels(record, 'p1/r').notes == []


def test_a_record_without_episodes_is_said(record):
    empty = table([0, 100, 'N'])[:0]
    assert labels(record, empty, NONE).notes == ['r: 2.0 of 2.0 s belong to no rhythm: no episode is given']
    assert labels(record, empty, NONE, ['left out: why']).notes == ['r: left out: why']


def test_unknown_rhythms_are_kept_and_said(record):
    episodes = table([0, 30, 'SLOW'], [30, 60, 'Sinus rhythm'], [60, 90, 'SLOW'], [90, 100, 'a\x1bb'])
    found = labels(record, episodes, NONE)
    assert found.episodes.rhythm.tolist() == ['SLOW', 'Sinus rhythm', 'SLOW', 'a\x1bb']
    assert found.notes == ["r: unknown rhythm 'SLOW' is kept under its own name (2 episodes)",
                           "r: unknown rhythm 'a\\x1bb' is kept under its own name (1 episode)"]


def annotated(folder, marks, n=15_000):
    "A record `a` of `n` samples at 250 Hz with an annotation file of `marks` (sample, symbol, text)."
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'a.hea').write_text(f'a 1 250 {n}\na.dat 16 200 12 0 0 0 0 II\n')
    with open(folder/'a.dat', 'wb') as f: f.truncate(2*n)
    sample, symbol, text = zip(*marks)
    wfdb.wrann('a', 'atr', np.array(sample), list(symbol), aux_note=list(text), fs=250, write_dir=str(folder))
    db = described(annotated_episodes, annotator='atr')
    return db, db.open(folder/'a')


def test_beats_that_nobody_marked_are_unknown(tmp_path):
    db, record = annotated(tmp_path/'a', [(10, '+', '(N'),
    (2500, '+', '(AFIB')])      # as in afdb: rhythms in .atr, beats in .qrs
    found = db.labels(record)
    assert found.beats is None and found.episodes.beats.tolist() == [-1, -1]
    db, record = annotated(tmp_path/'b', [(10, '+', '(N'), (2500, '+', '(AFIB'), (2600, 'N', ''),
    (2700, 'V', '')])
    found = db.labels(record)
    assert found.beats.tolist() == [2600, 2700] and found.beats.dtype == np.int64
    assert found.episodes.beats.tolist() == [0, 2]


def test_a_mark_at_the_end_closes_the_last_episode(tmp_path):
    db, record = annotated(tmp_path, [(10, '+', '(N'), (7500, '+', '(AFIB'), (7600, 'N', ''),
    (15_000, 'N', ''), (15_000, '+', '(N')])
    found = db.labels(record)
    assert found.episodes.values.tolist() == [[10, 7500, 'N', 0], [7500, 15_000, 'AFIB', 1]]
    assert found.beats.tolist() == [7600]
    note = 'a: 1 of its annotations lie at the very end, behind the last sample, and are unused'
    assert found.notes == [note]
    assert db.episodes(record)[0].equals(found.episodes)


def test_half_a_recording_before_the_first_mark(tmp_path):
    db, record = annotated(tmp_path, [(100, 'N', ''), (10_000, '+', '(AFIB'), (14_999, 'N', '')])
    note = 'a: 40.0 of 60.0 s belong to no rhythm: before the first rhythm annotation'
    assert db.labels(record).notes == [note]


# ---- functions that fail -----------------------------------------------------------------------------------

def no_key(*given): return {}['rhythm']
def no_attribute(*given): return given[0].rhythm_of_the_day
def no_index(*given): return [][3]
def leaves(*given): sys.exit('bye')
def two_lines(*given): raise ValueError('one\ntwo')
def endless(*given): return endless(*given)
def one_argument(record): return record
def no_file(*given): return open('/nowhere/labels.csv').read()


FAILING = [(no_key, "KeyError: 'rhythm'"), (no_attribute, 'AttributeError'),
(no_index, 'IndexError: list index out of range'), (leaves, 'SystemExit: bye'),
           (two_lines, 'ValueError: one two'), (endless, 'RecursionError'), (one_argument, 'TypeError'),
           (lambda *x: 1/0, r'\(<lambda>\).*ZeroDivisionError')]


@pytest.mark.parametrize('function, said', FAILING)
def test_a_function_that_fails_is_named_with_its_record(record, function, said):
    with pytest.raises(PedarrError, match=said) as e: described(function).labels(record)
    assert str(e.value).startswith(f'{record.path}: read_episodes (') and e.value.__cause__ is not None
    assert '\n' not in str(e.value)
    with pytest.raises(PedarrError, match=said) as e: described(sinus, function).subjects(record.path.parent)
    assert str(e.value).startswith(f'{record.path.parent}: read_subjects (') and 'mine' in str(e.value)


def test_it_says_the_line(record):
    with pytest.raises(PedarrError, match=rf'\(test_databases.py, line {no_key.__code__.co_firstlineno}\)'):
        described(no_key).labels(record)


def test_faults_of_files_and_of_the_machine_keep_their_reason(record):
    with pytest.raises(PedarrError, match='/nowhere/labels.csv: .*No such file'):
        described(no_file).labels(record)
    def broken_disk(*given): raise OSError(errno.EIO, 'Input/output error')
    with pytest.raises(PassingError, match='check the disk'): described(broken_disk).labels(record)
    def own_words(*given): raise PedarrError('my own words: do this')
    with pytest.raises(PedarrError, match='^my own words: do this$'): described(own_words).labels(record)
    def no_memory(*given): raise MemoryError
    with pytest.raises(MemoryError): described(no_memory).labels(record)


@pytest.mark.parametrize('fields, said', [
    (dict(annotator='.atr'), 'annotator'), (dict(annotator='../x'), 'annotator'),
    (dict(annotator=7), 'annotator'), (dict(aliases=['MLII']), 'aliases'),
    (dict(aliases={'MLII': 2}), 'aliases'), (dict(rate=0), 'rate'), (dict(rate='250'), 'rate'),
    (dict(rate=True), 'rate'), (dict(rate=math.nan), 'rate'),
    (dict(ecg_band=(100, .5)), 'ecg_band'), (dict(ecg_band=5.), 'ecg_band'),
    (dict(iegm_band=(1, 2, 3)), 'iegm_band'), (dict(licence=None), 'licence'),
    (dict(episodes='N'), 'read_episodes'), (dict(subjects=None), 'read_subjects')])
def test_descriptions_with_slips_are_refused(fields, said):
    with pytest.raises(PedarrError, match=f"description 'mine': {said}=.* must be .*: correct it"):
        described(**fields)


def test_numbers_of_numpy_in_a_description():
    db = described(rate=np.int64(250), ecg_band=np.array([.5, 40.]), iegm_band=[np.float32(30), 100])
    assert (db.rate, db.ecg_band, db.iegm_band) == (250., (.5, 40.), (30., 100.))
    assert all(type(x) is float for x in (db.rate, *db.ecg_band, *db.iegm_band))
    assert (LEIPZIG.rate, LEIPZIG.ecg_band, LEIPZIG.iegm_band) == (None, None, None)


# ---- subjects ----------------------------------------------------------------------------------------------

def subjects(folder, **columns):
    return described(subjects=lambda p, f, d: one_each(p, f, d).assign(**columns)).subjects(folder)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    header(folder, '101', '102')
    return folder


@pytest.mark.parametrize('columns, said', [
    (dict(subject=['x', None]), 'subject of record 102 is missing'),
    (dict(subject=['x', '  ']), "subject of record 102"),
    (dict(subject=[math.nan, 'x']), 'subject of record 101 is missing'),
    (dict(subject=[('a',), 'x']), 'subject of record 101 is .*no name'),
    (dict(subject=['x', 1.5]), 'subject of record 102 is 1.5'),
    (dict(subject=['x', 'a\x1b']), 'subject of record 102'),
    (dict(cohort=['c', None]), 'cohort of record 102 is missing'),
    (dict(age=['3 months', '']), "age of record 101 is '3 months', no age"),
    (dict(age=['', 300]), 'age of record 102 is 300'),
    (dict(age=[-5, 1]), 'age of record 101 is -5'), (dict(age=[math.inf, 1]), 'age of record 101 is inf'),
    (dict(age=[True, False]), 'age of record 101'),
    (dict(age=pd.to_datetime(['2001-01-01', None])), 'age of record 101'),
    (dict(sex=['M', 1]), 'sex of record 102 is 1')])
def test_subjects_that_cannot_be_are_refused_with_the_record(two, columns, said):
    with pytest.raises(PedarrError, match=said) as e: subjects(two, **columns)
    assert '\n' not in str(e.value) and str(two) in str(e.value)


def test_subjects_as_people_write_them(two):
    who = subjects(two, subject=[7, 8.], cohort=[1, ' adults'], age=['>89', '12'], sex=['female', 'm '])
    assert who.values.tolist() == [['7', '1', 89., 'F'], ['8', 'adults', 12., 'M']]
    assert who.index.tolist() == ['101', '102']
    assert who.age.dtype == float and who.index.name == 'record'
    who = subjects(two, age=[None, -1], sex=[None, 'unknown'])
    assert who.age.isna().all() and who.sex.tolist() == ['', '']
    nullable = subjects(two, age=pd.array([3, None], 'Int64'), subject=pd.array([3, 4], 'Int64'))
    assert nullable.age.tolist()[0] == 3. and math.isnan(nullable.age.iloc[1])
    assert nullable.subject.tolist() == ['3', '4']


@pytest.mark.parametrize('column', ['subject', 'cohort', 'age', 'sex'])
def test_a_missing_column_is_named(two, column):
    with pytest.raises(PedarrError, match=f"subject table has no column '{column}'"):
        described(subjects=lambda p, f, d: one_each(p, f, d).drop(columns=column)).subjects(two)


@pytest.mark.parametrize('index, order', [
    ([101, 102], 'ab'), ([102, 101], 'ba'), ([102., 101.], 'ba'), (['102', '101'], 'ba'),
    (pd.Index([102, 101], dtype='Int64'), 'ba'),
    (np.array([102, 101], np.int16), 'ba')])
def test_record_names_that_became_numbers(two, index, order):
    def read(paths, folder, db):
        return one_each(paths, folder, db).assign(subject=['a', 'b']).set_index(pd.Index(index))
    assert ''.join(described(subjects=read).subjects(two).subject) == order


def by_index(folder, index):
    columns = {'subject': [str(i) for i in index], 'cohort': 'c', 'age': math.nan, 'sex': ''}
    def read(paths, folder, db): return pd.DataFrame(columns, index=index)
    return described(subjects=read).subjects(folder).subject.tolist()


def test_leading_zeros_and_ambiguous_numbers(tmp_path):
    header(tmp_path, '00254', '00255')
    assert by_index(tmp_path, [255, 254, 9]) == ['254', '255']            # one number, one record
    header(tmp_path, '254')
    with pytest.raises(PedarrError, match='row 254 fits two records, (00254 and 254|254 and 00254)'):
        by_index(tmp_path, [255, 254, 9])
    with pytest.raises(PedarrError, match='more than one row for record'):
        by_index(tmp_path, ['254', '254', '00254', '00255'])


def test_indices_that_name_no_record(tmp_path):
    header(tmp_path, 'x001', 'x002')
    with pytest.raises(PedarrError,
                       match=r'no subject is given for 2 of 2 records \(x001, x002\).*indexed by 1, 2'):
        by_index(tmp_path, [1, 2])
    with pytest.raises(PedarrError, match='set_index'): by_index(tmp_path, pd.RangeIndex(2))
    with pytest.raises(PedarrError, match='no subject is given for 1 of 2 records .x002'):
        by_index(tmp_path, ['x001', 'y'])
    with pytest.raises(PedarrError, match='more than one row for record x001'):
        by_index(tmp_path, ['x001', 'x001', 'x002'])
    several = pd.MultiIndex.from_tuples([('x001', 1), ('x002', 1)])
    with pytest.raises(PedarrError, match='no subject is given'): by_index(tmp_path, several)
    assert by_index(tmp_path, ['x002', 'other', 'x001']) == ['x001', 'x002']
    header(tmp_path, '0', '1')
    for name in ('x001', 'x002'): (tmp_path/f'{name}.hea').unlink()
    assert by_index(tmp_path, pd.RangeIndex(2)) == ['0', '1']              # these records are called 0 and 1


def test_paths_may_be_names_too(tmp_path):
    header(tmp_path, 'data/7', 'p1/r', 'p2/r')
    assert by_index(tmp_path, ['p2/r', 'data/7', 'p1/r']) == ['data/7', 'p1/r', 'p2/r']
    found = DB.find(tmp_path)
    assert by_index(tmp_path, ['7', 'r', 'r']) == ['7', 'r', 'r']  # by order, as a table by p.stem has it
    some = FoundRecords(found.paths[:1], found.names[:1], [])
    assert DB.subjects(tmp_path, some).index.tolist() == ['7']


def test_two_persons_with_records_of_one_name_stay_two(tmp_path):
    for person, age in (('p1', 5), ('p2', 60)):
        header(tmp_path, f'{person}/r',
               text=f'r 1 250 10\nr.dat 16 200 12 0 0 0 0 II\n#<age>: {age} <sex>: F\n')
        (tmp_path/person/'r.dat').write_bytes(bytes(20))
    who = described(subjects=comment_subjects).subjects(tmp_path)
    assert who.subject.nunique() == 2 and who.age.to_dict() == {'p1/r': 5., 'p2/r': 60.}


# ---- built-in descriptions: labels are read ----------------------------------------------------------------

def commented(folder, name, *comments):
    lines = [f'{name} 1 500 1000', f'{name}.dat 16 200 12 0 0 0 0 II', *(f'# {c}' for c in comments)]
    (folder/f'{name}.hea').write_text('\n'.join(lines) + '\n')
    (folder/f'{name}.dat').write_bytes(bytes(2000))
    return folder/name


@pytest.mark.parametrize('diagnosis, rhythm', [
    ('Atrial Fibrillation', 'AFIB'), ('atrial fib', 'AFIB'), ('Atrial Flutter', 'AFL'),
    ('ATRIAL FLUTTER, typical', 'AFL'), ('Atrial Fib/Flutter', None),
    ('Atrial fibrillation and flutter', None), ('AVNRT', None), ('', None), (None, None)])
def test_iafdb_reads_the_diagnosis(tmp_path, diagnosis, rhythm):
    db = get_database('iafdb')
    said = [] if diagnosis is None else [f'<age>: 81 <sex>: F <diagnosis>: {diagnosis}',
                                         '<medications>: Digitalis']
    record = db.open(commented(tmp_path, 'iaf1_ivc', *said, 'Note: x'))
    found = db.labels(record)
    assert found.episodes.values.tolist() == ([[0, 1000, rhythm, -1]] if rhythm else [])
    assert found.beats is None
    assert bool(found.notes) == (rhythm is None)
    assert all(n.startswith('iaf1_ivc: left out: ') for n in found.notes)


def test_iafdb_refuses_records_of_other_databases(tmp_path):
    db = get_database('iafdb')
    assert len(db.episodes(db.open(commented(tmp_path, 'mine', '<diagnosis>: Atrial Flutter')))[0]) == 1
    with pytest.raises(PedarrError, match='x001.hea: neither a diagnosis .* use another database'):
        db.labels(db.open(commented(tmp_path, 'x001', '<age>: 5')))


def test_iafdb_says_what_its_headers_say():
    db, folder = get_database('iafdb'), real('iafdb')
    records = [db.open(p) for p in db.records(folder)]
    for r in records:
        text = r.path.read_text().lower()          # read here by other words than in the package
        want = [name for name, word in (('AFIB', 'fib'),
        ('AFL', 'flutter')) if word in text.split('<diagnosis>:')[1].split('#')[0]]
        found = db.labels(r)
        assert found.episodes.rhythm.tolist() == (want if len(want) == 1 else [])
        assert bool(found.notes) == (len(want) != 1)
    patients = {r.name.split('_')[0] for r in records}
    who = db.subjects(folder)
    assert who.loc['iaf1_afw', ['subject', 'age', 'sex']].tolist() == ['iafdb-iaf1', 81.0, 'F']
    assert set(who.subject) == {f'iafdb-{p}' for p in patients} and len(who) == len(records)
    assert db.episodes(db.open(folder/'iaf1_afw'))[0].values.tolist() == [[0, 154500, 'AFIB', -1]]


def test_iafdb_patients_need_their_form_of_name(tmp_path):
    for name in ('iaf1_a', 'iaf1_b', 'iaf10_a', 'rec_1', 'rec_2'): commented(tmp_path, name)
    subject = get_database('iafdb').subjects(tmp_path).subject
    assert subject['iaf1_a'] == subject['iaf1_b'] and subject.nunique() == 4


@pytest.mark.parametrize('comments, age, sex', [
    (['69 M 1085 1629 x1', 'Aldomet'], 69., 'M'), (['converted by hand', '69 M 1085 1629 x1'], 69., 'M'),
    (['-1 F 742 654 x1'], math.nan, 'F'), (['69 M'], 69., 'M'),
    (['24 ? 1581'], 24., ''), (['69 Males were seen'], math.nan, ''), ([], math.nan, ''),
    (['Aldomet', '1085 1629'], math.nan, '')])
def test_mitdb_finds_age_and_sex(tmp_path, comments, age, sex):
    commented(tmp_path, '100', *comments)
    who = get_database('mitdb').subjects(tmp_path).loc['100']
    assert (who.subject, who.sex) == ('mitdb-100', sex)
    assert who.age == age or math.isnan(age) and math.isnan(who.age)


def test_mitdb_has_one_man_twice(tmp_path):
    for name in ('200', '201', '202'): commented(tmp_path, name, '68 M 1085')
    expected = ['mitdb-200', 'mitdb-201', 'mitdb-201']
    assert get_database('mitdb').subjects(tmp_path).subject.tolist() == expected


@pytest.mark.parametrize('comments, age, sex', [
    (['<age>: 51', '<sex>: F'], 51., 'F'), (['<age>: 81 <sex>: M <diagnosis>: x'], 81., 'M'),
    (['<age>:', '<sex>:', 'Rhythm: x'], math.nan, ''),
    (['x', '<sex>: F', '<age>: >89'], 89., 'F'),
    ([], math.nan, '')])
def test_tags_in_comments(tmp_path, comments, age, sex):
    commented(tmp_path, '7', *comments)
    who = get_database('ludb').subjects(tmp_path).loc['7']
    assert who.sex == sex and (who.age == age or math.isnan(age) and math.isnan(who.age))


def test_the_real_annotations_of_x0010():
    folder = real('leipzig')
    n = int((folder/'x0010.hea').read_text().split()[3])
    a = read_annotations(folder/'x0010', 'atr', n, 977)
    e = parse_episodes(a.sample, a.symbol, a.aux, n)
    assert e.rhythm.value_counts().to_dict() == {'N': 10, '/A': 10, 'AVNRT': 3, '/V': 2}
    assert e.groupby('rhythm').beats.sum().to_dict() == {'N': 23, '/A': 82, 'AVNRT': 775, '/V': 23}
    assert (a.symbol == 'Q').sum() == 14 and len(a.sample) == 930 and n == 310260
    checked, empty = check_episodes(e, n)
    assert checked.equals(e) and empty == 0 and (e.start.to_numpy()[1:] == e.stop.to_numpy()[:-1]).all()
    assert len(poor_signal(a.sample, a.symbol, n)) == 1


def test_every_leipzig_record_is_a_subject():
    files = [real('leipzig')/f'{cohort}-subject-info.csv' for cohort in ('children', 'adults')]
    t = pd.concat([read_subject_table(file, ['subject_id', 'file_name']) for file in files])
    assert t.subject_id.is_unique and t.file_name.is_unique


# ---- descriptions in a file of one's own -------------------------------------------------------------------

MINE = '''from __future__ import annotations
from dataclasses import dataclass, replace
import pandas as pd
from pedarr.data.databases import Database
from pedarr.data.common_readers import whole_record_episode
from pedarr.data.known_databases import LEIPZIG

@dataclass
class Person:
    name: str

def rhythm(record, db): return whole_record_episode(record, NAME)
def people(paths, folder, db):
    stems = [Person(p.stem).name for p in paths]
    return pd.DataFrame({'subject': stems, 'cohort': 'c', 'age': 5., 'sex': ''}, index=stems)

NAME = 'AVNRT'
DB = Database('mine', 'My cases', 'svt4', rhythm, people, rate=250)
OTHER = replace(DB, name='other')
'''


def spec(folder, text, name='DB'):
    (folder/'my.py').write_text(text)
    return f'{folder}/my.py:{name}'


def test_a_description_from_a_file(tmp_path, record, monkeypatch):
    path = spec(tmp_path, MINE)
    monkeypatch.chdir(tmp_path)
    before = set(sys.path)
    for given in (path, 'my.py:DB', './my.py:DB'):
        db = load_database(given)
        assert db.rate == 250 and db.episodes(record)[0].rhythm.tolist() == ['AVNRT']
        assert db.subjects(record.path.parent).age.tolist() == [5.]
    assert load_database('leipzig') is LEIPZIG and sorted(p.name for p in tmp_path.iterdir()) == ['my.py']
    assert 'my' not in sys.modules and set(sys.path) == before
    spec(tmp_path, MINE.replace('AVNRT', 'AVRT'))
    assert load_database('my.py:DB').episodes(record)[0].rhythm.tolist() == ['AVRT'], 'what the file says now'


def rhythm_of(db, path): return db.episodes(db.open(path))[0].rhythm.tolist()


@pytest.mark.parametrize('name', ['DB', 'OTHER'])
def test_worker_processes_get_it_too(tmp_path, record, name):
    db = dataclasses.replace(load_database(spec(tmp_path, MINE, name)), title='changed')
    (tmp_path/'my.py').unlink()
    got = joblib.Parallel(n_jobs=2)(joblib.delayed(rhythm_of)(db, record.path) for _ in range(4))
    assert got == [['AVNRT']]*4


@pytest.mark.parametrize('text, said', [
    ('DB = 1/0\n', r'my.py failed with ZeroDivisionError: division by zero \(my.py, line 1\): correct it'),
    ('DB = (\n', 'my.py: not Python .line 1'),
    ('DB = 5\n', 'DB is a int, not a Database: it has no Database'),
    ('X = 5\n', "no 'DB' in it: it has no Database"),
    (MINE.replace('DB =', 'BD ='), 'NameError'),
    (MINE.replace('DB =', 'BD =').replace('(DB,', '(BD,'), "no 'DB' in it: it has BD, OTHER"),
    ('raise SystemExit("bye")', 'SystemExit: bye'),
    ('import no_such_module_here', 'ModuleNotFoundError'),
    ('from pedarr.data.known_databases import LEIPZIG as X\n', "no 'DB' in it: it has no Database"),
    ('DB = "\0"', 'my.py'),
    ('open("/nowhere/x")', '/nowhere/x'),
    ('def f(): f()\nf()', 'RecursionError'),
    ('from pedarr.data.databases import Database\nDB = Database("m", "t", "g", 1, 2)',
     'read_episodes=1 must be a function')])
def test_files_with_mistakes_are_answered_in_one_line(tmp_path, text, said):
    with pytest.raises(PedarrError, match=said) as e: load_database(spec(tmp_path, text))
    assert '\n' not in str(e.value)


def test_specs_with_mistakes(tmp_path):
    with pytest.raises(PedarrError, match='my.py: cannot be read .*No such file'):
        load_database(f'{tmp_path}/my.py:DB')
    with pytest.raises(PedarrError, match='say which description in it: .*my.py:NAME'):
        load_database(f'{tmp_path}/my.py')
    (tmp_path/'b.py').write_bytes(b'\xff\xfe')
    (tmp_path/'c.py').mkdir()
    os.mkfifo(tmp_path/'d.py')
    for name, said in (('b', 'not UTF-8'), ('c', 'is a folder'), ('d', 'named pipe')):
        with pytest.raises(PedarrError, match=said): load_database(f'{tmp_path}/{name}.py:DB')
    with pytest.raises(PedarrError, match="did you mean 'leipzig'"): load_database('leipzg')
    with pytest.raises(PedarrError, match='unknown database'): load_database('my:DB')
