"""Histories: bounded, over the whole run, and without a lost extreme or a lost NaN."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.fold.ledgers.history import (
    BUCKETS_KEPT,
    NONFINITE_KEPT,
    History,
    Point,
    thinned,
)

ANY_FLOATS = st.lists(st.floats(), max_size=60)


def series():
    """Return an empty history of one series, `x`."""
    return History(lambda rows: {"x": rows})


def history_of(values, history=None):
    history = series() if history is None else history
    for place, value in enumerate(values, start=1):
        history.add(place, value)
    return history


def x(history):
    return history.values().get("x", ())


def same(left, right):
    """Whether two series are equal, with NaN equal to itself."""
    return list(map(repr, left)) == list(map(repr, right))


@given(ANY_FLOATS)
def test_a_short_history_is_kept_whole(values):
    assert same(x(history_of(values)), values)


@given(ANY_FLOATS)
def test_a_bucket_keeps_its_extremes_its_last_and_what_is_not_finite(values):
    points = [Point(place, value) for place, value in enumerate(values)]
    kept = thinned(points)

    assert list(kept) == [point for point in points if point in kept]  # in order, none made up
    finite = [value for value in values if math.isfinite(value)]
    nonfinite = [value for value in values if not math.isfinite(value)]
    left = [point.value for point in kept if math.isfinite(point.value)]
    assert len(left) <= 3
    if finite:
        assert min(left) == min(finite)
        assert max(left) == max(finite)
        assert left[-1] == finite[-1]
    kept_nonfinite = [point.value for point in kept if not math.isfinite(point.value)]
    if len(nonfinite) <= NONFINITE_KEPT:
        assert same(kept_nonfinite, nonfinite)
    else:
        assert len(kept_nonfinite) <= NONFINITE_KEPT
        assert set(map(repr, kept_nonfinite)) == set(map(repr, nonfinite))
        assert repr(kept_nonfinite[-1]) == repr(nonfinite[-1])


@given(seed=st.integers(0, 2**32), bad=st.sets(st.integers(1, 5_000), max_size=6))
def test_a_long_history_is_bounded_and_keeps_what_matters(seed, bad):
    values = [math.sin(seed + 0.7 * place) for place in range(1, 5_001)]
    values[seed % 5_000] = 7.0
    for place in bad:
        values[place - 1] = math.nan
    kept = x(history_of(values))

    assert BUCKETS_KEPT <= len(kept) <= 3 * BUCKETS_KEPT + len(bad)
    finite = [value for value in kept if math.isfinite(value)]
    assert min(finite) == min(value for value in values if math.isfinite(value))
    assert max(finite) == max(value for value in values if math.isfinite(value))
    assert sum(map(math.isnan, kept)) == len(bad)
    assert repr(kept[-1]) == repr(values[-1])


def test_the_points_lie_evenly_over_the_run():
    kept = x(history_of([float(place) for place in range(10_000)]))

    gaps = [after - before for before, after in itertools.pairwise(kept)]
    assert max(gaps) <= 2 * 10_000 / BUCKETS_KEPT


def test_nothing_but_nan_is_bounded_all_the_same():
    kept = x(history_of([math.nan] * 20_000))

    assert 0 < len(kept) <= 11 * BUCKETS_KEPT


@given(values=ANY_FLOATS, cut=st.integers(0, 60))
def test_dropped_points_can_be_added_again(values, cut):
    history = history_of(values)
    history.drop_after(cut)
    assert same(x(history), values[:cut])
    for place in range(cut + 1, len(values) + 1):
        history.add(place, 0.5)
    assert same(x(history), [*values[:cut], *[0.5] * max(0, len(values) - cut)])


@given(first=st.integers(0, 2_000), more=st.integers(0, 2_000), looks=st.integers(1, 400))
def test_a_copy_of_a_history_is_independent(first, more, looks):
    history = series()
    for place in range(1, first + 1):
        history.add(place, float(place % 37))
        if place % looks == 0:
            history.values()
    before = x(history)
    copy = history.copy()
    for place in range(first + 1, first + more + 1):
        copy.add(place, float(place % 41))

    assert x(history) == before
    straight = history_of([float(place % 37) for place in range(1, first + 1)])
    for place in range(first + 1, first + more + 1):
        straight.add(place, float(place % 41))
    assert x(copy) == x(straight)


@pytest.mark.parametrize("places", [[2**62, 1, 1], [5, 5, 5], [0, 10**15, 10**18]])
def test_places_that_make_no_sense_lose_nothing(places):
    history = series()
    for place in places * 200:
        history.add(place, 1.0)

    assert 0 < len(x(history)) <= 3 * BUCKETS_KEPT


def test_a_series_may_miss_rows():
    history = History(lambda rows: {"a": rows, "b": [row if row > 2 else None for row in rows]})
    history_of([1.0, 2.0, 3.0, 4.0], history)

    assert history.values() == {"a": (1.0, 2.0, 3.0, 4.0), "b": (3.0, 4.0)}
