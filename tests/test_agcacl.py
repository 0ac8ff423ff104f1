"AGCACL: an independent reading of the seven steps, properties, gradients, several processes, bad input."
import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from pedarr.losses.agcacl import (
    AGCACL, alignment_term, batch_means, frequency_weights, log_hard_class_weights, separation_term,
    unit_vectors)
from pedarr.losses.contrastive import ProCo
from pedarr.core.errors import PedarrError

COUNTS = (30, 12, 5, 1)


def batch(seed=0, size=24, dim=6, classes=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=g, dtype=dtype), torch.randint(0, classes, (size,), generator=g)


class Slow:
    "The design's seven steps in numpy, with loops, written without looking at the module."

    def __init__(self, counts, tau, tau_s, mu, beta, lam, phi, psi):
        self.tau, self.tau_s, self.mu, self.lam, self.psi, self.p = tau, tau_s, mu, lam, psi, {}
        w = [(1-beta) / (1-beta**n) for n in counts]
        scale = sum(counts) / sum(n*x for n, x in zip(counts, w))
        self.phi = [x*scale if phi else 1. for x in w]

    def __call__(self, e, y):
        norm = lambda v: v / np.linalg.norm(v)
        z = [norm(v) for v in np.asarray(e)]
        for c in set(y.tolist()):
            m = norm(sum(v for v, label in zip(z, y.tolist()) if label == c))
            self.p[c] = norm(self.mu*self.p[c] + (1-self.mu)*m) if c in self.p else m
        A = sorted(self.p)
        if len(A) < 2: return 0.
        S = {(c, d): self.p[c] @ self.p[d] for c in A for d in A}

        def psi(c, d):
            if c == d or not self.psi: return 1.
            row = sum(math.exp(S[c, k]/self.tau_s) for k in A if k != c)
            return (len(A)-1) * math.exp(S[c, d]/self.tau_s) / row
        L_a = 0.
        for v, c in zip(z, y.tolist()):
            below = sum(psi(c, d) * math.exp(v @ self.p[d] / self.tau) for d in A)
            L_a -= self.phi[c] * math.log(math.exp(v @ self.p[c] / self.tau) / below) / len(z)
        def mean(c): return sum(psi(c, d) * math.exp(S[c, d]/self.tau) for d in A if d != c) / (len(A)-1)
        rows = [math.log(mean(c)) for c in A]
        return L_a + self.lam * self.tau * np.mean(rows)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), tau=st.floats(.05, 2), tau_s=st.floats(.05, 2), mu=st.floats(0, .99),
       beta=st.floats(0, .9999),
       lam=st.floats(0, 3), phi=st.booleans(), psi=st.booleans())
def test_equals_the_slow_reading_over_several_batches(seed, tau, tau_s, mu, beta, lam, phi, psi):
    fast = AGCACL(COUNTS, 6, tau, tau_s, mu, beta, lam, phi, psi).double()
    slow = Slow(COUNTS, tau, tau_s, mu, beta, lam, phi, psi)
    for k, classes in enumerate([2, 4, 1, 4]):            # classes appear, go away and come back
        e, y = batch(seed+k, classes=classes, size=8)
        assert fast(e, y).item() == pytest.approx(slow(e, y), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 9), dim=st.integers(2, 8), tau=st.floats(.03, 3),
       tau_s=st.floats(.03, 3))
def test_separation_has_its_floor_and_psi_only_raises_it(seed, n, dim, tau, tau_s):
    g = torch.Generator().manual_seed(seed)
    P = unit_vectors(torch.randn(n, dim, generator=g, dtype=torch.float64))[0]
    S = P @ P.T
    with_psi = separation_term(S, log_hard_class_weights(S, tau_s), tau)
    plain = separation_term(S, torch.zeros_like(S), tau)
    assert with_psi >= plain - 1e-12 and plain >= -1/(n-1) - 1e-12


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12).filter(any), st.floats(0, .99999))
def test_phi_keeps_the_total_and_never_favours_the_common(counts, beta):
    phi = frequency_weights(counts, beta)
    n = torch.tensor(counts, dtype=torch.float64)
    assert (n*phi).sum().item() == pytest.approx(n.sum().item())
    order = n.argsort()
    assert bool((phi[order].diff() <= 1e-12).all()) and bool((phi > 0).all())


def test_psi_rows_average_one_over_the_other_classes():
    S = torch.rand(5, 5, dtype=torch.float64)
    psi = log_hard_class_weights(S, .2).exp()
    assert torch.allclose(psi.sum(1) - psi.diagonal(), torch.full((5,), 4., dtype=torch.float64))
    assert torch.equal(psi.diagonal(), torch.ones(5, dtype=torch.float64))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.permutations(range(4)))
