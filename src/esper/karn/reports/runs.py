"""The report of `esper runs`: one line for each run of a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Group
from rich.text import Text

from esper.karn.reports.report_lines import (
    LIT_STYLE,
    UNKNOWN_STYLE,
    column_lines,
    score_text,
    whole,
)
from esper.karn.reports.run_catalogue import RunSummary, list_runs
from esper.karn.reports.run_commands import run_dir_options
from esper.karn.store.run_directory import is_of_the_future
from esper.karn.text.figures import ABSENT
from esper.karn.text.light_signs import LIT, UNKNOWN, UNLIT
from esper.karn.text.palette import TERMINAL
from esper.karn.text.status_text import status_text
from esper.leyline.text.command_lines import command_line

#: Columns that are left out where no run has a value.
_OPTIONAL: Final = ("episodes", "score", "library")
#: Lit heads and groups that are named.
_NAMED: Final = 8


def runs_text(run_dir: Path) -> Group:
    """Return a line for each run in a folder, oldest first."""
    summaries = list_runs(run_dir)
    if not summaries:
        start = command_line("esper", "ppo", *run_dir_options(run_dir))
        return Group(whole(Text(f"No runs in {run_dir} yet. Start one with: {start}")))
    cells = [_cells(summary) for summary in summaries]
    columns = [
        name
        for name in cells[0]
        if name not in _OPTIONAL or any(one[name].plain != ABSENT for one in cells)
    ]
    lines = column_lines([[one[name] for name in columns] for one in cells], columns)
    if ahead := [one.run_id for one in summaries if is_of_the_future(one.path)]:
        note = "created in the future (a clock was ahead), so not used as the newest run"
        lines.append(Text(f"{', '.join(ahead)}: {note}", style="dim"))
    return Group(*lines)


def _cells(summary: RunSummary) -> dict[str, Text]:
    """Return the cells of a run by column."""
    episodes = f"{summary.episodes_done}/{summary.episodes}" if summary.episodes else ABSENT
    return {
        "run": Text(summary.run_id),
        "status": status_text(summary.status, TERMINAL),
        "update": Text(str(summary.update)),
        "episodes": Text(episodes),
        "score": Text(score_text(summary.score)),
        "library": Text(summary.library or ABSENT),
        "lights": _lights(summary),
    }


def _names(names: Sequence[str]) -> str:
    """Return names with commas; the number of those beyond the first few."""
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _lights(summary: RunSummary) -> Text:
    lit = [
        f"{LIT} {word} {_names([summary.marked(word, name) for name in names])}"
        for word, names in summary.lights().items()
        if names
    ]
    if summary.is_stalled:
        lit.append(f"{LIT} stalled")
    text = Text("  ".join(lit), style=LIT_STYLE)
    if summary.doubt.error is not None:
        text.append("  " if lit else "").append(summary.doubt.error, style="red")
    elif summary.doubt.lights is not None:
        text.append("  " if lit else "").append(f"{UNKNOWN} {summary.doubt.lights}", UNKNOWN_STYLE)
    return text if text.plain else Text(UNLIT, style="dim")
