"""The report of `esper health`: the lights of one run and their evidence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from esper.karn.reports.evidence_rows import EVIDENCE_HEADINGS, evidence_cells
from esper.karn.reports.fail_on import FAIL_KINDS, LATCH_KINDS
from esper.karn.reports.incident_advice import advice_lines, advice_on, where_it_began
from esper.karn.reports.rank_rows import rank_lines, ranks_as_json
from esper.karn.reports.report_lines import (
    LEVEL_STYLES,
    LIT_STYLE,
    UNKNOWN_STYLE,
    column_lines,
    score_text,
    whole,
)
from esper.karn.sanctum.fold.attention import is_drill, lit_lights
from esper.karn.sanctum.fold.evidence import evidence_words
from esper.karn.sanctum.fold.verdict import master_verdict
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.following.run_frame import Frame
from esper.karn.sanctum.schema import (
    Evidence,
    IncidentState,
    InterventionState,
    SanctumSnapshot,
    TamiyoState,
    TrainingState,
)
from esper.karn.store.errors import RunStoreError
from esper.karn.store.wal import LARGE_WAL_BYTES
from esper.karn.text.columns import joined
from esper.karn.text.figures import ABSENT
from esper.karn.text.light_signs import LIT, UNKNOWN, UNLIT
from esper.karn.text.palette import TERMINAL
from esper.karn.text.status_text import status_text
from esper.leyline.health import LEVEL_WORDS, Verdict
from esper.leyline.telemetry import STALLED_UPDATES
from esper.leyline.text.plurals import counted

#: Heads and groups up to this number have a row each, lit or not.
_ROWS_OF_DARK: Final = 24
#: Incidents whose origin is printed: the first, and the newest ones.
_INCIDENTS_EXPLAINED: Final = 3


@dataclass(frozen=True)
class RunHealth:
    """Health of a run: its lights, and whether the run is completely known.

    Attributes:
        directory: the run's directory.
        frame: everything that was read of the run.
    """

    directory: Path
    frame: Frame

    @property
    def run_id(self) -> str:
        """The run's name, also if the directory is a link."""
        return self.directory.resolve().name

    @property
    def doubt(self) -> str | None:
        """Why a light that is not on may be missing; None if the run is completely known."""
        return self.frame.completeness.doubt

    def is_set(self, kind: str) -> bool:
        """Return whether any light of a kind, `inf`, `nan` or `stalled`, is on."""
        if kind == "stalled":
            return self.frame.snapshot.training.stalled_latch
        return any(self.frame.snapshot.tamiyo.latch(kind).values())


def read_health(directory: Path) -> RunHealth:
    """Return the health of the run in a directory.

    Raises:
        RunStoreError: no light is known to be on, and the store is empty or cannot be read.
    """
    health = RunHealth(directory, RunFollower(directory).catch_up())
    if not any(map(health.is_set, FAIL_KINDS)):
        # Otherwise a file next to a broken store has a light.
        if health.frame.completeness.unreadable is not None:
            raise RunStoreError(health.frame.completeness.unreadable)
        if not health.frame.snapshot.last_event_id:
            raise RunStoreError(f"{health.run_id} has no events yet, so its health is unknown")
    return health


def health_as_json(health: RunHealth) -> dict[str, Any]:
    """Return the health of a run as plain values; keys are only ever added."""
    frame = health.frame
    tamiyo, done = frame.snapshot.tamiyo, frame.snapshot.interventions
    run, training = frame.snapshot.run, frame.snapshot.training
    unlit = False if frame.completeness.doubt is None else None
    return {
        "run": health.run_id,
        "status": str(frame.status.kind),
        # null: a run of Esper's own agent.
        "library": run.library or None,
        # Large if a program keeps a transaction on the store open.
        "wal_bytes": frame.wal_bytes,
        # Whether all lights that are on come from drills.
        "planted": is_drill(tamiyo),
        # null: unknown.
        "head_inf_latch": {head: lit or unlit for head, lit in tamiyo.head_inf_latch.items()},
        "head_nan_latch": {head: lit or unlit for head, lit in tamiyo.head_nan_latch.items()},
        "group_inf_latch": {group: lit or unlit for group, lit in tamiyo.group_inf_latch.items()},
        "group_nan_latch": {group: lit or unlit for group, lit in tamiyo.group_nan_latch.items()},
        # null: not measured, as in a run of Esper's own agent.
        "stalled": {
            "latch": training.stalled_latch or unlit,
            "since": training.stalled_since,
            "updates": training.still_updates,
        }
        if run.is_watched
        else None,
        "first": [
            {
                "head": seen.head,
                "kind": seen.kind,
                "quantity": seen.quantity,
                "update": seen.update,
                "phase": seen.phase,
                "epoch": seen.epoch or None,
                "minibatch": seen.minibatch or None,
                "host": seen.host,
                "step": seen.step,
                "part": seen.part or None,
                "reproduced": seen.reproduced,
                "planted": seen.planted,
                "rank": seen.rank,
            }
            for seen in tamiyo.first
        ],
        "evidence": [_evidence_report(row) for row in tamiyo.evidence],
        "interventions": {
            "repeat": done.updates_repeated,
            "skip": done.updates_skipped,
            "rollback": done.updates_rolled_back,
            "halt": done.halts,
        },
        # Of the watch itself: a light may be missing.
        "monitor_failures": {
            "count": run.monitor_failures,
            "last": run.last_monitor_failure or None,
        },
        "incidents": {
            "kept": done.incidents - done.incidents_not_kept,
            "not_kept": done.incidents_not_kept,
        },
        # null: one process trains.
        "ranks": ranks_as_json(frame.ranks),
    }


