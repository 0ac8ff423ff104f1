"""Do two commits make the same of the same recordings?

    python .ci/same.py 769509e d198757 ../shared/data/ludb      a table: what, and equal or not
    python .ci/same.py 769509e HEAD ../shared/data/ludb -p encoder plain     for AFTER's network alone

Each commit is checked out in a new folder, checks and preprocesses LUDB, trains a small network and trees on
it, and makes a small demonstration, with the Python that runs this. Columns and entries that only one of both
has are named, not compared; times aren't compared at all."""
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUICK = '-p n_folds 2 -p resamples 100 -p device cpu'
COMMANDS = {'check': 'check LUDB --database ludb',
            'preprocess': 'preprocess LUDB store --database ludb',
            'network': f'train store --run network -p epochs 5 -p dim 16 {QUICK}',
            'trees': f'train store --run trees -p model trees {QUICK}',
            'demo': 'demo demo --subjects 6 --minutes 1 --epochs 2'}
TIMES = re.compile('speed|seconds|versions|files')     # of metrics.json; files: hashes of the run's others
FILES = [f'{store}/{name}' for store in ('store', 'demo/store')
         for name in ('ecg.npy', 'iegm.npy', 'mask.npy', 'segments.csv')]
FILES += [f'{run}/{name}' for run in ('network', 'trees', 'demo/run')
          for name in ('predictions.csv', 'metrics.json')]


def make(commit: str, folder: Path, database: Path, more: list) -> None:
    "Let `commit`, checked out in `folder`/tree, run the commands; `folder`/NAME.txt is what they say."
    git = ['git', '-C', str(ROOT), 'worktree']
    subprocess.run([*git, 'add', '--detach', folder/'tree', commit], check=True, capture_output=True)
    env = os.environ | dict(PYTHONPATH=str(folder/'tree'), OMP_NUM_THREADS='1')
    try:
        for name, words in COMMANDS.items():
            words = [str(database) if w == 'LUDB' else w for w in words.split()]
            words += more if name == 'network' else []
            done = subprocess.run([sys.executable, '-m', 'pedarr', *words], cwd=folder, env=env, text=True,
                                  capture_output=True)
            (folder/f'{name}.txt').write_text(done.stdout)
            if done.returncode: print(f'{commit}: pedarr {" ".join(words)}: {done.stderr}', file=sys.stderr)
    finally: subprocess.run([*git, 'remove', '--force', folder/'tree'], check=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def columns(path: Path) -> dict:
    "Column of a table -> its cells."
    with path.open(newline='', encoding='utf-8') as f: rows = list(csv.reader(f))
    return {name: cells for name, *cells in zip(*rows)}


def entries(value: object, name: str = '') -> dict:
    "Dotted name in a JSON -> its value, but for times and hashes."
    if not isinstance(value, (dict, list)): return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts = [entries(v, f'{name}.{k}' if name else str(k)) for k, v in items if not TIMES.search(str(k))]
    return {k: v for part in parts for k, v in part.items()}


def parts(path: Path) -> dict:
    "What of a file is compared, by name."
    if path.suffix == '.csv': return columns(path)
    if path.suffix == '.json': return entries(json.loads(path.read_text()))
    return {'all': path.read_bytes()}


def few(names: set) -> str:
    names = sorted(names)
    return ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')


def verdict(before: Path, after: Path) -> str:
    "Equal, equal where both have something, or what differs."
    lacks = [side for side, p in (('before', before), ('after', after)) if not p.exists()]
    if lacks: return 'in neither' if len(lacks) == 2 else f'not {lacks[0]}'
    if digest(before) == digest(after): return f'same bytes, {digest(before)[:12]}'
    a, b = parts(before), parts(after)
    both = a.keys() & b.keys()
    differ = {name for name in both if a[name] != b[name]}
    if differ: return f'differs: {few(differ)}'
    only = [f'only {side}: {few(names)}' for side, names in
            (('before', a.keys() - both), ('after', b.keys() - both)) if names]
    which = f'the {len(both)} that both have' if only else f'all {len(both)}'
    return '; '.join([f'equal in {which}', *only])


def compare(before: Path, after: Path) -> list:
    "(what, verdict) of two folders that `make` filled."
    rows = [('check.txt', verdict(before/'check.txt', after/'check.txt'))]
    names = sorted({p.relative_to(f).as_posix() for f in (before, after)
                    for p in (f/'demo'/'database').rglob('*') if p.is_file()})
    same = [verdict(before/name, after/name).startswith('same') for name in names]
    rows.append(('demo/database', f'{sum(same)} of {len(same)} files: same bytes'))
    return rows + [(name, verdict(before/name, after/name)) for name in FILES]


def main() -> int:
    before, after, database, *more = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        sides = [Path(folder)/side for side in ('before', 'after')]
        for side, commit, words in zip(sides, (before, after), ([], more)):
            side.mkdir()
            make(commit, side, Path(database).resolve(), words)
        print(f'| | {before} and {after} |\n|---|---|')
        for what, said in compare(*sides): print(f'| `{what}` | {said} |')
    return 0


if __name__ == '__main__': sys.exit(main())
