"""Preprocessing against reading alone, and against the plain way, as ratios within one run; printed by `make
bench`.

Without more, on a small SIMULATED database. PEDARR_TWIN=FOLDER takes any folder in the Leipzig format
instead (at full scale this takes some twenty minutes, most of them for the plain way, which then runs
once)."""
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import joblib
import numpy as np
import scipy.signal
import pytest
import torch
import wfdb
from scipy.signal import resample_poly, sosfiltfilt
from threadpoolctl import threadpool_limits

from helpers import keep_bench
from pedarr.signals import build as build_
from pedarr.data import channels as channels_
from pedarr.core import files as files_
from pedarr.data.known_databases import LEIPZIG
from pedarr.signals.settings import PreprocessConfig
from pedarr.signals.build import build_store
from pedarr.data.formats import n_bytes

CONFIG = PreprocessConfig()
pytestmark = pytest.mark.bench


@pytest.fixture(scope='module')
def database(tmp_path_factory):
    if os.environ.get('PEDARR_TWIN'): return Path(os.environ['PEDARR_TWIN'])
    from pedarr.synthetic.studies import simulate_database
    folder = tmp_path_factory.mktemp('bench')/'db'
    simulate_database(folder, subjects=8, minutes=8., seed=3)
    return folder


def read(path): LEIPZIG.open(path).physical()
def read_wfdb(path): wfdb.rdrecord(str(path.with_suffix('')))
def sha256(path): [files_.sha256(f) for f in (*LEIPZIG.open(path).sources, path.with_suffix('.atr'))]


def plain(path):
    "The way that one writes first: wfdb, scipy's filter per modality, scipy's resampler."
    record = wfdb.rdrecord(str(path.with_suffix('')))
    x = record.p_signal.T
    for i, name in enumerate(record.sig_name):
        band = CONFIG.ecg_band if name in channels_.CHANNELS[:channels_.N_ECG] else CONFIG.iegm_band
        resample_poly(sosfiltfilt(scipy.signal.butter(2, band, 'bandpass', fs=record.fs, output='sos'), x[i]),
                      500, 977)


def seconds(action):
    t = time.perf_counter()
    action()
    return time.perf_counter() - t


def each(function, paths, jobs):
    with threadpool_limits(1): joblib.Parallel(n_jobs=jobs)(joblib.delayed(function)(p) for p in paths)


@pytest.mark.parametrize('jobs', [1, 2])
def test_bench_build_against_reading(database, tmp_path, jobs):
    "Wall time, both sides with the same number of processes; medians of the ratios of each round."
    paths = LEIPZIG.records(database)
    hours = sum(LEIPZIG.open(p).duration for p in paths)/3600
    def build():
        build_store(database, tmp_path/'s', 'leipzig', jobs=jobs, progress=False)
    # fills the file cache, starts the processes
    each(read, paths, jobs)
    build()
    shutil.rmtree(tmp_path/'s')
    rounds = []
    for _ in range(5 if hours < 2 else 3):
        acts = lambda: each(read, paths, jobs), build, lambda: each(sha256, paths, jobs)
        rounds.append([seconds(act) for act in acts])
        shutil.rmtree(tmp_path/'s')
    reading, building, hashing = (median(r[i] for r in rounds) for i in range(3))
    hash_share = median(h/r for r, _, h in rounds)
    build_share = median(b/r for r, b, _ in rounds)
    print(f'\n{hours:.2f} h in {len(paths)} SIMULATED records, {jobs} process(es), {os.cpu_count()} '
          f'processors; wall time, medians of {len(rounds)} rounds')
    print(f'  reading and decoding to float32 mV, our reader   {reading:7.2f} s')
    print(f'  SHA-256 of the files                             {hashing:7.2f} s  {hash_share:5.2f} x reading')
    print(f'  preprocessing to a store                         {building:7.2f} s  '
          f'{build_share:5.2f} x reading, {hours*3600/building:.0f} x real time', flush=True)
    by_wfdb, by_scipy = (median(seconds(lambda: each(f, paths, jobs)) for _ in range(3 if hours < 2 else 1))
                         for f in (read_wfdb, plain))
    print(f'  reading and decoding, wfdb.rdrecord              {by_wfdb:7.2f} s; '
          f'preprocessing takes {building/by_wfdb:.2f} x as long')
    print(f'  rdrecord + sosfiltfilt + resample_poly           {by_scipy:7.2f} s; '
          f'preprocessing is {by_scipy/building:.1f} x as fast', flush=True)
    assert by_scipy > building


