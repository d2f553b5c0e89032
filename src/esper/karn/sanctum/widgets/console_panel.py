"""The console output of a run: what its process printed, and why it died if it did not say so."""

from rich.text import Text

from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.following_panel import FollowingPanel
from esper.karn.sanctum.widgets.palette import Palette


class ConsolePanel(FollowingPanel):
    """Shows the last lines of the console output, and follows it."""

    BORDER_TITLE = "Console output"

    def part(self, view: View) -> object:
        return view.console

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:  # noqa: ARG002
        if not view.console:
            return Text("the run has printed nothing", style=palette.muted, no_wrap=True)
        lines = [Text(line, style=palette.ink, no_wrap=True) for line in view.console]
        for line in lines:
            line.expand_tabs(8)
            line.truncate(width, overflow="ellipsis")
        return Text("\n", no_wrap=True).join(lines)
