"""The filter of the event log: lines of one kind, about one host or head, or with a text."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final, Self

from esper.karn.sanctum.fold.log_book import oldest_missing
from esper.karn.sanctum.schema import LogEntry, RunState
from esper.leyline.telemetry import KIND_BY_TYPE

#: Event kinds without lines in the log, unless an event is damaged. The heartbeat is no event.
_WITHOUT_LINES: Final = frozenset({"step_completed", "decisions_taken", "heartbeat"})


@dataclass(frozen=True)
class LogFilter:
    """What a line must have to be shown; None or an empty text matches every line."""

    kind: str | None = None
    host: int | None = None
    head: str | None = None
    text: str = ""

    @property
    def is_set(self) -> bool:
        """Whether it may leave out lines."""
        return self != LogFilter()

    def matches(self, entry: LogEntry) -> bool:
        """Return whether a line is shown."""
        for field in FILTER_FIELDS:
            wanted = getattr(self, field.name)
            if wanted is not None and getattr(entry, field.name) != wanted:
                return False
        return self.text.lower() in entry.text.lower()

    def with_next(self, field: str, choices: Sequence[Any], by: int = 1) -> Self:
        """Return the filter with the next of the choices in a field; None follows the last.

        With `by` -1 it is the one before; None precedes the first.
        """
        ring = [None, *choices]
        current = getattr(self, field)
        index = ring.index(current) + by if current in ring else 0
        return replace(self, **{field: ring[index % len(ring)]})


@dataclass(frozen=True)
class FilterField:
    """A field of the filter whose values a key goes through.

    Attributes:
        name: the name of the attribute of `LogFilter` and of `LogEntry`.
        key: the key of the Log screen; with shift it goes backwards.
        lines: names the lines with one value, for the help: "of the next kind".
        written: returns a value as the screen writes it.
        missing: returns the values that lines no longer in the log may have.
    """

    name: str
    key: str
    lines: str
    written: Callable[[Any], str] = str
    missing: Callable[[RunState], Collection[Any]] = lambda _run: ()


#: The fields, in the order in which they are shown. The Log screen derives its keys from them.
FILTER_FIELDS: Final = (
    FilterField(
        "kind",
        "k",
        "of the next kind",
        lambda kind: kind.replace("_", " "),
        lambda _run: set(KIND_BY_TYPE.values()) - _WITHOUT_LINES,
    ),
    FilterField(
        "host",
        "h",
        "about the next host",
        lambda host: str(host + 1),
        lambda run: range(run.environments),
    ),
    FilterField("head", "e", "about the next head"),
)


def choices(field: str, log: Sequence[LogEntry], run: RunState) -> list[Any]:
    """Return the values that a field can have, in order.

    Args:
        field: the name of one of `FILTER_FIELDS`.
        log: the lines that are kept; earlier ones may have had more values.
        run: the run of the log.
    """
    values: set[Any] = {getattr(entry, field) for entry in log} - {None, ""}
    if oldest_missing(log):
        values.update(*(one.missing(run) for one in FILTER_FIELDS if one.name == field))
    return sorted(values)


def with_older(log: Sequence[LogEntry], found: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """Return the lines of the log and older ones that a search found, each once and in order."""
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
