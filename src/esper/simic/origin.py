"""Where what was not finite began: the first operation, the way from there, the likely cause."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from esper.simic.operations import Operation, TensorRange

_PLANTING = "planting.py"
_PRODUCTS = frozenset(
    {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "convolution", "lstm"}
    | {"mkldnn_rnn_layer", "mkldnn_rnn_layer_backward", "_thnn_fused_lstm_cell"}
)
_OVERFLOWING = frozenset(
    {"mul", "square", "pow", "prod", "linalg_vector_norm", "native_layer_norm", "mse_loss"}
)
_SUMS = frozenset({"add", "sub", "rsub", "sum", "mean", "cumsum", "index_add", "std_mean", "var"})
_PICKS = frozenset({"gather", "index", "select", "take_along_dim"})


@dataclass(frozen=True)
class Origin:
    """Where it began, and how it came from there to what was seen."""

    operation: Operation
    chain: tuple[Operation, ...]  # from the operation to what made the tensor that was seen
    cause: str


@dataclass(frozen=True)
class Columns:
    """Which part of a tensor's last axis belongs to the head in which something was seen.

    Of its first axis, if it holds parameters or what is kept of them.
    """

    size: int  # of the axis
    own: range
    of_rows: bool = False

    def excludes(self, operation: Operation) -> bool:
        """Return whether an operation broke such a tensor, and in other columns only."""
        axis = operation.rows if self.of_rows else operation.columns
        if axis is None:
            return False
        size, broken = axis
        return size == self.size and broken.isdisjoint(self.own)


def find_origin(
    makers: Iterable[Operation],
    injections: Sequence[str] = (),
    columns: Sequence[Columns] = (),
) -> Origin | None:
    """Return where what is not finite began, or None if nothing made it.

    Args:
        makers: the operations that made the tensor in which it was seen.
        injections: drills that were planted, as text.
        columns: the parts of tensors that belong to the head in which it was seen; what broke in
            other parts of such tensors is another failure.
    """

    def counts(operation: Operation) -> bool:
        return not operation.is_legal and not any(part.excludes(operation) for part in columns)

    # Breadth first, so that the way back is a shortest one.
    towards: dict[Operation, Operation | None] = {maker: None for maker in makers if counts(maker)}
    queue = deque(towards)
    starts = []
    while queue:
        operation = queue.popleft()
        causes = [cause for cause in operation.causes if counts(cause)]
        if operation.poisons or not causes:
            starts.append(operation)
        for cause in causes:
            if cause not in towards:
                towards[cause] = operation
                queue.append(cause)
    if not starts:
        return None
    first = min(starts, key=lambda operation: operation.number)
    chain = [first]
    while (after := towards[chain[-1]]) is not None:
        chain.append(after)
    return Origin(first, tuple(chain), likely_cause(first, injections))


def likely_cause(operation: Operation, injections: Sequence[str] = ()) -> str:
    """Return, in one line, why an operation made what is not finite of what was."""
    if operation.place.file.endswith(_PLANTING):
        return f"planted by a drill: {', '.join(injections)}"
    if operation.poisons:
        return _poisoned(operation)
    derivative = operation.autograd.removesuffix("0").removesuffix("Backward")
    where = f", in the derivative of {derivative}" if derivative else ""
    return _arithmetic(operation) + where


def _poisoned(operation: Operation) -> str:
    """Return the cause of an operation that got poison from outside."""
    poison = operation.poisons[0]
    more = len(operation.poisons) - 1
    others = f" (and {more} other tensor{'s' if more > 1 else ''} with it)" if more else ""
    sort = {
        "weight ": "poisoned weight: ",
        "optimizer ": "corrupted optimizer state: ",
        "the constant ": "a constant of the program: ",
    }
    text = str(poison)
    for prefix, words in sort.items():
        if text.startswith(prefix):
            return f"{words}{text.removeprefix(prefix)} is {poison.kind}{others}"
    return f"poisoned input: {text} is {poison.kind}{others}"


def _arithmetic(operation: Operation) -> str:
    """Return the cause of an operation that did it by itself."""
    base, output = operation.base, operation.outputs[0]
    inputs = {part.name: part for part in operation.inputs}
    left = operation.inputs[0] if operation.inputs else output
    limit = _limit(output.dtype)
    if base == "_to_copy":
        return (
            f"overflow in a cast to {output.dtype}: values reach {left.largest:.4g}, "
            f"and {output.dtype} ends at {limit:.4g}"
        )
    if operation.sources:  # only legal ones, or this would not be where it began
        return _mishandled_mask(base, output)
    if base in _PRODUCTS:
        reached = " and ".join(f"{size:.3g}" for size in _largest(operation.inputs))
        summed = " and inf - inf" if output.nan else ""
        return (
            f"matmul overflow{summed}: factors reach {reached}, "
            f"and {output.dtype} ends at {limit:.4g}"
        )
    if base in ("exp", "expm1", "exp2", "sinh", "cosh"):
        return f"overflow in {base}: its argument reaches {left.maximum:.4g}"
    if base in ("log", "log2", "log10", "log1p"):
        least = left.minimum or 0.0
        return f"log of 0 or less: its argument falls to {least:.4g}"
    if base == "_log_softmax":
        return (
            f"log of 0: logits from {left.minimum:.4g} to {left.maximum:.4g} lie further apart "
            f"than {output.dtype} reaches"
        )
    if base in ("div", "true_divide", "reciprocal"):
        return _division(operation)
    if base in ("sqrt", "rsqrt"):
        return f"{'1 / 0' if output.plus_inf else 'root of a negative number'}, in {base}"
    if base.startswith("_fused_adam"):
        return _optimizer_step(operation, inputs)
    if base in _OVERFLOWING:
        return f"overflow in {base}: values reach {_reached(operation)}"
    if base in _SUMS:
        return f"overflow in {base}: values reach {max(_largest(operation.inputs)):.4g}"
    return f"{base} made {' and '.join(output.kinds)} of finite values"


def _mishandled_mask(base: str, output: TensorRange) -> str:
    """Return the cause where the -inf of a mask, legal by itself, came to count."""
    if base in _PICKS:
        return "log of 0: the choice taken has probability zero, for its mask forbids it"
    if base == "_log_softmax":
        if output.nan:
            return "inf - inf: every choice of a head is masked"
        return "log of 0: logits lie further apart than the type reaches"
    if base == "mul":
        return "inf * 0: the -inf of a mask was multiplied by 0"
    if base in _SUMS:
        return "inf - inf: the -inf of a mask was summed up"
    return f"the -inf of a mask came to count, in {base}"


def _division(operation: Operation) -> str:
    output = operation.outputs[0]
    if output.nan:
        return "0 / 0"
    divisor = operation.inputs[-1]
    if divisor.minimum is not None and divisor.maximum is not None:
        least = min(abs(divisor.minimum), abs(divisor.maximum))
        if divisor.minimum <= 0 <= divisor.maximum or least == 0:
            return "division by 0"
    return "overflow in a division by a number near 0"


def _optimizer_step(operation: Operation, inputs: dict[str, TensorRange]) -> str:
    for name, part in inputs.items():
        if name.startswith("exp_avg_sqs") and part.minimum is not None and part.minimum < 0:
            moment = part.of.removeprefix("optimizer ")
            return (
                f"corrupted optimizer state: the second moment {moment} is negative "
                f"({part.minimum:.4g}), and its square root is NaN"
            )
    return f"overflow in the optimizer's step: its input reaches {_reached(operation)}"


def _reached(operation: Operation) -> str:
    """Return the two largest magnitudes of what went in, numbers among the arguments included."""
    sizes = [(part.largest, f" ({part.of})" if part.of else "") for part in operation.inputs]
    sizes += [(abs(value), f" ({name})") for name, value in operation.scalars]
    two = sorted(sizes, reverse=True)[:2]
    return " and ".join(f"{size:.3g}{name}" for size, name in two)


def _largest(ranges: Iterable[TensorRange]) -> list[float]:
    """Return the two largest magnitudes among tensors, largest first; 0 where there are none."""
    return sorted((part.largest for part in ranges), reverse=True)[:2] or [0.0]


def _limit(dtype: str) -> float:
    return float(torch.finfo(getattr(torch, dtype)).max)
