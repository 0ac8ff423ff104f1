"""What several files of tests use: changes of a file, an error of the system, a quick configuration, the
command."""
import json
import os
import re
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from click.testing import CliRunner

from pedarr.core.tables import write_json
from pedarr.signals.settings import PreprocessConfig
from pedarr.training.runs import describe_environment
from pedarr.use.command import pedarr_command
from pedarr.use.notebook import execute_notebook

# quick, and enough for what a network can learn here
AT_250_HZ = PreprocessConfig(rate=250., iegm_band=(30., 110.))


def experiment_cells(name: str) -> list[dict]:
    "The code cells of the notebook `name` in nbs/experiments, each `source` as one text."
    path = Path(__file__).parents[1]/'nbs'/'experiments'/f'{name}.ipynb'
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [c | dict(source=''.join(c['source'])) for c in cells if c['cell_type'] == 'code']


def run_experiment(name: str, page: Path, /, **given) -> None:
    "Execute an experiment into the file `page`, in this process: a kernel takes seconds to start."
    source = Path(__file__).parents[1]/'nbs'/'experiments'/f'{name}.ipynb'
    plain = page.with_name(f'{name}-plain.ipynb')
    text = source.read_text(encoding='utf-8').replace('%matplotlib inline', 'pass')
    plain.write_text(text, encoding='utf-8')
    execute_notebook(plain, page, given)


def edit(path: Path, *changes: tuple, times: int = -1) -> Path:
    "Replace text in a file: `changes` are pairs (old, new), each of which must occur."
    text = path.read_text(encoding='utf-8')
    for old, new in changes:
        assert old in text, f'{path}: no {old!r} in it'
        text = text.replace(old, new, times)
    path.write_text(text, encoding='utf-8')
    return path


def append(path: Path, text: str) -> Path:
    "Put `text` at the end of a file."
    path.write_text(path.read_text(encoding='utf-8') + text, encoding='utf-8')
    return path


def edit_json(path: Path, **changes) -> Path:
    "Change keys of the object in a JSON file."
    path.write_text(json.dumps(json.loads(path.read_text(encoding='utf-8')) | changes), encoding='utf-8')
    return path


def drop_key(path: Path, key: str) -> None:
    "Take a key out of the object in a JSON file."
    found = json.loads(path.read_text(encoding='utf-8'))
    path.write_text(json.dumps({k: v for k, v in found.items() if k != key}), encoding='utf-8')


def os_error(number: int) -> OSError:
    "What the system raises with this number, in its own words."
    return OSError(number, os.strerror(number))


def command(*args) -> SimpleNamespace:
    "The command, called in this process: status, out, err."
    r = CliRunner().invoke(pedarr_command, [str(a) for a in args])
    return SimpleNamespace(status=r.exit_code, out=r.stdout, err=r.stderr)


def refused(*args) -> str:
    "The one line of an expected refusal."
    r = command(*args)
    lines = r.err.strip().splitlines()
    assert r.status == 2 and len(lines) == 1 and 'a defect' not in lines[0], (r.status, r.err)
    return lines[0]


def keep_bench(name: str, store, device, **found) -> Path | None:
    """Write what a benchmark `found`, and on which machine, into the folder PEDARR_BENCH; None without it.

    `store`: the store that it ran on. A machine that does something else is told by its `load`."""
    folder = os.environ.get('PEDARR_BENCH')
    if not folder: return None
    info = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    flags = set(re.findall(r'[\w]+', (re.findall(r'(?m)^flags\s*:(.*)', info) or [''])[0]))
    here = dict(cpu=(re.findall(r'(?m)^model name\s*: (.*)', info) or ['unknown'])[0], cpus=os.cpu_count(),
                units=sorted(flags & {'avx2', 'avx512f', 'avx512_bf16', 'amx_bf16'}), load=os.getloadavg()[0],
                date=date.today().isoformat())
    path = Path(folder)/(re.sub(r'\W+', '-', name.lower()) + '.json')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(name=name, found=found, machine=describe_environment(store, device) | here))
    return path


LABELS = ['I', 'II', 'CS 1-2', 'HIS d', 'RV 1-2', 'A1-A2']        # of a laboratory


def bard(path, x, labels=LABELS, fs=1000, ranges=None, promised=None, units=None):
    "Write `x` [channel, time] (mV) as Bard LabSystem Pro does."
    ranges, units = ranges or [5]*len(labels), units or ['mv ']*len(labels)
    lines = ['[Header]', 'File Type: 1', 'Version: 2', f'Channels exported: {len(labels)}',
             f'Samples per channel: {promised or x.shape[1]}', 'Start time: 15:17:57', f'Sample Rate: {fs}Hz']
    for i, (label, top, unit) in enumerate(zip(labels, ranges, units)):
        lines += [f'Channel #:   {i + 1}', f'Label: {label}', f'Range: {top}{unit}', 'Low: .5Hz',
                  f'Sample rate: {fs}Hz', 'Scale: -7']
    rows = [','.join(str(int(round(v*32768/top))) for v, top in zip(row, ranges)) for row in x.T]
    path.write_text('\n'.join([*lines, '', '[Data]', *rows]) + '\n', encoding='latin-1')
    return path


def prucka(path, x, labels=LABELS, fs=977, promised=None):
    "Write `x` [channel, time] (mV) as GE CardioLab does: `path` and the .inf file beside it."
    text = '\r\n'.join(' '.join(f'{v:.3f}' for v in row) + ' ' for row in x.T) + '\r\n'
    path.write_bytes(text.encode())
    inf = ['Patient = SECRET, NAME', 'Description = drawn', f'Number of Channel = {len(labels)}',
           f'Points for Each Channel = {promised or x.shape[1]}', f'Data Sampling Rate = {fs} points/second',
           'Units: mmHg for pressure and mV for all others', 'Channel Number  Channel Label']
    inf += [f'{7*i + 1}\t\t{label}' for i, label in enumerate(labels)]
    path.with_suffix('.inf').write_bytes('\r\n'.join(inf).encode())
    return path


def unpacked_probabilities(kept):
    "Probabilities that shuffled.ipynb kept: 1024 times the distance to 0, or less that to 1."
    return kept.astype(float)/1024 + np.signbit(kept)
