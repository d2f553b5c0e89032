"""Small tasks, populations that train and grow, and ordinary networks to compare them with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import ordinary_modules
import pytest
import torch
from waiting import one_thread

from esper.growth.hosts import seeds as life
from esper.growth.hosts.host import HostShape
from esper.growth.hosts.lockstep import Losses, Measurement, evaluate, train_slice
from esper.growth.hosts.plan import make_plan
from esper.growth.hosts.population import Population, new_population, plant_hosts, plant_seed
from esper.growth.hosts.seeds import Seeds
from esper.growth.kernel.adam import AdamSettings
from esper.growth.tasks.loading import Split, Task
from esper.leyline.heads import HEAD_NAMES, Stage

BATCH = 8


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def ordinary() -> ModuleType:
    """The module of ordinary networks."""
    return ordinary_modules


@dataclass(frozen=True)
class PreciseTask(Task):
    """A task of symbols whose hosts compute in the precision that a test needs."""

    precision: torch.dtype = torch.float64

    @property
    def dtype(self) -> torch.dtype:
        return self.precision


def symbol_task(
    generator: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype, symbols: int
) -> Task:
    """Return a task in which the class is the sum of the last two symbols."""

    def split(samples: int) -> Split:
        inputs = generator.integers(symbols, size=(samples, *shape))
        labels = inputs[:, -2:].sum(axis=1) % symbols
        return Split(torch.from_numpy(inputs.astype(np.uint8)), torch.from_numpy(labels))

    return PreciseTask(
        "sums",
        split(64),
        split(40),
        split(24),
        symbols,
        channels=8,
        vocabulary=tuple("abcdefgh"[:symbols]),
        precision=dtype,
    )


@pytest.fixture(scope="session")
def small_task() -> Callable[..., Task]:
    """Makes tasks of noisy patterns, so small that a slice takes milliseconds."""

    def make(
        input_shape: tuple[int, ...] = (1, 16),
        dtype: torch.dtype = torch.float64,
        classes: int = 4,
        symbols: int = 0,
    ) -> Task:
        generator = np.random.default_rng(7)
        if symbols:
            return symbol_task(generator, input_shape, dtype, symbols)
        patterns = generator.normal(size=(classes, *input_shape))

        def split(samples: int) -> Split:
            labels = generator.integers(classes, size=samples)
            inputs = patterns[labels] + 0.5 * generator.normal(size=(samples, *input_shape))
            return Split(torch.from_numpy(inputs).to(dtype), torch.from_numpy(labels))

        return Task("patterns", split(64), split(40), split(24), classes, channels=8)

    return make


@dataclass
class Colony:
    """A population with its seeds and data, for tests that need no environment."""

    task: Task
    population: Population
    seeds: Seeds
    draws: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def germinate(self, host: int, slot: int, **choices: Any) -> None:
        """Put a seed into a slot, with its first parameters."""
        values = {"blueprint": 3, "style": 0, "tempo": 2, "target": 0.7} | choices
        life.germinate(self.seeds, host, slot, **values)
        count = int(self.seeds.germinations[host, slot])
        plant_seed(self.population, host, slot, values["blueprint"], count)

    def draw(self, batches: int = 2) -> np.ndarray:
        """Return random samples for a slice. `[N, batches * BATCH]`"""
        size = (self.population.hosts, batches * BATCH)
        return self.draws.integers(len(self.task.train), size=size)

    def train(self, drawn: np.ndarray, batch: int = BATCH) -> Losses:
        """Train a slice that `life.begin_slice` began; its end is the caller's too."""
        plan = make_plan(self.population, self.seeds)
        learnt = train_slice(self.population, plan, self.task.train, drawn, batch, AdamSettings())
        return learnt.losses

    def live_on(self, slices: int = 1) -> None:
        """Train for whole slices without any action."""
        for _ in range(slices):
            life.begin_slice(self.seeds)
            self.train(self.draw())
            life.end_slice(self.seeds)

    def measure(self) -> Measurement:
        """Measure hosts and shadows on the validation part."""
        plan = make_plan(self.population, self.seeds)
        return evaluate(self.population, plan, self.task.validation)

    def host_state(self, host: int) -> torch.Tensor:
        """Return parameters and moments of a host. `[3, P]`"""
        return self.population.state[:, self.population.host_columns(np.array([host]))[0]].clone()

    def seed_state(self, host: int, slot: int) -> torch.Tensor:
        """Return parameters and moments of the seed in a slot. `[3, P]`"""
        blueprint = int(self.seeds.blueprint[host, slot])
        columns = self.population.seed_columns(np.array([host]), slot, blueprint)[0]
        return self.population.state[:, columns].clone()


