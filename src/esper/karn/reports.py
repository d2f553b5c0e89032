"""What the verbs `esper runs`, `esper health` and `esper telemetry` print, as plain text.

Each function prints to the console it is given, or to standard output, and returns the exit code.
Signs and words carry the meaning, so that nothing is lost without colour or in a pipe.
"""

import json
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from esper.karn.fail_on import LATCH_KINDS, latch_kinds
from esper.karn.liveness import RunStatus, StatusKind
from esper.karn.plain_console import PlainConsole
from esper.karn.run_catalogue import RunSummary, list_runs
from esper.karn.run_commands import run_command, run_dir_options
from esper.karn.run_directory import find_run, is_of_the_future
from esper.karn.run_tables import RunStoreError
from esper.karn.sanctum.evidence import evidence_words
from esper.karn.sanctum.follower import Frame, RunFollower
from esper.karn.sanctum.schema import Evidence, InterventionState, TamiyoState
from esper.karn.sanctum.verdict import master_verdict
from esper.karn.telemetry_docs import facts, proofs, wiring
from esper.karn.wal import LARGE_WAL_BYTES
from esper.leyline.command_lines import command_line
from esper.leyline.health import LEVEL_WORDS, Level, Verdict
from esper.leyline.records import RECORDS, find_record
from esper.leyline.sighting_words import KIND_WORDS

_LIT: Final = "●"
_UNLIT: Final = "○"
_UNKNOWN: Final = "?"
_UNKNOWN_STYLE: Final = "bold yellow"
_NONE: Final = "–"
_LIT_STYLE: Final = "bold red"
_STATUS_STYLES: Final = {
    StatusKind.LIVE: "green",
    StatusKind.STALLED: "yellow",
    StatusKind.STALE: "yellow",
    StatusKind.UNREADABLE: "red",
    StatusKind.HALTED: "red",
    StatusKind.FAILED: "red",
    StatusKind.DEAD: "red",
}
_LEVEL_STYLES: Final = {
    Level.OK: "green",
    Level.NOTICE: "default",
    Level.WARNING: "yellow",
    Level.CRITICAL: _LIT_STYLE,
}


def print_runs(run_dir: Path, *, console: Console | None = None) -> int:
    """Print a line for each run in a folder, oldest first; return 0."""
    console = console or PlainConsole()
    summaries = list_runs(run_dir)
    if not summaries:
        start = command_line("esper", "ppo", *run_dir_options(run_dir))
        console.print(
            f"No runs in {run_dir} yet. Start one with: {start}", highlight=False, soft_wrap=True
        )
        return 0
    rows = [
        [
            Text(summary.run_id),
            _status(summary.status),
            Text(str(summary.update)),
            Text(f"{summary.episodes_done}/{summary.episodes}" if summary.episodes else _NONE),
            Text(_score(summary.score)),
            _lights(summary),
        ]
        for summary in summaries
    ]
    _print_columns(console, rows, ("run", "status", "update", "episodes", "score", "lights"))
    if ahead := [one.run_id for one in summaries if is_of_the_future(one.path)]:
        console.print(
            Text(
                f"{', '.join(ahead)}: created at a time that has not come yet (a clock was ahead), "
                "so not taken for the newest",
                style="dim",
            )
        )
    return 0


def print_health(
    run_dir: Path,
    reference: str | None = None,
    *,
    as_json: bool = False,
    fail_on: str = "inf,nan",
    console: Console | None = None,
) -> int:
    """Print the health of one run; return 1 if a latch that `fail_on` names is set, else 0.

    Where events are damaged, a latch that is not set is not known.

    Args:
        run_dir: the folder that holds runs.
        reference: an id, a unique prefix or a path; None for the newest run.
        as_json: whether to print JSON for a program instead of text for a person.
        fail_on: `inf`, `nan`, both with a comma between, or nothing.
        console: where to print.

    Raises:
        RunNotFoundError: no run, or more than one, answers to `reference`.
        RunStoreError: the run's store cannot be read, or none of these latches is known to be set
            and events are damaged; the report of what is known was printed then.
        FailOnError: `fail_on` names something else.
    """
    console = console or PlainConsole()
    kinds = latch_kinds(fail_on)
    directory = find_run(run_dir, reference)
    frame = RunFollower(directory).catch_up()
    tamiyo = frame.snapshot.tamiyo
    is_set = {kind: any(tamiyo.latch(kind).values()) for kind in LATCH_KINDS}
    run_id = directory.resolve().name
    if not any(is_set.values()):  # else the files beside a broken store know of a light
        if frame.error is not None:
            raise RunStoreError(frame.error)
        if not frame.snapshot.last_event_id:
            raise RunStoreError(f"{run_id} has no events yet, so nothing can be said of its health")
    if as_json:
        report = json.dumps(_health_report(run_id, frame), indent=2)
        console.print(report, markup=False, highlight=False, soft_wrap=True)
    else:
        _print_health(console, directory, run_id, frame)
    if any(is_set[kind] for kind in kinds):
        return 1
    if kinds and (doubt := _doubt(frame)):
        raise RunStoreError(f"the health of {run_id} is not known: {doubt}")
    return 0


