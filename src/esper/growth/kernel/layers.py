"""Layers over many networks at once, on features `[R, C, *P, B]`.

R rows (one network each), C channels, one or two position axes P, and the batch B **last**. This
order is measured, not taste: a convolution is then `[out, in*K] @ [in*K, P*B]` for each row, with
the long side contiguous. For the blocks of 16 default hosts, on the two cores this was written on,
the forward product ran at 78 to 112 GFLOP/s so, and at 10 to 28 with channels last
(`[P*B, in*K] @ [in*K, out]`). Windows and shifts are slices whose inner run is the whole batch.
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
    """Return the positions a convolution leaves of `positions`, by axis."""
    return tuple((size + 2 * padding - kernel) // stride + 1 for size in positions)


@dataclass(frozen=True)
class _Tap:
    """One place of a kernel: along each axis, which windows read a position there, and which.

    Attributes:
        index: of the place, last axis fastest.
        windows: by axis, the first window whose position exists, and how many follow on.
        positions: by axis, what those windows read.
        first: whether no position is read by two of the taps of which this is so, and each by one.
    """

    index: int
    windows: tuple[tuple[int, int], ...]
    positions: tuple[slice, ...]
    first: bool


@cache
def _taps(
    positions: tuple[int, ...], kernel: int, stride: int, padding: int
) -> tuple[tuple[_Tap, ...], bool]:
    """Return the places of a kernel, and whether there are some that cover each position once."""
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
    return tuple(sorted(taps, key=lambda tap: not tap.first)), covered


def _at(tensor: torch.Tensor, tap: _Tap) -> torch.Tensor:
    """Return of windows `[R, C, *P', B]` those that a tap has a position for."""
    for axis, (first, count) in enumerate(tap.windows, start=2):
        tensor = tensor.narrow(axis, first, count)
    return tensor


def unfold(features: torch.Tensor, kernel: int, stride: int, padding: int) -> torch.Tensor:
    """Return every window of the features as a column, as `windows` does (im2col).

    torch's own `unfold` wants another layout and its backward is a slow scatter.
    """
    rows, channels, *positions, batch = features.shape
    if not positions:
        return features
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
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the sum of what windows hold of each position: the derivative of `unfold`.

    Args:
        columns: gradients of the windows. `[R, C*K, P'*B]`
        shape: of the features `[R, C, *P, B]`.
        kernel, stride, padding: of the windows.
        out: where to write the result; None for a new tensor.
    """
    rows, channels, *positions, batch = shape
    result = columns.new_empty(shape) if out is None else out
    if not positions:
        return result.copy_(columns.view(shape))
    reached = window_positions(tuple(positions), kernel, stride, padding)
    pieces = columns.view(rows, channels, -1, *reached, batch)
    taps, covered = _taps(tuple(positions), kernel, stride, padding)
    if not covered:
        result.zero_()
    for tap in taps:
        source = _at(pieces.select(2, tap.index), tap)
        target = result[(slice(None), slice(None), *tap.positions)]
        if tap.first:
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

    K is the kernel's size over all position axes; the rows of a column run over channels first, as
    the input side of a `torch.nn.Conv1d` or `Conv2d` weight does.
    """
    if features.dim() == 3:  # no positions, no neighbours
        return features
    columns: torch.Tensor = _Windows.apply(features, kernel, stride, padding)
    return columns


def affine_map(
    columns: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `weight @ columns + bias` for each row. `[R, out, M]`

    Args:
        columns: `[R, in, M]`, or `[in, M]` when all rows see the same.
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

    torch's kernel wants the normalised axes last. With copies to that layout and back it takes 1.3
    times, ordinary operations take 1.9 times as long (`benchmarks/hand_written_autograd.py --parts
    layers`).
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
    """Return each sample's features `[R, C, *P, B]` with mean 0 and variance 1, over C and P.

    Layer normalisation (Ba, Kiros and Hinton 2016) without parameters and without running
    statistics. It spans channels *and* positions of a sample (group normalisation with one group,
    Wu and He 2018), so that how one position compares with another is kept, and a position where
    every channel is silent stays an ordinary number instead of amplified noise.
    """
    normal: torch.Tensor = _LayerNorm.apply(features, epsilon)
    return normal


def channel_norm(features: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Return the features `[R, C, ...]` with mean 0 and variance 1 over C, at each position alone.

    Layer normalisation as transformers have it, without parameters.
    """
    normal = features - features.mean(1, keepdim=True)
    return normal * ((normal * normal).mean(1, keepdim=True) + epsilon).rsqrt()


#: Up to this many positions, attention is computed by sums over channels, which is faster there.
_FEW_POSITIONS = 15


def attend(projected: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017) over positions, for each sample alone.

    Args:
        projected: queries, keys and values, one after the other. `[R, 3D, L, B]`

    Returns:
        `[R, D, L, B]`.
    """
    query, key, value = projected.chunk(3, dim=1)
    if query.shape[2] <= _FEW_POSITIONS:
        scores = (query.unsqueeze(3) * key.unsqueeze(2)).sum(1)  # [R, L, L, B]
        weights = torch.softmax(scores / math.sqrt(query.shape[1]), 2)
        return (weights.unsqueeze(1) * value.unsqueeze(2)).sum(3)
    # [R, B, L, D], as torch has it: its kernel never holds all L x L weights at once
    query, key, value = (tensor.permute(0, 3, 2, 1) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).permute(0, 3, 2, 1).contiguous()
