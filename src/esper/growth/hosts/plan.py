"""The layout of hosts and seeds for one slice of training.

Seeds of one blueprint in one slot run as one batch. To copy no parameters within the slice, a plan
packs all of them into one flat vector: first the hosts, then the seeds, group by group.

A TRAINING seed runs in a *shadow*: a copy of its host's stream of features that forks off at its
slot. Streams are rows of the feature tensors: one main row for each host, then one shadow row for
each TRAINING seed, in the order in which they fork.
"""

from dataclasses import dataclass

import numpy as np
import torch

from esper.growth.hosts.population import Population
from esper.growth.hosts.seeds import IN_HOST, Seeds
from esper.growth.kernel.blending import MIXING_OF_STYLE, Mixing, coefficient
from esper.growth.kernel.parameters import ParameterLayout
from esper.leyline.heads import Stage


@dataclass(frozen=True)
class Group:
    """Seeds of one blueprint in one slot that run as one batch, ordered by their arithmetic.

    Attributes:
        slot, blueprint: those of all its seeds.
        layout: the order of their parameters.
        hosts: the host of each seed. `[n]`
    """

    slot: int
    blueprint: int
    layout: ParameterLayout
    hosts: np.ndarray


@dataclass(frozen=True)
class SeedBatch:
    """The members of a group to which some work applies.

    Attributes:
        group: index into `Plan.groups`.
        members: numbers of the members, in order, `[n]`; None for all.
        size: n.
    """

    group: int
    members: torch.Tensor | None
    size: int


@dataclass(frozen=True)
class SlotWork:
    """What one slot does to one stream of features.

    Attributes:
        batches: the groups at work, in the order of the rows.
        rows: the rows of the stream that the seeds read and write. `[n]`
        leading: whether those are the stream's first n rows, in order.
        coefficients: how far each seed is blended in. `[n]`
        mixing: the arithmetic of each run of seeds with equal arithmetic.
        mixing_sizes: seeds in each run.
    """

    batches: tuple[SeedBatch, ...]
    rows: torch.Tensor
    leading: bool
    coefficients: torch.Tensor
    mixing: tuple[Mixing, ...]
    mixing_sizes: list[int]

    @property
    def batch_sizes(self) -> list[int]:
        """Seeds in each batch."""
        return [batch.size for batch in self.batches]

    @property
    def gated(self) -> bool:
        """Whether any seed is blended by its gate."""
        return Mixing.GATE in self.mixing


@dataclass(frozen=True)
class SlotPlan:
    """The work of one slot: on hosts, on shadows that pass, and on shadows that begin.

    Attributes:
        main: on the main rows.
        passing: on the shadow rows that forked at earlier slots.
        forking: on new shadow rows.
        forked: main row of each of those. `[n]`
        shadow_rows: main row of each shadow row that reaches this slot. `[k]`
    """

    main: SlotWork | None
    passing: SlotWork | None
    forking: SlotWork | None
    forked: torch.Tensor
    shadow_rows: torch.Tensor


@dataclass(frozen=True)
class Plan:
    """The layout of one slice.

    Attributes:
        order: the host in each main row. `[N]`
        groups: groups of seeds, in the order of the flat vector.
        sizes: lengths of the flat vector's pieces: the hosts, then each group.
        rows: how many hosts or seeds each of those pieces holds.
        columns: the column of `Population.state` of each element of the flat vector. `[D]`
        owners: number of the host or seed that each element belongs to, in packing order. `[D]`
        slots: the work of each slot.
        shadow_hosts, shadow_slots: the TRAINING seed of each shadow row. `[k]`
        shadow_rows: main row of each shadow row. `[k]`
    """

    order: np.ndarray
    groups: tuple[Group, ...]
    sizes: tuple[int, ...]
    rows: tuple[int, ...]
    columns: torch.Tensor
    owners: torch.Tensor
    slots: tuple[SlotPlan, ...]
    shadow_hosts: np.ndarray
    shadow_slots: np.ndarray
    shadow_rows: torch.Tensor


def make_plan(population: Population, seeds: Seeds) -> Plan:
    """Return the plan of the next slice, with every seed that is in its host or TRAINING."""
    in_host = np.isin(seeds.stage, IN_HOST) & (seeds.alpha > 0)
    return _make_plan(population, seeds, in_host, seeds.stage == Stage.TRAINING)


def make_final_plan(population: Population, seeds: Seeds) -> Plan:
    """Return the plan of the finished networks, with FOSSILIZED seeds alone."""
    fossilized = seeds.stage == Stage.FOSSILIZED
    return _make_plan(population, seeds, fossilized, np.zeros_like(fossilized))


