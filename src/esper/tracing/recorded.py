"""Recordings of PyTorch operations as plain values and tensors, from which they can be repeated.

A recording contains the operations dispatched below autograd, forward and backward, in order. A
tensor that no recorded operation produced is an input, stored with its values at first use.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from esper.leyline.errors import EsperError
from esper.tracing.operations import Place, line_text
from esper.tracing.repeatable import is_repeatable
from esper.tracing.storages import storage_key

#: Name of the rebuilder for recorded operations, and the key of their storages in a capsule.
OPERATIONS: Final = "recorded operations"
STORAGES: Final = "storages of recorded operations"
#: Maximum number of recorded operations.
MOST_OPERATIONS: Final = 100_000
#: Keys that mark values other than numbers, strings and lists.
TENSOR, DTYPE, DEVICE, LAYOUT, FORMAT = "tensor", "dtype", "device", "layout", "memory_format"
_AS_STRIDED: Final = "aten.as_strided.default"
_COPY: Final = "aten.copy_.default"


class NotRecordedError(EsperError):
    """Operations cannot be recorded; the message says why."""


class RecordedInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that no recorded operation produced.

    Attributes:
        number: number of the tensor.
        storage: number of the storage that it is a view of.
        dtype: its type, such as "float32".
        shape, stride, offset: its view of the storage, in elements.
        name: its name in the training loop; empty if it has none.
    """

    number: int
    storage: int
    dtype: str
    shape: list[int]
    stride: list[int]
    offset: int
    name: str


class RecordedPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The place where an operation was called.

    Attributes:
        file, line, function: the innermost source line outside of torch.
        loop, callers: see `Place`.
        module: the module of the model.
        autograd, phase: see `Operation`.
        code: text of the line; None while the code runs and its file can be read.
    """

    file: str
    line: int
    function: str
    loop: tuple[str, int] | None
    callers: tuple[tuple[str, int], ...]
    module: str
    autograd: str
    phase: str
    code: str | None = None

    @property
    def place(self) -> Place:
        """The source line."""
        return Place(self.file, self.line, self.function, self.loop, self.callers, self.code)


class RecordedOperation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One operation.

    Attributes:
        name: PyTorch's name, such as "aten.add.Tensor".
        args, kwargs: the arguments; a tensor is `{"tensor": number}`.
        results: numbers of the returned tensors, in order.
        place: index of its place.
    """

    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    results: list[int]
    place: int


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All operations of one repetition of a minibatch.

    Attributes:
        inputs: tensors that no operation produced.
        operations: the operations, in order.
        places: the places where they were called.
        looked_at: numbers of the tensors that were non-finite at the end.
        storages: number of stored storages.
    """

    inputs: list[RecordedInput]
    operations: list[RecordedOperation]
    places: list[RecordedPlace]
    looked_at: list[int]
    storages: int


@dataclass(frozen=True)
class RecordedMinibatch:
    """The operations of one repetition, with the contents of their inputs.

    Attributes:
        recording: the operations; None if they could not be recorded.
        storages: contents of the storages of inputs, as bytes.
        reason: why there is no recording, a sentence.
    """

    recording: Recording | None
    storages: list[Tensor]
    reason: str


class OperationRecorder:
    """Records the operations that a tracer sees.

    Args:
        limit: maximum size of the inputs in bytes; above it, nothing is recorded.

    Attributes:
        reason: a sentence on why nothing is recorded; empty if everything is.
        storages: contents of the storages of inputs, as bytes.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self.reason = ""
        self.storages: list[Tensor] = []
        self._storage_of: dict[int, int] = {}  # inputs only
        self._known: dict[int, StorageWeakRef] = {}  # keeps addresses of storages unique
        self._number_of: dict[tuple[Any, ...], int] = {}
        self._bases: dict[int, tuple[int, torch.dtype]] = {}  # of each storage, a tensor
        self._count = 0
        self._inputs: list[RecordedInput] = []
        self._operations: list[RecordedOperation] = []
        self._places: dict[RecordedPlace, int] = {}
        self._pending: tuple[list[Any], dict[str, Any]] | None = None

    def before(self, func: Any, args: Any, kwargs: Any, names: dict[int, str]) -> None:
        """Record the arguments of a call before the call may change them.

        Args:
            func: the operation.
            args, kwargs: its arguments.
            names: names of tensors among them, by `id`.
        """
        self._pending = None
        namespace = getattr(func, "namespace", "")
        if self.reason or namespace == "profiler" or _only_reads(func):
            return
        try:
            is_drawing = torch.Tag.nondeterministic_seeded in func.tags  # its outcome is stored
            if not is_drawing and not is_repeatable(func):
                raise NotRecordedError(f"it uses {func}, which cannot be recorded")
            if len(self._operations) >= MOST_OPERATIONS:
                raise NotRecordedError(f"it takes more than {MOST_OPERATIONS:,} operations")
            place = -1  # is known after the call
            self._pending = (
                [self._encoded(one, names, place) for one in args],
                {key: self._encoded(one, names, place) for key, one in kwargs.items()},
            )
        except NotRecordedError as error:
            self.give_up(str(error))
        except Exception as error:  # noqa: BLE001 - the repetition continues without a recording
            self.give_up(f"recording failed: {type(error).__name__}: {error}")

    def after(self, func: Any, args: Any, result: Any, where: RecordedPlace) -> None:
        """Record the results of a call."""
        if self._pending is None or self.reason:
            return
        (encoded, kwargs), self._pending = self._pending, None
        place = self._places.setdefault(where, len(self._places))
        tensors = list(all_tensors(result))
        try:
            if torch.Tag.nondeterministic_seeded in func.tags:
                self._keep_outcome(args, tensors, place)
                return
            results = [self._new(one) for one in tensors]
            self._add(str(func), encoded, kwargs, results, place)
        except NotRecordedError as error:
            self.give_up(str(error))
        except Exception as error:  # noqa: BLE001 - as above
            self.give_up(f"recording failed: {type(error).__name__}: {error}")

    def give_up(self, reason: str) -> None:
        """Stop recording, and free the recorded data."""
        self.reason = reason
        self.storages.clear()
        self._operations.clear()
        self._inputs.clear()

    def recorded(self, looked_at: list[Tensor]) -> RecordedMinibatch:
        """Return the recording, or the reason why there is none.

        Args:
            looked_at: tensors that were non-finite at the end.
        """
        numbers: list[int] = []
        try:
            if not self.reason:
                numbers = [self._reference(one, "", -1) for one in looked_at]
        except NotRecordedError as error:
            self.give_up(str(error))
        if self.reason:
            return RecordedMinibatch(None, [], self.reason)
        recording = Recording(
            inputs=self._inputs,
            operations=self._operations,
            places=[
                msgspec.structs.replace(one, code=line_text(one.file, one.line))
                for one in self._places
            ],
            looked_at=numbers,
            storages=len(self.storages),
        )
        return RecordedMinibatch(recording, self.storages, "")

    def _add(
        self, name: str, args: list[Any], kwargs: dict[str, Any], results: list[int], place: int
    ) -> None:
        self._operations.append(RecordedOperation(name, args, kwargs, results, place))

    def _keep_outcome(self, args: Any, tensors: list[Tensor], place: int) -> None:
        """Store the random values that a call drew, instead of the call."""
        for tensor in tensors:
            drawn = {TENSOR: self._input(tensor.clone(), "")}
            known = self._number_of.get(_key(tensor))
            if known is not None and any(tensor is one for one in args):
                self._add(_COPY, [{TENSOR: known}, drawn], {}, [known], place)
            else:
                number = self._new(tensor)
                self._add("aten.alias.default", [drawn], {}, [number], place)

    def _encoded(self, value: Any, names: dict[int, str], place: int) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Tensor):
            return {TENSOR: self._reference(value, names.get(id(value), ""), place)}
        if isinstance(value, (list, tuple)):
            return [self._encoded(one, names, place) for one in value]
        for key, kind in ((DTYPE, torch.dtype), (LAYOUT, torch.layout)):
            if isinstance(value, kind):
                return {key: str(value).removeprefix("torch.")}
        if isinstance(value, torch.memory_format):
            return {FORMAT: str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {DEVICE: value.type}
        if isinstance(value, torch.Generator):
            return None  # what it drew is stored
        raise NotRecordedError(f"it uses a {type(value).__name__}, which cannot be recorded")

    def _reference(self, tensor: Tensor, name: str, place: int) -> int:
        """Return the number of a tensor."""
        if type(tensor) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
            raise NotRecordedError(f"it uses a {type(tensor).__name__}, which cannot be recorded")
        if tensor.layout is not torch.strided:
            raise NotRecordedError("it uses sparse tensors, which cannot be recorded")
        number = self._number_of.get(_key(tensor))
        if number is not None:
            return number
        base = self._bases.get(storage_key(tensor))
        if base is None or storage_key(tensor) in self._storage_of:
            return self._input(tensor, name)
        if base[1] != tensor.dtype:
            raise NotRecordedError("it uses one tensor as two types, which cannot be recorded")
        number = self._new(tensor)
        sizes = [list(tensor.shape), list(tensor.stride()), int(tensor.storage_offset())]
        place = place if place >= 0 else max(len(self._places) - 1, 0)
        self._add(_AS_STRIDED, [{TENSOR: base[0]}, *sizes], {}, [number], place)
        return number

    def _input(self, tensor: Tensor, name: str) -> int:
        """Store a tensor that no operation produced; return its number."""
        tensor = tensor.detach()
        key = storage_key(tensor)
        if key not in self._storage_of:
            storage = tensor.untyped_storage()
            self._left -= storage.nbytes()
            if self._left < 0:
                raise NotRecordedError("its tensors are too large to be recorded")
            self._storage_of[key] = len(self.storages)
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            self.storages.append(whole.clone().cpu())
        number = self._new(tensor)
        self._inputs.append(
            RecordedInput(
                number=number,
                storage=self._storage_of[key],
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=list(tensor.shape),
                stride=list(tensor.stride()),
                offset=int(tensor.storage_offset()),
                name=name,
            )
        )
        return number

    def _new(self, tensor: Tensor) -> int:
        """Return the number of a tensor that a call returned; the same one for the same tensor."""
        key = _key(tensor)
        number = self._number_of.get(key)
        if number is None:
            number = self._number_of[key] = self._count
            self._count += 1
            storage = storage_key(tensor)
            if storage not in self._known:
                self._known[storage] = StorageWeakRef(tensor.untyped_storage())
                self._bases[storage] = (number, tensor.dtype)
        return number


def _only_reads(func: Any) -> bool:
    """Return whether an operation of PyTorch's own changes no tensor and returns none."""
    schema = getattr(func, "_schema", None)
    if schema is None or getattr(func, "namespace", "") != "aten":
        return False
    returns = any("Tensor" in str(one.type) for one in schema.returns)
    return not returns and not schema.is_mutable


def all_tensors(value: Any) -> Any:
    """Yield the tensors that an operation returned, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from all_tensors(one)


def _key(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key of a tensor: autograd may make another object for the same one."""
    view = (tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset(), tensor.dtype)
    return (storage_key(tensor), *view)
