"""The folders that a watch records in: the run's folder, and the folder of its rank."""

import os
from dataclasses import dataclass
from pathlib import Path

from esper.karn.store.errors import RunStoreError
from esper.karn.store.rank_folders import Rank, create_rank_folder, rank_folder
from esper.karn.store.reading.run_reader import RunReader
from esper.karn.store.run_directory import (
    STORE_NAME,
    WATCHED_RUN,
    check_store_path,
    create_run,
    default_run_dir,
)
from esper.karn.text.run_names import without_creation_time
from esper.leyline.telemetry import IncidentRecorded, PPOUpdatePayload
from esper.recording.ranks import Meeting, restart_count


@dataclass(frozen=True)
class Continued:
    """The state of an ended run, needed to continue it.

    Attributes:
        directory: the run's directory.
        update: number of the last update.
        incidents: number of incidents.
    """

    directory: Path
    update: int
    incidents: int


@dataclass(frozen=True)
class Place:
    """The place where a process records.

    Attributes:
        run: the run's directory.
        rank: the process's rank.
        continues: the state to continue; None for a new run.
        first_update: number of the next update, the same in all ranks.
    """

    run: Path
    rank: Rank
    continues: Continued | None
    first_update: int = 1


def name_of_started_run() -> str:
    """Return the name of the run that `esper run` created for this process; empty if none."""
    return without_creation_time(Path(os.environ.get(WATCHED_RUN, "")).name)


def place_of(
    name: str, run_dir: Path | None, continues: Continued | None, meeting: Meeting | None
) -> Place:
    """Return the place where a watch records, and create its directory.

    Args:
        name: name of a new run.
        run_dir: the folder that contains runs; default `ESPER_RUN_DIR` or `runs`.
        continues: an earlier run of this process to continue; None for a new run.
        meeting: the meeting of the ranks that record this run; None for a single process.

    Raises:
        OSError: the directory cannot be created.
        RanksError: the ranks cannot agree on a directory.
        RunPathError: the directory's path would be too long.
    """
    rank = Rank() if meeting is None else meeting.rank
    if continues is not None:
        return Place(continues.directory, rank, continues, continues.update + 1)
    given = os.environ.pop(WATCHED_RUN, "")
    folder = default_run_dir() if run_dir is None else run_dir

    def create() -> Path:
        return create_run(folder, name)

    if meeting is None:
        return Place(Path(given) if given else create(), rank, None)
    run = Path(given) if given else meeting.run(create)
    before = _recorded_before(run, rank)  # before a restart by torchrun
    check_store_path(rank_folder(run, rank.rank))
    create_rank_folder(run, rank.rank)
    last = 0 if before is None else before.update
    if restart_count():  # a rank that was killed may lack the end of an update
        last = meeting.latest(last)
    return Place(run, rank, before, last + 1)


def _recorded_before(run: Path, rank: Rank) -> Continued | None:
    """Return the state recorded by an earlier process of a rank; None if there is none."""
    folder = rank_folder(run, rank.rank)
    if not (folder / STORE_NAME).exists():
        return None
    try:
        reader = RunReader(folder)
        if not reader.has_tables() or not reader.last_id():
            return None
        last = [*reader.read_last("ppo_update", 1), *reader.read_last("incident_recorded", 1)]
    except RunStoreError:  # the run is continued anyway; its lights are kept
        last = []
    payloads = [event.payload for event in last]
    updates = [one.update for one in payloads if isinstance(one, PPOUpdatePayload)]
    incidents = [one.number for one in payloads if isinstance(one, IncidentRecorded)]
    return Continued(run, max(updates, default=0), max(incidents, default=0))
