"""The run as a whole: start, end, process, progress and speed."""

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from esper.karn.sanctum.fold.states import described
from esper.karn.sanctum.schema import RunState
from esper.leyline.telemetry import (
    DamagedPayload,
    DecisionsTaken,
    Event,
    Heartbeat,
    HostsStalled,
    Notice,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    StepCompleted,
    UnknownPayload,
)

#: Steps over which the speed is measured: a few episodes, so that it includes updates.
SPEED_STEPS: Final = 96
#: Batches of episodes over which the pace of a run is measured.
PACE_BATCHES: Final = 8
#: Events that show that all hosts have answered.
_FROM_HOSTS: Final = (StepCompleted, PPOUpdatePayload)
#: Events that show that the run has not ended.
_GOING_ON: Final = (RunStarted, DecisionsTaken, StepCompleted, PPOUpdatePayload)


class RunLedger:
    """State of the run itself, from its events.

    Attributes:
        start: last start or resume; None before the first.
        heartbeat: last heartbeat; None before the first.
        notice: text of the last notice.
        update: number of completed updates.
        episodes_done: number of completed episodes.
        checkpoint: path of the last checkpoint.
        last_event_at: time of the newest event; None before the first.
        is_end_lost: whether a damaged or unknown event may have been the run's end.
    """

    def __init__(self) -> None:
        self.start: RunStarted | None = None
        self.heartbeat: Heartbeat | None = None
        self.notice = ""
        self.update = 0
        self.episodes_done = 0
        self.checkpoint = ""
        self._finish: RunFinished | None = None
        self._finished_at: float | None = None
        self._started_at: float | None = None
        self.last_event_at: float | None = None
        self.is_end_lost = False
        self._step_times: deque[tuple[float, int]] = deque(maxlen=SPEED_STEPS)  # time, hosts
        # Time and episodes done, at the first step of this process and after its last updates.
        self._pace: deque[tuple[float, float]] = deque(maxlen=PACE_BATCHES + 1)
        self._damaged = 0
        self._unknown: dict[str, int] = {}
        self._monitor_failures = 0
        self._last_monitor_failure = ""
        self._stalled: HostsStalled | None = None  # cleared when hosts answer

    @property
    def episodes(self) -> int:
        """Total number of episodes to train; 0 before the start."""
        return self.start.episodes if self.start else 0

    @property
    def is_watched(self) -> bool:
        """Whether the run is watched from outside; False before the start."""
        return self.start is not None and bool(self.start.library)

    @property
    def slots(self) -> Sequence[str]:
        """Names of the slots; empty before the start."""
        return self.start.slots if self.start else ()

    @property
    def blueprints(self) -> Sequence[str]:
        """Names of the blueprints; empty before the start."""
        return self.start.blueprints if self.start else ()

    def begin(self, start: RunStarted) -> None:
        """Record a start or a resume, which cancels an earlier end."""
        self.start = start
        self._finish = self._finished_at = self._stalled = None
        self._step_times.clear()
        self._pace.clear()

    def end(self, finish: RunFinished, at: float) -> None:
        """Record the end."""
        self._finish, self._finished_at = finish, at
        self.episodes_done = finish.episodes_done

    def note_event(self, event: Event) -> None:
        """Record the time of the newest event, and whether the run may have ended with it."""
        if self._started_at is None:
            self._started_at = event.time
        self.last_event_at = event.time
        if isinstance(event.payload, _FROM_HOSTS):
            self._stalled = None
        if isinstance(event.payload, (DamagedPayload, UnknownPayload)):
            self.is_end_lost = True
        elif isinstance(event.payload, _GOING_ON):
            self.is_end_lost = False

    def note_step(self, at: float, step: StepCompleted) -> None:
        """Record the time at which the hosts completed a step."""
        self._step_times.append((at, len(step.accuracy)))
        if not self._pace and self.start is not None:
            self._pace.append((at, self._progress(step, self.start.steps)))

    def note_update(self, at: float) -> None:
        """Record the time at which an update was completed."""
        self._pace.append((at, self.episodes_done))

    def note_stall(self, stall: HostsStalled) -> None:
        """Record that a process with hosts does not answer, or answers again."""
        self._stalled = None if stall.answered else stall

    def note_notice(self, notice: Notice) -> None:
        """Record a sentence, and the failures of the watch that it may be about."""
        self.notice = notice.text
        if notice.monitor_failures:
            self._monitor_failures = notice.monitor_failures
            self._last_monitor_failure = notice.text

    def note_damage(self) -> None:
        """Count a damaged event."""
        self._damaged += 1

    def note_unknown(self, kind: str) -> bool:
        """Count an event of an unknown kind; return whether it is the first of this kind."""
        self._unknown[kind] = self._unknown.get(kind, 0) + 1
        return self._unknown[kind] == 1

    def copy(self) -> "RunLedger":
        """Return an independent copy."""
        other = copy.copy(self)
        other._step_times = self._step_times.copy()
        other._pace = self._pace.copy()
        other._unknown = dict(self._unknown)
        return other

    def state(
        self,
        step: StepCompleted | None,
        heads: Mapping[str, tuple[str, ...]],
        samples_per_second: float | None,
    ) -> RunState:
        """Return the current state of the run.

        Args:
            step: last step of this batch of episodes; None before the first.
            heads: names of the choices of each head.
            samples_per_second: speed over this batch or the last update; None before both.
        """
        process = self.heartbeat or self.start
        phase, reason = self._phase(step)
        described_run = described(self.start)
        progress = self._progress(step, described_run.steps)
        return replace(
            described_run,
            phase=phase,
            reason=reason,
            episodes_done=self.episodes_done,
            update=self.update,
            step=step.step if step else 0,
            progress=progress,
            expected_end=self._expected_end(progress, described_run.episodes),
            steps_per_second=self._steps_per_second(),
            samples_per_second=samples_per_second,
            started_at=self._started_at,
            last_event_at=self.last_event_at,
            pid=process.pid if process else None,
            process_start_time=process.process_start_time if process else None,
            finished_at=self._finished_at,
            heads=dict(heads),
            checkpoint=self.checkpoint,
            events_lost=self.heartbeat.events_lost if self.heartbeat else 0,
            damaged_events=self._damaged,
            unknown_events=sum(self._unknown.values()),
            monitor_failures=self._monitor_failures,
            last_monitor_failure=self._last_monitor_failure,
        )

    def _phase(self, step: StepCompleted | None) -> tuple[str, str]:
        """Return the phase of the run, and its reason or current activity."""
        if self._finish is not None:
            return self._finish.status, self._finish.reason
        if self.last_event_at is None:
            return "waiting", ""
        if self._stalled is not None:
            pid, seconds = self._stalled.pid, self._stalled.seconds
            return (
                "stalled",
                f"process {pid}, which holds hosts, did not answer for {seconds:.0f} s",
            )
        is_training = self.start or self.update or step
        return ("training", "") if is_training else ("starting", self.notice)

    def _progress(self, step: StepCompleted | None, steps: int) -> float:
        """Return the episodes done, with the completed fraction of those in progress."""
        if step is None or step.first_episode <= self.episodes_done or not steps:
            return float(self.episodes_done)
        in_progress = len(step.accuracy) * min(1.0, step.step / steps)
        return max(self.episodes_done, step.first_episode - 1) + in_progress

    def _expected_end(self, progress: float, episodes: int) -> float | None:
        """Return the extrapolated time of the run's end; None while it is unknown."""
        if self._finish is not None or not self._pace or self.last_event_at is None:
            return None
        start, done_before = self._pace[0]
        # From batch to batch, so that updates are included; within the first batch, by step.
        at, done = self._pace[-1] if len(self._pace) > 1 else (self.last_event_at, progress)
        if not (at > start and done > done_before and episodes):
            return None
        return at + max(0.0, episodes - done) * (at - start) / (done - done_before)

    def _steps_per_second(self) -> float | None:
        if len(self._step_times) < 2:
            return None
        seconds = self._step_times[-1][0] - self._step_times[0][0]
        if not seconds > 0:  # the system clock was set back
            return None
        return (sum(hosts for _, hosts in self._step_times) - self._step_times[0][1]) / seconds
