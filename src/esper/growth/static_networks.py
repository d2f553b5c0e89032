"""Baseline: fixed networks of stacked blocks, N of one shape trained in lockstep.

A block is a convolution (a linear map if inputs have no positions), optional normalisation, and
ReLU; a linear classifier over all features or over the mean of each channel follows. For symbols,
the network is a transformer. Data, minibatches, initial values and optimizer are those of hosts
with the same random seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.from_scratch import Trained
from esper.growth.hosts.host import BlockShape, HostShape, stacked_blocks
from esper.growth.hosts.lockstep import gather_minibatches, input_chunks, row_hits, row_losses
from esper.growth.hosts.minibatches import draw, new_order, restart
from esper.growth.hosts.randomness import Stream, episode_rng_seed, generator
from esper.growth.hosts.training_cost import block_multiply_adds, first_input_is_data
from esper.growth.kernel.adam import AdamSettings, adam_step_, step_coefficients
from esper.growth.kernel.layers import affine_map, layer_norm, windows
from esper.growth.kernel.parameters import ParameterLayout, TensorSpec, affine
from esper.growth.kernel.transformer import TransformerBlock, last_position
from esper.growth.tasks.task import Split

#: Numbers of blocks.
DEPTHS = (2, 3, 4, 5)


@dataclass(frozen=True)
class StaticShape:
    """The architecture of a fixed network.

    Attributes:
        input_shape: shape of one input, as of a host.
        classes: number of classes.
        channels: channels of every block.
        depth: number of blocks; the first have the strides of a host, others keep the positions.
        normalised: whether each convolution is followed by a layer norm over channels and
            positions, with a scale and a shift for each channel.
        pooled: whether the classifier sees the mean of each channel, or every feature.
        symbols: size of the vocabulary of symbol inputs, for a transformer; 0 for measurements.
    """

    input_shape: tuple[int, ...]
    classes: int
    channels: int
    depth: int
    normalised: bool = False
    pooled: bool = False
    symbols: int = 0

    @property
    def name(self) -> str:
        """The architecture in words."""
        stack = f"{self.depth} x {self.channels} channels"
        if self.symbols:
            return f"{stack}, transformer"
        norm = "normalised" if self.normalised else "plain"
        return f"{stack}, {norm}, {'mean-pooled' if self.pooled else 'flat'}"

    @cached_property
    def blocks(self) -> tuple[BlockShape | TransformerBlock, ...]:
        """The blocks, first to last."""
        return stacked_blocks(self.input_shape, self.channels, self.symbols, self.depth)

    @cached_property
    def parts(self) -> tuple[tuple[TensorSpec, ...], ...]:
        """The parameters of each block, with its norm's, then those of the classifier."""
        blocks = []
        for number, block in enumerate(self.blocks):
            tensors = block.tensors(f"block{number}")
            if self.normalised:
                # the scale is stored as its difference from 1, so that it begins at zero
                names = (f"norm{number}.scale", f"norm{number}.shift")
                tensors += tuple(TensorSpec(name, (block.outputs,)) for name in names)
            blocks.append(tensors)
        whole = self.symbols or self.pooled
        places = 1 if whole else math.prod(self.blocks[-1].positions)
        return (*blocks, affine("classifier", (self.classes, self.channels * places)))

    @cached_property
    def layout(self) -> ParameterLayout:
        """The parameters of one network: those of all parts, in order."""
        return ParameterLayout(tuple(tensor for part in self.parts for tensor in part))

    def resized(self, parameters: int) -> "StaticShape":
        """Return this kind of network with the width that is nearest to a number of parameters."""
        narrow = replace(self, channels=1)
        while (wide := replace(narrow, channels=narrow.channels + 1)).layout.size <= parameters:
            narrow = wide
        return min((narrow, wide), key=lambda each: abs(each.layout.size - parameters))

    @property
    def training_multiply_adds(self) -> int:
        """Multiply-adds of training on one sample, counted as for hosts."""
        forward = [block_multiply_adds(block) for block in self.blocks]
        norms = sum(block.outputs * math.prod(block.positions) for block in self.blocks)
        classifier = self.parts[-1][0].size
        unneeded = forward[0] if first_input_is_data(self.blocks[0]) else 0
        return 3 * (sum(forward) + norms * self.normalised + classifier) - unneeded


def static_shapes(like: HostShape, parameters: int) -> list[StaticShape]:
    """Return every kind of fixed network for the inputs of a host, of about the given size."""
    choices = (False, True) if like.axes and not like.symbols else (False,)
    return [
        StaticShape(
            like.input_shape, like.classes, 1, depth, normalised, pooled, like.symbols
        ).resized(parameters)
        for depth in DEPTHS
        for normalised in ((False,) if like.symbols else (False, True))
        for pooled in choices
    ]


