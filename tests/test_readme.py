"""The front door: its size, its links, and the lines of Python that it prints."""
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import product

import pandas as pd
import pytest
from conftest import ROOT

README = (ROOT/'README.md').read_text(encoding='utf-8')


def test_it_is_short(): assert len(README.encode()) <= 8000


@pytest.mark.parametrize('target', sorted(set(re.findall(r'\]\((?!https?:|#)([^)#]+)', README))))
def test_links_lead_somewhere(target): assert (ROOT/target).exists()


def test_the_lines_of_python_run_as_printed(tmp_path):
    """In a folder and a process of their own: a macro F1 with its interval and the place of the report, and
    no file elsewhere."""
    blocks = re.findall(r'```python\n(.*?)```', README, re.S)
    assert [len(block.splitlines()) <= 8 for block in blocks] == [True, True]
    lines = '\n'.join(blocks)
    done = subprocess.run([sys.executable, '-c', lines], cwd=tmp_path, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r'^macro F1 +[\d.]+ % \[[\d.]+, [\d.]+\]$', done.stdout, re.M), done.stdout
    report = tmp_path/re.search(r'^report: (.*)$', done.stdout, re.M)[1]
    assert 'simulated' in report.read_text(encoding='utf-8').lower()
    assert [p.name for p in tmp_path.iterdir()] == ['runs']
    assert re.search(r'^x001: .*\nby ptbxl-rhythm ', done.stdout, re.M) and 'cannot name' in done.stdout


def test_the_picture_is_the_chapters():
    "Of its size and bytes; the caption says that it is simulated."
    image = (ROOT/'nbs'/'images'/'study.png').read_bytes()
    width, height = (int.from_bytes(image[i:i + 4], 'big') for i in (16, 20))
    assert 850 <= width <= 1000 and 300 < height < 700
    caption = README.partition('study.png)')[2].strip().partition('\n\n')[0]
    assert '**simulated**' in caption and 'nbs/3_exploration/10_calipers.ipynb' in caption
    check = [sys.executable, ROOT/'.ci'/'readme.py', '--check']
    assert not subprocess.run(check, capture_output=True, text=True, cwd=ROOT).returncode


def test_a_package_index_sees_full_addresses():
    source = (ROOT/'setup.py').read_text(encoding='utf-8')
    scope = {'cfg': {'branch': 'main'}}
    exec('import re\n' + re.search(r'^def page.*?(?=^setup\()', source, re.S | re.M).group(), scope)
    page = scope['page'](README, 'https://github.com/someone/pedarr')
    relative = r'\]\((?!https?:|#)'
    assert not re.findall(relative, page)
    assert '](https://github.com/someone/pedarr/raw/main/nbs/images/study.png)' in page
    assert '](https://github.com/someone/pedarr/blob/main/CONTRIBUTING.md)' in page
    assert not re.findall(r'!\[[^]]*\]\([^)]*/blob/', page)
    for nowhere in ('', 'https://pedarr.invalid/pedarr'):                # words, without links
        page = scope['page'](README, nowhere)
        assert '.invalid' not in page and 'study.png' not in page and not re.findall(relative, page)
        assert '(Calipers draws it)' in ' '.join(page.split())


def test_the_package_is_built_with_the_page_of_its_address(tmp_path):
    for name in ('setup.py', 'README.md', 'settings.ini'): shutil.copy(ROOT/name, tmp_path/name)
    said = [sys.executable, 'setup.py', '-q', '--long-description']
    settings = (tmp_path/'settings.ini').read_text(encoding='utf-8')
    url = re.search(r'^git_url = (.*)$', settings, re.M)[1]
    for address, expected in ((url, '.invalid' not in url), ('https://example.org/pedarr', True)):
        (tmp_path/'settings.ini').write_text(settings.replace(f'git_url = {url}', f'git_url = {address}'))
        page = subprocess.run(said, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert '# pedarr' in page and (f'{address}/raw/main/nbs/images/study.png' in page) == expected


def test_contributing_names_what_exists():
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    paths = set(re.findall(r'`((?:nbs|tests|\.ci)/[\w./]+)`', text))
    assert len(paths) > 8 and not [p for p in paths if not (ROOT/p).exists()]


RESULTS = sorted((ROOT/'nbs'/'results').glob('*.ipynb'))


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding='utf-8'))
    return [c for c in notebook['cells'] if c['cell_type'] == kind]


def texts(path): return [''.join(c['source']) for c in cells(path, 'markdown')]


@pytest.mark.parametrize('path', RESULTS, ids=lambda p: p.stem)
def test_a_page_of_results_is_whole(path):
    "A question, one table, one figure, one conclusion, the command; and it is in the list."
    text = '\n\n'.join(texts(path))
    outputs = [o.get('data', {}) for c in cells(path, 'code') for o in c['outputs']]
    assert re.match(r'# [^\n]*\?', text)
    assert sum(''.join(o.get('text/html', '')).count('<table') for o in outputs) == 1
    assert '\n|' not in text, 'a second table, typed'
    pictures = re.findall(r'!\[[^\]]+\]\(([^)]+)\)', text)
    assert sum('image/png' in o for o in outputs) + len(pictures) == 1
    assert all((path.parent/p).exists() for p in pictures)
    assert re.findall(r'(?m)^## (.*)', text) == ['Conclusion', 'The command']
    assert re.search(r'\n## The command\n\n```bash\n', text)
    assert f']({path.name})' in (path.parent/'README.md').read_text(encoding='utf-8')


