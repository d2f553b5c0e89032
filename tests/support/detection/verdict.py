"""Compares what an update reported with what was expected of it, for the detection campaign."""

from collections.abc import Sequence

from detection.stage import ANY, Sight
from esper.leyline.quantities import causal_rank
from esper.leyline.telemetry import HOSTS, PHASES, SHARED, NonfiniteSighting
from esper.simic.agent.figures import UpdateResult

#: What can be wrong with a report; UNSOUND is the campaign's own fault, of a case not as intended.
MISSED, INNOCENT, FALSE_ALARM = "missed", "innocent", "false alarm"
ATTRIBUTION, UNSOUND, CRASHED = "attribution", "unsound", "crashed"
SORTS = (MISSED, INNOCENT, FALSE_ALARM, ATTRIBUTION, UNSOUND, CRASHED)

#: Quantities that stay as they are from one minibatch to the next.
_STATE = ("moments", "parameters")

Complaint = tuple[str, str]  # one of the above, and the details


def complaint_of_clean(result: UpdateResult) -> Complaint | None:
    """Return what is wrong with the report of an update in which nothing broke."""
    if result.figures.head_nonfinite:
        return FALSE_ALARM, f"reported {_shown(result.figures.head_nonfinite)}"
    if any((*result.head_inf_detected.values(), *result.head_nan_detected.values())):
        return FALSE_ALARM, "a light without a sighting"
    if result.figures.minibatches_skipped:
        return FALSE_ALARM, f"{result.figures.minibatches_skipped} good minibatches were skipped"
    if not result.reproduced:
        return FALSE_ALARM, "reported as not reproduced"
    return None


def complaint_of_faults(
    result: UpdateResult, expected: Sequence[Sight], before: Sequence[NonfiniteSighting] = ()
) -> Complaint | None:
    """Return what is wrong with the report of an update with faults.

    Args:
        result: the report.
        expected: what must be in it, and what may be.
        before: sightings of acting and of hosts that were handed in.
    """
    sightings = list(result.figures.head_nonfinite)
    context = f"; expected {_wanted(expected)}; reported {_shown(sightings)}"
    for given in before:
        if given not in sightings:
            return MISSED, f"{given} was handed in{context}"
        sightings.remove(given)
    required = [sight for sight in expected if sight.required]
    matched: list[NonfiniteSighting] = []
    for sight in required:
        same = [seen for seen in sightings if _is_of(seen, sight) and seen not in matched]
        same = [seen for seen in same if seen.reproduced == sight.reproduced] or same
        if not same:
            return MISSED, f"{sight.head} {sight.quantity} {sight.kind}{context}"
        wrong = _wrong_details(same[0], sight)
        if wrong:
            return ATTRIBUTION, f"wrong {wrong} of {sight.head} {sight.quantity}{context}"
        matched.append(same[0])
    found = (
        _complaint_of_others([s for s in sightings if s not in matched], expected, before)
        or _complaint_of_order(sightings, expected)
        or _complaint_of_lights(result)
        or _complaint_of_result(result, expected, before)
    )
    return (found[0], found[1] + context) if found else None


def _is_of(seen: NonfiniteSighting, sight: Sight) -> bool:
    return (seen.head, seen.quantity) == (sight.head, sight.quantity) and (
        sight.kind in (None, seen.kind)
    )


def _wrong_details(seen: NonfiniteSighting, sight: Sight) -> str:
    """Return the names of what does not agree."""
    last = (seen.last_epoch, seen.last_minibatch)
    is_last_checked = sight.last is not None and seen.phase == "update"
    # State that broke in a pass of which only figures are known, and harmed nothing in it, has no
    # minibatch that can be known.
    is_place_known = sight.reproduced or sight.quantity not in _STATE
    place = seen.phase, seen.epoch, seen.minibatch
    wrong = {
        "first place": is_place_known and place not in sight.at,
        "last place": is_last_checked and last != sight.last,
        "host": sight.host != ANY and seen.host != sight.host,
        "step": sight.step != ANY and seen.step != sight.step,
        "part": sight.part not in seen.part,
        "reproduced": seen.reproduced != sight.reproduced,
        "count": seen.count < 1,
    }
    return ", ".join(name for name, is_wrong in wrong.items() if is_wrong)


