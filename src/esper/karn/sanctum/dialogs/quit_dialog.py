"""The dialog on leaving while training runs: detach, stop or stay."""

from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from esper.karn.sanctum.dialogs.trainer import Outcome

#: What the answer "stop" does.
_OF_AGENTS: Final = "ends it after the current update; it can be resumed."
_OF_SCRIPTS: Final = "interrupts the script, as Ctrl-C in its terminal would."


class QuitDialog(ModalScreen[Outcome | None]):
    """Returns "detach", "stop", or None to stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "answer('detach')", "Detach", tooltip="Leave; training keeps running"),
        Binding("s", "answer('stop')", "Stop", tooltip="Leave, and stop training"),
        # Pressing it twice must leave Sanctum without stopping training.
        Binding("ctrl+c", "answer('detach')", show=False, tooltip="Leave; training keeps running"),
        Binding("escape,q", "stay", "Stay", tooltip="Stay in Sanctum"),
        Binding("left", "app.focus_previous", show=False, tooltip="Focus the button on the left"),
        Binding("right", "app.focus_next", show=False, tooltip="Focus the button on the right"),
    ]

    def __init__(self, pid: int, *, is_script: bool = False) -> None:
        super().__init__()
        self._pid = pid
        self._stop = _OF_SCRIPTS if is_script else _OF_AGENTS

    def compose(self) -> ComposeResult:
        """Yield the question, the meaning of each answer, and a button for each."""
        with Vertical(id="dialog"):
            yield Static(f"Training is still running, in process {self._pid}.", id="question")
            yield Static(
                "Detach  keeps it running; `sanctum` shows it again. Ctrl-C does the same.\n"
                f"Stop    {self._stop}\n"
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
