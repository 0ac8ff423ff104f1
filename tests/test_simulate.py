"""The simulator: identities, third-party reading, determinism, who has which rhythm, bad input."""
import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import shutil
import pytest
from conftest import everywhere
import wfdb
from hypothesis import given, settings, strategies as st

from pedarr.core import files as files_
from pedarr.synthetic import files as written_
from pedarr.core.errors import PassingError
from pedarr.core.locks import hold_lock
from pedarr.data.channels import CHANNELS, ECG_LEADS
from pedarr.data.records import open_record
from pedarr.data.annotations import read_annotations
from pedarr.data.groupings import GROUPINGS
from pedarr.data.rhythms import LEIPZIG_RHYTHMS, parse_episodes, poor_signal
from pedarr.core.errors import PedarrError
from pedarr.synthetic.ecg import atrial_map, twelve_leads
from pedarr.synthetic.files import TWIN_VERSION, header_text, pack24, stated_twin
from pedarr.synthetic.heart import PATHWAYS, RhythmPace, SIMULATED_RATE, cs_delays, make_heart
from pedarr.synthetic.ladder import Activation, TRAINS, irregularity
from pedarr.synthetic.recording import Subject, simulate_recording
from pedarr.synthetic.rhythms import RHYTHM_MODELS, play_score, play_score_in, play_script
from pedarr.synthetic.signals import AMPLIFIER_RAIL, draw_offsets
from pedarr.synthetic.studies import plan_subjects, simulate_database

PATIENT = Subject('x001', 'children', 'F', 9., 'AVRT', 'left lateral', ('AVRT', 'AP'))


def tree(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_same_seed_same_bytes_for_any_jobs(tmp_path):
    for name, jobs, seed in (('a', 1, 5), ('b', 2, 5), ('c', 1, 6)):
        simulate_database(tmp_path/name, 4, .5, seed, jobs)
    assert tree(tmp_path/'a') == tree(tmp_path/'b')
    assert tree(tmp_path/'a')['x001.dat'] != tree(tmp_path/'c')['x001.dat']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b', 'c']   # no temporary folder is left
    assert stated_twin(open_record(tmp_path/'a'/'x001').comments) == TWIN_VERSION


def test_subjects_of_one_seed_differ():
    a, b = (simulate_recording(PATIENT, [('N', 5.)], seed=[0, k]) for k in (1, 2))
    assert not np.array_equal(a.digital, b.digital) and a.heart.rate != b.heart.rate


def test_files_are_those_of_the_database(simulated):
    records = (simulated/'RECORDS').read_text().split()
    assert records == ['x001', 'x002', 'x003', 'x004', 'x005', 'x006', 'x100', 'x101']
    sums = dict(reversed(line.split()) for line in (simulated/'SHA256SUMS.txt').read_text().splitlines())
    assert sums == {k: v for k, v in tree(simulated).items() if k != 'SHA256SUMS.txt'}
    children = pd.read_csv(simulated/'children-subject-info.csv', dtype=str)
    expected = ['subject_id', 'file_name', 'gender', 'age', 'diagnosis', 'ap_loacation', 'ecg_duration']
    assert list(children) == expected
    assert list(children.subject_id) == [
        '001', '002', '003', '004', '005', '006'] and set(children.ecg_duration) == {'0:1:0.000'}
    adults = pd.read_csv(simulated/'adults-subject-info.csv', dtype=str)
    assert list(adults) == ['subject_id', 'file_name', 'gender', 'age', 'diagnosis', 'ecg_duration']


def test_wfdb_reads_what_was_written(simulated):
    for number, s in enumerate(plan_subjects(8, 3), 1):
        made = simulate_recording(s, seconds=60., seed=[3, number])
        record = wfdb.rdrecord(str(simulated/s.record), physical=False)
        np.testing.assert_array_equal(record.d_signal.T, made.digital)
        assert record.sig_name == list(s.channels)
        assert set(record.fmt) == {'24'}
        assert set(record.adc_gain) == {2000.}
        assert record.fs == 977 and record.init_value == made.digital[:, 0].tolist()
        assert [c % 65536 for c in record.checksum] == record.calc_checksum()
        marks = wfdb.rdann(str(simulated/s.record), 'atr')
        np.testing.assert_array_equal(marks.sample, made.sample)
        assert marks.symbol == made.symbol and [a.strip('\x00') for a in marks.aux_note] == made.aux


def test_our_own_reader_agrees(simulated):
    for header in sorted(simulated.glob('*.hea')):
        record = open_record(header)
        record.verify()
        marks = read_annotations(header, 'atr', record.sig_len)
        episodes, poor = (f(marks.sample, marks.symbol, *more, record.sig_len)
                          for f, more in ((parse_episodes, (marks.aux,)), (poor_signal, ())))
        assert set(episodes.rhythm) <= set(LEIPZIG_RHYTHMS) and (episodes.stop > episodes.start).all()
        assert (poor.stop > poor.start).all()
        length = (episodes.stop - episodes.start)/977
        # an episode lasts until a beat of the next one
        assert length[episodes.rhythm != 'N'].between(4., 61.).all()
        assert (episodes.beats >= 2).all()


@given(st.lists(st.lists(st.integers(-2**23 + 1, 2**23 - 1), min_size=3, max_size=3), min_size=1,
                max_size=20))
@settings(max_examples=50, deadline=None)
def test_pack24_and_header_against_wfdb(values):
    digital = np.array(values, dtype=np.int32).T
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'x.dat').write_bytes(pack24(digital))
        Path(folder, 'x.hea').write_text(header_text('x', ['I', 'II', 'V1'], digital.shape[1], digital[:, 0],
                                                     digital.sum(axis=1)))
        read = wfdb.rdrecord(f'{folder}/x', physical=False)
    np.testing.assert_array_equal(read.d_signal.T, digital)
    assert [c % 65536 for c in read.checksum] == read.calc_checksum()


