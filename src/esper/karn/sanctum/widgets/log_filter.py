"""Which lines of the log are shown: those of a kind, about a host or a head, or with a text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from rich.text import Text

from esper.karn.sanctum.log_book import LOG_LINES_KEPT, is_full
from esper.karn.sanctum.schema import LogEntry
from esper.karn.sanctum.widgets.palette import Palette

_ALL: Final = "all"


@dataclass(frozen=True)
class LogFilter:
    """What a line must have to be shown; None or an empty text asks for nothing."""

    kind: str | None = None
    host: int | None = None
    head: str | None = None
    text: str = ""

    def takes(self, entry: LogEntry) -> bool:
        """Return whether a line is shown."""
        return (
            (self.kind is None or entry.kind == self.kind)
            and (self.host is None or entry.host == self.host)
            and (self.head is None or entry.head == self.head)
            and self.text.lower() in entry.text.lower()
        )

    def next(self, field: str, entries: Sequence[LogEntry]) -> Self:
        """Return the filter that asks for the next of what there is in a field; then for nothing.

        Args:
            field: "kind", "host" or "head".
            entries: the log.
        """
        there: list[Any] = sorted(
            {value for entry in entries if (value := getattr(entry, field)) not in (None, "")}
        )
        choices: list[Any] = [None, *there]
        now = getattr(self, field)
        index = choices.index(now) + 1 if now in choices else 0
        return replace(self, **{field: choices[index % len(choices)]})


def render_filter(
    log_filter: LogFilter, log: Sequence[LogEntry], width: int, palette: Palette
) -> Text:
    """Return one line: what is asked for, and how many lines of the log have it.

    Where the run may have had more lines than are kept, that is said, too.
    """
    host = None if log_filter.host is None else str(log_filter.host + 1)
    line = Text(no_wrap=True)
    for name, value in (("kind", log_filter.kind), ("host", host), ("head", log_filter.head)):
        line.append(f"{name} ", palette.muted)
        line.append(value or _ALL, f"bold {palette.accent}" if value else palette.ink).append("  ")
    if log_filter.text:
        line.append("text ", palette.muted)
        line.append(f"{log_filter.text!r}  ", f"bold {palette.accent}")
    said = f"{sum(map(log_filter.takes, log))} of {len(log)} lines"
    if is_full(log):
        said += f" kept (the last {LOG_LINES_KEPT} of a kind)"
    line.append(said, palette.muted)
    line.truncate(width, overflow="ellipsis")
    return line