def _evidence_report(row: Evidence) -> dict[str, Any]:
    # Epoch and minibatch are 0 before the first minibatch, and if they were not reported.
    return {
        "head": row.head,
        "quantity": row.quantity,
        "kind": row.kind,
        "first": {
            "update": row.first_update,
            "phase": row.first_phase,
            "epoch": row.first_epoch or None,
            "minibatch": row.first_minibatch or None,
            "host": row.first_host,
            "step": row.first_step,
            "other_hosts": list(row.other_hosts),
            "part": row.first_part or None,
            "rank": row.first_rank,
            "other_ranks": list(row.other_ranks),
        },
        "last": {
            "update": row.last_update,
            "phase": row.last_phase,
            "epoch": row.last_epoch or None,
            "minibatch": row.last_minibatch or None,
            "part": row.last_part or None,
        },
        "updates": row.updates,
        "minibatches": row.minibatches or None,
        "steps": row.steps or None,
        "reproduced": row.reproduced,
        "planted": row.planted,
        "active": row.is_active,
    }


def health_text(health: RunHealth) -> Group:
    """Return the health of a run as text: its state, the verdict, its lights and their evidence."""
    frame = health.frame
    verdict = master_verdict(frame.snapshot, frame.status, doubt=frame.doubt)
    unlit = Text(UNLIT, "dim") if health.doubt is None else Text(UNKNOWN, UNKNOWN_STYLE)
    tamiyo, training = frame.snapshot.tamiyo, frame.snapshot.training
    is_watched = frame.snapshot.run.is_watched
    rows = _light_rows(tamiyo, unlit)
    left_out = len(tamiyo.latch("inf")) - len(rows)
    stalled = _stalled(training) if training.stalled_latch else unlit
    return Group(
        *_state(health, verdict),
        Text(),
        Text(f"{LIT} {LEVEL_WORDS[verdict.level]}", style=LEVEL_STYLES[verdict.level]),
        *(Padding(Text(reason), (0, 0, 0, 2), expand=False) for reason in verdict.reasons),
        Text(),
        *column_lines(rows, ("head", "Inf", "NaN")),
        *([Text(f"and {left_out} without Inf and NaN", style="dim")] if left_out else []),
        *([Text("stalled  ").append_text(stalled)] if is_watched else []),
        *([] if health.doubt is None else [_not_known(health.doubt)]),
        *([Text(), *_evidence(tamiyo.evidence, is_watched)] if tamiyo.evidence else []),
    )


def _state(health: RunHealth, verdict: Verdict) -> Iterator[Text]:
    """Yield lines on the state of a run: its status, its progress and its interventions."""
    frame = health.frame
    run, training = frame.snapshot.run, frame.snapshot.training
    heading = joined([Text(health.run_id, style="bold"), status_text(frame.status, TERMINAL)])
    if frame.status.sentence not in (*verdict.reasons, frame.status.kind.lower()):
        heading.append(f"  {frame.status.sentence}", style="dim")
    yield whole(heading)
    yield whole(Text(_how_far(frame.snapshot)))
    yield from map(whole, rank_lines(frame.ranks))
    done = frame.snapshot.interventions
    yield from map(Text, _interventions(done, is_watched=run.is_watched))
    for incident in _explained(frame.snapshot.incidents):
        if (words := where_it_began(incident)) is not None:
            yield Text(f"  incident {incident.number}, update {incident.update}: {words}")
    if frame.wal_bytes > LARGE_WAL_BYTES:
        held = (
            f"the WAL of the store has grown to {frame.wal_bytes >> 20} MiB, because a program "
            "keeps a transaction on the store open"
        )
        yield whole(Text(held, style="yellow"))
    if run.last_monitor_failure:
        yield Text(run.last_monitor_failure, style="yellow")
    if (advice := advice_on(health.directory, frame.snapshot.incidents)) is not None:
        yield from (whole(Text(line, style="dim")) for line in advice_lines(advice))
    if training.loss_scale is not None:
        scaled = (
            f"loss scale {training.loss_scale:g}, "
            f"scaler skipped {counted(training.rescaled_in_run, 'minibatch', 'minibatches')}"
        )
        yield Text(scaled, style="dim")


