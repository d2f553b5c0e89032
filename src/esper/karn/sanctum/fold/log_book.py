"""The lines of the event log that are kept: a bounded number, and the weighty ones longest.

Seeds change their stage hundreds of times an update. On a shelf of their own they cannot push out
the lines of checkpoints and faults; and what latched is said once in a run and is never pushed out
by anything else. What heartbeats tell is not part of the run's events, and stands apart.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Final

from esper.karn.sanctum.schema import LogEntry

#: Lines of each shelf.
LOG_LINES_KEPT: Final = 500

#: The kind of the events of seeds.
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
    """Return the newest event of which a line can have been pushed out of a log; 0 if none was.

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
    """Return the lines without those that are details of another one, which has their number.

    A detail whose leading line is not among them stands for itself.
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


class LogBook:
    """The last lines of a run's log."""

    def __init__(self) -> None:
        self._shelves: Mapping[str, deque[LogEntry]] = {
            shelf: deque(maxlen=LOG_LINES_KEPT) for shelf in _SHELVES
        }

    def add(self, entry: LogEntry) -> None:
        """Add a line, later than all before."""
        self._shelves[_shelf_of(entry)].append(entry)

    def forget_heartbeats(self) -> None:
        """Forget the lines of heartbeats."""
        self._shelves[_HEARTBEATS].clear()

    def entries(self) -> tuple[LogEntry, ...]:
        """Return all lines, oldest first."""
        # Sorting keeps the order of the lines of one event, and is quick on what is in order.
        lines = chain.from_iterable(self._shelves.values())
        return tuple(sorted(lines, key=attrgetter("event_id")))

    def copy(self) -> "LogBook":
        """Return a book that goes on from here by itself."""
        copy = LogBook()
        copy._shelves = {shelf: lines.copy() for shelf, lines in self._shelves.items()}
        return copy
