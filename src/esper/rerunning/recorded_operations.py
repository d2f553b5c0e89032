"""Repeats the recorded operations of a minibatch with the installed PyTorch.

Only PyTorch's own operations are run, with the tensors and numbers of the capsule; no Python code
of the training script or the capsule is run.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from esper.leyline.errors import EsperError
from esper.leyline.telemetry import IncidentOrigin, NonfiniteSighting
from esper.recording.capsule import WatchedCapsule
from esper.rerunning.argument_checks import check_arguments, check_extent
from esper.simic.command_progress import Report, no_report
from esper.simic.replay.incidents import IncidentError
from esper.simic.replay.verdict import DIFFERS, NOT_REPRODUCED, REPRODUCED
from esper.tracing.operations import LONGEST_LINE
from esper.tracing.origin import Origin
from esper.tracing.recorded import (
    DEVICE,
    DTYPE,
    FORMAT,
    LAYOUT,
    MOST_OPERATIONS,
    STORAGES,
    TENSOR,
    RecordedInput,
    RecordedOperation,
    RecordedPlace,
    Recording,
    all_tensors,
)
from esper.tracing.repeatable import is_repeatable
from esper.tracing.tracer import OperationTracer
from esper.watching.checks.found import Found
from esper.watching.finding.explaining import origin_in, origin_in_use
from esper.watching.finding.repeating.rerun import LOOP_FUNCTION

REMARK: Final = "the recorded PyTorch operations were repeated, not the training script"
_NAME: Final = re.compile(r"aten\.([a-zA-Z0-9_]+)\.([a-zA-Z0-9_]+)")
_TEXT: Final = re.compile(r"[a-z_]{0,20}")  # of modes such as "tanh" or "floor"
_DTYPES: Final = frozenset(
    {"float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64"}
    | {"bool", "complex64", "complex128"}
)
_LSTM: Final = "aten.mkldnn_rnn_layer."
_MOST_SECONDS: Final = 600.0
#: Memory limit of a repetition: a fixed number of bytes, plus a multiple of its inputs' size.
_BYTES, _TIMES_INPUTS = 4 << 30, 16
_DEEPEST: Final = 4  # lists in lists
_LONGEST: Final = 4096  # lists of numbers
_MOST_DIMENSIONS: Final = 64


class _WrongError(EsperError, ValueError):
    """A part of the recording is invalid; the message says which."""


def run_recorded(
    capsule: WatchedCapsule, report: Report = no_report
) -> tuple[Origin | None, OperationTracer]:
    """Repeat the recorded operations of a capsule; return the origin of a non-finite value.

    Args:
        capsule: the capsule.
        report: receives the current work, and the fraction of all work that is done.

    Raises:
        IncidentError: the operations cannot be repeated; the message is one sentence.
    """
    try:
        recording = msgspec.convert(capsule.plan, Recording)
        storages = capsule.data.get(STORAGES)
        run = _Run(recording, _storages_in(storages), capsule, report)
        with _bounded(sum(one.nbytes for one in run.storages)), torch.no_grad():
            return run.origin(), run.tracer
    except (_WrongError, msgspec.ValidationError) as error:
        reason = str(error)
    except MemoryError:
        reason = "its operations take too much memory"
    raise IncidentError(f"the capsule cannot be replayed: {reason[:200]}")


def verdict_of(
    capsule: WatchedCapsule, origin: Origin | None
) -> tuple[str, tuple[str, ...], tuple[NonfiniteSighting, ...]]:
    """Return the verdict, a sentence for each difference, and the sightings.

    Args:
        capsule: the capsule.
        origin: origin of the non-finite value in the repetition; None if everything was finite.
    """
    recorded = tuple(msgspec.convert(capsule.sightings, list[NonfiniteSighting]))
    if origin is None:
        return NOT_REPRODUCED, ("everything was finite in the replay",), ()
    before = msgspec.convert(capsule.origin, IncidentOrigin)
    now = origin.operation
    if (before.operation, before.file, before.line) == (now.name, now.place.file, now.place.line):
        return REPRODUCED, (), recorded
    difference = (
        f"recorded: it began in {before.operation} in line {before.line}; "
        f"seen now: in {now.name} in line {now.place.line}"
    )
    return DIFFERS, (difference,), recorded


def _storages_in(values: Any) -> list[Tensor]:
    if not isinstance(values, list):
        raise _WrongError("its tensors are missing")
    for one in values:
        if not isinstance(one, Tensor) or one.dtype != torch.uint8 or one.dim() != 1:
            raise _WrongError("its tensors are not lists of bytes")
        if not one.is_contiguous():
            raise _WrongError("its tensors are not lists of bytes")
    return values


class _Run:
    """One repetition.

    Args:
        recording: the operations.
        storages: contents of the inputs' storages.
        capsule: the incident's capsule.
        report: receives the progress.
    """

    def __init__(
        self,
        recording: Recording,
        storages: list[Tensor],
        capsule: WatchedCapsule,
        report: Report,
    ) -> None:
        if len(recording.operations) > MOST_OPERATIONS:
            raise _WrongError(f"it has more than {MOST_OPERATIONS:,} operations")
        if len(recording.inputs) > 8 * MOST_OPERATIONS or recording.storages != len(storages):
            raise _WrongError("its tensors do not fit its operations")
        self.storages = [one.clone() for one in storages]
        self._recording = recording
        self._capsule = capsule
        self._report = report
        self._tensors: dict[int, Tensor] = {}
        names: dict[str, Tensor] = {}
        for each in recording.inputs:
            self._tensors[each.number] = tensor = self._input(each)
            if each.name:
                names.setdefault(each.name, tensor)
        self._places = [
            # During training, the loop's lines were repeated in a function with this name.
            # Do not read source files: the capsule may contain any path.
            msgspec.structs.replace(
                one,
                function=one.function.replace(LOOP_FUNCTION, "the loop"),
                code=(one.code or "")[:LONGEST_LINE],
            )
            for one in recording.places
        ]
        self._where = RecordedPlace("", 0, "", None, (), "", "", "forward")
        self.tracer = OperationTracer(
            nn.Module(), "", names, called_at=lambda: self._where, masks_by_value=True
        )
        self.tracer.minibatch = max(capsule.minibatch - 1, 0)

    def origin(self) -> Origin | None:
        """Run all operations; return the origin of a non-finite value."""
        operations = self._recording.operations
        uses = Counter(number for one in operations for number in _numbers_in(one))
        uses.update(self._recording.looked_at)
        began = time.monotonic()
        with self.tracer:
            for index, operation in enumerate(operations):
                if index % 100 == 0:
                    self._report(f"replaying, operation {index}", index / len(operations))
                if time.monotonic() - began > _MOST_SECONDS:
                    raise _WrongError("its operations take more than 10 minutes")
                self._call(operation)
                for number in _numbers_in(operation):
                    uses[number] -= 1
                    if not uses[number]:
                        self._tensors.pop(number, None)
        bad = [self._tensor(number) for number in self._recording.looked_at]
        bad = [one for one in bad if not bool(one.isfinite().all())]
        sightings = msgspec.convert(self._capsule.sightings, list[NonfiniteSighting])
        found = [Found(one.head, one.quantity, one.kind, one.part) for one in sightings]
        return origin_in(self.tracer, bad) or origin_in_use(self.tracer, found)

    def _call(self, operation: RecordedOperation) -> None:
        function = _function_of(operation.name)
        if not 0 <= operation.place < len(self._places):
            raise _WrongError(f"{operation.name} has no place")
        self._where = self._places[operation.place]
        args = [self._value(one, 0) for one in operation.args]
        kwargs = {str(key): self._value(one, 0) for key, one in operation.kwargs.items()}
        try:
            with _disable_current_modes():  # the operations of the checks must not be traced
                check_arguments(function, args, kwargs)
            # With gradients enabled, an LSTM also returns the inputs of its backward operation.
            with torch.set_grad_enabled(operation.name.startswith(_LSTM)):
                result = function(*args, **kwargs)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - PyTorch raises errors of many types
            if "allocate memory" in str(error):
                raise MemoryError from None
            first_line = str(error).partition("\n")[0]
            raise _WrongError(f"{operation.name} does not accept it: {first_line}") from None
        tensors = list(all_tensors(result))
        if len(tensors) != len(operation.results):
            raise _WrongError(f"{operation.name} returned {len(tensors)} tensors")
        for tensor in tensors:
            _check_size(tensor)
            check_extent(tensor)
        self._tensors.update(zip(operation.results, tensors, strict=True))

    def _tensor(self, number: Any) -> Tensor:
        tensor = self._tensors.get(number) if isinstance(number, int) else None
        if tensor is None:
            raise _WrongError("an operation uses a tensor that no operation produced")
        return tensor

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            if not _TEXT.fullmatch(value):
                raise _WrongError("an operation has an unknown mode")
            return value
        if isinstance(value, (list, tuple)) and depth < _DEEPEST:
            if len(value) > _LONGEST and not isinstance(value[0], dict):
                raise _WrongError("an operation has too long a list of numbers")
            return [self._value(one, depth + 1) for one in value]
        if isinstance(value, dict) and len(value) == 1:
            key, one = next(iter(value.items()))
            if key == TENSOR:
                return self._tensor(one)
            if key == DEVICE:
                return torch.device("cpu")
            if key == DTYPE and one in _DTYPES:
                return getattr(torch, one)
            if key == LAYOUT and one == "strided":
                return torch.strided
            if key == FORMAT and isinstance(getattr(torch, str(one), None), torch.memory_format):
                return getattr(torch, one)
        raise _WrongError("an operation has an argument of an unknown kind")

    def _input(self, each: RecordedInput) -> Tensor:
        if each.dtype not in _DTYPES or not 0 <= each.storage < len(self.storages):
            raise _WrongError("an input has an unknown type or storage")
        numbers = [*each.shape, *each.stride, each.offset]
        if len(each.shape) != len(each.stride) or len(each.shape) > 64 or min(numbers) < 0:
            raise _WrongError("an input has an invalid shape")
        dtype = getattr(torch, each.dtype)
        storage = self.storages[each.storage].untyped_storage()
        last = sum((size - 1) * step for size, step in zip(each.shape, each.stride, strict=True))
        end = (each.offset + last + 1) * dtype.itemsize if all(each.shape) else 0
        if end > storage.nbytes():
            raise _WrongError("an input is larger than its storage")
        tensor = torch.empty(0, dtype=dtype)
        tensor.set_(storage, each.offset, tuple(each.shape), tuple(each.stride))
        _check_size(tensor)
        return tensor


def _check_size(tensor: Tensor) -> None:
    """Reject a view that repeats its memory so often that operations on it would take too long."""
    if tensor.dim() > _MOST_DIMENSIONS or tensor.numel() * tensor.element_size() > _BYTES:
        raise _WrongError("one of its tensors is too large")


def _numbers_in(operation: RecordedOperation) -> Iterator[int]:
    """Yield the numbers of the tensors in an operation's arguments and results."""
    yield from operation.results
    values: list[Any] = [*operation.args, *operation.kwargs.values()]
    while values:
        value = values.pop()
        if isinstance(value, (list, tuple)):
            values += value
        elif isinstance(value, dict) and isinstance(value.get(TENSOR), int):
            yield value[TENSOR]


def _function_of(name: str) -> Any:
    """Return a PyTorch operation by name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise _WrongError(f"it uses {name[:60]!r}, which is never repeated")
    packet = getattr(torch.ops.aten, match[1], None)
    function = getattr(packet, match[2], None)
    if not isinstance(function, torch._ops.OpOverload):
        raise _WrongError(f"this PyTorch has no operation {name[:60]!r}")
    is_drawing = torch.Tag.nondeterministic_seeded in function.tags
    if is_drawing or not is_repeatable(function):
        raise _WrongError(f"it uses {name[:60]!r}, which is never repeated")
    return function


@contextmanager
def _bounded(size_of_inputs: int) -> Iterator[None]:
    """Limit the memory of this process while operations are repeated, if the system supports it."""
    try:
        import resource
    except ImportError:  # Windows
        yield
        return
    import psutil

    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + _BYTES + _TIMES_INPUTS * size_of_inputs
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
