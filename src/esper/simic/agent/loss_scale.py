"""Dynamic loss scaling for fp16, on the device (Micikevicius et al. 2018; as torch's GradScaler).

Written out because `GradScaler` decides by itself whether a step is skipped, and here that decision
is joined with the flags of every head.
"""

import torch
from torch import Tensor

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000  # good minibatches before the scale is doubled


class LossScale:
    """A scale that halves when gradients overflow and doubles after a long good spell."""

    def __init__(self, *, enabled: bool, device: torch.device) -> None:
        self.enabled = enabled
        self.scale = torch.tensor(INITIAL_SCALE if enabled else 1.0, device=device)
        self._good = torch.zeros((), dtype=torch.int64, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to run backward from."""
        return loss * self.scale if self.enabled else loss

    def unscale_(self, gradient: Tensor) -> None:
        """Take the scale out of a gradient, in place."""
        if self.enabled:
            gradient.mul_(1 / self.scale)

    def is_overflow(self, broken: Tensor) -> Tensor:
        """Return whether gradients that broke, with all before them finite, broke by the scale."""
        return broken & (self.scale > 1) if self.enabled else torch.zeros_like(broken)

    def update(self, overflow: Tensor, bad: Tensor) -> None:
        """Move the scale after one minibatch; one that was bad for another reason moves nothing."""
        if not self.enabled:
            return
        good = torch.where(overflow, 0, self._good + (~bad).long())
        grow = good >= GROWTH_INTERVAL
        factor = torch.where(overflow, 0.5, torch.where(grow, 2.0, 1.0))
        self.scale = self.scale * factor
        self._good = torch.where(grow, 0, good)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs."""
        return {"scale": self.scale, "good": self._good}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.scale = state["scale"].to(self.scale.device)
        self._good = state["good"].to(self._good.device)
