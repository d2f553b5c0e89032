"""Serialisation of explanations for sending between processes."""

import io
import pickle
from dataclasses import replace
from typing import Any

from esper.tracing.operations import Operation


class _Packer(pickle.Pickler):
    """Pickles operations by index, because their reference chains are too long for recursion."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.operations: list[Operation] = []
        self._indices: dict[int, int] = {}

    def index(self, operation: Operation) -> int:
        """Return the index of an operation among the sent ones."""
        if id(operation) not in self._indices:
            self._indices[id(operation)] = len(self.operations)
            self.operations.append(operation)
        return self._indices[id(operation)]

    def persistent_id(self, value: Any) -> int | None:
        """Return the index of an operation; None for any other object."""
        return self.index(value) if isinstance(value, Operation) else None


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, operations: list[Operation]) -> None:
        super().__init__(file)
        self._operations = operations

    def persistent_load(self, pid: Any) -> Operation:
        """Return the operation with an index."""
        return self._operations[pid]


def packed(value: Any) -> bytes:
    """Return a value as bytes."""
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(value)
    # `index` appends further sources to the list while it is iterated.
    sources = [[packer.index(source) for source in one.sources] for one in packer.operations]
    operations = [replace(operation, sources=()) for operation in packer.operations]
    return pickle.dumps((operations, sources, file.getvalue()), pickle.HIGHEST_PROTOCOL)


def unpacked(content: bytes) -> Any:
    """Return the original value of `packed`."""
    operations, sources, value = pickle.loads(content)
    for operation, own in zip(operations, sources, strict=True):
        object.__setattr__(operation, "sources", tuple(operations[index] for index in own))
    return _Unpacker(io.BytesIO(value), operations).load()


def sendable(error: Exception) -> Exception:
    """Return an exception, or a RuntimeError with its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a class of the training code
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
