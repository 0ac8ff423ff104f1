"Stores from arrays: what is refused, what comes out, and that the same arrays give the same bytes."
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.signal import sosfiltfilt

from pedarr.core.errors import PedarrError
from pedarr.data.channels import CHANNELS
from pedarr.signals.arrays import store_from_arrays
from pedarr.signals.settings import PreprocessConfig, filter_sections, settling_seconds
from pedarr.signals.splits import make_split
from pedarr.signals.statements import with_statements
from pedarr.signals.store import FILES, open_store

NAMES = ['II', 'V1', 'RVA12']

def segments(n=12, t=500, seed=0):
    return np.random.default_rng(seed).normal(0, .5, (n, 3, t))

def make(path, x=None, rate=250, **other):
    x = segments() if x is None else x
    labels = ['SR', 'VT'] * (len(x) // 2)
    subjects = [f'p{i // 3}' for i in range(len(x))]
    return store_from_arrays(path, x, rate, **dict(channels=NAMES, labels=labels, subjects=subjects) | other)

def test_the_store_is_one_like_any_other(tmp_path):
    x = segments()
    store = make(tmp_path/'s', x, dtype='float32', folds=np.repeat([0, 1], 6),
                 statements=[['B', 'A'], []] * 6, rhythms=['N', 'VTm'] * 6)
    again = open_store(tmp_path/'s')                            # every hash is verified
    assert again.seal == store.seal and again.fs == 250 and again.config.window == 2
    ecg, iegm = again.take(slice(None))
    assert np.array_equal(ecg[:, [1, 6]], x[:, :2].astype('f4'))
    assert np.array_equal(iegm[:, 1], x[:, 2].astype('f4'))
    assert again.mask.sum() == 36 and again.mask[:, [1, 6, 13]].all()
    t = again.segments
    assert t.start.tolist() == [0, 500, 1000] * 4 and t.record.tolist() == t.subject.tolist()
    assert t.official.tolist() == [0] * 6 + [1] * 6 and t.statements[0] == 'A|B' and t.rhythm[1] == 'VTm'
    assert again.meta['mapping'] == {'N': 'SR', 'VTm': 'VT'} and again.meta['statements'] == ['A', 'B']

@pytest.mark.parametrize('labels', [['SR', 'VT']*6, ['']*12])
def test_who_and_where_are_checked_with_and_without_labels(tmp_path, labels):
    "A record of two subjects, and a subject in two folds."
    for change in (dict(records=['r']*6 + ['q']*6), dict(folds=[0, 1]*6)):
        with pytest.raises(PedarrError, match='has several values of'):
            make(tmp_path/'s', labels=labels, **change)
        assert not (tmp_path/'s').exists()

def test_a_label_needs_a_rhythm(tmp_path):
    for rhythms in ([''] * 12, ['N', ''] * 6):
        with pytest.raises(PedarrError, match='rhythm'): make(tmp_path/'s', rhythms=rhythms)
        assert not (tmp_path/'s').exists()

def test_statements_without_labels_can_be_tested(tmp_path):
    store = make(tmp_path/'s', labels=['']*12, folds=np.repeat([0, 1], 6), statements=[['A '], [' B']]*6)
    assert store.meta['statements'] == ['A', 'B'] and store.segments.evaluate.all()
    multi, _ = with_statements(store)
    assert set(make_split(multi.segments, 'official')) == {0, 1}

def test_a_segment_may_be_longer_than_a_chunk(tmp_path):
    store = make(tmp_path/'s', segments(4, 13_000), rate=100, subjects=[0, 0, 1, 1])
    assert store.config.window == 130

@pytest.mark.parametrize('words, change', [
    ('time first', dict(x=segments().transpose(0, 2, 1))),
    ('give .segments, channels, samples', dict(x=segments()[0])),
    ('no array of numbers', dict(x=[[[1., 2.], [3.]]]*12)),
    ('none of them 0', dict(x=segments()[:0], labels=[], subjects=[])),
    ('real numbers', dict(x=segments().astype(complex))),
    ('real numbers', dict(x=segments() > 0)),
    ('cut all to one length', dict(x=[*segments()[:11], segments()[0, :, :100]])),
    ('give a word', dict(name=None)),
    ('2 names were given: give a name', dict(channels=['II', 'V1'])),
    *[('channels=.*: give a list of names', dict(channels=c))
      for c in ('II', None, 5, iter(NAMES), {*NAMES})],
    *[('aliases=.*: give {', dict(aliases=a)) for a in (['II'], 'II', 0)],
    *[(f'{flag}=.*: give True or False', {flag: value}) for flag in ('simulated', 'uncalibrated')
      for value in ('no', None, 1, np.array([1, 0]))],
    ('folds: give one', dict(folds=[[1], *range(11)])),
    *[('statements: give a list', dict(statements=s)) for s in (5, 0, 'a', (['a'] for _ in range(12)))],
    ('at most 150000 are needed', dict(x=np.broadcast_to(segments()[..., :1], (12, 3, 150_001)))),
    ('oesophagus is none of', dict(channels=['II', 'V1', 'oesophagus'])),
    ('both channel II|keep one', dict(channels=['II', 'lead II', 'V1'])),
    ('microvolts times 0.001', dict(x=1000 * segments())),
    ('labels has the shape', dict(labels=['SR'] * 11)),
    ('two classes are needed', dict(labels=['SR'] * 12)),
    ('labels of segment 3', dict(labels=['SR', 'VT', 'SR', None] * 3)),
    ('labels of segment 1', dict(labels=['SR', .5] * 6)),
    ('subjects of segment 0', dict(subjects=[''] * 12)),
    ('subjects has the shape', dict(subjects='p' * 12)),
    ('record r has several values of subject', dict(records=['r'] * 12)),
    ('subject p0 has several values of official', dict(folds=np.arange(12))),
    ('rhythm N has several values of label', dict(rhythms=['N'] * 12)),
    ('whole numbers from 0', dict(folds=np.full(12, -2))),
    ('statements of segment 0', dict(statements=[['a|b']] * 12)),
    ('rate=', dict(rate=float('nan'))), ('rate=', dict(rate=True)), ('store_rate=', dict(store_rate=-1)),
    ('must end below half the rate', dict(iegm_band=(30, 220))),
    ('must rise', dict(ecg_band=(40, 2))),
    ('flat or missing everywhere', dict(x=np.zeros((12, 3, 500)))),
    ("unknown dtype 'int8'", dict(dtype='int8'))])
def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path, words, change):
    with pytest.raises(PedarrError, match=words) as e: make(tmp_path/'s', **change)
    assert '\n' not in str(e.value) and not list(tmp_path.iterdir())

