"""What is known of an operation whose result was not finite: its place, its inputs, its sources."""

import linecache
from collections.abc import Iterator, Mapping
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

    @property
    def largest(self) -> float:
        """Return the largest finite magnitude."""
        return max(abs(self.minimum or 0.0), abs(self.maximum or 0.0))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return which kinds of non-finite value it held."""
        counts = {"nan": self.nan, "+inf": self.plus_inf, "-inf": self.minus_inf}
        return tuple(kind for kind, count in counts.items() if count)


@dataclass(frozen=True)
class Poison:
    """A value that was not finite before anything was computed."""

    name: str  # of the tensor
    index: tuple[int, ...]  # of the first such value in it
    kind: str

    def __str__(self) -> str:
        index = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return f"{self.name}{index}"


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation whose result was not finite."""

    number: int  # in the order of execution
    name: str  # as torch calls it, for example aten.exp.default
    phase: str  # "preparation", "forward", "backward" or "step"
    minibatch: int | None  # counted from 0; None before the first
    autograd: str  # in a backward pass, the derivative that it belongs to
    module: str
    place: Place
    inputs: tuple[TensorRange, ...]
    scalars: tuple[tuple[str, float], ...]  # its arguments that are numbers, by name
    outputs: tuple[TensorRange, ...]
    columns: tuple[int, frozenset[int]] | None  # size of the last axis, and where in it is what
    rows: tuple[int, frozenset[int]] | None  # size of the first axis, and where in it is what
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


def range_of(name: str, tensor: Tensor, *, of: str = "") -> TensorRange:
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
    )


def poisons_of(inputs: Mapping[str, Tensor]) -> Iterator[Poison]:
    """Yield the first value of each tensor that is not finite, of those that have one."""
    for name, tensor in inputs.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            values = range_of(name, tensor)
            assert values.first is not None
            yield Poison(name, values.first, _kind(tensor[values.first]))


def poison_of(name: str, tensor: Tensor) -> Poison:
    """Return the first value of a constant that is not finite."""
    first = range_of(name, tensor).first
    assert first is not None
    return Poison(f"the constant {name}", first, _kind(tensor[first]))


def _kind(value: Tensor) -> str:
    return "nan" if value.isnan() else "+inf" if value > 0 else "-inf"


def is_finite(tensor: Tensor) -> bool:
    """Return whether all that a tensor holds is finite."""
    return bool(tensor.isfinite().all())