def test_rotation_renaming_order_and_length_change_nothing(seed, new_name):
    new_name = torch.tensor(new_name)
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=g))[0]
    counts = torch.zeros(4, dtype=torch.float64)
    counts[new_name] = torch.tensor(COUNTS, dtype=torch.float64)
    a, b = AGCACL(COUNTS, 6).double(), AGCACL(counts, 6).double()
    for k in range(3):
        e, y = batch(seed+k)
        order = torch.randperm(len(y))
        turned = b((e @ turn * 3.7)[order], new_name[y][order])
        assert a(e, y).item() == pytest.approx(turned.item(), abs=1e-10)
    assert torch.allclose(a.prototypes @ turn, b.prototypes[new_name], atol=1e-10)


def test_gradcheck_of_every_step_and_of_the_module_in_evaluation():
    e, y = batch(size=8)
    loss = AGCACL(COUNTS, 6).double()
    loss(*batch(1))
    loss.eval()
    x = e.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss(v, y), x)
    assert torch.autograd.gradcheck(lambda v: batch_means(v, y, 4)[0], x)
    P = unit_vectors(torch.randn(4, 6, dtype=torch.float64))[0].requires_grad_()
    lp = log_hard_class_weights(P.detach() @ P.detach().T, .2)
    assert torch.autograd.gradcheck(lambda p: separation_term(p @ p.T, lp, .1), P)
    def aligned(v): return alignment_term(unit_vectors(v)[0], y, P, lp, loss.phi[y], .1)
    assert torch.autograd.gradcheck(aligned, x)


def test_alignment_and_psi_give_the_prototypes_no_gradient():
    P = unit_vectors(torch.randn(4, 6))[0].requires_grad_()
    e, y = batch(dtype=torch.float32)
    assert not alignment_term(e, y, P, torch.zeros(4, 4), torch.ones(len(y)), .1).requires_grad
    assert not log_hard_class_weights(P @ P.T, .2).requires_grad


def test_gradients_reach_a_prototype_through_the_batch_mean_only():
    loss = AGCACL(COUNTS, 6).double()
    loss(*batch(1))
    e, y = batch(2, classes=2)
    e.requires_grad_()
    p, _ = loss.current_prototypes(unit_vectors(e)[0], y)
    assert torch.autograd.grad(p[:2].sum(), e, retain_graph=True)[0].abs().max() > 0
    assert torch.autograd.grad(p[2:].sum(), e)[0].abs().max() == 0      # not in the batch: constants


def test_evaluation_reads_and_does_not_update():
    loss = AGCACL(COUNTS, 6)
    loss(*batch(0, classes=3, dtype=torch.float32))
    before = copy.deepcopy(loss.state_dict())
    loss.eval()
    e, y = batch(1, dtype=torch.float32)
    y[0] = 3
    value = loss(e, y)
    assert all(torch.equal(before[k], v) for k, v in loss.state_dict().items())
    known = loss(e[y < 3], y[y < 3]).item()                       # class 3 has no prototype: left out
    assert value.item() == pytest.approx(known, rel=1e-6)
    only = e[y == 3].requires_grad_()
    rest = loss(only, y[y == 3])
    rest.backward()
    assert rest.isfinite() and only.grad.abs().max() == 0


def test_a_checkpoint_carries_the_prototypes_and_a_resumed_run_goes_on_to_the_bit():
    a, b = AGCACL(COUNTS, 6), AGCACL(COUNTS, 6)
    for k in range(3): a(*batch(k, dtype=torch.float32))
    assert set(a.state_dict()) == {'prototypes', 'seen'}
    b.load_state_dict(a.state_dict())
    for k in range(3, 6):
        more = batch(k, dtype=torch.float32)
        assert torch.equal(a(*more), b(*more))
    assert torch.equal(a.prototypes, b.prototypes)


def test_two_forward_passes_before_one_backward():
    loss = AGCACL(COUNTS, 6)
    e, y = batch(0, dtype=torch.float32)
    e.requires_grad_()
    (loss(e, y) + loss(e, y)).backward()
    assert e.grad.isfinite().all()


