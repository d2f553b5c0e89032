"""What a seed can be: eight modules of clearly different cost and power.

Every blueprint maps layer-normalised features `[n, C, *P, B]` of n networks to a change of the same
shape; `esper.growth.blending` says how the change enters the host. The last weights begin at zero
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

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from esper.growth.layers import affine_map, attend, windows
from esper.growth.parameters import ParameterLayout, TensorSpec, affine
from esper.leyline.heads import BLUEPRINT_CHOICES

#: Positions along each axis that the kernel of a blueprint spans.
KERNEL = 3

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Blueprint:
    """One kind of seed.

    Attributes:
        name: its name among `BLUEPRINT_CHOICES`.
        tensors: its parameters, for so many channels and position axes.
        forward: the change of normalised features `[n, C, *P, B]`, given its parameters stacked
            over n in the order of `tensors`; same shape.
    """

    name: str
    tensors: Callable[[int, int], tuple[TensorSpec, ...]]
    forward: Callable[[torch.Tensor, Tensors], torch.Tensor]


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


def _pointwise(
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activate: bool = False,
) -> torch.Tensor:
    """Map the channels of `[n, C, *P, B]` at each position, by `weight` `[n, C', C]`."""
    mapped = affine_map(features.flatten(2), weight, bias)
    return _as_features(mapped, features, activate)


def _convolve(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, activate: bool = False
) -> torch.Tensor:
    """Convolve `[n, C, *P, B]` with `weight` `[n, C', C, *kernel]`, keeping the positions."""
    mapped = affine_map(windows(features, KERNEL, 1, KERNEL // 2), weight, bias)
    return _as_features(mapped, features, activate)


def _as_features(mapped: torch.Tensor, like: torch.Tensor, activate: bool) -> torch.Tensor:
    # ReLU before the view: autograd copies a whole tensor for an in-place change of a view
    mapped = mapped.relu_() if activate else mapped
    return mapped.view(*mapped.shape[:2], *like.shape[2:])


def _norm(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    scale, shift = (_by_channel(tensor, features) for tensor in tensors)
    return torch.addcmul(shift, features, scale)


def _by_channel(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Shape `values` `[n, C]` to broadcast over `features` `[n, C, *P, B]`."""
    return values.view(*values.shape, *(1,) * (features.dim() - 2))


def _depthwise(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    weight, bias = tensors  # [n, C, *kernel], [n, C]
    positions = features.shape[2:-1]
    padded = F.pad(features, (0, 0, *(KERNEL // 2,) * (2 * len(positions))))
    total = _by_channel(bias, features)
    taps = weight.view(*weight.shape[:2], -1).unbind(2)  # each [n, C]
    all_offsets = itertools.product(range(KERNEL), repeat=len(positions))
    for offsets, tap in zip(all_offsets, taps, strict=True):
        shifted = padded
        for axis, (offset, size) in enumerate(zip(offsets, positions, strict=True), start=2):
            shifted = shifted.narrow(axis, offset, size)
        total = torch.addcmul(total, shifted, _by_channel(tap, features))
    return total


def _one_pointwise(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    weight, bias = tensors
    return _pointwise(features, weight, bias)


def _conv(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    weight, bias = tensors
    return _convolve(features, weight, bias)


def _bottleneck(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    in_weight, in_bias, weight, bias, out_weight, out_bias = tensors
    narrow = _pointwise(features, in_weight, in_bias, activate=True)
    narrow = _convolve(narrow, weight, bias, activate=True)
    return _pointwise(narrow, out_weight, out_bias)


def _attention(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    projection, out_weight, out_bias = tensors  # [n, 3D, C], [n, C, D], [n, C]
    flat = features.view(*features.shape[:2], -1, features.shape[-1])  # [n, C, L, B]
    seen = attend(*_pointwise(flat, projection).chunk(3, dim=1))  # [n, D, L, B]
    return _pointwise(seen, out_weight, out_bias).view(features.shape)


def _two_pointwise(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    in_weight, in_bias, out_weight, out_bias = tensors
    wide = _pointwise(features, in_weight, in_bias, activate=True)
    return _pointwise(wide, out_weight, out_bias)


def _low_rank(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    in_weight, out_weight, out_bias = tensors
    return _pointwise(_pointwise(features, in_weight), out_weight, out_bias)


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
    Blueprint("norm", _norm_tensors, _norm),
    Blueprint("depthwise", _depthwise_tensors, _depthwise),
    Blueprint("pointwise", _pointwise_tensors, _one_pointwise),
    Blueprint("conv", _conv_tensors, _conv),
    Blueprint("bottleneck", _bottleneck_tensors, _bottleneck),
    Blueprint("attention", _attention_tensors, _attention),
    Blueprint("mlp", _mlp_tensors, _two_pointwise),
    Blueprint("low_rank", _low_rank_tensors, _low_rank),
)
assert tuple(blueprint.name for blueprint in BLUEPRINTS) == BLUEPRINT_CHOICES
