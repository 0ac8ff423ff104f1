"""README.md from nbs/index.ipynb, without Quarto: the markdown cells and the code cells with their text outputs.

    python .ci/readme.py          writes README.md
    python .ci/readme.py --check  says whether README.md agrees (exit 1 if not)"""
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def render(notebook: Path) -> str:
    parts = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.source.startswith('#| hide') or not cell.source.strip(): continue
        if cell.cell_type == 'markdown': parts.append(cell.source)
        elif cell.cell_type == 'code':
            parts.append(f'```python\n{cell.source}\n```')
            for out in cell.outputs:
                text = out.get('text') or out.get('data', {}).get('text/markdown') or out.get('data', {}).get('text/plain', '')
                if text: parts.append(text if 'text/markdown' in out.get('data', {}) else f'```text\n{text.rstrip()}\n```')
    return '<!-- Made from nbs/index.ipynb by .ci/readme.py: edit the notebook. -->\n\n' + '\n\n'.join(p.strip() for p in parts) + '\n'


if __name__ == '__main__':
    text, readme = render(ROOT/'nbs'/'index.ipynb'), ROOT/'README.md'
    if '--check' not in sys.argv: readme.write_text(text, encoding='utf-8')
    elif readme.read_text(encoding='utf-8') != text: sys.exit('README.md differs from nbs/index.ipynb: run `make readme` and commit README.md')
    else: print('README.md agrees with nbs/index.ipynb')
