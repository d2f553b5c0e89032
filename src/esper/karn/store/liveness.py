"""Status of a run from its finish event, its process and its heartbeat.

A process is identified by its id and its start time, since ids are reused. A process can only be
looked up on its own machine and in its own process namespace. Elsewhere, for example in another
container, the age of the heartbeat decides.
"""

import math
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from esper.leyline.telemetry import Heartbeat

#: Writers send a heartbeat every 2 s. Five missing ones are more than a busy disk explains.
HEARTBEAT_STALE_SECONDS: Final = 10.0
#: Tolerance between two readings of a process's start time (clock ticks, adjusted boot time).
_START_TIME_TOLERANCE: Final = 2.0


class StatusKind(StrEnum):
    """Status of a run's process."""

    WAITING = "WAITING"  # no event yet
    STARTING = "STARTING"  # the process exists and does not train yet
    LIVE = "LIVE"  # the process exists and sends heartbeats
    STUCK = "STUCK"  # it sends heartbeats, and a process with hosts does not answer
    STALE = "STALE"  # the process may exist, and sends no heartbeat
    DEGRADED = "DEGRADED"  # of several ranks, some are gone and others continue
    FINISHED = "FINISHED"  # it reported that all episodes are done
    STOPPED = "STOPPED"  # it reported that the user stopped it
    HALTED = "HALTED"  # it reported that non-finite values halted it
    FAILED = "FAILED"  # it reported that an error ended it
    DEAD = "DEAD"  # the process is gone and reported no end
    UNREADABLE = "UNREADABLE"  # its store, its heartbeat or its finish event


@dataclass(frozen=True)
class RunStatus:
    """The state of a run's process at one moment."""

    kind: StatusKind
    seconds: float | None  # since the last heartbeat; None before the first
    sentence: str

    @property
    def is_over(self) -> bool:
        """Whether the run has ended or its process is gone; it may be resumed."""
        return self.kind not in _ACTIVE

    @property
    def is_ended(self) -> bool:
        """Whether the run itself reported its end."""
        return self.kind in _END_KINDS.values()


_ACTIVE: Final = (
    StatusKind.WAITING,
    StatusKind.STARTING,
    StatusKind.LIVE,
    StatusKind.STUCK,
    StatusKind.STALE,
    StatusKind.DEGRADED,
    StatusKind.UNREADABLE,
)


def process_start_time(pid: int) -> float | None:
    """Return when a process of this machine started, in seconds since the epoch.

    None if there is no such process, NaN if it exists and its start time is not accessible.
    """
    import psutil  # takes 20 ms to import; not needed for finished runs

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None  # dead, but not yet reaped by its parent
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return math.nan


