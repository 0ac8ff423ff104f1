"""Weights that are given away: the start of a training, shipped with the package, tested on foreign data."""
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import papermill
import pytest
import torch
import wfdb

import pedarr
from conftest import ROOT, everywhere
from helpers import command, edit_json, experiment_cells, refused
from pedarr.core.errors import PedarrError
from pedarr.core.files import sha256
from pedarr.core.project import shipped_models
from pedarr.core.tables import write_table
from pedarr.data.channels import CHANNELS
from pedarr.data.checksums import CHECKSUMS
from pedarr.data.known_databases import DATABASES
from pedarr.exploration.waves import drawn_study
from pedarr.model.given import check_sums, encoder_file
from pedarr.model.pedarrnet import PedArrNet
from pedarr.model.pretrained import save_pretrained
from pedarr.signals import store as store_
from pedarr.signals.arrays import store_from_arrays
from pedarr.signals.store import open_store
from pedarr.training import prepare as prepare_
from pedarr.training.config import TrainConfig, check_parameters, make_config
from pedarr.training.finished_runs import open_finished
from pedarr.training.grid_results import load_grid_results
from pedarr.training.network import build_model, start_pretrained
from pedarr.training.prepare import plan_split, prepare_run
from pedarr.training.runs import check_same_parameters, lock_run_folder
from pedarr.training.train import run_training
from pedarr.use.delineate import delineate_file, open_wave_model
from pedarr.use.model_cards import read_tested, retested_card
from pedarr.use.model_folder import export_model, open_model

LEADS = list(CHANNELS[:12])
SMALL = dict(epochs=1, n_folds=2, resamples=100, single_subject_classes='keep')
NETWORK = dict(dim=16, depth=1, heads=2, encoder='plain', normalise='none', modalities='ecg',
               model_options=dict(ecg_rate=100., iegm_rate=100., proj_dim=24))


@pytest.fixture(scope='module')
def given(store, tmp_path_factory) -> Path:
    "A model folder of a small network of ECGs at 100 Hz, of SIMULATED recordings."
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp('given')
    run_training(make_config(store=store, run=place/'run', fold=0, **SMALL, **NETWORK), False)
    return export_model(place/'run', place/'model')


def body(network: torch.nn.Module) -> dict:
    "The weights of a network without those of its last layer, and of what reads electrograms."
    skip = 'head.', 'views.encoders.iegm.', 'views.norms.iegm.', 'views.align.'
    return {name: t for name, t in network.state_dict().items() if not name.startswith(skip)}


# --- a training that starts from a given model

def test_nobody_has_to_say_how_the_model_was_built(store, given, tmp_path):
    "Architecture, input rate and scale are the model's; classes and modalities one's own."
    moved = Path(shutil.copytree(given, tmp_path/'mine'))
    c = make_config(store=store, run=tmp_path/'run', pretrained=str(moved), grouping='svt4', fold=1, **SMALL)
    assert (c.dim, c.heads, c.encoder, c.normalise, c.modalities) == (16, 2, 'plain', 'none', 'both')
    assert c.model_options['ecg_rate'] == 100 and 'iegm_rate' not in c.model_options
    network, rate = build_model(c, 4, rate=250.), open_store(store).fs
    assert start_pretrained(network, c, rate) == (['ecg'], ['iegm'], [])
    theirs = open_model_body(given)
    assert theirs.keys() == body(network).keys()
    assert all(torch.equal(t, theirs[name]) for name, t in body(network).items())
    run = run_training(c, False)
    shutil.rmtree(moved)
    finished = open_finished(run)
    assert finished.params == c and finished.classes == ['SR', 'AVNRT', 'AVRT', 'OTHER']
    note, = (n for n in finished.metrics.notes if 'starts from model mine' in n)
    assert 'SIMULATED MODEL' in note and 'ecg at 100 Hz' in note and 'iegm start from scratch' in note
    assert 'starts from model mine' in (export_model(run, tmp_path/'m')/'README.md').read_text()


def open_model_body(folder: Path) -> dict:
    return body(next(iter(open_model(folder).networks.values())))


def test_a_shipped_model_is_known_by_its_name(store, given, tmp_path, monkeypatch):
    shutil.copytree(given, tmp_path/'pedarr'/'weights'/'ptbxl-rhythm')
    monkeypatch.setattr(pedarr, '__file__', str(tmp_path/'pedarr'/'__init__.py'))
    c = make_config(store=store, run=tmp_path/'run', pretrained='ptbxl-rhythm', **SMALL)
    assert c.dim == 16 and any('model ptbxl-rhythm' in note for note in prepare_run(c)[2])
    assert "did you mean 'ptbxl-rhythm'" in refused('train', store, '--run', tmp_path/'r', '-p', 'pretrained',
                                                    'ptbxl-rythm')


def test_recordings_that_taught_the_given_weights_are_not_tested(store, given, tmp_path):
    "Refused where the folds are known, by whatever rate; said first where they are not."
    notes = prepare_run(make_config(store=store, run=tmp_path/'run', pretrained=str(given), **SMALL))[2]
    assert any('was taught recordings of this database' in note for note in notes)
    taught = lambda database, folds, **own: prepare_._check_taught(
        SimpleNamespace(meta=dict(database=database)), folds, make_config(pretrained='ptbxl-rhythm', **own))
    for database in ('ptbxl', 'ptbxl500'):
        for folds, own in (([0], dict(split='patient')), ([8], dict(split='official')),
                           ([8, 9], dict(split='official')), ([9], dict(split='development'))):
            with pytest.raises(PedarrError, match='be tested: give split official and fold 9') as e:
                taught(database, folds, **own)
            assert '\n' not in str(e.value)
        assert taught(database, [9], split='official') == []
    assert taught('ludb', [0]) == []


@pytest.mark.parametrize('own, why', [
    (dict(dim=32), 'dim is 32, but .* has 16: leave dim out'), (dict(encoder='deep'), 'leave encoder out'),
    (dict(model_options=dict(ecg_rate=250.)), 'leave ecg_rate out'), (dict(model='xresnet1d'), 'leave model'),
    (dict(model_options=dict(fusion='early')), 'leave fusion out'),
    (dict(modalities='iegm'), 'from ecg alone'),
    (dict(model='trees'), 'means nothing to model trees')])
