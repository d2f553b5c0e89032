"""Two runs side by side: their scores as curves, and in what they differ."""

import math
from typing import Any, ClassVar, Final

from rich.text import Text

from esper.karn.run_comparison import Compared, RunComparison
from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.figures import ABSENT, figure
from esper.karn.sanctum.widgets.palette import Palette
from esper.karn.sanctum.widgets.panel import Panel
from esper.karn.sanctum.widgets.plot import Series, plots

_NAME_WIDTH: Final = 22
_GAP: Final = "  "
_CHART_HEIGHT: Final = 7


def render_comparison(found: RunComparison, width: int, height: int, palette: Palette) -> Text:
    """Return both runs' scores as charts, figures and settings, and then the other charts."""
    column = max(8, (width - _NAME_WIDTH) // 2 - len(_GAP))
    lines: list[Text] = []
    if height >= 2 * _CHART_HEIGHT:
        score, *others = found.histories
        lines += _charts(found, score, width, max(_CHART_HEIGHT, height // 3), palette)
    else:
        others = list(found.histories)
    names = Text(" " * _NAME_WIDTH, no_wrap=True)
    for run in (found.left, found.right):
        name = Text(run.run_id, style=f"bold {palette.ink}")
        name.truncate(column, overflow="ellipsis", pad=True)
        names.append_text(name).append(_GAP)
    lines.append(names)
    lines += [_line(one, column, palette) for one in found.figures]
    different = [one for one in found.settings if one.differs]
    lines.append(Text("settings that differ", style=f"bold {palette.muted}"))
    lines += [_line(one, column, palette) for one in different]
    if not different:
        lines.append(Text("none", style=palette.muted))
    for history in others:
        lines += [Text(), *_charts(found, history, width, _CHART_HEIGHT, palette)]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines)


def _charts(
    found: RunComparison, history: Compared, width: int, height: int, palette: Palette
) -> list[Text]:
    """Return a history of both runs on the same axes, so that they can be compared by eye."""
    runs = ((found.left, history.left), (found.right, history.right))
    finite = [value for _, values in runs for value in values if math.isfinite(value)]
    longest = max(1, *(run.update for run, _ in runs))
    series = [
        Series(
            f"{history.name} of {run.name or run.run_id}",
            values,
            x_name="update",
            x_first=1,
            x_last=longest,
            span=(min(finite), max(finite)) if finite else None,
            share=run.update / longest,
        )
        for run, values in runs
    ]
    return plots(series, width, height, palette)


def _line(one: Compared, column: int, palette: Palette) -> Text:
    line = Text(no_wrap=True).append(one.name.ljust(_NAME_WIDTH), palette.muted)
    for value in (one.left, one.right):
        # What is the same on both sides steps back.
        cell = Text(_written(value), style=palette.ink if one.differs else palette.muted)
        cell.truncate(column, overflow="ellipsis", pad=True)
        line.append_text(cell).append(_GAP)
    return line


def _written(value: Any) -> str:
    if value is None or value == "":
        return ABSENT
    if isinstance(value, float):
        return figure(value, 8)
    return str(value)


class ComparisonPanel(Panel):
    """Shows two runs side by side."""

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

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._found: RunComparison | None = None

    def compare(self, found: RunComparison | None) -> None:
        """Show another comparison; None while it is being made."""
        self._found = found
        self.note("c closes")
        self.redraw()

    def part(self, view: View) -> object:  # noqa: ARG002  (it stands as it was made)
        return None

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:  # noqa: ARG002
        if self._found is None:
            return Text("reading both runs …", style=palette.muted)
        return render_comparison(self._found, width, height, palette)
