"""Aggregator: folds the events of a run into the state that Sanctum shows. No I/O, no clock.

Latches and evidence are joined, so they do not depend on the order or repetition of events. All
other state follows the order of event ids: an event that was applied before changes only latches
and evidence.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from esper.karn.sanctum.fold import decision_states, event_log
from esper.karn.sanctum.fold.evidence import EvidenceLedger
from esper.karn.sanctum.fold.latches import Latches
from esper.karn.sanctum.fold.ledgers import host_ledger
from esper.karn.sanctum.fold.ledgers.host_ledger import HostLedger
from esper.karn.sanctum.fold.ledgers.incident_ledger import IncidentLedger
from esper.karn.sanctum.fold.ledgers.run_ledger import RunLedger
from esper.karn.sanctum.fold.ledgers.update_ledger import UpdateLedger
from esper.karn.sanctum.fold.log_book import LogBook, event_kind
from esper.karn.sanctum.fold.states import counted_intervention, machine_state, tamiyo_state
from esper.karn.sanctum.schema import (
    DecisionState,
    HostState,
    IncidentState,
    InterventionState,
    LogEntry,
    RunState,
    SanctumSnapshot,
    TamiyoState,
    TrainingState,
)
from esper.leyline.files.incident_files import Incident
from esper.leyline.heads import HEAD_CHOICES
from esper.leyline.telemetry import (
    GROUPS,
    HOSTS,
    CheckpointWritten,
    DamagedPayload,
    DecisionsTaken,
    EpisodesCompleted,
    Event,
    Heartbeat,
    HostsStalled,
    IncidentRecorded,
    InterventionTaken,
    NonfiniteSighting,
    Notice,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SeedTransitioned,
    StepCompleted,
    UnknownPayload,
)


@dataclass
class _Parts:
    """Parts of the last snapshot; None where an event has changed the part since."""

    heads: dict[str, tuple[str, ...]] | None = None
    tamiyo: TamiyoState | None = None
    training: TrainingState | None = None
    incidents: tuple[IncidentState, ...] | None = None
    hosts: tuple[HostState, ...] | None = None
    decisions: tuple[DecisionState, ...] | None = None
    log: tuple[LogEntry, ...] | None = None


class SanctumAggregator:
    """The state of one run, updated event by event; without `keeps_histories`, no histories."""

    def __init__(self, *, keeps_histories: bool = True) -> None:
        self._last_id = 0
        self._latches = Latches()
        self._reported = Latches()  # the latches that were set by events
        self._evidence = EvidenceLedger()
        self._run = RunLedger()
        self._updates = UpdateLedger(keeps_histories=keeps_histories)
        self._interventions = InterventionState()
        self._incidents = IncidentLedger()
        self._hosts = HostLedger()
        self._decision: DecisionsTaken | None = None  # of the step that is shown
        self._log = LogBook()
        self._snapshot: SanctumSnapshot | None = None
        self._parts = _Parts()

    def copy(self) -> "SanctumAggregator":
        """Return an independent copy."""
        other = copy.copy(self)
        # All other attributes are immutable.
        other._run = self._run.copy()
        other._evidence = self._evidence.copy()
        other._updates = self._updates.copy()
        other._incidents = self._incidents.copy()
        other._hosts = self._hosts.copy()
        other._log = self._log.copy()
        other._parts = replace(self._parts)
        return other

    def without_heartbeat(self) -> "SanctumAggregator":
        """Return a copy without the state that comes from heartbeats."""
        other = self.copy()
        other._run.heartbeat = None
        other._log.forget_heartbeats()
        other._snapshot = None
        other._parts.log = None
        return other

    @property
    def last_id(self) -> int:
        """Id of the newest event that was applied."""
        return self._last_id

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the last start or resume; empty before the first."""
        return self._run.start.config if self._run.start else {}

    def skip_to(self, last_id: int) -> None:
        """Take events up to an id as applied: they do not affect what is asked of the snapshot."""
        self._last_id = max(self._last_id, last_id)
        self._snapshot = None

    def apply(self, event: Event) -> None:
        """Apply one event. One that was applied before changes only latches and evidence."""
        payload = event.payload
        is_new = event.id > self._last_id
        if is_new or isinstance(payload, (PPOUpdatePayload, IncidentRecorded, Heartbeat)):
            _HANDLERS[type(payload)](self, event, payload)
            self._snapshot = None
        if is_new:
            self._last_id = event.id
            self._run.note_event(event)

    def join_sightings(self, sightings: Iterable[tuple[int, NonfiniteSighting]]) -> None:
        """Join sightings that are known from elsewhere. Joining never turns a light off.

        Args:
            sightings: the sightings, each with the number of its update.
        """
        latches, evidence = self._latches, self._evidence.copy()
        for update, seen in sightings:
            latches = latches.join(Latches.of_sightings(update, [seen]))
            evidence.join_sightings(update, [seen])
        if (latches, evidence) != (self._latches, self._evidence):
            self._latches, self._evidence = latches, evidence
            self._parts.heads = self._parts.tamiyo = self._snapshot = None

    def join_capsules(self, capsules: Sequence[Incident]) -> None:
        """Set the incidents whose capsules are on disk; they override what events say."""
        if self._incidents.join_capsules(capsules):
            self._parts.incidents = self._snapshot = None

    def lacks_capsule(self, capsules: Sequence[Incident]) -> bool:
        """Return whether an event mentions a capsule that is not among these."""
        return self._incidents.lacks_capsule(capsules)

    def note_hidden_damage(self) -> None:
        """Count a lost event that must have set a latch, as other tables of the store show."""
        self._run.note_damage()
        reason = "a light in the store's other tables has no event"
        payload = DamagedPayload(kind="ppo_update", reason=reason)
        at = self._run.last_event_at or 0.0
        self._say(Event(id=self._last_id, time=at, payload=payload), "error", reason)
        self._snapshot = None

    @property
    def newest_update(self) -> int:
        """The newest update ever completed; a resume may have gone back before it."""
        return self._updates.newest

    @property
    def lacks_updates(self) -> bool:
        """Whether the run was resumed after an update that has no event."""
        return self._updates.lacks_updates

    def sightings(self) -> list[tuple[int, NonfiniteSighting]]:
        """Return a sighting for each light that is on, with the number of its update."""
        return self._latches.sightings(self._updates.newest)

    @property
    def is_end_lost(self) -> bool:
        """Whether the event of the run's end may be damaged or unknown."""
        return self._run.is_end_lost

    def snapshot(self) -> SanctumSnapshot:
        """Return the current state.

        The snapshot, and each part of it, is the same object as before if no event changed it.
        """
        if self._snapshot is None:
            self._snapshot = SanctumSnapshot(
                run=self._run_state(),
                machine=machine_state(self._run.heartbeat),
                tamiyo=self._tamiyo_state(),
                training=self._training_state(),
                interventions=self._intervention_state(),
                incidents=self._incident_states(),
                hosts=self._host_states(),
                decisions=self._decision_states(),
                log=self._log_entries(),
                last_event_id=self._last_id,
            )
        return self._snapshot

    def _handle_run_started(self, event: Event, payload: RunStarted) -> None:
        is_first = self._run.start is None
        self._run.begin(payload)
        self._hosts.clear()
        self._decision = None
        self._parts = _Parts()
        resumed_from = payload.resumed_from_update
        if resumed_from is None and not is_first:
            resumed_from = 0  # without a checkpoint, training starts again
        if resumed_from is not None:
            self._updates.go_back_to(resumed_from)
            last = self._updates.last
            self._run.update = resumed_from
            self._run.episodes_done = (
                last.episodes_done
                if last
                else min(self._run.episodes_done, resumed_from * payload.environments)
            )
        self._say(event, "info", event_log.started(payload))

    def _handle_step_completed(self, event: Event, payload: StepCompleted) -> None:
        damage = host_ledger.damage_of(payload)
        if damage is not None:
            self._count_damage(event, damage)
            return
        self._hosts.add(payload)
        self._run.note_step(event.time, payload)
        self._parts.hosts = None
        decision = self._decision
        # A decision precedes its step; a decision of another step does not belong to these hosts.
        if decision and (decision.update, decision.step) != (payload.update, payload.step):
            self._decision = self._parts.decisions = None

    def _handle_decisions_taken(self, event: Event, payload: DecisionsTaken) -> None:
        damage = decision_states.damage_of(payload, self._reported_heads())
        if damage is not None:
            self._count_damage(event, damage)
            return
        self._decision = payload
        self._parts.decisions = None

    def _handle_seed_transitioned(self, event: Event, payload: SeedTransitioned) -> None:
        line = event_log.transition(payload, self._run.slots, self._run.blueprints)
        if line is not None:
            self._say(event, "info", line, host=payload.host)

    def _handle_episodes_completed(self, event: Event, payload: EpisodesCompleted) -> None:
        self._run.episodes_done = payload.episodes_done
        score = event_log.mean(payload.score)
        if score is not None:
            self._updates.add_score(payload.update, score)
            self._parts.training = None
        self._say(event, "info", event_log.episodes_done(payload, self._run.episodes, score))

    def _handle_ppo_update(self, event: Event, payload: PPOUpdatePayload) -> None:
        """Set the latch of each head that was detected; absent or False entries change nothing."""
        self._latch(event, payload)
        self._parts.training = None
        if self._updates.note_stalled(payload):
            self._say(event, "latch", event_log.standing_still(payload), update=payload.update)
        if event.id <= self._last_id:
            return
        self._updates.add(payload)
        self._run.update = payload.update
        self._run.episodes_done = payload.episodes_done
        self._run.note_update(event.time)
        if payload.minibatches_skipped:
            self._say(event, "warning", event_log.skipped(payload), update=payload.update)

    def _latch(self, event: Event, payload: PPOUpdatePayload | IncidentRecorded) -> None:
        """Join the latches and the evidence of an update or an incident."""
        found = Latches.of(payload)
        self._parts.heads = self._parts.tamiyo = None
        if found.inf or found.nan:
            self._evidence.join_update(payload)
            for head, host, line in event_log.newly_lit(self._reported, found, payload.update):
                self._say(event, "latch", line, head=head, host=host, update=payload.update)
            self._reported = self._reported.join(found)
            self._latches = self._latches.join(found)
        self._updates.newest = max(self._updates.newest, payload.update)

    def _handle_intervention_taken(self, event: Event, payload: InterventionTaken) -> None:
        self._interventions = counted_intervention(self._interventions, payload.action)
        level = "warning" if payload.action in ("repeat", "skip") else "error"
        self._say(event, level, event_log.intervention(payload), update=payload.update)

    def _handle_incident_recorded(self, event: Event, payload: IncidentRecorded) -> None:
        if payload.sightings:
            self._latch(event, payload)
        if event.id <= self._last_id:
            return
        self._incidents.add(payload)
        self._parts.incidents = None
        if self._run.is_watched:  # the event of its update comes when that ends
            self._run.update = max(self._run.update, payload.update)
        self._say(event, "info", event_log.incident(payload), update=payload.update)

    def _handle_checkpoint_written(self, event: Event, payload: CheckpointWritten) -> None:
        self._run.checkpoint = payload.path
        self._say(event, "info", event_log.checkpoint(payload))

    def _handle_hosts_stalled(self, event: Event, payload: HostsStalled) -> None:
        self._run.note_stall(payload)
        self._say(event, *event_log.stalled(payload))

    def _handle_heartbeat(self, event: Event, payload: Heartbeat) -> None:
        before = self._run.heartbeat
        self._run.heartbeat = payload
        if payload.events_lost > (before.events_lost if before else 0):
            text = f"events that could not be stored: {payload.events_lost} ({payload.error})"
            self._say(event, "error", text)

    def _handle_notice(self, event: Event, payload: Notice) -> None:
        self._run.note_notice(payload)
        self._say(event, payload.level, payload.text)

    def _handle_run_finished(self, event: Event, payload: RunFinished) -> None:
        self._run.end(payload, event.time)
        self._say(event, *event_log.finished(payload, is_watched=self._run.is_watched))

    def _handle_unknown(self, event: Event, payload: UnknownPayload) -> None:
        if self._run.note_unknown(payload.kind):
            text = f"this version does not know {payload.kind!r} events and ignores them"
            self._say(event, "warning", text)

    def _handle_damaged(self, event: Event, payload: DamagedPayload) -> None:
        self._count_damage(event, payload.reason)

    def _count_damage(self, event: Event, reason: str) -> None:
        self._run.note_damage()
        self._say(event, "error", f"event {event.id} ({event_kind(event)}) is damaged: {reason}")

    def _say(
        self,
        event: Event,
        level: str,
        text: str,
        *,
        host: int | None = None,
        head: str | None = None,
        update: int = 0,
    ) -> None:
        """Add a line to the log; arguments as in `LogBook.add_line`."""
        event_id = event.id or self._last_id
        self._log.add_line(event, event_id, level, text, host=host, head=head, update=update)
        self._parts.log = None

    def _reported_heads(self) -> Mapping[str, Sequence[str]]:
        start = self._run.start
        if start is not None and (start.heads or start.library):  # a watched run may have none
            return start.heads
        return HEAD_CHOICES

    def _heads(self) -> dict[str, tuple[str, ...]]:
        """Return the run's heads and their choices, and any other head that is lit."""
        if self._parts.heads is None:
            heads = {head: tuple(choices) for head, choices in self._reported_heads().items()}
            for head in sorted(self._latches.heads() - heads.keys()):
                heads[head] = ()
            self._parts.heads = heads
        return self._parts.heads

    def _tamiyo_state(self) -> TamiyoState:
        if self._parts.tamiyo is None:
            self._parts.tamiyo = tamiyo_state(
                list(self._heads()),
                self._groups(),
                self._latches,
                self._evidence,
                self._updates.last,
                self._updates.histories(),
            )
        return self._parts.tamiyo

    def _groups(self) -> list[str]:
        """Return the groups that have lights: a watched run has no hosts."""
        lit = self._latches.inf | self._latches.nan
        has_hosts = not self._run.is_watched
        return [group for group in GROUPS if has_hosts or group != HOSTS or group in lit]

    def _training_state(self) -> TrainingState:
        if self._parts.training is None:
            is_watched = self._run.is_watched
            self._parts.training = self._updates.training_state(is_watched=is_watched)
        return self._parts.training

    def _intervention_state(self) -> InterventionState:
        incidents, not_kept = self._incidents.counts()
        before = self._interventions
        if (before.incidents, before.incidents_not_kept) != (incidents, not_kept):
            self._interventions = replace(before, incidents=incidents, incidents_not_kept=not_kept)
        return self._interventions

    def _incident_states(self) -> tuple[IncidentState, ...]:
        if self._parts.incidents is None:
            self._parts.incidents = self._incidents.states()
        return self._parts.incidents

    def _host_states(self) -> tuple[HostState, ...]:
        if self._parts.hosts is None:
            self._parts.hosts = self._hosts.states()
        return self._parts.hosts

    def _decision_states(self) -> tuple[DecisionState, ...]:
        if self._parts.decisions is None:
            self._parts.decisions = decision_states.decision_states(
                self._decision, self._reported_heads()
            )
        return self._parts.decisions

    def _log_entries(self) -> tuple[LogEntry, ...]:
        if self._parts.log is None:
            self._parts.log = self._log.entries()
        return self._parts.log

    def _run_state(self) -> RunState:
        speed = self._hosts.samples_per_second()
        last = self._updates.last
        if speed is None and last is not None:
            speed = last.samples_per_second
        return self._run.state(self._hosts.last, self._heads(), speed)


_HANDLERS: Final[dict[type, Callable[[SanctumAggregator, Event, Any], None]]] = {
    RunStarted: SanctumAggregator._handle_run_started,
    StepCompleted: SanctumAggregator._handle_step_completed,
    DecisionsTaken: SanctumAggregator._handle_decisions_taken,
    SeedTransitioned: SanctumAggregator._handle_seed_transitioned,
    EpisodesCompleted: SanctumAggregator._handle_episodes_completed,
    PPOUpdatePayload: SanctumAggregator._handle_ppo_update,
    InterventionTaken: SanctumAggregator._handle_intervention_taken,
    IncidentRecorded: SanctumAggregator._handle_incident_recorded,
    CheckpointWritten: SanctumAggregator._handle_checkpoint_written,
    HostsStalled: SanctumAggregator._handle_hosts_stalled,
    Heartbeat: SanctumAggregator._handle_heartbeat,
    Notice: SanctumAggregator._handle_notice,
    RunFinished: SanctumAggregator._handle_run_finished,
    UnknownPayload: SanctumAggregator._handle_unknown,
    DamagedPayload: SanctumAggregator._handle_damaged,
}
