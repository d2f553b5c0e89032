"""What an update reports of NaN and Inf: when, where, how often, and in which words."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from esper.leyline.telemetry import PHASES, NonfiniteSighting, PPOUpdatePayload

#: How kinds of sightings are written for people; "inf" is one whose sign was not reported.
KIND_WORDS: Final = {"nan": "NaN", "+inf": "Inf", "-inf": "-Inf", "inf": "Inf"}
#: The quantity of what was detected without a report of where.
UNKNOWN_QUANTITY: Final = "unknown"
#: Stands beside what was seen once and not when the same computation was repeated.
NOT_REPRODUCED: Final = "not reproduced"
#: Stands beside what only drills have caused so far.
PLANTED: Final = "planted by a drill"

#: How phases are written for people; that something was in a minibatch goes without saying.
_PHASE_WORDS: Final = {
    "given": "given",
    "hosts": "in a host",
    "acting": "while acting",
    "preparation": "while preparing",
    "update": "",
}
_MINIBATCH_PHASE: Final = "update"
_STEP_PHASES: Final = ("hosts", "acting")
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
    return seen.count if seen.phase in _STEP_PHASES else 0


def place_words(phase: str, host: int | None, step: int | None) -> str:
    """Return when and where something was seen: "while acting, host 4, step 7".

    It is empty where no more is known than the minibatch. Hosts are counted from 1 here, as on the
    screen, and from 0 in the store.
    """
    words = [_PHASE_WORDS.get(phase, phase)]
    if host is not None:
        words = [word for word in words if word != _PHASE_WORDS["hosts"]]  # which, says more
        words.append(f"host {host + 1}")
    if step is not None:
        words.append(f"step {step}")
    return ", ".join(filter(None, words))


def quantity_words(quantity: str, part: str) -> str:
    """Return a quantity with its tensor, where it has several: "parameters (lstm.bias_ih_l0)"."""
    return f"{quantity} ({part})" if part else quantity


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
                yield NonfiniteSighting(
                    head=head,
                    quantity=UNKNOWN_QUANTITY,
                    kind=kind,
                    count=0,
                    epoch=0,
                    minibatch=0,
                )
