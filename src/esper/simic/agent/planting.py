"""Puts the value of a drill where a fault of that head would put it."""

import torch
from torch import Tensor

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
