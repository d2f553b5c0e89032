"""Measures the load of a training process and its workers: processors, memory and GPU."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esper.leyline.gpu_load import GpuLoad

if TYPE_CHECKING:
    import psutil


#: Returns the GPU load of a process; None without a GPU.
GpuMeter = Callable[[], GpuLoad | None]


def no_gpu() -> None:
    """Return None: there is no GPU."""


@dataclass(frozen=True)
class Load:
    """Load of processes; None where it cannot be measured."""

    cpu_percent: float | None  # since the previous measurement; 100 is one core
    memory_bytes: int | None  # resident, of all processes
    own_memory_bytes: int  # resident, of the first process only
    gpu: GpuLoad | None


class LoadMeter:
    """Measures a process and all its child processes.

    Args:
        pid: id of the process.
        gpu: returns its GPU load.
        ticks: monotonic clock, in seconds.
    """

    def __init__(
        self, pid: int, gpu: GpuMeter = no_gpu, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._pid = pid
        self._gpu = gpu
        self._ticks = ticks
        self._before: tuple[float, dict[int, float]] | None = None

    def read(self) -> Load:
        """Return the current load; processor time counts from the previous call.

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

        found = []
        try:
            process = psutil.Process(self._pid)
            found.append(process)
            pids = _descendants(self._pid)
            if pids is None:
                return [process, *process.children(recursive=True)]
        except psutil.Error:
            return found
        for pid in pids:
            with suppress(psutil.Error):
                found.append(psutil.Process(pid))
        return found


def _descendants(pid: int) -> list[int] | None:
    """Return the ids of the children of a process and of theirs; None if Linux does not list them.

    `psutil.Process.children` reads the parent of every process of the machine, which takes 10 ms
    for each thousand.
    """
    found: list[int] = []
    wanted = [pid]
    while wanted:
        parent = wanted.pop()
        try:
            threads = list(Path(f"/proc/{parent}/task").iterdir())
            children = [
                int(one) for path in threads for one in (path / "children").read_text().split()
            ]
        except OSError:  # it has ended, or the kernel has no such files
            if parent == pid:
                return None
            continue
        found += children
        wanted += children
    return found
