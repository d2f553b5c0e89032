"""Merges the incidents of several ranks that have the same fault, such as a shared bad gradient.

The merged incident is that of the rank in which the fault began: a rank with a non-finite quantity
that it computed itself. Gradients, weights and moments are equal in all ranks, or shared by them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from esper.leyline.quantities import SHARED_BY_RANKS
from esper.leyline.telemetry import IncidentOrigin, NonfiniteSighting

_T = TypeVar("_T")


@dataclass(frozen=True)
class FaultPlace:
    """The place of an incident's first sighting in its update.

    Attributes:
        phase: one of `PHASES`; empty if unknown.
        minibatch: counted from 1; 0 before the first minibatch, and if unknown.
        is_spread: whether all its quantities are shared by ranks.
    """

    phase: str
    minibatch: int
    is_spread: bool


def fault_place(
    sightings: Sequence[NonfiniteSighting], origin: IncidentOrigin | None = None
) -> FaultPlace:
    """Return the place in its update where an incident was seen first.

    Args:
        sightings: the findings of the incident, causes first; empty if unknown.
        origin: the operation in which it began, if this rank found it: then it began here.
    """
    if not sightings:
        return FaultPlace("", 0, is_spread=False)
    is_shared = all(seen.quantity in SHARED_BY_RANKS for seen in sightings)
    is_spread = is_shared and origin is None
    return FaultPlace(sightings[0].phase, sightings[0].minibatch, is_spread)


def one_per_fault(
    incidents: Sequence[tuple[int, int, FaultPlace, _T]],
    with_others: Callable[[int, _T, tuple[int, ...]], _T],
) -> list[_T]:
    """Return one incident for each fault, in order of time.

    Incidents of several ranks in the same minibatch are one fault. The result does not depend on
    the order of the incidents, or on duplicates.

    Args:
        incidents: incidents with their rank, update and place.
        with_others: adds to an incident its rank and the other ranks with the fault.
    """
    groups: dict[tuple[int, str, int], dict[int, list[tuple[FaultPlace, _T]]]] = {}
    for rank, update, place, incident in incidents:
        of_fault = groups.setdefault((update, place.phase, place.minibatch), {})
        own = of_fault.setdefault(rank, [])
        if (place, incident) not in own:
            own.append((place, incident))
    found: list[_T] = []
    for (_, _phase, _), of_fault in sorted(groups.items(), key=lambda one: _in_time(one[0])):
        began = min(of_fault, key=lambda rank: (all(p.is_spread for p, _ in of_fault[rank]), rank))
        others = tuple(sorted(of_fault.keys() - {began}))
        found += [with_others(began, incident, others) for _, incident in of_fault[began]]
    return found


def _in_time(key: tuple[int, str, int]) -> tuple[int, bool, int, str]:
    update, phase, minibatch = key
    return update, phase == "update", minibatch, phase
