"""Watches every operation that torch dispatches, and remembers how what is not finite came about.

An operation whose result is not finite becomes an `Operation` that knows which of its inputs were
not finite and what made those. So from a tensor one can go back to where its NaN was born. Tensors
are told apart by the storage they lie in, because autograd hands out new tensors for the same
memory; a storage is remembered weakly, so that nothing is kept alive that training would free.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from esper.simic.operations import (
    Operation,
    Place,
    Poison,
    is_finite,
    poison_of,
    poisons_of,
    range_of,
)

_TORCH = str(Path(torch.__file__).parent)
#: Operations that only copy: a legal -inf in what they copy is a legal -inf in the copy.
_COPIES = frozenset({"_to_copy", "clone", "cat", "stack", "index_select", "copy", "expand"})
#: Operations whose result is whatever lay in memory, until something is written there.
_ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})


class OperationTracer(TorchDispatchMode):
    """A dispatch mode that records every operation whose result is not finite.

    Args:
        model: whose modules are named; the name of the whole is `model_name`.
        model_name: what the model is called.
        inputs: everything that exists before, by name, so that poison can be named.
        parts: into what a tensor falls that is looked at part by part, such as one of all
            parameters; any other is its only part.
    """

    def __init__(
        self,
        model: nn.Module,
        model_name: str,
        inputs: Mapping[str, Tensor],
        parts: Callable[[Tensor], Sequence[Tensor]] = lambda tensor: (tensor,),
    ) -> None:
        super().__init__()
        self._parts = parts
        self.phase = "preparation"
        self.minibatch: int | None = None
        self.poisons = tuple(poisons_of(inputs))
        self._known = {_where(tensor): name for name, tensor in inputs.items()}
        self._poison_of = {_where(inputs[poison.name]): poison for poison in self.poisons}
        self._modules: list[str] = []
        self._count = 0
        self._made: dict[int, _Storage] = {}
        self._forward: dict[int, tuple[Place, str]] = {}
        self._hooks = [
            hook
            for name, module in model.named_modules()
            for hook in self._name_module(module, f"{model_name}.{name}" if name else model_name)
        ]

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def makers(self, tensor: Tensor) -> tuple[Operation, ...]:
        """Return the operations that made what is not finite in a tensor, newest last."""
        storage = self._made.get(_key(tensor))
        return storage.overlapping(tensor) if storage else ()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self._count += 1
        node = torch._C._current_autograd_node()
        if node is None:
            self._remember_forward()
        inputs = list(self._by_part(_named_tensors(func, args, kwargs)))
        written = {name for name, _, is_written in inputs if is_written}
        # What is written to is looked at as it was before.
        before = [
            (name, tensor, tensor.clone() if is_written else tensor)
            for name, tensor, is_written in inputs
        ]
        broken = {name for name, _, value in before if not is_finite(value)}
        sources = {name: self.makers(tensor) for name, tensor, _ in before if name in broken}
        result = func(*args, **kwargs)
        if _base(func) in _ALLOCATIONS:
            result.zero_()  # else what lay in memory would pass for something that was computed
        keys = {_key(tensor) for _, tensor, _ in before}
        outputs = [(name, tensor) for name, tensor, _ in before if name in written]
        outputs += [
            (name, tensor)
            for name, tensor in _tensors("result", result)
            if _key(tensor) not in keys  # else a view, or what was written to
        ]
        for name, tensor in outputs:
            self._replace(name, tensor, func, args, kwargs, before, broken, sources, node)
        return result

    def _replace(
        self,
        name: str,
        tensor: Tensor,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        before: list[tuple[str, Tensor, Tensor]],
        broken: set[str],
        sources: dict[str, tuple[Operation, ...]],
        node: Any,
    ) -> None:
        """Remember who made a tensor if it is not finite, or that nobody did."""
        storage = self._made.get(_key(tensor))
        if is_finite(tensor):
            if storage is not None:
                storage.forget(tensor)
            return
        # An operation on lists does the same to each place in them, apart from the others.
        place = name.partition("[")[2]
        mine = [entry for entry in before if entry[0].partition("[")[2] in ("", place) or not place]
        mine_broken = [entry for entry in mine if entry[0] in broken]
        made_by = tuple(
            dict.fromkeys(maker for entry in mine_broken for maker in sources[entry[0]])
        )
        poisons = tuple(
            self._poison_of.get(_where(original), poison_of(argument, value))
            for argument, original, value in mine_broken
            if not sources[argument]
        )
        location, module = self._located(node)
        # The ranges of what came in matter where it began; further on those of the results do.
        is_start = bool(poisons) or all(maker.is_legal for maker in made_by)
        operation = Operation(
            number=self._count,
            name=str(func),
            phase="backward" if node is not None else self.phase,
            minibatch=self.minibatch,
            autograd="" if node is None else node.name().rpartition("::")[2],
            module=module,
            place=location,
            inputs=tuple(
                range_of(part, value, of=self._known.get(_where(original), ""))
                for part, original, value in mine
                if is_start
            ),
            scalars=tuple(_named_numbers(func, args, kwargs)) if is_start else (),
            outputs=(range_of(name, tensor, of=self._known.get(_where(tensor), "")),),
            columns=_columns(tensor),
            rows=_rows(tensor),
            sources=made_by,
            poisons=poisons,
            is_legal=_is_legal(func, args, mine, tensor, made_by, poisons),
        )
        if storage is None:
            storage = self._made[_key(tensor)] = _Storage(tensor)
        storage.add(tensor, operation)

    def _by_part(
        self, named: Sequence[tuple[str, Tensor, bool]]
    ) -> Iterator[tuple[str, Tensor, bool]]:
        """Yield tensors; one that falls into parts and stands alone becomes a list of them."""
        arguments = Counter(_argument(name) for name, _, _ in named)
        for name, tensor, is_written in named:
            parts = self._parts(tensor)
            if len(parts) == 1 or arguments[_argument(name)] > 1:
                yield name, tensor, is_written
                continue
            for number, part in enumerate(parts):
                yield f"{_argument(name)}[{number}]", part, is_written

    def _remember_forward(self) -> None:
        """Remember where the derivative that belongs to this operation will have come from."""
        # Autograd numbers its nodes when it makes them, just before it dispatches.
        sequence = torch._C._autograd._get_sequence_nr() - 1
        if sequence not in self._forward:
            self._forward[sequence] = (_place(), self._module)

    def _located(self, node: Any) -> tuple[Place, str]:
        """Return the place and the module of what is being executed now."""
        if node is not None and node._sequence_nr() in self._forward:
            place, module = self._forward[node._sequence_nr()]
            # A derivative that is written in Python has lines of its own.
            written_out = isinstance(node, torch.autograd.function.BackwardCFunction)
            return (_place() if written_out else place), module
        return _place(), self._module

    @property
    def _module(self) -> str:
        return self._modules[-1] if self._modules else ""

    def _name_module(self, module: nn.Module, name: str) -> Iterator[Any]:
        def enter(*_: object) -> None:
            self._modules.append(name)

        def leave(*_: object) -> None:
            self._modules.pop()

        yield module.register_forward_pre_hook(enter)
        yield module.register_forward_hook(leave, always_call=True)


class _Storage:
    """Who made which part of a piece of memory."""

    def __init__(self, tensor: Tensor) -> None:
        # As long as there is a weak reference, no other storage gets this address.
        self._reference = StorageWeakRef(tensor.untyped_storage())
        self._parts: list[tuple[int, int, Operation]] = []

    def add(self, tensor: Tensor, operation: Operation) -> None:
        self.forget(tensor)
        self._parts.append((*_span(tensor), operation))

    def forget(self, tensor: Tensor) -> None:
        start, end = _span(tensor)
        if end - start == tensor.numel() * tensor.element_size():  # else there are gaps in it
            self._parts = [
                part for part in self._parts if not (start <= part[0] and part[1] <= end)
            ]

    def overlapping(self, tensor: Tensor) -> tuple[Operation, ...]:
        start, end = _span(tensor)
        return tuple(part[2] for part in self._parts if part[0] < end and start < part[1])


def _is_legal(
    func: Any,
    args: tuple[Any, ...],
    inputs: list[tuple[str, Tensor, Tensor]],
    output: Tensor,
    sources: tuple[Operation, ...],
    poisons: tuple[Poison, ...],
) -> bool:
    """Return whether all that is not finite in a result is the -inf of a mask."""
    bad = ~output.isfinite()
    if not (output[bad] == -torch.inf).all():
        return False
    base = _base(func)
    if base == "scalar_tensor":  # the -inf that a `where` is about to take
        return True
    if base == "masked_fill":
        filled = args[1].expand_as(output)
        return bool(torch.as_tensor(args[2] == -torch.inf)) and not (bad & ~filled).any()
    if poisons or not sources or not all(source.is_legal for source in sources):
        return False
    if base == "_log_softmax":
        return torch.equal(bad, inputs[0][2] == -torch.inf)
    return base in _COPIES or base == "where"


def _base(func: Any) -> str:
    return str(func).split(".")[1].rstrip("_")


def _named_tensors(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Tensor, bool]]:
    """Return the floating-point tensors among the arguments: name, tensor, whether written to."""
    found = []
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        found += [(name, tensor, is_written) for name, tensor in _tensors(argument.name, value)]
    return found


def _argument(name: str) -> str:
    """Return the argument that a named tensor is, or is in a list of."""
    return name.partition("[")[0]


def _named_numbers(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, float]]:
    """Yield the arguments that are fractions: a rate, a coefficient, a limit."""
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        if isinstance(value, float):
            yield argument.name, value


def _columns(tensor: Tensor) -> tuple[int, frozenset[int]] | None:
    """Return the size of the last axis and where along it a tensor is not finite.

    Of a single number that is a view: along the last axis of what it is a part of.
    """
    if tensor.ndim:
        bad = (~tensor.isfinite()).reshape(-1, tensor.shape[-1]).any(0)
        return tensor.shape[-1], frozenset(bad.nonzero().flatten().tolist())
    whole = tensor._base
    if whole is None or not whole.ndim or not whole.is_contiguous():
        return None
    return whole.shape[-1], frozenset((int(tensor.storage_offset()) % whole.shape[-1],))


def _rows(tensor: Tensor) -> tuple[int, frozenset[int]] | None:
    """Return the size of the first axis and where along it a tensor is not finite."""
    if not tensor.ndim:
        return None
    bad = (~tensor.isfinite()).flatten(1).any(1) if tensor.ndim > 1 else ~tensor.isfinite()
    return tensor.shape[0], frozenset(bad.nonzero().flatten().tolist())


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _tensors(f"{name}[{number}]", item)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return where in its storage a tensor begins and ends, in bytes."""
    if not tensor.numel():
        return 0, 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum(int(size - 1) * int(stride) for size, stride in steps)
    start = int(tensor.storage_offset())
    return start * tensor.element_size(), (start + last + 1) * tensor.element_size()


def _where(tensor: Tensor) -> tuple[int, int, int]:
    """Return the storage that a tensor lies in, and where: parameters may share a storage."""
    return _key(tensor), *_span(tensor)


def _place() -> Place:
    """Return the innermost line that is neither torch's nor of this module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith((_TORCH, "<")):
            return Place(file, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return Place("", 0, "")
