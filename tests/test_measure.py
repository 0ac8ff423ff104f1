"""A whole recording measured: intervals, rhythms, transitions, and the files that `pedarr measure` leaves."""
import re
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import wfdb
from click.testing import CliRunner

from conftest import folder_bytes, interrupt_move, real
from pedarr.core.errors import PedarrError
from pedarr.core.parallel import parallel_map
from pedarr.data.channels import CHANNELS
from pedarr.data.records import open_record
from pedarr.exploration import measuring
from pedarr.exploration.intervals import NARROWEST_QRS, WIDEST_QRS
from pedarr.exploration.measured_page import STUDY_FILES, measure_file, save_study, stretches_to_draw
from pedarr.exploration.measuring import (
    UNCERTAIN, changes_within, find_transitions, interval_medians, measure_record, measure_window)
from pedarr.exploration.waves import drawn_study, find_beats
from pedarr.use.command import pedarr_command


def run(*args): return CliRunner().invoke(pedarr_command, ['measure', *map(str, args)])


def write(folder, x, fs=1000, names=CHANNELS, name='drawn'):
    "A WFDB record of `x` [channel, time] in mV."
    wfdb.wrsamp(name, fs=fs, units=['mV']*len(names), sig_name=list(names), p_signal=x.T,
                fmt=['24']*len(names), adc_gain=[2000]*len(names), baseline=[0]*len(names),
                write_dir=str(folder))
    return folder/f'{name}.hea'


@pytest.fixture(scope='module')
def circuit(tmp_path_factory):
    "Sinus rhythm of 700 ms, an early atrial beat, then 350 ms with the atria 30 ms after the QRS, by hand."
    sinus = np.arange(.5, 12.2, .7)
    early = sinus[-1] + .45
    fast = early + .35*np.arange(1, 36)
    v = np.concatenate([sinus, [early], fast])
    a = np.concatenate([sinus - .12, [early - .12], fast + .03])
    x = drawn_study(v, a, his=.04, seconds=25)
    return v, write(tmp_path_factory.mktemp('circuit'), x)


@pytest.fixture(scope='module')
def measured(circuit): return measure_record(open_record(circuit[1]))


def test_every_beat_of_a_recording_is_there_once(circuit, measured):
    v, study = circuit[0], measured
    on = study.beats.qrs_on.to_numpy()
    whole = v[v < 24.8]
    assert len(on) == len(whole) and abs(on - whole).max() < .006
    np.testing.assert_allclose(study.beats.rr[:-1], np.diff(on))
    assert abs(study.beats.hv.median() - .04) < .004
    fast = study.beats[study.beats.qrs_on > 13.5]
    assert abs(fast.va.median() - .03) < .006 and abs(fast.aa.median() - .35) < .003
    assert study.windows.rhythm.tolist()[2] == 'AVNRT'
    assert (study.windows.start[1:].to_numpy() == study.windows.stop[:-1].to_numpy()).all()


def test_the_beat_that_starts_a_tachycardia_is_named(circuit, measured):
    v, study = circuit[0], measured
    t = study.transitions
    assert list(t.what) == ['a premature atrial beat starts a tachycardia']
    assert abs(t.time[0] - v[17]) < .01 and abs(t.before[0] - .7) < .01 and abs(t.after[0] - .35) < .01
    assert study.windows.rhythm[1] == 'transition' and 'starts a tachycardia' in study.windows.reason[1]
    m = interval_medians(study).set_index(['rhythm', 'interval'])
    assert m.loc[('all', 'rr'), 'of'] == len(study.beats) and ('transition', 'rr') not in m.index


def beats(cycles, **columns):
    rr = np.append(cycles[1:], np.nan)[:len(cycles)]
    return pd.DataFrame(dict(qrs_on=np.cumsum(cycles), rr=rr, stimulus=np.nan, qrs=.08, av=.12) | columns)


