"""Charts with title and axes, alone or several side by side."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.braille import line_chart
from esper.karn.sanctum.drawing.charts import NONFINITE_SIGNS, level, sparkline
from esper.karn.text.figures import count, figure
from esper.karn.text.palette import Palette
from esper.leyline.text.sighting_words import KIND_WORDS, nonfinite_kind

GAP: Final = 3  # between two columns of charts
NARROWEST: Final = 22
_FIGURE_WIDTH: Final = 5
_WIDEST_FIGURE: Final = 9  # if two figures of an axis are equal when shorter
_AXIS: Final = len(" ┤")
_VALUE_WIDTH: Final = 6
_LABEL_WIDTH: Final = 15
_LOWEST: Final = 3  # title and two lines of curve
_DOTTED: Final = "┄"  # of a guide
_BEST_SHAPE: Final = 6.0  # width divided by height, in cells, of a readable chart


@dataclass(frozen=True)
class Series:
    """A figure with its history, oldest first."""

    label: str
    values: Sequence[float]
    style: str = ""  # of the current value; the default text colour if empty
    value: float | None = None  # the current value; the last of `values` by default
    x_name: str = ""  # name of the x axis; empty for no axis
    x_first: int = 0  # x of the first value; 0: counted back from the last one
    x_last: int = 0  # x of the last value; 0: the number of values
    is_filled: bool = False
    # To compare several charts:
    span: tuple[float, float] | None = None  # ends of the scale; those of the values by default
    share: float = 1.0  # share of the x axis that the values cover
    guides: Mapping[str, float] = field(default_factory=dict)  # values to compare with, by name
    is_count: bool = False  # whether values are written with unit prefixes: 1.24k

    @property
    def now(self) -> float | None:
        """The current value; None if there is none yet."""
        return self.values[-1] if self.value is None and self.values else self.value

    def written(self, value: float | None, width: int) -> str:
        """Return a value as text in at most `width` characters."""
        return count(value) if self.is_count else figure(value, width)

    def ticks(self, values: Sequence[float]) -> list[str]:
        """Return the figures of an axis, with enough digits to tell them apart.

        A minus sign has an extra cell.
        """
        ticks = [self.written(value, _FIGURE_WIDTH + (value < 0)) for value in values]
        for width in range(_FIGURE_WIDTH, _WIDEST_FIGURE + 1):
            if len(set(ticks)) == len(values):
                break
            ticks = [figure(value, width + (value < 0)) for value in values]
        return ticks


def plot(series: Series, width: int, height: int, palette: Palette) -> list[Text]:
    """Return a title, a chart and its axes, as `height` lines of exactly `width` cells.

    The highest and the lowest finite value are at the left. With a height of 5 or more and an
    `x_name`, there is an x axis.
    """
    has_axis = height >= 5 and bool(series.x_name)
    rows = height - 1 - has_axis
    span = _span(series)
    scale, scale_width = scale_of(series, span, rows, palette)
    chart_width = width - scale_width
    if chart_width < 2:
        scale, chart_width = [Text(no_wrap=True)] * max(0, rows), width
    chart = line_chart(
        series.values,
        max(1, round(chart_width * min(1.0, series.share))),
        rows,
        palette,
        is_filled=series.is_filled,
        span=span,
    )
    _draw_guides(series.guides, chart, chart_width, span, palette)
    if not series.values and rows > 0:
        nothing = Text("nothing yet", style=palette.faint, no_wrap=True)
        nothing.truncate(chart_width, overflow="ellipsis", pad=True)
        chart[rows // 2] = nothing
    lines = [_title(series, width, palette)]
    lines += [mark + line for mark, line in zip(scale, chart, strict=True)]
    if has_axis:
        lines.append(_axis(series, scale_width, width, palette))
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis", pad=True)
    return lines[:height]


def _title(series: Series, width: int, palette: Palette) -> Text:
    title = Text(no_wrap=True).append(f"{series.label} ", palette.muted)
    style = series.style or (palette.faint if series.now is None else palette.ink)
    title.append(series.written(series.now, _width_of(series.now)), style)
    counts = Counter(kind for one in series.values if (kind := nonfinite_kind(one)))
    found = " ".join(f"{number}{NONFINITE_SIGNS[kind]}" for kind, number in counts.items())
    longer = " ".join(f"{number} {KIND_WORDS[kind]}" for kind, number in counts.items())
    for words in (longer, found):
        if words and title.cell_len + 2 + len(words) <= width:
            title.append(f"  {words}", f"bold {palette.critical}")
            break
    return title


def _width_of(value: float | None) -> int:
    """Return the cells for a value, with one more for a minus sign."""
    return _VALUE_WIDTH + (value is not None and value < 0)


def _span(series: Series) -> tuple[float, float] | None:
    """Return the ends of the scale: `span` if given, else those of the values and guides."""
    finite = [value for value in series.values if math.isfinite(value)]
    if series.span is not None or not finite:
        return series.span
    finite += series.guides.values()
    return min(finite), max(finite)


def _draw_guides(
    guides: Mapping[str, float],
    chart: list[Text],
    width: int,
    span: tuple[float, float] | None,
    palette: Palette,
) -> None:
    """Draw a dotted line with its name for each guide, behind the curve."""
    if span is None:
        return
    rows: dict[int, list[str]] = {}
    for name, value in guides.items():
        row = len(chart) - 1 - level(value, *span, 4 * len(chart)) // 4
        rows.setdefault(row, []).append(name)
    for row, names in rows.items():
        line = chart[row]
        line.pad_right(max(0, width - line.cell_len))
        name = f" {', '.join(names)} "
        place = _place_of_name(line.plain, len(name))
        label = range(place, place + len(name)) if place is not None else range(0)
        signs = list(line.plain)
        for x, sign in enumerate(signs):
            if sign == " ":
                signs[x] = name[x - label.start] if x in label else _DOTTED
                line.stylize(palette.muted if x in label else palette.faint, x, x + 1)
        line.plain = "".join(signs)


def _place_of_name(line: str, length: int) -> int | None:
    """Return the leftmost place for a name in a line of a chart; None if there is no room."""
    place = line.find(" " * (length + 2))
    return None if place < 0 else place + 1


def scale_of(
    series: Series, span: tuple[float, float] | None, rows: int, palette: Palette
) -> tuple[list[Text], int]:
    """Return the y axis and its width in cells, with the highest value of the span at the top."""
    marks: dict[int, float] = {}
    if span is not None and rows > 0 and any(map(math.isfinite, series.values)):
        low, high = span
        if low == high:
            marks[(rows - 1) // 2] = low
        elif rows == 1:
            marks[0] = high
        else:
            marks |= {0: high, rows - 1: low}
            if rows >= 7 and rows % 2:
                marks[rows // 2] = low / 2 + high / 2
    ticks = dict(zip(marks, series.ticks(list(marks.values())), strict=True))
    width = max([_FIGURE_WIDTH, *map(len, ticks.values())])
    lines = []
    for row in range(rows):
        line = Text(ticks.get(row, "").rjust(width), style=palette.muted, no_wrap=True)
        lines.append(line.append(" ┤" if row in ticks else " │", palette.faint))
    return lines, width + _AXIS


def _axis(series: Series, scale_width: int, width: int, palette: Palette) -> Text:
    """Return the x axis, from the first to the last value."""
    last = series.x_last or len(series.values)
    first = min(last, series.x_first) or max(1, last - len(series.values) + 1)
    if not series.values:
        line = Text(" " * (scale_width - 1), no_wrap=True).append("└", palette.faint)
        return line.append("─" * max(0, width - line.cell_len), palette.faint)
    return axis_below(first, last, series.x_name, scale_width, width, palette)


def axis_below(
    first: int, last: int, name: str, scale_width: int, width: int, palette: Palette
) -> Text:
    """Return an x axis from `first` to `last`, for a chart whose y axis is `scale_width` wide."""
    line = Text(" " * (scale_width - 1), no_wrap=True).append("└", palette.faint)
    left, right = f" {first} ", f" {name} {last}"
    room = width - line.cell_len - len(left) - len(right)
    if room < 2:
        left, room = "", room + len(left)
    line.append(left, palette.muted).append("─" * max(0, room), palette.faint)
    return line.append(right, palette.muted)


def plots(series: Sequence[Series], width: int, height: int, palette: Palette) -> list[Text]:
    """Return several charts in as many columns as suit the size, or else a line for each.

    The result has at most `height` lines, unless not even one line each fits.
    """
    columns = _columns(len(series), width, height)
    if columns == 0:
        return [one_line(one, width, palette) for one in series]
    rows = -(-len(series) // columns)
    chart_width = (width - GAP * (columns - 1)) // columns
    gap = Text(" " * GAP, no_wrap=True)
    lines: list[Text] = []
    for row in range(rows):
        # The upper charts get the lines that remain.
        chart_height = height // rows + (row < height % rows)
        charts = [
            plot(one, chart_width, chart_height, palette)
            for one in series[row * columns : (row + 1) * columns]
        ]
        lines += [gap.join(cells) for cells in zip(*charts, strict=True)]
    return lines


def fits(charts: int, width: int, height: int) -> bool:
    """Return whether there is room for this number of charts."""
    return _columns(charts, width, height) > 0


def one_line(series: Series, width: int, palette: Palette, label_width: int = _LABEL_WIDTH) -> Text:
    """Return a series as its name, its last value and a sparkline, in `width` cells."""
    line = Text(no_wrap=True).append(series.label.ljust(label_width), palette.muted)
    style = series.style or (palette.faint if series.now is None else palette.ink)
    line.append(series.written(series.now, _VALUE_WIDTH).ljust(_VALUE_WIDTH + 1), style)
    line.append_text(sparkline(series.values, max(0, width - line.cell_len), palette))
    line.truncate(width, overflow="ellipsis")
    return line


def _columns(charts: int, width: int, height: int) -> int:
    """Return the number of columns in which charts have the best shape; 0 if none fit."""
    shapes = {}
    for columns in range(1, charts + 1):
        rows = -(-charts // columns)
        chart_width = (width - GAP * (columns - 1)) // columns
        if chart_width >= NARROWEST and height // rows >= _LOWEST:
            shapes[columns] = chart_width / (height // rows)
    # The logarithm treats twice as wide like twice as high.
    return min(shapes, key=lambda n: abs(math.log(shapes[n] / _BEST_SHAPE)), default=0)
