"""Seeds and hosts from the library's own parts, for `hand_written_autograd.py`.

Three ways to compute R networks at once:

| way     | layout of features | what it uses                                                      |
|---------|--------------------|-------------------------------------------------------------------|
| plain   | `[R, C, L, B]`     | ordinary tensor operations and autograd, in Esper's own layout    |
| grouped | `[B, R*C, L]`      | `conv1d` with one group for each network                          |
| vmap    | `[R, B, C, L]`     | `torch.func.vmap` over `functional_call` of ordinary modules      |
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vmap

from esper.growth.hosts.host import HostShape
from esper.growth.hosts.plan import Jobs, Plan
from esper.growth.kernel.blending import Mixing
from esper.growth.kernel.blueprints import BLUEPRINTS, Blueprint, seed_layout
from esper.growth.kernel.layers import affine_map, attend, layer_norm, windows
from esper.growth.kernel.seed_layers import run_back, run_layers

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import ordinary_modules as ordinary

Change = Callable[[str, Tensor, Sequence[Tensor]], Tensor]


def over_features(values: Tensor, features: Tensor) -> Tensor:
    """Shape `values` `[n, C]` to broadcast over `features` `[n, C, L, B]`."""
    return values.view(*values.shape, *(1,) * (features.dim() - 2))


def plain_linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear map of the channels at each position. `[n, C, L, B]`"""
    flat = features.flatten(2)
    product = weight.flatten(2) @ flat if bias is None else plain_affine(flat, weight, bias)
    return product.view(*product.shape[:2], *features.shape[2:])


