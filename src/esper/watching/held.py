"""What a watch holds of a minibatch until the optimizer's step."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from esper.watching.explaining import Found
from esper.watching.hooks import gradient_norm


@dataclass
class HeldMinibatch:
    """What is held of a minibatch until the optimizer's step.

    Attributes:
        norms: of the gradients that were clipped, by the first parameter clipped.
        clipped: parameters whose gradients these norms cover, by id.
        gradients: of each part before clipping, if a norm was not finite.
        results: scalars that are finite if what was computed is, such as the sums of outputs and
            the losses; with owner and quantity.
        is_explained: whether the minibatch is known to be bad.
        is_scaled: whether a loss scaler leaves the step out if gradients are not finite.
    """

    norms: dict[int, Tensor] = field(default_factory=dict)
    clipped: set[int] = field(default_factory=set)
    gradients: list[Tensor | None] | None = None
    results: list[tuple[str, str, Tensor]] = field(default_factory=list)
    is_explained: bool = False
    is_scaled: bool = False

    def bad_results(self) -> tuple[Found, ...]:
        """Return the first result that is not finite. This waits for the device, once."""
        if not self.results:
            return ()
        device = self.results[0][2].device
        values = torch.stack([value.double().to(device) for _, _, value in self.results]).tolist()
        for (owner, quantity, _), value in zip(self.results, values, strict=True):
            if not math.isfinite(value):
                kind = "nan" if math.isnan(value) else "+inf" if value > 0 else "-inf"
                return (Found(owner, quantity, kind),)
        return ()

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
