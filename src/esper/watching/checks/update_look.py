"""Check of weights and optimizer state once per update: are they finite, and do they change?"""

import math
from typing import Final

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from esper.leyline.telemetry import STALLED_UPDATES
from esper.watching.model.shards import is_shared, local

#: Reason why the operation is not known for what this check finds.
WEIGHTS_ONLY: Final = "it was seen in the weights after the update, not in a minibatch"
NO_STEPS: Final = (
    "no operation is known: neither an optimizer's step nor a call of backward() was seen before "
    "the weights broke. Train with a torch.optim optimizer, and give it to esper.watch"
)
#: Models of up to so many weights are copied and compared: a norm of each tensor takes longer.
_SMALL: Final = 16_384
Scalar = Tensor | bool


class UpdateLook:
    """Checks all weights once per update.

    Args:
        parameters: the trained parameters.

    Attributes:
        still_for: number of consecutive updates with steps in which no weight moved or every
            gradient was 0.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters
        # A norm in half precision would hide small steps.
        is_half = any(one.dtype.itemsize < 4 for one in parameters)
        self._type = torch.float32 if is_half else None
        self._before: Tensor | None = None
        self.still_for = 0
        self._count = sum(one.numel() for one in parameters)
        self._are_shared = any(map(is_shared, parameters))
        self._is_small = self._count <= _SMALL and not self._are_shared

    @torch.no_grad()
    def look(self, moments: list[Tensor]) -> tuple[Scalar, Scalar]:
        """Return whether all is finite, and whether no weight moved.

        Args:
            moments: the optimizers' state tensors, those in this process.
        """
        own = [local(one) for one in self._parameters] if self._are_shared else self._parameters
        tensors = [*own, *(one for one in moments if one.is_floating_point())]
        if self._is_small and all(one.is_cpu for one in tensors):
            every = _flatten_dense_tensors(tensors)
            now = every[: self._count]
            # A norm takes a fifth of the time of `isfinite`; it may overflow.
            norm = torch.linalg.vector_norm(every).item()
            are_finite: Scalar = math.isfinite(norm) or bool(every.isfinite().all())
            is_same: Scalar = self._before is not None and torch.equal(now, self._before)
        else:
            each = list(torch._foreach_norm(tensors, 2.0, dtype=self._type))
            device = each[0].device
            if any(one.device != device for one in each):
                each = [one.to(device) for one in each]
            norms = torch.stack(each)
            now = norms[: len(own)]
            are_finite = norms.isfinite().all()
            before = self._before
            is_same = before is not None and before.shape == now.shape and (now == before).all()
        self._before = now
        return are_finite, is_same

    def count(self, *, is_still: bool, had_steps: bool) -> None:
        """Count a completed update; `is_still`: no weight moved or every gradient was 0."""
        self.still_for = self.still_for + 1 if had_steps and is_still else 0

    @property
    def is_stalled(self) -> bool:
        """Whether training made no progress for `STALLED_UPDATES` updates."""
        return self.still_for >= STALLED_UPDATES
