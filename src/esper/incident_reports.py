"""Lists the incidents of a run, and replays one of them.

A run's store belongs to Karn and the capsules beside it to Simic, which know nothing of each other;
this brings them together. Torch is loaded only when it must be.
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.karn.sanctum.fold.incident_ledger import CAPSULE_GONE
from esper.karn.store.run_directory import find_run
from esper.karn.store.run_tables import RunStoreError
from esper.leyline.durable_files import write_output
from esper.leyline.incident_files import Incident, list_incidents
from esper.leyline.plain_text import printable
from esper.leyline.sighting_words import sighting_lines

if TYPE_CHECKING:
    from esper.leyline.telemetry import IncidentRecorded, NonfiniteSighting

#: How many of the newest incidents in a run's events are listed.
_INCIDENTS_LISTED = 1000
#: Columns of the list of incidents.
_LISTED_COLUMNS = 100
#: Columns that what an incident saw is indented by in that list.
_INDENT = 6
_NO_BREAK = "\N{NO-BREAK SPACE}"
#: Columns of the report of a replay that goes into a file or a pipe.
_PIPED_COLUMNS = 240


def print_incidents(run_dir: Path, reference: str | None, *, as_json: bool) -> int:
    """List the incidents of a run, kept or not; return the exit code.

    Raises:
        RunNotFoundError, IncidentError: there is no such run, or a capsule of it is damaged.
    """
    run = find_run(run_dir, reference)  # refused before anything is loaded
    from rich.text import Text

    from esper.karn.reports.plain_console import PlainConsole

    found = incidents_of(run)
    if found.doubt:
        print(printable(found.doubt), file=sys.stderr)
    if as_json:
        report = {"run": run.name, "incidents": found.rows, "not_listed": found.not_listed}
        print(json.dumps(report, indent=2))
        return 0
    console = PlainConsole()
    if not found.rows:
        console.print(f"No incidents in {run.name}: every update was finite.", highlight=False)
        return 0
    console.print(Text(run.name, style="bold"))
    for row, sightings in zip(found.rows, found.sightings, strict=True):
        size = f"{row['size'] / 2**20:.1f} MiB" if row["kept"] else "not kept"
        reason = f": {row['reason']}" if row["reason"] else ""
        lines = _wrapped(f"{row['number']:4}  update {row['update']}, {size}{reason}")
        for words in sighting_lines(sightings):  # broken only after a comma
            bound = words.replace(" ", _NO_BREAK).replace(f",{_NO_BREAK}", ", ")
            lines += _wrapped(f"{'':{_INDENT}}{bound}")
        style = "" if row["kept"] else "dim"
        for line in lines:
            console.print(Text(line.replace(_NO_BREAK, " "), style=style), soft_wrap=True)
    if found.not_listed:
        console.print(Text(f"{found.not_listed} older, not kept, are not listed", style="dim"))
    return 0


@dataclass(frozen=True)
class IncidentList:
    """The incidents of a run.

    Attributes:
        rows: each as plain values, by update; keys are only ever added.
        sightings: what the update of each row saw.
        not_listed: older ones without a capsule that are left out.
        doubt: why incidents without a capsule are missing, a sentence; empty if they are not.
    """

    rows: "list[dict[str, Any]]"
    sightings: "list[Sequence[NonfiniteSighting]]"
    not_listed: int
    doubt: str = ""


def incidents_of(run: Path) -> IncidentList:
    """Return the incidents of a run, kept or not.

    Raises:
        RunStoreError: the store cannot be read, and no capsule is there.
    """
    from esper.karn.sanctum.following.follower import RunFollower

    # Counted where `esper health`, `esper runs` and Sanctum have the number from.
    known = RunFollower(run, brief=True).catch_up().snapshot.interventions.incidents
    kept = list_incidents(run)
    doubt = ""
    try:
        recorded = _recorded_incidents(run)
    except RunStoreError as error:
        if not kept:
            raise
        recorded = []
        doubt = f"{error}: only incidents with a capsule are listed"
    listed = _listing(kept, recorded)
    return IncidentList(
        rows=[row for row, _ in listed],
        sightings=[sightings for _, sightings in listed],
        not_listed=max(0, known - len(listed)),
        doubt=doubt,
    )


def _wrapped(line: str) -> list[str]:
    """Return a line in as many as fit the list; only a longer word, such as a path, does not."""
    return textwrap.wrap(
        line,
        _LISTED_COLUMNS,
        subsequent_indent=" " * (_INDENT + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _listing(
    kept: "Sequence[Incident]",
    recorded: "Sequence[tuple[IncidentRecorded, Sequence[NonfiniteSighting]]]",
) -> "list[tuple[dict[str, Any], Sequence[NonfiniteSighting]]]":
    """Return every incident of a run as plain values, and what its update saw.

    Args:
        kept: the incidents that have a capsule.
        recorded: the incidents in the run's events, each with what its update saw.
    """
    listed: list[tuple[dict[str, Any], Sequence[NonfiniteSighting]]] = [
        (
            {
                "number": incident.number,
                "update": incident.update,
                "kept": not incident.damage,
                "size": incident.size,
                "path": str(incident.path),
                "reason": incident.damage,
            },
            incident.sightings,
        )
        for incident in kept
    ]
    listed += [
        (
            {
                "number": event.number,
                "update": event.update,
                "kept": False,
                "size": 0,
                "path": "",
                "reason": event.reason or CAPSULE_GONE,
            },
            sightings,
        )
        for event, sightings in {one[0].number: one for one in recorded}.values()
        if event.number not in {one.number for one in kept}
    ]
    for row, sightings in listed:
        row["sightings"] = [_sighting(one) for one in sightings]
        # Whether drills alone caused what the update saw.
        row["planted"] = all(one.planted for one in sightings) and bool(sightings)
    return sorted(listed, key=lambda one: (one[0]["update"], one[0]["number"]))


def _sighting(sighting: "NonfiniteSighting") -> dict[str, Any]:
    return {name: getattr(sighting, name) for name in sighting.__struct_fields__}


def _recorded_incidents(run: Path) -> "list[tuple[IncidentRecorded, list[NonfiniteSighting]]]":
    """Return the incidents in the run's events, including those without a capsule."""
    from esper.karn.store.run_reader import RunReader
    from esper.leyline.telemetry import IncidentRecorded, PPOUpdatePayload

    reader = RunReader(run)

    def payloads(kind: str) -> Iterator[Any]:
        for number in reversed(reader.last_ids(kind, _INCIDENTS_LISTED)):
            yield from (event.payload for event in reader.read(number - 1, 1))

    seen = {
        update.update: update.head_nonfinite
        for update in payloads("ppo_update")
        if isinstance(update, PPOUpdatePayload)
    }
    return [
        (incident, seen.get(incident.update, []))
        for incident in payloads("incident_recorded")
        if isinstance(incident, IncidentRecorded)
    ]


