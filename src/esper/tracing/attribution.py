"""Decides which arguments of an operation made its result non-finite."""

import math

import torch
from torch import Tensor

from esper.tracing.dispatched_call import DispatchedCall
from esper.tracing.operations import Operation, Poison, Scalar

#: Operations that only copy: a legal -inf in the source is a legal -inf in the copy.
COPIES = frozenset({"_to_copy", "clone", "cat", "stack", "index_select", "copy", "expand"})
#: Operations that return uninitialised memory.
ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
#: Operations that limit their first argument; the limits may be infinite.
CLAMPS = frozenset({"clamp", "clamp_min", "clamp_max", "hardtanh"})
#: Arguments that may be infinite: limits, and the order of a norm.
_MAY_BE_INFINITE = frozenset({"min", "max", "min_val", "max_val", "ord", "p"})


def is_masking(
    call: DispatchedCall,
    inputs: list[tuple[str, Tensor, Tensor]],
    output: Tensor,
    sources: tuple[Operation, ...],
    poisons: tuple[Poison, ...],
) -> bool:
    """Return whether every non-finite value in a result is the -inf of a mask.

    Args:
        call: the operation.
        inputs: name, tensor and earlier value of each tensor argument.
        output: the result.
        sources: the operations that made the non-finite inputs.
        poisons: non-finite inputs that no operation made.
    """
    bad = ~output.isfinite()
    if not bad.any() or not (output[bad] == -torch.inf).all():
        return False
    base = call.base
    if base == "scalar_tensor":  # makes the -inf for a following `where`
        return True
    if base == "masked_fill":
        filled = call.args[1].expand_as(output)
        return bool(torch.as_tensor(call.args[2] == -torch.inf)) and not (bad & ~filled).any()
    if poisons or not sources or not all(source.is_legal for source in sources):
        return False
    if base == "_log_softmax":
        return torch.equal(bad, inputs[0][2] == -torch.inf)
    if base in ("add", "sub"):  # of finite values, as where logits are normalised
        masked = [(name, value) for name, _, value in inputs if name in call.broken]
        return [name for name, _ in masked] == ["self"] and torch.equal(
            bad, (masked[0][1] == -torch.inf).expand_as(bad)
        )
    return base in COPIES or base == "where"


def is_poison(number: Scalar, call: DispatchedCall) -> bool:
    """Return whether a number among the arguments can make the result non-finite by itself."""
    if math.isfinite(number.value) or number.name in _MAY_BE_INFINITE:
        return False
    return not (call.base == "masked_fill" and number.value == -math.inf)


def feeds(entry: tuple[str, Tensor, Tensor], output: Tensor, call: DispatchedCall) -> bool:
    """Return whether non-finite values of an argument can have caused those in the result."""
    name, _, value = entry
    if name not in call.broken:
        return False
    if not call.is_elementwise or not _broadcasts(value, output):
        return True
    bad = ~output.isfinite() & ~value.isfinite().expand_as(output)
    if call.base == "where" and name in ("self", "other"):
        takes_self = call.args[0].expand_as(output)
        bad &= takes_self if name == "self" else ~takes_self
    return bool(bad.any())


def value_at(value: Tensor, output: Tensor, call: DispatchedCall) -> float | None:
    """Return an argument's value at the first non-finite element of an elementwise result."""
    if not call.is_elementwise or not _broadcasts(value, output):
        return None
    bad = (~output.isfinite()).nonzero()
    if not len(bad):
        return None
    number = float(value.expand_as(output)[tuple(bad[0].tolist())].item())
    return number if math.isfinite(number) else None


def _broadcasts(value: Tensor, output: Tensor) -> bool:
    sizes = zip(reversed(value.shape), reversed(output.shape), strict=False)
    return value.ndim <= output.ndim and all(mine in (1, its) for mine, its in sizes)
