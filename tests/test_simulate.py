"""The simulator: identities, third-party reading, determinism, promises about who has which rhythm, bad input."""
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given, settings, strategies as st

from pedarr import simulate as sim
from pedarr.records import CHANNELS, ECG_LEADS, open_record, read_annotations
from pedarr.rhythms import GROUPINGS, LEIPZIG_RHYTHMS, PedarrError, parse_episodes, poor_signal

PATIENT = sim.Subject('x001', 'children', 'F', 9., 'AVRT', 'left lateral', ('AVRT', 'AP'))


def tree(folder): return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_same_seed_same_bytes_for_any_jobs(tmp_path):
    for name, jobs, seed in (('a', 1, 5), ('b', 2, 5), ('c', 1, 6)): sim.simulate_database(tmp_path/name, 4, .5, seed, jobs)
    assert tree(tmp_path/'a') == tree(tmp_path/'b')
    assert tree(tmp_path/'a')['x001.dat'] != tree(tmp_path/'c')['x001.dat']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b', 'c']   # no temporary folder is left


def test_subjects_of_one_seed_differ():
    a, b = (sim.simulate_recording(PATIENT, [('N', 5.)], seed=[0, k]) for k in (1, 2))
    assert not np.array_equal(a.digital, b.digital) and a.heart.rate != b.heart.rate


def test_files_are_those_of_the_database(simulated):
    records = (simulated/'RECORDS').read_text().split()
    assert records == ['x001', 'x002', 'x003', 'x004', 'x005', 'x006', 'x100', 'x101']
    sums = dict(reversed(line.split()) for line in (simulated/'SHA256SUMS.txt').read_text().splitlines())
    assert sums == {k: v for k, v in tree(simulated).items() if k != 'SHA256SUMS.txt'}
    children = pd.read_csv(simulated/'children-subject-info.csv', dtype=str)
    assert list(children) == ['subject_id', 'file_name', 'gender', 'age', 'diagnosis', 'ap_loacation', 'ecg_duration']
    assert list(children.subject_id) == ['001', '002', '003', '004', '005', '006'] and set(children.ecg_duration) == {'0:1:0.000'}
    adults = pd.read_csv(simulated/'adults-subject-info.csv', dtype=str)
    assert list(adults) == ['subject_id', 'file_name', 'gender', 'age', 'diagnosis', 'ecg_duration']


def test_wfdb_reads_what_was_written(simulated):
    for number, s in enumerate(sim.plan_subjects(8, 3), 1):
        made = sim.simulate_recording(s, seconds=60., seed=[3, number])
        record = wfdb.rdrecord(str(simulated/s.record), physical=False)
        np.testing.assert_array_equal(record.d_signal.T, made.digital)
        assert record.sig_name == list(s.channels) and set(record.fmt) == {'24'} and set(record.adc_gain) == {2000.}
        assert record.fs == 977 and record.init_value == made.digital[:, 0].tolist()
        assert [c % 65536 for c in record.checksum] == record.calc_checksum()
        marks = wfdb.rdann(str(simulated/s.record), 'atr')
        np.testing.assert_array_equal(marks.sample, made.sample)
        assert marks.symbol == made.symbol and [a.strip('\x00') for a in marks.aux_note] == made.aux


def test_our_own_reader_agrees(simulated):
    for header in sorted(simulated.glob('*.hea')):
        record = open_record(header); record.verify()
        marks = read_annotations(header, 'atr', record.sig_len)
        episodes, poor = (f(marks.sample, marks.symbol, *more, record.sig_len) for f, more in ((parse_episodes, (marks.aux,)), (poor_signal, ())))
        assert set(episodes.rhythm) <= set(LEIPZIG_RHYTHMS) and (episodes.stop > episodes.start).all()
        assert (poor.stop > poor.start).all()
        length = (episodes.stop - episodes.start)/977
        assert length[episodes.rhythm != 'N'].between(4., 61.).all()   # an episode lasts until a beat of the next one
        assert (episodes.beats >= 2).all()


