"Attention, PedArrNet and its variants: properties and faults that are no lesson."
import inspect
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from conftest import assert_learns
from pedarr.model.attention import (
    Attention, CrossModalAttention, SemanticAttention, equal_shares, sinusoidal_positions)
from pedarr.core.errors import PedarrError
from pedarr.model.earlier_encoders import EARLIER_OPTIONS
from pedarr.model.encoder_registry import ENCODERS
from pedarr.model.encoders import MODALITIES, ResidualEncoder, split_mask
from pedarr.model.pedarrnet import FUSIONS, ModelConfig, PedArrNet
from pedarr.signals.augmentation import drop_modality
from pedarr.model.variants import NETWORK_VARIANTS, count_multiply_adds, count_parameters


def net(**options):
    torch.manual_seed(0)
    return PedArrNet(**{**dict(n_classes=3, dim=32, depth=1, heads=2, proj_dim=8), **options}).eval()


def batch(n=4, T=450, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 12, T, generator=g), torch.randn(n, 7, T, generator=g), torch.ones(n, 19,
                                                                                             dtype=torch.bool)


def same(a, b): return all(torch.equal(x, y) for x, y in zip(a, b))


def test_channels_agree_with_records():
    records = pytest.importorskip('pedarr.data.channels')
    assert MODALITIES == {'ecg': len(records.ECG_LEADS), 'iegm': len(records.IEGM_CHANNELS)}


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('rubbish', ['noise', 'nan', 'inf', 'minus inf', 'huge'])
@settings(max_examples=5, deadline=None)
@given(has=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=4),
       channels=st.integers(0, 2**19 - 1), rescale=st.sampled_from([0., 1.]), told=st.booleans())
def test_absent_changes_nothing_to_the_bit(fusion, rubbish, has, channels, rescale, told):
    "Any pattern of absent modalities and channels, mixed within a batch; outputs and gradients."
    model = net(fusion=fusion, rescale=rescale, presence=told).double()
    ecg, iegm, _ = batch(len(has))
    ecg, iegm = ecg.double(), iegm.double()
    some = torch.tensor([bool(channels >> i & 1) for i in range(19)])
    mask = torch.stack([torch.cat([some[:12] & e, some[12:] & i]) for e, i in has])
    value = {'noise': .3, 'nan': float('nan'), 'inf': float('inf'), 'minus inf': -float('inf'),
             'huge': 1e30}[rubbish]
    def spoil(x, m): return torch.where(m[..., None], x, value * torch.randn_like(x).abs().add(.5))
    clean, spoilt = model(ecg, iegm, mask), model(spoil(ecg, mask[:, :12]), spoil(iegm, mask[:, 12:]), mask)
    assert same(clean, spoilt) and all(o.isfinite().all() for o in spoilt)
    present = torch.stack([mask[:, :12].any(1), mask[:, 12:].any(1)], 1)
    assert (spoilt.modality_weights[~present] == 0).all()
    torch.testing.assert_close(spoilt.modality_weights.sum(1), present.any(1).double())
    spoilt.logits.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize('fusion', ['cross', 'early'])
def test_absent_channels_are_made_up_for_in_the_first_sum_alone(fusion):
    "Where all are there nothing changes, to the bit; else the stem's sum grows by all/present."
    plain, made_up = net(fusion=fusion, rescale=0.), net(fusion=fusion)
    ecg, iegm, mask = batch()
    assert same(plain(ecg, iegm, mask), made_up(ecg, iegm, mask))
    mask[:, 3:12], mask[1, :12], mask[:, 13:] = False, False, False
    heard = []
    for model in (plain, made_up):
        encoder = model.views.encoder if fusion == 'early' else model.views.encoders['ecg']
        encoder.norm.register_forward_pre_hook(lambda _, x: heard.append(x[0].detach()))
        model(ecg, iegm, mask)
    times = {'cross': [4., 12., 4., 4.], 'early': [19/4, 19., 19/4, 19/4]}[fusion]
    torch.testing.assert_close(heard[1], heard[0]*torch.tensor(times)[:, None, None])


