"Losses between ECGs and texts: runs, saved heads, statements without words, batches without statements."
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from hypothesis import given, settings, strategies as st

from pedarr.core.errors import PedarrError
from pedarr.core.project import real_recordings
from pedarr.data.groupings import GROUPINGS
from pedarr.data.statement_words import (
    STATEMENT_WORDS, statement_kind, statements_to_leave_out, words_of)
from pedarr.evaluation.multilabel import choose_thresholds
from pedarr.losses.jaccard import JaccardSigmoid, JaccardSign, JaccardThreshold, SigLIP, jaccard_matrix
from pedarr.losses.phrases import SeenLoss, phrase_words, seen_statements, shuffled_texts
from pedarr.losses.registry import MULTI_LOSSES, make_multi_loss
from pedarr.signals.build import build_store
from pedarr.training.config import make_config
from pedarr.training.finished_runs import open_finished
from pedarr.training.kept_answers import kept_scores, read_kept
from pedarr.training.saved_models import load_model
from pedarr.training.train import run_training
from pedarr.use.model_folder import export_model, open_model
from test_multilabel import CONFIG, DB, SMALL, spoken, truth_and_probabilities     # noqa: F401, a fixture
from test_store import write_record

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


SAID = {'BOTH': 'fast and tall', 'FAST': 'fast wave', 'TALL': 'tall wave', 'TESTED': 'tested wave',
        'TRAINED': 'trained wave'}


@pytest.fixture
def described(spoken, monkeypatch):                              # noqa: F811
    for name, text in SAID.items(): monkeypatch.setitem(STATEMENT_WORDS, name, text)
    return spoken


@pytest.mark.parametrize('name', MULTI_LOSSES)
def test_what_is_left_out_has_no_gradient_and_no_say(name):
    g = torch.Generator().manual_seed(5)
    logits = torch.randn(6, 4, generator=g, requires_grad=True)
    target = (torch.rand(6, 4, generator=g) < .5).float()
    seen = np.array([True, False, True, True])
    loss = SeenLoss(make_multi_loss(name, [3, 3, 3]), seen)
    value = loss(logits, target)
    value.backward()
    assert (logits.grad[:, 1] == 0).all() and (logits.grad[:, 0] != 0).any()
    target[:, 1] = 1 - target[:, 1]
    assert loss(logits, target).item() == value.item()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 99))
def test_no_text_stays_when_all_are_shuffled(n, seed):
    texts = [str(i) for i in range(n)]
    again = shuffled_texts(texts, seed)
    assert sorted(again) == sorted(texts) and all(a != b for a, b in zip(again, texts))


@pytest.mark.parametrize('loss', ['jaccard', 'towers'])
def test_a_run_that_leaves_statements_out(described, tmp_path, loss):
    options = dict(loss=loss, loss_options=dict(embed=16, words=True, unseen='BOTH'), epochs=2)
    c = make_config(store=described, run=tmp_path/'r', **SMALL | options)
    found = open_finished(run_training(c, progress=False))
    assert 'left out of training: BOTH' in found.metrics.notes
    assert found.classes[0] == 'BOTH' and found.predictions.p_BOTH.nunique() > 1      # answered all the same
    model, _ = load_model(tmp_path/'r')
    words, = model.head.tower.words[:1]
    assert (words != 0).sum() == 2                               # fast and tall; nobody has trained 'and'
    other = c.replace(run=str(tmp_path/'s'), loss_options=c.loss_options | dict(shuffled=True))
    run_training(other, progress=False)
    assert not torch.equal(load_model(tmp_path/'s')[0].head.tower.words, model.head.tower.words)


@pytest.mark.parametrize('options, why', [
    (dict(words=True, unseen='BOHT'), "unknown statement in unseen 'BOHT': did you mean 'BOTH'"),
    (dict(words=True, unseen=' '.join(SAID)), 'unseen leaves 0 of 5 statements to train'),
    (dict(words=True, unseen='BOTH FAST TALL TESTED'), 'unseen leaves 1 of 5'),
    (dict(unseen='BOTH'), 'need descriptions: set words to true'),
    (dict(shuffled=True), 'need descriptions: set words to true'),
    (dict(words=True, unseen=3), 'must be text'),
    (dict(words=True, unseen='BOTH FAST'), 'BOTH: no word of the description is trained')])
def test_what_cannot_be_left_out(described, tmp_path, monkeypatch, options, why):
    monkeypatch.setitem(STATEMENT_WORDS, 'BOTH', 'quick')
    c = make_config(store=described, run=tmp_path/'r', **SMALL, loss='jaccard', loss_options=options)
    with pytest.raises(PedarrError, match=why) as e: run_training(c, progress=False)
    assert '\n' not in str(e.value) and not (tmp_path/'r').exists()


