"""What a seed can be: eight modules of clearly different cost and power.

Every blueprint maps layer-normalised features `[n, C, *P, B]` of n networks to a change of the same
shape; `blending` says how the change enters the host. The last weights begin at zero
(as in Fixup, Zhang et al. 2019, and ReZero, Bachlechner et al. 2020), so that a newborn seed
changes nothing, whatever its alpha, and learns from there.

With C channels and a kernel of K positions (3, or 3 x 3; 1 in an mlp, which has no positions), a
blueprint has this many parameters; the figures in brackets are for the 8 channels of the default
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

from esper.growth.kernel.parameters import ParameterLayout, TensorSpec, affine
from esper.growth.kernel.seed_layers import (
    AFFINE,
    ATTENTION,
    CONVOLUTION,
    DEPTHWISE,
    KERNEL,
    LINEAR,
    RELU,
    SCALE,
    Layer,
)
from esper.leyline.heads import BLUEPRINT_CHOICES


@dataclass(frozen=True)
class Blueprint:
    """One kind of seed.

    Attributes:
        name: its name among `BLUEPRINT_CHOICES`.
        tensors: its parameters, for so many channels and position axes.
        layers: what makes, one after the other, the change out of normalised features.
    """

    name: str
    tensors: Callable[[int, int], tuple[TensorSpec, ...]]
    layers: tuple[Layer, ...]


def gate_tensors(channels: int) -> tuple[TensorSpec, ...]:
    """Return the parameters of the gate that every seed carries for the `gated` style."""
    return (TensorSpec("gate.weight", (channels,)), TensorSpec("gate.bias", (channels,)))


def seed_layout(blueprint: Blueprint, channels: int, axes: int) -> ParameterLayout:
    """Return how the parameters of a seed lie in its row: the blueprint's, then the gate's."""
    return ParameterLayout(blueprint.tensors(channels, axes) + gate_tensors(channels))


def parameter_count(blueprint: Blueprint, channels: int, axes: int, *, gated: bool) -> int:
    """Return how many parameters a seed adds to its host; the gate counts where it is used."""
    tensors = blueprint.tensors(channels, axes) + (gate_tensors(channels) if gated else ())
    return sum(tensor.size for tensor in tensors)


def _kernel(axes: int) -> tuple[int, ...]:
    return (KERNEL,) * axes


def _norm_tensors(channels: int, axes: int) -> tuple[TensorSpec, ...]:
    del axes
    return (TensorSpec("scale", (channels,)), TensorSpec("shift", (channels,)))


def _depthwise_tensors(channels: int, axes: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec("weight", (channels, *_kernel(axes))), TensorSpec("bias", (channels,)))


def _pointwise_tensors(channels: int, axes: int) -> tuple[TensorSpec, ...]:
    del axes
    return affine("pointwise", (channels, channels), zero=True)


def _conv_tensors(channels: int, axes: int) -> tuple[TensorSpec, ...]:
    return affine("conv", (channels, channels, *_kernel(axes)), zero=True)


def _bottleneck_tensors(channels: int, axes: int) -> tuple[TensorSpec, ...]:
    inner = max(1, channels // 2)
    return (
        *affine("narrow", (inner, channels)),
        *affine("conv", (inner, inner, *_kernel(axes))),
        *affine("widen", (channels, inner), zero=True),
    )


def _attention_tensors(channels: int, axes: int) -> tuple[TensorSpec, ...]:
    del axes
    inner = max(1, channels // 2)
    return (
        *affine("projection", (3 * inner, channels), bias=False),
        *affine("out", (channels, inner), zero=True),
    )


def _mlp_tensors(channels: int, axes: int) -> tuple[TensorSpec, ...]:
    del axes
    return (
        *affine("widen", (4 * channels, channels)),
        *affine("narrow", (channels, 4 * channels), zero=True),
    )


def _low_rank_tensors(channels: int, axes: int) -> tuple[TensorSpec, ...]:
    del axes
    rank = max(1, channels // 4)
    return (
        *affine("reduce", (rank, channels), bias=False),
        *affine("expand", (channels, rank), zero=True),
    )


#: In the order of `BLUEPRINT_CHOICES`.
BLUEPRINTS = (
    Blueprint("norm", _norm_tensors, (SCALE,)),
    Blueprint("depthwise", _depthwise_tensors, (DEPTHWISE,)),
    Blueprint("pointwise", _pointwise_tensors, (AFFINE,)),
    Blueprint("conv", _conv_tensors, (CONVOLUTION,)),
    Blueprint("bottleneck", _bottleneck_tensors, (AFFINE, RELU, CONVOLUTION, RELU, AFFINE)),
    Blueprint("attention", _attention_tensors, (LINEAR, ATTENTION, AFFINE)),
    Blueprint("mlp", _mlp_tensors, (AFFINE, RELU, AFFINE)),
    Blueprint("low_rank", _low_rank_tensors, (LINEAR, AFFINE)),
)
assert tuple(blueprint.name for blueprint in BLUEPRINTS) == BLUEPRINT_CHOICES
