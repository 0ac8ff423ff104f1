"""Database descriptions on real headers and on odd folders."""
import math
from dataclasses import FrozenInstanceError

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from conftest import real
from pedarr.databases import DATABASES, LEIPZIG, get_database, leipzig_subjects, list_records, natural_key, parse_age
from pedarr.rhythms import PedarrError, get_grouping


@given(st.floats(0, 120).map(lambda a: round(a, 2)))
def test_ages_survive_the_slips_of_the_tables(age):
    assert parse_age(str(age)) == age
    assert parse_age(f'.{age}') == age or '.' not in str(age)


@pytest.mark.parametrize('text', ['', 'unknown', None, float('nan'), '-1', 'NaN'])
def test_unknown_ages_are_nan(text): assert math.isnan(parse_age(text))


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


def test_odd_folders(tmp_path):
    with pytest.raises(PedarrError, match='no WFDB records'): list_records(tmp_path)
    with pytest.raises(PedarrError, match='no such folder'): list_records(tmp_path/'x')
    (tmp_path/'RECORDS').write_text('\nx2\n\nx10\nx2\n')
    assert [p.stem for p in list_records(tmp_path)] == ['x2', 'x10']
    with pytest.raises(PedarrError, match='subject table is missing'): LEIPZIG.subjects(tmp_path)
