"""The Log screen: the event log through a filter, or the console output."""

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
from esper.karn.sanctum.following.log_filter import FILTER_FIELDS, LogFilter, choices
from esper.karn.sanctum.following.log_search import LogSearch
from esper.karn.sanctum.following.searching import Search, SearchResult
from esper.karn.sanctum.frame.run_screen import RunScreen
from esper.karn.sanctum.log.console_panel import ConsolePanel
from esper.karn.sanctum.log.event_log_panel import DETAILS, EventLogPanel
from esper.karn.sanctum.log.filter_line import FilterLine
from esper.karn.sanctum.schema import LogEntry

#: From one report of a running search to the next.
_REPORT_SECONDS: Final = 0.1


#: For each field of the filter, the key that goes through its values, and the one back.
_FIELD_KEYS: Final = [
    key
    for field in FILTER_FIELDS
    for key in (
        Binding(
            field.key,
            f"next('{field.name}')",
            field.name.capitalize(),
            tooltip=f"Show the lines {field.lines}",
        ),
        Binding(
            field.key.upper(),
            f"next('{field.name}', -1)",
            show=False,
            tooltip=f"Show the lines {field.lines.replace('next', 'previous')}",
        ),
    )
]


class SearchAdvanced(Message):
    """A search has found more, or has ended."""

    def __init__(self, search: Search[Any], result: SearchResult[Any]) -> None:
        super().__init__()
        self.search = search
        self.result = result


def _lines_of(view: View) -> tuple[int, int, Path | None]:
    """Return a value that is equal for two views with the same lines of the same run."""
    return id(view.snapshot.log), id(view.console), view.directory


