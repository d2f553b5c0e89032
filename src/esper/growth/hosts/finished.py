"""The result of an episode: a copy of one host with its FOSSILIZED seeds."""

from dataclasses import dataclass

import numpy as np
import torch

from esper.growth.blueprints.table import BLUEPRINTS
from esper.growth.hosts.host import HostShape
from esper.growth.hosts.population import Population
from esper.growth.hosts.seeds import Seeds
from esper.growth.kernel.blending import Style, coefficient
from esper.growth.kernel.parameters import ParameterLayout
from esper.leyline.heads import BLUEPRINT_CHOICES, SLOT_CHOICES, STYLE_CHOICES, Stage


@dataclass(frozen=True)
class FinishedSeed:
    """A FOSSILIZED seed of a network.

    Attributes:
        slot, blueprint, style: by name.
        alpha: how far it is blended in.
        coefficient: the factor of its change, from alpha and style.
        tensors: its parameters, in the order of its blueprint. Each `[*shape]`
        gate: weight and bias of its gate, each `[C]`; None where the style is not gated.
    """

    slot: str
    blueprint: str
    style: str
    alpha: float
    coefficient: float
    tensors: tuple[torch.Tensor, ...]
    gate: tuple[torch.Tensor, ...] | None

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(tensor.numel() for tensor in (*self.tensors, *(self.gate or ())))


@dataclass(frozen=True)
class FinishedNetwork:
    """A grown network.

    Attributes:
        shape: of the host.
        host: its parameters by name.
        seeds: in the order of their slots.
    """

    shape: HostShape
    host: dict[str, torch.Tensor]
    seeds: tuple[FinishedSeed, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        own = sum(tensor.numel() for tensor in self.host.values())
        return own + sum(seed.parameters for seed in self.seeds)


def finished_network(population: Population, seeds: Seeds, host: int) -> FinishedNetwork:
    """Return a copy of a host with its FOSSILIZED seeds, without all others."""
    found = []
    for slot in np.flatnonzero(seeds.stage[host] == Stage.FOSSILIZED).tolist():
        at = host, slot
        blueprint, style = int(seeds.blueprint[at]), int(seeds.style[at])
        layout = population.layouts[blueprint]
        columns = population.seed_columns(np.array([host]), slot, blueprint)[0]
        tensors = list(_tensors(population.state[0], columns, layout).values())
        split = len(BLUEPRINTS[blueprint].tensors(population.shape.channels, population.axes))
        found.append(
            FinishedSeed(
                slot=SLOT_CHOICES[slot],
                blueprint=BLUEPRINT_CHOICES[blueprint],
                style=STYLE_CHOICES[style],
                alpha=float(seeds.alpha[at]),
                coefficient=float(coefficient(seeds.style[at], seeds.alpha[at])),
                tensors=tuple(tensors[:split]),
                gate=tuple(tensors[split:]) if style == Style.GATED else None,
            )
        )
    columns = population.host_columns(np.array([host]))[0]
    own = _tensors(population.state[0], columns, population.shape.layout)
    return FinishedNetwork(population.shape, own, tuple(found))


def _tensors(
    values: torch.Tensor, columns: np.ndarray, layout: ParameterLayout
) -> dict[str, torch.Tensor]:
    """Return copies of the tensors in these columns, by name."""
    row = values[torch.from_numpy(columns).to(values.device)].detach().cpu()[None]
    names = (tensor.name for tensor in layout.tensors)
    return {name: tensor[0].clone() for name, tensor in zip(names, layout.split(row), strict=True)}
