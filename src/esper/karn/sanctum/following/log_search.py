"""Searches a run's store for lines of the log that are older than those that a snapshot keeps.

It goes backwards from the newest line that can be missing, a bounded number of events at a time,
and folds each part of the run with its own aggregator, so that lines read as in the log. Latches
are left out, because the log keeps them all, and so are steps and decisions, which have no line
unless they are damaged.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.fold.log_book import oldest_missing
from esper.karn.sanctum.following.log_filter import LogFilter
from esper.karn.sanctum.following.searching import LINES_FOUND, SearchResult
from esper.karn.sanctum.schema import LogEntry
from esper.karn.store.errors import RunStoreError
from esper.karn.store.reading.run_reader import RunReader
from esper.leyline.telemetry import KIND_BY_TYPE, Event

#: Events of the common and of the rare kinds each that one step reads: fewer than a log keeps, so
#: that all of their lines are there.
EVENTS_PER_STEP: Final = 128

_SEEDS: Final = "seed_transitioned"
_STARTS: Final = "run_started"
_KNOWN: Final = frozenset(KIND_BY_TYPE.values())


class LogSearch:
    """A search through one run for the lines of a filter.

    Args:
        directory: the run's directory.
        log_filter: the filter.
    """

    def __init__(self, directory: Path, log_filter: LogFilter) -> None:
        self._filter = log_filter
        self._reader = RunReader(directory)
        self._start_at(0)

    def _start_at(self, newest: int) -> None:
        self._newest = self._end = newest  # everything between the two was searched
        self._found: tuple[LogEntry, ...] = ()
        self._back_to: int | None = None  # an update
        # A growing log drops more of its lines: those between `_newest` and `_gap_newest`.
        self._gap_newest = self._gap_end = newest
        self._found_in_gap: tuple[LogEntry, ...] = ()

    def go_on(self, log: Sequence[LogEntry]) -> None:
        """Extend the search to everything that can be missing in a log.

        For a log of an earlier moment there is nothing to extend, unless so many later lines were
        found that the search ended early.
        """
        newest = oldest_missing(log)
        if not self._newest or (newest < self._newest and not self._goes_further() and self._end):
            self._start_at(newest)
        elif newest > self._newest and self._gap_end <= self._newest:
            self._gap_newest = self._gap_end = newest

    def step(self) -> SearchResult[LogEntry]:
        """Search a bounded number of events; an error ends the search."""
        try:
            if self._gap_end > self._newest:
                self._gap_end, self._found_in_gap = self._search(
                    self._newest, self._gap_end, self._found_in_gap
                )
                if self._gap_end <= self._newest:
                    self._newest = self._gap_end = self._gap_newest
                    gap = _not_repeated(self._found_in_gap, self._found)
                    self._found = (*self._found, *gap)[-LINES_FOUND:]
                    self._found_in_gap = ()
            elif self._goes_further():
                self._end, self._found = self._search(0, self._end, self._found)
        except RunStoreError as error:
            return SearchResult(self._found, is_over=True, error=str(error))
        reached = "" if self._back_to is None else f"back to update {self._back_to}"
        is_whole = self._end < 1 or self._filter.head is not None
        is_over = not self._goes_further() and self._gap_end <= self._newest
        return SearchResult(self._found, is_over, is_whole, reached)

    def _goes_further(self) -> bool:
        # Only latches are about a head.
        return self._end > 0 and len(self._found) < LINES_FOUND and self._filter.head is None

    def _search(
        self, after: int, end: int, found: tuple[LogEntry, ...]
    ) -> tuple[int, tuple[LogEntry, ...]]:
        """Return the id up to which nothing was searched yet, and all lines found."""
        with self._reader.session():
            events, beginning = self._part_before(after, end)
            started = self._reader.read_last(_STARTS, 1, up_to=beginning - 1)
        lines = _lines(started, events, self._filter)
        if after == 0:
            updates = (getattr(event.payload, "update", None) for event in events)
            self._back_to = next((one for one in updates if one is not None), self._back_to)
        return beginning - 1, (*lines, *_not_repeated(found, lines))[-LINES_FOUND:]

    def _part_before(self, after: int, end: int) -> tuple[list[Event], int]:
        """Return events up to an id, oldest first, and the id from which on they are complete."""
        kind, reader = self._filter.kind, self._reader
        if self._filter.host is not None or kind is not None:
            parts = [
                reader.read_last(kind or _SEEDS, EVENTS_PER_STEP, up_to=end),
                # A start names the slots and blueprints of the events after it.
                reader.read_last(_STARTS, EVENTS_PER_STEP, up_to=end),
            ]
        else:
            parts = [
                reader.read_last(_SEEDS, EVENTS_PER_STEP, up_to=end),
                reader.read_last_rare(EVENTS_PER_STEP, up_to=end),
            ]
        # If a part is full, there is more before it, and the other part must not go further back.
        full = [part[-1].id for part in parts if len(part) == EVENTS_PER_STEP]
        beginning = max(after + 1, *full, 1)
        events = {event.id: event for part in parts for event in part if event.id >= beginning}
        return [events[number] for number in sorted(events)], beginning


def _lines(
    started: Iterable[Event], events: Sequence[Event], log_filter: LogFilter
) -> list[LogEntry]:
    """Return the lines of events that match a filter, as the log would show them.

    Args:
        started: the start of the run that the events belong to, if there was one before them.
        events: in order.
        log_filter: the filter.
    """
    if not events:
        return []
    aggregator = SanctumAggregator()
    for event in [*started, *events]:
        aggregator.apply(event)
    return [
        line
        for line in aggregator.snapshot().log
        if line.event_id >= events[0].id and line.level != "latch" and log_filter.matches(line)
    ]


def _not_repeated(later: Sequence[LogEntry], earlier: Sequence[LogEntry]) -> list[LogEntry]:
    """Return later lines without those of an unknown kind that are among the earlier ones."""
    known = {(line.kind, line.text) for line in earlier if line.kind not in _KNOWN}
    return [line for line in later if (line.kind, line.text) not in known]