def test_another_network_than_the_models_is_refused(store, given, tmp_path, own, why):
    with pytest.raises(PedarrError, match=why) as e:
        prepare_run(make_config(store=store, run=tmp_path/'r', pretrained=str(given), **SMALL, **own))
    assert '\n' not in str(e.value) and not (tmp_path/'r').exists()


def test_another_scale_or_rate_is_not_taken_in_silence(given):
    "Also where the parameters were made past `make_config`."
    c = make_config(pretrained=str(given))
    for change, why in ((dict(normalise='modality'), 'leave normalise out'),
                        (dict(model_options=c.model_options | dict(ecg_rate=200.)), 'learnt ecg at 100 Hz')):
        other = TrainConfig(**c.model_dump() | change)
        network = build_model(other, 3, rate=500.)
        with pytest.raises(PedarrError, match=why): start_pretrained(network, other, 500.)


def test_damaged_and_other_folders_are_one_line(store, given, tmp_path):
    told = 'train', store, '--run', tmp_path/'r', '-p', 'pretrained'
    copy = Path(shutil.copytree(given, tmp_path/'copy'))
    raw = (copy/'model-0.safetensors').read_bytes()
    (copy/'model-0.safetensors').write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert 'altered since it was exported' in refused(*told, copy)
    (copy/CHECKSUMS).unlink()
    assert 'is no model folder' in refused(*told, copy)
    assert 'pedarr export' in refused(*told, given.parent/'run')
    assert 'no-such-model' in refused(*told, 'no-such-model')


def test_a_known_network_starts_from_its_like(store, tmp_path):
    c = make_config(store=store, run=tmp_path/'run', model='xresnet1d', model_options=dict(width=8), fold=0,
                    modalities='ecg', **SMALL)
    folder = export_model(run_training(c, False), tmp_path/'m')
    mine = make_config(pretrained=str(folder), modalities='ecg')
    assert (mine.model, mine.model_options['width']) == ('xresnet1d', 8)
    network = build_model(mine, 5, rate=500.)
    assert start_pretrained(network, mine, 500.).loaded == ['ecg']
    theirs = open_model_body(folder)
    assert all(torch.equal(t, theirs[name]) for name, t in body(network).items())


# --- what is shipped

WEIGHTS = Path(pedarr.__file__).parent/'weights'
SHIPPED = shipped_models()
OF_WAVES = [name for name, folder in SHIPPED.items() if 'waves-' in (folder/'config.json').read_text()]
ENCODERS_SHIPPED = [name for name, folder in SHIPPED.items() if encoder_file(folder)]
OF_RHYTHMS = [name for name in SHIPPED if name not in OF_WAVES + ENCODERS_SHIPPED]


@pytest.mark.parametrize('name', OF_RHYTHMS or [None])
def test_a_shipped_model_opens_and_names_its_data(name):
    "The folders of the clone: whole, small, of real data, their licence and source in the card."
    if name is None: pytest.skip('no model is shipped yet')
    folder, model = SHIPPED[name], open_model(name)
    assert set(check_sums(folder)) == {p.name for p in folder.iterdir()} - {CHECKSUMS}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 5_000_000
    assert model.facts.name == name and not model.facts.simulated
    card, database = (folder/'README.md').read_text(), DATABASES[model.facts.database]
    assert all(words in card for words in (database.licence, database.citation, 'cannot name'))
    assert database.licence == 'CC BY 4.0' and 'creativecommons.org/licenses/by/4.0' in card


@pytest.mark.parametrize('name', OF_RHYTHMS or [None])
def test_the_card_of_a_shipped_model_is_that_of_its_tables(name):
    "What was tested elsewhere stands there as the tables have it, with what is unlike the training data."
    if name is None: pytest.skip('no model is shipped yet')
    card, tables = (SHIPPED[name]/'README.md').read_text(), read_tested(SHIPPED[name])
    assert {'foreign.csv', 'alarms.csv', 'unlike.csv'} <= set(tables)
    assert retested_card(card, tables) == card
    t = tables['unlike.csv'].set_index('kind')
    assert t.windows['PTB-XL, official fold 10'] == 2098
    assert '| mains hum of 50 Hz alone, given at 500 Hz | 500 | 1.000 |' in card


@pytest.mark.parametrize('name', ENCODERS_SHIPPED or [None])
def test_a_shipped_encoder_opens_and_names_its_data(name):
    "By name, with its source, its licence and what it was tested on; `predict` does not offer it."
    if name is None: pytest.skip('no encoder is shipped yet')
    c = make_config(store='s', run='r', pretrained=name, modalities='ecg')
    net = build_model(c, 3, rate=100.)
    assert start_pretrained(net, c, 100.).loaded == ['ecg']
    card = (SHIPPED[name]/'README.md').read_text()
    facts = json.loads((SHIPPED[name]/'config.json').read_text())
    assert facts['name'] == name and not facts['simulated'] and facts['folds'] == '1-8'
    database = DATABASES[facts['database']]
    assert all(words in card for words in (database.licence, database.citation, 'random encoder', 'AUROC'))
    assert sum(p.stat().st_size for p in SHIPPED[name].iterdir()) < 5_000_000
    said = command('predict', '--help').out.split('usable by name:')[1]
    assert name not in said and all(n in said for n in OF_RHYTHMS) and not any(n in said for n in OF_WAVES)


