"""What a watch holds of a minibatch until the optimizer's step."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from esper.watching.hooks import gradient_norm


@dataclass
class HeldMinibatch:
    """What is held of a minibatch until the optimizer's step.

    Attributes:
        norms: of the gradients that were clipped, by the first parameter clipped.
        clipped: parameters whose gradients these norms cover, by id.
        gradients: of each part before clipping, if a norm was not finite.
        is_explained: whether the minibatch is known to be bad.
    """

    norms: dict[int, Tensor] = field(default_factory=dict)
    clipped: set[int] = field(default_factory=set)
    gradients: list[Tensor | None] | None = None
    is_explained: bool = False

    def norm_of(self, optimizer: torch.optim.Optimizer) -> float | None:
        """Return the norm of an optimizer's gradients before clipping; None if it has none."""
        own = [p for group in optimizer.param_groups for p in group["params"]]
        is_clipped = {id(parameter) for parameter in own} & self.clipped
        norms = list(self.norms.values()) if is_clipped else []
        others = [p.grad for p in own if p.grad is not None and id(p) not in is_clipped]
        if others:
            norms.append(gradient_norm(others))
        if not norms:
            return None
        return norms[0].item() if len(norms) == 1 else math.hypot(*(one.item() for one in norms))
