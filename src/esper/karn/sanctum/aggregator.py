"""Folds a run's events into what Sanctum shows. Pure: no clock, no files, no device.

Latches and their evidence are joined, so they do not care for order or repetition. Everything else
follows the order of event ids, and an event that was seen already changes nothing but those.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from esper.karn.sanctum.fold import decision_states, event_log, host_ledger
from esper.karn.sanctum.fold.attention import light_of
from esper.karn.sanctum.fold.evidence import EvidenceLedger
from esper.karn.sanctum.fold.host_ledger import HostLedger
from esper.karn.sanctum.fold.incident_ledger import IncidentLedger
from esper.karn.sanctum.fold.latches import Latches
from esper.karn.sanctum.fold.log_book import LogBook
from esper.karn.sanctum.fold.run_ledger import RunLedger
from esper.karn.sanctum.fold.states import machine_state, tamiyo_state, training_state
from esper.karn.sanctum.fold.update_history import score_history, update_history
from esper.karn.sanctum.schema import (
    DecisionState,
    InterventionState,
    LogEntry,
    RunState,
    SanctumSnapshot,
    TamiyoState,
    TrainingState,
)
from esper.karn.store.sightings import UNKNOWN_QUANTITY
from esper.leyline.heads import HEAD_CHOICES
from esper.leyline.incident_files import Incident
from esper.leyline.telemetry import (
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
    kind_of,
)

#: Updates of which more is kept than their histories: a resume goes back by no more as a rule.
UPDATES_KEPT: Final = 32


class SanctumAggregator:
    """The state of one run, built up event by event."""

    def __init__(self) -> None:
        self._last_id = 0
        self._latches = Latches()
        self._reported = Latches()  # of those, what events have said
        self._newest_update = 0  # ever completed, before a resume went back too
        self._lacks_updates = False
        self._evidence = EvidenceLedger()
        self._run = RunLedger()
        self._updates: deque[PPOUpdatePayload] = deque(maxlen=UPDATES_KEPT)
        self._history = update_history()
        self._scores = score_history()
        self._skipped_in_run = 0
        self._rescaled_in_run = 0
        self._interventions = InterventionState()
        self._incidents = IncidentLedger()
        self._hosts = HostLedger()
        self._decision: DecisionsTaken | None = None  # of the step that is shown
        self._log = LogBook()
        self._incident_line = (0, 0)  # of the last bad update: its number, and its event
        self._snapshot: SanctumSnapshot | None = None
        self._made: dict[str, Any] = {}  # parts of the last snapshot that still hold

    def copy(self) -> "SanctumAggregator":
        """Return an aggregator that goes on from here by itself."""
        other = copy.copy(self)
        for name in _MUTABLE:
            setattr(other, name, getattr(self, name).copy())
        return other

    def without_heartbeat(self) -> "SanctumAggregator":
        """Return a copy that knows of the run's events alone."""
        other = self.copy()
        other._run.heartbeat = None
        other._log.forget_heartbeats()
        other._snapshot = None
        other._made.pop("log", None)
        return other

    @property
    def last_id(self) -> int:
        """The id of the newest event that was taken in."""
        return self._last_id

    def apply(self, event: Event) -> None:
        """Take in one event. Of an id that is not new, only what an update saw is taken in."""
        payload = event.payload
        is_new = event.id > self._last_id
        if is_new or isinstance(payload, (PPOUpdatePayload, Heartbeat)):
            _HANDLERS[type(payload)](self, event, payload)
            self._snapshot = None
        if is_new:
            self._last_id = event.id
            self._run.note_event(event)

    def join_sightings(self, sightings: Iterable[tuple[int, NonfiniteSighting]]) -> None:
        """Take in what else is known to have been seen, each with its update; no light goes out."""
        latches, evidence = self._latches, self._evidence.copy()
        for update, seen in sightings:
            latches = latches.join(Latches.of_sightings(update, [seen]))
            evidence.take_in_sightings(update, [seen])
        if (latches, evidence) != (self._latches, self._evidence):
            self._latches, self._evidence = latches, evidence
            self._has_changed("heads", "tamiyo")
            self._snapshot = None

    def join_capsules(self, capsules: Sequence[Incident]) -> None:
        """Take in which incidents are kept on the disk, whatever events say of them."""
        if self._incidents.join_capsules(capsules):
            self._has_changed("incidents")
            self._snapshot = None

    def lacks_capsule(self, capsules: Sequence[Incident]) -> bool:
        """Return whether an event tells of a capsule that is not among these."""
        return self._incidents.lacks_capsule(capsules)

    def note_hidden_damage(self) -> None:
        """Count an event of which it is only known that it must have told of a light."""
        self._run.note_damage()
        reason = "no event tells of a light that the store's other tables have"
        payload = DamagedPayload(kind="ppo_update", reason=reason)
        at = self._run.last_event_at or 0.0
        self._say(Event(id=self._last_id, time=at, payload=payload), "error", reason)
        self._snapshot = None

    @property
    def newest_update(self) -> int:
        """The newest update that any event completed; a resume may have gone back before it."""
        return self._newest_update

    @property
    def lacks_updates(self) -> bool:
        """Whether the run was resumed after an update of which there is no event."""
        return self._lacks_updates

    def sightings(self) -> list[tuple[int, NonfiniteSighting]]:
        """Return what put the lights on that are on, each with an update."""
        found = [
            (
                first.update,
                NonfiniteSighting(
                    head=first.head,
                    quantity=first.quantity,
                    kind=first.kind,
                    count=0,
                    epoch=first.epoch,
                    minibatch=first.minibatch,
                    phase=first.phase,
                    host=first.host,
                    step=first.step,
                    part=first.part,
                    reproduced=self._latches.is_reproduced(
                        (first.head, first.quantity, first.kind)
                    ),
                    planted=(first.head, first.quantity, first.kind) not in self._latches.genuine,
                ),
            )
            for first in self._latches.first.values()
        ]
        known = {(seen.head, light_of(seen.kind)) for _, seen in found}
        for light, heads in (("inf", self._latches.inf), ("nan", self._latches.nan)):
            found += [
                (
                    self._newest_update,
                    NonfiniteSighting(
                        head=head,
                        quantity=UNKNOWN_QUANTITY,
                        kind=light,
                        count=0,
                        epoch=0,
                        minibatch=0,
                    ),
                )
                for head in heads
                if (head, light) not in known
            ]
        return found

    @property
    def is_end_lost(self) -> bool:
        """Whether the run may have ended with an event that cannot be read or understood."""
        return self._run.is_end_lost

    def snapshot(self) -> SanctumSnapshot:
        """Return the state of now; the same object as before if nothing was applied since.

        So it is with its parts: what no event has changed is the same object again.
        """
        if self._snapshot is None:
            self._snapshot = SanctumSnapshot(
                run=self._run_state(),
                machine=machine_state(self._run.heartbeat),
                tamiyo=self._part("tamiyo", self._tamiyo_state),
                training=self._part("training", self._training_state),
                interventions=self._intervention_state(),
                incidents=self._part("incidents", self._incidents.states),
                hosts=self._part("hosts", self._hosts.states),
                decisions=self._part("decisions", self._decision_states),
                log=self._part("log", self._log.entries),
                last_event_id=self._last_id,
            )
        return self._snapshot

    def _part(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _has_changed(self, *parts: str) -> None:
        for part in parts:
            self._made.pop(part, None)

    def _handle_run_started(self, event: Event, payload: RunStarted) -> None:
        is_first = self._run.start is None
        self._run.begin(payload)
        self._hosts.clear()
        self._decision = None
        self._made.clear()
        resumed_from = payload.resumed_from_update
        if resumed_from is None and not is_first:
            resumed_from = 0  # there was no checkpoint, so it begins again
        if resumed_from is not None:
            self._lacks_updates |= resumed_from > self._newest_update
            # What was trained after the checkpoint is trained again, and told again.
            while self._updates and self._updates[-1].update > resumed_from:
                self._updates.pop()
            self._history.drop_after(resumed_from)
            self._scores.drop_after(resumed_from)
            self._run.update = resumed_from
            self._run.episodes_done = (
                self._updates[-1].episodes_done
                if self._updates
                else min(self._run.episodes_done, resumed_from * payload.environments)
            )
        self._say(event, "info", event_log.started(payload))

    def _handle_step_completed(self, event: Event, payload: StepCompleted) -> None:
        damage = host_ledger.damage_of(payload)
        if damage is not None:
            self._count_damage(event, damage)
            return
        self._hosts.take_in(payload)
        self._run.note_step(event.time, payload)
        self._has_changed("hosts")
        decision = self._decision
        # A decision comes before its step; one of another step would stand beside the wrong hosts.
        if decision and (decision.update, decision.step) != (payload.update, payload.step):
            self._decision = None
            self._has_changed("decisions")

    def _handle_decisions_taken(self, event: Event, payload: DecisionsTaken) -> None:
        damage = decision_states.damage_of(payload, self._told_heads())
        if damage is not None:
            self._count_damage(event, damage)
            return
        self._decision = payload
        self._has_changed("decisions")

    def _handle_seed_transitioned(self, event: Event, payload: SeedTransitioned) -> None:
        start = self._run.start
        line = event_log.transition(
            payload, start.slots if start else (), start.blueprints if start else ()
        )
        if line is not None:
            self._say(event, "info", line, host=payload.host)

    def _handle_episodes_completed(self, event: Event, payload: EpisodesCompleted) -> None:
        self._run.episodes_done = payload.episodes_done
        score = event_log.mean(payload.score)
        if score is not None:
            self._scores.add(payload.update, score)
            self._has_changed("training")
        start = self._run.start
        episodes = start.episodes if start else 0
        self._say(event, "info", event_log.episodes_done(payload, episodes, score))

    def _handle_ppo_update(self, event: Event, payload: PPOUpdatePayload) -> None:
        """OR what was detected into the lights; an absent or False entry changes nothing."""
        found = Latches.of(payload)
        self._has_changed("heads", "tamiyo")
        if found.inf or found.nan:
            self._evidence.take_in(payload)
            for head, host, line in event_log.newly_lit(self._reported, found, payload.update):
                self._say(event, "latch", line, head=head, host=host, update=payload.update)
            self._reported = self._reported.join(found)
            self._latches = self._latches.join(found)
        self._newest_update = max(self._newest_update, payload.update)
        if event.id <= self._last_id:
            return
        self._updates.append(payload)
        self._history.add(payload.update, payload)
        self._run.update = payload.update
        self._run.episodes_done = payload.episodes_done
        self._run.note_update(event.time)
        self._skipped_in_run += payload.minibatches_skipped
        self._rescaled_in_run += payload.minibatches_rescaled
        self._has_changed("history", "training")
        if payload.minibatches_skipped:
            self._say(event, "warning", event_log.skipped(payload), update=payload.update)

    def _handle_intervention_taken(self, event: Event, payload: InterventionTaken) -> None:
        before = self._interventions
        match payload.action:
            case "repeat":
                after = replace(before, updates_repeated=before.updates_repeated + 1)
            case "skip":
                after = replace(before, updates_skipped=before.updates_skipped + 1)
            case "rollback":
                after = replace(before, updates_rolled_back=before.updates_rolled_back + 1)
            case "halt":
                after = replace(before, halts=before.halts + 1)
            case _:
                after = before  # a newer writer's; its line in the log says what it did
        self._interventions = after
        level = "warning" if payload.action in ("repeat", "skip") else "error"
        self._say(event, level, event_log.intervention(payload), update=payload.update)

    def _handle_incident_recorded(self, event: Event, payload: IncidentRecorded) -> None:
        self._incidents.take_in(payload)
        self._has_changed("incidents")
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
            text = f"events the monitor could not store: {payload.events_lost} ({payload.error})"
            self._say(event, "error", text)

    def _handle_notice(self, event: Event, payload: Notice) -> None:
        self._run.notice = payload.text
        self._say(event, payload.level, payload.text)

    def _handle_run_finished(self, event: Event, payload: RunFinished) -> None:
        self._run.end(payload, event.time)
        self._say(event, *event_log.finished(payload))

    def _handle_unknown(self, event: Event, payload: UnknownPayload) -> None:
        if self._run.note_unknown(payload.kind):
            text = f"this version does not know {payload.kind!r} events, and passes over them"
            self._say(event, "warning", text)

    def _handle_damaged(self, event: Event, payload: DamagedPayload) -> None:
        self._count_damage(event, payload.reason)

    def _count_damage(self, event: Event, reason: str) -> None:
        self._run.note_damage()
        kind = _kind_of(event)
        self._say(event, "error", f"event {event.id} ({kind}) is damaged: {reason}")

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
        """Add a line to the log.

        Args:
            event: that it tells of.
            level: of the line.
            text: of the line.
            host, head: that it is about, if it is about one.
            update: the bad update that it is about: of its lines, the first leads and the others
                are details, unless they are errors.
        """
        lead = 0
        if update and self._incident_line[0] != update:
            self._incident_line = update, event.id or self._last_id
        elif update and level != "error":
            lead = self._incident_line[1]
        entry = LogEntry(
            event_id=event.id or self._last_id,
            time=event.time,
            level=level,
            text=text,
            kind=_kind_of(event),
            host=host,
            head=head,
            lead=lead,
        )
        self._log.add(entry)
        self._has_changed("log")

    def _told_heads(self) -> Mapping[str, Sequence[str]]:
        start = self._run.start
        return start.heads if start and start.heads else HEAD_CHOICES

    def _heads(self) -> dict[str, tuple[str, ...]]:
        """Return the run's heads and their choices, and any other head that is lit."""
        heads = {head: tuple(choices) for head, choices in self._told_heads().items()}
        for head in sorted(self._latches.heads() - heads.keys()):
            heads[head] = ()
        return heads

    def _tamiyo_state(self) -> TamiyoState:
        heads = list(self._part("heads", self._heads))
        last = self._updates[-1] if self._updates else None
        history = self._part("history", self._history.values)
        return tamiyo_state(heads, self._latches, self._evidence, last, history)

    def _training_state(self) -> TrainingState:
        return training_state(
            self._updates[-1] if self._updates else None,
            self._part("history", self._history.values),
            self._scores.values().get("score", ()),
            skipped_in_run=self._skipped_in_run,
            rescaled_in_run=self._rescaled_in_run,
        )

    def _intervention_state(self) -> InterventionState:
        incidents, not_kept = self._incidents.counts()
        before = self._interventions
        if (before.incidents, before.incidents_not_kept) != (incidents, not_kept):
            self._interventions = replace(before, incidents=incidents, incidents_not_kept=not_kept)
        return self._interventions

    def _decision_states(self) -> tuple[DecisionState, ...]:
        return decision_states.decision_states(self._decision, self._told_heads())

    def _run_state(self) -> RunState:
        speed = self._hosts.samples_per_second()
        if speed is None and self._updates:
            speed = self._updates[-1].samples_per_second
        return self._run.state(self._hosts.last, self._part("heads", self._heads), speed)


#: What of an aggregator changes in place, and so must be copied with it.
_MUTABLE: Final = (
    "_run",
    "_evidence",
    "_updates",
    "_history",
    "_scores",
    "_incidents",
    "_hosts",
    "_log",
    "_made",
)

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


def _kind_of(event: Event) -> str:
    payload = event.payload
    return payload.kind if isinstance(payload, DamagedPayload) else kind_of(payload)
