"""The event log: a bounded number of lines, kept by importance.

Lines are kept on several shelves, each with its own limit. Seeds change their stage hundreds of
times per update; their lines have a separate shelf, so they do not displace lines about checkpoints
and faults. Lines about latches have another: each occurs once in a run, and no other line displaces
it. Heartbeats are not events of the run, and have a separate shelf, too.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Final

from esper.karn.sanctum.schema import LogEntry
from esper.leyline.telemetry import DamagedPayload, Event, kind_of

#: Maximum number of lines on each shelf.
LOG_LINES_KEPT: Final = 500

#: Kind of the events about seeds.
SEEDS: Final = "seed_transitioned"

_HEARTBEATS: Final = "heartbeat"
_LATCHES: Final = "latch"
_OTHERS: Final = ""
_SHELVES: Final = (SEEDS, _HEARTBEATS, _LATCHES, _OTHERS)


def _shelf_of(entry: LogEntry) -> str:
    if entry.level == "latch":
        return _LATCHES
    return entry.kind if entry.kind in _SHELVES else _OTHERS


def oldest_missing(entries: Sequence[LogEntry]) -> int:
    """Return the newest event whose line may have been displaced from a log; 0 if there is none.

    Args:
        entries: the log, oldest first.
    """
    counts = Counter(map(_shelf_of, entries))
    full = {shelf for shelf in (SEEDS, _OTHERS) if counts[shelf] == LOG_LINES_KEPT}
    newest = 0
    for entry in entries if full else ():
        if (shelf := _shelf_of(entry)) in full:
            full.remove(shelf)
            newest = max(newest, entry.event_id)
    return newest


def with_details(entries: Sequence[LogEntry]) -> list[tuple[LogEntry, int]]:
    """Return the lines that are not details, each with its number of details.

    A detail whose leading line is missing counts as an ordinary line.
    """
    leads = {entry.event_id for entry in entries if not entry.lead and entry.kind != _HEARTBEATS}
    details = Counter(one.lead for one in entries if one.lead and one.lead in leads)
    shown = []
    for entry in entries:
        if entry.lead and entry.lead in leads:
            continue
        number = 0 if entry.kind == _HEARTBEATS else details.pop(entry.event_id, 0)
        shown.append((entry, number))
    return shown


def event_kind(event: Event) -> str:
    """Return the kind of an event; for a damaged one, the kind that it should have."""
    payload = event.payload
    return payload.kind if isinstance(payload, DamagedPayload) else kind_of(payload)


class LogBook:
    """The last lines of a run's log."""

    def __init__(self) -> None:
        self._shelves: Mapping[str, deque[LogEntry]] = {
            shelf: deque(maxlen=LOG_LINES_KEPT) for shelf in _SHELVES
        }
        self._bad_update = 0  # number of the last update with lines about its failure
        self._leading_event = 0  # event of the first of these lines

    def add_line(
        self,
        event: Event,
        event_id: int,
        level: str,
        text: str,
        *,
        host: int | None = None,
        head: str | None = None,
        update: int = 0,
    ) -> None:
        """Add a line about an event after all others.

        Args:
            event: event that the line is about.
            event_id: its id; for a heartbeat, the id of the event before it.
            level: level of the line.
            text: text of the line.
            host: host that the line is about, if any.
            head: head that the line is about, if any.
            update: bad update that the line is about, or 0. The first line about a bad update
                leads; further lines are its details, unless they are errors.
        """
        lead = 0
        if update and self._bad_update != update:
            self._bad_update, self._leading_event = update, event_id
        elif update and level != "error":
            lead = self._leading_event
        entry = LogEntry(
            event_id=event_id,
            time=event.time,
            level=level,
            text=text,
            kind=event_kind(event),
            host=host,
            head=head,
            lead=lead,
        )
        self.add(entry)

    def add(self, entry: LogEntry) -> None:
        """Add a complete line after all others."""
        self._shelves[_shelf_of(entry)].append(entry)

    def forget_heartbeats(self) -> None:
        """Remove the lines about heartbeats."""
        self._shelves[_HEARTBEATS].clear()

    def entries(self) -> tuple[LogEntry, ...]:
        """Return all lines, oldest first."""
        # Sorting is stable, and fast for sequences that are mostly in order.
        lines = chain.from_iterable(self._shelves.values())
        return tuple(sorted(lines, key=attrgetter("event_id")))

    def copy(self) -> "LogBook":
        """Return an independent copy."""
        copy = LogBook()
        copy._bad_update, copy._leading_event = self._bad_update, self._leading_event
        copy._shelves = {shelf: lines.copy() for shelf, lines in self._shelves.items()}
        return copy
