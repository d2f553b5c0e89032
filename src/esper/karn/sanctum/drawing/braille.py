"""Charts in Braille: two columns and four rows of dots in every cell."""

import math
from collections.abc import Sequence
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.charts import (
    Bucket,
    buckets,
    chart_line,
    finite_range,
    level,
    sign_of,
)
from esper.karn.text.palette import Palette

# Bits of a Braille character (Unicode U+2800) by column and row, from the top.
_BRAILLE: Final = 0x2800
_DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def line_chart(
    values: Sequence[float],
    width: int,
    height: int,
    palette: Palette,
    *,
    is_filled: bool = False,
    span: tuple[float, float] | None = None,
) -> list[Text]:
    """Return a series as `height` lines of exactly `width` cells, drawn in Braille dots.

    Each dot column spans the lowest to the highest of its points. A short series is spread over
    the whole width. Neighbours are joined unless a non-finite value is between them: that is a sign
    in its column, +Inf at the top, NaN in the middle, -Inf at the bottom.

    Args:
        values: oldest first.
        width: in cells.
        height: in lines.
        palette: the colours to choose from.
        is_filled: whether the area below the curve is filled.
        span: the values of the lowest and the highest dot; the lowest and the highest finite value
            by default.
    """
    if width < 1 or height < 1:
        return [Text(no_wrap=True) for _ in range(height)]
    columns = buckets(values, 2 * width)
    places = _places(len(columns), 2 * width)
    span = finite_range(columns) if span is None else span
    cells = _curve(columns, places, width, height, span, is_filled=is_filled)
    kinds: dict[tuple[int, int], set[str]] = {}
    rows = {"+inf": 0, "nan": height // 2, "-inf": height - 1}
    for x, column in zip(places, columns, strict=True):
        for kind in column.nonfinite:
            kinds.setdefault((rows[kind], x // 2), set()).add(kind)
    lines = []
    for row, bits in enumerate(cells):
        characters = [chr(_BRAILLE + dots) if dots else " " for dots in bits]
        signs = {x: sign_of(found) for (y, x), found in kinds.items() if y == row}
        for x, sign in signs.items():
            characters[x] = sign
        lines.append(chart_line("".join(characters), list(signs), palette))
    return lines


def _curve(
    columns: Sequence[Bucket],
    places: Sequence[int],
    width: int,
    height: int,
    span: tuple[float, float],
    *,
    is_filled: bool,
) -> list[list[int]]:
    """Return the dots of the finite points, by row and cell."""
    dots = 4 * height
    low, high = span
    cells = [[0] * width for _ in range(height)]
    before: tuple[int, int] | None = None
    for x, column in zip(places, columns, strict=True):
        if column.nonfinite:
            before = None
        if math.isnan(column.last):
            continue
        bottom, top, last = (
            level(value, low, high, dots) for value in (column.low, column.high, column.last)
        )
        _draw(cells, x, 0 if is_filled else bottom, top)
        if before is not None:
            _join(cells, before, (x, last), is_filled=is_filled)
        before = x, last
    return cells


def _places(columns: int, width: int) -> list[int]:
    if columns < 2:
        return list(range(columns))
    return [round(index * (width - 1) / (columns - 1)) for index in range(columns)]


def _draw(cells: list[list[int]], x: int, bottom: int, top: int) -> None:
    """Set the dots of one dot column from `bottom` to `top`, counted from below."""
    for y in range(bottom, top + 1):
        row, dot = divmod(4 * len(cells) - 1 - y, 4)
        cells[row][x // 2] |= _DOTS[x % 2][dot]


def _join(
    cells: list[list[int]], start: tuple[int, int], end: tuple[int, int], *, is_filled: bool
) -> None:
    """Set the dots of a straight line without gaps, except those of its start."""
    (x_start, y_start), (x_end, y_end) = start, end
    before = y_start
    for x in range(x_start + 1, x_end + 1):
        y = round(y_start + (y_end - y_start) * (x - x_start) / (x_end - x_start))
        _draw(cells, x, 0 if is_filled else min(y, before + 1), max(y, before - 1))
        before = y
