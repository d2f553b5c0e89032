"""Distinguishes the -inf of a mask, which is intended, from a fault.

A mask is applied by `masked_fill`, by `where`, or by adding a tensor of 0 and -inf. An added tensor
can only be recognised as a mask by its use: until a softmax takes it, it may also be a wrong value,
such as a reward of -inf.
"""

from typing import Final, Literal

import torch
from torch import Tensor

from esper.tracing.dispatched_call import DispatchedCall
from esper.tracing.operations import Operation, Poison, is_softmax

#: Operations that only copy, so that a legal -inf in the source stays legal.
COPIES: Final = frozenset(
    {"_to_copy", "clone", "cat", "stack", "index_select", "copy", "expand", "lift_fresh"}
)
#: Operations that write or keep the -inf of a mask.
_FILLING: Final = COPIES | {
    *("fill", "full", "full_like", "new_full", "scalar_tensor", "where", "masked_fill"),
    *("index_put", "index_fill", "index", "scatter", "masked_scatter", "triu", "tril", "repeat"),
    *("_index_put_impl", "fill_diagonal", "slice_scatter", "select_scatter"),
}
#: Operations that write or take -inf at chosen places of a tensor, such as `logits[forbidden]`.
_CHOOSING: Final = frozenset({"index_put", "_index_put_impl", "index_fill", "scatter", "where"})
#: Operations that add their arguments.
_ADDING: Final = frozenset({"add", "baddbmm", "addmm"})
#: Operations on the logits after the mask, that keep -inf where it is.
_SCALING: Final = frozenset({"add", "sub", "mul", "div"})
#: Source of the -inf in a result: no mask, a tensor that may be a mask, or a mask.
Masking = Literal["no", "looks like", "yes"]


def masking(
    call: DispatchedCall,
    inputs: list[tuple[str, Tensor, Tensor]],
    output: Tensor,
    sources: tuple[Operation, ...],
    poisons: tuple[Poison, ...],
) -> Masking:
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
        return "no"
    base = call.base
    if base == "scalar_tensor":  # makes the -inf for a following `where`
        return "yes"
    if base == "masked_fill":
        filled = call.args[1].expand_as(output)
        is_filled = bool(torch.as_tensor(call.args[2] == -torch.inf))
        if is_filled and not (bad & ~filled).any():
            return "yes"
    if not all(source.is_legal for source in sources):
        return "no"
    if any(poison.name.startswith(("weight ", "optimizer ")) for poison in poisons):
        return "no"
    is_certain = not poisons and not any(source.is_unused_mask for source in sources)
    as_sources: Masking = "yes" if is_certain else "looks like"
    masked = [(name, value) for name, _, value in inputs if name in call.broken]
    if len(masked) == 1 and (sources or looks_like_mask(masked[0][1])):
        name, value = masked[0]
        is_kept = base in _ADDING or (base in _SCALING and name == "self" and not poisons)
        if is_kept and _is_at(bad, value):
            return as_sources
        if base == "_log_softmax" and sources and _is_at(bad, value):
            return "yes"
    if sources and not poisons and (base in COPIES or base == "where"):
        return as_sources
    if any(poison.kind != "-inf" for poison in poisons):
        return "no"
    if base in _CHOOSING and all(one.is_unnamed for one in poisons):
        return "looks like"
    is_made = base in _FILLING
    is_made = is_made or (not call.broken and _is_log_of_flags(base, inputs))
    return "looks like" if is_made and looks_like_mask(output) else "no"


def looks_like_mask(values: Tensor) -> bool:
    """Return whether a tensor contains only -inf and 0, and at least one -inf."""
    is_forbidden = values == -torch.inf
    return bool(is_forbidden.any()) and bool((is_forbidden | (values == 0)).all())


def is_mask(value: Tensor, sources: tuple[Operation, ...]) -> bool:
    """Return whether a non-finite argument is known to be a mask, or masked.

    Args:
        value: the argument.
        sources: the operations that produced its non-finite values; empty if it existed before.
    """
    if not sources:
        return looks_like_mask(value)
    return all(source.is_legal for source in sources)


def takes_mask(call: DispatchedCall) -> bool:
    """Return whether an operation shows that the -inf in its argument is that of a mask."""
    return bool(call.broken) and is_softmax(call.base)


def _is_log_of_flags(base: str, inputs: list[tuple[str, Tensor, Tensor]]) -> bool:
    """Return whether an operation is the logarithm of a mask of 0 and 1."""
    if base != "log" or not inputs or inputs[0][1].requires_grad:
        return False
    values = inputs[0][2]
    return bool(((values == 0) | (values == 1)).all())


def _is_at(bad: Tensor, value: Tensor) -> bool:
    """Return whether a result is non-finite exactly where an argument is -inf."""
    sizes = zip(reversed(value.shape), reversed(bad.shape), strict=False)
    if value.ndim > bad.ndim or any(mine not in (1, its) for mine, its in sizes):
        return False
    return torch.equal(bad, (value == -torch.inf).expand_as(bad))
