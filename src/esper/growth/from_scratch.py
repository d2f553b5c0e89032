"""Baseline: networks with a grown architecture, trained with it from their first step.

Host, seeds, styles and alphas are those that an episode ended with. The seeds are FOSSILIZED before
the first slice, so they run and learn as after growing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from esper.growth.environment.cohort import (
    Cohort,
    added_ratio,
    begin_episodes,
    measure_finished,
    new_cohort,
    set_rng_seed,
)
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.hosts.finished import FinishedNetwork, finished_network
from esper.growth.hosts.lockstep import train_slice
from esper.growth.hosts.minibatches import draw
from esper.growth.hosts.plan import make_plan
from esper.growth.hosts.population import plant_seed
from esper.growth.hosts.seeds import EMPTY, Seeds
from esper.growth.hosts.training_cost import training_multiply_adds
from esper.leyline.heads import SLOT_CHOICES, Stage


@dataclass(frozen=True)
class Architecture:
    """The FOSSILIZED seeds of N hosts. All arrays are `[N, S]`.

    Attributes:
        blueprint, style: of each slot; EMPTY where there is no seed.
        alpha: how far the seed is blended in.
    """

    blueprint: np.ndarray
    style: np.ndarray
    alpha: np.ndarray

    def take(self, hosts: slice) -> "Architecture":
        """Return the architectures of some hosts only."""
        return Architecture(self.blueprint[hosts], self.style[hosts], self.alpha[hosts])


@dataclass(frozen=True)
class Trained:
    """Results of training N networks. All arrays are `[N]`.

    Attributes:
        validation_accuracy, test_accuracy: on those parts of the task.
        parameters: of each network.
        multiply_adds: spent on training, as `esper.growth.hosts.training_cost` counts them.
    """

    validation_accuracy: np.ndarray
    test_accuracy: np.ndarray
    parameters: np.ndarray
    multiply_adds: np.ndarray


def bare_hosts(hosts: int) -> Architecture:
    """Return the architecture of N hosts without seeds."""
    empty = np.full((hosts, len(SLOT_CHOICES)), EMPTY)
    return Architecture(empty, empty, np.zeros(empty.shape))


def architecture_of(
    stage: np.ndarray, blueprint: np.ndarray, style: np.ndarray, alpha: np.ndarray
) -> Architecture:
    """Return the FOSSILIZED seeds among those of N hosts, given as in the environment's info."""
    stays = stage == Stage.FOSSILIZED
    return Architecture(
        np.where(stays, blueprint, EMPTY),
        np.where(stays, style, EMPTY),
        np.where(stays, alpha, 0.0),
    )


def train_from_scratch(
    env: GrowthVectorEnv,
    architecture: Architecture,
    rng_seeds: Sequence[int],
    steps: np.ndarray,
    on_step: Callable[[int], None] | None = None,
    learning_rates: Sequence[float] | None = None,
) -> Trained:
    """Train networks of given architectures from their first step.

    Args:
        env: environment with the task and training settings; its own hosts do not change.
        architecture: of each network.
        rng_seeds: random seed of each network; initial parameters of hosts and order of data are
            those of an episode of the environment after a reset with the same seed.
        steps: number of slices for each network, at least 1. `[N]`
        on_step: called after each slice with its number, counted from 1.
        learning_rates: one for each slice; by default the rate of hosts throughout.
    """
    hosts = len(rng_seeds)
    train, validation, test = env.parts
    cohort = _begun(env, architecture, rng_seeds)
    plan = make_plan(cohort.population, cohort.seeds)
    ends = {name: np.zeros(hosts) for name in ("validation", "test")}
    for step in range(1, int(steps.max()) + 1):
        optimizer = env.optimizer
        if learning_rates is not None:
            optimizer = replace(optimizer, learning_rate=learning_rates[step - 1])
        drawn = draw(cohort.order, env.batch * env.batches)
        train_slice(cohort.population, plan, train, drawn, env.batch, optimizer)
        if on_step is not None:
            on_step(step)
        if (ended := steps == step).any():
            for name, part in (("validation", validation), ("test", test)):
                accuracy = measure_finished(cohort, part).accuracy
                ends[name] = np.where(ended, accuracy, ends[name])
    each_step = training_multiply_adds(env.host_shape, cohort.seeds) * env.batch * env.batches
    ratio = added_ratio(cohort, fossilized=True)
    return Trained(
        validation_accuracy=ends["validation"],
        test_accuracy=ends["test"],
        parameters=np.rint((1 + ratio) * env.host_parameters).astype(np.int64),
        multiply_adds=each_step * steps,
    )


def initial_network(
    env: GrowthVectorEnv, architecture: Architecture, rng_seed: int
) -> FinishedNetwork:
    """Return a network of one architecture before its first step.

    Args:
        env: environment with the task and training settings; its own hosts do not change.
        architecture: of one network.
        rng_seed: its random seed; the initial values are those of `train_from_scratch`.
    """
    cohort = _begun(env, architecture, [rng_seed])
    return finished_network(cohort.population, cohort.seeds, 0)


def _begun(env: GrowthVectorEnv, architecture: Architecture, rng_seeds: Sequence[int]) -> Cohort:
    """Return hosts with FOSSILIZED seeds before their first step."""
    hosts = len(rng_seeds)
    train, validation, _ = env.parts
    cohort = new_cohort(
        hosts,
        env.host_shape,
        samples=len(train),
        batch=env.batch,
        batches=env.batches,
        device=env.device,
        dtype=env.task.dtype,
    )
    for host, rng_seed in enumerate(rng_seeds):
        set_rng_seed(cohort, host, int(rng_seed))
    begin_episodes(cohort, np.arange(hosts), validation)
    _set_fossilized(cohort.seeds, architecture)
    for host, slot in np.argwhere(architecture.blueprint != EMPTY).tolist():
        plant_seed(cohort.population, host, slot, int(architecture.blueprint[host, slot]), 1)
    return cohort


def _set_fossilized(seeds: Seeds, architecture: Architecture) -> None:
    present = architecture.blueprint != EMPTY
    seeds.stage[present] = Stage.FOSSILIZED
    seeds.blueprint[:] = architecture.blueprint
    seeds.style[:] = architecture.style
    seeds.alpha[:] = seeds.target[:] = architecture.alpha
    seeds.germinations[present] = 1
