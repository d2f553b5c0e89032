"""How one head has done: its entropy, ratio, gradient norm and clip fraction, update by update."""

from collections import defaultdict
from typing import ClassVar, Final

from rich.text import Text

from esper.karn.sanctum.schema import HeadTrend
from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.charts import sign_of
from esper.karn.sanctum.widgets.figures import figure
from esper.karn.sanctum.widgets.judgement import figure_style
from esper.karn.sanctum.widgets.palette import DARK, Palette
from esper.karn.sanctum.widgets.panel import Panel
from esper.karn.sanctum.widgets.plot import Series, plots
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import display_name
from esper.leyline.telemetry import SHARED

#: Label, field of TamiyoState, and field of HeadTrend.
_CHARTS: Final = (
    ("Entropy", "head_entropy", "entropy"),
    ("Ratio max", "head_ratio_max", "ratio_max"),
    ("Gradient norm", "head_gradient_norm", "gradient_norm"),
    ("Clip fraction", "head_clip_fraction", "clip_fraction"),
)
#: From so many lines on, one is for when something was seen.
_HIGH_ENOUGH: Final = 10
_SHORTEST_AXIS: Final = 20
#: What has no history: label, and field of TamiyoState.
_FIGURES: Final = (
    ("KL", "head_kl"),
    ("log p min", "head_log_prob_min"),
    ("log p max", "head_log_prob_max"),
    ("active", "head_active_fraction"),
)
#: What is charted of the shared part of the policy: label, and field of TrainingState.
_SHARED_CHARTS: Final = (
    ("Gradient norm", "gradient_norm"),
    ("Policy loss", "policy_loss"),
    ("Value loss", "value_loss"),
    ("Entropy", "entropy"),
)


def render_history(
    view: View, head: str, width: int, height: int, palette: Palette = DARK
) -> list[Text]:
    """Return charts of a head's figures, and below them those that have no history.

    Of the shared part of the policy, it is the losses and the gradient norm of the whole.
    """
    series = _shared_series(view, palette) if head == SHARED else _series(view, head, palette)
    foot = [] if head == SHARED or height < 6 else [_foot(view, head, width, palette)]
    if height >= _HIGH_ENOUGH and (seen := _seen(view, head, width, palette)) is not None:
        foot.insert(0, seen)
    lines = plots(series, width, height - len(foot), palette) + foot
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _series(view: View, head: str, palette: Palette) -> list[Series]:
    tamiyo = view.snapshot.tamiyo
    trend = tamiyo.head_trend.get(head, HeadTrend())
    return [
        _one(
            view,
            label,
            f"tamiyo.{field}",
            getattr(tamiyo, field).get(head),
            getattr(trend, history),
            palette,
        )
        for label, field, history in _CHARTS
    ]


def _shared_series(view: View, palette: Palette) -> list[Series]:
    training = view.snapshot.training
    return [
        _one(
            view,
            label,
            f"training.{field}",
            getattr(training, field),
            getattr(training, f"{field}_history"),
            palette,
        )
        for label, field in _SHARED_CHARTS
    ]


def _one(
    view: View,
    label: str,
    path: str,
    value: float | None,
    history: tuple[float, ...],
    palette: Palette,
) -> Series:
    """Return the series of a figure whose record is at `path`."""
    update = view.snapshot.run.update
    style = figure_style(path, value, update, palette)
    # A history reaches over the whole run, however long.
    return Series(label, history, style, value, x_name="update", x_first=1, x_last=update)


def _seen(view: View, head: str, width: int, palette: Palette) -> Text | None:
    """Return an axis of all updates, with the first and the last time of all that was seen.

    What is charted is taken over the minibatches that were good, so it need not show any of it.
    """
    update = view.snapshot.run.update
    places: dict[int, list[str]] = defaultdict(list)
    left, right = "First/last not finite  1 ", f" update {update}"
    room = width - len(left) - len(right)
    if room < _SHORTEST_AXIS:
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
    for label, field in _FIGURES:
        value = getattr(view.snapshot.tamiyo, field).get(head)
        style = figure_style(f"tamiyo.{field}", value, view.snapshot.run.update, palette)
        part = Text("   " if line.cell_len else "", no_wrap=True).append(f"{label} ", palette.muted)
        part.append(figure(value), style)
        if line.cell_len + part.cell_len > width:
            break
        line.append_text(part)
    return line


class HeadHistoryPanel(Panel):
    """Shows the history of the head that was chosen."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "tamiyo.head_entropy",
        "tamiyo.head_ratio_max",
        "tamiyo.head_gradient_norm",
        "tamiyo.head_clip_fraction",
        "tamiyo.head_kl",
        "tamiyo.head_log_prob_min",
        "tamiyo.head_log_prob_max",
        "tamiyo.head_active_fraction",
        "tamiyo.evidence",
    )

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._head: str | None = None

    def choose(self, head: str | None) -> None:
        """Show another head."""
        if head != self._head:
            self._head = head
            name = "the shared part" if head == SHARED else display_name(head or "")
            self.border_title = f"History of {name}" if head else "History"
            self.redraw()

    def part(self, view: View) -> object:
        return view.snapshot.tamiyo, view.snapshot.training, view.snapshot.run.update

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        if self._head is None:
            return Text("no head to show yet", style=palette.muted, no_wrap=True)
        lines = render_history(view, self._head, width, height, palette)
        return Text("\n", no_wrap=True).join(lines)
