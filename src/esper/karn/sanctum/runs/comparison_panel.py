"""Runs side by side: their curves on common axes, and their differences."""

import math
import textwrap
from string import ascii_uppercase
from typing import Any, ClassVar, Final

from rich.text import Text

from esper.karn.reports.run_comparison import Compared, RunComparison, short_names
from esper.karn.sanctum.drawing.overlay import Curve, curve_styles, overlay
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.text.columns import GAP, flowed
from esper.karn.text.figures import ABSENT, figure
from esper.karn.text.palette import Palette

_CHART_HEIGHT: Final = 8
_WIDEST_NAME: Final = 20
_DIFFERENCE: Final = "difference"
_RANGE: Final = "range"  # of more than two
_FIGURE_WIDTH: Final = 8


def mark_of(place: int) -> str:
    """Return the letter of the n-th compared run, counted from 0: A to Z, then #."""
    return ascii_uppercase[place] if place < len(ascii_uppercase) else "#"


def written(value: Any) -> str:
    """Return a value in the notation of options: lists with commas, no quotes."""
    if value is None or value == "":
        return ABSENT
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(written, value)) or ABSENT
    return str(value)


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else figure(value)


def render_comparison(found: RunComparison, width: int, height: int, palette: Palette) -> Text:
    """Return the names of the runs, their score curves, the differences, and further charts."""
    names = short_names(found.runs)
    styles = curve_styles(palette, len(names))
    lines = _legend(names, styles, width)
    score, *others = found.histories
    if height >= 2 * _CHART_HEIGHT:
        lines += _chart(found, score, styles, width, max(_CHART_HEIGHT, height // 3), palette)
    else:
        others = list(found.histories)
    different = [one for one in found.settings if one.differs]
    rows = [*found.figures, *different]
    table = _Table(names, rows, width, styles, palette)
    lines += table.heading()
    for one in found.figures:
        lines += table.row(one)
    lines.append(Text("settings that differ", style=f"bold {palette.muted}"))
    for one in different:
        lines += table.row(one)
    if not different:
        lines.append(Text("none", style=palette.muted))
    for history in others:
        lines += [Text(), *_chart(found, history, styles, width, _CHART_HEIGHT, palette)]
    return Text("\n", no_wrap=True).join(lines)


def _legend(names: list[str], styles: list[str], width: int) -> list[Text]:
    """Return the letters and the names of the runs, on as many lines as needed."""
    entries = []
    for place, (name, style) in enumerate(zip(names, styles, strict=True)):
        entry = Text(no_wrap=True).append(mark_of(place), f"bold {style}").append(f" {name}")
        entry.truncate(width, overflow="ellipsis")
        entries.append(entry)
    return flowed(entries, width)


def _chart(
    found: RunComparison,
    history: Compared,
    styles: list[str],
    width: int,
    height: int,
    palette: Palette,
) -> list[Text]:
    """Return a history of all runs on the same axes."""
    last = max(1, *(run.update for run in found.runs))
    curves = [
        Curve(mark_of(place), values, run.update / last, style)
        for place, (run, values, style) in enumerate(
            zip(found.runs, history.values, styles, strict=True)
        )
    ]
    return overlay(history.name, curves, last, width, height, palette)


class _Table:
    """A table with a column for each run, and one for the difference.

    No value is cut: a row that does not fit has a line for each run instead.
    """

    def __init__(
        self,
        names: list[str],
        rows: list[Compared],
        width: int,
        styles: list[str],
        palette: Palette,
    ) -> None:
        self._names, self._width, self._styles, self._palette = names, width, styles, palette
        self._name_width = min(_WIDEST_NAME, max([0, *(len(one.name) for one in rows)])) + GAP
        self._last = _DIFFERENCE if len(names) == 2 else _RANGE
        room = width - self._name_width - len(self._last) - GAP
        self._column = max(1, room // max(1, len(names)))
        widest = max((len(written(v)) for one in rows for v in one.values), default=0)
        self._column = min(self._column, max(widest, _FIGURE_WIDTH) + GAP)

    def heading(self) -> list[Text]:
        """Return the line above the columns."""
        line = Text(" " * self._name_width, no_wrap=True)
        for place, (name, style) in enumerate(zip(self._names, self._styles, strict=True)):
            long = f"{mark_of(place)} {name}"
            shown = long if len(long) + GAP <= self._column else mark_of(place)
            line.append(shown.ljust(self._column), f"bold {style}")
        line.append(self._last, self._palette.muted)
        line.truncate(self._width, overflow="ellipsis")
        return [line]

    def row(self, one: Compared) -> list[Text]:
        """Return the lines of one row."""
        cells = [written(value) for value in one.values]
        # Values that are equal in all runs are dim.
        style = self._palette.ink if one.differs else self._palette.muted
        difference = self._difference(one)
        if max(map(len, cells)) + GAP <= self._column and len(one.name) < self._name_width:
            line = Text(one.name.ljust(self._name_width), self._palette.muted, no_wrap=True)
            for cell in cells:
                line.append(cell.ljust(self._column), style)
            line.append(difference, self._palette.muted)
            line.rstrip()
            if line.cell_len <= self._width:
                return [line]
        if not one.differs:
            return self._wrapped(f"{one.name}  ", cells[0], style)
        lines = [Text(one.name, style=self._palette.muted, no_wrap=True)]
        for place, cell in enumerate(cells):
            lines += self._wrapped(f"  {mark_of(place)} ", cell, style)
        if difference:
            lines += self._wrapped(f"  {self._last} ", difference, self._palette.muted)
        return lines

    def _wrapped(self, lead: str, value: str, style: str) -> list[Text]:
        room = max(1, self._width - len(lead))
        lines = []
        for text in textwrap.wrap(value, room) or [""]:
            lines.append(Text(lead, self._palette.muted, no_wrap=True).append(text, style))
            lead = " " * len(lead)
        return lines

    def _difference(self, one: Compared) -> str:
        found = one.difference
        if found is None:
            return ""
        sign = "+" if found > 0 and self._last == _DIFFERENCE else ""
        return sign + _number(found)


class ComparisonPanel(Panel):
    """Shows the comparison of several runs."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "training.score",
        "training.entropy",
        "training.approximate_kl",
        "training.explained_variance",
        "training.gradient_norm",
        "training.value_loss",
        "run.update",
        "run.episodes_done",
        "tamiyo.head_inf_latch",
        "tamiyo.head_nan_latch",
        "interventions.incidents",
    )
    BORDER_TITLE = "Comparison"
    ABOUT = "runs side by side"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._found: RunComparison | None = None

    def compare(self, found: RunComparison | None) -> None:
        """Show another comparison; None while it is being read."""
        self._found = found
        self.note("c closes")
        self.redraw()

    def part(self, view: View) -> object:  # a comparison does not change
        return None

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        if self._found is None:
            return Text("reading the runs …", style=palette.muted)
        return render_comparison(self._found, width, height, palette)
