"""A layer as users write them, which can be broken in several ways."""

from typing import Any

import torch
from torch import Tensor, nn


class UserLayer(nn.Module):
    """The identity, until it is broken.

    Attributes:
        fault: name of the method to call; empty while the layer is healthy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fault = ""

    def forward(self, values: Tensor) -> Tensor:
        """Return the values."""
        return getattr(self, self.fault)(values) if self.fault else values

    def overflow(self, values: Tensor) -> Tensor:
        """Overflow in an exponential."""
        return values + torch.exp((values.abs() + 1) * 1e4)

    def division(self, values: Tensor) -> Tensor:
        """Divide by a count that is 0."""
        count = (values > 1e9).sum(-1, keepdim=True)
        return (values + 1e-3) / count

    def logarithm(self, values: Tensor) -> Tensor:
        """Take the logarithm of a negative number."""
        return torch.log(-1 - values.abs())

    def distance(self, values: Tensor) -> Tensor:
        """Take the root of 0, whose derivative is infinite."""
        offset = values - values.detach()
        length = offset.square().sum(-1, keepdim=True).sqrt()
        return values + length

    def masked_mean(self, values: Tensor) -> Tensor:
        """Divide by 0 where the result is not used: the derivative is 0 / 0."""
        count = (values > 1e9).sum(-1, keepdim=True)
        mean = values.sum(-1, keepdim=True) / count
        return values + torch.where(count > 0, mean, torch.zeros_like(mean))

    def function(self, values: Tensor) -> Tensor:
        """Call a function whose derivative divides by 0."""
        return _OwnDerivative.apply(values)


class _OwnDerivative(torch.autograd.Function):
    """The identity, with a hand-written derivative that is wrong."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (values,) = ctx.saved_tensors
        return gradient / (values - values)
