"""Random updates for the detection campaign: an agent, a rollout, and a fault put into a tensor.

A case follows from its number alone. Faults are values put into the very tensors that the update
computes with: by hooks on the policy's modules and parameters, by functions that the agent calls,
in the rollout, in weights and in the optimizer's moments. What is then expected is written down
where the fault is planted, and owes nothing to the code that detects it.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.config import TrainingConfig
from esper.tamiyo.policy import HeadLayout, PolicyOutput, RecurrentPolicy

VALUES = {"nan": math.nan, "+inf": math.inf, "-inf": -math.inf}
PRECISIONS = ("off", "off", "bf16", "fp16")


@dataclass(frozen=True)
class Expected:
    """One sighting that a fault must lead to; places are (epoch, minibatch), counted from 1."""

    head: str
    quantity: str
    kind: str | None  # None: whichever the arithmetic makes of it
    first: tuple[int, int]
    last: tuple[int, int]


class Stage:
    """An agent and a rollout, made at random, and the means to put values into an update of it."""

    def __init__(self, random: Random, exits: ExitStack) -> None:
        self.random = random
        self.exits = exits
        self.index = -1  # of the minibatch that is gone through; -1 before the first
        torch.manual_seed(random.randrange(2**31))
        self.layout = _layout(random)
        self.config = TrainingConfig(
            amp=random.choice(PRECISIONS),
            ppo_epochs=random.choice((1, 1, 2)),
            minibatches=random.choice((1, 2, 3)),
            learning_rate=10 ** random.uniform(-5, -2.5),
            entropy_coefficient=random.choice((0.0, 0.02)),
            target_kl=0.0,
        )
        self.observations = random.choice((1, 5, 17))
        policy = RecurrentPolicy(
            self.observations,
            layout=self.layout,
            feature_size=random.choice((4, 8, 32)),
            lstm_size=random.choice((4, 8, 32)),
        )
        self.agent = PPOAgent(policy, self.config, seed=random.randrange(2**31))
        self.rollout = self._rollout()
        self._follow()
        self.plan = self._plan()

    @property
    def policy(self) -> RecurrentPolicy:
        """Return the agent's policy."""
        return self.agent.policy

    def _rollout(self) -> Rollout:
        """Return random steps under random legal masks, with hostile patterns among them."""
        random, layout = self.random, self.layout
        steps, hosts = random.randint(2, 5), random.randint(3, 7)
        share = random.choice((0.0, 0.3, 0.7, 1.0))  # of the choices that are legal beside the one
        actions = torch.stack(
            [torch.randint(size, (steps, hosts)) for size in layout.sizes], dim=-1
        )
        masks = torch.rand(steps, hosts, layout.total) < share
        masks.scatter_(-1, actions + torch.tensor(layout.offsets), True)
        active = torch.rand(steps, hosts, len(layout.names)) < random.choice((0.2, 0.6, 1.0))
        active[..., -1] = True  # as the op head of Esper
        if len(layout.names) > 1 and random.random() < 0.3:
            active[..., random.randrange(len(layout.names) - 1)] = False
        ended = torch.zeros(steps, hosts, dtype=torch.bool)
        ended[-1] = True
        size = self.policy.lstm.hidden_size
        return Rollout(
            observations=torch.randn(steps, hosts, self.observations),
            actions=actions,
            masks=masks,
            active=active,
            values=torch.randn(steps, hosts),
            rewards=torch.randn(steps, hosts),
            terminated=ended,
            truncated=torch.zeros_like(ended),
            next_values=torch.randn(steps, hosts),
            initial_state=(torch.randn(1, hosts, size), torch.randn(1, hosts, size)),
        )

    def _follow(self) -> None:
        """Keep `index` at the minibatch that is gone through, each time the update is."""
        learn, forward = self.agent.learn, self.agent._forward

        def learn_again(*arguments: Any) -> Any:
            self.index = -1
            figures = learn(*arguments)
            self.index = -1
            return figures

        def next_forward(*arguments: Any) -> Any:
            self.index += 1
            return forward(*arguments)

        self.agent.learn = learn_again  # type: ignore[method-assign]
        self.agent._forward = next_forward  # type: ignore[method-assign]

    def _plan(self) -> list[list[int]]:
        """Return which hosts will be in each minibatch, without drawing them from the agent."""
        state = self.agent.order_generator.get_state()
        epochs = [self.agent._split(self.rollout.hosts) for _ in range(self.config.ppo_epochs)]
        self.agent.order_generator.set_state(state)
        self.per_epoch = len(epochs[0])
        return [hosts.tolist() for epoch in epochs for hosts in epoch]

    def place(self, index: int) -> tuple[int, int]:
        """Return the epoch and the minibatch in it, counted from 1."""
        return index // self.per_epoch + 1, index % self.per_epoch + 1

    def places_of(self, host: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the first and the last place that a host takes part in."""
        indices = [index for index, hosts in enumerate(self.plan) if host in hosts]
        return self.place(indices[0]), self.place(indices[-1])

    def wrap(self, owner: object, name: str, change: Callable[[Any, tuple[Any, ...]], Any]) -> None:
        """Have `change(result, arguments)` take the place of what a function returns."""
        original = getattr(owner, name)

        def changed(*arguments: Any, **settings: Any) -> Any:
            return change(original(*arguments, **settings), arguments)

        self.exits.enter_context(mock.patch.object(owner, name, changed))

    def at(self, index: int, change: Callable[[Any], Any]) -> Callable[..., Any]:
        """Return a hook on a module that changes its output in one minibatch."""

        def hook(_module: object, _inputs: object, output: Any) -> Any:
            return change(output) if self.index == index else output

        return hook

    def active_place(self, hosts: list[int], head: int) -> tuple[int, int] | None:
        """Return a step, and the number of a host among `hosts`, in which a head was active."""
        places = self.rollout.active[:, hosts, head].nonzero().tolist()
        return tuple(self.random.choice(places)) if places else None


def _layout(random: Random) -> HeadLayout:
    if random.random() < 0.6:
        return HeadLayout()
    sizes = tuple(random.randint(1, 9) for _ in range(random.randint(1, 9)))
    return HeadLayout(tuple(f"head{number}" for number in range(len(sizes))), sizes)


def planted(values: Tensor, place: tuple[Any, ...], value: float) -> Tensor:
    """Return a copy of `values` with `value` in one place, gradients elsewhere kept."""
    copy = values.clone()
    copy[place] = value
    return copy


def with_parts(rollout: Rollout, **parts: Any) -> Rollout:
    """Return a rollout with some of its tensors replaced."""
    return replace(rollout, **parts)


# What makes an update hostile and leaves it legal. Each returns whether it fits the stage.


def forbidden_logits_are_minus_infinity(stage: Stage) -> bool:
    """The policy itself says "never" of what the mask forbids."""

    def masked(output: PolicyOutput, arguments: tuple[Any, ...]) -> PolicyOutput:
        illegal = stage.policy.table.joint(arguments[0].illegal)
        return output._replace(logits=output.logits.masked_fill(illegal, -torch.inf))

    stage.wrap(stage.agent, "_run", masked)
    return True


def extreme_logits(stage: Stage) -> bool:
    """Logits so large that every sum of them overflows, and still finite."""
    size = stage.random.choice((1e30, 3e38))
    signs = torch.ones(stage.layout.total)
    if size == 1e30:
        signs = torch.randint(2, (stage.layout.total,)) * 2.0 - 1
    if stage.random.random() < 0.5:
        signs = -signs
    stage.policy.heads.register_forward_hook(lambda _m, _i, output: output * 1e-9 + signs * size)
    return True


def huge_gradients(stage: Stage) -> bool:
    """Gradients whose squares overflow, and still finite."""
    if stage.config.amp == "fp16":
        return False
    for parameter in stage.policy.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-1, 1) * 1e30)
    return True


def huge_returns(stage: Stage) -> bool:
    """Rewards far out of all proportion."""
    size = 1e3 if stage.config.amp == "fp16" else 10 ** stage.random.uniform(3, 16)
    stage.rollout = with_parts(stage.rollout, rewards=stage.rollout.rewards * size)
    return True


def no_variance(stage: Stage) -> bool:
    """Advantages and returns that are all the same."""
    flat = torch.zeros_like(stage.rollout.rewards)
    stage.rollout = with_parts(stage.rollout, rewards=flat, values=flat, next_values=flat)
    return True


def single_choices(stage: Stage) -> bool:
    """Nothing to decide: one legal choice in every head."""
    columns = stage.rollout.actions + torch.tensor(stage.layout.offsets)
    masks = torch.zeros_like(stage.rollout.masks).scatter(-1, columns, True)
    stage.rollout = with_parts(stage.rollout, masks=masks)
    return True


def inactive_heads(stage: Stage) -> bool:
    """Only one head ever counts."""
    active = torch.zeros_like(stage.rollout.active)
    active[..., -1] = True
    stage.rollout = with_parts(stage.rollout, active=active)
    return True


def uncounted_choices_are_illegal(stage: Stage) -> bool:
    """Where a head was inactive, its action need not have been a legal one."""
    rollout = stage.rollout
    taken = torch.zeros_like(rollout.masks)
    taken.scatter_(-1, rollout.actions + torch.tensor(stage.layout.offsets), True)
    owners = stage.policy.table.head_of_choice
    uncounted = taken & ~rollout.active[..., owners]
    masks = rollout.masks & ~uncounted
    by_head = torch.stack(
        [masks[..., owners == head].any(-1) for head in range(len(stage.layout.names))], -1
    )
    masks = torch.where(by_head[..., owners], masks, rollout.masks)  # each head keeps a choice
    stage.rollout = with_parts(rollout, masks=masks)
    return True


def overflowing_loss_scale(stage: Stage) -> bool:
    """A loss scale that is far too high at first, as ordinary as it is."""
    if stage.config.amp != "fp16":
        return False
    stage.agent.loss_scale.scale.fill_(2.0 ** stage.random.randint(40, 126))
    return True


def ordinary(_stage: Stage) -> bool:
    """Nothing special."""
    return True


HOSTILE: tuple[Callable[[Stage], bool], ...] = (
    ordinary,
    forbidden_logits_are_minus_infinity,
    extreme_logits,
    huge_gradients,
    huge_returns,
    no_variance,
    single_choices,
    inactive_heads,
    uncounted_choices_are_illegal,
    overflowing_loss_scale,
)
