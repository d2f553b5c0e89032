"""Derives alerts from the state of a run; the alert record decides which of them are new.

Nothing here reads files or clocks. The key of an alert is stable: a light keeps one key for the
whole run, the end of a process has one key per process.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esper.karn.alerts.alert_types import Alert
from esper.karn.reports.incident_advice import advice_on, where_it_began
from esper.karn.reports.run_commands import run_command
from esper.karn.sanctum.fold.attention import (
    LIGHT_WORDS,
    STALLED_LIGHT,
    Light,
    light_of,
    light_words,
    lights_on,
)
from esper.karn.sanctum.fold.event_log import ACTION_WORDS, first_out
from esper.karn.sanctum.following.run_frame import Frame
from esper.karn.sanctum.schema import FirstSighting, IncidentState
from esper.karn.store.liveness import StatusKind
from esper.karn.text.figures import span_text
from esper.leyline.health import judge_figure
from esper.leyline.records import record_of
from esper.leyline.telemetry import GROUPS
from esper.leyline.text.plurals import counted

#: Interventions that cause an alert the first time they are taken, mildest first.
_ESCALATIONS: Final = ("skip", "rollback")
_DIED: Final = (StatusKind.DEAD, StatusKind.FAILED, StatusKind.DEGRADED)
_SILENT: Final = (StatusKind.DEAD, StatusKind.STALE)
_FINISHED: Final = (StatusKind.FINISHED, StatusKind.STOPPED)
_PROCESS: Final = re.compile(r":(\d+)@(\d+)")
#: Tolerance between two readings of a process's start time, in seconds.
_CLOCK_STEP: Final = 2
#: The heartbeat reports a run that ended badly as failing for this long, in seconds.
FAILING_SECONDS: Final = 3600.0


@dataclass(frozen=True)
class RunView:
    """The part of a run's state that alerts depend on.

    Attributes:
        directory: the run's directory.
        frame: the run's state as read from its store.
        now: current time in seconds since the epoch.
        acknowledged: lights that an operator acknowledged; they cause no alert.
        still_seconds: seconds since the last update, or since the process started.
        stalled_after: seconds without an update that count as a stall.
        earlier: alerts that were sent or claimed before, by key.
    """

    directory: Path
    frame: Frame
    now: float
    acknowledged: frozenset[Light]
    still_seconds: float
    stalled_after: float
    earlier: Mapping[str, Alert]

    @property
    def is_stalled(self) -> bool:
        """Whether an active run had no update for `stalled_after`."""
        kind = self.frame.status.kind
        is_training = not self.frame.status.is_over and kind is not StatusKind.WAITING
        return is_training and self.still_seconds >= self.stalled_after

    @property
    def lights(self) -> list[Light]:
        """The lights that are on and not acknowledged."""
        return [one for one in lights_on(self.frame.snapshot) if one not in self.acknowledged]


def alerts_of(view: RunView) -> list[Alert]:
    """Return all alerts for a run, in order of time; those without a time come last."""
    found = [*_lights(view), *_escalations(view), *_ends(view), *_stalls(view), *_troubles(view)]
    return sorted(found, key=lambda alert: (alert.time is None, alert.time or 0.0))


def failure_of(view: RunView) -> str | None:
    """Return one sentence on why the heartbeat fails for a run; None if nothing is wrong.

    An active run fails while it is stalled or has a light that is not acknowledged. A run that died
    or was halted fails for `FAILING_SECONDS`, or until it is resumed.
    """
    frame = view.frame
    name = view.directory.name
    if not frame.status.is_over:
        if view.is_stalled:
            return f"{name}: {_stall_words(view)}"
        if view.lights:
            words = ", ".join(map(light_words, view.lights[:3]))
            return f"{name}: {counted(len(view.lights), 'light')} on ({words})"
        return None
    if frame.status.kind not in (*_DIED, StatusKind.HALTED):
        return None
    ended = ended_at(view)
    is_recent = ended is not None and view.now - ended < FAILING_SECONDS
    return f"{name}: {frame.status.sentence}" if is_recent else None


def _alert(view: RunView, key: str, kind: str, sentence: str, **fields: Any) -> Alert:
    run = view.directory
    return Alert(
        key=key,
        kind=kind,
        run=run.name,
        path=str(run.absolute()),
        sentence=sentence,
        status=str(view.frame.status.kind),
        **{"command": run_command(run, "esper", "health"), **fields},
    )


def _lights(view: RunView) -> Iterator[Alert]:
    snapshot = view.frame.snapshot
    firsts: dict[Light, FirstSighting] = {}
    for seen in snapshot.tamiyo.first:
        firsts.setdefault((seen.head, light_of(seen.kind)), seen)
    for light in view.lights:
        if light == STALLED_LIGHT:
            since = snapshot.training.stalled_since
            yield _alert(
                view,
                "light:training:stalled",
                "light",
                f"no weight moves since update {since} although the optimizer takes steps",
                head=light[0],
                light=light[1],
                update=since,
            )
        else:
            yield _light(view, light, firsts.get(light))


def _light(view: RunView, light: Light, seen: FirstSighting | None) -> Alert:
    head, kind = light
    snapshot = view.frame.snapshot
    is_planted = snapshot.tamiyo.planted(kind).get(head, False)
    # A real fault after a drill needs a separate alert.
    key = f"light:{head}:{kind}" + (":drill" if is_planted else "")
    at = _line_time(view, head, LIGHT_WORDS[kind])
    if seen is None:
        sentence = f"{GROUPS.get(head, head)} went {LIGHT_WORDS[kind]}"
        return _alert(
            view, key, "light", sentence, time=at, head=head, light=kind, planted=is_planted
        )
    incident = next((one for one in snapshot.incidents if one.update == seen.update), None)
    fields: dict[str, Any] = {} if incident is None else _incident_fields(view, incident)
    return _alert(
        view,
        key,
        "light",
        first_out(seen),
        time=at,
        head=head,
        light=kind,
        quantity=seen.quantity,
        update=seen.update,
        planted=is_planted,
        **fields,
    )


def _incident_fields(view: RunView, incident: IncidentState) -> dict[str, Any]:
    advice = advice_on(view.directory, [incident])
    return {
        "incident": incident.number,
        "operation": "" if incident.origin is None else incident.origin.operation,
        "origin": where_it_began(incident) or "",
        **({} if advice is None else {"command": advice.command}),
    }


def _line_time(view: RunView, head: str, word: str) -> float | None:
    """Return the time of a light's line in the event log."""
    for line in view.frame.snapshot.log:
        if line.level == "latch" and line.head == head and word in line.text:
            return line.time
    return None


