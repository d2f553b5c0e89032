"""A small training that is ready to run, and the places where a fault can be planted in it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from esper.watching.agreement import OnNonfinite
from esper.watching.watch import Watch
from watched_loops.broken_layers import UserLayer
from watched_loops.truth import Where

VALUES = {"nan": float("nan"), "+inf": float("inf"), "-inf": float("-inf")}
Hook = Callable[[int], None]
Watching = Callable[[OnNonfinite, Path], AbstractContextManager[Watch]]


@dataclass
class World:
    """What an environment returns besides random numbers.

    Attributes:
        observation: added to one number of the next observation; then 0 again.
        reward: added to the next reward; then 0 again.
        reward_scale: of all rewards.
        observation_scale: of all observations.
        dead: whether the first number of each observation is 0.
    """

    observation: float = 0.0
    reward: float = 0.0
    reward_scale: float = 1.0
    observation_scale: float = 1.0
    dead: bool = False

    def take_observation(self) -> float:
        """Return what is added to the next observation."""
        value, self.observation = self.observation, 0.0
        return value

    def take_reward(self) -> float:
        """Return what is added to the next reward."""
        value, self.reward = self.reward, 0.0
        return value


@dataclass
class Stage:
    """A training.

    Attributes:
        random: draws of the case.
        model: all that is trained; its state is compared.
        optimizers: of the model.
        train: trains for `updates` updates, and raises what the library raises.
        watching: watches it as a user does.
        where: where the library first uses what a fault breaks, by name of the fault's place.
        heads: rows of each head in the output layer.
        output: the output layer.
        trunk: a weight that all heads share, and its owner.
        value: a weight of the value's own layer, and its owner; None if there is none.
        set_log_std: sets the logarithm of a head's standard deviation; None if there is none.
        layer: a user's layer below the output layer.
        layer_owner: whose gradient the layer breaks.
        places: of data that the next learning uses, in which values can be planted.
        write: writes a value into one of these places; by default into the loop's own data.
        settings: setters of the library's own settings, by name.
        world: what the environment returns.
        before_learning: called with the number of the update, counted from 1.
        before_acting: likewise.
        updates: number of updates.
        first_update: in which something can be planted.
        steps_per_update: optimizer steps of the first optimizer.
        tags: what the stage is, for faults that need it.
        extra: what its training needs.
        watch: the open watch, for loops that end their updates themselves.
        phases_of_data: acceptable phases of an incident, by place, where several are.
        optimizer_of_output: number of the optimizer that has the output layer.
        set_rate: sets the learning rate where the library sets it again before each update.
        cannot: faults that have no place.
    """

    random: Random
    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    train: Callable[["Stage"], None]
    watching: Watching
    where: Mapping[str, Where]
    heads: Mapping[str, range]
    output: nn.Linear
    trunk: tuple[nn.Parameter, str]
    layer: UserLayer
    value: tuple[nn.Parameter, str] | None = None
    set_log_std: Callable[[int, float], None] | None = None
    layer_owner: str = "shared"
    places: tuple[str, ...] = ()
    write: Callable[[str, float], None] | None = None
    settings: Mapping[str, Callable[[float], None]] = field(default_factory=dict)
    world: World = field(default_factory=World)
    before_learning: list[Hook] = field(default_factory=list)
    before_acting: list[Hook] = field(default_factory=list)
    updates: int = 4
    first_update: int = 1
    steps_per_update: int = 4
    tags: frozenset[str] = frozenset()
    extra: dict[str, Any] = field(default_factory=dict)
    watch: Watch | None = None
    phases_of_data: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optimizer_of_output: int = 0
    set_rate: Callable[[float], None] | None = None
    cannot: frozenset[str] = frozenset()

    def any_update(self) -> int:
        """Return the number of an update, drawn at random."""
        return self.random.randint(self.first_update, self.updates - 1)

    def any_value(self) -> tuple[str, float]:
        """Return a kind of non-finite number, and such a number."""
        kind = self.random.choice(tuple(VALUES))
        return kind, VALUES[kind]

    def any_head(self) -> str:
        """Return the name of a head."""
        return self.random.choice(sorted(self.heads))

    def element(self, head: str) -> tuple[int, int]:
        """Return an index into the output layer's weight, in the rows of a head."""
        rows = self.heads[head]
        return self.random.choice(rows), self.random.randrange(self.output.in_features)

    def at_learning(self, update: int, plant: Callable[[], None]) -> None:
        """Plant something between acting and learning."""
        self.before_learning.append(lambda number: plant() if number == update else None)

    def at_acting(self, update: int, plant: Callable[[], None]) -> None:
        """Plant something before an update acts."""
        self.before_acting.append(lambda number: plant() if number == update else None)

    def after_step(self, step: int, plant: Callable[[], None], optimizer: int = 0) -> None:
        """Plant something after a step of an optimizer, counted from 1."""
        count = 0

        def hook(*_: Any) -> None:
            nonlocal count
            count += 1
            if count == step:
                with torch.no_grad():
                    plant()

        self.optimizers[optimizer].register_step_post_hook(hook)

    def in_learning(self, plant: Callable[[], None], optimizer: int = 0) -> None:
        """Plant something in the midst of an update, between two steps of an optimizer.

        Where an update is a single step, it is planted before that.
        """
        update = self.any_update()
        if self.steps_per_update == 1:  # the first step makes the optimizer's state
            self.at_learning(max(update, self.first_update + 1), plant)
            return
        # The updates before the first one take no steps.
        within = self.random.randint(1, max(1, self.steps_per_update - 2))
        self.after_step(
            self.steps_per_update * (update - self.first_update) + within, plant, optimizer
        )

    def begin_acting(self, update: int) -> None:
        """Plant what is to be planted before an update acts."""
        for hook in self.before_acting:
            hook(update)

    def begin_learning(self, update: int, data: Mapping[str, Tensor]) -> None:
        """Plant what is to be planted between acting and learning."""
        # Hidden, as a watch would name the loop's tensors after what else holds them.
        self.extra["data"] = lambda: data
        for hook in self.before_learning:
            hook(update)
        del self.extra["data"]

    def end_update(self) -> None:
        """End the update, where the loop does not show it otherwise."""
        if self.watch is not None:
            self.watch.update()

    def plant(self, place: str, value: float, seed: int) -> None:
        """Write a value into a place in the data of the current learning."""
        if self.write is not None:
            self.write(place, value)
            return
        values = self.extra["data"]()[place].view(-1)
        values[Random(seed).randrange(len(values))] = value
