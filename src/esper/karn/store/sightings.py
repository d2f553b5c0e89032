"""What an update reports of NaN and Inf: when, how often, and whether it was reproduced."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from esper.leyline.telemetry import PHASES, STEP_PHASES, NonfiniteSighting, PPOUpdatePayload

#: The quantity of what was detected without a report of where.
UNKNOWN_QUANTITY: Final = "unknown"

_MINIBATCH_PHASE: Final = "update"
#: Phases that are gone through only once: what is seen in them is neither reproduced nor not.
_ONCE_PHASES: Final = ("given", "acting")
_PHASE_RANKS: Final = {phase: rank for rank, phase in enumerate(PHASES)}

#: Head or group, quantity and kind: what sightings are added up by.
Source = tuple[str, str, str]


class Moment(NamedTuple):
    """When in a run something was seen; moments are ordered by time.

    What has no host or step has -1 there.
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
    """Return what a sighting is added up by."""
    return seen.head, seen.quantity, seen.kind


def phase_rank(phase: str) -> int:
    """Return the place of a phase in time; one of a newer writer comes after all that are known."""
    return _PHASE_RANKS.get(phase, len(PHASES))


def step_in_phase(phase: str, step: int | None) -> int:
    """Return the step of an episode in a phase that goes on step by step; 0 in the others."""
    return step or 0 if phase in STEP_PHASES else 0


def moment_of(update: int, seen: NonfiniteSighting) -> Moment:
    """Return when something was first seen in its update."""
    step = -1 if seen.step is None else seen.step
    host = -1 if seen.host is None else seen.host
    rank = phase_rank(seen.phase)
    return Moment(update, rank, seen.phase, seen.epoch, seen.minibatch, step, host, seen.part)


def last_moment_of(update: int, seen: NonfiniteSighting) -> Moment:
    """Return when something was last seen in its update; of host and step only the first is known.

    Epoch and minibatch are 0 where they were not reported. A last place before the first one counts
    as the first.
    """
    last = seen.last_epoch, seen.last_minibatch
    # An older writer did not report the last place; what it saw once, it saw last in the first.
    if seen.last_epoch or seen.count == 1:
        last = max(last, (seen.epoch, seen.minibatch))
    return Moment(update, phase_rank(seen.phase), seen.phase, *last, -1, -1, seen.part)


def minibatches_of(seen: NonfiniteSighting) -> int:
    """Return in how many minibatches something was seen; 0 in a phase that has none."""
    return seen.count if seen.phase == _MINIBATCH_PHASE else 0


def steps_of(seen: NonfiniteSighting) -> int:
    """Return in how many steps of an episode something was seen; 0 in a phase that has none."""
    return seen.count if seen.phase in STEP_PHASES else 0


def is_repeated(phase: str) -> bool:
    """Return whether a phase is gone through again where something was seen in it."""
    return phase not in _ONCE_PHASES


def states_reproduction(seen: NonfiniteSighting) -> bool:
    """Return whether a sighting says that something was reproduced, or that it was not."""
    return is_repeated(seen.phase) or not seen.reproduced


def reproduction_of(seen: NonfiniteSighting) -> int:
    """Return 1 if something was reproduced, 0 if not, and -1 if its phase is never repeated.

    The larger of two stands: what was reproduced once is reproduced, and what was seen while acting
    says nothing of what was not reproduced in a minibatch.
    """
    return int(seen.reproduced) if states_reproduction(seen) else -1


def sightings_of(payload: PPOUpdatePayload) -> Iterator[NonfiniteSighting]:
    """Yield what an update saw; a detection that no sighting explains has no place and no count."""
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
