"""The PPO agent: acts, and learns from whole episodes, watching every head while it does.

Nothing in an update waits on the device. Figures, the decision to skip a bad minibatch and the one
to stop early are all tensors there; one transfer at the end brings them to the host. Only an update
in which something was not finite is repeated, with everything watched.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.causal_filter import CRITIC, TRUNK, Anatomy, mask_biases
from esper.simic.agent.examination import (
    Plan,
    examine,
    in_order,
    look_at_first,
    look_at_second,
    prepared_codes,
    seen_in_state,
)
from esper.simic.agent.figures import (
    Figures,
    Trace,
    UpdateResult,
    UpdateStart,
    bring_to_host,
    divergence,
    is_sound,
    state_figures,
    summarise,
    without_minibatches,
)
from esper.simic.agent.finite_check import FiniteCheck
from esper.simic.agent.flat_parameters import FlatParameters
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.losses import (
    Minibatch,
    MinibatchTerms,
    counted,
    derivable,
    minibatch_terms,
    most_entropy,
)
from esper.simic.agent.nonfinite_codes import Codes, StateCodes, code_of, state_codes
from esper.simic.agent.planting import mark_planted, plant_in_log_probs, plant_in_logits
from esper.simic.agent.rollout import Rollout, generalized_advantages, over_siblings
from esper.simic.agent.starting_point import StartingPoint
from esper.simic.agent.watching import MOMENTS, UpdateWatch
from esper.simic.config import TrainingConfig
from esper.simic.drill import Injection
from esper.tamiyo.acting import Decision, act
from esper.tamiyo.categorical import Likelihoods, likelihoods
from esper.tamiyo.policy import HeadTable, PolicyOutput, RecurrentPolicy, RecurrentState

_AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Preparation:
    """What is computed before the first minibatch.

    Attributes:
        whole: all episodes, with what is to be learnt from them.
        parts: the minibatches of the first epoch, and what the policy returned for each when the
            old log-probabilities were computed.
        hosts: the numbers of the hosts in each part.
    """

    whole: Minibatch
    parts: list[tuple[Minibatch, PolicyOutput]]
    hosts: Sequence[Tensor]

    def codes(self, table: HeadTable) -> list[Codes]:
        """Return the codes of what each part computed."""
        old = self.whole.old_log_probs
        return [
            prepared_codes(batch, output, old.index_select(1, hosts), table)
            for (batch, output), hosts in zip(self.parts, self.hosts, strict=True)
        ]


@dataclass(frozen=True)
class Learnt:
    """What one pass over the minibatches left behind."""

    figures: Figures
    traces: list[Trace]
    planted: list[
        tuple[str, int]
    ]  # head and number of the minibatch of each drill that was planted


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
        self.finite_check = FiniteCheck(self.loss_scale)
        self.starting_point = StartingPoint(self.optimizer, self.loss_scale)
        self._last_good: StartingPoint | None = None
        self._last_was_good = True
        # Codes of parameters that are not finite, do no harm and were reported, `[P]` on the CPU;
        # and on the device, None if there are none.
        self._known_codes = torch.zeros(self.parameters.flat.shape, dtype=torch.uint8)
        self._known_on_device: Tensor | None = None

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

    def update(
        self,
        rollout: Rollout,
        injections: Sequence[Injection] = (),
        before: Sequence[NonfiniteSighting] = (),
    ) -> UpdateResult:
        """Learn from a batch of whole episodes.

        Args:
            rollout: the episodes.
            injections: values to plant into the first minibatch in which they can be.
            before: what was seen while the rollout was collected: while acting and in hosts.

        Returns:
            The figures of the update, host-side. `head_inf_detected` and `head_nan_detected` say
            of every head whether it produced such a value, also when every minibatch was bad.
        """
        result, start_is_sound = self._update(rollout, injections, before)
        # A state is good that a good update left and that is still sound when the next one starts.
        if start_is_sound and self._last_was_good:
            self._last_good, self.starting_point = (
                self.starting_point,
                self._last_good or StartingPoint(self.optimizer, self.loss_scale),
            )
        self._last_was_good = result.start is None or not result.reproduced
        return result

    def roll_back(self) -> bool:
        """Return weights, optimizer and loss scale to the last good state, if there is one.

        That is what the last good update left, or if that broke before the next one began, what
        the one before had left. To be called after an update that was not good.

        Returns:
            Whether there is one; if not, nothing has changed.
        """
        if self._last_good is None:
            return False
        self._last_good.restore()
        self._forget_known()
        self._last_was_good = True
        return True

    def go_back_to(self, state: dict[str, Any]) -> None:
        """Return weights, optimizer and loss scale to those of a `state_dict`.

        The generators go on as they are.
        """
        self._load(state)
        self._last_was_good = True

    def moments_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return views of what Adam keeps of a parameter of the policy; nothing before a step."""
        state = self.optimizer.state.get(self.parameters.flat)
        if not state:
            return {}
        place = [id(known) for known in self.parameters.parameters].index(id(parameter))
        return {name: self.parameters.split(state[name])[place] for name in MOMENTS}

    def unsound_state(self) -> list[str]:
        """Return the names of what in the agent's state no update can go on from.

        Those are parameters and moments that hold a NaN or an Inf, second moments below 0, Adam's
        step counter, and the loss scale. A bias of -inf by which a head forbids a choice is legal
        if no update was broken by it.
        """
        state = self.optimizer.state.get(self.parameters.flat, {})
        codes = state_codes(self.parameters.flat, state, self.loss_scale.scale)
        is_mask = mask_biases(codes.parameters, self.anatomy())
        is_known = codes.parameters == self._known_codes.to(self.device)
        named = {
            "": codes.parameters.masked_fill(is_mask & is_known, 0),
            "exp_avg of ": codes.first_moment,
            "exp_avg_sq of ": codes.second_moment,
        }
        names = [
            f"{prefix}{name}"
            for prefix, flat in named.items()
            for name, part in zip(self.parameters.names, self.parameters.split(flat), strict=True)
            if part.any()
        ]
        names += ["the optimizer's step counter"] if codes.step else []
        return names + (["the loss scale"] if codes.loss_scale else [])

    def anatomy(self) -> Anatomy:
        """Return what the causal order of non-finite values needs to know of the policy."""
        heads = {id(parameter) for parameter in self.policy.heads.parameters()}
        critic = {id(parameter) for parameter in self.policy.critic.parameters()}
        choices = self.policy.table.head_of_choice.cpu()
        owners, choices_of = [], []
        for parameter in self.parameters.parameters:
            if id(parameter) in heads:
                width = parameter.reshape(len(choices), -1).shape[1]
                owners.append(choices.repeat_interleave(width))
                choices_of.append(torch.arange(len(choices)).repeat_interleave(width))
            else:
                owner = CRITIC if id(parameter) in critic else TRUNK
                owners.append(torch.full((parameter.numel(),), owner))
                choices_of.append(torch.full((parameter.numel(),), -1))
        sizes = [parameter.numel() for parameter in self.parameters.parameters]
        return Anatomy(
            heads=self.policy.layout.names,
            head_of_choice=choices,
            owner=torch.cat(owners),
            choice=torch.cat(choices_of),
            names=self.parameters.names,
            bounds=list(accumulate(sizes)),
        )

    def _update(
        self,
        rollout: Rollout,
        injections: Sequence[Injection],
        before: Sequence[NonfiniteSighting],
    ) -> tuple[UpdateResult, bool]:
        """Return the outcome of an update, and whether what it started from was sound."""
        order = self.order_generator.get_state()
        hosts = _learnable(rollout)
        plan = [self._split(len(hosts)) for _ in range(self.config.ppo_epochs if len(hosts) else 0)]
        if not plan:
            self.starting_point.keep()
            return self._nothing_to_learn(before)
        if len(hosts) < rollout.hosts:
            chosen = hosts.to(self.device)
            plan = [tuple(chosen[positions] for positions in epoch) for epoch in plan]
        minibatches = [numbers for epoch in plan for numbers in epoch]
        prepared = self.prepare(rollout, plan[0])
        self.starting_point.keep()  # just before the state is measured: it is in the cache then
        learnt = self.learn(prepared.whole, minibatches, injections, self.finite_check)
        figures = learnt.figures
        sound = is_sound(figures.state_before)
        if not figures.is_suspicious:
            return summarise(figures, before), sound
        # Figures that are measured anyway say that something was not finite. What it was is found
        # by looking at the tensors that they were measured of, and by repeating the update with
        # everything watched: so detection costs nothing until there is something to detect.
        first = look_at_first(
            learnt.traces, prepared.codes(self.policy.table), self._state_codes(), figures,
            self.policy.table,
        )  # fmt: skip
        if not first.is_bad(self._known_codes) and sound:
            return summarise(figures, before), sound  # only a sum overflowed
        self.starting_point.restore()
        state = deepcopy(self.state_dict()) | {"order_generator": order}
        watch = UpdateWatch(self.policy, self.parameters, self.optimizer, self.loss_scale)
        prepared = self.prepare(rollout, plan[0])
        learnt = self.learn(prepared.whole, minibatches, injections, watch)
        second = look_at_second(
            learnt.traces, prepared.codes(self.policy.table), watch, learnt.figures
        )
        found, harmless = examine(
            Plan(rollout, minibatches, len(plan[0]), before),
            self.anatomy(),
            first,
            second,
            watch,
            self._known_codes,
        )
        self._remember_known(harmless)
        found = mark_planted(found, learnt.planted, len(plan[0]))
        sightings = in_order([*before, *found], self.policy.layout.names)
        result = summarise(learnt.figures, sightings)
        if not found:
            return result, sound
        start = UpdateStart(
            state,
            minibatches,
            minibatches_per_epoch=len(plan[0]),
            old_log_probs=prepared.whole.old_log_probs,
        )
        # What only the second pass showed did not repeat either, but its minibatch was left out.
        is_whole = not learnt.figures.bad.any()
        reproduced = not is_whole or any(seen.reproduced for seen in found)
        return replace(result, reproduced=reproduced, start=start), sound

    def _nothing_to_learn(self, before: Sequence[NonfiniteSighting]) -> tuple[UpdateResult, bool]:
        """Return the outcome of an update without episodes, and whether the state is sound.

        What broke every episode may be the agent's own state, so that is looked at.
        """
        found, known, is_bad = seen_in_state(self._state_codes(), self.anatomy(), self._known_codes)
        self._remember_known(known)
        result = without_minibatches(
            self.policy.layout.names,
            in_order([*before, *found], self.policy.layout.names),
            self.optimizer.param_groups[0]["lr"],
            self.loss_scale.scale.item() if self.loss_scale.enabled else None,
        )
        return result, not is_bad

    def _state_codes(self) -> StateCodes:
        state = self.optimizer.state.get(self.parameters.flat, {})
        return state_codes(self.parameters.flat, state, self.loss_scale.scale)

    def _remember_known(self, harmless: Tensor) -> None:
        """Remember the codes `[P]` of parameters that need not be reported again."""
        self._known_codes = harmless
        self._known_on_device = harmless.to(self.device) if harmless.any() else None

    def _forget_known(self) -> None:
        """Forget them, but for the biases of -inf by which the state of now forbids choices."""
        codes = code_of(self.parameters.flat.detach()).cpu()
        self._remember_known(codes.masked_fill(~mask_biases(codes, self.anatomy()), 0))

    def prepare(self, rollout: Rollout, first_epoch: Sequence[Tensor]) -> Preparation:
        """Return all episodes with what is to be learnt from them.

        Args:
            rollout: the episodes.
            first_epoch: the numbers of the hosts in each minibatch of the first epoch.
        """
        advantages, returns = generalized_advantages(
            rollout, self.config.gamma, self.config.gae_lambda
        )
        values = rollout.values
        hosts = _learnable(rollout)
        if len(hosts) < rollout.hosts:
            # What is not finite is left out of the means over siblings.
            left_out = torch.ones(rollout.hosts, dtype=torch.bool).index_fill_(0, hosts, False)
            advantages = advantages.masked_fill(left_out.to(self.device), torch.nan)
            values, returns_used = values[:, hosts], returns[:, hosts]
        else:
            returns_used = returns
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
            explained_variance=explained_variance(values, returns_used),
            preparation_sum=torch.zeros((), dtype=torch.float64, device=self.device),
        )
        parts: list[tuple[Minibatch, PolicyOutput]] = []
        old_log_probs = self._old_log_probs(whole, first_epoch, parts)
        total = _sum_of([output for _, output in parts])
        whole = replace(whole, old_log_probs=old_log_probs, preparation_sum=total)
        return Preparation(whole, parts, first_epoch)

    def learn(
        self,
        whole: Minibatch,
        minibatches: Sequence[Tensor],
        injections: Sequence[Injection],
        watch: FiniteCheck | UpdateWatch,
    ) -> Learnt:
        """Go once through all minibatches of an update; bring its figures to the host at the end.

        Args:
            whole: all episodes.
            minibatches: the numbers of the hosts in each.
            injections: values to plant.
            watch: says of each minibatch whether its step is to be left out.
        """
        config, parameters, loss_scale = self.config, self.parameters, self.loss_scale
        state_before = self._state_figures()
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        stopped = zero  # 1 when the policy has moved far enough
        left_out = torch.zeros((), device=self.device)  # 1 if a minibatch makes no step
        traces = []
        planted = []
        for index, hosts in enumerate(minibatches):
            batch = whole.take(hosts)
            terms, waiting = self._forward(batch, injections)
            planted += [(drill.head, index) for drill in injections if drill not in waiting]
            injections = waiting
            forward_bad = watch.forward(index, batch, terms)

            scale = loss_scale.scale
            gradient, derivatives = parameters.differentiate(
                loss_scale.scaled(terms.loss), index, derivable(terms)
            )
            loss_scale.unscale_(gradient)
            norm, moved = parameters.norm(gradient), divergence(terms)
            at_once = torch.stack((
                terms.policy_loss, terms.value_loss, terms.entropy_loss, terms.loss, moved, norm,
            )).detach()  # fmt: skip
            total = watch.backward(index, gradient, derivatives, at_once)
            overflow = loss_scale.is_overflow(total, forward_bad)
            decided = (total, loss_scale.is_ordinary(overflow), stopped)
            traces.append(Trace(batch, terms, at_once, decided, gradient, derivatives, scale))

            parameters.clip(gradient, norm, config.max_gradient_norm)
            # The fused step leaves weights, moments and its clock alone where found_inf is 1.
            # torch's own GradScaler sets this attribute; the class does not declare it.
            torch.addcmul(stopped, total, zero, out=left_out).nan_to_num_(nan=1.0)
            self.optimizer.found_inf = left_out  # type: ignore[attr-defined]
            self.optimizer.step()
            loss_scale.update(overflow, total)
            if config.target_kl:
                far = moved > 1.5 * config.target_kl
                stopped = torch.where(left_out.bool(), stopped, far)
        figures = bring_to_host(
            traces,
            (whole.explained_variance, whole.preparation_sum, state_before, self._state_figures()),
            config=config,
            parameters=parameters,
            heads=self.policy.layout.names,
            head_of_choice=self.policy.table.head_of_choice,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            has_loss_scale=loss_scale.enabled,
            not_planted=tuple(injections),
        )
        return Learnt(figures, traces, planted)

    def _state_figures(self) -> Tensor:
        state = self.optimizer.state.get(self.parameters.flat, {})
        return state_figures(
            self.parameters.flat, state, self.loss_scale.scale, self._known_on_device
        )

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

    def _old_log_probs(
        self,
        whole: Minibatch,
        split: Sequence[Tensor],
        parts: list[tuple[Minibatch, PolicyOutput]],
    ) -> Tensor:
        """Return the log-probabilities `[T, N, H]` of the choices taken, before any step.

        Computed again, in the shapes and the precision of the first epoch and by the kernels that
        training takes, rather than kept from acting: a sum taken in another order differs in its
        last bits, and the first ratio must be exactly 1.

        Args:
            whole: all episodes.
            split: the numbers of the hosts in each minibatch of the first epoch.
            parts: gets the episodes of each, and what the policy returned for them.
        """
        old = torch.empty_like(whole.old_log_probs)
        for hosts in split:
            batch = whole.take(hosts)
            output = self._run(batch)
            taken = self._likelihoods(output.logits, batch)
            parts.append((batch, _detached(output)))
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
        self._load(state)
        self.action_generator.set_state(state["action_generator"].cpu())
        self.order_generator.set_state(state["order_generator"].cpu())

    def _load(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss_scale.load_state_dict(state["loss_scale"])
        self._forget_known()


def _learnable(rollout: Rollout) -> Tensor:
    """Return the numbers of the hosts that may be learnt from, on the CPU."""
    if rollout.learnable is None:
        return torch.arange(rollout.hosts)
    return rollout.learnable.nonzero().flatten()


@torch.no_grad()
def _sum_of(outputs: Sequence[PolicyOutput]) -> Tensor:
    """Return the sum of all that the policy returned, finite only if all of it is.

    In one tensor first: small operations cost their call.
    """
    parts = [part for output in outputs for part in (output.logits, output.values, *output.state)]
    return torch.cat([part.reshape(-1) for part in parts]).sum()


def _detached(output: PolicyOutput) -> PolicyOutput:
    hidden, cell = output.state
    return PolicyOutput(
        output.trunk.detach(),
        output.logits.detach(),
        output.values.detach(),
        (hidden.detach(), cell.detach()),
    )


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """Return how much of the returns' variance the critic foresaw: 1 is all, 0 is none."""
    return 1 - (returns - values).var(correction=0) / returns.var(correction=0)
