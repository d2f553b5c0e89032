"""What a slot does to a stream of features: all of its seeds, blended into the rows they sit in."""

from dataclasses import dataclass
from typing import Any

import torch

from esper.growth.blending import mix, mix_backward
from esper.growth.blueprints import BLUEPRINTS
from esper.growth.layers import normalise, normalise_backward
from esper.growth.plan import Group, Jobs, Lot
from esper.growth.seed_layers import Tensors, run_back, run_layers


def blend_seeds(
    stream: torch.Tensor, jobs: Jobs, groups: tuple[Group, ...], seeds: list[torch.Tensor]
) -> torch.Tensor:
    """Return a stream with the seeds at work blended into the rows they sit in.

    Args:
        stream: features. `[R, C, *P, B]`
        jobs: which seeds work on which rows.
        groups: of the plan.
        seeds: the parameters of each of the jobs' batches, `[n, size]`.
    """
    blended: torch.Tensor = _Slot.apply(stream, jobs, groups, *seeds)
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
        groups: tuple[Group, ...],
        *seeds: torch.Tensor,
    ) -> torch.Tensor:
        count = len(jobs.rows)
        features = stream[:count] if jobs.leading else stream.index_select(0, jobs.rows)
        result = torch.empty_like(stream)
        blended = result[:count] if jobs.leading else torch.empty_like(features)
        amounts = jobs.coefficients.view(-1, *(1,) * (features.dim() - 1))
        blueprints = [groups[batch.group].blueprint for batch in jobs.batches]
        tensors = [
            groups[batch.group].layout.split(rows)
            for batch, rows in zip(jobs.batches, seeds, strict=True)
        ]
        gates = torch.cat([torch.cat(own[-2:], 1) for own in tensors]) if jobs.gated else None
        done = [
            _run_lot(
                lot,
                features[lot.here],
                amounts[lot.here],
                None if gates is None else gates[lot.here],
                [_members(tensors[number], members) for number, members, _ in lot.pieces],
                blueprints,
                blended[lot.here],
            )
            for lot in jobs.lots
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
        to_stream, _, _, *to_seeds = ctx.needs_input_grad
        count = len(jobs.rows)
        of_blended = gradient[:count] if jobs.leading else gradient.index_select(0, jobs.rows)
        of_stream = of_features = None
        if to_stream:
            of_stream = torch.empty_like(gradient)
            of_features = of_stream[:count] if jobs.leading else torch.empty_like(of_blended)
        of_seeds: list[list[torch.Tensor]] = [[] for _ in jobs.batches]
        while ctx.done:  # the last one first, which is still in the cache, and makes room
            done = ctx.done.pop()
            _lot_backward(
                done,
                of_blended[done.lot.here],
                ctx.blueprints,
                to_seeds,
                of_seeds,
                None if of_features is None else of_features[done.lot.here],
            )
        if of_stream is not None and of_features is not None:
            if jobs.leading:
                of_stream[count:] = gradient[count:]
            else:
                if count < len(gradient):
                    of_stream.copy_(gradient)
                of_stream.index_copy_(0, jobs.rows, of_features)
        by_batch = [
            (pieces[0] if len(pieces) == 1 else torch.cat(pieces[::-1])) if pieces else None
            for pieces in of_seeds
        ]
        return of_stream, None, None, *by_batch


def _members(tensors: Tensors, members: slice) -> Tensors:
    """Return the parameters of some members of a batch."""
    if members.stop - members.start == len(tensors[0]):
        return tensors
    return tuple(tensor[members] for tensor in tensors)


def _run_lot(
    lot: Lot,
    features: torch.Tensor,
    amount: torch.Tensor,
    gate: torch.Tensor | None,
    tensors: list[Tensors],
    blueprints: list[int],
    out: torch.Tensor,
) -> _Done:
    normal, scale = normalise(features)
    change, saved, bent = torch.empty_like(features), [], []
    for (number, _, here), own in zip(lot.pieces, tensors, strict=True):
        layers = BLUEPRINTS[blueprints[number]].layers
        saved.append(run_layers(layers, normal[here], own[:-2], change[here])[1])
    for mixing, here in lot.mixing:
        _, kept = mix(
            mixing,
            features[here],
            change[here],
            normal[here],
            amount[here],
            None if gate is None else gate[here],
            out=out[here],
        )
        bent.append(kept)
    return _Done(lot, features, normal, scale, change, amount, gate, tensors, saved, bent)


def _lot_backward(
    done: _Done,
    gradient: torch.Tensor,
    blueprints: list[int],
    to_seeds: list[bool],
    of_seeds: list[list[torch.Tensor]],
    out: torch.Tensor | None,
) -> None:
    """Append the gradients of seeds to those of their batches, write that of the features."""
    normal, gate = done.normal, done.gate
    of_change = gradient * done.amount
    of_gates = None if gate is None else torch.zeros_like(gate)
    past_norm, at_norm = [], []
    for (mixing, here), kept in zip(done.lot.mixing, done.bent, strict=True):
        of_features, of_normal, of_gate = mix_backward(
            mixing,
            of_change[here],
            kept,
            done.features[here],
            done.change[here],
            normal[here],
            None if gate is None else gate[here],
        )
        if of_features is not None:
            past_norm.append((here, of_features))
        if of_normal is not None:
            at_norm.append((here, of_normal))
        if of_gates is not None and of_gate is not None:
            of_gates[here] = of_gate

    of_normal = torch.empty_like(normal)
    for (number, _, here), own, saved in zip(
        done.lot.pieces, done.tensors, done.saved, strict=True
    ):
        layers = BLUEPRINTS[blueprints[number]].layers
        learn = to_seeds[number]
        _, gradients = run_back(layers, of_change[here], saved, own[:-2], learn, of_normal[here])
        if learn:
            rows = [of_tensor.flatten(1) for of_tensor in gradients]
            if of_gates is None:
                rows.append(normal.new_zeros(len(own[-1]), 2 * normal.shape[1]))
            else:
                rows.append(of_gates[here])
            of_seeds[number].append(torch.cat(rows, dim=1))
    if out is None:
        return
    for here, addition in at_norm:
        of_normal[here] += addition
    normalise_backward(of_normal, normal, done.scale, gradient, out)
    for here, addition in past_norm:
        out[here] += addition
