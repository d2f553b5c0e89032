"""The forward pass of N hosts, their seeds, and the shadows in which seeds learn."""

import torch

from esper.growth.blending import mix
from esper.growth.blueprints import BLUEPRINTS
from esper.growth.host import HostShape, classify, run_first_block
from esper.growth.layers import layer_norm
from esper.growth.plan import Jobs, Plan


def run(plan: Plan, shape: HostShape, flat: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Run every main row and every shadow row of a plan.

    A shadow reads its host's features, and the weights of its host and of the seeds it passes, all
    detached: it can neither change the main rows nor send them any gradient. The main rows are
    computed by calls of their own, the same with and without shadows, so this holds bit for bit.

    Args:
        plan: the layout.
        shape: of the hosts.
        flat: all parameters, in the plan's order. `[D]`
        columns: from `input_columns`, for each host, or one axis less for all.

    Returns:
        Logits of the main rows, then of the shadow rows. `[N + k, classes, B]`
    """
    hosts, *groups = (
        piece.view(rows, -1) for piece, rows in zip(flat.split(plan.sizes), plan.rows, strict=True)
    )
    *tensors, classifier = shape.split(hosts)
    main, shadow = run_first_block(columns, tensors[0], shape), None
    for number, (block, slot) in enumerate(zip(shape.blocks, plan.slots, strict=True)):
        if number > 0:
            main = block.run(main, tensors[number])
            if shadow is not None:
                shadow = block.run(shadow, _copies(tensors[number], slot.shadow_rows))
        if slot.passing is not None and shadow is not None:
            shadow = _through(shadow, slot.passing, plan, groups)
        if slot.forking is not None:
            source = main.detach().index_select(0, slot.forking.rows)
            forked = torch.cat(_blended(source, slot.forking, plan, groups))
            shadow = forked if shadow is None else torch.cat([shadow, forked])
        if slot.main is not None:
            main = _through(main, slot.main, plan, groups)
    logits = classify(main, classifier, shape)
    if shadow is None:
        return logits
    copies = _copies(classifier, plan.shadow_rows)
    return torch.cat([logits, classify(shadow, copies, shape)])


def _copies(tensors: tuple[torch.Tensor, ...], rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.detach().index_select(0, rows) for tensor in tensors)


def _through(
    features: torch.Tensor, jobs: Jobs, plan: Plan, groups: list[torch.Tensor]
) -> torch.Tensor:
    """Return the stream `[R, C, *P, B]` with the seeds blended into the rows they sit in."""
    count = len(jobs.rows)
    if jobs.leading and count == len(features):
        return torch.cat(_blended(features, jobs, plan, groups))
    if jobs.leading:
        inside, outside = features.split([count, len(features) - count])
        return torch.cat([*_blended(inside, jobs, plan, groups), outside])
    inside = features.index_select(0, jobs.rows)
    return features.index_copy(0, jobs.rows, torch.cat(_blended(inside, jobs, plan, groups)))


def _blended(
    features: torch.Tensor, jobs: Jobs, plan: Plan, groups: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Return what the seeds make of their features `[n, C, *P, B]`, in pieces along n."""
    sizes = [batch.size for batch in jobs.batches]
    normal = layer_norm(features)
    blended = []
    for batch, part, normal_part, amount in zip(
        jobs.batches,
        _split(features, sizes),
        _split(normal, sizes),
        _split(jobs.coefficients, sizes),
        strict=True,
    ):
        group, rows = plan.groups[batch.group], groups[batch.group]
        if batch.members is not None:  # a shadow passes: it learns nothing here
            rows = rows.detach().index_select(0, batch.members)
        *tensors, gate_weight, gate_bias = group.layout.split(rows)
        change = BLUEPRINTS[group.blueprint].forward(normal_part, tuple(tensors))
        lengths = [length for _, length in batch.mixing]
        blended += [
            mix(mixing, *pieces)
            for (mixing, _), *pieces in zip(
                batch.mixing,
                *(
                    _split(tensor, lengths)
                    for tensor in (part, change, normal_part, amount, gate_weight, gate_bias)
                ),
                strict=True,
            )
        ]
    return blended


def _split(tensor: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, ...]:
    # The backward of a split copies all pieces together, even where there is but one.
    return (tensor,) if len(sizes) == 1 else tensor.split(sizes)
