"""Watches every operation that torch dispatches, and records how a non-finite value came about.

An operation whose result is not finite becomes an `Operation` that knows which of its inputs were
not finite and which operations made those. So the origin of a NaN can be found from the tensor in
which it was seen. Tensors are told apart by the storage they lie in, because autograd hands out new
tensors for the same memory; a storage is remembered weakly, so that tracing keeps no memory alive.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from esper.simic.replay.operations import (
    Operation,
    Place,
    Poison,
    Scalar,
    constant,
    is_finite,
    poisons_of,
    range_of,
    value_kind,
)

_TORCH = str(Path(torch.__file__).parent)
#: Operations that only copy: a legal -inf in what they copy is a legal -inf in the copy.
_COPIES = frozenset({"_to_copy", "clone", "cat", "stack", "index_select", "copy", "expand"})
#: Operations whose result is whatever lay in memory, until something is written there.
_ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
#: Operations that limit their first argument; what it is limited to may be infinite.
_CLAMPS = frozenset({"clamp", "clamp_min", "clamp_max", "hardtanh"})
#: Numbers that may be infinite: limits, and which norm it is.
_MAY_BE_INFINITE = frozenset({"min", "max", "min_val", "max_val", "ord", "p"})


@dataclass(frozen=True)
class _Call:
    """One operation as it is dispatched.

    Attributes:
        before: of each floating-point tensor among the arguments: its name, itself, and its values
            before the call.
        broken: the names of those that were not finite.
        sources: what made those, by name.
        scalars: the numbers among the arguments.
        node: of autograd, in a backward pass.
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
        """The name without namespace, overload and the mark of in-place."""
        return _base(self.func)

    @property
    def is_elementwise(self) -> bool:
        """Whether each element of the result depends on the elements at its own place only."""
        is_on_lists = self.base.startswith(("_foreach_", "_fused_adam"))
        return is_on_lists or torch.Tag.pointwise in self.func.tags


