"""Are the notebooks clean, and is the package what they export? Works on a copy and changes nothing.

    python .ci/check.py   exit 0 if so; otherwise 1, naming each file that differs and the remedy

A chapter that was opened and saved in JupyterLab, but not edited, is clean: what Lab writes of its own
accord (the order of keys, the name of the kernel, metadata, new ids of cells) is in no way part of a
chapter."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = '__pycache__', '.ipynb_checkpoints', 'runs'


def copy(to: Path) -> None:
    "The notebooks, the package, and what nbdev reads, into the folder `to`."
    for name in ('nbs', 'pedarr'):
        shutil.copytree(ROOT/name, to/name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in ('settings.ini', 'setup.py', 'README.md'): shutil.copy(ROOT/name, to/name)


def joined(value):
    "A value of a notebook, the texts in it that stand there in lines as one text each."
    if isinstance(value, dict):
        return {name: x if name == 'application/json' else joined(x) for name, x in value.items()}
    if isinstance(value, list) and all(isinstance(x, str) for x in value): return ''.join(value)
    return [joined(x) for x in value] if isinstance(value, list) else value


def notebook(path: Path):
    "What counts of a notebook: of each cell its kind, source, tags, outputs and count."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']      # importing nbformat takes seconds
    return [(c['cell_type'], joined(c['source']), sorted(c['metadata'].get('tags', [])),
             joined(c.get('outputs')), c.get('execution_count')) for c in cells]


def module(path: Path) -> str:
    "What counts of a module: its text, without the ids of the cells that it comes from."
    return re.sub(r'(?m)^(# %% \S+\.ipynb) #\S+$', r'\1', path.read_text(encoding='utf-8'))


def same(a: Path, b: Path) -> bool:
    "Do two files hold the same, as far as it counts?"
    if not (a.exists() and b.exists()): return False
    if a.read_bytes() == b.read_bytes(): return True
    read = notebook if a.suffix == '.ipynb' else module
    try: return read(a) == read(b)
    except (ValueError, TypeError, AttributeError, KeyError): return False      # no notebook at all


def differing(a: Path, b: Path, pattern: str) -> list:
    "The files that differ between the folders `a` and `b`."
    names = {p.relative_to(d) for d in (a, b) for p in d.rglob(pattern)}
    return sorted(str(n) for n in names if not set(LEFT_OUT) & set(n.parts) and not same(a/n, b/n))


def run(command: str, cwd: Path) -> None:
    "Run a command of nbdev, of this Python."
    environment = {**os.environ, 'PYTHONWARNINGS': 'ignore'}
    subprocess.run([Path(sys.executable).parent/command], cwd=cwd, check=True, env=environment)


def main() -> int:
    bad = 0
    for command, folder, pattern, what in (
            ('nbdev_clean', 'nbs', '*.ipynb', 'notebooks not clean'),
            ('nbdev_export', 'pedarr', '*.py', 'package not what the notebooks export')):
        with tempfile.TemporaryDirectory() as tmp:
            copy(Path(tmp))
            run(command, Path(tmp))
            names = differing(ROOT/folder, Path(tmp)/folder, pattern)
        if names: print(f'{what}: {", ".join(names)}; run `{command}` and commit', file=sys.stderr)
        else: print(f'{command}: no difference')
        bad |= bool(names)
    return int(bad)


if __name__ == '__main__': sys.exit(main())
