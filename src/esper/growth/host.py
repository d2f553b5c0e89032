"""The host: a small strided convolution network, N of them stacked, with a slot after each block.

A host is three blocks (convolution, ReLU) and a linear classifier over what the last block leaves.
It is too narrow for its task on purpose: growth is to have something to win.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from esper.growth.layers import affine_map, window_positions, windows
from esper.growth.parameters import ParameterLayout, TensorSpec, affine


class HostShapeError(ValueError):
    """No host can be built for inputs of this shape."""


@dataclass(frozen=True)
class BlockShape:
    """One convolution block, and what it leaves."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    positions: tuple[int, ...]  # after the block


#: kernel, stride, padding of the three blocks, by the number of position axes
BLOCKS = {
    1: ((5, 2, 1), (3, 2, 1), (3, 2, 1)),
    2: ((3, 2, 1), (3, 2, 1), (3, 1, 1)),
}


@dataclass(frozen=True)
class HostShape:
    """The architecture all hosts of a batch share.

    Attributes:
        input_shape: channels and positions of one input, `(C, L)` or `(C, H, W)`.
        classes: how many classes the classifier tells apart.
        channels: channels of every block.

    Raises:
        HostShapeError: the input has neither one nor two position axes, or is too small.
    """

    input_shape: tuple[int, ...]
    classes: int
    channels: int

    def __post_init__(self) -> None:
        if len(self.input_shape) - 1 not in BLOCKS:
            raise HostShapeError(
                f"an input of shape {self.input_shape} has no host: it must be (channels, length) "
                "or (channels, height, width)"
            )
        if self.channels < 1:
            raise HostShapeError(f"a host needs at least 1 channel, not {self.channels}")
        if any(size < 1 for block in self.blocks for size in block.positions):
            raise HostShapeError(
                f"an input of shape {self.input_shape} is too small for three convolution blocks"
            )

    @cached_property
    def blocks(self) -> tuple[BlockShape, ...]:
        """The blocks, first to last."""
        inputs, *rest = self.input_shape
        positions, blocks = tuple(rest), []
        for kernel, stride, padding in BLOCKS[len(positions)]:
            positions = window_positions(positions, kernel, stride, padding)
            blocks.append(BlockShape(inputs, self.channels, kernel, stride, padding, positions))
            inputs = self.channels
        return tuple(blocks)

    @cached_property
    def features(self) -> int:
        """Inputs of the classifier."""
        size = self.channels
        for axis in self.blocks[-1].positions:
            size *= axis
        return size

    @cached_property
    def layout(self) -> ParameterLayout:
        """The parameters of one host: each block's weight and bias, then the classifier's."""
        tensors: list[TensorSpec] = []
        for number, block in enumerate(self.blocks):
            kernel = (block.kernel,) * len(block.positions)
            tensors += affine(f"block{number}", (block.outputs, block.inputs, *kernel))
        tensors += affine("classifier", (self.classes, self.features))
        return ParameterLayout(tuple(tensors))


def input_columns(inputs: torch.Tensor, shape: HostShape) -> torch.Tensor:
    """Return what the first block multiplies, of `inputs` `[R, C, *P, B]`. `[R, C*K, P'*B]`"""
    block = shape.blocks[0]
    return windows(inputs, block.kernel, block.stride, block.padding)


def run_first_block(
    columns: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, shape: HostShape
) -> torch.Tensor:
    """Run block 0 on prepared columns `[R, C*K, P'*B]` or, shared, `[C*K, P'*B]`."""
    return _activate(affine_map(columns, weight, bias), shape.blocks[0])


def run_block(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, block: BlockShape
) -> torch.Tensor:
    """Run one block on features `[R, C, *P, B]`. `[R, C', *P', B]`"""
    columns = windows(features, block.kernel, block.stride, block.padding)
    return _activate(affine_map(columns, weight, bias), block)


def _activate(product: torch.Tensor, block: BlockShape) -> torch.Tensor:
    return product.relu_().view(product.shape[0], block.outputs, *block.positions, -1)


def classify(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return the logits of features `[R, C, *P, B]`. `[R, classes, B]`"""
    return affine_map(features.flatten(1, -2), weight, bias)