def _complaint_of_others(
    others: Sequence[NonfiniteSighting],
    expected: Sequence[Sight],
    before: Sequence[NonfiniteSighting],
) -> Complaint | None:
    """Return what is wrong with sightings that nothing required matches."""
    handed_in = {seen.head for seen in before} - {SHARED, HOSTS}
    for seen in others:
        if any(
            (seen.head, seen.quantity) == (sight.head, sight.quantity)
            for sight in expected
            if not sight.required
        ):
            continue  # of any kind: what it lies behind may have made another of it
        own = [sight for sight in expected if sight.head == seen.head]
        if not own and seen.head not in handed_in:
            kind = ATTRIBUTION if seen.head == SHARED else INNOCENT
            return kind, f"{seen.head} {seen.quantity} is innocent"
        if any(_is_of(seen, sight) for sight in own if sight.kind is None):
            continue  # the arithmetic may make several kinds of one value
        if seen.head == SHARED:
            return ATTRIBUTION, f"shared {seen.quantity} is more than the cause"
        # Within a head, what follows from its first sighting may be reported too.
        firsts = [(_time(sight), causal_rank(sight.quantity)) for sight in own]
        if firsts and (_seen_time(seen), causal_rank(seen.quantity)) < min(firsts):
            return ATTRIBUTION, f"{seen.head} {seen.quantity} comes before its cause"
        kinds = {s.kind for s in own if s.quantity == seen.quantity}
        if kinds and None not in kinds and _seen_time(seen) in {_time(s) for s in own}:
            return ATTRIBUTION, f"{seen.head} {seen.quantity} was never {seen.kind}"
        if own and seen.reproduced not in {sight.reproduced for sight in own}:
            return ATTRIBUTION, f"wrong reproduced of {seen.head} {seen.quantity}"
    return None


def _time(sight: Sight) -> tuple[int, int, int]:
    return min((PHASES.index(phase), epoch, minibatch) for phase, epoch, minibatch in sight.at)


def _seen_time(seen: NonfiniteSighting) -> tuple[int, int, int]:
    return PHASES.index(seen.phase), seen.epoch, seen.minibatch


def _complaint_of_order(
    sightings: Sequence[NonfiniteSighting], expected: Sequence[Sight]
) -> Complaint | None:
    """Return what is wrong with the order, above all with what comes first."""
    required = [
        sight
        for sight in expected
        if sight.required and (sight.reproduced or sight.quantity not in _STATE)
    ]
    times = [_seen_time(seen) for seen in sightings]
    if times != sorted(times):
        return ATTRIBUTION, "sightings are not in the order of time"
    if not required:
        return None
    latest = min(
        (
            max((PHASES.index(phase), epoch, minibatch) for phase, epoch, minibatch in sight.at),
            causal_rank(sight.quantity),
        )
        for sight in required
    )
    optional = [sight for sight in expected if not sight.required]
    if any(_is_of(sightings[0], sight) for sight in optional):
        return None  # what may be reported may also come first
    first = sightings[0]
    if not first.reproduced and first.quantity in _STATE:
        return None  # its place is not known
    candidates = [s for s in required if (_time(s), causal_rank(s.quantity)) <= latest]
    if not any(_is_of(sightings[0], sight) for sight in candidates):
        return ATTRIBUTION, "wrong first-out"
    return None


def _complaint_of_lights(result: UpdateResult) -> Complaint | None:
    """Return which light disagrees with the sightings."""
    for lights, is_nan in ((result.head_nan_detected, True), (result.head_inf_detected, False)):
        for head, is_on in lights.items():
            kinds = {seen.kind for seen in result.figures.head_nonfinite if seen.head == head}
            if is_on != ("nan" in kinds if is_nan else bool(kinds - {"nan"})):
                kind = INNOCENT if is_on else MISSED
                return kind, f"the {'NaN' if is_nan else 'Inf'} light of {head} is {is_on}"
    return None


def _complaint_of_result(
    result: UpdateResult, expected: Sequence[Sight], before: Sequence[NonfiniteSighting]
) -> Complaint | None:
    """Return what is wrong with the result's figures of the whole update."""
    if not any(sight.required for sight in expected):
        return None
    shown = {(seen.head, seen.quantity) for seen in result.figures.head_nonfinite}
    reproduced = any(
        sight.reproduced
        for sight in expected
        if sight.required or (sight.head, sight.quantity) in shown
    )
    if not before and result.reproduced != reproduced:
        return ATTRIBUTION, f"the update is reported with reproduced={result.reproduced}"
    if not before and not reproduced and result.figures.minibatches_skipped:
        return (
            ATTRIBUTION,
            f"{result.figures.minibatches_skipped} minibatches skipped of a clean pass",
        )
    return None


def _shown(sightings: Sequence[NonfiniteSighting]) -> str:
    return "[" + "; ".join(
        f"{s.head} {s.quantity} {s.kind} {s.phase} {s.epoch}/{s.minibatch}"
        f" to {s.last_epoch}/{s.last_minibatch} host {s.host} step {s.step} {s.part!r}"
        f"{'' if s.reproduced else ' once'}"
        for s in sightings
    ) + "]"  # fmt: skip


def _wanted(expected: Sequence[Sight]) -> str:
    return "[" + "; ".join(
        f"{s.head} {s.quantity} {s.kind} {'|'.join(f'{p} {e}/{m}' for p, e, m in s.at)}"
        f" to {s.last} host {s.host} step {s.step} {s.part!r}"
        f"{'' if s.reproduced else ' once'}{'' if s.required else ' perhaps'}"
        for s in expected
    ) + "]"  # fmt: skip
