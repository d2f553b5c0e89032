"""Where an operation was called: its source line, or the hook of a gradient."""

from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor

from esper.tracing.operations import Place

#: Code of the function that runs every backward pass.
BACKWARD: Final = torch.autograd.graph._engine_run_backward.__code__


def place_of(
    frame: FrameType | None,
    is_skipped: Callable[[str], bool],
    loop: str = "",
    most_callers: int = 0,
    called_from: str = "",
) -> Place:
    """Return the innermost source line that counts, with the lines that called it.

    Args:
        frame: the innermost frame.
        is_skipped: returns whether lines of a source file do not count.
        loop: name of the function that is the training loop's body, whose line always counts; empty
            if there is none.
        most_callers: number of calling lines, at most.
        called_from: source file whose callers do not count.
    """
    inner: FrameType | None = None
    callers: list[tuple[str, int]] = []
    own: tuple[str, int] | None = None
    while frame is not None and own is None:
        code = frame.f_code
        file = code.co_filename
        if loop and code.co_name == loop:
            own = file, frame.f_lineno
        if own is not None or not is_skipped(file):
            if inner is None:
                inner = frame
            elif len(callers) < most_callers:
                callers.append((file, frame.f_lineno))
            if not loop and len(callers) == most_callers:
                break
        if inner is not None and file == called_from:
            break
        frame = frame.f_back
    if inner is None:
        return Place("", 0, "")
    code = inner.f_code
    return Place(code.co_filename, inner.f_lineno, code.co_name, loop=own, callers=tuple(callers))


def parameter_of(node: Any) -> Tensor | None:
    """Return the parameter whose gradient a node of the autograd graph adds up; None for others."""
    variable = getattr(node, "variable", None)
    return variable if isinstance(variable, Tensor) else None


def is_in_hook(frame: FrameType | None, is_skipped: Callable[[str], bool]) -> bool:
    """Return whether the current backward pass called Python code that counts, such as a hook.

    Args:
        frame: the innermost frame.
        is_skipped: returns whether code of a source file does not count.
    """
    while frame is not None and frame.f_code is not BACKWARD:
        if not is_skipped(frame.f_code.co_filename):
            return True
        frame = frame.f_back
    return False