def _escalations(view: RunView) -> Iterator[Alert]:
    done = view.frame.snapshot.interventions
    counts = {"skip": done.updates_skipped, "rollback": done.updates_rolled_back}
    for action in _ESCALATIONS:
        if counts[action]:
            at, text = _intervention(view, action)
            yield _alert(view, f"escalation:{action}", "escalation", text, time=at)


def _intervention(view: RunView, action: str) -> tuple[float | None, str]:
    """Return the time and text of the first intervention of this kind."""
    words = ACTION_WORDS[action]
    for line in view.frame.snapshot.log:
        if line.kind == "intervention_taken" and f" {words}: " in line.text:
            return line.time, line.text
    return None, f"an update was {words}" if action == "rollback" else f"an update {words}"


def _ends(view: RunView) -> Iterator[Alert]:
    snapshot, status = view.frame.snapshot, view.frame.status
    halts = snapshot.interventions.halts
    update = snapshot.run.update
    if halts or status.kind is StatusKind.HALTED:
        at, text = _intervention(view, "halt")
        if status.kind is StatusKind.HALTED:
            at, text = snapshot.run.finished_at, status.sentence
        key = f"halt:{max(halts, 1)}"
        yield _alert(view, key, "halt", text, time=at, update=update, **_first_advice(view))
    if status.kind in _DIED:
        sentence = f"{status.sentence} (update {update})"
        if status.kind is StatusKind.DEAD and view.frame.doubt.unknown_lights is not None:
            sentence += f"; {view.frame.doubt.unknown_lights}"
        key = f"died:{_process(view)}"
        yield _alert(view, key, "died", sentence, time=ended_at(view), update=update)
    if status.kind in _FINISHED:
        score = snapshot.training.score
        words = f"{status.kind.lower()} after {counted(update, 'update')}"
        words += "" if score is None else f", score {score:.3f}"
        words += f": {snapshot.run.reason}" if snapshot.run.reason else ""
        key = f"finished:{_process(view)}"
        yield _alert(view, key, "finished", words, time=ended_at(view), update=update)


