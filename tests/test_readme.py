"""The front door: its size, its links, and the lines of Python that it prints."""
import re
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT/'README.md').read_text(encoding='utf-8')


def test_it_is_short(): assert len(README.encode()) <= 8192


@pytest.mark.parametrize('target', sorted(set(re.findall(r'\]\((?!https?:|#)([^)#]+)', README))))
def test_links_lead_somewhere(target): assert (ROOT/target).exists()


def test_the_lines_of_python_run_as_printed(tmp_path):
    "In a folder and a process of their own: a macro F1 with its interval and the place of the report, and no file elsewhere."
    blocks = re.findall(r'```python\n(.*?)```', README, re.S)
    assert len(blocks) == 1 and len(blocks[0].splitlines()) <= 8
    done = subprocess.run([sys.executable, '-c', blocks[0]], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r'^macro F1 +[\d.]+ % \[[\d.]+, [\d.]+\]$', done.stdout, re.M), done.stdout
    report = tmp_path/re.search(r'^report: (.*)$', done.stdout, re.M)[1]
    assert 'simulated' in report.read_text(encoding='utf-8').lower() and [p.name for p in tmp_path.iterdir()] == ['runs']


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
    exec('import re\n' + re.search(r'^def page.*?\n\n', source, re.S | re.M).group(), scope)
    page = scope['page'](README, 'https://example.org/pedarr')
    assert not re.findall(r'\]\((?!https?:|#)', page) and '](https://example.org/pedarr/blob/main/nbs/images/study.png)' in page


def test_contributing_names_what_exists():
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    paths = set(re.findall(r'`((?:nbs|tests|\.ci)/[\w./]+)`', text))
    assert len(paths) > 8 and not [p for p in paths if not (ROOT/p).exists()]
