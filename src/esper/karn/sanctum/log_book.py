"""The lines of the event log that are kept: a bounded number, and the weighty ones longest.

Seeds change their stage hundreds of times an update. On a shelf of their own they cannot push out
the lines of checkpoints and faults; and what latched is said once in a run and is never pushed out
by anything else. What heartbeats tell is not part of the run's events, and stands apart.
"""

from collections import deque
from collections.abc import Mapping
from itertools import chain
from operator import attrgetter
from typing import Final

from esper.karn.sanctum.schema import LogEntry

#: Lines of each shelf.
LOG_LINES_KEPT: Final = 500

_SEEDS: Final = "seed_transitioned"
_HEARTBEATS: Final = "heartbeat"
_LATCHES: Final = "latch"
_OTHERS: Final = ""


class LogBook:
    """The last lines of a run's log."""

    def __init__(self) -> None:
        shelves = (_SEEDS, _HEARTBEATS, _LATCHES, _OTHERS)
        self._shelves: Mapping[str, deque[LogEntry]] = {
            shelf: deque(maxlen=LOG_LINES_KEPT) for shelf in shelves
        }

    def add(self, entry: LogEntry) -> None:
        """Add a line, later than all before."""
        shelf = _LATCHES if entry.level == "latch" else entry.kind
        self._shelves.get(shelf, self._shelves[_OTHERS]).append(entry)

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
