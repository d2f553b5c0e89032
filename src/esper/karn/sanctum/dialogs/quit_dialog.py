"""The dialog on leaving while training runs: detach, stop or stay."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from esper.karn.sanctum.dialogs.trainer import Outcome


class QuitDialog(ModalScreen[Outcome | None]):
    """Returns "detach", "stop", or None to stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "answer('detach')", "Detach", tooltip="Leave; training keeps running"),
        Binding("s", "answer('stop')", "Stop", tooltip="Leave; training stops after this update"),
        # Pressing it twice must leave Sanctum without stopping training.
        Binding("ctrl+c", "answer('detach')", show=False, tooltip="Leave; training keeps running"),
        Binding("escape,q", "stay", "Stay", tooltip="Stay in Sanctum"),
        Binding("left", "app.focus_previous", show=False, tooltip="Focus the button on the left"),
        Binding("right", "app.focus_next", show=False, tooltip="Focus the button on the right"),
    ]

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid

    def compose(self) -> ComposeResult:
        """Yield the question, the meaning of each answer, and a button for each."""
        with Vertical(id="dialog"):
            yield Static(f"Training is still running, in process {self._pid}.", id="question")
            yield Static(
                "Detach  keeps it running; `sanctum` shows it again. Ctrl-C does the same.\n"
                "Stop    ends it after the current update; it can be resumed.\n"
                "Stay    returns to the cockpit.",
                id="answers",
                markup=False,
            )
            with Horizontal(id="buttons"):
                yield Button("Detach", id="detach", variant="primary", compact=True)
                yield Button("Stop", id="stop", compact=True)
                yield Button("Stay", id="stay", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answer with the button's meaning."""
        answers: dict[str | None, Outcome] = {"detach": "detach", "stop": "stop"}
        self.dismiss(answers.get(event.button.id))

    def action_answer(self, outcome: Outcome) -> None:
        """Return an answer."""
        self.dismiss(outcome)

    def action_stay(self) -> None:
        """Return to the cockpit."""
        self.dismiss(None)
