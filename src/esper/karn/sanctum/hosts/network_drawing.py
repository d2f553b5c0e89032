"""A drawing of a host: its blocks, with the seeds in the slots between them."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.judgement import finite_style
from esper.karn.sanctum.drawing.seed_stages import stage_sign, stage_style
from esper.karn.sanctum.hosts.growth_timeline import alpha_text, blueprint_name
from esper.karn.sanctum.schema import HostState, RunState, SlotState
from esper.karn.text.figures import count, cut
from esper.karn.text.palette import DARK, Palette
from esper.leyline.heads import Stage

_INPUT: Final = "input "
_CLASSES: Final = "▶ classes"
_NARROWEST_BOX: Final = 13
_ROOMY_BOX: Final = 16  # fits every blueprint name
_WIDEST_BOX: Final = 22
_INNER: Final = 4  # the two sides of a box with a gap at each
#: Stages in which there is a seed in the slot.
_PRESENT: Final = frozenset(
    {Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED}
)


def render_network(
    host: HostState, run: RunState, width: int, palette: Palette = DARK
) -> list[Text]:
    """Return a drawing of the host with its seeds, and its size.

    It runs from left to right, with each seed as a branch above the line, because a seed adds to
    the features that pass below it. If that is too wide, it runs from top to bottom.
    """
    sizes = seed_parameters(host, run.host_parameters)
    lines = _across(host, run, sizes, width, palette) or _down(host, run, sizes, palette)
    lines.append(_size(host, run, palette))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def seed_parameters(host: HostState, host_parameters: int) -> list[int | None]:
    """Return the number of parameters of the seed in each slot; None if it cannot be derived.

    A run records only the total of a host and its seeds. The size of a seed depends on its
    blueprint and slot alone, so a step at which all other seeds are known gives its size.

    Args:
        host: the host with its history in this episode.
        host_parameters: parameters of the host without seeds; 0 if not known.
    """
    steps = {
        (frozenset(_seeds(slots)), parameters)
        for slots, parameters in zip(host.slot_history, host.parameters_history, strict=False)
    }
    bare = host_parameters or next((size for seeds, size in steps if not seeds), 0)
    known: dict[tuple[int, int], int] = {}
    is_done = bare == 0
    while not is_done:
        is_done = True
        for seeds, parameters in steps:
            unknown = [seed for seed in seeds if seed not in known]
            size = parameters - bare - sum(known.get(seed, 0) for seed in seeds)
            if len(unknown) == 1 and size > 0:
                known[unknown[0]] = size
                is_done = False
    return [
        known.get((number, slot.blueprint)) if _holds(slot) else None
        for number, slot in enumerate(host.slots)
    ]


def _seeds(slots: Sequence[SlotState]) -> Iterable[tuple[int, int]]:
    """Yield slot and blueprint of every seed."""
    return ((number, slot.blueprint) for number, slot in enumerate(slots) if _holds(slot))


def _holds(slot: SlotState) -> bool:
    return slot.blueprint >= 0 and slot.stage in _PRESENT


def _across(
    host: HostState, run: RunState, sizes: list[int | None], width: int, palette: Palette
) -> list[Text]:
    """Return the drawing from left to right; empty if it is too wide."""
    slots = len(host.slots)
    if not slots:
        return []
    room = (width - len(_INPUT) - len(_CLASSES)) // slots
    block = "▶ block {} ─" if room >= len("▶ block 1 ─") + _ROOMY_BOX else "▶ {} ─"
    box = min(_WIDEST_BOX, room - len(block.format(slots)))
    if box < _NARROWEST_BOX:
        return []
    rows = [Text(no_wrap=True) for _ in range(5)]
    rows[-1].append(_INPUT, palette.muted)
    for number, slot in enumerate(host.slots):
        name = run.slots[number] if number < len(run.slots) else f"slot {number + 1}"
        label = block.format(number + 1)
        for row in rows[:-1]:
            row.append(" " * (rows[-1].cell_len + len(label) - row.cell_len))
        rows[-1].append(label, palette.ink)
        _append_box(rows, slot, name, sizes[number], run, box, palette)
    rows[-1].append(_CLASSES, palette.muted)
    return rows


def _append_box(
    rows: list[Text],
    slot: SlotState,
    name: str,
    size: int | None,
    run: RunState,
    box: int,
    palette: Palette,
) -> None:
    inner = box - _INNER
    rows[0].append(cut(name, box).center(box), palette.muted)
    if not _holds(slot):
        rows[1].append(" " * box)
        rows[2].append(" " * box)
        word = _word(slot)
        rows[3].append(cut(word, box).center(box), palette.faint)
        rows[4].append("─" * box, palette.faint)
        return
    edge = stage_style(slot.stage, palette)
    rows[1].append("╭" + "─" * (box - 2) + "╮", edge)
    seed = Text(no_wrap=True).append(f"{stage_sign(slot.stage)} ", edge)
    seed.append(cut(blueprint_name(run, slot.blueprint), inner - 2), f"bold {palette.ink}")
    _append_side(rows[2], seed, inner, edge)
    alpha = Text(no_wrap=True).append("α ", palette.muted)
    alpha.append(alpha_text(slot.alpha), finite_style(slot.alpha, palette, palette.ink))
    grown = _grown(size)
    if inner - alpha.cell_len >= len(grown) + 1:
        alpha.append(grown.rjust(inner - alpha.cell_len), palette.muted)
    _append_side(rows[3], alpha, inner, edge)
    rows[4].append("┴" + "─" * (box - 2) + "┴", palette.ink)


def _grown(size: int | None) -> str:
    return "+?" if size is None else f"+{count(size)}"


def _append_side(row: Text, content: Text, inner: int, edge: str) -> None:
    content.truncate(inner, overflow="ellipsis", pad=True)
    row.append("│ ", edge).append_text(content).append(" │", edge)


def _word(slot: SlotState) -> str:
    if slot.stage == Stage.DORMANT:
        return "empty"
    return Stage(slot.stage).name.lower() if slot.stage in list(Stage) else "unknown stage"


def _down(host: HostState, run: RunState, sizes: list[int | None], palette: Palette) -> list[Text]:
    """Return the drawing from top to bottom."""
    lines = [Text("input", palette.muted, no_wrap=True)]
    for number, slot in enumerate(host.slots):
        name = run.slots[number] if number < len(run.slots) else f"slot {number + 1}"
        lines.append(Text(f"↓ block {number + 1}", palette.ink, no_wrap=True))
        line = Text("├─ " if _holds(slot) else "│  ", palette.ink, no_wrap=True)
        line.append(f"{name} ", palette.muted)
        if _holds(slot):
            line.append(f"{stage_sign(slot.stage)} ", stage_style(slot.stage, palette))
            line.append(blueprint_name(run, slot.blueprint), f"bold {palette.ink}")
            line.append(" α ", palette.muted).append(alpha_text(slot.alpha), palette.ink)
            line.append(f"  {_grown(sizes[number])}", palette.muted)
        else:
            line.append(_word(slot), palette.faint)
        lines.append(line)
    lines.append(Text("↓ classes", palette.muted, no_wrap=True))
    return lines


def _size(host: HostState, run: RunState, palette: Palette) -> Text:
    line = Text(no_wrap=True).append(count(host.parameters), f"bold {palette.ink}")
    line.append(" parameters", palette.muted)
    grown = host.parameters - run.host_parameters
    if run.host_parameters:
        line.append(f" = {count(run.host_parameters)} of the host", palette.muted)
        if grown:
            line.append(f" + {count(grown)} grown", palette.muted)
    return line
