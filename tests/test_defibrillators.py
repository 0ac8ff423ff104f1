"""The notebook on implanted defibrillators, on SIMULATED files named and formed like the contest's."""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest

SOURCE = Path(__file__).parents[1]/'nbs'/'experiments'/'defibrillators.ipynb'
HERTZ = {'SR': 1.2, 'VT': 3., 'VFb': 5.5, 'AFb': 2.}


def write_segments(folder: Path, patients: int = 12):
    "Two segments of each of four rhythms and of twelve patients: pulses at a rate, AFb at no rate."
    folder.mkdir()
    for p in range(patients):
        rng = np.random.default_rng(p)
        for (label, hertz), number in ((x, n) for x in HERTZ.items() for n in range(2)):
            gaps = rng.normal(1/hertz, .3/hertz if label == 'AFb' else .01/hertz, 60).clip(.15)
            at = np.cumsum(gaps)[:, None]
            x = np.exp(-((np.arange(1250)/250 - at)/.015)**2).sum(0) + rng.normal(0, .02, 1250)
            (folder/f'S{p:02}-{label}-{number}.txt').write_text('\n'.join(f'{v:.5f}' for v in x))


def executed(folder, out, page='', **given):
    tiny = dict(n_folds=3, epochs=1, jobs=1, threads=1, resamples=100, questions='merged',
                common=dict(dim=16, depth=1, batch_size=16, device='cpu'))
    return papermill.execute_notebook(str(SOURCE), f'{out}{page}.ipynb', tiny | dict(
        folder=str(folder), out=str(out)) | given, progress_bar=False, kernel_name='python3')


@pytest.mark.long
def test_defibrillators_from_text_files_to_tables(tmp_path):
    write_segments(tmp_path/'data')
    run = lambda **given: executed(tmp_path/'data', tmp_path/'out', **given)
    run(systems='boosted trees, cross-entropy, AGCACL')
    scores = pd.read_csv(tmp_path/'out'/'scores-merged.csv').set_index('system')
    assert float(scores['top-1']['boosted trees'].split()[0]) > 80
    assert scores.filter(like='against').notna().sum().to_dict() == {
        'macro F1 against boosted trees': 2, 'macro F1 against cross-entropy': 1}
    classes = pd.read_csv(tmp_path/'out'/'classes-merged.csv')
    assert {*classes['class']} == {'SR', 'VT', 'VF', 'AF'} and (classes.support == 24).all()
    assert classes.note.isna().all()
    times = {f: f.stat().st_mtime for f in (tmp_path/'out').rglob('metrics.json')}
    run(systems='cross-entropy', questions='merged, eight')                         # one more training only
    assert all(f.stat().st_mtime == t for f, t in times.items())
    assert len([*(tmp_path/'out').rglob('metrics.json')]) == len(times) + 1
    assert (tmp_path/'out'/'scores-eight.csv').exists()


@pytest.mark.long
def test_two_processes_on_one_grid_both_end_in_tables(tmp_path):
    "Started at once: one makes the store, each trains what the other does not, neither calls a run failed."
    write_segments(tmp_path/'data')
    run = lambda page: executed(tmp_path/'data', tmp_path/'out', page, seeds=2, results=str(tmp_path/page),
                                systems='boosted trees, cross-entropy')
    with ThreadPoolExecutor(2) as pool: [*pool.map(run, 'ab')]
    a, b = (pd.read_csv(tmp_path/page/'scores-merged.csv') for page in 'ab')
    pd.testing.assert_frame_equal(a, b)
    assert {*a.system} == {'boosted trees', 'cross-entropy'} and (a.seeds == 2).all()
    assert not [*(tmp_path/'out').rglob('*lock')] + [*(tmp_path/'out').rglob('*.part')]


@pytest.mark.long
@pytest.mark.parametrize('given, why', [
    (dict(systems=''), 'name at least one of each'), (dict(questions=' ,'), 'name at least one of each'),
    (dict(systems='AGCACL, AGCACL'), 'AGCACL stands there twice'),
    (dict(systems='AGCACLE'), "unknown system 'AGCACLE': did you mean 'AGCACL'")])
def test_systems_and_questions_are_named_once(tmp_path, given, why):
    with pytest.raises(papermill.PapermillExecutionError, match=why):
        executed(tmp_path/'data', tmp_path/'out', **given)
    assert not (tmp_path/'out').exists()


@pytest.mark.long
@pytest.mark.parametrize('name, text, why', [
    ('notes.txt', '', 'notes.txt: give the folder with the files'),
    ('S03-VT-9.txt', '1\n2', 'S03-VT-9.txt: 2 samples, 1,250 are expected'),
    ('S03-VT-9.txt', 'a\n'*1250, 'S03-VT-9.txt: holds more than numbers')])
def test_a_file_that_is_no_segment_is_named(tmp_path, name, text, why):
    write_segments(tmp_path/'data', 4)
    (tmp_path/'data'/name).write_text(text)
    with pytest.raises(papermill.PapermillExecutionError, match=why):
        executed(tmp_path/'data', tmp_path/'out')
