"""Preprocessing: seams, memory, windows, bytes, faults. What is a lesson stands in nbs/4_signals."""
import errno
import hashlib
import json
import os
import re
import pickle
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from hypothesis import HealthCheck, given, settings, strategies as st
from scipy.signal import resample_poly, sosfiltfilt

from conftest import everywhere, real
from helpers import AT_250_HZ, edit
from pedarr.signals import build as build_
from pedarr.signals import fast_filters as fast_
from pedarr.signals import rates as rates_
from pedarr.core import files as files_
from pedarr.core import tables as tables_
from pedarr.signals import filters as filters_
from pedarr.signals import parts as parts_
from pedarr.signals import settings as settings_
from pedarr.signals import store as store_
from pedarr.signals import windows as windows_
from pedarr.core.errors import PassingError, PedarrError
from pedarr.data.known_databases import LEIPZIG, get_database
from pedarr.data.databases import Database
from pedarr.signals.settings import PreprocessConfig, default_config
from pedarr.signals.build import build_store
from pedarr.signals.fast_filters import read_filtered, stream_filtered
from pedarr.signals.augmentation import normalise_signals
from pedarr.signals.store import open_store
from pedarr.signals.windows import segment_table
from pedarr.data.channels import CHANNELS
from pedarr.data.records import Record, open_record
from pedarr.data.streams import RecordStream

FILES = ('ecg.npy', 'iegm.npy', 'mask.npy', 'beats.npy', 'segments.csv', 'store.json')
CONFIG = PreprocessConfig()


class Endless:
    """A recording of any length that computes its samples when asked for them, so that only the code under
    test holds memory."""
    name, rows = 'endless', np.arange(19)
    def __init__(self, minutes, fs=977.): self.fs, self.sig_len = fs, int(minutes*60*fs)
    def standard(self, start, stop):
        t = np.arange(start, stop)/self.fs
        base = 2*np.sin(2*np.pi*.05*t) + np.sin(2*np.pi*7*t**1.0001) + .1*np.sin(2*np.pi*93*t) + 3
        return (base*np.linspace(.5, 1.5, 19)[:, None]).astype(np.float32)


def whole(record, config): return np.concatenate([y for _, y in stream_filtered(record, config)], axis=1)


def same(a, b): return [f for f in FILES if (a/f).read_bytes() != (b/f).read_bytes()]


# ---- filters and resampling

@pytest.mark.parametrize('fs', [977., 1000., 500., 360., 128.])
def test_chunks_equal_the_whole(fs):
    record = Endless(2, fs)
    one, many = whole(record, CONFIG.replace(chunk=1e6)), whole(record, CONFIG.replace(chunk=17))
    assert one.shape == many.shape == (19, rates_.store_length(record, CONFIG))
    inner = slice(8*500, -8*500)
    assert np.abs(one - many)[:, inner].max() < 1e-4
    assert np.abs(one[:, inner]).max() > .1       # there is a signal to compare


@pytest.mark.parametrize('name, record', [('mitdb', '100'), ('iafdb', 'iaf1_afw')])
def test_chunks_equal_the_whole_on_real_recordings(name, record):
    record = get_database(name).open(real(name)/record)
    one, many = whole(record, CONFIG.replace(chunk=1e6)), whole(record, CONFIG.replace(chunk=61))
    error = np.nanmax(np.abs(one - many)[:, 8*500:-8*500])
    print(f'{record.name}: chunks against whole {error:.1e} mV')
    assert error < 1e-4


@pytest.mark.parametrize('notch', [None, 50.])
def test_equals_scipy_in_float64_on_a_real_recording(notch):
    record = get_database('iafdb').open(real('iafdb')/'iaf1_afw')
    config = CONFIG.replace(notch=notch)
    ours = whole(record, config)
    rows = np.flatnonzero(record.rows >= 0)
    x = resample_poly(record.standard()[rows].astype(float), 1, 2, axis=1, window=rates_.resampler_taps(1, 2))
    for y, xi, row in zip(ours[rows], x, rows):
        theirs = sosfiltfilt(settings_.filter_sections(config,
                                                      config.ecg_band if row < 12 else config.iegm_band), xi)
        assert np.abs(y - theirs)[8*500:-8*500].max() < 1e-4


def test_a_tone_is_kept_in_place_and_hum_is_removed_where_asked():
    t = np.arange(60*500)/500
    x = (np.sin(2*np.pi*10*t) + np.sin(2*np.pi*50*t))[None].astype(np.float32)
    inner = slice(5000, -5000)
    clean = fast_.bandpass(x, [0], CONFIG.replace(notch=50.))[0, inner]
    np.testing.assert_allclose(clean, np.sin(2*np.pi*10*t)[inner], atol=.01)     # no phase shift, no hum
    assert fast_.bandpass(x, [0], CONFIG)[0, inner].std() > .95  # without the notch, the hum stays


class Sines(NamedTuple):
    "A recording of known sines at any rate, computed when asked for."
    fs: float
    sig_len: int
    name: str = 'sines'
    rows: np.ndarray = np.arange(19)
    def at(self, t): return np.sin(2*np.pi*7*t) + .5*np.sin(2*np.pi*19.3*t + 1)
    def standard(self, start, stop):
        return np.tile(self.at(np.arange(start, stop)/self.fs).astype(np.float32), (19, 1))


@pytest.mark.parametrize('fs, rate', [
    (333.333, 250.), (333.333, 500.), (62.4725, 125.), (249.89, 250.), (499.907, 500.), (977.517, 250.)])
def test_odd_rates_give_the_signal_at_the_times_that_the_ratio_says(fs, rate):
    "Exact up to the drift, which is bounded, against the formula of the signal."
    seconds = 60
    record = Sines(fs, round(seconds*fs))
    up, down = rates_.resampling_ratio(fs, rate)
    assert max(up, down) <= rates_.LONGEST_PERIOD
    assert abs(rates_.deviation(fs, rate)) <= 1/rates_.LONGEST_PERIOD
    y = fast_.resample_signal(record.standard(0, record.sig_len)[:1], up, down)[0]
    k = np.arange(len(y))
    inner = slice(round(2*rate), -round(2*rate))
    exact = record.at(k*down/(up*fs))                         # the signal at the instant of each output
    assert np.abs(y - exact)[inner].max() < 4e-3
    late = np.abs(k*down/(up*fs) - k/rate).max()              # against a clock of exactly `rate`
    assert late <= abs(rates_.clock_drift(record, rate)) + 1e-9 and late <= seconds/rates_.LONGEST_PERIOD


