"""The report of `esper runs`: one line for each run of a folder, their funnel, or both as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from esper.karn.reports.run_catalogue import list_runs
from esper.karn.reports.run_commands import run_dir_options
from esper.karn.reports.run_folder.funnel import Funnel, funnel_of
from esper.karn.reports.run_folder.funnel_lines import funnel_lines
from esper.karn.reports.run_folder.run_json import runs_as_json
from esper.karn.reports.run_folder.run_query import RunQuery, check_setting
from esper.karn.reports.run_folder.run_summary import RunSummary
from esper.karn.store.run_directory import is_of_the_future
from esper.karn.text.figures import ABSENT
from esper.karn.text.light_signs import LIT, UNKNOWN, UNLIT
from esper.karn.text.palette import TERMINAL
from esper.karn.text.status_text import status_text
from esper.leyline.text.command_lines import command_line
from esper.leyline.text.json_text import json_text
from esper.leyline.text.plurals import counted

#: Columns that are hidden if no run has a value.
_OPTIONAL: Final = ("episodes", "score", "library")
#: Maximum number of lit heads and groups to list.
_NAMED: Final = 8


@dataclass(frozen=True)
class ListedRuns:
    """The selected runs of a folder.

    Attributes:
        run_dir: the folder.
        query: the query.
        total: number of all runs in the folder.
        runs: the selected runs, in order.
        funnel: their funnel; None if not requested.
    """

    run_dir: Path
    query: RunQuery
    total: int
    runs: Sequence[RunSummary]
    funnel: Funnel | None = None


def read_runs(
    run_dir: Path, query: RunQuery, *, funnel: bool = False, funnel_by: str | None = None
) -> ListedRuns:
    """Return the runs of a folder that a query selects.

    Args:
        run_dir: the folder.
        query: the query.
        funnel: whether to create a funnel.
        funnel_by: the setting to group the funnel by; None for one group of all runs.

    Raises:
        QueryError: no run has the setting that the query or the funnel names.
        RunNotFoundError: the folder cannot be listed.
    """
    known = list_runs(run_dir)
    runs = query.select(known)
    if funnel_by is not None:
        check_setting(known, funnel_by)
    return ListedRuns(
        run_dir, query, len(known), runs, funnel_of(runs, funnel_by) if funnel else None
    )


def runs_json(listed: ListedRuns) -> str:
    """Return the runs, and their funnel, as JSON."""
    report = runs_as_json(
        listed.run_dir, listed.query.text, listed.total, listed.runs, listed.funnel
    )
    return json_text(report)


def runs_text(listed: ListedRuns) -> Group:
    """Return a line for each run, or the funnel."""
    summaries = listed.runs
    if not listed.total:
        start = command_line("esper", "ppo", *run_dir_options(listed.run_dir))
        return Group(whole(Text(f"No runs in {listed.run_dir} yet. Start one with: {start}")))
    if not summaries:
        are = counted(listed.total, "run")
        return Group(whole(Text(f"No run matches {listed.query.text!r}, of {are}.")))
    if listed.funnel is not None:
        return Group(*map(whole, funnel_lines(listed.funnel, TERMINAL)))
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
    if len(summaries) < listed.total:
        lines.append(Text(f"{len(summaries)} of {counted(listed.total, 'run')}", style="dim"))
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
    """Return the first few names, separated by commas, and the number of the others."""
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
