"""Sightings of NaN and Inf in an update: when, how often, and whether they were reproduced."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from esper.leyline.telemetry import (
    PHASES,
    STEP_PHASES,
    IncidentRecorded,
    NonfiniteSighting,
    PPOUpdatePayload,
)

#: The quantity of a detection without a sighting.
UNKNOWN_QUANTITY: Final = "unknown"

_MINIBATCH_PHASE: Final = "update"
#: Phases that are never repeated: sightings in them are neither reproduced nor not.
_ONCE_PHASES: Final = ("given", "environment", "acting")
_PHASE_RANKS: Final = {phase: rank for rank, phase in enumerate(PHASES)}

#: Head or group, quantity and kind: sightings of one source are counted together.
Source = tuple[str, str, str]


class Moment(NamedTuple):
    """When in a run something was seen; moments are ordered by time.

    A moment without host or step has -1 there.
    """

    update: int
    phase_rank: int
    phase: str
    epoch: int  # 0, as the minibatch, before the first minibatch or where it was not reported
    minibatch: int
    step: int
    host: int
    part: str


def source_of(seen: NonfiniteSighting) -> Source:
    """Return the source of a sighting."""
    return seen.head, seen.quantity, seen.kind


def phase_rank(phase: str) -> int:
    """Return the position of a phase in an update; unknown phases come last."""
    return _PHASE_RANKS.get(phase, len(PHASES))


def step_in_phase(phase: str, step: int | None) -> int:
    """Return the step of an episode in a phase with steps; 0 in other phases."""
    return step or 0 if phase in STEP_PHASES else 0


def moment_of(update: int, seen: NonfiniteSighting) -> Moment:
    """Return when something was first seen in its update."""
    step = -1 if seen.step is None else seen.step
    host = -1 if seen.host is None else seen.host
    rank = phase_rank(seen.phase)
    return Moment(update, rank, seen.phase, seen.epoch, seen.minibatch, step, host, seen.part)


def last_moment_of(update: int, seen: NonfiniteSighting) -> Moment:
    """Return when something was last seen in its update, without host and step.

    Epoch and minibatch are 0 if they were not reported. A last place before the first one counts as
    the first.
    """
    last = seen.last_epoch, seen.last_minibatch
    # Older versions did not report the last place; with one sighting it is the first.
    if seen.last_epoch or seen.count == 1:
        last = max(last, (seen.epoch, seen.minibatch))
    return Moment(update, phase_rank(seen.phase), seen.phase, *last, -1, -1, seen.part)


def minibatches_of(seen: NonfiniteSighting) -> int:
    """Return the number of minibatches with a sighting; 0 in a phase without minibatches."""
    return seen.count if seen.phase == _MINIBATCH_PHASE else 0


def steps_of(seen: NonfiniteSighting) -> int:
    """Return the number of episode steps with a sighting; 0 in a phase without steps."""
    return seen.count if seen.phase in STEP_PHASES else 0


def is_repeated(phase: str) -> bool:
    """Return whether a phase is repeated after a sighting in it."""
    return phase not in _ONCE_PHASES


def states_reproduction(seen: NonfiniteSighting) -> bool:
    """Return whether a sighting states that it was, or was not, reproduced."""
    return is_repeated(seen.phase) or not seen.reproduced


def reproduction_of(seen: NonfiniteSighting) -> int:
    """Return 1 if a sighting was reproduced, 0 if not, and -1 if its phase is never repeated.

    Merging takes the maximum: one reproduced sighting is enough, and a sighting in `acting` says
    nothing about one in a minibatch.
    """
    return int(seen.reproduced) if states_reproduction(seen) else -1


def has_sightings(payload: PPOUpdatePayload | IncidentRecorded) -> bool:
    """Return whether `sightings_of` yields anything, in a fifth of its time."""
    if isinstance(payload, IncidentRecorded):
        return bool(payload.sightings)
    return bool(
        payload.head_nonfinite
        or any(payload.head_inf_detected.values())
        or any(payload.head_nan_detected.values())
    )


def sightings_of(payload: PPOUpdatePayload | IncidentRecorded) -> Iterator[NonfiniteSighting]:
    """Yield the sightings of an update or an incident.

    A detection of an update without provenance yields a sighting without place and count.
    """
    if isinstance(payload, IncidentRecorded):
        yield from payload.sightings
        return
    explained = set()
    for seen in payload.head_nonfinite:
        explained.add((seen.head, seen.kind.lstrip("+-")))
        yield seen
    for kind, detected in (
        ("inf", payload.head_inf_detected),
        ("nan", payload.head_nan_detected),
    ):
        for head, is_detected in detected.items():
            if is_detected and (head, kind) not in explained:
                yield unexplained(head, kind)


def unexplained(head: str, light: str) -> NonfiniteSighting:
    """Return the sighting of a light ("inf" or "nan") without a known quantity or place."""
    return NonfiniteSighting(
        head=head, quantity=UNKNOWN_QUANTITY, kind=light, count=0, epoch=0, minibatch=0
    )
