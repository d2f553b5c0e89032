"""Folds a run's events into what Sanctum shows. Pure: no clock, no files, no device.

Latches and their evidence are joined, so they do not care for order or repetition. Everything else
follows the order of event ids, and an event that was seen already changes nothing but those.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from esper.karn.sanctum import event_log
from esper.karn.sanctum.evidence import EvidenceLedger
from esper.karn.sanctum.latches import Latches
from esper.karn.sanctum.schema import InterventionState, LogEntry, RunState, SanctumSnapshot
from esper.karn.sanctum.states import described, host_states, tamiyo_state, training_state
from esper.leyline.heads import HEAD_CHOICES
from esper.leyline.telemetry import (
    CheckpointWritten,
    DamagedPayload,
    DecisionsTaken,
    EpisodesCompleted,
    Event,
    Heartbeat,
    IncidentRecorded,
    InterventionTaken,
    Notice,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SeedTransitioned,
    StepCompleted,
    UnknownPayload,
)

#: Updates in every history: more than the columns of a wide terminal.
UPDATES_KEPT: Final = 240
#: Steps in a host's history.
STEPS_KEPT: Final = 128
#: Steps over which the speed is taken: a few episodes, so that an update's pause counts.
SPEED_STEPS: Final = 96
LOG_LINES_KEPT: Final = 500


class SanctumAggregator:
    """The state of one run, built up event by event."""

    def __init__(self) -> None:
        self._last_id = 0
        self._latches = Latches()
        self._evidence = EvidenceLedger()
        self._start: RunStarted | None = None
        self._finish: RunFinished | None = None
        self._started_at: float | None = None
        self._last_event_at: float | None = None
        self._heartbeat: Heartbeat | None = None
        self._updates: deque[PPOUpdatePayload] = deque(maxlen=UPDATES_KEPT)
        self._update = 0
        self._scores: deque[tuple[int, float]] = deque(maxlen=UPDATES_KEPT)  # update, mean score
        self._episodes_done = 0
        self._skipped_in_run = 0
        self._rescaled_in_run = 0
        self._interventions = InterventionState()
        self._step: StepCompleted | None = None
        self._accuracies: list[deque[float]] = []  # by host, this episode
        self._step_times: deque[tuple[float, int]] = deque(maxlen=SPEED_STEPS)  # time, hosts
        self._checkpoint = ""
        self._damaged = 0
        self._unknown: dict[str, int] = {}
        self._log: deque[LogEntry] = deque(maxlen=LOG_LINES_KEPT)
        self._snapshot: SanctumSnapshot | None = None
        self._handlers: dict[type, Callable[[Event, Any], None]] = {
            RunStarted: self._handle_run_started,
            StepCompleted: self._handle_step_completed,
            DecisionsTaken: self._handle_decisions_taken,
            SeedTransitioned: self._handle_seed_transitioned,
            EpisodesCompleted: self._handle_episodes_completed,
            PPOUpdatePayload: self._handle_ppo_update,
            InterventionTaken: self._handle_intervention_taken,
            IncidentRecorded: self._handle_incident_recorded,
            CheckpointWritten: self._handle_checkpoint_written,
            Heartbeat: self._handle_heartbeat,
            Notice: self._handle_notice,
            RunFinished: self._handle_run_finished,
            UnknownPayload: self._handle_unknown,
            DamagedPayload: self._handle_damaged,
        }

    def apply(self, event: Event) -> None:
        """Take in one event. Of an id that is not new, only what an update saw is taken in."""
        payload = event.payload
        is_new = event.id > self._last_id
        if is_new or isinstance(payload, (PPOUpdatePayload, Heartbeat)):
            self._handlers[type(payload)](event, payload)
            self._snapshot = None
        if is_new:
            self._last_id = event.id
            self._last_event_at = event.time

    def snapshot(self) -> SanctumSnapshot:
        """Return the state of now; the same object as before if nothing was applied since."""
        if self._snapshot is None:
            self._snapshot = SanctumSnapshot(
                run=self._run_state(),
                tamiyo=tamiyo_state(
                    list(self._heads()), self._latches, self._evidence, self._updates
                ),
                training=training_state(
                    self._updates,
                    [score for _, score in self._scores],
                    skipped_in_run=self._skipped_in_run,
                    rescaled_in_run=self._rescaled_in_run,
                ),
                interventions=self._interventions,
                hosts=host_states(self._step, self._accuracies),
                log=tuple(self._log),
                last_event_id=self._last_id,
            )
        return self._snapshot

    def _handle_run_started(self, event: Event, payload: RunStarted) -> None:
        self._start = payload
        self._finish = None
        self._step = None
        self._accuracies = []
        self._step_times.clear()
        if self._started_at is None:
            self._started_at = event.time
        if (resumed_from := payload.resumed_from_update) is not None:
            # What was trained after the checkpoint is trained again, and told again.
            while self._updates and self._updates[-1].update > resumed_from:
                self._updates.pop()
            while self._scores and self._scores[-1][0] > resumed_from:
                self._scores.pop()
            self._update = resumed_from
            if self._updates:
                self._episodes_done = self._updates[-1].episodes_done
        self._say(event, "info", event_log.started(payload))

    def _handle_step_completed(self, event: Event, payload: StepCompleted) -> None:
        hosts = len(payload.accuracy)
        lists = (payload.loss, payload.parameters, payload.reward)
        slots = (payload.stages, payload.alphas, payload.blueprints)
        if any(len(values) != hosts for values in (*lists, *slots)):
            self._count_damage(event, "step_completed", "its lists are of different lengths")
            return
        previous = self._step
        is_next = (
            previous is not None
            and previous.first_episode == payload.first_episode
            and previous.step < payload.step
            and len(self._accuracies) == hosts
        )
        if not is_next:
            self._accuracies = [deque(maxlen=STEPS_KEPT) for _ in range(hosts)]
        for history, accuracy in zip(self._accuracies, payload.accuracy, strict=True):
            history.append(accuracy)
        self._step = payload
        self._step_times.append((event.time, hosts))

    def _handle_decisions_taken(self, event: Event, payload: DecisionsTaken) -> None:
        """Nothing of a decision is shown yet beyond that it happened."""

    def _handle_seed_transitioned(self, event: Event, payload: SeedTransitioned) -> None:
        start = self._start
        line = event_log.transition(
            payload, start.slots if start else (), start.blueprints if start else ()
        )
        if line is not None:
            self._say(event, "info", line)

    def _handle_episodes_completed(self, event: Event, payload: EpisodesCompleted) -> None:
        self._episodes_done = payload.episodes_done
        score = event_log.mean(payload.score)
        if score is not None:
            self._scores.append((payload.update, score))
        episodes = self._start.episodes if self._start else 0
        self._say(event, "info", event_log.episodes_done(payload, episodes, score))

    def _handle_ppo_update(self, event: Event, payload: PPOUpdatePayload) -> None:
        """OR what was detected into the lights; an absent or False entry changes nothing."""
        found = Latches.of(payload)
        self._evidence.take_in(payload)
        if found.inf or found.nan:
            for line in event_log.newly_lit(self._latches, found, payload.update):
                self._say(event, "latch", line)
            self._latches = self._latches.join(found)
        if event.id <= self._last_id:
            return
        self._updates.append(payload)
        self._update = payload.update
        self._episodes_done = payload.episodes_done
        self._skipped_in_run += payload.minibatches_skipped
        self._rescaled_in_run += payload.minibatches_rescaled
        if payload.minibatches_skipped:
            self._say(event, "warning", event_log.skipped(payload))

    def _handle_intervention_taken(self, event: Event, payload: InterventionTaken) -> None:
        before = self._interventions
        match payload.action:
            case "skip":
                after = replace(before, updates_skipped=before.updates_skipped + 1)
            case "rollback":
                after = replace(before, updates_rolled_back=before.updates_rolled_back + 1)
            case "halt":
                after = replace(before, halts=before.halts + 1)
            case _:
                after = before  # a newer writer's; its line in the log says what it did
        self._interventions = after
        level = "warning" if payload.action == "skip" else "error"
        self._say(event, level, event_log.intervention(payload))

    def _handle_incident_recorded(self, event: Event, payload: IncidentRecorded) -> None:
        before = self._interventions
        self._interventions = replace(
            before,
            incidents=before.incidents + 1,
            incidents_not_kept=before.incidents_not_kept + (not payload.path),
        )
        self._say(event, "info", event_log.incident(payload))

    def _handle_checkpoint_written(self, event: Event, payload: CheckpointWritten) -> None:
        self._checkpoint = payload.path
        self._say(event, "info", event_log.checkpoint(payload))

    def _handle_heartbeat(self, event: Event, payload: Heartbeat) -> None:
        before = self._heartbeat
        self._heartbeat = payload
        if payload.events_lost > (before.events_lost if before else 0):
            text = f"events the monitor could not store: {payload.events_lost} ({payload.error})"
            self._say(event, "error", text)

    def _handle_notice(self, event: Event, payload: Notice) -> None:
        self._say(event, payload.level, payload.text)

    def _handle_run_finished(self, event: Event, payload: RunFinished) -> None:
        self._finish = payload
        self._episodes_done = payload.episodes_done
        self._say(event, *event_log.finished(payload))

    def _handle_unknown(self, event: Event, payload: UnknownPayload) -> None:
        if payload.kind not in self._unknown:
            text = f"this version does not know {payload.kind!r} events, and passes over them"
            self._say(event, "warning", text)
        self._unknown[payload.kind] = self._unknown.get(payload.kind, 0) + 1

    def _handle_damaged(self, event: Event, payload: DamagedPayload) -> None:
        self._count_damage(event, payload.kind, payload.reason)

    def _count_damage(self, event: Event, kind: str, reason: str) -> None:
        self._damaged += 1
        self._say(event, "error", f"event {event.id} ({kind}) is damaged: {reason}")

    def _say(self, event: Event, level: str, text: str) -> None:
        self._log.append(
            LogEntry(event_id=event.id or self._last_id, time=event.time, level=level, text=text)
        )

    def _heads(self) -> dict[str, tuple[str, ...]]:
        """Return the run's heads and their choices, and any other head that is lit."""
        start = self._start
        heads = {head: tuple(choices) for head, choices in start.heads.items()} if start else {}
        if not heads:
            heads = dict(HEAD_CHOICES)
        for head in sorted(self._latches.heads() - heads.keys()):
            heads[head] = ()
        return heads

    def _run_state(self) -> RunState:
        process = self._heartbeat or self._start
        finish = self._finish
        return replace(
            described(self._start),
            phase=finish.status if finish else "training" if self._last_id else "waiting",
            reason=finish.reason if finish else "",
            episodes_done=self._episodes_done,
            update=self._update,
            step=self._step.step if self._step else 0,
            steps_per_second=self._steps_per_second(),
            samples_per_second=self._samples_per_second(),
            started_at=self._started_at,
            last_event_at=self._last_event_at,
            pid=process.pid if process else None,
            process_start_time=process.process_start_time if process else None,
            heads=self._heads(),
            checkpoint=self._checkpoint,
            events_lost=self._heartbeat.events_lost if self._heartbeat else 0,
            damaged_events=self._damaged,
            unknown_events=sum(self._unknown.values()),
        )

    def _steps_per_second(self) -> float | None:
        if len(self._step_times) < 2:
            return None
        seconds = self._step_times[-1][0] - self._step_times[0][0]
        if not seconds > 0:  # the clock was set back
            return None
        return (sum(hosts for _, hosts in self._step_times) - self._step_times[0][1]) / seconds

    def _samples_per_second(self) -> float | None:
        if self._step is not None:
            return self._step.samples_per_second
        return self._updates[-1].samples_per_second if self._updates else None
