"""Hosts divided among processes, so that every core trains some of them.

A step of many hosts is thousands of short operations. A second thread gains little on each of
them, and two Python threads wait for one another; processes do not.
Measured on two cores, 64 hosts with every slot occupied: two threads 1.2 times, two processes 2.0
times as fast as one of each (`benchmarks/host_throughput.py`).
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Concatenate, TypeVar

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.environment.host_process import HostProcess, SilenceListener

#: Seconds that all processes have to end before they are killed.
_PATIENCE = 0.5
#: Minimum of hosts per process: with fewer, another process costs more than it gains.
LEAST_HOSTS = 8

T = TypeVar("T")


def parts_of(hosts: int, processes: int) -> list[slice]:
    """Return the hosts of each process: as many processes as possible with the minimum of hosts."""
    parts = max(1, min(processes, hosts // LEAST_HOSTS))
    bounds = [hosts * part // parts for part in range(parts + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(bounds)]


class DividedHosts:
    """N hosts that step through their episodes together, some of them in other processes.

    The first part is in this process, in `env`, which also has the settings. Where a host is only
    affects the last bit of sums; hosts are divided alike whenever N and `processes` are the same.

    Args:
        hosts: N.
        processes: maximum of processes, this one included.
        on_silence: called while a process does not answer.
        settings: further arguments of `GrowthVectorEnv`.

    Raises:
        All exceptions of `GrowthVectorEnv`.
    """

    def __init__(
        self,
        hosts: int,
        processes: int = 1,
        *,
        on_silence: SilenceListener | None = None,
        **settings: Any,
    ) -> None:
        self.num_envs = hosts
        self._on_silence = on_silence
        self._parts = parts_of(hosts, processes)
        self._others = [HostProcess() for _ in self._parts[1:]]
        settings["autoreset_mode"] = AutoresetMode.DISABLED
        settings.setdefault("threads", None)  # each process sets its own
        try:
            first, *others = (part.stop - part.start for part in self._parts)
            self.env = GrowthVectorEnv(first, **settings)
            settings["task"] = self.env.task  # the same data for all, even if its file changes
            for process, count in zip(self._others, others, strict=True):
                made = {"num_envs": count, **settings}
                process.make(torch.get_num_threads(), made, on_silence)
        except BaseException:  # KeyboardInterrupt, too; raised again
            self.close()
            raise

    @property
    def processes(self) -> int:
        """Number of processes with hosts, this one included."""
        return len(self._parts)

    def call(
        self,
        function: Callable[Concatenate[GrowthVectorEnv, ...], T],
        arguments: Callable[[slice], tuple[Any, ...]] = lambda _part: (),
    ) -> list[T]:
        """Call a module-level function with the environment of each part, in parallel.

        Args:
            function: takes an environment and the arguments.
            arguments: returns the arguments for the hosts of a part.

        Returns:
            The results, by part.

        Raises:
            HostProcessError: a process ended, or was silent for too long.
            Exception: raised by the function in this process. After either, this is closed.
        """
        try:
            for process, part in zip(self._others, self._parts[1:], strict=True):
                process.tell(function, arguments(part), self._on_silence)
            start = time.monotonic()
            own = function(self.env, *arguments(self._parts[0]))
            seconds = time.monotonic() - start
            return [own, *(each.answer(seconds, self._on_silence) for each in self._others)]
        except BaseException:  # KeyboardInterrupt, too; raised again
            # Unread answers would be taken for those of the next call. The work of the processes is
            # lost, so there is no reason to wait for them.
            self.close(patience=0.0)
            raise

    def reset(self, rng_seeds: Sequence[int]) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every host; returns and raises as `GrowthVectorEnv.reset`.

        Args:
            rng_seeds: random seed of each host.
        """
        answers = self.call(_reset, lambda part: (list(rng_seeds[part]),))
        observations, infos = zip(*answers, strict=True)
        return np.concatenate(observations), self._joined(infos)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act on each host, then train and measure all, as `GrowthVectorEnv.step` does."""
        *arrays, infos = zip(
            *self.call(GrowthVectorEnv.step, lambda part: (actions[part],)), strict=True
        )
        observations, rewards, terminated, truncated = (np.concatenate(each) for each in arrays)
        return observations, rewards, terminated, truncated, self._joined(infos)

    def test_accuracy(self) -> np.ndarray:
        """Return each host's accuracy on the test part, with its FOSSILIZED seeds alone. `[N]`"""
        return np.concatenate(self.call(GrowthVectorEnv.test_accuracy))

    def set_threads(self, threads: int) -> None:
        """Set the number of torch threads in each process."""
        self.call(_set_threads, lambda _part: (threads,))

    def set_steps(self, steps: int) -> None:
        """Set the number of steps in an episode, for episodes that begin later."""
        self.call(_set_steps, lambda _part: (steps,))

    def close(self, patience: float = _PATIENCE) -> None:
        """End the other processes; kill those that do not end by themselves.

        Args:
            patience: seconds to wait before killing.
        """
        for process in self._others:
            process.hang_up()
        deadline = time.monotonic() + patience
        for process in self._others:
            process.close(deadline)

    def _joined(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the parts' info as one environment's."""
        if len(infos) == 1:
            return infos[0]
        return {key: self._joined_values(key, [info[key] for info in infos]) for key in infos[0]}

    def _joined_values(self, key: str, values: list[Any]) -> Any:
        if key in ("transitions", "nonfinite"):  # lists of events of single hosts
            return [
                replace(event, host=event.host + part.start)
                for part, events in zip(self._parts, values, strict=True)
                for event in events
            ]
        if key == "training_samples":
            return sum(values)
        if isinstance(values[0], dict):
            return {name: np.concatenate([each[name] for each in values]) for name in values[0]}
        return np.concatenate(values)


def _reset(env: GrowthVectorEnv, rng_seeds: list[int]) -> tuple[np.ndarray, dict[str, Any]]:
    return env.reset(seed=rng_seeds)


def _set_threads(_env: GrowthVectorEnv, threads: int) -> None:
    torch.set_num_threads(threads)


def _set_steps(env: GrowthVectorEnv, steps: int) -> None:
    env.steps = steps
