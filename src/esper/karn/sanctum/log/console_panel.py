"""The console output of a run: what its process printed, such as a traceback."""

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len, chop_cells
from rich.text import Text

from esper.karn.sanctum.drawing.tail_panel import TailPanel
from esper.karn.sanctum.fold.view import View
from esper.karn.text.palette import Palette


class ConsolePanel(TailPanel):
    """Shows the last lines of the console output, or the lines with a text, and follows them."""

    SHOWS: ClassVar[tuple[str, ...]] = ("console",)
    BORDER_TITLE = "Console output"
    ABOUT = "what the training process printed"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._found: Sequence[str] | None = None  # instead of the last lines

    def find(self, found: Sequence[str] | None) -> None:
        """Show the lines that a search found; None shows the last lines again."""
        if found is not self._found:
            self._found = found
            self.redraw()

    def part(self, view: View) -> object:
        return view.console

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        if not view.console:
            return Text("the run has printed nothing", style=palette.muted, no_wrap=True)
        shown = view.console if self._found is None else self._found
        if not shown:
            return Text("no line of the output has this text", style=palette.muted, no_wrap=True)
        rows = [row for line in shown for row in _wrapped(line.expandtabs(8), width)]
        return Text("\n".join(rows), style=palette.ink, no_wrap=True)


def _wrapped(line: str, width: int) -> list[str]:
    """Return a line wrapped to `width` cells, so that its end is visible too."""
    rows = []
    while cell_len(line) > width:
        fitting = len(chop_cells(line[: width + 1], width)[0])
        blank = line.rfind(" ", 1, fitting + 1)
        end = blank if blank > 0 else fitting
        rows.append(line[:end])
        line = line[end:].removeprefix(" ")
    return [*rows, line]
