"Losses beside AGCACL: against slow loops, against torch, gradients, bad input."
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from conftest import ROOT
from pedarr.losses.agcacl import AGCACL
from pedarr.losses.contrastive import (
    BalancedContrastive, FreshAGCACL, ProCo, SupCon, log_bessel,
    von_mises_fisher_concentration)
from pedarr.core.errors import PedarrError
from pedarr.losses.cross_entropy import (
    LDAM, CosineHead, FocalLoss, WeightedCrossEntropy, adjusted_cross_entropy, log_class_prior)
from pedarr.losses.registry import (
    LOSSES, HeadSpec, describe_loss, loss_head_spec, loss_terms, make_head, make_losses)

ON_LOGITS = [key for key, entry in LOSSES.items() if entry.kind == 'classification']
PLAIN = ['ce', 'logit', 'weighted', 'focal', 'ldam']          # whose formula stands in `numpy_loss`
ON_EMBEDDINGS = [key for key, entry in LOSSES.items() if entry.kind == 'contrastive' and key != 'none']


def make_contrastive_loss(*args, **options):
    "The contrastive term alone."
    return make_losses(*args, **options)[1]


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
    assert adjusted_cross_entropy(f, y, counts, a).item() == pytest.approx(want, abs=1e-9)


def test_strength_zero_is_cross_entropy_to_the_bit():
    f, y = batch(dim=4, dtype=torch.float32)
    assert torch.equal(adjusted_cross_entropy(f, y, [1000, 1, 0, 5]), F.cross_entropy(f, y))


def test_balanced_counts_make_no_difference():
    f, y = batch(dim=4)
    plain = F.cross_entropy(f, y).item()
    assert adjusted_cross_entropy(f, y, [9]*4, 1).item() == pytest.approx(plain, abs=1e-12)


def test_empty_class_is_finite_also_when_it_comes():
    f, y = batch(dim=4)
    f.requires_grad_()
    value = adjusted_cross_entropy(f, torch.full_like(y, 2), [10, 5, 0, 1], 2.)
    value.backward()
    assert value.isfinite() and f.grad.isfinite().all() and log_class_prior([10, 5, 0, 1]).isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32(dtype):
    f, y = batch(dim=4)
    f = f.to(dtype)
    with torch.autocast('cpu', torch.bfloat16): got = adjusted_cross_entropy(f, y, [9, 5, 2, 1], 1.)
    want = adjusted_cross_entropy(f.float(), y, [9, 5, 2, 1], 1.)
    assert got.dtype == torch.float32 and got.item() == want.item()


@pytest.mark.parametrize('counts, strength, label, says', [
    ([1, 1, 1], 1, 0, '3 classes, the logits have 4'), ([0]*4, 1, 0, 'at least one positive'),
    ([1, 1, 1, -2], 1, 0, 'none negative'),
    ([1]*4, -1, 0, 'logit_adjust'), ([1]*4, math.nan, 0, 'logit_adjust'),
    ([1]*4, 1, 4, 'label 4 is outside 0..3'), ([1]*4, 1, -1, 'label -1')])
def test_bad_classification_input(counts, strength, label, says):
    with pytest.raises(PedarrError, match=says):
        adjusted_cross_entropy(torch.zeros(2, 4), torch.tensor([0, label]), counts, strength)


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
    loop = float(supcon_loop(F.normalize(e, dim=1), y, tau))
    assert SupCon(tau)(e, y).item() == pytest.approx(loop, abs=1e-9)


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


def test_supcon_leaves_anchors_without_a_partner_out():
    e, _ = batch(size=5)
    y = torch.tensor([0, 0, 0, 1, 2])
    loop = [supcon_loop(F.normalize(e, dim=1), y, .1)]
    assert SupCon()(e, y).item() == pytest.approx(float(loop[0]), abs=1e-9)
    for alone in (torch.arange(5), torch.tensor([7])):
        x = e[:len(alone)].clone().requires_grad_()
        value = SupCon()(x, alone)
        value.backward()
        assert value.item() == 0 and x.grad.abs().max() == 0


