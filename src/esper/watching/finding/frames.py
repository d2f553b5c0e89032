"""Reads a training loop's local variables from the frames on the stack.

The variable names in a library (`ratio`, `advantages`, `rollout_data.old_log_prob`) are more
informative than anything that hooks can see.
"""

import dataclasses
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from esper.watching.checks.looks import values_in
from esper.watching.finding.source import in_order_of_assignment, is_throwaway
from esper.watching.model.shards import local

_TORCH = str(Path(torch.__file__).parent)
_ESPER = str(Path(__file__).parents[2])
#: Packages of Esper that call the training, or a repetition of it.
_CALLING = tuple(str(Path(_ESPER, name)) for name in ("integrations", "rerunning"))
_STDLIB = sysconfig.get_path("stdlib")
_MOST_ITEMS = 64  # checked items per container
_DEEPEST = 3
_INNERMOST = 4  # functions around an optimizer's step
_OWN_REFERENCES = 3  # to a frame's copy of its variables: the frame's, one variable, one argument
#: Names of step counters in training loops.
_COUNTERS = ("global_step", "num_timesteps", "timestep", "env_step", "iteration", "it", "step")
#: Words in class names of minibatches in libraries.
_BATCHES = ("batch", "samples", "transition")
#: Attributes of distributions and of libraries' wrappers around them.
_OF_DISTRIBUTIONS = ("distribution", "distributions", "logits", "loc", "scale")


def frames_calling(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and its callers, innermost first.

    They end at the frame in which Esper called the library; frames outside of it are not training.
    """
    while frame is not None and not frame.f_code.co_filename.startswith(_CALLING):
        yield frame
        frame = frame.f_back


def variables_around(frame: FrameType) -> list[object]:
    """Return the variables of the innermost functions of the training that a frame is inside of."""
    own = (one for one in frames_calling(frame) if not is_plumbing(one.f_code.co_filename))
    values = [value for one in islice(own, _INNERMOST) for value in one.f_locals.values()]
    forget_variables(frame)
    return values


def frames_of_traceback(traceback: TracebackType | None) -> list[FrameType]:
    """Return the frames of an exception, innermost first, at the lines where they raised it."""
    frames = []
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_lasti != traceback.tb_lasti:
            place = RaisingFrame(frame, traceback.tb_lineno, traceback.tb_lasti)
            frame = cast(FrameType, place)
        frames.append(frame)
        traceback = traceback.tb_next
    return frames[::-1]


@dataclasses.dataclass(frozen=True)
class RaisingFrame:
    """A frame at the line where it raised an exception, although it has left that line.

    Examples are a script that is in `__exit__` of its `with` statement, or in an `except` clause.

    Attributes:
        frame: the frame, whose other attributes are used.
        f_lineno: number of the line.
        f_lasti: index of the instruction.
    """

    frame: FrameType
    f_lineno: int
    f_lasti: int

    def __getattr__(self, name: str) -> Any:
        """Return another attribute of the frame."""
        return getattr(self.frame, name)


def forget_variables(frame: FrameType | None) -> None:
    """Release the copies of variables that reading a frame and its callers created.

    Before Python 3.13, a function's frame holds a copy of its variables after they were read. This
    copy keeps tensors alive that the function has already dropped. A copy that the training itself
    holds, from `locals()`, is not changed.
    """
    if sys.version_info >= (3, 13):
        return
    while frame is not None:
        code = frame.f_code
        if code.co_flags & inspect.CO_OPTIMIZED:  # in other frames, this is no copy
            held = frame.f_locals
            if sys.getrefcount(held) <= _OWN_REFERENCES:
                for name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars):
                    held.pop(name, None)
        frame = frame.f_back


def counters_in(frames: Sequence[FrameType]) -> str:
    """Return the step counters in the frames of a loop, such as "global_step = 804, step = 4".

    Args:
        frames: frames, innermost first; for equal names, the innermost is used.
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

    They are in order of assignment, so an input comes before the results computed from it.
    Containers, data classes, named tuples and distributions are searched, as in
    `rollout_data.advantages`. A tensor with several names gets the first; `_` is ignored.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    local = frame.f_locals
    names = [name for name in in_order_of_assignment(frame) if not is_throwaway(name)]
    if local is frame.f_globals:  # a script: skip its functions, modules and classes
        names = [name for name in names if not name.startswith("__")]
    for name in names:
        for path, tensor in tensors_in(name, local[name]):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[path] = tensor
    return found


def tensors_in(name: str, value: Any, depth: int = _DEEPEST) -> Iterator[tuple[str, Tensor]]:
    """Yield the floating-point tensors in a value, each with its access expression."""
    try:
        if isinstance(value, Tensor):
            if (tensor := _looked_at(value)) is not None:
                yield name, tensor
            return
        if depth == 0 or isinstance(value, (nn.Module, torch.optim.Optimizer, type, str, bytes)):
            return
        items = list(_items(name, value))
    except Exception:  # noqa: BLE001 - objects of the training may raise anything when read
        return
    for path, item in items:
        yield from tensors_in(path, item, depth - 1)


def _looked_at(value: Tensor) -> Tensor | None:
    """Return a tensor with the readable values of a variable; None if there are none.

    A sparse tensor that requires a gradient is skipped, because its values are not in the graph.
    """
    if not value.is_floating_point() or isinstance(value, nn.Parameter):
        return None
    if value.layout is not torch.strided:
        return None if value.requires_grad else values_in(value)
    value = local(value)
    if type(value) is not Tensor:
        value.detach().isfinite()  # a subclass may not support this
    return None if value.is_meta else value


def _items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the items of an object, each with its access expression."""
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
    """Return whether an object is a library's minibatch, judged by its class name."""
    name = type(value).__name__.lower()
    return hasattr(value, "__dict__") and any(word in name for word in _BATCHES)


def _is_tensor_dict(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "tensordict" and hasattr(value, "items")
