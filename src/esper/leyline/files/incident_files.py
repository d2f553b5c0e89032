"""The incidents of a run with capsules: folders `incidents/NNNN/`, listed without torch.

Each has `capsule.pt`, from which the update can be replayed, and `incident.json` with its
sightings.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from esper.leyline.errors import EsperError
from esper.leyline.files.regular_files import open_regular
from esper.leyline.telemetry import NonfiniteSighting

INCIDENTS_NAME: Final = "incidents"  # their folder in a run
CAPSULE_NAME: Final = "capsule.pt"
SUMMARY_NAME: Final = "incident.json"
_NUMBER: Final = re.compile(r"\d{4,12}")
#: Maximum number of bytes that are read: far more than Esper writes.
_LONGEST_SUMMARY: Final = 1 << 20


class IncidentError(EsperError, ValueError):
    """There is no such incident, or its capsule cannot be read; the message is one sentence."""


class IncidentSummary(msgspec.Struct, frozen=True):
    """The content of `incident.json`."""

    number: int
    update: int
    sightings: list[NonfiniteSighting]
    sha256: str = ""
    why_not_repeated: str = ""  # why a replay cannot repeat it, a sentence; empty if it can


@dataclass(frozen=True)
class Incident:
    """An incident with a folder."""

    number: int
    update: int  # 0 if unknown
    path: Path
    size: int  # bytes of the capsule
    sightings: tuple[NonfiniteSighting, ...]
    damage: str = ""  # why its capsule cannot be read, as a sentence; empty if it can
    why_not_repeated: str = ""  # what its capsule lacks for a replay, as a sentence


_decode = msgspec.json.Decoder(IncidentSummary).decode


def list_incidents(run: Path) -> list[Incident]:
    """Return the incidents of a run with a folder, in order; `damage` reports damaged ones."""
    return [incident_in(folder) for folder in incident_folders(run)]


def incident_folders(run: Path) -> list[Path]:
    """Return the folders of a run's incidents, in order."""
    incidents = run / INCIDENTS_NAME
    names: list[str] = []
    with suppress(OSError):
        names = os.listdir(incidents)
    return [incidents / name for name in sorted(filter(_NUMBER.fullmatch, names), key=int)]


def incident_in(folder: Path) -> Incident:
    """Return the incident in a folder; damage is reported in it and never raised."""
    number = int(folder.name) if _NUMBER.fullmatch(folder.name) else 0
    size, update = 0, 0
    sightings: tuple[NonfiniteSighting, ...] = ()
    damage = lacks = ""
    try:
        size = size_of(folder)
        summary = read_incident_summary(folder)
    except (OSError, IncidentError) as error:
        damage = f"the incident in {folder} cannot be read: {error}"
    else:
        number = number or summary.number  # the folder may have been copied anywhere
        update, sightings = summary.update, tuple(summary.sightings)
        lacks = summary.why_not_repeated
    capsule = folder / CAPSULE_NAME
    if not capsule.is_file():
        damage = f"the capsule {capsule} is missing"
    return Incident(number, update, folder, size, sightings, damage, lacks)


def read_incident_summary(folder: Path) -> IncidentSummary:
    """Read `incident.json`.

    Raises:
        OSError, IncidentError: it cannot be read.
    """
    with open_regular(folder / SUMMARY_NAME) as file:
        data = file.read(_LONGEST_SUMMARY + 1)
    if len(data) > _LONGEST_SUMMARY:
        raise IncidentError(f"{SUMMARY_NAME} is longer than {_LONGEST_SUMMARY} bytes")
    try:
        summary: IncidentSummary = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IncidentError(f"{SUMMARY_NAME} is damaged: {error}") from error
    return summary


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder.

    Raises:
        OSError: it cannot be listed.
    """
    return sum(path.stat().st_size for path in folder.iterdir())