@pytest.mark.parametrize('name', ON_EMBEDDINGS)
def test_every_loss_survives_small_temperatures_and_low_precision(name):
    e, y = batch(size=16, dtype=torch.float32)
    x = e.bfloat16().requires_grad_()
    loss = make_contrastive_loss(name, [9, 5, 2, 1], 5, tau=.01)
    with torch.autocast('cpu', torch.bfloat16): value = loss(x, y)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and x.grad.isfinite().all()


@pytest.mark.parametrize('name', ON_EMBEDDINGS)
def test_every_loss_ignores_the_order_of_samples_and_the_length_of_embeddings(name):
    e, y = batch(size=16)
    order = torch.randperm(16)
    values = []
    for args in ((e, y), (2.5*e[order], y[order])):
        torch.manual_seed(0)
        values.append(make_contrastive_loss(name, [9, 5, 2, 1], 5).double()(*args).item())
    assert values[0] == pytest.approx(values[1], abs=1e-10)


@pytest.mark.parametrize('name', ON_EMBEDDINGS)
def test_every_loss_falls_when_it_is_descended(name):
    e, y = batch(size=24, dim=8, dtype=torch.float32)
    loss, values = make_contrastive_loss(name, [9, 5, 2, 1], 8), []
    for _ in range(40):
        e.requires_grad_()
        value = loss(e, y)
        e = (e - torch.autograd.grad(value, e)[0]).detach()
        values.append(value.item())
    assert values[-1] < .8*values[0]


# --- the registry

def test_registry():
    assert make_contrastive_loss('none', [1, 2], 4) is None
    loss = make_contrastive_loss('agcacl', [1, 2], 4, tau=.3, psi=False, separation=1)
    assert isinstance(loss, AGCACL) and (loss.tau, loss.psi, loss.separation) == (.3, False, 1)
    proto = make_contrastive_loss('proto', [100, 2], 4)
    assert proto.separation == 0 and not proto.psi and proto.phi.tolist() == [1, 1]
    assert make_contrastive_loss('agcacl', [1, 2], 4) is not None
    assert make_contrastive_loss('focal', [1, 2], 4) is None
    assert not list(make_contrastive_loss('agcacl', [1, 2], 4).parameters())
    assert len(list(make_contrastive_loss('bcl', [1, 2], 4).parameters())) == 1


@pytest.mark.parametrize('name, kw, says', [
    ('hinge', {}, "unknown loss 'hinge': .*use one of .*agcacl"),
    ('supcon', dict(beta=.9), "no option 'beta': it takes tau"),
    ('none', dict(tau=1), 'it takes none'), ('focal', dict(tau=1), 'it takes focus'),
    ('proco', dict(tau=0), 'tau must be positive'),
    ('agcacl+focal', {}, 'in this order'), ('ldam+agcacl+bcl', {}, 'join one of '),
    ('focal+', {}, "unknown loss ''"), ('', {}, "unknown loss ''"),
    ('focal', dict(focus=-1), 'focus must be 0'), ('ldam', dict(margin=2), r'margin must lie in \[0, 2\)'),
    ('ldam', dict(scale=0), 'scale must be positive'),
    ('ldam', dict(defer=1.1), r'defer must lie in \[0, 1\]'),
    ('weighted', dict(class_beta=1), r'beta must lie in \[0, 1\)'),
    ('logit', dict(strength=-1), 'logit_adjust must be 0'),
    ('agcacl', dict(tau='warm'), 'must be a number'), ('agcacl', dict(phi=1), 'must be True or False'),
    ('agcacl', dict(tau=True), 'must be a number'), ('supcon', dict(tau=0), 'tau must be positive'),
    ('bcl', dict(tau=-1), 'tau must be positive')])
def test_bad_registry_input(name, kw, says):
    with pytest.raises(PedarrError, match=says) as error: make_contrastive_loss(name, [3, 1], 4, **kw)
    assert '\n' not in str(error.value)


