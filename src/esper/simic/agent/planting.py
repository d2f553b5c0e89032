"""Puts the value of a drill where a fault of that head would put it, and tells it from faults."""

from collections.abc import Iterable, Sequence

import msgspec
import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.drill import VALUES, Injection


def plant_in_logits(logits: Tensor, injection: Injection, column: Tensor) -> Tensor:
    """Return `logits` `[T, n, total]` with the value in `column` of the first step of a host."""
    planted = logits.clone()
    planted[0, 0, column] = VALUES[injection.kind]
    return planted


def plant_in_log_probs(
    log_probs: Tensor, active: Tensor, injection: Injection, head: int
) -> Tensor | None:
    """Return `log_probs` `[T, n, H]` with the value where the head was first active.

    None if the head was active in no step: what does not count cannot be a fault.
    """
    places = active[..., head].nonzero()
    if not len(places):
        return None
    step, host = places[0].tolist()
    planted = log_probs.clone()
    planted[step, host, head] = torch.as_tensor(VALUES[injection.kind])
    return planted


def mark_planted(
    sightings: Iterable[NonfiniteSighting], planted: Sequence[tuple[str, int]], per_epoch: int
) -> list[NonfiniteSighting]:
    """Return sightings of an update, those marked that a drill caused.

    A sighting is a drill's if it is of the drill's head and was seen in no other minibatch than
    that in which the value was planted.

    Args:
        sightings: what the update saw.
        planted: head and number of the minibatch of each drill.
        per_epoch: minibatches in an epoch.
    """
    places: dict[str, set[tuple[int, int]]] = {}
    for head, index in planted:
        place = index // per_epoch + 1, index % per_epoch + 1
        places.setdefault(head, set()).add(place)

    def is_planted(seen: NonfiniteSighting) -> bool:
        ends = {(seen.epoch, seen.minibatch), (seen.last_epoch, seen.last_minibatch)}
        is_there_only = ends <= places.get(seen.head, set()) and seen.count == len(ends)
        return seen.phase == "update" and is_there_only

    return [msgspec.structs.replace(seen, planted=is_planted(seen)) for seen in sightings]
