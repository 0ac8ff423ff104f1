"""The twin: counts of the release whatever the seed and scale, same bytes for any jobs, scripts, bad input, memory."""
import gzip
import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given, settings, strategies as st

from conftest import real
from pedarr import twin
from pedarr.leipzig import release_facts, subject_table
from pedarr.records import open_record, read_annotations
from pedarr.rhythms import PedarrError, parse_episodes, poor_signal
from pedarr.simulate import FS, make_heart, perform_in

FACTS = release_facts()


def tree(folder): return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope='session')
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp('twin')/'db'
    twin.simulate_twin(folder, scale=.01, seed=3)
    return folder


def test_layouts_lengths_and_tables(small):
    table = subject_table(small)
    want = FACTS['records'].set_index('record')
    assert list(table.index) == list(want.index) and list(table.age_text) == list(want.age) and list(table.pathway) == list(want.pathway)
    for record in want.index:
        r = open_record(small/record)
        assert r.names == want.channels[record].split() and r.fs == 977 and any('scale 0.01, seed 3' in c for c in r.comments)
        assert abs(r.duration - table.stated_seconds[record]) < .002
    assert (open_record(small/'x0027').standard(0, 500)[12] == np.float32(.076)).all()


def test_every_rhythm_of_every_subject_is_there(small):
    want = FACTS['episodes'][FACTS['episodes'].rhythm != '']
    for record, rows in want.groupby('record'):
        r = open_record(small/record)
        marks = read_annotations(small/record, 'atr', r.sig_len)
        episodes = parse_episodes(marks.sample, marks.symbol, marks.aux, r.sig_len)
        assert set(episodes.rhythm) == set(rows.rhythm)
        assert (np.diff(marks.sample) > 0).all()
        poor = poor_signal(marks.sample, marks.symbol, r.sig_len)
        assert bool(len(poor)) == bool((FACTS['marks'][FACTS['marks'].record == record].symbol == '~').any())


def test_einthoven_outside_the_rails_and_clipping_where_it_belongs(small):
    clipped = set()
    for record in FACTS['records'].record:
        d = open_record(small/record).digital()
        inside = (abs(d[:3]) < 20480).all(axis=0)
        assert (d[2] == d[1] - d[0])[inside].all()
        if (abs(d[:12]) >= 20480).any(): clipped.add(record)
    assert clipped <= set(twin.RAILS) and len(clipped) >= 4


def test_same_bytes_for_any_jobs(tmp_path, small):
    twin.simulate_twin(tmp_path/'two', scale=.01, seed=3, jobs=2)
    assert tree(tmp_path/'two') == tree(small)
    sums = dict(reversed(line.split()) for line in (small/'SHA256SUMS.txt').read_text().splitlines())
    assert sums == {k: v for k, v in tree(small).items() if k != 'SHA256SUMS.txt'}


@given(st.integers(0, 2**31), st.sampled_from(sorted(FACTS['records'].record)), st.floats(.001, .999))
@settings(max_examples=40, deadline=None)
def test_scores_at_any_scale(seed, record, scale):
    score = twin.twin_score(record, seed, scale)
    rows = FACTS['episodes'][(FACTS['episodes'].record == record) & (FACTS['episodes'].rhythm != '')]
    assert {text[1:] for symbol, text in score if symbol == '+'} == set(rows.rhythm)
    known = {(m.symbol, m.aux) for m in FACTS['marks'][FACTS['marks'].record == record].itertuples()}
    assert {b for b in score if b[0] != '+'} <= known
    assert sum(s == '~' for s, _ in score) % 2 == 0
    whole = FACTS['marks'][(FACTS['marks'].record == record) & (FACTS['marks'].symbol != '~')].n.sum()
    least = 12*len(rows) + 2
    assert scale*whole - 3*len(rows) <= sum(s not in '+~' for s, _ in score) <= max(scale*whole + 12*rows.episodes.mul(scale).add(1).sum() + 12, least)


@given(st.integers(2, 30), st.data())
@settings(max_examples=200, deadline=None)
def test_episode_lengths_from_real_lengths(n, data):
    "Whatever lengths there are, their own statistics can be met."
    lengths = data.draw(st.lists(st.integers(1, 400), min_size=n, max_size=n))
    x = twin.episode_lengths(n, sum(lengths), float(np.median(lengths)), max(lengths), np.random.default_rng(0))
    assert (len(x), x.sum(), np.median(x), x.max()) == (n, sum(lengths), np.median(lengths), max(lengths)) and x.min() >= 0


@given(st.lists(st.sampled_from([(m.symbol, m.aux) for m in FACTS['marks'].drop_duplicates(['symbol', 'aux']).itertuples() if m.symbol != '~']), min_size=3, max_size=80),
       st.integers(0, 10**6), st.floats(.3, 1.2), st.floats(4, 70))
