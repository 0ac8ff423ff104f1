"""README.md from nbs/index.ipynb, without Quarto: the markdown cells, and the code cells with their text and
table outputs.

A cell that begins with `#| hide` is left out, of one with `#| echo: false` only the outputs are kept.

    python .ci/readme.py          writes README.md
    python .ci/readme.py --check  says whether README.md agrees (exit 1 if not)"""
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def shown(output) -> str:
    "An output as Markdown: a table as HTML without its style, text as a fenced block."
    data = output.get('data', {})
    if 'text/markdown' in data: return data['text/markdown']
    if 'text/html' in data: return re.search(r'<table.*</table>', data['text/html'], re.S).group()
    text = output.get('text') or data.get('text/plain', '')
    return f'```text\n{text.rstrip()}\n```' if text else ''


def render(notebook: Path) -> str:
    parts = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.source.startswith('#| hide') or not cell.source.strip(): continue
        if cell.cell_type == 'markdown': parts.append(cell.source)
        elif cell.cell_type == 'code':
            if '#| echo: false' not in cell.source: parts.append(f'```python\n{cell.source}\n```')
            parts += [shown(out) for out in cell.outputs]
    text = '\n\n'.join(p.strip() for p in parts if p.strip())
    # links as seen from the top
    text = re.sub(r'\]\((?!https?:|#|\.\./)(?:\./)?', '](nbs/', text).replace('](../', '](')
    return '<!-- Made from nbs/index.ipynb by .ci/readme.py: edit the notebook. -->\n\n' + text + '\n'


if __name__ == '__main__':
    text, readme = render(ROOT/'nbs'/'index.ipynb'), ROOT/'README.md'
    if '--check' not in sys.argv: readme.write_text(text, encoding='utf-8')
    elif readme.read_text(encoding='utf-8') != text:
        sys.exit('README.md differs from nbs/index.ipynb: run `make readme` and commit README.md')
    else: print('README.md agrees with nbs/index.ipynb')
