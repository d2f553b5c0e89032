"""A plain reference for the detection campaign: it checks every operation of an update.

It shares no code with the detector. A dispatch mode receives each operation of the forward passes,
the backward passes and the optimizer's steps. It records where a non-finite value is created: a NaN
from operands without NaN, or an infinity from finite operands. The -inf that a mask fills in is a
constant of its operation and does not count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detection.stage import Stage

_UNFILLED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Scan(TorchDispatchMode):
    """Records operations that create a non-finite value: their operands do not explain it."""

    def __init__(self) -> None:
        super().__init__()
        self.created: list[str] = []  # names of operations
        self.saw_nan = False

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        settings = kwargs or {}
        name = func.overloadpacket.__name__
        if name in _UNFILLED:  # its content is arbitrary memory
            result = func(*args, **settings)
            return result.zero_() if _is_number(result) else result
        if func.is_view:
            return func(*args, **settings)
        operands = [leaf for leaf in tree_leaves((args, settings)) if _is_number(leaf)]
        broken = [operand for operand in operands if not _is_finite(operand)]
        had_nan = any(_has_nan(operand) for operand in broken)
        result = func(*args, **settings)
        # An operation in place returns None or its operand: then the operands are checked again.
        results = [leaf for leaf in tree_leaves(result) if _is_number(leaf)] or operands
        infinite = [leaf for leaf in results if not _is_finite(leaf)]
        has_nan = any(_has_nan(leaf) for leaf in infinite)
        self.saw_nan |= has_nan
        if (has_nan and not had_nan) or (infinite and not broken):
            self.created.append(name)
        return result


def _is_number(leaf: Any) -> bool:
    if isinstance(leaf, Tensor):
        return leaf.is_floating_point()
    return isinstance(leaf, float)


def _has_nan(leaf: Any) -> bool:
    return bool(leaf.isnan().any()) if isinstance(leaf, Tensor) else leaf != leaf


def _is_finite(leaf: Any) -> bool:
    return bool(leaf.isfinite().all()) if isinstance(leaf, Tensor) else leaf - leaf == 0


@contextmanager
def scanning(stage: Stage) -> Iterator[Scan]:
    """Scan the forward passes, backward passes and steps of what the stage's agent does."""
    scan = Scan()

    def scanned(function: Any) -> Any:
        def call(*arguments: Any, **settings: Any) -> Any:
            if torch.utils._python_dispatch._get_current_dispatch_mode() is scan:
                return function(*arguments, **settings)
            with scan:
                return function(*arguments, **settings)

        return call

    agent = stage.agent
    with (
        mock.patch.object(agent, "_forward", scanned(agent._forward)),
        mock.patch.object(agent, "_old_log_probs", scanned(agent._old_log_probs)),
        mock.patch.object(agent.optimizer, "step", scanned(agent.optimizer.step)),
        mock.patch.object(torch.autograd, "grad", scanned(torch.autograd.grad)),
    ):
        yield scan