def run_static(shape: StaticShape, flat: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the logits of N networks. `[N, classes, B]`

    Args:
        shape: architecture of all networks.
        flat: their parameters. `[N, size]`
        columns: from `static_columns`, for each network, or one axis less for all.
    """
    tensors = iter(shape.layout.split(flat))
    parts = [[next(tensors) for _ in part] for part in shape.parts]
    features = columns
    for number, (block, part) in enumerate(zip(shape.blocks, parts, strict=False)):
        if isinstance(block, TransformerBlock):
            features = block.run(features, tuple(part))
            continue
        if number > 0:
            features = windows(features, block.kernel, block.stride, block.padding)
        mapped = affine_map(features, *part[:2])
        features = mapped.view(len(flat), block.outputs, *block.positions, -1)
        if shape.normalised:
            scale, shift = (_by_channel(values, features) for values in part[2:])
            features = torch.addcmul(shift, layer_norm(features), 1.0 + scale)
        features = features.relu()
    if shape.symbols:
        features = last_position(features)
    elif shape.pooled:
        features = features.flatten(2, -2).mean(2)
    return affine_map(features.flatten(1, -2), *parts[-1])


def _by_channel(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return values.view(*values.shape, *(1,) * (features.dim() - 2))


def static_columns(inputs: torch.Tensor, shape: StaticShape) -> torch.Tensor:
    """Return the input of the first block, from `[R, C, *P, B]`: windows, or symbols."""
    block = shape.blocks[0]
    if isinstance(block, TransformerBlock):
        return inputs
    return windows(inputs, block.kernel, block.stride, block.padding)


def train_static(
    env: GrowthVectorEnv,
    shape: StaticShape,
    rng_seeds: Sequence[int],
    learning_rates: Sequence[float] | None = None,
) -> Trained:
    """Train a fixed network for each random seed on as many samples as in an episode.

    Args:
        env: environment with the task and training settings; its own hosts do not change.
        shape: architecture of the networks.
        rng_seeds: random seed of each network; the order of the data is that of an environment's
            episode after a reset with the same seed.
        learning_rates: one for each step of an episode; by default the rate of hosts throughout.
    """
    training = StaticTraining(env, shape, rng_seeds, learning_rates)
    training.advance(env.steps)
    return training.trained()


class StaticTraining:
    """Fixed networks of one shape in training, which can be measured in between.

    Args:
        env, shape, rng_seeds, learning_rates: as for `train_static`.
    """

    def __init__(
        self,
        env: GrowthVectorEnv,
        shape: StaticShape,
        rng_seeds: Sequence[int],
        learning_rates: Sequence[float] | None = None,
    ) -> None:
        self._env, self._shape = env, shape
        self._rates = learning_rates or [env.optimizer.learning_rate] * env.steps
        host_seeds = np.array([episode_rng_seed(int(seed), 0) for seed in rng_seeds])
        self._order = new_order(len(host_seeds), len(env.parts[0]), env.batch, env.batches)
        restart(self._order, np.arange(len(host_seeds)), host_seeds)
        drawn = np.stack(
            [shape.layout.draw(generator(int(seed), Stream.HOST)) for seed in host_seeds]
        )
        self._state = torch.zeros(3, drawn.size, device=env.device, dtype=env.task.dtype)
        self._state[0] = torch.from_numpy(drawn.reshape(-1)).to(self._state)
        self._networks = len(host_seeds)
        self._step = 0

    def advance(self, steps: int) -> None:
        """Train on the samples of that many further steps of an episode."""
        env = self._env
        for step in range(self._step, self._step + steps):
            optimizer = replace(env.optimizer, learning_rate=self._rates[step])
            drawn = draw(self._order, env.batch * env.batches)
            _train_static_slice(env, self._shape, self._state, drawn, step, optimizer)
        self._step += steps

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds that each network has spent on training so far."""
        samples = self._step * self._env.batch * self._env.batches
        return self._shape.training_multiply_adds * samples

    def validation_accuracy(self) -> np.ndarray:
        """Return the present accuracy of each network on the validation part. `[N]`"""
        return _accuracy(self._shape, self._flat(), self._env.parts[1])

    def trained(self) -> Trained:
        """Return the results so far."""
        return Trained(
            validation_accuracy=self.validation_accuracy(),
            test_accuracy=_accuracy(self._shape, self._flat(), self._env.parts[2]),
            parameters=np.full(self._networks, self._shape.layout.size),
            multiply_adds=np.full(self._networks, self.multiply_adds),
        )

    def _flat(self) -> torch.Tensor:
        return self._state[0].view(self._networks, -1)


def _train_static_slice(
    env: GrowthVectorEnv,
    shape: StaticShape,
    state: torch.Tensor,
    drawn: np.ndarray,
    step: int,
    optimizer: AdamSettings,
) -> None:
    """Train on the samples `drawn` `[N, batches * batch]`; `state` `[3, N * size]` is changed."""
    index = torch.from_numpy(drawn).to(env.device)
    train = env.parts[0]
    inputs, labels = gather_minibatches(train, index, env.batches)
    clock = np.array([step * env.batches])
    lengths, epsilons = (
        torch.from_numpy(table).to(state)  # [batches, 1]
        for table in step_coefficients(optimizer, clock, env.batches)
    )
    flat = state[0].detach().requires_grad_()
    for number in range(env.batches):
        columns = static_columns(train.ready(inputs[number]), shape)
        logits = run_static(shape, flat.view(len(drawn), -1), columns)
        loss = row_losses(logits, labels[number]).sum()
        (gradient,) = torch.autograd.grad(loss, flat)
        adam_step_(state, gradient, lengths[number], epsilons[number], optimizer)


@torch.no_grad()
def _accuracy(shape: StaticShape, flat: torch.Tensor, part: Split) -> np.ndarray:
    """Return the fraction that each network gets right. `[N]`"""
    right = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    done = 0
    for inputs in input_chunks(part, len(flat)):
        labels = part.labels[done : done + inputs.shape[-1]].expand(len(flat), -1)
        right += row_hits(run_static(shape, flat, static_columns(inputs, shape)[0]), labels)
        done += inputs.shape[-1]
    accuracy: np.ndarray = right.cpu().numpy() / len(part)
    return accuracy
