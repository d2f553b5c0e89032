"""Layers over many networks at once, on features `[R, C, *P, B]`.

R rows (one network each), C channels, up to two position axes P, and the batch B **last**;
docs/kernels.md has the reasons. Two backward passes are written by hand:

    windows     the library takes 1.6 to 2.0 times as long (grouped convolution by vmap)
    layer_norm  the library takes 1.3 to 1.4 times as long (F.layer_norm with copies)

Measured by `uv run python benchmarks/hand_written_autograd.py --parts layers`.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F


def window_positions(
    positions: tuple[int, ...], kernel: int, stride: int, padding: int
) -> tuple[int, ...]:
    """Return the number of output positions of a convolution, by axis."""
    return tuple((size + 2 * padding - kernel) // stride + 1 for size in positions)


@dataclass(frozen=True)
class _Tap:
    """One place of a convolution kernel, and the positions that windows read there.

    Attributes:
        index: number of the place, last axis fastest.
        windows: by axis, the first window that reads an existing position, and their count.
        positions: by axis, the positions that those windows read.
        covering: whether it belongs to the places that together read each position exactly once.
    """

    index: int
    windows: tuple[tuple[int, int], ...]
    positions: tuple[slice, ...]
    covering: bool


@cache
def _taps(
    positions: tuple[int, ...], kernel: int, stride: int, padding: int
) -> tuple[tuple[_Tap, ...], bool]:
    """Return the places of a kernel, and whether some of them cover each position once."""
    reached = window_positions(positions, kernel, stride, padding)
    # places padding, padding + 1, ... (stride of them) read the positions one after the other
    covered = padding + stride <= kernel and all(
        (size - 1) // stride < count for size, count in zip(positions, reached, strict=True)
    )
    taps = []
    for index, offsets in enumerate(itertools.product(range(kernel), repeat=len(positions))):
        windows, read = [], []
        for offset, size, count in zip(offsets, positions, reached, strict=True):
            # window w reads position w * stride + offset - padding, if there is one
            first = max(0, -((offset - padding) // stride))
            last = min(count - 1, (size - 1 + padding - offset) // stride)
            windows.append((first, max(0, last - first + 1)))
            start = first * stride + offset - padding
            read.append(slice(start, max(start, last * stride + offset - padding + 1), stride))
        once = all(padding <= offset < padding + stride for offset in offsets)
        taps.append(_Tap(index, tuple(windows), tuple(read), covered and once))
    return tuple(sorted(taps, key=lambda tap: not tap.covering)), covered


def _at(tensor: torch.Tensor, tap: _Tap) -> torch.Tensor:
    """Return the part of `[R, C, *P', B]` whose windows have a position at a tap."""
    for axis, (first, count) in enumerate(tap.windows, start=2):
        tensor = tensor.narrow(axis, first, count)
    return tensor


def unfold(features: torch.Tensor, kernel: int, stride: int, padding: int) -> torch.Tensor:
    """Return every window of the features as a column (im2col).

    `torch.nn.functional.unfold` needs another layout, and its backward pass is a slow scatter.
    """
    rows, channels, *positions, batch = features.shape
    reached = window_positions(tuple(positions), kernel, stride, padding)
    columns = features.new_empty(rows, channels, kernel ** len(reached), *reached, batch)
    for tap in _taps(tuple(positions), kernel, stride, padding)[0]:
        target = columns.select(2, tap.index)
        for axis, ((first, count), size) in enumerate(
            zip(tap.windows, reached, strict=True), start=2
        ):
            if first > 0:
                target.narrow(axis, 0, first).zero_()
            if first + count < size:
                target.narrow(axis, first + count, size - first - count).zero_()
        _at(target, tap).copy_(features[(slice(None), slice(None), *tap.positions)])
    return columns.view(rows, columns.shape[1] * columns.shape[2], -1)


def fold(
    columns: torch.Tensor,
    shape: torch.Size,
    kernel: int,
    stride: int,
    padding: int,
) -> torch.Tensor:
    """Return the gradient of the features: for each position, the sum over its windows.

    Args:
        columns: gradients of the windows. `[R, C*K, P'*B]`
        shape: shape of the features `[R, C, *P, B]`.
        kernel, stride, padding: geometry of the windows.
    """
    rows, channels, *positions, batch = shape
    result = columns.new_empty(shape)
    reached = window_positions(tuple(positions), kernel, stride, padding)
    pieces = columns.view(rows, channels, -1, *reached, batch)
    taps, covered = _taps(tuple(positions), kernel, stride, padding)
    if not covered:
        result.zero_()
    for tap in taps:
        source = _at(pieces.select(2, tap.index), tap)
        target = result[(slice(None), slice(None), *tap.positions)]
        if tap.covering:
            target.copy_(source)
        else:
            target.add_(source)
    return result


class _Windows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: torch.Tensor, kernel: int, stride: int, padding: int
    ) -> torch.Tensor:
        ctx.geometry = (features.shape, kernel, stride, padding)
        return unfold(features, kernel, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return fold(gradient, *ctx.geometry), None, None, None


def windows(features: torch.Tensor, kernel: int, stride: int, padding: int) -> torch.Tensor:
    """Return every window of `features` `[R, C, *P, B]` as a column. `[R, C*K, P'*B]`

    K is the kernel's size over all position axes. A column has its rows in the order of the inputs
    of a `torch.nn.Conv1d` or `Conv2d` weight: channels first.
    """
    if features.dim() == 3:  # no positions
        return features
    columns: torch.Tensor = _Windows.apply(features, kernel, stride, padding)
    return columns


def affine_map(
    columns: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `weight @ columns + bias` for each row. `[R, out, M]`

    Args:
        columns: `[R, in, M]`, or `[in, M]` if all rows share them.
        weight: `[R, out, in]`; further axes are flattened into `in`.
        bias: `[R, out]`, or None.
    """
    weight = weight.flatten(2)
    if columns.dim() == 2:
        # one large product over all rows instead of R small ones
        product = (weight.reshape(-1, weight.shape[2]) @ columns).view(
            weight.shape[0], weight.shape[1], -1
        )
    else:
        product = torch.bmm(weight, columns)
    return product if bias is None else product.add_(bias.unsqueeze(2))


