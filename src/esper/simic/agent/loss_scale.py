"""Dynamic loss scaling for fp16, on the device (Micikevicius et al. 2018; as torch's GradScaler).

`GradScaler` is not used because it decides alone whether a step is skipped; here that decision also
depends on whether anything else is not finite.

**When an overflow is ordinary, and when it is reported.** A scale that is too high makes gradients
overflow that would be finite without it. The step is skipped, the scale halves, and the minibatch
is counted (`minibatches_rescaled`) and not reported. It is reported like any non-finite gradient if
one of these holds:

1. the gradient is not finite without the scale either: then the scale is not the cause;
2. the scale would have to fall below 1, where it can make nothing overflow;
3. it repeats: more than `ORDINARY_MINIBATCHES` minibatches in a row overflowed. That many halvings
   reduce the initial scale to 1; later, a scale overflows only after it has grown, every
   `GROWTH_INTERVAL` minibatches. Minibatches are counted, not updates, since an update may have a
   single one.

A scale that is itself not finite is reported as `loss_scale`.
"""

import torch
from torch import Tensor

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000  # good minibatches before the scale is doubled
LARGEST_SCALE = 2.0**24  # not doubled beyond (Apex's limit): gradients of 0 would drive it to Inf
ORDINARY_MINIBATCHES = 16  # in a row that may overflow before it is an alarm


class LossScale:
    """A scale that halves when gradients overflow, and grows after `GROWTH_INTERVAL` good ones."""

    def __init__(self, *, enabled: bool, device: torch.device) -> None:
        self.enabled = enabled
        self.scale = torch.tensor(INITIAL_SCALE if enabled else 1.0, device=device)
        self._good = torch.zeros((), dtype=torch.int64, device=device)
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)  # overflows so far
        self._never = torch.zeros((), dtype=torch.bool, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to differentiate."""
        return loss * self.scale if self.enabled else loss

    def unscale_(self, gradient: Tensor) -> None:
        """Divide a gradient by the scale, in place."""
        if self.enabled:
            gradient.mul_(1 / self.scale)

    def is_overflow(self, total: Tensor, forward_bad: Tensor) -> Tensor:
        """Return whether the scale may have caused non-finite gradients.

        Args:
            total: not finite if anything in the minibatch is not, a scalar.
            forward_bad: whether the forward pass is not finite, a scalar.
        """
        if not self.enabled:
            return self._never
        return ~total.isfinite() & ~forward_bad & (self.scale >= 2) & self.scale.isfinite()

    def is_ordinary(self, overflow: Tensor) -> Tensor:
        """Return whether an overflow is not to be reported; call it before `update`."""
        if not self.enabled:
            return self._never
        return overflow & (self._in_a_row < ORDINARY_MINIBATCHES)

    def update(self, overflow: Tensor, total: Tensor) -> None:
        """Adapt the scale after a minibatch; a fault for another reason changes nothing.

        Args:
            overflow: whether the scale made the gradients overflow, a scalar.
            total: not finite if anything in the minibatch is not, a scalar.
        """
        if not self.enabled:
            return
        bad = ~total.isfinite()
        good = torch.where(overflow, 0, self._good + (~bad).long())
        grow = good >= GROWTH_INTERVAL
        factor = torch.where(
            overflow, 0.5, torch.where(grow & (self.scale < LARGEST_SCALE), 2.0, 1.0)
        )
        self.scale = self.scale * factor
        self._good = torch.where(grow, 0, good)
        in_a_row = torch.where(bad, self._in_a_row, 0)
        self._in_a_row = torch.where(overflow, self._in_a_row + 1, in_a_row)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the scale and its counters."""
        return {
            "scale": self.scale,
            "good": self._good,
            "overflows_in_a_row": self._in_a_row,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned."""
        self.scale = state["scale"].to(self.scale.device)
        self._good = state["good"].to(self._good.device)
        # A checkpoint of version 0.1 counted updates instead.
        in_a_row = state.get("overflows_in_a_row", torch.zeros((), dtype=torch.int64))
        self._in_a_row = in_a_row.to(self._in_a_row.device)
