"""CPU time of the cockpit's lists against Textual's `DataTable`, per refresh.

    uv run python benchmarks/sanctum_tables.py [--rows 1000] [--refreshes 20]

Both show the same cells in a headless terminal of 120 x 40, and both build the cells of every row
that changed. A refresh of the Runs screen changes the row of one live run, or all rows. A refresh
of the Decisions screen changes all rows, as each step of all hosts does. A `DataTable` is updated
in two ways: cell by cell, where a row differs, and by refilling it.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.text import Text
from textual.app import App, ComposeResult
from textual.coordinate import Coordinate
from textual.widget import Widget
from textual.widgets import DataTable

from esper.karn.reports.run_folder.run_summary import RunSummary
from esper.karn.sanctum.decisions.decision_panels import DecisionListPanel
from esper.karn.sanctum.decisions.decision_row import (
    decision_words,
    joint_probability,
    share,
)
from esper.karn.sanctum.drawing.themes import DARK_THEME, themes
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.runs.run_lines import lights_text
from esper.karn.sanctum.runs.runs_panel import RunsPanel
from esper.karn.sanctum.schema import DecisionState, HeadDecision, RunState, SanctumSnapshot
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.text.figures import figure
from esper.karn.text.palette import DARK
from esper.karn.text.status_text import status_text
from esper.leyline.heads import HEAD_CHOICES
from esper.leyline.health import HEALTHY

SIZE = (120, 40)
_LIVE = RunStatus(StatusKind.LIVE, 1.0, "training")
_OVER = RunStatus(StatusKind.FINISHED, None, "finished")

Row = list[Text]
#: Makes the cells of one row.
Cells = Callable[[Any], Row]


def runs(number: int) -> tuple[RunSummary, ...]:
    """Return so many runs, of which the last is live."""
    return tuple(
        RunSummary(
            run_id=f"20251122-{index:06}-amber",
            path=Path("/runs") / f"20251122-{index:06}-amber",
            status=_LIVE if index == number - 1 else _OVER,
            name="amber",
            started_at=1.7e9 + index,
            update=100,
            episodes_done=800,
            episodes=800,
            score=0.5 + index / 1e4,
            inf_heads=("op",) if index % 7 == 0 else (),
            nan_heads=(),
            inf_groups=(),
            nan_groups=(),
            task="mnist1d",
            best_score=0.6,
        )
        for index in range(number)
    )


def run_cells(run: RunSummary) -> Row:
    """Return the cells of a run's row."""
    return [
        Text(run.run_id, style=DARK.ink),
        status_text(run.status, DARK),
        Text(datetime.fromtimestamp(run.started_at or 0).strftime("%m-%d %H:%M"), style=DARK.ink),
        Text(run.task, style=DARK.ink),
        Text(str(run.update), style=DARK.ink),
        Text(f"{run.episodes_done}/{run.episodes}", style=DARK.ink),
        Text(figure(run.score), style=DARK.ink),
        lights_text(run, DARK),
        Text(figure(run.best_score), style=DARK.ink),
        Text(str(run.incidents), style=DARK.ink),
    ]


def decisions(number: int, step: int) -> tuple[DecisionState, ...]:
    """Return the decisions of one step for so many hosts."""
    return tuple(
        DecisionState(
            host=host,
            update=3,
            step=step,
            heads=tuple(
                HeadDecision(head, (host + step) % len(choices), 0.5, True, ())
                for head, choices in HEAD_CHOICES.items()
            ),
            value=0.1 * step,
        )
        for host in range(number)
    )


def view_of(taken: tuple[DecisionState, ...] = ()) -> View:
    """Return a view of a live run."""
    heads = {head: tuple(choices) for head, choices in HEAD_CHOICES.items()}
    snapshot = SanctumSnapshot(run=RunState(steps=24, heads=heads), decisions=taken)
    return View(status=_LIVE, verdict=HEALTHY, now=1.7e9, snapshot=snapshot)