@given(st.lists(st.tuples(st.integers(-10240, 10240), st.integers(-10240, 10240)), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_einthoven_and_goldberger_in_integers(pairs):
    eight = np.zeros((8, len(pairs)), np.int32)
    eight[:2] = np.array(pairs).T
    lead = dict(zip(ECG_LEADS, twelve_leads(eight)))
    assert lead['I'].dtype == np.int32
    np.testing.assert_array_equal(lead['I'] + lead['III'], lead['II'])
    assert abs(lead['aVR'] + lead['aVL'] + lead['aVF']).max() <= 1
    assert abs(2*lead['aVL'] - lead['I'] + lead['III']).max() <= 1


@pytest.mark.parametrize('subjects', [4, 8, 10, 16, 24])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_every_class_in_enough_subjects_and_not_in_all(subjects, seed):
    cohort = plan_subjects(subjects, seed)
    assert len({s.record for s in cohort}) == subjects
    for name in set(GROUPINGS['rhythm8'].values()) - {'SR'}:
        count = sum(name in s.classes for s in cohort)
        assert min(4, subjects//2) <= count <= -(-subjects//2), (name, count)
    assert all(bool(s.pathway) == ('AVRT' in s.classes) for s in cohort)


def test_layouts_and_the_disconnected_catheter():
    cohort = plan_subjects(16, 0)
    assert {len(s.channels) for s in cohort} == {14, 18, 19}
    assert all(tuple(s.channels[:12]) == tuple(ECG_LEADS) for s in cohort)
    assert cohort[12].channels[-1] == 'RVA12'      # as in x100: a reader that trusts positions fails here
    loose = [s for s in cohort if s.disconnected]
    assert len(loose) == 1
    recording = simulate_recording(loose[0], seconds=30., seed=1)
    assert (recording.signal[CHANNELS.index('ABL12')] == np.float32(.076)).all()


@given(st.sampled_from(sorted(RHYTHM_MODELS)), st.integers(0, 10**6), st.floats(4, 70))
@settings(max_examples=60, deadline=None)
def test_models_keep_their_promises(rhythm, seed, age):
    rng = np.random.default_rng(seed)
    heart = make_heart(age, rng, str(rng.choice(['', *PATHWAYS])),
                       preexcited=rhythm not in ('AVNRT', 'AVRT') and bool(rng.random() < .3))
    beats, marks = play_script([(rhythm, 6.), (rhythm, 6.)], heart, rng)
    assert [m[1:] for m in marks] == [('+', f'({rhythm}')]*2 and tuple(beats.columns) == Activation._fields
    labelled = beats[beats.symbol != '']
    assert len(labelled) >= 4 and labelled.ventricle.between(0, 12).all()
    va = (beats.atrium - beats.ventricle).dropna()
    if rhythm == 'AVNRT': assert va.lt(.07).all() and (labelled.aux == 'AVNRT').all()
    if rhythm == 'AVRT': assert va.between(.07, .16).all()
    if rhythm in ('/A', '/V'): assert (labelled.symbol == '/').all() and labelled.stimulus.notna().all()
    if rhythm == 'AFIB': assert np.diff(np.sort(labelled.ventricle)).std() > .03 and va.empty
    if rhythm == 'B': assert (labelled.symbol == 'V').mean() > .35


def test_coronary_sinus_order():
    assert cs_delays(0).argmin() == 0 and cs_delays(4.2).argmin() == 4
    heart = make_heart(10, np.random.default_rng(0), 'left lateral')
    assert (np.diff(atrial_map('pathway', heart)[0]) > 0).all()         # eccentric: CS12 first
    assert (np.diff(atrial_map('septal', heart)[0]) < 0).all()          # concentric: CS90 first
    assert (np.diff(atrial_map('sinus', heart)[0]) < 0).all()


def test_annotations_fit_the_signal():
    "The R peak (lead II, largest within 60 ms) stands near each narrow beat's annotation."
    rec = simulate_recording(PATIENT, [('N', 20.)], seed=4)
    beats = rec.sample[np.array(rec.symbol) != '+']
    energy = np.abs(np.diff(rec.signal[:12], axis=1)).sum(0)
    at = [int(np.argmax(energy[b - 150:b + 150])) - 150 for b in beats if 150 < b < len(energy) - 150]
    assert np.mean(np.abs(at) < .06*977) > .9


@pytest.mark.parametrize('options, word', [
    (dict(subjects=3), 'subjects is 3: it must be at least 4'),
    (dict(subjects=10**9), 'subjects is 1000000000: it must be at most 10000'),
    (dict(minutes=.1), 'minutes is 0.1: it must be at least 0.5'),
    (dict(minutes=61), 'minutes is 61: it must be at most 60'),
    (dict(minutes=float('nan')), 'minutes is nan'),
    (dict(minutes=float('inf')), 'minutes is inf'),
    (dict(seed=-1), 'seed is -1: it must be at least 0'),
    (dict(jobs=0), 'jobs=0'),
    (dict(jobs=10**6), 'jobs=1000000')])
def test_values_out_of_range(tmp_path, options, word):
    with pytest.raises(PedarrError, match=word) as e:
        simulate_database(tmp_path/'db', **{'subjects': 4, 'minutes': .5} | options)
    assert '\n' not in str(e.value) and not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path/'db').mkdir()
    (tmp_path/'db'/'thesis.tex').write_text('mine')
    with pytest.raises(PedarrError, match='not an empty folder'): simulate_database(tmp_path/'db', 4, .5)
    assert (tmp_path/'db'/'thesis.tex').read_text() == 'mine'


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path/'db').mkdir()
    simulate_database(tmp_path/'db', 4, .5)
    assert (tmp_path/'db'/'RECORDS').exists()


def test_a_target_that_is_no_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    (tmp_path/'file').write_text('mine')
    long = tmp_path/('n'*300)
    for target in (tmp_path/'pipe', tmp_path/'file', Path('/dev/null'), tmp_path/'file'/'db', long):
        with pytest.raises(PedarrError) as e: simulate_database(target, 4, .5)
        assert '\n' not in str(e.value)
    with pytest.raises(PedarrError): simulate_database('a\0b', 4, .5)
    assert (tmp_path/'file').read_text() == 'mine' and len(list(tmp_path.iterdir())) == 2


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path):
    (tmp_path/'far').mkdir()
    (tmp_path/'db').symlink_to(tmp_path/'far')
    simulate_database(tmp_path/'db', 4, .5)
    assert (tmp_path/'db').is_symlink() and (tmp_path/'far'/'RECORDS').exists()


