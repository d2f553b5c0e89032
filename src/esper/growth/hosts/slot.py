"""What a slot does to a stream of features: it blends all of its seeds into their rows."""

import torch

from esper.growth.blueprints.table import Blueprint
from esper.growth.hosts.plan import SlotWork
from esper.growth.kernel.blending import mix
from esper.growth.kernel.layers import layer_norm
from esper.growth.kernel.parameters import ParameterLayout


def blend_seeds(
    stream: torch.Tensor,
    work: SlotWork,
    blueprints: list[Blueprint],
    layouts: list[ParameterLayout],
    seeds: list[torch.Tensor],
) -> torch.Tensor:
    """Return a stream with seeds blended into the rows of their hosts.

    Args:
        stream: features. `[R, C, *P, B]`
        work: the seeds and the rows they read and write.
        blueprints, layouts: those of each batch of seeds.
        seeds: the parameters of each batch, `[n, size]`.
    """
    count, channels = len(work.rows), stream.shape[1]
    features = stream[:count] if work.leading else stream.index_select(0, work.rows)
    normal = layer_norm(features)
    changes = []
    for blueprint, layout, rows, part in zip(
        blueprints, layouts, seeds, normal.split(work.batch_sizes), strict=True
    ):
        *tensors, _, _ = layout.split(rows)
        changes.append(blueprint.change(part, tuple(tensors)))
    change = torch.cat(changes)
    # the gate is the last 2C numbers of a seed
    gates = torch.cat([rows[:, -2 * channels :] for rows in seeds]) if work.gated else None
    amounts = work.coefficients.view(-1, *(1,) * (stream.dim() - 1))
    sizes = work.mixing_sizes
    runs = zip(
        work.mixing,
        features.split(sizes),
        change.split(sizes),
        normal.split(sizes),
        amounts.split(sizes),
        [None] * len(sizes) if gates is None else gates.split(sizes),
        strict=True,
    )
    blended = torch.cat([mix(*run) for run in runs])
    if not work.leading:
        return stream.index_copy(0, work.rows, blended)
    return blended if count == len(stream) else torch.cat([blended, stream[count:]])