@pytest.mark.parametrize('cycles, columns, what', [
    ([.7]*30, {}, []),
    ([.7]*6 + [.4] + [1.] + [.7]*9, {}, []),                                       # one early beat
    ([.7]*6 + [.4] + [.34]*9, dict(stimulus=1.), ['faster pacing starts']),
    ([.7]*6 + [.4] + [.34]*9, dict(av=np.nan), ['a premature beat starts a tachycardia']),
    ([.35]*9 + [.8]*6, {}, ['a tachycardia ends']),
    ([.8]*8 + [.53, .29, .46, .34]*2 + [.8]*8, {}, []),                            # beats were added
    ([.8]*8 + [.4]*9, {}, ['a premature atrial beat starts a tachycardia']),       # at twice the rate
    ([.8]*6 + [.33, .47]*8, {}, []),                                               # each T wave counted
    ([.8, .84, .77, .81, .81, .56, .39, .36, .26, .9, .83, .71, .75, .8], {}, [UNCERTAIN]),   # artefacts
    ([.7]*6 + [.4] + [.33]*5 + [.9] + [.7]*5, {},
     ['a premature atrial beat starts a tachycardia', 'a tachycardia ends']),
    ([.7, .5, .9, .6, .4, .8, .3, .5, .9, .7, .4, .6]*3, {}, [])])                 # fibrillation
def test_transitions_by_hand(cycles, columns, what):
    assert list(find_transitions(beats(cycles, **columns)).what) == what


def test_no_beats_and_few_beats_have_no_transition():
    assert all(find_transitions(beats([.5]*n)).empty for n in range(9))


def test_two_processes_measure_as_one_does(circuit, measured, monkeypatch):
    asked = []
    monkeypatch.setattr(measuring, '_WORTH_A_PROCESS', 1)
    monkeypatch.setattr(measuring, 'parallel_map', lambda *a: asked.append(a[2]) or parallel_map(*a))
    one, two = measured, measure_record(open_record(circuit[1]), jobs=2)
    assert asked == [2]
    pd.testing.assert_frame_equal(one.beats, two.beats)
    pd.testing.assert_frame_equal(one.windows, two.windows)


@pytest.mark.parametrize('window', [0, -1, np.nan, np.inf, 2.9])
def test_a_window_that_cannot_be_is_one_line(circuit, window):
    with pytest.raises(PedarrError, match='^window=.*at least 3') as e:
        measure_record(open_record(circuit[1]), window)
    assert '\n' not in str(e.value)


def test_files_say_what_was_not_seen(circuit, tmp_path):
    _, page = measure_file(circuit[1], tmp_path/'out')
    assert sorted(p.name for p in page.parent.iterdir()) == sorted(STUDY_FILES)
    table = pd.read_csv(tmp_path/'out'/'beats.csv', dtype=str, keep_default_na=False)
    assert not (table == '').any(axis=None) and (table.stimulus_s == 'not seen').all()
    assert table.rr_ms.iloc[-1] == 'not seen' and table.hv_ms.isin(['40', '41']).mean() > .5
    text = page.read_text()
    assert 'no medical device' in text and 'viewport' in text and text.endswith('</html>\n')
    assert text.count('<img') == text.count('alt="') and 'src="data:image/svg+xml,' in text
    assert 'http' not in text.replace('http://www.w3.org', '')      # SVG's own name
    assert 'premature atrial beat starts a tachycardia' in text


def test_names_of_a_file_are_escaped_on_the_page(tmp_path):
    v = np.arange(.4, 5.6, .6)
    names = [*CHANNELS[:12], '<script>alert(1)</script>']
    path = write(tmp_path, drawn_study(v, seconds=6)[:13], names=names)
    study, page = measure_file(path, tmp_path/'out')
    assert '<script>' not in page.read_text() and '&lt;script&gt;' in page.read_text()
    assert set(study.windows.rhythm) == {'?'} and (study.beats.earliest == '').all()


def test_the_command(circuit, tmp_path):
    done = run(circuit[1], '--out', tmp_path/'out')
    assert done.exit_code == 0 and 'starts a tachycardia' in done.stdout
    before = {p.name: p.read_bytes() for p in (tmp_path/'out').iterdir()}
    again = run(circuit[1], '--out', tmp_path/'out')
    assert again.exit_code == 2 and '--force' in again.stderr and len(again.stderr.splitlines()) == 1
    assert run(circuit[1], '--out', tmp_path/'out', '--force').exit_code == 0
    assert {p.name: p.read_bytes() for p in (tmp_path/'out').iterdir()} == before


