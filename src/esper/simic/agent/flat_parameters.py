"""All parameters of a module in one flat tensor, and their gradients in another.

Each optimizer step, norm, scaling, reset and copy is then one call, however many parameters there
are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FlatParameters:
    """Parameters of a module and their gradients, each a view into a flat tensor.

    `differentiate` replaces `backward` and `zero_grad`. It stores the gradient of each minibatch in
    a separate row until the next update. Figures can then be checked after the last minibatch, at
    the cost of one copy of the parameters per minibatch. `clip` writes the gradient that the
    optimizer uses. A parameter's `.grad` must never be set to None.

    Args:
        module: the module, on its final device. Its parameters become views into `flat`.
        first: the part of `module` to put first. cuDNN uses the weights of a recurrent layer in
            place only at the very beginning of their storage, and copies them otherwise.
        last: the linear layer to put last.

    Attributes:
        parameters: parameters of the module, in the order of `flat`.
        names: their names in the module.
        flat: their values, `[P]`, for the optimizer. Its `.grad` is `gradient`.
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
        """Return views of a tensor like `flat`, one in the shape of each parameter."""
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
            lasts: results of `last_of` for m gradients, `[m, …]`.

        Returns:
            `[m, outputs]`.
        """
        shape = self._last.weight.shape
        weights, biases = lasts.double().square().split((shape.numel(), shape[0]), dim=1)
        return weights.unflatten(1, shape).sum(2) + biases

    def differentiate(
        self, loss: Tensor, minibatch: int, also: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Compute the gradient of a loss, and store it as that of a minibatch.

        Args:
            loss: the loss, a scalar.
            minibatch: index of the minibatch in the update.
            also: tensors between the parameters and the loss.

        Returns:
            The gradient of all parameters `[P]`, valid until the same minibatch of the next pass;
            and the gradients of `also`, None for a tensor that the loss does not depend on.
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
        """Return the norm of a gradient `[P]`.

        In float64, so that every finite gradient has a finite norm: clipping by an infinite one
        would set all of it to 0.
        """
        return torch.linalg.vector_norm(gradient, dtype=torch.float64)

    def clip(self, gradient: Tensor, excess: Tensor) -> None:
        """Write a gradient into `self.gradient`, divided by `excess` where that is above 1.

        The largest divisor is the largest value of the gradient's type: dividing by one that
        overflows to Inf would make the whole gradient 0, and training would silently stand still.

        Args:
            gradient: the gradient, `[P]`.
            excess: its norm divided by the largest norm allowed, a scalar.
        """
        largest = torch.finfo(gradient.dtype).max
        torch.div(gradient, excess.clamp(1.0, largest), out=self.gradient)