Space = namedtuple('Space', 'free')


def test_the_space_is_looked_at_before_any_work(tmp_path, monkeypatch):
    def work(*args): raise AssertionError('work was done')
    everywhere(monkeypatch, written_, '_write_all', work)
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: Space(10**9))
    with pytest.raises(PassingError, match='GB left'): simulate_database(tmp_path/'new'/'db', 1000, 60)
    assert not list(tmp_path.iterdir())


def test_what_is_needed_covers_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: Space(0))
    with pytest.raises(PassingError, match=r'needs (\S+) GB') as e: simulate_database(tmp_path/'db', 8, 1)
    need = float(str(e.value).split('needs ')[1].split()[0])*1e9
    monkeypatch.undo()
    simulate_database(tmp_path/'db', 8, 1)
    written = sum(p.stat().st_size for p in (tmp_path/'db').iterdir())
    assert written < need + 1e7 and need < 1.2*written + 1e7


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(tmp_path):
    for name in ('.db.part-old', '.db.part-', '.other.part-old', '.dbx'):
        (tmp_path/name).mkdir()
        (tmp_path/name/'x001.dat').write_bytes(b'1234')
    (tmp_path/'.db.part-mine').write_text('a file')
    (tmp_path/'.db.lock').write_text('')
    simulate_database(tmp_path/'db', 4, .5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['.db.part-mine', '.dbx', '.other.part-old', 'db']


def test_two_at_once(tmp_path):
    with hold_lock(tmp_path/'.db.lock', 'simulating'):
        with pytest.raises(PedarrError, match='process') as e: simulate_database(tmp_path/'db', 4, .5)
    assert str(e.value).count(str(os.getpid())) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EIO])