def test_arrays_are_measured_as_the_record_is(circuit, tmp_path):
    "The same study as .npy, .npz and CSV has the same beats and rhythms; what is not told is asked for."
    record = open_record(circuit[1])
    x, names = record.physical(0, round(12*record.fs)).astype(np.float64), record.names
    np.save(tmp_path/'a.npy', x)
    np.savez(tmp_path/'b.npz', signals=1000*x, fs=record.fs, channels=names, units='uV')
    columns = {f'{c} (mV)': y for c, y in zip(names, x)}
    table = pd.DataFrame({'time (s)': np.arange(x.shape[1])/record.fs} | columns)
    table.to_csv(tmp_path/'c.csv', index=False)
    told = '--rate', record.fs, '--channels', ','.join(names)
    said = {}
    for name, more in (('a.npy', told), ('b.npz', ()), ('c.csv', ())):
        r = run(tmp_path/name, '--out', tmp_path/name[0], *more)
        assert r.exit_code == 0, r.stderr
        assert f'<title>{name}, measured' in (tmp_path/name[0]/'study.html').read_text()
        said[name] = [(tmp_path/name[0]/f).read_text() for f in STUDY_FILES[:-1]]
    assert said['a.npy'] == said['b.npz'] == said['c.csv'] and said['a.npy'][0].count('\n') > 10
    two = '--rate', 1000, '--channels', 'I,II'
    for name, more, why in (('a.npy', (), 'does not say its rate'), ('a.npy', two, 'give [channel, time]'),
                            ('c.csv', ('--units', 'uV'), 'its unit is mV')):
        r = run(tmp_path/name, '--out', tmp_path/'d', *more)
        assert r.exit_code == 2 and why in r.stderr and r.stderr.count('\n') == 1, r.stderr
        assert not (tmp_path/'d').exists()


@pytest.mark.parametrize('old, moved', [(False, 1), (False, 5), (True, 1), (True, 5), (True, 8), (True, 10)])
def test_ctrl_c_between_two_files_leaves_none(circuit, measured, tmp_path, monkeypatch, old, moved):
    record, out = open_record(circuit[1]), tmp_path/'out'
    no_figure = measured.windows.assign(rhythm='transition')
    study = measured._replace(windows=no_figure, transitions=measured.transitions[:0])
    if old: save_study(study._replace(beats=study.beats[:9]), record, out)
    before = folder_bytes(out)
    interrupt_move(monkeypatch, moved)
    with pytest.raises(KeyboardInterrupt): save_study(study, record, out, force=old)
    assert folder_bytes(out) == before and out.exists() == old
    monkeypatch.undo()
    save_study(study, record, out, force=old)
    assert sorted(folder_bytes(out)) == sorted(STUDY_FILES) and folder_bytes(out) != before


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    n = np.random.default_rng(0).normal(0, .1, (2, 3000))
    bad = {'no surface lead': write(tmp_path, n, names=['CS 1-2', 'CS 3-4'], name='iegm'),
           '200 Hz': write(tmp_path, n, fs=100, names=['I', 'II'], name='slow'),
           'longer': write(tmp_path, n[:, :500], names=['I', 'II'], name='short'),
           'no such header': tmp_path/'nowhere.hea'}
    (tmp_path/'file').write_text('here')
    for word, path in bad.items():
        refused = run(path, '--out', tmp_path/'out')
        assert refused.exit_code == 2 and word in refused.stderr and len(refused.stderr.splitlines()) == 1
        assert not (tmp_path/'out').exists()
    good = write(tmp_path, drawn_study(np.arange(.4, 3, .5), seconds=3.5), name='good')
    assert 'is no folder' in run(good, '--out', tmp_path/'file').stderr


@pytest.mark.parametrize('fs', [200, 240])
def test_the_slowest_recordings_are_measured(tmp_path, fs):
    v = np.arange(.4, 7, .6)
    path = write(tmp_path, drawn_study(v, v - .07, pr=.12, his=.04, seconds=7.5, fs=fs), fs=fs)
    done = run(path, '--out', tmp_path/'out')
    assert done.exit_code == 0 and f'{len(v)} beats' in done.stdout
    medians = pd.read_csv(tmp_path/'out'/'medians.csv', index_col=['rhythm', 'interval'])
    assert medians.median_ms['all', 'hv'] == 'not seen' and int(medians.median_ms['all', 'rr']) == 600


