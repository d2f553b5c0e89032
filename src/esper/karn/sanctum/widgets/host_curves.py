"""How one host has done in its episode: accuracy, loss, reward and size, step by step."""

from typing import Final

from rich.text import Text

from esper.karn.sanctum.schema import HostState, RunState
from esper.karn.sanctum.widgets.figures import figure, nonfinite_kind
from esper.karn.sanctum.widgets.judgement import figure_style
from esper.karn.sanctum.widgets.palette import DARK, Palette
from esper.karn.sanctum.widgets.plot import Series, plots

#: Lines that are tall enough for four charts instead of two.
_TALL: Final = 14


def render_curves(
    host: HostState, run: RunState, width: int, height: int, palette: Palette = DARK
) -> list[Text]:
    """Return charts over the steps of the episode, and the terms of the last reward below."""
    foot = render_reward(host, run, width, palette)
    shown = [
        ("Accuracy", "accuracy", host.accuracy_history),
        ("Loss", "loss", host.loss_history),
        ("Reward", "reward", host.reward_history),
        ("Parameters", "parameters", host.parameters_history),
    ]
    room = max(1, height - len(foot))
    series = [
        Series(
            label,
            values,
            figure_style(f"hosts[…].{field}", getattr(host, field), run.update, palette),
            getattr(host, field),
            x_name="step",
            x_last=run.step,
            is_count=field == "parameters",
        )
        for label, field, values in shown[: 4 if room >= _TALL else 2]
    ]
    return plots(series, width, room, palette) + foot


def render_reward(
    host: HostState, run: RunState, width: int, palette: Palette = DARK
) -> list[Text]:
    """Return "reward 0.047 = potential 0.063 + rent -0.016", on as many lines as it needs."""
    style = figure_style("hosts[…].reward", host.reward, run.update, palette)
    parts = [Text(no_wrap=True).append("reward ", palette.muted).append(figure(host.reward), style)]
    for name, value in host.reward_terms.items():
        part = Text(" + " if len(parts) > 1 else " = ", palette.faint, no_wrap=True)
        part.append(f"{name} ", palette.muted)
        is_broken = nonfinite_kind(value) is not None
        part.append(figure(value), f"bold {palette.critical}" if is_broken else palette.ink)
        parts.append(part)
    lines = [Text(no_wrap=True)]
    for part in parts:
        if lines[-1].cell_len and lines[-1].cell_len + part.cell_len > width:
            lines.append(Text(no_wrap=True))
        lines[-1].append_text(part)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines
