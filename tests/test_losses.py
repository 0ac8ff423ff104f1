"Losses beside AGCACL: against slow loops, against torch, gradients, bad input."
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from pedarr.agcacl import AGCACL
from pedarr.losses import LOSSES, BalancedContrastive, SupCon, classification_loss, log_prior, make_loss
from pedarr.rhythms import PedarrError


def batch(seed=0, size=12, dim=5, classes=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=g, dtype=dtype), torch.randint(0, classes, (size,), generator=g)


# --- cross-entropy with logit adjustment

@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 10**5), min_size=4, max_size=4), st.floats(0, 3))
def test_adjustment_is_the_textbook_formula(seed, counts, a):
    f, y = batch(seed, dim=4)
    total, want = sum(counts), 0
    for row, c in zip(f.tolist(), y.tolist()):
        shifted = [v + a*math.log(n/total) for v, n in zip(row, counts)]
        want += (math.log(sum(math.exp(v) for v in shifted)) - shifted[c]) / len(f)
    assert classification_loss(f, y, counts, a).item() == pytest.approx(want, abs=1e-9)


def test_strength_zero_is_cross_entropy_to_the_bit():
    f, y = batch(dim=4, dtype=torch.float32)
    assert torch.equal(classification_loss(f, y, [1000, 1, 0, 5]), F.cross_entropy(f, y))


def test_balanced_counts_make_no_difference():
    f, y = batch(dim=4)
    assert classification_loss(f, y, [9]*4, 1).item() == pytest.approx(F.cross_entropy(f, y).item(), abs=1e-12)


def test_empty_class_is_finite_also_when_it_comes():
    f, y = batch(dim=4)
    f.requires_grad_()
    value = classification_loss(f, torch.full_like(y, 2), [10, 5, 0, 1], 2.)
    value.backward()
    assert value.isfinite() and f.grad.isfinite().all() and log_prior([10, 5, 0, 1]).isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32(dtype):
    f, y = batch(dim=4)
    f = f.to(dtype)
    with torch.autocast('cpu', torch.bfloat16): got = classification_loss(f, y, [9, 5, 2, 1], 1.)
    assert got.dtype == torch.float32 and got.item() == classification_loss(f.float(), y, [9, 5, 2, 1], 1.).item()


@pytest.mark.parametrize('counts, strength, label, says', [
    ([1, 1, 1], 1, 0, '3 classes, the logits have 4'), ([0]*4, 1, 0, 'at least one positive'), ([1, 1, 1, -2], 1, 0, 'none negative'),
    ([1]*4, -1, 0, 'logit_adjust'), ([1]*4, math.nan, 0, 'logit_adjust'), ([1]*4, 1, 4, 'label 4 is outside 0..3'), ([1]*4, 1, -1, 'label -1')])
def test_bad_classification_input(counts, strength, label, says):
    with pytest.raises(PedarrError, match=says): classification_loss(torch.zeros(2, 4), torch.tensor([0, label]), counts, strength)


# --- pairs

def supcon_loop(z, y, tau):
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        same = [p for p in others if y[p] == y[i]]
        below = math.log(sum(math.exp(z[i] @ z[a] / tau) for a in others))
        if same: terms.append(-sum(z[i] @ z[p] / tau - below for p in same) / len(same))
    return sum(terms) / len(terms) if terms else 0.


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 6), st.floats(.1, 2))
def test_supcon_equals_the_loop(seed, size, classes, tau):
    e, y = batch(seed, size=size, classes=classes)
    assert SupCon(tau)(e, y).item() == pytest.approx(float(supcon_loop(F.normalize(e, dim=1), y, tau)), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 4), st.floats(.1, 2))
def test_balanced_equals_the_loop(seed, size, classes, tau):
    e, y = batch(seed, size=size, classes=classes)
    loss = BalancedContrastive(4, 5, tau).double()
    z, c = F.normalize(e, dim=1), F.normalize(loss.centres.detach(), dim=1)
    want = 0
    for i in range(size):
        groups = [[z[k] for k in range(size) if y[k] == j and k != i] + [c[j]] for j in range(4)]
        below = math.log(sum(sum(math.exp(z[i] @ k / tau) for k in g) / len(g) for g in groups))
        want -= sum(float(z[i] @ p / tau) - below for p in groups[y[i]]) / len(groups[y[i]]) / size
    assert loss(e, y).item() == pytest.approx(want, abs=1e-9)


