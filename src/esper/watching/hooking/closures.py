"""Optimizer steps with a closure, which computes the gradients during the step.

`LBFGS.step(closure)` calls its closure several times, and changes the weights in between. So the
gradients are checked after each call, before the optimizer uses them.
"""

import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from esper.watching.checks.held import PutAside
from esper.watching.finding.frames import frames_calling
from esper.watching.guard import Guard
from esper.watching.model.step_arguments import Closure


class ClosureSteps:
    """The steps with a closure of all optimizers; at most one is open.

    Args:
        look: checks the gradients after each call of a closure; it receives the optimizer and the
            innermost frame.
        guard: the watch's guard.
        is_kept: whether weights and the optimizer's state are copied before each step;
            `put_back` needs this.

    Attributes:
        open_step: the open step; None if there is none.
    """

    def __init__(
        self,
        look: Callable[[torch.optim.Optimizer, FrameType], None],
        guard: Guard,
        *,
        is_kept: bool,
    ) -> None:
        self._look = look
        self._guard = guard
        self._is_kept = is_kept
        self.open_step: _ClosureStep | None = None
        self._kept: _Kept | None = None
        # By optimizer: the gradients of its last step, with their version counters.
        self._used: weakref.WeakKeyDictionary[
            torch.optim.Optimizer, list[tuple[weakref.ref[Tensor], int]]
        ] = weakref.WeakKeyDictionary()

    @property
    def generator(self) -> Tensor | None:
        """State of torch's random generator before the last call of the open step's closure.

        None before the first call, and without an open step.
        """
        return None if self.open_step is None else self.open_step.generator

    def begin(self, optimizer: torch.optim.Optimizer, closure: Closure) -> Closure:
        """Open a step; return a function that the optimizer calls instead of its closure."""
        self.open_step, self._kept = _ClosureStep(optimizer, closure, self._look), None
        if self._is_kept:
            with self._guard:  # there may be no memory for it
                self._kept = _Kept(optimizer)
        return self.open_step

    def has_new_gradients(self) -> bool:
        """Return whether gradients were computed between the last step and the open one.

        Otherwise they are the last step's, and the closure computes them again.
        """
        if self.open_step is not None:
            with self._guard:
                used = self._used.get(self.open_step.optimizer, ())
                known = {id(gradient()): version for gradient, version in used}
                gradients = _gradients_of(self.open_step.optimizer)
                return any(known.get(id(one)) != one._version for one in gradients)
        return False

    def leave_out(self) -> None:
        """Make the open step change nothing, by removing the gradients from now on."""
        if self.open_step is not None:
            self.open_step.is_left_out = True

    def put_back(self) -> None:
        """Restore weights and the optimizer's state of the open step, if they were copied."""
        if self._kept is not None:
            with self._guard:
                self._kept.put_back()

    def end(self) -> None:
        """Close the open step, if there is one."""
        if self.open_step is None:
            return
        step = self.open_step
        if step.is_left_out:
            self.put_back()
        self.open_step = self._kept = None
        with self._guard:
            gradients = _gradients_of(step.optimizer)
            self._used[step.optimizer] = [(weakref.ref(one), one._version) for one in gradients]

    def is_open_for_other(self, optimizer: torch.optim.Optimizer | None) -> bool:
        """Return whether the open step is of another optimizer."""
        return self.open_step is not None and optimizer not in (None, self.open_step.optimizer)

    def is_inside(self, frame: FrameType) -> bool:
        """Return whether a frame was called by the open step; forget a step that failed."""
        if self.open_step is None:
            return False
        own = self.open_step.optimizer
        if any(one.f_locals.get("self") is own for one in frames_calling(frame)):
            return True
        self.open_step = self._kept = None
        return False

    def frames_calling(self, frame: FrameType) -> list[FrameType]:
        """Return a frame and its callers, without those in which an optimizer calls its closure.

        The loops in these frames are not the training loop.
        """
        frames = list(frames_calling(frame))
        if self.open_step is None:
            return frames
        owners = [one.f_locals.get("self") for one in frames]
        is_own = [owner is self.open_step.optimizer for owner in owners]
        first = next((number for number, owner in enumerate(owners) if owner is self.open_step), 0)
        last = max((number for number, own in enumerate(is_own) if own), default=-1)
        return [*frames[:first], *frames[last + 1 :]] if last >= first else frames


class _ClosureStep:
    """A function that an optimizer calls instead of its closure.

    Attributes:
        optimizer: the optimizer.
        is_left_out: whether it finds no gradients, and the closure is not called again.
        generator: state of torch's random generator before the last call; None before the first.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        closure: Closure,
        look: Callable[[torch.optim.Optimizer, FrameType], None],
    ) -> None:
        self.optimizer = optimizer
        self.is_left_out = False
        self.generator: Tensor | None = None
        self._closure = closure
        self._look = look
        self._results: list[Any] = []

    def __call__(self) -> Any:
        """Call the closure, unless the step is left out; return the result."""
        if self.is_left_out and self._results:
            return self._results[0]
        self.generator = torch.get_rng_state()
        result = self._closure()
        if not self.is_left_out:
            self._look(self.optimizer, sys._getframe())
        if self.is_left_out:
            PutAside().take(self.optimizer)
            # A line search may fail with a NaN, so return the result of an earlier call, if any.
            self._results = self._results or [result]
            return self._results[0]
        self._results = [result]
        return result


class _Kept:
    """A copy of an optimizer's parameters, state and settings."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._keep(optimizer.param_groups)
        self._keep(optimizer.state)

    def _keep(self, value: Any) -> None:
        if isinstance(value, Tensor):
            if id(value) not in self._tensors:
                self._tensors[id(value)] = value, value.detach().clone()
        elif isinstance(value, (dict, list)) and id(value) not in self._containers:
            items = dict(value) if isinstance(value, dict) else list(value)
            self._containers[id(value)] = value, items
            for item in items.values() if isinstance(items, dict) else items:
                self._keep(item)
        elif isinstance(value, tuple):
            for item in value:
                self._keep(item)

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore the values in place, so the same objects stay in use."""
        for container, items in self._containers.values():
            container.clear()
            (container.update if isinstance(container, dict) else container.extend)(items)
        for tensor, copy in self._tensors.values():
            tensor.copy_(copy)


def _gradients_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return [p.grad for p in parameters if p.grad is not None]
