"""The parameter cells of train.ipynb and pretrain.ipynb in nbs/experiments, made of the parameters.

    python .ci/parameters.py          writes it
    python .ci/parameters.py --check  says whether it agrees (exit 1 if not)"""
import sys
from pathlib import Path

from pedarr.core.parameters import cell_text
from pedarr.training.config import TrainConfig
from pedarr.training.pretrain_config import PretrainConfig
from pedarr.use.notebook import read_notebook, write_notebook

FOLDER = Path(__file__).resolve().parents[1]/'nbs'/'experiments'
MADE_OF = {'train': TrainConfig, 'pretrain': PretrainConfig}


def fill(name: str) -> None:
    "Write, or with --check compare, the parameter cell of one notebook."
    file = FOLDER/f'{name}.ipynb'
    notebook = read_notebook(file)
    cell = next(c for c in notebook['cells'] if 'parameters' in c['metadata'].get('tags', []))
    text = cell_text(MADE_OF[name])
    if cell['source'] == text: return print(f'the parameter cell of {file.name} agrees with the parameters')
    if '--check' in sys.argv:
        sys.exit(f'the parameter cell of {file.name} differs from the parameters: run `make export`')
    cell['source'] = text
    write_notebook(notebook, file)


if __name__ == '__main__':
    for name in MADE_OF: fill(name)
