"""Digests: the events that a run's summary depends on, so that a long run is not read twice.

A digest lists the few events that determine a summary: the start, the last update and batch of
episodes, the best one, every event that turned on a light, incidents, the end. Folding only these
gives the same summary as folding all events. A digest contains only event ids; the events are read
from the store.
"""

from typing import Final

import msgspec

from esper.karn.sanctum.fold import event_log
from esper.karn.store.sightings import (
    Moment,
    Source,
    moment_of,
    reproduction_of,
    sightings_of,
    source_of,
)
from esper.leyline.telemetry import (
    STALLED_UPDATES,
    DamagedPayload,
    EpisodesCompleted,
    Event,
    HostsStalled,
    IncidentRecorded,
    Notice,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    UnknownPayload,
)

#: Maximum number of events in a digest; a run with more relevant events is read completely.
_LARGEST: Final = 512
#: Kinds of which only the last event matters to a summary.
_LAST_COUNTS: Final = (
    PPOUpdatePayload,
    EpisodesCompleted,
    HostsStalled,
    Notice,
    RunFinished,
    UnknownPayload,
)


class Digest(msgspec.Struct, frozen=True, array_like=True):
    """The events that a run's summary depends on.

    Attributes:
        store_id: id of the store.
        up_to: id of the last considered event.
        ids: ids of the events, in order.
    """

    store_id: str
    up_to: int
    ids: tuple[int, ...]


class DigestNotes:
    """Makes the digest of a run while its events are read."""

    def __init__(self) -> None:
        self._kept: set[int] = set()
        self._last: dict[type, int] = {}
        self._best: tuple[float, int] | None = None  # score and id
        self._first: dict[tuple[Source, int, bool], Moment] = {}  # by what a sighting shows
        self._stalled_since: int | None = None
        self._starts = 0
        self._is_damaged = False

    def note(self, event: Event) -> None:
        """Consider an event; events come in the order of their ids."""
        payload = event.payload
        if isinstance(payload, _LAST_COUNTS):
            self._last[type(payload)] = event.id
        if isinstance(payload, RunStarted):
            self._starts += 1
            self._kept.add(event.id)
        elif isinstance(payload, EpisodesCompleted):
            score = event_log.mean(payload.score)
            if score is not None and (self._best is None or score > self._best[0]):
                self._best = score, event.id
        elif isinstance(payload, IncidentRecorded):
            self._kept.add(event.id)
        elif isinstance(payload, DamagedPayload):
            self._is_damaged = True
        if isinstance(payload, PPOUpdatePayload):
            self._note_lights(event.id, payload)

    def _note_lights(self, number: int, payload: PPOUpdatePayload) -> None:
        for seen in sightings_of(payload):
            key = source_of(seen), reproduction_of(seen), seen.planted
            moment = moment_of(payload.update, seen)
            if key not in self._first or moment < self._first[key]:
                self._first[key] = moment
                self._kept.add(number)
        if payload.still_updates >= STALLED_UPDATES:
            since = payload.update - payload.still_updates
            if self._stalled_since is None or since < self._stalled_since:
                self._stalled_since = since
                self._kept.add(number)

    def digest(self, store_id: str | None, up_to: int) -> Digest | None:
        """Return the digest of the events up to an id; None if the run must be read completely.

        That is the case if its store has no id, it was resumed (a resume removes updates and
        scores), it has damaged events, or too many events are relevant.
        """
        ids = {*self._kept, *self._last.values()}
        if self._best is not None:
            ids.add(self._best[1])
        if store_id is None or self._starts > 1 or self._is_damaged or len(ids) > _LARGEST:
            return None
        return Digest(store_id, up_to, tuple(sorted(ids)))
