"""Sanctum without a terminal: one frame as text, or as a picture."""

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from esper.karn.sanctum.view import View
from esper.karn.sanctum.watch import RunWatch, look_once
from esper.karn.sanctum.widgets.event_log import render_log
from esper.karn.sanctum.widgets.hosts_panel import render_hosts
from esper.karn.sanctum.widgets.master_status import render_master
from esper.karn.sanctum.widgets.palette import TERMINAL, Palette
from esper.karn.sanctum.widgets.policy_panel import render_policy
from esper.karn.sanctum.widgets.run_header import render_header
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import render_heads

if TYPE_CHECKING:
    from esper.karn.sanctum.app import SanctumApp

LOG_LINES_PRINTED: Final = 12


def render_once(view: View, width: int, palette: Palette = TERMINAL) -> Text:
    """Return the first screen as plain lines, one panel below the other."""
    snapshot = view.snapshot
    log = render_log(snapshot, width, palette).split("\n")[-LOG_LINES_PRINTED:]
    panels = {
        "Action heads": render_heads(snapshot, width, palette=palette),
        "Policy": render_policy(snapshot, min(width, 100), palette=palette),
        # Where every host has its line, and the legend too.
        "Hosts": render_hosts(snapshot, width, len(snapshot.hosts) + 8, palette),
        "Log": Text("\n", no_wrap=True).join(log),
    }
    parts = [render_master(view, width, 1, palette), render_header(view, width, 2, palette)]
    if view.error is not None:
        parts.append(Text(f"! {view.error}", style=f"bold {palette.warning}"))
    for title, body in panels.items():
        rule = f"── {title} ".ljust(width, "─")
        parts += [Text(rule, style=palette.muted, no_wrap=True), body]
    lines = [line for part in parts for line in part.split("\n", allow_blank=True)]
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def print_once(
    directory: Path,
    *,
    console: Console | None = None,
    now: float | None = None,
    at: int | None = None,
) -> None:
    """Print one frame of a run, at the console's width.

    Args:
        directory: the run's directory.
        console: where to; standard output if not given.
        now: seconds since the epoch; the clock's if not given.
        at: the update to show the run as of; None for the newest.

    Raises:
        UpdateNotFoundError: the run has no such update.
    """
    console = console or Console(highlight=False)
    console.print(render_once(look_once(directory, now, at), console.width), soft_wrap=True)


def export_frame(
    directory: Path, path: Path, size: tuple[int, int] = (120, 40), *, at: int | None = None
) -> None:
    """Write a picture (SVG) of Sanctum over a run, as it would look on a terminal.

    Args:
        directory: the run's directory.
        path: the file to write.
        size: columns and lines of the terminal.
        at: the update to show the run as of; None for the newest.
    """
    from esper.karn.sanctum.app import SanctumApp  # printing a frame does without Textual

    watch = RunWatch(directory, directory.parent, at=at)
    app = SanctumApp(directory, directory.parent, watch=watch)
    path.write_text(asyncio.run(_screenshot(app, size)), encoding="utf-8")


async def _screenshot(app: "SanctumApp", size: tuple[int, int]) -> str:
    async with app.run_test(size=size) as pilot:
        while app.view is None or app.view.is_behind:
            await pilot.pause(0.01)
        await pilot.pause()
        # Textual's picture asks the web for its font; without that the reader's own stands in.
        return re.sub(r"@font-face\s*{.*?}", "", app.export_screenshot(), flags=re.DOTALL)
