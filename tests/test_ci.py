"""What the checks of `make check` let pass and what they name, and that `make long` is set apart."""
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import nbformat
import pytest

from conftest import ROOT
from helpers import append

pytest.importorskip('nbdev')
CHAPTERS = '0_core/00_errors.ipynb', '9_use/90_command.ipynb', 'experiments/train.ipynb'


@pytest.fixture
def clone(tmp_path):
    "A small clone: three notebooks, and the modules that they export."
    for name in CHAPTERS:
        (tmp_path/'nbs'/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/'nbs'/name, tmp_path/'nbs'/name)
    for name in ('__init__.py', 'core/__init__.py', 'core/errors.py', 'use/__init__.py', 'use/command.py'):
        (tmp_path/'pedarr'/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/'pedarr'/name, tmp_path/'pedarr'/name)
    for name in ('settings.ini', 'setup.py', 'README.md'): shutil.copy(ROOT/name, tmp_path/name)
    shutil.copytree(ROOT/'.ci', tmp_path/'.ci')
    subprocess.run([Path(sys.executable).parent/'nbdev_export'], cwd=tmp_path, check=True)   # for _modidx.py
    return tmp_path


def check(clone):
    "(exit status, what was said)."
    p = subprocess.run([sys.executable, '.ci/check.py'], cwd=clone, capture_output=True, text=True)
    return p.returncode, p.stdout + p.stderr


def saved_by_lab(path):
    "Open and save a notebook as JupyterLab does, through Jupyter's contents manager, with what Lab adds."
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    manager = LargeFileManager(root_dir=str(path.parent))
    model = manager.get(path.name, content=True)
    nb = model['content']
    nb['metadata']['kernelspec'] |= dict(display_name='Python 3 (ipykernel)')
    nb['metadata']['language_info'] = dict(name='python', version='3.12.1', file_extension='.py')
    nb['metadata']['widgets'] = {'application/vnd.jupyter.widget-state+json': dict(state={}, version_major=2)}
    for cell in nb['cells']:
        cell['metadata'] |= dict(trusted=True, collapsed=False, editable=True, execution={})
    manager.save(dict(type='notebook', format='json', content=json.loads(json.dumps(nb))), path.name)


def test_opened_and_saved_in_jupyterlab_is_clean(clone):
    before = [(clone/'nbs'/name).read_bytes() for name in CHAPTERS]
    for name in CHAPTERS: saved_by_lab(clone/'nbs'/name)
    after = [(clone/'nbs'/name).read_bytes() for name in CHAPTERS]
    assert all(a != b for a, b in zip(before, after)), 'Lab does write'
    assert check(clone) == (0, 'nbdev_clean: no difference\nnbdev_export: no difference\n')


def test_other_ways_of_writing_the_same_are_clean(clone):
    "Keys in another order, no newline at the end, new ids of cells, sources as one text."
    for name in CHAPTERS:
        nb = json.loads((clone/'nbs'/name).read_text())
        for cell in nb['cells']: cell |= dict(id=uuid.uuid4().hex[:8], source=''.join(cell['source']))
        (clone/'nbs'/name).write_text(json.dumps(dict(reversed(nb.items()))))
    assert check(clone)[0] == 0


def edit(nb): next(c for c in nb.cells[::-1] if c.cell_type == 'markdown').source += '\n\nA word more.'
def rename(nb): next(c for c in nb.cells if 'def one_line' in c.source).source += '\n\nNEW = 1'
def count(nb): next(c for c in nb.cells if c.cell_type == 'code').execution_count = 7


@pytest.mark.parametrize('name, change, status, words', [
    ('0_core/00_errors.ipynb', rename, 1, 'package not what the notebooks export: .*core/errors.py'),
    ('0_core/00_errors.ipynb', count, 1, 'notebooks not clean: 0_core/00_errors.ipynb'),
    ('0_core/00_errors.ipynb', edit, 0, 'no difference')])
def test_what_is_stale_is_named(clone, name, change, status, words):
    "A change of code that was not exported, and outputs that were not cleaned; prose is nobody's business."
    nb = nbformat.read(clone/'nbs'/name, 4)
    change(nb)
    nbformat.write(nb, clone/'nbs'/name)
    saved_by_lab(clone/'nbs'/name)
    code, said = check(clone)
    assert code == status and re.search(words, said), said


def test_a_module_that_was_edited_by_hand_is_named(clone):
    append(clone/'pedarr'/'core'/'errors.py', '\nX = 1\n')
    code, said = check(clone)
    assert code == 1 and 'core/errors.py' in said and 'nbdev_export' in said
    (clone/'pedarr'/'core'/'errors.py').unlink()
    assert check(clone)[0] == 1


