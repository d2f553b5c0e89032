"""The report of `esper health`: the lights of one run, their evidence, and the exit code."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from esper.karn.reports.fail_on import LATCH_KINDS, latch_kinds
from esper.karn.reports.printing import (
    LEVEL_STYLES,
    LIT_STYLE,
    UNKNOWN_STYLE,
    print_columns,
    score_text,
)
from esper.karn.reports.run_commands import run_command
from esper.karn.sanctum.fold.attention import is_drill, lit_lights
from esper.karn.sanctum.fold.evidence import evidence_words
from esper.karn.sanctum.fold.verdict import master_verdict
from esper.karn.sanctum.following.follower import Frame, RunFollower
from esper.karn.sanctum.schema import (
    Evidence,
    IncidentState,
    InterventionState,
    SanctumSnapshot,
    TamiyoState,
    TrainingState,
)
from esper.karn.store.errors import RunStoreError
from esper.karn.store.run_directory import find_run
from esper.karn.store.wal import LARGE_WAL_BYTES
from esper.karn.text.columns import joined
from esper.karn.text.figures import ABSENT, place_text
from esper.karn.text.light_signs import LIT, UNKNOWN, UNLIT
from esper.karn.text.palette import TERMINAL
from esper.karn.text.plain_console import PlainConsole
from esper.karn.text.status_text import status_text
from esper.leyline.health import LEVEL_WORDS, Verdict
from esper.leyline.telemetry import STALLED_UPDATES
from esper.leyline.text.origin_words import origin_words
from esper.leyline.text.plurals import counted
from esper.leyline.text.sighting_words import KIND_WORDS

#: Heads and groups up to this number have a row each, lit or not.
_ROWS_OF_DARK: Final = 24
#: Incidents whose origin is printed, the newest ones.
_INCIDENTS_EXPLAINED: Final = 3


def print_health(
    run_dir: Path,
    reference: str | None = None,
    *,
    as_json: bool = False,
    fail_on: str = "inf,nan,stalled",
    console: Console | None = None,
) -> int:
    """Print the health of one run; return 1 if a latch of a kind in `fail_on` is set, else 0.

    If the run is not completely known, a latch that is not set is unknown.

    Args:
        run_dir: the folder that holds runs.
        reference: an id, a unique prefix of an id, a name or a path; None for the newest run.
        as_json: whether to print JSON instead of text.
        fail_on: `inf`, `nan`, `stalled`, several of them with commas between, or nothing.
        console: where to print.

    Raises:
        RunNotFoundError: no run, or more than one, matches `reference`.
        RunStoreError: the run's store cannot be read, or none of these latches is set and the run
            is not completely known. In the second case the report was printed.
        FailOnError: `fail_on` has an unknown kind.
    """
    console = console or PlainConsole()
    kinds = latch_kinds(fail_on)
    directory = find_run(run_dir, reference)
    frame = RunFollower(directory).catch_up()
    tamiyo = frame.snapshot.tamiyo
    is_set = {kind: any(tamiyo.latch(kind).values()) for kind in LATCH_KINDS}
    is_set["stalled"] = frame.snapshot.training.stalled_latch
    run_id = directory.resolve().name
    if not any(is_set.values()):  # otherwise the files beside a broken store have a light
        if frame.completeness.unreadable is not None:
            raise RunStoreError(frame.completeness.unreadable)
        if not frame.snapshot.last_event_id:
            raise RunStoreError(f"{run_id} has no events yet, so its health is unknown")
    if as_json:
        report = json.dumps(_health_report(run_id, frame), indent=2)
        console.print(report, markup=False, highlight=False, soft_wrap=True)
    else:
        _print_health(console, directory, run_id, frame)
    if any(is_set[kind] for kind in kinds):
        return 1
    if kinds and (doubt := frame.completeness.doubt):
        raise RunStoreError(f"the health of {run_id} is unknown: {doubt}")
    return 0


def _health_report(run_id: str, frame: Frame) -> dict[str, Any]:
    tamiyo, done = frame.snapshot.tamiyo, frame.snapshot.interventions
    run, training = frame.snapshot.run, frame.snapshot.training
    unlit = False if frame.completeness.doubt is None else None
    return {
        "run": run_id,
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
        "incidents": {
            "kept": done.incidents - done.incidents_not_kept,
            "not_kept": done.incidents_not_kept,
        },
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


def _print_health(console: Console, directory: Path, run_id: str, frame: Frame) -> None:
    run, training = frame.snapshot.run, frame.snapshot.training
    status = status_text(frame.status, TERMINAL)
    heading = joined([Text(run_id, style="bold"), status])
    verdict = master_verdict(frame.snapshot, frame.status, doubt=frame.doubt)
    stated = (*verdict.reasons, frame.status.kind.lower())
    if frame.status.sentence not in stated:
        heading.append(f"  {frame.status.sentence}", style="dim")
    console.print(heading, soft_wrap=True)
    console.print(Text(_how_far(frame.snapshot)), soft_wrap=True)
    for line in _interventions(frame.snapshot.interventions, is_watched=run.is_watched):
        console.print(Text(line))
    for incident in frame.snapshot.incidents[-_INCIDENTS_EXPLAINED:]:
        if (words := _origin_of(incident)) is not None:
            console.print(Text(f"  incident {incident.number}, update {incident.update}: {words}"))
    if frame.wal_bytes > LARGE_WAL_BYTES:
        held = (
            f"the WAL of the store has grown to {frame.wal_bytes >> 20} MiB, because a program "
            "keeps a transaction on the store open"
        )
        console.print(Text(held, style="yellow"), soft_wrap=True)
    done = frame.snapshot.interventions
    if done.incidents > done.incidents_not_kept:
        reproduce = run_command(directory, "esper", "replay")
        hint = Text(f"reproduce the first incident with: {reproduce}", style="dim")
        console.print(hint, soft_wrap=True)
    if training.loss_scale is not None:
        scaled = (
            f"loss scale {training.loss_scale:g}, "
            f"scaler skipped {counted(training.rescaled_in_run, 'minibatch', 'minibatches')}"
        )
        console.print(Text(scaled, style="dim"))
    console.print()
    _print_verdict(console, verdict)
    console.print()
    doubt = frame.completeness.doubt
    unlit = Text(UNLIT, style="dim") if doubt is None else Text(UNKNOWN, style=UNKNOWN_STYLE)
    rows = _light_rows(frame.snapshot.tamiyo, unlit)
    print_columns(console, rows, ("head", "Inf", "NaN"))
    if left_out := len(frame.snapshot.tamiyo.latch("inf")) - len(rows):
        console.print(Text(f"and {left_out} without Inf and NaN", style="dim"))
    if run.is_watched:
        lit = training.stalled_latch
        console.print(Text("stalled  ").append_text(_stalled(training) if lit else unlit))
    if doubt is not None:
        console.print(Text(f"{UNKNOWN} not known: {doubt}", style=UNKNOWN_STYLE))
    if evidence := frame.snapshot.tamiyo.evidence:
        console.print()
        _print_evidence(console, evidence, is_watched=run.is_watched)


def _print_verdict(console: Console, verdict: Verdict) -> None:
    line = Text(f"{LIT} {LEVEL_WORDS[verdict.level]}", style=LEVEL_STYLES[verdict.level])
    console.print(line)
    for reason in verdict.reasons:
        console.print(Padding(Text(reason), (0, 0, 0, 2), expand=False))


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


def _origin_of(incident: IncidentState) -> str | None:
    """Return where an incident began, or why that is not known; None if nobody looked for it."""
    if incident.origin is not None:
        return origin_words(incident.origin)
    why = incident.no_origin
    return f"where it began is not known: {why}" if why else None


def _stalled(training: TrainingState) -> Text:
    now = " now" if training.still_updates >= STALLED_UPDATES else ""
    return Text(f"{LIT}{now} since update {training.stalled_since}", style=LIT_STYLE)


def _interventions(done: InterventionState, *, is_watched: bool) -> tuple[str, str]:
    """Return the lines about interventions and incidents.

    That none is kept is not worth a word where no incident of its kind is, as in a watched run.
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
    if done.incidents_not_kept and not (is_watched and done.incidents_not_kept == done.incidents):
        incidents += f", of which {done.incidents_not_kept} not kept"
    return f"interventions: {taken or 'none'}", f"incidents: {incidents}"


def _print_evidence(console: Console, evidence: Sequence[Evidence], *, is_watched: bool) -> None:
    """Print a row for each source of sightings, at most 80 columns wide."""
    rows = []
    details = []
    for row in evidence:
        style = LIT_STYLE if row.is_active else ""
        kind = KIND_WORDS.get(row.kind, row.kind)
        cells = (
            row.head,
            f"{kind} in {row.quantity}",
            str(row.updates),
            str(row.minibatches or ABSENT),
            place_text(row.first_update, row.first_epoch, row.first_minibatch),
            place_text(row.last_update, row.last_epoch, row.last_minibatch),
            "now" if row.is_active else "",
        )
        rows.append([Text(cell, style=style) for cell in cells])
        details.append(Text(f"  {words}", style=style) if (words := evidence_words(row)) else None)
    headers = ("head", "seen", "updates", "minib.", "first", "last", "")
    print_columns(console, rows, headers, details)
    places = "update/minibatch" if is_watched else "update/epoch/minibatch"
    legend = f"updates, minib.: number with a sighting; first, last: {places}"
    console.print(Text(legend, style="dim"))
