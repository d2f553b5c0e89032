"""Cost of training: multiply-adds of forward and backward passes, counted from shapes.

Every weight of a host or a seed multiplies once at each output position of its layer, so a forward
pass of one sample costs a layer `weights * positions` multiply-adds. Self-attention spends
`2 * D * L * L` more, for scores and for the values they weigh (D channels of its head, L
positions). Embedding lookup, biases, normalisation, activations, softmax, the optimizer and
validation are never counted.

A training step costs

- a layer whose input needs a gradient: three times its forward pass (forward, gradient of the
  weights, gradient of the input); a convolution or linear map whose input is data: twice;
- a seed that is in its host: three times its forward pass; the same when it is TRAINING, which is
  an upper bound, because the gradient of its input is not needed then;
- a TRAINING seed additionally: twice the forward pass of every later part of its host, through
  which the shadow passes with detached weights.

Two FLOPs make a multiply-add. `torch.utils.flop_counter` counts the same way; the tests compare.
"""

import math
from dataclasses import replace

import numpy as np

from esper.growth.blueprints.seed_layers import attention_multiply_adds, weights_in
from esper.growth.blueprints.table import BLUEPRINTS
from esper.growth.hosts.host import BlockShape, HostShape
from esper.growth.hosts.seeds import IN_HOST, Seeds
from esper.growth.kernel.blending import Style
from esper.growth.kernel.transformer import TransformerBlock
from esper.leyline.heads import Stage


def block_multiply_adds(block: BlockShape | TransformerBlock) -> int:
    """Return the forward multiply-adds of one sample in one block of a host."""
    positions = math.prod(block.positions)
    if isinstance(block, TransformerBlock):
        layers = replace(block, symbols=0).tensors("block")  # without the embeddings
        return weights_in(layers) * positions + attention_multiply_adds(block.outputs, positions)
    return weights_in(block.tensors("block")) * positions


def first_input_is_data(block: BlockShape | TransformerBlock) -> bool:
    """Return whether the gradient of the first block's input is not needed."""
    return not isinstance(block, TransformerBlock)  # whose first layer learns its embeddings


def host_multiply_adds(shape: HostShape) -> list[int]:
    """Return the forward multiply-adds of one sample: of each block, then of the classifier."""
    return [*(block_multiply_adds(block) for block in shape.blocks), weights_in(shape.parts[-1])]


def seed_multiply_adds(shape: HostShape) -> np.ndarray:
    """Return the forward multiply-adds of one sample for every kind of seed.

    Returns:
        By slot, blueprint, and whether it is blended by the `gated` style. `[S, blueprints, 2]`
    """
    table = np.zeros((len(shape.blocks), len(BLUEPRINTS), 2), dtype=np.int64)
    for slot, block in enumerate(shape.blocks):
        positions = math.prod(block.positions)
        for number, blueprint in enumerate(BLUEPRINTS):
            own = blueprint.multiply_adds(shape.channels, shape.axes, positions)
            table[slot, number] = own, own + shape.channels * positions
    return table


def training_multiply_adds(shape: HostShape, seeds: Seeds) -> np.ndarray:
    """Return the multiply-adds with which each host and its seeds train on one sample. `[N]`

    Args:
        shape: of the hosts.
        seeds: their state during the slice.
    """
    parts = host_multiply_adds(shape)
    gated = (seeds.style == Style.GATED).astype(np.int64)
    slots = np.arange(seeds.stage.shape[1])
    kinds = seed_multiply_adds(shape)[slots, seeds.blueprint, gated]  # [N, S]
    in_host = np.where(np.isin(seeds.stage, IN_HOST) & (seeds.alpha > 0), kinds, 0)
    in_shadow = np.where(seeds.stage == Stage.TRAINING, kinds, 0)
    unneeded = parts[0] if first_input_is_data(shape.blocks[0]) else 0
    total = 3 * sum(parts) - unneeded + 3 * (in_host + in_shadow).sum(axis=1)
    for slot in slots.tolist():
        later = sum(parts[slot + 1 :]) + in_host[:, slot + 1 :].sum(axis=1)
        total += np.where(seeds.stage[:, slot] == Stage.TRAINING, 2 * later, 0)
    return total
