"""What a slot does to a stream of features: all of its seeds, blended into the rows they sit in."""

from collections.abc import Iterator
from typing import Any

import torch

from esper.growth.blending import Mixing, mix, mix_backward
from esper.growth.blueprints import BLUEPRINTS
from esper.growth.layers import normalise, normalise_backward
from esper.growth.plan import Batch, Group, Jobs
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


class _Slot(torch.autograd.Function):
    """One node for the whole slot: pieces are written where they belong, never put together."""

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
        normal, scale = normalise(features)
        changes, kept = torch.empty_like(features), []
        parameters = [
            groups[batch.group].layout.split(rows)
            for batch, rows in zip(jobs.batches, seeds, strict=True)
        ]
        for batch, here, tensors in _batches(jobs, parameters):
            layers = BLUEPRINTS[groups[batch.group].blueprint].layers
            _, saved = run_layers(layers, normal[here], tensors[:-2], changes[here])
            kept.append(saved)

        result = torch.empty_like(stream)
        blended = result[:count] if jobs.leading else torch.empty_like(features)
        amount = jobs.coefficients.view(-1, *(1,) * (features.dim() - 1))
        gates = None
        if any(mixing is Mixing.GATE for mixing, _ in jobs.mixing):
            gates = torch.cat([torch.cat(tensors[-2:], dim=1) for tensors in parameters])
        bent = []
        for mixing, here in jobs.mixing:
            _, saved = mix(
                mixing,
                features[here],
                changes[here],
                normal[here],
                amount[here],
                None if gates is None else gates[here],
                out=blended[here],
            )
            bent.append(saved)
        if jobs.leading:
            result[count:] = stream[count:]
        else:
            if count < len(stream):
                result.copy_(stream)
            result.index_copy_(0, jobs.rows, blended)
        if any(ctx.needs_input_grad):
            ctx.jobs, ctx.groups = jobs, groups
            ctx.kept = (features, normal, scale, changes, kept, amount, gates, bent, parameters)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        jobs, groups = ctx.jobs, ctx.groups
        features, normal, scale, changes, kept, amount, gates, bent, parameters = ctx.kept
        to_stream, _, _, *to_seeds = ctx.needs_input_grad
        count = len(jobs.rows)
        of_blended = gradient[:count] if jobs.leading else gradient.index_select(0, jobs.rows)

        of_changes = of_blended * amount
        of_gates = None if gates is None else torch.zeros_like(gates)
        past_norm, at_norm = [], []
        for (mixing, here), saved in zip(jobs.mixing, bent, strict=True):
            of_features, of_normal, of_gate = mix_backward(
                mixing,
                of_changes[here],
                saved,
                features[here],
                changes[here],
                normal[here],
                None if gates is None else gates[here],
            )
            if of_features is not None:
                past_norm.append((here, of_features))
            if of_normal is not None:
                at_norm.append((here, of_normal))
            if of_gates is not None and of_gate is not None:
                of_gates[here] = of_gate

        of_normal = torch.empty_like(normal)
        of_seeds: list[torch.Tensor | None] = []
        for (batch, here, tensors), saved, learn in zip(
            _batches(jobs, parameters), kept, to_seeds, strict=True
        ):
            layers = BLUEPRINTS[groups[batch.group].blueprint].layers
            _, gradients = run_back(
                layers, of_changes[here], saved, tensors[:-2], learn, of_normal[here]
            )
            if not learn:
                of_seeds.append(None)
                continue
            pieces = [piece.flatten(1) for piece in gradients]
            gate = normal.new_zeros(batch.size, 2 * normal.shape[1])
            pieces.append(gate if of_gates is None else of_gates[here])
            of_seeds.append(torch.cat(pieces, dim=1))
        if not to_stream:
            return None, None, None, *of_seeds

        for here, addition in at_norm:
            of_normal[here] += addition
        of_features = normalise_backward(of_normal, normal, scale, of_blended)
        for here, addition in past_norm:
            of_features[here] += addition
        if jobs.leading and count == len(gradient):
            return of_features, None, None, *of_seeds
        of_stream = gradient.clone()
        if jobs.leading:
            of_stream[:count] = of_features
        else:
            of_stream.index_copy_(0, jobs.rows, of_features)
        return of_stream, None, None, *of_seeds


def _batches(jobs: Jobs, parameters: list[Tensors]) -> Iterator[tuple[Batch, slice, Tensors]]:
    """Yield each batch with its stretch of the jobs' rows and its parameters."""
    first = 0
    for batch, tensors in zip(jobs.batches, parameters, strict=True):
        yield batch, slice(first, first + batch.size), tensors
        first += batch.size