@given(st.lists(st.lists(st.integers(-2**23 + 1, 2**23 - 1), min_size=3, max_size=3), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_pack24_and_header_against_wfdb(values):
    digital = np.array(values, dtype=np.int32).T
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'x.dat').write_bytes(sim.pack24(digital))
        Path(folder, 'x.hea').write_text(sim.header_text('x', ['I', 'II', 'V1'], digital.shape[1], digital[:, 0], digital.sum(axis=1)))
        read = wfdb.rdrecord(f'{folder}/x', physical=False)
    np.testing.assert_array_equal(read.d_signal.T, digital)
    assert [c % 65536 for c in read.checksum] == read.calc_checksum()


@given(st.lists(st.tuples(st.integers(-10240, 10240), st.integers(-10240, 10240)), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_einthoven_and_goldberger_in_integers(pairs):
    eight = np.zeros((8, len(pairs)), np.int32); eight[:2] = np.array(pairs).T
    lead = dict(zip(ECG_LEADS, sim.twelve_leads(eight)))
    assert lead['I'].dtype == np.int32
    np.testing.assert_array_equal(lead['I'] + lead['III'], lead['II'])
    assert abs(lead['aVR'] + lead['aVL'] + lead['aVF']).max() <= 1
    assert abs(2*lead['aVL'] - lead['I'] + lead['III']).max() <= 1


@pytest.mark.parametrize('subjects', [4, 8, 10, 16, 24])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_every_class_in_enough_subjects_and_not_in_all(subjects, seed):
    cohort = sim.plan_subjects(subjects, seed)
    assert len({s.record for s in cohort}) == subjects
    for name in set(GROUPINGS['rhythm8'].values()) - {'SR'}:
        count = sum(name in s.classes for s in cohort)
        assert min(4, subjects//2) <= count <= -(-subjects//2), (name, count)
    assert all(bool(s.pathway) == ('AVRT' in s.classes) for s in cohort)


def test_layouts_and_the_disconnected_catheter():
    cohort = sim.plan_subjects(16, 0)
    assert {len(s.channels) for s in cohort} == {14, 18, 19} and all(tuple(s.channels[:12]) == tuple(ECG_LEADS) for s in cohort)
    assert cohort[12].channels[-1] == 'RVA12'      # as in x100: a reader that trusts positions fails here
    loose = [s for s in cohort if s.disconnected]
    assert len(loose) == 1
    recording = sim.simulate_recording(loose[0], seconds=30., seed=1)
    assert (recording.signal[CHANNELS.index('ABL12')] == np.float32(.076)).all()


@given(st.sampled_from(sorted(sim.RHYTHM_MODELS)), st.integers(0, 10**6), st.floats(4, 70))
@settings(max_examples=60, deadline=None)
def test_models_keep_their_promises(rhythm, seed, age):
    rng = np.random.default_rng(seed)
    heart = sim.make_heart(age, rng, str(rng.choice(['', *sim.PATHWAYS])), preexcited=rhythm not in ('AVNRT', 'AVRT') and bool(rng.random() < .3))
    beats, marks = sim.play([(rhythm, 6.), (rhythm, 6.)], heart, rng)
    assert [m[1:] for m in marks] == [('+', f'({rhythm}')]*2 and set(beats.columns) == {*sim.BEAT_COLUMNS, 'rhythm'}
    labelled = beats[beats.symbol != '']
    assert len(labelled) >= 4 and labelled.ventricle.between(0, 12).all()
    va = (beats.atrium - beats.ventricle).dropna()
    if rhythm == 'AVNRT': assert va.lt(.07).all() and (labelled.aux == 'AVNRT').all()
    if rhythm == 'AVRT': assert va.between(.07, .16).all()
    if rhythm in ('/A', '/V'): assert (labelled.symbol == '/').all() and labelled.stimulus.notna().all()
    if rhythm == 'AFIB': assert np.diff(np.sort(labelled.ventricle)).std() > .03 and va.empty
    if rhythm == 'B': assert (labelled.symbol == 'V').mean() > .35


def test_coronary_sinus_order():
    assert sim.cs_delays(0).argmin() == 0 and sim.cs_delays(4.2).argmin() == 4
    heart = sim.make_heart(10, np.random.default_rng(0), 'left lateral')
    assert (np.diff(sim.atrial_map('pathway', heart)[0]) > 0).all()         # eccentric: CS12 first
    assert (np.diff(sim.atrial_map('septal', heart)[0]) < 0).all()          # concentric: CS90 first
    assert (np.diff(sim.atrial_map('sinus', heart)[0]) < 0).all()


def test_annotations_fit_the_signal():
    "The R peak (lead II, largest within 60 ms) stands near each narrow beat's annotation."
    rec = sim.simulate_recording(PATIENT, [('N', 20.)], seed=4)
    beats = rec.sample[np.array(rec.symbol) != '+']
    energy = np.abs(np.diff(rec.signal[:12], axis=1)).sum(0)
    at = [int(np.argmax(energy[b - 150:b + 150])) - 150 for b in beats if 150 < b < len(energy) - 150]
    assert np.mean(np.abs(at) < .06*977) > .9


@pytest.mark.parametrize('options, word', [(dict(subjects=3), 'subjects=3'), (dict(minutes=.1), 'minutes=0.1'), (dict(minutes=float('nan')), 'minutes=nan'),
                                           (dict(seed=-1), 'seed=-1'), (dict(jobs=0), 'jobs=0')])
def test_values_out_of_range(tmp_path, options, word):
    with pytest.raises(PedarrError, match=word) as e: sim.simulate_database(tmp_path/'db', **{'subjects': 4, 'minutes': .5} | options)
    assert '\n' not in str(e.value) and not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path/'db').mkdir(); (tmp_path/'db'/'thesis.tex').write_text('mine')
    with pytest.raises(PedarrError, match='not empty'): sim.simulate_database(tmp_path/'db', 4, .5)
    assert (tmp_path/'db'/'thesis.tex').read_text() == 'mine'


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path/'db').mkdir(); sim.simulate_database(tmp_path/'db', 4, .5)
    assert (tmp_path/'db'/'RECORDS').exists()


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(sim, '_write_tables', stop)
    with pytest.raises(KeyboardInterrupt): sim.simulate_database(tmp_path/'db', 4, .5)
    assert not list(tmp_path.iterdir())


def test_unknown_rhythm():
    with pytest.raises(PedarrError, match='PJRT'): sim.simulate_recording(PATIENT, [('PJRT', 5.)])
