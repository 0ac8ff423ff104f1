"""Figures and tables for looking at data: what is drawn is what was given, and wrong input is one line."""
import dataclasses
import io
import shutil

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from conftest import ROOT, real
from pedarr.core.errors import PedarrError
from pedarr.data import leipzig as leipzig_
from pedarr.data.channels import CHANNELS, ECG_LEADS, IEGM_CHANNELS
from pedarr.data.known_databases import get_database
from pedarr.data.groupings import classes_of, get_grouping
from pedarr.exploration import calipers as calipers_
from pedarr.exploration import cohort as cohort_
from pedarr.exploration import drawing as drawing_
from pedarr.exploration import examples as examples_
from pedarr.exploration import figures as figures_
from pedarr.exploration import long_tail as long_tail_
from pedarr.exploration import recording_quality as missing_

FS = 250
ALL = np.ones(19, bool)
EVERY = pd.DataFrame(dict(record=['x0010', 'x002', 'x002'], subject=['x0010', 'x002', 'x002'],
                          start=[0, 0, 250], stop=[500, 250, 1000],
                          label=['SR', 'VT', 'SR'], seconds=[2., 1., 3.], rate=[80., 160., np.nan]))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close('all')


def signals(seconds=3., seed=0):
    rng = np.random.default_rng(seed)
    n = int(seconds*FS)
    return rng.normal(0, .3, (12, n)), rng.normal(0, 1, (7, n))


def texts(fig): return [t.get_text() for ax in fig.axes for t in ax.texts]


def traces(ax, n): return [line for line in ax.lines if len(line.get_xdata()) == n]


def test_scale_is_25_mm_per_s_and_10_mm_per_mV():
    ecg, _ = signals()
    # lead II steps up by 0.7 mV
    ecg[:] = 0
    ecg[1, 300:] = .7
    fig = drawing_.plot_segment(ecg, None, ALL, FS)
    line = traces(fig.axes[0], 750)[1]
    x, y = line.get_xdata(), line.get_ydata()
    assert x[-1] - x[0] == pytest.approx(25*749/250) and y.max() - y.min() == pytest.approx(7)
    width, height = fig.get_size_inches()*25.4
    box = fig.axes[0].get_position()
    # printed at full size, 1 mm is 1 mm
    assert box.width*width == pytest.approx(np.diff(fig.axes[0].get_xlim())[0], rel=.03)


@pytest.mark.parametrize('lead, mv, seconds', [
    (0, 3.1, 3), (0, 3.1, 10), (6, 1.4, 3), (5, -3.3, 3), (11, -2, 10)])
def test_no_deflection_is_cut_off_at_the_edge_of_the_paper(lead, mv, seconds):
    ecg = np.zeros((12, seconds*FS))
    ecg[lead, 100:104] = mv
    for fig in (drawing_.plot_segment(ecg, None, ALL, FS), drawing_.plot_segment(ecg, ecg[:7], ALL, FS)):
        low, high = fig.axes[0].get_ylim()
        drawn = np.concatenate([line.get_ydata() for line in traces(fig.axes[0], ecg.shape[1])])
        assert low < drawn.min() and drawn.max() < high
        assert np.ptp(traces(fig.axes[0], ecg.shape[1])[lead].get_ydata()) == pytest.approx(10*abs(mv))


def test_a_sweep_draws_a_narrow_r_wave_whole():
    signal = np.random.default_rng(0).normal(0, .01, (19, 2*FS))
    signal[1, [100, 300]] = 1, 2           # higher than 99.7 % of the samples
    fig, words = calipers_.plot_sweep(signal, ALL, FS, title='t')
    line = max(fig.axes[0].lines[:60], key=lambda line: len(line.get_xdata()))
    y = line.get_ydata() - np.median(line.get_ydata())
    assert np.sort(y)[-1]/np.sort(y)[-2] > 1.9 and fig.axes[0].get_title(loc='left') == 't'


