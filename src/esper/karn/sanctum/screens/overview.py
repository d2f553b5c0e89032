"""The first screen: is this run healthy, which head is not, and what is it doing?"""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Grid
from textual.events import Resize
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static

from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.event_log import EventLog
from esper.karn.sanctum.widgets.hosts_panel import HostsPanel
from esper.karn.sanctum.widgets.master_status import MasterStatus, master_word
from esper.karn.sanctum.widgets.panel import Panel
from esper.karn.sanctum.widgets.policy_panel import PolicyPanel
from esper.karn.sanctum.widgets.run_header import RunHeader
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import ActionHeadsPanel

#: The smallest terminal in which everything essential can be seen.
SMALLEST: tuple[int, int] = (72, 22)


def too_small_sentence(word: str | None, width: int, height: int) -> str:
    """Return what is shown in place of a screen that does not fit."""
    status = f"● {word}. " if word else ""
    return (
        f"{status}Sanctum needs {SMALLEST[0]}×{SMALLEST[1]} cells; "
        f"this terminal has {width}×{height}."
    )


class Seen(Message):
    """The run was looked at; sent to the screen that is to show it."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view


class OverviewScreen(Screen[None]):
    """Shows a run at one glance; knows nothing of it but the view that it is given."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "tab", "app.focus_next", show=False, tooltip="To the next panel, or the one before"
        ),
        Binding(
            "shift+tab",
            "app.focus_previous",
            show=False,
            tooltip="To the next panel, or the one before",
        ),
        Binding("l", "focus_log", "Log", tooltip="Go to the event log"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.view: View | None = None  # the one being shown

    def compose(self) -> ComposeResult:
        """Yield the panels in the order in which the tab key visits them."""
        yield Static(id="too-small", markup=False)
        with Container(id="overview"):
            with Container(id="top"):
                yield MasterStatus(id="master")
                yield RunHeader(id="header")
            yield Static(id="error", markup=False)
            yield ActionHeadsPanel(id="heads")
            with Grid(id="lower"):
                yield PolicyPanel(id="policy")
                yield HostsPanel(id="hosts")
                yield EventLog(id="log")
        yield Footer()

    def on_seen(self, message: Seen) -> None:
        """Show a view."""
        view = message.view
        before, self.view = self.view, view
        with self.app.batch_update():
            if before is None or view.error != before.error:
                error = self.query_one("#error", Static)
                error.update(f"! {view.error}")
                error.set_class(view.error is not None, "-shown")
            self.set_class(bool(view.snapshot.tamiyo.evidence), "-evidence")
            for panel in self.query(Panel):
                panel.show(view)
            self._say_too_small()

    def redraw(self) -> None:
        """Draw every panel again, in the colours of now."""
        for panel in self.query(Panel):
            panel.redraw()

    def on_resize(self, event: Resize) -> None:
        """Choose between the screen and the sentence that it does not fit."""
        width, height = event.size
        self.set_class(width < SMALLEST[0] or height < SMALLEST[1], "-too-small")
        self._say_too_small()

    def _say_too_small(self) -> None:
        if self.has_class("-too-small"):
            word = master_word(self.view) if self.view is not None else None
            self.query_one("#too-small", Static).update(too_small_sentence(word, *self.app.size))

    def action_focus_log(self) -> None:
        """Move the focus to the event log."""
        self.query_one(EventLog).focus()