def test_a_recording_without_beats_is_finished_with_status_1(tmp_path):
    x = np.zeros((2, 5000))
    x[0, 0] = .5
    path = write(tmp_path, x, names=['I', 'II'], name='flat')
    done = run(path, '--out', tmp_path/'out')
    assert done.exit_code == 1 and (tmp_path/'out'/'study.html').exists()


def test_stretches_stay_inside_the_recording(measured):
    for duration in (25., 3., 2.5, 1.):
        starts = [start for _, start in stretches_to_draw(measured, duration, min(2.5, duration))]
        assert all(0 <= start <= max(0, duration - 2.5) for start in starts)


def real_export(name, tmp_path):
    study, page = measure_file(real('exports')/name, tmp_path/'out')
    medians = interval_medians(study)
    return study, medians[medians.rhythm == 'all'].set_index('interval')['median'], page


def test_a_real_export_of_bard_is_nodal_reentry(tmp_path):
    study, ms, page = real_export('bard-avnrt.txt', tmp_path)
    assert set(study.windows.rhythm) == {'AVNRT'}
    assert abs(ms.rr - 375) <= 2 and abs(ms.aa - 375) <= 3 and abs(ms.hv - 40) <= 2 and abs(ms.va - 17) <= 5
    assert set(study.beats.earliest) == {'CS90'}
    assert study.beats.stimulus.isna().all()            # sharp electrograms in three catheters, and no pacing
    assert page.stat().st_size > 20_000


def test_a_real_export_of_cardiolab_is_ventricular_pacing(tmp_path):
    study, ms, _ = real_export('prucka.txt', tmp_path)
    assert set(study.windows.rhythm) == {'/V'}
    assert abs(ms.rr - 499) <= 2 and abs(ms.qrs - 131) <= 4
    stimuli = study.beats.stimulus.dropna().to_numpy()
    train = stimuli[(stimuli > .9) & (stimuli < 3.6)]           # at .475 s and 3.836 s others stand
    assert len(train) == 6 and (abs(np.diff(train) - .4995) < .003).all()
    table = pd.read_csv(tmp_path/'out'/'beats.csv', dtype=str)
    assert (table.va_ms == 'not seen').all() and (table.pr_ms == 'not seen').mean() > .8


def drawn_texts(page):
    "The texts of each figure of a page."
    svgs = re.findall(r'src="data:image/svg\+xml,([^"]*)"', page.read_text())
    return [re.findall(r'>([^<>\n]+)</text>', unquote(svg)) for svg in svgs]


@pytest.mark.parametrize('name', ['bard-avnrt.txt', 'prucka.txt'])
def test_the_page_draws_what_the_table_says(tmp_path, name):
    study, ms, page = real_export(name, tmp_path)
    table = pd.read_csv(page.parent/'beats.csv', dtype=str).set_index('time_s')
    for texts in drawn_texts(page):
        spans = [text.split() for text in texts if re.fullmatch('(RR|PR|AV|VA|HV|AA) [0-9]+', text)]
        assert spans and any(all(row.get(f'{what.lower()}_ms') == ms for what, ms in spans)
                             for _, row in table.iterrows())
        seen = int((table.stimulus_s != 'not seen').sum())
        assert texts.count('S') <= seen and (name == 'prucka.txt' or 'S' not in texts)
    if name == 'bard-avnrt.txt': assert f'atria {ms.va:.0f} ms after' in study.windows.reason[0]


# --- What is missing ----------------------------------------------------------