@pytest.mark.parametrize('seconds, columns', [(3, 2), (10, 1)])
def test_all_channels_are_drawn_and_named(seconds, columns):
    ecg, iegm = signals(seconds)
    fig = drawing_.plot_segment(ecg, iegm, ALL, FS, title='hello')
    assert len(traces(fig.axes[0], seconds*FS)) == 12 and len(traces(fig.axes[1], seconds*FS)) == 7
    assert set(CHANNELS) <= set(texts(fig)) and 'absent' not in texts(fig)
    assert len({line.get_xdata()[0] for line in traces(fig.axes[0], seconds*FS)}) == columns
    assert fig.axes[0].get_title(loc='left') == 'hello'


def test_absent_channels_are_dashed_and_masked_numbers_are_not_drawn():
    ecg, iegm = signals()
    mask = ALL.copy()
    mask[[2, 12, 18]] = False
    ecg[2] = 99
    fig = drawing_.plot_segment(ecg, iegm, mask, FS)
    assert texts(fig).count('absent') == 3
    assert len(traces(fig.axes[0], 750)) == 11 and len(traces(fig.axes[1], 750)) == 5


def test_one_modality_or_none():
    ecg, iegm = signals()
    no = np.zeros(19, bool)
    only = ALL.copy()
    only[12:] = False
    assert len(drawing_.plot_segment(ecg, iegm, only, FS).axes) == 1
    assert len(drawing_.plot_segment(None, iegm, ALL, FS).axes) == 1
    assert set(IEGM_CHANNELS) <= set(texts(drawing_.plot_segment(None, iegm, ALL, FS))) and 'V6' in ECG_LEADS
    with pytest.raises(PedarrError, match='nothing to draw'): drawing_.plot_segment(ecg, iegm, no, FS)
    with pytest.raises(PedarrError, match='nothing to draw'): drawing_.plot_segment(None, None, ALL, FS)


def test_nan_and_seconds_and_input_untouched():
    ecg, iegm = signals()
    ecg[3, 10:20] = np.nan
    before = ecg.copy(), iegm.copy()
    fig = drawing_.plot_segment(ecg, iegm, ALL, FS, seconds=1)
    assert len(traces(fig.axes[0], 250)) == 12
    np.testing.assert_array_equal(ecg, before[0])
    np.testing.assert_array_equal(iegm, before[1])


@pytest.mark.parametrize('ecg, iegm, mask', [
    (np.zeros((11, 9)), None, ALL), (np.zeros((12, 9)), np.zeros((7, 8)), ALL),
    (np.zeros((12, 9)), None, ALL[:12]), (np.zeros(9), None, ALL)])
def test_wrong_shapes(ecg, iegm, mask):
    with pytest.raises(PedarrError) as e: drawing_.plot_segment(ecg, iegm, mask, FS)
    assert '\n' not in str(e.value)


def test_timeline_rows_and_lengths():
    fig = cohort_.plot_timeline(EVERY, 250)
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ['x002', 'x0010']        # by number, not as text
    bars = {(round(b.get_x()*60, 6), round(b.get_width()*60, 6)) for b in ax.patches}
    assert bars == {(0, 2), (0, 1), (1, 3)}
    by_record = cohort_.plot_timeline(EVERY, {'x002': 250, 'x0010': 500})
    assert {round(b.get_width()*60, 6) for b in by_record.axes[0].patches} == {1, 3}
    with pytest.raises(PedarrError): cohort_.plot_timeline(EVERY.drop(columns='record'), 250)
    with pytest.raises(PedarrError): cohort_.plot_timeline(EVERY[:0], 250)


def test_class_counts_seconds_or_rows():
    seconds = long_tail_.plot_class_counts(EVERY)
    rows = long_tail_.plot_class_counts(EVERY.drop(columns='seconds'))
    assert [b.get_width() for b in seconds.axes[0].patches] == [5, 1]
    assert seconds.axes[0].get_xscale() == 'log'
    assert [b.get_width() for b in rows.axes[0].patches] == [2, 1]
    assert [b.get_width() for b in rows.axes[1].patches] == [2, 1]
    assert rows.axes[1].get_xlabel() == 'subjects, of 2'
    with pytest.raises(PedarrError): long_tail_.plot_class_counts(EVERY[:0])
    with pytest.raises(PedarrError): long_tail_.plot_class_counts(EVERY[['label']])


