"""`esper ppo` in several processes, with the environment that torchrun gives them.

The processes are forked from one that has loaded PyTorch, so that starting them takes no time.
"""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, NoReturn

from waiting import wait_until

fork_context = multiprocessing.get_context("forkserver")
fork_context.set_forkserver_preload(
    [
        "esper.cli",
        "esper.commands.ppo.rank",
        "esper.services.launch.resume_auto",
        "esper.simic.ranks.meeting",
        "esper.simic.training.progress",
        "esper.simic.training.trainer",
        "psutil",
        "rank_faults",
        "sklearn.datasets",  # of the task, and of torch's optimizers: seconds in each process
        "torch._dynamo",
        "torch.distributed.launcher.api",
    ]
)

Prepare = Callable[[], None]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def end_fork_server() -> None:
    """End the process that the ranks are forked from; tests that count children see it, too."""
    # There is no public function to stop it. Otherwise it ends when this process does, and unloads
    # PyTorch.
    pid = forkserver._forkserver._forkserver_pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    forkserver._forkserver._stop()
    resource_tracker._resource_tracker._stop()


class ForkedRanks:
    """The ranks of one start.

    Args:
        folder: their working directory; receives their output.
        arguments: of `esper`.
        ranks: number of processes.
        prepare: called in each process before it starts.
        environment: further variables of the environment.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        ranks: int = 2,
        prepare: Prepare | None = None,
        **environment: str,
    ) -> None:
        self.folder = folder
        common = {
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            **environment,
        }
        self._processes = []
        for rank in range(ranks):
            own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            output_file(folder, rank).unlink(missing_ok=True)  # of a start before this one
            process = fork_context.Process(
                target=_run, args=(str(folder), rank, tuple(arguments), own, prepare)
            )
            process.start()
            self._processes.append(process)

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to a rank; if it has ended already, nothing happens."""
        process = self._processes[rank]
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, number)

    def wait(self, seconds: float = 60.0) -> tuple[list[int | None], float]:
        """Wait for all ranks; return their exit codes, and the seconds until the last ended."""
        start = time.monotonic()
        for process in self._processes:
            process.join(max(0.0, start + seconds - time.monotonic()))
            if process.is_alive():
                process.kill()
        taken = time.monotonic() - start
        return [process.exitcode for process in self._processes], taken

    def output(self, rank: int) -> str:
        """Return what a rank has printed; empty if it has not begun."""
        path = output_file(self.folder, rank)
        return path.read_text() if path.exists() else ""

    def wait_for(self, text: str, rank: int = 0) -> None:
        """Wait until a rank has printed a text."""
        path = output_file(self.folder, rank)
        wait_until(lambda: path.exists() and text in path.read_text(), text)


def output_file(folder: Path, rank: int) -> Path:
    """Return the file with the output of a rank."""
    return folder / f"rank {rank}.txt"


def _run(
    folder: str,
    rank: int,
    arguments: Sequence[str],
    environment: dict[str, str],
    prepare: Prepare | None,
) -> Any:
    os.environ.update(environment)
    run_esper(folder, rank, arguments, prepare)


def run_esper(
    folder: str, rank: int, arguments: Sequence[str], prepare: Prepare | None = None
) -> NoReturn:
    """Run `esper` in this process, as a rank.

    Args:
        folder: working directory; receives the output.
        rank: number of the rank.
        arguments: of `esper`.
        prepare: called before it starts.
    """
    os.chdir(folder)
    output = os.open(output_file(Path(folder), rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if prepare is not None:
        prepare()
    from esper.cli import main

    main(arguments)
