"""The line that says which lines are shown, how many have that, and how far was searched."""

from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.log_book import oldest_missing
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.following.log_filter import LogFilter, with_older
from esper.karn.sanctum.following.searching import Result
from esper.karn.sanctum.schema import LogEntry
from esper.karn.text.palette import Palette
from esper.leyline.plurals import counted

_ALL: Final = "all"


class FilterLine(Panel, can_focus=False):
    """Says what is asked for of the log, or of the console output, and how many lines have it."""

    IS_RESTLESS = True

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._asked: LogFilter | str = LogFilter()
        self._result: Result[Any] | None = None

    def say(self, asked: LogFilter | str, result: Result[Any] | None) -> None:
        """Say what is asked for: a filter of the log, or a text in the console output."""
        if (asked, result) != (self._asked, self._result):
            self._asked, self._result = asked, result
            self.redraw()

    def part(self, view: View) -> object:
        return view.snapshot.log, view.console, view.position is None

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:  # noqa: ARG002
        found = () if self._result is None else self._result.lines
        if isinstance(self._asked, str):
            shown = view.console if self._result is None else found
            line = render_console_search(self._asked, len(shown), self._result, width, palette)
            if view.position is not None:  # what was printed when is not known
                line.append("; of now, not of then", palette.muted)
                line.truncate(width, overflow="ellipsis")
            return line
        log = with_older(view.snapshot.log, found)
        return render_filter(self._asked, log, self._result, width, palette)


def render_filter(
    log_filter: LogFilter,
    log: Sequence[LogEntry],
    result: Result[LogEntry] | None,
    width: int,
    palette: Palette,
) -> Text:
    """Return one line: what is asked for, how many lines have it, and where was looked for them.

    Args:
        log_filter: what is asked for.
        log: the lines that are known.
        result: of the search for older ones; None where that was not begun.
        width: in cells.
        palette: the colours to choose from.
    """
    host = None if log_filter.host is None else str(log_filter.host + 1)
    kind = None if log_filter.kind is None else log_filter.kind.replace("_", " ")
    line = Text(no_wrap=True)
    for name, value in (("kind", kind), ("host", host), ("head", log_filter.head)):
        line.append(f"{name} ", palette.muted)
        line.append(value or _ALL, f"bold {palette.accent}" if value else palette.ink).append("  ")
    line.append_text(_text(log_filter.text, palette))
    if not log_filter.asks:
        said = counted(len(log), "line")
        if oldest_missing(log):
            said = f"the last {said}; a filter searches all"
    else:
        said = _counted(sum(map(log_filter.takes, log)), "in the whole run", result)
    line.append(said, palette.muted)
    line.truncate(width, overflow="ellipsis")
    return line


def render_console_search(
    text: str, shown: int, result: Result[str] | None, width: int, palette: Palette
) -> Text:
    """Return one line: which lines of the console output are shown, and how many they are."""
    line = _text(text, palette)
    if not text:
        line.append(f"the last {shown} lines; / searches the whole output", palette.muted)
    else:
        line.append(_counted(shown, "in the whole output", result), palette.muted)
    line.truncate(width, overflow="ellipsis")
    return line


def _text(text: str, palette: Palette) -> Text:
    line = Text(no_wrap=True)
    if text:
        line.append("text ", palette.muted).append(f"{text!r}  ", f"bold {palette.accent}")
    return line


def _counted(lines: int, everywhere: str, result: Result[object] | None) -> str:
    found = counted(lines, "line")
    if result is None or result.is_whole:
        return f"{found} {everywhere}"
    if result.error is not None:
        return f"{found}; the search ended: {result.error}"
    if result.is_over:
        return f"{found}, the newest that have it: {result.reached}"
    return f"{found}, searching … {result.reached}"
