"""The Overview: the whole run on one screen, from its master status to its log.

A run of Esper's own agent has panels for heads, policy and hosts. A watched run, which has no
hosts, has panels for its lights, its last incident and what its training loop logged.
"""

from collections.abc import Iterable
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Grid
from textual.events import Resize
from textual.widget import Widget

from esper.karn.sanctum.fold.log_book import SEEDS
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.run_header import RunHeader
from esper.karn.sanctum.frame.run_screen import RunScreen
from esper.karn.sanctum.log.event_log_panel import DETAILS, EventLogPanel
from esper.karn.sanctum.overview.hosts_panel import HostsPanel
from esper.karn.sanctum.overview.last_incident_panel import (
    LastIncidentPanel,
    render_last_incident,
)
from esper.karn.sanctum.overview.lights_panel import LightsPanel, render_lights
from esper.karn.sanctum.overview.logged_panel import LoggedPanel
from esper.karn.sanctum.overview.master_status import MasterStatus
from esper.karn.sanctum.overview.policy_panel import PolicyPanel
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import ActionHeadsPanel

#: Lines around the panels of a watched run: status, header, time bar and keys.
_FRAME: Final = 6
_BORDER: Final = 1


class OverviewScreen(RunScreen):
    """Shows the whole run on one screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "focus_log", show=False, tooltip="Go to the event log"),
        DETAILS,
    ]

    def __init__(self) -> None:
        super().__init__()
        self._shared_for: object = None  # what the heights of the panels were chosen for

    def top(self) -> Iterable[Widget]:
        """Return the master status in large letters, and the whole header."""
        return [Container(MasterStatus(id="master"), RunHeader(id="header"), id="top")]

    def panels(self) -> ComposeResult:
        """Yield the panels of the first screen."""
        yield ActionHeadsPanel(id="heads")
        with Grid(id="lower"):
            yield PolicyPanel(id="policy")
            yield HostsPanel(id="hosts")
            # Seeds have dozens of lines per second, which would push out all others.
            yield EventLogPanel(without=[SEEDS], id="log")
        with Container(id="watched"):
            yield LightsPanel(id="lights")
            yield LastIncidentPanel(id="last-incident")
            yield LoggedPanel(id="logged")
            yield EventLogPanel(id="watched-log")

    def show(self, view: View) -> None:
        """Show a view, and give the panels of a watched run the lines that they need."""
        was_watched = self.has_class("-watched")
        super().show(view)
        if view.is_of_script:
            self._share_lines(view)
        if self.has_class("-watched") != was_watched:
            self.call_after_refresh(self._focus_lights)

    def _focus_lights(self) -> None:
        """Move the focus to the panel with the lights: the one that had it may be hidden now."""
        self.query_one("#lights" if self.has_class("-watched") else "#heads").focus()

    def on_resize(self, event: Resize) -> None:
        """Share the lines among the panels of a watched run again."""
        super().on_resize(event)
        if self.view is not None and self.view.is_of_script:
            self._share_lines(self.view)

    def _share_lines(self, view: View) -> None:
        """Set the heights of lights and incident by their content; the figures get the rest."""
        lights_panel = self.query_one(LightsPanel)
        shared_for = lights_panel.part(view), view.snapshot.incidents, self.size
        if shared_for == self._shared_for:
            return
        self._shared_for = shared_for
        width, height = self.size.width - 3, self.size.height - _FRAME
        lights = len(render_lights(view, width, max(1, height // 4)))
        incident = len(render_last_incident(view.snapshot, width))
        incident = min(incident, max(3, height // 2 - lights))
        lights_panel.styles.height = lights + _BORDER
        self.query_one("#last-incident").styles.height = incident + _BORDER
        self.query_one("#last-incident").display = incident > 0
        self.query_one("#watched-log").styles.height = max(2, height // 6) + _BORDER

    def action_focus_log(self) -> None:
        """Move the focus to the event log."""
        self._log.focus()

    def action_details(self) -> None:
        """Show all lines of bad updates in the log, or only the first of each."""
        self._log.action_details()

    @property
    def _log(self) -> EventLogPanel:
        """The event log that is shown."""
        shown = "#watched-log" if self.has_class("-watched") else "#log"
        return self.query_one(shown, EventLogPanel)