def test_a_notebook_that_is_none_is_named(clone):
    (clone/'nbs'/'9_use'/'90_command.ipynb').write_text('{"cells": ')
    assert check(clone)[0] != 0


def test_long_tests_are_set_apart(tmp_path):
    "`make test` leaves them out, `make long` runs them."
    shutil.copy(ROOT/'tests'/'conftest.py', tmp_path/'conftest.py')
    (tmp_path/'test_x.py').write_text('import pytest\ndef test_a(): pass\n@pytest.mark.long\n'
                                      'def test_b(): pass\n@pytest.mark.bench\ndef test_c(): pass\n')
    asked = [], ['-m', 'long'], ['-m', 'bench']
    code = 'import pytest\n' + ''.join(
        f"pytest.main(['-v', '-p', 'no:cacheprovider', *{more}, {str(tmp_path)!r}])\n" for more in asked)
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout
    ran = [re.findall(r'test_x.py::(test_\w) PASSED', one) for one in out.split('test session starts')[1:]]
    assert ran == [['test_a'], ['test_b'], ['test_c']]
    makefile = (ROOT/'Makefile').read_text()
    assert re.search(r'(?m)^long: install\n\t.*pytest -q -m long tests$', makefile)


FAULTY = {
    'tests/test_a.py': ['x = 1', f'x = "{"a"*105}"', 'def test_a(): pass; assert x', 'x = "a;b"; '],
    'tests/helpers.py': ['def f():'] + ['    x = 1']*40,
    '.ci/tool.py': ['def g():'] + ['    x = 1']*30,
    'tests/test_b.py': [f'x = "{"a"*104}"', 'y = "a; b"      # one; two', 'def h():'] + ['    x = 1']*39}
NAMED = ['.ci/tool.py:1: long function g', 'tests/helpers.py:1: long function f', 'tests/test_a.py:2: line',
         'tests/test_a.py:3: ;', 'tests/test_a.py:4: ;']


def test_an_excuse_of_a_tall_cell_is_for_one_function(tmp_path):
    shutil.copytree(ROOT/'.ci', tmp_path/'.ci')
    (tmp_path/'nbs').mkdir()
    tall = ['def %s():\n' + '    x = 1\n'*25, 'x = [\n' + '1,\n'*25 + ']']
    cells = [dict(cell_type='code', metadata=dict(tags=tags), source=s) for s, tags in
             ((tall[0] % 'f', []), (tall[0] % 'g', []), (tall[1], ['parameters']))]
    (tmp_path/'nbs'/'a.ipynb').write_text(json.dumps(dict(cells=cells)))
    def style(*names):
        excuses = ''.join(f'nbs/a.ipynb: tall cell {name}: a reason\n' for name in names)
        (tmp_path/'.ci'/'excused.txt').write_text(excuses)
        said = subprocess.run([sys.executable, '.ci/style.py'], cwd=tmp_path, capture_output=True, text=True)
        return [line for line in said.stderr.splitlines() if line.startswith(('nbs/', '.ci/excused'))]
    assert [line.split(': ')[1] for line in style('f')] == ['tall cell g', 'tall cell parameters']
    assert not style('f', 'g', 'parameters')
    assert 'not needed' in style('f', 'g', 'parameters', 'h')[0]


def test_an_import_that_no_cell_uses_is_named(tmp_path):
    shutil.copytree(ROOT/'.ci', tmp_path/'.ci')
    (tmp_path/'.ci'/'excused.txt').write_text('')
    (tmp_path/'nbs').mkdir()
    sources = ['#| export\nimport math\nimport os.path\nimport re\nfrom typing import Any as A',
               '#| export\ndef f(x: A): return os.path.join(x)', 'import json\nimport zlib',
               're, json.dumps({})']
    cells = [dict(cell_type='code', metadata={}, source=s) for s in sources]
    (tmp_path/'nbs'/'a.ipynb').write_text(json.dumps(dict(cells=cells)))
    said = subprocess.run([sys.executable, '.ci/style.py'], cwd=tmp_path, capture_output=True, text=True)
    assert 'nbs/a.ipynb: idle imports: math, re, zlib: imported' in said.stderr


