"""Lists the incidents of a run, and makes one happen again and tells what came of it.

A run's store belongs to Karn and the capsules beside it to Simic, which know nothing of each other;
this brings them together. Torch is loaded only when it must be.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.karn.run_store import RunReader, find_run

if TYPE_CHECKING:
    from esper.leyline.telemetry import IncidentRecorded, NonfiniteSighting

#: Of the incidents that a run told of, how many of the last are listed.
_INCIDENTS_LISTED = 1000
#: Columns of a report that goes into a file or a pipe.
_PIPED_COLUMNS = 240


def print_incidents(run_dir: Path, reference: str | None, *, as_json: bool) -> int:
    """List the incidents of a run, kept or not; return the exit code.

    Raises:
        RunNotFoundError, IncidentError: there is no such run, or a capsule of it is damaged.
    """
    from esper.karn.plain_console import PlainConsole
    from esper.simic import replay_report
    from esper.simic.incidents import list_incidents

    run = find_run(run_dir, reference)
    kept = list_incidents(run)
    replay_report.print_incidents(
        run.name, kept, _incidents_told(run), as_json=as_json, console=PlainConsole()
    )
    return 0


def _incidents_told(run: Path) -> "list[tuple[IncidentRecorded, list[NonfiniteSighting]]]":
    """Return what the run's store tells of incidents, those that were not kept included."""
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
    """Make an incident happen again and tell what came of it; return 0 if it was the same.

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
    from esper.karn.plain_console import PlainConsole
    from esper.simic import replay_report
    from esper.simic.incidents import (
        CAPSULE_NAME,
        IncidentError,
        find_incident,
        incident_at,
        read_capsule,
    )
    from esper.simic.replay import REPRODUCED, replay
    from esper.simic.replay_page import replay_page

    if reference is not None and (Path(reference).expanduser() / CAPSULE_NAME).is_file():
        incident = incident_at(Path(reference).expanduser().resolve())
        run_name = incident.path.parent.parent.name
    else:
        run = find_run(run_dir, reference)
        incident, run_name = find_incident(run, number, update), run.resolve().name
    capsule = read_capsule(incident.path)
    replayed = replay(capsule)
    about = (run_name, incident.number, capsule.minibatches_per_epoch)
    if page is not None:
        try:
            page.write_text(replay_page(replayed, *about), encoding="utf-8")
        except OSError as error:
            raise IncidentError(f"cannot write the page {page}: {error.strerror}") from error
    if as_json:
        print(json.dumps(replay_report.replay_as_json(replayed, *about), indent=2))
    else:
        # Off a terminal nothing is broken over lines: it is read with grep.
        console = PlainConsole(width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
        replay_report.print_replay(replayed, *about, console)
    return 0 if replayed.verdict == REPRODUCED else 1
