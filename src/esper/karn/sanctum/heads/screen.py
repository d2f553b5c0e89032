"""The Heads screen: the evidence of every light, each head's history, and the incidents."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Input

from esper.karn.sanctum.drawing.choice_panel import ChoicePanel
from esper.karn.sanctum.fold.attention import Light
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.run_screen import RunScreen
from esper.karn.sanctum.heads.evidence_panel import EvidencePanel
from esper.karn.sanctum.heads.head_history_panel import HeadHistoryPanel
from esper.karn.sanctum.heads.incident_panel import IncidentPanel
from esper.karn.sanctum.heads.incident_view import incidents_of
from esper.karn.sanctum.heads.shared_line import SharedLine
from esper.karn.sanctum.schema import IncidentState

_ACKNOWLEDGE: Final = "Acknowledge the light of the chosen row"
_TURN: Final = "Previous or next incident of the chosen row"


class HeadsScreen(RunScreen):
    """Shows the evidence per head, and the history or the incident of the chosen row."""

    CSS_PATH = str(Path(__file__).with_suffix(".tcss"))
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "app.acknowledge", "Ack", tooltip=_ACKNOWLEDGE),
        Binding("r", "replay", "Replay", tooltip="Repeat the update of the row's incident"),
        Binding("left", "turn(-1)", show=False, tooltip=_TURN),
        Binding("right", "turn(1)", show=False, tooltip=_TURN),
        Binding("slash", "search", "Search", tooltip="Show the heads and groups with a text"),
        Binding(
            "escape", "close_incident", show=False, tooltip="Close the incident, or the search"
        ),
    ]
    AUTO_FOCUS = "#evidence"

    def __init__(self) -> None:
        super().__init__()
        self._turned = 0  # which of the chosen row's incidents is shown
        self._incident: IncidentState | None = None  # the one that is shown

    def panels(self) -> ComposeResult:
        """Yield the list, and the history and incident of its chosen row."""
        yield SharedLine(id="shared")
        yield EvidencePanel(id="evidence")
        yield Input(id="heads-search", placeholder="text to search for", compact=True)
        with Container(id="detail"):
            yield HeadHistoryPanel(id="history")
            yield IncidentPanel(id="incident")

    def show(self, view: View) -> None:
        """Show a view, with the history and the incident of the chosen row."""
        super().show(view)
        self._follow()

    def on_choice_panel_chosen(self, message: ChoicePanel.Chosen) -> None:
        """Show the history and the incident of another row."""
        message.stop()
        self._turned = 0
        self._follow()

    def on_screen_suspend(self) -> None:
        """Stop a running replay when the screen is left."""
        self.query_one(IncidentPanel).stop()

    def action_open_incident(self) -> None:
        """Show the incident of the chosen row."""
        self.add_class("-incident")
        self._follow()

    def action_turn(self, by: int) -> None:
        """Show another incident of the chosen row."""
        self._turned += by
        self._follow()

    def action_close_incident(self) -> None:
        """Return to the history of the chosen row's head."""
        if self.maximized is not None:
            self.minimize()
            return
        if self.has_class("-typing"):
            self.query_one(EvidencePanel).search("")
            self._close_search()
            return
        if not self.has_class("-incident"):
            self.query_one(EvidencePanel).search("")
        self.query_one(IncidentPanel).stop()
        self.remove_class("-incident")
        self.query_one(EvidencePanel).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the search for a watched run, and a replay where there may be a capsule."""
        is_watched = self.view is not None and self.view.snapshot.run.is_watched
        if action == "search":
            return is_watched
        if action == "replay" and is_watched:
            return self._incident is not None and self._incident.can_be_repeated
        return super().check_action(action, parameters)

    def action_search(self) -> None:
        """Type a text that the rows must have."""
        self.add_class("-typing")
        field = self.query_one(Input)
        field.value = ""
        field.focus()

    def on_input_changed(self, message: Input.Changed) -> None:
        """Search for the text typed so far."""
        if self.has_class("-typing"):
            self.query_one(EvidencePanel).search(message.value)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Keep the search."""
        message.stop()
        self._close_search()

    def _close_search(self) -> None:
        self.remove_class("-typing")
        self.query_one(EvidencePanel).focus()

    def action_replay(self) -> None:
        """Replay the incident of the chosen row, and show the result."""
        self.action_open_incident()
        self.query_one(IncidentPanel).replay()

    def chosen_light(self) -> Light | None:
        """Return the light of the chosen row."""
        if self.view is None:
            return None
        row = self.query_one(EvidencePanel).chosen_row(self.view)
        return None if row is None else row.light

    def _follow(self) -> None:
        if self.view is None:
            return
        evidence = self.query_one(EvidencePanel)
        # Rows, heading and border; the charts take the rest of the height.
        evidence.styles.max_height = len(evidence.keys(self.view)) + 2
        row = evidence.chosen_row(self.view)
        history = self.query_one(HeadHistoryPanel)
        history.choose(row.head if row else None, row.key if row and row.evidence else None)
        if row is None or row.evidence is None:
            nothing = "no Inf or NaN was seen in this head, so it has no incident"
            if row is not None and row.stalled:
                nothing = "training that stands still makes no Inf or NaN, so it has no incident"
            self._choose_incident([], nothing)
        else:
            found = incidents_of(row.evidence, self.view.snapshot.incidents)
            self._choose_incident(found, "no incident was recorded for this row")

    def _choose_incident(self, found: Sequence[IncidentState], nothing: str) -> None:
        """Show one of the incidents that were found, or why there is none."""
        panel, before = self.query_one(IncidentPanel), self._incident
        at = self._turned % len(found) if found else 0
        self._incident = found[at] if found else None
        panel.note(f"{at + 1} of {len(found)}, ← →" if len(found) > 1 else "")
        panel.choose(self._incident, "" if found else nothing)
        if self._incident != before:
            self.refresh_bindings()
