"""The evidence of a run: where, when and how often each kind of non-finite value was seen.

Like the lights it is a join semilattice: what is known of one update is joined by the larger count,
the earlier first and the later last sighting, and an update counts once however often it is told.
So events may come in any order, twice, or split over any number of readers. An update that a resume
trained again is the same update.

For that, every bad update is remembered by its number: less than a hundred bytes for each update
and row, and a run has few, since training that stays bad is rolled back and halted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from esper.karn.sanctum.schema import Evidence
from esper.karn.sightings import last_place, sightings_of
from esper.leyline.quantities import causal_rank
from esper.leyline.telemetry import SHARED, NonfiniteSighting, PPOUpdatePayload

#: Rows that are shown; eight heads and all that they share have no more than 300.
ROWS_KEPT: Final = 512

#: Head (or `SHARED`), quantity and kind.
Source = tuple[str, str, str]


class _Moment(NamedTuple):
    update: int
    epoch: int  # 0, as the minibatch, where it was not told
    minibatch: int


@dataclass
class _Trail:
    first: _Moment
    last: _Moment
    counts: dict[int, int] = field(default_factory=dict)  # minibatches, by update
    minibatches: int = 0  # the sum of the counts

    def join(self, first: _Moment, last: _Moment, counts: dict[int, int]) -> None:
        self.first = min(self.first, first)
        self.last = max(self.last, last)
        for update, count in counts.items():
            known = self.counts.get(update, 0)
            self.counts[update] = max(known, count)
            self.minibatches += max(0, count - known)


@dataclass
class EvidenceLedger:
    """Where each kind of non-finite value was first and last seen, and how often."""

    _trails: dict[Source, _Trail] = field(default_factory=dict, init=False)

    def take_in(self, payload: PPOUpdatePayload) -> None:
        """Join what one update saw."""
        self.take_in_sightings(payload.update, sightings_of(payload))

    def take_in_sightings(self, update: int, sightings: Iterable[NonfiniteSighting]) -> None:
        """Join some of what one update saw."""
        for seen in sightings:
            first = _Moment(update, seen.epoch, seen.minibatch)
            last = _Moment(update, *last_place(seen))
            self._join(source_of(seen), first, last, {update: seen.count})

    def copy(self) -> "EvidenceLedger":
        """Return a ledger that goes on from here by itself."""
        copy = EvidenceLedger()
        copy.join(self)
        return copy

    def join(self, other: "EvidenceLedger") -> None:
        """Join what another reader of the run knows."""
        for source, trail in other._trails.items():
            self._join(source, trail.first, trail.last, trail.counts)

    def _join(self, source: Source, first: _Moment, last: _Moment, counts: dict[int, int]) -> None:
        trail = self._trails.get(source)
        if trail is None:
            trail = self._trails[source] = _Trail(first, last)
        trail.join(first, last, counts)

    def rows(self, heads: Iterable[str], active: Iterable[Source] = ()) -> tuple[Evidence, ...]:
        """Return a row for each source, in the order in which they were first seen.

        Within one minibatch, what is born earlier in an update comes first, then the shared, then
        the heads in the order given. Beyond `ROWS_KEPT` rows, the latest are left out.

        Args:
            heads: names of the heads, in order.
            active: what was seen in the last update.
        """
        ranks = {head: rank for rank, head in enumerate((SHARED, *heads))}
        is_active = set(active)

        def order(source: Source) -> tuple[_Moment, tuple[int, str], int, str, str]:
            head, quantity, kind = source
            first = self._trails[source].first
            return first, causal_rank(quantity), ranks.get(head, len(ranks)), head, kind

        return tuple(
            _row(source, self._trails[source], is_active=source in is_active)
            for source in sorted(self._trails, key=order)[:ROWS_KEPT]
        )


def source_of(seen: NonfiniteSighting) -> Source:
    """Return what a sighting is filed under."""
    return seen.head, seen.quantity, seen.kind


def _row(source: Source, trail: _Trail, *, is_active: bool) -> Evidence:
    head, quantity, kind = source
    return Evidence(
        head=head,
        quantity=quantity,
        kind=kind,
        first_update=trail.first.update,
        first_epoch=trail.first.epoch,
        first_minibatch=trail.first.minibatch,
        last_update=trail.last.update,
        last_epoch=trail.last.epoch,
        last_minibatch=trail.last.minibatch,
        updates=len(trail.counts),
        minibatches=trail.minibatches,
        is_active=is_active,
    )