def test_a_statement_without_a_text(spoken, tmp_path):           # noqa: F811
    c = make_config(store=spoken, run=tmp_path/'r', **SMALL, loss='jaccard',
                    loss_options=dict(words=True, unseen='BOTH'))
    with pytest.raises(PedarrError, match='no description is known of BOTH'): run_training(c, progress=False)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_what_is_spared_can_be_described(seed, each):
    names = sorted(set(GROUPINGS['ptbxl_all'].values()))
    counts = dict(zip(names, np.random.default_rng(seed).integers(0, 900, len(names)).tolist()))
    out = statements_to_leave_out(counts, each)
    kinds = [statement_kind(name) for name in out]
    assert all(counts[name] >= 100 for name in out) and max(map(kinds.count, kinds)) <= each
    seen = seen_statements(names, ' '.join(out))
    left = set().union(*(words_of(STATEMENT_WORDS[n]) for n, s in zip(names, seen) if s))
    assert all(words_of(STATEMENT_WORDS[name]) <= left for name in out)
    texts = [STATEMENT_WORDS[name] for name in names]
    every = np.ones(len(names), bool)
    assert torch.equal(phrase_words(names, texts, seen), phrase_words(names, texts, every))


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
    for kind in ('diagnostic', 'rhythm'):
        assert {n for n in table.index if statement_kind(n) == kind} == set(table.index[table[kind] == 1])
    assert len(table) == 71 and table.description.to_dict().items() <= STATEMENT_WORDS.items()


NOTEBOOK = Path(__file__).resolve().parents[1]/'nbs'/'experiments'/'multilabel.ipynb'


def sinus_or_not(name: str) -> list[str]:
    "Statements of the made-up record p<i> under names of PTB-XL, each of two words that others share."
    i = int(name[1:])
    return ['STACH']*(i % 2) + ['SVTAC']*(i % 5 == 0) + ['SARRH']*(i % 3 == 0) + ['SVARR']*(i % 4 < 2)


def run_notebook(folder, **parameters):
    papermill.execute_notebook(str(NOTEBOOK), str(folder/'done.ipynb'), parameters, kernel_name='python3',
                               progress_bar=False)


@pytest.mark.long
def test_the_notebook_on_a_small_store(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(50): write_record(tmp_path/'db', f'p{i:02d}', x=rng.normal(size=(500, 2)), fs=100.)
    db = replace(DB, read_statements=lambda record, db: sinus_or_not(record.name))
    store = build_store(tmp_path/'db', tmp_path/'store', db, config=CONFIG, progress=False).path
    small = {k: SMALL[k] for k in ('dim', 'depth', 'heads', 'batch_size')} | dict(model_options=dict(crop=1.))
    given = dict(store=str(store), out=str(tmp_path/'runs'), results=str(tmp_path/'results'), epochs=1,
                 seeds=2, systems='bce unseen shuffled', common=small, jobs=1, resamples=100, least=5)
    run_notebook(tmp_path, **given)
    read = lambda name: pd.read_csv(tmp_path/'results'/f'{name}.csv')
    scores = read('scores').set_index(['system', 'metric'])
    kept = sorted(p.name for p in (tmp_path/'results'/'answers').glob('*.safetensors.xz'))
    both = [read_kept(tmp_path/'results'/'answers', f'bce-official-{seed}') for seed in (0, 1)]
    again = np.mean([kept_scores(a, 100).value.jaccard for a in both])
    assert scores.value['BCE', 'jaccard'] == pytest.approx(again, abs=1e-5) and len(kept) == 4
    zero, each = read('zero_shot'), read('zero_shot_each')
    assert len(zero) == 2 and zero.statements.eq(2).all() and set(each['class']) == {'STACH', 'SVARR'}
    with pytest.raises(papermill.PapermillExecutionError, match='shares all its words'):
        run_notebook(tmp_path, **given | dict(least=1000))
    alone = given | dict(store='', out=given['results'], results=str(tmp_path/'again'), common={})
    run_notebook(tmp_path, **alone)                                         # of the kept answers
    tables = {f.name for f in (tmp_path/'results').glob('*.csv')}
    assert tables == {f.name for f in (tmp_path/'again').glob('*.csv')} and len(tables) == 6
    for name in tables: assert (tmp_path/'again'/name).read_bytes() == (tmp_path/'results'/name).read_bytes()
    (tmp_path/'results'/'statements.csv').unlink()
    with pytest.raises(papermill.PapermillExecutionError, match='statements.csv: is not there: give'):
        run_notebook(tmp_path, **alone)


@pytest.mark.long
def test_the_notebook_refuses_names_that_it_does_not_know(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="unknown system 'siglop'"):
        run_notebook(tmp_path, systems='siglop', store='s', out='o')
    with pytest.raises(papermill.PapermillExecutionError, match='out: give a folder for the runs'):
        run_notebook(tmp_path)