def test_one_class_gives_exactly_zero():
    e, y = batch(classes=1)
    e.requires_grad_()
    value = AGCACL(COUNTS, 6)(e, y)
    value.backward()
    assert value.item() == 0 and e.grad.abs().max() == 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_computed_in_float32(dtype):
    e, y = batch(dtype=torch.float32)
    e = e.to(dtype).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16): value = AGCACL(COUNTS, 6)(e, y)
    assert value.dtype == torch.float32 and value.item() == AGCACL(COUNTS, 6)(e.detach().float(), y).item()
    value.backward()
    assert e.grad.dtype == dtype and e.grad.isfinite().all()


def test_float64_is_computed_in_float64_whatever_the_buffers():
    e, y = batch()
    a, b = AGCACL(COUNTS, 6), AGCACL(COUNTS, 6).double()
    assert a(e, y).dtype == torch.float64 and a(e, y) != b.float()(e.float(), y).double()
    assert a.prototypes.dtype == torch.float32


def test_broken_embeddings_do_not_spoil_the_prototypes():
    loss = AGCACL(COUNTS, 6)
    e, y = batch(dtype=torch.float32)
    loss(e, y)
    before = loss.prototypes.clone()
    bad = e.clone()
    bad[3] = math.nan
    assert loss(bad, y).isnan()                       # said, not hidden
    assert torch.equal(loss.prototypes, before)
    zero = torch.zeros_like(e).requires_grad_()
    value = loss(zero, y)
    value.backward()
    assert value.isfinite() and zero.grad.isfinite().all() and torch.equal(loss.prototypes, before)


def test_opposite_embeddings_of_one_class_have_no_mean_and_no_exploding_gradient():
    e = torch.tensor([[1., 0.], [-1., 0.], [0., 1.], [1., 1.]], requires_grad=True)
    loss = AGCACL([2, 1, 1], 2)
    value = loss(e, torch.tensor([0, 0, 1, 2]))
    value.backward()
    assert loss.seen.tolist() == [False, True, True] and value.isfinite() and e.grad.abs().max() < 1e3


def test_extreme_temperatures_stay_finite():
    e, y = batch(dtype=torch.float32)
    for tau in (1e-3, 1e3):
        x = e.clone().requires_grad_()
        value = AGCACL(COUNTS, 6, tau=tau, tau_s=tau)(x, y)
        value.backward()
        assert value.isfinite() and x.grad.isfinite().all()


@pytest.mark.parametrize('kw, says', [
    (dict(tau=0), 'tau must be positive'), (dict(tau=-1), 'tau'), (dict(tau=math.nan), 'tau'),
    (dict(tau_s=0), 'tau_s must be positive'),
    (dict(momentum=1), r'momentum must lie in \[0, 1\)'), (dict(momentum=-.1), 'momentum'),
    (dict(beta=1), r'beta must lie in \[0, 1\)'),
    (dict(beta=-.1), 'beta'), (dict(separation=-1), 'separation'), (dict(separation=math.inf), 'separation'),
    (dict(dim=0), 'dim must be'),
    (dict(class_counts=[0, 0]), 'at least one positive'), (dict(class_counts=[3, -1]), 'none negative'),
    (dict(class_counts=[]), 'list of counts'),
    (dict(class_counts=[math.nan, 1]), 'list of counts'), (dict(class_counts=[[1, 2]]), 'list of counts')])
def test_impossible_arguments(kw, says):
    with pytest.raises(PedarrError, match=says) as error: AGCACL(**{'class_counts': [3, 1], 'dim': 4, **kw})
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('e, y, says', [
    (torch.ones(2, 6), torch.tensor([0, 4]), 'label 4 is outside 0..3'),
    (torch.ones(2, 6), torch.tensor([-1, 0]), 'label -1 is outside'),
    (torch.ones(2, 5), torch.tensor([0, 1]), r'\[batch, 6\]'),
    (torch.ones(6), torch.tensor([0]), r'\[batch, 6\]'),
    (torch.ones(0, 6), torch.zeros(0, dtype=torch.long), 'at least one row'),
    (torch.ones(2, 6), torch.tensor([0]), '2 whole numbers'),
    (torch.ones(2, 6), torch.tensor([0., 1.]), 'whole numbers')])
def test_impossible_batches(e, y, says):
    loss = AGCACL(COUNTS, 6)
    with pytest.raises(PedarrError, match=says): loss(e, y)
    assert not loss.seen.any()


def test_label_of_a_class_without_training_samples_is_learned_as_a_rare_one():
    loss = AGCACL([10, 5, 0], 6)
    assert loss.phi[2] >= loss.phi[1]
    loss(*batch(classes=3, dtype=torch.float32))
    assert loss.seen.all()


