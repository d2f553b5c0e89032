"""Fixed networks to compare growth with: convolutions stacked, N of one shape trained in lockstep.

They are what somebody would write who does not grow: blocks of convolution, normalisation or none,
and ReLU, then a linear classifier over all features or over their mean of each channel. Data,
minibatches, first values and optimizer are those of hosts that are born of the same seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from esper.growth.adam import adam_step_, step_coefficients
from esper.growth.env import GrowthVectorEnv
from esper.growth.from_scratch import Trained
from esper.growth.host import BLOCKS, BlockShape
from esper.growth.layers import affine_map, layer_norm, window_positions, windows
from esper.growth.lockstep import EVALUATION_CHUNK, gather_minibatches, row_hits, row_losses
from esper.growth.minibatches import draw, new_order, restart
from esper.growth.parameters import ParameterLayout, TensorSpec, affine
from esper.growth.randomness import Stream, episode_seed, generator
from esper.growth.task import Split

#: Blocks of a network beyond as many as a host has: kernel, stride, padding.
_FURTHER_BLOCK = (3, 1, 1)


@dataclass(frozen=True)
class StaticShape:
    """The architecture of a fixed network.

    Attributes:
        input_shape: of one input: `(F,)`, `(C, L)` or `(C, H, W)`.
        classes: how many classes the classifier tells apart.
        channels: channels of every block.
        depth: blocks; the first are strided as a host's are, further ones keep the positions.
        normalised: whether each convolution is followed by a layer norm over channels and
            positions, with a scale and a shift for each channel.
        pooled: whether the classifier sees the mean of each channel, or every feature.
    """

    input_shape: tuple[int, ...]
    classes: int
    channels: int
    depth: int
    normalised: bool
    pooled: bool

    @property
    def name(self) -> str:
        """The architecture in words."""
        norm = "normalised" if self.normalised else "plain"
        head = "mean-pooled" if self.pooled else "flat"
        return f"{self.depth} x {self.channels} channels, {norm}, {head}"

    @cached_property
    def blocks(self) -> tuple[BlockShape, ...]:
        """The blocks, first to last."""
        inputs, *rest = self.input_shape
        positions, blocks = tuple(rest), []
        known = BLOCKS[len(positions)]
        for number in range(self.depth):
            kernel, stride, padding = known[number] if number < len(known) else _FURTHER_BLOCK
            positions = window_positions(positions, kernel, stride, padding)
            blocks.append(BlockShape(inputs, self.channels, kernel, stride, padding, positions))
            inputs = self.channels
        return tuple(blocks)

    @cached_property
    def layout(self) -> ParameterLayout:
        """The parameters: of each block weight, bias, and scale and shift; of the classifier."""
        tensors: list[TensorSpec] = []
        for number, block in enumerate(self.blocks):
            kernel = (block.kernel,) * len(block.positions)
            tensors += affine(f"block{number}", (block.outputs, block.inputs, *kernel))
            if self.normalised:
                # kept as its distance from 1, so that all biases and scales begin at zero
                tensors += (
                    TensorSpec(f"norm{number}.scale", (block.outputs,)),
                    TensorSpec(f"norm{number}.shift", (block.outputs,)),
                )
        places = 1 if self.pooled else math.prod(self.blocks[-1].positions)
        tensors += affine("classifier", (self.classes, self.channels * places))
        return ParameterLayout(tuple(tensors))

    def resized(self, parameters: int) -> "StaticShape":
        """Return this kind of network at the width that comes nearest to so many parameters."""
        narrow = replace(self, channels=1)
        while (wide := replace(narrow, channels=narrow.channels + 1)).layout.size <= parameters:
            narrow = wide
        return min((narrow, wide), key=lambda each: abs(each.layout.size - parameters))

    @property
    def training_multiply_adds(self) -> int:
        """Multiply-adds with which one sample is trained on, as for hosts."""
        places = [math.prod(block.positions) for block in self.blocks]
        places_by_layer = {f"block{n}": p for n, p in enumerate(places)}
        places_by_layer |= {f"norm{n}": p for n, p in enumerate(places)}
        total = 0
        for tensor in self.layout.tensors:
            layer, kind = tensor.name.split(".")
            if kind in ("weight", "scale"):
                passes = 2 if tensor.name == "block0.weight" else 3
                total += passes * tensor.size * places_by_layer.get(layer, 1)
        return total


def static_shapes(
    input_shape: tuple[int, ...],
    classes: int,
    parameters: int,
    depths: Sequence[int] = (2, 3, 4, 5),
) -> list[StaticShape]:
    """Return every kind of fixed network at the width that comes nearest to so many parameters."""
    kinds = [
        StaticShape(input_shape, classes, 1, depth, normalised, pooled)
        for depth in depths
        for normalised in (False, True)
        for pooled in ((False, True) if len(input_shape) > 1 else (False,))
    ]
    return [kind.resized(parameters) for kind in kinds]


def run_static(shape: StaticShape, flat: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the logits of N networks. `[N, classes, B]`

    Args:
        shape: of all of them.
        flat: their parameters. `[N, size]`
        columns: of the inputs, from `static_columns`: `[N, C*K, P*B]`, or shared `[C*K, P*B]`.
    """
    tensors = iter(shape.layout.split(flat))
    features = torch.empty(0)
    for number, block in enumerate(shape.blocks):
        if number > 0:
            columns = windows(features, block.kernel, block.stride, block.padding)
        mapped = affine_map(columns, next(tensors), next(tensors))
        features = mapped.view(len(flat), block.outputs, *block.positions, -1)
        if shape.normalised:
            scale, shift = (_by_channel(next(tensors), features) for _ in range(2))
            features = torch.addcmul(shift, layer_norm(features), 1.0 + scale)
        features = features.relu()
    if shape.pooled:
        features = features.flatten(2, -2).mean(2)
    return affine_map(features.flatten(1, -2), next(tensors), next(tensors))


