"""Decides which arguments of an operation made its result non-finite."""

import math
from collections.abc import Sequence

from torch import Tensor

from esper.tracing.dispatched_call import DispatchedCall
from esper.tracing.masks import is_mask
from esper.tracing.operations import Scalar

#: Operations that return uninitialised memory.
ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
#: Operations that limit their first argument; the limits may be infinite.
_CLAMPS = frozenset({"clamp", "clamp_min", "clamp_max", "hardtanh"})
#: Arguments that may be infinite: limits, and the order of a norm.
_MAY_BE_INFINITE = frozenset({"min", "max", "min_val", "max_val", "ord", "p"})


def feeding(
    entries: Sequence[tuple[str, Tensor, Tensor]], output: Tensor, call: DispatchedCall
) -> list[tuple[str, Tensor, Tensor]]:
    """Return the arguments whose non-finite values can have caused those in the result.

    A mask is one of them only where nothing else is.

    Args:
        entries: name, tensor and earlier value of the arguments that count.
        output: the result.
        call: the operation.
    """
    found = [entry for entry in entries if feeds(entry, output, call)]
    if call.base in _CLAMPS and any(entry[0] == "self" for entry in found):
        found = [entry for entry in found if entry[0] == "self"]
    faults = [one for one in found if not is_mask(one[2], call.sources[one[0]])]
    return faults or found


def is_poison(number: Scalar, call: DispatchedCall) -> bool:
    """Return whether a number among the arguments alone can make the result non-finite."""
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
