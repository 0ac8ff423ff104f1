"""Rules of thumb: short lines, short cells, short functions, chapters that do one job.

    python .ci/style.py           exit 0 if chapters, tests and .ci keep them, or are excused by name
    python .ci/style.py --count   how often each rule is broken, excused or not

The tests and the programs of .ci are held to lines, `;` and functions. A rule is broken for a reason now and
then: `.ci/excused.txt` names the place and the reason, a line each
(`nbs/6_losses/00_agcacl.ipynb: cells: one derivation`). A tall cell is called by the longest function or
class in it, or else by its tag (`nbs/1_data/10_records.ipynb: tall cell Record: ...`).
An excuse that is no longer needed is an error too."""
import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINE, CELL, FUNCTION, CELLS, NAMES = 110, 20, 30, 60, 12
TEST = 40      # a test has set-up, act and one fact an assert: a chapter's 30 lines, and ten for the facts
SKIPPED = {'.ipynb_checkpoints', '_proc', 'runs'}


def chapters() -> list:
    return sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if not SKIPPED & set(p.parts))


def code(source: str) -> str:
    "Source without notebook magics, so that Python can read it."
    return '\n'.join('pass' if l.lstrip().startswith(('%', '!')) else l for l in source.split('\n'))


def semicolons(source: str) -> int:
    "Statements that stand behind a `;`."
    try: tokens = list(tokenize.generate_tokens(io.StringIO(code(source)).readline))
    except (tokenize.TokenError, SyntaxError): return 0
    after = zip(tokens, tokens[1:])
    return sum(a.string == ';' and a.type == tokenize.OP
               and b.type not in (tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT) for a, b in after)


