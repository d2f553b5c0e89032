"""All parameters of a module in one flat tensor, and their gradients in another.

The optimizer's step, norms, scaling, clearing and keeping a copy are then one call each, however
many parameters there are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FlatParameters:
    """Owns the parameters of `module` and their gradients: each is a view into a flat tensor.

    `differentiate` takes the place of `backward` and `zero_grad`. It keeps the gradient of each
    minibatch of an update in a row of its own until the next update, so that the figures can be
    checked after the last one; memory is one copy of the parameters per minibatch. `clip` writes
    the gradient that the optimizer steps with. A parameter's `.grad` must never be set to None.

    Args:
        module: on the device where everything happens; it keeps its parameters, whose values from
            now on lie in `flat`.
        first: the part of `module` that comes first. cuDNN takes the weights of a recurrent layer
            as they lie only at the very beginning of their storage, and copies them otherwise.
        last: the linear layer that comes last.

    Attributes:
        parameters: of the module, in the order in which they lie.
        names: their names in the module.
        flat: their values, `[P]`; what an optimizer is given. Its `.grad` is `gradient`.
        gradient: the clipped gradient, `[P]`.
    """

    def __init__(self, module: nn.Module, *, first: nn.Module, last: nn.Linear) -> None:
        self._last = last
        head, tail = list(first.parameters()), [last.weight, last.bias]
        placed = {id(parameter) for parameter in (*head, *tail)}
        middle = [parameter for parameter in module.parameters() if id(parameter) not in placed]
        self.parameters = [*head, *middle, *tail]
        name_of = {id(parameter): name for name, parameter in module.named_parameters()}
        self.names = [name_of[id(parameter)] for parameter in self.parameters]
        self.flat = nn.Parameter(
            torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        )
        self.gradient = torch.zeros_like(self.flat)  # [P]
        self.flat.grad = self.gradient
        self._rows: list[tuple[Tensor, list[Tensor]]] = []  # [P], and its views; by minibatch
        values = self.split(self.flat.detach())
        gradients = self.split(self.gradient)
        for parameter, value, gradient in zip(self.parameters, values, gradients, strict=True):
            parameter.data = value
            parameter.grad = gradient

    def split(self, flat: Tensor) -> list[Tensor]:
        """Return the views of a tensor laid out like `flat`, one in the shape of each parameter."""
        pieces = flat.split([parameter.numel() for parameter in self.parameters])
        return [
            piece.view_as(parameter)
            for parameter, piece in zip(self.parameters, pieces, strict=True)
        ]

    def last_of(self, gradient: Tensor) -> Tensor:
        """Return the last layer's part of a gradient `[P]`: all weights, then the biases."""
        return gradient[-(self._last.weight.numel() + self._last.bias.numel()) :]

    def last_squares(self, lasts: Tensor) -> Tensor:
        """Return the sum of squares of each output's weights and bias, in float64.

        Args:
            lasts: as `last_of` returns them, `[m, …]`.

        Returns:
            `[m, outputs]`.
        """
        shape = self._last.weight.shape
        weights, biases = lasts.double().square().split((shape.numel(), shape[0]), dim=1)
        return weights.unflatten(1, shape).sum(2) + biases

    def differentiate(
        self, loss: Tensor, minibatch: int, also: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Compute the gradient of `loss` and keep it as that of a minibatch.

        Args:
            loss: a scalar.
            minibatch: its number in the update, counted from 0.
            also: tensors on the way from the parameters to the loss.

        Returns:
            The gradient of all parameters `[P]`, valid until the same minibatch of the next pass;
            and those of `also`, None for one that the loss does not depend on.
        """
        while len(self._rows) <= minibatch:
            row = torch.empty_like(self.gradient)
            self._rows.append((row, self.split(row)))
        row, views = self._rows[minibatch]
        found = torch.autograd.grad(loss, (*also, *self.parameters), allow_unused=True)
        torch._foreach_copy_(views, found[len(also) :])
        return row, found[: len(also)]

    @staticmethod
    def norm(gradient: Tensor) -> Tensor:
        """Return the norm of a gradient `[P]` in float64: finite gradients have a finite norm, or
        clipping by it would make all of them 0.
        """
        return torch.linalg.vector_norm(gradient, dtype=torch.float64)

    def clip(self, gradient: Tensor, norm: Tensor, maximum: float) -> None:
        """Write a gradient, whose norm is `norm`, into `gradient`, scaled to at most `maximum`."""
        torch.div(gradient, (norm / maximum).clamp(min=1.0), out=self.gradient)
