"""The lights of a run: what has ever been non-finite, as a join semilattice.

`join` is commutative, associative and idempotent, so events may come in any order, twice, or split
over any number of readers, and the lights are the same. Nothing here can put a light out.
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
)
from esper.leyline.quantities import causal_rank
from esper.leyline.telemetry import GROUPS, NonfiniteSighting, PPOUpdatePayload


@dataclass(frozen=True)
class Latches:
    """Which heads and groups ever went Inf or NaN, and the first sighting of each kind."""

    inf: frozenset[str] = frozenset()
    nan: frozenset[str] = frozenset()
    # By (head, kind).
    first: Mapping[tuple[str, str], FirstSighting] = field(default_factory=dict)
    # What was seen again when its update was repeated, and what at least once was not.
    reproduced: frozenset[Source] = frozenset()
    not_reproduced: frozenset[Source] = frozenset()
    # What was seen at least once without having been planted by a drill.
    genuine: frozenset[Source] = frozenset()

    @classmethod
    def of(cls, payload: PPOUpdatePayload) -> Self:
        """Return what one update lights: what it says was detected, and what it says it saw."""
        return cls.of_sightings(payload.update, sightings_of(payload))

    @classmethod
    def of_sightings(cls, update: int, sightings: Iterable[NonfiniteSighting]) -> Self:
        """Return what is lit by all that was seen in one update."""
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
                continue  # where it was is not known: it is lit and no more
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
                reproduced=False,  # that is kept beside it, by quantity, as the next is
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
        """Return what is lit in either; of two first sightings the earlier stands."""
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
        """Return False for what was seen once and never again when its update was repeated."""
        return source in self.reproduced or source not in self.not_reproduced

    def heads(self) -> frozenset[str]:
        """Return the heads that are lit, without groups."""
        return (self.inf | self.nan) - GROUPS.keys()

    def in_order(self, heads: Iterable[str]) -> tuple[FirstSighting, ...]:
        """Return the first sightings by when they happened: the first of them is the first-out.

        Within one minibatch, or one step of an episode, what is computed earlier comes first, then
        the groups, then the heads in the order given.
        """
        ranks = {head: rank for rank, head in enumerate((*GROUPS, *heads))}

        def order(seen: FirstSighting) -> tuple[object, ...]:
            *when, part = moment(seen)
            return *when, ranks.get(seen.head, len(ranks)), seen.head, seen.kind, part

        return tuple(self._whole(seen) for seen in sorted(self.first.values(), key=order))

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
    """Return a key that sorts sightings by when in the run they happened."""
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
