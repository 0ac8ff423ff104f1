"""Every public function is typed and documented: each array argument has its shape in the docstring, and its
unit or the word for what has none."""
import ast
import functools
import importlib
import inspect
import re

import pytest

from test_house import CHAPTERS, source

ARRAY = re.compile(r'\b(ndarray|ArrayLike|Tensor)\b')
AXIS = r'(?:\.\.\.|\w[\w*+/() -]*)'
SHAPE = rf'\[{AXIS}(?:, {AXIS})*\]|\bany shape\b'                   # [N, 2], [..., time], [channel]
OTHERS = r'(?:(?: \([^)]*\))?(?:,| and|, and) `\w+`)*'              # `ecg`, `start` (s) and `iegm`
UNIT = re.compile(r'''\b(s|ms|mV|Hz|unit|samples?)\b      # a unit, or what has none:
    |\b(bool|text|int32|digital|integers?|numbers?|counts?|names?|labels?|rows|roles?|folds?|segments)\b
    |\b(subjects?|recordings?|classes|statements|targets?|matrix|prob\w*|logits|scores|thresholds?)\b
    |\b(p-values|cosines?|similarities|weights?|margins|means?|prototypes?|embeddings?|features)\b
    |\b(tokens?|maps?|vectors?|queries|sections|length|sums?|gradients?|tensor|row|weighed)\b''', re.X)


def functions(module: str):
    "(name, node, docstring) of public functions and methods; a method's goes on with that of its class."
    for node in ast.parse(source(module)).body:
        if getattr(node, 'name', '_').startswith('_'): continue
        if isinstance(node, ast.FunctionDef): yield node.name, node, ast.get_docstring(node) or ''
        for f in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(f, ast.FunctionDef) and (f.name in ('__init__', '__call__') or f.name[0] != '_'):
                texts = ast.get_docstring(f), ast.get_docstring(node)
                yield f'{node.name}.{f.name}', f, '\n\n'.join(t for t in texts if t)


def arguments(f: ast.FunctionDef) -> list:
    "All arguments of a function, `*args` and `**kwargs` too."
    a = f.args
    return [x for x in (*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg) if x]


def lacks(name: str, doc: str) -> str:
    "What a docstring does not say of the array `name`, or ''."
    sentences = re.split(r'(?<=[.;])\s|\n\n', re.sub(r'\n(?!\n)', ' ', doc))
    said = rf'`{name}(?:` ?| ){OTHERS}[^`.;\[\]]{{0,70}}(?:{SHAPE})'
    shaped = [s for s in sentences if re.search(said, s)]
    if not shaped: return 'shape'
    return '' if any(UNIT.search(s.replace(f'`{name}', '`')) for s in shaped) else 'unit'


def typed(f: ast.FunctionDef) -> bool:
    "Has every argument (but `self`) a type, and the result of all but `__init__`?"
    own = [x for x in arguments(f) if x.arg not in ('self', 'cls')]
    return all(x.annotation for x in own) and (f.returns is not None or f.name == '__init__')


@pytest.mark.parametrize('source, full', [
    ('def f(x: int, *y: int, **z: int) -> int: pass', True), ('def __init__(self, x: int): pass', True),
    ('def f(x: int, *y, **z: int) -> int: pass', False), ('def f(*, x) -> int: pass', False),
    ('def f(**z) -> int: pass', False), ('def f(x: int): pass', False),
    ('def __init__(self, x): pass', False)])
def test_what_is_typed(source, full): assert typed(ast.parse(source).body[0]) == full


def test_every_public_function_is_typed_and_documented():
    all_of_them = [(f'{module}.{name}', f, doc) for module in CHAPTERS for name, f, doc in functions(module)]
    assert len(all_of_them) > 600 and any(name.endswith('Prefetched.__init__') for name, *_ in all_of_them)
    bare = [name for name, f, doc in all_of_them if not typed(f) or not doc]
    assert not bare, f'{len(bare)} public functions without types or docstring: {bare}'


@pytest.mark.parametrize('doc, missing', [
    ('`x` [C, T] (mV).', ''), ('Of `x [channel, time]` in mV.', ''), ('`a`, `x` (s) and `b` [N].', ''),
    ('`x`: class numbers [N]', ''), ('`x` (any shape, no unit).', ''), ('Signal [C, T] (mV).', 'shape'),
    ('`x`, in mV. [C, T]', 'shape'), ('`x` (mV)', 'shape'), ('`x` [C, T].', 'unit'), ('', 'shape'),
    ('`xs` [N] (s)', 'shape'), ('[N] text of `x`', 'shape')])
def test_what_a_docstring_lacks(doc, missing): assert lacks('x', doc) == missing


def test_every_array_argument_has_a_shape_and_a_unit():
    arrays = [(f'{module}.{name}', x.arg, doc) for module in CHAPTERS for name, f, doc in functions(module)
              for x in arguments(f) if x.annotation and ARRAY.search(ast.unparse(x.annotation))]
    assert len(arrays) > 300
    found = [f'{name}: the {what} of {arg}' for name, arg, doc in arrays if (what := lacks(arg, doc))]
    assert not found, f'{len(found)} arrays of {len(arrays)}: ' + '\n'.join(found)


def test_help_of_a_method_shows_the_shape_of_its_arrays():
    "A class says what `__init__` takes; each other method with an array says a shape in its own docstring."
    methods = [(f'{module}.{name}', f) for module in CHAPTERS for name, f, _ in functions(module)
               if '.' in name and f.name != '__init__'
               and any(x.annotation and ARRAY.search(ast.unparse(x.annotation)) for x in arguments(f))]
    assert len(methods) > 40
    bare = [name for name, f in methods if not re.search(SHAPE, ast.get_docstring(f) or '')]
    assert not bare, f'{len(bare)} methods of {len(methods)} without a shape: {bare}'


def own_docstrings(cls: type):
    "(name, docstring) of what a class defines and does not hide: methods and properties."
    for name, x in vars(cls).items():
        if name.startswith('_'): continue
        if isinstance(x, (property, functools.cached_property)): yield name, x.__doc__
        elif isinstance(x, (staticmethod, classmethod)): yield name, x.__func__.__doc__
        elif inspect.isfunction(x): yield name, x.__doc__


def test_a_method_without_a_docstring_is_found():
    class Some:
        "Something."
        def said(self): "It is."
        def unsaid(self): return 1
        width = property(lambda self: 1)
        height = property(lambda self: 1, doc='In mV.')
        made = functools.cached_property(lambda self: 1)
        kept = staticmethod(lambda: 1)
    assert [name for name, doc in own_docstrings(Some) if not doc] == ['unsaid', 'width', 'made', 'kept']


def test_every_public_method_has_a_docstring_of_its_own():
    "What a class of a chapter defines: that of its class, or of the one it inherits from, does not count."
    found = []
    for module in sorted(CHAPTERS):
        for cls in vars(importlib.import_module(module.removesuffix('.__init__'))).values():
            if inspect.isclass(cls) and cls.__module__ == module and cls.__name__[0] != '_':
                found += [(f'{module}.{cls.__name__}.{name}', doc) for name, doc in own_docstrings(cls)]
    assert len(found) > 150 and any(name.endswith('Run.multi') for name, _ in found)
    bare = [name for name, doc in found if not (doc or '').strip()]
    assert not bare, f'{len(bare)} public methods without a docstring: {bare}'
