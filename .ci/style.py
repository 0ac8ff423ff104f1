"""Rules of thumb for the chapters: short lines, short cells, short functions, chapters that do one job.

    python .ci/style.py           exit 0 if every chapter keeps them, or is excused by name in .ci/excused.txt
    python .ci/style.py --count   how often each rule is broken, excused or not

A rule is broken for a reason now and then: `.ci/excused.txt` names the place and the reason, a line each
(`nbs/6_losses/00_agcacl.ipynb: cells: one derivation`). An excuse that is no longer needed is an error
too."""
import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINE, CELL, FUNCTION, CELLS, NAMES = 110, 20, 30, 60, 12
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
    "Each function with its number of lines."
    for node in ast.walk(ast.parse(code(source))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1


def only_imports(source: str) -> bool:
    "Does a cell hold nothing but imports?"
    kinds = ast.Import, ast.ImportFrom
    inside = lambda node: node.body if isinstance(node, ast.If) else [node]           # if TYPE_CHECKING:
    return all(isinstance(x, kinds) for node in ast.parse(code(source)).body for x in inside(node))


def public(source: str) -> list:
    "Public functions, classes and constants that a cell defines at its top level."
    names = []
    for node in ast.parse(code(source)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names.append(node.name)
        elif isinstance(node, ast.Assign): names += [t.id for t in node.targets if isinstance(t, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [n for n in names if not n.startswith('_')]


def cell_faults(i: int, source: str) -> list:
    "(rule, sentence) for each rule that one code cell breaks."
    lines = source.split('\n')
    out = [('lines', f'cell {i} has a line of {len(l)} characters: {l.strip()[:40]}') for l in lines
           if len(l) > LINE]
    if n := semicolons(source): out.append(('semicolons', f'cell {i} joins {n} statements by ;'))
    if len(lines) > CELL and not only_imports(source):
        out.append(('tall cells', f'cell {i} has {len(lines)} lines: {lines[0][:30]} ... {lines[1][:40]}'))
    return out + [(f'long function {name}', f'cell {i}: {name} has {n} lines')
                  for name, n in functions(source) if n > FUNCTION]


def long_prose(i: int, source: str) -> list:
    "(rule, sentence) for each line of prose that is too long; tables, formulas and code may be."
    out, inside = [], False
    for line in source.split('\n'):
        inside ^= line.startswith('```')
        free = inside or line.startswith(('|', '    ', '#',
                                          '> ')) or '\\' in line or re.fullmatch(r'\S*\]\(\S+\)\S*', line.strip())
        if len(line) > LINE and not free:
            out.append(('prose', f'cell {i} has a line of {len(line)} characters: {line.strip()[:40]}'))
    return out


def faults(path: Path) -> list:
    "(rule, sentence) for each rule that a chapter breaks."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    sources = [(i, ''.join(c['source'])) for i, c in enumerate(cells) if c['cell_type'] == 'code']
    found = [f for i, s in sources for f in cell_faults(i, s)]
    found += [f for i, c in enumerate(cells) if c['cell_type'] == 'markdown'
              for f in long_prose(i, ''.join(c['source']))]
    names = [n for _, s in sources if s.lstrip().startswith('#| export') for n in public(s)]
    if len(cells) > CELLS: found.append(('cells', f'{len(cells)} cells'))
    if len(names) > NAMES: found.append(('names', f'{len(names)} public names'))
    return found


def excused() -> dict:
    "(chapter, rule) -> reason."
    file, out = ROOT/'.ci'/'excused.txt', {}
    for line in file.read_text(encoding='utf-8').splitlines() if file.exists() else []:
        if line.strip() and not line.startswith('#'):
            chapter, rule, reason = line.split(': ', 2)
            out[chapter, rule] = reason
    return out


def main() -> int:
    found = [(p.relative_to(ROOT).as_posix(), rule, text) for p in chapters() for rule, text in faults(p)]
    if '--count' in sys.argv:
        for rule, n in Counter(r.split(' ')[0] if r.startswith('long') else r
                               for _, r, _ in found).most_common():
            print(f'{n:5} {rule}')
        return 0
    excuses = excused()
    bad = [f'{chapter}: {rule}: {text}' for chapter, rule, text in found if (chapter, rule) not in excuses]
    idle = [f'.ci/excused.txt: {c}: {r}: is not needed any more, take the line out' for c, r in excuses
            if (c, r) not in {f[:2] for f in found}]
    for line in bad + idle: print(line, file=sys.stderr)
    if not bad + idle:
        print(f'style: {len(chapters())} notebooks keep the rules of thumb, {len(excuses)} excuses')
    return int(bool(bad + idle))


if __name__ == '__main__': sys.exit(main())