def test_bad_batches_of_the_pair_losses():
    for loss in (SupCon(), BalancedContrastive(3, 5)):
        with pytest.raises(PedarrError, match='label -1'): loss(torch.ones(2, 5), torch.tensor([0, -1]))
        with pytest.raises(PedarrError, match='whole numbers'): loss(torch.ones(2, 5), torch.tensor([0]))
    with pytest.raises(PedarrError, match='at least one row'):
        SupCon()(torch.ones(0, 5), torch.zeros(0, dtype=torch.long))
    with pytest.raises(PedarrError, match='label 3 is outside'):
        BalancedContrastive(3, 5)(torch.ones(2, 5), torch.tensor([0, 3]))


# --- classification terms

def numpy_loss(name, f, y, counts, late=False):
    "Each classification loss in plain python, for the default options; LDAM's logits are cosines times 30."
    total, weights, terms = sum(counts), [], []
    for row, c in zip(f.tolist(), y.tolist()):
        row, w = list(row), 1.
        if name == 'logit': row = [v + math.log(n/total) for v, n in zip(row, counts)]
        if name == 'ldam': row[c] -= 30 * .5 * (min(counts)/counts[c])**.25
        if name == 'weighted' or late: w = 1 / (1 - (.9999 if late else .999)**counts[c])
        p = math.exp(row[c]) / sum(math.exp(v) for v in row)
        terms.append(-w * (1-p)**(2 if name == 'focal' else 0) * math.log(p))
        weights.append(w)
    return sum(terms) / sum(weights)


@pytest.mark.parametrize('name, late', [*((n, False) for n in PLAIN), ('ldam', True)])
def test_classification_losses_equal_plain_python(name, late):
    for seed in range(5):
        f, y = batch(seed, dim=4)
        loss = make_losses(name, [900, 40, 5, 1], 4)[0]
        if name == 'ldam': loss.start_epoch(8 if late else 7, 10)
        assert loss(f, y).item() == pytest.approx(numpy_loss(name, f, y, [900, 40, 5, 1], late), rel=1e-9)


@pytest.mark.parametrize('name', ON_LOGITS)
def test_classification_losses_have_right_gradients_and_survive_half_precision(name):
    f, y = batch(size=6, dim=4)
    loss = make_losses(name, [900, 40, 5, 0], 4)[0]
    assert torch.autograd.gradcheck(lambda v: loss(v, y), f.requires_grad_())
    x = (100*f.detach()).bfloat16().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16): value = loss(x, y)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and x.grad.isfinite().all()
    for label in (torch.full_like(y, 4), torch.full_like(y, -1), y.float(), y[:2]):
        with pytest.raises(PedarrError): loss(f, label)


def test_focal_of_a_sure_answer_has_a_finite_gradient():
    for focus in (0., .5, 2.):
        f = torch.tensor([[200., 0.], [-200., 0.]], requires_grad=True)
        FocalLoss([1, 1], focus)(f, torch.tensor([0, 0])).backward()
        assert f.grad.isfinite().all()


def test_logit_is_cross_entropy_with_strength():
    f, y = batch(dim=4)
    for strength in (0., 1., 2.):
        counts = [9, 5, 2, 1]
        by_name = make_losses('logit', counts, 4, strength=strength)[0](f, y)
        assert torch.equal(by_name, make_losses('agcacl', counts, 4, logit_adjust=strength)[0](f, y))
        assert torch.equal(by_name, adjusted_cross_entropy(f, y, counts, strength))
    for name in ('logit', 'focal', 'ldam+agcacl', 'weighted'):
        with pytest.raises(PedarrError, match='takes no logit_adjust'):
            make_losses(name, [9, 5], 4, logit_adjust=1.)


