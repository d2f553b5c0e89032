"""Summaries of the runs in a folder, read once and then kept up to date."""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from esper.karn.reports.run_folder.index_file import IndexedRun, Stamps, read_index, write_index
from esper.karn.reports.run_folder.run_summary import RunSummary, summary_of
from esper.karn.sanctum.following.digest import Digest
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.file_stamps import FileStamp, are_racy, file_stamp, stamps_in
from esper.karn.store.liveness import StatusKind
from esper.karn.store.rank_folders import RANKS_NAME, rank_folders
from esper.karn.store.run_directory import STORE_NAME, run_directories
from esper.karn.store.run_files.latch_file import LATCHES_NAME
from esper.karn.store.run_files.run_note import NOTE_NAME
from esper.leyline.files.checkpoint_file import CHECKPOINTS_NAME
from esper.leyline.files.incident_files import INCIDENTS_NAME

#: Maximum time of one refresh that reads new runs, in seconds; the next refresh continues.
_SECONDS_PER_LOOK: Final = 0.2
#: Maximum time to follow active runs in one refresh: those that were read longest ago are first, so
#: that a hundred live runs are each read again after a few seconds.
_FOLLOWING_SECONDS: Final = 0.018
#: Runs that have ended and are checked for changes in one refresh; all in turn.
_CHECKED_PER_LOOK: Final = 200
#: From one reading of an unchanged folder to the next: an entry can become a run without a change
#: of the folder itself.
_FOLDER_SECONDS: Final = 5.0
#: A smaller folder is read so fast that an index is not worth a file in it.
FEWEST_INDEXED: Final = 24
#: From one writing of a changed index to the next.
_INDEX_SECONDS: Final = 60.0
#: The files of a run that its summary depends on.
_STAMPED: Final = (
    STORE_NAME,
    f"{STORE_NAME}-wal",
    NOTE_NAME,
    INCIDENTS_NAME,
    LATCHES_NAME,
    CHECKPOINTS_NAME,
    RANKS_NAME,
)


@dataclass(frozen=True)
class Catalogue:
    """The runs of a folder at one moment."""

    runs: tuple[RunSummary, ...]  # oldest first; those that were read so far
    is_behind: bool = False  # there is more to read: refresh again without waiting


def list_runs(run_dir: Path) -> list[RunSummary]:
    """Return the runs in a folder, oldest first; `doubt` says which could not be read, and why.

    In a large folder an index is kept, which may be deleted at any time.

    Raises:
        RunNotFoundError: the folder cannot be listed.
    """
    catalogue = RunCatalogue(run_dir)
    while (found := catalogue.look(time.time(), seconds=float("inf"))).is_behind:
        pass
    catalogue.save()
    return list(found.runs)


