"""The hooks of a watch: the output layer, gradient clipping, optimizer steps, loss scalers."""

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad
from torch.optim import optimizer as torch_optimizer
from torch.utils.hooks import RemovableHandle

from esper.watching.model.step_arguments import Closure, closure_in, with_closure


class Listener(Protocol):
    """Receives calls from the hooks."""

    def on_output(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Handle one call of the output layer."""

    def on_clip(self, parameters: list[Tensor], norm: Tensor) -> None:
        """Handle the norm of some gradients before they are clipped."""

    def on_backward(self, tensors: Any) -> None:
        """Handle the end of a backward pass."""

    def is_mine(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether an optimizer trains watched parameters."""

    def on_step(
        self, optimizer: torch.optim.Optimizer, closure: Closure | None = None
    ) -> Closure | None:
        """Handle the start of an optimizer step; return the function to call as its closure."""

    def on_step_over(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Handle the end of an optimizer step."""

    def on_left_out(self, optimizer: torch.optim.Optimizer, frame: FrameType) -> None:
        """Handle a step that a loss scaler skipped."""


class OutputHook:
    """A forward hook that survives `deepcopy` and `torch.save` of the model it is on.

    It refers to its listener weakly; a copy has none, and does nothing. A file with such a model
    can be loaded without Esper.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = (lambda: None) if listener is None else weakref.ref(listener)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Pass the call on."""
        listener = self._listener()
        if listener is not None:
            listener.on_output(module, args, kwargs, output)

    def __deepcopy__(self, _memo: object) -> "OutputHook":
        """Return a hook without a listener."""
        return OutputHook()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a function of the standard library that takes anything and returns None."""
        return getattr, (contextlib.nullcontext(), "__exit__")


class ClipWatch:
    """Calls back with the norm of gradients before they are clipped, while it is open.

    `clip_grad_norm_` looks up `_clip_grads_with_norm_` in its module at call time, so replacing
    that reaches callers that imported the function by name, too.
    """

    def __init__(self, callback: Callable[[list[Tensor], Tensor], None]) -> None:
        self._callback: Callable[[list[Tensor], Tensor], None] | None = callback
        self._original = clip_grad._clip_grads_with_norm_
        clip_grad._clip_grads_with_norm_ = self._clip

    def _clip(
        self,
        parameters: Tensor | Iterable[Tensor],
        max_norm: float,
        total_norm: Tensor,
        foreach: bool | None = None,
    ) -> None:
        if self._callback is not None:
            if type(parameters) is not list:
                parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            self._callback(parameters, total_norm)
        self._original(parameters, max_norm, total_norm, foreach)

    def close(self) -> None:
        """Stop calling back; restore the original function once no other watch is open."""
        self._callback = None
        _put_back(clip_grad, "_clip_grads_with_norm_", ClipWatch)


class BackwardWatch:
    """Calls back after each backward pass, while it is open.

    `Tensor.backward` looks up `torch.autograd.backward` at call time.

    Args:
        callback: receives the tensors for which the pass was called.
    """

    def __init__(self, callback: Callable[[Any], None]) -> None:
        self._callback: Callable[[Any], None] | None = callback
        self._original = torch.autograd.backward
        vars(torch.autograd)["backward"] = self._backward

    def _backward(self, tensors: Any, *args: Any, **kwargs: Any) -> None:
        self._original(tensors, *args, **kwargs)
        if self._callback is not None:
            self._callback(tensors)

    def close(self) -> None:
        """Stop calling back; restore the original function once no other watch is open."""
        self._callback = None
        _put_back(torch.autograd, "backward", BackwardWatch)


def _put_back(module: Any, name: str, kind: type[ClipWatch] | type[BackwardWatch]) -> None:
    """Restore a replaced function of a module, if the watches that replaced it are closed."""
    last = getattr(vars(module)[name], "__self__", None)
    while isinstance(last, kind) and last._callback is None:
        vars(module)[name] = last._original
        last = getattr(last._original, "__self__", None)


class ScalerWatch:
    """Calls back when a loss scaler skips a step, while it is open.

    Args:
        callback: receives the optimizer.
    """

    def __init__(self, callback: Callable[[torch.optim.Optimizer], None]) -> None:
        self._callback: Callable[[torch.optim.Optimizer], None] | None = callback
        self._original = original = GradScaler._maybe_opt_step
        own = weakref.ref(self)

        def maybe_step(
            scaler: GradScaler,
            optimizer: torch.optim.Optimizer,
            optimizer_state: dict[str, Any],
            *args: Any,
            **kwargs: Any,
        ) -> float | None:
            steps = []
            handle = optimizer.register_step_pre_hook(lambda *_: steps.append(1))
            try:
                return original(scaler, optimizer, optimizer_state, *args, **kwargs)
            finally:
                handle.remove()
                watch = own()
                if not steps and watch is not None and watch._callback is not None:
                    watch._callback(optimizer)

        vars(maybe_step).update(watch=own, original=original)
        setattr(GradScaler, "_maybe_opt_step", maybe_step)  # noqa: B010 - mypy rejects assignment

    def close(self) -> None:
        """Stop calling back; restore the original method once no other watch is open."""
        self._callback = None
        while (watch := getattr(GradScaler._maybe_opt_step, "watch", None)) is not None:
            last = watch()
            if last is not None and last._callback is not None:
                return
            original = vars(GradScaler._maybe_opt_step)["original"]
            setattr(GradScaler, "_maybe_opt_step", original)  # noqa: B010 - as above


def unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer inside wrappers such as Accelerate's, which cannot be hooked."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


class OwnOptimizers:
    """Decides whether an optimizer trains watched parameters.

    Args:
        given: the optimizers given by the user; the caller keeps them alive.
        parameters: the ids of the watched parameters, by which other optimizers are recognised.
    """

    def __init__(self, given: Iterable[torch.optim.Optimizer], parameters: set[int]) -> None:
        self._given = set(map(id, given))
        self._parameters = parameters
        # By optimizer: the sizes of its groups when it was checked, and the result.
        self._known: weakref.WeakKeyDictionary[torch.optim.Optimizer, tuple[list[int], bool]]
        self._known = weakref.WeakKeyDictionary()

    def has(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether an optimizer trains watched parameters."""
        if id(optimizer) in self._given:
            return True
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        known = self._known.get(optimizer)
        if known is None or known[0] != sizes:
            is_own = any(id(p) in self._parameters for group in groups for p in group["params"])
            known = self._known[optimizer] = (sizes, is_own)
        return known[1]


def bare(model: Any) -> Any:
    """Return the model inside wrappers for training in several processes or on several devices.

    Its parameters then have their original names.
    """
    while isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    return model


def hook_steps(
    optimizers: Iterable[torch.optim.Optimizer],
    before: Callable[[torch.optim.Optimizer, Closure | None], Closure | None],
    after: Callable[[torch.optim.Optimizer, tuple[Any, ...], dict[str, Any]], None],
) -> list[RemovableHandle]:
    """Call back before and after each step of some optimizers, or of all if none are given.

    Args:
        optimizers: the optimizers.
        before: receives the closure of the step; returns the function to call instead.
        after: called with the arguments of the step at its end.
    """

    def before_step(
        optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # Most loops give the optimizer alone.
        closure = None if len(args) == 1 and not kwargs else closure_in(args, kwargs)
        other = before(optimizer, closure)
        return None if other is None or other is closure else with_closure(args, kwargs, other)

    given = list(optimizers)
    if not given:
        return [
            torch_optimizer.register_optimizer_step_pre_hook(before_step),
            torch_optimizer.register_optimizer_step_post_hook(after),
        ]
    handles = []
    for optimizer in given:
        handles.append(optimizer.register_step_pre_hook(before_step))
        handles.append(optimizer.register_step_post_hook(after))
    return handles


class TrainingHooks:
    """All hooks of one watch. They hold only a weak reference to it, so it can be collected.

    Args:
        listener: the watch.
        output_layer: the layer whose output is checked; None to check no output.
        optimizers: optimizers whose steps are checked; if empty, all that train watched parameters.
        hooks_steps: whether hooks detect steps.
    """

    def __init__(
        self,
        listener: Listener,
        output_layer: nn.Module | None,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        hooks_steps: bool,
    ) -> None:
        self._listener = weakref.ref(listener)
        self._output_layer = output_layer
        self._optimizers = optimizers
        self._hooks_steps = hooks_steps
        self._handles: list[RemovableHandle] = []
        self._clip: ClipWatch | None = None
        self._scaler: ScalerWatch | None = None
        self._backward: BackwardWatch | None = None

    def attach(self) -> None:
        """Begin to call the listener."""
        own = self._listener
        listener = own()
        if self._output_layer is not None:
            hook = OutputHook(listener)
            self._handles.append(self._output_layer.register_forward_hook(hook, with_kwargs=True))

        def clipped(parameters: list[Tensor], norm: Tensor) -> None:
            if (listener := own()) is not None:
                listener.on_clip(parameters, norm)

        is_given = bool(self._optimizers)  # then only these are hooked

        def before(optimizer: torch.optim.Optimizer, closure: Closure | None) -> Closure | None:
            if (listener := own()) is not None and (is_given or listener.is_mine(optimizer)):
                return listener.on_step(optimizer, closure)
            return closure

        def after(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
            if (listener := own()) is not None and (is_given or listener.is_mine(optimizer)):
                listener.on_step_over(optimizer)

        def left_out(optimizer: torch.optim.Optimizer) -> None:
            if (listener := own()) is not None and listener.is_mine(optimizer):
                listener.on_left_out(optimizer, sys._getframe(1))

        def backward(tensors: Any) -> None:
            if (listener := own()) is not None:
                listener.on_backward(tensors)

        self._clip = ClipWatch(clipped)
        self._backward = BackwardWatch(backward)
        self._scaler = ScalerWatch(left_out)
        if self._hooks_steps:
            self._handles += hook_steps(self._optimizers, before, after)

    def detach(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for each in (self._clip, self._scaler, self._backward):
            if each is not None:
                each.close()
        self._clip = self._scaler = self._backward = None
