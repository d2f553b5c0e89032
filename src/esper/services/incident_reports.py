"""The incidents of a run: a list of them, and the replay of one.

A run's store belongs to Karn and its capsules to Simic, which do not import each other; this module
uses both. PyTorch is loaded only for a replay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from esper.karn.sanctum.fold.ledgers.incident_ledger import CAPSULE_GONE
from esper.karn.sanctum.fold.ranks.one_per_fault import FaultPlace, fault_place, one_per_fault
from esper.karn.store.errors import RunStoreError
from esper.karn.store.rank_folders import rank_folder, rank_folders, run_of_rank_folder
from esper.karn.store.reading.completeness import Completeness
from esper.karn.store.run_directory import find_run
from esper.leyline.files.incident_files import Incident, list_incidents

if TYPE_CHECKING:
    from esper.karn.sanctum.schema import Evidence
    from esper.leyline.telemetry import IncidentOrigin, IncidentRecorded, NonfiniteSighting
    from esper.simic.command_progress import CommandProgress, NoProgress
    from esper.simic.replay.replaying import Replay

#: Rank, row, the sightings of its update, and the place of the first one.
_Listed = tuple[int, dict[str, Any], "Sequence[NonfiniteSighting]", FaultPlace]
#: Maximum number of incidents without a capsule that are listed; the newest are kept.
_INCIDENTS_LISTED = 1000


@dataclass(frozen=True)
class IncidentList:
    """The incidents of a run.

    Attributes:
        rows: each incident as plain values, ordered by update. Later versions may add keys.
        sightings: the sightings of each row's update.
        not_listed: number of older incidents without a capsule that are left out.
        completeness: whether everything that the run reported is known.
    """

    rows: "list[dict[str, Any]]"
    sightings: "list[Sequence[NonfiniteSighting]]"
    not_listed: int
    completeness: Completeness


def incidents_of(run: Path) -> IncidentList:
    """Return the incidents of a run, with or without a capsule.

    Raises:
        RunStoreError: the store cannot be read, and there is no capsule.
    """
    from esper.karn.sanctum.following.follower import RunFollower

    # The same count as in `esper health`, `esper runs` and Sanctum.
    frame = RunFollower(run, brief=True).catch_up()
    completeness, known = frame.completeness, frame.snapshot.interventions.incidents
    kept = list_incidents(run)
    try:
        recorded = _recorded_incidents(run, frame.snapshot.tamiyo.evidence)
    except RunStoreError as error:
        if not kept:
            raise
        recorded = []
        completeness = Completeness(unreadable=str(error))
    listed = [(0, *one) for one in _listing(kept, recorded)]
    if frame.ranks:
        listed += _of_other_ranks(run, frame.snapshot.tamiyo.evidence)
        listed = _one_per_fault(listed)
    return IncidentList(
        rows=[row for _, row, _, _ in listed],
        sightings=[sightings for _, _, sightings, _ in listed],
        not_listed=max(0, known - len(listed)),
        completeness=completeness,
    )


def _of_other_ranks(run: Path, evidence: "Sequence[Evidence]") -> "list[_Listed]":
    """Return the incidents of all ranks except rank 0; unreadable stores are skipped."""
    listed: list[_Listed] = []
    for rank, folder in rank_folders(run).items():
        own = [row for row in evidence if row.first_rank == rank]
        try:
            recorded = _recorded_incidents(folder, own)
        except RunStoreError:  # the run's completeness already reports this
            recorded = []
        listed += [(rank, *one) for one in _listing(list_incidents(folder), recorded)]
    return listed


def _one_per_fault(listed: "list[_Listed]") -> "list[_Listed]":
    """Return one incident for each fault of a run with ranks: that of the rank where it began."""

    def with_others(rank: int, one: "_Listed", others: tuple[int, ...]) -> "_Listed":
        one[1].update(rank=rank, also_in=list(others))
        return one

    given = [(one[0], int(one[1]["update"]), one[3], one) for one in listed]
    return one_per_fault(given, with_others)


def _listing(
    kept: "Sequence[Incident]",
    recorded: "Sequence[tuple[IncidentRecorded, Sequence[NonfiniteSighting]]]",
) -> "list[tuple[dict[str, Any], Sequence[NonfiniteSighting], FaultPlace]]":
    """Return each incident of a store: plain values, sightings of its update, and first place.

    Args:
        kept: the incidents that have a capsule.
        recorded: the incidents in the run's events, each with the sightings of its update.
    """
    events = {event.number: event for event, _ in recorded}
    listed: list[tuple[dict[str, Any], Sequence[NonfiniteSighting], FaultPlace]] = [
        (
            {
                "number": incident.number,
                "update": incident.update,
                "kept": not incident.damage,
                "size": incident.size,
                "path": str(incident.path),
                "reason": incident.damage,
                "why_not_repeated": incident.damage or incident.why_not_repeated,
                **_origin(events.get(incident.number)),
            },
            incident.sightings,
            fault_place(incident.sightings, _origin_of(events.get(incident.number))),
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
                "why_not_repeated": event.reason or CAPSULE_GONE,
                **_origin(event),
            },
            sightings,
            fault_place(event.sightings, event.origin),
        )
        for event, sightings in {one[0].number: one for one in recorded}.values()
        if event.number not in {one.number for one in kept}
    ]
    for row, sightings, _ in listed:
        row["rank"], row["also_in"] = None, []  # for a run of one process
        row["sightings"] = [_sighting(one) for one in sightings]
        # Whether all sightings of the update were caused by drills.
        row["planted"] = all(one.planted for one in sightings) and bool(sightings)
    return sorted(listed, key=lambda one: (one[0]["update"], one[0]["number"]))


def _origin_of(event: "IncidentRecorded | None") -> "IncidentOrigin | None":
    return None if event is None else event.origin


def _origin(event: "IncidentRecorded | None") -> dict[str, Any]:
    """Return the origin of an incident, if a watched run recorded it during training."""
    origin = None if event is None else event.origin
    return {
        "origin": None if origin is None else to_builtins(origin),
        "no_origin": "" if event is None else event.no_origin,
    }


def _sighting(sighting: "NonfiniteSighting") -> dict[str, Any]:
    return {name: getattr(sighting, name) for name in sighting.__struct_fields__}


def _recorded_incidents(
    run: Path, evidence: "Sequence[Evidence]"
) -> "list[tuple[IncidentRecorded, Sequence[NonfiniteSighting]]]":
    """Return the incidents in the run's events, including those without a capsule.

    Args:
        run: the run's directory.
        evidence: evidence of the run; it includes the sightings of an update without an end event.
    """
    from esper.karn.store.reading.run_reader import RunReader
    from esper.leyline.telemetry import IncidentRecorded, PPOUpdatePayload

    reader = RunReader(run)

    def payloads(kind: str) -> Iterator[Any]:
        for number in reversed(reader.last_ids(kind, _INCIDENTS_LISTED)):
            yield from (event.payload for event in reader.read(number - 1, 1))

    seen: dict[int, Sequence[NonfiniteSighting]] = {
        update.update: update.head_nonfinite
        for update in payloads("ppo_update")
        if isinstance(update, PPOUpdatePayload)
    }
    return [
        (incident, seen.get(incident.update) or _seen_first_in(evidence, incident.update))
        for incident in payloads("incident_recorded")
        if isinstance(incident, IncidentRecorded)
    ]


def _seen_first_in(evidence: "Sequence[Evidence]", update: int) -> "list[NonfiniteSighting]":
    """Return the sightings that were first seen in an update."""
    from esper.leyline.telemetry import NonfiniteSighting

    return [
        NonfiniteSighting(
            head=row.head,
            quantity=row.quantity,
            kind=row.kind,
            count=row.minibatches,
            epoch=row.first_epoch,
            minibatch=row.first_minibatch,
            phase=row.first_phase,
            host=row.first_host,
            step=row.first_step,
            part=row.first_part,
            reproduced=row.reproduced,
            planted=row.planted,
        )
        for row in evidence
        if row.first_update == update
    ]


def _name_of(folder: Path) -> str:
    """Return the run's name, given the run's folder or the folder of one of its ranks."""
    within = run_of_rank_folder(folder.resolve())
    return folder.resolve().name if within is None else within[0].name


def _folder_of(run: Path, number: int | None, update: int | None) -> Path:
    """Return the folder of the rank that recorded an incident; the run's own if it has no ranks."""
    if not rank_folders(run):
        return run
    for row in incidents_of(run).rows:
        is_meant = number in (None, row["number"]) and update in (None, row["update"])
        if is_meant and row["kept"]:
            return rank_folder(run, row["rank"] or 0)
    return run


