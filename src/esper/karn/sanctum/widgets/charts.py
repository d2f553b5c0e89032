"""Charts of one line. A non-finite point is never dropped: it has a sign of its own."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from rich.text import Text

from esper.karn.sanctum.widgets.figures import nonfinite_kind
from esper.karn.sanctum.widgets.palette import Palette

#: What stands in a chart for a point that has no height.
NONFINITE_SIGNS: Final = {"nan": "×", "+inf": "↑", "-inf": "↓"}
#: What stands for several points of different kinds that share a cell.
MIXED_SIGN: Final = "*"
BLOCKS: Final = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Bucket:
    """The points of a series that share one column of a chart."""

    low: float  # NaN where no point is finite, as are the next two
    high: float
    last: float
    nonfinite: tuple[str, ...]  # the kinds of the others, each once, in the order they came


def buckets(values: Sequence[float], columns: int) -> list[Bucket]:
    """Spread a series over at most `columns` buckets, oldest first.

    Each keeps the minimum, the maximum, the last and the kinds of the non-finite of its points, so
    that neither a spike nor a NaN is lost when there are more points than columns.
    """
    size = len(values)
    if columns <= 0 or size == 0:
        return []
    parts = min(columns, size)
    edges = [index * size // parts for index in range(parts + 1)]
    return [_bucket(values[start:end]) for start, end in pairwise(edges)]


def _bucket(values: Sequence[float]) -> Bucket:
    if len(values) == 1 and math.isfinite(values[0]):
        return Bucket(values[0], values[0], values[0], ())  # most are, and there are hundreds
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) == len(values):
        return Bucket(min(finite), max(finite), finite[-1], ())
    kinds = tuple(dict.fromkeys(kind for value in values if (kind := nonfinite_kind(value))))
    if not finite:
        return Bucket(math.nan, math.nan, math.nan, kinds)
    return Bucket(min(finite), max(finite), finite[-1], kinds)


def sign_of(kinds: Collection[str]) -> str:
    """Return the sign of the non-finite points that share a cell; there is at least one."""
    (first, *others) = kinds
    return MIXED_SIGN if others else NONFINITE_SIGNS[first]


def sparkline(values: Sequence[float], width: int, palette: Palette) -> Text:
    """Return a series as one line of exactly `width` cells, the oldest at the left."""
    columns = buckets(values, width)
    low, high = finite_range(columns)
    cells = "".join(
        sign_of(column.nonfinite)
        if column.nonfinite
        else BLOCKS[level(column.last, low, high, len(BLOCKS))]
        for column in columns
    )
    signs = [x for x, column in enumerate(columns) if column.nonfinite]
    return chart_line(cells.ljust(width), signs, palette)


def chart_line(cells: str, signs: Sequence[int], palette: Palette) -> Text:
    """Return a line of a chart in which the signs of non-finite points stand out."""
    line = Text(no_wrap=True, end="").append(cells, palette.curve)
    for x in signs:
        line.stylize(f"bold {palette.critical}", x, x + 1)
    return line


def finite_range(columns: Sequence[Bucket]) -> tuple[float, float]:
    """Return the lowest and the highest finite value; zeros where there is none."""
    finite = [column for column in columns if not math.isnan(column.last)]
    if not finite:
        return 0.0, 0.0
    return min(column.low for column in finite), max(column.high for column in finite)


def level(value: float, low: float, high: float, levels: int) -> int:
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
