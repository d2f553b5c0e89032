"""Operations with non-finite results: their place, inputs and sources."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from esper.leyline.text.sighting_words import nonfinite_kind
from esper.leyline.text.source_lines import source_lines

#: What the names of operations begin with that take the logits of choices, or their sum.
_SOFTMAXES: Final = (
    *("softmax", "log_softmax", "logsumexp", "safe_softmax", "sparse_softmax", "logcumsumexp"),
    *("masked_softmax", "scaled_dot_product", "efficient_attention", "flash_attention"),
)
#: Beginning of the names of poisons that are not a known tensor.
CONSTANT: Final = "the constant "
ARRAY: Final = "the NumPy array given to "
LIST: Final = "the list given to "
#: Maximum number of characters kept of a source line.
LONGEST_LINE = 400


@dataclass(frozen=True)
class Place:
    """The source line that called an operation: the innermost one outside torch.

    Attributes:
        file: path of the source file; empty if unknown.
        line: number of the line.
        function: name of the function.
        loop: file and number of the training loop's own line, if the tracer knows the loop.
        callers: files and numbers of the lines that called that function, innermost first, up to
            the training loop, if the tracer knows it.
        recorded: text of the line in a recording; None to read it from the source file.
    """

    file: str
    line: int
    function: str
    loop: tuple[str, int] | None = None
    callers: tuple[tuple[str, int], ...] = ()
    recorded: str | None = None

    @property
    def code(self) -> str:
        """Return the text of the line."""
        return line_text(self.file, self.line) if self.recorded is None else self.recorded


def line_text(file: str, line: int) -> str:
    """Return the text of a line of running code, without indentation; empty if it is unknown.

    Args:
        file: path of its source file. It must not come from a capsule.
        line: number of the line.
    """
    lines = source_lines(file)
    return lines[line - 1].strip()[:LONGEST_LINE] if 1 <= line <= len(lines) else ""


def is_softmax(base: str) -> bool:
    """Return whether an operation, by its base name, takes logits in which -inf means forbidden."""
    return base.strip("_").startswith(_SOFTMAXES)


@dataclass(frozen=True)
class TensorRange:
    """The range of values in a tensor."""

    name: str  # name of the argument or the result
    of: str  # the known tensor that it is or is a part of; empty for any other
    shape: tuple[int, ...]
    dtype: str
    minimum: float | None  # smallest finite value; None if there is none
    maximum: float | None  # largest finite value
    nan: int  # number of NaN
    plus_inf: int
    minus_inf: int
    first: tuple[int, ...] | None  # index of the first value that is not finite
    at: float | None = None  # its value at the first non-finite element of the result, if known

    @property
    def largest(self) -> float:
        """Return the largest finite magnitude."""
        return max(abs(self.minimum or 0.0), abs(self.maximum or 0.0))

    @property
    def smallest(self) -> float:
        """Return the smallest finite magnitude; 0 if the finite values lie around 0."""
        if self.minimum is None or self.maximum is None or self.minimum <= 0 <= self.maximum:
            return 0.0
        return min(abs(self.minimum), abs(self.maximum))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of non-finite value in it."""
        counts = {"nan": self.nan, "+inf": self.plus_inf, "-inf": self.minus_inf}
        return tuple(kind for kind, count in counts.items() if count)


@dataclass(frozen=True)
class Scalar:
    """A number among the arguments of an operation."""

    name: str  # name of the argument
    value: float
    of: str  # name of the setting with this value; empty for any other number


