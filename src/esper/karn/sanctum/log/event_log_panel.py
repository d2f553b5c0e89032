"""The panel of the event log: what happened, oldest first; latches stand out."""

import textwrap
from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType

from esper.karn.sanctum.drawing.tail_panel import TailPanel
from esper.karn.sanctum.fold.log_book import with_details
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.following.log_filter import LogFilter, with_older
from esper.karn.sanctum.schema import LogEntry, SanctumSnapshot
from esper.karn.text.light_signs import LIT
from esper.karn.text.local_time import day_of
from esper.karn.text.palette import DARK, Palette

_SIGNS: Final = {"latch": LIT, "error": "✗", "warning": "!"}
_SIGN_WIDTH: Final = 2
_UNBROKEN: Final = "\N{NO-BREAK SPACE}"
#: The key that a hint names; screens with a log have it too, for when another panel is focused.
DETAILS: Final = Binding(
    "v", "details", "Details", show=False, tooltip="Show or hide the details of bad updates"
)
_NARROW: Final = 60  # cells; with fewer, times have no seconds


def render_log(snapshot: SanctumSnapshot, width: int, now: float, palette: Palette = DARK) -> Text:
    """Return the log in `width` cells and local time; long entries wrap, indented.

    Args:
        snapshot: the state of the run.
        width: in cells.
        now: seconds since the epoch; entries of other days show their date.
        palette: the colours to choose from.
    """
    if not snapshot.log:
        return Text("no events yet", style=palette.muted, no_wrap=True)
    today = day_of(now)
    lines = [
        line
        for entry, details in with_details(snapshot.log)
        for line in render_entry(entry, width, today, palette, details=details)
    ]
    return Text("\n", no_wrap=True).join(lines)


def render_entry(
    entry: LogEntry, width: int, today: date, palette: Palette = DARK, *, details: int = 0
) -> list[Text]:
    """Return the lines of one entry, with its date unless that is today.

    Args:
        entry: the entry.
        width: in cells.
        today: the date that is not shown.
        palette: the colours to choose from.
        details: how many detail lines are hidden.
    """
    style = {
        "latch": f"bold {palette.critical}",
        "error": palette.critical,
        "warning": palette.warning,
    }.get(entry.level, palette.ink)
    moment = datetime.fromtimestamp(entry.time)
    clock = moment.strftime("%H:%M " if width < _NARROW else "%H:%M:%S ")
    if moment.date() != today:
        clock = moment.strftime("%m-%d ") + clock
    sign = _SIGNS.get(entry.level, "").ljust(_SIGN_WIDTH)
    indent = len(clock) + len(sign)
    hint = f" (+{details} more: v)" if details else ""
    wrapped = _wrapped(entry.text + hint[:1] + hint[1:].replace(" ", _UNBROKEN), width - indent)
    wrapped = [line.replace(_UNBROKEN, " ") for line in wrapped] if hint else wrapped
    first = Text(no_wrap=True).append(clock, palette.muted).append(sign + wrapped[0], style)
    rest = [Text(no_wrap=True).append(" " * indent + more, style) for more in wrapped[1:]]
    return [first, *rest]


def _wrapped(text: str, width: int) -> list[str]:
    width = max(8, width)
    if len(text) <= width and text.isprintable() and not text.endswith(" "):
        return [text]  # most lines fit, and wrapping hundreds of them is slow
    return textwrap.wrap(text, width) or [""]


class EventLogPanel(TailPanel):
    """Shows the event log through a filter, and follows it."""

    SHOWS: ClassVar[tuple[str, ...]] = ("log",)
    BORDER_TITLE = "Log"
    ABOUT = "what happened, the newest last"
    BINDINGS: ClassVar[list[BindingType]] = [DETAILS]

    def __init__(self, *, without: Collection[str] = (), id: str | None = None) -> None:
        """Leave out events of the kinds in `without`."""
        super().__init__(id=id)
        self._without = without
        self._filter = LogFilter()
        self._found: Sequence[LogEntry] = ()  # older lines, from the store
        self._has_details = False  # whether all lines of a bad update are shown
        # By identity: comparing a thousand entries takes longer than drawing the new ones.
        self._drawn: dict[int, tuple[LogEntry, int, list[Text]]] = {}
        self._drawn_for: tuple[int, Palette, date] | None = None

    def choose(self, log_filter: LogFilter) -> None:
        """Show the log through another filter."""
        if log_filter != self._filter:
            self._filter = log_filter
            self.redraw()

    def find(self, found: Sequence[LogEntry]) -> None:
        """Show also older lines found in the store; the visible lines stay visible."""
        if found is self._found:
            return
        self._found = found
        before = len(self._lines)
        self.redraw()
        if not self.follows:
            self.scroll_to(y=self.scroll_y + len(self._lines) - before, animate=False)

    def part(self, view: View) -> object:
        return view.snapshot.log, day_of(view.now)

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_log(view.snapshot, width, view.now, palette)

    def lines(self, view: View, width: int, height: int, palette: Palette) -> list[Text]:
        """Return the same lines as `draw`; only lines of new entries are built again."""
        if not view.snapshot.log:
            return super().lines(view, width, height, palette)
        today = day_of(view.now)
        if self._drawn_for != (width, palette, today):
            self._drawn, self._drawn_for = {}, (width, palette, today)
        before = self._drawn
        taken = [
            entry
            for entry in with_older(view.snapshot.log, self._found)
            if self._filter.matches(entry) and entry.kind not in self._without
        ]
        # Filtered lines are shown with their details.
        is_whole = self._has_details or self._filter.is_set
        self._drawn = {}
        for entry, details in [(one, 0) for one in taken] if is_whole else with_details(taken):
            drawn = before.get(id(entry))
            if drawn is None or drawn[1] != details:
                made = render_entry(entry, width, today, palette, details=details)
                drawn = entry, details, made
            self._drawn[id(entry)] = drawn
        if not self._drawn:
            empty = "no line matches the filter" if self._filter.is_set else "only seeds so far"
            return [Text(empty, style=palette.muted, no_wrap=True)]
        return [line for _, _, lines in self._drawn.values() for line in lines]

    def action_details(self) -> None:
        """Show all lines of bad updates, or only the first of each."""
        self._has_details = not self._has_details
        self.redraw()