class _LayerNorm(torch.autograd.Function):
    """Normalisation over the axes in the middle, with few passes over the features.

    torch's kernel needs the normalised axes last, which would require copies to that layout and
    back.
    """

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, epsilon: float) -> torch.Tensor:
        flat = features.flatten(1, -2)  # [R, C*P, B]
        normal = flat - flat.mean(1, keepdim=True)
        scale = (normal * normal).mean(1, keepdim=True).add_(epsilon).rsqrt_()  # [R, 1, B]
        normal = normal.mul_(scale).view(features.shape)
        ctx.save_for_backward(normal, scale)
        return normal

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        normal, scale = ctx.saved_tensors
        # scale * (g - mean(g) - normal * mean(g * normal))
        flat, normal = gradient.contiguous().flatten(1, -2), normal.flatten(1, -2)
        along = (flat * normal).mean(1, keepdim=True).mul_(scale).neg_()
        level = flat.mean(1, keepdim=True).mul_(scale).neg_()
        result = torch.addcmul(level, flat, scale).addcmul_(normal, along)
        return result.view(gradient.shape), None


def layer_norm(features: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Normalise each sample of `[R, C, *P, B]` to mean 0 and variance 1 over C and P.

    Layer normalisation (Ba, Kiros and Hinton 2016) without parameters and without running
    statistics. It spans channels *and* positions of a sample (group normalisation with one group,
    Wu and He 2018), so that differences between positions are kept, and a position where all
    channels are near zero is not amplified to noise.
    """
    normal: torch.Tensor = _LayerNorm.apply(features, epsilon)
    return normal


def channel_norm(features: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Normalise `[R, C, ...]` to mean 0 and variance 1 over C, at each position alone.

    This is the layer normalisation of transformers, without parameters.
    """
    normal = features - features.mean(1, keepdim=True)
    return normal * ((normal * normal).mean(1, keepdim=True) + epsilon).rsqrt()


#: Up to this many positions, attention is computed by sums over channels, which is faster there.
_FEW_POSITIONS = 15


def attend(projected: torch.Tensor) -> torch.Tensor:
    """Compute scaled dot-product attention (Vaswani et al. 2017) over positions, for each sample.

    Args:
        projected: queries, keys and values, end to end. `[R, 3D, L, B]`

    Returns:
        `[R, D, L, B]`.
    """
    query, key, value = projected.chunk(3, dim=1)
    if query.shape[2] <= _FEW_POSITIONS:
        scores = (query.unsqueeze(3) * key.unsqueeze(2)).sum(1)  # [R, L, L, B]
        weights = torch.softmax(scores / math.sqrt(query.shape[1]), 2)
        return (weights.unsqueeze(1) * value.unsqueeze(2)).sum(3)
    # [R, B, L, D] for torch's kernel, which never holds all L x L weights at once
    query, key, value = (tensor.permute(0, 3, 2, 1) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).permute(0, 3, 2, 1).contiguous()
