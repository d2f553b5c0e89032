"""Check of weights and optimizer state once per update: are they finite, and do they change?"""

from typing import Final

import torch
from torch import Tensor

from esper.leyline.telemetry import STALLED_UPDATES
from esper.watching.model.shards import local

#: Reason why the operation is not known for what this check finds.
WEIGHTS_ONLY: Final = "it was seen in the weights after the update, not in a minibatch"
NO_STEPS: Final = (
    "no operation is known: neither an optimizer's step nor a call of backward() was seen before "
    "the weights broke. Train with a torch.optim optimizer, and give it to esper.watch"
)


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
        self._norms: Tensor | None = None
        self.still_for = 0

    @torch.no_grad()
    def look(self, moments: list[Tensor]) -> Tensor:
        """Return whether all is finite and whether no weight moved, as a device tensor `[2]`.

        Args:
            moments: the optimizers' state tensors.
        """
        own = [local(one) for one in self._parameters]
        tensors = [*own, *(local(one) for one in moments if one.is_floating_point())]
        each = list(torch._foreach_norm(tensors, 2.0, dtype=self._type))
        device = each[0].device
        if any(one.device != device for one in each):
            each = [one.to(device) for one in each]
        all_norms = torch.stack(each)
        norms = all_norms[: len(self._parameters)]
        before, self._norms = self._norms, norms
        same = norms.new_zeros((), dtype=torch.bool) if before is None else (norms == before).all()
        return torch.stack([all_norms.isfinite().all(), same])

    def count(self, *, is_still: bool, had_steps: bool) -> None:
        """Count a completed update; `is_still`: no weight moved or every gradient was 0."""
        self.still_for = self.still_for + 1 if had_steps and is_still else 0

    @property
    def is_stalled(self) -> bool:
        """Whether training made no progress for `STALLED_UPDATES` updates."""
        return self.still_for >= STALLED_UPDATES
