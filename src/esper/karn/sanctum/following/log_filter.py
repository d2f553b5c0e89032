"""Which lines of the log are asked for: those of a kind, about a host or a head, or with a text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final, Self

from esper.karn.sanctum.fold.log_book import oldest_missing
from esper.karn.sanctum.schema import LogEntry, RunState
from esper.leyline.telemetry import KIND_BY_TYPE

#: Kinds of events that have no line in the log, unless they are damaged; and the heartbeat, which
#: is no event of the run.
_WITHOUT_LINES: Final = frozenset({"step_completed", "decisions_taken", "heartbeat"})


@dataclass(frozen=True)
class LogFilter:
    """What a line must have to be shown; None or an empty text asks for nothing."""

    kind: str | None = None
    host: int | None = None
    head: str | None = None
    text: str = ""

    @property
    def asks(self) -> bool:
        """Whether anything is asked for."""
        return self != LogFilter()

    def takes(self, entry: LogEntry) -> bool:
        """Return whether a line is shown."""
        return (
            (self.kind is None or entry.kind == self.kind)
            and (self.host is None or entry.host == self.host)
            and (self.head is None or entry.head == self.head)
            and self.text.lower() in entry.text.lower()
        )

    def next(self, field: str, choices: Sequence[Any], by: int = 1) -> Self:
        """Return the filter that asks for the next of the choices in a field; then for nothing.

        With `by` -1, for the one before: nothing is before the first.
        """
        ring = [None, *choices]
        now = getattr(self, field)
        index = ring.index(now) + by if now in ring else 0
        return replace(self, **{field: ring[index % len(ring)]})


def choices(field: str, log: Sequence[LogEntry], run: RunState) -> list[Any]:
    """Return what can be asked for in a field, in order.

    Args:
        field: "kind", "host" or "head".
        log: the lines that are kept. Where earlier ones are missing, they may have had more.
        run: that the log is of.
    """
    there: set[Any] = {getattr(entry, field) for entry in log} - {None, ""}
    if oldest_missing(log):
        if field == "kind":
            there |= set(KIND_BY_TYPE.values()) - _WITHOUT_LINES
        elif field == "host":
            there |= set(range(run.environments))
    return sorted(there)


def with_older(log: Sequence[LogEntry], found: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """Return the lines that are kept and older ones that were found, each once and in order."""
    if not found:
        return log
    newest = oldest_missing(log)
    kept = {(entry.event_id, entry.text) for entry in log}
    older = (
        entry
        for entry in found
        if entry.event_id <= newest and (entry.event_id, entry.text) not in kept
    )
    return sorted([*older, *log], key=attrgetter("event_id"))
