"""Benchmarks of the simulator, as ratios in one run: `make bench`."""
import os
import shutil
import statistics
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.bench

RUN = """
import sys, time
from pedarr.synthetic.twin import simulate_twin
began = time.perf_counter()
simulate_twin(sys.argv[1], scale=float(sys.argv[2]), jobs=int(sys.argv[3]))
print(time.perf_counter() - began)
"""

PEAK = """
import re, sys
from pathlib import Path
from pedarr.synthetic.files import write_study
from pedarr.synthetic.twin import Twin, twin_subjects
subject = next(s for s in twin_subjects() if s.record == 'x003')
write_study(Path(sys.argv[1]), Twin(scale=float(sys.argv[2]))(subject))
status = Path('/proc/self/status').read_text()      # ru_maxrss would count the parent's memory
print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1])/1024)
"""


def size(folder): return sum(f.stat().st_size for f in folder.iterdir())


def write_again(folder, target):
    "Seconds for writing the same bytes to the same disk, in blocks of 1 MB."
    began = time.perf_counter()
    with open(target, 'wb') as out:
        for f in sorted(folder.glob('*.dat')):
            with open(f, 'rb') as source: shutil.copyfileobj(source, out, 1 << 20)
    return time.perf_counter() - began


def test_simulating_against_writing(tmp_path):
    """How much slower than copying the files, and how much faster than life? PEDARR_BENCH_SCALE=1 runs the
    whole twin (3.6 GB of disk, twice)."""
    scale, jobs = float(os.environ.get('PEDARR_BENCH_SCALE', .1)), 2
    ratios = []
    for i in range(1 if scale == 1 else 3):
        folder = tmp_path/f'twin{i}'
        seconds = float(subprocess.run([sys.executable, '-c', RUN, str(folder), str(scale), str(jobs)],
                                       check=True, capture_output=True, text=True).stdout)
        copy = write_again(folder, tmp_path/'again')
        hours = sum(float((folder/f'{r}.hea').read_text().split()[3])
                    for r in (folder/'RECORDS').read_text().split())/977/3600
        ratios.append((seconds/copy, 3600*hours/seconds, seconds))
        gigabytes = size(folder)/1e9
        shutil.rmtree(folder)
    copies, lives, seconds = (statistics.median(r[k] for r in ratios) for k in range(3))
    peak = float(subprocess.run([sys.executable, '-c', PEAK, str(tmp_path), str(scale)], check=True,
                                capture_output=True, text=True).stdout)
    print(f'\nsimulate --scale {scale:g} --jobs {jobs}: {hours:.2f} h, {gigabytes:.2f} GB '
          f'in {seconds:.0f} s: {copies:.1f} times a copy of the files, {lives:.0f} times as fast as life; '
          f'(medians of {len(ratios)}); peak memory of the process that writes x003 {peak:.0f} MB')
    assert peak < 1500