def print_telemetry(reference: str | None = None, *, console: Console | None = None) -> int:
    """Print the list of telemetry records, or one record with its wiring; return 0.

    Raises:
        UnknownRecordError: there is no record of that id.
    """
    console = console or PlainConsole()
    if reference is None:
        rows = [[Text(one.id), Text(one.name), Text(one.question)] for one in RECORDS]
        _print_columns(console, rows, ("id", "name", "question"))
        return 0
    record = find_record(reference)
    console.print(Text(f"{record.id}  {record.name}", style="bold"))
    console.print(Text(record.question, style="italic"), "", Text(record.meaning), "", sep="\n")
    _print_columns(console, _named_rows(facts(record)))
    if record.causes:
        console.print(Text("\nusual causes", style="bold"))
        for cause in record.causes:
            console.print(Padding(Text(cause), (0, 0, 0, 2), expand=False))
    console.print(Text("\nwiring", style="bold"))
    _print_columns(console, _named_rows(wiring(record)))
    console.print(Text("\nproven by", style="bold"))
    _print_columns(console, [[Text(f"  {test}")] for test in proofs(record)])
    return 0


def _doubt(frame: Frame) -> str | None:
    """Say why a light that is not lit is not known; None where it is."""
    damaged = frame.snapshot.run.damaged_events
    if frame.error is not None or not damaged:
        return frame.doubt
    return f"{_counted(damaged, 'event')} of it cannot be read, and may have told of Inf or NaN"


def _health_report(run_id: str, frame: Frame) -> dict[str, Any]:
    tamiyo, done = frame.snapshot.tamiyo, frame.snapshot.interventions
    unlit = False if _doubt(frame) is None else None
    return {
        "run": run_id,
        "status": str(frame.status.kind),
        # A large one means that a program reads the store and does not let go of it.
        "wal_bytes": frame.wal_bytes,
        # Whether a light is on, and drills alone caused all that are.
        "planted": _is_planted(tamiyo),
        # What is not known is null.
        "head_inf_latch": {head: lit or unlit for head, lit in tamiyo.head_inf_latch.items()},
        "head_nan_latch": {head: lit or unlit for head, lit in tamiyo.head_nan_latch.items()},
        "group_inf_latch": {group: lit or unlit for group, lit in tamiyo.group_inf_latch.items()},
        "group_nan_latch": {group: lit or unlit for group, lit in tamiyo.group_nan_latch.items()},
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
    # Epoch and minibatch are 0 before the first minibatch, and where they were not reported.
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
    heading = Text(run_id, style="bold").append("  ").append_text(_status(frame.status))
    verdict = master_verdict(frame.snapshot, frame.status, doubt=frame.store_doubt)
    said = (*verdict.reasons, frame.status.kind.lower())
    if frame.status.sentence not in said:
        heading.append(f"  {frame.status.sentence}", style="dim")
    episodes = f"{run.episodes_done} of {run.episodes}" if run.episodes else _NONE
    console.print(heading, soft_wrap=True)
    console.print(
        f"update {run.update}, episodes {episodes}, score {_score(training.score)}", highlight=False
    )
    for line in _interventions(frame.snapshot.interventions):
        console.print(Text(line))
    if frame.wal_bytes > LARGE_WAL_BYTES:
        held = (
            f"the WAL of the store has grown to {frame.wal_bytes >> 20} MiB, because a program "
            "reads the store and does not let go of it"
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
            f"scaler skipped {_counted(training.rescaled_in_run, 'minibatch', 'es')}"
        )
        console.print(Text(scaled, style="dim"))
    console.print()
    _print_verdict(console, verdict)
    console.print()
    doubt = _doubt(frame)
    unlit = Text(_UNLIT, style="dim") if doubt is None else Text(_UNKNOWN, style=_UNKNOWN_STYLE)
    _print_columns(console, _light_rows(frame.snapshot.tamiyo, unlit), ("head", "Inf", "NaN"))
    if doubt is not None:
        console.print(Text(f"{_UNKNOWN} not known: {doubt}", style=_UNKNOWN_STYLE))
    if evidence := frame.snapshot.tamiyo.evidence:
        console.print()
        _print_evidence(console, evidence)


def _print_verdict(console: Console, verdict: Verdict) -> None:
    line = Text(f"{_LIT} {LEVEL_WORDS[verdict.level]}", style=_LEVEL_STYLES[verdict.level])
    console.print(line)
    for reason in verdict.reasons:
        console.print(Padding(Text(reason), (0, 0, 0, 2), expand=False))


def _light_rows(tamiyo: TamiyoState, unlit: Text) -> list[list[Text]]:
    """Return a row of lights for each head and each group."""
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
        for head in tamiyo.latch("inf")
    ]