@pytest.fixture(scope="session")
def colony(small_task: Callable[..., Task]) -> Callable[..., Colony]:
    """Makes new colonies; host n is initialised with random seed n."""

    def make(
        hosts: int = 3, task: Task | None = None, rng_seeds: list[int] | None = None
    ) -> Colony:
        task = task or small_task()
        population = new_population(
            hosts,
            3,
            HostShape(task.input_shape, task.classes, task.channels, task.symbols),
            device=torch.device("cpu"),
            dtype=task.dtype,
        )
        plant_hosts(population, np.arange(hosts), np.array(rng_seeds or range(hosts)))
        return Colony(task, population, life.empty_seeds(hosts))

    return make


@pytest.fixture(scope="session")
def actions() -> Callable[..., np.ndarray]:
    """Makes actions `[N, 8]` that are zero but for the heads named."""

    def make(hosts: int, **choices: Any) -> np.ndarray:
        result = np.zeros((hosts, len(HEAD_NAMES)), dtype=np.int64)
        for head, choice in choices.items():
            result[:, HEAD_NAMES.index(head)] = choice
        return result

    return make


@dataclass
class Mirror:
    """The same colony as ordinary networks, one for each host, each with its own optimizer."""

    colony: Colony
    ordinary: ModuleType
    networks: list[Any] = field(default_factory=list)
    germinations: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task = self.colony.task
        for host in range(self.colony.population.hosts):
            module = (
                self.ordinary.Transformer(
                    *task.input_shape, task.classes, task.channels, task.symbols
                )
                if task.symbols
                else self.ordinary.Host(task.input_shape, task.classes, task.channels)
            ).double()
            self.ordinary.write_parameters(module, self.colony.host_state(host)[0])
            self.networks.append(self.ordinary.Network(module))

    def follow(self) -> None:
        """Put into each network the seeds that the colony has now, with the alphas it has now."""
        seeds, task = self.colony.seeds, self.colony.task
        for host, network in enumerate(self.networks):
            for slot in range(3):
                at = host, slot
                training = seeds.stage[at] == Stage.TRAINING
                if not training and seeds.alpha[at] == 0:
                    network.slots.pop(slot, None)
                    continue
                if self.germinations.get(at) != seeds.germinations[at]:
                    self.germinations[at] = int(seeds.germinations[at])
                    seed = self.ordinary.Seed(
                        int(seeds.blueprint[at]),
                        int(seeds.style[at]),
                        task.channels,
                        self.colony.population.axes,
                    ).double()
                    self.ordinary.write_parameters(seed, self.colony.seed_state(*at)[0])
                    network.slots[slot] = self.ordinary.Slot(seed, 0.0, training)
                network.slots[slot].training = bool(training)
                network.slots[slot].alpha = float((seeds.target if training else seeds.alpha)[at])
            network.adapt()

    def train(self, drawn: np.ndarray) -> None:
        """Train every network on its minibatches, one after the other."""
        split = self.colony.task.train
        for network, samples in zip(self.networks, torch.from_numpy(drawn), strict=True):
            for index in samples.split(BATCH):
                network.train_step(split.inputs[index], split.labels[index])

    def state(self, network: Any, module: torch.nn.Module) -> torch.Tensor:
        """Return parameters and moments of a module of a network. `[3, P]`"""
        rows = [[], [], []]
        for parameter in module.parameters():
            moments = network.optimizer.state.get(parameter, {})
            zero = torch.zeros_like(parameter)
            rows[0].append(parameter.detach().reshape(-1))
            rows[1].append(moments.get("exp_avg", zero).reshape(-1))
            rows[2].append(moments.get("exp_avg_sq", zero).reshape(-1))
        return torch.stack([torch.cat(row) for row in rows])


@pytest.fixture(scope="session")
def mirror(ordinary: ModuleType) -> Callable[[Colony], Mirror]:
    """Makes the ordinary twin of a newborn colony."""
    return lambda colony: Mirror(colony, ordinary)
