"""Every array argument of a public function or method has its shape in the docstring, and its unit or the
word for what has none."""
import ast
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
