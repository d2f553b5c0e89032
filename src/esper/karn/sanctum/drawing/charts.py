"""Charts of one line. Non-finite points are never dropped: special signs mark them."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from rich.text import Text

from esper.karn.text.palette import Palette
from esper.leyline.text.sighting_words import nonfinite_kind

#: The signs of non-finite points.
NONFINITE_SIGNS: Final = {"nan": "×", "+inf": "↑", "-inf": "↓"}
#: The sign of points of different kinds in one cell.
MIXED_SIGN: Final = "*"
BLOCKS: Final = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Bucket:
    """The points of a series that share one column of a chart."""

    low: float  # NaN where no point is finite, as are the next two
    high: float
    last: float
    nonfinite: tuple[str, ...]  # kinds of the non-finite points, each once, in order


def buckets(values: Sequence[float], columns: int) -> list[Bucket]:
    """Spread a series over at most `columns` buckets, oldest first.

    Each keeps the minimum, the maximum, the last and the non-finite kinds of its points, so that
    neither a spike nor a NaN is lost if there are more points than columns.
    """
    return [_bucket(values[start:end]) for start, end in _parts(len(values), columns)]


def _parts(size: int, columns: int) -> Iterable[tuple[int, int]]:
    """Yield start and end of the part of a series in each column."""
    parts = max(0, min(columns, size))
    return pairwise([index * size // parts for index in range(parts + 1)] if parts else [])


def _bucket(values: Sequence[float]) -> Bucket:
    if len(values) == 1 and math.isfinite(values[0]):
        return Bucket(values[0], values[0], values[0], ())  # the most frequent case
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) == len(values):
        return Bucket(min(finite), max(finite), finite[-1], ())
    kinds = _kinds(values)
    if not finite:
        return Bucket(math.nan, math.nan, math.nan, kinds)
    return Bucket(min(finite), max(finite), finite[-1], kinds)


def _kinds(values: Sequence[float]) -> tuple[str, ...]:
    """Return the kinds of the non-finite values, each once, in order."""
    return tuple(dict.fromkeys(kind for value in values if (kind := nonfinite_kind(value))))


def sign_of(kinds: Collection[str]) -> str:
    """Return the sign of the non-finite points that share a cell; there is at least one."""
    (first, *others) = kinds
    return MIXED_SIGN if others else NONFINITE_SIGNS[first]


def sparkline(values: Sequence[float], width: int, palette: Palette) -> Text:
    """Return a series as one line of exactly `width` cells, the oldest at the left."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    cells, signs = [], []
    for x, (start, end) in enumerate(_parts(len(values), width)):
        # Checking each part would be slow: there is a sparkline for every host.
        kinds = () if len(finite) == len(values) else _kinds(values[start:end])
        if kinds:
            signs.append(x)
        cells.append(
            sign_of(kinds) if kinds else BLOCKS[level(values[end - 1], low, high, len(BLOCKS))]
        )
    return chart_line("".join(cells).ljust(width), signs, palette)


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
