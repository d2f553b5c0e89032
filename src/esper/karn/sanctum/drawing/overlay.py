"""Several curves on the same axes, each with a letter at its end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.braille import line_chart
from esper.karn.sanctum.drawing.charts import MIXED_SIGN, NONFINITE_SIGNS, level
from esper.karn.sanctum.drawing.plot import Series, axis_below, scale_of
from esper.karn.text.palette import Palette

_SIGNS: Final = frozenset([*NONFINITE_SIGNS.values(), MIXED_SIGN])
_BRAILLE: Final = range(0x2800, 0x2900)


@dataclass(frozen=True)
class Curve:
    """One of several curves.

    Attributes:
        mark: the letter that names it.
        values: oldest first.
        reach: share of the x axis that the values cover.
        style: of the curve and its letter.
    """

    mark: str
    values: Sequence[float]
    reach: float
    style: str


def curve_styles(palette: Palette, curves: int) -> list[str]:
    """Return a style for each of several curves; red and amber stay with alerts."""
    styles = [palette.accent, palette.good, palette.ink, palette.muted, palette.curve]
    return [styles[at % len(styles)] for at in range(curves)]


def overlay(
    title: str, curves: Sequence[Curve], last: int, width: int, height: int, palette: Palette
) -> list[Text]:
    """Return curves on common axes, as `height` lines of at most `width` cells.

    Later curves are drawn over earlier ones, and non-finite points over all curves.

    Args:
        title: the name of the figure.
        curves: the curves.
        last: number of the last update on the x axis.
        width: in cells.
        height: in lines, 4 or more.
        palette: the colours to choose from.
    """
    rows = height - 2
    finite = [value for curve in curves for value in curve.values if math.isfinite(value)]
    lines = [Text(title, style=palette.muted, no_wrap=True)]
    span = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale, scale_width = scale_of(Series(title, finite), span, rows, palette)
    ends = _ends(curves, span, rows)
    margin = max((len(marks) for marks in ends.values()), default=0) + 1
    chart_width = max(2, width - scale_width - margin)
    canvas = [[(" ", "")] * chart_width for _ in range(rows)]
    for curve in curves:
        reach = max(1, round(chart_width * min(1.0, curve.reach)))
        _draw(canvas, curve, reach, span, palette)
    for row, (mark, cells) in enumerate(zip(scale, canvas, strict=True)):
        line = mark.copy()
        for sign, style in cells:
            line.append(sign, style)
        line.append(" ")
        for letter, style in ends.get(row, ()):
            line.append(letter, f"bold {style}")
        lines.append(line)
    if not finite:
        lines[1 + rows // 2] = scale[rows // 2] + Text("nothing yet", style=palette.faint)
    lines.append(axis_below(1, last, "update", scale_width, width - margin, palette))
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


def _draw(
    canvas: list[list[tuple[str, str]]],
    curve: Curve,
    reach: int,
    span: tuple[float, float],
    palette: Palette,
) -> None:
    for cells, line in zip(
        canvas, line_chart(curve.values, reach, len(canvas), palette, span=span), strict=True
    ):
        for x, sign in enumerate(line.plain):
            below, _ = cells[x]
            if sign in _SIGNS:
                cells[x] = sign, f"bold {palette.critical}"
            elif sign != " " and below not in _SIGNS:
                if ord(sign) in _BRAILLE and ord(below) in _BRAILLE:
                    sign = chr(ord(sign) | ord(below))
                cells[x] = sign, curve.style


def _ends(
    curves: Sequence[Curve], span: tuple[float, float], rows: int
) -> dict[int, list[tuple[str, str]]]:
    """Return the letters at the right of each row, where curves end."""
    ends: dict[int, list[tuple[str, str]]] = {}
    for curve in curves:
        last = next((value for value in reversed(curve.values) if math.isfinite(value)), None)
        if last is not None:
            row = rows - 1 - level(last, *span, 4 * rows) // 4
            ends.setdefault(row, []).append((curve.mark, curve.style))
    return ends
