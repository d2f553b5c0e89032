"""The run in a few lines, for terminals too small for a screen."""

from rich.text import Text

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.run_times import elapsed_seconds, remaining_seconds
from esper.karn.sanctum.frame.status_line import render_small
from esper.karn.text.figures import duration, span_text
from esper.karn.text.palette import Palette


class SmallPanel(Panel, can_focus=False):
    """Shows the run in as many lines as there are, at least one."""

    IS_RESTLESS = True

    def part(self, view: View) -> object:
        left = remaining_seconds(view)
        times = duration(elapsed_seconds(view)), None if left is None else span_text(left)
        return view.snapshot, view.verdict, view.status.kind, view.doubt, times

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_small(view, width, height, palette)
