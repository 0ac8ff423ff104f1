"""The notebooks on fibrillation against flutter, on SIMULATED recordings in the form of iafdb."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest

from helpers import experiment_cells

EXPERIMENTS = Path(__file__).parents[1]/'nbs'/'experiments'
CHANNELS = ['II', 'V1', 'aVF', 'CS12', 'CS34', 'CS56', 'CS78', 'CS90']
SAID = {'iaf1': 'Atrial Fibrillation', 'iaf2': 'Atrial Fibrillation', 'iaf3': 'Atrial Flutter',
        'iaf4': 'Atrial Flutter', 'iaf7': 'Atrial Fib/Flutter'}


def pulses(rng, cycle, spread, width, seconds) -> np.ndarray:
    "Narrow waves of 1 mV at a `cycle` (s) that varies by `spread`, at 1000 Hz."
    at = np.cumsum(rng.normal(cycle, spread*cycle, int(2*seconds/cycle)).clip(.4*cycle))
    return np.exp(-((np.arange(1000*seconds)/1000 - at[at < seconds, None])/width)**2).sum(0)


def write_patients(folder: Path, seconds: int = 20):
    "Two records of each patient: flutter has one atrial cycle, fibrillation a shorter one that varies."
    folder.mkdir()
    for p, (patient, diagnosis) in enumerate(SAID.items()):
        for part in ('afw', 'ivc'):
            rng, flutter = np.random.default_rng([p, *part.encode()]), 'Flutter' in diagnosis
            beats = pulses(rng, .9 if flutter else .7, .02 if flutter else .25, .015, seconds)
            atria = pulses(rng, .24 if flutter else .15, .02 if flutter else .2, .006, seconds)
            x = np.stack([beats]*3 + [atria + .1*beats]*5) + rng.normal(0, .01, (8, 1000*seconds))
            name = f'{patient}_{part}'
            (1000*x.T).round().astype('<i2').tofile(folder/f'{name}.dat')
            lines = [f'{name} 8 1000 {1000*seconds}',
                     *(f'{name}.dat 16 1000 16 0 0 0 0 {c}' for c in CHANNELS),
                     f'# <age>: 60 <sex>: F <diagnosis>: {diagnosis}', '# drawn, of no patient']
            (folder/f'{name}.hea').write_text('\n'.join(lines) + '\n')


@pytest.mark.long
def test_fibrillation_against_flutter_from_recordings_to_tables(tmp_path):
    write_patients(tmp_path/'data')
    run = lambda **given: papermill.execute_notebook(
        str(EXPERIMENTS/'atrial.ipynb'), str(tmp_path/'page.ipynb'), dict(
            folder=str(tmp_path/'data'), out=str(tmp_path/'out'), epochs=1, seeds=2, views='iegm, both',
            jobs=1, threads=1, common=dict(dim=16, depth=1, heads=2, batch_size=8, device='cpu')) | given,
        progress_bar=False, kernel_name='python3')
    run()
    patients = pd.read_csv(tmp_path/'out'/'patients.csv').set_index(['header', 'patient'])
    assert {*patients.index} == {('AFIB', 'iaf1'), ('AFIB', 'iaf2'), ('AFL', 'iaf3'), ('AFL', 'iaf4')}
    assert [*patients] == ['trees, iegm', 'trees, both', 'network, iegm', 'network, both']
    assert patients['trees, iegm'].mean() > .8 and patients.stack().between(0, 1).all()
    views = pd.read_csv(tmp_path/'out'/'views.csv').set_index('system')
    assert [*views] == ['AFIB', 'AFL', 'both alike'] and [*views.index] == [*patients]
    assert np.allclose(views.AFL, patients.loc['AFL'].mean(), atol=1e-4)
    kept = json.loads((tmp_path/'out'/'answers'/'grid.json').read_text())['runs']
    assert len(kept) == 2*4 and {r['split'] for r in kept} == {'loso'} and all(r['file'] for r in kept)
    times = {f: f.stat().st_mtime_ns for f in (tmp_path/'out').rglob('metrics.json')}
    run()                                                                       # nothing is trained again
    assert times == {f: f.stat().st_mtime_ns for f in (tmp_path/'out').rglob('metrics.json')}
    with pytest.raises(papermill.PapermillExecutionError, match="unknown view 'leads'"): run(views='leads')


def test_the_twin_tells_fibrillation_from_flutter_by_patient_and_by_record():
    "The table of sim_to_real.ipynb, by hand: five windows of two patients, three records."
    cell = next(c['source'] for c in experiment_cells('sim_to_real') if 'def told_apart(' in c['source'])
    names = dict(pd=pd, np=np)
    exec(cell, names)
    prob = pd.DataFrame(dict(AFIB=[.6, .2, .3, .1, .2], AFL=[.2, .6, .1, .3, .2], SR=[.2, .2, .6, .6, .6]))
    where = pd.DataFrame(dict(patient=['a', 'a', 'a', 'b', 'b'], record=['a1', 'a1', 'a2', 'b1', 'b1']))
    found = names['told_apart'](prob, where, pd.Series(['AFIB', 'AFIB', 'AFIB', 'both', 'both']))
    found = found.set_index(['patient', 'record'])
    assert {*found.index} == {('a', 'all'), ('b', 'all'), ('a', 'a1'), ('a', 'a2'), ('b', 'b1')}
    assert found.windows.to_dict() == {('a', 'all'): 3, ('b', 'all'): 2, ('a', 'a1'): 2, ('a', 'a2'): 1,
                                       ('b', 'b1'): 2}
    assert found.header['a', 'a1'] == 'AFIB' and found.header['b', 'all'] == 'both'
    assert found.right['a', 'all'] == pytest.approx(200/3) and found.right['a', 'a1'] == 50
    assert found.right['b', 'b1'] == 50                     # of flutter; a tie is none
    assert found.confidence['a', 'all'] == pytest.approx(.75)
    assert found.confidence['b', 'b1'] == pytest.approx((.75 + .5)/2)
    assert found.p['a', 'all'] == pytest.approx((.8 + .8 + .4)/3)
    for header in ('AFIB', 'AFL'):                          # nor of these
        tie = names['told_apart'](prob[-1:], where[-1:], pd.Series([header], [4]))
        assert (tie.right == 0).all()
