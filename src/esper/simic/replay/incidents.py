"""Incidents: for each update that was not finite, a capsule with its complete starting state.

A capsule is written atomically into `incidents/NNNN/` of the run: `capsule.pt` (tensors and plain
values only, read with `weights_only=True`) and `incident.json` (the sightings). The first one of
each (head, quantity, kind) is always kept; further capsules are limited in number and size, and
those that are not kept are counted.

torch is imported only to read or write a capsule, so that listing them does not need it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from esper.leyline.files.durable_files import sync_directory, write_file
from esper.leyline.files.incident_files import (
    CAPSULE_NAME,
    INCIDENTS_NAME,
    SUMMARY_NAME,
    Incident,
    IncidentError,
    incident_in,
    list_incidents,
    read_incident_summary,
    size_of,
)
from esper.leyline.files.regular_files import read_regular
from esper.leyline.telemetry import IncidentRecorded, NonfiniteSighting
from esper.leyline.text.command_lines import command_line
from esper.simic.torch_files import TorchFileError, compacted, expanded, load_values, saved

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 3
#: Format of the capsules of watched runs (`esper.recording.capsule`).
WATCHED_FORMAT = "watched run 1"
_PARTIAL_SUFFIX = ".partial"
#: Largest file that is read, in bytes; Esper writes far smaller ones.
_LONGEST_CAPSULE = 4 << 30


class AnyCapsule(Protocol):
    """What is written as a capsule: a frozen data class of tensors and plain values."""

    @property
    def format(self) -> int | str:
        """Its format; a reader refuses those that it does not know."""

    @property
    def update(self) -> int:
        """Number of the update, counted from 1."""

    @property
    def sightings(self) -> list[dict[str, Any]]:
        """The fields of each `NonfiniteSighting`."""

    @property
    def versions(self) -> dict[str, str]:
        """Versions of libraries, by name."""

    @property
    def why_not_repeated(self) -> str:
        """Why a replay cannot repeat it, a sentence; empty if it can."""


@dataclass(frozen=True)
class Capsule:
    """The complete starting state of one update, and its sightings.

    Attributes:
        update: number of the update, counted from 1.
        config: all settings of the run, by name.
        agent: `PPOAgent.state_dict()` at the start of the update.
        rollout: the fields of the `Rollout`, by name.
        minibatches: the numbers of the hosts in each minibatch, in the order of the update.
        minibatches_per_epoch: number of minibatches in an epoch.
        old_log_probs: log-probabilities of the taken choices before the first step, `[T, N, H]`. A
            replay computes them again, and reports a difference.
        injections: drills that were due, as text.
        sightings: the fields of each `NonfiniteSighting`, causes first.
        versions: versions of esper, torch and python.
        threads: number of PyTorch threads.
        device: device of the agent.
        torch_generator: state of torch's global generator; the agent's generators are in `agent`.
            An update draws from none of them at present.
    """

    format: ClassVar[int] = FORMAT
    why_not_repeated: ClassVar[str] = ""
    update: int
    config: dict[str, Any]
    agent: dict[str, Any]
    rollout: dict[str, Any]
    minibatches: "list[Tensor]"
    minibatches_per_epoch: int
    old_log_probs: "Tensor"
    injections: list[str]
    sightings: list[dict[str, Any]]
    versions: dict[str, str]
    threads: int
    device: str
    torch_generator: "Tensor"


@dataclass
class IncidentLedger:
    """Decides which incidents of a run are kept, and writes their capsules."""

    run: Path
    limit: int  # number of capsules, besides the first of each kind of fault
    limit_bytes: int
    number: int = 0  # of the last incident before this process, kept or not
    has_options: bool = True  # whether options of the command set these limits
    _bytes: int = field(init=False, default=0)
    _beyond_first: int = field(init=False, default=0)
    _seen: set[tuple[str, str, str]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        for left in _partial_in(self.run / INCIDENTS_NAME):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        kept = list_incidents(self.run)
        self.number = max(self.number, *(incident.number for incident in kept), 0)
        for incident in kept:
            seen = () if incident.damage else incident.sightings
            self._count(incident.size, {_kind_of(one) for one in seen})

    def record(
        self, capsule: AnyCapsule, sightings: Sequence[NonfiniteSighting]
    ) -> IncidentRecorded:
        """Write a capsule within the limits, and return the event.

        If it was not written, the event gives the reason; an error of the disk is not raised.
        """
        self.number += 1
        kinds = {_kind_of(seen) for seen in sightings}
        reason = "" if kinds - self._seen else self._refusal()
        path, size = "", 0
        if not reason:
            try:
                folder = write_capsule(self.run / INCIDENTS_NAME, self.number, capsule)
                size = size_of(folder)
            except (OSError, RuntimeError, MemoryError) as error:
                reason = f"it could not be written: {error}"
            else:
                path = str(folder.relative_to(self.run))
                self._count(size, kinds)
        return IncidentRecorded(
            update=capsule.update, number=self.number, path=path, size=size, reason=reason
        )

    def _count(self, size: int, kinds: set[tuple[str, str, str]]) -> None:
        """Count a capsule that is kept."""
        self._bytes += size
        self._beyond_first += kinds <= self._seen
        self._seen |= kinds

    def _refusal(self) -> str:
        """Return why an incident that shows nothing new is not kept; empty if it is."""
        if self._beyond_first >= self.limit:
            option = " (--incidents-kept)" if self.has_options else ""
            return f"it shows nothing new, and {self.limit} such are kept{option}"
        if self._bytes >= self.limit_bytes:
            limit = self.limit_bytes // 2**20
            option = " (--incident-megabytes)" if self.has_options else ""
            return f"it shows nothing new, and capsules take {limit} MiB{option}"
        return ""


def write_capsule(incidents: Path, number: int, capsule: AnyCapsule) -> Path:
    """Write a capsule as incident `number` into the folder `incidents`; return its folder.

    Raises:
        OSError: it cannot be written; then nothing is left behind.
    """
    folder = incidents / f"{number:04d}"
    partial = folder.with_suffix(_PARTIAL_SUFFIX)
    data = saved(compacted({"format": capsule.format, **vars(capsule)}))
    summary = {
        "number": number,
        "sha256": hashlib.sha256(data).hexdigest(),
        "update": capsule.update,
        "sightings": capsule.sightings,
        "versions": capsule.versions,
        "why_not_repeated": capsule.why_not_repeated,
    }
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_file(partial / CAPSULE_NAME, [data])
        write_file(partial / SUMMARY_NAME, [json.dumps(summary, indent=2).encode() + b"\n"])
        sync_directory(partial)
        os.rename(partial, folder)
    except BaseException:  # KeyboardInterrupt, too; raised again
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_directory(incidents)
    return folder


def find_incident(run: Path, number: int | None = None, update: int | None = None) -> Incident:
    """Return an incident that is kept in a run.

    Args:
        run: the run's directory.
        number: number of the incident; None for the first, which shows the cause.
        update: update of the incident, instead of its number.

    Raises:
        IncidentError: there is none, or none of that number or update; or it cannot be read.
    """
    kept = list_incidents(run)
    if not kept:
        listing = command_line("esper", "incidents", run)
        raise IncidentError(f"{run.name} has no capsule; `{listing}` lists all incidents")
    for incident in kept:
        if number in (None, incident.number) and update in (None, incident.update):
            return _whole(incident)
    numbers = ", ".join(
        f"incident {incident.number} (update {incident.update})" for incident in kept
    )
    wanted = f"incident {number}" if update is None else f"update {update}"
    raise IncidentError(f"{run.name} has no capsule for {wanted}; there are capsules for {numbers}")


def incident_at(folder: Path) -> Incident:
    """Return the incident whose capsule lies in a folder, wherever that was taken to.

    Raises:
        IncidentError: it cannot be read.
    """
    return _whole(incident_in(folder))


def _whole(incident: Incident) -> Incident:
    if incident.damage:
        raise IncidentError(incident.damage)
    return incident


def read_capsule(folder: Path, device: str = "cpu") -> Capsule:
    """Read the capsule of an incident of Esper's own agent.

    Raises:
        IncidentError: it is missing, damaged, or of a format that this version does not know.
    """
    return capsule_of(read_values(folder, device), folder)


def read_values(folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Read the content of an incident's capsule, whatever its format.

    Raises:
        IncidentError: it is missing or damaged.
    """
    path = folder / CAPSULE_NAME
    try:
        expected = read_incident_summary(folder).sha256
    except (OSError, IncidentError) as error:
        raise IncidentError(f"{folder / SUMMARY_NAME} cannot be read: {error}") from error
    try:
        if path.stat().st_size > _LONGEST_CAPSULE:
            raise IncidentError(f"the capsule {path} is larger than {_LONGEST_CAPSULE >> 30} GiB")
        data = read_regular(path)
    except OSError as error:
        raise IncidentError(f"the capsule {path} cannot be read: {error}") from error
    # Damage is found here, before torch reads the data.
    if hashlib.sha256(data).hexdigest() != expected:
        raise IncidentError(f"the capsule {path} is damaged: its SHA-256 digest does not match")
    try:
        state = expanded(load_values(data, device))
    except TorchFileError as error:
        raise IncidentError(f"the capsule {path} cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise IncidentError(_other_format(path))
    return state


def capsule_of(state: dict[str, Any], folder: Path) -> Capsule:
    """Return the capsule with a content that was read.

    Raises:
        IncidentError: it has a format that this version does not know, or is incomplete.
    """
    path = folder / CAPSULE_NAME
    if state.pop("format", None) != FORMAT:
        raise IncidentError(_other_format(path))
    try:
        return Capsule(**state)
    except TypeError as error:
        raise IncidentError(f"the capsule {path} is incomplete: {error}") from error


def _other_format(path: Path) -> str:
    return f"the capsule {path} has another format than {FORMAT}, the one that this version reads"


def sighting_fields(sightings: Sequence[NonfiniteSighting]) -> list[dict[str, Any]]:
    """Return the fields of sightings, as a capsule stores them."""
    names = NonfiniteSighting.__struct_fields__
    return [{name: getattr(seen, name) for name in names} for seen in sightings]


def _kind_of(seen: NonfiniteSighting) -> tuple[str, str, str]:
    return seen.head, seen.quantity, seen.kind


def _partial_in(incidents: Path) -> list[Path]:
    return [incidents / name for name in _names_in(incidents) if name.endswith(_PARTIAL_SUFFIX)]


def _names_in(folder: Path) -> list[str]:
    with suppress(OSError):
        return os.listdir(folder)
    return []
