"""Asked before leaving while training goes on: detach, stop, or stay?"""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from esper.karn.sanctum.dialogs.trainer import Outcome


class QuitDialog(ModalScreen[Outcome | None]):
    """Returns "detach" or "stop", or None to stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "answer('detach')", "Detach", tooltip="Leave, and let training go on"),
        Binding(
            "s", "answer('stop')", "Stop", tooltip="Leave, and end training at the next update"
        ),
        # Whoever presses it twice wants to be gone, and never to lose a training run by that.
        Binding("ctrl+c", "answer('detach')", show=False, tooltip="Leave, and let training go on"),
        Binding("escape,q", "stay", "Stay", tooltip="Do not leave"),
        Binding("left", "app.focus_previous", show=False, tooltip="To the button on the left"),
        Binding("right", "app.focus_next", show=False, tooltip="To the button on the right"),
    ]

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid

    def compose(self) -> ComposeResult:
        """Yield the question, what each answer means, and a button for each."""
        with Vertical(id="dialog"):
            yield Static(f"Training is still going on, in process {self._pid}.", id="question")
            yield Static(
                "Detach  leaves it running; `sanctum` shows it again. So does Ctrl-C.\n"
                "Stop    ends it at the next update; it can be resumed.\n"
                "Stay    goes back to the cockpit.",
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
        """Leave with an answer."""
        self.dismiss(outcome)

    def action_stay(self) -> None:
        """Go back to the cockpit."""
        self.dismiss(None)
