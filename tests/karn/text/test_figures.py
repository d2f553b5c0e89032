"""Numbers as text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.text.figures import count, duration, figure, percentage


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (0.0, "0"),
        (0.98765, "0.988"),
        (-0.98765, "-0.99"),
        (12.3456, "12.35"),
        (1234.5, "1234"),
        (0.0123, "0.012"),
        (0.000123, "1e-4"),
        (123456.0, "1.2e5"),
        (-2e-5, "-2e-5"),
        (-2e-10, "-2e-…"),
        (-1e308, "-1e3…"),
    ],
)
def test_a_figure_is_written_in_five_characters(value, text):
    assert figure(value) == text


@given(st.floats(), st.integers(min_value=5, max_value=12))
def test_no_number_is_wider_than_its_place(value, width):
    assert 0 < len(figure(value, width)) <= width


@given(st.floats(min_value=1e-3, max_value=9999, allow_subnormal=False))
def test_a_rounded_figure_is_near_its_value(value):
    assert float(figure(value, 7)) == pytest.approx(value, rel=0.1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (7, "7"),
        (0.5, "0.5"),
        (950, "950"),
        (1240, "1.24k"),
        (53_100, "53.1k"),
        (4_010_000, "4.01M"),
        (math.inf, "+Inf"),
    ],
)
def test_counts_have_unit_prefixes(value, text):
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "50.0%"), (1.0, "100.0%"), (math.nan, "NaN"), (None, "–")]
)
def test_shares_are_percentages(value, text):
    assert percentage(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0, "0:00:00"), (3725, "1:02:05"), (90_061, "1 d 1:01:01"), (-3, "0:00:00")],
)
def test_durations_are_clocks(seconds, text):
    assert duration(seconds) == text
