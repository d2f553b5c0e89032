"""The Overview: master status, heads, policy, hosts and log of a run."""

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Grid
from textual.widget import Widget

from esper.karn.sanctum.fold.log_book import SEEDS
from esper.karn.sanctum.frame.run_header import RunHeader
from esper.karn.sanctum.frame.run_screen import RunScreen
from esper.karn.sanctum.log.event_log_panel import EventLogPanel
from esper.karn.sanctum.overview.hosts_panel import HostsPanel
from esper.karn.sanctum.overview.master_status import MasterStatus
from esper.karn.sanctum.overview.policy_panel import PolicyPanel
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import ActionHeadsPanel


class OverviewScreen(RunScreen):
    """Shows the whole run on one screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "focus_log", show=False, tooltip="Go to the event log"),
    ]

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

    def action_focus_log(self) -> None:
        """Move the focus to the event log."""
        self.query_one(EventLogPanel).focus()