@pytest.mark.parametrize('name', OF_WAVES or [None])
def test_a_shipped_network_for_waves_opens_and_names_its_data(name, tmp_path):
    "It finds twelve of twelve drawn beats in each lead; asked for rhythms, it says what it is for."
    if name is None: pytest.skip('no network for waves is shipped yet')
    folder, model = SHIPPED[name], open_wave_model(name)
    assert set(check_sums(folder)) == {p.name for p in folder.iterdir()} - {CHECKSUMS}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 5_000_000 and not model.facts.simulated
    card = (folder/'README.md').read_text()
    for words in ('Open Data Commons Attribution License', 'Kalyakulina', 'QRS onset', 'No medical device'):
        assert words in card
    drawn = drawn_study(np.arange(.5, 9.6, .8), pr=.16, seconds=10., fs=500)[:12]
    wfdb.wrsamp('drawn', 500, ['mV']*12, LEADS, drawn.T, fmt=['16']*12, write_dir=str(tmp_path))
    waves = delineate_file(tmp_path/'drawn', tmp_path/'out', name)[0]
    assert [(waves[lead].kind == 'QRS').sum() for lead in ('I', 'II', 'V2', 'V5')] == [12]*4
    with pytest.raises(PedarrError, match='finds waves, not rhythms: use pedarr delineate'): open_model(name)


