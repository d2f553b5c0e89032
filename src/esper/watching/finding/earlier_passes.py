"""Runs the passes of a loop before the current one again, where gradients are accumulated.

The gradients of several minibatches are added up before a step. Nothing is held of those before the
last, but a loop over numbers or lists gives them again.
"""

import ast
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Final

import numpy as np
from torch import Tensor

from esper.watching.finding.cannot_run_again import CannotRunAgainError
from esper.watching.finding.source import NoSourceError, loops_around, tree_of

#: Functions that give the same values each time they are called.
_REPEATABLE: Final = frozenset({"range", "enumerate", "zip", "reversed", "len", "min", "max"})
_PLAIN: Final = (int, float, str, list, tuple, range, Tensor, np.ndarray, np.integer)
_MOST_PASSES: Final = 64
_MOST_VALUES: Final = 100_000
_GONE: Final = (
    "gradients are accumulated, and the last minibatch was finite when it was repeated: one before "
    "it broke, of which nothing is left"
)
NOT_AGAIN: Final = (
    "gradients are accumulated, and each of their minibatches was finite when it was repeated"
)


class EarlierIsGoneError(CannotRunAgainError):
    """An earlier minibatch broke, and cannot be had again."""


def is_accumulating(frame: FrameType) -> bool:
    """Return whether the current line, the step, is not reached in every pass of its loop.

    Where the condition is one for the backward pass, too, nothing is added up.
    """
    try:
        loops = loops_around(tree_of(frame), frame.f_lineno)
    except NoSourceError:
        return False
    conditions = (node for node in ast.walk(loops[-1]) if isinstance(node, ast.If)) if loops else ()
    return any(
        one.lineno < frame.f_lineno <= (one.end_lineno or 0) and not _has_backward(one)
        for one in conditions
    )


def _has_backward(statement: ast.stmt) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr.endswith("backward")
        for node in ast.walk(statement)
    )


def values_before(frame: FrameType) -> Iterator[dict[str, Any]]:
    """Yield what the loop's own variables were in the passes before the current, newest first.

    Raises:
        EarlierIsGoneError: what the loop runs over can only be had once, as a loader's batches.
    """
    loop = loops_around(tree_of(frame), frame.f_lineno)[-1]
    variables = dict(frame.f_locals)
    if not isinstance(loop, ast.For) or not _is_repeatable(loop.iter, frame):
        raise EarlierIsGoneError(_GONE)
    target = ast.unparse(loop.target)
    names = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
    source = ast.unparse(loop.iter)
    passes: list[dict[str, Any]] = []
    for item in eval(source, dict(frame.f_globals), variables):
        bound: dict[str, Any] = {"_esper_item": item}
        exec(f"{target} = _esper_item", bound)
        values = {name: bound[name] for name in names}
        if all(_is_same(value, variables.get(name)) for name, value in values.items()):
            yield from passes[: -_MOST_PASSES - 1 : -1]
            return
        passes.append(values)
        if len(passes) > _MOST_VALUES:
            break
    raise EarlierIsGoneError(_GONE)


def _is_repeatable(expression: ast.expr, frame: FrameType) -> bool:
    known: Mapping[str, Any] = {**frame.f_globals, **frame.f_locals}
    for node in ast.walk(expression):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name not in _REPEATABLE or name in known:
                return False
        elif isinstance(node, ast.Name):
            is_plain = node.id in _REPEATABLE or isinstance(known.get(node.id), _PLAIN)
            if not is_plain and not _is_attribute_of(expression, node, known):
                return False
        elif not isinstance(node, _ALLOWED):
            return False
    return True


_ALLOWED: Final = (
    *(ast.Attribute, ast.Constant, ast.BinOp, ast.operator, ast.Subscript, ast.Slice),
    *(ast.expr_context, ast.Tuple, ast.List, ast.keyword),
)


def _is_attribute_of(expression: ast.expr, owner: ast.Name, known: Mapping[str, Any]) -> bool:
    """Return whether a variable of any kind is only asked for plain attributes."""
    used = [
        node.attr
        for node in ast.walk(expression)
        if isinstance(node, ast.Attribute) and node.value is owner
    ]
    held = vars(known[owner.id]) if hasattr(known.get(owner.id), "__dict__") else {}
    return bool(used) and all(isinstance(held.get(name), _PLAIN) for name in used)


def _is_same(one: Any, other: Any) -> bool:
    is_plain = type(one) is type(other) and isinstance(one, (int, float, str))
    return one is other or (is_plain and one == other)