def test_a_fault_of_the_disk_leaves_nothing_and_blames_nobody(tmp_path, monkeypatch, code):
    def fault(path): raise OSError(code, os.strerror(code))
    everywhere(monkeypatch, files_, 'sync_file', fault)
    with pytest.raises(PassingError, match='db') as e: simulate_database(tmp_path/'db', 4, .5)
    assert 'delete' not in str(e.value) and not list(tmp_path.iterdir())


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args): raise KeyboardInterrupt
    everywhere(monkeypatch, written_, '_write_tables', stop)
    with pytest.raises(KeyboardInterrupt): simulate_database(tmp_path/'db', 4, .5)
    assert not list(tmp_path.iterdir())


def test_unknown_rhythm():
    with pytest.raises(PedarrError, match='PJRT'): simulate_recording(PATIENT, [('PJRT', 5.)])


RUN = """
import sys
from pedarr.synthetic.studies import simulate_database
print('begins', flush=True)
simulate_database(sys.argv[1], 8, float(sys.argv[3]), seed=5, jobs=int(sys.argv[2]))
"""


def begun(folder, jobs, minutes=2.):
    "A process that simulates into `folder`, from the moment at which its hidden folder is there."
    given = str(folder), str(jobs), str(minutes)
    process = subprocess.Popen([sys.executable, '-c', RUN, *given], stdout=subprocess.PIPE)
    while process.poll() is None and not list(folder.parent.glob('.db.part-*')): time.sleep(.01)
    return process


@pytest.mark.long
def test_kills_end_in_the_same_bytes_with_nothing_left_behind(tmp_path):
    "Two kills at moments drawn by lot; PEDARR_KILLS=20 for more."
    simulate_database(tmp_path/'whole', 8, 1., seed=5)
    luck = random.Random(1)
    for i in range(int(os.environ.get('PEDARR_KILLS', 2))):
        place = tmp_path/str(i)
        place.mkdir()
        process = begun(place/'db', 1, 1.)
        time.sleep(luck.random())
        process.kill()
        process.wait()
        assert not (place/'db').exists() or tree(place/'db') == tree(tmp_path/'whole')
        if not (place/'db').exists(): simulate_database(place/'db', 8, 1., seed=5)
        assert tree(place/'db') == tree(tmp_path/'whole') and [p.name for p in place.iterdir()] == ['db']


@pytest.mark.parametrize('jobs', [1, 2])
def test_ctrl_c_leaves_nothing(tmp_path, jobs):
    process = begun(tmp_path/'db', jobs)
    time.sleep(.4)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0 and not list(tmp_path.iterdir())