@pytest.mark.parametrize('path', [None, 5, 'nul\0', 'half a pair \ud800'])
def test_what_no_folder_can_be_called_is_refused(path):
    with pytest.raises(PedarrError, match='^path=.*: give the path') as e: make(path)
    assert '\n' not in str(e.value) and str(e.value).isprintable()

def test_a_segment_that_resampling_makes_too_long_is_told_in_samples(tmp_path):
    "600 samples at 1 Hz would be 601 at 1.0009 Hz: more than 600 s."
    given = dict(rate=1, store_rate=1.0009, uncalibrated=True)
    with pytest.raises(PedarrError, match='^signals: 600 samples .* at most 599 are'):
        make(tmp_path/'s', segments(t=600), **given)
    store = make(tmp_path/'s', segments(t=599), **given)
    assert store.ecg.shape[-1] == 600 and store.config.window <= 600

def test_infinity_is_named_by_segment_and_channel(tmp_path):
    x = segments()
    x[7, 1, 3] = -np.inf
    with pytest.raises(PedarrError, match='segment 7, channel V1: infinite'): make(tmp_path/'s', x)
    assert not list(tmp_path.iterdir())

def test_an_absurd_value_does_not_become_infinite_in_half_precision(tmp_path):
    x = segments()
    x[4, 0, 9] = 1e6
    with pytest.raises(PedarrError, match="segment 4, channel II: .* dtype='float32'"): make(tmp_path/'s', x)
    assert make(tmp_path/'s', x, dtype='float32').ecg[4, 1, 9] == 1e6

def test_missing_flat_and_lost(tmp_path):
    x = segments()
    x[0, 0, :200], x[1, 0, :300], x[2, 0], x[3] = np.nan, np.nan, 7., np.nan
    store = make(tmp_path/'s', x, records=[f'r{i}' for i in range(12)])
    assert store.mask[:3, 1].tolist() == [True, False, False] and len(store) == 11
    assert not np.isnan(store.take(slice(None))[0]).any() and (store.ecg[0, 1, :200] == 0).all()
    assert store.meta['skipped'] == ['r3'] and any('left out' in n for n in store.meta['notes'])

def test_uncalibrated_is_said_and_noted(tmp_path):
    store = make(tmp_path/'s', 1000 * segments(), uncalibrated=True)
    assert store.meta['notes'][0].startswith('uncalibrated') and 'channel II' in store.meta['notes'][1]

def test_copies_in_two_persons_are_noted(tmp_path):
    x = segments()
    x[11] = x[0]
    assert any('two or more subjects' in n for n in make(tmp_path/'s', x).meta['notes'])
    assert not make(tmp_path/'t', segments()).meta['notes']

def contents(folder): return {p.name: p.read_bytes() for p in folder.iterdir()}

