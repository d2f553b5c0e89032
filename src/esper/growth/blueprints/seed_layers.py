"""The layers that seeds are made of: parameters, computation, cost and source of each.

A layer computes n networks at once, each with its own parameters, on features `[n, C, *P, B]`
(docs/kernels.md). Everything is an ordinary tensor operation that autograd differentiates; on
sixteen hosts with a seed in every slot, a step of training takes about 1.2 times as long as it did
with backward passes written by hand (docs/kernels.md has the figures).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from esper.growth.blueprints.module_text import (
    ModuleText,
    attention_text,
    channel_scale_text,
    convolution_text,
    pointwise_text,
)
from esper.growth.kernel.layers import affine_map, attend, windows
from esper.growth.kernel.parameters import TensorSpec, affine

#: Positions along each axis that the kernel of a convolution spans.
KERNEL = 3

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class SeedLayer:
    """One layer of a seed.

    Attributes:
        run: computes the layer from features `[n, C, *P, B]` and its parameters `[n, *shape]`.
        text: the same layer as a module of `torch.nn`, for exported networks.
        tensors: its parameters, in the order in which `run` and `text` have them.
        attended: channels of its attention head; 0 if it has none.
    """

    run: Callable[[torch.Tensor, Tensors], torch.Tensor]
    text: ModuleText
    tensors: tuple[TensorSpec, ...] = ()
    attended: int = 0

    def multiply_adds(self, positions: int) -> int:
        """Return the multiply-adds of one sample in a forward pass.

        Every weight multiplies once at each position; attention adds its scores and weighted sums.
        """
        return weights_in(self.tensors) * positions + attention_multiply_adds(
            self.attended, positions
        )


def weights_in(tensors: tuple[TensorSpec, ...]) -> int:
    """Return how many numbers of these tensors multiply: all but biases and shifts."""
    return sum(tensor.size for tensor in tensors if tensor.name.endswith(("weight", "scale")))


def attention_multiply_adds(channels: int, positions: int) -> int:
    """Return the forward multiply-adds of scores and weighted sums of one attention head."""
    return 2 * channels * positions**2


def relu() -> SeedLayer:
    """Return a rectifier."""
    return SeedLayer(lambda features, _: features.relu(), ModuleText("nn.ReLU()"))


def channel_scale(channels: int, axes: int) -> SeedLayer:
    """Return a factor and a shift of each channel, both zero at first."""
    tensors = TensorSpec("scale", (channels,)), TensorSpec("shift", (channels,))
    return SeedLayer(_scale, channel_scale_text(channels, axes), tensors)


def pointwise(
    name: str, inputs: int, outputs: int, axes: int, *, bias: bool = True, zero: bool = False
) -> SeedLayer:
    """Return a linear map of the channels at each position; with `zero`, it is zero at first."""
    return SeedLayer(
        _pointwise,
        pointwise_text(inputs, outputs, axes, bias=bias),
        affine(name, (outputs, inputs), bias=bias, zero=zero),
    )


def convolution(
    name: str, inputs: int, outputs: int, axes: int, *, zero: bool = False
) -> SeedLayer:
    """Return a convolution that keeps the positions; with `zero`, it is zero at first."""
    return SeedLayer(
        _convolution,
        convolution_text(inputs, outputs, KERNEL, axes, padding=KERNEL // 2),
        affine(name, (outputs, inputs, *(KERNEL,) * axes), zero=zero),
    )


def depthwise(channels: int, axes: int) -> SeedLayer:
    """Return a convolution of each channel alone, zero at first."""
    text = (
        convolution_text(channels, channels, KERNEL, axes, padding=KERNEL // 2, groups=channels)
        if axes
        else channel_scale_text(channels, axes)
    )
    weight = TensorSpec("weight", (channels, *(KERNEL,) * axes))
    return SeedLayer(_depthwise, text, (weight, TensorSpec("bias", (channels,))))


def attention(channels: int, inner: int) -> SeedLayer:
    """Return self-attention over the positions with one head of `inner` channels."""
    tensors = (
        *affine("projection", (3 * inner, channels), bias=False),
        *affine("out", (channels, inner), zero=True),
    )
    return SeedLayer(_attention, attention_text(channels, inner), tensors, inner)


def _over_positions(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Shape `values` `[n, C]` to broadcast over `features` `[n, C, *P, B]`."""
    return values.view(*values.shape, *(1,) * (features.dim() - 2))


def _scale(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    scale, shift = (_over_positions(tensor, features) for tensor in tensors)
    return torch.addcmul(shift, features, scale)


def _pointwise(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    product = affine_map(features.flatten(2), *tensors)
    return product.view(*product.shape[:2], *features.shape[2:])


def _convolution(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    product = affine_map(windows(features, KERNEL, 1, KERNEL // 2), *tensors)
    return product.view(*product.shape[:2], *features.shape[2:])


def _depthwise(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    weight, bias = tensors  # [n, C, *kernel], [n, C]
    positions = features.shape[2:-1]
    padded = F.pad(features, (0, 0, *(KERNEL // 2,) * (2 * len(positions))))
    result = _over_positions(bias, features)
    taps = weight.flatten(2).unbind(2) if positions else (weight,)
    places = itertools.product(range(KERNEL), repeat=len(positions))
    for tap, offsets in zip(taps, places, strict=True):
        view = padded
        for axis, (offset, size) in enumerate(zip(offsets, positions, strict=True), start=2):
            view = view.narrow(axis, offset, size)
        result = torch.addcmul(result, view, _over_positions(tap, features))
    return result


def _attention(features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    projection, *out = tensors
    projected = affine_map(features.flatten(2), projection)
    batch = features.shape[-1]
    seen = attend(projected.view(*projected.shape[:2], -1, batch))  # [n, D, L, B]
    product = affine_map(seen.flatten(2), *out)
    return product.view(features.shape)