def test_rates_figure():
    assert sum(len(c.get_offsets()) for c in cohort_.plot_rates(EVERY).axes[0].collections) == 2
    with pytest.raises(PedarrError): cohort_.plot_rates(EVERY.drop(columns='rate'))


def test_colours_are_distinct_and_stable():
    classes = classes_of(get_grouping('rhythm8'))
    colours = figures_.class_colours(classes)
    assert len(set(colours.values())) == len(classes)
    assert all(figures_.class_colours([c])[c] == colours[c] for c in classes)
    # more classes than colours is no error
    assert len(set(figures_.class_colours([f'k{i}' for i in range(30)]))) == 30


def test_episode_table_of_the_simulated_database(simulated):
    table = cohort_.episode_table(simulated, get_database('leipzig'))
    assert set(table.label) == set(classes_of(get_grouping('rhythm8'))) and table.record.nunique() == 8
    assert (table.groupby('record').seconds.sum() <= 60).all()
    assert (table.groupby('record').seconds.sum() > 59).all()
    assert table.rate.dropna().between(35, 300).all()
    other = cohort_.episode_table(simulated, get_database('leipzig'), 'svt4')
    assert set(other.label) <= {'SR', 'AVNRT', 'AVRT', 'OTHER'}
    sinus = table[table.label == 'SR'].rate.median()
    svt = table[table.label == 'AVNRT'].rate.median()
    assert sinus < svt


def test_png_is_small_and_whole():
    from PIL import Image
    before = plt.get_fignums()                                   # another file's tests may share the process
    ecg, iegm = signals()
    png = figures_.figure_png(drawing_.plot_segment(ecg, iegm, ALL, FS), dpi=80)
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.mode == 'P' and len(png) < 150_000 and plt.get_fignums() == before


def test_real_recordings_are_drawn():
    for name in ('ludb', 'mitdb', 'iafdb'):
        db = get_database(name)
        record = db.open(db.records(real(name))[0])
        x, mask = record.window(0, int(3*record.fs))
        fig = drawing_.plot_segment(x[:12], x[12:], mask, record.fs, name)
        assert texts(fig).count('absent') == sum((~m).sum() for m in (mask[:12], mask[12:]) if m.any())


def test_real_mitdb_rates():
    table = cohort_.episode_table(real('mitdb'), get_database('mitdb'))
    assert table.rate.dropna().between(30, 250).all() and (table.beats.sum() > 10_000)


# ---- the chapter's tables and figures: what they count, what they refuse, and that a simulated hea

FACTS = leipzig_.release_facts()['episodes']
DB = get_database('leipzig')


def stamped(fig): return 'SIMULATED' in (fig.get_suptitle() or '')


def test_every_figure_of_simulated_recordings_says_so(simulated):
    episodes, channels = cohort_.episode_table(simulated, DB), missing_.channel_table(simulated, DB)
    ages = DB.subjects(simulated).age
    draw = [lambda e: cohort_.plot_timeline(e, 977), lambda e: cohort_.plot_rate_by_age(e, ages),
            cohort_.plot_rates,
            long_tail_.plot_class_counts, long_tail_.plot_amounts, long_tail_.plot_concentration,
            long_tail_.plot_subject_map]
    for f in draw:
        assert stamped(f(episodes)), f
        assert not stamped(f(episodes.assign(simulated=False)))
        assert not stamped(f(episodes.drop(columns='simulated')))
        plt.close('all')
    quality = missing_.quality_table(simulated, DB, channels)
    assert stamped(missing_.plot_channels(channels)) and stamped(missing_.plot_quality(quality))
    assert not stamped(missing_.plot_channels(channels.assign(simulated=False)))
    assert not stamped(missing_.plot_quality(quality.assign(simulated=False)))
    assert not stamped(long_tail_.plot_concentration(FACTS))      # real counts


