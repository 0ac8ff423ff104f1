"Learning before labels: objectives, views, features, the loop."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from pedarr.losses.contrastive import SupCon
from pedarr.losses.physiology import (
    beat_targets, physioclr, physiological_pairs, pool_beats, soft_targets)
from pedarr.losses.unlabelled import cmsc, nt_xent, soft_contrast


def drawn(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- objectives

@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_classes_as_targets_give_supcon(seed, n):
    z, y = drawn(n, 4, seed=seed), torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(seed))
    same = (y[:, None] == y).double()
    assert soft_contrast(z, same, .2).item() == pytest.approx(SupCon(.2)(z, y).item(), abs=1e-9)


def test_soft_contrast_by_a_loop():
    z, t = drawn(5, 3), torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).double()
    t[2] = 0
    unit, rows = torch.nn.functional.normalize(z, dim=1), []
    for i in [0, 1, 3, 4]:
        below = sum((unit[i] @ unit[j]/.3).exp() for j in range(5) if j != i)
        pull = [t[i, j]*((unit[i] @ unit[j]/.3).exp()/below).log() for j in range(5) if j != i]
        rows.append(-sum(pull)/sum(t[i, j] for j in range(5) if j != i))
    assert soft_contrast(z, t, .3).item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-12)


def test_physioclr_by_a_loop_official_and_bounded():
    f, z, v = drawn(6, 2, seed=3), drawn(6, 4, seed=4), drawn(2, 6, 4, seed=5)
    positive, negative = physiological_pairs(f)
    cosine = lambda a, b: (a @ b/(a.norm()*b.norm())).item()/.1
    for bounded in (True, False):
        rows = []
        for i in range(6):
            near = [cosine(z[i], v[k, i]) for k in (0, 1)]
            near += [cosine(z[i], z[j]) for j in range(6) if positive[i, j]]
            far = [cosine(z[i], z[j]) for j in range(6) if negative[i, j]]
            above = near + far if bounded else far
            if far: rows.append(np.logaddexp.reduce(above) - np.logaddexp.reduce(near))
        assert physioclr(z, v, positive, negative, .1, bounded).item() == pytest.approx(np.mean(rows))


def test_windows_without_features_keep_their_own_views():
    f = torch.full((4, 3), torch.nan)
    positive, negative = physiological_pairs(f)
    z, v = drawn(4, 3), drawn(2, 4, 3, seed=1)
    assert not positive.any() and not negative.any() and physioclr(z, v, positive, negative).item() == 0
    both = torch.cat([z, v[0]])
    want = nt_xent(z, v[0]).item()
    assert soft_contrast(both, soft_targets(f, 5.)).item() == pytest.approx(want, abs=1e-6)


def test_beats_of_unknown_class_and_none_at_all():
    unknown = beat_targets(torch.full((3,), -1))
    assert torch.equal(unknown, soft_targets(torch.full((3, 1), torch.nan)))
    assert soft_contrast(torch.zeros(0, 4), beat_targets(torch.zeros(0, dtype=torch.long))).item() == 0
    beat, there = pool_beats(torch.ones(1, 2, 5), torch.full((1, 3), -1), 16, 100.)
    assert not there.any() and not beat.any()


def test_objectives_in_half_precision_are_computed_in_float32():
    z = drawn(8, 4).to(torch.bfloat16)
    who = torch.arange(4)
    for value in (nt_xent(z[:4], z[4:]), cmsc(z[:4], z[4:], who), soft_contrast(z, torch.ones(8, 8))):
        assert value.dtype == torch.float32 and value.isfinite()