@pytest.mark.parametrize('fusion', ['cross', 'early'])
def test_a_network_that_is_not_told_of_absent_channels_answers_alike_whatever_the_vectors_are(fusion):
    "The vectors stay in its weights, so that those of a told network fit, and get no gradient."
    told, untold = net(fusion=fusion, presence=True), net(fusion=fusion)
    untold.load_state_dict(told.state_dict())
    ecg, iegm, mask = batch()
    assert same(told(ecg, iegm, mask | True), untold(ecg, iegm, mask | True))
    mask[:, 3:12] = False
    was = untold(ecg, iegm, mask)
    assert not same(told(ecg, iegm, mask), was)
    for name, p in untold.named_parameters():
        if 'presence' in name: p.data += 1
    assert same(untold(ecg, iegm, mask), was)
    untold(ecg, iegm, mask).logits.square().sum().backward()
    vectors = [p.grad for name, p in untold.named_parameters() if 'presence' in name]
    # distributed training waits for all
    assert vectors and all(g is not None and not g.any() for g in vectors)


def test_an_absent_modality_would_matter_if_it_were_present():
    "The test above can fail: the same rubbish with a True mask does change the output."
    model, (ecg, iegm, mask) = net(), batch()
    assert not same(model(ecg, iegm, mask), model(ecg, iegm + 1e3 * torch.randn_like(iegm), mask))


@pytest.mark.parametrize('fusion', ['cross', 'sum', 'late'])
def test_skipping_an_encoder_is_exact_in_a_mixed_batch(fusion):
    "A sample without electrograms: same bits whether or not others of the batch cause the encoder to run."
    model, (ecg, iegm, mask) = net(fusion=fusion), batch()
    mask[:2, 12:] = False
    calls = []
    model.views.encoders['iegm'].register_forward_hook(lambda *a: calls.append(1))
    none = mask.clone()
    none[:, 12:] = False
    mixed, skipped = model(ecg, iegm, mask), model(ecg, iegm, none)
    assert len(calls) == 1
    assert all(torch.equal(a[:2], b[:2]) for a, b in zip(mixed, skipped))


def test_skipping_leaves_training_randomness_alone():
    ecg, iegm, mask = batch()
    mask[:, 12:] = False
    outs = []
    for compiling in (False, True):          # True: the encoder is never skipped
        model = net(dropout=.3, depth=2, stochastic_depth=0.).train()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, 'is_compiling', lambda: compiling)
            torch.manual_seed(7)
            outs.append(model(ecg, iegm, mask))
    assert same(*outs)


@pytest.mark.parametrize('options', [{}, dict(fusion='sum'), dict(fusion='late'), dict(semantic=False),
                                     dict(depth=0),
                                     dict(centre=True), dict(encoder='deep')], ids=str)