def test_a_study_says_simulated_in_its_title_only_if_its_header_does(simulated, tmp_path):
    for p in simulated.glob('x001.*'): shutil.copy(p, tmp_path)
    header = tmp_path/'x001.hea'
    header.write_text('\n'.join(l for l in header.read_text().splitlines() if not l.startswith('#')) + '\n')
    titles = [calipers_.plot_study(DB.open(f/'x001.hea'), 5000, DB, title='t').axes[0].get_title(loc='left')
              for f in (simulated, tmp_path)]
    assert 'SIMULATED' in titles[0] and titles[1] == 't'


def test_amounts_of_the_real_release():
    t = long_tail_.amount_table(FACTS)
    published = leipzig_.PUBLISHED
    expected = published['beats'] + published['unclassifiable']
    assert t.beats.sum() + FACTS.beats[FACTS.rhythm == ''].sum() == expected
    assert t.episodes.sum() == published['rhythm_marks']
    assert len(t) == 13
    assert t.subjects.max() == published['records']
    assert t.beats.is_monotonic_decreasing


ROW = st.tuples(st.sampled_from('abcde'), st.sampled_from(['N', 'VT']), st.integers(0, 1000))


@given(st.lists(ROW, min_size=1, max_size=30).filter(lambda rows: any(beats for _, _, beats in rows)))
@settings(max_examples=60, deadline=None)
def test_concentration_is_bounded(rows):
    t = pd.DataFrame(rows, columns=['subject', 'rhythm', 'beats'])
    c = long_tail_.subject_concentration(t)
    assert c.total.sum() == t.beats.sum() and (c.subjects <= 5).all()
    assert (c.effective <= c.subjects + 1e-9).all() and (c.effective >= 1 - 1e-9).all()
    # sum p^2 <= max p
    assert (c.share >= 1/c.subjects - 1e-9).all() and (c.effective >= 1/c.share - 1e-9).all()
    again = long_tail_.subject_concentration(t.sample(frac=1, random_state=0))
    np.testing.assert_allclose(again.effective[c.index], c.effective)


def test_concentration_bars_are_whole():
    fig = long_tail_.plot_concentration(FACTS)
    widths = {}
    for b in fig.axes[0].patches:
        widths[round(b.get_y(), 3)] = widths.get(round(b.get_y(), 3), 0) + b.get_width()
    assert len(widths) == 13 and all(w == pytest.approx(1) for w in widths.values())
    assert 'x006 100%' in texts(fig) and '1.0 of 1' in texts(fig)


@pytest.mark.parametrize('call', [
    lambda: long_tail_.amount_table(EVERY[:0]),
    lambda: long_tail_.amount_table(EVERY),
    lambda: long_tail_.subject_concentration(EVERY),
    lambda: cohort_.plot_rate_by_age(EVERY, {}),
    lambda: cohort_.cohort_table(EVERY[:0], {}),
    lambda: missing_.signal_quality(np.zeros((2, 100)), 977),
    lambda: missing_.signal_quality(np.zeros((2, 500)), 100)])
def test_new_tables_refuse_in_one_line(call):
    with pytest.raises(PedarrError) as e: call()
    assert '\n' not in str(e.value)


def test_subject_map_is_blank_where_there_is_nothing():
    t = pd.DataFrame(dict(subject=['x0010', 'x002'], rhythm=['N', 'VT'], beats=[5, 3], seconds=[4., 2.]))
    ax = long_tail_.plot_subject_map(t).axes[0]
    shown = np.ma.masked_invalid(ax.images[0].get_array())
    assert [l.get_text() for l in ax.get_xticklabels()] == ['x002', 'x0010']
    assert shown.mask.tolist() == [[True, False], [False, True]]


