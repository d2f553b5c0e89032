"""The state of N hosts over their episodes: begin, train, measure and score."""

from dataclasses import dataclass, field

import numpy as np
import torch

from esper.growth.environment.observation import Progress, new_progress
from esper.growth.hosts import seeds as life
from esper.growth.hosts.host import HostShape
from esper.growth.hosts.host_faults import Broken, HostFault, follow_up, loss_faults
from esper.growth.hosts.lockstep import Measurement, evaluate, train_slice
from esper.growth.hosts.minibatches import MinibatchOrder, draw, new_order, restart
from esper.growth.hosts.plan import make_final_plan, make_plan
from esper.growth.hosts.population import Population, added_parameters, new_population, plant_hosts
from esper.growth.hosts.randomness import episode_rng_seed
from esper.growth.hosts.seeds import Seeds, Transition
from esper.growth.hosts.training_cost import training_multiply_adds
from esper.growth.kernel.adam import AdamSettings
from esper.growth.tasks.task import Split
from esper.leyline.heads import SLOT_CHOICES, Stage

_NO_RNG_SEED = -1
_VALIDATION = "validation"


@dataclass
class Cohort:
    """All state of N hosts that changes during their episodes; the training data is not part of it.

    Attributes:
        population: parameters, moments and step counts.
        seeds: the state of every slot.
        order: the data cursor of every host.
        progress: measurements of each episode.
        base_rng_seed: last random seed of each host; below 0 if it has none yet. `[N]`
        episode: number of its episode since then, from 0. `[N]`
        faults: causes in all hosts that are not finite now, by host.
        left_broken: what was not finite in them after the last slice.
    """

    population: Population
    seeds: Seeds
    order: MinibatchOrder
    progress: Progress
    base_rng_seed: np.ndarray
    episode: np.ndarray
    faults: list[HostFault] = field(default_factory=list)
    left_broken: frozenset[Broken] = frozenset()


def new_cohort(
    hosts: int,
    shape: HostShape,
    *,
    samples: int,
    batch: int,
    batches: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Cohort:
    """Return N hosts that are not initialised yet.

    Args:
        hosts: N.
        shape: their architecture.
        samples: samples in the training part of their task.
        batch: samples in a minibatch.
        batches: minibatches in a slice.
        device, dtype: of all parameters.

    Raises:
        SliceSizeError: the training part does not hold a slice.
    """
    slots = len(SLOT_CHOICES)
    return Cohort(
        population=new_population(hosts, slots, shape, device=device, dtype=dtype),
        seeds=life.empty_seeds(hosts, slots),
        order=new_order(hosts, samples, batch, batches),
        progress=new_progress(hosts),
        base_rng_seed=np.full(hosts, _NO_RNG_SEED, dtype=np.int64),
        episode=np.zeros(hosts, dtype=np.int64),
    )


def set_rng_seed(cohort: Cohort, host: int, rng_seed: int) -> None:
    """Set the random seed of a host; its next episode is the first of this random seed."""
    cohort.base_rng_seed[host] = rng_seed
    cohort.episode[host] = -1


def has_rng_seed(cohort: Cohort, host: int) -> bool:
    """Return whether the host has a random seed."""
    return bool(cohort.base_rng_seed[host] != _NO_RNG_SEED)


def begin_episodes(cohort: Cohort, hosts: np.ndarray, validation: Split) -> None:
    """Initialise the given hosts again, each for the next episode of its random seed."""
    cohort.episode[hosts] += 1
    pairs = zip(cohort.base_rng_seed[hosts], cohort.episode[hosts], strict=True)
    rng_seeds = np.array([episode_rng_seed(int(base), int(episode)) for base, episode in pairs])
    life.clear_hosts(cohort.seeds, hosts)
    plant_hosts(cohort.population, hosts, rng_seeds)
    restart(cohort.order, hosts, rng_seeds)
    initial = evaluate(cohort.population, make_plan(cohort.population, cohort.seeds), validation)
    fresh = new_progress(len(hosts))
    fresh.accuracy = fresh.best_accuracy = initial.accuracy[hosts]
    fresh.loss = fresh.training_loss = initial.losses.loss[hosts]
    for name, values in vars(fresh).items():
        getattr(cohort.progress, name)[hosts] = values
    begun = set(hosts.tolist())
    at_start = loss_faults(initial.losses.loss, initial.losses.gain, _VALIDATION)
    cohort.faults = [fault for fault in cohort.faults if fault.host not in begun]
    cohort.faults += [fault for fault in at_start if fault.host in begun]
    cohort.faults.sort(key=lambda fault: fault.host)
    cohort.left_broken = frozenset(one for one in cohort.left_broken if one.host not in begun)


def train_and_measure(
    cohort: Cohort, train: Split, validation: Split, batch: int, batches: int, adam: AdamSettings
) -> list[Transition]:
    """Train every host on its next slice and measure it; ramps and stages of seeds advance.

    Returns:
        Transitions of seeds that no action caused.
    """
    population, seeds, progress = cohort.population, cohort.seeds, cohort.progress
    moved = life.begin_slice(seeds)
    plan = make_plan(population, seeds)
    drawn = draw(cohort.order, batch * batches)
    trained = train_slice(population, plan, train, drawn, batch, adam)
    progress.multiply_adds += training_multiply_adds(population.shape, seeds) * batch * batches
    measured = evaluate(population, plan, validation)
    moved += life.end_slice(seeds)

    progress.step += 1
    progress.accuracy_change = measured.accuracy - progress.accuracy
    with np.errstate(invalid="ignore"):  # inf - inf, in a host that is reported as broken
        progress.loss_change = measured.losses.loss - progress.loss
    progress.accuracy, progress.loss = measured.accuracy, measured.losses.loss
    progress.training_loss = trained.losses.loss
    progress.best_accuracy = np.maximum(progress.best_accuracy, measured.accuracy)
    progress.gain, progress.training_gain = measured.losses.gain, trained.losses.gain

    wrong = loss_faults(measured.losses.loss, measured.losses.gain, _VALIDATION)
    cohort.faults = follow_up(cohort.faults, cohort.left_broken, trained.faults, wrong)
    cohort.left_broken = trained.faults.left
    return moved


def measure_score(cohort: Cohort, ended: np.ndarray, validation: Split) -> Measurement:
    """Measure finished networks for their score; add faults of ended episodes to the cohort.

    Args:
        cohort: the hosts.
        ended: hosts whose episode ended. `[N]`, bool
        validation: the part of the task that the score is measured on.
    """
    finished = measure_finished(cohort, validation)
    known = {fault.host for fault in cohort.faults}
    cohort.faults += [
        fault
        for fault in loss_faults(finished.losses.loss, finished.losses.gain, "finished network")
        if ended[fault.host] and fault.host not in known
    ]
    cohort.faults.sort(key=lambda fault: fault.host)
    return finished


def measure_finished(cohort: Cohort, split: Split) -> Measurement:
    """Measure every host with its FOSSILIZED seeds alone, all others taken out."""
    return evaluate(cohort.population, make_final_plan(cohort.population, cohort.seeds), split)


def added_ratio(cohort: Cohort, *, fossilized: bool = False) -> np.ndarray:
    """Return the parameters of all seeds, or of the FOSSILIZED, over those of the host. `[N]`"""
    population, seeds = cohort.population, cohort.seeds
    which = seeds.stage == Stage.FOSSILIZED if fossilized else seeds.blueprint != life.EMPTY
    return added_parameters(population, seeds, which) / population.shape.layout.size
