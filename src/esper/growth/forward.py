"""The forward pass of N hosts, their seeds, and the shadows in which seeds learn."""

import torch

from esper.growth.host import HostShape, classify, run_first_block
from esper.growth.plan import Jobs, Plan
from esper.growth.slot import blend_seeds


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

    def through(stream: torch.Tensor, jobs: Jobs) -> torch.Tensor:
        return blend_seeds(stream, jobs, plan.groups, _seeds(jobs, groups))

    for number, (block, slot) in enumerate(zip(shape.blocks, plan.slots, strict=True)):
        if number > 0:
            main = block.run(main, tensors[number])
            if shadow is not None:
                shadow = block.run(shadow, _copies(tensors[number], slot.shadow_rows))
        if slot.passing is not None and shadow is not None:
            shadow = through(shadow, slot.passing)
        if slot.forking is not None:
            forked = through(main.detach().index_select(0, slot.forked), slot.forking)
            shadow = forked if shadow is None else torch.cat([shadow, forked])
        if slot.main is not None:
            main = through(main, slot.main)
    logits = classify(main, classifier, shape)
    if shadow is None:
        return logits
    copies = _copies(classifier, plan.shadow_rows)
    return torch.cat([logits, classify(shadow, copies, shape)])


def _copies(tensors: tuple[torch.Tensor, ...], rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.detach().index_select(0, rows) for tensor in tensors)


def _seeds(jobs: Jobs, groups: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the parameters of each batch at work. `[n, size]`"""
    return [
        groups[batch.group]
        if batch.members is None
        # a shadow passes: it learns nothing here
        else groups[batch.group].detach().index_select(0, batch.members)
        for batch in jobs.batches
    ]
