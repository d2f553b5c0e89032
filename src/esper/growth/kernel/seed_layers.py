"""The layers that seeds are made of, forward and backward by hand.

A slot runs many small groups of seeds, and there autograd costs as much as the arithmetic: it
copies what was split, fills what it adds to, and keeps a record of every view. Written out, each
layer puts its result where it is needed at once.

Features are `[n, C, *P, B]` as in `layers`, of n networks with parameters of their own.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from esper.growth.kernel.layers import attention_backward, attention_forward, fold, unfold

#: Positions along each axis that the kernel of a layer spans.
KERNEL = 3

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Layer:
    """A layer and its derivative.

    Attributes:
        tensors: how many parameter tensors it has.
        forward: `(features, tensors, out)` to the result and what `backward` needs; the result is
            written to `out` if that is a tensor.
        backward: `(gradient, saved, tensors, learn, out)` to the gradients of the features and of
            the tensors; the first is written to `out` if that is a tensor, and the others are not
            computed unless `learn`. It may overwrite `gradient`.
    """

    tensors: int
    forward: Callable[[torch.Tensor, Tensors, torch.Tensor | None], tuple[torch.Tensor, Any]]
    backward: Callable[
        [torch.Tensor, Any, Tensors, bool, torch.Tensor | None], tuple[torch.Tensor, Tensors]
    ]


def run_layers(
    layers: tuple[Layer, ...], features: torch.Tensor, tensors: Tensors, out: torch.Tensor | None
) -> tuple[torch.Tensor, list[Any]]:
    """Run layers one after the other; return the result and what `run_back` needs.

    Args:
        layers: which.
        features: what the first one reads.
        tensors: the parameters of all of them, in order.
        out: where the last one is to write; None for a new tensor.
    """
    saved, first = [], 0
    for number, layer in enumerate(layers, start=1):
        own = tensors[first : first + layer.tensors]
        features, kept = layer.forward(features, own, out if number == len(layers) else None)
        saved.append(kept)
        first += layer.tensors
    return features, saved


def run_back(
    layers: tuple[Layer, ...],
    gradient: torch.Tensor,
    saved: list[Any],
    tensors: Tensors,
    learn: bool,
    out: torch.Tensor | None,
) -> tuple[torch.Tensor, Tensors]:
    """Return the gradients of the features that `run_layers` read and, if `learn`, of `tensors`.

    Args:
        layers, tensors: as given to `run_layers`.
        gradient: of its result; may be overwritten.
        saved: what it returned.
        learn: whether the tensors' gradients are wanted.
        out: where the features' gradient is to be written; None for a new tensor.
    """
    gradients: Tensors = ()
    last = len(tensors)
    for number in reversed(range(len(layers))):
        layer = layers[number]
        own = tensors[last - layer.tensors : last]
        gradient, of_tensors = layer.backward(
            gradient, saved[number], own, learn, out if number == 0 else None
        )
        gradients = of_tensors + gradients
        last -= layer.tensors
    return gradient, gradients


def _by_channel(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Shape `values` `[n, C]` to broadcast over `features` `[n, C, *P, B]`."""
    return values.view(*values.shape, *(1,) * (features.dim() - 2))


def _flat(features: torch.Tensor | None) -> torch.Tensor | None:
    return None if features is None else features.flatten(2)


def _multiply(columns: torch.Tensor, tensors: Tensors, out: torch.Tensor | None) -> torch.Tensor:
    """Return `weight @ columns`, plus the bias if there is one. `[n, out, M]`"""
    weight = tensors[0].flatten(2)
    if len(tensors) == 1:
        return torch.bmm(weight, columns, out=_flat(out))
    return torch.baddbmm(tensors[1].unsqueeze(2), weight, columns, out=_flat(out))


def _multiply_back(gradient: torch.Tensor, columns: torch.Tensor, tensors: Tensors) -> Tensors:
    """Return the gradients of weight and bias, given that of the product `[n, out, M]`."""
    weight = torch.bmm(gradient, columns.mT).view(tensors[0].shape)
    return (weight,) if len(tensors) == 1 else (weight, gradient.sum(2))


