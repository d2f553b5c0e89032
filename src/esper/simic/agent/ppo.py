"""The PPO agent: acts, and learns from whole episodes, watching every head while it does.

Nothing in an update waits on the device. Figures, the decision to skip a bad minibatch and the one
to stop early are all tensors there; one transfer at the end brings them to the host. Only an update
in which something was not finite is gone through a second time, with everything watched.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from esper.simic.agent.figures import (
    Figures,
    UpdateResult,
    UpdateStart,
    bring_to_host,
    divergence,
    summarise,
    trace_of,
)
from esper.simic.agent.flat_parameters import FlatParameters
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.losses import (
    Minibatch,
    MinibatchTerms,
    counted,
    minibatch_terms,
    most_entropy,
)
from esper.simic.agent.planting import plant_in_log_probs, plant_in_logits
from esper.simic.agent.rollout import Rollout, generalized_advantages, over_siblings
from esper.simic.agent.screening import Screen, evidence
from esper.simic.agent.starting_point import StartingPoint
from esper.simic.agent.watching import MOMENTS, UpdateWatch
from esper.simic.config import TrainingConfig
from esper.simic.drill import Injection
from esper.tamiyo.acting import Decision, act
from esper.tamiyo.categorical import Likelihoods, likelihoods
from esper.tamiyo.policy import PolicyOutput, RecurrentPolicy, RecurrentState

_AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
        self.parameters = FlatParameters(policy, first=policy.lstm, last=policy.heads)
        self.optimizer = torch.optim.Adam(
            [self.parameters.flat], lr=config.learning_rate, eps=1e-5, fused=True
        )
        self.loss_scale = LossScale(enabled=config.amp == "fp16", device=self.device)
        self.action_generator = torch.Generator(self.device).manual_seed(seed)
        self.order_generator = torch.Generator().manual_seed(seed)
        self.screen = Screen(self.loss_scale)
        self.starting_point = StartingPoint(self.optimizer, self.loss_scale)
        self._last_good = StartingPoint(self.optimizer, self.loss_scale)
        self._last_was_good = True

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

    def set_learning_rate(self, rate: float) -> None:
        """Learn at this rate from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @property
    def entropy_coefficient(self) -> float:
        """Weight of the entropy bonus: it falls with the learning rate, from exploring to using."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return self.config.entropy_coefficient * rate / self.config.learning_rate

    def update(self, rollout: Rollout, injections: Sequence[Injection] = ()) -> UpdateResult:
        """Learn from a batch of whole episodes.

        Args:
            rollout: the episodes.
            injections: values to plant into the first minibatch in which they can be.

        Returns:
            The figures of the update, host-side. `head_inf_detected` and `head_nan_detected` say
            of every head whether it produced such a value, also when every minibatch was bad.
        """
        result = self._update(rollout, injections)
        is_good = result.start is None
        if not is_good and self._last_was_good:
            # What this update started from is what the last good one left; the other copy is free.
            self.starting_point, self._last_good = self._last_good, self.starting_point
        self._last_was_good = is_good
        return result

    def roll_back(self) -> None:
        """Return weights, optimizer and loss scale to what the last good update left.

        To be called after an update that was not good, before the next.
        """
        self._last_good.restore()
        self._last_was_good = True

    def moments_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return views of what Adam keeps of a parameter of the policy; nothing before a step."""
        state = self.optimizer.state.get(self.parameters.flat)
        if not state:
            return {}
        place = [id(known) for known in self.parameters.parameters].index(id(parameter))
        return {name: self.parameters.split(state[name])[place] for name in MOMENTS}

    def non_finite_state(self) -> list[str]:
        """Return the names of the parameters and of their moments that hold a NaN or an Inf."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.policy.named_parameters():
            tensors[name] = parameter
            moments = self.moments_of(parameter)
            tensors |= {f"{kind} of {name}": moment for kind, moment in moments.items()}
        return [name for name, tensor in tensors.items() if not tensor.isfinite().all()]

    def _update(self, rollout: Rollout, injections: Sequence[Injection]) -> UpdateResult:
        order = self.order_generator.get_state()
        plan = [self._split(rollout.hosts) for _ in range(self.config.ppo_epochs)]
        minibatches = [hosts for epoch in plan for hosts in epoch]
        whole = self.prepare(rollout, plan[0])
        self.starting_point.keep()
        screened = self.learn(whole, minibatches, injections, self.screen)
        if not screened.is_suspicious:
            self.loss_scale.count_update(overflowed=False)
            return summarise(screened, sightings=[])
        # Figures that are measured anyway say that something was not finite. Which head, tensor and
        # kind it was is found by going through the update again with everything watched: so
        # detection costs nothing until there is something to detect.
        self.starting_point.restore()
        state = deepcopy(self.state_dict()) | {"order_generator": order}
        start = UpdateStart(
            state,
            minibatches,
            minibatches_per_epoch=len(plan[0]),
            old_log_probs=whole.old_log_probs,
        )
        watch = UpdateWatch(
            self.policy, self.parameters, self.optimizer, self.loss_scale, len(minibatches)
        )
        watched = self.learn(whole, minibatches, injections, watch)
        excused = self.loss_scale.count_update(overflowed=bool(watched.overflow.any()))
        sightings = watch.sightings(len(plan[0]), watched, overflow_is_excused=excused)
        if sightings:
            return replace(summarise(watched, sightings), start=start)
        # Finite values whose sums overflowed, or an ordinary overflow of the fp16 loss scale: a
        # figure is infinite, and nothing is wrong.
        once = evidence(screened, minibatches_per_epoch=len(plan[0]))
        if watched.is_suspicious or not once:
            return summarise(watched, sightings)
        # It did not happen again. What the figures showed the first time is all there is to tell.
        return replace(summarise(watched, once), reproduced=False, start=start)

    def prepare(self, rollout: Rollout, first_epoch: Sequence[Tensor]) -> Minibatch:
        """Return all episodes with what is to be learnt from them.

        Args:
            rollout: the episodes.
            first_epoch: the numbers of the hosts in each minibatch of the first epoch.
        """
        advantages, returns = generalized_advantages(
            rollout, self.config.gamma, self.config.gae_lambda
        )
        illegal = ~self.policy.table(rollout.masks, False)
        whole = Minibatch(
            observations=rollout.observations,
            initial_state=rollout.initial_state,
            actions=rollout.actions,
            active=rollout.active,
            illegal=illegal,
            most_entropy=most_entropy(illegal),
            advantages=over_siblings(advantages, self.config.siblings),
            returns=returns,
            old_log_probs=torch.zeros_like(rollout.active, dtype=torch.float32),
            explained_variance=explained_variance(rollout.values, returns),
        )
        return replace(whole, old_log_probs=self._old_log_probs(whole, first_epoch))

    def learn(
        self,
        whole: Minibatch,
        minibatches: Sequence[Tensor],
        injections: Sequence[Injection],
        watch: Screen | UpdateWatch,
    ) -> Figures:
        """Go once through all minibatches of an update; bring its figures to the host at the end.

        Args:
            whole: all episodes.
            minibatches: the numbers of the hosts in each.
            injections: values to plant.
            watch: says of each minibatch whether its step is to be left out.
        """
        config, parameters = self.config, self.parameters
        stopped = torch.zeros((), dtype=torch.bool, device=self.device)
        traces = []
        for index, hosts in enumerate(minibatches):
            batch = whole.take(hosts)
            terms, injections = self._forward(batch, injections)
            forward_bad = watch.forward(index, batch, terms)

            parameters.differentiate(self.loss_scale.scaled(terms.loss))
            self.loss_scale.unscale_(parameters.gradient)
            norm = parameters.norm()
            bad = watch.backward(index, norm)
            overflow = self.loss_scale.is_overflow(bad, forward_bad)
            moved = divergence(terms)
            at_once = (
                terms.policy_loss, terms.value_loss, terms.entropy_loss, moved, norm,
                bad, overflow, stopped,
            )  # fmt: skip
            traces.append(trace_of(terms, batch, at_once, parameters.last_by_row))

            parameters.clip(norm, config.max_gradient_norm)
            # The fused step leaves weights, moments and its clock alone where found_inf is 1.
            # torch's own GradScaler sets this attribute; the class does not declare it.
            self.optimizer.found_inf = (bad | stopped).float()  # type: ignore[attr-defined]
            self.optimizer.step()
            self.loss_scale.update(overflow, bad)
            if config.target_kl:
                stopped = stopped | (~bad & (moved > 1.5 * config.target_kl))
        return bring_to_host(
            traces,
            whole.explained_variance,
            self.loss_scale.scale,
            self.state_norm(),
            config=config,
            heads=self.policy.layout.names,
            head_of_choice=self.policy.table.head_of_choice,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            has_loss_scale=self.loss_scale.enabled,
            not_planted=tuple(injections),
        )

    @torch.no_grad()
    def state_norm(self) -> Tensor:
        """Return the sum of the magnitudes of all parameters and moments.

        It is not finite if any of them is not.
        """
        moments = self.optimizer.state[self.parameters.flat].values()
        return torch.stack(torch._foreach_norm([self.parameters.flat, *moments], 1)).sum()

    def _split(self, hosts: int) -> tuple[Tensor, ...]:
        """Return all hosts in a new order, in minibatches of nearly equal size."""
        order = torch.randperm(hosts, generator=self.order_generator)
        order = order.to(self.device, non_blocking=True)
        return order.tensor_split(min(self.config.minibatches, hosts))

    def _precision(self) -> AbstractContextManager[Any]:
        if self.config.amp == "off":
            return nullcontext()
        return torch.autocast(self.device.type, _AMP_TYPES[self.config.amp])

    def _run(self, batch: Minibatch) -> PolicyOutput:
        with self._precision():
            output: PolicyOutput = self.policy(batch.observations, batch.initial_state)
        return output

    def _likelihoods(self, logits: Tensor, batch: Minibatch) -> Likelihoods:
        return likelihoods(self.policy.table.unpadded(logits), batch.illegal, batch.actions)

    def _old_log_probs(self, whole: Minibatch, split: Sequence[Tensor]) -> Tensor:
        """Return the log-probabilities `[T, N, H]` of the choices taken, before any step.

        Computed anew, in the shapes and the precision of the first epoch and by the kernels that
        training takes, rather than kept from acting: a sum taken in another order differs in its
        last bits, and the first ratio must be exactly 1.
        """
        old = torch.empty_like(whole.old_log_probs)
        for hosts in split:
            batch = whole.take(hosts)
            taken = self._likelihoods(self._run(batch).logits, batch)
            old[:, hosts] = counted(taken.log_probs.detach(), batch.active)
        return old

    def _forward(
        self, batch: Minibatch, injections: Sequence[Injection]
    ) -> tuple[MinibatchTerms, list[Injection]]:
        """Return the terms of a minibatch, and the injections that still wait for a place."""
        output = self._run(batch)
        waiting = []
        for injection in injections:
            if injection.quantity == "logits":
                head = self.policy.layout.names.index(injection.head)
                column = self.policy.layout.offsets[head] + batch.actions[0, 0, head]
                output = output._replace(logits=plant_in_logits(output.logits, injection, column))
        taken = self._likelihoods(output.logits, batch)
        for injection in injections:
            if injection.quantity == "log_prob":
                head = self.policy.layout.names.index(injection.head)
                planted = plant_in_log_probs(taken.log_probs, batch.active, injection, head)
                if planted is None:
                    waiting.append(injection)
                else:
                    taken = taken._replace(log_probs=planted)
        terms = minibatch_terms(batch, output, taken, self.config, self.entropy_coefficient)
        return terms, waiting

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
