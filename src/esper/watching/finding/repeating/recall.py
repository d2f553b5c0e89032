"""Repeats only the call of a model, if its training loop must not be run again.

For example, a loop that acts steps an environment. The call of the model itself has no such side
effect: it is found on the stack with its arguments, and repeated under the tracer.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import nn

from esper.watching.finding.repeating.cannot_run_again import CannotRunAgainError

#: Methods of `nn.Module` that pass on the arguments of a call unchanged.
_PASSING_ON = ("_call_impl", "_wrapped_call_impl")


def model_call(stack: Sequence[FrameType], models: Sequence[nn.Module]) -> Callable[[], Any]:
    """Return the outermost call of a model on the stack, ready to be repeated.

    Args:
        stack: frames, innermost first.
        models: the watched models; a call of a submodule counts, too.

    Raises:
        CannotRunAgainError: no frame is a call of a model.
    """
    modules = {id(module) for model in models for module in model.modules()}
    for frame in reversed(stack):
        owner = frame.f_locals.get("self")
        if owner is None or id(owner) not in modules:
            continue
        name = frame.f_code.co_name
        if name in _PASSING_ON:
            arguments = frame.f_locals
            return partial(owner, *arguments.get("args", ()), **arguments.get("kwargs", {}))
        method = getattr(owner, name, None)
        if getattr(getattr(method, "__func__", None), "__code__", None) is frame.f_code:
            return _with_arguments(method, frame)
    raise CannotRunAgainError("no call of the model is on the stack")


def _with_arguments(method: Any, frame: FrameType) -> Callable[[], Any]:
    """Return a call of a method with the current values of its arguments."""
    code, local = frame.f_code, frame.f_locals
    count = code.co_argcount + code.co_kwonlyargcount
    names = [name for name in code.co_varnames[1:count] if name in local]
    positional = [name for name in names if name in code.co_varnames[: code.co_posonlyargcount]]
    keywords = {name: local[name] for name in names if name not in positional}
    further = code.co_varnames[count:]
    if code.co_flags & 0x04 and further:  # *args
        more = local.get(further[0], ())
        return partial(method, *(local[name] for name in names), *more)
    return partial(method, *(local[name] for name in positional), **keywords)


def with_gradients_as(is_training: bool, call: Callable[[], Any]) -> Callable[[], Any]:
    """Return the call, with gradients enabled or disabled as in the first one."""

    def again() -> Any:
        with torch.set_grad_enabled(is_training):
            return call()

    return again
