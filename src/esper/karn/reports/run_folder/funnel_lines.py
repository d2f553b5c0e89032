"""The funnel as text: sentences, or a narrow table if they do not fit."""

import textwrap
from typing import Any, Final

from rich.text import Text

from esper.karn.reports.run_folder.funnel import FirstCount, Funnel, FunnelGroup
from esper.karn.text.columns import GAP, columns, in_columns
from esper.karn.text.palette import Palette
from esper.leyline.text.plurals import counted

_BAR_CELLS: Final = 24
_NARROW_BAR_CELLS: Final = 10
_LEAST_ROOM: Final = 16  # cells for what lit first


def funnel_lines(funnel: Funnel, palette: Palette, width: int | None = None) -> list[Text]:
    """Return a heading, and a bar and a sentence for each group of runs.

    Args:
        funnel: the funnel.
        palette: the colours to choose from.
        width: width in cells; if a sentence does not fit, a narrower table with wrapped lines is
            returned. None for no limit.
    """
    by = "all runs" if funnel.setting is None else f"by {funnel.setting}"
    heading = Text(f"which head or group lit first, {by}", style=f"bold {palette.muted}")
    if not funnel.groups:
        return [heading, Text("no runs", style=palette.muted)]
    rows = [
        [_bar(group, _BAR_CELLS, palette), *_sentence(group, funnel.setting, palette)]
        for group in funnel.groups
    ]
    lines = columns(rows)
    if width is not None and any(line.cell_len > width for line in lines):
        lines = _narrow_lines(funnel, palette, width)
    return [heading, *lines]


def _narrow_lines(funnel: Funnel, palette: Palette, width: int) -> list[Text]:
    rows = [
        [
            Text("" if funnel.setting is None else value_text(group.value), palette.ink),
            _bar(group, _NARROW_BAR_CELLS, palette),
            Text(f"{group.lit} of {group.runs}", palette.ink),
        ]
        for group in funnel.groups
    ]
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    indent = sum(widths) + GAP * len(widths)
    lines = []
    for group, row in zip(funnel.groups, rows, strict=True):
        words = ", ".join(map(_short_count, group.first)) or "none lit"
        words += f"; {group.unknown} unknown" if group.unknown else ""
        first, *others = textwrap.wrap(words, max(_LEAST_ROOM, width - indent))
        style = palette.ink if group.lit else palette.good
        lines.append(in_columns([*row, Text(first, style)], [*widths, len(first)]))
        lines += [Text(" " * indent + other, style) for other in others]
    return lines


def _bar(group: FunnelGroup, width: int, palette: Palette) -> Text:
    """Return the share of lit runs as a bar; it is empty or full only if no or all runs are lit."""
    share = group.lit / group.runs if group.runs else 0.0
    cells = max(1, round(share * width)) if group.lit else 0
    if group.lit < group.runs:
        cells = min(cells, width - 1)
    bar = Text(no_wrap=True).append("█" * cells, palette.critical)
    bar.append("░" * (width - cells), palette.faint)
    return bar.append(f" {100 * share:3.0f}%", f"bold {palette.ink}")


def _sentence(group: FunnelGroup, setting: str | None, palette: Palette) -> list[Text]:
    which = "" if setting is None else f" with {setting} {value_text(group.value)}"
    of = Text(f"of {counted(group.runs, 'run')}{which}", style=palette.ink)
    what = Text(no_wrap=True)
    if group.lit:
        what.append(f"{group.lit} lit: ", f"bold {palette.critical}")
        what.append(", ".join(map(_count_text, group.first)), palette.ink)
    else:
        what.append("none lit", palette.good)
    if group.unknown:
        what.append(f"; {group.unknown} unknown", palette.warning)
    return [of, what]


def _count_text(count: FirstCount) -> str:
    if count.updates is None:
        return f"{count.runs} {count.name}"
    first, middle, last = count.updates
    where = f"update {first}" if first == last else f"updates {first}–{last}, median {middle:g}"
    return f"{count.runs} {count.name} first ({where})"


def _short_count(count: FirstCount) -> str:
    if count.updates is None:
        return f"{count.runs} {count.name}"
    first, _, last = count.updates
    return f"{count.runs} {count.name} ({first if first == last else f'{first}–{last}'})"


def value_text(value: Any) -> str:
    """Return the value of a setting as text for a sentence."""
    if value is None:
        return "not set"
    return f"{value:g}" if isinstance(value, float) else str(value)
