"""PPO's losses and the health of the policy: each figure with its history."""

import math
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.charts import line_chart, sparkline
from esper.karn.sanctum.widgets.figures import ABSENT, figure
from esper.karn.sanctum.widgets.judgement import figure_style
from esper.karn.sanctum.widgets.palette import DARK, Palette
from esper.karn.sanctum.widgets.panel import Panel

_LABEL_WIDTH: Final = 15
_VALUE_WIDTH: Final = 6
_NARROWEST_CHART: Final = 26
_TALLEST_CHART: Final = 10
_SCALE_WIDTH: Final = 6
_GAP: Final = 3  # between two columns of charts

#: What is shown: label, and field of TrainingState; its history is in `<field>_history`.
_FIGURES: Final = (
    ("Policy loss", "policy_loss"),
    ("Value loss", "value_loss"),
    ("Entropy", "entropy"),
    ("KL", "approximate_kl"),
    ("Clip fraction", "clip_fraction"),
    ("Explained var.", "explained_variance"),
    ("Gradient norm", "gradient_norm"),
    ("Score", "score"),
)


@dataclass(frozen=True)
class _Series:
    label: str
    value: Text
    history: tuple[float, ...]


def render_policy(
    snapshot: SanctumSnapshot, width: int, height: int = 10, palette: Palette = DARK
) -> Text:
    """Return the figures with their histories: one line each, or charts where there is room.

    Charts stand in two columns from a `width` of 55 on, and grow with the `height`.
    """
    series = _series(snapshot, palette)
    columns = 2 if width >= 2 * _NARROWEST_CHART + _GAP else 1
    rows = -(-len(series) // columns)
    foot = _foot(snapshot, width, palette)
    chart_height = min(_TALLEST_CHART, (height - len(foot)) // rows - 1)
    if chart_height >= 1:
        lines = _charts(series, width, columns, chart_height, palette)
    else:
        lines = [_one_line(one, width, palette) for one in series]
    lines += foot
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines)


def _series(snapshot: SanctumSnapshot, palette: Palette) -> list[_Series]:
    training = snapshot.training
    return [
        _Series(label, _figure(snapshot, field, palette), getattr(training, f"{field}_history"))
        for label, field in _FIGURES
    ]


def _figure(snapshot: SanctumSnapshot, field: str, palette: Palette) -> Text:
    value = getattr(snapshot.training, field)
    style = figure_style(f"training.{field}", value, snapshot.run.update, palette)
    return Text(no_wrap=True).append(figure(value, _VALUE_WIDTH).ljust(_VALUE_WIDTH), style)


def _one_line(series: _Series, width: int, palette: Palette) -> Text:
    line = Text(no_wrap=True).append(series.label.ljust(_LABEL_WIDTH), palette.muted)
    line.append_text(series.value).append(" ")
    return line.append_text(sparkline(series.history, max(0, width - line.cell_len), palette))


def _charts(
    series: list[_Series], width: int, columns: int, chart_height: int, palette: Palette
) -> list[Text]:
    column_width = (width - _GAP * (columns - 1)) // columns
    gap = Text(" " * _GAP, no_wrap=True)
    lines = []
    for start in range(0, len(series), columns):
        row = series[start : start + columns]
        blocks = [_chart(one, column_width, chart_height, palette) for one in row]
        lines += [gap.join(cells) for cells in zip(*blocks, strict=True)]
    return lines


def _chart(series: _Series, width: int, height: int, palette: Palette) -> list[Text]:
    """Return a title and a chart with the highest and the lowest finite value at its right."""
    title = Text(no_wrap=True).append(f"{series.label}  ", palette.muted).append_text(series.value)
    title.truncate(width, pad=True)
    finite = [value for value in series.history if math.isfinite(value)]
    scale = [""] * height
    if finite and height > 1:
        scale[0], scale[-1] = figure(max(finite)), figure(min(finite))
    chart = line_chart(series.history, width - _SCALE_WIDTH, height, palette)
    for line, mark in zip(chart, scale, strict=True):
        line.append(f" {mark:<{_SCALE_WIDTH - 1}}", palette.faint)
    return [title, *chart]


def _foot(snapshot: SanctumSnapshot, width: int, palette: Palette) -> list[Text]:
    """Return the lines below the curves; of those that do not fit, the last matters least."""
    training = snapshot.training
    rate = Text(no_wrap=True).append("Learning rate".ljust(_LABEL_WIDTH), palette.muted)
    rate.append_text(_figure(snapshot, "learning_rate", palette))
    skipped = Text(no_wrap=True).append("Skipped".ljust(_LABEL_WIDTH), palette.muted)
    if training.learning_rate is None:
        return [skipped.append(ABSENT, palette.faint), rate]
    style = figure_style(
        "training.minibatches_skipped", training.minibatches_skipped, snapshot.run.update, palette
    )
    skipped.append(f"{training.minibatches_skipped}/{training.minibatches}", style)
    rest = f" minibatches, {training.skipped_in_run} in this run"
    if skipped.cell_len + len(rest) > width:
        rest = f", {training.skipped_in_run} in all"
    skipped.append(rest, palette.muted)
    if training.loss_scale is None:
        return [skipped, rate]
    return [skipped, _scaler(snapshot, width, palette), rate]


def _scaler(snapshot: SanctumSnapshot, width: int, palette: Palette) -> Text:
    """Return what the fp16 loss scale cost: dim, for it is how the scale is found."""
    training = snapshot.training
    line = Text(no_wrap=True).append("Scaler skipped".ljust(_LABEL_WIDTH), palette.muted)
    skipped = f"{training.minibatches_rescaled}/{training.minibatches}"
    run = training.rescaled_in_run
    scale = figure(training.loss_scale)
    style = figure_style("training.loss_scale", training.loss_scale, snapshot.run.update, palette)
    style = palette.muted if style == palette.ink else style
    for words in (
        f"{skipped} minibatches, {run} in this run, loss scale ",
        f"{skipped}, {run} in all, scale ",
        f"{run} in all, scale ",
    ):
        if line.cell_len + len(words) + len(scale) <= width:
            break
    return line.append(words, palette.muted).append(scale, style)


class PolicyPanel(Panel):
    """Shows PPO's losses and the policy's health."""

    BORDER_TITLE = "Policy"

    def part(self, view: View) -> object:
        return view.snapshot.training, view.snapshot.run.update

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_policy(view.snapshot, width, height, palette)
