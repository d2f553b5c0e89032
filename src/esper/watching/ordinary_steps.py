"""The checks of a step in which nothing is wrong, as in nearly all: one flat function per hook.

Each handles only the common case, and leaves all others to `MinibatchWatch`, which does the same
at length. The numbers are cheap to read. What costs is what surrounds them: between the operations
of a training, nothing of Esper is in the processor's caches, so each call of a function, context
manager or new object takes 0.3 to 1 µs (`benchmarks/watch_overhead.py`).
"""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.linalg import vector_norm

from esper.watching.hooking.backward_pass import is_inside_backward
from esper.watching.minibatch_watch import MinibatchWatch
from esper.watching.model.step_arguments import Closure


class OrdinarySteps(MinibatchWatch):
    """Checks each minibatch where numbers are read at once; see `MinibatchWatch`.

    It needs no flags and no repeater. The same is detected with and without it.
    """

    def on_output(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Handle one call of the output layer; in training, if its output is finite."""
        if (
            type(output) is Tensor
            and output.requires_grad  # in training
            and not self.has_acted
            and self._explainer.seen is None
            and not is_dynamo_compiling()
        ):
            # In a training, a norm takes 1 to 2 µs less than a sum, and a sum half the time of
            # `isfinite().all()`. Like a sum, it may overflow: then all values are checked below.
            try:
                norm = vector_norm(output.detach()).item()
            except Exception:  # noqa: BLE001 - an output that has no norm is summed below
                norm = math.nan
            if math.isfinite(norm):
                self._is_learning = True
                return
        super().on_output(module, args, kwargs, output)

    def on_backward(self, tensors: Any) -> None:
        """Check the loss at the end of a backward pass, if it is one finite number."""
        if (
            self.has_optimizer
            and type(tensors) is Tensor
            and not self._in_backward.is_open
            and not is_dynamo_compiling()
        ):
            try:
                loss = tensors.item()
            except Exception:  # noqa: BLE001 - not one number
                loss = math.nan
            if math.isfinite(loss):
                self.held.stepped_loss = ""
                return
        super().on_backward(tensors)

    def on_clip(self, parameters: list[Tensor], norm: Tensor) -> None:
        """Handle the norm of some gradients before they are clipped."""
        if (
            self.record.steps  # the first step of an update is measured, too
            and self._explainer.seen is None
            and type(norm) is Tensor
            and parameters
            and id(parameters[0]) in self._ids
        ):
            try:
                self.held.hold_norm(parameters, norm, self._parts)
            except Exception as error:  # noqa: BLE001 - training continues
                self._guard.count(error)
            return
        super().on_clip(parameters, norm)

    def on_step(
        self, optimizer: torch.optim.Optimizer, closure: Closure | None = None
    ) -> Closure | None:
        """Handle the start of an optimizer step, if its gradients are finite."""
        record, held = self.record, self.held
        if (
            closure is None
            and record.steps
            and self.has_optimizer
            and self._explainer.seen is None
            and self._closures.open_step is None
            and self._reaction.is_alone
            and not held.results
            and not held.bad_loss
            and not held.stepped_loss
            and not self._in_backward.is_open
            and not is_inside_backward()
        ):
            try:
                norm = held.norm_of(optimizer)
            except Exception:  # noqa: BLE001 - as above
                norm = None
            if norm is not None and math.isfinite(norm):
                self.last_optimizer = optimizer
                record.begin_step()
                record.add_norm(norm)
                return None
        return super().on_step(optimizer, closure)

    def on_step_over(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Handle the end of a step, unless the update may end with it."""
        if (
            self._explainer.seen is not None
            or self._closures.open_step is not None
            or self._put_aside.is_used
            or self._in_backward.is_open
            or (self.finds_updates and not self._acts)
        ):
            super().on_step_over(optimizer)
            return
        record = self.record
        record.is_stepping = self._is_learning = False
        self.held.forget()
        self.std.calls = 0  # weights may have changed
        self._began = time.monotonic()
        self._starts.step_over(is_first=record.steps == 1)
