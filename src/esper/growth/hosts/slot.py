"""What a slot does to a stream of features: all of its seeds, blended into the rows they sit in."""

from dataclasses import dataclass
from typing import Any

import torch

from esper.growth.hosts.plan import Jobs, Lot
from esper.growth.kernel.blending import Mixing, mix, mix_backward
from esper.growth.kernel.blueprints import Blueprint
from esper.growth.kernel.layers import normalise, normalise_backward
from esper.growth.kernel.seed_layers import Tensors, run_back, run_layers


def blend_seeds(
    stream: torch.Tensor,
    jobs: Jobs,
    blueprints: list[Blueprint],
    seeds: list[torch.Tensor],
    tensors: list[Tensors],
) -> torch.Tensor:
    """Return a stream with the seeds at work blended into the rows they sit in.

    Args:
        stream: features. `[R, C, *P, B]`
        jobs: which seeds work on which rows.
        blueprints: of each of the jobs' batches.
        seeds: the parameters of each batch, `[n, size]`.
        tensors: the same, tensor by tensor.
    """
    blended: torch.Tensor = _Slot.apply(stream, jobs, blueprints, tensors, *seeds)
    return blended


@dataclass(frozen=True)
class _Done:
    """What the backward pass of a lot needs of its forward pass; stretches as in the lot."""

    lot: Lot
    features: torch.Tensor
    normal: torch.Tensor
    scale: torch.Tensor
    change: torch.Tensor
    amount: torch.Tensor
    gate: torch.Tensor | None
    tensors: list[Tensors]  # by piece
    saved: list[Any]  # by piece, of its layers
    bent: list[torch.Tensor | None]  # by run of equal arithmetic


