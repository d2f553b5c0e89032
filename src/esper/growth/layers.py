"""Layers over many networks at once, on features `[R, C, *P, B]`.

R rows (one network each), C channels, one or two position axes P, and the batch B **last**. This
order is measured, not taste: a convolution is then `[out, in*K] @ [in*K, P*B]` for each row, with
the long side contiguous. For the blocks of 16 default hosts, on the two cores this was written on,
the forward product ran at 78 to 112 GFLOP/s so, and at 10 to 28 with channels last
(`[P*B, in*K] @ [in*K, out]`). Windows and shifts are slices whose inner run is the whole batch.
"""

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F


def window_positions(
    positions: tuple[int, ...], kernel: int, stride: int, padding: int
) -> tuple[int, ...]:
    """Return the positions a convolution leaves of `positions`, by axis."""
    return tuple((size + 2 * padding - kernel) // stride + 1 for size in positions)


class _Windows(torch.autograd.Function):
    """im2col; torch's own `unfold` wants another layout and its backward is a slow scatter."""

    @staticmethod
    def forward(
        ctx: Any, features: torch.Tensor, kernel: int, stride: int, padding: int
    ) -> torch.Tensor:
        rows, channels, *positions, batch = features.shape
        ctx.geometry = (features.shape, kernel, stride, padding)
        padded = F.pad(features, (0, 0, *(padding,) * (2 * len(positions))))
        out = window_positions(tuple(positions), kernel, stride, padding)
        steps = padded.stride()[2:-1]
        view = padded.as_strided(
            (rows, channels, *(kernel,) * len(out), *out, batch),
            (*padded.stride()[:2], *steps, *(stride * step for step in steps), 1),
        )
        return view.reshape(rows, channels * kernel ** len(out), -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        shape, kernel, stride, padding = ctx.geometry
        rows, channels, *positions, batch = shape
        out = window_positions(tuple(positions), kernel, stride, padding)
        pieces = gradient.view(rows, channels, -1, *out, batch).unbind(2)
        result = gradient.new_zeros(shape)
        all_offsets = itertools.product(range(kernel), repeat=len(out))
        for offsets, source in zip(all_offsets, pieces, strict=True):
            target = result
            for axis, (offset, size, reached) in enumerate(
                zip(offsets, positions, out, strict=True), start=2
            ):
                # window w reads position w * stride + offset - padding, if there is one
                first = max(0, -((offset - padding) // stride))
                last = min(reached - 1, (size - 1 + padding - offset) // stride)
                start = first * stride + offset - padding
                stop = last * stride + offset - padding + 1
                source = source.narrow(axis, first, last - first + 1)
                target = target.movedim(axis, 0)[start:stop:stride].movedim(0, axis)
            target += source
        return result, None, None, None


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
    columns: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
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
    """By hand: torch's kernels want the normalised axes last, or take many times as long."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, epsilon: float) -> torch.Tensor:
        flat = features.flatten(1, -2)  # [R, C*P, B]
        normal = flat - flat.mean(1, keepdim=True)
        variance = (normal * normal).mean(1, keepdim=True)
        scale = variance.add_(epsilon).rsqrt_()
        normal.mul_(scale)
        ctx.save_for_backward(normal, scale)
        return normal.view(features.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        # scale * (g - mean(g) - normal * mean(g * normal)), with few passes over whole features
        normal, scale = ctx.saved_tensors
        flat = gradient.reshape(normal.shape)
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


#: Up to so many positions attention is computed by sums; beyond, that would take too much memory.
_FEW_POSITIONS = 24
#: Products of attention by sums that are held at once: they are to stay in the cache.
_PRODUCTS_AT_ONCE = 600_000


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017) over positions, for each sample alone.

    Over few positions the products are sums over the few channels of arrays whose last axis is the
    batch: there that is several times faster than one small matrix product a sample.

    Args:
        query, key, value: each `[R, D, L, B]`.

    Returns:
        `[R, D, L, B]`.
    """
    if query.shape[2] > _FEW_POSITIONS:
        # [R, B, L, D], as torch has it: its kernel never holds all L x L weights at once
        query, key, value = (tensor.permute(0, 3, 2, 1) for tensor in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value).permute(0, 3, 2, 1)
    rows, channels, length, batch = query.shape
    at_once = max(1, _PRODUCTS_AT_ONCE // (channels * length * length * batch))
    if rows > at_once:
        parts = zip(*(tensor.split(at_once) for tensor in (query, key, value)), strict=True)
        return torch.cat([_attend(*part) for part in parts])
    return _attend(query, key, value)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    scores = (query.unsqueeze(3) * key.unsqueeze(2)).sum(1)  # [R, L queries, L keys, B]
    weights = (scores * (1.0 / math.sqrt(query.shape[1]))).softmax(2)
    return (weights.unsqueeze(1) * value.unsqueeze(2)).sum(3)  # [R, D, L, B]