def run_together(text: str) -> list[str]:
    "Lines of commands in Markdown `text` that stand in no block, or that a reflow has joined."
    bare = re.sub(r'(?ms)^```.*?^```', '', text)
    command = re.compile(r'(papermill|pedarr [a-z]+|make [a-z]+|mkdir -p) .*\S+/|'
                         r'(\S[^`]*)?papermill \S+\.ipynb')
    lost = [line for line in bare.split('\n') if command.match(line)]
    return lost + [line for line in text.split('\n') if re.search(r'\\ +-[py]\b', line)]


@pytest.mark.parametrize('text, lost', [
    ('x:\n\n    papermill a/b.ipynb runs/b.ipynb \\\n      -p x 1', 0), ('```bash\npapermill a/b c\n```', 0),
    ('x:\n\npapermill a/b.ipynb runs/b.ipynb', 1), ('    papermill a/b c \\ -p\n  x 1', 1),
    ('x:\n\nmkdir -p runs/a papermill nbs/a.ipynb runs/a/a.ipynb -p store\n  b', 1),
    ('the name is\npedarr, and `pedarr train STORE`', 0)])
def test_commands_that_a_reflow_joined_are_found(text, lost): assert len(run_together(text)) == lost


def test_every_command_of_a_notebook_stands_in_a_block():
    found = [f'{path.relative_to(ROOT)}: {line}' for path in sorted((ROOT/'nbs').rglob('*.ipynb'))
             if 'runs' not in path.parts for text in texts(path) for line in run_together(text)]
    assert not found, '\n'.join(found)


def test_pages_of_results_say_a_thing_once():
    "No paragraph of prose longer than a line stands on two pages: what holds for all stands in their README."
    seen = defaultdict(set)
    for path in RESULTS:
        for paragraph in re.split(r'\n\n+', '\n\n'.join(texts(path))):
            prose = ' '.join(paragraph.split())
            if len(paragraph) > 150 and '```' not in paragraph: seen[prose].add(path.name)
    listed = re.findall(r'\]\((\w+)\.ipynb\)', (RESULTS[0].parent/'README.md').read_text(encoding='utf-8'))
    assert {path.stem for path in RESULTS} == {*listed}
    assert not {p: names for p, names in seen.items() if len(names) > 1}


def test_the_table_of_the_readme_is_that_of_the_results():
    "Each cell, from the files that the pages read."
    folders = 'twin', 'twin_intra', 'twin_absent', 'twin_absent_intra'
    scores = pd.concat(pd.read_csv(ROOT/'nbs'/'results'/folder/'scores.csv') for folder in folders)
    rows = re.findall(r'(?m)^\| ([^|]+) \|((?: \d\d\.\d \[[^|]*\] \|){4})$', README)
    ours = {'PedArrNet': 'absent channels not told', 'PedArrNet, AGCACL': 'not told, AGCACL',
            'PedArrNet, measured intervals': 'not told, measured intervals'}           # today's default
    scores = scores.set_index(['system', 'metric', 'split'])
    assert {name for name, _ in rows} == {*ours, 'xresnet1d', 'InceptionTime', 'boosted trees'}
    assert len(rows) == 6
    for name, shown in rows:
        system = ours.get(name, name)
        cells = [c.strip() for c in shown.split('|')[:-1]]
        for cell, (metric, split) in zip(cells, product(('top1', 'f1'), ('patient', 'segment'))):
            r = scores.loc[system, metric, split]
            assert cell == f'{100*r.value:.1f} [{100*r.low:.1f}, {100*r.high:.1f}]'


def test_the_options_of_the_earlier_network_are_those_of_a_run():
    "What the chapter of the earlier encoders names builds the plain encoder, two blocks and a CLS token."
    from pedarr.model.earlier_encoders import PlainEncoder
    from pedarr.training.config import make_config
    from pedarr.training.network import build_model
    text = '\n\n'.join(texts(ROOT/'nbs'/'5_model'/'01_earlier_encoders.ipynb'))
    given = re.search(r'-p encoder plain.*?(?=\n\n)', text, re.S)[0].replace('\\\n', ' ')
    words = shlex.split(given)
    pairs = {name: json.loads(value) if value[0] in '{0123456789' else value
             for name, value in zip(words[1::3], words[2::3])}
    model = build_model(make_config(**pairs), 8, rate=500.)
    assert isinstance(model.views.encoders['ecg'], PlainEncoder)
    assert len(model.blocks) == 2 and model.cls is not None and not model.config['ecg_rate']
