"""The GPU load of a process, as training measures and the store records it."""

from typing import NamedTuple


class GpuLoad(NamedTuple):
    """The load of a GPU; None if it cannot be measured."""

    percent: float | None  # share of time in which the GPU was busy
    memory_bytes: int | None  # reserved by the process
    total_bytes: int | None
