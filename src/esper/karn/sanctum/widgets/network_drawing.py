"""The network as it has grown: its blocks in a row, and in between what is in the slots."""

from itertools import pairwise
from typing import Final

from rich.text import Text

from esper.karn.sanctum.schema import HostState, RunState, SlotState
from esper.karn.sanctum.widgets.figures import count, cut, nonfinite_kind
from esper.karn.sanctum.widgets.growth_timeline import alpha_text, blueprint_name
from esper.karn.sanctum.widgets.palette import DARK, Palette
from esper.karn.sanctum.widgets.seed_stages import stage_sign, stage_style
from esper.leyline.heads import Stage

_INPUT: Final = "input "
_CLASSES: Final = "▶ classes"
_NARROWEST_BOX: Final = 13
_ROOMY_BOX: Final = 16  # in which the name of every blueprint is whole
_WIDEST_BOX: Final = 22
_INNER: Final = 4  # the sides of a box, and a gap at each
#: Stages in which there is a seed in the slot.
_PRESENT: Final = frozenset(
    {Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED}
)


def render_network(
    host: HostState, run: RunState, width: int, palette: Palette = DARK
) -> list[Text]:
    """Return a drawing of the host with its seeds, and how large it is.

    It goes from left to right: a seed is a branch above the line, for it adds to what passes
    below it. Where that is too wide, it goes from top to bottom.
    """
    sizes = seed_parameters(host)
    lines = _across(host, run, sizes, width, palette) or _down(host, run, sizes, palette)
    lines.append(_size(host, run, palette))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def seed_parameters(host: HostState) -> list[int | None]:
    """Return the parameters of the seed in each slot; None where they cannot be told.

    The run tells the size of the whole only: where one seed alone came in a step, the whole grew
    by its size.
    """
    sizes: list[int | None] = [None] * len(host.slots)
    history = list(zip(host.slot_history, host.parameters_history, strict=False))
    for (before, size_before), (after, size_after) in pairwise(history):
        if len(before) != len(after) or len(after) != len(sizes):
            continue
        changed = [
            slot
            for slot, (old, new) in enumerate(zip(before, after, strict=True))
            if _holds(old) != _holds(new) or (_holds(new) and old.blueprint != new.blueprint)
        ]
        for slot in changed:
            is_new = _holds(after[slot]) and not _holds(before[slot])
            is_alone = is_new and len(changed) == 1 and size_after > size_before
            sizes[slot] = size_after - size_before if is_alone else None
    return [size if _holds(slot) else None for size, slot in zip(sizes, host.slots, strict=True)]


def _holds(slot: SlotState) -> bool:
    return slot.blueprint >= 0 and slot.stage in _PRESENT


def _across(
    host: HostState, run: RunState, sizes: list[int | None], width: int, palette: Palette
) -> list[Text]:
    """Return the drawing from left to right; nothing where it is too wide."""
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
    is_broken = nonfinite_kind(slot.alpha) is not None
    alpha = Text(no_wrap=True).append("α ", palette.muted)
    alpha.append(alpha_text(slot.alpha), f"bold {palette.critical}" if is_broken else palette.ink)
    if size is not None and inner - alpha.cell_len >= len(f"+{count(size)}") + 1:
        alpha.append(f"+{count(size)}".rjust(inner - alpha.cell_len), palette.muted)
    _append_side(rows[3], alpha, inner, edge)
    rows[4].append("┴" + "─" * (box - 2) + "┴", palette.ink)


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
            size = sizes[number]
            line.append("" if size is None else f"  +{count(size)}", palette.muted)
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
