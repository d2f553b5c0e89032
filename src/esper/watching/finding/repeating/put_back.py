"""Restores, bit for bit, all state that repeating a minibatch may change."""

import copy
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType, ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from esper.watching.finding.repeating.without_partners import without_partners
from esper.watching.model.generators import Start, generators_in, restoring

#: Attributes of every module; parameters, buffers and modes are restored separately.
_OF_MODULES: Final = frozenset(vars(nn.Module()))
_MOST_ITEMS: Final = 10_000  # maximum size of a container to copy recursively


def gradient_state(value: object) -> object | None:
    """Return the state shared by Accelerate's objects; None for any other object."""
    return vars(value).get("gradient_state") if _has_attributes(value) else None


def copy_of(value: Any, depth: int = 3) -> Any:
    """Return a copy of a container; any other value is returned unchanged.

    Nested containers are also copied, up to `depth` levels. A container that cannot be copied is
    returned unchanged.
    """
    try:
        return _copied(value, depth) if isinstance(value, (list, dict, set)) else value
    except Exception:  # noqa: BLE001 - a subclass may raise anything when it is copied
        return value


def _copied(value: Any, depth: int) -> Any:
    copied: Any = copy.copy(value)
    if depth and len(copied) <= _MOST_ITEMS and not isinstance(copied, set):
        for key, item in list(copied.items() if isinstance(copied, dict) else enumerate(copied)):
            if isinstance(item, (list, dict, set)):
                copied[key] = copy_of(item, depth - 1)
    return copied


@contextmanager
def everything_put_back(
    models: Sequence[nn.Module], variables: Sequence[object], start: Start | None = None
) -> Iterator[None]:
    """Restore, at the end, all state that running a minibatch again may change.

    This covers random number generators, gradients, weights that hooks of gradients may change,
    buffers, modes of modules, and plain attributes of objects (numbers, strings, lists,
    dictionaries; for modules also tensors).

    Args:
        models: the trained models.
        variables: variables of the loop's frame, including generators and objects with attributes.
        start: states of the generators to start from; None to use the current ones.

    Raises:
        CannotRunAgainError: the second run called a collective, which needs other processes.
    """
    variables = [each for each in variables if _can_be_asked(each)]
    modules = list({id(m): m for model in models for m in model.modules()}.values())
    parameters = list({id(p): p for model in models for p in model.parameters()}.values())
    gradients = [(parameter, parameter.grad) for parameter in parameters]
    trained = [(parameter, parameter.requires_grad) for parameter in parameters]
    buffers = [
        (module, name, buffer)
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    # Hooks that step inside the backward pass may change these.
    stepped = [
        (one, one._version, one.detach().clone())
        for one in parameters
        if one._post_accumulate_grad_hooks
    ]
    modes = [(module, module.training) for module in modules]
    shared = {id(one): one for each in variables if (one := gradient_state(each)) is not None}
    owners = [*modules, *(each for each in variables if _has_attributes(each)), *shared.values()]
    plain = [(owner, _plain_attributes(owner)) for owner in owners]
    autocasts = [(autocast, dict(vars(autocast))) for autocast in _open_autocasts()]
    own = {id(one): one for one in generators_in([*variables, *modules])}
    generators = [restoring(one) for one in own.values()]
    states = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        # The second run gets its own tensors. Changing the first run's tensors in place and
        # restoring their values would still break a later backward pass.
        for parameter, gradient in gradients:
            parameter.grad = None if gradient is None else torch.zeros_like(gradient)
        for module, name, buffer in buffers:
            module._buffers[name] = buffer.detach().clone()
        if start is not None:
            start.restore()
        for owner, attributes in plain:
            vars(owner).update(
                {
                    name: value.detach().clone() if isinstance(value, Tensor) else copy_of(value)
                    for name, value in attributes.items()
                }
            )
        # In a hook of a backward pass, gradients are off.
        is_inside = torch._C._current_graph_task_id() != -1
        with without_partners(), torch.set_grad_enabled(is_inside or torch.is_grad_enabled()):
            yield
    finally:
        with ExitStack() as back:  # restore everything, even if one callback fails
            for parameter, gradient in gradients:
                back.callback(setattr, parameter, "grad", gradient)
            for parameter, version, weights in stepped:
                if parameter._version != version:
                    back.callback(parameter.data.copy_, weights)
            for parameter, is_trained in trained:
                back.callback(parameter.requires_grad_, is_trained)
            for module, name, buffer in buffers:
                back.callback(_set_buffer, module, name, buffer)
            for module, mode in modes:
                back.callback(setattr, module, "training", mode)
            for owner, attributes in plain:
                back.callback(_set_attributes, owner, attributes)
            for autocast, state_before in autocasts:
                back.callback(_set_attributes, autocast, state_before)
            for restore in generators:
                back.callback(restore)
            back.callback(torch.set_rng_state, states[0])
            back.callback(np.random.set_state, states[1])
            back.callback(random.setstate, states[2])
            if on_devices is not None:
                back.callback(torch.cuda.set_rng_state_all, on_devices)


def _set_buffer(module: nn.Module, name: str, buffer: Tensor) -> None:
    module._buffers[name] = buffer


def _set_attributes(owner: object, attributes: dict[str, Any]) -> None:
    vars(owner).update(attributes)


def _open_autocasts() -> Iterator[torch.autocast]:
    """Yield the autocast contexts in the frames on the stack.

    A decorator or a trainer reuses one context object. If it is entered again while it is open, it
    loses the previous state, and autocast would stay on permanently.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        for value in filter(_can_be_asked, list(frame.f_locals.values())):
            if isinstance(value, torch.autocast):
                yield value
            elif _has_attributes(value) and not isinstance(value, ModuleType):
                yield from (one for one in vars(value).values() if isinstance(one, torch.autocast))
        frame = frame.f_back


def _can_be_asked(value: object) -> bool:
    """Return whether the class of an object can be read; the training's objects may raise."""
    try:
        return value.__class__ is not None
    except Exception:  # noqa: BLE001 - any exception
        return False


def _has_attributes(value: object) -> bool:
    try:
        vars(value)
        return not isinstance(value, (nn.Module, Tensor, type))
    except Exception:  # noqa: BLE001 - objects of the training may raise anything
        return False


def _plain_attributes(owner: object) -> dict[str, Any]:
    kinds: tuple[type, ...] = (bool, int, float, str, list, dict, set)
    own: frozenset[str] = frozenset()
    if isinstance(owner, ModuleType) and owner.__name__.partition(".")[0] == "torch":
        return {}  # a loop changes nothing there, and reading some of its names causes warnings
    if isinstance(owner, nn.Module):
        kinds, own = (*kinds, Tensor), _OF_MODULES
    return {
        name: value
        for name, value in vars(owner).items()
        if name not in own and (value is None or isinstance(value, kinds))
    }