class _Slot(torch.autograd.Function):
    """One node for the whole slot: pieces are written where they belong, never put together.

    A lot goes all the way from features to blended features while it is in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any,
        stream: torch.Tensor,
        jobs: Jobs,
        blueprints: list[Blueprint],
        tensors: list[Tensors],
        *seeds: torch.Tensor,
    ) -> torch.Tensor:
        count = len(jobs.rows)
        features = stream[:count] if jobs.leading else stream.index_select(0, jobs.rows)
        result = torch.empty_like(stream)
        blended = result[:count] if jobs.leading else torch.empty_like(features)
        gates = None
        if jobs.gated:  # the last 2C columns of a seed
            columns = 2 * stream.shape[1]
            gates = torch.cat([rows[:, -columns:] for rows in seeds])
        done = [
            _run_lot(lot, blueprints, tensors, *of_lot)
            for lot, *of_lot in zip(
                jobs.lots,
                features.split(jobs.lot_sizes),
                jobs.coefficients.view(-1, *(1,) * (features.dim() - 1)).split(jobs.lot_sizes),
                _split(gates, jobs.lot_sizes),
                blended.split(jobs.lot_sizes),
                strict=True,
            )
        ]
        if jobs.leading:
            result[count:] = stream[count:]
        else:
            if count < len(stream):
                result.copy_(stream)
            result.index_copy_(0, jobs.rows, blended)
        if any(ctx.needs_input_grad):
            ctx.jobs, ctx.blueprints, ctx.done = jobs, blueprints, done
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        jobs: Jobs = ctx.jobs
        to_stream, _, _, _, *to_seeds = ctx.needs_input_grad
        count = len(jobs.rows)
        of_blended = gradient[:count] if jobs.leading else gradient.index_select(0, jobs.rows)
        of_stream = of_features = None
        if to_stream:
            of_stream = torch.empty_like(gradient)
            of_features = of_stream[:count] if jobs.leading else torch.empty_like(of_blended)
        of_seeds: list[list[torch.Tensor]] = [[] for _ in jobs.batches]
        of_lots = zip(
            ctx.done,
            of_blended.split(jobs.lot_sizes),
            _split(of_features, jobs.lot_sizes),
            strict=True,
        )
        for done, *of_lot in reversed(list(of_lots)):  # the last one is still in the cache
            _lot_backward(done, ctx.blueprints, to_seeds, of_seeds, *of_lot)
        if of_stream is not None and of_features is not None:
            if jobs.leading:
                of_stream[count:] = gradient[count:]
            else:
                if count < len(gradient):
                    of_stream.copy_(gradient)
                of_stream.index_copy_(0, jobs.rows, of_features)
        by_batch = [torch.cat(pieces[::-1]) if pieces else None for pieces in of_seeds]
        return of_stream, None, None, None, *by_batch


def _split(tensor: torch.Tensor | None, sizes: list[int]) -> tuple[torch.Tensor, ...] | list[None]:
    return [None] * len(sizes) if tensor is None else tensor.split(sizes)


def _members(tensors: Tensors, members: slice) -> Tensors:
    """Return the parameters of some members of a batch."""
    if members.stop - members.start == len(tensors[0]):
        return tensors
    return tuple(tensor[members] for tensor in tensors)


def _run_lot(
    lot: Lot,
    blueprints: list[Blueprint],
    tensors: list[Tensors],
    features: torch.Tensor,
    amount: torch.Tensor,
    gate: torch.Tensor | None,
    out: torch.Tensor,
) -> _Done:
    normal, scale = normalise(features)
    change, saved, bent, at_work = torch.empty_like(features), [], [], []
    for (number, members), *of_piece in zip(
        lot.pieces, normal.split(lot.piece_sizes), change.split(lot.piece_sizes), strict=True
    ):
        own = _members(tensors[number], members)
        at_work.append(own)
        read, write = of_piece
        saved.append(run_layers(blueprints[number].layers, read, own[:-2], write)[1])
    for mixing, *of_run in zip(
        lot.mixing,
        *(_split(tensor, lot.mixing_sizes) for tensor in (features, change, normal, amount, gate)),
        out.split(lot.mixing_sizes),
        strict=True,
    ):
        bent.append(mix(mixing, *of_run)[1])
    return _Done(lot, features, normal, scale, change, amount, gate, at_work, saved, bent)


def _lot_backward(
    done: _Done,
    blueprints: list[Blueprint],
    to_seeds: list[bool],
    of_seeds: list[list[torch.Tensor]],
    gradient: torch.Tensor,
    out: torch.Tensor | None,
) -> None:
    """Append the gradients of seeds to those of their batches, write that of the features."""
    lot, normal, gate = done.lot, done.normal, done.gate
    of_change = gradient * done.amount
    of_normal = torch.empty_like(normal)
    of_gates = normal.new_zeros(len(normal), 2 * normal.shape[1])
    past_norm, at_norm = [], []
    for mixing, kept, to_normal, to_features, to_gate, *of_run in zip(
        lot.mixing,
        done.bent,
        of_normal.split(lot.mixing_sizes),
        _split(out, lot.mixing_sizes),
        of_gates.split(lot.mixing_sizes),
        *(
            _split(tensor, lot.mixing_sizes)
            for tensor in (of_change, done.features, done.change, normal, gate)
        ),
        strict=True,
    ):
        if mixing is Mixing.ADD:
            continue
        of_features, through_gate, of_gate = mix_backward(mixing, kept, *of_run)
        if of_features is not None:
            past_norm.append((to_features, of_features))
        if through_gate is not None:
            at_norm.append((to_normal, through_gate))
        if of_gate is not None:
            to_gate.copy_(of_gate)

    for (number, _), own, saved, of_gate, *of_piece in zip(
        lot.pieces,
        done.tensors,
        done.saved,
        of_gates.split(lot.piece_sizes),
        of_change.split(lot.piece_sizes),
        of_normal.split(lot.piece_sizes),
        strict=True,
    ):
        layers, learn = blueprints[number].layers, to_seeds[number]
        read, write = of_piece
        gradients = run_back(layers, read, saved, own[:-2], learn, write)[1]
        if learn:
            rows = [of_tensor.flatten(1) for of_tensor in gradients]
            of_seeds[number].append(torch.cat([*rows, of_gate], dim=1))
    if out is None:
        return
    for target, addition in at_norm:
        target += addition
    normalise_backward(of_normal, normal, done.scale, gradient, out)
    for target, addition in past_norm:
        target += addition
