"""Waves: annotations, classes of samples, scores, networks, and what `pedarr delineate` writes."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb

from conftest import folder_bytes, interrupt_move, real
from helpers import command, edit_json, refused, run_experiment
from pedarr.core.errors import PedarrError
from pedarr.data.channels import ECG_LEADS
from pedarr.data.wave_marks import bracketed_waves, encode_marks, read_waves, wave_annotations
from pedarr.evaluation.wave_scores import edge_errors, edge_scores, sample_scores
from pedarr.model.segmenter import LeadUNet, Segmenter
from pedarr.signals.wave_labels import (
    drawn_wave_set, lead_labels, prepare_leads, read_wave_set, wave_folds, waves_in)
from pedarr.training.kept_waves import keep_waves, kept_rivals, read_kept_waves
from pedarr.training.segmentation import (
    SegmentConfig, WaveBatches, answer_samples, build_segmenter, fit_segmenter, wave_objective)
from pedarr.training.segmentation_jobs import SEGMENT_ROWS, answered_waves, segment_rows
from pedarr.use.delineate import open_wave_model, write_wave_model

NOTEBOOK = Path(__file__).parents[1]/'nbs'/'experiments'/'segmentation.ipynb'
SMALL = dict(dim=16, batch_size=2, lr=.01, crop=3., device='cpu')


def small_segmenter(ecg_rate=0.): return Segmenter('residual', 16, 250., ecg_rate)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A folder of weights that learned drawn beats for a moment."
    data, folder = drawn_wave_set(9), tmp_path_factory.mktemp('waves')/'model'
    c = SegmentConfig(**SMALL, epochs=25)
    network, _ = fit_segmenter(data, np.arange(9), c)
    return write_wave_model(network, c, folder, 'drawn beats', 9, data.rate, simulated=True)


def write(folder, x, fs, names, name='drawn'):
    "A WFDB record of `x` [channel, time] in mV."
    n = len(names)
    wfdb.wrsamp(name, fs=fs, units=['mV']*n, sig_name=list(names), p_signal=np.asarray(x, float).T,
                fmt=['16']*n, adc_gain=[2000]*n, baseline=[0]*n, write_dir=str(folder))
    return folder/name


def beats(folder, fs, leads=('II', 'V1'), seconds=12., name='drawn'):
    "A record of drawn beats, and onsets of its QRS complexes (s)."
    data = drawn_wave_set(1, seconds, float(fs), seed=5)
    waves = data.waves[(data.waves.lead == 0) & (data.waves.kind == 'QRS')]
    return write(folder, data.x[0, :len(leads)], fs, leads, name), waves.onset.to_numpy()


# --- Annotations and labels ---------------------------------------------------

def test_ludb_is_read_as_wfdb_reads_it():
    folder = real('ludb')/'data'
    for record, lead in (('1', 'i'), ('116', 'v1'), ('7', 'v3')):
        found, told = read_waves(folder/record, lead, 5000, 500.), wfdb.rdann(str(folder/record), lead)
        symbols = [s for s in told.symbol if s in 'pNt']
        assert len(found.waves) + sum(found.left_out.values()) == len(symbols)
        assert found.span == (told.sample[0], told.sample[-1] + 1)
        inside = [a <= w.peak < b for w in found.waves.itertuples() for a, b in found.gaps]
        assert not any(inside)
    assert read_waves(folder/'1', 'i').gaps == [] and read_waves(folder/'7', 'v3').left_out['QRS'] > 0


def test_marks_of_any_distance_come_back(tmp_path):
    rng = np.random.default_rng(0)
    borders = np.cumsum(rng.integers(1, 70_000, 60))
    waves = pd.DataFrame(dict(kind=['P', 'QRS', 'T', 'P', 'QRS']*4, onset=borders[::3], peak=borders[1::3],
                              end=borders[2::3]))
    (tmp_path/'x.ii').write_bytes(encode_marks(*wave_annotations(waves), 977))
    found = read_waves(tmp_path/'x', 'ii')
    assert found.waves.to_numpy().tolist() == waves.to_numpy().tolist() and not found.gaps
    told = wfdb.rdann(str(tmp_path/'x'), 'ii')
    assert told.sample.tolist() == borders.tolist() and told.fs == 977
    (tmp_path/'none.ii').write_bytes(encode_marks([], [], 500))
    assert len(read_waves(tmp_path/'none', 'ii').waves) == 0
    assert not len(wfdb.rdann(str(tmp_path/'none'), 'ii').sample)


def test_an_empty_lead_is_not_scored():
    label, scored = lead_labels(bracketed_waves([], ''), 500, 250, 100)
    assert not label.any() and not scored.any()


@pytest.mark.parametrize('fs', [100, 250, 360, 977, 1000])
def test_labels_and_waves_agree_at_any_rate(fs):
    lead = bracketed_waves([40, 60, 80, 90, 100, 130], '(p)(N)')
    label, _ = lead_labels(lead, 500, fs, fs)
    found = waves_in(label, fs)
    ours, theirs = (table[['onset', 'end']].to_numpy() for table in (found, lead.waves))
    assert abs(ours/fs - theirs/500).max() <= .5/fs + 1e-9


def test_missing_samples_and_offsets_don_t_spread():
    t = np.arange(2500)/500
    x = np.sin(2*np.pi*5*t)[None] + np.array([[0.], [8.]])
    x[1, 1000:1010] = np.nan
    y = prepare_leads(x, 500)
    assert np.isfinite(y).all() and abs(y[0] - y[1])[np.r_[:450, 560:1250]].max() < .1
    assert np.isfinite(prepare_leads(np.full((1, 500), np.nan), 500)).all()


def test_folds_keep_subjects_together():
    subject = np.array(['b', 'a', 'b', 'c', 'a', 'd'])
    fold = wave_folds(subject, 2)
    assert fold[0] == fold[2] and fold[1] == fold[4] and set(fold) == {0, 1}
    with pytest.raises(PedarrError, match='choose from 2 to 4'): wave_folds(subject, 9)


def test_a_folder_that_is_not_ludb_is_one_line(tmp_path):
    beats(tmp_path, 500)
    with pytest.raises(PedarrError, match='no such annotation file') as e: read_wave_set(tmp_path)
    assert '\n' not in str(e.value)


# --- Scores -------------------------------------------------------------------

def test_unscored_leads_count_nowhere():
    data = drawn_wave_set(3)
    scored = data.scored.copy()
    scored[:, 6:] = False
    answer = data.label.copy()
    answer[:, 6:] = 2                                            # nonsense where nothing is scored
    assert (sample_scores(data.label, answer, scored, data.subject, 20).value == 1).all()
    true = data.waves[data.waves.lead < 6]
    errors = edge_errors(true, answered_waves(answer, 250.), scored, 250.)
    table = edge_scores(errors, data.subject, 20)
    assert (table.f1 == 1).all()
    for kind, n in true.kind.value_counts().items(): assert (table.true[kind] == n).all()


def test_a_network_that_finds_nothing_has_a_score():
    data = drawn_wave_set(2)
    errors = edge_errors(data.waves, answered_waves(0*data.label, 250.), data.scored, 250.)
    table = edge_scores(errors, data.subject, 20)
    assert (table.sensitivity == 0).all() and table.precision.isna().all() and table['mean'].isna().all()
    none = sample_scores(data.label, 0*data.label, data.scored, data.subject, 20).value
    assert none['macro F1, three waves'] == 0 and 0 < none['F1 none'] < 1


def test_intervals_draw_subjects_not_leads():
    "Two subjects, one always right and one never: the interval reaches from none to all."
    data = drawn_wave_set(2)
    answer = data.label.copy()
    answer[1] = 0
    errors = edge_errors(data.waves, answered_waves(answer, 250.), data.scored, 250.)
    row = edge_scores(errors, data.subject, 200).loc['QRS', 'onset']
    assert (row.sensitivity_low, row.sensitivity_high) == (0, 1) and .3 < row.sensitivity < .7


# --- Networks -----------------------------------------------------------------

@pytest.mark.parametrize('make', [small_segmenter, lambda: small_segmenter(100.),
                                  lambda: LeadUNet(4, 250., 4), lambda: LeadUNet(4, 250., 4, ecg_rate=100.)])
def test_every_parameter_learns_and_absent_leads_are_nothing(make):
    torch.manual_seed(0)
    model, data = make(), drawn_wave_set(3, 5.)
    batches = WaveBatches(data, np.arange(3), SegmentConfig(crop=4., batch_size=3, few=0.))
    batch = next(iter(batches))
    mask = batch.mask.clone()
    mask[0, 5:] = False
    for p in model.parameters():                       # blocks that start as zero let nothing through
        if not p.any(): torch.nn.init.constant_(p, .1)
    wave_objective()(model, batch._replace(mask=mask), 0.)['classification'].backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [n for n in missing if not n.startswith('views.encoders.ecg.out')]       # tokens' own
    noise = batch.x.clone()
    noise[0, 5:] = 1e9
    model.eval()
    with torch.no_grad(): a, b = (model(x, mask)[0, :5] for x in (batch.x, noise))
    assert torch.equal(a, b)


def test_a_batch_without_scored_samples_changes_nothing():
    batch = next(iter(WaveBatches(drawn_wave_set(2, 5.), np.arange(2), SegmentConfig(crop=4.))))
    loss = wave_objective()(small_segmenter(), batch._replace(scored=torch.zeros_like(batch.scored)), 0.)
    assert loss['classification'].item() == 0


def test_an_absent_lead_answers_none():
    data = drawn_wave_set(1, 5.)
    data.mask[0, 3] = False
    for alone in (False, True):
        assert not answer_samples(small_segmenter().eval(), data, np.arange(1), alone)[0, 3].any()


def test_rows_of_pretrained_encoders_have_a_bare_twin(tmp_path):
    from pedarr.model.pedarrnet import PedArrNet
    from pedarr.model.pretrained import save_pretrained
    net = PedArrNet(2, dim=32, heads=2, modalities=('ecg',), encoder='residual')
    file = save_pretrained(net, tmp_path/'e.safetensors', 100)
    rows = segment_rows({'mine': file})
    assert rows['mine'].pop('pretrained') == str(file) and rows['mine'] == rows['scratch-residual-32-100']
    with pytest.raises(PedarrError, match='choose another name'): segment_rows({'unet': file})


def weights(net): return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize('samples', [250, 1003])
@pytest.mark.parametrize('row, at', [('unet', 250), ('unet-100', 100), ('unet-wide-100', 100)])
def test_a_unet_reads_at_its_rate_and_answers_at_each_sample(row, at, samples):
    net, seen = build_segmenter(SegmentConfig(**SEGMENT_ROWS[row]), 250.).eval(), []
    net.down[0].register_forward_hook(lambda module, given, out: seen.append(given[0].shape))
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, :3] = mask[1, 7] = True
    with torch.no_grad(): answer = net(torch.randn(2, 12, samples), mask)
    assert seen == [(4, 1, -(-samples*at//250))] and answer.shape == (2, 12, 4, samples)
    assert not answer[~mask].any() and answer[mask].any(1).all()
    assert net.config['ecg_rate'] == at and net.period == {250: 32, 100: 80}[at]


def test_rows_that_are_compared_are_of_one_size():
    net = {name: build_segmenter(SegmentConfig(**given), 250.) for name, given in SEGMENT_ROWS.items()}
    assert weights(net['unet-100']) == weights(net['unet'])
    for name in ('scratch', 'scratch-100', 'unet', 'unet-100'):
        assert abs(weights(net[name])/245_000 - 1) < .05, name
    pretrained = Segmenter('residual', 128, 250., 100.)
    assert abs(weights(net['unet-wide-100'])/weights(pretrained) - 1) < .05


def test_rows_of_before_are_the_same_jobs():
    "A job is known by all its parameters: a new one, or another default, would refuse those that are kept."
    same = dict(normalise='modality', pretrained='', epochs=60, batch_size=16, lr=4e-3, weight_decay=.05,
                warmup=.15, clip=1., crop=6., stretch=.1, scale=.2, noise=.02, few=.5, seed=0, device='auto')
    own = {'scratch': dict(network='residual', dim=80, ecg_rate=0., leads=12),
           'scratch-100': dict(network='residual', dim=80, ecg_rate=100., leads=12),
           'unet': dict(network='unet', dim=12, ecg_rate=0., leads=4)}
    for name, given in own.items(): assert SegmentConfig(**SEGMENT_ROWS[name]).model_dump() == same | given


def test_a_unet_of_before_has_its_weights_and_answers():
    "The shipped network says that it reads at 250 Hz; its weights fit a U-Net of no rate of its own, too."
    shipped, bare = open_wave_model().network, LeadUNet(12, 250.).eval()
    bare.load_state_dict(shipped.state_dict())
    x, mask = torch.randn(1, 12, 700), torch.ones(1, 12, dtype=torch.bool)
    with torch.no_grad(): assert torch.equal(shipped(x, mask), bare(x, mask))
    assert shipped.period == bare.period == 32


def test_a_unet_at_100_hz_is_written_and_opened(tmp_path):
    c = SegmentConfig(network='unet', dim=8, ecg_rate=100.)
    net = build_segmenter(c, 250.).eval()
    opened = open_wave_model(write_wave_model(net, c, tmp_path/'m', 'drawn beats', 1, 250., simulated=True))
    x, mask = torch.randn(1, 12, 700), torch.ones(1, 12, dtype=torch.bool)
    with torch.no_grad(): assert torch.equal(net(x, mask), opened.network(x, mask))


# --- The experiment -----------------------------------------------------------

def drawn_ludb(folder, n=5):
    "A folder as LUDB's: `n` records of drawn beats in two leads, and an annotation file for each lead."
    folder.mkdir()
    data = drawn_wave_set(n, 6., 250.)
    for k in range(n):
        path = write(folder, data.x[k, :2], 250, ('ii', 'v1'), str(k + 1))
        for lead, name in enumerate(('ii', 'v1')):
            waves = data.waves[(data.waves.row == k) & (data.waves.lead == lead)].copy()
            waves[['onset', 'end']] = (waves[['onset', 'end']]*250).round().astype(int)
            marks = wave_annotations(waves.assign(peak=(waves.onset + waves.end)//2))
            path.with_suffix(f'.{name}').write_bytes(encode_marks(*marks, 250))
    return read_wave_set(folder)


def test_new_rows_are_trained_beside_those_that_are_kept(tmp_path):
    data = drawn_ludb(tmp_path/'ludb')
    old = ['unet, all', 'unet, alone', 'mine, all', 'mine, alone']
    told = {row: np.roll(data.label, 1, 2) for row in old[::-1]}
    kept = keep_waves(data, told, tmp_path/'kept'/'answers', 'drawn beats', {'mine, all': 'unet, all'}).parent
    before, out = folder_bytes(kept), tmp_path/'jobs'
    given = dict(data=str(tmp_path/'ludb'), out=str(out), results=str(tmp_path/'kept'), earlier=str(kept),
                 rows='unet-100', common=dict(epochs=1, dim=8, crop=2., device='cpu'))
    run_experiment('segmentation', tmp_path/'done.ipynb', **given)
    assert {p.name.partition('_')[0] for p in out.iterdir()} == {'unet-100'}     # nothing else is trained
    after, new = folder_bytes(kept), {'unet-100-all.safetensors.xz', 'unet-100-alone.safetensors.xz'}
    assert {*after} == {*before} | new
    assert all(after[name] == before[name] for name in before if name != 'waves.json')
    rows = list(dict.fromkeys(pd.read_csv(tmp_path/'kept'/'30-ms.csv').row))
    assert [row for row in rows if not row.startswith('NeuroKit2')] == [
        'unet, all', 'unet, alone', 'unet-100, all', 'unet-100, alone', 'mine, alone', 'mine, all']
    assert kept_rivals(kept) == {'mine, all': 'unet, all', 'unet-100, all': 'unet, all',
                                 'unet-100, alone': 'unet, alone'}
    assert {*pd.read_csv(tmp_path/'kept'/'gains.csv').row} == {*kept_rivals(kept)}


def test_what_was_left_out_is_kept_with_the_truth():
    "In the answers of LUDB, as its annotation files say it."
    truth, _ = read_kept_waves(NOTEBOOK.parents[1]/'results'/'segmentation'/'answers')
    assert sum(truth.left_out.values()) == 134 and len(truth.waves) == 58_289
    folder = real('ludb')/'data'
    found = [read_waves(folder/str(k), lead.lower()) for k in range(1, 201) for lead in ECG_LEADS]
    assert truth.left_out == {kind: sum(x.left_out[kind] for x in found) for kind in ('P', 'QRS', 'T')}
    assert len(truth.waves) == sum(len(x.waves) for x in found)


# --- pedarr delineate ---------------------------------------------------------

def test_an_array_is_delineated_as_the_record_is(tmp_path, model):
    "A rate that is missing is asked for in the words of an option that there is."
    path, _ = beats(tmp_path, 360)
    signals, fields = wfdb.rdsamp(str(path))
    pd.DataFrame(signals, columns=fields['sig_name']).to_csv(tmp_path/'a.csv', index=False)
    asked = ('delineate', tmp_path/'a.csv', '--out', tmp_path/'b', '--model', model)
    assert '--rate' in refused(*asked)
    assert command(*asked, '--rate', 360).status == 0
    assert command('delineate', path, '--out', tmp_path/'c', '--model', model).status == 0
    marks = [wfdb.rdann(str(place), 'ii').sample for place in (tmp_path/'b'/'a', tmp_path/'c'/'drawn')]
    assert len(marks[0]) > 30 and np.array_equal(*marks)


@pytest.mark.parametrize('fs', [128, 360, 977])
def test_marks_stand_where_the_waves_are_at_any_rate(tmp_path, model, fs):
    path, qrs = beats(tmp_path, fs, seconds=26.)                 # two blocks
    r = command('delineate', path, '--out', tmp_path/'out', '--model', model)
    assert r.status == 0 and 'no medical device' in r.out, r.err
    assert sorted(folder_bytes(tmp_path/'out')) == ['drawn.ii', 'drawn.v1']
    told = wfdb.rdann(str(tmp_path/'out'/'drawn'), 'ii')
    symbol = ''.join(told.symbol)
    assert symbol == ''.join(f'({s})' for s in symbol[1::3]) and told.fs == fs
    found = told.sample[[i for i, s in enumerate(symbol) if symbol[i:i + 2] == '(N']]/fs
    assert (np.abs(found[:, None] - qrs).min(0) < .05).mean() > .9 and (np.diff(told.sample) >= 0).all()
    ours = read_waves(tmp_path/'out'/'drawn', 'ii', fs=float(fs))
    assert len(ours.waves)*3 == len(symbol) and not ours.gaps


def test_one_lead_and_one_file_for_all(tmp_path, model):
    path, qrs = beats(tmp_path, 250, leads=('V2',))
    for extra, name in (((), 'drawn.v2'), (('--together',), 'drawn.waves')):
        assert command('delineate', path, '--out', tmp_path/'out', '--model', model, *extra).status == 0
        waves = read_waves(tmp_path/'out'/'drawn', name.partition('.')[2]).waves
        onset = waves[waves.kind == 'QRS'].onset.to_numpy()/250
        assert (np.abs(onset[:, None] - qrs).min(0) < .05).mean() > .8


def test_no_wave_is_an_answer(tmp_path, model):
    "A flat lead: an empty file, and exit status 1."
    path = write(tmp_path, np.zeros((1, 2000)), 250, ['II'])
    r = command('delineate', path, '--out', tmp_path/'out', '--model', model)
    assert r.status == 1 and '0 P, 0 QRS, 0 T' in r.out
    assert not len(wfdb.rdann(str(tmp_path/'out'/'drawn'), 'ii').sample)


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, model):
    path, _ = beats(tmp_path, 250)
    out = tmp_path/'out'
    try_it = lambda record, weights=model: refused('delineate', record, '--out', out, '--model', weights)
    assert 'give the folder' in try_it(path, weights=tmp_path/'none')
    assert 'is no model folder' in try_it(path, weights=tmp_path)
    assert 'nowhere' in try_it(tmp_path/'nowhere')
    other = write(tmp_path, np.random.default_rng(0).normal(size=(1, 2000)), 250, ['CS 12'], 'cs')
    assert 'none of the twelve leads' in try_it(other)
    short = write(tmp_path, np.random.default_rng(0).normal(size=(1, 60)), 250, ['II'], 'short')
    assert 'too short' in try_it(short)
    assert not out.exists()


def test_nothing_is_overwritten_unasked_or_half(tmp_path, model, monkeypatch):
    path, _ = beats(tmp_path, 250)
    out = tmp_path/'out'
    out.mkdir()
    (out/'drawn.v1').write_bytes(b'mine')
    asked = ('delineate', path, '--out', out, '--model', model)
    assert '--force' in refused(*asked) and folder_bytes(out) == {'drawn.v1': b'mine'}
    with monkeypatch.context() as m:
        interrupt_move(m, 2)
        assert command(*asked, '--force').status == 130
    assert folder_bytes(out) == {'drawn.v1': b'mine'}
    assert command(*asked, '--force').status == 0 and set(folder_bytes(out)) == {'drawn.ii', 'drawn.v1'}


def test_weights_are_what_was_written(tmp_path, model):
    import shutil
    path, _ = beats(tmp_path, 250)
    for change, said in ((lambda f: (f/'model.safetensors').write_bytes(b'x'), 'altered since'),
                         (lambda f: edit_json(f/'config.json', dim=32), 'altered since'),
                         (lambda f: (f/'model.safetensors').unlink(), 'is missing')):
        shutil.rmtree(tmp_path/'m', ignore_errors=True)
        shutil.copytree(model, tmp_path/'m')
        change(tmp_path/'m')
        assert said in refused('delineate', path, '--out', tmp_path/'out', '--model', tmp_path/'m')
    card = (model/'README.md').read_text()
    assert 'SIMULATED' in card and 'No medical device' in card and 'ODC-By' not in card
    assert open_wave_model(model).facts.simulated


def test_the_card_of_ludb_names_its_source(tmp_path):
    c = SegmentConfig(dim=16)
    card = (write_wave_model(small_segmenter(), c, tmp_path/'m', 'LUDB', 200, 250.)/'README.md').read_text()
    assert 'ODC-By' in card and '10.13026/eegm-h675' in card and 'SIMULATED' not in card


def test_a_rhythm_network_is_no_network_for_waves(tmp_path, model):
    path, _ = beats(tmp_path, 250, leads=ECG_LEADS)
    assert 'use pedarr delineate' in refused('predict', model, path)
