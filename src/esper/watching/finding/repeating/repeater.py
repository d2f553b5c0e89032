"""The interface through which the integration of a library repeats a bad minibatch.

The training loops of some libraries fetch batches, generate text, log and save, so their lines
cannot be repeated. Instead, an integration holds each minibatch, and computes its loss and
gradients again if needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from esper.watching.model.generators import GeneratorStates, Start


class Repeater(Protocol):
    """Computes the minibatches since the optimizer's last step again.

    Attributes:
        loss_function: name of the function of the training code that computes the loss.
    """

    loss_function: str

    def inputs(self) -> Mapping[str, Tensor]:
        """Return the input tensors of the minibatches, by name."""

    def owners(self) -> Sequence[object]:
        """Return the objects whose plain attributes change while a loss is computed."""

    def run(self, optimizer: torch.optim.Optimizer | None) -> Mapping[str, Tensor]:
        """Compute losses and gradients again, until one is not finite.

        Args:
            optimizer: the optimizer that is about to step; None if there is none.

        Returns:
            The results by name, such as the loss.

        Raises:
            CannotRunAgainError: the minibatches cannot be repeated; the message says why.
        """

    def forget(self) -> None:
        """Drop the held minibatches, after the optimizer took its step."""


@dataclass(frozen=True)
class RandomState:
    """The states of the random generators of torch, Python and NumPy."""

    host: Start
    devices: Sequence[Tensor]

    @classmethod
    def now(cls) -> "RandomState":
        """Return the current states."""
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()
        others = _others()
        others.step_over()
        return cls(Start(torch.get_rng_state(), others.of_minibatch()[0]), devices)

    def restore(self) -> None:
        """Make these the current states."""
        self.host.restore()
        if self.devices:
            torch.cuda.set_rng_state_all(list(self.devices))


@cache
def _others() -> GeneratorStates:
    return GeneratorStates()
