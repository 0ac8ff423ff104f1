"""Package metadata, read from settings.ini (the file that nbdev reads too)."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

def page(readme: str, base: str) -> str:
    """README.md as a package index shows it: links to pages at `base`, and pictures by their raw address.

    Where `base` is no address yet (git_url in settings.ini is empty or ends in .invalid), links become their
    words, and pictures are left out."""
    host = re.match(r'https?://([^/:]+)', base or '')
    if host is None or host[1].endswith('.invalid'):
        readme = re.sub(r'!\[[^]]*\]\((?!https?:)[^)]*\)\n*', '', readme)
        return re.sub(r'\[([^]]*)\]\((?!https?:|#)[^)]*\)', r'\1', readme)
    at = lambda kind: f'({base.rstrip("/")}/{kind}/{cfg["branch"]}/'
    readme = re.sub(r'(!\[[^]]*\])\((?!https?:)', lambda m: m[1] + at('raw'), readme)
    return re.sub(r'\]\((?!https?:|#)', ']' + at('blob'), readme)

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=page((here/'README.md').read_text(encoding='utf-8'), cfg['git_url']),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    license='Apache-2.0',
    packages=find_packages(include=['pedarr', 'pedarr.*']),
    # facts: the counts of the release; weights: models that are shipped, a folder each
    package_data={'pedarr': ['py.typed', 'facts/*.csv', 'facts/README.md', 'weights/*/*']},
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={'dev': cfg['dev_requirements'].split()},
    entry_points={'console_scripts': cfg['console_scripts'].split('\n'), 'nbdev': ['pedarr=pedarr._modidx:d']},
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research',
                 'Topic :: Scientific/Engineering :: Medical Science Apps.',
                 'Programming Language :: Python :: 3'],
    zip_safe=False,
)
