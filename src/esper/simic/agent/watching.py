"""The exact watch over an update: every quantity of every head, and all that they share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.figures import Figures
from esper.simic.agent.flat_parameters import FlatParameters
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.losses import Minibatch, MinibatchTerms
from esper.simic.telemetry.nonfinite import NonfiniteMonitor, kinds_in
from esper.tamiyo.policy import RecurrentPolicy

#: What Adam keeps of each parameter.
MOMENTS = ("exp_avg", "exp_avg_sq")


class UpdateWatch:
    """Flags what is not finite in the minibatches of one update.

    Made before the first of them: parameters that were not finite even then did not become so here.
    """

    def __init__(
        self,
        policy: RecurrentPolicy,
        parameters: FlatParameters,
        optimizer: torch.optim.Optimizer,
        loss_scale: LossScale,
        minibatches: int,
    ) -> None:
        self._policy = policy
        self._parameters = parameters
        self._optimizer = optimizer
        self._loss_scale = loss_scale
        self._minibatches = minibatches
        critic = {id(parameter) for parameter in policy.critic.parameters()}
        self._critic = [
            place
            for place, parameter in enumerate(parameters.parameters)
            if id(parameter) in critic
        ]
        self._active = torch.zeros(0)
        self._finite = [parameter.isfinite() for parameter in parameters.parameters]
        device = parameters.flat.device
        self._monitor = NonfiniteMonitor(
            policy.layout.names, minibatches=minibatches, device=device
        )

    @torch.no_grad()
    def forward(self, index: int, batch: Minibatch, terms: MinibatchTerms) -> Tensor:
        """Flag everything that the loss is made of; return whether anything was."""
        monitor = self._monitor
        if index > 0:
            self._see_parameters(index - 1)
        self._see_moments(index)
        active = self._active = batch.active
        monitor.set_heads(index, "logits", self._logit_kinds(terms.output.logits, batch))
        monitor.see_heads(index, "old_log_prob", batch.old_log_probs, active)
        monitor.see_heads(index, "log_prob", terms.log_probs, active)
        monitor.see_heads(index, "ratio", terms.ratios)
        monitor.see_heads(index, "entropy", terms.entropies)
        monitor.see_shared(index, "loss_scale", self._loss_scale.scale)
        monitor.see_shared(index, "observations", batch.observations)
        monitor.see_shared(index, "recurrent_state", _states(batch, terms))
        monitor.see_shared(index, "advantages", batch.advantages)
        monitor.see_shared(index, "returns", batch.returns)
        monitor.see_shared(index, "trunk", terms.output.trunk)
        monitor.see_shared(index, "value", terms.output.values)
        monitor.see_shared(index, "joint_ratio", terms.joint_ratio)
        monitor.see_shared(index, "policy_loss", terms.policy_loss)
        monitor.see_shared(index, "value_loss", terms.value_loss)
        monitor.see_shared(index, "entropy_loss", terms.entropy_loss)
        monitor.see_shared(index, "loss", terms.loss)
        if self._loss_scale.enabled:
            self._see_unscaled_gradients(index, terms.loss, active)
        return monitor.bad(index)

    @torch.no_grad()
    def backward(self, index: int, _norm: Tensor) -> Tensor:
        """Flag the gradients, before they are clipped; return whether anything was ever flagged."""
        # Where the forward pass or the unscaled gradient broke already, the scale adds only noise.
        counts = ~self._monitor.bad(index) | (not self._loss_scale.enabled)
        gradients = [p.grad for p in self._parameters.parameters if p.grad is not None]
        self._see_gradients(index, gradients, self._active, counts)
        return self._monitor.bad(index)

    def sightings(
        self, minibatches_per_epoch: int, figures: Figures, *, overflow_is_excused: bool = True
    ) -> list[NonfiniteSighting]:
        """Return what was seen, causes only.

        Args:
            minibatches_per_epoch: how minibatch numbers divide into epochs.
            figures: of the same pass.
            overflow_is_excused: whether overflow of the fp16 loss scale is still ordinary.
        """
        self._see_parameters(self._minibatches - 1)
        self._see_moments(self._minibatches - 1)
        excused = figures.overflow.nonzero().flatten().tolist() if overflow_is_excused else ()
        return self._monitor.sightings(
            self._monitor.flags.cpu(),
            minibatches_per_epoch,
            excused=excused,
        )

    @torch.no_grad()
    def _see_parameters(self, index: int) -> None:
        """Flag the parameters that the step of a minibatch made non-finite."""
        *body, weight, bias = self._parameters.parameters
        finite = [parameter.isfinite() for parameter in self._parameters.parameters]
        *born, born_weight, born_bias = [
            before & ~now for before, now in zip(self._finite, finite, strict=True)
        ]
        self._finite = finite
        rows = torch.cat((weight, bias.unsqueeze(1)), dim=1)  # [total, columns]
        counted = torch.cat((born_weight, born_bias.unsqueeze(1)), dim=1)
        by_choice = kinds_in(rows.t(), counted.t())  # [total, 3]
        self._monitor.set_heads(index, "parameters", self._any_by_head(by_choice))
        for parameter, is_born in zip(body, born, strict=True):
            kinds = kinds_in(parameter.reshape(-1, 1), is_born.reshape(-1, 1))[0]
            self._monitor.set_shared(index, "parameters", kinds)

    def _see_moments(self, index: int) -> None:
        """Flag the optimizer's moments as the step of a minibatch is given them, or left them."""
        state = self._optimizer.state.get(self._parameters.flat)
        if not state:
            return  # before the first step there are none
        by_moment = [self._parameters.split(state[name]) for name in MOMENTS]
        rows = [part for *_, weight, bias in by_moment for part in (weight, bias.unsqueeze(1))]
        by_choice = kinds_in(torch.cat(rows, dim=1).t())  # [total, 3]
        self._monitor.set_heads(index, "moments", self._any_by_head(by_choice))
        moments = [part.reshape(-1) for *body, _, _ in by_moment for part in body]
        self._monitor.see_shared(index, "moments", torch.cat(moments))

    def _see_unscaled_gradients(self, index: int, loss: Tensor, active: Tensor) -> None:
        """Flag the gradients as they are without the loss scale: that which is not its doing."""
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss, self._parameters.parameters, retain_graph=True)
        self._see_gradients(index, gradients, active, active.new_ones(()))

    def _see_gradients(
        self, index: int, gradients: Sequence[Tensor], active: Tensor, counts: Tensor
    ) -> None:
        """Flag the gradients of all parameters, told apart by whose failure they are.

        Heads and critic have only the loss in common. If a head's gradient broke and the critic's
        too, or that of all heads that had any, then the way back from the loss broke, for all.

        Args:
            index: of the minibatch.
            gradients: in the order of the flat gradient.
            active: `[T, n, H]`.
            counts: whether to flag anything, a scalar on the device.
        """
        *body, weight, bias = gradients
        by_choice = kinds_in(torch.cat((weight, bias.unsqueeze(1)), dim=1).t())  # [total, 3]
        by_head = self._any_by_head(by_choice)  # [H, 3]
        broken = by_head.any(1)  # [H]
        took_part = active.flatten(0, -2).any(0)  # [H]
        critic = ~torch.stack([body[place].isfinite().all() for place in self._critic]).all()
        every = (broken | ~took_part).all() & (took_part.sum() > 1)
        kinds = torch.stack([kinds_in(part.reshape(-1, 1))[0] for part in body]).any(0)
        is_shared = kinds.any() & (critic | every)
        self._monitor.set_heads(index, "gradient", by_head & ~is_shared & counts)
        self._monitor.set_shared(index, "gradient", kinds & counts)

    def _logit_kinds(self, logits: Tensor, batch: Minibatch) -> Tensor:
        """Return the kinds `[H, 3]` in raw logits `[T, n, total]`.

        -inf is how a policy may say "never" of a choice that the mask forbids, so there it is
        legal, unless that very choice was taken.
        """
        illegal = self._policy.table.joint(batch.illegal)  # [T, n, total]
        columns = batch.actions + self._policy.table.offsets
        chosen = torch.zeros_like(illegal).scatter(-1, columns, True)
        forbidden = (logits == -torch.inf) & illegal & ~chosen
        return self._any_by_head(kinds_in(logits, ~forbidden))

    def _any_by_head(self, by_choice: Tensor) -> Tensor:
        """Return `[H, 3]`, true where any choice of the head is true in `[total, 3]`."""
        return self._policy.table(by_choice.t(), False).any(0).t()


def _states(batch: Minibatch, terms: MinibatchTerms) -> Tensor:
    """Return the recurrent state before the first step and behind the last, `[4, 1, n, size]`.

    Behind the last only where the trunk's output is finite; else it is the trunk that broke.
    """
    given = torch.stack([state.float() for state in batch.initial_state])
    left = torch.stack([state.float() for state in terms.output.state])
    return torch.cat((given, torch.where(terms.output.trunk.isfinite().all(), left, 0.0)))
