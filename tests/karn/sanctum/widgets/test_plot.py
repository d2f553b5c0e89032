"""Charts with axes are labelled, for any series."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.drawing.charts import NONFINITE_SIGNS
from esper.karn.sanctum.drawing.plot import Series, one_line, plot, plots
from esper.karn.text.palette import DARK

VALUES = st.lists(st.floats(), max_size=80)


def _plain(lines):
    return [line.plain for line in lines]


def test_the_axes_say_from_where_to_where_the_values_reach():
    lines = _plain(plot(Series("KL", [0.25, 1.0, 0.5], x_name="update", x_last=36), 40, 6, DARK))
    assert lines[0].startswith("KL 0.5")
    assert lines[1].startswith("1.000 ┤")
    assert lines[4].startswith("0.250 ┤")
    assert lines[5].split()[:2] == ["└", "34"]
    assert lines[5].endswith("update 36")


def test_a_history_of_fewer_points_than_updates_still_names_its_first_update():
    series = Series("KL", [0.25] * 480, x_name="update", x_first=1, x_last=9000)
    line = plot(series, 40, 6, DARK)[5].plain
    assert line.split()[1] == "1"
    assert line.endswith("update 9000")


def test_a_tall_chart_says_its_middle_as_well():
    lines = _plain(plot(Series("Loss", [0.0, 1.0]), 40, 8, DARK))
    assert lines[4].startswith("0.500 ┤")


def test_charts_to_be_compared_have_the_same_axes():
    long = Series("Score", [0.0, 1.0, 2.0], x_name="update", x_last=9, span=(-2.0, 6.0))
    short = Series("Score", [6.0] * 2, x_name="update", x_last=9, span=(-2.0, 6.0), share=0.5)
    charts = [_plain(plot(series, 47, 9, DARK)) for series in (long, short)]
    for lines in charts:
        assert lines[1].startswith(" 6.000 ┤")
        assert lines[4].startswith(" 2.000 ┤")
        assert lines[7].startswith("-2.000 ┤")
        assert lines[8].endswith("update 9")
    whole, half = (max(len(line[8:].rstrip()) for line in lines[1:8]) for lines in charts)
    assert (whole, half) == (39, 20)


@pytest.mark.parametrize(
    ("values", "ticks", "is_count"),
    [
        ((-0.034, -0.026), ["-0.026", "-0.034"], False),
        ((-0.0301, -0.03012), ["-0.03010", "-0.03012"], False),
        ((100_001, 100_002), ["100002", "100001"], True),
        ((0.25, 1.0), ["1.000", "0.250"], False),
    ],
)
def test_the_figures_of_an_axis_differ(values, ticks, is_count):
    series = Series("Loss", values, x_name="update", is_count=is_count)
    lines = _plain(plot(series, 60, 6, DARK))
    assert [line.split(" ┤")[0].strip() for line in lines if " ┤" in line] == ticks
    assert {len(line) for line in lines} == {60}
    assert lines[-1].index("└") == lines[1].index("┤")


def test_a_constant_is_labelled_once():
    lines = _plain(plot(Series("Loss", [3.0] * 5), 40, 6, DARK))
    assert sum("3.000 ┤" in line for line in lines) == 1


def test_one_point_is_drawn():
    lines = _plain(plot(Series("Loss", [3.0], x_name="step"), 40, 6, DARK))
    assert any("⠄" in line or "⠂" in line or "⠁" in line or "⡀" in line for line in lines)
    assert lines[-1].endswith("step 1")


def test_an_empty_history_is_labelled():
    assert any("nothing yet" in line for line in _plain(plot(Series("Loss", []), 40, 6, DARK)))


def test_what_was_not_finite_is_counted_by_kind():
    values = [1.0, math.nan, math.inf, math.nan, 2.0, -math.inf]
    title = plot(Series("Ratio", values, value=2.0), 60, 6, DARK)[0]
    assert title.plain.rstrip() == "Ratio 2.0000  2 NaN 1 Inf 1 -Inf"
    assert "2× 1↑ 1↓" in plot(Series("Ratio", values), 24, 6, DARK)[0].plain


@pytest.mark.parametrize(("value", "row"), [(math.inf, 1), (math.nan, 3), (-math.inf, 5)])
def test_each_kind_has_its_place_in_the_chart(value, row):
    lines = _plain(plot(Series("Ratio", [1.0, value, 2.0]), 40, 6, DARK))
    sign = NONFINITE_SIGNS["nan" if math.isnan(value) else "+inf" if value > 0 else "-inf"]
    assert [sign in line for line in lines[1:]] == [place == row for place in range(1, 6)]


@given(VALUES, st.integers(1, 60), st.integers(1, 12), st.booleans())
def test_a_chart_has_exactly_its_size_whatever_is_in_it(values, width, height, is_filled):
    series = Series("Entropy", values, x_name="update", is_filled=is_filled)
    lines = plot(series, width, height, DARK)
    assert [line.cell_len for line in lines] == [width] * height


@given(VALUES, st.integers(30, 60), st.integers(5, 12))
def test_every_kind_of_nonfinite_point_is_marked_however_many_points_there_are(
    values, width, height
):
    # So many points that many of them share a cell.
    values = values * 7
    text = "".join(_plain(plot(Series("", values, value=0.0), width, height, DARK))[1:])
    for kind, is_one in (
        ("nan", math.isnan),
        ("+inf", lambda value: value == math.inf),
        ("-inf", lambda value: value == -math.inf),
    ):
        assert (NONFINITE_SIGNS[kind] in text) == any(map(is_one, values))


@given(st.lists(VALUES, min_size=1, max_size=8), st.integers(1, 200), st.integers(1, 50))
def test_several_charts_stay_within_their_place(several, width, height):
    series = [Series(f"Figure {number}", values) for number, values in enumerate(several)]
    lines = plots(series, width, height, DARK)
    assert len(lines) <= max(height, len(series))
    assert all(line.cell_len <= width for line in lines)


def test_several_charts_make_use_of_their_place():
    series = [Series(f"Figure {number}", [1.0, 2.0], x_name="update") for number in range(8)]
    lines = _plain(plots(series, 57, 12, DARK))
    assert len(lines) == 12
    assert [name in lines[0] for name in ("Figure 0", "Figure 1", "Figure 2")] == [
        True,
        True,
        False,
    ]
    assert len(plots(series, 57, 9, DARK)) == 8
    assert _plain(plots(series, 57, 9, DARK))[3].startswith("Figure 3")


@given(VALUES, st.integers(1, 60))
def test_a_line_stays_within_its_width(values, width):
    assert one_line(Series("Entropy", values), width, DARK).cell_len <= width