def decision_cells(taken: DecisionState) -> Row:
    """Return the cells of a decision's row."""
    return [
        Text(f"host {taken.host + 1}", style=DARK.muted),
        Text(decision_words(taken, view_of().snapshot.run), style=DARK.ink),
        Text(share(joint_probability(taken)), style=DARK.ink),
        Text(figure(taken.value), style=DARK.ink),
    ]


class TableApp(App[None]):
    """Shows one widget."""

    def __init__(self, widget: Widget) -> None:
        super().__init__()
        for theme in themes():
            self.register_theme(theme)
        self.theme = DARK_THEME
        self._widget = widget

    def compose(self) -> ComposeResult:
        yield self._widget


async def milliseconds(widget: Widget, refreshes: Sequence[Callable[[], object]]) -> float:
    """Return the median CPU time of a refresh, painting included."""
    found = []
    async with TableApp(widget).run_test(size=SIZE) as pilot:
        widget.focus()
        for refresh in refreshes:
            await pilot.pause()
            before = time.process_time()
            refresh()
            await pilot.pause()
            found.append(1000 * (time.process_time() - before))
    return median(found[2:])  # the first ones fill it


def refill(table: DataTable[Text], after: Sequence[object], cells: Cells) -> None:
    """Show other rows by clearing the table."""
    table.clear()
    table.add_rows(map(cells, after))


def update(
    table: DataTable[Text], before: Sequence[object], after: Sequence[object], cells: Cells
) -> None:
    """Show other rows by updating the cells that differ, in the rows that differ."""
    for y, (old, new) in enumerate(zip(before, after, strict=True)):
        if old is not new:
            for x, (one, other) in enumerate(zip(cells(old), cells(new), strict=True)):
                if one.plain != other.plain:
                    table.update_cell_at(Coordinate(y, x), other)


async def compare(
    name: str,
    panel: Widget,
    show: Callable[[int], object],
    states: Sequence[Sequence[object]],
    cells: Cells,
) -> None:
    """Print one line: the hand-laid list, and the table in both ways."""
    columns = [str(column) for column in range(len(cells(states[0][0])))]
    by_hand = await milliseconds(panel, [partial(show, at) for at in range(len(states))])

    async def in_table(is_refilled: bool) -> float:
        table: DataTable[Text] = DataTable(cursor_type="row")

        def change(at: int) -> None:
            if at == 0:
                table.add_columns(*columns)
            if at == 0 or is_refilled:
                refill(table, states[at], cells)
            else:
                update(table, states[at - 1], states[at], cells)

        return await milliseconds(table, [partial(change, at) for at in range(len(states))])

    print(
        f"{name}: hand-laid {by_hand:.1f} ms, DataTable by cells {await in_table(False):.1f} ms, "
        f"refilled {await in_table(True):.1f} ms"
    )


async def measure(rows: int, refreshes: int) -> None:
    """Print a line for each list."""
    known = runs(rows)
    live = [(*known[:-1], replace(known[-1], update=100 + at)) for at in range(refreshes)]
    every = [tuple(replace(one, update=100 + at) for one in known) for at in range(refreshes)]
    for name, states in (("runs, one live", live), ("runs, all rows", every)):
        await compare(
            name, (panel := RunsPanel()), partial(list_runs, panel, states), states, run_cells
        )
    steps = [decisions(rows, 1 + at) for at in range(refreshes)]
    listed = DecisionListPanel()
    await compare(
        "decisions", listed, partial(list_decisions, listed, steps), steps, decision_cells
    )


def list_runs(panel: RunsPanel, states: Sequence[Sequence[RunSummary]], at: int) -> None:
    """Show the runs of a refresh."""
    if at == 0:
        panel.show(view_of())
    panel.list_runs(states[at])


def list_decisions(
    panel: DecisionListPanel, steps: Sequence[tuple[DecisionState, ...]], at: int
) -> None:
    """Show the decisions of a refresh."""
    panel.wake()
    panel.show(view_of(steps[at]))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--refreshes", type=int, default=20)
    options = parser.parse_args()
    print(f"CPU time of a refresh of {options.rows} rows at {SIZE[0]} x {SIZE[1]}:")
    asyncio.run(measure(options.rows, options.refreshes))


if __name__ == "__main__":
    main()
