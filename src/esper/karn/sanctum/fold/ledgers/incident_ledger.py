"""The incidents of a run: those in its events, joined with the capsules on disk.

An incident is identified by its number. If a lost store leaves a capsule without an event, the
capsule counts as the incident; an incident whose capsule was removed or damaged has no capsule.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from esper.karn.sanctum.fold.ranks.one_per_fault import fault_place
from esper.karn.sanctum.schema import IncidentState
from esper.leyline.files.incident_files import INCIDENTS_NAME, Incident
from esper.leyline.telemetry import IncidentOrigin, IncidentRecorded, NonfiniteSighting

#: Maximum number of listed incidents; those without a capsule are dropped first, then the oldest.
INCIDENTS_KEPT: Final = 256
CAPSULE_GONE: Final = "its capsule is no longer there"


class IncidentLedger:
    """The incidents of one run."""

    def __init__(self) -> None:
        self._recorded = _Numbers()
        self._with_path = _Numbers()
        self._newest: dict[int, IncidentState] = {}  # in the order of their events
        self._capsules: tuple[Incident, ...] | None = None  # None until the disk was read

    def copy(self) -> "IncidentLedger":
        """Return an independent copy."""
        other = IncidentLedger()
        other._recorded = self._recorded.copy()
        other._with_path = self._with_path.copy()
        other._newest = self._newest.copy()
        other._capsules = self._capsules
        return other

    def add(self, payload: IncidentRecorded) -> None:
        """Add an event. It replaces an earlier event with the same number."""
        self._recorded.add(payload.number)
        if payload.path:
            self._with_path.add(payload.number)
        self._newest.pop(payload.number, None)
        self._newest[payload.number] = IncidentState(
            payload.update,
            payload.number,
            payload.path,
            payload.reason,
            payload.origin,
            payload.no_origin,
            **_place_in(payload.sightings, payload.origin),
        )
        if len(self._newest) > INCIDENTS_KEPT:
            without = (number for number, one in self._newest.items() if not one.path)
            del self._newest[next(without, next(iter(self._newest)))]

    def join_capsules(self, capsules: Sequence[Incident]) -> bool:
        """Set the capsules on disk; return whether they changed."""
        before, self._capsules = self._capsules, tuple(capsules)
        return before != self._capsules

    def lacks_capsule(self, capsules: Sequence[Incident]) -> bool:
        """Return whether an event mentions a capsule that is not among these."""
        there = {one.number for one in capsules}
        return any(one.path and one.number not in there for one in self._newest.values())

    def counts(self) -> tuple[int, int]:
        """Return the number of incidents, and of those without an undamaged capsule."""
        if self._capsules is None:
            return self._recorded.count, self._recorded.count - self._with_path.count
        there = {one.number for one in self._capsules}
        whole = {one.number for one in self._capsules if not one.damage}
        number = self._recorded.count + sum(one not in self._recorded for one in there)
        return number, number - len(whole)

    def states(self) -> tuple[IncidentState, ...]:
        """Return the listed incidents, in order of time."""
        if self._capsules is None:
            return tuple(self._newest.values())
        there = {one.number: one for one in self._capsules}
        found = []
        for state in self._newest.values():
            if (capsule := there.pop(state.number, None)) is not None:
                found.append(_with_origin(_state_of(capsule, state.update), state))
            elif state.path:
                gone = IncidentState(state.update, state.number, "", CAPSULE_GONE)
                found.append(_with_origin(gone, state))
            else:
                found.append(state)
        found += [_state_of(one, one.update) for one in there.values()]
        found.sort(key=lambda one: (one.update, one.number))
        return tuple(found[-INCIDENTS_KEPT:])


def _with_origin(incident: IncidentState, recorded: IncidentState) -> IncidentState:
    """Return an incident with what its event has, and its capsule's summary may lack."""
    return replace(
        incident,
        origin=recorded.origin,
        no_origin=recorded.no_origin,
        phase=incident.phase or recorded.phase,
        minibatch=incident.minibatch or recorded.minibatch,
        is_spread=recorded.origin is None and (incident.is_spread or recorded.is_spread),
    )


def _state_of(capsule: Incident, update: int) -> IncidentState:
    path = "" if capsule.damage else str(Path(INCIDENTS_NAME, capsule.path.name))
    return IncidentState(
        capsule.update or update,
        capsule.number,
        path,
        capsule.damage,
        why_not_repeated=capsule.why_not_repeated,
        **_place_in(capsule.sightings),
    )


def _place_in(
    sightings: Sequence[NonfiniteSighting], origin: IncidentOrigin | None = None
) -> dict[str, Any]:
    """Return the fields of an incident that say where in its update it was seen first."""
    place = fault_place(sightings, origin)
    return {"phase": place.phase, "minibatch": place.minibatch, "is_spread": place.is_spread}


class _Numbers:
    """A set of integers, stored as ranges of consecutive numbers."""

    def __init__(self) -> None:
        self.count = 0
        self._ranges: list[tuple[int, int]] = []  # first and last of each, in order

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._ranges, (number, math.inf))
        return place > 0 and number <= self._ranges[place - 1][1]

    def copy(self) -> "_Numbers":
        other = _Numbers()
        other.count, other._ranges = self.count, self._ranges.copy()
        return other

    def add(self, number: int) -> None:
        if number in self:
            return
        self.count += 1
        place = bisect_right(self._ranges, (number, math.inf))
        if place and self._ranges[place - 1][1] == number - 1:
            self._ranges[place - 1] = self._ranges[place - 1][0], number
        else:
            self._ranges.insert(place, (number, number))
