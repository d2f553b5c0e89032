"""The Hosts screen: a list of hosts, and curves, growth and network of the chosen one."""

from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Grid

from esper.karn.sanctum.drawing.choice_panel import ChoicePanel
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.run_screen import RunScreen
from esper.karn.sanctum.hosts.host_list_panel import HostListPanel
from esper.karn.sanctum.hosts.host_panels import (
    CurvesPanel,
    HostPanel,
    NetworkPanel,
    TimelinePanel,
)


class HostsScreen(RunScreen):
    """Shows all hosts in a list, and details of the chosen one."""

    CSS_PATH = str(Path(__file__).with_suffix(".tcss"))

    def panels(self) -> ComposeResult:
        """Yield the list, and the panels of the chosen host."""
        with Grid(id="hosts-grid"):
            yield HostListPanel(id="host-list")
            yield CurvesPanel(id="curves")
            yield TimelinePanel(id="timeline")
            yield NetworkPanel(id="network")

    def show(self, view: View) -> None:
        """Show a view, with the chosen host."""
        super().show(view)
        self._follow()

    def on_choice_panel_chosen(self, message: ChoicePanel.Chosen) -> None:
        """Show another host."""
        message.stop()
        self._follow()

    def _follow(self) -> None:
        chosen = self.query_one(HostListPanel).chosen
        for panel in self.query(HostPanel):
            panel.choose(chosen)
