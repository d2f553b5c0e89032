"""A random agent and rollout for the detection campaign, and the means to break an update of it.

A case follows from its number alone. Faults are values put into the tensors that the update
computes with: by hooks on modules, parameters and gradients, by functions that the agent calls, in
the rollout, in weights and in the optimizer's state. A fault is lasting (it fires in every pass
through the update) or transient (it fires in the first pass only). The expected report is written
down where the fault is planted and shares no code with the detector.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from esper.simic.agent.figures import UpdateResult
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.config import TrainingConfig
from esper.tamiyo.policy import HeadLayout, RecurrentPolicy

VALUES = {"nan": math.nan, "+inf": math.inf, "-inf": -math.inf}
PRECISIONS = ("off", "bf16", "fp16")
ANY = -1  # a host or a step that the contract leaves open

Place = tuple[str, int, int]  # phase, epoch, minibatch
GIVEN: Place = ("given", 0, 0)
PREPARATION: Place = ("preparation", 0, 0)


@dataclass(frozen=True)
class Where:
    """Where and when a fault fires.

    Attributes:
        index: minibatch of the update, counted from 0; in the preparation, its part.
        host: column of the rollout, one of those in that minibatch.
        step: step of the episode, counted from 0.
        head: number of a head.
        lasting: whether it fires in every pass; otherwise in the first one only.
        prepares: whether it fires in the preparation instead of in a minibatch.
    """

    index: int
    host: int
    step: int
    head: int
    lasting: bool = True
    prepares: bool = False


@dataclass(frozen=True)
class Sight:
    """One sighting that a fault must lead to.

    Attributes:
        kind: None where the arithmetic decides.
        at: the places where it may be seen first.
        last: the last (epoch, minibatch) of a sighting in the update; None: not checked.
        host: column of the rollout; None: it must name none; ANY: not checked.
        step: counted from 1; None and ANY as for `host`.
        part: text that the sighting's part must contain.
        reproduced: whether it must be reported as reproduced.
        required: False: it may be reported, and need not be, since something else explains it.
    """

    head: str
    quantity: str
    kind: str | None
    at: tuple[Place, ...]
    last: tuple[int, int] | None = None
    host: int | None = ANY
    step: int | None = ANY
    part: str = ""
    reproduced: bool = True
    required: bool = True


class Stage:
    """An agent and a rollout, made at random, and the means to put values into an update of it.

    Args:
        random: source of everything that is drawn.
        exits: undoes what is patched.
        amp: precision; drawn if None.
        warm: whether a clean update has been made before, so that the optimizer has moments.
    """

    def __init__(
        self,
        random: Random,
        exits: ExitStack,
        *,
        amp: str | None = None,
        warm: bool = False,
        **settings: Any,
    ) -> None:
        self.random = random
        self.exits = exits
        self.is_warm = warm
        self.armed = False
        self.index = -1  # of the minibatch in progress; -1 outside of all
        self.split = -1  # of the part of the preparation in progress; -1 outside
        self.passes = 0  # calls of `learn` in this update
        self.preparations = 0  # in this update
        self.fired: list[tuple[Where, int]] = []  # each firing, and the pass it was in
        self.before_forward: list[Callable[[Any], None]] = []  # called with the minibatch
        torch.manual_seed(random.randrange(2**31))
        self.layout = _layout(random)
        choices = {
            "ppo_epochs": random.choice((1, 1, 2)),
            "minibatches": random.choice((1, 2, 3)),
            "learning_rate": 10 ** random.uniform(-5, -2.5),
            "entropy_coefficient": random.choice((0.0, 0.02)),
        }
        self.config = TrainingConfig(
            amp=amp or random.choice(PRECISIONS), target_kl=0.0, **choices | settings
        )
        self.observations = random.choice((1, 5, 17))
        policy = RecurrentPolicy(
            self.observations,
            layout=self.layout,
            feature_size=random.choice((4, 8, 32)),
            lstm_size=random.choice((4, 8, 32)),
        )
        self.agent = PPOAgent(policy, self.config, rng_seed=random.randrange(2**31))
        self.names = {id(parameter): name for name, parameter in policy.named_parameters()}
        self.rollout = self._rollout()
        self._follow()
        if warm:
            self.agent.update(self.rollout)
        self.plan_again()

    @property
    def policy(self) -> RecurrentPolicy:
        """Return the agent's policy."""
        return self.agent.policy

    def update(self, **settings: Any) -> UpdateResult:
        """Make one update in which the planted faults fire."""
        self.armed, self.passes, self.preparations = True, 0, 0
        self.index = self.split = -1
        return self.agent.update(self.rollout, **settings)

    def _rollout(self) -> Rollout:
        """Return random steps under random legal masks, with hostile patterns among them."""
        random, layout = self.random, self.layout
        steps, hosts = random.randint(2, 5), random.randint(3, 7)
        share = random.choice((0.0, 0.3, 0.7, 1.0))  # of the choices not taken that are legal
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
        """Keep track of the pass, the minibatch and the part of the preparation in progress."""
        agent = self.agent
        learn, forward, old_log_probs = agent.learn, agent._forward, agent._old_log_probs

        def next_learn(*arguments: Any, **settings: Any) -> Any:
            self.passes += 1
            self.index = -1
            figures = learn(*arguments, **settings)
            self.index = -1
            return figures

        def next_forward(batch: Any, *arguments: Any, **settings: Any) -> Any:
            self.index += 1
            for change in self.before_forward:
                change(batch)
            return forward(batch, *arguments, **settings)

        def next_preparation(*arguments: Any, **settings: Any) -> Any:
            self.preparations += 1
            self.split, self.is_preparing = -1, True
            old = old_log_probs(*arguments, **settings)
            self.is_preparing, self.split = False, -1
            return old

        def count_split(_module: nn.Module, _inputs: Any) -> None:
            self.split += self.is_preparing

        self.is_preparing = False
        agent.learn = next_learn
        agent._forward = next_forward
        agent._old_log_probs = next_preparation
        self.policy.register_forward_pre_hook(count_split)

    def plan_again(self) -> None:
        """Find out which hosts the next update puts in each minibatch; nothing is drawn for it."""
        state = self.agent.order_generator.get_state()
        epochs = [self.agent._split(self.rollout.hosts) for _ in range(self.config.ppo_epochs)]
        self.agent.order_generator.set_state(state)
        self.per_epoch = len(epochs[0])
        self.plan = [hosts.tolist() for epoch in epochs for hosts in epoch]

    @property
    def hosts_now(self) -> list[int]:
        """Return the hosts of the forward pass in progress."""
        return self.plan[self.split if self.is_preparing else self.index]

    def where(self, **fixed: Any) -> Where:
        """Draw a place for a fault; `fixed` holds what is not to be drawn."""
        random = self.random
        prepares = fixed.get("prepares", False)
        count = self.per_epoch if prepares else len(self.plan)
        index = fixed.get("index", random.randrange(count))
        hosts = [fixed["host"]] if "host" in fixed else self.plan[index]
        head = fixed.get("head", random.randrange(len(self.layout.names)))
        steps, host = self.rollout.steps, random.choice(hosts)
        step = random.randrange(steps)
        places = self.rollout.active[:, hosts, head].nonzero().tolist()
        if places and random.random() < 0.8:
            step, number = random.choice(places)
            host = hosts[number]
        drawn = {"index": index, "host": host, "step": step, "head": head}
        return Where(**drawn | fixed)

    def fires(self, where: Where) -> bool:
        """Return whether a fault fires now, and remember that it did."""
        if not self.armed or where.prepares != self.is_preparing:
            return False
        now, turn = (self.split, self.preparations) if where.prepares else (self.index, self.passes)
        is_now = now == where.index and (where.lasting or turn == 1)
        if is_now:
            self.fired.append((where, turn))
        return is_now

    def position(self, where: Where) -> int:
        """Return the position of the fault's host in its minibatch."""
        return self.plan[where.index].index(where.host)

    def is_active(self, where: Where) -> bool:
        """Return whether the fault's head is active in its step and host."""
        return bool(self.rollout.active[where.step, where.host, where.head])

    def place(self, index: int) -> tuple[int, int]:
        """Return the epoch and the minibatch in it, counted from 1."""
        return index // self.per_epoch + 1, index % self.per_epoch + 1

    def at(self, index: int) -> Place:
        """Return the place of a minibatch of the update."""
        return ("update", *self.place(index))

    def last_place(self) -> tuple[int, int]:
        """Return the place of the update's last minibatch."""
        return self.place(len(self.plan) - 1)

    def places_of(self, host: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the first and the last place in which a host is used."""
        indices = [index for index, hosts in enumerate(self.plan) if host in hosts]
        return self.place(indices[0]), self.place(indices[-1])

    def wrap(self, owner: object, name: str, change: Callable[[Any], Any]) -> None:
        """Have `change(result)` take the place of what a function returns."""
        original = getattr(owner, name)

        def changed(*arguments: Any, **settings: Any) -> Any:
            return change(original(*arguments, **settings))

        self.exits.enter_context(mock.patch.object(owner, name, changed))

    def change_output(self, module: nn.Module, where: Where, change: Callable[[Any], Any]) -> None:
        """Have `change` applied to the output of a module when the fault fires."""

        def hook(_module: object, _inputs: object, output: Any) -> Any:
            return change(output) if self.fires(where) else output

        module.register_forward_hook(hook)

    def kind(self) -> str:
        """Draw a kind of non-finite value."""
        return self.random.choice(tuple(VALUES))

    def choice(self, head: int) -> int:
        """Draw a choice of a head: its column in the joint projection."""
        return self.layout.offsets[head] + self.random.randrange(self.layout.sizes[head])

    def head_name(self, where: Where) -> str:
        """Return the name of the fault's head."""
        return self.layout.names[where.head]

    def sight(
        self, where: Where, head: str, quantity: str, kind: str | None, **details: Any
    ) -> Sight:
        """Return the expected sighting of what breaks in the fault's own minibatch alone."""
        at = PREPARATION if where.prepares else self.at(where.index)
        last = None if where.prepares else self.place(where.index)
        settings: dict[str, Any] = {"host": None, "step": None, "last": last} | details
        return Sight(head, quantity, kind, (at,), reproduced=where.lasting, **settings)

    def sight_in_host(
        self, where: Where, head: str, quantity: str, kind: str | None, **details: Any
    ) -> Sight:
        """Return the same of what breaks in the fault's host and step."""
        settings = {"host": where.host, "step": where.step + 1} | details
        return self.sight(where, head, quantity, kind, **settings)


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


def state_tensors(stage: Stage) -> dict[str, Tensor]:
    """Return the parameters and all that the optimizer keeps, by name."""
    tensors = dict(stage.policy.named_parameters())
    state = stage.agent.optimizer.state.get(stage.agent.parameters.flat, {})
    return {**tensors, **state}


def is_finite(stage: Stage) -> bool:
    """Return whether every parameter and all of the optimizer's state is finite."""
    return all(bool(tensor.isfinite().all()) for tensor in state_tensors(stage).values())
