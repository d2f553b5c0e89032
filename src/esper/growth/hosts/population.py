"""Parameters and optimizer state of N hosts and their seeds between two slices of training."""

from dataclasses import dataclass

import numpy as np
import torch

from esper.growth.blueprints.table import BLUEPRINTS, parameter_count, seed_layout
from esper.growth.hosts.host import HostShape
from esper.growth.hosts.randomness import Stream, generator
from esper.growth.hosts.seeds import EMPTY, Seeds
from esper.growth.kernel.blending import Style
from esper.growth.kernel.parameters import ParameterLayout

#: Factor of a host's second moments when a seed joins it. They come from gradients of the network
#: without the seed; smaller ones make the first steps of the new network up to twice as long.
STALE_MOMENTS = 0.25


@dataclass
class Population:
    """Parameters, moments and step counts of N hosts with S slots each.

    The columns of `state` are N rows of parameters of a host, then N * S rows of a seed, each as
    long as the largest blueprint needs (docs/kernels.md).

    Attributes:
        shape: the architecture of the hosts.
        slots: S.
        layouts: the order of parameters in a row of a seed, by blueprint.
        state: parameters, first and second moments of Adam. `[3, N * host + N * S * seed]`
        host_rng_seeds: the random seed of each host. `[N]`
        host_clock: optimizer steps each host has taken. `[N]`
        seed_clock: optimizer steps each seed has taken. `[N, S]`
    """

    shape: HostShape
    slots: int
    layouts: tuple[ParameterLayout, ...]
    state: torch.Tensor
    host_rng_seeds: np.ndarray
    host_clock: np.ndarray
    seed_clock: np.ndarray

    @property
    def hosts(self) -> int:
        """N."""
        return len(self.host_clock)

    @property
    def axes(self) -> int:
        """Position axes of the features: 0, 1 or 2."""
        return self.shape.axes

    @property
    def seed_row(self) -> int:
        """Columns of `state` for one seed."""
        return max(layout.size for layout in self.layouts)

    def host_columns(self, hosts: np.ndarray) -> np.ndarray:
        """Return the columns of `state` that hold the given hosts. `[n, host]`"""
        size = self.shape.layout.size
        return np.asarray(hosts)[:, None] * size + np.arange(size)

    def seed_columns(self, hosts: np.ndarray, slot: int, blueprint: int) -> np.ndarray:
        """Return the columns of the seeds of one blueprint in one slot of the hosts. `[n, seed]`"""
        first = self.hosts * self.shape.layout.size
        rows = np.asarray(hosts)[:, None] * self.slots + slot
        return first + rows * self.seed_row + np.arange(self.layouts[blueprint].size)


def new_population(
    hosts: int, slots: int, shape: HostShape, *, device: torch.device, dtype: torch.dtype
) -> Population:
    """Return a population of zeros; `plant_hosts` initialises hosts."""
    layouts = tuple(seed_layout(blueprint, shape.channels, shape.axes) for blueprint in BLUEPRINTS)
    columns = hosts * (shape.layout.size + slots * max(layout.size for layout in layouts))
    return Population(
        shape=shape,
        slots=slots,
        layouts=layouts,
        state=torch.zeros(3, columns, device=device, dtype=dtype),
        host_rng_seeds=np.zeros(hosts, dtype=np.int64),
        host_clock=np.zeros(hosts, dtype=np.int64),
        seed_clock=np.zeros((hosts, slots), dtype=np.int64),
    )


def plant_hosts(population: Population, hosts: np.ndarray, rng_seeds: np.ndarray) -> None:
    """Initialise parameters of hosts from their random seeds; moments and step counts become 0."""
    layout = population.shape.layout
    drawn = [layout.draw(generator(int(seed), Stream.HOST)) for seed in rng_seeds]
    _write(population, population.host_columns(hosts), np.stack(drawn))
    population.host_rng_seeds[hosts] = rng_seeds
    population.host_clock[hosts] = 0
    population.seed_clock[hosts] = 0


def plant_seed(
    population: Population, host: int, slot: int, blueprint: int, germination: int
) -> None:
    """Initialise the parameters of the n-th seed that germinates in a slot."""
    stream = generator(int(population.host_rng_seeds[host]), Stream.SEED, slot, germination)
    drawn = population.layouts[blueprint].draw(stream)
    _write(population, population.seed_columns(np.array([host]), slot, blueprint), drawn[None])
    population.seed_clock[host, slot] = 0


def join(population: Population, host: int) -> None:
    """Scale down the second moments of a host because a seed joins its network."""
    columns = torch.from_numpy(population.host_columns(np.array([host]))[0])
    population.state[2, columns.to(population.state.device)] *= STALE_MOMENTS


def _write(population: Population, columns: np.ndarray, values: np.ndarray) -> None:
    state = population.state
    index = torch.from_numpy(columns.reshape(-1)).to(state.device)
    state[0, index] = torch.from_numpy(values.reshape(-1)).to(state)
    state[1:, index] = 0.0


def added_parameters(population: Population, seeds: Seeds, which: np.ndarray) -> np.ndarray:
    """Return the parameters that the chosen seeds add to each host. `[N]`

    Args:
        population: the hosts.
        seeds: the state of every slot.
        which: the seeds to count; empty slots count nothing. `[N, S]`, bool
    """
    channels, axes = population.shape.channels, population.axes
    table = np.array(
        [
            [parameter_count(blueprint, channels, axes, gated=gated) for gated in (False, True)]
            for blueprint in BLUEPRINTS
        ]
    )
    counts = table[seeds.blueprint, (seeds.style == Style.GATED).astype(np.int64)]
    return np.where(which & (seeds.blueprint != EMPTY), counts, 0).sum(axis=1)
