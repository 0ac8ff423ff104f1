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
    "In a folder and a process of their own; the last line is a macro F1 with its interval."
    blocks = re.findall(r'```python\n(.*?)```', README, re.S)
    assert len(blocks) == 1
    done = subprocess.run([sys.executable, '-c', blocks[0]], cwd=tmp_path, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"'value': [\d.]+", done.stdout.splitlines()[-1]) and not list(tmp_path.iterdir())


def test_a_package_index_sees_full_addresses():
    source = (ROOT/'setup.py').read_text(encoding='utf-8')
    scope = {'cfg': {'branch': 'main'}}
    exec('import re\n' + re.search(r'^def page.*?\n\n', source, re.S | re.M).group(), scope)
    page = scope['page'](README, 'https://example.org/pedarr')
    assert not re.findall(r'\]\((?!https?:|#)', page)
    assert '](https://example.org/pedarr/blob/main/nbs/images/study.png)' in page


def test_contributing_names_what_exists():
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    paths = set(re.findall(r'`((?:nbs|tests|\.ci)/[\w./]+)`', text))
    assert len(paths) > 8 and not [p for p in paths if not (ROOT/p).exists()]