def test_a_gap_across_two_windows_is_no_pause(tmp_path):
    v = np.arange(.5, 19.3, .7)
    x = drawn_study(v, v - .07, pr=.12, his=.04, seconds=20)
    x[:, 9200:11300] = np.nan                                             # across the edge of two windows
    path = write(tmp_path, x)
    study = measure_record(open_record(path))
    on = v[(v < 9) | (v > 11.3)]
    assert len(study.beats) == len(on) and abs(study.beats.qrs_on - on).max() < .01
    assert study.beats.rr.max() < .71 and study.beats.aa.max() < .71 and study.beats.rr.isna().sum() == 2
    assert study.transitions.empty and set(study.windows.rhythm) == {'N'}
    said = '2.1 s without any surface lead'
    assert said in run(path, '--out', tmp_path/'out').stdout
    assert said in (tmp_path/'out'/'study.html').read_text()


def test_flat_surface_leads_have_no_qrs_although_a_catheter_beats(tmp_path):
    v = np.arange(.5, 19.3, .7)
    x = drawn_study(v, v - .07, pr=.12, seconds=20)
    x[:12, :11_500] = 0.
    study = measure_record(open_record(write(tmp_path, x)))
    assert list(study.windows.rhythm) == ['?', 'N'] and 'flat' in study.windows.reason[0]
    assert study.beats.qrs_on.min() > 11.3 and len(study.beats) == (v > 11.4).sum()
    x[:12] = 0.
    assert not len(measure_record(open_record(write(tmp_path, x, name='flat'))).beats)


def test_a_gap_of_the_catheters_hides_only_their_intervals(tmp_path):
    v = np.arange(.5, 9.3, .7)
    x = drawn_study(v, v - .12, his=.04, seconds=10)
    x[12:, 4050:4300] = np.nan                                            # after the sixth beat
    beats, gaps = (measure_record(open_record(write(tmp_path, x)))[i] for i in (0, -1))
    assert beats.rr.isna().sum() == 1 and len(gaps) == 0
    assert np.isnan(beats.aa[5]) and beats.aa.drop([5, len(beats) - 1]).notna().all()


def test_a_gap_of_a_real_ecg_is_no_pause(tmp_path):
    record = open_record(real('cinc2021')/'A1041.hea')
    x = record.standard()[:12]
    whole = measure_record(record).beats
    x[:, 1000:2500] = np.nan
    beats = measure_record(open_record(write(tmp_path, x, record.fs, CHANNELS[:12]))).beats
    outside = whole[(whole.qrs_on < 1.9) | (whole.qrs_on > 5.05)]
    assert beats.rr.isna().sum() == 2 and beats.rr.max() < 1.5
    assert abs(beats.qrs_on.to_numpy() - outside.qrs_on.to_numpy()).max() < .01


@pytest.mark.parametrize('start', [255, 260, 370])
def test_artefacts_of_a_real_ecg_start_no_tachycardia(tmp_path, start):
    record = open_record(real('mitdb')/'104')
    a = int(start*record.fs)
    part = record.standard(a, a + int(30*record.fs))
    leads = np.flatnonzero(record.rows[:12] >= 0)
    path = write(tmp_path, part[leads], record.fs, [CHANNELS[i] for i in leads])
    study = measure_record(open_record(path))
    assert set(study.transitions.what) <= {UNCERTAIN} and 'transition' not in set(study.windows.rhythm)


# --- The beats that all stands on ---------------------------------------------

@pytest.mark.parametrize('cycle', [.2, .24, .4, .8, 1.5])
def test_beats_of_any_rate_from_40_to_300_a_minute(cycle):
    v = np.arange(.5, 9.4, cycle)
    qrs = min(.08, .3*cycle)
    x = drawn_study(v, qrs=qrs, seconds=10)
    x[12:] = np.nan
    if cycle < .3:                                        # no T wave fits between
        x = drawn_study((), seconds=10)
        for lead in range(12): x[lead] += np.interp(np.arange(10_000)/1000 % .001, [0, 1], [0, 0])
        for t in v: x[:12, int(1000*t):int(1000*(t + qrs))] += np.sin(np.linspace(0, 2*np.pi, int(1000*(
            t + qrs)) - int(1000*t)))*np.hanning(int(1000*(t + qrs)) - int(1000*t))
        x[12:] = np.nan
    found = find_beats(x, 1000)/1000
    assert len(found) == len(v) and abs(found - v - qrs/2).max() < .03