def test_style_names_file_line_and_rule_of_tests_and_tools(tmp_path):
    shutil.copytree(ROOT/'.ci', tmp_path/'.ci')
    (tmp_path/'tests').mkdir()
    for name, lines in FAULTY.items(): (tmp_path/name).write_text('\n'.join(lines) + '\n')
    (tmp_path/'.ci'/'excused.txt').write_text('')
    def style():
        return subprocess.run([sys.executable, '.ci/style.py'], cwd=tmp_path, capture_output=True, text=True)
    found = style()
    assert found.returncode == 1
    assert sorted(':'.join(line.split(':')[:3]) for line in found.stderr.splitlines()) == NAMED
    excuses = {(place.partition(':')[0], place.partition(': ')[2]) for place in NAMED}
    lines = [f'{file}: {rule}: a reason' for file, rule in excuses]
    (tmp_path/'.ci'/'excused.txt').write_text('\n'.join(lines))
    assert style().returncode == 0


@pytest.mark.parametrize('cell, sorted_', [
    ('import io\nfrom abc import ABC\n\nimport numpy as np\n\nfrom pedarr.core import names', True),
    ('#| export\nfrom __future__ import annotations\n\nimport io', True),
    ('from typing import TYPE_CHECKING, Any, cast', True), ('import re\nx = 1\nimport io', True),
    ('import re\nimport io', False), ('from abc import ABC\nimport re', False),
    ('import numpy as np\nimport re', False), ('from pedarr.core import names\nimport numpy as np', False),
    ('from typing import Any, TYPE_CHECKING', False), ('from re import sub\nfrom re import match', False)])
def test_style_names_imports_that_are_not_sorted(cell, sorted_):
    spec = importlib.util.spec_from_file_location('style', ROOT/'.ci'/'style.py')
    style = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(style)
    assert ([rule for rule, _ in style.cell_faults(3, cell, '')] == []) == sorted_


def test_sizes_are_measured_in_the_old_layout_and_the_new(tmp_path):
    "A flat package of one module, and this tree: what CHANGELOG says of before and after can be repeated."
    (tmp_path/'nbs').mkdir()
    (tmp_path/'pedarr').mkdir()
    cells = [dict(cell_type='code', source=['x = 1\n'*21]), dict(cell_type='code', source=['y'*111])]
    (tmp_path/'nbs'/'00_all.ipynb').write_text(json.dumps(dict(cells=cells)))
    (tmp_path/'pedarr'/'all.py').write_text('def f(x): pass\n\ndef g(x: int) -> int:\n    "A."\n\n_h = 1\n')
    (tmp_path/'README.md').write_text('12345')
    run = [sys.executable, ROOT/'.ci'/'measure.py', tmp_path, ROOT]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    found = dict(re.match(r'(.*?)  +(.*)', line).groups() for line in out.splitlines())
    before, after = (dict(zip(found, n)) for n in zip(*(x.replace(',', '').split() for x in found.values())))
    assert list(before.values()) == ['111', '1', '1', '2', '0', '1', '6', '2', '2', '1', '1', '5']
    assert after['lines of code over 110'] == '0' and int(after['README, bytes']) <= 8192
    assert after['public functions and methods'] == after['of them fully typed']


def test_same_tells_equal_from_different(tmp_path):
    "The same signals, a column more, another probability; times may differ."
    spec = importlib.util.spec_from_file_location('same', ROOT/'.ci'/'same.py')
    same = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(same)
    for side, more, p, seconds in (('before', '', 1, 1), ('after', ',more', 2, 2)):
        for name in ('store', 'network', 'demo/database'): (tmp_path/side/name).mkdir(parents=True)
        (tmp_path/side/'store'/'ecg.npy').write_bytes(b'signal')
        (tmp_path/side/'store'/'segments.csv').write_text(f'start,label{more}\n0,SR{more}\n')
        (tmp_path/side/'network'/'predictions.csv').write_text(f'segment,p_SR\n0,{p}\n')
        metrics = dict(overall=dict(top1=.5), speed=dict(epoch=seconds), per_class=[dict(seconds=seconds)])
        (tmp_path/side/'network'/'metrics.json').write_text(json.dumps(metrics))
        (tmp_path/side/'demo'/'database'/'a.dat').write_text('a' if side == 'before' else 'b')
    said = dict(same.compare(tmp_path/'before', tmp_path/'after'))
    assert said['store/ecg.npy'].startswith('same bytes') and said['store/mask.npy'] == 'in neither'
    assert said['store/segments.csv'] == 'equal in the 2 that both have; only after: more'
    assert said['network/predictions.csv'] == 'differs: p_SR'
    assert said['network/metrics.json'] == 'equal in all 1'
    assert said['demo/database'] == '0 of 1 files: same bytes'
