"""Small charts out of characters. A non-finite point is never dropped: it has a sign of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from rich.text import Text

from esper.karn.sanctum.widgets.figures import nonfinite_kind
from esper.karn.sanctum.widgets.palette import Palette

#: What stands in a chart for a point that has no height.
NONFINITE_SIGNS: Final = {"nan": "×", "+inf": "↑", "-inf": "↓"}
BLOCKS: Final = "▁▂▃▄▅▆▇█"

# Bits of a Braille character by its two columns and four rows, the topmost first (Unicode U+2800).
_BRAILLE: Final = 0x2800
_DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


@dataclass(frozen=True)
class Bucket:
    """The points of a series that share one column of a chart."""

    low: float  # NaN where no point is finite, as are the next two
    high: float
    last: float
    nonfinite: str | None  # kind of the first non-finite point


def buckets(values: Sequence[float], columns: int) -> list[Bucket]:
    """Spread a series over at most `columns` buckets, oldest first.

    Each keeps the minimum, the maximum, the last and the kind of the first non-finite of its
    points, so that neither a spike nor a NaN is lost when there are more points than columns.
    """
    size = len(values)
    if columns <= 0 or size == 0:
        return []
    parts = min(columns, size)
    edges = [index * size // parts for index in range(parts + 1)]
    return [_bucket(values[start:end]) for start, end in pairwise(edges)]


def _bucket(values: Sequence[float]) -> Bucket:
    finite = [value for value in values if math.isfinite(value)]
    kinds = [kind for value in values if (kind := nonfinite_kind(value)) is not None]
    if not finite:
        return Bucket(math.nan, math.nan, math.nan, kinds[0])
    return Bucket(min(finite), max(finite), finite[-1], kinds[0] if kinds else None)


def sparkline(values: Sequence[float], width: int, palette: Palette) -> Text:
    """Return a series as one line of exactly `width` cells, the oldest at the left."""
    columns = buckets(values, width)
    low, high = _range(columns)
    cells = "".join(
        NONFINITE_SIGNS[column.nonfinite]
        if column.nonfinite is not None
        else BLOCKS[_height(column.last, low, high, len(BLOCKS))]
        for column in columns
    )
    signs = [x for x, column in enumerate(columns) if column.nonfinite is not None]
    return _styled(cells.ljust(width), signs, palette)


def _styled(cells: str, signs: Sequence[int], palette: Palette) -> Text:
    """Return a line of a chart in which the signs of non-finite points stand out."""
    line = Text(no_wrap=True, end="").append(cells, palette.curve)
    for x in signs:
        line.stylize(f"bold {palette.critical}", x, x + 1)
    return line


def line_chart(values: Sequence[float], width: int, height: int, palette: Palette) -> list[Text]:
    """Return a series as `height` lines of exactly `width` cells, drawn in Braille dots.

    Each dot column spans the lowest to the highest of its points. A short series is spread over
    the whole width. Neighbours are joined unless there was something non-finite between them.
    """
    dots = 4 * height
    columns = buckets(values, 2 * width)
    low, high = _range(columns)
    cells = [[0] * width for _ in range(height)]
    signs: dict[tuple[int, int], str] = {}
    before: tuple[int, int] | None = None
    for x, column in zip(_places(len(columns), 2 * width), columns, strict=True):
        if column.nonfinite is not None:
            row = {"+inf": 0, "nan": height // 2, "-inf": height - 1}[column.nonfinite]
            signs[row, x // 2] = NONFINITE_SIGNS[column.nonfinite]
            before = None
        if math.isnan(column.last):
            continue
        bottom, top, last = (
            _height(value, low, high, dots) for value in (column.low, column.high, column.last)
        )
        _draw(cells, x, bottom, top)
        if before is not None:
            _join(cells, before, (x, last))
        before = x, last
    return [_chart_line(cells[row], row, signs, palette) for row in range(height)]


def _places(columns: int, width: int) -> list[int]:
    if columns < 2:
        return list(range(columns))
    return [round(index * (width - 1) / (columns - 1)) for index in range(columns)]


def _draw(cells: list[list[int]], x: int, bottom: int, top: int) -> None:
    """Set the dots of one dot column from `bottom` to `top`, counted from below."""
    for y in range(bottom, top + 1):
        row, dot = divmod(4 * len(cells) - 1 - y, 4)
        cells[row][x // 2] |= _DOTS[x % 2][dot]


def _join(cells: list[list[int]], start: tuple[int, int], end: tuple[int, int]) -> None:
    """Set the dots of a straight line that has no gaps, without those of its start."""
    (x_start, y_start), (x_end, y_end) = start, end
    before = y_start
    for x in range(x_start + 1, x_end + 1):
        y = round(y_start + (y_end - y_start) * (x - x_start) / (x_end - x_start))
        _draw(cells, x, min(y, before + 1), max(y, before - 1))
        before = y


def _chart_line(
    bits: list[int], row: int, signs: dict[tuple[int, int], str], palette: Palette
) -> Text:
    cells = [chr(_BRAILLE + dots) if dots else " " for dots in bits]
    places = [x for sign_row, x in signs if sign_row == row]
    for x in places:
        cells[x] = signs[row, x]
    return _styled("".join(cells), places, palette)


def _range(columns: Sequence[Bucket]) -> tuple[float, float]:
    finite = [column for column in columns if not math.isnan(column.last)]
    if not finite:
        return 0.0, 0.0
    return min(column.low for column in finite), max(column.high for column in finite)


def _height(value: float, low: float, high: float, levels: int) -> int:
    """Return the level of `value`, 0 to `levels - 1`; a constant series lies in the middle."""
    # Halved first: the difference of two huge finite numbers may be infinite.
    span = high / 2 - low / 2
    if span <= 0:
        return (levels - 1) // 2
    return min(levels - 1, round((value / 2 - low / 2) / span * (levels - 1)))


def progress_bar(share: float, width: int, palette: Palette) -> Text:
    """Return a slim bar of `width` cells, filled from the left by `share`, 0 to 1."""
    filled = round(min(1.0, max(0.0, share)) * width) if math.isfinite(share) else 0
    bar = Text(no_wrap=True, end="")
    bar.append("━" * filled, palette.accent)
    bar.append("─" * (width - filled), palette.faint)
    return bar
