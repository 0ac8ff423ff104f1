"""Episodes: properties on random annotation sequences, and faults."""
import numpy as np
import pytest
from hypothesis import given, strategies as st

from pedarr.data.rhythms import (
    BEAT_SYMBOLS, LEIPZIG_RHYTHMS, MITDB_RHYTHMS, check_samples, noisy_signal, parse_episodes,
    poor_signal, rhythm_name)
from pedarr.data.groupings import GROUPINGS, classes_of, get_grouping
from pedarr.core.errors import PedarrError

names = st.sampled_from(['N', 'AVNRT', '/A', 'made up'])
marks = st.lists(st.tuples(st.integers(0, 999), st.sampled_from(list('+NV~Q|"')), names), max_size=60)


@given(marks)
def test_episodes_tile_what_follows_the_first_mark(items):
    items = sorted(items, key=lambda m: m[0])
    sample = [m[0] for m in items]
    symbol = [m[1] for m in items]
    aux = [f'({m[2]}\x00' if m[1] == '+' else '' for m in items]
    e = parse_episodes(sample, symbol, aux, 1000)
    at = [i for i, s in enumerate(symbol) if s == '+']
    assert len(e) == len(at), 'no rhythm annotation is lost'
    assert e.rhythm.tolist() == [items[i][2] for i in at], 'and every name is kept, known or not'
    assert (e.start.to_numpy()[1:] == e.stop.to_numpy()[:-1]).all() and (e.stop >= e.start).all()
    if at:
        assert e.stop.iloc[-1] == 1000 and e.start.iloc[0] == sample[at[0]]
        beats, known = sum(s in BEAT_SYMBOLS for s in symbol[at[0]:]), any(s in BEAT_SYMBOLS for s in symbol)
        if known: assert e.beats.sum() == beats, 'every beat after the first mark is counted once'
        else: assert (e.beats == -1).all()


@given(marks)
def test_poor_signal_comes_in_pairs(items):
    items = sorted(items, key=lambda m: m[0])
    p = poor_signal([m[0] for m in items], [m[1] for m in items], 1000)
    assert len(p) == (sum(m[1] == '~' for m in items) + 1)//2
    assert (p.stop >= p.start).all() and (p.start.to_numpy()[1:] >= p.stop.to_numpy()[:-1]).all()


@pytest.mark.parametrize('sample, say', [
    ([5, 1001], 'outside the recording'), ([-1, 3], 'outside the recording'), ([5, 4], 'comes before')])
def test_impossible_marks_are_refused_in_one_line(sample, say):
    with pytest.raises(PedarrError, match=say) as e: check_samples(sample, 1000, 'x001.atr')
    assert 'x001.atr' in str(e.value) and '\n' not in str(e.value)


def test_a_mark_on_the_last_sample_is_kept():
    e = parse_episodes([0, 999], ['+', '+'], ['(N', '(VT'], 1000)
    assert e[['start', 'stop']].values.tolist() == [[0, 999], [999, 1000]]


# as in data_101_6 of CPSC 2021: 22355 samples, last mark at 22355
def test_a_mark_at_the_end_closes_and_opens_nothing():
    e = parse_episodes([10, 2500, 5000], ['+', '+', '+'], ['(N', '(AFIB', '(N'], 5000)
    assert e[['start', 'stop', 'rhythm']].values.tolist() == [[10, 2500, 'N'], [2500, 5000, 'AFIB']]
    assert len(parse_episodes([5000], ['+'], ['(N'], 5000)) == 0


@pytest.mark.parametrize('symbol', ['N', '~', '|', '"'])
def test_other_marks_at_the_end_do_no_harm(symbol):
    with_it = parse_episodes([10, 20, 5000], ['+', 'N', symbol], ['(N', '', ''], 5000)
    assert with_it.values.tolist() == [[10, 5000, 'N', 1]], 'a beat behind the last sample is in no episode'
    poor = poor_signal([10, 20, 5000], ['+', 'N', symbol], 5000)
    assert (poor.stop - poor.start).sum() == 0


