"""The order of the book: a page of contents (nbs/contents.md), and the links at the end of every chapter.

    python .ci/contents.py          writes them
    python .ci/contents.py --check  says whether they agree (exit 1 if not)"""
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
PAGE = NBS/'contents.md'
CELL = 'chapterlinks'      # id of the last cell of a chapter


def source(cell: dict) -> str: return ''.join(cell['source'])


def read(path: Path) -> dict: return json.loads(path.read_text(encoding='utf-8'))


def head(path: Path) -> tuple:
    "(title, blurb) of a chapter."
    text = source(read(path)['cells'][0])
    title = re.match(r'# (.*)', text)[1].strip()
    return title, ' '.join(re.findall(r'^> ?(.*)', text, re.M))


def chapters() -> list:
    "The chapters in the order of reading."
    return sorted(NBS.glob('[0-9]_*/*.ipynb'), key=lambda p: (p.parent.name, p.name))


def contents(titles: dict) -> str:
    "The page of contents."
    lines = ['# Contents', '', 'Made by .ci/contents.py from the first cells of the chapters.']
    part = None
    for path, (title, blurb) in titles.items():
        if path.parent.name != part:
            part = path.parent.name
            lines += ['', f'## {part.partition("_")[2]}', '']
        lines.append(f'- [{title}]({path.relative_to(NBS).as_posix()}): {blurb}')
    return '\n'.join(lines) + '\n'


def links(path: Path, before: Path | None, after: Path | None, titles: dict) -> str:
    "The last cell of the chapter at `path`."
    link = lambda p: f'[{titles[p][0]}]({Path(os.path.relpath(p, path.parent)).as_posix()})'
    around = [f'{word}: {link(p)}.' for word, p in (('Before', before), ('Next', after)) if p]
    return '---\n\n' + '\n'.join([*around, 'All chapters: [contents](../contents.md).'])


def with_links(path: Path, text: str) -> str:
    "The notebook at `path`, its last cell saying `text`."
    nb = read(path)
    cell = dict(cell_type='markdown', id=CELL, metadata={}, source=text.splitlines(keepends=True))
    nb['cells'] = [c for c in nb['cells'] if c.get('id') != CELL] + [cell]
    return json.dumps(nb, indent=1, ensure_ascii=False) + '\n'


def wanted() -> dict:
    "Path -> text of everything that this script makes."
    books = chapters()
    titles = {p: head(p) for p in books}
    out = {PAGE: contents(titles)}
    for before, path, after in zip([None, *books], books, [*books[1:], None]):
        out[path] = with_links(path, links(path, before, after, titles))
    return out


def same(path: Path, text: str) -> bool:
    "Does the file hold `text`? Of a notebook, its last cell counts."
    if not path.exists(): return False
    if path.suffix != '.ipynb': return path.read_text(encoding='utf-8') == text
    return source(read(path)['cells'][-1]) == source(json.loads(text)['cells'][-1])


def main() -> int:
    stale = {path: text for path, text in wanted().items() if not same(path, text)}
    if '--check' not in sys.argv:
        for path, text in stale.items(): path.write_text(text, encoding='utf-8')
        return 0
    if not stale:
        print('contents and links agree with the chapters')
        return 0
    names = ', '.join(p.relative_to(ROOT).as_posix() for p in list(stale)[:3])
    print(f'{len(stale)} files differ from the order of the chapters ({names}): run `make readme` and commit',
          file=sys.stderr)
    return 1


if __name__ == '__main__': sys.exit(main())
