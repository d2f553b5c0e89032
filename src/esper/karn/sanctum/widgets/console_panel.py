"""The console output of a run: what its process printed, and why it died if it did not say so."""

import textwrap
from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len, chop_cells
from rich.text import Text

from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.following_panel import FollowingPanel
from esper.karn.sanctum.widgets.palette import Palette


class ConsolePanel(FollowingPanel):
    """Shows the last lines of the console output, or those with a text, and follows them."""

    SHOWS: ClassVar[tuple[str, ...]] = ("console",)
    BORDER_TITLE = "Console output"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._found: Sequence[str] | None = None  # instead of the last lines

    def find(self, found: Sequence[str] | None) -> None:
        """Show the lines that a search found, or with None the last ones again."""
        if found is not self._found:
            self._found = found
            self.redraw()

    def part(self, view: View) -> object:
        return view.console

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:  # noqa: ARG002
        if not view.console:
            return Text("the run has printed nothing", style=palette.muted, no_wrap=True)
        shown = view.console if self._found is None else self._found
        if not shown:
            return Text("no line of the output has that", style=palette.muted, no_wrap=True)
        rows = [row for line in shown for row in _wrapped(line.expandtabs(8), width)]
        return Text("\n".join(rows), style=palette.ink, no_wrap=True)


def _wrapped(line: str, width: int) -> list[str]:
    """Return a line that goes on below where it is too long: its end may be what it says."""
    if cell_len(line) <= width:
        return [line]
    rows = textwrap.wrap(line, width, drop_whitespace=False, break_on_hyphens=False)
    # Of wide signs fewer fit than `textwrap` counts.
    return [part for row in rows for part in chop_cells(row.removesuffix(" "), width) or [""]]