@pytest.mark.parametrize('fs', [333.333, 62.4725, 249.89, 499.907])
@pytest.mark.parametrize('rate', [250., 500.])
def test_windows_at_odd_rates_lie_where_their_start_says(fs, rate):
    "In a long recording too: windows are cut by the recording's own clock, so the drift doesn't reach them."
    record = Sines(fs, round(3600*fs))
    config = PreprocessConfig(rate=rate, ecg_band=(.5, 30), iegm_band=(.5, 30))
    start = np.array([round(30*fs), round(3500*fs)])
    for x, mask in windows_.cut_windows(record, start, start + round(3*fs), config):
        assert mask.all()
    for s in start:
        x, _ = next(windows_.cut_windows(record, [s], [s + round(3*fs)], config))
        up, down = rates_.resampling_ratio(fs, rate)
        first = round(s*up/down)*down/(up*fs)                 # when the nearest store sample is
        assert abs(first - s/fs) <= .51/rate
        # the filter takes .074 of 19.3 Hz
        assert np.abs(x[0, 0] - record.at(first + np.arange(config.samples)/rate)).max() < .09


@settings(max_examples=200, deadline=None)
@given(st.integers(50_000, 2_000_000), st.sampled_from([100., 125., 128., 250., 256., 360., 500., 1000.]))
def test_every_rate_with_three_decimals_is_near_a_ratio(thousandths, rate):
    fs = thousandths/1000
    up, down = rates_.resampling_ratio(fs, rate)
    assert 1 <= min(up, down)
    assert max(up, down) <= rates_.LONGEST_PERIOD
    assert abs(rates_.deviation(fs, rate)) <= 1/rates_.LONGEST_PERIOD
    exact = Fraction(rate)/Fraction(thousandths, 1000)
    if max(exact.numerator, exact.denominator) <= rates_.LONGEST_PERIOD: assert Fraction(up, down) == exact


def test_a_drift_beyond_the_bound_is_refused_with_a_rate_that_works():
    week, hour = Sines(333.333, round(7*86400*333.333), 'week'), Sines(333.333, round(3600*333.333))
    with pytest.raises(PedarrError, match='week.*drift by 0.6 s.*--rate 249.99975') as e:
        rates_.check_drift([hour, week], 250.)
    assert '\n' not in str(e.value)
    rate = float(str(e.value).split('--rate ')[1].split(',')[0])
    assert rates_.check_drift([hour, week], rate) == [] and rates_.deviation(333.333, rate) == 0
    assert len(rates_.check_drift([hour, hour], 250.)) == 1
    assert rates_.check_drift([Sines(977., 977*86400*7)], 500.) == []
    with pytest.raises(PedarrError, match='too far apart'): rates_.resampling_ratio(1e6, 1.)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 700), st.integers(0, 99))
def test_resampling_equals_scipy_for_any_ratio(up, down, n, seed):
    g = np.gcd(up, down)
    up, down = int(up//g), int(down//g)
    x = np.random.default_rng(seed).standard_normal((2, n)).astype(np.float32)
    if up == down: return
    theirs = resample_poly(x.astype(float), up, down, axis=1, window=rates_.resampler_taps(up, down)/up)
    ours = fast_.resample_signal(x, up, down)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.floats(.02, 200), st.floats(1.2, 50), st.none() | st.floats(40, 70),
       st.sampled_from([250., 500., 1000.]), st.integers(0, 99))
def test_blocks_equal_the_product_of_spectra_for_any_filter(order, low, width, notch, rate, seed):
    "Or the settings are refused in one line."
    try:
        config = PreprocessConfig(rate=rate, ecg_band=(low, min(low*width, rate/2 - 1)), iegm_band=(30, 100),
                                  order=order, notch=notch)
    except PedarrError as e:
        assert '\n' not in str(e)
        return
    if settings_.settling_seconds(config) > 60: return
    n, pad = round(20*rate), round(settings_.settling_seconds(config)*rate) + 64
    x = np.random.default_rng(seed).standard_normal((3, n + 2*pad)).astype(np.float32)
    x[:, :pad] = x[:, -pad:] = 0                 # silence, so that the transform's ring doesn't matter
    try: ours = fast_.bandpass(x, [0, 5, 12], config)
    except PedarrError as e:  # steep filters whose poles lie too close to 1 for their state space
        assert order >= 3 and '\n' not in str(e) and 'lower the order' in str(e)
        return
    f = np.fft.rfftfreq(x.shape[1], 1/rate)
    for y, xi, band in zip(ours, x, (config.ecg_band, config.ecg_band, config.iegm_band)):
        response = filters_.frequency_response(settings_.filter_sections(config, band), f, rate)
        theirs = np.fft.irfft(np.fft.rfft(xi.astype(float))*response, x.shape[1])
        assert np.abs(y - theirs).max() < 1e-4*max(1, np.abs(xi).max())


def test_memory_does_not_grow_with_length():
    def peak(minutes):
        tracemalloc.start()
        for _, y in stream_filtered(Endless(minutes), CONFIG.replace(chunk=60)): pass
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()
    peak(3)                                      # fills the caches of filters
    short, long = peak(5)[0], peak(40)[0]
    print(f'peak memory: 5 min {short/1e6:.0f} MB, 40 min {long/1e6:.0f} MB')
    assert long < 1.05*short and long < 150e6


class Gappy(Endless):
    def standard(self, start, stop):
        x = super().standard(start, stop)
        t = np.arange(start, stop)
        x[0, (t >= 20_000) & (t < 21_000)] = np.nan
        x[1] = np.nan
        x[2, t >= 25_000] = .076
        return x


def test_gaps_and_flat_channels_are_masked_and_do_not_spread():
    record = Gappy(1)
    y = read_filtered(record, 0, record.sig_len)
    k = np.isnan(y[0])
    assert abs(k.sum() - 1000*500/977) <= 1 and abs(np.flatnonzero(k)[0] - 20_000*500/977) <= 1
    assert np.isnan(y[1]).all() and np.isfinite(y[3]).all()
    x, mask = next(windows_.cut_windows(record, [19_900, 20_000, 26_000], [22_831, 22_931, 28_931], CONFIG))
    assert mask[:, 0].tolist() == [True, True, True]
    assert not mask[:, 1].any()
    assert mask[:, 2].tolist() == [True, True, False]
    assert np.isfinite(x).all() and (x[~mask] == 0).all() and (x[0, 0] == 0).sum() >= 511
    gap = CONFIG.replace(window=1., chunk=50)
    # the whole window is missing
    assert not next(windows_.cut_windows(record, [20_000], [20_977], gap))[1][0, 0]


# ---- one pass over the files

@pytest.mark.parametrize('fmt', ['16', '24', '212'])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 30_000), n_sig=st.integers(1, 3),
       cuts=st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 20_000)), max_size=5),
    seed=st.integers(0, 99))