class LogScreen(RunScreen):
    """Shows the event log through a filter, or the run's console output.

    A filter or a text is searched for in the whole run, in a thread.
    """

    CSS_PATH = str(Path(__file__).with_suffix(".tcss"))
    AUTO_FOCUS = "#log"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", tooltip="Show the lines with a text"),
        *_FIELD_KEYS,
        DETAILS,
        Binding("x", "clear", "All", tooltip="Show all lines"),
        Binding("f", "follow", "Follow", tooltip="Follow the newest line, or stop following"),
        Binding("o", "console", "Console", tooltip="Switch between the log and the console output"),
        Binding("escape", "close_search", show=False, tooltip="Close the search, or show all"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._filter = LogFilter()
        self._console_text = ""
        # The run and the filter or text of the search: a change starts another search.
        self._wanted: object = None
        self._search: LogSearch | ConsoleSearch | None = None
        self._result: SearchResult[Any] | None = None  # None if nothing has to be searched
        self._is_searching = False
        self._stepping = Lock()  # a cancelled search may still be in its last step
        self._searched_for: object = None  # a change means that there may be more to search

    def panels(self) -> ComposeResult:
        """Yield the filter, the log, and in its place the console output."""
        yield FilterLine(id="filter")
        yield Input(id="search", placeholder="text to search for; enter keeps it", compact=True)
        yield EventLogPanel(id="log")
        yield ConsolePanel(id="console")

    def show(self, view: View) -> None:
        """Show a view, and search its new lines."""
        before = self.view
        super().show(view)
        waits = self._result is not None and not (self._result.is_over or self._is_searching)
        if waits or before is None or _lines_of(before) != _lines_of(view):
            self._search_further()

    def on_screen_suspend(self) -> None:
        """Stop searching while the screen is not visible."""
        self._stop()

    # Searching

    @property
    def _is_console(self) -> bool:
        """Whether the console output is shown instead of the log."""
        return self.has_class("-console")

    def _search_further(self) -> None:
        """Start a search if one is needed, or continue it over what is new."""
        view = self.view
        if view is None or not self.is_mounted:
            return
        missing = oldest_missing(view.snapshot.log)
        is_due = (
            bool(self._console_text) if self._is_console else self._filter.is_set and missing > 0
        )
        wanted = (view.directory, self._console_text if self._is_console else self._filter)
        if wanted != self._wanted or is_due != (self._search is not None):
            self._begin(view, wanted, is_due=is_due)
        searched_for: object = view.console if self._is_console else missing
        if self._search is not None and not self._is_searching:
            is_over = self._result is not None and self._result.is_over
            if not is_over or searched_for != self._searched_for:
                self._searched_for, self._is_searching = searched_for, True
                self._go_through(self._search, view.snapshot.log, self._stepping)
        self._describe_filter()

    def _begin(self, view: View, wanted: object, *, is_due: bool) -> None:
        self._stop()
        self._wanted, self._search, self._result = wanted, None, None
        self._stepping = Lock()
        if is_due and view.directory is not None:
            self._result = SearchResult()
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
        """Search to the end in a thread, and report in between what was found."""
        worker = get_current_worker()
        if isinstance(search, LogSearch):
            with stepping:
                search.go_on(log)
        reported = time.monotonic()
        while True:
            with stepping:
                if worker.is_cancelled:
                    return
                result: SearchResult[Any] = search.step()
            if result.is_over or time.monotonic() - reported >= _REPORT_SECONDS:
                self.post_message(SearchAdvanced(search, result))
                reported = time.monotonic()
            if result.is_over:
                return

    def on_search_advanced(self, message: SearchAdvanced) -> None:
        """Show the progress of the current search."""
        if message.search is self._search:
            self._result = message.result
            self._is_searching = self._is_searching and not message.result.is_over
            with self.app.batch_update():
                self._show_found()
                self._describe_filter()

    def _show_found(self) -> None:
        lines = () if self._result is None else self._result.lines
        if self._is_console:
            self.query_one(ConsolePanel).find(None if self._result is None else lines)
        else:
            self.query_one(EventLogPanel).find(lines)

    def _describe_filter(self) -> None:
        wanted = self._console_text if self._is_console else self._filter
        self.query_one(FilterLine).describe(wanted, self._result)

    # Keys

    def _choose(self, log_filter: LogFilter) -> None:
        self._filter = log_filter
        self.query_one(EventLogPanel).choose(log_filter)
        self._search_further()

    @property
    def _panel(self) -> TailPanel:
        """The panel that is shown."""
        return self.query_one(ConsolePanel if self._is_console else EventLogPanel)

    def action_next(self, field: str, by: int = 1) -> None:
        """Show the lines with the next value of a field; with `by` -1, the previous one."""
        if self.view is None or self._is_console:
            return
        snapshot = self.view.snapshot
        self._choose(self._filter.with_next(field, choices(field, snapshot.log, snapshot.run), by))

    def action_details(self) -> None:
        """Show all lines of bad updates, or only the first of each."""
        self.query_one(EventLogPanel).action_details()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the filter by host only for a run that has hosts."""
        is_watched = self.view is not None and self.view.snapshot.run.is_watched
        if action == "next" and parameters[:1] == ("host",) and is_watched:
            return False
        return super().check_action(action, parameters)

    def action_clear(self) -> None:
        """Show all lines."""
        self.query_one(Input).value = ""
        if self._is_console:
            self._console_text = ""
            self._search_further()
        else:
            self._choose(LogFilter())

    def action_search(self) -> None:
        """Open the field for a text to search for."""
        field = self.query_one(Input)
        field.value = self._console_text if self._is_console else self._filter.text
        self.add_class("-searching")
        field.focus()

    def action_close_search(self) -> None:
        """Close the search and show all lines; if a panel is enlarged, only restore its size."""
        if self.maximized is not None:
            self.minimize()
            return
        self.action_clear()
        self.remove_class("-searching")
        self._panel.focus()

    def on_input_changed(self, message: Input.Changed) -> None:
        """Show the lines with the text typed so far."""
        if not self.has_class("-searching"):
            return
        if self._is_console:
            self._console_text = message.value
            self._search_further()
        else:
            self._choose(replace(self._filter, text=message.value))

    def on_input_submitted(self) -> None:
        """Keep the text, and return to the lines."""
        self.remove_class("-searching")
        self._panel.focus()

    def action_follow(self) -> None:
        """Follow the newest line, or stop following."""
        self._panel.follow(not self._panel.follows)

    def action_console(self) -> None:
        """Switch between the log and the console output."""
        self.remove_class("-searching")
        self.toggle_class("-console")
        self._panel.focus()
        self._search_further()