def test_weights_and_margins_need_no_sample_of_every_class():
    assert WeightedCrossEntropy([10, 0]).weight.isfinite().all()
    assert LDAM([10, 0, 1]).margins.tolist() == pytest.approx([.5*10**-.25, .5, .5])
    with pytest.raises(PedarrError, match='at least one positive'): LDAM([0, 0])


def test_reweighting_begins_at_its_epoch():
    for defer, late in [(0., [True]*5), (.5, [False, False, False, True, True]), (1., [False]*5)]:
        loss = LDAM([9, 1], defer=defer)
        got = []
        for k in range(5):
            loss.start_epoch(k, 5)
            got.append(loss.late)
        assert got == late


def test_cosine_head():
    head, x = CosineHead(5, 3, 30.), torch.randn(7, 5)
    assert torch.allclose(head(x), 30*F.cosine_similarity(x[:, None], head.weight[None], dim=2), atol=1e-5)
    assert torch.allclose(head(x), head(9*x), atol=1e-5) and head.bias is None


def test_the_kind_of_a_loss_says_which_term_it_is(monkeypatch):
    for key in ('focal', 'supcon'): monkeypatch.setitem(LOSSES, f'my {key}', LOSSES[key])
    assert loss_terms('my focal') == ('my focal', 'none') and loss_terms('my supcon') == ('ce', 'my supcon')
    assert loss_terms('my focal+my supcon') == ('my focal', 'my supcon')
    with pytest.raises(PedarrError, match='one of .*ce, .*, my focal with one of none, .*, my supcon'):
        loss_terms('my supcon+my focal')


def test_terms_and_words():
    terms = {'none': ('ce', 'none'), 'bcl': ('ce', 'bcl'), 'ldam': ('ldam', 'none'),
             'focal+supcon': ('focal', 'supcon'), 'ce+none': ('ce', 'none')}
    assert {name: loss_terms(name) for name in terms} == terms
    a, b = make_losses('ldam+agcacl', [9, 1], 4, scale=10, tau_s=.3)
    assert (a.scale, b.tau_s) == (10, .3)
    assert all(describe_loss(n, .5) for n in LOSSES)
    words = 'LDAM with deferred reweighting + 2 x probabilistic contrastive loss'
    assert describe_loss('ldam+proco', 2) == words


def test_a_row_says_all_and_ldam_asks_for_cosines():
    assert set('none agcacl proto supcon bcl proco ce logit weighted focal ldam'.split()) <= set(LOSSES)
    assert all(e.short and e.words and callable(e.maker) for e in LOSSES.values())
    assert all(e.source for k, e in LOSSES.items() if k != 'none')
    assert [k for k in ('ce', 'focal', 'ldam', 'agcacl') if LOSSES[k].head == 'cosine'] == ['ldam']


@pytest.mark.parametrize('name', [*LOSSES, 'ldam+agcacl', 'focal+supcon'])
def test_the_head_is_the_one_that_the_attribute_used_to_tell(name):
    head, loss = loss_head_spec(name), make_losses(name, [3, 1], 4)[0]
    assert head.scale == getattr(loss, 'scale', None) and (head.kind == 'cosine') == (head.scale is not None)


def test_a_loss_with_a_scale_of_its_own_gets_no_cosine_head(monkeypatch):
    "A head is asked for by name: an attribute that is called scale asks for nothing."
    class Scaled(torch.nn.Module):
        scale = 5.
        def __init__(self, class_counts): super().__init__()
    monkeypatch.setitem(LOSSES, 'focal', LOSSES['focal']._replace(maker=Scaled))
    assert loss_head_spec('focal') == HeadSpec('linear')


def test_heads_by_hand_and_by_name():
    head = loss_head_spec('ldam+agcacl', scale=10, tau_s=.3)
    assert head == HeadSpec('cosine', 10)
    made = make_head(head, 5, 3)
    assert isinstance(made, CosineHead) and made.scale == 10 and made.weight.shape == (3, 5)
    torch.manual_seed(3)
    linear = make_head(loss_head_spec('ce'), 5, 3)
    torch.manual_seed(3)
    assert torch.equal(linear.weight, torch.nn.Linear(5, 3).weight)
    for name, options, says in [
            ('focal', dict(scale=10.), "no option 'scale'"),
            ('ldam', dict(scale=-1), 'scale must be positive'),
            ('ldam', dict(scale='big'), 'must be a number'), ('hinge', {}, 'unknown loss')]:
        with pytest.raises(PedarrError, match=says): loss_head_spec(name, **options)