def test_gradients_of_the_pair_losses():
    e, y = batch(size=6)
    e.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: SupCon(.3)(v, y), e)
    loss = BalancedContrastive(4, 5, .3).double()
    assert torch.autograd.gradcheck(lambda v: loss(v, y), e)
    loss(e, y).backward()
    assert (loss.centres.grad.norm(dim=1) > 0).all()             # every class pushes, in the batch or not


def test_supcon_leaves_lone_anchors_out():
    e, _ = batch(size=5)
    y = torch.tensor([0, 0, 0, 1, 2])
    loop = [supcon_loop(F.normalize(e, dim=1), y, .1)]
    assert SupCon()(e, y).item() == pytest.approx(float(loop[0]), abs=1e-9)
    for alone in (torch.arange(5), torch.tensor([7])):
        x = e[:len(alone)].clone().requires_grad_()
        value = SupCon()(x, alone)
        value.backward()
        assert value.item() == 0 and x.grad.abs().max() == 0


@pytest.mark.parametrize('name', [n for n in LOSSES if n != 'none'])
def test_every_loss_survives_small_temperatures_and_low_precision(name):
    e, y = batch(size=16, dtype=torch.float32)
    x = e.bfloat16().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16): value = make_loss(name, [9, 5, 2, 1], 5, tau=.01)(x, y)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and x.grad.isfinite().all()


@pytest.mark.parametrize('name', [n for n in LOSSES if n != 'none'])
def test_every_loss_ignores_the_order_of_samples_and_the_length_of_embeddings(name):
    e, y = batch(size=16)
    order = torch.randperm(16)
    values = []
    for args in ((e, y), (2.5*e[order], y[order])):
        torch.manual_seed(0)
        values.append(make_loss(name, [9, 5, 2, 1], 5).double()(*args).item())
    assert values[0] == pytest.approx(values[1], abs=1e-10)


@pytest.mark.parametrize('name', [n for n in LOSSES if n != 'none'])
def test_every_loss_falls_when_it_is_descended(name):
    e, y = batch(size=24, dim=8, dtype=torch.float32)
    loss, values = make_loss(name, [9, 5, 2, 1], 8), []
    for _ in range(40):
        e.requires_grad_()
        value = loss(e, y)
        e = (e - torch.autograd.grad(value, e)[0]).detach()
        values.append(value.item())
    assert values[-1] < .8*values[0]


# --- the registry

def test_registry():
    assert make_loss('none', [1, 2], 4) is None
    loss = make_loss('agcacl', [1, 2], 4, tau=.3, psi=False, separation=1)
    assert isinstance(loss, AGCACL) and (loss.tau, loss.psi, loss.separation) == (.3, False, 1)
    proto = make_loss('proto', [100, 2], 4)
    assert proto.separation == 0 and not proto.psi and torch.equal(proto.phi, torch.ones(2, dtype=torch.float64))
    assert not list(make_loss('agcacl', [1, 2], 4).parameters()) and len(list(make_loss('bcl', [1, 2], 4).parameters())) == 1


@pytest.mark.parametrize('name, kw, says', [
    ('focal', {}, "unknown loss 'focal': use one of none, agcacl, proto, supcon, bcl"), ('supcon', dict(beta=.9), "no option 'beta': it takes tau"),
    ('none', dict(tau=1), 'it takes none'), ('agcacl', dict(tau='warm'), 'must be a number'), ('agcacl', dict(phi=1), 'must be True or False'),
    ('agcacl', dict(tau=True), 'must be a number'), ('supcon', dict(tau=0), 'tau must be positive'), ('bcl', dict(tau=-1), 'tau must be positive')])
def test_bad_registry_input(name, kw, says):
    with pytest.raises(PedarrError, match=says) as error: make_loss(name, [3, 1], 4, **kw)
    assert '\n' not in str(error.value)


def test_bad_batches_of_the_pair_losses():
    for loss in (SupCon(), BalancedContrastive(3, 5)):
        with pytest.raises(PedarrError, match='label -1'): loss(torch.ones(2, 5), torch.tensor([0, -1]))
        with pytest.raises(PedarrError, match='whole numbers'): loss(torch.ones(2, 5), torch.tensor([0]))
    with pytest.raises(PedarrError, match='at least one row'): SupCon()(torch.ones(0, 5), torch.zeros(0, dtype=torch.long))
    with pytest.raises(PedarrError, match='label 3 is outside'): BalancedContrastive(3, 5)(torch.ones(2, 5), torch.tensor([0, 3]))
