"""The report of `esper runs`: one line for each run of a folder."""

from pathlib import Path

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


def runs_text(run_dir: Path) -> Group:
    """Return a line for each run in a folder, oldest first."""
    summaries = list_runs(run_dir)
    if not summaries:
        start = command_line("esper", "ppo", *run_dir_options(run_dir))
        return Group(whole(Text(f"No runs in {run_dir} yet. Start one with: {start}")))
    rows = [
        [
            Text(summary.run_id),
            status_text(summary.status, TERMINAL),
            Text(str(summary.update)),
            Text(f"{summary.episodes_done}/{summary.episodes}" if summary.episodes else ABSENT),
            Text(score_text(summary.score)),
            _lights(summary),
        ]
        for summary in summaries
    ]
    lines = column_lines(rows, ("run", "status", "update", "episodes", "score", "lights"))
    if ahead := [one.run_id for one in summaries if is_of_the_future(one.path)]:
        note = "created in the future (a clock was ahead), so not used as the newest run"
        lines.append(Text(f"{', '.join(ahead)}: {note}", style="dim"))
    return Group(*lines)


def _lights(summary: RunSummary) -> Text:
    lit = [
        f"{LIT} {word} {', '.join(summary.marked(word, name) for name in names)}"
        for word, names in summary.lights().items()
        if names
    ]
    text = Text("  ".join(lit), style=LIT_STYLE)
    if summary.doubt.error is not None:
        text.append("  " if lit else "").append(summary.doubt.error, style="red")
    elif summary.doubt.lights is not None:
        text.append("  " if lit else "").append(f"{UNKNOWN} {summary.doubt.lights}", UNKNOWN_STYLE)
    return text if text.plain else Text(UNLIT, style="dim")
