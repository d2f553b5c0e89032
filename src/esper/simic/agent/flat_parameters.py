"""All parameters of a module in one flat tensor, and their gradients in another.

The optimizer's step, norms, scaling, clearing and keeping a copy are then one call each, however
many parameters there are.
"""

import torch
from torch import Tensor, nn


class FlatParameters:
    """Owns the parameters of `module` and their gradients: each is a view into a flat tensor.

    `differentiate` takes the place of `backward` and `zero_grad`: a parameter's `.grad` must never
    be set to None.

    Args:
        module: on the device where everything happens; it keeps its parameters, whose values from
            now on lie in `flat`.
        first: the part of `module` that comes first. cuDNN takes the weights of a recurrent layer
            as they lie only at the very beginning of their storage, and copies them otherwise.
        last: the linear layer that comes last.

    Attributes:
        parameters: of the module, in the order in which they lie.
        flat: their values, `[P]`; what an optimizer is given. Its `.grad` is `gradient`.
        gradient: theirs, `[P]`.
    """

    def __init__(self, module: nn.Module, *, first: nn.Module, last: nn.Linear) -> None:
        self._last = last
        head, tail = list(first.parameters()), [last.weight, last.bias]
        placed = {id(parameter) for parameter in (*head, *tail)}
        middle = [parameter for parameter in module.parameters() if id(parameter) not in placed]
        self.parameters = [*head, *middle, *tail]
        self._last_size = sum(parameter.numel() for parameter in tail)
        self.flat = nn.Parameter(
            torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        )
        self.gradient = torch.zeros_like(self.flat)  # [P]
        self.flat.grad = self.gradient
        self._gradients = self.split(self.gradient)
        values = self.split(self.flat.detach())
        for parameter, value, gradient in zip(
            self.parameters, values, self._gradients, strict=True
        ):
            parameter.data = value
            parameter.grad = gradient

    def split(self, flat: Tensor) -> list[Tensor]:
        """Return the views of a tensor laid out like `flat`, one in the shape of each parameter."""
        pieces = flat.split([parameter.numel() for parameter in self.parameters])
        return [
            piece.view_as(parameter)
            for parameter, piece in zip(self.parameters, pieces, strict=True)
        ]

    @property
    def body(self) -> Tensor:
        """Return the gradients of all parameters but the last layer's."""
        return self.gradient[: -self._last_size]

    @property
    def last_by_row(self) -> Tensor:
        """Return a copy of the last layer's gradients, a row per output: weights, then the bias."""
        rows, columns = self._last.weight.shape
        weights, bias = self.gradient[-self._last_size :].split((rows * columns, rows))
        return torch.cat((weights.view(rows, columns), bias.unsqueeze(1)), dim=1)

    def differentiate(self, loss: Tensor) -> None:
        """Put the gradient of `loss` in place of the last.

        Backward would add to what is there, in one call for each parameter.
        """
        torch._foreach_copy_(self._gradients, torch.autograd.grad(loss, self.parameters))

    def norm(self) -> Tensor:
        """Return the norm of all gradients together, in float64: finite gradients have a finite
        norm, or clipping by it would make all of them 0.
        """
        return torch.linalg.vector_norm(self.gradient, dtype=torch.float64)

    def clip(self, norm: Tensor, maximum: float) -> None:
        """Scale all gradients, whose norm is `norm`, to a norm of at most `maximum`."""
        self.gradient.div_((norm / maximum).clamp(min=1.0))
