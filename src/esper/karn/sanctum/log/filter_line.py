"""The line above the log: the filter, how many lines match, and how far the search has come."""

from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.log_book import oldest_missing
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.following.log_filter import (
    FILTER_FIELDS,
    FilterField,
    LogFilter,
    with_older,
)
from esper.karn.sanctum.following.searching import SearchResult
from esper.karn.sanctum.schema import LogEntry
from esper.karn.text.palette import Palette
from esper.leyline.text.plurals import counted

_ALL: Final = "all"


class FilterLine(Panel, can_focus=False):
    """Shows the filter of the log, or the text searched for in the console output."""

    IS_RESTLESS = True

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._wanted: LogFilter | str = LogFilter()
        self._result: SearchResult[Any] | None = None

    def describe(self, wanted: LogFilter | str, result: SearchResult[Any] | None) -> None:
        """Show another filter of the log, or text in the console output, and its search."""
        if (wanted, result) != (self._wanted, self._result):
            self._wanted, self._result = wanted, result
            self.redraw()

    def part(self, view: View) -> object:
        snapshot = view.snapshot
        return snapshot.log, snapshot.run.is_watched, view.console, view.position is None

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        found = () if self._result is None else self._result.lines
        if isinstance(self._wanted, str):
            shown = view.console if self._result is None else found
            line = render_console_search(self._wanted, len(shown), self._result, width, palette)
            if view.position is not None:  # the console output has no times
                line.append("; as of now, not of the past", palette.muted)
                line.truncate(width, overflow="ellipsis")
            return line
        log = with_older(view.snapshot.log, found)
        is_watched = view.snapshot.run.is_watched
        return render_filter(
            self._wanted, log, self._result, width, palette, has_hosts=not is_watched
        )


def render_filter(
    log_filter: LogFilter,
    log: Sequence[LogEntry],
    result: SearchResult[LogEntry] | None,
    width: int,
    palette: Palette,
    *,
    has_hosts: bool = True,
) -> Text:
    """Return one line: the filter, the number of matching lines, and how far back was searched.

    Where the line is too narrow, fields without a value are left out, from the last.

    Args:
        log_filter: the filter.
        log: the lines known so far.
        result: of the search for older lines; None if none was started.
        width: in cells.
        palette: the colours to choose from.
        has_hosts: whether the run has hosts, by which lines may be chosen.
    """
    end = _text(log_filter.text, palette)
    if log_filter.is_set:
        lines = _counted(sum(map(log_filter.matches, log)), "in the whole run", result)
    else:
        lines = counted(len(log), "line")
        if oldest_missing(log):
            lines = f"the last {lines}; a filter searches all"
    end.append(lines, palette.muted)
    parts = {
        field.name: _field(field, getattr(log_filter, field.name), palette)
        for field in FILTER_FIELDS
        if has_hosts or field.name != "host"
    }
    unset = [name for name in parts if getattr(log_filter, name) is None]
    while unset and end.cell_len + sum(part.cell_len for part in parts.values()) > width:
        del parts[unset.pop()]
    line = Text(no_wrap=True).join((*parts.values(), end))
    line.truncate(width, overflow="ellipsis")
    return line


def render_console_search(
    text: str, shown: int, result: SearchResult[str] | None, width: int, palette: Palette
) -> Text:
    """Return one line: the text searched for in the console output, and the lines shown."""
    line = _text(text, palette)
    if not text:
        line.append(f"the last {shown} lines; / searches the whole output", palette.muted)
    else:
        line.append(_counted(shown, "in the whole output", result), palette.muted)
    line.truncate(width, overflow="ellipsis")
    return line


def _field(field: FilterField, value: object, palette: Palette) -> Text:
    line = Text(no_wrap=True).append(f"{field.name} ", palette.muted)
    if value is None:
        line.append(_ALL, palette.ink)
    else:
        line.append(field.written(value), f"bold {palette.accent}")
    return line.append("  ")


def _text(text: str, palette: Palette) -> Text:
    line = Text(no_wrap=True)
    if text:
        line.append("text ", palette.muted).append(f"{text!r}  ", f"bold {palette.accent}")
    return line


def _counted(lines: int, everywhere: str, result: SearchResult[object] | None) -> str:
    found = counted(lines, "line")
    if result is None or result.is_whole:
        return f"{found} {everywhere}"
    if result.error is not None:
        return f"{found}; the search stopped: {result.error}"
    if result.is_over:
        return f"the newest {found}: searched {result.reached}"
    return f"{found}, searching … {result.reached}"