@pytest.mark.parametrize('size', [2., 15., 60.])
@pytest.mark.parametrize('leads', [1, 3])
def test_motion_in_some_leads_makes_few_beats(size, leads):
    rng = np.random.default_rng(1)
    v = np.arange(.5, 9.4, .7)
    x = drawn_study(v, seconds=10)
    x[12:] = np.nan
    for t in (2.2, 4.4, 7.1):
        i = int(1000*t)
        wander = np.convolve(rng.normal(0, 1, 400), np.hanning(60), 'same')
        x[:leads, i:i + 400] += size*wander/abs(wander).max()
    found = find_beats(x, 1000)/1000
    assert (abs(v[:, None] + .04 - found).min(1) < .1).mean() > .9
    assert (abs(found[:, None] - v - .04).min(1) >= .1).sum() <= 1


def test_small_beats_between_tall_ones_are_found():
    v = np.arange(.5, 9.4, .6)
    tall = v[[3, 9, 14]]
    x = .35*drawn_study(v, seconds=10) + drawn_study(tall, qrs=.14, seconds=10)
    x[12:] = np.nan
    assert len(find_beats(x, 1000)) == len(v)


def test_a_lead_that_falls_silent_does_not_silence_the_others():
    v = np.arange(.5, 9.4, .6)
    x = drawn_study(v, seconds=10)
    x[12:], x[2:12] = np.nan, np.nan
    x[0, 5000:] = 0
    assert len(find_beats(x, 1000)) == len(v)


def test_real_arrhythmias_against_the_annotators():
    from pedarr.data.annotations import read_annotations
    from pedarr.data.known_databases import get_database
    folder, hit, missed, extra = real('mitdb'), 0, 0, 0
    for name in ('102', '103', '104', '106', '107'):
        r = get_database('mitdb').open(folder/name)
        a, n, near = read_annotations(folder/name, 'atr', r.sig_len), int(10*r.fs), .15*r.fs
        truth = a.sample[~np.isin(a.symbol, list('+~|"![]x'))]
        for start in range(0, r.sig_len - n, 3*n):
            found = find_beats(r.standard(start, start + n), r.fs) + start
            inside = lambda t: t[(t > start + near) & (t < start + n - near)]
            seen = (abs(inside(truth)[:, None] - found) < near).any(1)
            right = (abs(inside(found)[:, None] - truth) < near).any(1)
            hit, missed, extra = hit + seen.sum(), missed + (~seen).sum(), extra + (~right).sum()
    assert hit > 2500 and hit/(hit + missed) > .998 and hit/(hit + extra) > .995


def test_a_gap_is_no_pause(tmp_path):
    "Three seconds of all leads are missing: no interval reaches over them, no rhythm is said there."
    x = drawn_study(np.arange(.5, 29.6, .8), pr=.16, seconds=30., fs=500)[:12]
    x[:, 2000:3500], x[3, 10_000:10_400] = np.nan, np.nan           # 4 to 7 s; and one lead alone
    wfdb.wrsamp('gap', 500, ['mV']*12, list(CHANNELS[:12]), x.T, fmt=['16']*12, write_dir=str(tmp_path))
    p = run(tmp_path/'gap', '--out', tmp_path/'out')
    assert p.exit_code == 0 and '3.0 s without any surface lead' in p.output
    beats = pd.read_csv(tmp_path/'out'/'beats.csv')
    rr = pd.to_numeric(beats.rr_ms, errors='coerce')
    assert (rr.dropna() - 800).abs().max() < 30 and len(rr.dropna()) > 25
    over = beats[(beats.time_s < 4) & (beats.time_s.shift(-1) > 7)]
    assert len(over) == 1 and (over.rr_ms == 'not seen').all()
    windows = pd.read_csv(tmp_path/'out'/'windows.csv')
    assert windows.rhythm[0] == '?' and windows.reason[0] == '3.0 s of the signal are missing'
    assert not windows.reason[1:].str.contains('missing').any()
    assert '3.0 s without any surface lead' in (tmp_path/'out'/'study.html').read_text()


