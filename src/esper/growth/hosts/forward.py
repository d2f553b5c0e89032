"""The forward pass of N hosts, their seeds, and the shadows in which seeds learn."""

from dataclasses import dataclass

import torch

from esper.growth.hosts.host import HostShape, classify, run_first_block
from esper.growth.hosts.plan import Jobs, Plan
from esper.growth.hosts.slot import blend_seeds
from esper.growth.kernel.blueprints import BLUEPRINTS, Blueprint
from esper.growth.kernel.seed_layers import Tensors


@dataclass(frozen=True)
class Weights:
    """All parameters of a plan, cut into what runs together.

    Attributes:
        hosts: of the hosts. `[N, host]`
        groups: of the seeds of each group. `[n, seed]`
        tensors: the same, tensor by tensor, without a record for gradients.
    """

    hosts: torch.Tensor
    groups: list[torch.Tensor]
    tensors: list[Tensors]


def cut(plan: Plan, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return views of all parameters `[D]`: the hosts' and each group's, a row for each."""
    return tuple(
        piece.view(rows, -1) for piece, rows in zip(flat.split(plan.sizes), plan.rows, strict=True)
    )


def weights(plan: Plan, pieces: tuple[torch.Tensor, ...]) -> Weights:
    """Return the weights of what `cut` returned."""
    hosts, *groups = pieces
    tensors = [
        group.layout.split(rows.detach()) for group, rows in zip(plan.groups, groups, strict=True)
    ]
    return Weights(hosts, groups, tensors)


def run(plan: Plan, shape: HostShape, weights: Weights, columns: torch.Tensor) -> torch.Tensor:
    """Run every main row and every shadow row of a plan.

    A shadow reads its host's features, and the weights of its host and of the seeds it passes, all
    detached: it can neither change the main rows nor send them any gradient. The main rows are
    computed by calls of their own, the same with and without shadows, so this holds bit for bit.

    Args:
        plan: the layout.
        shape: of the hosts.
        weights: of the plan.
        columns: from `input_columns`, for each host, or one axis less for all.

    Returns:
        Logits of the main rows, then of the shadow rows. `[N + k, classes, B]`
    """
    *tensors, classifier = shape.split(weights.hosts)
    main, shadow = run_first_block(columns, tensors[0], shape), None

    def through(stream: torch.Tensor, jobs: Jobs) -> torch.Tensor:
        return blend_seeds(stream, jobs, *_at_work(jobs, plan, weights))

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


def _at_work(
    jobs: Jobs, plan: Plan, weights: Weights
) -> tuple[list[Blueprint], list[torch.Tensor], list[Tensors]]:
    """Return blueprint and parameters of each batch at work: as rows, and tensor by tensor."""
    blueprints, rows, tensors = [], [], []
    for batch in jobs.batches:
        group = plan.groups[batch.group]
        blueprints.append(BLUEPRINTS[group.blueprint])
        if batch.members is None:
            rows.append(weights.groups[batch.group])
            tensors.append(weights.tensors[batch.group])
        else:  # a shadow passes: it learns nothing here
            rows.append(weights.groups[batch.group].detach().index_select(0, batch.members))
            tensors.append(group.layout.split(rows[-1]))
    return blueprints, rows, tensors
