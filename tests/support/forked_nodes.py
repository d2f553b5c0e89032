"""`esper ppo` under PyTorch's elastic agents, one for each node, as `torchrun` starts them.

The agents and their ranks are forked from a process that has loaded PyTorch. Only the start of the
interpreter is left out: rendezvous, key-value store, signals and restarts are those of `torchrun`.
An agent that starts functions, not programs as `torchrun` does, shares a `multiprocessing.Event`
with its ranks. A rank that is killed while it waits for it leaves it locked, and the agent would
wait forever; so that event is replaced.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from forked_ranks import fork_context, free_port, output_file, run_esper
from waiting import wait_until


class ForkedNodes:
    """The launchers of one training on one machine, and their ranks.

    Args:
        folder: working directory of all; receives the output of each rank, and of each launcher.
        arguments: of `esper`.
        nodes: number of launchers.
        ranks: number of ranks of each.
    """

    def __init__(
        self, folder: Path, arguments: Sequence[str], *, nodes: int = 1, ranks: int = 2
    ) -> None:
        self.folder = folder
        for rank in range(nodes * ranks):
            output_file(folder, rank).unlink(missing_ok=True)  # of a start before this one
        endpoint = f"127.0.0.1:{free_port()}"
        self._launchers = []
        for node in range(nodes):
            launcher = fork_context.Process(
                target=_launch,
                args=(str(folder), tuple(arguments), nodes, ranks, node, endpoint),
            )
            launcher.start()
            self._launchers.append(launcher)
        #: Every rank that was seen: those of a dead launcher have another parent.
        self._ranks: dict[int, psutil.Process] = {}

    def kill_launcher(self, node: int) -> None:
        """Send SIGKILL to a launcher, and not to its ranks."""
        self.find_ranks()
        self._launchers[node].kill()

    def kill_node(self, node: int) -> None:
        """Send SIGKILL to a launcher and to all its ranks."""
        found = self.find_ranks(node)
        self._launchers[node].kill()
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to a rank; nothing if it does not exist.

        Args:
            rank: number of the rank among the processes, which launchers start in this order.
            number: the signal.
        """
        for place, process in enumerate(self.find_ranks()):
            if place == rank:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def find_ranks(self, node: int | None = None) -> list[psutil.Process]:
        """Return the ranks that exist, of one node or of all."""
        launchers = self._launchers if node is None else [self._launchers[node]]
        found: list[psutil.Process] = []
        for launcher in launchers:
            try:
                found += sorted(psutil.Process(launcher.pid).children(), key=lambda one: one.pid)
            except psutil.Error:
                continue
        self._ranks |= {process.pid: process for process in found}
        return found

    def wait_for(self, text: str, rank: int = 0) -> None:
        """Wait until a rank has printed a text."""
        wait_until(lambda: text in self.output(rank), text)

    def output(self, rank: int) -> str:
        """Return what a rank has printed; empty if it never began."""
        path = output_file(self.folder, rank)
        return path.read_text() if path.exists() else ""

    def wait(self, seconds: float = 60.0) -> tuple[list[int | None], float]:
        """Wait until all ranks and launchers have ended, and kill those that do not.

        Returns:
            The exit codes of the launchers, and the seconds until the last process ended.
        """
        start = time.monotonic()
        while self._is_any_alive() and time.monotonic() < start + seconds:
            time.sleep(0.02)
        taken = time.monotonic() - start
        for process in self._ranks.values():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for launcher in self._launchers:
            if launcher.is_alive():
                launcher.kill()
            launcher.join()
        return [launcher.exitcode for launcher in self._launchers], taken

    def _is_any_alive(self) -> bool:
        self.find_ranks()
        are_launchers = [launcher.is_alive() for launcher in self._launchers]
        return any(are_launchers) or any(map(_is_alive, self._ranks.values()))


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class _PipeEvent:
    """An event that a killed process cannot leave locked."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def set(self) -> None:
        """Wake up all that wait, now or later."""
        os.write(self._write, b".")

    def wait(self) -> None:
        """Wait until it is set."""
        select.select([self._read], [], [])


def _launch(
    folder: str, arguments: tuple[str, ...], nodes: int, ranks: int, node: int, endpoint: str
) -> None:
    from torch.distributed.elastic import multiprocessing
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    class Context(multiprocessing.MultiprocessContext):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._worker_finished_event = _PipeEvent()

    multiprocessing.MultiprocessContext = Context  # type: ignore[misc]  # in this process alone
    os.chdir(folder)
    output = os.open(f"launcher {node}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    config = LaunchConfig(
        nodes,
        nodes,
        ranks,
        run_id="killed",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"is_host": node == 0},
        max_restarts=0,
        start_method="fork",
        local_addr="127.0.0.1",
    )
    try:
        elastic_launch(config, _run_rank)(folder, arguments)
    except ChildFailedError as error:
        print(error)
        sys.exit(1)


def _run_rank(folder: str, arguments: tuple[str, ...]) -> Any:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # those of the launcher were copied, too
    run_esper(folder, int(os.environ["RANK"]), arguments)
