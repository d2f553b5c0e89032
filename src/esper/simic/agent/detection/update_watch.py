"""The second pass over an update that was not finite, in which every tensor is examined."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from esper.simic.agent.detection.codes import Codes, StateCodes
from esper.simic.agent.detection.readers import (
    backward_codes,
    derivable,
    forward_codes,
    state_codes,
)
from esper.simic.agent.flat_parameters import FlatParameters
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.minibatch import Minibatch, MinibatchTerms
from esper.tamiyo.policy import RecurrentPolicy


class UpdateWatch:
    """A `StepCheck` that records the codes of everything in the minibatches of one pass.

    It skips the step of a minibatch in which anything is not finite.

    Attributes:
        forward_codes: codes of each minibatch's forward pass.
        backward_codes: codes of each minibatch's gradients, as its step would use them.
        unscaled_codes: codes of each minibatch's gradients without the fp16 loss scale; empty if
            the loss is not scaled.
        start: codes of the state when the watch was made, before the pass.
        states: codes of the state before each minibatch.
    """

    def __init__(
        self,
        policy: RecurrentPolicy,
        parameters: FlatParameters,
        optimizer: torch.optim.Optimizer,
        loss_scale: LossScale,
    ) -> None:
        self._policy = policy
        self._parameters = parameters
        self._optimizer = optimizer
        self._loss_scale = loss_scale
        self._bad = torch.zeros((), dtype=torch.bool, device=parameters.flat.device)
        self.forward_codes: list[Codes] = []
        self.backward_codes: list[Codes] = []
        self.unscaled_codes: list[Codes] = []
        self.start = self.state()
        self.states: list[StateCodes] = []

    def state(self) -> StateCodes:
        """Return the codes of parameters, moments and loss scale as they are now."""
        state = self._optimizer.state.get(self._parameters.flat, {})
        return state_codes(self._parameters.flat, state, self._loss_scale.scale)

    @torch.no_grad()
    def forward(self, _index: int, batch: Minibatch, terms: MinibatchTerms) -> Tensor:
        """Record everything that the loss is computed from; return whether any of it is bad.

        Bad optimizer state counts in `backward` only: it does not concern the fp16 loss scale.
        """
        codes = forward_codes(batch, terms, self._loss_scale.scale, self._policy.table)
        self.forward_codes.append(codes)
        self.states.append(self.state())
        examined = [*codes.values()]
        if self._loss_scale.enabled:
            self.unscaled_codes.append(self._without_scale(terms))
            examined += self.unscaled_codes[-1].values()
        forward_bad = _any(examined)
        state = self.states[-1]
        optimizer_bad = _any((state.first_moment, state.second_moment, state.step))
        self._bad = forward_bad | optimizer_bad
        return forward_bad

    @torch.no_grad()
    def backward(
        self,
        _index: int,
        gradient: Tensor,
        derivatives: Sequence[Tensor | None],
        at_once: Tensor,
    ) -> Tensor:
        """Record the gradients before they are clipped.

        Returns:
            A scalar: NaN if anything in the minibatch was bad, otherwise 0.
        """
        codes = backward_codes(gradient, derivatives)
        self.backward_codes.append(codes)
        bad = self._bad | _any(codes.values()) | ~at_once.sum().isfinite()
        return at_once.new_zeros(()).masked_fill(bad, torch.nan)

    def _without_scale(self, terms: MinibatchTerms) -> Codes:
        """Return the codes of the gradients without the loss scale."""
        also = derivable(terms)
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
