"""The growth of a host: stage, blueprint and alpha of each slot per step."""

from itertools import groupby
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.judgement import finite_style
from esper.karn.sanctum.drawing.seed_stages import alpha_sign, stage_sign, stage_style
from esper.karn.sanctum.schema import HostState, RunState, SlotState
from esper.karn.text.figures import cut, figure
from esper.karn.text.palette import DARK, Palette
from esper.leyline.text.plain_text import name_at
from esper.leyline.text.sighting_words import nonfinite_kind

_NAME_WIDTH: Final = 8
_NOW_WIDTH: Final = 17  # the content of the slot now, if it is not written above its line
_GAP: Final = 2


def render_timeline(
    host: HostState, run: RunState, width: int, height: int, palette: Palette = DARK
) -> list[Text]:
    """Return bands of stages and of alpha for each slot, over the steps of the episode.

    With three or more lines per slot, blueprints are above their stages. With two, alpha is below
    the stages; with one, next to them.
    """
    steps = host.slot_history
    if not steps:
        return [Text(cut("no step completed yet", width), style=palette.muted, no_wrap=True)]
    slots = max(map(len, steps))
    if slots == 0:
        return [
            Text(cut("this host has no slots to grow in", width), style=palette.muted, no_wrap=True)
        ]
    each = (height - 1) // slots
    lines: list[Text] = []
    for slot in range(slots):
        history = [states[slot] if slot < len(states) else SlotState() for states in steps]
        name = run.slots[slot] if slot < len(run.slots) else f"slot {slot + 1}"
        lines += _slot_lines(name, history, run, width, each, palette)
    lines.append(_axis(len(steps), run, width, each, palette))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _slot_lines(
    name: str, history: list[SlotState], run: RunState, width: int, each: int, palette: Palette
) -> list[Text]:
    head = Text(cut(name, _NAME_WIDTH - 1).ljust(_NAME_WIDTH), palette.muted, no_wrap=True)
    now = _now(history[-1], run, palette)
    band = _band_width(width, each)
    columns = _columns(history, band)
    stages, alphas = _stages(columns, palette), _alphas(columns, palette)
    if each < 2:
        return [head + stages + Text("  ") + alphas + Text("  ") + now]
    indent = Text(" " * _NAME_WIDTH, no_wrap=True)
    lines = [head + stages, indent + alphas]
    if each >= 3:
        lines.insert(0, indent + _blueprints(columns, run, palette))
    else:
        lines[0].append("  ").append_text(now)
    if each >= 4:
        lines.append(Text(no_wrap=True))
    return lines


def _band_width(width: int, each: int) -> int:
    room = width - _NAME_WIDTH
    if each < 2:
        return max(4, (room - _NOW_WIDTH - 2 * _GAP) // 2)
    return max(4, room - (_NOW_WIDTH + _GAP) * (each == 2))


def _columns(history: list[SlotState], band: int) -> list[SlotState]:
    """Spread the steps over a band; if several share a cell, the last one is shown."""
    size = len(history)
    if size >= band:
        return [history[(column + 1) * size // band - 1] for column in range(band)]
    return [history[column * size // band] for column in range(band)]


def _stages(columns: list[SlotState], palette: Palette) -> Text:
    line = Text(no_wrap=True)
    for stage, states in groupby(columns, key=lambda state: state.stage):
        line.append(stage_sign(stage) * len(list(states)), stage_style(stage, palette))
    return line


def _alphas(columns: list[SlotState], palette: Palette) -> Text:
    line = Text(no_wrap=True)
    for alpha, states in groupby(columns, key=lambda state: state.alpha):
        cells = alpha_sign(alpha) * len(list(states))
        line.append(cells, finite_style(alpha, palette, palette.curve))
    return line


def _blueprints(columns: list[SlotState], run: RunState, palette: Palette) -> Text:
    """Return the blueprint names at their first steps, cut to the steps that they lasted."""
    line = Text(no_wrap=True)
    for blueprint, states in groupby(columns, key=lambda state: state.blueprint):
        cells = len(list(states))
        name = cut(blueprint_name(run, blueprint), cells - 1) if blueprint >= 0 else ""
        line.append(name.ljust(cells), palette.ink)
    return line


def _now(state: SlotState, run: RunState, palette: Palette) -> Text:
    if state.blueprint < 0:
        return Text("empty", palette.faint, no_wrap=True)
    now = Text(cut(blueprint_name(run, state.blueprint), 11), palette.ink, no_wrap=True)
    style = finite_style(state.alpha, palette, palette.muted)
    return now.append(f" {alpha_text(state.alpha)}", style)


def _axis(steps: int, run: RunState, width: int, each: int, palette: Palette) -> Text:
    """Return the axis below the bands: their first and last step."""
    line = Text(" " * _NAME_WIDTH, no_wrap=True)
    last = max(run.step, steps)
    left, right = f"step {last - steps + 1} ", f" {last}"
    band = _band_width(width, each)
    line.append(left, palette.muted)
    line.append("─" * max(0, band - len(left) - len(right)), palette.faint)
    line.append(right, palette.muted)
    return line.append("  alpha over the same steps" if each < 2 else "", palette.muted)


def alpha_text(alpha: float) -> str:
    """Return alpha in four characters, such as "0.70", "NaN" or "+Inf"."""
    return figure(alpha) if nonfinite_kind(alpha) is not None else cut(f"{alpha:.2f}", 4)


def blueprint_name(run: RunState, blueprint: int) -> str:
    """Return the name of a blueprint; its number if the run has no name for it."""
    return name_at(run.blueprints, blueprint)
