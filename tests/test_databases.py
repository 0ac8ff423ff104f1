"""Database descriptions on real headers and on odd folders."""
import math
from dataclasses import FrozenInstanceError

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from conftest import real
from pedarr.databases import DATABASES, LEIPZIG, get_database, leipzig_subjects, list_records, natural_key, parse_age, read_rows
from pedarr.rhythms import PedarrError, get_grouping


@given(st.floats(0, 120).map(lambda a: round(a, 2)))
def test_ages_survive_the_slips_of_the_tables(age):
    assert parse_age(str(age)) == age
    assert parse_age(f'.{age}') == age or '.' not in str(age)


@pytest.mark.parametrize('text', ['', 'unknown', None, float('nan'), '-1', 'NaN', '3 months', '14 d', '1e1', '131', '9'*5000, '²'])
def test_unknown_ages_are_nan(text): assert math.isnan(parse_age(text))


@pytest.mark.parametrize('text, age', [('.5', .5), ('0.5', .5), ('.14.3', 14.3), ('14,3', 14.3), ('>89', 89), ('12 years', 12), (7, 7), ('130', 130)])
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


def test_iafdb_is_all_fibrillation():
    db, folder = get_database('iafdb'), real('iafdb')
    assert db.subjects(folder).loc['iaf1_afw', ['subject', 'age', 'sex']].tolist() == ['iafdb-iaf1', 81.0, 'F']
    assert db.episodes(db.open(folder/'iaf1_afw'))[0].values.tolist() == [[0, 154500, 'AFIB', -1]]


def test_leipzig_tables():
    t = leipzig_subjects([], real('leipzig'), LEIPZIG)
    assert len(t) == 39 and t.loc['x007', 'age'] == 14.3 and t.cohort.value_counts().to_dict() == dict(children=29, adults=10)


def test_the_malformed_age_of_the_release(tmp_path):
    (tmp_path/'children-subject-info.csv').write_text('subject_id,file_name,gender,age,diagnosis,ap_loacation,ecg_duration\n007,x007,M,.14.3,AVRT-PJRT,right,0:3:6\n')
    (tmp_path/'adults-subject-info.csv').write_text('subject_id,file_name,gender,age,diagnosis,ecg_duration\n')
    assert leipzig_subjects([], tmp_path, LEIPZIG).loc['x007', 'age'] == 14.3


@pytest.mark.parametrize('text, say', [
    ('', 'no column file_name'), ('file_name,age,age\n', 'more than one column age'), ('file_name,age\nx001\n', 'row 1 has 1 values for 2 columns'), ('file_name,age\nx001,1,2\n', 'row 1 has 3 values'),
    ('file_name,age\n,1\n', 'row 1 has no file_name'), ('file_name,age\n"x001,1\n', 'Error in reading'), ('file_name;age\nx001;1\n', 'no column file_name'), ('\udcff', 'UnicodeDecodeError')])
def test_tables_that_lost_something_are_refused(tmp_path, text, say):
    (tmp_path/'t.csv').write_text(text, encoding='utf-8', errors='surrogateescape')
    with pytest.raises(PedarrError, match=f't.csv: .*{say}') as e: read_rows(tmp_path/'t.csv', ['file_name', 'age'])
    assert '\n' not in str(e.value)


def test_lawful_tables_are_read_as_they_are(tmp_path):
    (tmp_path/'t.csv').write_text('\ufefffile_name, age,note\n NA ,.5,"a, b"\n\nnull,,,,\n', encoding='utf-8')
    assert read_rows(tmp_path/'t.csv', ['file_name', 'age']).values.tolist() == [['NA', '.5', 'a, b'], ['null', '', '']]


@pytest.mark.parametrize('names, say', [('a/x1\nb/x1', 'two records are called x1'), ('../x', "'../x' cannot"), ('/etc/x', 'cannot'), ('x\0', 'cannot'), ('y'*300, 'cannot')])
def test_lists_of_records_with_tricks_are_refused(tmp_path, names, say):
    (tmp_path/'RECORDS').write_text(names)
    with pytest.raises(PedarrError, match=f'RECORDS: .*{say}'): list_records(tmp_path)


def test_odd_names_can_be_sorted():
    (names := ['x²', 'x2', 'x' + '9'*5000, 'x10', '٣', '']).sort(key=natural_key)
    assert names.index('x2') < names.index('x10')


@pytest.mark.parametrize('comments, rhythm', [(['Rhythm: Sinus rhythm.'], 'Sinus rhythm'), (['x', '  Rhythm: Atrial flutter, typical. '], 'Atrial flutter, typical'), (['Rhythm: .'], None), (['Rhythm:'], None),
                                              (['Rhythm: A', 'Rhythm: B'], None), (['Rhythm: A', 'Rhythm:'], None), ([], None)])
def test_one_rhythm_in_the_header(tmp_path, comments, rhythm):
    (tmp_path/'r.hea').write_text('r 1 500 10\nr.dat 16 200 12 0 0 0 0 II\n' + ''.join(f'#{c}\n' for c in comments))
    (tmp_path/'r.dat').write_bytes(bytes(20))
    db = get_database('ludb')
    if rhythm: assert db.episodes(db.open(tmp_path/'r'))[0].values.tolist() == [[0, 10, rhythm, -1]]
    else:
        with pytest.raises(PedarrError, match='r.hea: .* where one is needed'): db.episodes(db.open(tmp_path/'r'))


def test_odd_folders(tmp_path):
    with pytest.raises(PedarrError, match='no WFDB records'): list_records(tmp_path)
    with pytest.raises(PedarrError, match='no such folder'): list_records(tmp_path/'x')
    (tmp_path/'RECORDS').write_text('\nx2\n\nx10\nx2\n')
    assert [p.stem for p in list_records(tmp_path)] == ['x2', 'x10']
    with pytest.raises(PedarrError, match='subject table is missing'): LEIPZIG.subjects(tmp_path)
