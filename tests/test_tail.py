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
from pedarr.core.tables import read_json
from pedarr.signals.arrays import store_from_arrays
from pedarr.training import tail as tail_
from pedarr.training.natural_tail import decide_natural, natural_roles, natural_table, read_natural
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
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.json', 'a.safetensors.xz']
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
    def recall(merged):
        found = natural_table({'ce': t}, merged=merged, tuned=False, n_resamples=2)
        return found.query('score == "recall"').set_index('rhythm').value.to_dict()
    assert recall(False) == {'SR': 1, 'PSVT': 0, 'SVTAC': 0}
    assert recall(True) == {'SVT': 1}                  # .6 wins; .5 ties, and sinus rhythm stands last


def natural(n=400, seed=0) -> pd.DataFrame:
    "Made-up answers over two folds, patients of two recordings, half of them validation."
    rng, i = np.random.default_rng(seed), np.arange(n)
    truth = rng.choice(4, n, p=[.7, .2, .07, .03])
    log = np.log(rng.dirichlet(np.ones(4), n) + 2*np.eye(4)[truth]*rng.random((n, 1)))
    t = pd.DataFrame(log - np.log(np.exp(log).sum(1, keepdims=True)), columns=['SR', 'AFIB', 'BIGU', 'TRIGU'])
    return t.assign(subject=i//2, label=np.array(t.columns)[truth], fold=i//2 % 2,
                    role=np.where(i//2 % 4 < 2, 'test', 'validation'))


def test_scores_of_the_natural_tail_equal_those_of_scikit_learn():
    from sklearn.metrics import average_precision_score, precision_score, recall_score
    t = natural()
    a, rows = decide_natural(t), natural_table({'ce': t}, n_resamples=20).set_index(['rhythm', 'score']).value
    test = t[t.role == 'test']
    said = np.array(a.names)[a.called]
    for name in a.names:
        truth = test.label == name
        assert rows[name, 'recall'] == pytest.approx(recall_score(truth, said == name))
        assert rows[name, 'precision'] == pytest.approx(precision_score(truth, said == name, zero_division=0))
        assert rows[name, 'average precision'] == pytest.approx(average_precision_score(truth, test[name]))


def test_offsets_are_of_the_own_fold_and_never_of_the_test():
    t = natural()
    a = decide_natural(t)
    other = t.copy()
    other.loc[other.role == 'test', 'label'] = 'SR'
    assert np.array_equal(decide_natural(other).offsets, a.offsets)
    swapped = t.copy()
    swapped.loc[(t.fold == 1) & (t.role == 'validation'), 'label'] = 'SR'
    b = decide_natural(swapped)
    assert np.array_equal(b.offsets[0], a.offsets[0]) and (b.offsets[1] == -5).all()
    shifted = t.assign(AFIB=t.AFIB + 2)              # as a loss for rare classes does: tuning takes it away
    tuned, plain = (decide_natural(shifted, tuned=x).called for x in (True, False))
    assert (tuned == a.called).mean() > .95 and (plain == decide_natural(t, tuned=False).called).mean() < .9


def test_resampled_patients_of_the_natural_tail_equal_a_plain_loop():
    from pedarr.evaluation.bootstrap import draw_subjects
    t, other = natural(), natural(seed=1)[['SR', 'AFIB', 'BIGU', 'TRIGU']]
    b = pd.concat([natural().drop(columns=other.columns), other], axis=1)
    row = natural_table({'a': t, 'b': b}, [('a', 'b')], tuned=False, n_resamples=50).query(
        'loss == "a - b" and rhythm == "AFIB" and score == "recall"').iloc[0]
    test = t.role == 'test'
    names, there = np.unique(t.subject[test]), (t.label == 'AFIB')[test].to_numpy()
    hit = [(own[other.columns].idxmax(axis=1) == 'AFIB')[test].to_numpy() & there for own in (t, b)]
    gains = []
    for times in next(draw_subjects(len(names), 50, 0, 100)):
        weight = times[np.searchsorted(names, t.subject[test])]
        gains.append((weight @ hit[0] - weight @ hit[1])/(weight @ there))
    assert [row.low, row.high] == pytest.approx(np.quantile(gains, [.025, .975]).tolist())


def test_kept_answers_need_no_table(tmp_path, table):
    role = natural_roles(table, 1)
    found = answers(table, role, len(CLASSES))
    told = dict(truth=np.array([CLASSES.index(x) for x in table.label[found['row']]], np.uint8),
                subject=pd.factorize(table.subject, sort=True)[0][found['row']].astype(np.int32),
                tested=(role[found['row']] == 'test').astype(np.uint8))
    write = lambda arrays: finish_job(tmp_path, 'ce_natural_1', lambda checkpoint: arrays, ABOUT)
    assert write(found | told)
    alone, checked = (read_natural(tmp_path, 'ce', own, [1]) for own in (None, table))
    pd.testing.assert_frame_equal(alone.drop(columns='subject'), checked.drop(columns='subject'))
    assert len(set(zip(alone.subject, checked.subject))) == alone.subject.nunique()
    for wrong in (dict(truth=told['truth'] + np.uint8(6)), dict(subject=told['subject'][1:]),
                  dict(tested=None)):
        for file in tmp_path.iterdir(): file.unlink()
        write({k: v for k, v in (found | told | wrong).items() if v is not None})
        with pytest.raises(PedarrError, match='ce_natural_1: damaged') as e:
            read_natural(tmp_path, 'ce', folds=[1])
        assert '\n' not in str(e.value)


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


def test_the_chosen_trials_are_the_best_of_the_table():
    results = Path(__file__).parents[1]/'nbs'/'results'/'tail'
    tuning = pd.read_csv(results/'tuning.csv').set_index('trial').AP
    best = tuning.groupby(tuning.index.str.rpartition('-').get_level_values(0)).idxmax()
    path = Path(__file__).parents[1]/'nbs'/'experiments'/'tail.ipynb'
    text = ''.join(''.join(c['source']) for c in json.loads(path.read_text())['cells'])
    chosen = ast.literal_eval(re.search(r"CHOSEN = (\{'.*\})", text)[1])
    assert {f'{loss}-{trial}' for loss, trial in chosen.items()} == set(best)


@pytest.fixture(scope='module')
def waves(tmp_path_factory):
    "A SIMULATED store: noise with a wave whose frequency tells the rhythm, 400 recordings of 200 patients."
    rng, i = np.random.default_rng(0), np.arange(400)
    names = np.array(['SR', 'AFIB', 'BIGU', 'PSVT', 'SVTAC'])
    label = rng.choice(names, 400, p=[.4, .2, .2, .18, .02])
    hertz = 2 + 4*pd.Index(names).get_indexer(label)
    x = rng.normal(0, .3, (400, 2, 500)) + np.sin(2*np.pi*hertz[:, None]*np.arange(500)/100)[:, None]
    return store_from_arrays(tmp_path_factory.mktemp('waves')/'store', x, 100., ['I', 'II'], label,
                             [f'p{k//2:03}' for k in i], folds=1 + i//2 % 10, simulated=True).path


@pytest.mark.long
def test_the_natural_tail_from_training_to_tables_and_from_kept_answers(waves, tmp_path):
    import papermill
    source = Path(__file__).parents[1]/'nbs'/'experiments'/'natural_tail.ipynb'
    run = lambda **given: papermill.execute_notebook(
        str(source), str(tmp_path/'done.ipynb'), dict(out=str(tmp_path/'jobs'), resamples=50) | given,
        progress_bar=False, kernel_name='python3')
    tiny = dict(epochs=3, dim=16, batch_size=16, device='cpu')
    first, again = tmp_path/'first', tmp_path/'again'
    given = dict(store=str(waves), results=str(first), folds='0,3', common=tiny)
    with pytest.raises(papermill.PapermillExecutionError, match="unknown loss 'cee'"):
        run(losses='cee', **given)
    with pytest.raises(papermill.PapermillExecutionError, match='pairs: write two losses'):
        run(pairs='ce', **given)
    with pytest.raises(papermill.PapermillExecutionError, match='no loss is finished on all of'): run()
    run(losses='ce', **given)
    run(losses='ce,la,agcacl', pairs='agcacl - ce, la - ce', **given)
    t = pd.read_csv(first/'scores.csv')
    assert {*t.loss} == {'ce', 'la', 'agcacl', 'agcacl - ce', 'la - ce'}
    assert {*t.rhythm} == {'SR', 'AFIB', 'BIGU', 'PSVT', 'SVTAC', 'rarest', 'SVT'}
    few = t.patients < 10
    assert few.any() and t.low[few].isna().all() and t.low[~few].notna().all()
    made = read_json(first/'made.json')
    assert made['simulated'] is True and made['losses']['agcacl'] == dict(loss='agcacl', gamma=.5)
    run(out=str(first), results=str(again), losses='ce,la,agcacl', folds='0,3', pairs='agcacl - ce, la - ce')
    assert (again/'scores.csv').read_bytes() == (first/'scores.csv').read_bytes()      # without the store
    answers = read_natural(first, 'ce', folds=[0, 3])
    said = natural_table({'ce': answers}, n_resamples=50)
    own = t[(t.loss == 'ce') & (t.rhythm != 'SVT')]
    np.testing.assert_allclose(said[['value', 'low', 'high']], own[['value', 'low', 'high']], atol=1e-5)
    assert (answers.role == 'test').sum() == 160


def test_the_natural_tail_takes_the_strengths_of_the_controlled_one():
    root = Path(__file__).parents[1]/'nbs'
    cells = json.loads((root/'experiments'/'natural_tail.ipynb').read_text())['cells']
    cell = next(''.join(c['source']) for c in cells if 'LOSSES = {' in ''.join(c['source']))
    names = dict(more={})
    exec(cell[:cell.index('names =')], names)
    chosen = read_json(root/'results'/'tail'/'made.json')['losses']
    assert names['LOSSES'].keys() <= chosen.keys()
    assert names['LOSSES'] == {loss: chosen[loss] for loss in names['LOSSES']}