# --- ProCo

@settings(max_examples=60, deadline=None)
@given(st.sampled_from([-.5, 0, .5, 1, 2.5, 7, 31, 63, 255]), st.floats(1e-2, 1e5))
def test_log_bessel_against_scipy(nu, x):
    from scipy.special import ive
    if (scaled := ive(nu, x)) < 1e-250: return                 # scipy underflows
    want = math.log(scaled) + x - nu*math.log(x)
    got = log_bessel(nu, torch.tensor(x, dtype=torch.float64)).item()
    assert got == pytest.approx(want, rel=1e-7, abs=1e-6)


def test_log_bessel_gradient():
    x = torch.tensor([.1, 2., 50., 900.], dtype=torch.float64, requires_grad=True)
    for nu in (.5, 3, 31): assert torch.autograd.gradcheck(lambda v: log_bessel(nu, v), x)


def test_proco_gradient_and_a_class_that_never_came():
    e, y = batch(size=30, classes=3)
    loss = ProCo([9, 5, 2, 1], 5, tau=.3)
    loss(e, y)
    loss.eval()
    x = e[:6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss(v, y[:6]), x)
    assert torch.isinf(loss.log_similarity(F.normalize(e, dim=1))[:, 3]).all()
    y[0] = 3                                                    # not seen: left out in evaluation
    assert loss(e, y).item() == pytest.approx(loss(e[1:], y[1:]).item(), abs=1e-12)


def test_proco_remembers_one_epoch_and_goes_on_to_the_bit():
    a, b = ProCo([9, 5, 2, 1], 5), ProCo([9, 5, 2, 1], 5)
    for epoch in range(2):
        a.start_epoch(epoch, 4)
        for k in range(2): a(*batch(10*epoch + k, dtype=torch.float32))
    b.load_state_dict(a.state_dict())
    for loss in (a, b): loss.start_epoch(2, 4)
    want = torch.stack([F.normalize(batch(10+k, dtype=torch.float32)[0], dim=1).double() for k in range(2)])
    labels = torch.stack([batch(10+k, dtype=torch.float32)[1] for k in range(2)])
    for c in range(4): assert torch.allclose(a.total[0, c], want[labels == c].sum(0), atol=1e-6)
    more = batch(40, dtype=torch.float32)
    assert a.number[1].sum() == 0 and torch.equal(a(*more), b(*more))


def test_proco_is_not_spoiled_by_a_broken_batch():
    loss = ProCo([9, 5, 2, 1], 5)
    loss(*batch(dtype=torch.float32))
    before = loss.total.clone()
    e, y = batch(1, dtype=torch.float32)
    e[2] = math.nan
    assert loss(e, y).isnan() and torch.equal(loss.total, before)


def test_concentration_is_finite_at_both_ends():
    k = von_mises_fisher_concentration(torch.tensor([0., .3, 1., 1.0000001], dtype=torch.float64), 16)
    assert k.isfinite().all() and bool((k[:-1].diff() > 0).all()) and k[-1] == 1e5


# --- a library that others use

@pytest.fixture(scope='module')
def pml(): return pytest.importorskip('pytorch_metric_learning.losses')


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(1, 5), st.floats(.1, 2))
def test_supcon_equals_the_library(pml, seed, size, classes, tau):
    e, y = batch(seed, size=size, classes=classes)
    nobody_has_a_partner = (y[:, None] == y).sum() == size
    if nobody_has_a_partner or len(y.unique()) == 1: return         # without a negative the library says 0
    e.requires_grad_()
    ours, theirs = SupCon(tau)(e, y), pml.SupConLoss(temperature=tau)(e, y)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9, abs=1e-9)
    assert torch.allclose(torch.autograd.grad(ours, e)[0], torch.autograd.grad(theirs, e)[0], atol=1e-9)


