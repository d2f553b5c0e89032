"""Checks at the end of a backward pass: the loss and, without an optimizer, the gradients."""

import math
from collections.abc import Callable, Collection, Sequence
from types import CodeType, FrameType
from typing import Any, Final, cast

import torch
from torch import Tensor

from esper.watching.checks.device_flags import DeviceFlags
from esper.watching.finding.frames import frames_calling, is_plumbing
from esper.watching.recorder import UpdateRecord

_MOST_NODES = 100_000  # maximum number of nodes of a graph that are searched
_NO_PASS: Final = -1  # autograd's number where no backward pass runs


class _NoOptimizer:
    """Represents the optimizer of a loop that changes the weights itself.

    Each of its backward passes counts as a step.

    Args:
        parameters: the trained parameters.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters)}]
        self.state: dict[Tensor, Any] = {}


def no_optimizer(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Return a replacement for the optimizer of a loop that changes these parameters itself."""
    return cast(torch.optim.Optimizer, _NoOptimizer(parameters))


def losses_in(tensors: Any) -> list[Tensor]:
    """Return the scalars that a backward pass was called for."""
    given = (tensors,) if isinstance(tensors, Tensor) else tensors
    return [
        one
        for one in given
        if type(one) is Tensor and one.numel() == 1 and one.is_floating_point() and not one.is_meta
    ]


class OwnLosses:
    """Distinguishes the losses of the watched models from others.

    Args:
        parameters: ids of the parameters of the models.
    """

    def __init__(self, parameters: Collection[int]) -> None:
        self._parameters = parameters
        self._known: dict[tuple[CodeType, int], bool] = {}

    def has(self, loss: Tensor, frame: FrameType) -> bool:
        """Return whether a loss is one of them; the result is cached for each source line.

        Args:
            loss: the loss whose backward pass was called.
            frame: frame of that call, or of a function that it called.
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
        """Return whether a loss was computed from a parameter, also after its backward pass."""
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


class StepsInBackward:
    """The optimizer steps that hooks of gradients take inside of a backward pass.

    Those of one pass are one minibatch, and their norms are one norm.

    Attributes:
        is_open: whether the last step was in a backward pass that is not over.
    """

    def __init__(self) -> None:
        self._pass = _NO_PASS
        self.is_open = False
        self._norms: list[float] = []

    def is_first(self, begin: Callable[[], None]) -> bool:
        """Note that a step begins; return whether it is the first of its minibatch.

        Args:
            begin: begins a minibatch. It is called if the end of the last pass was not seen.
        """
        before, self._pass = self._pass, torch._C._current_graph_task_id()
        self.is_open = self._pass != _NO_PASS
        if before == _NO_PASS:
            return True
        if self._pass == before:
            return False
        begin()
        return True

    def hold_norm(self, norm: float) -> None:
        """Hold the norm of the gradients of one step."""
        self._norms.append(norm)

    def end(self, record: UpdateRecord, flags: DeviceFlags | None) -> None:
        """Note that the backward pass is over; add its norm to the update's record or flags."""
        if flags is not None:
            flags.note_held(record.minibatch)
        elif self._norms:
            record.add_norm(math.hypot(*self._norms))
        self._norms, self._pass, self.is_open = [], _NO_PASS, False


def is_inside_backward() -> bool:
    """Return whether a hook of a backward pass is running."""
    return torch._C._current_graph_task_id() != _NO_PASS
