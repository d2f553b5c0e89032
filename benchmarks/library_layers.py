"""Seeds and hosts from the library's own parts, for `hand_written_autograd.py`.

Three ways to compute R networks at once:

| way     | layout of features | what it uses                                                      |
|---------|--------------------|-------------------------------------------------------------------|
| plain   | `[R, C, L, B]`     | ordinary operations and autograd, in Esper's own layout           |
| grouped | `[B, R*C, L]`      | `conv1d` with one group for each network                          |
| vmap    | `[R, B, C, L]`     | `torch.func.vmap` over `functional_call` of ordinary modules      |
"""

import math
from collections.abc import Sequence

import ordinary_modules as ordinary
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vmap

from esper.growth.blueprints.table import BLUEPRINTS
from esper.growth.hosts.host import HostShape
from esper.growth.hosts.plan import Plan, SlotWork
from esper.growth.kernel.blending import Mixing


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

    def __init__(self, names: Sequence[str], channels: int) -> None:
        self._modules = {
            name: MatmulAttention(channels)
            if name == "attention"
            else ordinary.make_blueprint(name, channels, 1)
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


def vmap_slot(
    change: VmapChange, stream: Tensor, work: SlotWork, plan: Plan, groups: Sequence[Tensor]
) -> Tensor:
    """Return what a slot does to a stream `[R, B, C, L]`, given the parameters of each group."""
    at_work = [plan.groups[batch.group] for batch in work.batches]
    seeds = [groups[batch.group] for batch in work.batches]
    features = stream.index_select(0, work.rows)
    normal = native_norm(features)
    parts = normal.split(work.batch_sizes)
    changes = torch.cat(
        [
            change(BLUEPRINTS[group.blueprint].name, part, group.layout.split(rows)[:-2])
            for group, rows, part in zip(at_work, seeds, parts, strict=True)
        ]
    )
    gates = torch.cat([rows[:, -2 * stream.shape[2] :] for rows in seeds])
    amounts = work.coefficients.view(-1, 1, 1, 1)
    tensors = features, changes, normal, amounts, gates
    runs = zip(work.mixing, *(each.split(work.mixing_sizes) for each in tensors), strict=True)
    return stream.index_copy(0, work.rows, torch.cat([_mix(*run) for run in runs]))


def _mix(
    mixing: Mixing, features: Tensor, change: Tensor, normal: Tensor, amount: Tensor, gate: Tensor
) -> Tensor:
    """Blend as `kernel.blending.mix` does, on `[n, B, C, L]`."""
    if mixing is Mixing.MULTIPLY:
        return torch.addcmul(features, torch.tanh(change) * features, amount)
    if mixing is Mixing.GATE:
        weight, bias = gate.view(len(gate), 1, -1, 1).chunk(2, dim=2)
        opening = torch.sigmoid(torch.addcmul(bias, normal, weight))
        return torch.addcmul(features, opening * change, amount)
    return torch.addcmul(features, change, amount)


def vmap_logits(
    change: VmapChange, plan: Plan, shape: HostShape, inputs: Tensor, hosts: Tensor, *groups: Tensor
) -> Tensor:
    """Return the logits of all networks of a plan for inputs `[R, B, C, L]`. `[R, classes, B]`"""
    *blocks, (weight, bias) = shape.split(hosts)
    features = inputs
    for block, tensors, slot in zip(shape.blocks, blocks, plan.slots, strict=True):
        features = vmap_conv(features, *tensors, block.stride, block.padding).relu()
        if slot.main is not None:
            features = vmap_slot(change, features, slot.main, plan, groups)
    return torch.baddbmm(bias.unsqueeze(1), features.mean(3), weight.mT).mT