def test_single_modality_network_equals_masked(options):
    both, (ecg, iegm, mask) = net(**options), batch()
    for name, absent in [('ecg', slice(12, 19)), ('iegm', slice(0, 12))]:
        m = mask.clone()
        m[:, absent] = False
        alone = net(**options, modalities=[name])
        alone.load_state_dict({k: both.state_dict()[k] for k in alone.state_dict()})
        assert same(alone(ecg, iegm, m), both(ecg, iegm, m))
        assert same(alone(ecg, iegm, mask), both(ecg, iegm, m))          # it never looks at the other


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(5)), st.integers(1, 5))
def test_batch_composition_does_not_matter(order, size):
    model, (ecg, iegm, mask) = net(), batch(5)
    mask[1, 12:], mask[2, :12], mask[3] = False, False, False
    pick = order[:size]
    with torch.no_grad(): whole, part = model(ecg, iegm, mask), model(ecg[pick], iegm[pick], mask[pick])
    for a, b in zip(whole, part): torch.testing.assert_close(a[pick], b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('T', [180, 181, 359, 1000, 1500, 2931])
def test_any_length(T):
    out = net()(*batch(2, T))
    assert out.logits.shape == (2, 3) and out.embedding.shape == (2, 8) and out.modality_weights.shape == (2,
                                                                                                           2)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_empty_batch(fusion):
    out = net(fusion=fusion)(*batch(0))
    assert out.logits.shape == (0, 3) and out.modality_weights.shape == (0, 2)


@pytest.mark.parametrize('variant', NETWORK_VARIANTS)
def test_both_absent_is_finite_and_alike(variant):
    model, (ecg, iegm, mask) = net(**NETWORK_VARIANTS[variant]), batch()
    out = model(ecg, iegm, torch.zeros_like(mask))
    assert (out.modality_weights == 0).all() and out.logits.isfinite().all()
    torch.testing.assert_close(out.logits, out.logits[:1].expand_as(out.logits))


def test_attention_equals_torch_multihead():
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, y = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    torch.testing.assert_close(ours(x, y), theirs(x, y, y)[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.tuples(st.booleans(), st.booleans()))
def test_semantic_attention_is_a_renormalised_softmax(seed, present):
    torch.manual_seed(seed)
    layer, present = SemanticAttention(6).double(), torch.tensor([present])
    h = torch.randn(1, 2, 6).double() * 10
    score = (torch.tanh(layer.project(h)) @ layer.query).exp() * present
    torch.testing.assert_close(layer(h, present), score / score.sum().clamp(min=1e-300))


def test_cross_modal_identity_blocks_gradients():
    "Where the electrograms are absent, nothing flows back into them either."
    torch.manual_seed(0)
    block, (a, b) = CrossModalAttention(16, 2), torch.randn(2, 2, 5, 16)
    b.requires_grad_()
    out, _ = block(a, b, torch.tensor([[True, True], [True, False]]))
    out.square().sum().backward()
    assert b.grad[0].abs().sum() > 0 and (b.grad[1] == 0).all()


def test_positions_depend_on_distance():
    p = sinusoidal_positions(50, 32).double()
    gram = p @ p.T
    for d in range(10): np.testing.assert_allclose(np.diag(gram, d), gram[0, d], atol=1e-5)


@pytest.mark.parametrize('rate', [0., .3, 1.])
def test_drop_modality(rate):
    torch.manual_seed(0)
    mask = torch.rand(3000, 19) < .7
    mask[:1000, :12], mask[1000:2000, 12:] = False, False
    before, out = mask.clone(), drop_modality(mask, rate)
    assert torch.equal(mask, before)                                     # the input is left alone
    assert torch.equal(out[:2000], mask[:2000]) and out[2000:, :].any(1).all()
    lost = (out[2000:] != mask[2000:]).any(1).float().mean()
    assert abs(lost - rate) < .05


def test_modality_dropout_only_in_training():
    model, b = net(modality_dropout=1.0), batch(64)
    assert (model(*b).modality_weights > 0).all()
    weights = model.train()(*b).modality_weights
    assert ((weights == 0).sum(1) == 1).all() and 10 < (weights[:, 0] == 0).sum() < 54


@pytest.mark.parametrize('variant', NETWORK_VARIANTS)
def test_learns_and_every_parameter_has_a_gradient(variant):
    model, (ecg, iegm, mask) = net(**{'dropout': 0., **NETWORK_VARIANTS[variant]}).train(), batch(16)
    mask[:4, 3], mask[4:6, 14] = False, False
    assert_learns(model, ecg, iegm, mask)


def test_config_rebuilds_and_no_tensor_is_shared(tmp_path):
    from safetensors.torch import load_file, save_file
    model, b = net(fusion='late', semantic=False, modality_dropout=.2, dropout=.05), batch()
    save_file(model.state_dict(), tmp_path/'model.safetensors')          # refuses shared tensors
    again = PedArrNet(**json.loads(json.dumps(model.config))).eval()
    again.load_state_dict(load_file(tmp_path/'model.safetensors'))
    assert same(model(*b), again(*b)) and again.config == model.config


@pytest.mark.parametrize('fusion', FUSIONS)
def test_bfloat16_autocast_returns_float32(fusion):
    model, b = net(fusion=fusion), batch()
    with torch.autocast('cpu', dtype=torch.bfloat16): out = model(*b)
    assert {o.dtype for o in out} == {torch.float32}
    torch.testing.assert_close(out.logits, model(*b).logits, atol=.1, rtol=.1)
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(4))
    mask = b[2].clone()
    mask[:, 12:] = False
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert same(model(b[0], b[1], mask), model(b[0], b[1] * float('nan'), mask))


@pytest.mark.parametrize('options', [
    dict(rescale=0.), *(pytest.param(x, marks=pytest.mark.long, id=str(x)) for x in (
        {}, dict(fusion='late'), dict(fusion='early'), dict(semantic=False, depth=0), dict(centre=True),
        dict(encoder='deep')))], ids=str)
@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_one_graph_without_breaks(mode, options):
    "Stochastic depth draws, and in training statistics are of the samples read: under a compiler of all."
    still = dict(dropout=0., modality_dropout=0., stochastic_depth=0.)
    model, (ecg, iegm, mask) = getattr(net(**still, **options), mode)(), batch()
    if mode == 'eval' or 'encoder' in options: mask[1, 12:], mask[2, :12] = False, False
    torch.compiler.reset()               # one forward is compiled eight times at most, and the cases share it
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    for a, b in zip(compiled(ecg, iegm, mask), model(ecg, iegm, mask)): torch.testing.assert_close(a, b)


@pytest.mark.parametrize('fusion', ['cross', 'early'])
def test_stochastic_depth_breaks_no_graph(fusion):
    "Nor do samples without a modality: the compiled network trains, if with other draws."
    model, (ecg, iegm, mask) = net(fusion=fusion, modality_dropout=.5).train(), batch()
    mask[1, 12:], mask[2, :12] = False, False
    torch.compiler.reset()
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    compiled(ecg, iegm, mask).logits.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize('options', [{}, dict(crop=1., rate=250.), dict(encoder='plain', fusion='late')],
                         ids=str)
def test_a_compiled_network_takes_batches_of_other_sizes(options):
    "The last batch of an epoch is smaller: after the first size, the number of samples is a variable."
    model, inputs = net(modality_dropout=.5, **options).train(), batch()
    torch.compiler.reset()
    compiled = torch.compile(model, backend='eager')
    for n in (len(inputs[0]), 2, 3):
        out = compiled(*(x[:n] for x in inputs)).logits
        assert out.shape[0] == n and out.isfinite().all()


EARLIER = dict(encoder='plain', pooling='cls', token_norm=True, rescale=0., presence=True)  # the first tables

def test_counts_by_hand():
    model = net(modalities=['ecg'], depth=2, dim=16, heads=2, **EARLIER)
    d, n, a, b = 16, 4, 4, 6                                             # T = 180: 36, 12, 4 tokens and CLS
    encoder = 36*a*15*12 + a*12 + 12*b*(a*5 + b*5 + a) + n*d*(b*3 + d*3 + b)
    block = 8*d*d*(n + 1) + 2*d*(n + 1)**2
    assert count_multiply_adds(model, 180) == encoder + 2*d*d + 2*block + d*3 + d*d + d*8
    assert count_parameters(torch.nn.Linear(3, 4)) == 16
    model.train()
    count_multiply_adds(model, 180)
    assert model.training                                                # left as it was


def test_the_earlier_network_is_the_one_of_the_first_tables():
    "Names, shapes and order of its tensors; its initial numbers, summed (the order of draws)."
    torch.manual_seed(11)
    model = PedArrNet(8, dim=128, depth=2, **EARLIER)
    assert len(model.state_dict()) == 100 and count_parameters(model) == 641_608
    assert next(model.named_parameters())[0] == 'cls'
    assert 'views.align.attend.1.out.bias' in model.state_dict()
    drawn = model.cls.sum(), model.head.weight.sum(), torch.randn(())    # the generator stands where it stood
    assert [round(x.item(), 4) for x in drawn] == [-0.074, -1.2066, -0.544]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_equal_shares(has):
    w = equal_shares(torch.tensor(has))
    assert [[float(x) for x in r] for r in w] == [[x / max(1, sum(r)) for x in r] for r in has]


def test_no_modality_dropout_draws_nothing():
    model, b = net(dropout=0., stochastic_depth=0.).train(), batch()
    before = torch.get_rng_state()
    model(*b)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('fusion', FUSIONS)
def test_modality_dropout_reaches_every_fusion(fusion):
    "In training a sample that loses a modality is judged as one that lacks it."
    still = dict(fusion=fusion, dropout=0., stochastic_depth=0.)
    model, (ecg, iegm, mask) = net(**still, modality_dropout=1.).train(), batch(8)
    torch.manual_seed(1)
    dropped = drop_modality(mask, 1.)
    torch.manual_seed(1)
    assert same(model(ecg, iegm, mask), net(**still).train()(ecg, iegm, dropped))


def test_fusion_of_one_modality_is_the_same_whatever_its_name():
    outs = [net(fusion=f, modalities=('ecg',))(*batch()) for f in FUSIONS]
    assert all(same(outs[0], o) for o in outs)


def test_default_cost():
    "The budget that keeps training on two CPU cores bearable."
    model = PedArrNet(8, rate=500, ecg_rate=250, iegm_rate=250)      # as in a run on windows of 500 Hz
    assert count_multiply_adds(model) < 20e6 and count_parameters(model) < 250_000
    assert count_multiply_adds(PedArrNet(8)) < 40e6                  # read as they are


@pytest.mark.parametrize('options, says', [
    (dict(n_classes=1), 'at least 2 classes'), (dict(dim=36, heads=4), 'divisible'),
    (dict(dim=32, heads=3), 'divisible'),
    (dict(heads=0), 'heads is 0: it must be at least 1'),
    (dict(depth=-1), 'depth is -1: it must be at least 0'),
    (dict(semantic='off'), 'semantic .* true or false'),
    (dict(centre=1), 'centre is 1: it must be true or false'),
    (dict(encoder='deeper'), "unknown encoder 'deeper': did you mean 'deep'"),
    (dict(dropout=1.0), 'less than 1'),
    (dict(modality_dropout=-.1), 'modality_dropout is -0.1: it must be at least 0'),
    (dict(dropout=float('nan')), 'dropout'),
    (dict(fusion='self'), "unknown fusion 'self': use one of cross, sum, late, early"),
    (dict(modalities=[]), 'choose one or both'),
    (dict(modalities=['ecg', 'ecg']), 'choose one or both'), (dict(modalities=['x']), 'of ecg, iegm'),
    (dict(modalities='ecg'), 'of ecg, iegm'), (dict(modalities=[['ecg']]), 'of ecg, iegm'),
    (dict(modalities=3), 'of ecg, iegm'),
    (dict(dim=10**9), 'at most 8192'), (dict(layers=2), "unknown parameter 'layers'"),
    (dict(proj_dim='wide'), 'whole number')])
def test_bad_options(options, says):
    with pytest.raises(PedarrError, match=says) as e: net(**options)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('change, says', [
    (lambda e, i, m: (e[:, :11], i, m), 'ecg: shape'),
    (lambda e, i, m: (e, torch.cat([i, i], 1), m), 'iegm: shape'),
    (lambda e, i, m: (e[0], i, m), 'ecg: shape'),
    (lambda e, i, m: (e, i[..., :-1], m), 'differ in batch or time'),
    (lambda e, i, m: (e[:2], i, m), 'differ in batch or time'),
    (lambda e, i, m: (e, i, m.float()), 'mask: torch.float32'),
    (lambda e, i, m: (e, i, m[:, :12]), 'mask'), (lambda e, i, m: (e, i, m[:2]), 'mask'),
    (lambda e, i, m: (e[..., :63], i[..., :63], m), 'at least 64')])
def test_bad_batches(change, says):
    with pytest.raises(PedarrError, match=says) as e: net()(*change(*batch()))
    assert '\n' not in str(e.value)


def test_options_are_typed_once_and_shown():
    "The signature that tools show has each option with its default; config has the same, in that order."
    shown = inspect.signature(PedArrNet).parameters
    defaults = ModelConfig().model_dump()
    assert list(shown) == ['n_classes', *defaults] and list(PedArrNet(2).config) == ['n_classes', *defaults]
    assert {name: p.default for name, p in shown.items() if name != 'n_classes'} == defaults
    assert all(f.description for f in ModelConfig.model_fields.values())


def test_an_option_of_encoders_is_taken_by_those_that_have_it(monkeypatch):
    with pytest.raises(PedarrError, match='encoder plain has no stochastic_depth'):
        ModelConfig(encoder='plain', stochastic_depth=.1)
    monkeypatch.setitem(ENCODERS, 'mine', ResidualEncoder)
    for name in ('residual', 'mine'):
        streams = net(encoder=name, stochastic_depth=.1).views
        assert streams.encoders['ecg'].blocks[3].skip == pytest.approx(.1)


def test_a_config_of_the_earlier_network_needs_no_later_option():
    old = {'n_classes': 3, 'dim': 32, 'depth': 1, 'heads': 2, 'proj_dim': 8, 'dropout': 0.1,
           'modality_dropout': 0.0, 'fusion': 'cross', 'semantic': True, 'centre': False,
           'modalities': ['ecg', 'iegm']}
    assert PedArrNet(**old, **EARLIER).config == old | EARLIER_OPTIONS


def test_numbers_of_numpy_and_tuples_are_taken_as_plain_ones():
    model = net(dim=np.int64(32), dropout=np.float32(.5), modalities=('ecg',))
    assert json.loads(json.dumps(model.config)) == model.config and type(model.config['dim']) is int


# --- features

@pytest.mark.parametrize('variant', NETWORK_VARIANTS)
def test_features_are_what_forward_uses(variant):
    model, (ecg, iegm, mask) = net(**NETWORK_VARIANTS[variant]), batch()
    mask[1, 12:], mask[2, :12], mask[3, 4] = False, False, False
    out, found = model(ecg, iegm, mask), model.features(ecg, iegm, mask)
    assert torch.equal(model.head(found['state']), out.logits)
    assert torch.equal(torch.nn.functional.normalize(model.project(found['state']), dim=-1), out.embedding)
    tokens, present = model.views(ecg, iegm, mask)
    assert torch.equal(found['present'], present)
    for row, m in enumerate(model.views.names):
        if m not in model.views.encoders: continue
        assert torch.equal(found[f'{m}.tokens'], tokens[:, row])
        assert torch.equal(found[f'{m}.pooled'], tokens.mean(dim=2)[:, row])


@pytest.mark.parametrize('encoder', ENCODERS)
def test_features_name_maps_by_their_stride(encoder):
    model, (ecg, iegm, mask) = net(encoder=encoder), batch(T=451)
    found, strides = model.features(ecg, iegm, mask), ENCODERS[encoder].strides
    signals, masks = dict(ecg=ecg, iegm=iegm), split_mask(mask)
    for m, encoder in model.views.encoders.items():
        assert [found[f'{m}.map_{s}'].shape[-1] for s in strides] == [-(-451 // s) for s in strides]
        last = found[f'{m}.map_{strides[-1]}']
        assert torch.equal(encoder.tokens(last), encoder(signals[m], masks[m]))


def test_features_of_a_modality_that_nobody_has():
    model, (ecg, iegm, mask) = net(), batch()
    mask[:, 12:] = False
    found = model.features(ecg, iegm * float('nan'), mask)
    assert not any(name.startswith('iegm.map') for name in found) and not found['iegm.tokens'].any()
    assert found['present'].tolist() == [[True, False]] * 4
    assert all(x.isfinite().all() for x in found.values())


def test_features_carry_gradients_and_apply_no_modality_dropout():
    model, (ecg, iegm, mask) = net(dropout=0., modality_dropout=1.).train(), batch()
    found = model.features(ecg, iegm, mask)
    assert found['present'].all()
    found['ecg.map_8'].square().sum().backward()
    encoder = model.views.encoders['ecg']
    assert encoder.stem.weight.grad.abs().sum() > 0 and encoder.blocks[3].convs[0][0].weight.grad is None


def test_features_refuse_what_forward_refuses():
    ecg, iegm, mask = batch()
    with pytest.raises(PedarrError, match='ecg: shape'): net().features(ecg[:, :11], iegm, mask)


# ---- crops

def crop_net(**more):
    torch.manual_seed(0)
    return PedArrNet(5, encoder='residual', pooling='mean-max', dim=32, depth=1, rate=100., crop=2.5, **more)

def test_a_network_of_crops_reads_whole_windows_when_it_answers():
    net, g = crop_net().eval(), torch.Generator().manual_seed(1)
    whole = PedArrNet(**net.config | dict(crop=0.)).eval()
    whole.load_state_dict(net.state_dict())
    x = torch.randn(4, 12, 1000, generator=g), torch.randn(4, 7, 1000, generator=g)
    mask = torch.ones(4, 19, dtype=torch.bool)
    assert torch.equal(net(*x, mask).logits, whole(*x, mask).logits)

def test_in_training_a_crop_is_drawn_for_each_sample_and_both_modalities_together():
    seen = []
    net = crop_net().train()
    net.views.register_forward_pre_hook(lambda module, args: seen.append(args))
    ramp = torch.arange(1000.).expand(16, 1, -1)
    net(ramp.repeat(1, 12, 1), ramp.repeat(1, 7, 1), torch.ones(16, 19, dtype=torch.bool))
    ecg, iegm, _ = seen[0]
    assert ecg.shape == (16, 12, 250) and torch.equal(ecg[:, 0], iegm[:, 6])
    assert len(set(ecg[:, 0, 0].tolist())) > 8

@pytest.mark.parametrize('options, words', [
    (dict(crop=.2, rate=100.), 'crop=0.2 s is too short'), (dict(crop=2.5), 'give rate, too'),
    (dict(crop=-1., rate=100.), 'crop is -1')])
def test_impossible_crops(options, words):
    with pytest.raises(PedarrError, match=words): PedArrNet(3, encoder='residual', **options)
