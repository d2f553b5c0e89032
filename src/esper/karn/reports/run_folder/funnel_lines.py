"""The funnel as sentences, for the terminal and for the Runs screen."""

from typing import Any

from rich.text import Text

from esper.karn.reports.run_folder.funnel import FirstCount, Funnel, FunnelGroup
from esper.karn.text.columns import columns
from esper.karn.text.palette import Palette
from esper.leyline.text.plurals import counted

_BAR_CELLS = 24


def funnel_lines(funnel: Funnel, palette: Palette) -> list[Text]:
    """Return a bar and a sentence for each group of runs, and a heading."""
    by = "all runs" if funnel.setting is None else f"by {funnel.setting}"
    heading = Text(f"which head or group lit first, {by}", style=f"bold {palette.muted}")
    rows = [
        [_bar(group, palette), *_sentence(group, funnel.setting, palette)]
        for group in funnel.groups
    ]
    return [heading, *(columns(rows) if rows else [Text("no runs", style=palette.muted)])]


def _bar(group: FunnelGroup, palette: Palette) -> Text:
    """Return the share of lit runs as a bar; any lit run has at least one cell."""
    share = group.lit / group.runs if group.runs else 0.0
    cells = min(_BAR_CELLS, max(1, round(share * _BAR_CELLS))) if group.lit else 0
    if group.lit < group.runs:
        cells = min(cells, _BAR_CELLS - 1)
    bar = Text("█" * cells, style=palette.critical, no_wrap=True)
    bar.append("░" * (_BAR_CELLS - cells), palette.faint)
    return bar.append(f" {100 * share:3.0f}%", f"bold {palette.ink}")


def _sentence(group: FunnelGroup, setting: str | None, palette: Palette) -> list[Text]:
    which = "" if setting is None else f" with {setting} {value_text(group.value)}"
    of = Text(f"of {counted(group.runs, 'run')}{which}", style=palette.ink)
    if not group.lit:
        what = Text("none lit", style=palette.good)
    else:
        first = ", ".join(map(_count_text, group.first))
        what = Text(f"{group.lit} lit: ", style=f"bold {palette.critical}")
        what.append(first, f"not bold {palette.ink}")
    if group.unknown:
        what.append(f"; {group.unknown} unknown", palette.warning)
    return [of, what]


def _count_text(count: FirstCount) -> str:
    if count.updates is None:
        return f"{count.runs} {count.name}"
    first, middle, last = count.updates
    where = f"update {first}" if first == last else f"updates {first}–{last}, median {middle:g}"
    return f"{count.runs} {count.name} first ({where})"


def value_text(value: Any) -> str:
    """Return the value of a setting in a sentence."""
    if value is None:
        return "not set"
    return f"{value:g}" if isinstance(value, float) else str(value)