def test_a_tape_plays_what_the_record_holds(tmp_path, fmt, n, n_sig, cuts, seed):
    "For any stretches in rising order; every byte is hashed once, whatever was asked for."
    d = np.random.default_rng(seed).integers(-2000, 2000, (n, n_sig))
    d[seed % n, 0] = -2**(int(fmt) - 1) if fmt != '212' else -2**11        # one invalid sample
    wfdb.wrsamp('r', fs=977, units=['mV']*n_sig, sig_name=['CS12', 'II', 'V1'][:n_sig], d_signal=d,
                fmt=[fmt]*n_sig, adc_gain=[200.]*n_sig,
        baseline=[3]*n_sig, write_dir=str(tmp_path))
    record = open_record(tmp_path/'r')
    with RecordStream(record) as tape:
        last = 0
        for a, length in sorted(cuts):
            a, b = min(a, n), max(last, min(a + length, n))
            if a < b: np.testing.assert_array_equal(tape.standard(a, b), record.standard(a, b))
            last = b
        assert tape.finish() == {'r.dat': hashlib.sha256((tmp_path/'r.dat').read_bytes()).hexdigest()}


def test_a_tape_of_several_files_and_of_one_behind_a_header(tmp_path):
    d = np.random.default_rng(0).integers(-2000, 2000, (20_001, 2))
    for name, fmt, part in (('a', '24', d), ('b', '212', d[:, :1])):
        wfdb.wrsamp(name, fs=977, units=['mV']*part.shape[1], sig_name=['I', 'II'][:part.shape[1]],
                    d_signal=part, fmt=[fmt]*part.shape[1],
                    adc_gain=[200.]*part.shape[1], baseline=[0]*part.shape[1], write_dir=str(tmp_path))
    edit(tmp_path/'b.hea', (' I\n', ' V6\n'))
    signals = [line for n in 'ab' for line in (tmp_path/f'{n}.hea').read_text().splitlines()[1:]]
    (tmp_path/'both.hea').write_text('\n'.join(['both 3 977 20001', *signals]) + '\n')
    (tmp_path/'a.mat').write_bytes(bytes(24) + (tmp_path/'a.dat').read_bytes())
    shutil.copy(tmp_path/'a.hea', tmp_path/'behind.hea')
    edit(tmp_path/'behind.hea', ('a 2', 'behind 2'), ('a.dat 24', 'a.mat 24+24'))
    for name in ('both', 'behind'):
        record = open_record(tmp_path/name)
        with RecordStream(record) as tape:
            for a, b in ((5, 12_000), (11_001, 20_001)):
                np.testing.assert_array_equal(tape.standard(a, b), record.standard(a, b))
            expected = {f.path.name: hashlib.sha256(f.path.read_bytes()).hexdigest() for f in record.files}
            assert tape.finish() == expected


def test_a_file_cut_short_while_it_is_read(tmp_path):
    wfdb.wrsamp('r', fs=977, units=['mV'], sig_name=['II'], d_signal=np.zeros((50_000, 1), int), fmt=['24'],
                adc_gain=[200.], baseline=[0],
        write_dir=str(tmp_path))
    record = open_record(tmp_path/'r')
    os.truncate(tmp_path/'r.dat', 60_000)
    with RecordStream(record) as tape, pytest.raises(PedarrError, match='r.dat.*shorter'): tape.finish()
    with pytest.raises(PedarrError, match='r.dat.*shorter'): record.physical()


# ---- windows

@st.composite
def annotated(draw):
    "Episodes, poor signal, and a config, at a low rate so that edges meet often."
    marks = sorted(draw(st.lists(st.integers(0, 600), min_size=1, max_size=8, unique=True)))
    sig_len = marks[-1] + draw(st.integers(1, 200))
    episodes = pd.DataFrame({
        'start': marks,
        'stop': marks[1:] + [sig_len],
        'rhythm': draw(st.lists(st.sampled_from(['N', 'VT', '?']), min_size=len(marks),
                                max_size=len(marks)))})
    edges = draw(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 60)), max_size=4))
    poor = pd.DataFrame({'start': [a for a, _ in edges], 'stop': [a + n for a, n in edges]}, dtype='int64')
    config = PreprocessConfig(window=draw(st.integers(1, 30)), guard=draw(st.integers(0, 8)),
                              stride=draw(st.none() | st.integers(1, 40)),
        rare_stride=draw(st.integers(1, 9)))
    return episodes, poor, sig_len, config


@settings(max_examples=30, deadline=None)
@given(annotated(), st.booleans())
def test_windows_lie_where_they_may_and_none_is_missed(case, rare):
    episodes, poor, sig_len, config = case
    t = segment_table(episodes, poor, 1., sig_len, config, {'N': 'SR', 'VT': 'VT'},
                      rare=['VT'] if rare else ())
    width, guard = int(config.window), int(config.guard)
    clear = np.ones(sig_len, bool)
    for p in poor.itertuples(): clear[p.start:p.stop] = False
    assert (t['stop'] - t['start'] == width).all()
    used = np.zeros(sig_len, int)
    for w in t.itertuples():
        home = episodes[(episodes['start'] + guard <= w.start) & (episodes['stop'] - guard >= w.stop)]
        assert len(home) == 1 and home['rhythm'].iloc[0] == w.rhythm and clear[w.start:w.stop].all()
        if w.evaluate: used[w.start:w.stop] += 1
    assert used.max(initial=0) <= 1  # evaluation windows never overlap
    assert not t[['start', 'label']].duplicated().any() and t['start'].is_monotonic_increasing
    for e in episodes.itertuples():  # no room for one more is left
        if e.rhythm == '?': continue
        free = np.zeros(sig_len, bool)
        free[e.start + guard:max(e.stop - guard, 0)] = True
        free &= clear & (used == 0)
        runs = np.diff(np.flatnonzero(np.diff(np.r_[0, free, 0])))[::2]
        assert runs.max(initial=0) < width
    assert ((t['label'] == 'VT') & ~t['evaluate']).sum() == 0 or rare or (config.stride or width) != width


def test_beats_are_counted_in_each_window():
    episodes = pd.DataFrame({'start': [0], 'stop': [1000], 'rhythm': ['N']})
    none = pd.DataFrame({'start': [], 'stop': []}, dtype='int64')
    beats = np.array([30, 330, 331, 900])
    t = segment_table(episodes, none, 100., 1000, CONFIG, {'N': 'SR'}, beats=beats)
    assert t['beats'].tolist() == [sum(a <= b < z for b in beats)
                                   for a, z in zip(t['start'], t['stop'])] == [1, 2, 1]
    assert (segment_table(episodes, none, 100., 1000, CONFIG, {'N': 'SR'})['beats'] == -1).all()


def test_rare_classes_get_more_training_windows(simulated, tmp_path):
    store = build_store(simulated, tmp_path/'s', 'leipzig', progress=False)
    share = store.segments[store.segments['evaluate']]['label'].value_counts(normalize=True)
    rare = set(share[share < CONFIG.rare_below].index)
    assert set(store.meta['rare']) == rare
    assert set(store.segments.loc[~store.segments['evaluate'], 'label']) <= rare
    plain = build_store(simulated, tmp_path/'p', 'leipzig', config=CONFIG.replace(rare_stride=None),
                        progress=False)
    assert plain.segments['evaluate'].all() and len(plain) == store.segments['evaluate'].sum()


