"""Reads the sightings in the files next to a run's store: `latches.jsonl`, capsules, checkpoints.

Any of them may have an update that the store lacks. Nothing here loads torch.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from esper.karn.store.file_stamps import FileStamp, are_racy, file_stamp
from esper.karn.store.run_files.latch_file import LATCHES_NAME, LatchFile, read_latch_file
from esper.leyline.files.checkpoint_file import (
    CHECKPOINTS_NAME,
    CheckpointError,
    checkpoints_in,
    read_summary,
)
from esper.leyline.files.incident_files import (
    INCIDENTS_NAME,
    Incident,
    incident_folders,
    incident_in,
)
from esper.leyline.telemetry import NonfiniteSighting
from esper.leyline.text.sighting_words import KIND_WORDS

#: Maximum number of capsules that are read, newest first: more than a run keeps.
_CAPSULES_READ: Final = 2_048
#: Maximum number of checkpoints that are read, newest first: more than a run keeps.
_CHECKPOINTS_READ: Final = 8
_Sighting = tuple[int, NonfiniteSighting]  # with its update


@dataclass(frozen=True)
class SideRecords:
    """The records in the files next to a store.

    Attributes:
        latch_file: content of `latches.jsonl`.
        sightings: sightings in it, the capsules and the checkpoints, each with its update.
        capsules: incidents with a capsule, in order.
        newest_update: the newest update with a checkpoint or a capsule; 0 for none.
    """

    latch_file: LatchFile = field(default_factory=LatchFile)
    sightings: tuple[tuple[int, NonfiniteSighting], ...] = ()
    capsules: tuple[Incident, ...] = ()
    newest_update: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether no file has a trace of training."""
        return not (self.latch_file.is_there or self.sightings or self.newest_update)


class SideFiles:
    """The files next to a store; unchanged ones are read only once.

    Args:
        directory: the run's directory; it need not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stamps: tuple[FileStamp | None, ...] | None = None
        self._of_checkpoints: dict[Path, tuple[FileStamp | None, tuple[_Sighting, ...]]] = {}
        self._capsules: dict[Path, tuple[FileStamp | None, Incident]] = {}
        self._records = SideRecords()

    def records(self) -> SideRecords:
        """Return the records in the files; the same object while nothing has changed."""
        names = (LATCHES_NAME, INCIDENTS_NAME, CHECKPOINTS_NAME)
        taken_at = time.time_ns()
        stamps = tuple(file_stamp(self._directory / name) for name in names)
        if stamps != self._stamps:
            found = self._read()
            if found != self._records:
                self._records = found
            self._stamps = None if are_racy(stamps, taken_at) else stamps
        return self._records

    def _read(self) -> SideRecords:
        latch_file = read_latch_file(self._directory)
        capsules = self._read_capsules()
        checkpoints = checkpoints_in(self._directory / CHECKPOINTS_NAME)
        self._read_checkpoints([path for _, path in checkpoints])
        return SideRecords(
            latch_file=latch_file,
            sightings=(
                *latch_file.sightings,
                *(
                    (one.update, seen)
                    for one in capsules
                    for seen in one.sightings
                    if seen.kind in KIND_WORDS
                ),
                *(one for _, latches in self._of_checkpoints.values() for one in latches),
            ),
            capsules=capsules,
            newest_update=max(
                [*(one.update for one in checkpoints), *(one.update for one in capsules)],
                default=0,
            ),
        )

    def _read_capsules(self) -> tuple[Incident, ...]:
        """Return the newest incidents that were kept; those that have not changed are known."""
        before, self._capsules = self._capsules, {}
        for folder in incident_folders(self._directory)[-_CAPSULES_READ:]:
            stamp = file_stamp(folder)
            known = before.get(folder)
            if known is None or known[0] != stamp:
                known = stamp, incident_in(folder)
            self._capsules[folder] = known
        return tuple(incident for _, incident in self._capsules.values())

    def _read_checkpoints(self, paths: list[Path]) -> None:
        """Read the latches in the newest checkpoints; those that have not changed are known."""
        before, self._of_checkpoints = self._of_checkpoints, {}
        for path in paths[-_CHECKPOINTS_READ:]:
            stamp = file_stamp(path)
            known = before.get(path)
            if known is None or known[0] != stamp:
                known = stamp, _latches_of(path)
            self._of_checkpoints[path] = known


def _latches_of(path: Path) -> tuple[_Sighting, ...]:
    """Return the latches in a checkpoint; none where it is damaged, which resuming reports."""
    try:
        latches = read_summary(path).latches
    except CheckpointError:
        return ()
    return tuple(one for one in latches if one[1].kind in KIND_WORDS)