def _first_advice(view: RunView) -> dict[str, str]:
    advice = advice_on(view.directory, view.frame.snapshot.incidents)
    return {} if advice is None else {"command": advice.command}


def ended_at(view: RunView) -> float | None:
    """Return when a run ended (a dead run: its last heartbeat), in seconds since the epoch."""
    status, run = view.frame.status, view.frame.snapshot.run
    if status.kind is not StatusKind.DEAD:
        return run.finished_at
    return (
        None if status.seconds is None else max(view.now - status.seconds, run.last_event_at or 0)
    )


def _process(view: RunView) -> str:
    """Return the id of the process that trains a run, such as "123@1795816261"."""
    run = view.frame.snapshot.run
    pid, started = run.pid or 0, round(run.process_start_time or 0.0)
    for key in view.earlier:
        # The start time may differ slightly if the clock was adjusted.
        found = _PROCESS.search(key)
        if found and int(found[1]) == pid and abs(int(found[2]) - started) <= _CLOCK_STEP:
            return f"{pid}@{found[2]}"
    return f"{pid}@{started}"


def _stalls(view: RunView) -> Iterator[Alert]:
    update = view.frame.snapshot.run.update
    process = _process(view)
    if view.is_stalled:
        yield _alert(
            view,
            f"stalled:{process}:{update}",
            "stalled",
            _stall_words(view),
            time=view.now - view.still_seconds,
            update=update,
        )
    for key, alert in view.earlier.items():
        if alert.kind == "stalled" and not alert.resolved and alert.update is not None:
            is_resumed = not key.startswith(f"stalled:{process}:") and not view.frame.status.is_over
            if update > alert.update or is_resumed:
                words = (
                    f"no longer stalled: update {update}" if update > alert.update else "resumed"
                )
                yield _alert(
                    view,
                    f"{key}:over",
                    "stalled",
                    f"{words} (stalled at update {alert.update})",
                    update=update,
                    resolved=True,
                )


def _stall_words(view: RunView) -> str:
    update = view.frame.snapshot.run.update
    since = f"since update {update}" if update else "since it started"
    return f"no update for {span_text(view.still_seconds)} {since}: {view.frame.status.sentence}"


def _troubles(view: RunView) -> Iterator[Alert]:
    run, doubt, status = view.frame.snapshot.run, view.frame.doubt, view.frame.status
    for key, path, count in (
        ("lost", "run.events_lost", run.events_lost),
        ("damaged", "run.damaged_events", run.damaged_events),
    ):
        for reason in judge_figure(record_of(path), count).reasons:
            yield _alert(view, f"trouble:{key}", "trouble", reason)
    if doubt.error is not None or status.kind is StatusKind.UNREADABLE:
        sentence = doubt.error or status.sentence
        yield _alert(view, "trouble:unreadable", "trouble", sentence)
    # A suspended process looks like a killed one, and a dead run has a separate alert.
    elif doubt.unknown_lights is not None and status.kind not in _SILENT:
        yield _alert(view, "trouble:unknown-lights", "trouble", doubt.unknown_lights)
