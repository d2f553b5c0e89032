"""Baseline: an ordinary PyTorch network, as most people would write it, trained one by one.

Three convolutions with batch normalisation and ReLU, the mean of each channel, and a linear
classifier; linear maps instead of convolutions where inputs have no positions, and an embedding
before them where inputs are symbols. Adam's learning rate follows PyTorch's one-cycle schedule.
Samples, minibatches and their order are those of hosts with the same random seeds; the initial
values are PyTorch's own.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.from_scratch import Trained
from esper.growth.hosts.host import HostShape
from esper.growth.hosts.lockstep import EVALUATION_CHUNK, row_hits
from esper.growth.hosts.minibatches import draw, new_order, restart
from esper.growth.hosts.randomness import Stream, episode_rng_seed, generator
from esper.growth.kernel.layers import window_positions
from esper.growth.tasks.task import Split

#: Kernel and stride of the three layers, by the number of position axes.
_LAYERS = {
    0: ((1, 1),) * 3,
    1: ((7, 2), (5, 2), (3, 1)),
    2: ((3, 2), (3, 2), (3, 1)),
}


@dataclass(frozen=True)
class PlainShape:
    """The architecture of a plain network.

    Attributes:
        input_shape: shape of one input, as of a host.
        classes: number of classes.
        channels: channels of every layer.
        symbols: size of the vocabulary of symbol inputs; 0 for measurements.
    """

    input_shape: tuple[int, ...]
    classes: int
    channels: int
    symbols: int = 0

    @property
    def name(self) -> str:
        """The architecture in words."""
        layer = "convolutions" if self.axes else "linear maps"
        return f"3 {layer} of {self.channels} channels, batch norm"

    @property
    def parameters(self) -> int:
        """Number of parameters of one network."""
        with torch.device("meta"):  # draws no random numbers
            return sum(parameter.numel() for parameter in self.module().parameters())

    @property
    def training_multiply_adds(self) -> int:
        """Multiply-adds of training on one sample, counted as for hosts."""
        forward = [
            self.channels * inputs * kernel**self.axes * math.prod(positions)
            for inputs, kernel, _, positions in self.layers()
        ]
        unneeded = 0 if self.symbols else forward[0]  # the gradient of the inputs
        return 3 * (sum(forward) + self.channels * self.classes) - unneeded

    def module(self) -> nn.Sequential:
        """Return a new network; it maps inputs `[B, *input_shape]` to logits `[B, classes]`."""
        made: list[nn.Module] = [_Symbols(self.symbols, self.channels)] if self.symbols else []
        for inputs, kernel, stride, _ in self.layers():
            made += [
                self._mapping(inputs, kernel, stride),
                nn.BatchNorm2d(self.channels) if self.axes == 2 else nn.BatchNorm1d(self.channels),
                nn.ReLU(),
            ]
        return nn.Sequential(*made, _PositionMean(), nn.Linear(self.channels, self.classes))

    def within(self, fits: Callable[["PlainShape"], bool]) -> "PlainShape | None":
        """Return the widest network of this kind that fits; None if not even the narrowest does."""
        widest = None
        while fits(wide := replace(self, channels=1 if widest is None else widest.channels + 1)):
            widest = wide
        return widest

    def resized(self, parameters: int) -> "PlainShape":
        """Return the network with the width that is nearest to a number of parameters."""
        narrow = replace(self, channels=1)
        while (wide := replace(narrow, channels=narrow.channels + 1)).parameters <= parameters:
            narrow = wide
        return min((narrow, wide), key=lambda each: abs(each.parameters - parameters))

    @property
    def axes(self) -> int:
        """Position axes of the features: 0, 1 or 2."""
        return 1 if self.symbols else len(self.input_shape) - 1

    def layers(self) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
        """Yield input channels, kernel, stride and output positions of each layer."""
        inputs = self.channels if self.symbols else self.input_shape[0]
        positions = self.input_shape if self.symbols else self.input_shape[1:]
        for kernel, stride in _LAYERS[self.axes]:
            positions = window_positions(positions, kernel, stride, kernel // 2)
            yield inputs, kernel, stride, positions
            inputs = self.channels

    def _mapping(self, inputs: int, kernel: int, stride: int) -> nn.Module:
        if self.axes == 0:
            return nn.Linear(inputs, self.channels, bias=False)  # the norm has a shift
        convolution = nn.Conv1d if self.axes == 1 else nn.Conv2d
        return convolution(
            inputs, self.channels, kernel, stride=stride, padding=kernel // 2, bias=False
        )


class _Symbols(nn.Module):
    """Embed symbols `[B, L]` as features `[B, C, L]`."""

    def __init__(self, symbols: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, channels)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.embedding(symbols.long())
        return embedded.transpose(1, 2)


class _PositionMean(nn.Module):
    """The mean of each channel over all positions: `[B, C, *P]` -> `[B, C]`."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.flatten(2).mean(2) if features.dim() > 2 else features


def plain_shape(like: HostShape, parameters: int) -> PlainShape:
    """Return the plain network for the inputs of a host that is nearest to a size."""
    return PlainShape(like.input_shape, like.classes, 1, like.symbols).resized(parameters)


def train_plain(
    env: GrowthVectorEnv, shape: PlainShape, rng_seeds: Sequence[int], peak_rate: float
) -> Trained:
    """Train a plain network for each random seed on as many samples as in an episode.

    Args:
        env: environment with the task and training settings; its own hosts do not change.
        shape: architecture of the networks.
        rng_seeds: random seed of each network; the order of the data is that of an environment's
            episode after a reset with the same seed.
        peak_rate: highest learning rate of the one-cycle schedule.
    """
    accuracies = [_train_one(env, shape, int(seed), peak_rate) for seed in rng_seeds]
    validation, test = np.array(accuracies).T
    samples = env.steps * env.batch * env.batches
    return Trained(
        validation_accuracy=validation,
        test_accuracy=test,
        parameters=np.full(len(accuracies), shape.parameters),
        multiply_adds=np.full(len(accuracies), shape.training_multiply_adds * samples),
    )


def _train_one(
    env: GrowthVectorEnv, shape: PlainShape, rng_seed: int, peak_rate: float
) -> tuple[float, float]:
    """Train one network and return its validation and test accuracy."""
    train, validation, test = env.parts
    episode_seed = np.array([episode_rng_seed(rng_seed, 0)])
    order = new_order(1, len(train), env.batch, env.batches)
    restart(order, np.arange(1), episode_seed)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(int(generator(int(episode_seed[0]), Stream.HOST).integers(2**63)))
        network = shape.module().to(env.device, env.task.dtype)
    optimizer = torch.optim.Adam(network.parameters(), lr=peak_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak_rate, total_steps=env.steps * env.batches
    )
    for _ in range(env.steps):
        drawn = torch.from_numpy(draw(order, env.batch * env.batches)[0]).to(env.device)
        for index in drawn.split(env.batch):
            optimizer.zero_grad()
            logits = network(train.ready(train.inputs[index]))
            F.cross_entropy(logits, train.labels[index]).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    return _accuracy(network, validation), _accuracy(network, test)


@torch.no_grad()
def _accuracy(network: nn.Module, part: Split) -> float:
    right = 0
    for start in range(0, len(part), EVALUATION_CHUNK):
        chunk = slice(start, start + EVALUATION_CHUNK)
        logits = network(part.ready(part.inputs[chunk]))
        right += int(row_hits(logits.T.unsqueeze(0), part.labels[chunk].unsqueeze(0)))
    return right / len(part)
