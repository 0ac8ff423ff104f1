"""Weights that are given away: the start of a training, shipped with the package, tested on foreign data."""
import json
import shutil
from pathlib import Path

import pytest
import torch

import pedarr
from helpers import refused
from pedarr.core.errors import PedarrError
from pedarr.model.given import SUMS, check_sums
from pedarr.signals.store import open_store
from pedarr.training.config import TrainConfig, make_config
from pedarr.training.finished_runs import open_finished
from pedarr.training.network import build_model, start_pretrained
from pedarr.training.prepare import prepare_run
from pedarr.training.train import run_training
from pedarr.use.model_folder import export_model

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
    assert 'SIMULATED MODEL' in note and 'ecg at 100 Hz' in note and 'iegm start from chance' in note
    assert 'starts from model mine' in (export_model(run, tmp_path/'m')/'README.md').read_text()


def open_model_body(folder: Path) -> dict:
    from pedarr.use.model_folder import open_model
    return body(next(iter(open_model(folder).networks.values())))


def test_a_shipped_model_is_known_by_its_name(store, given, tmp_path, monkeypatch):
    shutil.copytree(given, tmp_path/'pedarr'/'weights'/'ptbxl-rhythm')
    monkeypatch.setattr(pedarr, '__file__', str(tmp_path/'pedarr'/'__init__.py'))
    c = make_config(store=store, run=tmp_path/'run', pretrained='ptbxl-rhythm', **SMALL)
    assert c.dim == 16 and any('model ptbxl-rhythm' in note for note in prepare_run(c)[2])
    assert "did you mean 'ptbxl-rhythm'" in refused('train', store, '--run', tmp_path/'r', '-p', 'pretrained',
                                                    'ptbxl-rythm')


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
    (copy/SUMS).unlink()
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