def pid_namespace() -> str:
    """Return the id of the process namespace (container); empty if unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_looked_up_here(
    heartbeat: Heartbeat, machine: str | None = None, namespace: str | None = None
) -> bool:
    """Return whether a process lookup here would find the process of a heartbeat.

    Args:
        heartbeat: heartbeat of the process.
        machine: name of this machine; by default that of the system.
        namespace: process namespace of this process; by default that of the system.
    """
    if heartbeat.machine != (machine or socket.gethostname()):
        return False
    namespace = pid_namespace() if namespace is None else namespace
    return not heartbeat.pid_namespace or not namespace or heartbeat.pid_namespace == namespace


class Pulse:
    """Age of the last heartbeat, measured over several polls.

    For the first heartbeat, only the writer's clock is available. Every later one arrived after the
    previous poll. So an adjusted clock, or a different clock on another machine, changes the age by
    no more than the time between polls.
    """

    def __init__(self) -> None:
        self._beat_at: float | None = None  # by the writer's clock
        self._age = 0.0  # of that heartbeat, when it was first seen
        self._seen_at = 0.0  # by the monotonic clock
        self._polled_at: float | None = None  # by the monotonic clock

    def age(self, beat_at: float | None, now: float, ticks: float) -> float | None:
        """Return the seconds since the last heartbeat; None before the first.

        Args:
            beat_at: time of the last heartbeat by the writer's clock, in seconds since the epoch.
            now: current time in seconds since the epoch.
            ticks: current time of a monotonic clock, in seconds.
        """
        if beat_at is not None and beat_at != self._beat_at:
            age = max(0.0, now - beat_at)
            if self._polled_at is not None:
                age = min(age, ticks - self._polled_at)
            self._beat_at, self._age, self._seen_at = beat_at, age, ticks
        self._polled_at = ticks
        return None if self._beat_at is None else self._age + ticks - self._seen_at


def run_status(
    *,
    phase: str,
    reason: str,
    heartbeat: Heartbeat | None,
    age: float | None,
    finished_at: float | None = None,
    is_end_lost: bool = False,
    machine: str | None = None,
    namespace: str | None = None,
    start_time_of: Callable[[int], float | None] = process_start_time,
) -> RunStatus:
    """Return the status of a run's process.

    Args:
        phase: `RunState.phase`.
        reason: `RunState.reason`.
        heartbeat: the last heartbeat; None if there is none.
        age: seconds since the last heartbeat.
        finished_at: time of the finish event; a process that started later has resumed the run.
        is_end_lost: whether an unreadable event may have been the finish event.
        machine: name of this machine; by default that of the system.
        namespace: process namespace of `start_time_of`; by default that of this process.
        start_time_of: returns the start time of a process of this machine.
    """
    is_fresh = age is not None and age <= HEARTBEAT_STALE_SECONDS
    ended = math.inf if finished_at is None else finished_at
    if is_fresh and heartbeat is not None and heartbeat.process_start_time > ended:
        phase, reason = "starting", "resuming"
    if (kind := _END_KINDS.get(phase)) is not None:
        return RunStatus(kind, age, f"{_SENTENCES[kind]}: {reason}" if reason else _SENTENCES[kind])
    if (heartbeat is None or age is None) and phase in ("training", "stalled"):
        sentence = "the heartbeat of its process is missing: it may be training or not"
        return RunStatus(StatusKind.UNREADABLE, None, sentence)
    if heartbeat is None or age is None:
        return RunStatus(StatusKind.WAITING, None, "nothing has been written yet")
    if is_looked_up_here(heartbeat, machine, namespace):
        started = start_time_of(heartbeat.pid)
        # Adjusting the clock moves the start time that the system reports, so a recent heartbeat
        # counts more than a start time that does not match.
        is_same = started is not None and (
            is_fresh
            or math.isnan(started)
            or abs(started - heartbeat.process_start_time) <= _START_TIME_TOLERANCE
        )
        if not is_same and is_end_lost:
            sentence = f"process {heartbeat.pid} is gone, and its finish event is damaged"
            return RunStatus(StatusKind.UNREADABLE, age, sentence)
        if not is_same:
            sentence = f"process {heartbeat.pid} is gone and reported no end"
            return RunStatus(StatusKind.DEAD, age, sentence)
        if not is_fresh:
            sentence = f"process {heartbeat.pid} exists, but sent no heartbeat for {age:.0f} s"
            return RunStatus(StatusKind.STALE, age, sentence)
    elif not is_fresh:
        sentence = f"no heartbeat from {heartbeat.machine or 'its machine'} for {age:.0f} s"
        return RunStatus(StatusKind.STALE, age, sentence)
    if phase in ("waiting", "starting"):
        doing = f": {reason}" if reason else ""
        return RunStatus(StatusKind.STARTING, age, f"process {heartbeat.pid} is starting{doing}")
    if phase == "stalled":
        return RunStatus(StatusKind.STUCK, age, reason)
    return RunStatus(StatusKind.LIVE, age, f"process {heartbeat.pid} is training")


_END_KINDS: Final = {
    "finished": StatusKind.FINISHED,
    "stopped": StatusKind.STOPPED,
    "halted": StatusKind.HALTED,
    "failed": StatusKind.FAILED,
}
_SENTENCES: Final = {
    StatusKind.FINISHED: "finished",
    StatusKind.STOPPED: "stopped by the user",
    StatusKind.HALTED: "halted by non-finite values",
    StatusKind.FAILED: "ended by an error",
}
