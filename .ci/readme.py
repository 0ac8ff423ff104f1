"""README.md from nbs/index.ipynb, without Quarto: the markdown cells, and the code cells with their text and
table outputs.

A cell that begins with `#| hide` is left out, of one with `#| echo: false` only the outputs are kept. The
picture is the output of one cell of a chapter.

    python .ci/readme.py          writes README.md and its picture
    python .ci/readme.py --check  says whether they agree (exit 1 if not)"""
import base64
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README, PICTURE = ROOT/'README.md', ROOT/'nbs'/'images'/'study.png'
DRAWN_IN, CELL = ROOT/'nbs'/'3_exploration'/'10_calipers.ipynb', 'doorpicture'    # the cell's id


def cells(notebook: Path) -> list:
    "The cells of a notebook; importing nbformat for it takes seconds."
    return json.loads(notebook.read_text(encoding='utf-8'))['cells']


def shown(output) -> str:
    "An output as Markdown: a table as HTML without its style, text as a fenced block."
    data = {kind: ''.join(text) for kind, text in output.get('data', {}).items()}
    if 'text/markdown' in data: return data['text/markdown']
    if 'text/html' in data: return re.search(r'<table.*</table>', data['text/html'], re.S).group()
    text = ''.join(output.get('text', '')) or data.get('text/plain', '')
    return f'```text\n{text.rstrip()}\n```' if text else ''


def render(notebook: Path) -> str:
    parts = []
    for cell in cells(notebook):
        source = ''.join(cell['source'])
        if source.startswith('#| hide') or not source.strip(): continue
        if cell['cell_type'] == 'markdown': parts.append(source)
        elif cell['cell_type'] == 'code':
            if '#| echo: false' not in source: parts.append(f'```python\n{source}\n```')
            parts += [shown(out) for out in cell['outputs']]
    text = '\n\n'.join(p.strip() for p in parts if p.strip())
    # links as seen from the top
    text = re.sub(r'\]\((?!https?:|#|\.\./)(?:\./)?', '](nbs/', text).replace('](../', '](')
    return '<!-- Made from nbs/index.ipynb by .ci/readme.py: edit the notebook. -->\n\n' + text + '\n'


def picture() -> bytes:
    "The picture of the front page, from the chapter that draws it."
    cell = next(c for c in cells(DRAWN_IN) if c['id'] == CELL)
    return base64.b64decode(''.join(cell['outputs'][0]['data']['image/png']))


if __name__ == '__main__':
    made = {README: render(ROOT/'nbs'/'index.ipynb').encode(), PICTURE: picture()}
    agrees = lambda file: file.exists() and file.read_bytes() == made[file]
    differ = ' and '.join(file.name for file in made if not agrees(file))
    if '--check' not in sys.argv:
        for file, content in made.items(): file.write_bytes(content)
    elif differ: sys.exit(f'{differ} differ from the notebooks: run `make readme` and commit them')
    else: print('README.md and its picture agree with the notebooks')
