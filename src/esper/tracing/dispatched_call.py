"""An operation as dispatched by PyTorch, with its arguments by name."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper.tracing.operations import Operation, Scalar


@dataclass(frozen=True)
class DispatchedCall:
    """One dispatched operation.

    Attributes:
        before: name, tensor, and values before the call, of each floating-point tensor argument.
        broken: names of the non-finite arguments.
        sources: the operations that produced each non-finite argument, by its name.
        scalars: the numbers among the arguments.
        node: node of the autograd graph, in a backward pass.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: list[tuple[str, Tensor, Tensor]]
    broken: set[str]
    sources: dict[str, tuple[Operation, ...]]
    scalars: list[Scalar]
    node: Any

    @property
    def base(self) -> str:
        """The name without namespace, overload and the underscore of in-place operations."""
        return _base(self.func)

    @property
    def is_elementwise(self) -> bool:
        """Whether each element of the result depends only on elements at the same position."""
        is_on_lists = self.base.startswith(("_foreach_", "_fused_adam"))
        return is_on_lists or torch.Tag.pointwise in self.func.tags


def _base(func: Any) -> str:
    return str(func).split(".")[1].rstrip("_")


def named_tensors(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Tensor, bool]]:
    """Return the floating-point tensors among the arguments: name, tensor, whether written to."""
    found = []
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        found += [(name, tensor, is_written) for name, tensor in tensors_in(argument.name, value)]
    return found


def by_part(
    named: Sequence[tuple[str, Tensor, bool]], parts: Callable[[Tensor], Sequence[Tensor]]
) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield tensors; one that consists of several parameters becomes a list of its parts.

    Any other tensor that is alone in its list belongs to all of those parts, so its name has no
    position.

    Args:
        named: name and tensor of each argument, and whether it is written to.
        parts: splits a tensor.
    """
    arguments = Counter(argument_of(name) for name, _, _ in named)
    split = [parts(tensor) for _, tensor, _ in named]
    is_split = any(len(each) > 1 for each in split)
    for (name, tensor, is_written), each in zip(named, split, strict=True):
        argument = argument_of(name)
        if arguments[argument] > 1:
            yield name, tensor, is_written
        elif len(each) > 1:
            for number, part in enumerate(each):
                yield f"{argument}[{number}]", part, is_written
        else:
            yield (argument if is_split else name), tensor, is_written


def argument_of(name: str) -> str:
    """Return the name of the argument that a named tensor is, or is an element of."""
    return name.partition("[")[0]


def named_numbers(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, float]]:
    """Yield the numeric arguments, such as a rate, an exponent or a limit, also in lists.

    Axes, sizes and counts are left out.
    """
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        kind = str(argument.type)
        if not any(word in kind for word in ("number", "float", "Tensor")):
            continue
        if isinstance(value, list | tuple):
            numbers = [(f"{argument.name}[{n}]", item) for n, item in enumerate(value)]
        else:
            numbers = [(argument.name, value)]
        for name, number in numbers:
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield name, float(number)


def tensors_in(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the floating-point tensors in a value or in nested lists, with their names.

    Sparse tensors, which consist of other tensors, and tensors without values are skipped.
    """
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.layout is torch.strided and not value.is_meta:
            yield name, value
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from tensors_in(f"{name}[{number}]", item)
