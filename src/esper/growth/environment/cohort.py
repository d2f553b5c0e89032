"""N hosts through their episodes: all of their state, and the few things that happen to it."""

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
from esper.growth.hosts.randomness import episode_seed
from esper.growth.hosts.seeds import Seeds, Transition
from esper.growth.hosts.training_cost import training_multiply_adds
from esper.growth.kernel.adam import AdamSettings
from esper.growth.tasks.task import Split
from esper.leyline.heads import SLOT_CHOICES, Stage

_UNSEEDED = -1
_VALIDATION = "validation"


@dataclass
class Cohort:
    """Everything about N hosts that changes as they live; the data they learn from is not in it.

    Attributes:
        population: parameters, moments and clocks.
        seeds: the state of every slot.
        order: the data cursor of every host.
        progress: what was measured in each episode.
        base_seed: what each host was last seeded with; below 0 if it never was. `[N]`
        episode: episodes since then, counted from 0. `[N]`
        faults: the causes in all hosts that are not finite now, by host.
        left_broken: what the last slice left broken in them.
    """

    population: Population
    seeds: Seeds
    order: MinibatchOrder
    progress: Progress
    base_seed: np.ndarray
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
    """Return N hosts none of which has been born.

    Args:
        hosts: N.
        shape: their architecture.
        samples: in the training part of their task.
        batch: samples in a minibatch.
        batches: minibatches in a slice.
        device, dtype: of everything they learn.

    Raises:
        SliceSizeError: the training part does not hold a slice.
    """
    slots = len(SLOT_CHOICES)
    return Cohort(
        population=new_population(hosts, slots, shape, device=device, dtype=dtype),
        seeds=life.empty_seeds(hosts, slots),
        order=new_order(hosts, samples, batch, batches),
        progress=new_progress(hosts),
        base_seed=np.full(hosts, _UNSEEDED, dtype=np.int64),
        episode=np.zeros(hosts, dtype=np.int64),
    )


def seed_host(cohort: Cohort, host: int, seed: int) -> None:
    """Settle the whole future of a host: its next episode is the first of this seed."""
    cohort.base_seed[host] = seed
    cohort.episode[host] = -1


def is_seeded(cohort: Cohort, host: int) -> bool:
    """Return whether the host has a future: it was seeded before."""
    return bool(cohort.base_seed[host] != _UNSEEDED)


def begin_episodes(cohort: Cohort, hosts: np.ndarray, validation: Split) -> None:
    """Let the given hosts be born again, each for the next episode of its seed."""
    cohort.episode[hosts] += 1
    pairs = zip(cohort.base_seed[hosts], cohort.episode[hosts], strict=True)
    seeds = np.array([episode_seed(int(base), int(episode)) for base, episode in pairs])
    life.clear_hosts(cohort.seeds, hosts)
    plant_hosts(cohort.population, hosts, seeds)
    restart(cohort.order, hosts, seeds)
    born = evaluate(cohort.population, make_plan(cohort.population, cohort.seeds), validation)
    fresh = new_progress(len(hosts))
    fresh.accuracy = fresh.best_accuracy = born.accuracy[hosts]
    fresh.loss = fresh.training_loss = born.losses.loss[hosts]
    for name, values in vars(fresh).items():
        getattr(cohort.progress, name)[hosts] = values
    begun = set(hosts.tolist())
    at_birth = loss_faults(born.losses.loss, born.losses.gain, _VALIDATION)
    cohort.faults = [fault for fault in cohort.faults if fault.host not in begun]
    cohort.faults += [fault for fault in at_birth if fault.host in begun]
    cohort.faults.sort(key=lambda fault: fault.host)
    cohort.left_broken = frozenset(one for one in cohort.left_broken if one.host not in begun)


def train_and_measure(
    cohort: Cohort, train: Split, validation: Split, batch: int, batches: int, adam: AdamSettings
) -> list[Transition]:
    """Train every host on its next slice, measure it, and let time do its work on the seeds.

    Returns:
        What time did to the seeds.
    """
    population, seeds, progress = cohort.population, cohort.seeds, cohort.progress
    moved = life.begin_slice(seeds)
    plan = make_plan(population, seeds)
    drawn = draw(cohort.order, batch * batches)
    learnt = train_slice(population, plan, train, drawn, batch, adam)
    progress.multiply_adds += training_multiply_adds(population.shape, seeds) * batch * batches
    measured = evaluate(population, plan, validation)
    moved += life.end_slice(seeds)

    progress.step += 1
    progress.accuracy_change = measured.accuracy - progress.accuracy
    with np.errstate(invalid="ignore"):  # inf - inf, in a host that is reported as broken
        progress.loss_change = measured.losses.loss - progress.loss
    progress.accuracy, progress.loss = measured.accuracy, measured.losses.loss
    progress.training_loss = learnt.losses.loss
    progress.best_accuracy = np.maximum(progress.best_accuracy, measured.accuracy)
    progress.gain, progress.training_gain = measured.losses.gain, learnt.losses.gain

    wrong = loss_faults(measured.losses.loss, measured.losses.gain, _VALIDATION)
    cohort.faults = follow_up(cohort.faults, cohort.left_broken, learnt.faults, wrong)
    cohort.left_broken = learnt.faults.left
    return moved


def measure_score(cohort: Cohort, ended: np.ndarray, validation: Split) -> Measurement:
    """Measure finished networks for their score, and note those of ended episodes that are broken.

    Args:
        cohort: the hosts.
        ended: whose episode ended. `[N]`, bool
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
