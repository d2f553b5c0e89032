"""Identifies tensors by their memory, and records which operation produced which part of it.

Autograd creates new tensors for the same memory, so a tensor is identified by its storage. Storages
are referenced weakly, so that a record keeps no memory alive.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from esper.tracing.operations import Operation


class StorageRecord:
    """The operations that made the parts of one storage.

    Args:
        tensor: any tensor in the storage.
    """

    def __init__(self, tensor: Tensor) -> None:
        # While a weak reference exists, no other storage gets this address.
        self._reference = StorageWeakRef(tensor.untyped_storage())
        self._parts: list[tuple[int, int, Operation]] = []

    def add(self, tensor: Tensor, operation: Operation) -> None:
        """Record the operation that made a tensor."""
        self.forget(tensor)
        self._parts.append((*byte_span(tensor), operation))

    def forget(self, tensor: Tensor) -> None:
        """Remove the operations whose results were overwritten by a tensor."""
        start, end = byte_span(tensor)
        if end - start == tensor.numel() * tensor.element_size():  # contiguous, without gaps
            self._parts = [
                part for part in self._parts if not (start <= part[0] and part[1] <= end)
            ]

    def confirm_masks(self) -> None:
        """Record that what looks like a mask in it is one."""
        self._parts = [
            (start, end, replace(made, is_unused_mask=False) if made.is_unused_mask else made)
            for start, end, made in self._parts
        ]

    def overlapping(self, tensor: Tensor) -> tuple[Operation, ...]:
        """Return the operations that made a part of a tensor, newest last."""
        start, end = byte_span(tensor)
        return tuple(part[2] for part in self._parts if part[0] < end and start < part[1])


def storage_key(tensor: Tensor) -> int:
    """Return a key of a tensor's storage."""
    return tensor.untyped_storage()._cdata


def byte_span(tensor: Tensor) -> tuple[int, int]:
    """Return the first and the last byte + 1 of a tensor in its storage."""
    if not tensor.numel():
        return 0, 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum(int(size - 1) * int(stride) for size, stride in steps)
    start = int(tensor.storage_offset())
    return start * tensor.element_size(), (start + last + 1) * tensor.element_size()


def tensor_key(tensor: Tensor) -> tuple[int, int, int]:
    """Return a key of a tensor: its storage and its span in it, since storages may be shared."""
    return storage_key(tensor), *byte_span(tensor)


class KnownTensors:
    """Names of tensors, by memory or by values.

    Args:
        named: tensors by name; if a tensor has two names, the later one is used.
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self._names: dict[tuple[int, int, int], str] = {}
        self._by_storage: dict[int, list[tuple[int, int, str]]] = {}
        self._bad: dict[str, Tensor] = {}
        self.add(named)

    def add(self, named: Mapping[str, Tensor]) -> None:
        """Add further names."""
        for name, tensor in named.items():
            if tensor.layout is not torch.strided or tensor.is_meta:
                continue  # has no memory that could be compared
            storage, start, end = tensor_key(tensor)
            self._names[storage, start, end] = name
            self._by_storage.setdefault(storage, []).append((start, end, name))
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                self._bad[name] = tensor.detach()

    def name_of(self, tensor: Tensor) -> str:
        """Return the name of a tensor; empty if it has none."""
        return self._names.get(tensor_key(tensor), "")

    def name_around(self, tensor: Tensor) -> str:
        """Return the name of the smallest known tensor that a tensor is a part of; empty if none.

        Examples are a row, or one step of a sequence.
        """
        storage, start, end = tensor_key(tensor)
        around = [
            (last - first, name)
            for first, last, name in self._by_storage.get(storage, ())
            if first <= start and end <= last
        ]
        return min(around)[1] if around else ""

    def name_of_equal(self, values: Tensor) -> str:
        """Return the name of a known non-finite tensor that holds the same values; empty if none.

        An example is an array that was converted to a tensor twice. A tensor without any finite
        value, such as a single infinity, is not matched, because it would equal too many others.
        """
        if not bool(values.isfinite().any()):
            return ""
        for name, tensor in self._bad.items():
            if tensor.shape == values.shape and tensor.device == values.device:
                is_same = (tensor == values) | (tensor.isnan() & values.isnan())
                if bool(is_same.all()):
                    return name
        return ""
