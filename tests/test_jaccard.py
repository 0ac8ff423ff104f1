"Losses between ECGs and texts: runs, saved heads, statements without words, batches without statements."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from pedarr.core.errors import PedarrError
from pedarr.core.project import real_recordings
from pedarr.data.statement_words import STATEMENT_WORDS
from pedarr.evaluation.multilabel import choose_thresholds
from pedarr.losses.jaccard import JaccardSigmoid, JaccardSign, JaccardThreshold, SigLIP, jaccard_matrix
from pedarr.losses.registry import MULTI_LOSSES, make_multi_loss
from pedarr.training.config import make_config
from pedarr.training.finished_runs import open_finished
from pedarr.training.saved_models import load_model
from pedarr.training.train import run_training
from pedarr.use.model_folder import export_model, open_model
from test_multilabel import SMALL, spoken, truth_and_probabilities     # noqa: F401, a fixture

PAIRS = [JaccardSigmoid, JaccardSign, JaccardThreshold, SigLIP]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 5))
def test_the_index_is_that_of_python_sets(seed, n, c):
    y = torch.rand(n, c, generator=torch.Generator().manual_seed(seed)) < .4
    sets = [set(row.nonzero()[:, 0].tolist()) for row in y]
    want = [[len(a & b)/len(a | b) if a | b else 1. for b in sets] for a in sets]
    np.testing.assert_allclose(jaccard_matrix(y, y), want, atol=1e-6)


@pytest.mark.parametrize('kind', PAIRS)
def test_pairs_by_a_loop(kind):
    "Each pair on its own, from vectors: no matrix product, no mean of logits."
    g = torch.Generator().manual_seed(3)
    x, e = (torch.nn.functional.normalize(torch.randn(n, 4, generator=g).double(), dim=1) for n in (5, 3))
    target = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 0]])
    loss, values = kind([3, 3, 1]), []
    wanted = loss.wanted(target)
    for i in range(5):
        for j in range(5):
            own = e[target[j].bool()]
            if len(own): values.append(loss.of_pairs(3*x[i] @ own.mean(0) - 1, wanted[i, j].double()))
    got = loss(3*x @ e.T - 1, target)
    assert len(values) == 20 and got.item() == pytest.approx(torch.stack(values).mean().item(), abs=1e-12)


@pytest.mark.parametrize('name', MULTI_LOSSES)
def test_a_batch_without_statements_is_finite(name):
    logits = torch.randn(3, 2, requires_grad=True)
    value = make_multi_loss(name, [1, 1])(logits, torch.zeros(3, 2))
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize('options', [{}, dict(same_set=True)])
def test_siglip_knows_its_own_text(options):
    target = torch.tensor([[1., 0], [1, 0], [0, 1]])
    own = SigLIP([2, 1], **options).wanted(target)
    assert own.sum() == (5 if options else 3) and own.diagonal().sum() == 3


def test_a_run_with_two_towers(spoken, tmp_path):                # noqa: F811
    options = dict(loss='jaccard', loss_options=dict(embed=16), epochs=6)
    run = run_training(make_config(store=spoken, run=tmp_path/'r', **SMALL | options), progress=False)
    model, card = load_model(run)
    assert card['phrase_head'] == dict(embed=16, words=False) and card['cosine_head'] is None
    assert model.head.phrases().shape == (5, 16)
    found = open_finished(run)
    assert found.metrics.loss == 'jaccard' and found.history.classification.iloc[-1] < .7
    chosen = choose_thresholds(*truth_and_probabilities(found.validation, found.classes))
    assert [row['threshold'] for row in found.scores['per_class']] == pytest.approx(chosen.tolist())
    given = open_model(export_model(run, tmp_path/'given'))             # the head goes with it
    assert given.facts.phrase_head.embed == 16


def test_towers_of_words(spoken, tmp_path, monkeypatch):         # noqa: F811
    options = dict(loss='towers', loss_options=dict(embed=8, words=True), epochs=1)
    c = make_config(store=spoken, run=tmp_path/'r', **SMALL | options)
    with pytest.raises(PedarrError, match='no description is known of BOTH'): run_training(c, progress=False)
    assert not (tmp_path/'r').exists()
    said = {'BOTH': 'fast and tall', 'FAST': 'fast', 'TALL': 'tall', 'TESTED': 'test', 'TRAINED': 'train'}
    for name, text in said.items(): monkeypatch.setitem(STATEMENT_WORDS, name, text)
    model, card = load_model(run_training(c, progress=False))
    assert card['phrase_head']['words'] and model.head.tower.words.any(1).all()       # kept with the weights


@pytest.mark.parametrize('options, why', [
    (dict(loss='jaccard', loss_options=dict(embed=.5)), 'must be a whole number'),
    (dict(loss='siglip', loss_options=dict(words='yes')), 'must be True or False'),
    (dict(loss='asymmetric', loss_options=dict(embed=8)), "no option 'embed'"),
    (dict(loss='jaccard_c', loss_options=dict(theta=2)), 'theta must lie in')])
def test_options_that_are_refused(spoken, tmp_path, options, why):   # noqa: F811
    with pytest.raises(PedarrError, match=why):
        run_training(make_config(store=spoken, run=tmp_path/'r', **SMALL | options), progress=False)


def test_the_words_are_those_of_the_release():
    file = real_recordings('ptbxl')/'scp_statements.csv'
    if not file.exists(): pytest.skip(f'{file} is not here')
    table = pd.read_csv(file, index_col=0)
    assert len(table) == 71 and table.description.to_dict().items() <= STATEMENT_WORDS.items()
