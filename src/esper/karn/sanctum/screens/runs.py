"""The Runs screen: all runs of the folder, to open one of them or to compare two."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static
from textual.worker import get_current_worker

from esper.karn.run_catalogue import RunSummary
from esper.karn.run_comparison import RunComparison, compare_runs
from esper.karn.sanctum.screens.run_screen import RunScreen, RunsSeen
from esper.karn.sanctum.widgets.choice_panel import ChoicePanel
from esper.karn.sanctum.widgets.comparison_panel import ComparisonPanel
from esper.karn.sanctum.widgets.runs_panel import NO_RUNS, RunsPanel
from esper.leyline.plain_text import printable

_KEYS: Final = "enter opens, space marks, c compares two"


class _Shown(NamedTuple):
    path: Path
    what: tuple[object, ...]  # has to change for a comparison of the run to be made anew


class RunsScreen(RunScreen):
    """Shows all runs, and two of them side by side."""

    CSS_PATH = str(Path(__file__).with_suffix(".tcss"))
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "compare", "Compare", tooltip="Compare the two marked runs, or close that"),
        Binding("escape", "close", show=False, tooltip="Close the comparison"),
    ]
    WANTS_RUNS = True

    def __init__(self) -> None:
        super().__init__()
        self._has_all_runs = False
        # What was known of the two runs that are compared: they go on meanwhile.
        self._compared: list[_Shown] = []
        self._is_reading = False

    @property
    def is_complete(self) -> bool:
        """Whether the run and all runs were read."""
        return super().is_complete and self._has_all_runs

    def panels(self) -> ComposeResult:
        """Yield the list of runs, and the place of the comparison."""
        yield Static(id="runs-error", markup=False)
        yield RunsPanel(id="runs")
        yield ComparisonPanel(id="comparison")

    def on_runs_seen(self, message: RunsSeen) -> None:
        """Show the runs as they are now."""
        error = self.query_one("#runs-error", Static)
        error.update(printable(f"! {message.error}"))
        error.set_class(message.error is not None, "-shown")
        panel = self.query_one(RunsPanel)
        self._has_all_runs = not message.is_behind
        with self.app.batch_update():
            panel.list_runs(message.runs, "no runs to show" if message.error else NO_RUNS)
            self._give_room()
            panel.note("reading more …" if message.is_behind else _KEYS)
        if self.has_class("-compared"):
            known = {run.path: run for run in message.runs}
            pair = [known[shown.path] for shown in self._compared if shown.path in known]
            if len(pair) == 2 and list(map(_shown_of, pair)) != self._compared:
                self._compare(pair)

    def on_choice_panel_chosen(self, message: ChoicePanel.Chosen) -> None:
        """Nothing else depends on which run is chosen."""
        message.stop()

    def action_compare(self) -> None:
        """Compare the two marked runs; or the marked one with the chosen one."""
        if self.has_class("-compared"):
            self.action_close()
            return
        panel = self.query_one(RunsPanel)
        runs = panel.to_compare()
        if len(runs) < 2:
            self.notify("it takes two runs to compare: mark one with space, choose another")
            return
        self.add_class("-compared")
        self._give_room()
        comparison = self.query_one(ComparisonPanel)
        comparison.compare(None)
        comparison.focus()
        self._compare(runs)

    def _compare(self, runs: Sequence[RunSummary]) -> None:
        self._compared = list(map(_shown_of, runs))
        if not self._is_reading:
            self._read_compared()

    def _read_compared(self) -> None:
        self._is_reading = True
        self._read_both(self._compared)

    @work(thread=True, group="compare")
    def _read_both(self, pair: Sequence[_Shown]) -> None:
        """Read both runs, in a thread: the one that draws never waits for a disk."""
        found = compare_runs(*(shown.path for shown in pair))
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(self._have_read, pair, found)

    def _have_read(self, pair: Sequence[_Shown], found: RunComparison) -> None:
        self._is_reading = False
        if [shown.path for shown in pair] == [shown.path for shown in self._compared]:
            self._show_comparison(found)
        if pair != self._compared:
            self._read_compared()  # they went on meanwhile, or it is about two others now

    def _show_comparison(self, found: RunComparison) -> None:
        self.query_one(ComparisonPanel).compare(found)

    def _give_room(self) -> None:
        """Leave to the comparison what the list does not fill."""
        runs = self.query_one(RunsPanel)
        lines = runs.virtual_size.height + 1  # with the line above
        runs.styles.max_height = lines if self.has_class("-compared") else None

    def action_close(self) -> None:
        """Go back to the list."""
        if self.maximized is not None:
            self.minimize()
            return
        self.remove_class("-compared")
        self._give_room()
        self.query_one(RunsPanel).focus()


def _shown_of(run: RunSummary) -> _Shown:
    what = run.status.kind, run.update, run.incidents, run.is_whole, run.error
    return _Shown(run.path, what)
