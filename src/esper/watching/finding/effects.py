"""Finds calls in a loop's body with side effects, which must not run a second time.

A second run works on copies of the frame's lists, dictionaries and sets, and the plain attributes
of its objects are restored afterwards. Other side effects, such as taking items from a queue or
waiting, cannot be undone.
"""

import ast
import inspect
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MethodDescriptorType, ModuleType
from typing import Any, Final

import numpy as np
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler

#: Methods and functions with side effects, on any object.
_NEVER: Final = frozenset(
    {"next", "input", "open", "reset", "collect", "collect_rollouts", "rollout", "generate"}
    | {"save", "dump", "write", "writelines", "put", "put_nowait", "all_reduce", "barrier"}
    | {"learn", "fit", "send", "sendall", "recv", "accept", "acquire", "release", "wait"}
    | {"get_nowait", "popleft", "appendleft", "rotate", "__next__", "sleep", "urlopen"}
    | {"add_scalar", "add_scalars", "add_histogram", "add_text", "log_metrics", "log_dict"}
)
#: Methods that change their object.
_CHANGING: Final = frozenset({"append", "extend", "insert", "add", "update", "setdefault", "pop"})
_LOGGING: Final = frozenset(
    {"debug", "info", "warning", "warn", "error", "critical", "exception", "log"}
)
_MATHEMATICS: Final = ("torch", "numpy", "math", "cmath", "scipy", "jax")
_PLAIN: Final = (bool, int, float, str, type(None), list, dict, set)
_COPIED: Final = (list, dict, set)
_CHANGEABLE: Final = (list, dict, set, deque, np.ndarray, Tensor)
_UNKNOWN: Final = object()


@dataclass(frozen=True)
class Scope:
    """The variables visible in a loop's body.

    Attributes:
        local: local variables of the frame; the second run gets copies of its containers.
        outer: variables of the module.
        own: names that the body itself assigns; a second run creates them again.
        is_private: whether the second run is in a process that shares no memory with the training.
    """

    local: Mapping[str, Any] = field(default_factory=dict)
    outer: Mapping[str, Any] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    is_private: bool = False

    def value_of(self, expression: ast.expr) -> Any:
        """Return the value of a variable or of its attribute.

        The value is `_UNKNOWN` if finding it would run code of the training.
        """
        if isinstance(expression, ast.Constant):
            return expression.value
        if isinstance(expression, ast.Name):
            name = expression.id
            return self.local.get(name, self.outer.get(name, _UNKNOWN))
        if not isinstance(expression, ast.Attribute):
            return _UNKNOWN
        owner = self.value_of(expression.value)
        if owner is _UNKNOWN:
            return _UNKNOWN
        if isinstance(owner, nn.Module):
            for kept in (owner._modules, owner._parameters, owner._buffers):
                if expression.attr in kept:
                    return kept[expression.attr]
        value = inspect.getattr_static(owner, expression.attr, _UNKNOWN)
        is_computed = isinstance(value, property) or hasattr(type(value), "__get__")
        is_function = inspect.isroutine(value) or isinstance(value, MethodDescriptorType)
        return _UNKNOWN if is_computed and not is_function else value

    def may_change(self, expression: ast.expr) -> bool:
        """Return whether the second run may change a container or its items: only it sees them."""
        while isinstance(expression, ast.Subscript):
            expression = expression.value
        return self.is_private and isinstance(self.value_of(expression), _CHANGEABLE)

    def is_copied(self, expression: ast.expr) -> bool:
        """Return whether a second run uses a copy of a container: a variable or its attribute."""
        base = expression.value if isinstance(expression, ast.Attribute) else expression
        is_local = isinstance(base, ast.Name) and base.id in self.local
        return is_local and type(self.value_of(expression)) in _COPIED


def has_effect(node: ast.AST, scope: Scope) -> bool:
    """Return whether a part of a body has a side effect that cannot be undone, or waits.

    Args:
        node: a part of the body's syntax tree.
        scope: the visible variables.
    """
    try:
        if isinstance(node, (ast.For, ast.comprehension)):
            return _is_consumed(node.iter, scope)
        if isinstance(node, ast.With):
            return any(_is_lock(item.context_expr, scope) for item in node.items)
        return isinstance(node, ast.Call) and _does_more(node, scope)
    except Exception:  # noqa: BLE001 - objects of the training may raise anything when read
        return True