def _make_plan(
    population: Population, seeds: Seeds, in_host: np.ndarray, training: np.ndarray
) -> Plan:
    device = population.state.device
    # Hosts in the order of their seeds in the first slot, whose features are the largest by far:
    # there the groups are then plain stretches of the main rows.
    present = in_host[:, 0]
    blueprint = np.where(present, seeds.blueprint[:, 0], 0)
    rank = np.searchsorted(np.unique(blueprint[present]), blueprint)
    mixing = np.where(present, _mixing_order(seeds.style[:, 0], rank), 0)
    order = np.lexsort((mixing, blueprint, ~present))
    row_of_host = np.argsort(order)

    groups: list[Group] = []
    slots: list[SlotPlan] = []
    shadow_hosts = np.zeros(0, dtype=np.int64)
    shadow_slots = np.zeros(0, dtype=np.int64)
    for slot in range(population.slots):
        residents = _group(population, seeds, slot, in_host[:, slot], row_of_host)
        newcomers = _group(population, seeds, slot, training[:, slot], row_of_host)
        main, passing = [], []
        for number, group in enumerate(residents, start=len(groups)):
            main.append(_Work(number, None, group.hosts, row_of_host[group.hosts]))
            members, rows = np.nonzero(group.hosts[:, None] == shadow_hosts[None, :])
            if len(members):
                passing.append(_Work(number, members, group.hosts[members], rows))
        groups += residents
        forked = np.concatenate([shadow_hosts[:0], *(group.hosts for group in newcomers)])
        forking = [
            _Work(number, None, group.hosts, np.flatnonzero(np.isin(forked, group.hosts)))
            for number, group in enumerate(newcomers, start=len(groups))
        ]
        groups += newcomers
        slots.append(
            SlotPlan(
                main=_slot_work(population, seeds, slot, main, seeds.alpha),
                passing=_slot_work(population, seeds, slot, passing, seeds.alpha),
                forking=_slot_work(population, seeds, slot, forking, seeds.target),
                forked=torch.from_numpy(row_of_host[forked]).to(device),
                shadow_rows=torch.from_numpy(row_of_host[shadow_hosts]).to(device),
            )
        )
        shadow_hosts = np.concatenate([shadow_hosts, forked])
        shadow_slots = np.concatenate([shadow_slots, np.full(len(forked), slot)])

    columns = [population.host_columns(order)]
    columns += [population.seed_columns(g.hosts, g.slot, g.blueprint) for g in groups]
    lengths = np.concatenate([np.full(len(block), block.shape[1]) for block in columns])
    return Plan(
        order=order,
        groups=tuple(groups),
        sizes=tuple(block.size for block in columns),
        rows=tuple(len(block) for block in columns),
        columns=torch.from_numpy(np.concatenate([block.ravel() for block in columns])).to(device),
        owners=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(device),
        slots=tuple(slots),
        shadow_hosts=shadow_hosts,
        shadow_slots=shadow_slots,
        shadow_rows=torch.from_numpy(row_of_host[shadow_hosts]).to(device),
    )


def _group(
    population: Population, seeds: Seeds, slot: int, chosen: np.ndarray, row_of_host: np.ndarray
) -> list[Group]:
    """Return the seeds of one slot, of the chosen hosts, by blueprint, then arithmetic, then row.

    Args:
        chosen: the hosts. `[N]`, bool
        row_of_host: main row of each host. `[N]`
    """
    groups = []
    for number, blueprint in enumerate(np.unique(seeds.blueprint[chosen, slot]).tolist()):
        hosts = np.flatnonzero(chosen & (seeds.blueprint[:, slot] == blueprint))
        mixing = _mixing_order(seeds.style[hosts, slot], number)
        hosts = hosts[np.lexsort((row_of_host[hosts], mixing))]
        groups.append(Group(slot, blueprint, population.layouts[blueprint], hosts))
    return groups


def _mixing_order(style: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    """Return the sort keys of seeds in the n-th group of a slot, given their styles.

    Every other group is sorted in reverse, so that runs of equal arithmetic span two groups.
    """
    order: np.ndarray = MIXING_OF_STYLE[style] * (1 - 2 * (number % 2))
    return order


@dataclass(frozen=True)
class _Work:
    """Members of a group (None: all of them), whose hosts they are in, and the rows they read."""

    group: int
    members: np.ndarray | None
    hosts: np.ndarray
    rows: np.ndarray


def _slot_work(
    population: Population, seeds: Seeds, slot: int, work: list[_Work], alpha: np.ndarray
) -> SlotWork | None:
    """Return the work of one slot on one stream, with the alphas `[N, S]` to blend by."""
    if not work:
        return None
    device, dtype = population.state.device, population.state.dtype
    rows = np.concatenate([item.rows for item in work])
    hosts = np.concatenate([item.hosts for item in work])
    mixing = MIXING_OF_STYLE[seeds.style[hosts, slot]]
    amounts = coefficient(seeds.style[hosts, slot], alpha[hosts, slot])
    runs, run_sizes = _runs(mixing)
    return SlotWork(
        batches=tuple(
            SeedBatch(
                group=item.group,
                members=None if item.members is None else torch.from_numpy(item.members).to(device),
                size=len(item.hosts),
            )
            for item in work
        ),
        rows=torch.from_numpy(rows).to(device),
        leading=bool((rows == np.arange(len(rows))).all()),
        coefficients=torch.from_numpy(amounts).to(device, dtype),
        mixing=runs,
        mixing_sizes=run_sizes,
    )


def _runs(values: np.ndarray) -> tuple[tuple[Mixing, ...], list[int]]:
    """Return the arithmetic and the length of each run of equal values."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    lengths = np.diff(starts, append=len(values))
    return tuple(Mixing(int(value)) for value in values[starts]), lengths.tolist()


def clocks(population: Population, plan: Plan) -> np.ndarray:
    """Return the optimizer steps taken by each owner, in packing order."""
    seeds = [population.seed_clock[group.hosts, group.slot] for group in plan.groups]
    return np.concatenate([population.host_clock[plan.order], *seeds])


def advance_clocks(population: Population, plan: Plan, steps: int) -> None:
    """Add optimizer steps to the counts of every host and seed in the plan."""
    population.host_clock[plan.order] += steps
    for group in plan.groups:
        population.seed_clock[group.hosts, group.slot] += steps