@dataclass(frozen=True)
class Poison:
    """An input that was wrong before the update computed anything."""

    name: str  # name of the tensor or the setting
    index: tuple[int, ...]  # index of the first wrong value; empty for a number
    kind: str  # "nan", "+inf", "-inf", or "negative" where a value must not be negative

    @property
    def is_unnamed(self) -> bool:
        """Whether it is no known tensor or setting: a constant, or made of data by the code."""
        return self.name.startswith((CONSTANT, ARRAY, LIST))

    def __str__(self) -> str:
        index = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        if index and self.name.startswith((ARRAY, LIST)):
            return f"element {index} of {self.name}"
        return f"{self.name}{index}"


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation whose result was not finite, or the first that used a poisoned input."""

    number: int  # number in the order of execution
    name: str  # name in torch, for example aten.exp.default
    phase: str  # "preparation", "forward", "backward" or "step"
    minibatch: int | None  # counted from 0; None before the first
    # In a backward pass the node of the autograd graph; in a hook of a parameter's gradient, which
    # may step with it, that node with the parameter's name.
    autograd: str
    module: str
    place: Place
    inputs: tuple[TensorRange, ...]
    scalars: tuple[Scalar, ...]  # numbers among its arguments
    outputs: tuple[TensorRange, ...]
    columns: tuple[int, frozenset[int]] | None  # size of the last axis, non-finite indices in it
    rows: tuple[int, frozenset[int]] | None  # size of the first axis, non-finite indices in it
    places: Tensor | None  # mask of non-finite values over the first two axes, [T, N]
    sources: tuple["Operation", ...]  # the operations that made its non-finite inputs
    poisons: tuple[Poison, ...]  # its non-finite inputs that no operation made
    is_legal: bool  # whether all its non-finite values are the -inf of a mask
    is_unused_mask: bool = False  # whether nothing but its values shows so far that it is one

    @property
    def base(self) -> str:
        """Return the name without namespace, overload and the underscore of in-place operations."""
        return self.name.split(".")[1].rstrip("_")

    @property
    def causes(self) -> tuple["Operation", ...]:
        """Return the operations that made its illegal inputs.

        What only looks like a mask is one of them where the operation is none that takes a mask.
        """
        illegal = tuple(source for source in self.sources if not source.is_legal)
        if illegal or is_softmax(self.base):
            return illegal
        return tuple(source for source in self.sources if source.is_unused_mask)


def range_of(name: str, tensor: Tensor, *, of: str = "", at: float | None = None) -> TensorRange:
    """Return the range of values in a tensor."""
    values = tensor.detach()
    finite = values[values.isfinite()].double()
    bad = (~values.isfinite()).nonzero()
    return TensorRange(
        name=name,
        of=of,
        shape=tuple(values.shape),
        dtype=str(values.dtype).removeprefix("torch."),
        minimum=finite.min().item() if len(finite) else None,
        maximum=finite.max().item() if len(finite) else None,
        nan=int(values.isnan().sum()),
        plus_inf=int((values == torch.inf).sum()),
        minus_inf=int((values == -torch.inf).sum()),
        first=tuple(bad[0].tolist()) if len(bad) else None,
        at=at,
    )


def setting_of(numbers: Mapping[str, float], value: float) -> str:
    """Return the name of the only setting with a value; empty if there is none or several.

    Numbers of ordinary size are ignored: they occur everywhere, and break nothing.

    Args:
        numbers: settings by name.
        value: a number among an operation's arguments.
    """
    if value == 0 or 1e-2 < abs(value) < 1e2:
        return ""
    is_nan = math.isnan(value)
    names = [
        name for name, known in numbers.items() if known == value or (is_nan and math.isnan(known))
    ]
    return names[0] if len(names) == 1 else ""


def poisons_of(
    inputs: Mapping[str, Tensor], numbers: Mapping[str, float], never_negative: Collection[str]
) -> Iterator[Poison]:
    """Yield the first wrong value of each tensor and number.

    Args:
        inputs: tensors by name.
        numbers: settings by name.
        never_negative: names of the tensors in which a value below 0 is wrong, too.
    """
    for name, tensor in inputs.items():
        if not tensor.is_floating_point():
            continue
        if not is_finite(tensor):
            yield _poison(name, ~tensor.isfinite(), tensor)
        elif name in never_negative and bool((tensor < 0).any()):
            yield _poison(name, tensor < 0, tensor)
    for name, number in numbers.items():
        if not math.isfinite(number):
            yield Poison(name, (), value_kind(number))


def constant(name: str, tensor: Tensor, array: str = "") -> Poison:
    """Return the first non-finite value of a tensor that has no name, or a number.

    Args:
        name: name of the argument of the operation.
        tensor: its value.
        array: name of the data of which a tensor is being made; empty otherwise.
    """
    return _poison(array or f"{CONSTANT}{name}", ~tensor.isfinite(), tensor)


def _poison(name: str, is_wrong: Tensor, tensor: Tensor) -> Poison:
    first = tuple(is_wrong.nonzero()[0].tolist())
    return Poison(name, first, value_kind(tensor[first].item()))


def value_kind(value: float) -> str:
    """Return how a value is wrong."""
    return nonfinite_kind(value) or "negative"


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values of a tensor are finite."""
    return bool(tensor.isfinite().all())
