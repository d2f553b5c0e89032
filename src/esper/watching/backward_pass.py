"""Checks at the end of a backward pass: the loss and, without an optimizer, the gradients."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

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


def reaches(loss: Tensor, parameters: Collection[int]) -> bool:
    """Return whether a loss was computed from one of some parameters.

    Args:
        loss: the loss whose graph is searched; its buffers may be freed.
        parameters: their ids.
    """
    seen: set[Any] = set()
    queue = [loss.grad_fn]
    while queue and len(seen) < _MOST_NODES:
        node: torch.autograd.graph.Node | None = queue.pop()
        if node is None or node in seen:
            continue
        if id(getattr(node, "variable", None)) in parameters:
            return True
        seen.add(node)
        queue += [following for following, _ in node.next_functions]
    return False
