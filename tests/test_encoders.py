"Encoders: the contract that all of `ENCODERS` keep, what one column sees, and initial weights from a file."
import json

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load, save
from scipy.signal import resample_poly

from pedarr.core.errors import PedarrError
from pedarr.model.encoder_registry import ENCODERS, receptive_fields
from pedarr.model.encoders import ModalityEncoder, split_mask, zero_masked
from pedarr.model.input_rates import Resample, rate_ratio
from pedarr.model.pedarrnet import PedArrNet
from pedarr.model.pretrained import encoders_of, load_pretrained, read_pretrained, save_pretrained


def net(seed=0, **options):
    torch.manual_seed(seed)
    return PedArrNet(**{**dict(n_classes=3, dim=32, depth=1, heads=2, proj_dim=8), **options}).eval()


def full(n, channels): return torch.ones(n, channels, dtype=torch.bool)


# --- the contract

@pytest.mark.parametrize('name', ENCODERS)
@pytest.mark.parametrize('T', [180, 181, 359, 1000, 1500, 2931])
def test_maps_and_tokens_of_any_length(name, T):
    encoder = ENCODERS[name](12, 32)
    x = torch.randn(2, 12, T)
    maps = encoder.maps(x, full(2, 12))
    assert [m.shape[-1] for m in maps] == [-(-T // s) for s in encoder.strides] and encoder.strides[0] == 1
    assert torch.equal(maps[0], x) and torch.equal(encoder(x, full(2, 12)), encoder.tokens(maps[-1]))
    assert encoder(x, full(2, 12)).shape == (2, -(-T // encoder.strides[-1]), 32)


@pytest.mark.parametrize('name', ENCODERS)
@settings(max_examples=8, deadline=None)
@given(channels=st.integers(0, 127), rubbish=st.sampled_from([float('nan'), float('inf'), -1e30]))
def test_absent_channels_may_hold_anything_and_are_not_silent_ones(name, channels, rubbish):
    torch.manual_seed(0)
    encoder, x = ENCODERS[name](7, 32), torch.randn(1, 7, 400)
    mask = torch.tensor([[bool(channels >> i & 1) for i in range(7)]])
    spoilt = torch.where(mask[..., None], x, rubbish)
    assert torch.equal(encoder(x, mask), encoder(spoilt, mask))
    if not mask.all(): assert not torch.allclose(encoder(zero_masked(x, mask), full(1, 7)), encoder(x, mask))


ALONE = [(name, False) for name in ENCODERS] + [('plain', True), ('deep', True)]

@pytest.mark.parametrize('name, training', ALONE)
def test_a_sample_does_not_depend_on_its_neighbours(name, training):
    "After training for all; in training for those whose statistics are of one sample alone."
    encoder, x = ENCODERS[name](7, 32).train(training), torch.randn(5, 7, 400)
    torch.testing.assert_close(encoder(x, full(5, 7))[:1], encoder(x[:1], full(1, 7)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('options', [dict(), dict(fusion='late'), dict(fusion='sum'), dict(depth=0)])
def test_encoders_train_on_the_samples_that_have_their_modality(options):
    "What batch normalisation remembers does not change if samples without electrograms come along."
    ecg, iegm, mask = torch.randn(6, 12, 500), torch.randn(6, 7, 500), full(6, 19)
    mask[3:, 12:] = False
    def after(rows):
        model = net(encoder='residual', pooling='mean-max', **options).train()
        model(ecg[rows], iegm[rows], mask[rows])
        return {k: v for k, v in model.views.encoders['iegm'].state_dict().items() if 'running' in k}
    many, few = after(slice(0, 6)), after(slice(0, 3))
    for name in few: torch.testing.assert_close(many[name], few[name])
    assert len(few) > 10


@settings(max_examples=25, deadline=None)
@given(rate=st.sampled_from([100, 125, 250, 360, 500, 1000]), own=st.sampled_from([100, 125, 250]),
       T=st.integers(40, 900))
def test_resampling_equals_scipy(rate, own, T):
    x, (up, down) = torch.randn(2, 3, T), rate_ratio(rate, own)
    got = Resample(rate, own)(x)
    assert got.shape[-1] == Resample(rate, own).length(T)
    want = resample_poly(x.numpy(), up, down, axis=-1)
    torch.testing.assert_close(got, torch.from_numpy(want), atol=5e-6, rtol=1e-5)


def test_a_network_with_rates_of_its_own_keeps_the_promise():
    "What is absent may hold anything, at other rates, too; and the rate of the windows has to be said."
    model = net(encoder='residual', pooling='mean-max', rate=500, ecg_rate=100, iegm_rate=250)
    ecg, iegm, mask = torch.randn(4, 12, 1500), torch.randn(4, 7, 1500), full(4, 19)
    mask[1, 12:], mask[2, :12], mask[3, 5] = False, False, False
    parts = (ecg, mask[:, :12]), (iegm, mask[:, 12:])
    spoilt = [torch.where(m[..., None], x, float('nan')) for x, m in parts]
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(ecg, iegm, mask), model(*spoilt, mask)))
        state = model.features(ecg, iegm, mask)['state']
        assert torch.equal(model.head(state), model(ecg, iegm, mask).logits)
    with pytest.raises(PedarrError, match='need the rate of the windows'): net(ecg_rate=100)
    with pytest.raises(PedarrError, match='one encoder for all channels'):
        net(fusion='early', rate=500, ecg_rate=100)
    alone = net(fusion='early', modalities=['ecg'], rate=500, ecg_rate=100)
    fused = dict(fusion='early', rate=500, ecg_rate=250, iegm_rate=250)
    read, whole = net(**fused), net(fusion='early')               # reads at 250 what the other reads at 500
    assert not whole.load_state_dict(read.state_dict()).missing_keys
    assert read.eval().features(ecg, iegm, mask)['all.map_1'].shape[-1] == -(-ecg.shape[-1]//2)
    assert alone(ecg, iegm, mask).logits.isfinite().all()
    with pytest.raises(PedarrError, match='at least 320 are needed'):
        model(ecg[..., :300], iegm[..., :300], mask)


def test_a_new_encoder_is_a_class_and_a_row(monkeypatch):
    class Wide(ModalityEncoder):
        strides = (1, 30)
        def __init__(self, channels, dim):
            super().__init__(channels, dim, kernel=61, stride=30, norm=torch.nn.BatchNorm1d(dim))
            self.out = torch.nn.LayerNorm(dim)
        def maps(self, signal, mask):
            signal = zero_masked(signal, mask)
            return [signal, self.first_map(signal, mask)]
    monkeypatch.setitem(ENCODERS, 'wide', Wide)
    ecg, iegm, mask = torch.randn(2, 12, 450), torch.randn(2, 7, 450), full(2, 19)
    for fusion in ('cross', 'early'):
        model = net(encoder='wide', fusion=fusion)
        found, first = model.features(ecg, iegm, mask), 'all' if fusion == 'early' else 'ecg'
        assert found[f'{first}.map_30'].shape == (2, 32, 15) and found[f'{first}.tokens'].shape == (2, 15, 32)
        assert torch.equal(model.head(found['state']), model(ecg, iegm, mask).logits)
        assert PedArrNet(**json.loads(json.dumps(model.config))).config == model.config


def test_split_mask_keeps_the_order_of_the_channels():
    parts = split_mask(torch.arange(19)[None] < 12)
    assert parts['ecg'].all() and parts['ecg'].shape == (1, 12) and not parts['iegm'].any()


# --- what a column sees

def by_arithmetic(steps):
    "Receptive field after each (kernel, stride): the textbook's recurrence."
    field, jump = 1, 1
    for kernel, stride in steps:
        field += (kernel - 1) * jump
        jump *= stride
        yield field


def test_receptive_fields_equal_the_recurrence():
    plain = list(by_arithmetic([(15, 5), (5, 3), (5, 1), (3, 3), (3, 1)]))
    assert receptive_fields(ENCODERS['plain'])['sees (samples)'].tolist() == [1, plain[0], plain[2], plain[4]]
    stem = [(5, 2), (5, 1), (5, 1), (3, 2)]
    deep = list(by_arithmetic(stem + [(5, 1)]*4 + ([(5, 2)] + [(5, 1)]*3)*3))
    assert receptive_fields(ENCODERS['deep'])['sees (samples)'].tolist() == [1,
                                                                             *(deep[i] for i in (2, 7, 11, 15,
                                                                                                 19))]


def test_receptive_fields_in_ms_follow_the_rate():
    for name, kind in ENCODERS.items():
        slow, fast = receptive_fields(kind, 100.), receptive_fields(kind, 500.)
        assert (slow['sees (ms)'] == 5*fast['sees (ms)']).all()
        assert slow['every (samples)'].tolist() == list(kind.strides)


def test_nothing_outside_its_field_changes_a_column():
    "A change just inside the field is seen, one just outside is not (but for the normalisation)."
    from pedarr.model.encoder_registry import _plain_sums
    encoder = _plain_sums(ENCODERS['plain'](1, 16))
    x = torch.ones(1, 1, 1500, dtype=torch.float64)
    def last(x): return encoder.maps(x, full(1, 1))[-1][0, :, 16]
    base, centre, half = last(x), 16*45, 107
    for offset, seen in ((half, True), (-half, True), (half + 1, False), (-half - 1, False)):
        y = x.clone()
        y[0, 0, centre + offset] += 1
        assert bool((last(y) != base).any()) == seen


# --- initial weights

def test_encoders_come_back_to_the_bit_and_nothing_else_changes(tmp_path):
    for options in ({}, dict(fusion='early'), dict(encoder='deep'), dict(modalities=['iegm'])):
        a, b = net(0, **options), net(1, **options)
        rest = {k: v.clone() for k, v in b.state_dict().items() if not k.startswith('views.encoder')}
        account = load_pretrained(b, save_pretrained(a, tmp_path/'w', 250), 250)
        assert account == (list(encoders_of(a)), [], [])
        mine, theirs = a.state_dict(), b.state_dict()
        for k, v in theirs.items(): assert torch.equal(v, rest[k] if k in rest else mine[k])


def test_what_was_not_loaded_is_said(tmp_path):
    both, ecg = net(0), net(1, modalities=['ecg'])
    save_pretrained(both, tmp_path/'both', 500)
    save_pretrained(ecg, tmp_path/'ecg', 500)
    assert load_pretrained(ecg, tmp_path/'both', 500) == (['ecg'], [], ['iegm'])
    assert load_pretrained(both, tmp_path/'ecg', 500) == (['ecg'], ['iegm'], [])


def test_each_encoder_has_its_own_rate(tmp_path):
    model = net()
    save_pretrained(model, tmp_path/'w', {'ecg': 100, 'iegm': 500})
    assert {n: c.rate for n, c in read_pretrained(tmp_path/'w')[1].items()} == {'ecg': 100, 'iegm': 500}
    assert load_pretrained(net(1), tmp_path/'w', {'ecg': 100, 'iegm': 500}).loaded == ['ecg', 'iegm']
    with pytest.raises(PedarrError, match='encoder iegm learned at 500 Hz, this one reads 100 Hz'):
        load_pretrained(net(1), tmp_path/'w', 100)


def edited(path, change, metadata=True):
    "The file `path` with its tensors and cards changed by `change(tensors, cards)`."
    raw = path.read_bytes()
    header = json.loads(raw[8:8 + int.from_bytes(raw[:8], 'little')])
    tensors, cards = load(raw), json.loads(header['__metadata__']['encoders'])
    change(tensors, cards)
    path.write_bytes(save(tensors, metadata={'encoders': json.dumps(cards)} if metadata else None))


STEM = 'ecg.stem.weight'

@pytest.mark.parametrize('change, says', [
    (lambda t, c: c['ecg'].update(rate=100.), 'ecg learned at 100 Hz, this one reads 500 Hz'),
    (lambda t, c: c['iegm'].update(kind='deep'), 'iegm is of kind deep, this one is residual'),
    (lambda t, c: t.update({STEM: t[STEM][:, :, :5].contiguous()}), r'stem.weight of \[12, 12, 5\]'),
    (lambda t, c: t.update({STEM: t[STEM].half()}), 'torch.float16'),
    (lambda t, c: t[STEM].__setitem__((0, 0, 0), float('nan')), 'not finite in stem.weight'),
    (lambda t, c: t.pop(STEM), 'lacks stem.weight'),
    (lambda t, c: t.update({'ecg.more': torch.ones(1)}), 'has besides more'),
    (lambda t, c: t.update({'decoder.weight': torch.ones(1)}), 'decoder.weight belongs to no encoder'),
    (lambda t, c: (c.clear(), t.clear()), 'holds encoders for nothing'),
    (lambda t, c: c['ecg'].pop('rate'), 'damaged .*rate'),
    (lambda t, c: c['ecg'].update(rate=-1.), 'damaged .*rate'),
    (lambda t, c: c['ecg'].update(rate='500'), 'damaged .*rate'),
    (lambda t, c: c.update(ecg='plain'), 'damaged')])
def test_what_does_not_fit_is_one_line_and_changes_nothing(tmp_path, change, says):
    save_pretrained(net(0), tmp_path/'w', 500)
    edited(tmp_path/'w', change)
    model = net(1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(PedarrError, match=says) as error: load_pretrained(model, tmp_path/'w', 500)
    assert '\n' not in str(error.value) and str(tmp_path/'w') in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize('raw', [b'', b'12345678', b'\xff'*64, b'{"a": 1}'*9],
                         ids=['empty', 'short', 'huge header', 'text'])
def test_a_file_of_something_else_is_one_line(tmp_path, raw):
    (tmp_path/'w').write_bytes(raw)
    with pytest.raises(PedarrError, match='damaged') as error: load_pretrained(net(), tmp_path/'w', 500)
    assert '\n' not in str(error.value)


def test_files_that_say_nothing_of_encoders_or_are_not_there(tmp_path):
    save_pretrained(net(), tmp_path/'w', 500)
    edited(tmp_path/'w', lambda t, c: None, metadata=False)
    with pytest.raises(PedarrError, match='names no encoders'): load_pretrained(net(), tmp_path/'w', 500)
    with pytest.raises(PedarrError, match='nowhere'): load_pretrained(net(), tmp_path/'nowhere', 500)
    with pytest.raises(PedarrError, match='folder'): load_pretrained(net(), tmp_path, 500)


def test_a_rate_must_be_given_for_each_encoder(tmp_path):
    for rate in (0, -1, float('nan'), {'ecg': 500}, {}):
        with pytest.raises(PedarrError, match='give the input rate of encoder'): save_pretrained(net(),
                                                                                                 tmp_path/'w',
                                                                                                 rate)
    with pytest.raises(PedarrError, match='Linear has no encoders'): save_pretrained(torch.nn.Linear(1, 1),
                                                                                     tmp_path/'w', 500)
    assert not list(tmp_path.iterdir())
