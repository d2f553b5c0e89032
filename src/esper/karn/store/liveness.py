"""Is a run alive? From its finish event, its process and its heartbeat; never from silence alone.

A process is known by its id *and* its start time, since ids are used again. A process can only be
looked up on its own machine and in its own process namespace; elsewhere (in another container, say)
the heartbeat's age decides.
"""

import math
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from esper.leyline.telemetry import Heartbeat

#: Writers beat every 2 s; five missed beats are more than a busy disk.
HEARTBEAT_STALE_SECONDS: Final = 10.0
#: How far two readings of one process's start time may differ (clock ticks, adjusted boot time).
_START_TIME_TOLERANCE: Final = 2.0


class StatusKind(StrEnum):
    """What can be said of a run's process."""

    WAITING = "WAITING"  # nothing was written yet
    STARTING = "STARTING"  # the process is there and not training yet
    LIVE = "LIVE"  # the process is there and its heart beats
    STALLED = "STALLED"  # its heart beats, and a process that holds hosts does not answer
    STALE = "STALE"  # the process may be there, and its heart does not beat
    FINISHED = "FINISHED"  # it said that it trained all its episodes
    STOPPED = "STOPPED"  # it said that it was asked to stop
    HALTED = "HALTED"  # it said that it stopped itself over something non-finite
    FAILED = "FAILED"  # it said that an error ended it
    DEAD = "DEAD"  # the process is gone and said nothing
    UNREADABLE = "UNREADABLE"  # its store, its heartbeat or what it said of its end


@dataclass(frozen=True)
class RunStatus:
    """The state of a run's process at one moment."""

    kind: StatusKind
    seconds: float | None  # since the last heartbeat; None before the first
    sentence: str

    @property
    def is_over(self) -> bool:
        """Whether the run will not change any more unless it is resumed."""
        return self.kind not in _GOING_ON

    @property
    def is_ended(self) -> bool:
        """Whether the run itself reported its end."""
        return self.kind in _SAID.values()


_GOING_ON: Final = (
    StatusKind.WAITING,
    StatusKind.STARTING,
    StatusKind.LIVE,
    StatusKind.STALLED,
    StatusKind.STALE,
    StatusKind.UNREADABLE,
)


def process_start_time(pid: int) -> float | None:
    """Return when a process of this machine started, in seconds since the epoch.

    None if there is no such process, NaN if there is one and more is not to be known of it.
    """
    import psutil  # takes 20 ms to import, and a viewer of a finished run never needs it

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None  # dead, and only waiting for its parent to notice
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return math.nan


def pid_namespace() -> str:
    """Return what tells in which process namespace (container) this is; empty where unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_looked_up_here(
    heartbeat: Heartbeat, machine: str | None = None, namespace: str | None = None
) -> bool:
    """Return whether the process of a heartbeat would be found here, if it were alive.

    Args:
        heartbeat: of the process.
        machine: the name of this machine; asked of the system if not given.
        namespace: of the processes of here; asked of the system if not given.
    """
    if heartbeat.machine != (machine or socket.gethostname()):
        return False
    namespace = pid_namespace() if namespace is None else namespace
    return not heartbeat.pid_namespace or not namespace or heartbeat.pid_namespace == namespace


class Pulse:
    """How long a heart has been silent, as somebody can tell who has listened for a while.

    Of the first beat only its time is known, by the writer's clock. Every later one came since the
    time before that somebody listened: so neither a clock that is set, nor one of another machine
    that differs, makes a beating heart silent or a silent one beat.
    """

    def __init__(self) -> None:
        self._beat_at: float | None = None  # by the writer's clock
        self._age = 0.0  # of that beat, when it was heard
        self._heard_at = 0.0  # by the listener's ticks
        self._listened_at: float | None = None  # as above

    def age(self, beat_at: float | None, now: float, ticks: float) -> float | None:
        """Return the seconds since the last beat; None before the first.

        Args:
            beat_at: when the last one was, in seconds since the epoch, by the writer's clock.
            now: seconds since the epoch.
            ticks: seconds by a clock that is never set.
        """
        if beat_at is not None and beat_at != self._beat_at:
            age = max(0.0, now - beat_at)
            if self._listened_at is not None:
                age = min(age, ticks - self._listened_at)
            self._beat_at, self._age, self._heard_at = beat_at, age, ticks
        self._listened_at = ticks
        return None if self._beat_at is None else self._age + ticks - self._heard_at


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
    """Return what can be said of a run's process.

    Args:
        phase: `RunState.phase`.
        reason: `RunState.reason`.
        heartbeat: the last one, if there was any.
        age: seconds since that.
        finished_at: when a finish event was written; a process that began later is going on.
        is_end_lost: whether an event that cannot be read may have told of an end.
        machine: the name of this machine; asked of the system if not given.
        namespace: of the processes that `start_time_of` finds; asked of the system if not given.
        start_time_of: looks up a process of this machine.
    """
    is_fresh = age is not None and age <= HEARTBEAT_STALE_SECONDS
    ended = math.inf if finished_at is None else finished_at
    if is_fresh and heartbeat is not None and heartbeat.process_start_time > ended:
        phase, reason = "starting", "going on"
    if (kind := _SAID.get(phase)) is not None:
        return RunStatus(kind, age, f"{_SENTENCES[kind]}: {reason}" if reason else _SENTENCES[kind])
    if (heartbeat is None or age is None) and phase in ("training", "stalled"):
        sentence = "the heartbeat of its process is missing, so it is not known whether it goes on"
        return RunStatus(StatusKind.UNREADABLE, None, sentence)
    if heartbeat is None or age is None:
        return RunStatus(StatusKind.WAITING, None, "nothing has been written yet")
    if is_looked_up_here(heartbeat, machine, namespace):
        started = start_time_of(heartbeat.pid)
        # Setting the clock moves the start time that the system reports, so a beating heart counts
        # for more than a start time that does not match.
        is_same = started is not None and (
            is_fresh
            or math.isnan(started)
            or abs(started - heartbeat.process_start_time) <= _START_TIME_TOLERANCE
        )
        if not is_same and is_end_lost:
            sentence = f"process {heartbeat.pid} is gone, and what it said of its end is damaged"
            return RunStatus(StatusKind.UNREADABLE, age, sentence)
        if not is_same:
            sentence = f"process {heartbeat.pid} is gone and did not say why"
            return RunStatus(StatusKind.DEAD, age, sentence)
        if not is_fresh:
            sentence = f"process {heartbeat.pid} is there, but silent for {age:.0f} s"
            return RunStatus(StatusKind.STALE, age, sentence)
    elif not is_fresh:
        sentence = f"no heartbeat from {heartbeat.machine or 'its machine'} for {age:.0f} s"
        return RunStatus(StatusKind.STALE, age, sentence)
    if phase in ("waiting", "starting"):
        doing = f": {reason}" if reason else ""
        return RunStatus(StatusKind.STARTING, age, f"process {heartbeat.pid} is starting{doing}")
    if phase == "stalled":
        return RunStatus(StatusKind.STALLED, age, reason)
    return RunStatus(StatusKind.LIVE, age, f"process {heartbeat.pid} is training")


_SAID: Final = {
    "finished": StatusKind.FINISHED,
    "stopped": StatusKind.STOPPED,
    "halted": StatusKind.HALTED,
    "failed": StatusKind.FAILED,
}
_SENTENCES: Final = {
    StatusKind.FINISHED: "finished",
    StatusKind.STOPPED: "stopped when asked to",
    StatusKind.HALTED: "halted itself",
    StatusKind.FAILED: "ended by an error",
}
