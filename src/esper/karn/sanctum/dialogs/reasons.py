"""A dialog with every reason for the master status."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from esper.karn.sanctum.drawing.themes import palette_of
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.banner import badge, reasons
from esper.leyline.text.plain_text import printable


class ReasonsDialog(ModalScreen[None]):
    """Shows the reasons at the time it is opened, the most serious first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,w,enter,ctrl+c", "dismiss", "Close", tooltip="Close the reasons"),
    ]

    def __init__(self, view: View) -> None:
        super().__init__()
        self._shown = view

    def compose(self) -> ComposeResult:
        """Yield the word and a line for each reason; it scrolls where it does not fit."""
        palette = palette_of(self.app.theme)
        with VerticalScroll(id="dialog"):
            yield Static(badge(self._shown, palette), id="question")
            for one in reasons(self._shown):
                yield Static(Text(printable(f"• {one}"), style=palette.ink))
            yield Static(Text("\nesc closes", style=palette.muted))
