"""The run as a whole: its start and its end, its process, how far it has come and how fast."""

import copy
from collections import deque
from collections.abc import Mapping
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
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    StepCompleted,
    UnknownPayload,
)

#: Steps over which the speed is taken: a few episodes, so that an update's pause counts.
SPEED_STEPS: Final = 96
#: Batches of episodes from which the pace of a run is taken.
PACE_BATCHES: Final = 8
#: Events before which all hosts have answered.
_FROM_HOSTS: Final = (StepCompleted, PPOUpdatePayload)
#: Events of a run that has not ended before them, or that goes on.
_GOING_ON: Final = (RunStarted, DecisionsTaken, StepCompleted, PPOUpdatePayload)


class RunLedger:
    """What the events tell of the run itself.

    Attributes:
        start: the last start or resume; None before the first.
        heartbeat: the last one; None before the first.
        notice: the last one's text.
        update: updates completed.
        episodes_done: episodes completed.
        checkpoint: the last one's path.
        last_event_at: when the newest event came; None before the first.
        is_end_lost: whether an event that cannot be read or understood may have told of the end.
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
        # Time and episodes done: at the first step of this process, and after its last updates.
        self._pace: deque[tuple[float, float]] = deque(maxlen=PACE_BATCHES + 1)
        self._damaged = 0
        self._unknown: dict[str, int] = {}
        self._stalled: HostsStalled | None = None  # since the last event that hosts went on

    def begin(self, start: RunStarted) -> None:
        """Note a start or a resume: whatever ended before goes on."""
        self.start = start
        self._finish = self._finished_at = self._stalled = None
        self._step_times.clear()
        self._pace.clear()

    def end(self, finish: RunFinished, at: float) -> None:
        """Note an end."""
        self._finish, self._finished_at = finish, at
        self.episodes_done = finish.episodes_done

    def note_event(self, event: Event) -> None:
        """Note when the newest event came, and whether the run may have ended with it."""
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
        """Note when the hosts completed a step."""
        self._step_times.append((at, len(step.accuracy)))
        if not self._pace and self.start is not None:
            self._pace.append((at, self._progress(step, self.start.steps)))

    def note_update(self, at: float) -> None:
        """Note when the update after a batch of episodes was done."""
        self._pace.append((at, self.episodes_done))

    def note_stall(self, stall: HostsStalled) -> None:
        """Note that a process of hosts does not answer, or answers again."""
        self._stalled = None if stall.answered else stall

    def note_damage(self) -> None:
        """Note an event that cannot be read."""
        self._damaged += 1

    def note_unknown(self, kind: str) -> bool:
        """Note an event of a kind that this version does not know; return whether it is new."""
        self._unknown[kind] = self._unknown.get(kind, 0) + 1
        return self._unknown[kind] == 1

    def copy(self) -> "RunLedger":
        """Return a ledger that goes on from here by itself."""
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
        """Return the run as of now.

        Args:
            step: the last one of this batch of episodes; None before the first.
            heads: the choices of every head.
            samples_per_second: of the steps of this batch or the last update; None before any.
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
        )

    def _phase(self, step: StepCompleted | None) -> tuple[str, str]:
        """Return how far the run is in its life, and why, or with what it is occupied there."""
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
        """Return the episodes done, with the share that is done of those under way."""
        if step is None or step.first_episode <= self.episodes_done or not steps:
            return float(self.episodes_done)
        under_way = len(step.accuracy) * min(1.0, step.step / steps)
        return max(self.episodes_done, step.first_episode - 1) + under_way

    def _expected_end(self, progress: float, episodes: int) -> float | None:
        """Return when the run will end at its pace; None while that is not known."""
        if self._finish is not None or not self._pace or self.last_event_at is None:
            return None
        start, done_before = self._pace[0]
        # From batch to batch, so that the pause of an update counts; in the first one, by step.
        at, done = self._pace[-1] if len(self._pace) > 1 else (self.last_event_at, progress)
        if not (at > start and done > done_before and episodes):
            return None
        return at + max(0.0, episodes - done) * (at - start) / (done - done_before)

    def _steps_per_second(self) -> float | None:
        if len(self._step_times) < 2:
            return None
        seconds = self._step_times[-1][0] - self._step_times[0][0]
        if not seconds > 0:  # the clock was set back
            return None
        return (sum(hosts for _, hosts in self._step_times) - self._step_times[0][1]) / seconds
