"""Repeats earlier passes of a loop that accumulates gradients.

Such a loop adds up the gradients of several minibatches before a step. Only the last minibatch is
still held, but a loop over numbers or lists can produce the earlier ones again.
"""

import ast
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Final

import numpy as np
from torch import Tensor

from esper.watching.finding.repeating.cannot_run_again import CannotRunAgainError
from esper.watching.finding.source import NoSourceError, is_backward, training_loops, tree_of

#: Functions that return the same values at each call.
_REPEATABLE: Final = frozenset({"range", "enumerate", "zip", "reversed", "len", "min", "max"})
_PLAIN: Final = (int, float, str, list, tuple, range, Tensor, np.ndarray, np.integer)
_MOST_PASSES: Final = 64
_MOST_VALUES: Final = 100_000
_GONE: Final = (
    "gradients are accumulated, and the last minibatch was finite when it was repeated: an earlier "
    "one broke, which is no longer available"
)
NOT_AGAIN: Final = "gradients are accumulated, and each minibatch was finite when it was repeated"


class EarlierIsGoneError(CannotRunAgainError):
    """An earlier minibatch broke, and is no longer available."""


def is_accumulating(frame: FrameType) -> bool:
    """Return whether the optimizer's step, at the current line, is skipped in some passes.

    If the same condition also applies to the backward pass, gradients are not accumulated.
    """
    try:
        loops = training_loops(tree_of(frame), frame.f_lineno)
    except NoSourceError:
        return False
    conditions = (node for node in ast.walk(loops[-1]) if isinstance(node, ast.If)) if loops else ()
    return any(
        one.lineno < frame.f_lineno <= (one.end_lineno or 0) and not _has_backward(one)
        for one in conditions
    )


def _has_backward(statement: ast.stmt) -> bool:
    return any(map(is_backward, ast.walk(statement)))


def values_before(frame: FrameType) -> Iterator[dict[str, Any]]:
    """Yield the values of the loop's variables in the previous passes, newest first.

    Raises:
        EarlierIsGoneError: the loop's values cannot be produced again, such as a loader's batches.
    """
    loop = training_loops(tree_of(frame), frame.f_lineno)[-1]
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
    """Return whether an expression uses only plain attributes of a variable."""
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
