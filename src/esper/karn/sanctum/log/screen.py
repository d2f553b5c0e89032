"""The Log screen: everything that happened, or what is asked for of it; and what was printed."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Final

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input
from textual.worker import get_current_worker

from esper.karn.sanctum.drawing.tail_panel import TailPanel
from esper.karn.sanctum.fold.log_book import oldest_missing
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.following.console_search import ConsoleSearch
from esper.karn.sanctum.following.log_filter import LogFilter, choices
from esper.karn.sanctum.following.log_search import LogSearch
from esper.karn.sanctum.following.searching import Result, Search
from esper.karn.sanctum.frame.run_screen import RunScreen
from esper.karn.sanctum.log.console_panel import ConsolePanel
from esper.karn.sanctum.log.event_log_panel import EventLogPanel
from esper.karn.sanctum.log.filter_line import FilterLine
from esper.karn.sanctum.schema import LogEntry

#: How long a search goes on before it says what it found so far.
_TELLING_SECONDS: Final = 0.1


class Searched(Message):
    """A search has come so far."""

    def __init__(self, search: Search[Any], result: Result[Any]) -> None:
        super().__init__()
        self.search = search
        self.result = result


def _lines_of(view: View) -> tuple[int, int, Path | None]:
    """Return what is the same for two views as long as they have the same lines of the same run."""
    return id(view.snapshot.log), id(view.console), view.directory


class LogScreen(RunScreen):
    """Shows the event log through a filter, or the run's console output.

    What is asked for is looked for in the whole run: in a thread, while one reads what is there.
    """

    CSS_PATH = str(Path(__file__).with_suffix(".tcss"))
    AUTO_FOCUS = "#log"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", tooltip="Show the lines with a text"),
        Binding("k", "next('kind')", "Kind", tooltip="Show the lines of the next kind"),
        Binding("h", "next('host')", "Host", tooltip="Show the lines about the next host"),
        Binding("e", "next('head')", "Head", tooltip="Show the lines about the next head"),
        Binding("K", "next('kind', -1)", show=False, tooltip="Show the lines of the kind before"),
        Binding("H", "next('host', -1)", show=False, tooltip="Show those about the host before"),
        Binding("E", "next('head', -1)", show=False, tooltip="Show those about the head before"),
        Binding("x", "clear", "All", tooltip="Show all lines"),
        Binding("f", "follow", "Follow", tooltip="Follow the newest line, or stand still"),
        Binding("o", "console", "Console", tooltip="The run's console output, or the log"),
        Binding("escape", "close_search", show=False, tooltip="Close the search, or show all"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._filter = LogFilter()
        self._console_text = ""
        # What is searched for, and where: with another a search is begun anew.
        self._asked: object = None
        self._search: LogSearch | ConsoleSearch | None = None
        self._result: Result[Any] | None = None  # None where nothing is to be searched
        self._is_searching = False
        self._stepping = Lock()  # the search: one that was called off may be in its last step
        self._searched_for: object = None  # with another, there may be more to search

    def panels(self) -> ComposeResult:
        """Yield the filter, the log, and the console output in the same place."""
        yield FilterLine(id="filter")
        yield Input(id="search", placeholder="text to look for; enter keeps it", compact=True)
        yield EventLogPanel(id="log")
        yield ConsolePanel(id="console")

    def show(self, view: View) -> None:
        """Show a view; where no line came, what is said of them stands."""
        before = self.view
        super().show(view)
        waits = self._result is not None and not (self._result.is_over or self._is_searching)
        if waits or before is None or _lines_of(before) != _lines_of(view):
            self._look_further()

    def on_screen_suspend(self) -> None:
        """Search no further: nobody looks."""
        self._stop()

    # Searching

    @property
    def _is_console(self) -> bool:
        """Whether the console output is in sight, and not the log."""
        return self.has_class("-console")

    def _look_further(self) -> None:
        """Begin a search where one is due, or let it go on over what has come to be since."""
        view = self.view
        if view is None or not self.is_mounted:
            return
        missing = oldest_missing(view.snapshot.log)
        is_due = bool(self._console_text) if self._is_console else self._filter.asks and missing > 0
        asked = (view.directory, self._console_text if self._is_console else self._filter)
        if asked != self._asked or is_due != (self._search is not None):
            self._begin(view, asked, is_due=is_due)
        searched_for: object = view.console if self._is_console else missing
        if self._search is not None and not self._is_searching:
            is_over = self._result is not None and self._result.is_over
            if not is_over or searched_for != self._searched_for:
                self._searched_for, self._is_searching = searched_for, True
                self._go_through(self._search, view.snapshot.log, self._stepping)
        self._say_filter()

    def _begin(self, view: View, asked: object, *, is_due: bool) -> None:
        self._stop()
        self._asked, self._search, self._result = asked, None, None
        self._stepping = Lock()
        if is_due and view.directory is not None:
            self._result = Result()
            if self._is_console:
                self._search = ConsoleSearch(view.directory, self._console_text)
            else:
                self._search = LogSearch(view.directory, self._filter)
        self._show_found()

    def _stop(self) -> None:
        self.workers.cancel_group(self, "search")
        self._is_searching = False

    @work(thread=True, exclusive=True, group="search")
    def _go_through(
        self, search: LogSearch | ConsoleSearch, log: Sequence[LogEntry], stepping: Lock
    ) -> None:
        """Search to the end in a thread, and tell from time to time what was found."""
        worker = get_current_worker()
        if isinstance(search, LogSearch):
            with stepping:
                search.go_on(log)
        told = time.monotonic()
        while True:
            with stepping:
                if worker.is_cancelled:
                    return
                result: Result[Any] = search.step()
            if result.is_over or time.monotonic() - told >= _TELLING_SECONDS:
                self.post_message(Searched(search, result))
                told = time.monotonic()
            if result.is_over:
                return

    def on_searched(self, message: Searched) -> None:
        """Show how far the search is that goes on now."""
        if message.search is self._search:
            self._result = message.result
            self._is_searching = self._is_searching and not message.result.is_over
            with self.app.batch_update():
                self._show_found()
                self._say_filter()

    def _show_found(self) -> None:
        lines = () if self._result is None else self._result.lines
        if self._is_console:
            self.query_one(ConsolePanel).find(None if self._result is None else lines)
        else:
            self.query_one(EventLogPanel).find(lines)

    def _say_filter(self) -> None:
        asked = self._console_text if self._is_console else self._filter
        self.query_one(FilterLine).say(asked, self._result)

    # Keys

    def _choose(self, log_filter: LogFilter) -> None:
        self._filter = log_filter
        self.query_one(EventLogPanel).choose(log_filter)
        self._look_further()

    @property
    def _panel(self) -> TailPanel:
        """The panel that is in sight."""
        return self.query_one(ConsolePanel if self._is_console else EventLogPanel)

    def action_next(self, field: str, by: int = 1) -> None:
        """Show the lines of the next kind, or about the next host or head; or before."""
        if self.view is None or self._is_console:
            return
        snapshot = self.view.snapshot
        self._choose(self._filter.next(field, choices(field, snapshot.log, snapshot.run), by))

    def action_clear(self) -> None:
        """Show all lines."""
        self.query_one(Input).value = ""
        if self._is_console:
            self._console_text = ""
            self._look_further()
        else:
            self._choose(LogFilter())

    def action_search(self) -> None:
        """Ask for a text."""
        field = self.query_one(Input)
        field.value = self._console_text if self._is_console else self._filter.text
        self.add_class("-searching")
        field.focus()

    def action_close_search(self) -> None:
        """Close the search and show all lines; or, where there is none, give the room back."""
        if self.maximized is not None:
            self.minimize()
            return
        self.action_clear()
        self.remove_class("-searching")
        self._panel.focus()

    def on_input_changed(self, message: Input.Changed) -> None:
        """Show the lines with what has been typed so far."""
        if not self.has_class("-searching"):
            return
        if self._is_console:
            self._console_text = message.value
            self._look_further()
        else:
            self._choose(replace(self._filter, text=message.value))

    def on_input_submitted(self) -> None:
        """Keep the text, and go back to the lines."""
        self.remove_class("-searching")
        self._panel.focus()

    def action_follow(self) -> None:
        """Follow, or stand still."""
        self._panel.follow(not self._panel.follows)

    def action_console(self) -> None:
        """Switch between the log and the console output."""
        self.remove_class("-searching")
        self.toggle_class("-console")
        self._panel.focus()
        self._look_further()
