"""What an update says it saw of NaN and Inf, with or without a word on where."""

from collections.abc import Iterator
from typing import Final

from esper.leyline.telemetry import NonfiniteSighting, PPOUpdatePayload

#: How kinds of sightings are written for people; "inf" is one whose sign was not told.
KIND_WORDS: Final = {"nan": "NaN", "+inf": "Inf", "-inf": "-Inf", "inf": "Inf"}
#: The quantity of what was detected without a word on where.
UNKNOWN_QUANTITY: Final = "unknown"


def last_place(seen: NonfiniteSighting) -> tuple[int, int]:
    """Return epoch and minibatch in which something was last seen in its update; 0, 0 if untold."""
    # What an older writer saw once, it saw last where it saw it first; else it did not say where.
    is_once = not seen.last_epoch and seen.count == 1
    return (seen.epoch, seen.minibatch) if is_once else (seen.last_epoch, seen.last_minibatch)


def sightings_of(payload: PPOUpdatePayload) -> Iterator[NonfiniteSighting]:
    """Yield what an update saw; a detection that no sighting explains has no place and no count."""
    told = set()
    for seen in payload.head_nonfinite:
        told.add((seen.head, seen.kind.lstrip("+-")))
        yield seen
    for kind, detected in (
        ("inf", payload.head_inf_detected),
        ("nan", payload.head_nan_detected),
    ):
        for head, is_detected in detected.items():
            if is_detected and (head, kind) not in told:
                yield NonfiniteSighting(
                    head=head,
                    quantity=UNKNOWN_QUANTITY,
                    kind=kind,
                    count=0,
                    epoch=0,
                    minibatch=0,
                )
