"""Networks of a grown architecture, trained with it from their first step: what growing is up to.

Host, seeds, styles and alphas are those that an episode ended with. The seeds are FOSSILIZED before
the first slice, so they run and learn as they would have run and learnt after growing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from esper.growth.environment.cohort import (
    added_ratio,
    begin_episodes,
    measure_finished,
    new_cohort,
    seed_host,
)
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.hosts.lockstep import train_slice
from esper.growth.hosts.minibatches import draw
from esper.growth.hosts.plan import make_plan
from esper.growth.hosts.population import plant_seed
from esper.growth.hosts.seeds import EMPTY, Seeds
from esper.growth.hosts.training_cost import training_multiply_adds
from esper.leyline.heads import Stage


@dataclass(frozen=True)
class Architecture:
    """What is part of each of N hosts for good. All arrays are `[N, S]`.

    Attributes:
        blueprint, style: of each slot; EMPTY where nothing is.
        alpha: how much of it is blended in.
    """

    blueprint: np.ndarray
    style: np.ndarray
    alpha: np.ndarray

    def take(self, hosts: slice) -> "Architecture":
        """Return the architectures of some hosts only."""
        return Architecture(self.blueprint[hosts], self.style[hosts], self.alpha[hosts])


@dataclass(frozen=True)
class Trained:
    """Networks after training, all arrays `[N]`.

    Attributes:
        validation_accuracy, test_accuracy: on those parts of the task.
        parameters: of each network.
        multiply_adds: spent on training, as `esper.growth.hosts.training_cost` counts them.
    """

    validation_accuracy: np.ndarray
    test_accuracy: np.ndarray
    parameters: np.ndarray
    multiply_adds: np.ndarray


def architecture_of(
    stage: np.ndarray, blueprint: np.ndarray, style: np.ndarray, alpha: np.ndarray
) -> Architecture:
    """Return what is FOSSILIZED among the seeds of N hosts, as the environment's info has them."""
    stays = stage == Stage.FOSSILIZED
    return Architecture(
        np.where(stays, blueprint, EMPTY),
        np.where(stays, style, EMPTY),
        np.where(stays, alpha, 0.0),
    )


def train_from_scratch(
    env: GrowthVectorEnv,
    architecture: Architecture,
    seeds: Sequence[int],
    steps: np.ndarray,
    on_step: Callable[[int], None] | None = None,
) -> Trained:
    """Train networks of given architectures from their first step.

    Args:
        env: whose task and training settings they share; its own hosts are left alone.
        architecture: of each network.
        seeds: of each; first parameters of hosts and order of data are those of an episode of the
            environment that was reset with the same seed.
        steps: how many slices each is trained for, at least 1. `[N]`
        on_step: called with the number of each slice that is done, counted from 1.
    """
    hosts = len(seeds)
    device = env.device
    train, validation, test = env.parts
    cohort = new_cohort(
        hosts,
        env.host_shape,
        samples=len(train),
        batch=env.batch,
        batches=env.batches,
        device=device,
        dtype=env.task.dtype,
    )
    for host, seed in enumerate(seeds):
        seed_host(cohort, host, int(seed))
    begin_episodes(cohort, np.arange(hosts), validation)
    _fossilize(cohort.seeds, architecture)
    for host, slot in np.argwhere(architecture.blueprint != EMPTY).tolist():
        plant_seed(cohort.population, host, slot, int(architecture.blueprint[host, slot]), 1)
    plan = make_plan(cohort.population, cohort.seeds)
    ends = {name: np.zeros(hosts) for name in ("validation", "test")}
    for step in range(1, int(steps.max()) + 1):
        drawn = draw(cohort.order, env.batch * env.batches)
        train_slice(cohort.population, plan, train, drawn, env.batch, env.optimizer)
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


def _fossilize(seeds: Seeds, architecture: Architecture) -> None:
    present = architecture.blueprint != EMPTY
    seeds.stage[present] = Stage.FOSSILIZED
    seeds.blueprint[:] = architecture.blueprint
    seeds.style[:] = architecture.style
    seeds.alpha[:] = seeds.target[:] = architecture.alpha
    seeds.germinations[present] = 1
