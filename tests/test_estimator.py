"""The estimator of scikit-learn with the parameters that change what a training reads or answers with:
measured intervals, mixed windows, averaged weights."""
import pickle

import numpy as np
import pytest
from conftest import count_measured
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from pedarr.core.errors import PedarrError
from pedarr.data.channels import CHANNELS, ECG_LEADS
from pedarr.exploration.waves import drawn_study
from pedarr.training.estimator import RhythmClassifier

TINY = dict(dim=8, depth=1, heads=2, augment=False)
VIEWS = [dict(measured=True), dict(mixup=.4), dict(average=.5), dict(measured=True, mixup=.4, average=.5)]


@pytest.fixture(scope='module')
def windows():
    "Twelve drawn windows (SIMULATED) of 3 s at 250 Hz, at 67 or 133 beats a minute, and which."
    slow = np.arange(12) % 2 == 0
    X = np.stack([drawn_study(np.arange(.3, 2.9, .9 if s else .45), seconds=3., fs=250, noise=.02, seed=i)
                  for i, s in enumerate(slow)])
    return X, np.where(slow, 'slow', 'fast')


@pytest.fixture(scope='module')
def plain(windows): return estimator().fit(*windows).predict_proba(windows[0])


def estimator(channels=CHANNELS, loss='none', rate=250, **params):
    return RhythmClassifier([*channels], rate, loss=loss, epochs=3, batch_size=6, lr=5e-3,
                            params=TINY | params)


@pytest.mark.parametrize('params', VIEWS, ids=lambda p: '+'.join(p))
def test_it_is_fitted_copied_and_kept(windows, plain, params):
    "Right shapes, other answers than without, the same of a clone, in any order, of what was pickled."
    X, y = windows
    fitted = estimator(**params).fit(X, y)
    p = fitted.predict_proba(X)
    assert p.shape == (12, 2) and np.allclose(p.sum(1), 1, atol=1e-5)
    assert hasattr(fitted.network_, 'measured') == ('measured' in params)
    assert not np.allclose(p, plain, atol=1e-4)
    assert np.array_equal(p, clone(fitted).fit(X, y).predict_proba(X))
    assert np.allclose(p[::-1], fitted.predict_proba(X[::-1]), atol=1e-6)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(p, again.predict_proba(X)) and set(again.predict(X)) <= {'slow', 'fast'}


def test_a_search_over_them(windows):
    "With values as numpy has them; nothing is refused in a fold."
    X, y = windows
    grid = dict(params=[TINY, *(TINY | {k: np.array([v])[0] for k, v in p.items()} for p in VIEWS[-1:])])
    search = GridSearchCV(estimator(), grid, cv=2, error_score='raise').fit(X, y)
    scores = search.cv_results_['mean_test_score']
    assert len(scores) == 2 and np.isfinite(scores).all() and search.predict(X).shape == (12,)


def test_measured_reads_the_leads_that_are_there(windows):
    "One lead shows the QRS, in all windows or in one that lost the others: what those show stays missing."
    X, y = windows
    lead = ECG_LEADS.index('II')
    one = estimator(['II'], measured=True).fit(X[:, [lead]], y)
    assert np.isfinite(one.predict_proba(X[:, [lead]])).all()
    lost = X.copy()
    lost[3, :lead], lost[3, lead + 1:] = np.nan, np.nan
    p = estimator(measured=True).fit(X, y).predict_proba(lost)
    assert np.isfinite(p).all()


REFUSED = [
    (dict(measured=True, channels=CHANNELS[len(ECG_LEADS):]), 'no surface lead.*leave measured out'),
    (dict(measured=True, rate=125), 'measured: .*at least 1 s at 200 Hz.*leave measured out'),
    (dict(measured=True, loss='ldam'), 'leave measured out'),
    (dict(measured='yes'), 'measured is .yes.: it must be true or false'),
    (dict(mixup=.4, loss='agcacl'), 'leave mixup out'),
    (dict(mixup=-1), 'mixup is -1: it must be at least 0'),
    (dict(average=1.), 'average is 1.0: it must be less than 1')]


@pytest.mark.parametrize('given, why', REFUSED, ids=lambda x: x if isinstance(x, str) else None)
def test_what_cannot_be_is_one_line(windows, given, why):
    X, y = windows
    X = X[:, [CHANNELS.index(c) for c in given.get('channels', CHANNELS)]]
    with pytest.raises(PedarrError, match=why) as e: estimator(**given).fit(X, y)
    assert len(str(e.value).splitlines()) == 1


def test_fit_measures_each_window_once(windows, monkeypatch):
    "For the scale, for the training and for what is renewed each epoch."
    asked = count_measured(monkeypatch)
    fitted = estimator(measured=True).fit(*windows)
    assert asked == [12]
    fitted.predict_proba(windows[0][:5])
    assert asked == [12, 5]
