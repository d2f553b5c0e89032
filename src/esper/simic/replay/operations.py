"""An operation whose result was not finite: its place, its inputs, its sources."""

import linecache
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """A line of source: the first one outside torch that led to an operation."""

    file: str
    line: int
    function: str

    @property
    def code(self) -> str:
        """Return the text of the line."""
        return linecache.getline(self.file, self.line).strip()


@dataclass(frozen=True)
class TensorRange:
    """What values a tensor held."""

    name: str  # of the argument or the result
    of: str  # of which known tensor it is or shows a part; empty for any other
    shape: tuple[int, ...]
    dtype: str
    minimum: float | None  # of the finite values; None if there are none
    maximum: float | None
    nan: int
    plus_inf: int
    minus_inf: int
    first: tuple[int, ...] | None  # the index of the first value that is not finite
    at: float | None = None  # the value that met others where the result first broke, if known

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
        """Return which kinds of non-finite value it held."""
        counts = {"nan": self.nan, "+inf": self.plus_inf, "-inf": self.minus_inf}
        return tuple(kind for kind, count in counts.items() if count)


@dataclass(frozen=True)
class Scalar:
    """A number among the arguments of an operation."""

    name: str  # of the argument
    value: float
    of: str  # the setting that it is; empty for any other number


@dataclass(frozen=True)
class Poison:
    """A value that was wrong before anything was computed."""

    name: str  # of the tensor or the setting
    index: tuple[int, ...]  # of the first such value in it; empty for a number
    kind: str  # "nan", "+inf", "-inf", or "negative" where a value must not be negative

    def __str__(self) -> str:
        index = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return f"{self.name}{index}"


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation whose result was not finite, or the first that took something poisoned."""

    number: int  # in the order of execution
    name: str  # as torch calls it, for example aten.exp.default
    phase: str  # "preparation", "forward", "backward" or "step"
    minibatch: int | None  # counted from 0; None before the first
    autograd: str  # in a backward pass, the derivative that it belongs to
    module: str
    place: Place
    inputs: tuple[TensorRange, ...]
    scalars: tuple[Scalar, ...]  # its arguments that are numbers
    outputs: tuple[TensorRange, ...]
    columns: tuple[int, frozenset[int]] | None  # size of the last axis, and where in it is what
    rows: tuple[int, frozenset[int]] | None  # size of the first axis, and where in it is what
    places: Tensor | None  # of the first two axes, [T, N]: where it is not finite
    sources: tuple["Operation", ...]  # what made those of its inputs that were not finite
    poisons: tuple[Poison, ...]  # those of its inputs that nothing had made
    is_legal: bool  # all it holds that is not finite is the -inf of a mask

    @property
    def base(self) -> str:
        """Return the name without namespace, overload and the mark of in-place."""
        return self.name.split(".")[1].rstrip("_")

    @property
    def causes(self) -> tuple["Operation", ...]:
        """Return the operations that it got something illegal from."""
        return tuple(source for source in self.sources if not source.is_legal)


def range_of(name: str, tensor: Tensor, *, of: str = "", at: float | None = None) -> TensorRange:
    """Return what values a tensor holds."""
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


def poisons_of(
    inputs: Mapping[str, Tensor], numbers: Mapping[str, float], never_negative: Collection[str]
) -> Iterator[Poison]:
    """Yield the first wrong value of each tensor and each number that has one.

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


def constant(name: str, tensor: Tensor) -> Poison:
    """Return the first value of a constant that is not finite."""
    return _poison(f"the constant {name}", ~tensor.isfinite(), tensor)


def _poison(name: str, is_wrong: Tensor, tensor: Tensor) -> Poison:
    first = tuple(is_wrong.nonzero()[0].tolist())
    return Poison(name, first, value_kind(tensor[first].item()))


def value_kind(value: float) -> str:
    """Return how a value is wrong."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "+inf" if value > 0 else "-inf"
    return "negative"


def is_finite(tensor: Tensor) -> bool:
    """Return whether all that a tensor holds is finite."""
    return bool(tensor.isfinite().all())
