"""The latches of a run: everything that was ever non-finite, as a join semilattice.

`join` is commutative, associative and idempotent. Events may therefore arrive in any order, twice,
or divided among any number of readers, and the latches are the same. No operation unsets a latch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from esper.karn.sanctum.schema import FirstSighting
from esper.karn.store.sightings import (
    UNKNOWN_QUANTITY,
    Source,
    is_repeated,
    phase_rank,
    reproduction_of,
    sightings_of,
    source_of,
    step_in_phase,
    unexplained,
)
from esper.leyline.quantities import causal_rank
from esper.leyline.telemetry import GROUPS, IncidentRecorded, NonfiniteSighting, PPOUpdatePayload


@dataclass(frozen=True)
class Latches:
    """Which heads and groups ever went Inf or NaN, and the first sighting of each kind."""

    inf: frozenset[str] = frozenset()
    nan: frozenset[str] = frozenset()
    # By (head, kind).
    first: Mapping[tuple[str, str], FirstSighting] = field(default_factory=dict)
    # Seen again when the update was repeated; and not seen again at least once.
    reproduced: frozenset[Source] = frozenset()
    not_reproduced: frozenset[Source] = frozenset()
    # Seen at least once without having been planted by a drill.
    genuine: frozenset[Source] = frozenset()

    @classmethod
    def of(cls, payload: PPOUpdatePayload | IncidentRecorded) -> Self:
        """Return the latches that an update or an incident sets."""
        return cls.of_sightings(payload.update, sightings_of(payload))

    @classmethod
    def of_sightings(cls, update: int, sightings: Iterable[NonfiniteSighting]) -> Self:
        """Return the latches that sightings of one update set."""
        inf: set[str] = set()
        nan: set[str] = set()
        first: dict[tuple[str, str], FirstSighting] = {}
        reproductions: set[tuple[int, Source]] = set()
        genuine: set[Source] = set()
        for seen in sightings:
            (nan if seen.kind == "nan" else inf).add(seen.head)
            if not seen.planted:
                genuine.add(source_of(seen))
            if seen.quantity == UNKNOWN_QUANTITY:
                continue  # its place is not known: it only sets the latch
            reproductions.add((reproduction_of(seen), source_of(seen)))
            sighting = FirstSighting(
                head=seen.head,
                kind=seen.kind,
                quantity=seen.quantity,
                update=update,
                epoch=seen.epoch,
                minibatch=seen.minibatch,
                phase=seen.phase,
                host=seen.host,
                step=seen.step,
                part=seen.part,
                reproduced=False,  # kept separately by quantity, like `planted`
                planted=False,
            )
            key = (seen.head, seen.kind)
            first[key] = min(first.get(key, sighting), sighting, key=moment)
        return cls(
            inf=frozenset(inf),
            nan=frozenset(nan),
            first=first,
            reproduced=frozenset(source for result, source in reproductions if result == 1),
            not_reproduced=frozenset(source for result, source in reproductions if result == 0),
            genuine=frozenset(genuine),
        )

    def join(self, other: "Latches") -> "Latches":
        """Return the latches set in either, with the earlier of two first sightings."""
        first = dict(self.first)
        for key, sighting in other.first.items():
            first[key] = min(first.get(key, sighting), sighting, key=moment)
        return Latches(
            inf=self.inf | other.inf,
            nan=self.nan | other.nan,
            first=first,
            reproduced=self.reproduced | other.reproduced,
            not_reproduced=self.not_reproduced | other.not_reproduced,
            genuine=self.genuine | other.genuine,
        )

    def is_reproduced(self, source: Source) -> bool:
        """Return False for a source that was never seen again when its update was repeated."""
        return source in self.reproduced or source not in self.not_reproduced

    def heads(self) -> frozenset[str]:
        """Return the heads with a latch, without groups."""
        return (self.inf | self.nan) - GROUPS.keys()

    def in_order(self, heads: Iterable[str]) -> tuple[FirstSighting, ...]:
        """Return the first sightings in order of time: the first of them is the first-out.

        Within one minibatch, or one step of an episode, they are in the order of computation; then
        groups precede heads, and heads are in the given order.
        """
        ranks = {head: rank for rank, head in enumerate((*GROUPS, *heads))}

        def order(seen: FirstSighting) -> tuple[object, ...]:
            *when, part = moment(seen)
            return *when, ranks.get(seen.head, len(ranks)), seen.head, seen.kind, part

        return tuple(self._whole(seen) for seen in sorted(self.first.values(), key=order))

    def sightings(self, newest_update: int) -> list[tuple[int, NonfiniteSighting]]:
        """Return a sighting for each light that is on, with the number of its update.

        Args:
            newest_update: update given for lights whose update is not known.
        """
        found = []
        for first in self.first.values():
            source = (first.head, first.quantity, first.kind)
            seen = NonfiniteSighting(
                head=first.head,
                quantity=first.quantity,
                kind=first.kind,
                count=0,
                epoch=first.epoch,
                minibatch=first.minibatch,
                phase=first.phase,
                host=first.host,
                step=first.step,
                part=first.part,
                reproduced=self.is_reproduced(source),
                planted=source not in self.genuine,
            )
            found.append((first.update, seen))
        known = {(seen.head, "nan" if seen.kind == "nan" else "inf") for _, seen in found}
        for light, heads in (("inf", self.inf), ("nan", self.nan)):
            found += [
                (newest_update, unexplained(head, light))
                for head in heads
                if (head, light) not in known
            ]
        return found

    def _whole(self, seen: FirstSighting) -> FirstSighting:
        source = seen.head, seen.quantity, seen.kind
        return replace(
            seen,
            reproduced=not is_repeated(seen.phase) or self.is_reproduced(source),
            planted=source not in self.genuine,
        )


def moment(
    seen: FirstSighting,
) -> tuple[int, int, str, int, int, int, tuple[int, str], int, int, str]:
    """Return a key that sorts sightings by time."""
    return (
        seen.update,
        phase_rank(seen.phase),
        seen.phase,
        seen.epoch,
        seen.minibatch,
        step_in_phase(seen.phase, seen.step),
        causal_rank(seen.quantity),
        -1 if seen.step is None else seen.step,
        -1 if seen.host is None else seen.host,
        seen.part,
    )
