"""All gradients of a module in one flat tensor: norms, scaling and clearing are one call each."""

import torch
from torch import Tensor, nn


class FlatGradient:
    """Owns the gradients of `module`'s parameters: each `.grad` is a view into `flat`.

    The backward pass adds into these views in place, so they must never be set to None; `zero`
    takes the place of `zero_grad`. Those of the linear layer `last` lie at the end.
    """

    def __init__(self, module: nn.Module, last: nn.Linear) -> None:
        tail = [last.weight, last.bias]
        self._last = last
        in_tail = {id(parameter) for parameter in tail}
        head = [parameter for parameter in module.parameters() if id(parameter) not in in_tail]
        self.parameters = head + tail
        self._last_size = sum(parameter.numel() for parameter in tail)
        size = sum(parameter.numel() for parameter in self.parameters)
        self.flat = tail[0].new_zeros(size)  # [P]
        pieces = self.flat.split([parameter.numel() for parameter in self.parameters])
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)

    @property
    def body(self) -> Tensor:
        """Return the gradients of all parameters but the last module's."""
        return self.flat[: -self._last_size]

    @property
    def last_by_row(self) -> Tensor:
        """Return the gradients of the last layer, a row per output: weights, then the bias."""
        rows, columns = self._last.weight.shape
        tail = self.flat[-self._last_size :]
        weights, bias = tail.split((rows * columns, rows))
        return torch.cat((weights.view(rows, columns), bias.unsqueeze(1)), dim=1)

    def zero(self) -> None:
        """Clear all gradients."""
        self.flat.zero_()

    def norm(self) -> Tensor:
        """Return the norm of all gradients together, in float64: finite gradients have a finite
        norm, or clipping by it would make all of them 0.
        """
        return torch.linalg.vector_norm(self.flat, dtype=torch.float64)

    def clip(self, norm: Tensor, maximum: float) -> None:
        """Scale all gradients, whose norm is `norm`, to a norm of at most `maximum`."""
        self.flat.mul_((maximum / (norm + 1e-6)).clamp(max=1.0))