def test_timeline_shows_poor_signal_and_short_episodes():
    e = pd.DataFrame(dict(record='x001', start=[0, 10, 12], stop=[10, 12, 2_000_000],
                          label=['SR', 'VT', 'SR']))
    fig = cohort_.plot_timeline(e, 250, pd.DataFrame(dict(record=['x001'], start=[0], stop=[250_000])))
    ax, side = fig.axes
    assert ax.get_xlabel() == 'time (h)'
    # two samples are drawn, not lost
    assert min(b.get_width() for b in ax.patches) == pytest.approx(2_000_000/250/3600/400)
    black = [b for b in ax.patches if b.get_facecolor() == (0, 0, 0, 1)]
    assert len(black) == 1 and black[0].get_width() == pytest.approx(1000/3600)
    assert sum(b.get_width() for b in side.patches) == pytest.approx(1)


def test_availability_of_the_simulated_database(simulated):
    state = missing_.channel_availability(missing_.channel_table(simulated, DB))
    for path in DB.records(simulated):
        record = DB.open(path)
        _, mask = record.window(0, record.sig_len)
        for c, row, present in zip(CHANNELS, record.rows, mask):
            want = 'absent' if row < 0 else 'present' if present else 'constant'
            assert state.at[c, record.name] == want or (want, state.at[c, record.name]) == ('present', 'part')


