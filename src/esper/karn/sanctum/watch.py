"""Looks at a run again and again: finds it, follows it and judges it. Knows nothing of screens."""

import time
from pathlib import Path
from typing import Protocol

from esper.karn.liveness import RunStatus, StatusKind
from esper.karn.run_directory import RunNotFoundError, run_directories
from esper.karn.sanctum.follower import Frame, RunFollower
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.sanctum.verdict import master_verdict
from esper.karn.sanctum.view import View


class Watch(Protocol):
    """Looks at a run, at a moment that can be chosen."""

    def __call__(self, now: float) -> View:
        """Return what there is to see at `now`, in seconds since the epoch."""

    def go_to(self, update: int | None) -> None:
        """From the next look on, show the run as it was after an update; None: as it is now."""

    def play(self, speed: int) -> None:
        """Move on by `speed` updates per second from the moment that is shown; 0 stands still."""


class RunWatch:
    """A look at a run for each call; use it from one thread.

    Args:
        directory: the run's directory, or None for the first run that appears in `run_dir`.
        run_dir: the folder that holds runs.
    """

    def __init__(self, directory: Path | None, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._directory = directory
        self._follower = None if directory is None else RunFollower(directory)
        self._nothing_yet = SanctumSnapshot()

    def __call__(self, now: float) -> View:
        """Return what there is to see, after a bounded amount of work.

        Args:
            now: seconds since the epoch.
        """
        return _view(self._poll(now), now, self._directory)

    def _poll(self, now: float) -> Frame:
        if self._follower is None:
            waiting = RunStatus(
                StatusKind.WAITING, None, f"waiting for the first run in {self._run_dir.resolve()}"
            )
            try:
                runs = run_directories(self._run_dir)
            except RunNotFoundError as error:
                return Frame(self._nothing_yet, waiting, str(error))
            if not runs:
                return Frame(self._nothing_yet, waiting)
            self._directory = runs[-1]
            self._follower = RunFollower(runs[-1])
        return self._follower.poll(now)


def look_once(directory: Path, now: float | None = None) -> View:
    """Return the whole of a run as it stands.

    Args:
        directory: the run's directory.
        now: seconds since the epoch; the clock's if not given.
    """
    frame = RunFollower(directory).catch_up()
    return _view(frame, time.time() if now is None else now, directory)


def _view(frame: Frame, now: float, directory: Path | None) -> View:
    return View(
        status=frame.status,
        verdict=master_verdict(frame.snapshot, frame.status),
        now=now,
        snapshot=frame.snapshot,
        error=frame.error,
        is_behind=frame.is_behind,
        directory=directory,
    )
