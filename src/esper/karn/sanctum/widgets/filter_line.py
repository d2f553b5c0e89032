"""The line that says which lines are shown, how many have that, and how far was searched."""

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from esper.karn.sanctum.log_book import LOG_LINES_KEPT, oldest_missing
from esper.karn.sanctum.log_filter import LogFilter
from esper.karn.sanctum.schema import LogEntry
from esper.karn.sanctum.searching import Result
from esper.karn.sanctum.widgets.palette import Palette

_ALL: Final = "all"


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
    line = Text(no_wrap=True)
    for name, value in (("kind", log_filter.kind), ("host", host), ("head", log_filter.head)):
        line.append(f"{name} ", palette.muted)
        line.append(value or _ALL, f"bold {palette.accent}" if value else palette.ink).append("  ")
    line.append_text(_text(log_filter.text, palette))
    if not log_filter.asks:
        said = f"{len(log)} lines"
        if oldest_missing(log):
            said += f" ({LOG_LINES_KEPT} of a kind); a filter searches all"
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
    counted = "1 line" if lines == 1 else f"{lines} lines"
    if result is None or result.is_whole:
        return f"{counted} {everywhere}"
    if result.error is not None:
        return f"{counted}; the search ended: {result.error}"
    if result.is_over:
        return f"{counted}, the newest that have it: {result.reached}"
    return f"{counted}, searching … {result.reached}"
