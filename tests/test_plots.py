"""Figures and tables for looking at data: what is drawn is what was given, and wrong input is one line."""
import io

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from conftest import real
from pedarr import plots
from pedarr.databases import get_database
from pedarr.records import CHANNELS, ECG_LEADS, IEGM_CHANNELS
from pedarr.rhythms import PedarrError, classes_of, get_grouping

FS = 250
ALL = np.ones(19, bool)
EVERY = pd.DataFrame(dict(record=['x0010', 'x002', 'x002'], subject=['x0010', 'x002', 'x002'], start=[0, 0, 250], stop=[500, 250, 1000],
                          label=['SR', 'VT', 'SR'], seconds=[2., 1., 3.], rate=[80., 160., np.nan]))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close('all')


def signals(seconds=3., seed=0):
    rng = np.random.default_rng(seed); n = int(seconds*FS)
    return rng.normal(0, .3, (12, n)), rng.normal(0, 1, (7, n))


def texts(fig): return [t.get_text() for ax in fig.axes for t in ax.texts]


def traces(ax, n): return [line for line in ax.lines if len(line.get_xdata()) == n]


def test_scale_is_25_mm_per_s_and_10_mm_per_mV():
    ecg, _ = signals()
    ecg[:] = 0; ecg[1, 300:] = .7     # lead II steps up by 0.7 mV
    fig = plots.plot_segment(ecg, None, ALL, FS)
    line = traces(fig.axes[0], 750)[1]
    x, y = line.get_xdata(), line.get_ydata()
    assert x[-1] - x[0] == pytest.approx(25*749/250) and y.max() - y.min() == pytest.approx(7)
    width, height = fig.get_size_inches()*25.4
    box = fig.axes[0].get_position()
    assert box.width*width == pytest.approx(np.diff(fig.axes[0].get_xlim())[0], rel=.03)    # printed at full size, 1 mm is 1 mm


@pytest.mark.parametrize('seconds, columns', [(3, 2), (10, 1)])
def test_all_channels_are_drawn_and_named(seconds, columns):
    ecg, iegm = signals(seconds)
    fig = plots.plot_segment(ecg, iegm, ALL, FS, title='hello')
    assert len(traces(fig.axes[0], seconds*FS)) == 12 and len(traces(fig.axes[1], seconds*FS)) == 7
    assert set(CHANNELS) <= set(texts(fig)) and 'absent' not in texts(fig)
    assert len({line.get_xdata()[0] for line in traces(fig.axes[0], seconds*FS)}) == columns
    assert fig.axes[0].get_title(loc='left') == 'hello'


def test_absent_channels_are_dashed_and_masked_numbers_are_not_drawn():
    ecg, iegm = signals(); mask = ALL.copy(); mask[[2, 12, 18]] = False; ecg[2] = 99
    fig = plots.plot_segment(ecg, iegm, mask, FS)
    assert texts(fig).count('absent') == 3
    assert len(traces(fig.axes[0], 750)) == 11 and len(traces(fig.axes[1], 750)) == 5


def test_one_modality_or_none():
    ecg, iegm = signals(); no = np.zeros(19, bool)
    only = ALL.copy(); only[12:] = False
    assert len(plots.plot_segment(ecg, iegm, only, FS).axes) == 1
    assert len(plots.plot_segment(None, iegm, ALL, FS).axes) == 1
    assert set(IEGM_CHANNELS) <= set(texts(plots.plot_segment(None, iegm, ALL, FS))) and 'V6' in ECG_LEADS
    with pytest.raises(PedarrError, match='nothing to draw'): plots.plot_segment(ecg, iegm, no, FS)
    with pytest.raises(PedarrError, match='nothing to draw'): plots.plot_segment(None, None, ALL, FS)


def test_nan_and_seconds_and_input_untouched():
    ecg, iegm = signals(); ecg[3, 10:20] = np.nan
    before = ecg.copy(), iegm.copy()
    fig = plots.plot_segment(ecg, iegm, ALL, FS, seconds=1)
    assert len(traces(fig.axes[0], 250)) == 12
    np.testing.assert_array_equal(ecg, before[0]); np.testing.assert_array_equal(iegm, before[1])


