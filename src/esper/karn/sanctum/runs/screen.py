"""The Runs screen: all runs of the folder, to open one or to compare several."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from esper.karn.reports.run_comparison import RunComparison, compare_runs
from esper.karn.reports.run_folder.run_summary import RunSummary
from esper.karn.sanctum.drawing.choice_panel import ChoicePanel
from esper.karn.sanctum.drawing.themes import palette_of
from esper.karn.sanctum.frame.run_screen import RunScreen, RunsUpdated
from esper.karn.sanctum.runs.comparison_panel import ComparisonPanel
from esper.karn.sanctum.runs.funnel_panel import FunnelPanel
from esper.karn.sanctum.runs.runs_panel import NO_RUNS, RunsPanel
from esper.karn.store.run_files.run_note import LONGEST_NOTE, NoteError, write_note
from esper.leyline.text.plain_text import printable_line

_KEYS: Final = "enter open, space mark, c compare, o sort, / filter, f funnel, e note"


_FILTER: Final = "lit:op  status:dead  seed:3  score>=0.7  learning_rate>=1e-3  sort:best  a text"


class _Shown(NamedTuple):
    path: Path
    state: tuple[object, ...]  # a comparison is made again when this changes


class RunsScreen(RunScreen):
    """Shows all runs, and the comparison of marked runs."""

    CSS_PATH = str(Path(__file__).with_suffix(".tcss"))
    AUTO_FOCUS = "#runs"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "compare", "Compare", tooltip="Compare the marked runs, or close it"),
        Binding("slash", "filter", "Filter", tooltip="Show some runs: lit:op, score>=0.7, a text"),
        Binding("f", "funnel", "Funnel", tooltip="Show which head lit first, by each setting"),
        Binding("e", "edit_note", "Note", tooltip="Write a note on the chosen run"),
        Binding("escape", "close", show=False, tooltip="Close the comparison, funnel or filter"),
    ]
    WANTS_RUNS = True

    def __init__(self) -> None:
        super().__init__()
        self._has_all_runs = False
        # The compared runs as they were then: they may change in the meantime.
        self._compared: list[_Shown] = []
        self._is_reading = False
        self._room: int | None = None  # most lines of the list; None for no limit
        self._noted: Path | None = None  # the run whose note is edited; None while filtering

    @property
    def is_complete(self) -> bool:
        """Whether the run and all runs were read."""
        return super().is_complete and self._has_all_runs

    def panels(self) -> ComposeResult:
        """Yield the list of runs, its summary line, the input and the comparison."""
        yield Static(id="runs-error", markup=False)
        yield RunsPanel(id="runs")
        yield Static(id="runs-summary", markup=False)
        yield Input(id="runs-input", compact=True)
        yield FunnelPanel(id="funnel")
        yield ComparisonPanel(id="comparison")

    def on_runs_updated(self, message: RunsUpdated) -> None:
        """Show the current runs."""
        error = self.query_one("#runs-error", Static)
        _show_text(error, f"! {message.error}")
        error.set_class(message.error is not None, "-shown")
        panel = self.query_one(RunsPanel)
        self._has_all_runs = not message.is_behind
        with self.app.batch_update():
            panel.list_runs(message.runs, "no runs to show" if message.error else NO_RUNS)
            self._give_room()
            panel.note("reading more …" if message.is_behind else _KEYS)
            self._summarise()
        if self.has_class("-compared"):
            known = {run.path: run for run in message.runs}
            runs = [known[shown.path] for shown in self._compared if shown.path in known]
            if len(runs) > 1 and list(map(_shown_of, runs)) != self._compared:
                self._compare(runs)

    def on_runs_panel_changed(self, message: RunsPanel.Changed) -> None:
        """Update the summary line of the list."""
        message.stop()
        self._give_room()
        self._summarise()
        if self.has_class("-funnel"):
            self.query_one(FunnelPanel).list_runs(self.query_one(RunsPanel).listed)

    def on_choice_panel_chosen(self, message: ChoicePanel.Chosen) -> None:
        """Show the note of the chosen run."""
        message.stop()
        self._summarise()

    def _summarise(self) -> None:
        panel = self.query_one(RunsPanel)
        width = panel.scrollable_content_region.width
        text = panel.summary(width, palette_of(self.app.theme))
        run = panel.chosen_run
        if run is not None and run.note:
            text = f"note: {run.note} · {text}"
        _show_text(self.query_one("#runs-summary", Static), text)

    # Filter and note

    def action_filter(self) -> None:
        """Open the input for a filter."""
        self._noted = None
        field = self._open_input(_FILTER)
        field.value = self.query_one(RunsPanel).filter_text

    def action_edit_note(self) -> None:
        """Open the input for a note on the chosen run."""
        run = self.query_one(RunsPanel).chosen_run
        if run is None:
            self.notify("no run is chosen: a note belongs to a run")
            return
        self._noted = run.path
        self._open_input(f"note on {run.run_id}; enter keeps it").value = run.note

    def _open_input(self, placeholder: str) -> Input:
        field = self.query_one(Input)
        field.placeholder = printable_line(placeholder)
        field.max_length = LONGEST_NOTE
        self.add_class("-typing")
        field.focus()
        return field

    def on_input_changed(self, message: Input.Changed) -> None:
        """Filter by the text typed so far."""
        if self.has_class("-typing") and self._noted is None:
            self.query_one(RunsPanel).filter(message.value)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Keep the filter, or the note."""
        if self._noted is not None:
            self._write_note(self._noted, message.value)
        self._close_input()

    def _close_input(self) -> None:
        self.remove_class("-typing")
        self._noted = None
        self.query_one(RunsPanel).focus()

    @work(thread=True, group="note")
    def _write_note(self, directory: Path, text: str) -> None:
        try:
            write_note(directory, text)
        except NoteError as error:
            message = str(error)
            self.app.call_from_thread(self.notify, message, severity="error", markup=False)

    # Funnel

    def action_funnel(self) -> None:
        """Open the funnel; group it by the next setting; close it after the last."""
        panel = self.query_one(FunnelPanel)
        if self.has_class("-funnel"):
            if not panel.turn():
                self.remove_class("-funnel")
            return
        self.remove_class("-compared")
        self._give_room()
        self.add_class("-funnel")
        panel.open(self.query_one(RunsPanel).listed)

    # Comparison

    def action_compare(self) -> None:
        """Compare the marked runs, or the one marked run with the chosen one."""
        if self.has_class("-compared"):
            self.action_close()
            return
        runs = self.query_one(RunsPanel).to_compare()
        if len(runs) < 2:
            self.notify("a comparison needs at least two runs: mark them with space")
            return
        self.remove_class("-funnel")
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
        self._read(self._compared)

    @work(thread=True, group="compare")
    def _read(self, compared: Sequence[_Shown]) -> None:
        """Read the runs in a thread, so that drawing never waits for a disk."""
        found = compare_runs(*(shown.path for shown in compared))
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(self._have_read, compared, found)

    def _have_read(self, compared: Sequence[_Shown], found: RunComparison) -> None:
        self._is_reading = False
        if [shown.path for shown in compared] == [shown.path for shown in self._compared]:
            self._show_comparison(found)
        if compared != self._compared:
            self._read_compared()  # the runs have changed, or others are compared now

    def _show_comparison(self, found: RunComparison) -> None:
        self.query_one(ComparisonPanel).compare(found)

    def _give_room(self) -> None:
        """Give the comparison the height that the list does not need."""
        runs = self.query_one(RunsPanel)
        lines = runs.virtual_size.height + 1  # and the border
        wanted = lines if self.has_class("-compared") else None
        if wanted != self._room:  # setting a style, even to its value, lays the screen out again
            self._room = wanted
            runs.styles.max_height = wanted

    def action_close(self) -> None:
        """Close the input, the funnel, the comparison or the filter."""
        if self.maximized is not None:
            self.minimize()
            return
        if self.has_class("-typing"):
            if self._noted is None:
                self.query_one(RunsPanel).filter("")
            self._close_input()
            return
        if self.has_class("-funnel"):
            self.remove_class("-funnel")
            return
        if not self.has_class("-compared"):
            self.query_one(RunsPanel).filter("")
        self.remove_class("-compared")
        self._give_room()
        self.query_one(RunsPanel).focus()


def _show_text(line: Static, text: str) -> None:
    """Show one line of text. An update lays out and paints the whole screen, so only if it changed.

    Args:
        line: the widget.
        text: the new text.
    """
    text = printable_line(text)
    if text != str(line.content):
        line.update(text)


def _shown_of(run: RunSummary) -> _Shown:
    state = run.status.kind, run.update, run.incidents, run.doubt
    return _Shown(run.path, state)
