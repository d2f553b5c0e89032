"""The likely cause of an operation's non-finite result, a sentence that names the operand."""

import math
from collections.abc import Iterable, Sequence

import torch

from esper.tracing.operations import CONSTANT, Operation, Poison, Scalar, TensorRange

_PLANTING = "drill_hook.py"
_PRODUCTS = frozenset(
    {"mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "addr", "dot", "linear"}
    | {"convolution", "convolution_backward", "lstm", "mkldnn_rnn_layer"}
    | {"mkldnn_rnn_layer_backward", "_thnn_fused_lstm_cell"}
)
_SUMS = frozenset({"add", "sub", "rsub", "sum", "mean", "cumsum", "index_add", "std_mean", "var"})
_PICKS = frozenset({"gather", "index", "select", "take_along_dim"})
_EXPONENTIALS = frozenset({"exp", "expm1", "exp2", "sinh", "cosh"})
_LOGARITHMS = frozenset({"log", "log2", "log10", "log1p"})
_DIVISIONS = frozenset({"div", "true_divide", "reciprocal", "addcdiv", "fmod", "remainder"})
#: Domains of operations that are not defined for all numbers.
_DOMAINS = {
    "acos": "from -1 to 1",
    "asin": "from -1 to 1",
    "atanh": "between -1 and 1",
    "acosh": "from 1",
    "erfinv": "between -1 and 1",
    "logit": "between 0 and 1",
    "lgamma": "other than negative whole numbers",
    "digamma": "other than negative whole numbers",
}
#: Operations that add something to their first argument.
_ADDITIONS = frozenset({"add", "sub", "rsub", "addcmul", "addcdiv", "lerp"})
#: Arguments of an optimizer's step that cannot make it overflow.
_HARMLESS = frozenset({"beta1", "beta2", "eps", "found_inf", "grad_scale", "state_steps"})


def likely_cause(operation: Operation, injections: Sequence[str] = ()) -> str:
    """Return the likely cause of an operation's non-finite result, a sentence.

    Args:
        operation: the origin.
        injections: drills that were planted, as text.
    """
    if operation.place.file.endswith(_PLANTING):
        return f"planted by a drill: {', '.join(injections)}"
    if operation.poisons:
        return poisoned(operation.poisons)
    return _arithmetic(operation) + _where(operation)


def _where(operation: Operation) -> str:
    node, _, parameter = operation.autograd.partition(" of ")
    if parameter and operation.phase == "step":
        return f", in the step of {parameter}"
    derivative = node.removesuffix("0").removesuffix("Backward")
    return f", in the derivative of {derivative}" if derivative else ""


def poisoned(poisons: Sequence[Poison]) -> str:
    """Return the cause of an operation with poisoned inputs."""
    poison, more = poisons[0], len(poisons) - 1
    others = f" (and {more} other tensor{'s' if more > 1 else ''} with it)" if more else ""
    sort = {
        "weight ": "poisoned weight: ",
        "optimizer ": "corrupted optimizer state: ",
        # A tensor without a name is an input: only a number is written in the code.
        CONSTANT: "poisoned input: " if poison.index else "a constant of the program: ",
        "setting ": "poisoned setting: ",
    }
    text = str(poison)
    for prefix, words in sort.items():
        if text.startswith(prefix):
            return f"{words}{text.removeprefix(prefix)} is {poison.kind}{others}"
    return f"poisoned input: {text} is {poison.kind}{others}"


def _arithmetic(operation: Operation) -> str:
    """Return the cause of an operation whose inputs were finite."""
    base, output = operation.base.removeprefix("_foreach_"), operation.outputs[0]
    left = operation.inputs[0] if operation.inputs else output
    if base == "_to_copy":
        return (
            f"overflow in a cast to {output.dtype}: values reach {_sized(left)}, "
            f"and the largest {output.dtype} is {_limit(output.dtype):.4g}"
        )
    if operation.sources and not _is_far_apart(operation):  # legal ones: else it began there
        return _mishandled_mask(base)
    if base in _PRODUCTS:
        return _product(operation)
    if base in _EXPONENTIALS:
        known = f" ({left.of})" if left.of else ""
        return f"overflow in {base}: its argument reaches {_largest_signed(left):.4g}{known}"
    if base in _LOGARITHMS:
        return f"log of 0 or less: its argument is as low as {_least(left):.4g}"
    if base == "_log_softmax":
        return (
            f"log of 0: logits from {left.minimum:.4g} to {left.maximum:.4g} differ by more than "
            f"the largest {output.dtype}"
        )
    if base in _DIVISIONS:
        return _division(operation, base)
    if base in ("sqrt", "rsqrt"):
        if output.plus_inf:
            return f"1 / 0, in {base}"
        return f"root of a negative number, in {base}: its argument is as low as {_least(left):.4g}"
    if base == "pow":
        return _power(operation)
    if base.startswith("_fused_adam"):
        return _optimizer_step(operation)
    if base in _DOMAINS:
        outside = left.at if left.at is not None else _largest_signed(left)
        return f"{base} of {outside:.6g}: it is defined for numbers {_DOMAINS[base]}"
    # Squares of large values overflow inside a norm or a variance, whose result is NaN.
    is_large = any(part.largest > math.sqrt(_limit(part.dtype)) for part in operation.inputs)
    is_overflow = output.plus_inf or output.minus_inf or is_large
    words = f"overflow in {base}" if is_overflow else f"NaN from {base}"
    return f"{words}: values reach {_operands(operation)}"


def _is_far_apart(operation: Operation) -> bool:
    """Return whether a softmax with a legal mask overflowed because its logits differ too much."""
    part = operation.inputs[0] if operation.inputs else operation.outputs[0]
    is_softmax = operation.base == "_log_softmax" and not operation.outputs[0].nan
    return is_softmax and part.minimum is not None and part.maximum is not None


def _mishandled_mask(base: str) -> str:
    """Return the cause of an operation that used the -inf of a mask in arithmetic."""
    if base in _PICKS:
        return "log of 0: the choice taken has probability zero, because its mask forbids it"
    if base == "_log_softmax":
        return "inf - inf: every choice of a head is masked"
    if base == "mul":
        return "inf * 0: the -inf of a mask was multiplied by 0"
    if base in _SUMS:
        return "inf - inf: the -inf of a mask was summed up"
    return f"the -inf of a mask was used in {base}"


def _product(operation: Operation) -> str:
    output = operation.outputs[0]
    limit = _limit(output.dtype)
    factors = [part for part in operation.inputs if not _is_addend(part, operation)]
    addends = [part for part in operation.inputs if _is_addend(part, operation)]
    # A bias near the limit may cause the overflow of the sum.
    shown = sorted(factors, key=lambda part: part.largest, reverse=True)[:2]
    shown += [part for part in addends if part.largest > limit / 1e3]
    texts = [_sized(part) for part in sorted(shown, key=lambda part: part.largest, reverse=True)]
    texts += [_number(number) for number in operation.scalars if _counts(number)]
    summed = " and inf - inf" if output.nan else ""
    return (
        f"matmul overflow{summed}: factors reach {_listed(texts)}, "
        f"and the largest {output.dtype} is {limit:.4g}"
    )


def _is_addend(part: TensorRange, operation: Operation) -> bool:
    """Return whether a tensor is added to a product instead of being a factor."""
    adds = operation.base.startswith(("addmm", "baddbmm", "addbmm", "addmv", "addr"))
    return (adds and part.name == "self") or part.name in ("bias", "input_bias")


def _division(operation: Operation, base: str) -> str:
    output = operation.outputs[0]
    named = {part.name.partition("[")[0]: part for part in operation.inputs}
    numbers = {number.name.partition("[")[0]: number for number in operation.scalars}
    by_name = {"addcdiv": "tensor2", "reciprocal": "self"}.get(base, "other")
    divisor = named.get(by_name)
    number = next(
        (numbers[name] for name in (by_name, "scalars", "scalar") if name in numbers), None
    )
    if divisor is not None:
        least = divisor.smallest if divisor.at is None else abs(divisor.at)
        text = f"{least if divisor.at is None else divisor.at + 0.0:.4g} ({_label(divisor)})"
    elif number is not None:
        least, text = abs(number.value), _number(number)
    else:
        return f"overflow in {base}: values reach {_operands(operation)}"
    if base in ("fmod", "remainder"):
        return f"remainder of a division by 0: {text}"
    if output.nan and not (output.plus_inf or output.minus_inf):
        return f"0 / 0: the divisor is {text}"
    if least == 0:
        return f"division by 0: the divisor is {text}"
    rest = [part for part in operation.inputs if part is not divisor]
    others = _operands(operation, rest, [n for n in operation.scalars if n is not number])
    return f"overflow in a division by a number near 0: {others} over {text}"


def _power(operation: Operation) -> str:
    output = operation.outputs[0]
    base = next((_value(part) for part in operation.inputs if part.name == "self"), None)
    exponent = next((_value(part) for part in operation.inputs if part.name == "exponent"), None)
    for number in operation.scalars:
        if number.name == "self":
            base = number.value
        elif number.name.startswith("exponent"):
            exponent = number.value
    operands = _operands(operation)
    if output.nan and base is not None and base < 0:
        return f"root of a negative number, in pow: values reach {operands}"
    if base == 0 and exponent is not None and exponent < 0:
        return f"division by 0, in pow: values reach {operands}"
    return f"overflow in pow: values reach {operands}"


def _optimizer_step(operation: Operation) -> str:
    """Return the cause of a step of Adam that made a weight or a moment non-finite."""
    numbers = {number.name: number for number in operation.scalars}
    for part in operation.inputs:
        if part.name.startswith("exp_avg_sqs") and part.minimum is not None and part.minimum < 0:
            return (
                f"corrupted optimizer state: the second moment {_moment(part)} is negative "
                f"({part.minimum:.4g}), and its square root is NaN"
            )
        if part.name.startswith("state_steps") and part.minimum is not None and part.minimum < 1:
            return (
                f"corrupted optimizer state: its step count is {part.minimum:.4g} including this "
                "step, and must be at least 1"
            )
    for name in ("beta1", "beta2"):
        if name in numbers and numbers[name].value >= 1:
            text = _number(numbers[name])
            return f"division by 0 in the optimizer's step: {text}, and it divides by 1 - {name}"
    if "eps" in numbers and numbers["eps"].value == 0 and operation.outputs[0].nan:
        return "0 / 0 in the optimizer's step: eps = 0, and the second moment is 0"
    tensors = [part for part in operation.inputs if _argument(part.name) not in _HARMLESS]
    scalars = [number for number in operation.scalars if number.name not in _HARMLESS]
    operands = _operands(operation, tensors, scalars)
    return f"overflow in the optimizer's step: its input reaches {operands}"


def _moment(part: TensorRange) -> str:
    return part.of.removeprefix("optimizer ") or part.name


def _operands(
    operation: Operation,
    tensors: Sequence[TensorRange] | None = None,
    scalars: Sequence[Scalar] | None = None,
) -> str:
    """Return at most three operands of an operation in words, the largest first.

    Numbers among the arguments are operands, too, unless they are neutral.
    """
    tensors = operation.inputs if tensors is None else tensors
    scalars = operation.scalars if scalars is None else scalars
    if operation.base.removeprefix("_foreach_") in _ADDITIONS:
        # A summand only matters if it is large.
        least = _limit(operation.outputs[0].dtype) / 1e3
        tensors = [p for p in tensors if _argument(p.name) != "self" or abs(_value(p)) > least]
    sized = [(abs(_value(part)), _sized(part)) for part in tensors]
    sized += [(abs(number.value), _number(number)) for number in scalars if _counts(number)]
    # A NaN among the numbers comes first.
    sized.sort(key=lambda entry: math.inf if math.isnan(entry[0]) else entry[0], reverse=True)
    return _listed([text for _, text in sized[:3]]) or "nothing"


def _counts(number: Scalar) -> bool:
    """Return whether a number can cause an overflow."""
    name = _argument(number.name)
    if name == "eps":
        return number.value <= 0 or number.value >= 1
    return not (number.value == 1 and name in ("alpha", "beta", "value")) and name != "correction"


def _number(number: Scalar) -> str:
    known = f" ({number.of.removeprefix('setting ')})" if number.of else ""
    return f"{number.name} = {number.value:.4g}{known}"


def _sized(part: TensorRange) -> str:
    """Return the largest magnitude in a tensor, and its name."""
    label = f" ({_label(part)})" if _label(part) else ""
    size = part.largest if part.at is None else part.at
    return f"{size:.4g}{label}"


def _label(part: TensorRange) -> str:
    """Return the known name of a tensor, or the name of the argument."""
    return part.of or part.name


def _argument(name: str) -> str:
    return name.partition("[")[0]


def _value(part: TensorRange) -> float:
    return part.largest if part.at is None else part.at


def _least(part: TensorRange) -> float:
    return part.at if part.at is not None else part.minimum or 0.0


def _largest_signed(part: TensorRange) -> float:
    if part.at is not None:
        return part.at
    return part.maximum if part.maximum is not None else 0.0


def _listed(texts: Iterable[str]) -> str:
    *most, last = [*texts] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _limit(dtype: str) -> float:
    return float(torch.finfo(getattr(torch, dtype)).max)