def test_the_page_draws_what_the_tables_say(tmp_path, monkeypatch):
    "Calipers of paced beats: no PR, and an RR that is a row of the table."
    from pedarr.exploration import calipers
    drawn, real = [], calipers.caliper_intervals
    monkeypatch.setattr(calipers, 'caliper_intervals', lambda *a: drawn.append(real(*a)) or drawn[-1])
    x = drawn_study(np.arange(.5, 9.6, .8), pr=.16, seconds=10., fs=1000)
    for on in np.arange(.5, 9.6, .8): x[:12, int(1000*on) - 12:int(1000*on) - 10] += 3.     # stimuli
    study, _ = measure_file(write(tmp_path, x[:12], names=CHANNELS[:12]), tmp_path/'out')
    said = {name.split()[0]: int(name.split()[1]) for name, *_ in drawn[0]}
    assert study.beats.stimulus.notna().any() and study.beats.pr.isna().all() and 'PR' not in said
    assert said['RR'] in set((1000*study.beats.rr.dropna()).round().astype(int))


# --- What is no QRS, and two rhythms in a window ------------------------------

def test_a_qrs_that_cannot_be_is_not_seen_and_too_few_give_no_rhythm(tmp_path):
    v = np.arange(.5, 29.5, .7)
    x = drawn_study(v, v - .07, pr=.12, his=.04, seconds=30)
    loose = (v > 10.2) & (v < 19) | (v > 22) & (v < 22.6)               # most of a window; one beat
    for t in v[loose]:
        a = int(1000*t)
        x[:12, a - 10:a + 350] = 0.
        x[:12, a:a + 6] += 2*np.hanning(6)
    path = write(tmp_path, x)
    study = measure_record(open_record(path))
    t = study.beats
    assert len(t) == len(v) and (t.qrs.isna() == loose).all() and t.rr[:-1].notna().all()
    assert t.qrs.dropna().between(NARROWEST_QRS, WIDEST_QRS).all()
    assert t.loc[loose, ['qt', 'pr', 'hv', 'va']].isna().all(axis=None)
    assert study.windows.rhythm.tolist() == ['N', '?', 'N']
    assert study.windows.reason[1] == 'too few QRS complexes of a width that can be'
    assert run(path, '--out', tmp_path/'out').exit_code == 0
    table = pd.read_csv(tmp_path/'out'/'beats.csv', dtype=str)
    assert ((table.qrs_ms == 'not seen') == loose).all()


def test_the_paced_record_104_has_no_qrs_of_a_few_milliseconds():
    record = open_record(real('mitdb')/'104')
    study = measure_record(record)
    qrs = study.beats.qrs
    assert qrs.dropna().between(NARROWEST_QRS, WIDEST_QRS).all() and .01 < qrs.isna().mean() < .15


def noises(fs=500, seconds=10, leads=12):
    rng, t = np.random.default_rng(1), np.arange(seconds*fs)/fs
    white = rng.normal(0, .1, (leads, len(t)))
    emg = np.diff(white, prepend=0)*(1 + np.sin(2*np.pi*.4*t))**2
    mains = .2*np.sin(2*np.pi*50*t + rng.uniform(0, 6, (leads, 1))) + .02*white
    return dict(white=white, emg=emg, mains=mains, drift=np.cumsum(white, 1)/10, flat=np.full_like(white, .3))


@pytest.mark.parametrize('kind', noises())
@pytest.mark.parametrize('leads', [1, 3, 12])
def test_noise_has_no_rhythm_whatever_the_catheters_show(tmp_path, kind, leads):
    x = drawn_study(np.arange(.5, 9.7, .7), np.arange(.43, 9.6, .7), seconds=10, fs=500)
    x[12:14] = np.nan                               # no catheter in the ventricle
    x[:12] = np.nan
    x[:leads] = noises(leads=leads)[kind]
    study = measure_record(open_record(write(tmp_path, np.nan_to_num(x, nan=0.), fs=500)))
    assert list(study.windows.rhythm) == ['?']
    assert re.search('stand out|resemble|flat|fewer than three', study.windows.reason[0])


def test_real_ecgs_have_complexes_that_resemble_each_other():
    reasons = [w.reason for i in range(1, 201, 5)
               for w in measure_record(open_record(real('ludb')/'data'/str(i))).windows.itertuples()]
    assert len(reasons) == 40 and not any('QRS' in r for r in reasons if 'just before' not in r)


