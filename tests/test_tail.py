"""Jobs of the controlled and of the natural tail: taken up again, damaged, read from an earlier version."""
import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from pedarr.core.errors import PedarrError
from pedarr.model.pedarrnet import PedArrNet
from pedarr.model.pretrained import save_pretrained
from pedarr.training import tail as tail_
from pedarr.training.config import make_config
from pedarr.training.natural_tail import natural_roles, natural_table, read_natural
from pedarr.training.tail import (
    LOG_COLUMNS, RARE_RHYTHMS, finish_job, read_tail_job, run_tail_job, tail_jobs, tail_roles)

CLASSES = ['SR', *RARE_RHYTHMS, 'PSVT', 'SVTAC']
ABOUT = dict(job=dict(loss='ce'), params=dict(model='pedarrnet', lr=.1, epochs=3), store='seal',
             classes=CLASSES)
JOB = tail_jobs({'ce': {}}, [2], [3])[0]


@pytest.fixture
def table() -> pd.DataFrame:
    "300 recordings of 150 patients in ten folds, each class as often."
    n = np.arange(300)
    return pd.DataFrame(dict(subject=[f'p{i//2}' for i in n], label=np.array(CLASSES)[n % 6],
                             official=n//2 % 10 + 1))


def answers(table, role, width: int) -> dict:
    "Arrays as a job writes them, for all that have a role but the training set."
    row = np.flatnonzero((role != 'train') & (role != '')).astype(np.int32)
    log = np.log(np.random.default_rng(0).dirichlet(np.ones(width), len(row)))
    return dict(row=row, log=log.astype(np.float16), other=np.zeros(len(row), np.uint8))


def test_a_stopped_job_goes_on_only_as_it_began(tmp_path):
    def stop(checkpoint):
        checkpoint.write_text('half')
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): finish_job(tmp_path, 'a', stop, ABOUT)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for other, why in ((dict(params=ABOUT['params'] | dict(lr=.2)), 'lr=0.1, not 0.2'),
                       (dict(store='other'), 'another store'),
                       (dict(classes=CLASSES[::-1]), 'another store')):
        with pytest.raises(PedarrError, match=f'a.json: of a job with {why}: ') as e:
            finish_job(tmp_path, 'a', stop, ABOUT | other)
        assert '\n' not in str(e.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before, 'the folder was touched'
    here = ABOUT | dict(params=ABOUT['params'] | dict(device='cpu', workers=3))       # no part of the result
    seen = lambda checkpoint: dict(row=np.array([len(checkpoint.read_text())]))
    assert finish_job(tmp_path, 'a', seen, here)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.json', 'a.safetensors']
    assert not finish_job(tmp_path, 'a', stop, here)
    with pytest.raises(PedarrError, match='lr=0.1, not 0.2'):
        finish_job(tmp_path, 'a', stop, ABOUT | dict(params=ABOUT['params'] | dict(lr=.2)))


def test_a_checkpoint_that_nobody_wrote_down_is_not_taken_up(tmp_path):
    (tmp_path/'a.checkpoint').write_text('half')
    with pytest.raises(PedarrError, match='a.checkpoint: of a job that nobody wrote down: delete it'):
        finish_job(tmp_path, 'a', lambda checkpoint: {}, ABOUT)


def test_a_job_that_another_process_has_just_finished_is_left_alone(tmp_path, monkeypatch):
    hold = tail_.hold_lock
    def waits(path, doing):
        monkeypatch.setattr(tail_, 'hold_lock', hold)
        finish_job(tmp_path, 'a', lambda checkpoint: dict(row=np.arange(3)), ABOUT)       # the other one
        return hold(path, doing)
    monkeypatch.setattr(tail_, 'hold_lock', waits)
    assert not finish_job(tmp_path, 'a', lambda checkpoint: pytest.fail('trained twice'), ABOUT)


def test_answers_of_an_earlier_version_open_and_are_not_trained_again(tmp_path, table):
    "It wrote `about` at the end, and had fewer parameters."
    about = dict(job=JOB._asdict(), params=dict(model='pedarrnet', lr=.1), store='seal', classes=CLASSES)
    (tmp_path/f'{JOB.name}.json').write_text(json.dumps(about))
    save_file(answers(table, tail_roles(table, 2, 3), 4), tmp_path/f'{JOB.name}.safetensors')
    t = read_tail_job(tmp_path, JOB, table)
    assert set(t.role) == {'validation', 'left out', 'fold 10'} and len(t) and (t.other == 'SR').all()
    store = SimpleNamespace(segments=table, seal='seal', classes=CLASSES)
    assert not run_tail_job(store, JOB, dict(lr=.1), tmp_path)
    with pytest.raises(PedarrError, match='lr=0.1, not 0.2'): run_tail_job(store, JOB, dict(lr=.2), tmp_path)


def damaged(found: dict, how: str) -> dict:
    "Arrays of a job with one thing wrong."
    if how == 'row is missing': return {k: v for k, v in found.items() if k != 'row'}
    return found | {
        'rows of floats': lambda: dict(row=found['row'].astype(float)),
        'too few columns': lambda: dict(log=np.ascontiguousarray(found['log'][:, :2])),
        'not finite': lambda: dict(log=found['log']*np.float16(np.nan)),
        'unknown class': lambda: dict(other=found['other'] + np.uint8(9)),
        'row of no recording': lambda: dict(row=found['row'] + np.int32(1000)),
        'row below 0': lambda: dict(row=found['row'] - np.int32(1000))}[how]()


@pytest.mark.parametrize('how', ['row is missing', 'rows of floats', 'too few columns', 'not finite',
                                 'unknown class', 'row of no recording', 'row below 0'])
@pytest.mark.parametrize('kind', ['controlled', 'natural'])
def test_damaged_arrays_are_one_line(tmp_path, table, kind, how):
    role = tail_roles(table, 2, 3) if kind == 'controlled' else natural_roles(table, 0)
    name = JOB.name if kind == 'controlled' else 'ce_natural_0'
    read = {'controlled': lambda: read_tail_job(tmp_path, JOB, table),
            'natural': lambda: read_natural(tmp_path, 'ce', table, [0])}[kind]
    found = answers(table, role, len(LOG_COLUMNS) if kind == 'controlled' else len(CLASSES))
    (tmp_path/f'{name}.json').write_text(json.dumps(ABOUT))
    save_file(damaged(found, how), tmp_path/f'{name}.safetensors')
    if (kind, how) == ('natural', 'unknown class'): return read()                     # has no such array
    with pytest.raises(PedarrError, match=f'{name}.safetensors: ') as e: read()
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('card', ['', '{', '[]', '{}', '{"classes": 3}', None])
@pytest.mark.parametrize('raw', [b'', b'\0'*40])
def test_damaged_files_are_one_line(tmp_path, table, card, raw):
    (tmp_path/f'{JOB.name}.safetensors').write_bytes(raw)
    if card is not None: (tmp_path/f'{JOB.name}.json').write_text(card)
    store = SimpleNamespace(segments=table, seal='seal', classes=CLASSES)
    for call in (lambda: read_tail_job(tmp_path, JOB, table), lambda: run_tail_job(store, JOB, {}, tmp_path)):
        with pytest.raises(PedarrError, match=JOB.name) as e: call()
        assert '\n' not in str(e.value)
    (tmp_path/f'{JOB.name}.json').write_text(json.dumps(ABOUT))
    with pytest.raises(PedarrError, match='safetensors: damaged') as e: read_tail_job(tmp_path, JOB, table)
    assert '\n' not in str(e.value)


def test_a_merged_class_is_the_answer_where_the_sum_of_its_members_is_the_largest():
    log = np.log([[.4, .3, .3], [.5, .3, .2], [.8, .1, .1]])
    t = pd.DataFrame(log, columns=['SR', 'PSVT', 'SVTAC']).assign(
        subject=[*'abc'], fold=0, role='test', label=['PSVT', 'SVTAC', 'SR'])
    recall = lambda merged: natural_table(t, merged, n_resamples=2).query('score == "recall"').set_index(
        'rhythm').value.to_dict()
    assert recall(False) == {'SR': 1, 'PSVT': 0, 'SVTAC': 0}
    assert recall(True) == {'SR': 1, 'SVT': .5}                       # .6 wins, .5 ties and the first is SR


def test_the_experiment_asks_for_its_first_stage():
    path = Path(__file__).parents[1]/'nbs'/'experiments'/'tail.ipynb'
    cells = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
    wanted = [c for c in cells if 'import' in c or c.startswith('# Parameters') or 'CHOSEN =' in c]
    names = {}
    for cell in wanted[:-1]: exec(cell.replace('%matplotlib inline', ''), names)
    chosen = re.compile(r"CHOSEN = \{.*\}")
    assert chosen.search(wanted[-1])
    none = chosen.sub('CHOSEN = {}', wanted[-1])
    with pytest.raises(PedarrError, match='CHOSEN: .*run stage tune first') as e: exec(none, names)
    assert '\n' not in str(e.value)
    exec(none, names | dict(stage='tune'))
    with pytest.raises(PedarrError, match="unknown trial 'ce-lr9'"):
        exec(chosen.sub("CHOSEN = {'ce': 'lr9'}", wanted[-1]), names)


def test_rows_that_start_from_weights_have_the_same_network_from_scratch(tmp_path):
    "The encoder is 128 wide on millivolts at 100 Hz, whatever the recipe says: `scratch` is so, too."
    path = Path(__file__).parents[1]/'nbs'/'experiments'/'tail.ipynb'
    cells = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
    known = next(i for i, c in enumerate(cells) if 'known = trials' in c)
    names = {}
    for cell in cells[:known]:
        if 'check_parameters(In' not in cell: exec(cell.replace('%matplotlib inline', ''), names)
    weights = tmp_path/'a.safetensors'
    save_pretrained(PedArrNet(2, dim=128, modalities=('ecg',)), weights, 100., 'none')
    found = names | dict(starts={'Sim CLR': str(weights)})
    exec(cells[known], found)
    rows = {job.loss: make_config(**found['settings'] | job.params) for job in found['jobs']}
    assert [*rows] == ['scratch', 'sim-clr'] and {job.draw for job in found['jobs']} == {3, 4, 5, 6, 7}
    scratch, own = (rows[name].model_dump() for name in rows)
    assert {k for k in own if own[k] != scratch[k]} == {'pretrained'} and own['dim'] == 128
    assert own['normalise'] == 'none' and own['model_options']['ecg_rate'] == 100 and own['lr'] == 4e-3
    assert own['model_options']['pooling'] == 'mean-max'
    with pytest.raises(PedarrError, match='no such weights'):
        exec(cells[known], names | dict(starts={'a': 'no.safetensors'}))


def test_the_chosen_trials_are_the_best_of_the_table():
    results = Path(__file__).parents[1]/'nbs'/'results'/'tail'
    tuning = pd.read_csv(results/'tuning.csv').set_index('trial').AP
    best = tuning.groupby(tuning.index.str.rpartition('-').get_level_values(0)).idxmax()
    path = Path(__file__).parents[1]/'nbs'/'experiments'/'tail.ipynb'
    text = ''.join(''.join(c['source']) for c in json.loads(path.read_text())['cells'])
    chosen = ast.literal_eval(re.search(r"CHOSEN = (\{'.*\})", text)[1])
    assert {f'{loss}-{trial}' for loss, trial in chosen.items()} == set(best)
