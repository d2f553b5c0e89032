"""The exact watch over an update: every quantity of every head, and all that they share."""

import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.figures import Figures
from esper.simic.agent.flat_gradient import FlatGradient
from esper.simic.agent.losses import Minibatch, MinibatchTerms
from esper.simic.agent.rollout import Rollout
from esper.simic.telemetry.nonfinite import NonfiniteMonitor, kinds_in
from esper.tamiyo.policy import RecurrentPolicy


class UpdateWatch:
    """Flags what is not finite in the minibatches of one update."""

    def __init__(self, policy: RecurrentPolicy, gradient: FlatGradient, minibatches: int) -> None:
        self._policy = policy
        self._gradient = gradient
        device = gradient.flat.device
        self._monitor = NonfiniteMonitor(
            policy.layout.names, minibatches=minibatches, device=device
        )

    @torch.no_grad()
    def forward(
        self, index: int, batch: Minibatch, terms: MinibatchTerms, _figures: Tensor
    ) -> Tensor:
        """Flag everything that the loss is made of; return whether anything was."""
        monitor = self._monitor
        active = batch.rollout.active
        monitor.set_heads(index, "logits", self._logit_kinds(terms.output.logits, batch.rollout))
        monitor.see_heads(index, "old_log_prob", batch.old_log_probs, active)
        monitor.see_heads(index, "log_prob", terms.log_probs, active)
        monitor.see_heads(index, "ratio", terms.ratios)
        monitor.see_heads(index, "entropy", terms.entropies)
        monitor.see_shared(index, "observations", batch.rollout.observations)
        monitor.see_shared(index, "advantages", batch.advantages)
        monitor.see_shared(index, "returns", batch.returns)
        monitor.see_shared(index, "trunk", terms.output.trunk)
        monitor.see_shared(index, "value", terms.output.values)
        monitor.see_shared(index, "joint_ratio", terms.joint_ratio)
        monitor.see_shared(index, "policy_loss", terms.policy_loss)
        monitor.see_shared(index, "value_loss", terms.value_loss)
        monitor.see_shared(index, "entropy_loss", terms.entropy_loss)
        return monitor.bad(index)

    @torch.no_grad()
    def backward(self, index: int, _norms: Tensor) -> Tensor:
        """Flag the gradients, before they are clipped; return whether anything was ever flagged."""
        by_choice = kinds_in(self._gradient.last_by_row.t())  # [total, 3]
        self._monitor.set_heads(index, "gradient", self._any_by_head(by_choice))
        self._monitor.see_shared(index, "gradient", self._gradient.body)
        return self._monitor.bad(index)

    def sightings(self, minibatches_per_epoch: int, figures: Figures) -> list[NonfiniteSighting]:
        """Return what was seen, causes only, fp16 overflow of the loss scale apart."""
        return self._monitor.sightings(
            self._monitor.flags.cpu(),
            minibatches_per_epoch,
            excused=figures.overflow.nonzero().flatten().tolist(),
        )

    def _logit_kinds(self, logits: Tensor, rollout: Rollout) -> Tensor:
        """Return the kinds `[H, 3]` in raw logits `[T, n, total]`.

        -inf is how a policy may say "never" of a choice that the mask forbids, so there it is
        legal, unless that very choice was taken.
        """
        columns = rollout.actions + self._policy.table.offsets
        chosen = torch.zeros_like(rollout.masks).scatter(-1, columns, True)
        forbidden = (logits == -torch.inf) & ~(rollout.masks | chosen)
        return self._any_by_head(kinds_in(logits, ~forbidden))

    def _any_by_head(self, by_choice: Tensor) -> Tensor:
        """Return `[H, 3]`, true where any choice of the head is true in `[total, 3]`."""
        return self._policy.table(by_choice.t(), False).any(-1).t()
