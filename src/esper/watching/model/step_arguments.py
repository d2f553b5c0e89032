"""Finds and replaces the closure in the arguments of an optimizer's step."""

from collections.abc import Callable, Mapping
from typing import Any

#: A function that the optimizer calls during its step; it computes gradients and returns the loss.
Closure = Callable[[], Any]


def closure_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Closure | None:
    """Return the closure in the arguments of a step; the first argument is the optimizer."""
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    return closure if callable(closure) else None


def with_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], closure: Closure
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a step with another closure."""
    if len(args) > 1:
        return (args[0], closure, *args[2:]), kwargs
    return args, {**kwargs, "closure": closure}