def _is_consumed(iterated: ast.expr, scope: Scope) -> bool:
    """Return whether a loop takes its items from an iterator that existed before."""
    value = scope.value_of(iterated)
    is_own = isinstance(iterated, ast.Name) and iterated.id in scope.own
    return value is not _UNKNOWN and hasattr(type(value), "__next__") and not is_own


def _is_lock(held: ast.expr, scope: Scope) -> bool:
    value = scope.value_of(held)
    return value is not _UNKNOWN and hasattr(type(value), "acquire")


def _does_more(call: ast.Call, scope: Scope) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        to_file = [one.value for one in call.keywords if one.arg == "file"]
        return function.id in _NEVER or (function.id == "print" and bool(to_file))
    if not isinstance(function, ast.Attribute):
        return False
    name, receiver = function.attr, function.value
    words = ast.unparse(receiver).lower()
    if name in _NEVER or (name.startswith("on_") and "callback" in words):
        return True
    value = scope.value_of(receiver)
    if name in _LOGGING:
        return _is_logging(value, words)
    if name == "get":
        return _is_queue(call, value)
    if name == "join":
        return _is_waiting(call, value)
    if name == "step":
        return not _is_stepping(receiver, value, words, scope)
    return name in _CHANGING and _changes(name, receiver, value, words, scope)


def _is_logging(value: object, words: str) -> bool:
    if isinstance(value, (logging.Logger, logging.LoggerAdapter)):
        return True
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] not in _MATHEMATICS
    return value is not _UNKNOWN and "log" in words and not isinstance(value, Tensor)


def _is_queue(call: ast.Call, value: object) -> bool:
    """Return whether `get` takes an item from a queue (rather than reading a dictionary)."""
    if value is not _UNKNOWN:
        is_from_pipe = hasattr(type(value), "put") or hasattr(type(value), "get_nowait")
        return is_from_pipe and not isinstance(value, Mapping)
    key = call.args[0] if call.args else None
    return key is None or (isinstance(key, ast.Constant) and isinstance(key.value, (bool, float)))


def _is_waiting(call: ast.Call, value: object) -> bool:
    """Return whether `join` waits for a thread (rather than joining strings or paths)."""
    if value is not _UNKNOWN:
        return not isinstance(value, (str, bytes, ModuleType))
    return not call.args


def _is_stepping(receiver: ast.expr, value: object, words: str, scope: Scope) -> bool:
    """Return whether `step` is an optimizer's, which a second run skips, or can be undone."""
    if "env" in words:
        return False
    if value is None or value is _UNKNOWN:  # a scaler that is not used is often None
        return True
    if isinstance(value, GradScaler) or hasattr(value, "param_groups"):
        return True
    # The attributes of a scheduler that is a variable are restored.
    is_local = isinstance(receiver, ast.Name) and receiver.id in scope.local
    is_scheduler = isinstance(value, LRScheduler) or "Scheduler" in type(value).__name__
    return is_local and is_scheduler


def _changes(name: str, receiver: ast.expr, value: object, words: str, scope: Scope) -> bool:
    """Return whether a method changes an object that a second run shares with the first."""
    base = receiver
    while isinstance(base, (ast.Subscript, ast.Attribute)):
        base = base.value
    is_own = isinstance(base, ast.Name) and base.id in scope.own
    if (is_own and not isinstance(receiver, ast.Attribute)) or scope.is_copied(receiver):
        return False
    if scope.may_change(receiver):
        return False
    if isinstance(value, (Tensor, nn.Module, ModuleType, GradScaler, type)):
        return False
    if value is _UNKNOWN:
        return not (name in ("add", "pop") or "scaler" in words)
    attributes = getattr(value, "__dict__", None) if isinstance(receiver, ast.Name) else None
    return attributes is None or not all(type(one) in _PLAIN for one in attributes.values())
