"""The history of one head: entropy, ratio, gradient norm and clip fraction per update."""

import textwrap
from collections import defaultdict
from collections.abc import Callable
from typing import ClassVar, Final, NamedTuple

from rich.text import Text

from esper.karn.sanctum.drawing.charts import sign_of
from esper.karn.sanctum.drawing.judgement import figure_style
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.drawing.plot import Series, plots
from esper.karn.sanctum.fold.evidence import evidence_words
from esper.karn.sanctum.fold.ledgers.logged_figures import logged_figures
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.schema import TrainingState
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import display_name
from esper.karn.store.sightings import Source
from esper.karn.text.figures import figure
from esper.karn.text.palette import DARK, Palette
from esper.leyline.head_figures import CHARTED_FIGURES, HEAD_FIGURES
from esper.leyline.telemetry import GROUPS, HOSTS, SHARED
from esper.leyline.text.sighting_words import KIND_WORDS

#: Minimum height for a line with the updates in which something was seen.
_MIN_HEIGHT_OF_SIGHTINGS: Final = 10
_MIN_AXIS_WIDTH: Final = 20
#: Charts of a head of a watched run.
_FIGURES_OF_WATCHED: Final = 4


class _GroupChart(NamedTuple):
    """A chart of a group: its label, the path of its record, its value and its history."""

    label: str
    path: str
    value: Callable[[TrainingState], float | None]
    history: Callable[[TrainingState], tuple[float, ...]]


_GROUP_CHARTS: Final = {
    SHARED: (
        _GroupChart(
            "Gradient norm",
            "training.gradient_norm",
            lambda training: training.gradient_norm,
            lambda training: training.gradient_norm_history,
        ),
        _GroupChart(
            "Policy loss",
            "training.policy_loss",
            lambda training: training.policy_loss,
            lambda training: training.policy_loss_history,
        ),
        _GroupChart(
            "Value loss",
            "training.value_loss",
            lambda training: training.value_loss,
            lambda training: training.value_loss_history,
        ),
        _GroupChart(
            "Entropy",
            "training.entropy",
            lambda training: training.entropy,
            lambda training: training.entropy_history,
        ),
    ),
    HOSTS: (
        _GroupChart(
            "Score",
            "training.score",
            lambda training: training.score,
            lambda training: training.score_history,
        ),
    ),
}


def render_history(
    view: View,
    head: str,
    width: int,
    height: int,
    palette: Palette = DARK,
    *,
    chosen: Source | None = None,
) -> list[Text]:
    """Return charts of a head's figures, above the figures without a history.

    In a watched run, they are the figures of this head that are measured, then those of the run.
    For the group `shared`, the charts are losses, entropy and gradient norm of the whole policy;
    for `hosts`, the score.

    Args:
        view: the run.
        head: name of a head or group.
        width: width in cells.
        height: height in lines.
        palette: colours.
        chosen: row of evidence whose details stand above the charts.
    """
    is_group = head in _GROUP_CHARTS
    if view.snapshot.run.is_watched:
        series, foot = _watched_series(view, head, palette), []
    else:
        series = _group_series(view, head, palette) if is_group else _series(view, head, palette)
        foot = [] if is_group or height < 6 else [_foot(view, head, width, palette)]
    if (
        height >= _MIN_HEIGHT_OF_SIGHTINGS
        and (seen := _seen(view, head, width, palette)) is not None
    ):
        foot.insert(0, seen)
    details = [] if chosen is None else _details(view, chosen, width, palette)
    if not series:
        return [*details, Text("no update completed yet", style=palette.muted), *foot]
    lines = details + plots(series, width, height - len(details) - len(foot), palette) + foot
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _details(view: View, chosen: Source, width: int, palette: Palette) -> list[Text]:
    """Return the details of a row of evidence, wrapped; empty if the list shows them all."""
    for row in view.snapshot.tamiyo.evidence:
        if (row.head, row.quantity, row.kind) == chosen and (words := evidence_words(row)):
            sentence = f"{KIND_WORDS.get(row.kind, row.kind)} in {row.quantity}: {words}"
            return [
                Text(line, style=f"bold {palette.ink}", no_wrap=True)
                for line in textwrap.wrap(sentence, max(1, width), subsequent_indent="  ")
            ]
    return []


def _series(view: View, head: str, palette: Palette) -> list[Series]:
    tamiyo = view.snapshot.tamiyo
    return [
        _one(
            view,
            figure.chart_label,
            figure.snapshot_path,
            figure.of(tamiyo.figures).get(head),
            tamiyo.history(figure.field, head),
            palette,
        )
        for figure in CHARTED_FIGURES
    ]


