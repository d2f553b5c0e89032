"""A dispatch mode that records the origin of each non-finite value.

An operation whose result is not finite becomes an `Operation`, linked to the operations that made
its non-finite inputs. Following the links from the tensor in which a NaN was seen leads to its
origin.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from esper.tracing.arrays import ArraysNamed
from esper.tracing.attribution import ALLOCATIONS, feeding, is_poison, value_at
from esper.tracing.dispatched_call import (
    DispatchedCall,
    by_part,
    named_numbers,
    named_tensors,
    tensors_in,
)
from esper.tracing.masks import COPIES, masking, takes_mask
from esper.tracing.nonfinite_places import columns_of, places_of, rows_of
from esper.tracing.operations import (
    Operation,
    Place,
    Poison,
    Scalar,
    constant,
    is_finite,
    poisons_of,
    range_of,
    setting_of,
    value_kind,
)
from esper.tracing.places import BACKWARD, is_in_hook, parameter_of, place_of
from esper.tracing.recorded import OperationRecorder, RecordedPlace
from esper.tracing.storages import KnownTensors, StorageRecord, storage_key

_TORCH = str(Path(torch.__file__).parent)


class OperationTracer(TorchDispatchMode):
    """Records every operation whose result is not finite.

    Args:
        model: module whose submodules are named in the records.
        model_name: name of the whole model.
        inputs: tensors that exist before tracing begins, by name.
        parts: splits a tensor that holds several known tensors (such as all parameters in one);
            returns any other tensor as its only part.
        numbers: settings by name, to recognise a number among an operation's arguments.
        never_negative: names of the inputs in which a value below 0 is as wrong as a NaN.
        observers: source files whose operations only read training's tensors. They are not
            recorded, and do not count as uses of a tensor.
        is_plumbing: returns whether a source file is skipped when looking for the calling line.
        loop: name of the function that is the training loop's body; empty if there is none.
        recorder: receives every operation; None: no recording.
        called_at: returns where the current operation was called, when recorded operations run
            again; None: their own frames show it.
        callers: number of the lines that are remembered around an operation's own, at most.
        masks_by_value: whether a tensor of 0 and -inf may be a mask.
        called_from: source file whose callers had nothing to do with the operations.
        names_arrays: whether tensors that the code makes of arrays and lists are named.
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
        is_plumbing: Callable[[str], bool] = lambda file: file.startswith((_TORCH, "<")),
        loop: str = "",
        recorder: OperationRecorder | None = None,
        called_at: Callable[[], RecordedPlace] | None = None,
        callers: int = 0,
        masks_by_value: bool = False,
        called_from: str = "",
        names_arrays: bool = False,
    ) -> None:
        super().__init__()
        self._parts = parts
        self._numbers = dict(numbers or {})
        self._observers = frozenset(observers)
        self._is_plumbing = is_plumbing
        self._loop = loop
        self.recorder = recorder
        self._called_at = called_at
        self._callers = callers
        self._called_from = called_from
        self._masks_by_value = masks_by_value
        self.phase = "preparation"
        self.minibatch: int | None = None
        self.poisons = tuple(poisons_of(inputs, self._numbers, never_negative))
        self._known = KnownTensors(inputs)
        self._copies: dict[int, tuple[StorageWeakRef, str]] = {}
        self._poison_of = {poison.name: poison for poison in self.poisons}
        self._takers: dict[str, Operation] = {}
        self._modules: list[str] = []
        self._count = 0
        self._made: dict[int, StorageRecord] = {}
        self._forward: dict[int, tuple[Place, str]] = {}
        self._named: set[int] = set()  # modules, by id
        self._hooks: list[Any] = []
        self._outer_task = -1  # of the backward pass in which tracing began
        self._names_arrays = names_arrays
        self._arrays = ArraysNamed(self._place, self._name_array)
        self.name_modules(model, model_name)

    def __enter__(self) -> Self:
        super().__enter__()
        self._outer_task = torch._C._current_graph_task_id()
        if self._names_arrays:
            self._arrays.open()
        return self

    def __exit__(self, *error: object) -> None:
        self._arrays.close()
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def name_modules(self, model: nn.Module, model_name: str) -> None:
        """Name the submodules of a further model; existing names are kept."""
        unnamed = [one for one in model.named_modules() if id(one[1]) not in self._named]
        self._named |= {id(module) for _, module in unnamed}
        self._hooks += [
            hook
            for name, module in unnamed
            for hook in self._name_module(module, f"{model_name}.{name}" if name else model_name)
        ]

    def name_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        """Name tensors created since tracing began, such as those of a fetched batch."""
        poisons = tuple(poisons_of(inputs, {}, ()))
        self.poisons += poisons
        self._poison_of |= {poison.name: poison for poison in poisons}
        self._known.add(inputs)

    def _name_array(self, name: str, tensor: Tensor) -> None:
        """Name a tensor made of an array, if it has no name, and no operation made it."""
        if not (self.makers(tensor) or is_finite(tensor) or self._known.name_of_equal(tensor)):
            self.name_inputs({name: tensor})

    def makers(self, tensor: Tensor) -> tuple[Operation, ...]:
        """Return the operations that produced the non-finite values of a tensor, newest last."""
        if tensor.layout is torch.sparse_coo:
            tensor = tensor._values()
        elif tensor.layout is not torch.strided:
            return ()
        storage = self._made.get(storage_key(tensor))
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
        node = self._current_node()
        if node is None and self._called_at is None:
            self._remember_forward()
        inputs = list(by_part(named_tensors(func, args, kwargs), self._parts))
        written = {name for name, _, is_written in inputs if is_written}
        # Copy arguments that the operation writes to.
        before = [
            (name, tensor, tensor.clone() if is_written else tensor)
            for name, tensor, is_written in inputs
        ]
        broken = {name for name, _, value in before if not is_finite(value)}
        sources = {name: self.makers(tensor) for name, tensor, _ in before if name in broken}
        scalars = [
            Scalar(name, value, setting_of(self._numbers, value))
            for name, value in named_numbers(func, args, kwargs)
        ]
        call = DispatchedCall(func, args, kwargs, before, broken, sources, scalars, node)
        if self.recorder is not None:
            names = {id(tensor): self._name(tensor) for _, tensor, _ in before}
            self.recorder.before(func, args, kwargs, names)
        result = func(*args, **kwargs)
        if call.base in ALLOCATIONS:
            result.zero_()  # else uninitialised memory could look like a computed NaN
        if self.recorder is not None and not self.recorder.reason:
            self.recorder.after(func, args, result, self._where(node))
        keys = {storage_key(tensor) for _, tensor, _ in before}
        made = [
            (name, tensor)
            for name, tensor in tensors_in("result", result)
            if storage_key(tensor) not in keys  # else a view, or an argument that was written to
        ]
        changed = [(name, tensor) for name, tensor, _ in before if name in written]
        for name, tensor in (*changed, *made):
            self._replace(name, tensor, call)
        for key in keys & self._made.keys() if takes_mask(call) else ():
            self._made[key].confirm_masks()
        self._name_copies(call, changed, made)
        self._take(call, (*changed, *made))
        return result

    def _replace(self, name: str, tensor: Tensor, call: DispatchedCall) -> None:
        """Record the operation that made a tensor, or forget the old one if it is finite."""
        storage = self._made.get(storage_key(tensor))
        if is_finite(tensor):
            if storage is not None:
                storage.forget(tensor)
            return
        # An operation on lists treats each position of the lists separately.
        place = name.partition("[")[2]

        def is_mine(argument: str) -> bool:
            return not place or argument.partition("[")[2] in ("", place)

        mine = [entry for entry in call.before if is_mine(entry[0])]
        scalars = tuple(number for number in call.scalars if is_mine(number.name))
        fed = feeding(mine, tensor, call)
        made_by = tuple(dict.fromkeys(maker for entry in fed for maker in call.sources[entry[0]]))
        poisons = (
            *(
                self._poison_of.get(self._name(original) or self._known.name_of_equal(value))
                or constant(argument, value, self._arrays.current)
                for argument, original, value in fed
                if not call.sources[argument]
            ),
            *(self._number_poison(number) for number in scalars if is_poison(number, call)),
        )
        # The ranges of inputs are only needed at the origin; later, those of results are enough.
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
            storage = self._made[storage_key(tensor)] = StorageRecord(tensor)
        storage.add(tensor, operation)

    def _operation(
        self,
        call: DispatchedCall,
        inputs: list[tuple[str, Tensor, Tensor]],
        scalars: tuple[Scalar, ...],
        outputs: list[tuple[str, Tensor]],
        sources: tuple[Operation, ...],
        poisons: tuple[Poison, ...],
    ) -> Operation:
        where = self._where(call.node)
        output = outputs[0][1]
        mask = masking(call, inputs or call.before, output, sources, poisons)
        return Operation(
            number=self._count,
            name=str(call.func),
            phase=where.phase,
            minibatch=self.minibatch,
            autograd=where.autograd,
            module=where.module,
            place=where.place,
            inputs=tuple(
                range_of(name, value, of=self._name(original), at=value_at(value, output, call))
                for name, original, value in inputs
            ),
            scalars=scalars,
            outputs=tuple(
                range_of(name, tensor, of=self._name(tensor)) for name, tensor in outputs
            ),
            columns=columns_of(output),
            rows=rows_of(output),
            places=places_of(output),
            sources=sources,
            poisons=poisons,
            is_legal=mask == "yes" or (mask == "looks like" and self._masks_by_value),
            is_unused_mask=mask == "looks like" and self._masks_by_value,
        )

    def _take(self, call: DispatchedCall, outputs: Sequence[tuple[str, Tensor]]) -> None:
        """Record the call as the first use of every poison that was not used before."""
        if len(self._takers) == len(self._poison_of) or not outputs:
            return
        used = {self._name_of_whole(original) for _, original, _ in call.before}
        used |= {number.of for number in call.scalars}
        for name in used & (self._poison_of.keys() - self._takers.keys()):
            mine = [entry for entry in call.before if self._name_of_whole(entry[1]) == name]
            place = mine[0][0].partition("[")[2] if mine else ""
            near = [entry for entry in call.before if entry[0].partition("[")[2] in ("", place)]
            poisons = (self._poison_of[name],)
            shown = [out for out in outputs if out[0].partition("[")[2] in ("", place)] or outputs
            scalars = tuple(call.scalars)
            self._takers[name] = self._operation(call, near, scalars, list(shown), (), poisons)

    def _name_copies(
        self,
        call: DispatchedCall,
        changed: list[tuple[str, Tensor]],
        made: list[tuple[str, Tensor]],
    ) -> None:
        """Name copies of known tensors, and remove the names of tensors that are overwritten."""
        for _, tensor in changed:
            self._copies.pop(storage_key(tensor), None)
        if call.base not in COPIES:
            return
        written = {name for name, _ in changed}
        originals = [original for name, original, _ in call.before if name not in written]
        names = {self._name_of_whole(original) for original in originals}
        if len(names) == 1 and (name := names.pop()):
            for _, tensor in (*changed, *made):
                # While a weak reference exists, no other storage gets this address.
                reference = StorageWeakRef(tensor.untyped_storage())
                self._copies[storage_key(tensor)] = (reference, name)

    def _name(self, tensor: Tensor) -> str:
        """Return the name of a known tensor, or of one that a tensor is a copy or a part of.

        Empty if it is neither.
        """
        return self._name_of_whole(tensor) or self._known.name_around(tensor)

    def _name_of_whole(self, tensor: Tensor) -> str:
        """Return the name of a known tensor or of a copy of one; empty if it is neither."""
        name = self._known.name_of(tensor)
        if name:
            return name
        copy = self._copies.get(storage_key(tensor))
        return copy[1] if copy else ""

    def _number_poison(self, number: Scalar) -> Poison:
        return self._poison_of.get(number.of) or Poison(
            f"the constant {number.name}", (), value_kind(number.value)
        )

    def _is_observing(self) -> bool:
        """Return whether detection called the current operation, which then only reads tensors."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and self._observers:
            if frame.f_code is BACKWARD:
                return False  # training's own pass, although a watch calls it for training
            if frame.f_code.co_filename in self._observers:
                return True
            frame = frame.f_back
        return False

    def _remember_forward(self) -> None:
        """Remember the source line of this operation for its derivative."""
        # Autograd numbers a node when it creates it, just before it dispatches the operation.
        sequence = torch._C._autograd._get_sequence_nr() - 1
        if sequence not in self._forward:
            self._forward[sequence] = (self._place(), self._module)

    def _where(self, node: Any) -> RecordedPlace:
        """Return where the current operation was called."""
        if self._called_at is not None:
            return self._called_at()
        place, module = self._located(node)
        phase, derivative = self.phase, ""
        if node is not None:
            phase, derivative = "backward", node.name().rpartition("::")[2]
            parameter = parameter_of(node)
            if parameter is not None and is_in_hook(sys._getframe(1), self._is_skipped):
                name = self._name(parameter).removeprefix("weight ")
                phase, derivative = "step", f"{derivative} of {name}" if name else derivative
        return RecordedPlace(
            place.file,
            place.line,
            place.function,
            place.loop,
            place.callers,
            module,
            derivative,
            phase,
        )

    def _current_node(self) -> Any:
        """Return the node of the autograd graph whose derivative is computed; None if none is.

        A node whose hook began the tracing is none: nothing that is traced belongs to its pass.
        """
        if torch._C._current_graph_task_id() == self._outer_task:
            return None
        return torch._C._current_autograd_node()

    def _located(self, node: Any) -> tuple[Place, str]:
        """Return the source line and the module of the current operation."""
        if node is not None and node._sequence_nr() in self._forward:
            place, module = self._forward[node._sequence_nr()]
            # A backward pass that is written in Python has its own source lines.
            written_out = isinstance(node, torch.autograd.function.BackwardCFunction)
            return (self._place() if written_out else place), module
        return self._place(), self._module

    def _place(self) -> Place:
        """Return the innermost source line outside of torch and this module."""
        frame = sys._getframe(1)
        return place_of(frame, self._is_skipped, self._loop, self._callers, self._called_from)

    def _is_skipped(self, file: str) -> bool:
        return file == __file__ or self._is_plumbing(file)

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
