"""Summaries of the runs in a folder."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper.karn.sanctum.fold.doubt import NO_DOUBT, Doubt
from esper.karn.sanctum.following.follower import Frame, RunFollower
from esper.karn.store.file_stamps import FileStamp, file_stamp
from esper.karn.store.liveness import RunStatus
from esper.karn.store.run_directory import STORE_NAME, run_directories
from esper.karn.store.run_files.run_note import NOTE_NAME, read_note
from esper.leyline.files.incident_files import INCIDENTS_NAME

#: Maximum time of one refresh, in seconds; the next refresh continues.
_SECONDS_PER_LOOK: Final = 0.2

_Stamps = tuple[FileStamp | None, ...]


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run in its current state."""

    run_id: str
    path: Path
    status: RunStatus
    name: str
    started_at: float | None  # seconds since the epoch
    update: int
    episodes_done: int
    episodes: int
    score: float | None
    inf_heads: tuple[str, ...]  # heads whose Inf light is on
    nan_heads: tuple[str, ...]
    inf_groups: tuple[str, ...]  # groups other than heads whose Inf light is on
    nan_groups: tuple[str, ...]
    task: str = ""
    best_score: float | None = None  # mean of the best batch of episodes
    incidents: int = 0
    doubt: Doubt = NO_DOUBT  # what is unread, missing or damaged
    note: str = ""  # the user's note
    planted: frozenset[tuple[str, str]] = frozenset()  # lights that only drills lit
    library: str = ""  # that trains a watched run; empty for Esper's own agent
    is_stalled: bool = False  # whether no weight moved for several updates at any time

    def lights(self) -> dict[str, tuple[str, ...]]:
        """Return the heads and groups that are lit, by "Inf" and "NaN"."""
        return {
            "Inf": (*self.inf_heads, *self.inf_groups),
            "NaN": (*self.nan_heads, *self.nan_groups),
        }

    def marked(self, light: str, name: str) -> str:
        """Return the name of a head or group, marked if only drills lit its light.

        Args:
            light: "Inf" or "NaN".
            name: name of the head or group.
        """
        return f"{name} (drill)" if (light, name) in self.planted else name


@dataclass(frozen=True)
class Catalogue:
    """The runs of a folder at one moment."""

    runs: tuple[RunSummary, ...]  # oldest first; those that were read so far
    is_behind: bool = False  # there is more to read: refresh again without waiting


def list_runs(run_dir: Path) -> list[RunSummary]:
    """Return the runs in a folder, oldest first; `doubt` says which could not be read, and why."""
    return [
        summary_of(directory, RunFollower(directory, brief=True).catch_up())
        for directory in run_directories(run_dir)
    ]


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
        self._known: dict[Path, tuple[_Stamps, RunSummary]] = {}

    def look(self, now: float, seconds: float = _SECONDS_PER_LOOK) -> Catalogue:
        """Return the known runs after a bounded amount of work.

        Args:
            now: current time in seconds since the epoch.
            seconds: maximum time to read stores.

        Raises:
            RunNotFoundError: the folder cannot be listed.
        """
        directories = run_directories(self._run_dir)
        end = time.monotonic() + seconds
        is_behind = False
        for directory in reversed(directories):  # the newest first: users look for them
            stamps = _stamps_of(directory)
            known = self._known.get(directory)
            if known is not None and known[0] == stamps and directory not in self._followed:
                continue
            if time.monotonic() >= end:
                is_behind = True
                break
            is_behind |= self._read(directory, stamps, now)
        for gone in self._known.keys() - set(directories):
            del self._known[gone]
            self._followed.pop(gone, None)
        runs = tuple(self._known[one][1] for one in directories if one in self._known)
        return Catalogue(runs, is_behind)

    def _read(self, directory: Path, stamps: _Stamps, now: float) -> bool:
        """Continue to read one store; return whether there is more in it."""
        follower = self._followed.setdefault(directory, RunFollower(directory, brief=True))
        frame = follower.poll(now)
        self._known[directory] = stamps, summary_of(directory, frame)
        if frame.status.is_over and frame.completeness.unreadable is None and not frame.is_behind:
            del self._followed[directory]
        return frame.is_behind


def summary_of(directory: Path, frame: Frame) -> RunSummary:
    """Return the summary of a run from a follower's frame."""
    run, tamiyo = frame.snapshot.run, frame.snapshot.tamiyo
    scores = [score for score in frame.snapshot.training.score_history if math.isfinite(score)]
    return RunSummary(
        run_id=directory.name,
        path=directory,
        status=frame.status,
        name=run.name,
        started_at=run.started_at,
        update=run.update,
        episodes_done=run.episodes_done,
        episodes=run.episodes,
        score=frame.snapshot.training.score,
        inf_heads=_lit(tamiyo.head_inf_latch),
        nan_heads=_lit(tamiyo.head_nan_latch),
        inf_groups=_lit(tamiyo.group_inf_latch),
        nan_groups=_lit(tamiyo.group_nan_latch),
        task=run.task,
        best_score=max(scores, default=None),
        incidents=frame.snapshot.interventions.incidents,
        doubt=frame.doubt,
        note=read_note(directory),
        library=run.library,
        is_stalled=frame.snapshot.training.stalled_latch,
        planted=frozenset(
            (word, name)
            for word, light in (("Inf", "inf"), ("NaN", "nan"))
            for name in _lit(tamiyo.planted(light))
        ),
    )


def _lit(latch: Mapping[str, bool]) -> tuple[str, ...]:
    return tuple(name for name, is_lit in latch.items() if is_lit)


def _stamps_of(directory: Path) -> _Stamps:
    names = (STORE_NAME, f"{STORE_NAME}-wal", NOTE_NAME, INCIDENTS_NAME)
    return tuple(file_stamp(directory / name) for name in names)