@pytest.mark.parametrize('ecg, iegm, mask', [(np.zeros((11, 9)), None, ALL), (np.zeros((12, 9)), np.zeros((7, 8)), ALL),
                                             (np.zeros((12, 9)), None, ALL[:12]), (np.zeros(9), None, ALL)])
def test_wrong_shapes(ecg, iegm, mask):
    with pytest.raises(PedarrError) as e: plots.plot_segment(ecg, iegm, mask, FS)
    assert '\n' not in str(e.value)


def test_timeline_rows_and_lengths():
    fig = plots.plot_timeline(EVERY, 250)
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ['x002', 'x0010']        # by number, not as text
    bars = {(round(b.get_x()*60, 6), round(b.get_width()*60, 6)) for b in ax.patches}
    assert bars == {(0, 2), (0, 1), (1, 3)}
    by_record = plots.plot_timeline(EVERY, {'x002': 250, 'x0010': 500})
    assert {round(b.get_width()*60, 6) for b in by_record.axes[0].patches} == {1, 3}
    with pytest.raises(PedarrError): plots.plot_timeline(EVERY.drop(columns='record'), 250)
    with pytest.raises(PedarrError): plots.plot_timeline(EVERY[:0], 250)


def test_class_counts_seconds_or_rows():
    seconds, rows = plots.plot_class_counts(EVERY), plots.plot_class_counts(EVERY.drop(columns='seconds'))
    assert [b.get_width() for b in seconds.axes[0].patches] == [5, 1] and seconds.axes[0].get_xscale() == 'log'
    assert [b.get_width() for b in rows.axes[0].patches] == [2, 1]
    assert [b.get_width() for b in rows.axes[1].patches] == [2, 1] and rows.axes[1].get_xlabel() == 'subjects, of 2'
    with pytest.raises(PedarrError): plots.plot_class_counts(EVERY[:0])
    with pytest.raises(PedarrError): plots.plot_class_counts(EVERY[['label']])


def test_rates_figure():
    assert sum(len(c.get_offsets()) for c in plots.plot_rates(EVERY).axes[0].collections) == 2
    with pytest.raises(PedarrError): plots.plot_rates(EVERY.drop(columns='rate'))


def test_colours_are_distinct_and_stable():
    classes = classes_of(get_grouping('rhythm8'))
    colours = plots.class_colours(classes)
    assert len(set(colours.values())) == len(classes)
    assert all(plots.class_colours([c])[c] == colours[c] for c in classes)
    assert len(set(plots.class_colours([f'k{i}' for i in range(30)]))) == 30      # more classes than colours is no error


def test_episode_table_of_the_simulated_database(simulated):
    table = plots.episode_table(simulated, get_database('leipzig'))
    assert set(table.label) == set(classes_of(get_grouping('rhythm8'))) and table.record.nunique() == 8
    assert (table.groupby('record').seconds.sum() <= 60).all() and (table.groupby('record').seconds.sum() > 59).all()
    assert table.rate.dropna().between(35, 300).all()
    other = plots.episode_table(simulated, get_database('leipzig'), 'svt4')
    assert set(other.label) <= {'SR', 'AVNRT', 'AVRT', 'OTHER'}
    sinus = table[table.label == 'SR'].rate.median(); svt = table[table.label == 'AVNRT'].rate.median()
    assert sinus < svt


def test_png_is_small_and_whole():
    from PIL import Image
    ecg, iegm = signals()
    png = plots.figure_png(plots.plot_segment(ecg, iegm, ALL, FS), dpi=80)
    image = Image.open(io.BytesIO(png)); image.load()
    assert image.mode == 'P' and len(png) < 150_000 and not plt.get_fignums()


def test_real_recordings_are_drawn():
    for name in ('ludb', 'mitdb', 'iafdb'):
        db = get_database(name); record = db.open(db.records(real(name))[0])
        x, mask = record.window(0, int(3*record.fs))
        fig = plots.plot_segment(x[:12], x[12:], mask, record.fs, name)
        assert texts(fig).count('absent') == sum((~m).sum() for m in (mask[:12], mask[12:]) if m.any())


def test_real_mitdb_rates():
    table = plots.episode_table(real('mitdb'), get_database('mitdb'))
    assert table.rate.dropna().between(30, 250).all() and (table.beats.sum() > 10_000)