def _light(is_lit: bool, unlit: Text, *, now: bool, planted: bool) -> Text:
    if not is_lit:
        return unlit
    words = (_LIT, "drill" if planted else "", "now" if now else "")
    return Text(" ".join(filter(None, words)), style=_LIT_STYLE)


def _is_planted(tamiyo: TamiyoState) -> bool:
    """Return whether a light is on, and drills alone caused all that are."""
    lit = sum(sum(tamiyo.latch(light).values()) for light in LATCH_KINDS)
    return 0 < lit == sum(sum(tamiyo.planted(light).values()) for light in LATCH_KINDS)


def _interventions(done: InterventionState) -> tuple[str, str]:
    """Say what was done about bad updates, and how many of them can be made to happen again."""
    repeated = f"{_counted(done.updates_repeated, 'update')} repeated (finite, nothing skipped)"
    actions = [
        (done.updates_repeated, repeated),
        (done.updates_skipped, f"{_counted(done.updates_skipped, 'update')} skipped"),
        (done.updates_rolled_back, f"{done.updates_rolled_back} rolled back"),
        (done.halts, _counted(done.halts, "halt")),
    ]
    taken = ", ".join(text for count, text in actions if count)
    incidents = str(done.incidents) if done.incidents else "none"
    if done.incidents_not_kept:
        incidents += f", of which {done.incidents_not_kept} not kept"
    return f"interventions: {taken or 'none'}", f"incidents: {incidents}"


def _print_evidence(console: Console, evidence: Sequence[Evidence]) -> None:
    """Print a row for all that was seen, no wider than 80 columns for the longest of names."""
    rows = []
    details = []
    for row in evidence:
        style = _LIT_STYLE if row.is_active else ""
        kind = KIND_WORDS.get(row.kind, row.kind)
        cells = (
            row.head,
            f"{kind} in {row.quantity}",
            str(row.updates),
            str(row.minibatches or _NONE),
            _place(row.first_update, row.first_epoch, row.first_minibatch),
            _place(row.last_update, row.last_epoch, row.last_minibatch),
            "now" if row.is_active else "",
        )
        rows.append([Text(cell, style=style) for cell in cells])
        details.append(Text(f"  {words}", style=style) if (words := evidence_words(row)) else None)
    headers = ("head", "seen", "updates", "minib.", "first", "last", "")
    _print_columns(console, rows, headers, details)
    said = "counted in updates and minibatches; first and last: update/epoch/minibatch"
    console.print(Text(said, style="dim"))


def _place(update: int, epoch: int, minibatch: int) -> str:
    return f"{update}/{epoch}/{minibatch}" if epoch else str(update)


def _counted(number: int, name: str, plural: str = "s") -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}{plural}"


def _status(status: RunStatus) -> Text:
    word = str(status.kind)
    if status.kind is StatusKind.STALE and status.seconds is not None:
        word += f" {status.seconds:.0f} s"
    return Text(word, style=_STATUS_STYLES.get(status.kind, ""))


def _score(score: float | None) -> str:
    if score is None:
        return _NONE
    return "NaN" if math.isnan(score) else f"{score:.3f}"


def _lights(summary: RunSummary) -> Text:
    lit = [
        f"{_LIT} {word} {', '.join(summary.marked(word, name) for name in names)}"
        for word, names in summary.lights().items()
        if names
    ]
    text = Text("  ".join(lit), style=_LIT_STYLE)
    if summary.error is not None:
        text.append("  " if lit else "").append(summary.error, style="red")
    elif not summary.is_whole:
        text.append("  " if lit else "").append(f"{_UNKNOWN} {summary.doubt}", _UNKNOWN_STYLE)
    return text if text.plain else Text(_UNLIT, style="dim")


def _named_rows(rows: Sequence[tuple[str, str]]) -> list[list[Text]]:
    return [[Text(f"  {name}", style="dim"), Text(text)] for name, text in rows]


def _print_columns(
    console: Console,
    rows: Sequence[Sequence[Text]],
    headers: Sequence[str] = (),
    details: Sequence[Text | None] = (),
) -> None:
    """Print rows in columns as wide as they need: an id that is cut off cannot be copied.

    Rich's tables fit themselves into the console, and a pipe is taken to be 80 columns wide.

    Args:
        console: where to print.
        rows: the cells of each row.
        headers: the name of each column; none if empty.
        details: of each row, the line that belongs below it, if any.
    """
    heading = [[Text(header, style="bold") for header in headers]] if headers else []
    lines = [*heading, *rows]
    for cell in chain.from_iterable(lines):
        if "\n" in cell.plain:  # a name can hold anything
            cell.plain = cell.plain.replace("\n", " ")
    widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
    below = [None] * len(heading) + list(details or [None] * len(rows))
    for cells, detail in zip(lines, below, strict=True):
        line = Text(no_wrap=True)
        for cell, width in zip(cells, widths, strict=True):
            line.append_text(cell).append(" " * (width - cell.cell_len + 2))
        line.rstrip()
        console.print(line, soft_wrap=True)
        if detail is not None:
            console.print(detail, soft_wrap=True)
