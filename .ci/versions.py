"""Does a shipped model answer alike under another Python, torch and numpy?

    python .ci/versions.py data/ludb here.csv                   # in one environment
    python .ci/versions.py data/ludb there.csv here.csv         # in another one: the largest difference

Asks `ptbxl-rhythm` about the first 40 records of a folder and writes its probabilities. Beside an earlier
table: exit status 1 if an answer differs, or a probability by more than 1e-5.
"""
import platform
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import pedarr
from pedarr.use.input_files import find_recordings

MOST, RECORDS = 1e-5, 40


def ask(folder: str) -> pd.DataFrame:
    "The probabilities of each window of the first records, `[record, window, class...]`."
    torch.set_num_threads(1)
    model = pedarr.load('ptbxl-rhythm', device='cpu')
    found = find_recordings([Path(folder)]).recordings[:RECORDS]
    table = lambda path: pd.DataFrame(model.predict_record(path).prob.reshape(-1, len(model.classes)),
                                      columns=model.classes)
    windows = {name: table(path) for name, path in found}
    print(f'Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}: '
          f'{len(windows)} records, model {model.model.id}')
    return pd.concat(windows, names=['record', 'window'])


def main(folder: str, out: str, other: str = '') -> int:
    ask(folder).to_csv(out, float_format='%.9g')
    if not other: return 0
    mine, theirs = (pd.read_csv(f, index_col=[0, 1]) for f in (out, other))
    if mine.shape != theirs.shape or not mine.index.equals(theirs.index):
        print(f'{other}: is of other records')
        return 1
    off = float(np.abs(mine - theirs).max().max())
    alike = bool((mine.idxmax(axis=1) == theirs.idxmax(axis=1)).all())
    said = 'the same answers' if alike else 'OTHER ANSWERS'
    print(f'{said}; largest difference of a probability {off:.1e}')
    return int(not alike or off > MOST)


if __name__ == '__main__':
    if len(sys.argv) not in (3, 4): sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
