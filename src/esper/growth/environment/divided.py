"""Hosts divided among processes, so that every core trains some of them.

A step of many hosts is thousands of short operations. A second thread gains little on each of
them, and two Python threads wait for one another; processes share nothing and wait for nothing.
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
#: Hosts that a process holds at least: fewer cost more each than a core more is worth.
LEAST_HOSTS = 8

T = TypeVar("T")


def parts_of(hosts: int, processes: int) -> list[slice]:
    """Return which hosts each process holds: as many as can be, none with fewer than the least."""
    parts = max(1, min(processes, hosts // LEAST_HOSTS))
    bounds = [hosts * part // parts for part in range(parts + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(bounds)]


class DividedHosts:
    """N hosts that live through their episodes together, some of them in processes of their own.

    The first part lives here, in `env`, which says all there is to say about the settings. A host
    does not depend on where it lives, but for the last bit of a sum: hosts are divided alike
    whenever N and `processes` are the same.

    Args:
        hosts: N.
        processes: among which they are divided, this one included, if they are enough.
        on_silence: is called while a process does not answer.
        settings: of `GrowthVectorEnv`, besides.

    Raises:
        Everything that `GrowthVectorEnv` raises.
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
        settings.setdefault("threads", None)  # each process has torch use as many as it is told
        try:
            first, *others = (part.stop - part.start for part in self._parts)
            self.env = GrowthVectorEnv(first, **settings)
            settings["task"] = self.env.task  # the same for all, whatever becomes of its file
            for process, count in zip(self._others, others, strict=True):
                made = {"num_envs": count, **settings}
                process.make(torch.get_num_threads(), made, on_silence)
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> int:
        """How many processes hold hosts, this one included."""
        return len(self._parts)

    def call(
        self,
        function: Callable[Concatenate[GrowthVectorEnv, ...], T],
        arguments: Callable[[slice], tuple[Any, ...]] = lambda _part: (),
    ) -> list[T]:
        """Call a function of some module with each part's environment, all at the same time.

        Args:
            function: takes an environment and the arguments.
            arguments: returns those of the hosts of a part.

        Returns:
            What it returned, by part.

        Raises:
            HostProcessError: a process is gone, or silent for too long.
            Exception: what the function raised here. After either, this is closed.
        """
        try:
            for process, part in zip(self._others, self._parts[1:], strict=True):
                process.tell(function, arguments(part), self._on_silence)
            start = time.monotonic()
            own = function(self.env, *arguments(self._parts[0]))
            seconds = time.monotonic() - start
            return [own, *(each.answer(seconds, self._on_silence) for each in self._others)]
        except BaseException:
            # Answers that no one took would be taken for those of the next question. The processes
            # are in the middle of work that is lost, so nothing is gained by waiting for them.
            self.close(patience=0.0)
            raise

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every host; returns and raises as `GrowthVectorEnv.reset`.

        Args:
            seeds: of each host.
        """
        answers = self.call(_reset, lambda part: (list(seeds[part]),))
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
        """Let torch use so many threads in each process."""
        self.call(_set_threads, lambda _part: (threads,))

    def close(self, patience: float = _PATIENCE) -> None:
        """End the other processes; those that do not end by themselves are killed.

        Args:
            patience: seconds that they have for that.
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
        if key in ("transitions", "nonfinite"):  # lists of what happened to single hosts
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


def _reset(env: GrowthVectorEnv, seeds: list[int]) -> tuple[np.ndarray, dict[str, Any]]:
    return env.reset(seed=seeds)


def _set_threads(_env: GrowthVectorEnv, threads: int) -> None:
    torch.set_num_threads(threads)
