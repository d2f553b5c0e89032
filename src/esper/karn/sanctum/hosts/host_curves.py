"""Charts of one host over its episode: accuracy, loss, reward and size per step."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.judgement import figure_style, finite_style
from esper.karn.sanctum.drawing.plot import Series, fits, one_line, plots
from esper.karn.sanctum.schema import HostState, RunState
from esper.karn.text.palette import DARK, Palette

#: Lines from which on there are four charts instead of two.
_TALL: Final = 14
#: Lines of the smallest charts of the reward terms.
_TERM_HEIGHT: Final = 4
_SHORTEST_CURVE: Final = 6
_FIGURE_WIDTH: Final = 6
_GAP: Final = 2


def render_curves(
    host: HostState, run: RunState, width: int, height: int, palette: Palette = DARK
) -> list[Text]:
    """Return charts over the steps of the episode, with those of the reward terms below."""
    foot = render_reward(host, run, width, height, palette)
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
    host: HostState, run: RunState, width: int, height: int, palette: Palette = DARK
) -> list[Text]:
    """Return the terms that add up to the reward, each with its history over the episode.

    Args:
        host: the host.
        run: the run of the host.
        width: in cells.
        height: lines of the whole panel; if there are few, each term has a part of a line instead
            of a chart.
        palette: the colours to choose from.
    """
    terms = [
        _term(name, host.reward_terms_history.get(name, ()), value, run, palette)
        for name, value in host.reward_terms.items()
    ]
    room = max(_TERM_HEIGHT, height // 5)
    if terms and height - room >= _TALL and fits(len(terms), width, room):
        charts = [replace(term, label=f"Reward: {term.label}") for term in terms]
        return plots(charts, width, room, palette)
    style = figure_style("hosts[…].reward", host.reward, run.update, palette)
    parts = [Series("reward", host.reward_history, style, host.reward)]
    for term in terms:
        sign = "+" if len(parts) > 1 else "="
        parts.append(replace(term, label=f"{sign} {term.label}"))
    return _beside_each_other(parts, width, palette)


def _term(
    name: str, history: Sequence[float], value: float, run: RunState, palette: Palette
) -> Series:
    style = finite_style(value, palette, "")
    return Series(name, history, style, value, x_name="step", x_last=run.step)


def _beside_each_other(parts: Sequence[Series], width: int, palette: Palette) -> list[Text]:
    """Return the series side by side, as many per line as there is room for."""
    label_width = max(len(one.label) for one in parts) + 1
    narrowest = label_width + _FIGURE_WIDTH + 1 + _SHORTEST_CURVE
    columns = max(1, min(len(parts), (width + _GAP) // (narrowest + _GAP)))
    rows = -(-len(parts) // columns)
    columns = -(-len(parts) // rows)  # 3 and 1 would look worse than 2 and 2
    cell = (width + _GAP) // columns - _GAP
    gap = Text(" " * _GAP, no_wrap=True)
    lines = [
        gap.join(
            [one_line(one, cell, palette, label_width) for one in parts[start : start + columns]]
        )
        for start in range(0, len(parts), columns)
    ]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines
