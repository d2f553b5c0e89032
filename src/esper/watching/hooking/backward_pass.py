"""Checks at the end of a backward pass: the loss and, without an optimizer, the gradients."""

import math
from collections.abc import Collection, Sequence
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from esper.watching.finding.frames import frames_calling, is_plumbing

_MOST_NODES = 100_000  # of a graph that are searched


class NoOptimizer:
    """Represents the optimizer of a loop that changes the weights itself.

    Each of its backward passes counts as a step.

    Args:
        parameters: the trained parameters.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters)}]
        self.state: dict[Tensor, Any] = {}


def losses_in(tensors: Any) -> list[Tensor]:
    """Return the scalars that a backward pass was called for."""
    given = (tensors,) if isinstance(tensors, Tensor) else tensors
    return [
        one
        for one in given
        if type(one) is Tensor and one.numel() == 1 and one.is_floating_point() and not one.is_meta
    ]


def is_finite_number(loss: Any) -> bool:
    """Return whether a backward pass was for one finite number, as nearly all are: in one read."""
    return (
        type(loss) is Tensor
        and loss.numel() == 1
        and loss.is_floating_point()
        and not loss.is_meta
        and math.isfinite(loss.item())
    )


class OwnLosses:
    """Tells the losses of the watched models from others.

    Args:
        parameters: ids of the parameters of the models.
    """

    def __init__(self, parameters: Collection[int]) -> None:
        self._parameters = parameters
        self._known: dict[tuple[CodeType, int], bool] = {}

    def has(self, loss: Tensor, frame: FrameType) -> bool:
        """Return whether a loss is one of them; of those of one source line, the first is searched.

        Args:
            loss: whose backward pass was called.
            frame: of that call, or one that it called.
        """
        callers = (f for f in frames_calling(frame) if not is_plumbing(f.f_code.co_filename))
        caller = next(callers, frame)
        place = caller.f_code, caller.f_lineno
        if place not in self._known:
            self._known[place] = self.has_exactly(loss)
        return self._known[place]

    def has_any(self, tensors: Any) -> bool:
        """Return whether a backward pass was called for a loss of the models, or another tensor."""
        given = (tensors,) if isinstance(tensors, Tensor) else tensors
        return any(isinstance(one, Tensor) and self.has_exactly(one) for one in given)

    def has_exactly(self, loss: Tensor) -> bool:
        """Return whether a loss was computed from a parameter; its buffers may be freed."""
        seen: set[Any] = set()
        queue = [loss.grad_fn]
        while queue and len(seen) < _MOST_NODES:
            node: torch.autograd.graph.Node | None = queue.pop()
            if node is None or node in seen:
                continue
            if id(getattr(node, "variable", None)) in self._parameters:
                return True
            seen.add(node)
            queue += [following for following, _ in node.next_functions]
        return False