def _by_channel(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return values.view(*values.shape, *(1,) * (features.dim() - 2))


def static_columns(inputs: torch.Tensor, shape: StaticShape) -> torch.Tensor:
    """Return what the first block multiplies, of inputs `[R, C, *P, B]`. `[R, C*K, P'*B]`"""
    block = shape.blocks[0]
    return windows(inputs, block.kernel, block.stride, block.padding)


def train_static(env: GrowthVectorEnv, shape: StaticShape, seeds: Sequence[int]) -> Trained:
    """Train a fixed network for each seed on as many samples as an episode has.

    Args:
        env: whose task and training settings they share; its own hosts are left alone.
        shape: of the networks.
        seeds: of each network; the order of the data is that of an episode of the environment that
            was reset with the same seed.
    """
    train, validation, test = env.parts
    born = np.array([episode_seed(int(seed), 0) for seed in seeds])
    order = new_order(len(born), len(train), env.batch, env.batches)
    restart(order, np.arange(len(born)), born)
    drawn = np.stack([shape.layout.draw(generator(int(seed), Stream.HOST)) for seed in born])
    state = torch.zeros(3, drawn.size, device=env.device, dtype=env.task.dtype)
    state[0] = torch.from_numpy(drawn.reshape(-1)).to(state)
    for step in range(env.steps):
        _train_slice(env, shape, state, draw(order, env.batch * env.batches), step)
    flat = state[0].view(len(born), -1)
    samples = env.steps * env.batch * env.batches
    return Trained(
        validation_accuracy=_accuracy(shape, flat, validation),
        test_accuracy=_accuracy(shape, flat, test),
        parameters=np.full(len(born), shape.layout.size),
        multiply_adds=np.full(len(born), shape.training_multiply_adds * samples),
    )


def _train_slice(
    env: GrowthVectorEnv, shape: StaticShape, state: torch.Tensor, drawn: np.ndarray, step: int
) -> None:
    """Train on the samples `drawn` `[N, batches * batch]`; `state` `[3, N * size]` is changed."""
    index = torch.from_numpy(drawn).to(env.device)
    inputs, labels = gather_minibatches(env.parts[0], index, env.batches)
    clock = np.array([step * env.batches])
    lengths, epsilons = (
        torch.from_numpy(table).to(state)  # [batches, 1]
        for table in step_coefficients(env.optimizer, clock, env.batches)
    )
    flat = state[0].detach().requires_grad_()
    for number in range(env.batches):
        columns = static_columns(env.parts[0].ready(inputs[number]), shape)
        logits = run_static(shape, flat.view(len(drawn), -1), columns)
        loss = row_losses(logits, labels[number]).sum()
        (gradient,) = torch.autograd.grad(loss, flat)
        adam_step_(state, gradient, lengths[number], epsilons[number], env.optimizer)


@torch.no_grad()
def _accuracy(shape: StaticShape, flat: torch.Tensor, part: Split) -> np.ndarray:
    """Return the fraction that each network gets right. `[N]`"""
    right = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    for start in range(0, len(part), EVALUATION_CHUNK):
        inputs = part.ready(part.inputs[start : start + EVALUATION_CHUNK])
        inputs = inputs.movedim(0, -1).unsqueeze(0)
        labels = part.labels[start : start + EVALUATION_CHUNK].expand(len(flat), -1)
        right += row_hits(run_static(shape, flat, static_columns(inputs, shape)[0]), labels)
    accuracy: np.ndarray = right.cpu().numpy() / len(part)
    return accuracy