class RunCatalogue:
    """Summaries of a folder of runs that are refreshed repeatedly; only changes are read.

    A run that has ended is read again only if its files change; an active one is followed. Not
    thread-safe.

    Args:
        run_dir: the folder that holds runs.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._followed: dict[Path, RunFollower] = {}
        self._known: dict[Path, tuple[Stamps, RunSummary]] = {}
        self._behind: set[Path] = set()  # followed runs of which there is more to read
        self._indexed: dict[str, IndexedRun] | None = None  # until the runs in it are known
        self._digests: dict[Path, Digest] = {}
        self._listed: tuple[FileStamp | None, float, list[Path]] | None = None
        self._checked = 0  # runs, of those that have ended, in this round
        self._catalogue: Catalogue | None = None
        self._is_index_old = False
        self._saved_at = time.monotonic()

    def look(self, now: float, seconds: float = _SECONDS_PER_LOOK) -> Catalogue:
        """Return the known runs after a bounded amount of work.

        Args:
            now: current time in seconds since the epoch.
            seconds: maximum time to read stores that were not read before.

        Raises:
            RunNotFoundError: the folder cannot be listed.
        """
        if self._indexed is None:
            self._indexed = read_index(self._run_dir)
        directories = self._directories()
        is_behind = self._read_new(directories, now, time.monotonic() + seconds)
        if not is_behind:
            self._indexed = {}
            self._check_ended(directories, now)
            self._follow(now)
            if time.monotonic() - self._saved_at > _INDEX_SECONDS:
                self.save()
        runs = tuple(self._known[one][1] for one in directories if one in self._known)
        return Catalogue(runs, is_behind)

    def save(self) -> None:
        """Write the index, if the folder is large and the index has changed; never raises."""
        self._saved_at = time.monotonic()
        if len(self._known) < FEWEST_INDEXED or not (self._is_index_old or self._followed):
            return
        self._is_index_old = False
        write_index(self._run_dir, self._to_index())

    def _to_index(self) -> Iterable[IndexedRun]:
        for directory, (stamps, summary) in self._known.items():
            follower = self._followed.get(directory)
            if follower is not None:
                yield IndexedRun(directory.name, digest=follower.digest())
            elif stamps:
                # The name comes from the folder, which may be moved as a whole.
                yield IndexedRun(directory.name, stamps, replace(summary, path=Path()))
        yield from (self._indexed or {}).values()  # not come to yet

    def _directories(self) -> list[Path]:
        """Return the runs of the folder, oldest first; listed again if the folder has changed."""
        taken_at, ticks = time.time_ns(), time.monotonic()
        stamp = file_stamp(self._run_dir)
        if self._listed is not None:
            before, listed_at, known = self._listed
            if stamp == before and ticks - listed_at < _FOLDER_SECONDS:
                return known
        directories = run_directories(self._run_dir)
        self._listed = None if are_racy([stamp], taken_at) else (stamp, ticks, directories)
        for gone in self._known.keys() - set(directories):
            del self._known[gone]
            self._forget(gone)
            self._is_index_old = True
        return directories

    def _forget(self, directory: Path) -> None:
        if (follower := self._followed.pop(directory, None)) is not None:
            follower.close()
        self._behind.discard(directory)

    def _read_new(self, directories: list[Path], now: float, end: float) -> bool:
        """Read the runs that are not known yet; return whether there are more."""
        for directory in reversed(directories):  # the newest first: users look for them
            if directory in self._known and directory not in self._behind:
                continue
            if time.monotonic() >= end:
                return True
            if not self._take_from_index(directory):
                self._read(directory, now)
        return bool(self._behind)

    def _take_from_index(self, directory: Path) -> bool:
        """Take the summary of a run from the index, if its files have not changed since."""
        found = None if self._indexed is None else self._indexed.pop(directory.name, None)
        if found is None:
            return False
        if found.digest is not None:
            self._digests[directory] = found.digest
        if found.summary is None or found.stamps != _stamps_of(directory):
            self._is_index_old |= found.summary is not None
            return False
        summary = replace(found.summary, run_id=directory.name, path=directory)
        self._known[directory] = found.stamps, summary
        return True

    def _check_ended(self, directories: list[Path], now: float) -> None:
        """Read runs again that had ended and have changed; some in each refresh, all in turn."""
        ended = [one for one in directories if one not in self._followed]
        start = self._checked if self._checked < len(ended) else 0
        self._checked = start + _CHECKED_PER_LOOK
        for directory in ended[start : self._checked]:
            if self._known[directory][0] != _stamps_of(directory):
                self._read(directory, now)

    def _follow(self, now: float) -> None:
        """Read on in active runs, those first that were read longest ago."""
        end = time.monotonic() + _FOLLOWING_SECONDS
        for directory in list(self._followed):
            self._read(directory, now)
            if time.monotonic() >= end:
                return

    def _read(self, directory: Path, now: float) -> None:
        """Read on in one store."""
        taken_at, stamps = time.time_ns(), _stamps_of(directory)
        follower = self._followed.pop(directory, None) or RunFollower(
            directory,
            brief=True,
            keeps_histories=False,
            digest=self._digests.pop(directory, None),
        )
        frame = follower.poll(now)
        summary = summary_of(directory, frame)
        known = self._known.get(directory)
        if known is not None and _looks_same(known[1], summary):
            summary = known[1]  # the same object, so that its line is not built again
        self._behind.discard(directory)
        if frame.status.is_over and frame.completeness.unreadable is None and not frame.is_behind:
            self._known[directory] = () if are_racy(stamps, taken_at) else stamps, summary
            self._is_index_old = True
            follower.close()
            return
        self._known[directory] = stamps, summary
        self._followed[directory] = follower  # now the last one
        if frame.is_behind:
            self._behind.add(directory)


def _looks_same(before: RunSummary, now: RunSummary) -> bool:
    """Return whether two summaries of a run differ at most in the age of a fresh heartbeat."""
    if before.status.kind is not StatusKind.STALE:
        before = replace(before, status=replace(before.status, seconds=now.status.seconds))
    return before == now


def _stamps_of(directory: Path) -> Stamps:
    """Return the stamps of the files of a run, and of those of its ranks."""
    own = stamps_in(directory, _STAMPED)
    if own[_STAMPED.index(RANKS_NAME)] is None:
        return own
    with suppress(OSError):
        for folder in rank_folders(directory).values():
            own = *own, *stamps_in(folder, _STAMPED)
    return own
