"""The PPO agent: acts, and learns from whole episodes, watching every head while it does.

Nothing in an update waits on the device. Flags, figures, the decision to skip a bad minibatch and
the one to stop early are all tensors there; one transfer at the end brings them to the host.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from esper.simic.agent.figures import UpdateResult, measure, summarise
from esper.simic.agent.flat_gradient import FlatGradient
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.losses import Minibatch, MinibatchTerms, log_probs_taken, minibatch_terms
from esper.simic.agent.planting import plant_in_log_probs, plant_in_logits
from esper.simic.agent.rollout import Rollout, generalized_advantages
from esper.simic.config import TrainingConfig
from esper.simic.drill import Injection
from esper.simic.telemetry.nonfinite import NonfiniteMonitor, kinds_in
from esper.tamiyo.acting import Decision, act
from esper.tamiyo.policy import PolicyOutput, RecurrentPolicy, RecurrentState

_AMP_TYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PPOAgent:
    """A recurrent policy and all that its learning needs.

    Args:
        policy: on the device where everything happens.
        config: coefficients, sizes and precision.
        seed: of the choices drawn and of the order of minibatches.
    """

    def __init__(self, policy: RecurrentPolicy, config: TrainingConfig, *, seed: int) -> None:
        self.policy = policy
        self.config = config
        self.device = policy.critic.weight.device
        self.gradient = FlatGradient(policy, last=policy.heads)
        self.optimizer = torch.optim.Adam(
            self.gradient.parameters, lr=config.learning_rate, eps=1e-5, fused=True
        )
        self.loss_scale = LossScale(enabled=config.amp == "fp16", device=self.device)
        self.action_generator = torch.Generator(self.device).manual_seed(seed)
        self.order_generator = torch.Generator().manual_seed(seed)
        sizes = torch.tensor(policy.layout.sizes, device=self.device)
        heads = torch.arange(len(sizes), device=self.device)
        self._head_of_choice = heads.repeat_interleave(sizes)  # [total]

    @torch.no_grad()
    def act(
        self, observations: Tensor, mask: Tensor, slot_mask_by_op: Tensor, state: RecurrentState
    ) -> Decision:
        """Draw one decision per host; shapes as in `esper.tamiyo.acting.act`."""
        return act(self.policy, observations, mask, slot_mask_by_op, state, self.action_generator)

    @torch.no_grad()
    def values(self, observations: Tensor, state: RecurrentState) -> Tensor:
        """Return the critic's value of observations `[N, F]` that follow `state`: `[N]`."""
        return self.policy(observations.unsqueeze(0), state).values.squeeze(0)

    def update(self, rollout: Rollout, injections: Sequence[Injection] = ()) -> UpdateResult:
        """Learn from a batch of whole episodes.

        Args:
            rollout: the episodes.
            injections: values to plant into the first minibatch in which they can be.

        Returns:
            The figures of the update, host-side. `head_inf_detected` and `head_nan_detected` say
            of every head whether it produced such a value, also when every minibatch was bad.
        """
        return self._update(rollout, injections)

    def _update(self, rollout: Rollout, injections: Sequence[Injection]) -> UpdateResult:
        config = self.config
        plan = [self._split(rollout.hosts) for _ in range(config.ppo_epochs)]
        minibatches = [hosts for epoch in plan for hosts in epoch]
        advantages, returns = generalized_advantages(rollout, config.gamma, config.gae_lambda)
        old_log_probs = self._old_log_probs(rollout, plan[0])
        layout = self.policy.layout
        monitor = NonfiniteMonitor(layout.names, minibatches=len(minibatches), device=self.device)
        stopped = torch.zeros((), dtype=torch.bool, device=self.device)
        waiting = list(injections)
        figures = []
        for index, hosts in enumerate(minibatches):
            batch = Minibatch(
                rollout=rollout.take(hosts),
                advantages=advantages.index_select(1, hosts),
                returns=returns.index_select(1, hosts),
                old_log_probs=old_log_probs.index_select(1, hosts),
            )
            terms, waiting = self._forward(batch, waiting)
            self._flag_forward(monitor, index, batch, terms)
            forward_bad = monitor.bad(index)

            self.gradient.zero()
            self.loss_scale.scaled(terms.loss).backward()
            self.loss_scale.unscale_(self.gradient.flat)
            head_norms = self._flag_gradient(monitor, index)
            bad = monitor.bad(index)
            overflow = bad & ~forward_bad & (self.loss_scale.scale > 1)
            norm = self.gradient.clip(config.max_gradient_norm)

            # The fused step leaves weights, moments and its clock alone where found_inf is 1.
            # torch's own GradScaler sets this attribute; the class does not declare it.
            self.optimizer.found_inf = (bad | stopped).float()  # type: ignore[attr-defined]
            self.optimizer.step()
            self.loss_scale.update(overflow, bad)
            figures.append(measure(terms, batch, config, norm, head_norms, bad, overflow, stopped))
            if config.target_kl:
                kl = (terms.joint_ratio.detach() - 1 - terms.log_ratio.detach()).mean()
                stopped = stopped | (~bad & (kl > 1.5 * config.target_kl))
        return summarise(
            torch.stack(figures),
            monitor,
            explained_variance=explained_variance(rollout.values, returns),
            minibatches_per_epoch=len(plan[0]),
            loss_scale=self.loss_scale.scale if self.loss_scale.enabled else None,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            not_planted=tuple(waiting),
        )

    def _split(self, hosts: int) -> tuple[Tensor, ...]:
        """Return all hosts in a new order, in minibatches of nearly equal size."""
        order = torch.randperm(hosts, generator=self.order_generator).to(self.device)
        return order.tensor_split(min(self.config.minibatches, hosts))

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.device.type, _AMP_TYPES[self.config.amp], enabled=self.config.amp != "off"
        )

    def _run(self, rollout: Rollout) -> PolicyOutput:
        with self._precision():
            output: PolicyOutput = self.policy(rollout.observations, rollout.initial_state)
        return output

    def _old_log_probs(self, rollout: Rollout, split: Sequence[Tensor]) -> Tensor:
        """Return the log-probabilities `[T, N, H]` of the choices taken, before any step.

        Computed anew, in the shapes and the precision of the first epoch, rather than kept from
        acting: a sum taken in another order differs in its last bits, and the first ratio must be
        exactly 1.
        """
        old = torch.empty_like(rollout.active, dtype=torch.float32)
        for hosts in split:
            part = rollout.take(hosts)
            logits = self._run(part).logits.detach()
            old[:, hosts] = log_probs_taken(self.policy, logits, part)[1]
        return old

    def _forward(
        self, batch: Minibatch, injections: Sequence[Injection]
    ) -> tuple[MinibatchTerms, list[Injection]]:
        """Return the terms of a minibatch, and the injections that still wait for a place."""
        output = self._run(batch.rollout)
        waiting = []
        for injection in injections:
            if injection.quantity == "logits":
                head = self.policy.layout.names.index(injection.head)
                column = self.policy.layout.offsets[head] + batch.rollout.actions[0, 0, head]
                output = output._replace(logits=plant_in_logits(output.logits, injection, column))
        log_probs, taken_log_probs = log_probs_taken(self.policy, output.logits, batch.rollout)
        for injection in injections:
            if injection.quantity == "log_prob":
                head = self.policy.layout.names.index(injection.head)
                planted = plant_in_log_probs(taken_log_probs, batch.rollout.active, injection, head)
                if planted is None:
                    waiting.append(injection)
                else:
                    taken_log_probs = planted
        terms = minibatch_terms(self.policy, batch, output, log_probs, taken_log_probs, self.config)
        return terms, waiting

    @torch.no_grad()
    def _flag_forward(
        self, monitor: NonfiniteMonitor, index: int, batch: Minibatch, terms: MinibatchTerms
    ) -> None:
        """Flag everything that the loss is made of."""
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

    def _logit_kinds(self, logits: Tensor, rollout: Rollout) -> Tensor:
        """Return the kinds `[H, 3]` in raw logits `[T, n, total]`.

        -inf is how a policy may say "never" of a choice that the mask forbids, so there it is
        legal, unless that very choice was taken.
        """
        chosen = torch.zeros_like(rollout.masks).scatter(-1, self._columns(rollout.actions), True)
        forbidden = (logits == -torch.inf) & ~(rollout.masks | chosen)
        by_choice = kinds_in(logits, ~forbidden)  # [total, 3]
        return self._any_by_head(by_choice)

    def _columns(self, actions: Tensor) -> Tensor:
        """Return where in the joint projection the choices `[…, H]` stand."""
        return actions + torch.tensor(self.policy.layout.offsets, device=actions.device)

    def _any_by_head(self, by_choice: Tensor) -> Tensor:
        """Return `[H, k]`, true where any choice of the head is true in `[total, k]`."""
        heads = len(self.policy.layout.names)
        counts = by_choice.new_zeros(heads, by_choice.shape[1], dtype=torch.float32)
        return counts.index_add_(0, self._head_of_choice, by_choice.float()) > 0

    @torch.no_grad()
    def _flag_gradient(self, monitor: NonfiniteMonitor, index: int) -> Tensor:
        """Flag the gradients before they are clipped; return each head's norm, `[H]`."""
        linear = self.policy.heads
        assert linear.weight.grad is not None
        assert linear.bias.grad is not None
        gradient = torch.cat((linear.weight.grad, linear.bias.grad.unsqueeze(1)), dim=1)
        by_choice = kinds_in(gradient.t())  # [total, 3]
        monitor.set_heads(index, "gradient", self._any_by_head(by_choice))
        monitor.see_shared(index, "gradient", self.gradient.body)
        squares = gradient.new_zeros(len(self.policy.layout.names))
        squares.index_add_(0, self._head_of_choice, gradient.square().sum(1))
        return squares.sqrt()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed agent needs to go on bit for bit."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss_scale": self.loss_scale.state_dict(),
            "action_generator": self.action_generator.get_state(),
            "order_generator": self.order_generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss_scale.load_state_dict(state["loss_scale"])
        self.action_generator.set_state(state["action_generator"].cpu())
        self.order_generator.set_state(state["order_generator"].cpu())


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """Return how much of the returns' variance the critic foresaw: 1 is all, 0 is none."""
    return 1 - (returns - values).var(correction=0) / returns.var(correction=0)