def test_another_store_in_the_way_is_not_touched(tmp_path):
    make(tmp_path/'s')
    before = contents(tmp_path/'s')
    other = segments(seed=1)
    for change in (dict(x=other), dict(labels=['VT', 'SR'] * 6), dict(dtype='float32'), dict(name='b')):
        with pytest.raises(PedarrError, match='a store that differs'): make(tmp_path/'s', **change)
    (tmp_path/'f').mkdir()
    with pytest.raises(PedarrError, match='not a store'): make(tmp_path/'f')
    assert contents(tmp_path/'s') == before
    assert len(list(tmp_path.iterdir())) == 2

def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def full(*_): raise OSError(28, 'full')
    monkeypatch.setattr('pedarr.signals.arrays.write_table', full)
    with pytest.raises(PedarrError, match='s: '): make(tmp_path/'s')
    assert not list(tmp_path.iterdir())

def test_filter_and_rate_are_those_of_the_other_chapters(tmp_path):
    t = np.arange(2000) / 1000
    x = np.tile(np.sin(2*np.pi*10*t) + .3*np.sin(2*np.pi*90*t), (12, 3, 1))
    x[:, 0] += np.random.default_rng(0).normal(0, .01, (12, 2000))         # no two alike
    store = make(tmp_path/'s', x, 1000, store_rate=250, ecg_band=(1, 40), dtype='float32')
    inner = slice(60, -60)
    expected = sosfiltfilt(filter_sections(store.config, (1, 40)), x[0, 1, ::4])
    assert store.config.samples == 500 and store.meta['records']['p0']['fs'] == 1000
    assert np.abs(store.ecg[0, 6, inner] - expected[inner]).max() < .03
    assert np.abs(store.iegm[0, 1, inner] - x[0, 2, ::4][inner]).max() < .03          # no band: as it was

def test_a_config_without_bands():
    assert settling_seconds(PreprocessConfig(iegm_band=None)) == settling_seconds(PreprocessConfig())
    assert settling_seconds(PreprocessConfig(ecg_band=None, iegm_band=None, rate=100)) > 0

@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(x=hnp.arrays(np.float32, st.tuples(st.integers(2, 9), st.just(2), st.integers(20, 60)),
                    elements=st.floats(-20, 20, width=32) | st.just(np.nan)), order=st.permutations([0, 1]),
       as_list=st.booleans())
def test_same_arrays_same_bytes_in_any_layout(x, order, as_list):
    names, n = ['III', 'CS 3-4'], len(x)
    labels, subjects = ['a', 'b'] + ['a'] * (n - 2), list(range(n))
    how = dict(labels=labels, subjects=subjects, uncalibrated=True)
    turned, turned_names = np.asfortranarray(x[:, order].astype(float)), [names[i] for i in order]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        try: store = store_from_arrays(folder/'a', x, 100, names, **how)
        except PedarrError as e:
            assert 'flat or missing everywhere' in str(e) and not list(folder.iterdir())
            return
        given = list(turned) if as_list else turned
        other = store_from_arrays(folder/'b', given, 100, turned_names, **how)
        for file in FILES: assert (folder/'a'/file).read_bytes() == (folder/'b'/file).read_bytes(), file
        assert json.loads((folder/'a/store.json').read_text())['sources'] == other.meta['sources']
        kept, rows = store.segments.record.astype(int), [CHANNELS.index('III'), CHANNELS.index('CS34')]
        got = np.concatenate(store.take(slice(None)), 1)[:, rows].astype(float)
        want = np.where(store.mask[:, rows][..., None], np.nan_to_num(x[kept]), 0)
        assert np.allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures('two_cases')
def test_it_can_be_trained_reported_and_compared(tmp_path):
    from pedarr.training.grid_results import paired_table
    from pedarr.training.config import make_config
    from pedarr.training.finished_runs import open_finished
    from pedarr.training.train import run_training
    from pedarr.use.report import write_report
    rng, n = np.random.default_rng(0), 48
    x = rng.normal(0, .1, (n, 3, 500))
    x[::2] += np.sin(2*np.pi*5*np.arange(500)/250)
    make(tmp_path/'s', x, subjects=[f'p{i // 6}' for i in range(n)])
    runs = []
    for name, extra in (('net', dict(dim=16, depth=1, heads=2, epochs=1)), ('trees', dict(model='trees'))):
        c = make_config(store=str(tmp_path/'s'), run=str(tmp_path/name), n_folds=2, resamples=100, **extra)
        runs.append(run_training(c, progress=False))
        page = write_report(runs[-1], open_store(tmp_path/'s'))
        assert 'arrays' in page.read_text()
    assert len(open_finished(runs[1]).predictions) == n
    assert {'top1', 'f1'} <= set(paired_table([runs[0]], [runs[1]]).index)
