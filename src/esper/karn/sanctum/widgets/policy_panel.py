"""PPO's losses and the health of the policy: each figure with its history."""

from dataclasses import dataclass
from typing import Final

from rich.text import Text

from esper.karn.sanctum.schema import SanctumSnapshot, TrainingState
from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.charts import line_chart, sparkline
from esper.karn.sanctum.widgets.figures import ABSENT, figure, styled_figure
from esper.karn.sanctum.widgets.palette import DARK, Palette
from esper.karn.sanctum.widgets.panel import Panel

_LABEL_WIDTH: Final = 15
_VALUE_WIDTH: Final = 7
_NARROWEST_CHART: Final = 26
_TALLEST_CHART: Final = 10
_GAP: Final = 3


@dataclass(frozen=True)
class _Series:
    label: str
    value: float | None
    history: tuple[float, ...]


def _series(training: TrainingState) -> list[_Series]:
    return [
        _Series("Policy loss", training.policy_loss, training.policy_loss_history),
        _Series("Value loss", training.value_loss, training.value_loss_history),
        _Series("Entropy", training.entropy, training.entropy_history),
        _Series("KL", training.approximate_kl, training.approximate_kl_history),
        _Series("Clip fraction", training.clip_fraction, training.clip_fraction_history),
        _Series("Explained var.", training.explained_variance, training.explained_variance_history),
        _Series("Gradient norm", training.gradient_norm, training.gradient_norm_history),
        _Series("Score", training.score, training.score_history),
    ]


def render_policy(
    snapshot: SanctumSnapshot, width: int, height: int = 9, palette: Palette = DARK
) -> Text:
    """Return the figures with their histories: one line each, or charts where there is room.

    Charts stand in two columns from a `width` of 55 on, and grow with the `height`.
    """
    series = _series(snapshot.training)
    columns = 2 if width >= 2 * _NARROWEST_CHART + _GAP else 1
    rows = -(-len(series) // columns)
    chart_height = min(_TALLEST_CHART, (height - 1) // rows - 1)
    if chart_height >= 1:
        lines = _charts(series, width, columns, chart_height, palette)
    else:
        lines = [_one_line(one, width, palette) for one in series]
    lines.append(_footnote(snapshot.training, palette))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines)


def _one_line(series: _Series, width: int, palette: Palette) -> Text:
    line = Text(no_wrap=True).append(series.label.ljust(_LABEL_WIDTH), palette.muted)
    line.append_text(styled_figure(series.value, palette, _VALUE_WIDTH)).append(" ")
    chart_width = width - _LABEL_WIDTH - _VALUE_WIDTH - 1
    return line.append_text(sparkline(series.history, max(0, chart_width), palette))


def _charts(
    series: list[_Series], width: int, columns: int, chart_height: int, palette: Palette
) -> list[Text]:
    chart_width = (width - _GAP * (columns - 1)) // columns
    lines = []
    for start in range(0, len(series), columns):
        row = series[start : start + columns]
        blocks = [
            [
                _title(one, chart_width, palette),
                *line_chart(one.history, chart_width, chart_height, palette),
            ]
            for one in row
        ]
        lines += [Text(" " * _GAP, no_wrap=True).join(cells) for cells in zip(*blocks, strict=True)]
    return lines


def _title(series: _Series, width: int, palette: Palette) -> Text:
    line = Text(no_wrap=True).append(f"{series.label}  ", palette.muted)
    line.append_text(styled_figure(series.value, palette, _VALUE_WIDTH))
    finite = [value for value in series.history if abs(value) < float("inf")]
    if len(finite) > 1 and min(finite) < max(finite):
        span = f"{figure(min(finite))} to {figure(max(finite))}"
        if line.cell_len + len(span) + 2 <= width:
            line.append(span.rjust(width - line.cell_len), palette.faint)
    line.truncate(width, pad=True)
    return line


def _footnote(training: TrainingState, palette: Palette) -> Text:
    line = Text(no_wrap=True).append("Learning rate ", palette.muted)
    line.append(figure(training.learning_rate), palette.ink).append("  Skipped ", palette.muted)
    if training.learning_rate is None:
        return line.append(ABSENT, palette.ink)
    line.append(
        f"{training.minibatches_skipped}/{training.minibatches}",
        palette.warning if training.minibatches_skipped else palette.ink,
    )
    return line.append(f", {training.skipped_in_run} in all", palette.muted)


class PolicyPanel(Panel):
    """Shows PPO's losses and the policy's health."""

    BORDER_TITLE = "Policy"

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_policy(view.snapshot, width, height, palette)
