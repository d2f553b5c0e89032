"""The list of all runs: it can be sorted, filtered, and marked for comparison."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message

from esper.karn.reports.run_folder.funnel import varied_settings
from esper.karn.reports.run_folder.run_query import (
    ORDERS,
    QueryError,
    RunQuery,
    in_order,
    parse_query,
)
from esper.karn.reports.run_folder.run_summary import RunSummary
from esper.karn.sanctum.drawing.choice_panel import ChoicePanel
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.runs.run_lines import RunLines
from esper.karn.text.palette import Palette
from esper.leyline.text.plurals import plural

NO_RUNS: Final = "no runs yet"
_NONE_FOUND: Final = "no run matches the filter"
#: Runs that can be compared: as many as there are letters.
MOST_MARKED: Final = 26


class RunsPanel(ChoicePanel):
    """Shows all runs; one can be opened, and several can be compared."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "run.phase",
        "run.started_at",
        "run.task",
        "run.update",
        "run.episodes_done",
        "training.score",
        "tamiyo.head_inf_latch",
        "tamiyo.head_nan_latch",
        "tamiyo.group_inf_latch",
        "tamiyo.group_nan_latch",
        "interventions.incidents",
        "training.stalled_latch",
        "run.library",
    )
    BORDER_TITLE = "Runs"
    ABOUT = "every training run in this folder"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", tooltip="Show the chosen run"),
        Binding("space", "mark", "Mark", tooltip="Mark the run for comparison, or unmark it"),
        Binding("o", "order", "Sort", tooltip="Sort by another column: newest, score, best, …"),
    ]

    class Opened(Message):
        """A run was opened."""

        def __init__(self, path: Path) -> None:
            super().__init__()
            self.path = path

    class Changed(Message):
        """The listed runs, their order or their marks have changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._all: Sequence[RunSummary] = ()  # oldest first
        self._runs: Sequence[RunSummary] = ()  # in the order of the lines
        self._lines_of_runs = RunLines()
        self._nothing = NO_RUNS
        self._all_paths: list[Path] = []
        self._paths: list[Path] = []  # of the lines
        self._query = RunQuery()
        self.filter_text = ""
        self.filter_error: str | None = None  # why the text filters nothing, as a sentence
        self.order = ORDERS[0]
        self.marked: list[Path] = []  # in the order in which they were marked

    @property
    def chosen_run(self) -> RunSummary | None:
        """The run of the chosen line."""
        return self._runs[self.index] if self._runs else None

    @property
    def listed(self) -> Sequence[RunSummary]:
        """The runs that match the filter; the same object until the list changes."""
        return self._runs

    def list_runs(self, runs: Sequence[RunSummary], nothing: str = NO_RUNS) -> None:
        """Show other runs.

        Args:
            runs: oldest first.
            nothing: the text shown if there are none.
        """
        if (tuple(runs), nothing) == (self._all, self._nothing):
            return
        paths = [run.path for run in runs]
        if paths != self._all_paths:
            self._all_paths = paths
            known = set(paths)
            self.marked = [path for path in self.marked if path in known]
            self._lines_of_runs.show_settings(varied_settings(runs))
        self._all, self._nothing = tuple(runs), nothing
        self._arrange()

    def filter(self, text: str) -> None:
        """Show the runs that match a query, as in `esper runs`.

        While it cannot be understood, the runs of the query before stay, and `filter_error` says
        why.
        """
        if text == self.filter_text:
            return
        self.filter_text, self.filter_error = text, None
        try:
            self._query = parse_query([text])
        except QueryError as error:
            self.filter_error = str(error)
        self._arrange()

    def _arrange(self) -> None:
        query = replace(self._query, order=self._query.order or self.order)
        try:
            found = query.select(self._all)
        except QueryError as error:
            self.filter_error = str(error)
            found = in_order(self._all, self.order)
        self._runs = tuple(found)
        self._keys = self._paths = [run.path for run in self._runs]
        self.redraw()
        self.post_message(self.Changed())

    def summary(self, width: int, palette: Palette) -> str:
        """Return the number of runs, the order, the filter, and the hidden columns."""
        shown = (
            f"{len(self._runs)} of {len(self._all)}" if self.filter_text else str(len(self._all))
        )
        order = self._query.order or self.order
        parts = [f"{shown} {plural(len(self._all), 'run')}", f"sorted by {order}"]
        if self.filter_error is not None:
            parts.insert(0, f"! {self.filter_error}")
        elif self.filter_text:
            parts.append(f"filter {self.filter_text!r}")
        if self.marked:
            parts.append(f"{len(self.marked)} marked")
        if hidden := self._lines_of_runs.hidden_columns(self._runs, width, palette):
            parts.append(f"hidden: {', '.join(hidden)}")
        return " · ".join(parts)

    def part(self, view: View) -> object:
        return view.directory

    def keys(self, view: View) -> Sequence[Hashable]:
        return self._paths

    def rows(self, view: View, width: int, palette: Palette) -> list[Text]:
        if not self._runs:
            nothing = _NONE_FOUND if self._all else self._nothing
            return [Text(nothing, style=palette.muted)]
        return self._lines_of_runs.lines(
            self._runs, width, palette, marked=self.marked, watched=view.directory
        )

    def to_compare(self) -> list[RunSummary]:
        """Return the marked runs; if fewer than two are marked, also the chosen one."""
        chosen = [self.chosen] if len(self.marked) < 2 else []
        paths = list(dict.fromkeys([*self.marked, *chosen]))
        return [run for path in paths for run in self._all if run.path == path]

    def open_chosen(self) -> None:
        """Show the run that was double-clicked."""
        self.action_open()

    def action_open(self) -> None:
        """Show the chosen run."""
        if isinstance(self.chosen, Path):
            self.post_message(self.Opened(self.chosen))

    def action_mark(self) -> None:
        """Mark or unmark the chosen run."""
        path = self.chosen
        if not isinstance(path, Path):
            return
        if path in self.marked:
            self.marked.remove(path)
        elif len(self.marked) < MOST_MARKED:
            self.marked.append(path)
        self.redraw()
        self.post_message(self.Changed())

    def action_order(self) -> None:
        """Sort by the next of the orders."""
        self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
        self._arrange()