def plain_affine(columns: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `weight @ columns + bias` for each network."""
    return torch.baddbmm(bias.unsqueeze(2), weight.flatten(2), columns)


def plain_conv(
    features: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 1
) -> Tensor:
    """Apply a convolution over the positions. `[n, C, L, B]`"""
    kernel, batch = weight.shape[-1], features.shape[-1]
    padded = F.pad(features, (0, 0, padding, padding))
    windows = padded.unfold(2, kernel, stride).movedim(-1, 2)  # [n, C, K, L', B]
    columns = windows.reshape(len(features), -1, windows.shape[3] * batch)
    return plain_affine(columns, weight, bias).view(*weight.shape[:2], -1, batch)


def plain_depthwise(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a convolution of each channel alone. `[n, C, L, B]`"""
    length = features.shape[2]
    padded = F.pad(features, (0, 0, 1, 1))
    result = over_features(bias, features)
    for place, tap in enumerate(weight.unbind(2)):
        result = torch.addcmul(
            result, padded.narrow(2, place, length), over_features(tap, features)
        )
    return result


def plain_attend(projected: Tensor) -> Tensor:
    """Attend over few positions by sums over channels. `[n, 3D, L, B]` to `[n, D, L, B]`"""
    query, key, value = projected.chunk(3, dim=1)
    scores = (query.unsqueeze(3) * key.unsqueeze(2)).sum(1) / math.sqrt(query.shape[1])
    return (scores.softmax(2).unsqueeze(1) * value.unsqueeze(2)).sum(3)


def fused_attend(projected: Tensor) -> Tensor:
    """Attend by torch's own kernel, which wants another layout. `[n, 3D, L, B]`"""
    query, key, value = (part.permute(0, 3, 2, 1) for part in projected.chunk(3, dim=1))
    return F.scaled_dot_product_attention(query, key, value).permute(0, 3, 2, 1).contiguous()


def plain_change(
    name: str,
    features: Tensor,
    tensors: Sequence[Tensor],
    attend: Callable[[Tensor], Tensor] = plain_attend,
) -> Tensor:
    """Return the change that seeds of one blueprint compute, with plain operations."""
    match name:
        case "norm":
            scale, shift = (over_features(tensor, features) for tensor in tensors)
            return torch.addcmul(shift, features, scale)
        case "depthwise":
            return plain_depthwise(features, *tensors)
        case "pointwise":
            return plain_linear(features, *tensors)
        case "conv":
            return plain_conv(features, *tensors)
        case "bottleneck":
            hidden = plain_linear(features, *tensors[:2]).relu()
            return plain_linear(plain_conv(hidden, *tensors[2:4]).relu(), *tensors[4:])
        case "attention":
            return plain_linear(attend(plain_linear(features, tensors[0])), *tensors[1:])
        case "mlp":
            return plain_linear(plain_linear(features, *tensors[:2]).relu(), *tensors[2:])
        case "low_rank":
            return plain_linear(plain_linear(features, tensors[0]), *tensors[1:])
    raise AssertionError(name)


def grouped_conv(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a convolution or linear map of each network. `[B, n*C, L]`"""
    count = len(weight)
    kernel = weight.flatten(0, 1).view(-1, weight.shape[2], *(weight.shape[3:] or (1,)))
    flat = None if bias is None else bias.flatten()
    return F.conv1d(features, kernel, flat, padding=kernel.shape[-1] // 2, groups=count)


def grouped_change(name: str, features: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return the change that seeds of one blueprint compute, with grouped convolutions."""
    match name:
        case "norm":
            scale, shift = (tensor.reshape(1, -1, 1) for tensor in tensors)
            return torch.addcmul(shift, features, scale)
        case "depthwise":
            weight, bias = tensors
            kernel = weight.flatten(0, 1).unsqueeze(1)
            return F.conv1d(features, kernel, bias.flatten(), padding=1, groups=len(kernel))
        case "pointwise" | "conv":
            return grouped_conv(features, *tensors)
        case "bottleneck":
            hidden = grouped_conv(features, *tensors[:2]).relu()
            return grouped_conv(grouped_conv(hidden, *tensors[2:4]).relu(), *tensors[4:])
        case "attention":
            count, batch, length = len(tensors[0]), len(features), features.shape[2]
            projected = grouped_conv(features, tensors[0]).view(batch, count, 3, -1, length)
            query, key, value = projected.mT.unbind(2)  # each [B, n, L, D]
            seen = F.scaled_dot_product_attention(query, key, value).mT
            return grouped_conv(seen.reshape(batch, -1, length), *tensors[1:])
        case "mlp":
            return grouped_conv(grouped_conv(features, *tensors[:2]).relu(), *tensors[2:])
        case "low_rank":
            return grouped_conv(grouped_conv(features, tensors[0]), *tensors[1:])
    raise AssertionError(name)


class MatmulAttention(ordinary.Attention):
    """The ordinary module in matrix products: `vmap` runs torch's fused attention in a loop."""

    def forward(self, features: Tensor) -> Tensor:
        query, key, value = self.projection(features).mT.chunk(3, dim=2)  # [B, L, D]
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        return self.out((scores.softmax(-1) @ value).mT)


class VmapChange:
    """Computes the change of seeds by `vmap` over the ordinary module of their blueprint."""

    def __init__(self, names: Sequence[str], channels: int, dtype: torch.dtype) -> None:
        self._modules = {
            name: (
                MatmulAttention(channels)
                if name == "attention"
                else ordinary.make_blueprint(name, channels, 1)
            ).to(dtype)
            for name in names
        }

    def __call__(self, name: str, features: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """Return the change of features `[n, B, C, L]`."""
        module = self._modules[name]
        own = {
            key: tensor.view(len(tensor), *parameter.shape)
            for (key, parameter), tensor in zip(module.named_parameters(), tensors, strict=True)
        }
        change: Tensor = vmap(lambda values, part: functional_call(module, values, (part,)))(
            own, features
        )
        return change


def vmap_conv(features: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """Apply a convolution of each network to `[R, B, C, L]`."""
    result: Tensor = vmap(
        lambda part, kernel, shift: F.conv1d(part, kernel, shift, stride, padding)
    )(features, weight, bias)
    return result


def plain_norm(features: Tensor) -> Tensor:
    """Normalise each sample of `[R, C, L, B]` over channels and positions."""
    flat = features.flatten(1, 2)
    centred = flat - flat.mean(1, keepdim=True)
    scale = ((centred * centred).mean(1, keepdim=True) + 1e-5).rsqrt()
    return (centred * scale).view(features.shape)


def native_norm(features: Tensor) -> Tensor:
    """Do the same for `[R, B, C, L]` by torch's kernel."""
    return F.layer_norm(features, features.shape[2:])


def copied_norm(features: Tensor) -> Tensor:
    """Do the same for `[R, C, L, B]` by torch's kernel, with copies to its layout and back."""
    return native_norm(features.movedim(-1, 1)).movedim(1, -1).contiguous()


def plain_mix(
    mixing: Mixing,
    features: Tensor,
    change: Tensor,
    normal: Tensor,
    amount: Tensor,
    gate: Tensor,
    channel_axis: int,
) -> Tensor:
    """Blend the change into the features, as `blending.mix` does; `gate` is `[n, 2C]`."""
    if mixing is Mixing.MULTIPLY:
        return torch.addcmul(features, torch.tanh(change) * features, amount)
    if mixing is Mixing.GATE:
        shape = [len(gate), *(1,) * (normal.dim() - 1)]
        shape[channel_axis] = normal.shape[channel_axis]
        weight, bias = (half.reshape(shape) for half in gate.chunk(2, dim=1))
        return torch.addcmul(
            features, torch.sigmoid(torch.addcmul(bias, normal, weight)) * change, amount
        )
    return torch.addcmul(features, change, amount)


@dataclass(frozen=True)
class Way:
    """A way to compute a whole network with the library.

    Attributes:
        change: computes the change of the seeds of one blueprint.
        conv: convolution of each network, with stride and padding.
        norm: normalises the features of each sample.
        channel_axis, position_axis: of its features.
    """

    change: Change
    conv: Callable[..., Tensor]
    norm: Callable[[Tensor], Tensor]
    channel_axis: int
    position_axis: int


class _HandLayers(torch.autograd.Function):
    """The hand-written layers of a group, as a node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, name: str, features: Tensor, *tensors: Tensor) -> Tensor:
        layers = next(each.layers for each in BLUEPRINTS if each.name == name)
        result, saved = run_layers(layers, features, tensors, None)
        ctx.kept = layers, saved, tensors
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layers, saved, tensors = ctx.kept
        back, own = run_back(layers, gradient, saved, tensors, True, None)
        return None, back, *own


def hand_change(name: str, features: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return the change that seeds of one blueprint compute, by the hand-written layers."""
    change: Tensor = _HandLayers.apply(name, features, *tensors)
    return change


def hand_conv(features: Tensor, weight: Tensor, bias: Tensor, *geometry: int) -> Tensor:
    """Apply a convolution over hand-written windows. `[n, C, L, B]`"""
    kernel, batch = weight.shape[-1], features.shape[-1]
    stride, padding = geometry or (1, 1)
    product = affine_map(windows(features, kernel, stride, padding), weight, bias)
    return product.view(*weight.shape[:2], -1, batch)


def hand_attend(projected: Tensor) -> Tensor:
    """Attend by the hand-written node. `[n, 3D, L, B]`"""
    return attend(*projected.chunk(3, dim=1))


def mixed_change(name: str, features: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return the change of one blueprint: plain operations over hand-written nodes."""
    if name == "conv":
        return hand_conv(features, *tensors)
    if name == "bottleneck":
        hidden = plain_linear(features, *tensors[:2]).relu()
        return plain_linear(hand_conv(hidden, *tensors[2:4]).relu(), *tensors[4:])
    return plain_change(name, features, tensors, hand_attend)


#: Blending and parameters by autograd, everything else by hand.
HAND_LAYERS = Way(hand_change, hand_conv, layer_norm, channel_axis=1, position_axis=2)
#: Windows, norm and attention by hand, everything else by autograd.
HAND_NODES = Way(mixed_change, hand_conv, layer_norm, channel_axis=1, position_axis=2)
PLAIN = Way(plain_change, plain_conv, plain_norm, channel_axis=1, position_axis=2)


def vmap_way(channels: int) -> Way:
    """Return the way that uses `vmap`."""
    names = [blueprint.name for blueprint in BLUEPRINTS]
    change = VmapChange(names, channels, torch.get_default_dtype())
    return Way(change, vmap_conv, native_norm, channel_axis=2, position_axis=3)


def library_slot(
    way: Way,
    stream: Tensor,
    jobs: Jobs,
    blueprints: Sequence[Blueprint],
    seeds: Sequence[Tensor],
    _tensors: object = None,
) -> Tensor:
    """Return what `blend_seeds` does, of a stream in the layout of a way."""
    features = stream.index_select(0, jobs.rows)
    normal = way.norm(features)
    parts = normal.split([batch.size for batch in jobs.batches])
    channels = stream.shape[way.channel_axis]
    change = torch.cat(
        [
            way.change(blueprint.name, part, seed_layout(blueprint, channels, 1).split(own)[:-2])
            for blueprint, own, part in zip(blueprints, seeds, parts, strict=True)
        ]
    )
    gates = torch.cat([own[:, -2 * channels :] for own in seeds])
    amounts = jobs.coefficients.view(-1, 1, 1, 1)
    kinds, sizes = runs_of(jobs)
    pieces = (tensor.split(sizes) for tensor in (features, change, normal, amounts, gates))
    blended = torch.cat(
        [
            plain_mix(kind, *piece, way.channel_axis)
            for kind, *piece in zip(kinds, *pieces, strict=True)
        ]
    )
    if jobs.leading and len(jobs.rows) == len(stream):
        return blended
    return stream.index_copy(0, jobs.rows, blended)


def runs_of(jobs: Jobs) -> tuple[list[Mixing], list[int]]:
    """Return the arithmetic and the length of each run of equal arithmetic, over all lots."""
    kinds: list[Mixing] = []
    sizes: list[int] = []
    for lot in jobs.lots:
        for kind, size in zip(lot.mixing, lot.mixing_sizes, strict=True):
            if kinds and kinds[-1] is kind:
                sizes[-1] += size
            else:
                kinds.append(kind)
                sizes.append(size)
    return kinds, sizes


def library_logits(
    way: Way, plan: Plan, shape: HostShape, inputs: Tensor, hosts: Tensor, *seeds: Tensor
) -> Tensor:
    """Return the logits of all networks of a plan. `[R, classes, B]`"""
    *blocks, (weight, bias) = shape.split(hosts)
    features = inputs
    for block, tensors, slot in zip(shape.blocks, blocks, plan.slots, strict=True):
        features = way.conv(features, *tensors, block.stride, block.padding).relu()
        if slot.main is not None:
            batches = slot.main.batches
            kinds = [BLUEPRINTS[plan.groups[batch.group].blueprint] for batch in batches]
            own = [seeds[batch.group] for batch in batches]
            features = library_slot(way, features, slot.main, kinds, own)
    pooled = features.mean(way.position_axis)
    if way.channel_axis == 1:
        return torch.baddbmm(bias.unsqueeze(2), weight, pooled)
    return torch.baddbmm(bias.unsqueeze(1), pooled, weight.mT).mT
