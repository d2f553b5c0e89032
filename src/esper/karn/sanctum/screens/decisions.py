"""The Decisions screen: what Tamiyo chose for each host, how surely, and out of what."""

from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Container

from esper.karn.sanctum.screens.run_screen import RunScreen
from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.choice_panel import ChoicePanel
from esper.karn.sanctum.widgets.decision_panels import DecisionListPanel, DecisionPanel


class DecisionsScreen(RunScreen):
    """Shows the last decision of every host, and the chosen one's whole."""

    CSS_PATH = str(Path(__file__).with_suffix(".tcss"))

    def panels(self) -> ComposeResult:
        """Yield the list of hosts, and the decision of the one that is chosen in it."""
        with Container(id="decisions-pair"):
            yield DecisionListPanel(id="decisions")
            yield DecisionPanel(id="decision")

    def show(self, view: View) -> None:
        """Show a view, with the decision of the host that is chosen."""
        super().show(view)
        self._follow()

    def on_choice_panel_chosen(self, message: ChoicePanel.Chosen) -> None:
        """Show another host's decision."""
        message.stop()
        self._follow()

    def _follow(self) -> None:
        self.query_one(DecisionPanel).choose(self.query_one(DecisionListPanel).chosen)
