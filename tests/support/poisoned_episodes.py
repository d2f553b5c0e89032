"""Agents and hosts into which non-finite values are written during an episode."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from esper.growth.environment.divided import DividedHosts
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.tasks.loading import Split, Task
from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.ppo import PPOAgent
from esper.simic.config import TrainingConfig
from esper.tamiyo.acting import Decision
from esper.tamiyo.policy import RecurrentPolicy

STEPS = 6

Spoil = Callable[[PPOAgent], None]


class PoisonedAgent(PPOAgent):
    """An agent whose policy is spoilt before some steps, and mended after them or never."""

    def __init__(self, *, spoil: Spoil | None, at: int, lasting: bool) -> None:
        torch.manual_seed(0)
        policy = RecurrentPolicy(83, feature_size=16, lstm_size=16)
        super().__init__(policy, TrainingConfig(), rng_seed=1)
        self._spoil, self._at, self._lasting, self._step = spoil, at, lasting, 0

    def act(self, *arguments: Any) -> Decision:
        self._step += 1
        if self._spoil is None or self._step != self._at:
            return super().act(*arguments)
        whole = {name: value.clone() for name, value in self.policy.state_dict().items()}
        with torch.no_grad():
            self._spoil(self)
        decision = super().act(*arguments)
        if not self._lasting:
            self.policy.load_state_dict(whole)
        return decision


def small_task() -> Task:
    """Return a task of vectors whose slices take milliseconds."""
    generator = torch.Generator().manual_seed(0)

    def split(samples: int) -> Split:
        inputs = torch.randn(samples, 5, generator=generator)
        return Split(inputs, (inputs.sum(1) > 0).long())

    return Task("signs", split(32), split(16), split(16), classes=2, channels=4)


class PoisonedHosts(DividedHosts):
    """Hosts of which something is spoilt before some steps, or after one."""

    def __init__(self, count: int, processes: int, before: Any, after: Any) -> None:
        super().__init__(count, processes, task=small_task(), steps=STEPS, batch=8, batches=1)
        self._before = [before] if isinstance(before, tuple) else before or []
        self._after, self._step = after, 0

    def step(self, actions: np.ndarray) -> Any:
        self._step += 1
        for when, *what in self._before:
            if self._step == when:
                self.call(spoil_host, lambda part, what=what: (part.start, *what))
        result = super().step(actions)
        if self._after is not None and self._step == self._after[0]:
            self._after[1](result[0])
        return result


def spoil_host(env: GrowthVectorEnv, first: int, host: int, row: int, value: float) -> None:
    """Write a value into the first weight of a host, or into a moment of it."""
    population = env._cohort.population
    if 0 <= host - first < population.hosts:
        column = population.host_columns(np.array([host - first]))[0][0]
        population.state[row, column] = value


def short(sighting: NonfiniteSighting) -> tuple[Any, ...]:
    """Return the fields of a sighting that the tests compare."""
    assert (sighting.epoch, sighting.minibatch) == (0, 0)
    return (
        sighting.phase,
        sighting.head,
        sighting.quantity,
        sighting.kind,
        sighting.host,
        sighting.step,
        sighting.count,
    )