ALL = 21_799                     # recordings of PTB-XL


def seconds_for(folder, place, jobs) -> tuple:
    "A store of the PTB-XL in `folder`: the store, seconds by the clock, seconds of this process's processor."
    began = np.array([time.perf_counter(), time.process_time()])
    store = build_store(folder, place, 'ptbxl', jobs=jobs, progress=False)
    return store, *(np.array([time.perf_counter(), time.process_time()]) - began)


def test_bench_of_ptbxl(request, tmp_path):
    """Seconds for 500 of PTB-XL's recordings, and what all would take at that pace; the aim for all is 180 on
    two cores. PEDARR_PTBXL=FOLDER takes a whole release."""
    whole = os.environ.get('PEDARR_PTBXL')
    folder = Path(whole) if whole else request.getfixturevalue('first500')
    store, _, alone = seconds_for(folder, tmp_path/'one', 1)
    _, clock, _ = seconds_for(folder, tmp_path/'two', 2)
    n = len(store)
    found = dict(recordings=n, seconds_two_processes=clock, processor_seconds_one_process=alone,
                 all_two_processes=clock*ALL/n, all_processor_halved=alone*ALL/n/2)
    keep_bench('preprocess, PTB-XL', store, torch.device('cpu'), **found)
    print(f'\n{n} of PTB-XL\'s recordings to a store: {clock:.1f} s with two processes (all {ALL:,} at that '
          f'pace {found["all_two_processes"]:.0f} s, aim 180); {alone:.1f} s of processor time in one '
          f'process (all, halved: {found["all_processor_halved"]:.0f} s)', flush=True)
    assert found['all_processor_halved'] < 360                       # loose: see the aim above


def long_record(database, folder, hours=2.5):
    "The first record of `database`, repeated until it lasts `hours`; its last episode lasts on."
    record = LEIPZIG.open(LEIPZIG.records(database)[0])
    n = max(1, round(hours*3600/record.duration))
    folder.mkdir()
    raw = record.files[0].path.read_bytes()[:n_bytes('24', record.sig_len*record.n_sig)]
    with open(folder/record.files[0].path.name, 'wb') as f:
        for _ in range(n): f.write(raw)
    lines = record.path.read_text().splitlines()
    lines[0] = re.sub(rf'\b{record.sig_len}\b', str(record.sig_len*n), lines[0])
    for i in range(1, record.n_sig + 1):
        fields = lines[i].split(maxsplit=8)
        fields[6] = str(int(np.int64(int(fields[6])*n).astype(np.int16)))
        lines[i] = ' '.join(fields)
    (folder/record.path.name).write_text('\n'.join(lines) + '\n')
    for f in [record.path.with_suffix('.atr'), *database.glob('*subject-info.csv')]: shutil.copy(f, folder)
    (folder/'RECORDS').write_text(record.name + '\n')
    return folder


def test_bench_memory_of_a_long_recording(database, tmp_path):
    "Peak resident memory of a process that preprocesses one recording of 2.5 hours, imports and all."
    folder = long_record(database, tmp_path/'long')
    code = """
import json, re, resource, sys
import pedarr.signals.build as build_
def peak():      # ru_maxrss would remember the process that started this one
    try: return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])/1e3
    except OSError: pass
    unit = 1e6 if sys.platform == 'darwin' else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/unit
start = peak()
store = build_.build_store(sys.argv[1], sys.argv[2], 'leipzig', progress=False)
print(json.dumps([start, peak(), len(store)]))
"""
    done = subprocess.run([sys.executable, '-c', code, str(folder), str(tmp_path/'s')], capture_output=True,
                          text=True, check=True)
    start, peak, n = json.loads(done.stdout)
    size = sum(f.stat().st_size for f in folder.iterdir())/1e6
    print(f'\n{size:.0f} MB, {n} windows: peak memory {peak:.0f} MB, of which {start:.0f} MB are imports')
    assert peak < 1000
