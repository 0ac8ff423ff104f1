"""The parameter cell of nbs/experiments/train.ipynb, made of the parameters of a training run.

    python .ci/parameters.py          writes it
    python .ci/parameters.py --check  says whether it agrees (exit 1 if not)"""
import sys
from pathlib import Path

import nbformat

from pedarr.core.parameters import cell_text
from pedarr.training.config import TrainConfig

NOTEBOOK = Path(__file__).resolve().parents[1]/'nbs'/'experiments'/'train.ipynb'


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = next(c for c in notebook.cells if 'parameters' in c.metadata.get('tags', []))
    text = cell_text(TrainConfig)
    if cell.source == text: return print('the parameter cell of train.ipynb agrees with the parameters')
    if '--check' in sys.argv:
        sys.exit('the parameter cell of train.ipynb differs from the parameters: run `make export`')
    cell.source = text
    nbformat.write(notebook, NOTEBOOK)


if __name__ == '__main__': main()
