"""All gradients of a module in one flat tensor: norms, scaling and clearing are one call each."""

import torch
from torch import Tensor, nn


class FlatGradient:
    """Owns the gradients of `module`'s parameters: each `.grad` is a view into `flat`.

    The backward pass adds into these views in place, so they must never be set to None; `zero`
    takes the place of `zero_grad`. The parameters of `last` lie at the end, `last_size` long.
    """

    def __init__(self, module: nn.Module, last: nn.Module) -> None:
        tail = list(last.parameters())
        in_tail = {id(parameter) for parameter in tail}
        head = [parameter for parameter in module.parameters() if id(parameter) not in in_tail]
        self.parameters = head + tail
        self.last_size = sum(parameter.numel() for parameter in tail)
        size = sum(parameter.numel() for parameter in self.parameters)
        self.flat = tail[0].new_zeros(size)  # [P]
        pieces = self.flat.split([parameter.numel() for parameter in self.parameters])
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)

    @property
    def body(self) -> Tensor:
        """Return the gradients of all parameters but the last module's."""
        return self.flat[: -self.last_size]

    def zero(self) -> None:
        """Clear all gradients."""
        self.flat.zero_()

    def clip(self, maximum: float) -> Tensor:
        """Scale all gradients to a norm of at most `maximum`; return the norm before."""
        norm = torch.linalg.vector_norm(self.flat)
        self.flat.mul_((maximum / (norm + 1e-6)).clamp(max=1.0))
        return norm
