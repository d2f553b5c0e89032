"""The line above the log that says what of it is shown."""

from rich.text import Text

from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.log_filter import LogFilter, render_filter
from esper.karn.sanctum.widgets.palette import Palette
from esper.karn.sanctum.widgets.panel import Panel


class FilterLine(Panel, can_focus=False):
    """Shows what is asked for, and how many lines of the log have it."""

    IS_RESTLESS = True

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._filter = LogFilter()

    def choose(self, log_filter: LogFilter) -> None:
        """Say that something else is asked for."""
        if log_filter != self._filter:
            self._filter = log_filter
            self.redraw()

    def part(self, view: View) -> object:
        return view.snapshot.log

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:  # noqa: ARG002
        return render_filter(self._filter, view.snapshot.log, width, palette)
