"""What a seed can be: one table of modules of clearly different cost and power.

Every blueprint maps layer-normalised features `[n, C, *P, B]` of n networks to a change of the same
shape; `kernel/blending.py` has how the change enters the host. The last weights begin at zero (as
in Fixup, Zhang et al. 2019, and ReZero, Bachlechner et al. 2020), so that a new seed changes
nothing, whatever its alpha, and learns from there.

With C channels and a kernel of K positions (3, or 3 x 3; 1 in an mlp host, which has no positions),
a blueprint has this many parameters; the figures in brackets are for the 8 channels of the default
host in one dimension:

| blueprint  | what it computes                                          | parameters            |
|------------|-----------------------------------------------------------|-----------------------|
| norm       | scale and shift of each channel                           | 2C (16)               |
| depthwise  | one kernel for each channel                               | CK + C (32)           |
| pointwise  | each channel from all channels, position by position      | C² + C (72)           |
| conv       | full convolution                                          | C²K + C (200)         |
| bottleneck | pointwise to C/2, ReLU, convolution, ReLU, pointwise back | C²K/4 + C² + 2C (128) |
| attention  | self-attention over positions, one head of C/2 channels   | 2C² + C (136)         |
| mlp        | pointwise to 4C, ReLU, pointwise back                     | 8C² + 5C (552)        |
| low_rank   | pointwise through C/4 channels                            | C²/2 + C (40)         |

A seed blended by the `gated` style has 2C parameters more: its gate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from esper.growth.blueprints.module_text import ModuleText, sequence_text
from esper.growth.blueprints.seed_layers import (
    SeedLayer,
    attention,
    channel_scale,
    convolution,
    depthwise,
    pointwise,
    relu,
)
from esper.growth.kernel.parameters import ParameterLayout, TensorSpec
from esper.leyline.errors import EsperError
from esper.leyline.heads import BLUEPRINT_CHOICES


class BlueprintTableError(EsperError, ImportError):
    """The table of blueprints and the names of the `blueprint` head differ."""


@dataclass(frozen=True)
class Blueprint:
    """One kind of seed.

    Attributes:
        name: its name in `BLUEPRINT_CHOICES`.
        layers: its layers, first to last, for a number of channels and of position axes.
    """

    name: str
    layers: Callable[[int, int], tuple[SeedLayer, ...]]

    def tensors(self, channels: int, axes: int) -> tuple[TensorSpec, ...]:
        """Return its parameters, without the gate."""
        layers = _layers(self, channels, axes)
        return tuple(tensor for layer in layers for tensor in layer.tensors)

    def multiply_adds(self, channels: int, axes: int, positions: int) -> int:
        """Return the multiply-adds of one sample in a forward pass."""
        return sum(layer.multiply_adds(positions) for layer in _layers(self, channels, axes))

    def text(self, channels: int, axes: int) -> ModuleText:
        """Return its module in source, on features `[B, C, *P]`."""
        return sequence_text([layer.text for layer in _layers(self, channels, axes)])

    def change(self, features: torch.Tensor, tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the change that n seeds compute. `[n, C, *P, B]`

        Args:
            features: layer-normalised, `[n, C, *P, B]`.
            tensors: the parameters of all layers, in order, each `[n, *shape]`.
        """
        first = 0
        for layer in _layers(self, features.shape[1], features.dim() - 3):
            last = first + len(layer.tensors)
            features = layer.run(features, tensors[first:last])
            first = last
        return features


@cache
def _layers(blueprint: Blueprint, channels: int, axes: int) -> tuple[SeedLayer, ...]:
    return blueprint.layers(channels, axes)


def _bottleneck(channels: int, axes: int) -> tuple[SeedLayer, ...]:
    inner = max(1, channels // 2)
    return (
        pointwise("narrow", channels, inner, axes),
        relu(),
        convolution("conv", inner, inner, axes),
        relu(),
        pointwise("widen", inner, channels, axes, zero=True),
    )


def _mlp(channels: int, axes: int) -> tuple[SeedLayer, ...]:
    return (
        pointwise("widen", channels, 4 * channels, axes),
        relu(),
        pointwise("narrow", 4 * channels, channels, axes, zero=True),
    )


def _low_rank(channels: int, axes: int) -> tuple[SeedLayer, ...]:
    rank = max(1, channels // 4)
    return (
        pointwise("reduce", channels, rank, axes, bias=False),
        pointwise("expand", rank, channels, axes, zero=True),
    )


#: All blueprints, in the order of `BLUEPRINT_CHOICES`.
BLUEPRINTS = (
    Blueprint("norm", lambda channels, axes: (channel_scale(channels, axes),)),
    Blueprint("depthwise", lambda channels, axes: (depthwise(channels, axes),)),
    Blueprint(
        "pointwise",
        lambda channels, axes: (pointwise("pointwise", channels, channels, axes, zero=True),),
    ),
    Blueprint(
        "conv", lambda channels, axes: (convolution("conv", channels, channels, axes, zero=True),)
    ),
    Blueprint("bottleneck", _bottleneck),
    Blueprint("attention", lambda channels, _: (attention(channels, max(1, channels // 2)),)),
    Blueprint("mlp", _mlp),
    Blueprint("low_rank", _low_rank),
)
BLUEPRINT_BY_NAME = {blueprint.name: blueprint for blueprint in BLUEPRINTS}
if tuple(BLUEPRINT_BY_NAME) != BLUEPRINT_CHOICES:
    raise BlueprintTableError(
        f"BLUEPRINTS in growth/blueprints/table.py has {', '.join(BLUEPRINT_BY_NAME)}, and "
        f"BLUEPRINT_CHOICES in leyline/heads.py has {', '.join(BLUEPRINT_CHOICES)}: both must have "
        "the same names in the same order"
    )


def gate_tensors(channels: int) -> tuple[TensorSpec, ...]:
    """Return the parameters of the gate, which every seed has and the `gated` style uses."""
    return (TensorSpec("gate.weight", (channels,)), TensorSpec("gate.bias", (channels,)))


def seed_layout(blueprint: Blueprint, channels: int, axes: int) -> ParameterLayout:
    """Return the order of a seed's parameters in its row: the blueprint's, then the gate's."""
    return ParameterLayout(blueprint.tensors(channels, axes) + gate_tensors(channels))


def parameter_count(blueprint: Blueprint, channels: int, axes: int, *, gated: bool) -> int:
    """Return how many parameters a seed adds to its host; the gate counts where it is used."""
    tensors = blueprint.tensors(channels, axes) + (gate_tensors(channels) if gated else ())
    return sum(tensor.size for tensor in tensors)