# ---- the store

@pytest.fixture(scope='module')
def built(simulated, tmp_path_factory):
    return build_store(simulated, tmp_path_factory.mktemp('stores')/'store', 'leipzig', progress=False)


def test_same_bytes_for_any_number_of_processes(simulated, built, tmp_path):
    two = build_store(simulated, tmp_path/'two', 'leipzig', jobs=2, progress=False)
    assert same(built.path, two.path) == []
    assert not (tmp_path/'two.part').exists()
    text = (built.path/'store.json').read_text()
    assert str(simulated) not in text and 'jobs' not in text


def test_store_holds_what_was_asked(simulated, built):
    assert built.ecg.shape == (
        len(built), 12, 1500) and built.iegm.shape == (len(built), 7, 1500) and built.ecg.dtype == np.float16
    assert built.mask.shape == (len(built), 19)
    assert built.fs == 500
    assert built.segments.columns.tolist() == store_.SEGMENT_COLUMNS
    assert built.classes == ['SR', 'AVNRT', 'AVRT', 'VT', 'AT', 'AP', 'VP', 'ECT'] and built.config == CONFIG
    row = built.segments.iloc[len(built)//2]
    record = LEIPZIG.open(simulated/row['record'])
    y = np.nan_to_num(read_filtered(record, row['start'], row['stop']))
    mask = built.mask[len(built)//2]
    x = np.concatenate([built.ecg[len(built)//2], built.iegm[len(built)//2]])
    np.testing.assert_allclose(x[mask], y[mask], rtol=1e-3, atol=2e-4)
    assert (x[~mask] == 0).all()


def test_killed_at_any_record_resumes_to_the_same_bytes(simulated, built, tmp_path, monkeypatch):
    """A build that dies in its third record, in the middle of a write, leaves no store; the next one redoes
    only what is missing."""
    everywhere(monkeypatch, parts_, 'SMALLEST_PART', 1)
    real_cut, seen = windows_.cut_windows, []
    def dying(record, *args, **how):
        for i, part in enumerate(real_cut(record, *args, **how)):
            yield part
            if len(seen) == 2: raise KeyboardInterrupt
        seen.append(record.name)
    everywhere(monkeypatch, windows_, 'cut_windows', dying)
    with pytest.raises(KeyboardInterrupt): build_store(simulated, tmp_path/'s', 'leipzig', progress=False)
    assert not (tmp_path/'s').exists() and len(seen) == 2
    def counting(record, *args, **how):
        seen.append(record.name)
        return real_cut(record, *args, **how)
    everywhere(monkeypatch, windows_, 'cut_windows', counting)
    store = build_store(simulated, tmp_path/'s', 'leipzig', progress=False)
    assert len(seen) == len(set(seen)) == store.segments['record'].nunique()       # none done twice
    assert same(built.path, store.path) == [] and not (tmp_path/'s.part').exists()


BUILD = """
import sys
from pedarr.signals import build, parts
parts.SMALLEST_PART = 1
build.build_store(sys.argv[1], sys.argv[2], "leipzig", jobs=int(sys.argv[3]), progress=False)
"""


def build_until(folder, store, jobs, ready):
    "Build in another process, which gets SIGKILL as soon as `ready(place)` holds; the process."
    words = [sys.executable, '-c', BUILD, str(folder), str(store), str(jobs)]
    process = subprocess.Popen(words, env={**os.environ, 'OMP_NUM_THREADS': '1'}, start_new_session=True)
    part = store.with_name(store.name + '.part')
    while process.poll() is None:
        if any(ready(p) for p in part.glob('*') if p.is_dir()): process.kill()
    assert process.returncode in (0, -signal.SIGKILL)
    return process


@pytest.mark.skipif(sys.platform == 'win32', reason='no SIGKILL')
@pytest.mark.parametrize('jobs, moments', [
    (1, (4,)), *(pytest.param(n, moments, marks=pytest.mark.long)
               for n, moments in ((1, ('first bytes', 'seal')), (2, ('first bytes', 3))))])
def test_killed_by_the_system_and_run_again(simulated, built, tmp_path, jobs, moments):
    """Real SIGKILLs, one after the other on the same store: no store bears the name, no process is left, and
    in the end its bytes are those of an undisturbed build."""
    runs, killed = [], 0
    for moment in moments:
        ready = {'first bytes': lambda p: (p/'store'/'iegm.npy').exists(),
                 'seal': lambda p: (p/'store'/'segments.csv').exists()}
        ready = ready.get(moment, lambda p: len(list(p.glob('part-*.json'))) >= moment)
        for attempt in range(3):       # a kill may come too late on a busy machine
            runs.append(build_until(simulated, tmp_path/'s', jobs, ready))
            if runs[-1].returncode: break
            assert same(built.path, tmp_path/'s') == []
            shutil.rmtree(tmp_path/'s')
        else: continue
        killed += 1
        assert not (tmp_path/'s').exists()
    assert killed
    limit = time.monotonic() + 5
    while any(map(living, runs)) and time.monotonic() < limit: time.sleep(.05)
    assert not any(map(living, runs)), 'workers outlived their parent'
    store = build_store(simulated, tmp_path/'s', 'leipzig', jobs=jobs, progress=False)
    assert same(built.path, store.path) == [] and not (tmp_path/'s.part').exists()


def living(process) -> bool:
    "Is anything left of a process and its group?"
    try: os.killpg(process.pid, 0)
    except ProcessLookupError: return False
    return True


def interrupted(folder, store, monkeypatch, **how):
    "A build stopped just before its end, one part a record: the folder in which it works."
    with monkeypatch.context() as m:
        everywhere(m, parts_, 'SMALLEST_PART', 1)
        everywhere(m, build_, '_seal', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt): build_store(folder, store, 'leipzig', progress=False, **how)
    return next(p for p in store.with_name(store.name + '.part').iterdir() if p.is_dir())


def resumed(folder, store, monkeypatch, **how):
    "(the store that the same command makes now, names of the records that were filtered again)."
    seen, real_cut = [], windows_.cut_windows
    def counting(record, *args, **options):
        seen.append(record.name)
        return real_cut(record, *args, **options)
    with monkeypatch.context() as m:
        everywhere(m, parts_, 'SMALLEST_PART', 1)
        everywhere(m, windows_, 'cut_windows', counting)
        return build_store(folder, store, 'leipzig', progress=False, **how), seen


def region(built, place, name, record):
    "(file, first byte, size) of the windows of `record` in an array of an unfinished build."
    windows = np.flatnonzero(built.segments['record'] == record)
    file, size = place/'store'/name, getattr(built, name[:-4])[:1].nbytes
    return file, file.stat().st_size - (len(built) - windows[0])*size, len(windows)*size


def part_of(place, record_number): return sorted(place.glob('part-*.json'))[record_number]


def test_rubbish_in_a_recording_that_is_not_done_is_written_over(simulated, built, tmp_path, monkeypatch):
    place = interrupted(simulated, tmp_path/'s', monkeypatch)
    part_of(place, 2).unlink()                                   # of x003
    for name in ('ecg.npy', 'iegm.npy'):
        file, at, size = region(built, place, name, 'x003')
        with open(file, 'r+b') as f:
            f.seek(at)
            f.write(b'rubbish!'*(size//8))
    store, again = resumed(simulated, tmp_path/'s', monkeypatch)
    assert same(built.path, store.path) == [] and again == ['x003']


@pytest.mark.parametrize('name', ['ecg.npy', 'iegm.npy'])
@pytest.mark.parametrize('harm', ['zeros', 'hole', 'one bit', 'last byte'])
def test_a_finished_part_that_lost_its_bytes_is_made_again(simulated, built, tmp_path, monkeypatch, name,
                                                           harm):
    "As after a power cut: the file that says 'done' is whole, the bytes it speaks of are not."
    place = interrupted(simulated, tmp_path/'s', monkeypatch)
    file, at, size = region(built, place, name, 'x002')
    with open(file, 'r+b') as f:
        f.seek(at)
        old = bytearray(f.read(size))
        if harm in ('zeros', 'hole'): old = bytearray(size)
        if harm == 'one bit': old[size//2] ^= 1
        if harm == 'last byte': old[-1] ^= 128
        f.seek(at)
        f.write(old)
    if harm == 'hole':  # the rest of the file too, as far as it had come
        os.truncate(file, at)
        os.truncate(file, (built.path/name).stat().st_size)
    store, again = resumed(simulated, tmp_path/'s', monkeypatch)
    assert same(built.path, store.path) == []
    names = list(dict.fromkeys(built.segments.record))
    assert again == (names[names.index('x002'):] if harm == 'hole' else ['x002'])


def test_a_part_made_again_is_said(simulated, built, tmp_path, monkeypatch, capsys):
    place = interrupted(simulated, tmp_path/'s', monkeypatch)
    file, at, size = region(built, place, 'ecg.npy', 'x002')
    with open(file, 'r+b') as f:
        f.seek(at)
        f.write(bytes(size))
    everywhere(monkeypatch, parts_, 'SMALLEST_PART', 1)
    build_store(simulated, tmp_path/'s', 'leipzig')
    assert '1 finished parts of an interrupted build were damaged, and made again' in capsys.readouterr().err


@pytest.mark.parametrize('text', [
    '', '{', '[]', '{"records": []}', '{"records": 5}', 'null', '{"records": [{}]}', 'zeros', 'swapped'])
def test_a_damaged_file_of_a_part_is_made_again(simulated, built, tmp_path, monkeypatch, text):
    place = interrupted(simulated, tmp_path/'s', monkeypatch)
    one, other = part_of(place, 1), part_of(place, 2)
    if text == 'zeros': one.write_bytes(bytes(one.stat().st_size))
    elif text == 'swapped':
        both = one.read_bytes(), other.read_bytes()
        other.write_bytes(both[0])
        one.write_bytes(both[1])
    else: one.write_text(text)
    store, again = resumed(simulated, tmp_path/'s', monkeypatch)
    assert same(built.path, store.path) == []
    assert again == (['x002', 'x003'] if text == 'swapped' else ['x002'])


@pytest.mark.parametrize('harm', [
    'array gone', 'array cut', 'header of an array', 'signal changed', 'folder of another build'])
def test_what_an_interrupted_build_left_is_used_only_if_it_fits(simulated, built, tmp_path, monkeypatch,
                                                                harm):
    source = shutil.copytree(simulated, tmp_path/'db')
    place = interrupted(source, tmp_path/'s', monkeypatch)
    if harm == 'array gone': (place/'store'/'ecg.npy').unlink()
    if harm == 'array cut': os.truncate(place/'store'/'iegm.npy', 1000)
    if harm == 'header of an array':
        with open(place/'store'/'iegm.npy', 'r+b') as f: f.write(bytes(8))
    if harm == 'folder of another build': place.rename(place.with_name('0'*16))
    if harm == 'signal changed':
        file = source/'x002.dat'
        stat, raw = file.stat(), bytearray(file.read_bytes())
        raw[3002] ^= 1  # the top byte, which the 16-bit checksum doesn't see
        file.write_bytes(raw)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # and nor does its size or time
    store, again = resumed(source, tmp_path/'s', monkeypatch, accept_changed=True)
    assert ('store.json' in same(built.path, store.path)) == (harm == 'signal changed')
    if harm != 'signal changed': return
    assert again == ['x002'] and store.meta['sources']['x002'] != built.meta['sources']['x002']
    assert store.meta['sources']['x003'] == built.meta['sources']['x003']


def test_parts_survive_names_with_folders_and_odd_characters(simulated, tmp_path, monkeypatch):
    source = tmp_path/'db'
    names = {'x001': "a b/it's", 'x002': 'ü/x_(copy)%s', 'x003': 'same', 'x004': 'one/same'}
    for old, new in names.items():
        (source/new).parent.mkdir(parents=True, exist_ok=True)
        stem = new.split('/')[-1]
        for e in ('dat', 'atr'): shutil.copy(simulated/f'{old}.{e}', source/f'{new}.{e}')
        header = shutil.copy(simulated/f'{old}.hea', source/f'{new}.hea')
        edit(header, (f'{old}.dat', f'{stem}.dat'))
        edit(header, (f'{old} ', 'r '), times=1)
    def subjects(paths, folder, db):
        index = [p.relative_to(folder).with_suffix('').as_posix() for p in paths]
        return pd.DataFrame(dict(subject=range(4), cohort='c', age=1., sex='F'), index=index)
    db = replace(LEIPZIG, read_subjects=subjects)
    with monkeypatch.context() as m:
        everywhere(m, parts_, 'SMALLEST_PART', 1)
        everywhere(m, build_, '_seal', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt): build_store(source, tmp_path/'s', db, progress=False)
    assert len([*(tmp_path/'s.part').rglob('part-*.json')]) == 4
    store = build_store(source, tmp_path/'s', db, progress=False)
    fresh = build_store(source, tmp_path/'t', db, progress=False)
    assert same(store.path, fresh.path) == []
    assert set(store.segments.record) == {"it's", 'x_(copy)%s', 'same', 'one/same'}
    assert open_store(store.path).segments.record.tolist() == store.segments.record.tolist()


def test_bytes_are_on_the_disk_before_anything_vouches_for_them(simulated, tmp_path, monkeypatch):
    """The order of writes, syncs and renames: arrays before the file of their part; all files and the folder
    before the last rename."""
    if not os.path.isdir('/proc/self/fd'): pytest.skip('no /proc')
    events, real_fsync, real_replace, real_flush = [], os.fsync, os.replace, parts_._Sink.finish
    def name_of(number): return os.path.realpath(f'/proc/self/fd/{number}')
    def fsync(number):
        events.append(('sync', name_of(number)))
        real_fsync(number)
    def rename(a, b):
        events.append(('rename', str(b)))
        real_replace(a, b)
    def finish(sink):
        events.append(('written', str(sink.file)))
        return real_flush(sink)
    monkeypatch.setattr(os, 'fsync', fsync)
    monkeypatch.setattr(os, 'replace', rename)
    monkeypatch.setattr(parts_._Sink, 'finish', finish)
    everywhere(monkeypatch, parts_, 'SMALLEST_PART', 1)
    store = build_store(simulated, tmp_path/'s', 'leipzig', progress=False).path
    place = next(name for what, name in events if what == 'written').rsplit('/store/', 1)[0]
    for i, (what, name) in enumerate(events):
        if what != 'rename' or 'part-' not in name: continue
        for array in ('ecg.npy', 'iegm.npy'):
            last = max(j for j, e in enumerate(events[:i]) if e == ('written', f'{place}/store/{array}'))
            assert ('sync', f'{place}/store/{array}') in events[last:i]
        assert events[i - 1][0] == 'sync' and re.fullmatch(rf'{re.escape(name)}\.\w+\.part', events[i - 1][1])
        assert events[i + 1] == ('sync', place)
    end = events.index(('rename', str(store)))
    last = max(j for j, (what, _) in enumerate(events[:end]) if what == 'written')
    assert {f'{place}/store/{n}' for n in ('ecg.npy', 'iegm.npy')} <= {n for what, n in events[last:end]
                                                                       if what == 'sync'}
    for n in ('mask.npy', 'segments.csv', 'store.json'):
        assert ('rename', f'{place}/store/{n}') in events[last:end]
    assert events[end - 1] == ('sync', f'{place}/store') and events[end + 1] == ('sync', str(store.parent))


def test_sources_in_the_store_are_the_files_sha256(simulated, built):
    for record, files in built.meta['sources'].items():
        assert sorted(files) == [f'{record}.{e}' for e in ('atr', 'dat', 'hea')]
        for name, sha in files.items():
            assert hashlib.sha256((simulated/name).read_bytes()).hexdigest() == sha


def test_parts_of_other_settings_are_not_used_and_not_thrown_away(simulated, built, tmp_path, monkeypatch):
    place = interrupted(simulated, tmp_path/'s', monkeypatch, config=CONFIG.replace(notch=50.))
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as m:
        everywhere(m, build_, '_seal', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        build_store(simulated, tmp_path/'s', 'leipzig', progress=False)
    assert place.is_dir() and len([p for p in place.parent.iterdir() if p.is_dir()]) == 2
    store, again = resumed(simulated, tmp_path/'s', monkeypatch, config=CONFIG.replace(notch=50.))
    assert again == [] and store.config.notch == 50 and not place.parent.exists()
    shutil.rmtree(store.path)
    assert same(built.path, build_store(simulated, tmp_path/'s', 'leipzig', progress=False).path) == []


def test_an_existing_store(simulated, built, tmp_path, capsys):
    again = build_store(simulated, built.path, 'leipzig')
    assert 'already built' in capsys.readouterr().err and len(again) == len(built)
    with pytest.raises(PedarrError, match=r'notch None \(asked for: 50\).*choose another name'):
        build_store(simulated, built.path, 'leipzig', config=CONFIG.replace(notch=50.), progress=False)
    with pytest.raises(PedarrError, match='another grouping'):
        build_store(simulated, built.path, 'leipzig', grouping='svt4', progress=False)
    (tmp_path/'notes').mkdir()
    with pytest.raises(PedarrError, match='not a store'):
        build_store(simulated, tmp_path/'notes', 'leipzig', progress=False)


def test_progress_goes_to_standard_error(simulated, tmp_path, capsys):
    build_store(simulated, tmp_path/'s', 'leipzig')
    out = capsys.readouterr()
    assert out.out == '' and 'segments' in out.err and 'record' in out.err


@pytest.mark.parametrize('name', FILES)
def test_an_altered_or_missing_file_is_noticed(built, tmp_path, name):
    path = shutil.copytree(built.path, tmp_path/'s')
    raw = bytearray((path/name).read_bytes())
    raw[len(raw)//2] ^= 1
    (path/name).write_bytes(raw)
    if name != 'store.json':
        with pytest.raises(PedarrError, match=f'{name}: altered'): open_store(path)
    (path/name).unlink()
    with pytest.raises(PedarrError, match='missing|not a store'): open_store(path)
    with pytest.raises(PedarrError): open_store(path, verify=False)


@pytest.mark.parametrize('text, message', [
    ('{"store_version": 99}', 'version 99.*reads version'),
    ('{"a"', 'not JSON'),
    ('[]', 'version None'),
    ('{"store_version": 1}', 'version 1.*reads version 3.*preprocess again'),
    ('{"store_version": 3}', 'damaged.*versions.*required')])
def test_a_store_of_another_version_or_none(built, tmp_path, text, message):
    path = shutil.copytree(built.path, tmp_path/'s')
    (path/'store.json').write_text(text)
    with pytest.raises(PedarrError, match=message): open_store(path)
    with pytest.raises(PedarrError, match='not a store'): open_store(tmp_path)


def test_store_travels_to_another_process_as_a_path(built):
    import pickle
    data = pickle.dumps(built)
    assert len(data) < 100_000 < built.ecg.nbytes and pickle.loads(data).ecg.shape == built.ecg.shape


# ---- faults

@pytest.mark.parametrize('place', ['part', 'seal'])
def test_a_full_disk_is_one_line_and_leaves_no_store(simulated, built, tmp_path, monkeypatch, place):
    def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device')
    with monkeypatch.context() as m:
        everywhere(m, parts_, 'SMALLEST_PART', 1)
        if place == 'part': everywhere(m, windows_, 'cut_windows', full)
        else: everywhere(m, tables_, 'write_table', full)
        with pytest.raises(PassingError, match='No space left.*make room.*same command again') as e:
            build_store(simulated, tmp_path/'s', 'leipzig', progress=False)
    assert '\n' not in str(e.value) and 'delete' not in str(e.value) and not (tmp_path/'s').exists()
    # finished work is kept
    assert len([*(tmp_path/'s.part').rglob('part-*.json')]) == (0 if place == 'part' else 8)
    store, again = resumed(simulated, tmp_path/'s', monkeypatch)
    assert same(built.path, store.path) == [] and len(again) == (8 if place == 'part' else 0)


FAULTS = [
    (OSError(errno.EIO, 'Input/output error'), 'check the disk'),
    (MemoryError(), 'out of memory'),
    (OSError(errno.EMFILE, 'Too many open files'), 'ulimit'),
    (OSError(errno.EDQUOT, 'Quota'), 'make room')]


@pytest.mark.parametrize('jobs, error, words', [(1, *f) for f in FAULTS] + [(2, *FAULTS[1])])
def test_a_passing_fault_keeps_finished_parts(simulated, built, tmp_path, monkeypatch, jobs, error, words):
    "It comes in the fourth record, wherever that is read."
    class Failing(Record):
        def __copy__(self): raise error                          # which is done when its samples are read
    class Slips(Database):
        def open(self, path): return Failing(path) if 'x004' in str(path) else super().open(path)
    db = Slips(**{f: getattr(LEIPZIG, f) for f in LEIPZIG.__dataclass_fields__})
    everywhere(monkeypatch, parts_, 'SMALLEST_PART', 1)
    with pytest.raises(PassingError, match=words) as e:
        build_store(simulated, tmp_path/'s', db, progress=False, jobs=jobs)
    assert '\n' not in str(e.value) and 'delete' not in str(e.value) and not (tmp_path/'s').exists()
    assert len([*(tmp_path/'s.part').rglob('part-*.json')]) >= 3
    store, again = resumed(simulated, tmp_path/'s', monkeypatch)
    assert same(built.path, store.path) == [] and 'x001' not in again and 'x004' in again


def small(folder, names=('II', 'CS12'), p_signal=None, mark='(N', seconds=12, units=None, record='x001'):
    "One made-up record in the Leipzig format, with subject tables."
    folder.mkdir(exist_ok=True)
    n = 977*seconds
    x = np.random.default_rng(1).standard_normal((n, len(names))) if p_signal is None else p_signal
    wfdb.wrsamp(record, 977, units or ['mV']*len(names), list(names), p_signal=x, fmt=['24']*len(names),
                adc_gain=[2000.]*len(names),
        baseline=[0]*len(names), write_dir=str(folder))
    wfdb.wrann(record, 'atr', np.array([10, 500]), symbol=['+', 'N'], aux_note=[mark, ''],
               write_dir=str(folder))
    (folder/'RECORDS').write_text(record + '\n')
    for cohort in ('children', 'adults'):
        rows = [f'{record},F,9'] if cohort == 'children' else []
        (folder/f'{cohort}-subject-info.csv').write_text('\n'.join(['file_name,gender,age', *rows]) + '\n')
    return folder


@pytest.mark.parametrize('change, message', [
    (dict(names=('ART', 'BP')), 'ART, BP.*aliases'),
    (dict(p_signal=np.full((977*12, 2), .076)), 'x001: every channel is flat or invalid'),
    (dict(mark='(XYZ'), 'XYZ.*choose another grouping'),
    (dict(seconds=3), 'longest episode lasts.*shorter window'),
    (dict(mark='(AVNRT', seconds=3), 'needs 3.5 s')])
def test_bad_recordings(tmp_path, change, message):
    folder = small(tmp_path/'db', **change)
    with pytest.raises(PedarrError, match=message) as e:
        build_store(folder, tmp_path/'s', 'leipzig', progress=False)
    nameless = any(word in message for word in ('segment', 'grouping', 'window', '3.5'))
    assert '\n' not in str(e.value) and ('x001' in str(e.value) or nameless)
    assert not (tmp_path/'s').exists()


def test_dead_channels_are_masked_and_reported(tmp_path):
    x = np.random.default_rng(0).standard_normal((977*12, 3))
    x[:, 1], x[:, 2] = .076, np.nan
    store = build_store(small(tmp_path/'db', ('II', 'ABL12', 'CS12'), x), tmp_path/'s', 'leipzig',
                        progress=False)
    assert [CHANNELS[i] for i in np.flatnonzero(store.mask.all(0))] == ['II'] and store.mask.any(0).sum() == 1
    assert any('ABL12' in n for n in store.meta['notes']) and any('CS12' in n for n in store.meta['notes'])
    first = store.segments.iloc[0][['subject', 'cohort', 'sex', 'rhythm', 'label']]
    assert first.tolist() == ['x001', 'children', 'F', 'N', 'SR']


def test_a_dead_stretch_is_left_out_and_said(tmp_path):
    x = np.random.default_rng(0).standard_normal((977*12, 2))
    x[:977*4] = .2
    store = build_store(small(tmp_path/'db', p_signal=x), tmp_path/'s', 'leipzig', progress=False)
    assert len(store) == 2
    assert store.mask.any(1).all()
    assert '1 windows have no usable channel and were left out' in store.meta['notes']
    assert store.segments['segment'].tolist() == [0, 1] and len(store.ecg) == 2


def test_a_rhythm_without_a_class_is_said(tmp_path):
    folder = small(tmp_path/'db')
    wfdb.wrann('x001', 'atr', np.array([10, 6000]), symbol=['+', '+'], aux_note=['(N', '(ODD'],
               write_dir=str(folder))
    assert any("'ODD'" in n and '1 episodes' in n
               for n in build_store(folder, tmp_path/'s', 'leipzig', progress=False).meta['notes'])


def test_damaged_data_stop_the_build(tmp_path):
    folder = small(tmp_path/'db')
    raw = bytearray((folder/'x001.dat').read_bytes())
    raw[5001] ^= 4        # a low byte: the 16-bit checksum is blind to the highest byte of format 24
    (folder/'x001.dat').write_bytes(raw)
    with pytest.raises(PedarrError, match='x001.*checksum'):
        build_store(folder, tmp_path/'s', 'leipzig', progress=False)
    assert not (tmp_path/'s').exists()


@pytest.mark.parametrize('wrong', [
    dict(window=0), dict(window='3 s'), dict(rate=-1), dict(rate=float('nan')), dict(ecg_band=(100, .5)),
    dict(ecg_band=(0, 100)), dict(ecg_band=(30, 260), iegm_band=(30, 260)), dict(iegm_band=30),
    dict(dtype='int8'), dict(notch=300), dict(order=0), dict(order='two'), dict(stride=0), dict(guard=-1),
    dict(chunk=1), dict(rate=True), dict(dtype=None), dict(guard=1e308), dict(rate=1e300),
    dict(window=1e9), dict(window=1e-9), dict(stride=1e-300), dict(rare_stride=1e308), dict(rare_below=2),
    dict(chunk=float('inf')), dict(pad=1e9), dict(ecg_band=(1e-9, 100)), dict(ecg_band=(50, 50.00001)),
    dict(notch=1e-9), dict(window=10**400), dict(rate=float('inf'))])
def test_config_checks_itself(wrong):
    with pytest.raises(PedarrError) as e: PreprocessConfig(**wrong)
    assert next(iter(wrong)) in str(e.value) or 'band' in str(e.value)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('wrong, said', [
    (dict(guard=1e308), 'parameter guard is 1e+308: it must be at most 3600'),
    (dict(rate=float('nan')), 'parameter rate is nan: it must be a finite number'),
    (dict(order=2.5), 'parameter order is 2.5: it must be a whole number'),
    (dict(ecg_band=(100, .5)), 'parameter ecg_band is (100, 0.5) Hz: it must rise'),
    (dict(iegm_band=30), 'parameter iegm_band is 30: it must be two frequencies, low and high'),
    (dict(dtype='int8'), "unknown dtype 'int8': use one of float16, float32"),
    (dict(notch=300), 'preprocess: notch=300 Hz must lie below half the rate, 250 Hz'),
    (dict(chunk=1), 'preprocess: chunk=1 s must be at least as long as the window, 3 s')])
def test_a_mistake_is_named_with_its_value_and_what_it_must_be(wrong, said):
    with pytest.raises(PedarrError) as e: PreprocessConfig(**wrong)
    assert str(e.value) == said


def test_no_band_is_no_filter_and_has_no_notch():
    assert default_config(get_database('leipzig'), ecg_band=None).ecg_band is None
    assert default_config(get_database('leipzig')).ecg_band == CONFIG.ecg_band
    assert CONFIG.replace(ecg_band=None, notch=50.).notch == 50
    with pytest.raises(PedarrError, match='notch=50 Hz is part of the filter of a band'):
        CONFIG.replace(ecg_band=None, iegm_band=None, notch=50.)


def test_a_mistyped_setting_is_answered_with_the_one_that_was_meant():
    with pytest.raises(PedarrError, match="unknown parameter 'windw': did you mean 'window'"):
        PreprocessConfig(windw=3)


def test_equal_settings_are_one_key_whatever_they_were_typed_as():
    "Numbers of numpy, texts of a shell and lists of a JSON file: as all parameters are read."
    typed = PreprocessConfig(rate='500', order=np.int64(2), ecg_band=[.5, np.float64(100)])
    text = json.dumps(CONFIG.model_dump())
    assert typed == CONFIG and len({typed, CONFIG}) == 1
    assert json.dumps(typed.model_dump()) == text
    assert PreprocessConfig(**json.loads(text)) == CONFIG
    assert pickle.loads(pickle.dumps(CONFIG)) == CONFIG


def test_a_rate_without_a_simple_ratio_is_taken_with_a_note(simulated, tmp_path):
    store = build_store(simulated, tmp_path/'s', 'leipzig', config=CONFIG.replace(rate=499.999),
                        progress=False)
    assert len(store) and store.fs == 499.999
    assert rates_.deviation(977., 499.999) == 0 or any('is resampled by' in n for n in store.meta['notes'])


def test_too_little_room_is_said_before_the_work(simulated, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(PedarrError, match='disk is full.*GB are free'):
        build_store(simulated, tmp_path/'s', 'leipzig', progress=False)
    assert not (tmp_path/'s').exists()


# ---- normalisation

@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-6, 1e3))
def test_normalise_is_finite_masked_and_keeps_the_axis(seed, size):
    g = torch.Generator().manual_seed(seed)
    ecg, iegm = torch.randn(3, 12, 200, generator=g)*size, torch.randn(3, 7, 200, generator=g)*size
    mask = torch.rand(3, 19, generator=g) > .4
    mask[0] = False
    e, i = normalise_signals(ecg, iegm, mask)
    assert torch.isfinite(e).all() and torch.isfinite(i).all()
    assert (torch.cat([e, i], 1)[~mask] == 0).all()
    leads = mask[1, :12]
    if leads.any():
        scale = (e[1]/ecg[1])[leads]
        # one factor for all leads
        torch.testing.assert_close(scale, scale.mean().expand_as(scale), rtol=1e-3, atol=0)
    assert torch.equal(normalise_signals(ecg, iegm, mask, 'none')[0], ecg*mask[:, :12, None])


# ---- real recordings

def test_ludb(tmp_path):
    source, folder = real('ludb'), tmp_path/'ludb'
    (folder/'data').mkdir(parents=True)
    names = (source/'RECORDS').read_text().split()[:10]
    (folder/'RECORDS').write_text('\n'.join(names))
    for f in source.glob('*.csv'): (folder/f.name).symlink_to(f.resolve())
    for n in names:
        for f in source.glob(f'{n}.*'): (folder/'data'/f.name).symlink_to(f.resolve())
    t = time.perf_counter()
    store = build_store(folder, tmp_path/'s', 'ludb', progress=False)
    print(f'LUDB, 10 records: {time.perf_counter() - t:.2f} s, {store}')
    assert store.segments['record'].nunique() == 10
    assert store.mask[:, :12].all()
    assert not store.mask[:, 12:].any()
    assert (store.segments['beats'] == -1).all()
    assert not np.asarray(store.iegm).any()
    assert np.asarray(store.ecg, np.float32).std() > .05


def test_mitdb_record(tmp_path):
    source, folder = real('mitdb'), tmp_path/'mitdb'
    folder.mkdir()
    for f in source.glob('106.*'): (folder/f.name).symlink_to(f.resolve())
    store = build_store(folder, tmp_path/'s', 'mitdb', progress=False)
    print(store, store.meta['notes'])
    assert set(store.segments['rhythm']) >= {'N', 'B'}
    assert store.mask.any(0).sum() == 2
    assert store.segments['beats'].between(1, 12).mean() > .99
    assert (folder/'106.hea').exists() and store.segments['record'].unique().tolist() == ['106']


def test_iafdb(tmp_path):
    """Every record has the rhythm and the channels that its header names, and those of two rhythms are left
    out and named."""
    store = build_store(real('iafdb'), tmp_path/'s', 'iafdb', config=AT_250_HZ, progress=False)
    headers = {p.stem: p.read_text().splitlines() for p in real('iafdb').glob('*.hea')}
    rhythms, patients = {}, {}
    for name, lines in headers.items():
        said = next(line for line in lines if '<diagnosis>' in line).split('<diagnosis>:')[1].lower()
        rhythms[name] = [rhythm for rhythm, word in (('AFIB', 'fib'), ('AFL', 'flutter')) if word in said]
        patients[name] = name.split('_')[0]
    labelled = {name: found for name, found in rhythms.items() if len(found) == 1}
    of_record = store.segments.groupby('record')
    assert of_record.rhythm.unique().map(list).to_dict() == labelled
    assert {found[0] for found in labelled.values()} == {'AFIB', 'AFL'}
    assert set(store.segments['label']) == {'AT'} and (store.segments.beats == -1).all()
    expected = {name: [f'iafdb-{patients[name]}'] for name in labelled}
    assert of_record.subject.unique().map(list).to_dict() == expected
    for name, rows in of_record.indices.items():
        channels = {line.split()[-1] for line in headers[name] if '.dat ' in line}
        assert {CHANNELS[i] for i in np.flatnonzero(store.mask[rows].any(0))} == channels
    for name in set(rhythms) - set(labelled):
        assert any(name in n for n in store.meta['notes']), f'{name} went without a word'