@pytest.fixture(scope='module')
def three_rhythms(tmp_path_factory):
    "Sinus rhythm, a circuit over a pathway from 4 s to 8 s, and a focus on the left at 600 ms, by hand."
    sinus, circuit, focus = np.arange(.5, 4, .7), np.arange(4.1, 8, .33), np.arange(8.2, 13.9, .6)
    v = np.concatenate([sinus, circuit, focus])
    x = (drawn_study(sinus, sinus - .12, pr=.16, seconds=14)
         + drawn_study(circuit, circuit + .11, cs=(0., .01, .02, .03, .04), seconds=14, seed=1)
         + drawn_study(focus, focus - .14, cs=(0., .01, .02, .03, .04), seconds=14, seed=2))
    return v, write(tmp_path_factory.mktemp('three'), x)


def test_each_rhythm_of_a_window_is_named_and_when_it_changes(three_rhythms):
    study = measure_record(open_record(three_rhythms[1]), window=14)
    assert study.windows.rhythm.tolist() == ['transition']
    said = re.findall(r'(\S+) to (\S+) at ([0-9.]+) s', study.windows.reason[0])
    assert [(a, b) for a, b, _ in said][0] == ('N', 'AVRT') and said[1][0] == 'AVRT' and len(said) == 2
    assert abs(float(said[0][2]) - 4.1) < .4 and abs(float(said[1][2]) - 8.2) < .7


def test_one_rhythm_that_varies_is_not_split(tmp_path):
    rng = np.random.default_rng(3)
    cycles = .7 + .12*np.sin(np.arange(40)/3) + rng.normal(0, .02, 40)       # with breathing
    v = .5 + np.cumsum(cycles)
    v = v[v < 19.5]
    study = measure_record(open_record(write(tmp_path, drawn_study(v, v - .12, pr=.16, seconds=20))))
    assert set(study.windows.rhythm) == {'N'}
    table = pd.DataFrame(dict(qrs_on=v, qrs_off=v + .08, atrium=v - .12, CS12=v - .1, CS90=v - .12,
                              rr=np.append(np.diff(v), np.nan), n_atrial=1.))
    assert not len(changes_within(table)) and not len(changes_within(table[:5]))
    table.loc[12:, ['atrium', 'CS12', 'CS90']] += .25
    assert abs(changes_within(table) - 12).max() <= 1


def test_real_fibrillation_is_rarely_split():
    from pedarr.data.known_databases import get_database
    windows = [w for name in ('iaf1_afw', 'iaf4_tva', 'iaf5_svc')
               for w in measure_record(get_database('iafdb').open(real('iafdb')/name)).windows.itertuples()]
    assert len(windows) > 30 and sum(w.rhythm == 'transition' for w in windows) <= 1


def test_measuring_never_takes_the_place_of_a_recording(tmp_path):
    x = drawn_study(np.arange(.5, 7.5, .7), pr=.16)[:12]
    table = tmp_path/'beats.csv'
    pd.DataFrame(x.T, columns=CHANNELS[:12]).to_csv(table, index=False)
    before = table.read_bytes()
    for out in (tmp_path, tmp_path/'.'):
        r = run(table, '--rate', 1000, '--out', out, '--force')
        assert r.exit_code == 2 and 'is a recording that is read' in r.stderr
    assert table.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['beats.csv']


def test_p_waves_without_a_catheter_are_those_that_are_alike():
    "In fibrillation hardly a beat has one, in sinus rhythm nearly all have."
    fibrillation = [8, 38, 44, 51, 83, 88, 93, 95, 96, 101, 109, 110, 112, 129, 173]
    sinus = [2, 3, 4, 5, 7, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20]

    def share(names):
        "Of the beats of these recordings of LUDB, those with a PR interval."
        records = [open_record(real('ludb')/'data'/str(name)) for name in names]
        return np.mean([x for r in records for x in measure_window(r, (0, r.sig_len)).beats.pr.notna()])

    assert [name for name in fibrillation if share([name])] == [101]
    assert share(fibrillation) < .1 and share(sinus) > .85 and share([2]) > 0
