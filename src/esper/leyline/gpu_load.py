"""What a process takes of its GPU, as training measures it and the store keeps it."""

from typing import NamedTuple


class GpuLoad(NamedTuple):
    """The load of a GPU; None where it cannot be measured."""

    percent: float | None  # of the time in which the GPU was busy
    memory_bytes: int | None  # that the process reserved
    total_bytes: int | None
