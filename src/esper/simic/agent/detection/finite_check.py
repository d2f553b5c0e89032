"""The check that every update runs: its figures are finite unless something in it was not.

A NaN or Inf anywhere in a minibatch reaches one of its figures: a loss, a norm, or a sum or extreme
of some head. One in the weights or the optimizer's state reaches the figures of the state. The
figures are copied to the host once, when the update is over, and are checked there. Only if one is
not finite are the tensors themselves examined (`examination`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from esper.simic.agent.figures import approx_kl
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.minibatch import Minibatch, MinibatchTerms


class FiniteCheck:
    """Skips the step of every minibatch whose loss or gradient is not finite.

    `UpdateWatch`, the check of the second pass, decides in the same way, so that both passes take
    the same steps and can be compared.
    """

    def __init__(self, loss_scale: LossScale) -> None:
        self._loss_scale = loss_scale
        self._good = torch.zeros((), dtype=torch.bool, device=loss_scale.scale.device)

    def forward(self, _index: int, _batch: Minibatch, terms: MinibatchTerms) -> Tensor:
        """Check what the loss was computed from, before the backward pass.

        Args:
            _index: index of the minibatch in the update.
            _batch: its episodes.
            terms: its loss, and all that led to it.

        Returns:
            Whether something other than the fp16 loss scale keeps the gradient from being finite, a
            scalar. It is computed only if the loss is scaled.
        """
        if not self._loss_scale.enabled:
            return self._good
        return ~(terms.loss.detach() + approx_kl(terms)).isfinite()

    def derivable(self, terms: MinibatchTerms) -> tuple[Tensor, ...]:
        """Return the first tensors of `DERIVATIVES`: those whose gradients are examined.

        Each costs time and memory in every minibatch. Those by the logits, the values and the
        trunk's output are left out, since the gradients of the parameters of a head, the critic or
        the trunk show that they broke.
        """
        return terms.log_ratios, terms.entropies

    def backward(
        self,
        _index: int,
        _gradient: Tensor,
        _derivatives: Sequence[Tensor | None],
        excess: Tensor,
    ) -> Tensor:
        """Check the gradients before they are clipped.

        Args:
            _index: index of the minibatch in the update.
            _gradient: gradient of all parameters, `[P]`, without the loss scale.
            _derivatives: gradients of what `derivable` returned.
            excess: the gradient's norm divided by its limit, a scalar, float64. It is not finite
                if any of the figures that `figures.AT_ONCE` names is not.

        Returns:
            A scalar that is finite if and only if the step is to be made.
        """
        return excess
