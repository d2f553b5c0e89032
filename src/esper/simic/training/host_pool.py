"""The hosts of a run, divided among processes that live from batch to batch."""

import numpy as np
import torch

from esper.growth.environment.divided import DividedHosts
from esper.growth.environment.host_process import LONGEST_SILENCE
from esper.growth.tasks.task import Task
from esper.leyline.heads import HEAD_SIZES
from esper.leyline.telemetry import HostsStalled
from esper.simic.config import TrainingConfig
from esper.simic.environment import divide_hosts
from esper.simic.ranks.collectives import Ranks
from esper.simic.training.process.stopping import StoppedAtOnce, StopRequest
from esper.simic.training.process.threads import choose_threads
from esper.simic.training.run_log import RunLog


class HostPool:
    """Creates the hosts of a run, and reports processes that do not answer.

    Args:
        config: the run's settings.
        task: the task, loaded.
        device: device of the hosts.
        log: console and log of the run.
        stop: set when the user asked training to stop.
        ranks: the ranks of the run, each of which has some of the hosts in one process; None for a
            process that trains alone.
    """

    def __init__(
        self,
        config: TrainingConfig,
        task: Task,
        device: torch.device,
        log: RunLog,
        stop: StopRequest,
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = ranks
        self._config = config
        self._task = task
        self._device = device
        self._log = log
        self._stop = stop
        self._hosts: DividedHosts | None = None
        self._silent: set[int] = set()  # ids of processes that do not answer
        self.update = 1  # the current update, for reports
        if ranks is not None and (idle := ranks.world_size - config.num_envs) > 0:
            log.say(
                f"{idle} of {ranks.world_size} ranks have no hosts: give --envs "
                f"{ranks.world_size} or more",
                "warning",
            )

    def hosts(self, num_hosts: int) -> DividedHosts:
        """Return the hosts of this process in a batch of that many.

        They are those of the last call, or new ones if the number differs.
        """
        processes = self._config.processes
        if self._ranks is not None:
            own = self._ranks.share(num_hosts).own
            num_hosts, processes = own.stop - own.start, 1
        if self._hosts is None or self._hosts.num_envs != num_hosts:
            self.close()
            with self._stop.interruptible():
                self._hosts = divide_hosts(
                    self._config,
                    num_hosts,
                    self._device,
                    self._task,
                    self._on_silence,
                    processes=processes,
                )
        return self._hosts

    def close(self) -> None:
        """End the processes that hold hosts."""
        if self._hosts is not None:
            self._hosts.close()

    def set_threads(self, threads: int) -> int:
        """Set the number of PyTorch threads; 0 measures which number is fastest. Return it."""
        if threads:
            torch.set_num_threads(threads)
            return threads
        self._log.write("measuring with how many threads training is fastest")
        self._log.progress.stage("measuring with how many threads training is fastest")
        hosts = self.hosts(self._config.num_envs)
        waiting = np.zeros((hosts.num_envs, len(HEAD_SIZES)), dtype=np.int64)

        def train_a_slice() -> None:
            hosts.reset(range(hosts.num_envs))
            hosts.step(waiting)

        with self._stop.interruptible():
            chosen = choose_threads(train_a_slice, hosts.set_threads)
        if self._ranks is not None:
            chosen = self._ranks.first_number(chosen)
            torch.set_num_threads(chosen)
        return chosen

    def _on_silence(self, pid: int, seconds: float, *, answered: bool) -> None:
        """Report a process that holds hosts and does not answer, or answers again.

        Raises:
            StoppedAtOnce: the user asked training to stop; the process may never answer.
        """
        progress = self._log.progress
        if answered:
            progress.say(f"process {pid}, which holds hosts, answers again after {seconds:.0f} s")
            self._silent.discard(pid)
        elif self._stop.requested:
            raise StoppedAtOnce
        elif pid in self._silent:
            return
        else:
            progress.say(
                f"STUCK: process {pid}, which holds hosts, has not answered for {seconds:.0f} s; "
                f"training ends if it stays silent for {LONGEST_SILENCE:.0f} s"
            )
            self._silent.add(pid)
        self._log.writer.emit(
            HostsStalled(update=self.update, pid=pid, seconds=seconds, answered=answered),
            durable=True,
        )