@settings(max_examples=150, deadline=None)
def test_any_sequence_of_beats_can_be_played(score, seed, rr, age):
    heart = make_heart(age, np.random.default_rng(seed), 'left lateral', fallot=age > 30)
    beats, _, _ = perform_in(score, heart, seed, rr*len(score) + 1)
    annotated = beats[beats.symbol != '']
    assert list(zip(annotated.symbol, annotated.aux)) == score
    assert (annotated.ventricle.diff().dropna() > .1).all() and annotated.ventricle.iloc[0] > -.3


def write_script(path, rows): pd.DataFrame(rows, columns=['record', 'symbol', 'aux']).to_csv(path, index=False); return path


def test_a_script_is_played_in_its_order(tmp_path):
    rows = [('x101', '+', '(N'), *[('x101', 'R', '')]*9, ('x101', 'V', ''), ('x101', '+', '(VT'), *[('x101', 'X', 'VT')]*20, ('x101', '~', ''), ('x101', '~', ''), ('x101', 'Q', '')]
    twin.simulate_twin(tmp_path/'db', script=write_script(tmp_path/'s.csv', rows))
    marks = wfdb.rdann(str(tmp_path/'db'/'x101'), 'atr')
    assert list(zip(marks.symbol, [a.strip('\0') for a in marks.aux_note])) == [r[1:] for r in rows]
    assert (tmp_path/'db'/'RECORDS').read_text() == 'x101\n'


def test_the_real_sequence(tmp_path):
    "The annotation sequence of the release, played for its shortest and its oddest record."
    with gzip.open(real('leipzig')/'annotation-sequence.csv.gz', 'rt') as f: table = pd.read_csv(f, dtype=str, keep_default_na=False)
    some = table[table.record.isin(['x0027', 'x0013'])]
    some.to_csv(tmp_path/'s.csv.gz', index=False)
    twin.simulate_twin(tmp_path/'db', script=tmp_path/'s.csv.gz')
    for record, want in some.groupby('record'):
        marks = wfdb.rdann(str(tmp_path/'db'/record), 'atr')
        assert marks.symbol == list(want.symbol) and [a.strip('\0') for a in marks.aux_note] == list(want.aux)
        assert open_record(tmp_path/'db'/record).duration == pytest.approx(twin.record_seconds(record), abs=.002)


@pytest.mark.parametrize('rows, words', [
    ([('x001', '?', '')], 'line 2'), ([('x001', '+', '(ZZ')], 'unknown rhythm'), ([('x999', 'N', '')], 'x999'), ([], 'holds no annotations')])
def test_bad_scripts(tmp_path, rows, words):
    with pytest.raises(PedarrError, match=words) as e: twin.simulate_twin(tmp_path/'db', script=write_script(tmp_path/'s.csv', rows))
    assert '\n' not in str(e.value) and 's.csv' in str(e.value) and not (tmp_path/'db').exists()


@pytest.mark.parametrize('content', [b'', b'\xff\xfe\x00nonsense\x00', b'a,b\n1,2\n', b'\x1f\x8b\x08broken'])
def test_scripts_that_are_no_tables(tmp_path, content):
    for name in ('s.csv', 's.csv.gz'):
        (tmp_path/name).write_bytes(content)
        with pytest.raises(PedarrError, match=name) as e: twin.read_script(tmp_path/name)
        assert '\n' not in str(e.value)


@pytest.mark.parametrize('options, word', [(dict(scale=0), 'scale=0'), (dict(scale=1.5), 'scale=1.5'), (dict(scale=float('nan')), 'scale=nan'), (dict(seed=-1), 'seed=-1'), (dict(scale=.01, jobs=0), 'jobs=0')])
def test_values_out_of_range(tmp_path, options, word):
    with pytest.raises(PedarrError, match=word): twin.simulate_twin(tmp_path/'db', **options)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_full(tmp_path, monkeypatch):
    import shutil
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(PedarrError, match='GB left'): twin.simulate_twin(tmp_path/'db', scale=.1)
    assert not list(tmp_path.iterdir())


MEMORY = """
import re, sys
from pathlib import Path
from pedarr.twin import _Twin, twin_subjects
from pedarr.simulate import digitise, BLOCK
study = _Twin(0, 1., {})(next(s for s in twin_subjects() if s.record == sys.argv[1]))
for start in range(0, 4*BLOCK, BLOCK): digitise(study.subject, study.signals, start, BLOCK)
print(study.n/977/3600, int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])/1024)
"""


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='peak memory is read from /proc, which this system lacks')
def test_memory_of_the_longest_recording():
    "Two and a half hours are planned and drawn minute by minute within a few hundred megabytes."
    out = subprocess.run([sys.executable, '-c', MEMORY, 'x003'], capture_output=True, text=True, check=True).stdout.split()
    assert float(out[0]) > 2.5 and float(out[1]) < 600, out
