"""Are the notebooks clean, and is the package what they export? Works on a copy and changes nothing.

    python .ci/check.py   exit 0 if so; otherwise 1, naming each file that differs and the mend"""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy(to: Path) -> None:
    for name in ('nbs', 'pedarr'):
        shutil.copytree(ROOT/name, to/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'runs'))
    for name in ('settings.ini', 'setup.py', 'README.md'): shutil.copy(ROOT/name, to/name)


def differing(a: Path, b: Path, pattern: str) -> list:
    names = {p.relative_to(d) for d in (a, b) for p in d.rglob(pattern) if not {'__pycache__', '.ipynb_checkpoints', 'runs'} & set(p.relative_to(d).parts)}
    return sorted(str(n) for n in names if not ((a/n).exists() and (b/n).exists() and (a/n).read_bytes() == (b/n).read_bytes()))


def run(command: str, cwd: Path) -> None:
    subprocess.run([Path(sys.executable).parent/command], cwd=cwd, check=True, env={**os.environ, 'PYTHONWARNINGS': 'ignore'})


def main() -> int:
    bad = 0
    for command, folder, pattern, what in (('nbdev_clean', 'nbs', '*.ipynb', 'notebooks not clean'), ('nbdev_export', 'pedarr', '*.py', 'package not what the notebooks export')):
        with tempfile.TemporaryDirectory() as tmp:
            copy(Path(tmp))
            run(command, Path(tmp))
            names = differing(ROOT/folder, Path(tmp)/folder, pattern)
        if names: print(f'{what}: {", ".join(names)}; run `{command}` and commit', file=sys.stderr)
        else: print(f'{command}: no difference')
        bad |= bool(names)
    return int(bad)


if __name__ == '__main__': sys.exit(main())
