"""What a training process and its workers take of the machine: processors, memory and GPU."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.leyline.gpu_load import GpuLoad

if TYPE_CHECKING:
    import psutil


#: Returns what a process takes of its GPU; None where it has none.
GpuMeter = Callable[[], GpuLoad | None]


def no_gpu() -> None:
    """Return that there is no GPU."""


@dataclass(frozen=True)
class Load:
    """What processes take of the machine; None where it cannot be measured."""

    cpu_percent: float | None  # 100 is one core, since the reading before
    memory_bytes: int | None  # resident, of all the processes
    own_memory_bytes: int  # resident, of the first process alone
    gpu: GpuLoad | None


class LoadMeter:
    """Measures a process and all processes that it started.

    Args:
        pid: of the process.
        gpu: returns what it takes of its GPU.
        ticks: returns seconds of a clock that is never set.
    """

    def __init__(
        self, pid: int, gpu: GpuMeter = no_gpu, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._pid = pid
        self._gpu = gpu
        self._ticks = ticks
        self._before: tuple[float, dict[int, float]] | None = None

    def read(self) -> Load:
        """Return the load of now; processor time counts from the reading before.

        A process that ends meanwhile is left out.
        """
        import psutil  # takes 20 ms to import, and a viewer never needs this

        seconds: dict[int, float] = {}
        memory: dict[int, int] = {}
        for process in self._processes():
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    memory[process.pid] = process.memory_info().rss
            except psutil.Error:
                continue
            seconds[process.pid] = times.user + times.system
        now, before = self._ticks(), self._before
        self._before = now, seconds
        cpu = None
        if before is not None and now > before[0]:
            spent = sum(max(0.0, used - before[1].get(pid, 0.0)) for pid, used in seconds.items())
            cpu = 100.0 * spent / (now - before[0])
        return Load(cpu, sum(memory.values()) or None, memory.get(self._pid, 0), self._gpu())

    def _processes(self) -> "list[psutil.Process]":
        import psutil  # as above

        try:
            process = psutil.Process(self._pid)
            return [process, *process.children(recursive=True)]
        except psutil.Error:
            return []
