"""Sizes of a checkout, old layout or new, so that two can be compared:

    git worktree add ../before 769509e
    python .ci/measure.py ../before .      a column a checkout
    git worktree remove ../before

Lines are those of code cells of all notebooks; a public function is one at the top of a module, or a method
of a public class."""
import ast
import json
import sys
from pathlib import Path

LINE, CELL, FUNCTION = 110, 20, 30
SKIPPED = {'.ipynb_checkpoints', '_proc', 'runs', '.venv'}


def code_cells(root: Path) -> list:
    "The text of all code cells of the notebooks in `root`."
    files = [p for p in (root/'nbs').rglob('*.ipynb') if not SKIPPED & set(p.relative_to(root).parts)]
    cells = [c for p in files for c in json.loads(p.read_text(encoding='utf-8'))['cells']]
    return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def modules(root: Path) -> dict:
    "Module -> its text."
    files = [p for p in (root/'pedarr').rglob('*.py') if p.name != '_modidx.py']
    return {p.relative_to(root/'pedarr').as_posix(): p.read_text(encoding='utf-8') for p in files}


def functions(source: str) -> list:
    "Public functions, and public methods (and `__init__`) of public classes."
    is_function = lambda x: isinstance(x, (ast.FunctionDef, ast.AsyncFunctionDef))
    found = []
    for x in ast.parse(source).body:
        if getattr(x, 'name', '_').startswith('_'): continue
        if is_function(x): found.append(x)
        if isinstance(x, ast.ClassDef):
            found += [f for f in x.body if is_function(f) and (f.name == '__init__' or f.name[0] != '_')]
    return found


def public_names(source: str) -> list:
    "Functions, classes and constants at the top of a module, but those with an underscore."
    names = []
    for x in ast.parse(source).body:
        if isinstance(x, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): names.append(x.name)
        targets = [x.target] if isinstance(x, ast.AnnAssign) else getattr(x, 'targets', [])
        names += [t.id for t in targets if isinstance(t, ast.Name)]
    return [n for n in names if not n.startswith('_')]


def typed(f: ast.FunctionDef) -> bool:
    "Has every argument a type, and the result?"
    a = f.args
    own = [x for x in (*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg) if x]
    own = [x for x in own if x.arg not in ('self', 'cls')]
    return all(x.annotation for x in own) and (f.returns is not None or f.name == '__init__')


def only_imports(cell: str) -> bool:
    "Does a cell hold nothing but imports?"
    lines = [l for l in cell.split('\n') if l.strip() and not l.startswith(('#', ' ', ')'))]
    return all(l.startswith(('import ', 'from ', 'if TYPE_CHECKING')) for l in lines)


def measure(root: Path) -> dict:
    "What is measured -> its number."
    cells, texts = code_cells(root), modules(root)
    lines = [len(l) for cell in cells for l in cell.split('\n')]
    public = [f for source in texts.values() for f in functions(source)]
    every = [f for source in texts.values() for f in ast.walk(ast.parse(source))
             if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = {name: source.count('\n') for name, source in texts.items()}
    return {
        'longest line of code': max(lines),
        f'lines of code over {LINE}': sum(n > LINE for n in lines),
        f'code cells over {CELL} lines, imports aside': sum(
            c.count('\n') >= CELL and not only_imports(c) for c in cells),
        'code cells': len(cells),
        f'functions over {FUNCTION} lines': sum(f.end_lineno - f.lineno >= FUNCTION for f in every),
        'modules': len(lengths),
        'longest module, lines': max(lengths.values()),
        'public names': sum(len(set(public_names(source))) for source in texts.values()),
        'public functions and methods': len(public),
        'of them fully typed': sum(map(typed, public)),
        'without a docstring (but `__init__`)': sum(
            f.name != '__init__' and not ast.get_docstring(f) for f in public),
        'README, bytes': len((root/'README.md').read_bytes())}


def main() -> int:
    roots = [Path(p) for p in sys.argv[1:]] or [Path(__file__).resolve().parents[1]]
    found = [measure(root) for root in roots]
    for name in found[0]: print(f'{name:46}', *(f'{x[name]:>8,}' for x in found))
    return 0


if __name__ == '__main__': sys.exit(main())
