"""The lights of a run: what has ever been non-finite, as a join semilattice.

`join` is commutative, associative and idempotent, so events may come in any order, twice, or split
over any number of readers, and the lights are the same. Nothing here can put a light out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from esper.karn.sanctum.schema import FirstSighting
from esper.karn.sightings import UNKNOWN_QUANTITY, sightings_of
from esper.leyline.quantities import causal_rank
from esper.leyline.telemetry import SHARED, NonfiniteSighting, PPOUpdatePayload


@dataclass(frozen=True)
class Latches:
    """Which heads (or `SHARED`) ever went Inf or NaN, and the first sighting of each kind."""

    inf: frozenset[str] = frozenset()
    nan: frozenset[str] = frozenset()
    # By (head, kind).
    first: Mapping[tuple[str, str], FirstSighting] = field(default_factory=dict)

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
        for seen in sightings:
            (nan if seen.kind == "nan" else inf).add(seen.head)
            if seen.quantity == UNKNOWN_QUANTITY:
                continue  # without a word on where, it is lit and no more
            sighting = FirstSighting(
                head=seen.head,
                kind=seen.kind,
                quantity=seen.quantity,
                update=update,
                epoch=seen.epoch,
                minibatch=seen.minibatch,
            )
            key = (seen.head, seen.kind)
            first[key] = min(first.get(key, sighting), sighting, key=moment)
        return cls(frozenset(inf), frozenset(nan), first)

    def join(self, other: "Latches") -> "Latches":
        """Return what is lit in either; of two first sightings the earlier stands."""
        first = dict(self.first)
        for key, sighting in other.first.items():
            first[key] = min(first.get(key, sighting), sighting, key=moment)
        return Latches(self.inf | other.inf, self.nan | other.nan, first)

    def heads(self) -> frozenset[str]:
        """Return the heads that are lit, without `SHARED`."""
        return (self.inf | self.nan) - {SHARED}

    def in_order(self, heads: Iterable[str]) -> tuple[FirstSighting, ...]:
        """Return the first sightings by when they happened: the first of them is the first-out.

        Within one minibatch, what is born earlier in an update comes first, then the shared, then
        the heads in the order given.
        """
        ranks = {head: rank for rank, head in enumerate((SHARED, *heads))}
        return tuple(
            sorted(
                self.first.values(),
                key=lambda seen: (
                    moment(seen),
                    ranks.get(seen.head, len(ranks)),
                    seen.head,
                    seen.kind,
                ),
            )
        )


def moment(seen: FirstSighting) -> tuple[int, int, int, tuple[int, str]]:
    """Return a key that sorts sightings by when in the run they happened."""
    return seen.update, seen.epoch, seen.minibatch, causal_rank(seen.quantity)