def test_shipped_folders_are_package_data():
    "setup.py takes all files of every folder in pedarr/weights, and git ignores none of them."
    setup = (ROOT/'setup.py').read_text()
    assert "'weights/*/*'" in setup
    asked = [f'pedarr/weights/x/{n}' for n in ('README.md', 'model-9.safetensors', 'config.json', CHECKSUMS)]
    p = subprocess.run(['git', 'check-ignore', *asked], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode in (1, 128) and not p.stdout                          # 128: no clone
    strange = [p for p in WEIGHTS.glob('*') if not (p/CHECKSUMS).is_file()] if WEIGHTS.exists() else []
    assert not strange


def test_sdist_and_wheel_hold_the_weights(given, tmp_path):
    "Both are built of a copy of the clone in which a model is shipped."
    place = tmp_path/'clone'
    shutil.copytree(ROOT/'pedarr', place/'pedarr', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'settings.ini', 'README.md', 'MANIFEST.in', 'constraints.txt'):
        shutil.copy(ROOT/name, place)
    shutil.copytree(given, place/'pedarr'/'weights'/'toy')
    p = subprocess.run([sys.executable, 'setup.py', '-q', 'sdist', 'build'], cwd=place, capture_output=True)
    assert p.returncode == 0, p.stderr
    with tarfile.open(next((place/'dist').glob('*.tar.gz'))) as archive: names = archive.getnames()
    for file in given.iterdir():
        assert (place/'build'/'lib'/'pedarr'/'weights'/'toy'/file.name).read_bytes() == file.read_bytes()
        assert any(name.endswith(f'/pedarr/weights/toy/{file.name}') for name in names)


def test_the_help_and_the_refusal_name_the_shipped(given, tmp_path, monkeypatch):
    shutil.copytree(given, tmp_path/'pedarr'/'weights'/'ptbxl-rhythm')
    monkeypatch.setattr(pedarr, '__file__', str(tmp_path/'pedarr'/'__init__.py'))
    assert 'Shipped models, usable by name: ptbxl-rhythm' in command('predict', '--help').out
    assert "did you mean 'ptbxl-rhythm'" in refused('predict', 'ptbxl-rythm', tmp_path/'x.csv')


# --- tested elsewhere

def table_of(**more) -> pd.DataFrame:
    row = dict(source='here', rhythm='SR', n=4, right=3, answered=5, taken_for='AFIB 1')
    shares = {f'{n}{end}': .75 for n in ('sensitivity', 'precision') for end in ('', '_low', '_high')}
    return pd.DataFrame([row | shares | more])


def test_tables_of_tests_elsewhere_stand_in_the_card(given, tmp_path):
    run, tested = given.parent/'run', tmp_path/'tested'
    tested.mkdir()
    assert 'holds none of foreign.csv' in refused('export', run, tmp_path/'m', '--tested', tested)
    write_table(tested/'foreign.csv', table_of())
    assert command('export', run, tmp_path/'m', '--tested', tested, '--name', 'toy').status == 0
    card = (tmp_path/'m'/'README.md').read_text()
    assert card.startswith('# toy\n')
    assert '| here | SR | 4 | 3 | 75 [75, 75] | 5 | 75 [75, 75] | AFIB 1 |' in card
    assert 'foreign.csv' in check_sums(tmp_path/'m') and open_model(tmp_path/'m').facts.name == 'toy'
    write_table(tested/'foreign.csv', table_of(n='many'))
    line = refused('export', run, tmp_path/'n', '--tested', tested)
    assert 'foreign.csv' in line and "'many'" in line and not (tmp_path/'n').exists()


def test_a_saved_model_gets_more_tables_without_its_run(given, tmp_path):
    "Weights and facts to the byte; tables of earlier tests stay; what is no card is refused."
    tested, own = tmp_path/'tested', Path(shutil.copytree(given, tmp_path/'own'))
    tested.mkdir()
    write_table(tested/'foreign.csv', table_of())
    assert 'is a saved model: give --tested' in refused('export', own, tmp_path/'m')
    told = 'export', own, tmp_path/'m', '--tested', tested
    assert 'leave store and name out' in refused(*told, '--name', 'x')
    assert command(*told).status == 0
    (tested/'foreign.csv').unlink()
    share = dict(above=.5, above_low=.4, above_high=.6)
    odd = dict(group='odd', kind='noise', windows=20, auroc=.75, unlike=1.) | share
    write_table(tested/'unlike.csv', pd.DataFrame([odd]))
    assert command('export', tmp_path/'m', tmp_path/'n', '--tested', tested).status == 0
    card = (tmp_path/'n'/'README.md').read_text()
    assert '| here | SR | 4 | 3 |' in card and '| noise | 20 | 0.750 | 50 [40, 60] |' in card
    for name in {p.name for p in own.iterdir()} - {'README.md', CHECKSUMS}:
        assert (tmp_path/'n'/name).read_bytes() == (own/name).read_bytes()
    rest = (own/'README.md').read_text()
    assert card.partition('## Tested')[0] + card[card.index('## What it takes'):] == rest
    assert set(check_sums(tmp_path/'n')) == {p.name for p in (tmp_path/'n').iterdir()} - {CHECKSUMS}
    write_table(tested/'unlike.csv', pd.DataFrame([odd | dict(auroc='good')]))
    assert "'good'" in refused('export', own, tmp_path/'o', '--tested', tested)
    (own/'README.md').write_text('# other')
    assert 'altered since it was exported' in refused('export', own, tmp_path/'o', '--tested', tested)
    assert not (tmp_path/'o').exists()


@pytest.fixture(scope='module')
def ecgs(tmp_path_factory) -> SimpleNamespace:
    "A run with official folds, all tested, on SIMULATED ECGs of PTB-XL's names; and its model."
    place, rng = tmp_path_factory.mktemp('ecgs'), np.random.default_rng(0)
    t = np.arange(1000)/100
    beat = lambda rr: np.exp(-((t[None] % rr - rr/2)/.03)**2)*np.linspace(.5, 1.5, 12)[:, None]
    x = np.stack([beat(.9 if i % 2 else .5) + rng.normal(0, .02, (12, 1000)) for i in range(24)])
    store_from_arrays(place/'s', x, 100, LEADS, ['SR' if i % 2 else 'STACH' for i in range(24)],
                      [f'p{i//2}' for i in range(24)], records=[f'r{i}' for i in range(24)])
    segments = pd.read_csv(place/'s'/'segments.csv')
    segments['age'] = segments.record.str[1:].astype(int)//2 + 8.
    segments.to_csv(place/'s'/'segments.csv', index=False)
    sums = json.loads((place/'s'/'store.json').read_text())['sha256']
    edit_json(place/'s'/'store.json', sha256=sums | {'segments.csv': sha256(place/'s'/'segments.csv')})
    c = make_config(store=place/'s', run=place/'run', **SMALL, dim=16, heads=2, modalities='ecg')
    return SimpleNamespace(place=place, run=run_training(c, False), x=x,
                           model=export_model(place/'run', place/'model'))


@pytest.fixture(scope='module')
def official(ecgs) -> SimpleNamespace:
    "The store with three folds of its database's own, a run that tests the last, and its model."
    place = Path(shutil.copytree(ecgs.place/'s', ecgs.place/'official'))
    segments = pd.read_csv(place/'segments.csv')
    segments['official'] = 1 + segments.subject.str[1:].astype(int) % 3
    segments.to_csv(place/'segments.csv', index=False)
    sums = json.loads((place/'store.json').read_text())['sha256']
    edit_json(place/'store.json', sha256=sums | {'segments.csv': sha256(place/'segments.csv')})
    with pytest.MonkeyPatch.context() as m:                # the run keeps a relative path to its store
        m.chdir(ecgs.place)
        c = make_config(store='official', run=ecgs.place/'official-run', split='official', fold='last',
                        **SMALL, dim=16, heads=2, modalities='ecg')
        run = run_training(c, False)
    return SimpleNamespace(store=place, run=run, model=export_model(run, ecgs.place/'official-model'))


def executed(name: str, place: Path, **given) -> str:
    "The outputs of an experiment, as text."
    source, page = ROOT/'nbs'/'experiments'/f'{name}.ipynb', place/f'{name}.ipynb'
    page = papermill.execute_notebook(str(source), str(page), given, progress_bar=False)
    return ' '.join(str(o.get('text', '')) for c in page.cells for o in c.get('outputs', []))


@pytest.mark.long
def test_recordings_of_others(ecgs, tmp_path):
    "Each is counted under its map or listed; those of PTB-XL are left out; the card takes the tables."
    notes = {'E1': 'Dx: 426783006', 'E2': 'Dx: 427084000,164934002', 'JS3': 'Dx: 713422000',
             'HR4': 'Dx: 426783006', 'E5': 'Dx: 426783006,1'}
    for i, (name, said) in enumerate(notes.items()):
        wfdb.wrsamp(name, 100, ['mV']*12, LEADS, ecgs.x[i].T, fmt=['16']*12, comments=[said],
                    write_dir=str(tmp_path))
    text = executed('foreign', tmp_path, model=str(ecgs.model), cinc=str(tmp_path), out=str(tmp_path/'out'))
    assert '1 recordings of PTB-XL are left out, 4 are asked' in text and 'in no list: 1' in text
    t = pd.read_csv(tmp_path/'out'/'foreign.csv').set_index(['source', 'rhythm'])
    assert t.loc[('all', 'SR'), 'n'] == 2 and t.loc[('Georgia', 'STACH'), 'n'] == 1
    answers = pd.read_csv(tmp_path/'out'/'answers.csv').set_index('recording')
    assert answers.reason['JS3'] == 'atrial tachycardia' and 'HR4' not in answers.index
    folder = export_model(ecgs.run, tmp_path/'m', tested=tmp_path/'out')
    assert '| Georgia | SR | 2 |' in (folder/'README.md').read_text()


@pytest.mark.long
def test_fewer_leads_than_twelve(ecgs, official, tmp_path):
    "The tested fold alone; with all leads what the run said; what cannot be asked is one line."
    given = dict(model=str(official.model), store=str(official.store), out=str(tmp_path), fold=3)
    text = executed('few_leads', tmp_path, **given, leads={'II': 'II', 'two': 'I aVF'})
    t = pd.read_csv(tmp_path/'few_leads.csv').set_index('record')
    said = pd.read_csv(official.run/'predictions.csv').set_index('record')
    about = json.loads((tmp_path/'few_leads.json').read_text())
    assert '8 windows of 4 patients' in text and list(t) == ['subject', 'truth', '12 leads', 'II', 'two']
    assert [about['classes'][k] for k in t['12 leads']] == said.predicted[t.index].tolist()
    assert about['leads']['two'] == 'I aVF' and [about['classes'][k] for k in t.truth] == said.label[
        t.index].tolist()
    for wrong, why in ((dict(leads={'x': 'V9'}), 'V9: no such lead'), (dict(fold=7), 'official fold 7'),
                       (dict(fold=1), 'may have learnt from fold 1'),
                       (dict(fold=-1), 'official fold -1'),
                       (dict(store=str(ecgs.place/'s')), 'no official folds')):
        with pytest.raises(papermill.PapermillExecutionError, match=why):
            executed('few_leads', tmp_path, **given | wrong)


@pytest.mark.parametrize('taught', [True, False])
def test_few_leads_of_recordings_that_no_official_fold_has(taught):
    "Fold -1: refused where the database taught the model, asked where it did not."
    cell = next(c['source'] for c in experiment_cells('few_leads') if 'taught_by(' in c['source'])
    def taught_by(data, facts, folds, split):
        assert folds == []
        return [0]*taught
    names = dict(fold=-1, table=pd.DataFrame(dict(official=[1, 2, -1])), data=None, PedarrError=PedarrError,
                 facts=SimpleNamespace(name='m', folds=[1], split='official'), taught_by=taught_by)
    if not taught: return exec(cell, names)
    with pytest.raises(PedarrError, match='^fold: m may have learnt from fold -1 ') as e: exec(cell, names)
    assert '\n' not in str(e.value)


@pytest.mark.long
def test_patients_under_18(ecgs, official, tmp_path):
    "Ages 8 to 17 of 12 patients: all but two; each tested once."
    text = executed('under18', tmp_path, runs=str(ecgs.run), out=str(tmp_path))
    assert '24 recordings were tested; 20 of 20 recordings of patients under 18' in text
    t = pd.read_csv(tmp_path/'under18.csv').set_index(['group', 'rhythm'])
    assert t.loc['under 18'].n.to_dict() == dict(SR=10, STACH=10)
    assert t.loc[('under 13', 'SR'), 'patients'] == 5
    assert set(t.networks) == {'2 networks: split patient of 2 folds, 1 epochs'}
    folder = export_model(ecgs.model, tmp_path/'m', tested=tmp_path)
    assert '| under 18 | 20 | - | ' in (folder/'README.md').read_text()
    text = executed('under18', tmp_path, runs=str(official.run))
    assert '8 recordings were tested; 6 of 20 recordings' in text and 'split official, 1 epochs' in text
    with pytest.raises(papermill.PapermillExecutionError, match='was tested twice'):
        executed('under18', tmp_path, runs=f'{ecgs.run}, {ecgs.run}')


@pytest.mark.long
def test_inputs_unlike_of_a_run_and_of_its_saved_model(official, ecgs, tmp_path):
    "Both ask the windows of the last fold; other models and stores are refused."
    for name, given in (('run', dict(run=str(official.run))),
                        ('model', dict(model=str(official.model), store=str(official.store)))):
        text = executed('unlike', tmp_path, **given, most=0, out=str(tmp_path/name))
        assert '8 windows that the networks were not taught' in text
    t, by_model = (pd.read_csv(tmp_path/name/'unlike.csv') for name in ('run', 'model'))
    assert t.kind.iloc[0].endswith('tested patients') and by_model.kind.iloc[0].endswith('official fold 3')
    assert (t.windows == by_model.windows).all() and t.windows.iloc[0] == 8
    assert t.auroc.iloc[1:5].min() > .9 and t.windows.iloc[-1] == 0 and 'mains hum: none' in t.kind.iloc[-1]
    np.testing.assert_allclose(t.auroc, by_model.auroc, atol=.02)
    for why, given in (('split patient', dict(model=str(ecgs.model), store=str(ecgs.place/'s'))),
                       ('give a store', dict(model=str(official.model))),
                       ('names no folds of its own', dict(model=str(official.model),
                                                          store=str(ecgs.place/'s')))):
        with pytest.raises(papermill.PapermillExecutionError, match=why):
            executed('unlike', tmp_path, **given)


@pytest.mark.long
def test_fine_tuning_beside_from_scratch(ecgs, tmp_path):
    text = executed('finetune', tmp_path, store=str(ecgs.place/'s'), pretrained=str(ecgs.model),
                    out=str(tmp_path), n_folds=2, seeds=1, epochs=1, resamples=100)
    assert 'starts from model model' in text
    t = pd.read_csv(tmp_path/'finetune-classes.csv')
    assert set(t.system) == {'from scratch', 'from given weights'} and t.support.sum() == 48
    assert (tmp_path/'finetune-paired.csv').exists()
    scores, classes, made = load_grid_results(tmp_path)
    assert scores[scores.system == 'from given weights'].gain.notna().all() and made['shared']['epochs'] == 1
    assert set(classes.system) == set(t.system) and (tmp_path/'answers'/'grid.json').exists()


@pytest.mark.long
def test_fine_tuning_from_files_of_weights_beside_the_same_network_from_scratch(ecgs, tmp_path):
    files = {}
    for name, dim in (('narrow', 16), ('wide', 32)):
        files[name] = str(tmp_path/f'{name}.safetensors')
        save_pretrained(PedArrNet(2, dim=dim, heads=2, modalities=('ecg',)), files[name], 100., 'none')
    executed('finetune', tmp_path, store=str(ecgs.place/'s'), starts=files, out=str(tmp_path/'out'),
             n_folds=2, seeds=1, epochs=1, resamples=100, common=dict(modalities='ecg'))
    t = pd.read_csv(tmp_path/'out'/'finetune-paired.csv').drop_duplicates('system')
    assert dict(zip(t.system, t.rival)) == {name: f'from scratch like {name}' for name in files}
    for name, dim in (('narrow', 16), ('wide', 32)):
        own, rival = (open_finished(tmp_path/'out'/f'{x}{name}-patient-0').params.model_dump()
                      for x in ('', 'from-scratch-like-'))
        assert own['dim'] == dim and own['normalise'] == 'none' and own['model_options']['ecg_rate'] == 100
        assert {k for k in own if own[k] != rival[k]} == {'pretrained', 'run'}
    scores = load_grid_results(tmp_path/'out')[0].set_index(['system', 'metric'])
    for name in files:                                     # each over its own, not over the first
        own, rival = scores.loc[name], scores.loc[f'from scratch like {name}']
        assert np.allclose(own.gain, own.value - rival.value, atol=1e-5)
        assert rival.gain.isna().all()
    with pytest.raises(papermill.PapermillExecutionError, match='no such weights'):
        executed('finetune', tmp_path, store=str(ecgs.place/'s'), starts={'a': 'no.safetensors'},
                 out=str(tmp_path/'o'))


@pytest.mark.parametrize('change, why', [
    (dict(classes=['A', 'B']), 'where 2 are named'), (dict(folds=[-1]), 'folds.0'),
    (dict(model_version=7), 'version 7'),
    (dict(preprocess=dict(rate='fast')), 'a rate is no number'), (dict(model=dict(modalities=5)), 'no list')])
def test_a_config_that_contradicts_itself_is_one_line(given, tmp_path, change, why):
    "Though its hash fits: found before a training starts."
    copy = Path(shutil.copytree(given, tmp_path/'m'))
    edit_json(copy/'config.json', **change)
    names = [p.name for p in copy.iterdir() if p.name != CHECKSUMS]
    (copy/CHECKSUMS).write_text(''.join(f'{sha256(copy/n)}  {n}\n' for n in names))
    with pytest.raises(PedarrError, match=why) as e: make_config(pretrained=str(copy))
    assert '\n' not in str(e.value)


# --- a pretrained encoder that is given away

@pytest.fixture(scope='module')
def encoder(tmp_path_factory) -> SimpleNamespace:
    "A folder made by `pedarr export` of a pretraining on SIMULATED noise, and the store."
    from pedarr.training.pretrain import run_pretraining
    from pedarr.training.pretrain_config import PretrainConfig
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp('encoder')
    x = np.random.default_rng(0).normal(0, .1, (16, 12, 1000))
    store_from_arrays(place/'store', x, 100., LEADS, ['SR', 'AFIB']*8, [f'p{i//2}' for i in range(16)],
                      simulated=True)
    c = PretrainConfig(store=str(place/'store'), run=str(place/'run'), dim=16, proj_dim=8, epochs=1,
                       batch_size=8, normalise='none')
    run_pretraining(c, False)
    done = command('export', place/'run', place/'enc', '--name', 'enc')
    assert done.status == 0 and 'an encoder' in done.out, done.err
    return SimpleNamespace(folder=place/'enc', store=place/'store', run=place/'run')


@pytest.mark.long
def test_frozen_encoders_and_other_networks_beside_those_that_are_trained(encoder, tmp_path):
    "Each recording is answered once a seed by the probes; a name that is taken is refused."
    start = {'ours': str(encoder.run/'encoder.safetensors')}
    given = dict(store=str(encoder.store), starts=start, out=str(tmp_path), n_folds=2, seeds=2, epochs=1,
                 resamples=100, common=dict(modalities='ecg', validation=.3))
    other = dict(model='xresnet1d', model_options=dict(width=8), channel_dropout=0.)
    executed('finetune', tmp_path, **given, beside={'xresnet1d': other}, probes=True)
    t = pd.read_csv(tmp_path/'finetune-probes.csv')
    assert list(t) == ['record', 'subject', 'seed', 'truth', 'random encoder', 'ours']
    assert t.groupby('seed').size().tolist() == [16, 16] and t.subject.nunique() == 8
    assert set(t.ours) | set(t['random encoder']) <= {'SR', 'AFIB'}
    scores = load_grid_results(tmp_path)[0]
    assert set(scores.system) == {'from scratch', 'ours', 'xresnet1d'}
    for wrong, why in ((dict(beside={'ours': {}}), 'ours is the name'),
                       (dict(probes=True, starts={'x': str(encoder.folder)}), 'only an encoder alone')):
        with pytest.raises(papermill.PapermillExecutionError, match=why):
            executed('finetune', tmp_path, **given | wrong)


def test_a_training_starts_from_an_encoder_folder(encoder, tmp_path):
    "Kind, width, rate and scale follow from it; the weights are the pretraining's own."
    from safetensors.torch import load_file
    c = make_config(store=encoder.store, run=tmp_path/'r', pretrained=str(encoder.folder), modalities='ecg',
                    **SMALL)
    assert (c.dim, c.normalise, c.model_options['ecg_rate']) == (16, 'none', 100.)
    net = build_model(c, 2, rate=100.)
    start_pretrained(net, c, 100.)
    learnt = load_file(encoder.run/'encoder.safetensors')
    state = net.state_dict()
    assert all(torch.equal(state[f'views.encoders.{name}'], t) for name, t in learnt.items())
    run_training(c, False)
    assert any('start from' in note for note in open_finished(tmp_path/'r').metrics.notes)


@pytest.fixture
def weights(encoder, tmp_path) -> str:
    "A file of weights alone: an ECG's encoder of 16 that learnt millivolts at 100 Hz."
    return str(shutil.copy(encoder.run/'encoder.safetensors', tmp_path/'mine.safetensors'))


def test_a_file_of_weights_says_as_much_as_its_folder(encoder, store, weights, tmp_path):
    "Kind, width, rate and scale are taken, windows are resampled, and the run opens without the file."
    options = dict(store=str(store), run=str(tmp_path/'r'), modalities='ecg', fold=0, **SMALL)
    c, other = (make_config(pretrained=x, **options) for x in (weights, str(encoder.folder)))
    assert c.replace(pretrained='') == other.replace(pretrained='')
    assert (c.dim, c.normalise, c.model_options) == (16, 'none', {'ecg_rate': 100.})
    run = run_training(c, False)
    assert any('encoders for ecg start from' in note for note in open_finished(run).metrics.notes)
    Path(weights).unlink()
    assert open_finished(run).params == c == TrainConfig(**json.loads((run/'params.json').read_text()))
    assert export_model(run, tmp_path/'m').exists()


def test_what_is_said_of_a_file_of_weights_is_kept_as_it_was_said(weights):
    said = dict(pretrained=weights, modalities='ecg', dim=16, normalise='none')
    for rate in (100, 0):                                              # 0: that of the windows
        c = make_config(**said, model_options={'ecg_rate': rate, 'proj_dim': 8})
        assert json.dumps(c.model_options) == f'{{"ecg_rate": {rate}, "proj_dim": 8}}'
    assert make_config(**TrainConfig(pretrained=weights).model_dump()).dim == 16        # a notebook's cell
    assert make_config(pretrained=weights, modalities='iegm').model_options == {}
    for own in (dict(model='xresnet1d'), dict(modalities='ecg', pretrained=weights + '.gone')):
        assert make_config(**dict(pretrained=weights) | own).model_options == {}


@pytest.mark.parametrize('own, why', [
    (dict(dim=64), 'dim is 64, but .*mine.safetensors, .* has 16: leave dim out'),       # even if it is usual
    (dict(dim=32), 'leave dim out'), (dict(encoder='deep'), 'leave encoder out'),
    (dict(normalise='modality'), 'leave normalise out'),
    (dict(model_options=dict(ecg_rate=250)), 'ecg_rate is 250, .* has 100.0: leave ecg_rate out of '
                                             'model_options, or set it to 100.0 there')])
def test_what_contradicts_a_file_of_weights_is_refused(weights, own, why):
    with pytest.raises(PedarrError, match=why) as e: make_config(pretrained=weights, modalities='ecg', **own)
    assert '\n' not in str(e.value)


def test_an_option_of_the_network_is_no_parameter(encoder, weights, tmp_path):
    "It is said where it belongs, on the command line, in Python and in a notebook's cell."
    why = 'parameter ecg_rate is an option of the network: give it in model_options'
    told = 'train', encoder.store, '--run', tmp_path/'r', '-p', 'pretrained', weights, '-p', 'ecg_rate', 100
    line = refused(*told)
    assert why in line and """-p model_options '{"ecg_rate": VALUE}'""" in line
    for say in (lambda: make_config(pretrained=weights, ecg_rate=100),
                lambda: check_parameters(['# Parameters\necg_rate = 100'])):
        with pytest.raises(PedarrError, match=why): say()


def test_a_run_of_before_left_the_rate_to_the_file(encoder, weights, tmp_path):
    "It goes on as the same run, from the same file alone, and only where the file says the rate."
    c = make_config(store=str(encoder.store), run=str(tmp_path/'r'), pretrained=weights, modalities='ecg')
    with lock_run_folder(tmp_path/'r', c): pass
    edit_json(tmp_path/'r'/'params.json', model_options={})
    check_same_parameters(tmp_path/'r', c)
    both = c.replace(model_options=c.model_options | {'iegm_rate': 100.})
    with pytest.raises(PedarrError, match='holds a run with model_options='):
        check_same_parameters(tmp_path/'r', both)
    with pytest.raises(PedarrError, match='holds a run with pretrained='):
        check_same_parameters(tmp_path/'r', c.replace(pretrained='another'))


@pytest.mark.parametrize('fusion', ['early', 'late'])
def test_one_encoder_for_all_channels_has_one_rate(tmp_path, fusion):
    made = PedArrNet(2, dim=16, heads=2, fusion=fusion)
    file = str(save_pretrained(made, tmp_path/'w.safetensors', 100.))
    c = make_config(pretrained=file, model_options={'fusion': fusion})
    assert c.model_options == {'fusion': fusion, 'ecg_rate': 100., 'iegm_rate': 100.}
    assert start_pretrained(build_model(c, 2, rate=250.), c, 250.).fresh == []
    alone = str(save_pretrained(PedArrNet(2, dim=16, heads=2, modalities=['ecg']), tmp_path/'ecg', 100.))
    c = make_config(pretrained=alone, model_options={'fusion': 'early'})
    with pytest.raises(PedarrError, match='holds encoders for ecg, this network has all'):
        start_pretrained(build_model(c, 2, rate=250.), c, 250.)


def test_an_encoder_answers_nothing_and_says_what_it_is_for(encoder, tmp_path):
    np.save(tmp_path/'x.npy', np.zeros((12, 1000)))
    said = refused('predict', encoder.folder, tmp_path/'x.npy', '--rate', 100)
    assert 'is an encoder' in said and '-p pretrained' in said
    assert 'choose another name' in refused('export', encoder.run, encoder.folder)
    card = (encoder.folder/'README.md').read_text()
    assert 'SIMULATED MODEL' in card and 'no medical device' in card and '16 windows of 8 patients' in card


@pytest.mark.parametrize('change', ['byte', 'missing', 'unlisted'])
def test_a_damaged_encoder_folder_is_one_line(encoder, tmp_path, change):
    copy = Path(shutil.copytree(encoder.folder, tmp_path/'m'))
    file = copy/'encoder.safetensors'
    if change == 'byte': file.write_bytes(file.read_bytes()[:-1] + b'\x01')
    if change == 'missing': file.unlink()
    if change == 'unlisted': (copy/CHECKSUMS).write_text((copy/CHECKSUMS).read_text().splitlines()[0] + '\n')
    with pytest.raises(PedarrError, match='copy the model folder again') as e:
        make_config(pretrained=str(copy))
    assert '\n' not in str(e.value)


def test_a_network_of_waves_starts_from_an_encoder_folder(encoder):
    from pedarr.training.segmentation import SegmentConfig, build_segmenter, pretrained_network
    told = pretrained_network(encoder.folder)
    net = build_segmenter(SegmentConfig(**told), 250.)
    assert told['dim'] == 16 and told['normalise'] == 'none'
    from safetensors.torch import load_file
    learnt = load_file(encoder.folder/'encoder.safetensors')
    state = net.state_dict()
    assert all(torch.equal(state[f'views.encoders.{name}'], t) for name, t in learnt.items())


def test_the_card_of_a_fine_tuned_model_names_the_data_of_its_origin(encoder, tmp_path):
    "Whoever passes the weights on must name both sources."
    from pedarr.use.model_cards import _origin_lines
    folder = Path(shutil.copytree(encoder.folder, tmp_path/'enc'))
    edit_json(folder/'config.json', database='ptbxl', simulated=False)
    names = [p.name for p in folder.iterdir() if p.name != CHECKSUMS]
    (folder/CHECKSUMS).write_text(''.join(f'{sha256(folder/n)}  {n}\n' for n in names))
    run = run_training(make_config(store=encoder.store, run=tmp_path/'r', pretrained=str(folder),
                                   modalities='ecg', **SMALL), False)
    card = (export_model(run, tmp_path/'m')/'README.md').read_text()
    assert DATABASES['ptbxl'].citation in card and 'CC BY 4.0' in card and 'It started from `enc`' in card
    file = SimpleNamespace(params=SimpleNamespace(pretrained='/elsewhere/weights.safetensors'))
    assert 'name their source' in ' '.join(_origin_lines(file))
    assert _origin_lines(SimpleNamespace(params=SimpleNamespace(pretrained=''))) == []


# --- a store without any label

@pytest.fixture(scope='module')
def bare(tmp_path_factory) -> Path:
    "A store of SIMULATED noise without any label, of eight persons in four official folds."
    place, x = tmp_path_factory.mktemp('bare'), np.random.default_rng(0).normal(0, .1, (16, 12, 1000))
    store_from_arrays(place/'store', x, 100., LEADS, ['']*16, [f'p{i//2}' for i in range(16)],
                      folds=[1 + i//4 for i in range(16)], simulated=True)
    return place/'store'


def test_nothing_is_trained_on_a_store_without_labels(bare, tmp_path):
    "One line names it and what to do; a network and trees are told the same."
    for model in ('pedarrnet', 'trees'):
        line = refused('train', bare, '--run', tmp_path/'r', '-p', 'model', model)
        assert f'{bare}: no segment has a label' in line and 'pedarr pretrain' in line
    assert not (tmp_path/'r').exists()
    with pytest.raises(PedarrError, match='store: no segment has a label'):
        plan_split(open_store(bare), make_config())
    with pytest.raises(PedarrError, match='store: its recordings carry no statements'):
        prepare_run(make_config(store=bare, run=tmp_path/'r', task='multi'))


@pytest.mark.parametrize('options, why', [
    (dict(single_subject_classes='drop'), 'each class stands in 1 subject, and single_subject_classes drop'),
    (dict(cohort='b'), 'nobody of cohort b has a label: choose another cohort')])
def test_labels_that_are_all_left_out_are_one_line(encoder, tmp_path, monkeypatch, options, why):
    whole = open_store(encoder.store)
    one = whole.segments.subject.isin(['p0']) & (whole.segments.label == 'SR')
    two = whole.segments.subject.isin(['p1']) & (whole.segments.label == 'AFIB')
    t = whole.segments.assign(label=whole.segments.label.where(one | two, ''),
                              cohort=np.where(whole.segments.subject.isin(['p0', 'p1']), 'a', 'b'))
    everywhere(monkeypatch, store_, 'open_store', lambda *a, **k: replace(whole, segments=t))
    with pytest.raises(PedarrError, match=f'^{encoder.store}: {why}') as e:
        prepare_run(make_config(store=encoder.store, run=tmp_path/'r', **options))
    assert '\n' not in str(e.value)


@pytest.mark.long
@pytest.mark.parametrize('name, given', [
    ('crossval', dict(seeds=1)), ('finetune', dict(seeds=1)), ('ablations', dict(seeds=1)), ('losses', {}),
    ('tail', {}), ('natural_tail', {}), ('new_rhythms', {}), ('few_patients', dict(networks='x')),
    ('few_leads', {}), ('why', {}), ('pretrained_electrograms', {})])
def test_an_experiment_names_a_store_without_labels(bare, tmp_path, name, given):
    with pytest.raises(papermill.PapermillExecutionError, match=f'{bare}: no segment has a label'):
        executed(name, tmp_path, store=str(bare), out=str(tmp_path/'out'), **given)


def test_the_shipped_encoder_is_the_one_that_fold_9_prefers():
    "Of all pretrainings of the page; its weights are those that this one wrote, its card has its probes."
    folder, at = ROOT/'nbs'/'results'/'pretraining', shipped_models()['ptbxl-encoder']
    best = pd.read_csv(folder/'epochs.csv').set_index('auroc').sort_index().iloc[-1]
    facts = json.loads((at/'config.json').read_text())
    runs = [*folder.glob('further/*/params.json'), *folder.glob('encoders/*/params.json')]
    asked = {f.parent: json.loads(f.read_text()) for f in runs}
    (run,) = [run for run, p in asked.items() if (p['method'], p['seed']) == (facts['method'], facts['seed'])]
    assert facts['method'].startswith(best.encoder.partition(',')[0].lower().replace('-', ''))
    assert (facts['seed'], facts['epochs']) == (best.seed, best.epoch)
    said = json.loads((run/'pretraining.json').read_text())
    assert sha256(encoder_file(at)) == said['files']['encoder.safetensors']
    probes = pd.read_csv(folder/'probe-seeds.csv').query('metric == "auroc" and seed == @best.seed')
    lines = (at/'README.md').read_text().splitlines()
    for task in ('super', 'all', 'rhythm'):
        for encoder, word in {'random encoder': 'random encoder', best.encoder: 'this'}.items():
            own = probes[(probes.task == task) & (probes.encoder == encoder)].sort_values('share')
            cells = [f'{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]' for r in own.itertuples()]
            assert len(cells) == 3 and f'| {task} | {word} | {" | ".join(cells)} |' in lines


@pytest.mark.parametrize('folds, refused', [([7], False), ([8], True), ([7, 8], True), ([9], True)])
def test_a_start_from_several_networks_is_from_the_first(monkeypatch, folds, refused):
    "Its labels were those of all folds but 7: what another network of the model was tested on taught it."
    three = SimpleNamespace(database='ptbxl', simulated=False, split='official', folds=[7, 8, 9])
    monkeypatch.setattr(prepare_, '_given_model', lambda name: three)
    store = SimpleNamespace(meta=dict(database='ptbxl', simulated=False))
    c = SimpleNamespace(pretrained='three', split='official')
    if not refused:
        assert prepare_._check_taught(store, folds, c) == []
        return
    with pytest.raises(PedarrError, match='give split official and fold 7'):
        prepare_._check_taught(store, folds, c)
