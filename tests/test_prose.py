"""Numbers on the pages of results: the decimals of prose are among those that the page's cells print. A small
one may stand there by chance, so this finds what is stale or from nowhere, not every slip."""
import json
import re
from bisect import bisect_left
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1]/'nbs'/'results').glob('*.ipynb'))
# page -> decimals of its prose that no cell of it prints
ELSEWHERE = {
    'aims': '97.76 92.97',                                    # the paper's
    'full_length': '18.45',                                   # hours of the release
    'statements': '.019 .928 .961',                           # published, and of before
    'transfers': '84.5 38.8',                                 # of which_network_ludb
    'which_network': '97.76 96.22 92.97',                     # the paper's
    'which_network_ludb': '79.3'}                             # the aim


def cells(path: Path, kind: str) -> list[dict]:
    return [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind]


def printed(path: Path) -> list[float]:
    "All numbers in the outputs of a page, rising."
    text = []
    for out in (o for c in cells(path, 'code') for o in c['outputs']):
        text += [''.join(out.get('text', '')), *(''.join(out.get('data', {}).get(f'text/{kind}', ''))
                                                 for kind in ('plain', 'html', 'markdown'))]
    found = re.findall(r'\d[\d,]*(?:\.\d+)?|\.\d+', '\n'.join(text))
    return sorted({float(x.replace(',', '')) for x in found})


def said(path: Path) -> list[str]:
    "The decimals in the prose of a page: no commands, no links, no numbers of papers."
    prose = '\n\n'.join(''.join(c['source']) for c in cells(path, 'markdown'))
    prose = re.sub(r'```.*?```|`[^`]*`|\]\([^)]*\)|arXiv[\s:]+[\d.]+|doi\s\S+', ' ', prose, flags=re.S)
    return re.findall(r'(?<![\w./])(\d*\.\d+)(?![\w]|\.\d)', prose)


def stands_in(number: str, numbers: list[float]) -> bool:
    "Does one of the rising `numbers` round to `number`, as it is, in per cent, as a share or in millions?"
    half = .5*10**-len(number.partition('.')[2]) + 1e-9
    def near(scale):
        low, high = (float(number) - half)*scale, (float(number) + half)*scale
        i = bisect_left(numbers, low)
        return i < len(numbers) and numbers[i] <= high
    return any(map(near, (1, 100, .01, 1e6)))


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_numbers_of_prose_are_printed(path):
    numbers = printed(path)
    missing = [x for x in dict.fromkeys(said(path)) if not stands_in(x, numbers)]
    assert missing == ELSEWHERE.get(path.stem, '').split()


def test_a_number_that_nobody_prints_is_found(tmp_path):
    out = dict(data={'text/html': ['<td>.9215</td>', '<td>12,345</td>']})
    page = tmp_path/'a.ipynb'
    def write(prose):
        page.write_text(json.dumps(dict(cells=[
            dict(cell_type='code', outputs=[out, dict(text='3.04 [2.5, 4.0]')]),
            dict(cell_type='markdown', source=[prose])])))
        return [x for x in said(page) if not stands_in(x, printed(page))]
    assert write('It rose to 92.15 %, by 3.0 points [2.5, 4.0]; .012 million (arXiv 1234.5678).') == []
    assert write('It rose to 92.2 %, by 3.1 points; `lr .004`, [a](b_1.2.ipynb)\n```\n7.7\n```') == ['3.1']
