"""The second pass over an update that was not finite, in which every tensor is examined."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from esper.simic.agent.agreement import ALONE, Agreement
from esper.simic.agent.detection.codes import Codes, StateCodes
from esper.simic.agent.detection.finite_check import FiniteCheck
from esper.simic.agent.detection.readers import (
    DERIVATIVES,
    backward_codes,
    forward_codes,
    state_codes,
)
from esper.simic.agent.flat_parameters import FlatParameters
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.minibatch import Minibatch, MinibatchTerms
from esper.tamiyo.policy import RecurrentPolicy


class UpdateWatch(FiniteCheck):
    """Records the codes of everything in the minibatches of one pass.

    It skips the steps that `FiniteCheck` skips. In addition, it skips those of minibatches in which
    a logit is broken that reaches neither loss nor gradient, and those that broken optimizer state
    would break, and those that another process of the run skips.

    Attributes:
        forward_codes: codes of each minibatch's forward pass.
        backward_codes: codes of each minibatch's gradients, as its step would use them.
        unscaled_codes: codes of each minibatch's gradients without the fp16 loss scale; empty if
            the loss is not scaled.
        start: codes of the state when the watch was made, before the pass.
        start_step: Adam's step counter then, a scalar.
        states: codes of the state before each minibatch.
    """

    def __init__(
        self,
        policy: RecurrentPolicy,
        parameters: FlatParameters,
        optimizer: torch.optim.Optimizer,
        loss_scale: LossScale,
        agreement: Agreement = ALONE,
    ) -> None:
        super().__init__(loss_scale)
        self._agreement = agreement
        self._policy = policy
        self._parameters = parameters
        self._optimizer = optimizer
        self._bad = torch.zeros((), dtype=torch.bool, device=parameters.flat.device)
        self.forward_codes: list[Codes] = []
        self.backward_codes: list[Codes] = []
        self.unscaled_codes: list[Codes] = []
        self.start = self.state()
        adam = optimizer.state.get(parameters.flat, {})
        self.start_step = adam["step"].clone() if adam else torch.zeros(())
        self.states: list[StateCodes] = []

    def state(self) -> StateCodes:
        """Return the codes of parameters, moments and loss scale as they are now."""
        state = self._optimizer.state.get(self._parameters.flat, {})
        return state_codes(self._parameters.flat, state, self._loss_scale.scale)

    @torch.no_grad()
    def forward(self, index: int, batch: Minibatch, terms: MinibatchTerms) -> Tensor:
        """Record everything that the loss is computed from.

        Returns:
            Whether something other than the fp16 loss scale keeps the gradient from being finite:
            the loss, or the gradient without the scale.
        """
        codes = forward_codes(batch, terms, self._loss_scale.scale, self._policy.table)
        self.forward_codes.append(codes)
        state = self.state()
        self.states.append(state)
        self._bad = _any((codes["logits"], state.first_moment, state.second_moment, state.step))
        forward_bad = super().forward(index, batch, terms)
        if self._loss_scale.enabled:
            self.unscaled_codes.append(self._without_scale(terms))
            forward_bad = forward_bad | _any(self.unscaled_codes[-1].values())
            forward_bad = self._agreement.any_of(forward_bad)
        return forward_bad

    def derivable(self, terms: MinibatchTerms) -> tuple[Tensor, ...]:
        """Return all tensors of `DERIVATIVES`."""
        return tuple(read(terms) for read in DERIVATIVES.values())

    @torch.no_grad()
    def backward(
        self,
        index: int,
        gradient: Tensor,
        derivatives: Sequence[Tensor | None],
        excess: Tensor,
    ) -> Tensor:
        """Record the gradients before they are clipped.

        Returns:
            `excess`; NaN if a logit or the optimizer's state is bad, or if it is not finite in
            another process of the run.
        """
        self.backward_codes.append(backward_codes(gradient, derivatives))
        total = super().backward(index, gradient, derivatives, excess)
        total = total.masked_fill(self._bad, torch.nan)
        return total.masked_fill(self._agreement.any_of(~total.isfinite()), torch.nan)

    def _without_scale(self, terms: MinibatchTerms) -> Codes:
        """Return the codes of the gradients without the loss scale."""
        also = self.derivable(terms)
        with torch.enable_grad():
            found = torch.autograd.grad(
                terms.loss,
                (*also, *self._parameters.parameters),
                retain_graph=True,
                allow_unused=True,
            )
        flat = torch.cat([part.flatten() for part in found[len(also) :]])
        return backward_codes(flat, found[: len(also)])


def _any(codes: Iterable[Tensor]) -> Tensor:
    return torch.stack([(part > 0).any() for part in codes]).any()
