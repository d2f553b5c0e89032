"""Panel with the funnel of the listed runs: how many lit, and which light first, by a setting."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text

from esper.karn.reports.run_folder.funnel import Funnel, funnel_of, varied_settings
from esper.karn.reports.run_folder.funnel_lines import funnel_lines
from esper.karn.reports.run_folder.run_summary import RunSummary
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.text.palette import Palette


class FunnelPanel(Panel):
    """Shows the funnel of runs grouped by one setting after another, then as one group."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "tamiyo.head_inf_latch",
        "tamiyo.head_nan_latch",
        "tamiyo.group_inf_latch",
        "tamiyo.group_nan_latch",
        "training.stalled_latch",
    )
    BORDER_TITLE = "Funnel"
    ABOUT = "which light came on first in the listed runs"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._settings: list[str | None] = []  # that it goes through; None for one group
        self._place = 0
        self._runs: Sequence[RunSummary] = ()
        self._funnel: Funnel | None = None

    def open(self, runs: Sequence[RunSummary]) -> None:
        """Show the funnel of runs by the first of their settings."""
        self._settings, self._place = [*varied_settings(runs), None], 0
        self._runs = ()
        self.list_runs(runs)

    def turn(self) -> bool:
        """Group by the next setting; return whether there is one."""
        self._place += 1
        if self._place >= len(self._settings):
            return False
        runs, self._runs = self._runs, ()
        self.list_runs(runs)
        return True

    def list_runs(self, runs: Sequence[RunSummary]) -> None:
        """Show the funnel of other runs, by the same setting."""
        if runs is self._runs:
            return
        self._runs = runs
        funnel = funnel_of(runs, self._settings[self._place])
        if funnel == self._funnel:
            return
        self._funnel = funnel
        is_last = self._place == len(self._settings) - 1
        self.note("f closes" if is_last else "f groups by another setting, esc closes")
        self.redraw()

    def part(self, view: View) -> object:  # it depends on the list of runs only
        return None

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        if self._funnel is None:
            return Text()
        return Text("\n", no_wrap=True).join(funnel_lines(self._funnel, palette, width))
