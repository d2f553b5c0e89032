"""The check that every update pays for: its figures are finite unless something in it broke.

A NaN or an Inf anywhere in a minibatch reaches one of its figures: a loss, a norm, a sum or an
extreme of some head. One in the weights or the optimizer's state reaches the figures of the state.
The figures come to the host anyway when the update is over, and it is there that they are asked
whether all are finite. Only then are the tensors themselves looked at (`examination`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from esper.simic.agent.figures import divergence
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.losses import Minibatch, MinibatchTerms


class FiniteCheck:
    """Leaves out the step of a minibatch whose loss or gradient is not finite; records nothing.

    It decides as `UpdateWatch` does, but for what reaches neither, so that two passes over an
    update take the same steps and can be compared.
    """

    def __init__(self, loss_scale: LossScale) -> None:
        self._loss_scale = loss_scale
        self._good = torch.zeros((), dtype=torch.bool, device=loss_scale.scale.device)

    def forward(self, _index: int, _batch: Minibatch, terms: MinibatchTerms) -> Tensor:
        """Return whether the forward pass broke, where the fp16 loss scale must know: a scalar."""
        if not self._loss_scale.enabled:
            return self._good
        return ~(terms.loss.detach() + divergence(terms)).isfinite()

    def backward(
        self,
        _index: int,
        _gradient: Tensor,
        _derivatives: Sequence[Tensor | None],
        at_once: Tensor,
    ) -> Tensor:
        """Return a scalar that is finite if and only if the minibatch may be learnt from.

        Args:
            at_once: the figures that `figures.AT_ONCE` names, `[6]`, in float64.
        """
        return at_once.sum()