@dataclass(frozen=True)
class ReplayedIncident:
    """An incident and the result of its replay.

    Attributes:
        run: the run's name.
        number: number of the incident.
        minibatches_per_epoch: minibatches in an epoch of its update; 0 in a watched run, whose
            minibatches are counted by update.
        replay: the result.
    """

    run: str
    number: int
    minibatches_per_epoch: int
    replay: "Replay"


def replay_incident(
    run_dir: Path,
    reference: str | None,
    number: int | None,
    *,
    update: int | None,
    progress: "CommandProgress | NoProgress",
) -> ReplayedIncident:
    """Repeat the update of an incident.

    Args:
        run_dir: the folder that holds runs.
        reference: the run, None for the newest; or the path of one incident's folder.
        number: number of the incident; None for the first.
        update: update of the incident, instead of its number.
        progress: shows how far the replay is.

    Raises:
        RunNotFoundError, IncidentError: there is no such run or incident, or its capsule cannot be
            read.
    """
    from esper.simic.replay.incidents import (
        CAPSULE_NAME,
        WATCHED_FORMAT,
        IncidentError,
        capsule_of,
        find_incident,
        incident_at,
        read_values,
    )

    if reference is not None and (Path(reference).expanduser() / CAPSULE_NAME).is_file():
        incident = incident_at(Path(reference).expanduser().resolve())
        run_name = _name_of(incident.path.parent.parent)
    else:
        run = find_run(run_dir, reference)
        run = _folder_of(run, number, update)
        if not list_incidents(run):
            found = incidents_of(run)
            if not found.rows and found.completeness.doubt is None:
                raise IncidentError(f"{run.name} has no incidents: every update was finite")
        incident, run_name = find_incident(run, number, update), _name_of(run)

    with progress:
        values = read_values(incident.path)
        if values.get("format") == WATCHED_FORMAT:
            from esper.recording.capsule import watched_capsule_of
            from esper.rerunning.replaying import replay_watched

            watched = watched_capsule_of(values, incident.path)
            replayed, per_epoch = replay_watched(watched, progress.report)
        else:
            from esper.simic.replay.replaying import replay  # loads torch

            capsule = capsule_of(values, incident.path)
            replayed, per_epoch = replay(capsule, progress.report), capsule.minibatches_per_epoch
    return ReplayedIncident(run_name, incident.number, per_epoch, replayed)