def _worker(rank, folder, world):
    torch.set_num_threads(1)
    meet = f'file://{folder}/meet'
    torch.distributed.init_process_group('gloo', init_method=meet, rank=rank, world_size=world)
    net = torch.nn.Linear(6, 6, bias=False, dtype=torch.float64)
    net.load_state_dict(torch.load(f'{folder}/net.pt', weights_only=True))
    loss, means = AGCACL(COUNTS, 6, separation=2.).double(), ProCo(COUNTS, 6).double()
    for k in range(2):
        e, y = batch(k)
        part = slice(rank*len(y)//world, (rank+1)*len(y)//world)
        net.zero_grad()
        value = loss(net(e[part]), y[part])
        value.backward()
        means(e[part], y[part])
    for p in net.parameters():
        torch.distributed.all_reduce(p.grad)     # a data-parallel wrapper averages over processes
        p.grad /= world
    torch.distributed.all_reduce(value.detach_())
    torch.save({'grad': net.weight.grad, 'value': value/world, 'prototypes': loss.prototypes,
                'means': means.total}, f'{folder}/{rank}.pt')
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradient_of_one(tmp_path):
    dist = torch.distributed
    if not dist.is_available() or not dist.is_gloo_available(): pytest.skip('this torch has no gloo')
    net = torch.nn.Linear(6, 6, bias=False, dtype=torch.float64)
    torch.save(net.state_dict(), tmp_path/'net.pt')
    torch.multiprocessing.spawn(_worker, args=(str(tmp_path), 2), nprocs=2)
    loss, means = AGCACL(COUNTS, 6, separation=2.).double(), ProCo(COUNTS, 6).double()
    for k in range(2):
        net.zero_grad()
        value = loss(net(batch(k)[0]), batch(k)[1])
        value.backward()
        means(*batch(k))
    for rank in (0, 1):
        got = torch.load(tmp_path/f'{rank}.pt', weights_only=True)
        assert torch.allclose(got['grad'], net.weight.grad, atol=1e-12)
        assert torch.allclose(got['prototypes'], loss.prototypes, atol=1e-12)
        assert torch.allclose(got['means'], means.total, atol=1e-12)
        assert got['value'].item() == pytest.approx(value.item(), abs=1e-12)


def test_prototype_softmax_is_plain_cross_entropy():
    e, y = batch()
    z = F.normalize(e, dim=1)
    P = F.normalize(torch.stack([z[y == c].sum(0) for c in range(4)]), dim=1)
    got = AGCACL(COUNTS, 6, phi=False, psi=False, separation=0).double()(e, y)
    assert got.item() == pytest.approx(F.cross_entropy(z @ P.T / .1, y).item(), abs=1e-12)


def test_a_few_steps_of_training_pull_classes_apart():
    e, y = batch(size=32, dtype=torch.float32)
    loss, values = AGCACL(torch.bincount(y, minlength=4), 6), []
    for _ in range(60):
        e.requires_grad_()
        value = loss(e, y)
        e = (e - 2.*torch.autograd.grad(value, e)[0]).detach()
        values.append(value.item())
    z = unit_vectors(e)[0]
    assert values[-1] < .3*values[0] and bool(((z @ loss.prototypes.T).argmax(1) == y).all())


def test_a_batch_mean_opposite_to_its_prototype_leaves_it_where_it_is():
    loss = AGCACL([1, 1], 2, momentum=.5)
    loss(torch.tensor([[1., 0.], [0., 1.]]), torch.tensor([0, 1]))
    e = torch.tensor([[-1., 0.]], requires_grad=True)
    value = loss(e, torch.tensor([0]))
    value.backward()
    assert loss.prototypes.tolist() == [[1, 0], [0, 1]] and value.isfinite() and e.grad.abs().max() < 1e3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=7), st.integers(0, 10**6), st.floats(.1, 1),
       st.floats(.1, 1))
def test_samples_on_a_simplex_rest_whatever_the_class_sizes(counts, seed, tau, tau_s):
    n = len(counts)
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=g))[0]
    mean = F.pad(torch.full((n, n), 1/n, dtype=torch.float64), (0, 8-n))
    P = unit_vectors(torch.eye(n, 8, dtype=torch.float64) - mean)[0] @ turn
    y = torch.repeat_interleave(torch.arange(n), torch.tensor(counts))
    loss, e = AGCACL(counts, 8, tau, tau_s).double(), P[y].clone().requires_grad_()
    for _ in range(2): assert torch.autograd.grad(loss(e, y), e)[0].abs().max() < 1e-12
    assert torch.allclose(loss.prototypes, P, atol=1e-12)
