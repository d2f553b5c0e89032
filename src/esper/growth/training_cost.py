"""What training costs: multiply-adds of forward and backward passes, counted from shapes.

Every weight of a host and of a seed multiplies once at each position that its layer leaves, so a
forward pass of one sample costs a layer `weights * positions` multiply-adds. Self-attention spends
`2 * D * L * L` more, for scores and for the values they weigh (D channels of its head, L
positions). Biases, normalising, activations, softmax, the optimizer and measuring on validation
data are not counted, for nobody.

A training step costs

- a layer whose input needs a gradient: three times its forward pass (forward, gradient of the
  weights, gradient of the input); the first block, whose input is data: twice (that of a host
  of symbols three times: embeddings are looked up, which costs nothing, and learnt);
- a seed that is in its host: three times its forward pass, the same when it is TRAINING;
- a TRAINING seed besides: twice the forward pass of every later part of its host, which the shadow
  runs through with detached weights.

Two FLOPs make a multiply-add. `torch.utils.flop_counter` counts the same way; the tests compare.
"""

import math

import numpy as np

from esper.growth.blending import Style
from esper.growth.blueprints import BLUEPRINTS, seed_layout
from esper.growth.host import HostShape
from esper.growth.parameters import ParameterLayout
from esper.growth.seeds import IN_HOST, Seeds
from esper.leyline.heads import Stage


def forward_multiply_adds(layout: ParameterLayout, positions: int) -> int:
    """Return what the weights of a layout multiply for one sample, applied at so many positions."""
    return sum(t.size for t in layout.tensors if t.name.endswith(("weight", "scale"))) * positions


def host_multiply_adds(shape: HostShape) -> list[int]:
    """Return the forward multiply-adds of one sample: of each block, then of the classifier."""
    return [block.multiply_adds for block in shape.blocks] + [shape.features * shape.classes]


def seed_multiply_adds(shape: HostShape) -> np.ndarray:
    """Return the forward multiply-adds of one sample for every kind of seed.

    Returns:
        By slot, blueprint, and whether it is blended by the `gated` style. `[S, blueprints, 2]`
    """
    table = np.zeros((len(shape.blocks), len(BLUEPRINTS), 2), dtype=np.int64)
    for slot, block in enumerate(shape.blocks):
        positions = math.prod(block.positions)
        for number, blueprint in enumerate(BLUEPRINTS):
            gate = shape.channels * positions
            layout = seed_layout(blueprint, shape.channels, shape.axes)
            own = forward_multiply_adds(layout, positions) - gate
            if blueprint.name == "attention":
                own += 2 * max(1, shape.channels // 2) * positions**2
            table[slot, number] = own, own + gate
    return table


def training_multiply_adds(shape: HostShape, seeds: Seeds) -> np.ndarray:
    """Return the multiply-adds with which each host and its seeds train on one sample. `[N]`

    Args:
        shape: of the hosts.
        seeds: as they are during the slice: after its start and before its end.
    """
    parts = host_multiply_adds(shape)
    gated = (seeds.style == Style.GATED).astype(np.int64)
    slots = np.arange(seeds.stage.shape[1])
    kinds = seed_multiply_adds(shape)[slots, seeds.blueprint, gated]  # [N, S]
    in_host = np.where(np.isin(seeds.stage, IN_HOST) & (seeds.alpha > 0), kinds, 0)
    in_shadow = np.where(seeds.stage == Stage.TRAINING, kinds, 0)
    needs_no_gradient = 0 if shape.symbols else parts[0]
    total = 3 * sum(parts) - needs_no_gradient + 3 * (in_host + in_shadow).sum(axis=1)
    for slot in slots.tolist():
        later = sum(parts[slot + 1 :]) + in_host[:, slot + 1 :].sum(axis=1)
        total += np.where(seeds.stage[:, slot] == Stage.TRAINING, 2 * later, 0)
    return total
