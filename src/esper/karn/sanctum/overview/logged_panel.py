"""The figures that a watched training loop logged, as charts or lines."""

import math
from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text

from esper.karn.sanctum.drawing.charts import sparkline
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.drawing.plot import Series, fits, plots
from esper.karn.sanctum.fold.ledgers.logged_figures import LoggedFigure, logged_figures
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.text.figures import cut, figure
from esper.karn.text.palette import DARK, Palette

_GAP: Final = 2
_VALUE_WIDTH: Final = 7
_NARROWEST_COLUMN: Final = 36
_WIDEST_LABEL: Final = 22
#: Charts that are drawn at most; further figures have lines below them.
_CHARTS: Final = 12


def render_logged(
    snapshot: SanctumSnapshot, width: int, height: int, palette: Palette = DARK
) -> list[Text]:
    """Return the figures, the most telling first: charts if they all fit, else sparklines."""
    figures = logged_figures(snapshot.training)
    if not figures:
        nothing = "nothing logged yet" if snapshot.run.update else "no update completed yet"
        return [Text(nothing, style=palette.muted, no_wrap=True)]
    charted = _charted(figures, width, height)
    if not charted:
        return _lines(figures, width, palette)
    others = figures[len(charted) :]
    foot = _lines(others, width, palette) if others else []
    series = [_series(one, snapshot.run.update, palette) for one in charted]
    return plots(series, width, max(1, height - len(foot)), palette) + foot


def _charted(figures: Sequence[LoggedFigure], width: int, height: int) -> Sequence[LoggedFigure]:
    """Return the first figures, as many as have charts, with room for a line about the others."""
    for number in range(min(len(figures), _CHARTS), 1, -1):
        foot = -(-(len(figures) - number) // _columns(width))
        if fits(number, width, height - foot):
            return figures[:number]
    return ()


def _series(one: LoggedFigure, update: int, palette: Palette) -> Series:
    return Series(
        one.label,
        one.history,
        style=_style(one, palette),
        value=one.value,
        x_name="update",
        x_first=1,  # a history always covers the whole run
        x_last=update,
    )


def _style(one: LoggedFigure, palette: Palette) -> str:
    if one.value is None:
        return palette.faint
    return palette.ink if math.isfinite(one.value) else f"bold {palette.critical}"


def _columns(width: int) -> int:
    return max(1, (width + _GAP) // (_NARROWEST_COLUMN + _GAP))


def _lines(figures: Sequence[LoggedFigure], width: int, palette: Palette) -> list[Text]:
    """Return a name, a value and a sparkline for each figure, in columns read downwards."""
    columns = min(_columns(width), len(figures))
    rows = -(-len(figures) // columns)
    column_width = (width + _GAP) // columns - _GAP
    label_width = min(_WIDEST_LABEL, column_width // 2, max(len(one.label) for one in figures))
    cells = [_line(one, label_width, column_width, palette) for one in figures]
    gap = Text(" " * _GAP, no_wrap=True)
    # Read from left to right: a panel that is too low shows the most telling ones.
    return [gap.join(cells[row * columns : (row + 1) * columns]) for row in range(rows)]


def _line(one: LoggedFigure, label_width: int, width: int, palette: Palette) -> Text:
    line = Text(cut(one.label, label_width).ljust(label_width + 1), palette.muted, no_wrap=True)
    line = Text(no_wrap=True).append_text(line)
    line.append(figure(one.value, _VALUE_WIDTH - 1).ljust(_VALUE_WIDTH), _style(one, palette))
    line.append_text(sparkline(one.history, max(0, width - line.cell_len), palette))
    line.truncate(width, overflow="ellipsis", pad=True)
    return line


class LoggedPanel(Panel):
    """Shows the figures that the training loop logged, with every NaN and Inf in their history."""

    SHOWS: ClassVar[tuple[str, ...]] = ("training.logged", "training.gradient_norm")
    BORDER_TITLE = "Figures"
    ABOUT = "what the training loop logged, update by update"

    def part(self, view: View) -> object:
        return view.snapshot.training, view.snapshot.run.update

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        lines = render_logged(view.snapshot, width, height, palette)
        return Text("\n", no_wrap=True).join(lines)