def _pointwise_forward(
    features: torch.Tensor, tensors: Tensors, out: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    columns = features.flatten(2)
    product = _multiply(columns, tensors, out)
    return product.view(*product.shape[:2], *features.shape[2:]), columns


def _pointwise_backward(
    gradient: torch.Tensor,
    columns: torch.Tensor,
    tensors: Tensors,
    learn: bool,
    out: torch.Tensor | None,
) -> tuple[torch.Tensor, Tensors]:
    flat = gradient.flatten(2)
    back = torch.bmm(tensors[0].mT, flat, out=_flat(out))
    gradients = _multiply_back(flat, columns, tensors) if learn else ()
    return back.view(*back.shape[:2], *gradient.shape[2:]), gradients


def _conv_forward(
    features: torch.Tensor, tensors: Tensors, out: torch.Tensor | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Size]]:
    columns = unfold(features, KERNEL, 1, KERNEL // 2)
    product = _multiply(columns, tensors, out)
    return product.view(*product.shape[:2], *features.shape[2:]), (columns, features.shape)


def _conv_backward(
    gradient: torch.Tensor,
    saved: tuple[torch.Tensor, torch.Size],
    tensors: Tensors,
    learn: bool,
    out: torch.Tensor | None,
) -> tuple[torch.Tensor, Tensors]:
    columns, shape = saved
    columns, flat = columns.flatten(2), gradient.flatten(2)
    of_columns = torch.bmm(tensors[0].flatten(2).mT, flat)
    back = fold(of_columns, shape, KERNEL, 1, KERNEL // 2, out)
    return back, _multiply_back(flat, columns, tensors) if learn else ()


def _relu_forward(
    features: torch.Tensor, tensors: Tensors, out: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    del tensors, out  # never the last layer
    return features.relu_(), features


def _relu_backward(
    gradient: torch.Tensor,
    rectified: torch.Tensor,
    tensors: Tensors,
    learn: bool,
    out: torch.Tensor | None,
) -> tuple[torch.Tensor, Tensors]:
    del tensors, learn, out  # never the first layer
    return torch.ops.aten.threshold_backward(gradient, rectified, 0.0), ()


def _scale_forward(
    features: torch.Tensor, tensors: Tensors, out: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    scale, shift = (_by_channel(tensor, features) for tensor in tensors)
    return torch.addcmul(shift, features, scale, out=out), features


def _scale_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    tensors: Tensors,
    learn: bool,
    out: torch.Tensor | None,
) -> tuple[torch.Tensor, Tensors]:
    gradients: Tensors = ()
    if learn:
        of_scale = (gradient * features).flatten(2).sum(2)
        gradients = (of_scale, gradient.flatten(2).sum(2))
    return torch.mul(gradient, _by_channel(tensors[0], gradient), out=out), gradients


def _shifts(features: torch.Tensor) -> list[torch.Tensor]:
    """Return the features `[n, C, *P, B]` moved to every place of the kernel, zeros coming in."""
    positions = features.shape[2:-1]
    padded = F.pad(features, (0, 0, *(KERNEL // 2,) * (2 * len(positions))))
    shifted = []
    for offsets in itertools.product(range(KERNEL), repeat=len(positions)):
        view = padded
        for axis, (offset, size) in enumerate(zip(offsets, positions, strict=True), start=2):
            view = view.narrow(axis, offset, size)
        shifted.append(view)
    return shifted


def _taps(weight: torch.Tensor) -> Tensors:
    """Return what a depthwise kernel `[n, C, *kernel]` has for each of its places, `[n, C]`."""
    return weight.view(*weight.shape[:2], -1).unbind(2)


def _depthwise_forward(
    features: torch.Tensor, tensors: Tensors, out: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    weight, bias = tensors  # [n, C, *kernel], [n, C]
    shifted, taps = _shifts(features), _taps(weight)
    total = torch.addcmul(
        _by_channel(bias, features), shifted[0], _by_channel(taps[0], features), out=out
    )
    for view, tap in zip(shifted[1:], taps[1:], strict=True):
        total.addcmul_(view, _by_channel(tap, features))
    return total, shifted


def _depthwise_backward(
    gradient: torch.Tensor,
    shifted: list[torch.Tensor],
    tensors: Tensors,
    learn: bool,
    out: torch.Tensor | None,
) -> tuple[torch.Tensor, Tensors]:
    taps = _taps(tensors[0])
    # what a tap moved one way comes back the other way
    back, *rest = (
        (view, _by_channel(tap, gradient))
        for view, tap in zip(reversed(_shifts(gradient)), taps, strict=True)
    )
    result = torch.mul(*back, out=out)
    for view, tap in rest:
        result.addcmul_(view, tap)
    if not learn:
        return result, ()
    weight = torch.stack([(gradient * view).flatten(2).sum(2) for view in shifted], dim=2)
    return result, (weight.view(tensors[0].shape), gradient.flatten(2).sum(2))


def _attend_forward(
    features: torch.Tensor, tensors: Tensors, out: torch.Tensor | None
) -> tuple[torch.Tensor, Any]:
    del tensors, out  # never the last layer
    flat = features.view(*features.shape[:2], -1, features.shape[-1])  # [n, 3D, L, B]
    seen, saved = attention_forward(flat)
    return seen.view(*seen.shape[:2], *features.shape[2:]), saved


def _attend_backward(
    gradient: torch.Tensor, saved: Any, tensors: Tensors, learn: bool, out: torch.Tensor | None
) -> tuple[torch.Tensor, Tensors]:
    del tensors, learn, out  # never the first layer
    flat = gradient.view(*gradient.shape[:2], -1, gradient.shape[-1])
    back = attention_backward(flat, saved)
    return back.view(*back.shape[:2], *gradient.shape[2:]), ()


#: A linear map of the channels at each position, and the same with a bias.
LINEAR = Layer(1, _pointwise_forward, _pointwise_backward)
AFFINE = Layer(2, _pointwise_forward, _pointwise_backward)
#: A convolution that keeps the positions, of all channels and of each alone.
CONVOLUTION = Layer(2, _conv_forward, _conv_backward)
DEPTHWISE = Layer(2, _depthwise_forward, _depthwise_backward)
#: A factor and a shift of each channel.
SCALE = Layer(2, _scale_forward, _scale_backward)
#: Queries, keys and values, a third of the channels each, to what was attended to.
ATTENTION = Layer(0, _attend_forward, _attend_backward)
#: Overwrites what it reads.
RELU = Layer(0, _relu_forward, _relu_backward)