def replay_incident(
    run_dir: Path,
    reference: str | None,
    number: int | None,
    *,
    update: int | None,
    as_json: bool,
    page: Path | None,
) -> int:
    """Replay an incident and print the outcome; return 0 if the same was seen again.

    Args:
        run_dir: the folder that holds runs.
        reference: of the run, None for the newest; or the path of one capsule's folder.
        number: of the incident; None for the first.
        update: of the incident, instead of its number.
        as_json: whether to print JSON for a program instead of text for a person.
        page: where to write the report as HTML, too.

    Raises:
        RunNotFoundError, IncidentError: there is no such run or incident, its capsule cannot be
            read, or the page cannot be written.
    """
    from esper.simic.replay.incidents import (
        CAPSULE_NAME,
        IncidentError,
        find_incident,
        incident_at,
        read_capsule,
    )

    if page is not None and not page.absolute().parent.is_dir():
        raise IncidentError(f"cannot write the page {page}: there is no folder {page.parent}")
    if reference is not None and (Path(reference).expanduser() / CAPSULE_NAME).is_file():
        incident = incident_at(Path(reference).expanduser().resolve())
        run_name = incident.path.parent.parent.name
    else:
        run = find_run(run_dir, reference)
        incident, run_name = find_incident(run, number, update), run.resolve().name

    # What is above refuses bad input; this loads torch.
    from esper.karn.reports.plain_console import PlainConsole
    from esper.simic.command_progress import CommandProgress

    with CommandProgress() as progress:
        capsule = read_capsule(incident.path)
        from esper.simic.replay import replay_report
        from esper.simic.replay.replay_page import replay_page
        from esper.simic.replay.replaying import REPRODUCED, replay

        replayed = replay(capsule, progress.report)
    about = (run_name, incident.number, capsule.minibatches_per_epoch)
    trouble = None  # the report is printed all the same
    if page is not None:
        try:
            write_output(page, replay_page(replayed, *about))
        except OSError as error:
            trouble = IncidentError(f"cannot write the page {page}: {error.strerror}")
    if as_json:
        print(json.dumps(replay_report.replay_as_json(replayed, *about), indent=2))
    else:
        # Off a terminal nothing is broken over lines: it is read with grep.
        console = PlainConsole(width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
        replay_report.print_replay(replayed, *about, console)
    if trouble is not None:
        raise trouble
    return 0 if replayed.verdict == REPRODUCED else 1