class OperationTracer(TorchDispatchMode):
    """A dispatch mode that records every operation whose result is not finite.

    Args:
        model: module whose submodules are named in the records.
        model_name: name of the whole model.
        inputs: tensors that exist before tracing begins, by name.
        parts: splits a tensor that holds several known tensors (such as all parameters in one);
            returns any other tensor as its only part.
        numbers: settings by name, to recognise a number among an operation's arguments.
        never_negative: names of the inputs in which a value below 0 is as wrong as a NaN.
        observers: source files whose operations only look at what training computes. They are not
            recorded, and do not count as using a tensor.
    """

    def __init__(
        self,
        model: nn.Module,
        model_name: str,
        inputs: Mapping[str, Tensor],
        parts: Callable[[Tensor], Sequence[Tensor]] = lambda tensor: (tensor,),
        *,
        numbers: Mapping[str, float] | None = None,
        never_negative: Collection[str] = (),
        observers: Collection[str] = (),
    ) -> None:
        super().__init__()
        self._parts = parts
        self._numbers = dict(numbers or {})
        self._observers = frozenset(observers)
        self.phase = "preparation"
        self.minibatch: int | None = None
        self.poisons = tuple(poisons_of(inputs, self._numbers, never_negative))
        self._known = {_where(tensor): name for name, tensor in inputs.items()}
        self._copies: dict[int, tuple[StorageWeakRef, str]] = {}
        self._poison_of = {poison.name: poison for poison in self.poisons}
        self._takers: dict[str, Operation] = {}
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

    def taker(self, poison: Poison) -> Operation | None:
        """Return the first operation that used a poisoned input; None if none did.

        Its result may be finite: an infinite bias of a gate, for example, only saturates it.
        """
        return self._takers.get(poison.name)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._is_observing():
            return func(*args, **kwargs)
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
        scalars = [
            Scalar(name, value, self._setting(value))
            for name, value in _named_numbers(func, args, kwargs)
        ]
        call = _Call(func, args, kwargs, before, broken, sources, scalars, node)
        result = func(*args, **kwargs)
        if call.base in _ALLOCATIONS:
            result.zero_()  # else what lay in memory would pass for something that was computed
        keys = {_key(tensor) for _, tensor, _ in before}
        made = [
            (name, tensor)
            for name, tensor in _tensors("result", result)
            if _key(tensor) not in keys  # else a view, or what was written to
        ]
        changed = [(name, tensor) for name, tensor, _ in before if name in written]
        for name, tensor in (*changed, *made):
            self._replace(name, tensor, call)
        self._name_copies(call, changed, made)
        self._take(call, (*changed, *made))
        return result

    def _replace(self, name: str, tensor: Tensor, call: _Call) -> None:
        """Record what made a tensor if it is not finite, or that nothing did."""
        storage = self._made.get(_key(tensor))
        if is_finite(tensor):
            if storage is not None:
                storage.forget(tensor)
            return
        # An operation on lists does the same to each place in them, apart from the others.
        place = name.partition("[")[2]

        def is_mine(argument: str) -> bool:
            return not place or argument.partition("[")[2] in ("", place)

        mine = [entry for entry in call.before if is_mine(entry[0])]
        scalars = tuple(number for number in call.scalars if is_mine(number.name))
        feeding = [entry for entry in mine if _feeds(entry, tensor, call)]
        if call.base in _CLAMPS and any(entry[0] == "self" for entry in feeding):
            feeding = [entry for entry in feeding if entry[0] == "self"]
        made_by = tuple(
            dict.fromkeys(maker for entry in feeding for maker in call.sources[entry[0]])
        )
        poisons = (
            *(
                self._poison_of.get(self._name(original)) or constant(argument, value)
                for argument, original, value in feeding
                if not call.sources[argument]
            ),
            *(self._number_poison(number) for number in scalars if _is_poison(number, call)),
        )
        # The ranges of what came in matter where it began; further on those of the results do.
        is_start = bool(poisons) or all(maker.is_legal for maker in made_by)
        operation = self._operation(
            call,
            mine if is_start else [],
            scalars if is_start else (),
            [(name, tensor)],
            made_by,
            poisons,
        )
        if storage is None:
            storage = self._made[_key(tensor)] = _Storage(tensor)
        storage.add(tensor, operation)

    def _operation(
        self,
        call: _Call,
        inputs: list[tuple[str, Tensor, Tensor]],
        scalars: tuple[Scalar, ...],
        outputs: list[tuple[str, Tensor]],
        sources: tuple[Operation, ...],
        poisons: tuple[Poison, ...],
    ) -> Operation:
        place, module = self._located(call.node)
        output = outputs[0][1]
        return Operation(
            number=self._count,
            name=str(call.func),
            phase="backward" if call.node is not None else self.phase,
            minibatch=self.minibatch,
            autograd="" if call.node is None else call.node.name().rpartition("::")[2],
            module=module,
            place=place,
            inputs=tuple(
                range_of(name, value, of=self._name(original), at=_value_at(value, output, call))
                for name, original, value in inputs
            ),
            scalars=scalars,
            outputs=tuple(
                range_of(name, tensor, of=self._name(tensor)) for name, tensor in outputs
            ),
            columns=_columns(output),
            rows=_rows(output),
            places=_places(output),
            sources=sources,
            poisons=poisons,
            is_legal=_is_legal(call, inputs or call.before, output, sources, poisons),
        )

    def _take(self, call: _Call, outputs: Sequence[tuple[str, Tensor]]) -> None:
        """Record the call as the first user of every poison that no operation used before."""
        if len(self._takers) == len(self._poison_of) or not outputs:
            return
        used = {self._name(original) for _, original, _ in call.before}
        used |= {number.of for number in call.scalars}
        for name in used & (self._poison_of.keys() - self._takers.keys()):
            mine = [entry for entry in call.before if self._name(entry[1]) == name]
            place = mine[0][0].partition("[")[2] if mine else ""
            near = [entry for entry in call.before if entry[0].partition("[")[2] in ("", place)]
            poisons = (self._poison_of[name],)
            shown = [out for out in outputs if out[0].partition("[")[2] in ("", place)] or outputs
            scalars = tuple(call.scalars)
            self._takers[name] = self._operation(call, near, scalars, list(shown), (), poisons)

    def _name_copies(
        self, call: _Call, changed: list[tuple[str, Tensor]], made: list[tuple[str, Tensor]]
    ) -> None:
        """Give a copy of a known tensor its name, and take it from what is overwritten."""
        for _, tensor in changed:
            self._copies.pop(_key(tensor), None)
        if call.base not in _COPIES:
            return
        written = {name for name, _ in changed}
        names = {self._name(original) for name, original, _ in call.before if name not in written}
        if len(names) == 1 and (name := names.pop()):
            for _, tensor in (*changed, *made):
                # As long as there is a weak reference, no other storage gets this address.
                reference = StorageWeakRef(tensor.untyped_storage())
                self._copies[_key(tensor)] = (reference, name)

    def _name(self, tensor: Tensor) -> str:
        """Return which known tensor this is or is a copy of; empty if neither."""
        name = self._known.get(_where(tensor))
        if name is not None:
            return name
        copy = self._copies.get(_key(tensor))
        return copy[1] if copy else ""

    def _setting(self, value: float) -> str:
        """Return the name of the only setting that has a value; empty if there is no such.

        Numbers of ordinary size are common in any program, and break nothing.
        """
        if value == 0 or 1e-2 < abs(value) < 1e2:
            return ""
        names = [name for name, known in self._numbers.items() if _same(known, value)]
        return names[0] if len(names) == 1 else ""

    def _number_poison(self, number: Scalar) -> Poison:
        return self._poison_of.get(number.of) or Poison(
            f"the constant {number.name}", (), value_kind(number.value)
        )

    def _is_observing(self) -> bool:
        """Return whether an operation is called by code that only looks."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and self._observers:
            if frame.f_code.co_filename in self._observers:
                return True
            frame = frame.f_back
        return False

    def _by_part(
        self, named: Sequence[tuple[str, Tensor, bool]]
    ) -> Iterator[tuple[str, Tensor, bool]]:
        """Yield tensors; one that falls into parts and stands alone becomes a list of them.

        Any other tensor that is alone in its list belongs to all of those parts: it is named
        without a place.
        """
        arguments = Counter(_argument(name) for name, _, _ in named)
        split = [self._parts(tensor) for _, tensor, _ in named]
        is_split = any(len(parts) > 1 for parts in split)
        for (name, tensor, is_written), parts in zip(named, split, strict=True):
            argument = _argument(name)
            if arguments[argument] > 1:
                yield name, tensor, is_written
            elif len(parts) > 1:
                for number, part in enumerate(parts):
                    yield f"{argument}[{number}]", part, is_written
            else:
                yield (argument if is_split else name), tensor, is_written

    def _remember_forward(self) -> None:
        """Remember the place of this operation for the derivative that belongs to it."""
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
    """Which operation made which part of a piece of memory."""

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
    call: _Call,
    inputs: list[tuple[str, Tensor, Tensor]],
    output: Tensor,
    sources: tuple[Operation, ...],
    poisons: tuple[Poison, ...],
) -> bool:
    """Return whether all that is not finite in a result is the -inf of a mask."""
    bad = ~output.isfinite()
    if not bad.any() or not (output[bad] == -torch.inf).all():
        return False
    base = call.base
    if base == "scalar_tensor":  # the -inf that a `where` is about to take
        return True
    if base == "masked_fill":
        filled = call.args[1].expand_as(output)
        return bool(torch.as_tensor(call.args[2] == -torch.inf)) and not (bad & ~filled).any()
    if poisons or not sources or not all(source.is_legal for source in sources):
        return False
    if base == "_log_softmax":
        return torch.equal(bad, inputs[0][2] == -torch.inf)
    return base in _COPIES or base == "where"


def _is_poison(number: Scalar, call: _Call) -> bool:
    """Return whether a number among the arguments may have broken the result by itself."""
    if math.isfinite(number.value) or number.name in _MAY_BE_INFINITE:
        return False
    return not (call.base == "masked_fill" and number.value == -math.inf)


def _feeds(entry: tuple[str, Tensor, Tensor], output: Tensor, call: _Call) -> bool:
    """Return whether what is not finite in an argument may be why the result is not."""
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


def _value_at(value: Tensor, output: Tensor, call: _Call) -> float | None:
    """Return the value of an argument where the result first broke, if the places correspond."""
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


def _same(known: float, value: float) -> bool:
    return known == value or (math.isnan(known) and math.isnan(value))


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
    """Yield the arguments that are quantities: a rate, an exponent, a limit, in lists too.

    An axis, a size or a count is none of them.
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


def _columns(tensor: Tensor) -> tuple[int, frozenset[int]] | None:
    """Return the size of the last axis and where along it a tensor is not finite.

    For a single number that is a view, the axis is the last one of the tensor it belongs to.
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


def _places(tensor: Tensor) -> Tensor | None:
    """Return where in its first two axes a tensor is not finite; None if it has fewer."""
    if tensor.ndim < 2:
        return None
    bad = ~tensor.isfinite()
    return bad.flatten(2).any(2) if bad.ndim > 2 else bad


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