def _not_known(doubt: str) -> Text:
    return Text(f"{UNKNOWN} not known: {doubt}", style=UNKNOWN_STYLE)


def _light_rows(tamiyo: TamiyoState, unlit: Text) -> list[list[Text]]:
    """Return a row of lights for each head and each group; of very many, of those that are lit."""
    names = list(tamiyo.latch("inf"))
    if len(names) > _ROWS_OF_DARK:
        lit = {name for name, _ in lit_lights(tamiyo)}
        names = [name for name in names if name in lit or name in tamiyo.group_inf_latch]
    return [
        [
            Text(head),
            *(
                _light(
                    tamiyo.latch(light).get(head, False),
                    unlit,
                    now=tamiyo.active(light).get(head, False),
                    planted=tamiyo.planted(light).get(head, False),
                )
                for light in LATCH_KINDS
            ),
        ]
        for head in names
    ]


def _light(is_lit: bool, unlit: Text, *, now: bool, planted: bool) -> Text:
    if not is_lit:
        return unlit
    words = (LIT, "drill" if planted else "", "now" if now else "")
    return Text(" ".join(filter(None, words)), style=LIT_STYLE)


def _how_far(snapshot: SanctumSnapshot) -> str:
    """Return how far training has come; of a watched run also what is watched."""
    run = snapshot.run
    if run.is_watched:
        return ", ".join(filter(None, (f"update {run.update}", run.library, run.task)))
    episodes = f"{run.episodes_done} of {run.episodes}" if run.episodes else ABSENT
    score = score_text(snapshot.training.score)
    return f"update {run.update}, episodes {episodes}, score {score}"


def _explained(incidents: Sequence[IncidentState]) -> Sequence[IncidentState]:
    """Return the incidents whose origin is printed."""
    if len(incidents) <= _INCIDENTS_EXPLAINED:
        return incidents
    return [incidents[0], *incidents[1 - _INCIDENTS_EXPLAINED :]]


def _stalled(training: TrainingState) -> Text:
    now = " now" if training.still_updates >= STALLED_UPDATES else ""
    return Text(f"{LIT}{now} since update {training.stalled_since}", style=LIT_STYLE)


def _interventions(done: InterventionState, *, is_watched: bool) -> tuple[str, str]:
    """Return the lines about interventions and incidents.

    A watched run that keeps no capsules does not report that as a loss.
    """
    repeated = f"{counted(done.updates_repeated, 'update')} repeated (finite at the second try)"
    actions = [
        (done.updates_repeated, repeated),
        (done.updates_skipped, f"{counted(done.updates_skipped, 'update')} skipped"),
        (done.updates_rolled_back, f"{done.updates_rolled_back} rolled back"),
        (done.halts, counted(done.halts, "halt")),
    ]
    taken = ", ".join(text for count, text in actions if count)
    incidents = str(done.incidents) if done.incidents else "none"
    keeps_none = is_watched and done.incidents_not_kept == done.incidents
    if done.incidents_not_kept and not keeps_none:
        incidents += f", of which {done.incidents_not_kept} without a capsule"
    return f"interventions: {taken or 'none'}", f"incidents: {incidents}"


def _evidence(evidence: Sequence[Evidence], is_watched: bool) -> list[Text]:
    """Return a row for each source of sightings, at most 80 columns wide."""
    rows = []
    details = []
    for row in evidence:
        style = LIT_STYLE if row.is_active else ""
        cells = evidence_cells(row, row.head, lambda count: ABSENT if count is None else str(count))
        rows.append([Text(cell, style=style) for cell in cells])
        details.append(Text(f"  {words}", style=style) if (words := evidence_words(row)) else None)
    places = "update/minibatch" if is_watched else "update/epoch/minibatch"
    legend = f"updates, minib.: number with a sighting; first, last: {places}"
    return [*column_lines(rows, ("head", *EVIDENCE_HEADINGS), details), Text(legend, style="dim")]