def test_what_lies_beyond_the_end_is_refused_with_its_sample():
    with pytest.raises(PedarrError,
                       match='x.atr: annotation 1 is at sample 5001, outside the recording of 5000 samples'):
        parse_episodes([10, 5001], ['+', '+'], ['(N', '(N'], 5000, 'x.atr')


@given(marks)
def test_a_closing_mark_changes_nothing(items):
    items = sorted(items, key=lambda m: m[0])
    columns = [[m[0] for m in items], [m[1] for m in items],
               [f'({m[2]}' if m[1] == '+' else '' for m in items]]
    closed = [[*c, x] for c, x in zip(columns, (1000, '+', '(N'))]
    assert parse_episodes(*columns, 1000).equals(parse_episodes(*closed, 1000))


@given(marks)
def test_no_beat_marks_are_not_zero_beats(items):
    items = sorted((m for m in items if m[1] not in BEAT_SYMBOLS), key=lambda m: m[0])
    columns = [[m[0] for m in items], [m[1] for m in items], ['(N' if m[1] == '+' else '' for m in items]]
    assert (parse_episodes(*columns, 1000).beats == -1).all(), 'nobody annotated beats'
    first = [[0, *columns[0]], ['N', *columns[1]], ['', *columns[2]]]
    assert (parse_episodes(*first,
                           1000).beats == 0).all(), 'beats were annotated, and these episodes have none'


def test_an_annotation_file_without_marks_gives_an_empty_table():
    assert list(parse_episodes([], [], [], 10).columns) == ['start', 'stop', 'rhythm', 'beats']


def test_noise_levels_of_one_lead_are_not_poor_signal():
    assert len(noisy_signal([1, 5], ['~', '~'], [1, 0], 2, 10)) == 0
    assert noisy_signal([1, 5], ['~', '~'], [1, 0], 1, 10).values.tolist() == [[1, 5]]


@pytest.mark.parametrize('sample', [[.5, 2], [1, None], ['1'], [2**70], [float('nan')], [True]])
def test_only_whole_numbers_are_samples(sample):
    with pytest.raises(PedarrError, match='x.atr: .*(whole numbers|outside)'):
        check_samples(sample, 100, 'x.atr')


# as after two texts for one mark: every later rhythm would be one mark late
def test_columns_of_unequal_length_are_refused():
    with pytest.raises(PedarrError, match='2 sample, 2 symbol, 3 text'):
        parse_episodes([1, 2], ['+', '+'], ['(N', '(VT', '(A'], 10)
    with pytest.raises(PedarrError, match='do not fit'): poor_signal([1, 2], ['~'], 10)
    with pytest.raises(PedarrError, match='do not fit'): noisy_signal([1, 2], ['~', '~'], [0], 2, 10)


@pytest.mark.parametrize('text, name', [
    ('(N', 'N'), ('(N\0', 'N'), ('(N\0VT', 'N'), ('\0(N', 'N'), (' ( VT ', 'VT'), ('', ''), (None, ''),
    ('((A', '(A')])
def test_a_nul_ends_a_text(text, name): assert rhythm_name(text) == name


def test_many_signals_are_more_than_a_subtype_can_speak_of():
    assert len(noisy_signal([1, 5], ['~', '~'], [127, 0], 200, 10)) == 0
    assert noisy_signal([1], ['~'], [-1], 200, 10).values.tolist() == [[1, 10]]


@pytest.mark.parametrize('name', GROUPINGS)
def test_groupings_name_rhythms_that_exist(name):
    g = get_grouping(name)
    assert len(classes_of(g)) >= 2
    if name in ('rhythm8', 'rhythm13', 'svt4'): assert set(g) == set(LEIPZIG_RHYTHMS)
    if name == 'mitdb6': assert set(g) <= set(MITDB_RHYTHMS) | set(LEIPZIG_RHYTHMS)


def test_unknown_grouping_lists_the_known():
    with pytest.raises(PedarrError, match='rhythm8.*rhythm13.*svt4.*ludb7.*mitdb6'): get_grouping('rhythm')
