"""Transformer blocks of hosts that read symbols, N of them stacked.

A block is that of Vaswani et al. (2017) with the norms first (Xiong et al. 2020), one attention
head, and norms without parameters. The map that ends each of its two branches begins at zero, so a
new host is an embedding and a classifier, and every block learns from there.

There is no causal mask: a host predicts what follows its whole input, never a symbol within it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from esper.growth.kernel.layers import affine_map, attend, channel_norm
from esper.growth.kernel.parameters import TensorSpec, affine

#: Channels of the hidden layer of a block, over the block's own.
WIDENING = 2
#: Bound of the uniform initial values of the embeddings.
EMBEDDING_BOUND = 1.0

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class TransformerBlock:
    """One block and its output shape.

    Attributes:
        outputs: channels, the same before and after.
        positions: the length of the input.
        symbols: size of the vocabulary that the first block embeds; 0 in all others.
    """

    outputs: int
    positions: tuple[int]
    symbols: int = 0

    @property
    def numbers(self) -> int:
        """Features of one sample after the block."""
        return self.outputs * math.prod(self.positions)

    def tensors(self, name: str) -> tuple[TensorSpec, ...]:
        """Return the parameters of the block; those of embeddings come first."""
        channels, hidden = self.outputs, WIDENING * self.outputs
        embeddings = (
            TensorSpec("embedding.weight", (self.symbols, channels), EMBEDDING_BOUND),
            TensorSpec("position.weight", (*self.positions, channels), EMBEDDING_BOUND),
        )
        return (
            *(embeddings if self.symbols else ()),
            *affine(f"{name}.projection", (3 * channels, channels), bias=False),
            *affine(f"{name}.out", (channels, channels), zero=True),
            *affine(f"{name}.widen", (hidden, channels)),
            *affine(f"{name}.narrow", (channels, hidden), zero=True),
        )

    def run(self, features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        """Run the block on features `[R, C, L, B]`; the first on symbols `[R, L, B]` or `[L, B]`.

        Returns:
            `[R, C, L, B]`.
        """
        if self.symbols:
            features = _embed(features, *tensors[:2])
            tensors = tensors[2:]
        projection, out_weight, out_bias, *mlp = tensors
        projected = _pointwise(channel_norm(features), projection)
        seen = attend(projected)
        features = features + _pointwise(seen, out_weight, out_bias)
        widen_weight, widen_bias, narrow_weight, narrow_bias = mlp
        hidden = _pointwise(channel_norm(features), widen_weight, widen_bias).relu()
        return features + _pointwise(hidden, narrow_weight, narrow_bias)


def _embed(symbols: torch.Tensor, weight: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Return the embedded symbols. `[R, C, L, B]`

    Args:
        symbols: whole numbers, `[R, L, B]` or, the same for all rows, `[L, B]`.
        weight: `[R, symbols, C]`.
        position: `[R, L, C]`.
    """
    rows, count, _ = weight.shape
    offsets = torch.arange(rows, device=weight.device) * count
    index = symbols.long() + offsets.view(-1, 1, 1)
    embedded = F.embedding(index, weight.flatten(0, 1))  # [R, L, B, C]
    return (embedded + position.unsqueeze(2)).permute(0, 3, 1, 2).contiguous()


def _pointwise(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    mapped = affine_map(features.flatten(2), weight, bias)
    return mapped.view(*mapped.shape[:2], *features.shape[2:])


def last_position(features: torch.Tensor) -> torch.Tensor:
    """Return the normalised last position of `[R, C, L, B]`. `[R, C, B]`"""
    return channel_norm(features[:, :, -1])
