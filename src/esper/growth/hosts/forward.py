"""The forward pass of N hosts, their seeds, and the shadows in which seeds learn."""

import torch

from esper.growth.blueprints.table import BLUEPRINTS
from esper.growth.hosts.host import HostShape, classify, run_first_block
from esper.growth.hosts.plan import Plan, SlotWork
from esper.growth.hosts.slot import blend_seeds


def cut(plan: Plan, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return views of all parameters `[D]`: those of the hosts, then those of each group of seeds.

    Each view has one row for each host or seed.
    """
    return tuple(
        piece.view(rows, -1) for piece, rows in zip(flat.split(plan.sizes), plan.rows, strict=True)
    )


def run(
    plan: Plan, shape: HostShape, pieces: tuple[torch.Tensor, ...], columns: torch.Tensor
) -> torch.Tensor:
    """Run every main row and every shadow row of a plan.

    A shadow reads its host's features, and the weights of its host and of the seeds on its way, all
    detached: it can neither change the main rows nor send them any gradient. The main rows are
    computed by separate calls, the same with and without shadows, so their results are identical
    bit for bit.

    Args:
        plan: the layout.
        shape: architecture of the hosts.
        pieces: the parameters, from `cut`.
        columns: from `input_columns`, for each host, or one axis less for all.

    Returns:
        Logits of the main rows, then of the shadow rows. `[N + k, classes, B]`
    """
    hosts, *groups = pieces
    *tensors, classifier = shape.split(hosts)
    main, shadow = run_first_block(columns, tensors[0], shape), None

    def through(stream: torch.Tensor, work: SlotWork) -> torch.Tensor:
        return _run_slot(stream, work, plan, groups)

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


def _run_slot(
    stream: torch.Tensor, work: SlotWork, plan: Plan, groups: list[torch.Tensor]
) -> torch.Tensor:
    """Blend the seeds at work in a slot into a stream, given the parameters of each group."""
    at_work = [plan.groups[batch.group] for batch in work.batches]
    seeds = [
        groups[batch.group]
        if batch.members is None
        else groups[batch.group].detach().index_select(0, batch.members)  # a shadow passes
        for batch in work.batches
    ]
    blueprints = [BLUEPRINTS[group.blueprint] for group in at_work]
    return blend_seeds(stream, work, blueprints, [group.layout for group in at_work], seeds)