@given(st.floats(.001, 5), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_signal_quality_scales_with_the_signal(gain, seed):
    x = np.random.default_rng(seed).normal(0, 1, (3, 4000)).cumsum(1)*.01
    a, b = missing_.signal_quality(x, 500), missing_.signal_quality(gain*x + 3, 500)
    np.testing.assert_allclose(b, gain*a, rtol=1e-6, atol=1e-9)


def test_quality_of_real_recordings():
    for name in ('ludb', 'mitdb'):
        db = get_database(name)
        paths = db.records(real(name))[:3]
        few = dataclasses.replace(db)
        object.__setattr__(few, 'records', lambda folder: paths)
        q = missing_.quality_table(real(name), few)
        assert len(q) == 3
        assert q[['noise', 'wander', 'mains']].lt(1).all().all()
        assert q.noise.gt(0).all()
        assert not q.simulated.any()


def test_poor_signal_table(simulated):
    poor = cohort_.poor_table(simulated, DB)
    q = missing_.quality_table(simulated, DB)
    assert len(poor) and (poor.seconds > 0).all()
    for record, s in poor.groupby('record').seconds.sum().items():
        assert q.poor[record] == pytest.approx(s/DB.open(simulated/f'{record}.hea').duration)


def test_examples_hold_the_rhythm_and_start_inside(simulated):
    episodes = cohort_.episode_table(simulated, DB)
    poor = cohort_.poor_table(simulated, DB)
    for rhythm in episodes.rhythm.unique():
        record, start = examples_.find_example(episodes, rhythm, simulated, DB)
        n = int(2.5*record.fs)
        middle = start + n//2
        e = episodes[(episodes.record == record.name) & (episodes.start <= middle) & (episodes.stop > middle)]
        assert 0 <= start <= record.sig_len - n and e.rhythm.tolist() == [rhythm]
    assert examples_.find_example(episodes, 'N', simulated, DB, text='no such text') is None
    assert examples_.find_example(episodes, 'N', simulated, DB, seconds=1e4) is None


def test_calipers_mark_nothing_that_was_not_measured():
    nothing = pd.DataFrame(dict(qrs_on=[1., np.nan], p_on=np.nan, his=np.nan, a_before=np.nan, a_after=np.nan,
                                av=np.nan, va=np.nan))
    assert calipers_.caliper_intervals(nothing, np.zeros((0, 5)), 0) == []
    assert calipers_.caliper_intervals(nothing, np.zeros((0, 5)), 1) == []
    his = nothing.assign(qrs_on=[1., 1.6], his=[.9, np.nan], a_before=[.95, np.nan], av=[.05, np.nan])
    # a His potential before the atrium is none
    assert [c[0] for c in calipers_.caliper_intervals(his, np.zeros((0, 5)), 0)] == ['RR 600', 'AV 50']


def test_study_draws_its_calipers_where_they_were_measured(simulated):
    episodes = cohort_.episode_table(simulated, DB)
    record, start = examples_.find_example(episodes, 'AVRT', simulated, DB)
    fig = calipers_.plot_study(record, start, DB)
    low = fig.axes[1]
    names = [t.get_text() for t in low.texts]
    rr = next(int(n.split()[1]) for n in names if n.startswith('RR '))
    here = (episodes.record == record.name) & (episodes.start <= start) & (episodes.stop > start)
    rate = episodes[here].rate.iloc[0]
    assert rr == pytest.approx(60_000/rate, rel=.15) and any(n.startswith('VA ') for n in names)
    sweep = int(next(n for n in names if 'mm/s' in n).split()[0])
    widths = [np.ptp(l.get_xdata()) for l in low.lines if len(l.get_xdata()) == 2
              and np.ptp(l.get_ydata()) == 0 and l.get_linewidth() == pytest.approx(1.2)]
    assert any(w/sweep*1000 == pytest.approx(rr, abs=1) for w in widths)
    with pytest.raises(PedarrError, match=record.name): calipers_.plot_study(record, record.sig_len - 10, DB)
    with pytest.raises(PedarrError, match='leave'): calipers_.plot_study(record, -1, DB)


def test_study_of_real_recordings_without_catheters_or_annotations():
    for name in ('mitdb', 'ludb', 'iafdb'):
        db = get_database(name)
        record = db.open(db.records(real(name))[0])
        fig = calipers_.plot_study(record, int(2*record.fs), db, title=name)
        assert fig.axes[0].get_title(loc='left') == name
        assert ('CS12' in texts(fig)) == (name == 'iafdb')


@pytest.mark.parametrize('size', [(1, 1), (1.01, 1.02)])
def test_ink_palette_png_holds_what_pillow_quantises(size):
    from PIL import Image
    for colours in (['k', '#029e73'], [f'C{i}' for i in range(8)], 7, 40):
        fig, ax = plt.subplots(figsize=size)
        ax.plot([0, 1, 0], color='#029e73')
        full = io.BytesIO()
        fig.savefig(full, format='png', dpi=51)
        palette, n = (None, colours) if isinstance(colours, int) else figures_.ink_palette(colours)
        want = Image.open(full).convert('RGB').quantize(n, palette=palette,
                                                        dither=Image.Dither.NONE).convert('RGB')
        have = Image.open(io.BytesIO(figures_.figure_png(fig, 51, colours)))
        have.load()
        assert np.array_equal(np.asarray(have.convert('RGB')), np.asarray(want))


@pytest.mark.parametrize('chapter', ['07_cohort', '08_long_tail', '11_examples', '12_recording_quality'])
def test_a_chapter_drawn_from_a_folder_has_one_parameter_cell(chapter):
    nb = nbformat.read(ROOT/'nbs'/'3_exploration'/f'{chapter}.ipynb', 4)
    tagged = [c.source for c in nb.cells if 'parameters' in c.metadata.get('tags', [])]
    assert len(tagged) == 1
    assert {l.split(' = ')[0] for l in tagged[0].splitlines()} == {'folder', 'scale', 'seed'}


def test_examples_keep_away_from_poor_signal(simulated):
    episodes = cohort_.episode_table(simulated, DB)
    episodes = episodes[episodes.index == episodes[episodes.rhythm == 'N'].seconds.idxmax()]
    record, start = examples_.find_example(episodes, 'N', simulated, DB)
    bad = pd.DataFrame(dict(start=[start + 100], stop=[start + 200]))
    # the same stretch of every record
    spoilt = dataclasses.replace(DB, read_episodes=lambda r, db: (DB.episodes(r)[0], bad))
    other, again = examples_.find_example(episodes, 'N', simulated, spoilt)
    n = int(2.5*record.fs)
    assert again + n <= start + 100 or again >= start + 200
    def all_poor(r, db): return DB.episodes(r)[0], pd.DataFrame(dict(start=[0], stop=[r.sig_len]))
    everywhere = dataclasses.replace(DB, read_episodes=all_poor)
    # rather a spoilt one than none
    assert examples_.find_example(episodes, 'N', simulated, everywhere) is not None