def test_prototype_softmax_equals_the_library(pml):
    e, y = batch(size=24)
    P = F.normalize(torch.stack([F.normalize(e, dim=1)[y == c].sum(0) for c in range(4)]), dim=1)
    theirs = pml.NormalizedSoftmaxLoss(4, 5, temperature=.1).double()
    theirs.W.data = P.T.clone()
    ours = make_contrastive_loss('proto', [9, 5, 2, 1], 5).double()
    assert ours(e, y).item() == pytest.approx(theirs(e, y).item(), abs=1e-9)


def test_ldam_of_alike_classes_is_cosface(pml):
    e, y = batch(size=24)
    theirs, head = pml.CosFaceLoss(4, 5, margin=.3, scale=20).double(), CosineHead(5, 4, 20.).double()
    head.weight.data = theirs.W.data.T.clone()
    ours = LDAM([7]*4, margin=.3, scale=20.)
    assert ours(head(e), y).item() == pytest.approx(theirs(e, y).item(), abs=1e-9)


def test_the_tests_that_the_chapter_names_are_here():
    "In the table of nbs/6_losses/06_registry.ipynb; a new loss may be proved in its chapter alone."
    chapter = (ROOT/'nbs'/'6_losses'/'06_registry.ipynb').read_text(encoding='utf-8')
    named = dict(re.findall(r"'(\w+)': '(test_\w+)'", chapter))
    here = ''.join((ROOT/'tests'/f'test_{x}.py').read_text(encoding='utf-8') for x in ('losses', 'agcacl'))
    assert {'agcacl', 'proto', 'supcon', 'bcl', 'proco', *PLAIN} <= set(named) <= set(LOSSES)
    assert [name for name in named.values() if f'def {name}(' not in here] == []


@pytest.mark.parametrize('seed', range(3))
def test_prototypes_afresh_are_class_means(seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(60, 5, generator=g), torch.randint(0, 3, (60,), generator=g)
    loss = FreshAGCACL([20, 20, 20, 5], 5)
    loss(x[:20], y[:20])
    loss.renew(x, y)
    for c in range(3):
        mean = sum(v/v.norm() for v, k in zip(x, y) if k == c)
        assert torch.allclose(loss.prototypes[c], mean/mean.norm(), atol=1e-5)
    assert loss.seen.tolist() == [True]*3 + [False] and not loss.prototypes[3].any()


@pytest.mark.parametrize('name', ['agcacl_batch', 'agcacl_learned', 'agcacl_late', 'agcacl_fresh'])
def test_with_one_sample_a_class_and_no_memory_variants_are_agcacl(name):
    "Then the sample is the mean of the batch and the prototype, and all versions are one."
    x, y = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)).double(), torch.arange(4)
    plain = AGCACL([9, 5, 2, 1], 5, momentum=0.).double()
    own = make_losses(name, [9, 5, 2, 1], 5)[1].double()
    own.momentum = 0.
    if name == 'agcacl_learned': own.prototypes.data = torch.nn.functional.normalize(x, dim=1)
    if name == 'agcacl_late': own.start_epoch(3, 10)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    want, got = plain(a, y), own(b, y)
    assert abs(want - got) < 1e-12
    if name == 'agcacl_learned': return                # its gradient is shared out otherwise
    want.backward(), got.backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-12)


@pytest.mark.parametrize('name, options', [('agcacl_late', dict(start=1.)), ('agcacl_late', dict(start=-.1))])
def test_bad_options_of_variants_are_one_line(name, options):
    with pytest.raises(PedarrError, match='start must lie in') as e: make_losses(name, [3, 1], 5, **options)
    assert '\n' not in str(e.value)