def functions(source: str):
    "Each function with its number of lines, and the line where it begins."
    for node in ast.walk(ast.parse(code(source))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1, node.lineno


def only_imports(source: str) -> bool:
    "Does a cell hold nothing but imports?"
    kinds = ast.Import, ast.ImportFrom
    inside = lambda node: node.body if isinstance(node, ast.If) else [node]           # if TYPE_CHECKING:
    return all(isinstance(x, kinds) for node in ast.parse(code(source)).body for x in inside(node))


def import_place(node: ast.stmt) -> tuple:
    "Standard library, others, own; in each `import` before `from`; by module."
    module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
    top = module.partition('.')[0]
    part = (top != '__future__') + (top not in sys.stdlib_module_names) + (top == 'pedarr')
    return part, isinstance(node, ast.ImportFrom), module


def name_place(alias: ast.alias) -> tuple:
    "CONSTANTS, Classes, functions; in each by the alphabet."
    name = alias.name
    return 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name.lower()


def unsorted_imports(source: str) -> list:
    "The first module of each run of imports that isn't sorted, or names a module twice."
    kinds, out = (ast.Import, ast.ImportFrom), []
    for imports, run in groupby(ast.parse(code(source)).body, lambda node: isinstance(node, kinds)):
        run = list(run) if imports else []
        places, names = [import_place(n) for n in run], [[name_place(a) for a in n.names] for n in run]
        if places != sorted(set(places)) or names != [sorted(n) for n in names]: out.append(places[0][2])
    return out


def public(source: str) -> list:
    "Public functions, classes and constants that a cell defines at its top level."
    names = []
    for node in ast.parse(code(source)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names.append(node.name)
        elif isinstance(node, ast.Assign): names += [t.id for t in node.targets if isinstance(t, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [n for n in names if not n.startswith('_')]


def imported(tree: ast.AST):
    "Names that a tree of code imports."
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and getattr(node, 'module', '') != '__future__':
            for alias in node.names: yield (alias.asname or alias.name).partition('.')[0]


def used(tree: ast.AST) -> set:
    "Names that a tree of code uses."
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def idle_imports(sources: list) -> list:
    "Names that a chapter imports in vain: what exported cells import is used in them, the rest in any cell."
    exported = lambda s: s.lstrip().startswith('#| export')
    trees = [(exported(s), ast.parse(code(s))) for s in sources]
    inside = set().union(*(used(t) for own, t in trees if own))
    anywhere = inside.union(*(used(t) for _, t in trees))
    return sorted({n for own, t in trees for n in imported(t) if n not in (inside if own else anywhere)})


def cell_name(source: str, tag: str) -> str:
    "What a cell is called: the longest function or class in it, or else its tag."
    nodes = [n for n in ast.parse(code(source)).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return max(nodes, key=lambda n: n.end_lineno - n.lineno).name if nodes else tag


def cell_faults(i: int, source: str, tag: str) -> list:
    "(rule, sentence) for each rule that one code cell breaks."
    lines = source.split('\n')
    out = [('lines', f'cell {i} has a line of {len(l)} characters: {l.strip()[:40]}') for l in lines
           if len(l) > LINE]
    out += [('imports', f'cell {i}: those from {m} on are not sorted') for m in unsorted_imports(source)]
    if n := semicolons(source): out.append(('semicolons', f'cell {i} joins {n} statements by ;'))
    if len(lines) > CELL and not only_imports(source):
        out.append((f'tall cell {cell_name(source, tag)}',
                    f'cell {i} has {len(lines)} lines: {lines[0][:30]} ... {lines[1][:40]}'))
    return out + [(f'long function {name}', f'cell {i}: {name} has {n} lines')
                  for name, n, _ in functions(source) if n > FUNCTION]


def long_prose(i: int, source: str) -> list:
    "(rule, sentence) for each line of prose that is too long; tables, formulas and code may be."
    out, inside = [], False
    for line in source.split('\n'):
        inside ^= line.startswith('```')
        only_link = re.fullmatch(r'\S*\]\(\S+\)\S*', line.strip())
        free = inside or line.startswith(('|', '    ', '#', '> ')) or '\\' in line or only_link
        if len(line) > LINE and not free:
            out.append(('prose', f'cell {i} has a line of {len(line)} characters: {line.strip()[:40]}'))
    return out


def faults(path: Path) -> list:
    "(rule, sentence) for each rule that a chapter breaks."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    sources = [(i, ''.join(c['source'])) for i, c in enumerate(cells) if c['cell_type'] == 'code']
    tag = lambda i: ' '.join(cells[i]['metadata'].get('tags', [])) or 'without a name'
    found = [f for i, s in sources for f in cell_faults(i, s, tag(i))]
    found += [f for i, c in enumerate(cells) if c['cell_type'] == 'markdown'
              for f in long_prose(i, ''.join(c['source']))]
    names = [n for _, s in sources if s.lstrip().startswith('#| export') for n in public(s)]
    if idle := idle_imports([s for _, s in sources]):
        found.append(('idle imports', f'{", ".join(idle)}: imported, and used nowhere'))
    if len(cells) > CELLS: found.append(('cells', f'{len(cells)} cells'))
    if len(names) > NAMES: found.append(('names', f'{len(names)} public names'))
    return found


def scripts() -> list:
    "The tests, and the programs of .ci."
    return sorted([*(ROOT/'tests').glob('*.py'), *(ROOT/'.ci').glob('*.py')])


def joined(source: str) -> list:
    "The numbers of the lines that hold a `;` between statements, or at the end of one."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sorted({t.start[0] for t in tokens if t.type == tokenize.OP and t.string == ';'})


def script_faults(path: Path) -> list:
    "(line, rule, sentence) for each rule that a file of tests or of .ci breaks."
    source = path.read_text(encoding='utf-8')
    lines = enumerate(source.split('\n'), 1)
    out = [(i, 'line', f'{len(l)} characters: {l.strip()[:40]}') for i, l in lines if len(l) > LINE]
    out += [(i, ';', 'statements joined by ;') for i in joined(source)]
    limit = TEST if path.parent.name == 'tests' else FUNCTION
    return out + [(i, f'long function {name}', f'{n} lines where at most {limit} are')
                  for name, n, i in functions(source) if n > limit]


def excused() -> dict:
    "(chapter, rule) -> reason."
    file, out = ROOT/'.ci'/'excused.txt', {}
    for line in file.read_text(encoding='utf-8').splitlines() if file.exists() else []:
        if line.strip() and not line.startswith('#'):
            chapter, rule, reason = line.split(': ', 2)
            out[chapter, rule] = reason
    return out


def all_faults() -> list:
    "(file, rule, the line that is printed) for each rule that is broken anywhere."
    name = lambda path: path.relative_to(ROOT).as_posix()
    out = [(name(p), rule, f'{name(p)}: {rule}: {text}') for p in chapters() for rule, text in faults(p)]
    out += [(name(p), rule, f'{name(p)}:{i}: {rule}: {text}') for p in scripts()
            for i, rule, text in script_faults(p)]
    return out


def main() -> int:
    found = all_faults()
    if '--count' in sys.argv:
        kinds = Counter(rule.rpartition(' ')[0] or rule for _, rule, _ in found)      # without its name
        for rule, n in kinds.most_common(): print(f'{n:5} {rule}')
        return 0
    excuses, places = excused(), {f[:2] for f in found}
    bad = [text for file, rule, text in found if (file, rule) not in excuses]
    idle = [f'.ci/excused.txt: {file}: {rule}: is not needed any more, take the line out'
            for file, rule in excuses if (file, rule) not in places]
    for line in bad + idle: print(line, file=sys.stderr)
    if bad or idle: return 1
    print(f'style: {len(chapters())} notebooks and {len(scripts())} files of tests and .ci keep the rules of '
          f'thumb, {len(excuses)} excuses')
    return 0


if __name__ == '__main__': sys.exit(main())
