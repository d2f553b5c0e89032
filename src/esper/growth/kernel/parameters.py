"""Parameters of one network part in a row: names, shapes and initial values."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch


@dataclass(frozen=True)
class TensorSpec:
    """One parameter tensor; its initial values are uniform in [-bound, bound]."""

    name: str
    shape: tuple[int, ...]
    bound: float = 0.0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def affine(
    name: str, shape: tuple[int, ...], *, bias: bool = True, zero: bool = False
) -> tuple[TensorSpec, ...]:
    """Return the weight and, with `bias`, the bias of a linear or convolution layer.

    `shape` is `[out, in, *kernel]`. The weight is initialised uniformly in ±sqrt(6 / fan-in), the
    bias at zero (He et al. 2015, "Delving deep into rectifiers"); with `zero`, both are zero.
    """
    bound = 0.0 if zero else math.sqrt(6.0 / math.prod(shape[1:]))
    weight = TensorSpec(f"{name}.weight", shape, bound)
    return (weight, TensorSpec(f"{name}.bias", shape[:1])) if bias else (weight,)


@dataclass(frozen=True)
class ParameterLayout:
    """Tensors end to end in one row of `size` numbers."""

    tensors: tuple[TensorSpec, ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Size of each tensor, in order."""
        return tuple(tensor.size for tensor in self.tensors)

    @cached_property
    def size(self) -> int:
        """Numbers in a row."""
        return sum(self.sizes)

    @cached_property
    def bounds(self) -> np.ndarray:
        """The bound of the initial value of each number of a row. `[size]`"""
        return np.repeat([tensor.bound for tensor in self.tensors], self.sizes)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Draw the initial values of one row. `[size]`"""
        return generator.uniform(-1.0, 1.0, self.size) * self.bounds

    def split(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the tensors of stacked rows `[n, size]` as views `[n, *shape]`, in order."""
        pieces = rows.split(self.sizes, dim=1)
        return tuple(
            piece.view(rows.shape[0], *tensor.shape)
            for piece, tensor in zip(pieces, self.tensors, strict=True)
        )