def test_offsets_stay_where_they_are_and_some_reach_the_rails():
    drawn = np.array([draw_offsets(np.random.default_rng(i)) for i in range(400)])
    wide = abs(drawn[:, 3:]).max(axis=1) > 1
    assert .15 < wide.mean() < .35 and abs(drawn[:, :3]).max() < .3 and abs(drawn[~wide]).max() < .3
    assert abs(drawn).max() > 10 and abs(drawn).max() <= 10.24
    given = replace(PATIENT, offsets=(('CS34', -3.4), ('CS56', 10.)))
    recording = simulate_recording(given, [('N', 130.)], seed=8)
    for name, offset in given.offsets:
        x = recording.signal[CHANNELS.index(name)]
        for minute in (x[:60*SIMULATED_RATE], x[-60*SIMULATED_RATE:]):
            assert abs(np.median(minute) - offset) < .05
    assert recording.digital.max() <= AMPLIFIER_RAIL and recording.digital.min() >= -AMPLIFIER_RAIL


def spectral_centre(x, fs=SIMULATED_RATE):
    "Centre of the power between 10 and 200 Hz."
    power = abs(np.fft.rfft(x - x.mean()))**2
    f = np.fft.rfftfreq(len(x), 1/fs)
    here = (f > 10) & (f < 200)
    return (f*power)[here].sum()/power[here].sum()


@pytest.mark.parametrize('rhythm', ['AFIB', 'AFL'])
def test_coronary_sinus_in_fibrillation_and_flutter(rhythm):
    "Real ones have their centre near 60 Hz (quartiles 52 to 79); before they were measured these had 31."
    made = [simulate_recording(PATIENT, [(rhythm, 20.)], seed=[i]).signal[-5:] for i in range(8)]
    centres = [spectral_centre(x.astype(float)) for five in made for x in five]
    assert 42 < np.median(centres) < 75


@given(st.floats(.3, 1.2), st.floats(0, .1), st.floats(0, .1))
@settings(max_examples=100, deadline=None)
def test_a_measured_irregularity_comes_out(cycle, spread, variability):
    breathing, innovation, jitter = irregularity(RhythmPace('N', cycle, spread*cycle, variability*cycle))
    total = innovation**2/(1 - .98**2) + jitter**2 + breathing**2/2
    assert min(breathing, innovation, jitter) >= 0 and total >= spread**2*(1 - 1e-9)
    if innovation > 0: assert total == pytest.approx(spread**2)


def test_measured_cycles_hold_in_the_opening():
    known = (RhythmPace('N', .61, .01, .008), RhythmPace('AVRT', .4, .003, .002))
    score = [('+', '(N'), *[('N', '')]*40, ('+', '(AVRT'), *[('X', 'AVRT')]*60, ('+', '(N'), *[('N', '')]*200]
    for seed in range(5):
        heart = make_heart(9., np.random.default_rng(seed), 'left lateral', known=known)
        beats, _, stretch = play_score_in(score, heart, seed, 230.)
        rr = beats[beats.symbol != ''].ventricle.diff()
        assert rr[beats.rhythm == 'N'][:39].median() == pytest.approx(.61, rel=.04)
        assert rr[beats.symbol == 'X'].median() == pytest.approx(.4, rel=.04)
        assert beats.ventricle.max() == pytest.approx(229.6)


@pytest.mark.parametrize('rhythm, symbol, aux', [('/A', '/', '/A'), ('/V', '/', '/V')])
def test_pacing_comes_in_trains(rhythm, symbol, aux):
    "As in x0010: intervals of one length within some milliseconds, then one that is shorter."
    train = [('+', f'({rhythm}'), *[(symbol, aux)]*9, ('+', '(N'), *[('N', '')]*3]
    heart = replace(make_heart(14., np.random.default_rng(3)), retrograde=True, av_limit=.3)
    beats, _ = play_score([('+', '(N'), *[('N', '')]*4, *train*6], heart, 3)
    stimuli = beats[beats.symbol == symbol].stimulus.to_numpy().reshape(6, 9)
    first = np.diff(stimuli)[:, :-1]
    assert any(np.median(first) == pytest.approx(x, rel=.01) for x in TRAINS)
    assert abs(first/np.median(first) - 1).max() < .01
    assert (np.diff(stimuli)[:, -1] < .9*np.median(first)).all()
