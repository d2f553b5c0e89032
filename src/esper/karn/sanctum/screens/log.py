"""The Log screen: everything that happened, or what is asked for of it; and what was printed."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from esper.karn.sanctum.screens.run_screen import RunScreen
from esper.karn.sanctum.widgets.console_panel import ConsolePanel
from esper.karn.sanctum.widgets.event_log import EventLog
from esper.karn.sanctum.widgets.filter_line import FilterLine
from esper.karn.sanctum.widgets.following_panel import FollowingPanel
from esper.karn.sanctum.widgets.log_filter import LogFilter


class LogScreen(RunScreen):
    """Shows the event log through a filter, or the run's console output."""

    CSS_PATH = str(Path(__file__).with_suffix(".tcss"))
    AUTO_FOCUS = "#log"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", tooltip="Show the lines with a text"),
        Binding("k", "next('kind')", "Kind", tooltip="Show the lines of the next kind"),
        Binding("h", "next('host')", "Host", tooltip="Show the lines about the next host"),
        Binding("e", "next('head')", "Head", tooltip="Show the lines about the next head"),
        Binding("x", "clear", "All", tooltip="Show all lines"),
        Binding("f", "follow", "Follow", tooltip="Follow the newest line, or stand still"),
        Binding("o", "console", "Console", tooltip="The run's console output, or the log"),
        Binding("escape", "close_search", show=False, tooltip="Close the search, or show all"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._filter = LogFilter()

    def panels(self) -> ComposeResult:
        """Yield the filter, the log, and the console output in the same place."""
        yield FilterLine(id="filter")
        yield Input(id="search", placeholder="text to look for; enter keeps it", compact=True)
        yield EventLog(id="log")
        yield ConsolePanel(id="console")

    def _choose(self, log_filter: LogFilter) -> None:
        self._filter = log_filter
        self.query_one(FilterLine).choose(log_filter)
        self.query_one(EventLog).choose(log_filter)

    @property
    def _panel(self) -> FollowingPanel:
        """The panel that is in sight."""
        return self.query_one(ConsolePanel if self.has_class("-console") else EventLog)

    def action_next(self, field: str) -> None:
        """Show the lines of the next kind, or about the next host or head."""
        if self.view is not None:
            self._choose(self._filter.next(field, self.view.snapshot.log))

    def action_clear(self) -> None:
        """Show all lines."""
        self.query_one(Input).value = ""
        self._choose(LogFilter())

    def action_search(self) -> None:
        """Ask for a text."""
        self.remove_class("-console")
        self.add_class("-searching")
        self.query_one(Input).focus()

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
        self._choose(replace(self._filter, text=message.value))

    def on_input_submitted(self) -> None:
        """Keep the text, and go back to the log."""
        self.remove_class("-searching")
        self._panel.focus()

    def action_follow(self) -> None:
        """Follow, or stand still."""
        self._panel.follow(not self._panel.follows)

    def action_console(self) -> None:
        """Switch between the log and the console output."""
        self.toggle_class("-console")
        self._panel.focus()
