"""Charts keep the extremes and every non-finite point of any series."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.drawing.ascii import to_ascii
from esper.karn.sanctum.drawing.braille import line_chart
from esper.karn.sanctum.drawing.charts import (
    BLOCKS,
    MIXED_SIGN,
    NONFINITE_SIGNS,
    buckets,
    finite_range,
    level,
    progress_bar,
    sign_of,
    sparkline,
)
from esper.karn.text.palette import DARK

SERIES = st.lists(st.floats(), max_size=60)


def _signs(text):
    return {character for character in text if character in NONFINITE_SIGNS.values()}


def test_a_rising_series_is_a_rising_line():
    assert sparkline(range(8), 8, DARK).plain == "▁▂▃▄▅▆▇█"


def test_a_constant_series_lies_in_the_middle():
    assert sparkline([3.0] * 4, 4, DARK).plain == "▄▄▄▄"


@pytest.mark.parametrize(("value", "sign"), [(math.nan, "×"), (math.inf, "↑"), (-math.inf, "↓")])
def test_a_nonfinite_point_has_a_distinct_sign(value, sign):
    line = sparkline([1.0, value, 2.0], 3, DARK)
    assert line.plain == f"▁{sign}█"
    (span,) = [span for span in line.spans if span.start == 1]
    assert str(span.style) == f"bold {DARK.critical}"
    assert sign in "".join(row.plain for row in line_chart([1.0, value, 2.0], 9, 3, DARK))


def test_infinite_points_stand_at_the_edges_of_a_chart():
    rows = [row.plain for row in line_chart([1.0, math.inf, 2.0, -math.inf, 1.0], 11, 4, DARK)]
    assert "↑" in rows[0]
    assert "↓" in rows[-1]


@given(SERIES, st.integers(min_value=1, max_value=20), st.integers(min_value=1, max_value=5))
def test_charts_have_exactly_their_size_and_never_raise(values, width, height):
    assert sparkline(values, width, DARK).cell_len == width
    assert [row.cell_len for row in line_chart(values, width, height, DARK)] == [width] * height


@given(SERIES, st.integers(min_value=1, max_value=20))
def test_every_bucket_keeps_its_extremes_and_no_nonfinite_point_is_lost(values, columns):
    kept = buckets(values, columns)
    finite = [value for value in values if math.isfinite(value)]
    lows = [bucket.low for bucket in kept if not math.isnan(bucket.low)]
    highs = [bucket.high for bucket in kept if not math.isnan(bucket.high)]
    assert (min(lows, default=None), max(highs, default=None)) == (
        min(finite, default=None),
        max(finite, default=None),
    )
    assert any(bucket.nonfinite for bucket in kept) == (len(finite) < len(values))
    assert len(kept) == min(columns, len(values))


@given(SERIES, st.integers(min_value=1, max_value=20))
def test_a_cell_of_a_line_is_high_as_the_last_point_of_its_bucket_or_has_its_sign(values, width):
    columns = buckets(values, width)
    low, high = finite_range(columns)
    cells = [
        sign_of(column.nonfinite)
        if column.nonfinite
        else BLOCKS[level(column.last, low, high, len(BLOCKS))]
        for column in columns
    ]
    assert sparkline(values, width, DARK).plain == "".join(cells).ljust(width)


@given(SERIES)
def test_with_a_column_for_each_every_nonfinite_point_is_marked(values):
    marks = sum(
        character in NONFINITE_SIGNS.values() for character in sparkline(values, 60, DARK).plain
    )
    assert marks == sum(not math.isfinite(value) for value in values)


def test_a_spike_between_two_columns_is_still_drawn():
    values = [0.0] * 500 + [1.0] + [0.0] * 499
    top = line_chart(values, 10, 3, DARK)[0].plain
    assert top.strip(" ⠀")


def test_a_short_series_fills_the_whole_width():
    rows = line_chart([0.0, 1.0], 10, 2, DARK)
    assert all(any(row.plain[x] != " " for row in rows) for x in range(10))


@pytest.mark.parametrize(
    ("share", "filled"), [(0.0, 0), (0.5, 5), (1.0, 10), (7.0, 10), (math.nan, 0)]
)
def test_the_progress_bar_is_filled_by_its_share(share, filled):
    assert progress_bar(share, 10, DARK).plain == "━" * filled + "─" * (10 - filled)


def test_values_that_are_equal_make_a_level_line():
    rows = [row.plain for row in line_chart([0.1] * 7, 20, 3, DARK)]
    assert sum(bool(row.strip()) for row in rows) == 1


def test_points_of_different_kinds_in_one_cell_are_marked_as_mixed():
    values = [math.nan, math.inf, 1.0, 2.0]
    assert sparkline(values, 2, DARK).plain[0] == MIXED_SIGN
    rows = [row.plain for row in line_chart(values * 30, 4, 3, DARK)]
    assert "↑" in rows[0]
    assert "×" in rows[1]
    assert MIXED_SIGN in line_chart(values * 30, 4, 1, DARK)[0].plain


def test_an_area_is_filled_down_to_its_ground():
    rows = [row.plain for row in line_chart([1.0, 0.0, 1.0], 9, 3, DARK, is_filled=True)]
    assert set(rows[2]) == {"⣿"} or all(character != " " for character in rows[2])
    assert rows[0][0] != " "
    assert rows[0][4] == " "


@pytest.mark.parametrize("values", [[1e308, -1e308], [5e-324, 0.0], [1e308] * 3, [-0.0, 0.0]])
def test_the_largest_and_the_smallest_numbers_are_drawn(values):
    assert "".join(row.plain for row in line_chart(values, 8, 2, DARK)).strip()


@given(SERIES, st.integers(min_value=1, max_value=20), st.integers(min_value=1, max_value=5))
def test_an_ascii_chart_has_ink_where_the_braille_has(values, width, height):
    for row in line_chart(values, width, height, DARK):
        plain = to_ascii(row.plain)
        assert [cell == " " for cell in plain] == [cell == " " for cell in row.plain]
