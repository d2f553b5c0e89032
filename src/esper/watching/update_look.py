"""The one look per update at weights and moments: are they finite, and do they move?"""

from typing import Final

import torch
from torch import Tensor

from esper.leyline.telemetry import STALLED_UPDATES

#: Why no operation is known of what this look sees.
WEIGHTS_ONLY: Final = "it was seen in the weights after the update, not in a minibatch"
NO_STEPS: Final = (
    "no operation is known: neither an optimizer's step nor a call of backward() was seen before "
    "the weights broke. Train with a torch.optim optimizer, and give it to esper.watch"
)


class UpdateLook:
    """Looks at all weights once per update.

    Args:
        parameters: that are trained.

    Attributes:
        still_for: updates up to now in which steps were due, and no weight moved or every gradient
            was 0.
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
        """Return on the device whether all is finite and whether no weight moved since, `[2]`.

        Args:
            moments: what the optimizers keep of the parameters.
        """
        tensors = [*self._parameters, *(one for one in moments if one.is_floating_point())]
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
        """Count an update that is over, in which no weight moved or every gradient was 0."""
        self.still_for = self.still_for + 1 if had_steps and is_still else 0

    @property
    def is_stalled(self) -> bool:
        """Whether training has stood still for `STALLED_UPDATES` updates."""
        return self.still_for >= STALLED_UPDATES