def _watched_series(view: View, head: str, palette: Palette) -> list[Series]:
    """Return the figures of a head that are measured, then the run's most telling figures."""
    tamiyo, update = view.snapshot.tamiyo, view.snapshot.run.update
    own = [
        _one(
            view,
            figure.chart_label,
            figure.snapshot_path,
            figure.of(tamiyo.figures).get(head),
            history,
            palette,
        )
        for figure in CHARTED_FIGURES
        if (history := tamiyo.history(figure.field, head))
    ]
    logged = logged_figures(view.snapshot.training)[: max(0, _FIGURES_OF_WATCHED - len(own))]
    return own + [
        Series(one.label, one.history, "", one.value, x_name="update", x_first=1, x_last=update)
        for one in logged
    ]


def _group_series(view: View, group: str, palette: Palette) -> list[Series]:
    training = view.snapshot.training
    return [
        _one(view, chart.label, chart.path, chart.value(training), chart.history(training), palette)
        for chart in _GROUP_CHARTS[group]
    ]


def _one(
    view: View,
    label: str,
    path: str,
    value: float | None,
    history: tuple[float, ...],
    palette: Palette,
) -> Series:
    """Return the series of the figure whose record has the path `path`."""
    update = view.snapshot.run.update
    style = figure_style(path, value, update, palette)
    # A history always covers the whole run.
    return Series(label, history, style, value, x_name="update", x_first=1, x_last=update)


def _seen(view: View, head: str, width: int, palette: Palette) -> Text | None:
    """Return an axis of all updates that marks the first and last sightings of the head.

    The charts leave out bad minibatches, so they may show none of them.
    """
    update = view.snapshot.run.update
    places: dict[int, list[str]] = defaultdict(list)
    left, right = "First/last non-finite  1 ", f" update {update}"
    room = width - len(left) - len(right)
    if room < _MIN_AXIS_WIDTH:
        return None
    for row in view.snapshot.tamiyo.evidence:
        if row.head == head:
            for at in (row.first_update, row.last_update):
                places[_column(at, update, room)].append(row.kind)
    if not places:
        return None
    cells = "".join(sign_of(dict.fromkeys(places[x])) if x in places else "─" for x in range(room))
    line = Text(left, style=palette.muted, no_wrap=True).append(cells, palette.faint)
    for x in places:
        line.stylize(f"bold {palette.critical}", len(left) + x, len(left) + x + 1)
    return line.append(right, palette.muted)


def _column(update: int, last: int, columns: int) -> int:
    share = (update - 1) / max(1, last - 1)
    return min(columns - 1, max(0, round(share * (columns - 1))))


def _foot(view: View, head: str, width: int, palette: Palette) -> Text:
    line = Text(no_wrap=True)
    for described in HEAD_FIGURES:
        if described.chart_rank is not None:
            continue
        value = described.of(view.snapshot.tamiyo.figures).get(head)
        style = figure_style(described.snapshot_path, value, view.snapshot.run.update, palette)
        part = Text("   " if line.cell_len else "", no_wrap=True)
        part.append(f"{described.chart_label} ", palette.muted).append(figure(value), style)
        if line.cell_len + part.cell_len > width:
            break
        line.append_text(part)
    return line


class HeadHistoryPanel(Panel):
    """Shows the history of the chosen head."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        *(figure.snapshot_path for figure in CHARTED_FIGURES),
        *(figure.snapshot_path for figure in HEAD_FIGURES if figure.chart_rank is None),
        "tamiyo.evidence",
        "training.logged",
    )
    ABOUT = "this head's figures, update by update"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._head: str | None = None
        self._chosen: Source | None = None

    def choose(self, head: str | None, chosen: Source | None = None) -> None:
        """Show another head or group, or another row of its evidence."""
        if (head, chosen) != (self._head, self._chosen):
            self._head, self._chosen = head, chosen
            name = GROUPS.get(head or "") or display_name(head or "")
            self.retitle(f"History of {name}" if head else "History")
            self.redraw()

    def part(self, view: View) -> object:
        return view.snapshot.tamiyo, view.snapshot.training, view.snapshot.run.update

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        if self._head is None:
            return Text("no head to show yet", style=palette.muted, no_wrap=True)
        lines = render_history(view, self._head, width, height, palette, chosen=self._chosen)
        return Text("\n", no_wrap=True).join(lines)
