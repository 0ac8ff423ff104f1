"""The house: imports point to chapters above, no chapter is imported around, each name is one thing."""
import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def chapters() -> dict:
    "module -> (order of reading, path of its notebook)."
    out = {}
    for path in sorted((ROOT/'nbs').glob('[0-9]_*/*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        found = re.search(r'#\| default_exp (\S+)', '\n'.join(''.join(c['source']) for c in cells))
        if found: out['pedarr.' + found[1]] = ((path.parent.name, path.name), path)
    return out


CHAPTERS = chapters()


def imports(tree: ast.AST, module: str):
    """(module, name) of everything that a module of pedarr imports from another, at its top and inside
    functions."""
    package = module.split('.')[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            full = '.'.join([*base, *([node.module] if node.module else [])])
            for a in node.names:
                yield (f'{full}.{a.name}', None) if f'{full}.{a.name}' in CHAPTERS else (full, a.name)
        elif isinstance(node, ast.Import):
            for a in node.names: yield a.name, None


def source(module: str) -> str: return (ROOT/(module.replace('.', '/') + '.py')).read_text(encoding='utf-8')


@cache
def public(module: str) -> frozenset:
    "Names that a chapter defines (not imports) and does not hide."
    names = set()
    for node in ast.parse(source(module)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names.add(node.name)
        elif isinstance(node, ast.Assign): names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name): names.add(node.target.id)
    return frozenset(n for n in names if not n.startswith('_'))


def test_there_is_a_notebook_for_every_module():
    modules = {'.'.join(p.relative_to(ROOT).with_suffix('').parts) for p in (ROOT/'pedarr').rglob('*.py')
               if p.name not in ('__init__.py', '_modidx.py')}
    assert modules == set(CHAPTERS) - {'pedarr.__init__'}            # the package itself is a chapter, too


@pytest.mark.parametrize('module', sorted(CHAPTERS))
def test_imports_point_up(module):
    below = [m for m, _ in imports(ast.parse(source(module)), module) if m in CHAPTERS
             and CHAPTERS[m][0] >= CHAPTERS[module][0]]
    assert not below, f'{module} imports from chapters that stand below it: {below}'


# A lesson may be shown on something that only a later chapter can make: (chapter, from where) -> why.
FROM_BELOW = {
    ('pedarr.data.integrity', 'pedarr.synthetic.studies'): 'a whole folder in the format of the release',
    ('pedarr.data.check', 'pedarr.synthetic.studies'): 'a whole folder in the format of the release'}


def code_cells(path) -> list:
    "The code of a notebook, exported or not, without magics."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    sources = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    return [re.sub(r'(?m)^(\s*)[%!].*', r'\1pass', s) for s in sources]


def named_in_strings(tree: ast.AST):
    "The chapters that texts name, as the program of another process does: 'import pedarr.data.records'."
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    for name in re.findall(r'\bpedarr(?:\.\w+)+', '\n'.join(texts)):
        while name not in CHAPTERS and '.' in name: name = name.rpartition('.')[0]
        if name in CHAPTERS: yield name


def reached_below(module: str, sources: list) -> set:
    "Chapters below `module` that code cells import, or name in a text."
    trees = [ast.parse(s) for s in sources]
    used = {m for tree in trees for m, _ in imports(tree, module)}
    used |= {m for tree in trees for m in named_in_strings(tree)}
    return {m for m in used if m in CHAPTERS and CHAPTERS[m][0] > CHAPTERS[module][0]}


def test_cells_reach_up_too_exported_or_not():
    "Each import and each text of every cell; what is allowed is still needed."
    below = {(module, m) for module, (_, path) in CHAPTERS.items()
             for m in reached_below(module, code_cells(path))}
    assert below == set(FROM_BELOW)


def test_a_cell_that_reaches_down_is_found():
    for cell in ('from pedarr.use.command import pedarr_command', 'import pedarr.use.command',
                 'def f():\n    from pedarr.use import command',
                 "run(['-c', 'from pedarr.use.command import pedarr_command as p; p()'])"):
        assert reached_below('pedarr.training.grid', [cell]) == {'pedarr.use.command'}
    assert not reached_below('pedarr.training.grid', ['from pedarr.core.errors import PedarrError'])


@pytest.mark.parametrize('module', sorted(CHAPTERS))
def test_names_are_imported_from_the_chapter_that_defines_them(module):
    around = [f'{m}.{n}' for m, n in imports(ast.parse(source(module)), module) if m in CHAPTERS and n
              and n not in public(m) and n != '*']
    assert not around, f'{module} imports what another chapter only imported, or hides: {around}'


def test_the_package_needs_neither_nbdev_nor_ipython():
    for module in CHAPTERS:
        used = {m.split('.')[0] for m, _ in imports(ast.parse(source(module)), module)}
        most = {'nbdev', 'fastcore'} if module == 'pedarr.use.notebook' else {'nbdev', 'fastcore', 'IPython'}
        assert not used & most, module              # a notebook as a program is run by IPython's own shell


def test_no_public_name_means_two_things():
    where = defaultdict(list)
    for module in CHAPTERS:
        for name in public(module): where[name].append(module)
    twice = {n: m for n, m in where.items() if len(m) > 1}
    assert not twice


def test_every_chapter_has_a_title_and_links_by_title():
    for module, (_, path) in CHAPTERS.items():
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        assert ''.join(cells[0]['source']).startswith('# ') and '\n> ' in ''.join(cells[0]['source']), path
        title = ''.join(cells[0]['source'])
        whole = re.search(r'\n> [^\n]+[.?!](?!\n> )', title)         # it is the docstring of the module
        assert whole, f'{path}: the line below the title is no whole sentence'
        text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
        assert not re.search(r'\b[Cc]hapters? \d', text), f'{path}: refers to a chapter by number'
        for target in re.findall(r'\]\(([\w./-]+\.ipynb)\)', text):
            assert (path.parent/target).exists(), f'{path}: link to {target}'


def test_importing_one_chapter_is_quick_and_quiet():
    "core and data need no torch."
    code = 'import sys, pedarr.data.databases; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def title(path) -> str:
    "The first line of a notebook."
    first = json.loads(path.read_text(encoding='utf-8'))['cells'][0]
    return ''.join(first['source']).splitlines()[0].lstrip('# ')


TITLES = {path.resolve(): title(path) for path in (ROOT/'nbs').rglob('*.ipynb')}
IN_PARTS = sorted(path for path in TITLES if path.parent.parent.name == 'nbs')


def stems(text: str) -> set:
    "Beginnings of its longer words: 'costs' and 'cost' are one."
    return {word[:4].lower() for word in re.findall(r'\w{3,}', text)}


@pytest.mark.parametrize('path', IN_PARTS, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_a_link_says_where_it_leads(path):
    "Its words are a word of the chapter's title at least: 'batches' does not lead to the splits."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    text = '\n\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    for words, target in re.findall(r'(?<!!)\[([^\]]+)\]\(([^)\s#]+\.ipynb)\)', text):
        leads_to = TITLES[(path.parent/target).resolve()]
        if leads_to == 'pedarr': continue
        assert stems(words) & stems(leads_to), f'[{" ".join(words.split())}] leads to {leads_to!r}'


def doubled(text: str) -> list:
    "Commands of formulas behind two backslashes, which a page shows as a break of line and a word."
    return re.findall(r'\\\\[A-Za-z]{2,}', text)


def test_commands_of_formulas_have_one_backslash():
    assert doubled(r'$\\Phi^{-1}$') == [r'\\Phi'] and not doubled(r'$\Phi^{-1} \\ a$')
    found = [(path.name, *doubled(''.join(c['source']))) for path in sorted((ROOT/'nbs').rglob('*.ipynb'))
             for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown']
    assert not [x for x in found if len(x) > 1]


def top_level(node: ast.AST):
    "The statements of a cell, those of blocks too, but not those of functions and classes."
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef | ast.Lambda): continue
        if isinstance(child, ast.stmt): yield child
        yield from top_level(child)


def overwritten(parameters: str, cells: list) -> set:
    "Names of a parameter cell to which a later one of the `cells` gives a value that is not made of them."
    names = lambda node: {x.id for x in ast.walk(node) if isinstance(x, ast.Name)}
    given, found = {name for s in ast.parse(parameters).body for t in s.targets for name in names(t)}, set()
    for cell in cells:
        for s in top_level(ast.parse(re.sub(r'^%.*', '', cell, flags=re.M))):
            if isinstance(s, ast.Assign):
                found |= (set().union(*map(names, s.targets)) & given) - names(s.value)
            elif isinstance(s, ast.For): found |= names(s.target) & given
    return found


@pytest.mark.parametrize('path', sorted((ROOT/'nbs'/'experiments').glob('*.ipynb')), ids=lambda p: p.stem)
def test_no_parameter_of_an_experiment_is_overwritten(path):
    "It would be another thing in the cells below, without a word."
    cells = [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    at = [k for k, c in enumerate(cells) if 'parameters' in c['metadata'].get('tags', [])]
    text = [''.join(c['source']) for c in cells]
    for k in at: assert not overwritten(text[k], text[k + 1:])


MAKES_FOLDER = (r'(for (\w+) in \(.*(kept|tables)\): \2|kept|folder|results)\.mkdir\(|'
                r'save_grid_results\(|keep_waves\(')


def test_an_experiment_that_takes_a_folder_for_its_tables_makes_it():
    "A training of hours must not end at a folder that is not there."
    taken = {}
    for path in (ROOT/'nbs'/'experiments').glob('*.ipynb'):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'code')
        if re.search(r"(?m)^results = ''", text): taken[path.stem] = bool(re.search(MAKES_FOLDER, text))
    assert len(taken) > 8 and all(taken.values()), [name for name, made in taken.items() if not made]


def test_an_overwritten_parameter_is_found():
    assert overwritten("left = 'a'\nruns = 1", ['if runs:\n    fig, (left, right) = make()']) == {'left'}
    assert not overwritten("left = 'a'", ['left = clean(left)', 'def f():\n    left = 3'])
