"""Reads a training loop's own local variables from the frames that are on the stack.

The names that a library gives its tensors (`ratio`, `advantages`, `rollout_data.old_log_prob`) say
more than anything that a hook can know.
"""

import dataclasses
import inspect
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper.watching.finding.source import in_order_of_assignment, is_throwaway
from esper.watching.looks import values_in
from esper.watching.shards import local

_TORCH = str(Path(torch.__file__).parent)
_ESPER = str(Path(__file__).parents[2])
#: Packages of Esper that call the training, or a repetition of it.
_CALLING = tuple(str(Path(_ESPER, name)) for name in ("integrations", "rerunning"))
_STDLIB = sysconfig.get_path("stdlib")
_MOST_ITEMS = 64  # of one container that are looked at
_DEEPEST = 3
#: Names that training loops have for the number of a step.
_COUNTERS = ("global_step", "num_timesteps", "timestep", "env_step", "iteration", "it", "step")
#: Words in the names of the classes that libraries have for minibatches.
_BATCHES = ("batch", "samples", "transition")
#: Attributes of distributions and of the wrappers that libraries put around them.
_OF_DISTRIBUTIONS = ("distribution", "distributions", "logits", "loc", "scale")


def frames_calling(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and its callers, innermost first.

    They end where Esper called the library: what called Esper has no variables of the training.
    """
    while frame is not None and not frame.f_code.co_filename.startswith(_CALLING):
        yield frame
        frame = frame.f_back


def frames_of_traceback(traceback: TracebackType | None) -> list[FrameType]:
    """Return the frames of an exception, innermost first."""
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames[::-1]


def counters_in(frames: Sequence[FrameType]) -> str:
    """Return what the frames of a loop count its steps with: "global_step = 804, step = 4".

    Args:
        frames: innermost first; of the same name, the innermost counts.
    """
    found: dict[str, int] = {}
    for frame in frames:
        for name in _COUNTERS:
            value = frame.f_locals.get(name)
            if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
                found.setdefault(name, int(value))
    return ", ".join(f"{name} = {found[name]}" for name in _COUNTERS if name in found)


def is_plumbing(file: str) -> bool:
    """Return whether a source file belongs to torch, to Esper or to the standard library."""
    if file.startswith((_TORCH, _ESPER, "<frozen")):
        return True
    return file.startswith(_STDLIB) and "site-packages" not in file


def named_tensors(frame: FrameType) -> dict[str, Tensor]:
    """Return the floating-point tensors among a frame's variables, by name.

    The order is that in which the variables got their values, so an input stands before what is
    computed from it. Containers, data classes, named tuples and distributions are opened:
    `rollout_data.advantages`. Each tensor has one name, the first; `_` is none.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    local = frame.f_locals
    names = [name for name in in_order_of_assignment(frame) if not is_throwaway(name)]
    if local is frame.f_globals:  # a script: its functions, modules and classes are no variables
        names = [name for name in names if not name.startswith("__")]
    for name in names:
        for path, tensor in tensors_in(name, local[name]):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[path] = tensor
    return found


def tensors_in(name: str, value: Any, depth: int = _DEEPEST) -> Iterator[tuple[str, Tensor]]:
    """Yield the floating-point tensors in a value, with the expressions that lead to them."""
    try:
        if isinstance(value, Tensor):
            if (tensor := _looked_at(value)) is not None:
                yield name, tensor
            return
        if depth == 0 or isinstance(value, (nn.Module, torch.optim.Optimizer, type, str, bytes)):
            return
        items = list(_items(name, value))
    except Exception:  # noqa: BLE001 - an object of the training may refuse to be opened in any way
        return
    for path, item in items:
        yield from tensors_in(path, item, depth - 1)


def _looked_at(value: Tensor) -> Tensor | None:
    """Return a tensor of which a watch can read all values; None if there is none.

    A sparse tensor that is a result of training is left out: its values are no tensor of the graph.
    """
    if not value.is_floating_point() or isinstance(value, nn.Parameter):
        return None
    if value.layout is not torch.strided:
        return None if value.requires_grad else values_in(value)
    value = local(value)
    if type(value) is not Tensor:
        value.detach().isfinite()  # of a class of its own, which may refuse
    return None if value.is_meta else value


def _items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds, with the expression that leads to it."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        for field in value._fields:
            yield f"{name}.{field}", getattr(value, field)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value[:_MOST_ITEMS]):
            yield f"{name}[{number}]", item
    elif isinstance(value, Mapping) or _is_tensor_dict(value):
        for number, (key, item) in enumerate(value.items()):
            if number == _MOST_ITEMS:
                return
            yield f"{name}[{key!r}]", item
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f"{name}.{field.name}", inspect.getattr_static(value, field.name, None)
    elif _is_batch(value):
        for attribute, item in list(vars(value).items())[:_MOST_ITEMS]:
            yield f"{name}.{attribute}", item
    elif "distribution" in type(value).__module__:
        for attribute in _OF_DISTRIBUTIONS:
            held = vars(value).get(attribute) if hasattr(value, "__dict__") else None
            if held is not None:
                yield f"{name}.{attribute}", held


def _is_batch(value: Any) -> bool:
    """Return whether an object is a minibatch of a library's own class, by the name of that."""
    name = type(value).__name__.lower()
    return hasattr(value, "__dict__") and any(word in name for word in _BATCHES)


def _is_tensor_dict(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "tensordict" and hasattr(value, "items")
