"""Proximal policy optimization for a recurrent policy with several heads (Schulman et al. 2017).

In the order in which it runs:

1. `PPOAgent.act` draws actions; `RolloutBuffer` collects whole episodes.
2. `PPOAgent.update` learns from them. `prepare` computes advantages (GAE) and the log-probabilities
   of the actions before the first step; `learn` takes one optimizer step per minibatch, each on the
   loss that `ppo_loss` computes; `summarise` turns the figures of all minibatches into the result.

Nothing in an update waits for the device. Figures, the decision to skip a minibatch that is not
finite and the decision to stop early are tensors; one transfer at the end copies them to the host.
Only an update with a figure that is not finite is repeated and examined (`detection.second_pass`).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.agreement import ALONE, Agreement
from esper.simic.agent.detection.examination import Plan
from esper.simic.agent.detection.finite_check import FiniteCheck
from esper.simic.agent.detection.second_pass import repeat_and_examine, result_without_episodes
from esper.simic.agent.figures import (
    AT_ONCE,
    Figures,
    Trace,
    UpdateResult,
    approx_kl,
    bring_to_host,
    summarise,
)
from esper.simic.agent.flat_parameters import FlatParameters
from esper.simic.agent.learning_state import LearningState
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.minibatch import ForwardHook, Minibatch, MinibatchTerms, Preparation
from esper.simic.agent.rollout import Rollout, minus_siblings
from esper.simic.config import TrainingConfig
from esper.tamiyo.acting import Decision, HostShare, act
from esper.tamiyo.categorical import Likelihoods, likelihoods, max_entropy
from esper.tamiyo.policy import PolicyOutput, RecurrentPolicy, RecurrentState

_AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class PPOAgent:
    """A recurrent policy with its optimizer.

    Args:
        policy: the policy, on the device where it acts and learns.
        config: coefficients, sizes and precision.
        rng_seed: random seed of the actions and of the order of minibatches.
        agreement: what the processes agree on that make the same updates.
    """

    def __init__(
        self,
        policy: RecurrentPolicy,
        config: TrainingConfig,
        *,
        rng_seed: int,
        agreement: Agreement = ALONE,
    ) -> None:
        self.agreement = agreement
        self.policy = policy
        self.config = config
        self.device = policy.critic.weight.device
        self.parameters = FlatParameters(policy, first=policy.lstm, last=policy.heads)
        self.optimizer = torch.optim.Adam(
            [self.parameters.flat], lr=config.learning_rate, eps=1e-5, fused=True
        )
        self.loss_scale = LossScale(enabled=config.amp == "fp16", device=self.device)
        self.state = LearningState(policy, self.parameters, self.optimizer, self.loss_scale)
        self.finite_check = FiniteCheck(self.loss_scale)
        # Factors of the figures `AT_ONCE`, whose sum is the gradient's norm divided by its limit.
        self._excess_of = torch.zeros(len(AT_ONCE), dtype=torch.float64, device=self.device)
        self._excess_of[AT_ONCE.index("gradient_norm")] = 1 / config.max_gradient_norm
        self.action_generator = torch.Generator(self.device).manual_seed(rng_seed)
        self.order_generator = torch.Generator().manual_seed(rng_seed)

    # Acting

    @torch.no_grad()
    def act(
        self,
        observations: Tensor,
        mask: Tensor,
        slot_mask_by_op: Tensor,
        state: RecurrentState,
        share: HostShare | None = None,
    ) -> Decision:
        """Draw one decision per host; arguments as in `esper.tamiyo.acting.act`."""
        return act(
            self.policy,
            observations,
            mask,
            slot_mask_by_op,
            state,
            self.action_generator,
            share=share,
        )

    @torch.no_grad()
    def values(self, observations: Tensor, state: RecurrentState) -> Tensor:
        """Return the critic's value of observations `[N, F]` that follow `state`: `[N]`."""
        return self.policy(observations.unsqueeze(0), state).values.squeeze(0)

    # Learning

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the next updates."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @property
    def entropy_coefficient(self) -> float:
        """Weight of the entropy bonus; it falls with the learning rate."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return self.config.entropy_coefficient * rate / self.config.learning_rate

    def update(
        self,
        rollout: Rollout,
        before: Sequence[NonfiniteSighting] = (),
        hook: ForwardHook | None = None,
    ) -> UpdateResult:
        """Learn from a batch of whole episodes.

        Args:
            rollout: the episodes.
            before: what was not finite while the rollout was collected: in acting and in hosts.
            hook: replaces logits and log-probabilities of minibatches, for example in a drill.

        Returns:
            The figures of the update, on the host. `head_inf_detected` and `head_nan_detected` have
            every head, even if all minibatches were skipped.
        """
        result, start_was_sound = self._update(rollout, before, hook)
        is_good = result.start is None or not result.reproduced
        self.state.end_update(start_was_sound=start_was_sound, is_good=is_good)
        return result

    def _update(
        self, rollout: Rollout, before: Sequence[NonfiniteSighting], hook: ForwardHook | None
    ) -> tuple[UpdateResult, bool]:
        """Return the result of an update, and whether the state it started from was finite."""
        order_generator = self.order_generator.get_state()
        epochs = self._epochs(rollout)
        if not epochs:
            self.state.keep()
            return result_without_episodes(self, before)
        minibatches = [hosts for epoch in epochs for hosts in epoch]
        preparation = self.prepare(rollout, epochs[0])
        self.state.keep()
        figures, traces = self.learn(preparation, minibatches, self.finite_check, hook)
        if not self.agreement.is_any(figures.is_suspicious):
            return summarise(figures, before), True  # broken state would have stayed broken
        plan = Plan(rollout, minibatches, len(epochs[0]), before)
        first_pass = figures, traces
        return repeat_and_examine(self, plan, preparation, first_pass, hook, order_generator)

    def _epochs(self, rollout: Rollout) -> list[tuple[Tensor, ...]]:
        """Return the hosts of each minibatch by epoch; no epochs if there is nothing to learn."""
        hosts = rollout.learnable_hosts()
        if not len(hosts):
            return []
        epochs = [self._split(len(hosts)) for _ in range(self.config.ppo_epochs)]
        if len(hosts) < rollout.hosts:
            chosen = hosts.to(self.device)
            epochs = [tuple(chosen[positions] for positions in epoch) for epoch in epochs]
        return epochs

    def _split(self, hosts: int) -> tuple[Tensor, ...]:
        """Return all hosts in a new random order, in minibatches of nearly equal size."""
        order = torch.randperm(hosts, generator=self.order_generator)
        order = order.to(self.device, non_blocking=True)
        return order.tensor_split(min(self.config.minibatches, hosts))

    def prepare(self, rollout: Rollout, first_epoch: Sequence[Tensor]) -> Preparation:
        """Compute advantages, returns and old log-probabilities.

        Args:
            rollout: the episodes.
            first_epoch: indices of the hosts in each minibatch of the first epoch.
        """
        config = self.config
        advantages, returns = generalized_advantages(rollout, config.gamma, config.gae_lambda)
        values, known_returns = rollout.values, returns
        hosts = rollout.learnable_hosts()
        if len(hosts) < rollout.hosts:
            # What is not finite is left out of the means over siblings.
            left_out = torch.ones(rollout.hosts, dtype=torch.bool).index_fill_(0, hosts, False)
            advantages = advantages.masked_fill(left_out.to(self.device), torch.nan)
            values, known_returns = values[:, hosts], returns[:, hosts]
        illegal = ~self.policy.table(rollout.masks, False)
        whole = Minibatch(
            observations=rollout.observations,
            initial_state=rollout.initial_state,
            actions=rollout.actions,
            active=rollout.active,
            illegal=illegal,
            max_entropy=max_entropy(illegal),
            advantages=minus_siblings(advantages, config.siblings),
            returns=returns,
            old_log_probs=torch.zeros_like(rollout.active, dtype=torch.float32),
            explained_variance=explained_variance(values, known_returns),
        )
        parts: list[tuple[Minibatch, PolicyOutput]] = []
        old_log_probs = self._old_log_probs(whole, first_epoch, parts)
        whole = replace(whole, old_log_probs=old_log_probs)
        return Preparation(whole, parts, first_epoch)

    def _old_log_probs(
        self,
        whole: Minibatch,
        first_epoch: Sequence[Tensor],
        parts: list[tuple[Minibatch, PolicyOutput]],
    ) -> Tensor:
        """Return the log-probabilities `[T, N, H]` of the choices taken, before any step.

        They are computed again, with the shapes, precision and kernels of the first epoch, and not
        taken from acting: sums in another order differ in their last bits, and the first ratio must
        be exactly 1.

        Args:
            whole: all episodes.
            first_epoch: indices of the hosts in each minibatch of the first epoch.
            parts: receives these minibatches, each with the policy's output for it.
        """
        old = torch.empty_like(whole.old_log_probs)
        for hosts in first_epoch:
            batch = whole.take(hosts)
            output = self._run(batch)
            taken = self._likelihoods(output.logits, batch)
            parts.append((batch, output.detached()))
            old[:, hosts] = where_active(taken.log_probs.detach(), batch.active)
        return old

    def learn(
        self,
        preparation: Preparation,
        minibatches: Sequence[Tensor],
        check: FiniteCheck,
        hook: ForwardHook | None = None,
    ) -> tuple[Figures, list[Trace]]:
        """Make one pass over all minibatches of an update, with one optimizer step for each.

        Args:
            preparation: all episodes, with what was computed from them before the first step.
            minibatches: indices of the hosts in each minibatch.
            check: decides which steps are skipped because something is not finite.
            hook: replaces logits and log-probabilities.

        Returns:
            Figures, copied to the host after the last step; and a trace of each minibatch.
        """
        config, parameters, loss_scale = self.config, self.parameters, self.loss_scale
        whole = preparation.whole
        if hook is not None:
            hook.start_pass()
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        stopped = zero  # 1 when the policy has moved far enough
        skipped = torch.zeros((), device=self.device)  # 1 if a minibatch makes no step
        traces = []
        for index, hosts in enumerate(minibatches):
            batch = whole.take(hosts)
            terms = self._forward(batch, index, hook)
            forward_bad = check.forward(index, batch, terms)

            scale = loss_scale.scale
            gradient, derivatives = parameters.differentiate(
                loss_scale.scaled(terms.loss), index, check.derivable(terms)
            )
            loss_scale.unscale_(gradient)
            grad_norm, kl = parameters.norm(gradient), approx_kl(terms)
            at_once = torch.stack((
                terms.policy_loss, terms.value_loss, terms.entropy_loss, terms.loss, kl, grad_norm,
            )).detach()  # fmt: skip
            # 0 times NaN or Inf is NaN, so this is finite only if all of them are.
            excess = torch.dot(at_once, self._excess_of)
            total = check.backward(index, gradient, derivatives, excess)
            overflow = loss_scale.is_overflow(total, forward_bad)
            decided = (total, loss_scale.is_ordinary(overflow), stopped)
            traces.append(Trace(batch, terms, at_once, decided, gradient, derivatives, scale))

            parameters.clip(gradient, excess)
            # The fused step leaves weights, moments and step counter alone where found_inf is 1.
            # torch's own GradScaler sets this attribute; the class does not declare it.
            torch.addcmul(stopped, total, zero, out=skipped).nan_to_num_(nan=1.0)
            self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
            self.optimizer.step()
            loss_scale.update(overflow, total)
            if config.target_kl:
                stopped = torch.where(skipped.bool(), stopped, kl > 1.5 * config.target_kl)
        figures = bring_to_host(
            traces,
            [output for _, output in preparation.parts],
            whole.explained_variance,
            self.state.figures(),
            config=config,
            parameters=parameters,
            heads=self.policy.layout.names,
            head_of_choice=self.policy.table.head_of_choice,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            has_loss_scale=loss_scale.enabled,
        )
        return figures, traces

    def _forward(self, batch: Minibatch, index: int, hook: ForwardHook | None) -> MinibatchTerms:
        """Return the loss of a minibatch, and all that led to it."""
        output = self._run(batch)
        if hook is not None:
            output = output._replace(logits=hook.logits(index, output.logits, batch))
        taken = self._likelihoods(output.logits, batch)
        if hook is not None:
            taken = taken._replace(log_probs=hook.log_probs(index, taken.log_probs, batch))
        return ppo_loss(batch, output, taken, self.config, self.entropy_coefficient)

    def _run(self, batch: Minibatch) -> PolicyOutput:
        precision: AbstractContextManager[Any] = nullcontext()
        if self.config.amp != "off":
            precision = torch.autocast(self.device.type, _AMP_TYPES[self.config.amp])
        with precision:
            output: PolicyOutput = self.policy(batch.observations, batch.initial_state)
        return output

    def _likelihoods(self, logits: Tensor, batch: Minibatch) -> Likelihoods:
        return likelihoods(self.policy.table.unpadded(logits), batch.illegal, batch.actions)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed agent needs to continue bit for bit."""
        return self.state.state_dict() | {
            "action_generator": self.action_generator.get_state(),
            "order_generator": self.order_generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.state.load_state_dict(state)
        self.action_generator.set_state(state["action_generator"].cpu())
        self.order_generator.set_state(state["order_generator"].cpu())


def generalized_advantages(
    rollout: Rollout, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, each `[T, N]`.

    Generalised advantage estimation, Schulman et al. 2016, equation 16. A terminated episode has no
    future; one that was cut off is worth the critic's value of its last observation. Neither passes
    anything back into the episode before it.
    """
    ended = rollout.terminated | rollout.truncated
    # where, not a product: 0 * inf is NaN, and what lies behind an ending must not matter.
    future = torch.where(rollout.terminated, 0.0, gamma * rollout.next_values)
    deltas = rollout.rewards + future - rollout.values
    advantages = torch.empty_like(deltas)
    running = torch.zeros_like(deltas[0])
    for step in reversed(range(rollout.steps)):
        running = deltas[step] + torch.where(ended[step], 0.0, gamma * gae_lambda * running)
        advantages[step] = running
    return advantages, advantages + rollout.values


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """Return the share of the returns' variance that the critic predicted: 1 is all, 0 is none."""
    return 1 - (returns - values).var(correction=0) / returns.var(correction=0)


def ppo_loss(
    batch: Minibatch,
    output: PolicyOutput,
    taken: Likelihoods,
    config: TrainingConfig,
    entropy_coefficient: float,
) -> MinibatchTerms:
    """Return the loss of a minibatch and its parts: Schulman et al. 2017, equation 9.

    The policy is a product of categorical heads, of which some are active in each step. The joint
    ratio over the active heads is the exact ratio of that policy.

    Args:
        batch: the episodes.
        output: the policy's output for them.
        taken: log-probabilities of the choices taken, and entropies.
        config: clip range and weight of the value loss.
        entropy_coefficient: weight of the entropy bonus in this update.
    """
    log_ratios = where_active(taken.log_probs, batch.active) - batch.old_log_probs
    log_ratio = log_ratios.sum(-1)
    joint_ratio = log_ratio.exp()

    std, mean = torch.std_mean(batch.advantages, correction=0)
    advantages = (batch.advantages - mean) / (std + 1e-8)
    # min(r A, clip(r) A): a good action is limited from above only, a bad one from below only.
    good = advantages >= 0
    lowest = torch.where(good, 0.0, 1 - config.clip_range)
    highest = torch.where(good, 1 + config.clip_range, torch.inf)
    policy_loss = (joint_ratio.clamp(lowest, highest) * -advantages).mean()
    value_loss = 0.5 * mse_loss(output.values, batch.returns)

    entropies = where_active(taken.entropies, batch.active) / batch.max_entropy
    entropy_loss = entropies.sum() / -batch.active.sum()
    policy_and_value = policy_loss.add(value_loss, alpha=config.value_coefficient)
    return MinibatchTerms(
        output=output,
        log_probs=taken.log_probs,
        log_ratios=log_ratios,
        ratios=log_ratios.detach().exp(),
        entropies=entropies,
        log_ratio=log_ratio,
        joint_ratio=joint_ratio,
        policy_loss=policy_loss,
        value_loss=value_loss,
        entropy_loss=entropy_loss,
        loss=policy_and_value.add(entropy_loss, alpha=entropy_coefficient),
    )


def where_active(values: Tensor, active: Tensor) -> Tensor:
    """Return values with 0 where a head is inactive; not a product, since 0 * -inf is NaN."""
    return torch.where(active, values, 0.0)
