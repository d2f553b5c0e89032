"""The host: a small network of three blocks and a classifier, N of them stacked, with a slot after
each block. It is narrow on purpose, so that growth can help.

Its kind follows from the inputs:

| kind        | inputs                    | a block is                                           |
|-------------|---------------------------|------------------------------------------------------|
| mlp         | `(features,)`             | a linear map, ReLU                                   |
| conv1d      | `(channels, length)`      | a convolution, ReLU                                  |
| conv2d      | `(channels, height, width)` | a convolution, ReLU                                |
| transformer | `(length,)` of symbols    | attention and a hidden layer (`transformer.py`)      |

The classifier of a transformer reads the last position, that of the others the mean of each channel
over all positions (Lin, Chen and Yan 2014, "Network in network"): a classifier over every feature
would have half of the parameters of a host and leave less to growth.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from esper.growth.kernel.layers import affine_map, window_positions, windows
from esper.growth.kernel.parameters import ParameterLayout, TensorSpec, affine
from esper.growth.kernel.transformer import TransformerBlock, last_position
from esper.leyline.errors import EsperError

#: Blocks of a host; a slot follows each.
BLOCKS = 3

Tensors = tuple[torch.Tensor, ...]


class HostShapeError(EsperError, ValueError):
    """No host can be built for inputs of this shape."""


@dataclass(frozen=True)
class BlockShape:
    """One convolution block (over no positions, a linear one) and its output shape."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    positions: tuple[int, ...]  # after the block

    @property
    def numbers(self) -> int:
        """Features of one sample after the block."""
        return self.outputs * math.prod(self.positions)

    def tensors(self, name: str) -> tuple[TensorSpec, ...]:
        """Return the parameters of the block."""
        kernel = (self.kernel,) * len(self.positions)
        return affine(name, (self.outputs, self.inputs, *kernel))

    def run(self, features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        """Run the block on features `[R, C, *P, B]`. `[R, C', *P', B]`"""
        columns = windows(features, self.kernel, self.stride, self.padding)
        return self.run_columns(columns, tensors)

    def run_columns(self, columns: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        """Run the block on windows `[R, C*K, P'*B]` or, shared by all rows, `[C*K, P'*B]`."""
        product = affine_map(columns, *tensors)
        return product.relu_().view(product.shape[0], self.outputs, *self.positions, -1)


#: kernel, stride, padding of the three blocks, by the number of position axes
CONVOLUTIONS = {
    0: ((1, 1, 0),) * BLOCKS,
    1: ((5, 2, 1), (3, 2, 1), (3, 2, 1)),
    2: ((3, 2, 1), (3, 2, 1), (3, 1, 1)),
}


def stacked_blocks(
    input_shape: tuple[int, ...], channels: int, symbols: int, depth: int
) -> tuple[BlockShape | TransformerBlock, ...]:
    """Return the blocks of a network, first to last.

    Args:
        input_shape: shape of one input.
        channels: channels of every block.
        symbols: size of the vocabulary of symbol inputs, for a transformer; 0 for measurements.
        depth: number of blocks. Those after the blocks of a host keep the positions.
    """
    if symbols:
        (length,) = input_shape
        return tuple(
            TransformerBlock(channels, (length,), 0 if number else symbols)
            for number in range(depth)
        )
    inputs, *rest = input_shape
    positions, blocks = tuple(rest), []
    known = CONVOLUTIONS[len(positions)]
    further = (3, 1, 1) if positions else known[-1]
    for number in range(depth):
        kernel, stride, padding = known[number] if number < len(known) else further
        positions = window_positions(positions, kernel, stride, padding)
        blocks.append(BlockShape(inputs, channels, kernel, stride, padding, positions))
        inputs = channels
    return tuple(blocks)


@dataclass(frozen=True)
class HostShape:
    """The architecture of all hosts of an environment.

    Attributes:
        input_shape: shape of one input: `(F,)`, `(C, L)` or `(C, H, W)`; of symbols, `(L,)`.
        classes: number of classes.
        channels: channels of every block.
        symbols: size of the vocabulary of symbol inputs; 0 for measurements.

    Raises:
        HostShapeError: the input has another number of axes, or is too small.
    """

    input_shape: tuple[int, ...]
    classes: int
    channels: int
    symbols: int = 0

    def __post_init__(self) -> None:
        if len(self.input_shape) > 3 or (self.symbols and len(self.input_shape) != 1):
            raise HostShapeError(
                f"an input of shape {self.input_shape} has no host: it must be (features,), "
                "(channels, length), (channels, height, width) or, of symbols, (length,)"
            )
        if self.channels < 1:
            raise HostShapeError(f"a host needs at least 1 channel, not {self.channels}")
        if not self.input_shape or min(self.input_shape) < 1:
            raise HostShapeError(f"an input of shape {self.input_shape} is empty")
        if any(size < 1 for block in self.blocks for size in block.positions):
            raise HostShapeError(
                f"an input of shape {self.input_shape} is too small for three convolution blocks"
            )

    @property
    def kind(self) -> str:
        """One of mlp, conv1d, conv2d and transformer."""
        return "transformer" if self.symbols else ("mlp", "conv1d", "conv2d")[self.axes]

    @property
    def axes(self) -> int:
        """Position axes of the features: 0, 1 or 2."""
        return 1 if self.symbols else len(self.input_shape) - 1

    @cached_property
    def blocks(self) -> tuple[BlockShape | TransformerBlock, ...]:
        """The blocks, first to last."""
        return stacked_blocks(self.input_shape, self.channels, self.symbols, BLOCKS)

    @property
    def features(self) -> int:
        """Inputs of the classifier."""
        return self.channels

    @cached_property
    def parts(self) -> tuple[tuple[TensorSpec, ...], ...]:
        """The parameters of each block, then those of the classifier."""
        blocks = (block.tensors(f"block{number}") for number, block in enumerate(self.blocks))
        return (*blocks, affine("classifier", (self.classes, self.features)))

    @cached_property
    def layout(self) -> ParameterLayout:
        """The parameters of one host: those of all parts, in order."""
        return ParameterLayout(tuple(tensor for part in self.parts for tensor in part))

    def split(self, rows: torch.Tensor) -> list[Tensors]:
        """Return the tensors of each part as views `[n, *shape]` of stacked rows `[n, size]`."""
        tensors = iter(self.layout.split(rows))
        return [tuple(next(tensors) for _ in part) for part in self.parts]


def input_columns(inputs: torch.Tensor, shape: HostShape) -> torch.Tensor:
    """Return the windows that the first block reads, for inputs `[R, C, *P, B]`. `[R, C*K, P'*B]`

    Symbols `[R, L, B]` are returned unchanged.
    """
    block = shape.blocks[0]
    if isinstance(block, TransformerBlock):
        return inputs
    return windows(inputs, block.kernel, block.stride, block.padding)


def run_first_block(columns: torch.Tensor, tensors: Tensors, shape: HostShape) -> torch.Tensor:
    """Run block 0 on the result of `input_columns`, for each row or, one axis less, shared."""
    block = shape.blocks[0]
    if isinstance(block, TransformerBlock):
        return block.run(columns, tensors)
    return block.run_columns(columns, tensors)


def classify(features: torch.Tensor, tensors: Tensors, shape: HostShape) -> torch.Tensor:
    """Return the logits of features `[R, C, *P, B]`. `[R, classes, B]`"""
    if shape.symbols:
        read = last_position(features)
    elif shape.axes:
        read = features.flatten(2, -2).mean(2)
    else:
        read = features
    return affine_map(read, *tensors)
