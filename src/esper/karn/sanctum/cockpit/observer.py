"""Reads a run repeatedly into views: finds it, follows it, judges it. Independent of screens."""

import threading
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from esper.karn.reports.run_commands import run_dir_options
from esper.karn.sanctum.fold.attention import acknowledged, lights_on
from esper.karn.sanctum.fold.verdict import master_verdict
from esper.karn.sanctum.fold.view import Plan, TimePosition, View
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.following.playback import Playback
from esper.karn.sanctum.following.run_frame import Frame
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.errors import RunStoreError
from esper.karn.store.file_stamps import FileStamp, file_stamp
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.store.reading.completeness import Completeness
from esper.karn.store.run_directory import CONFIG_NAME, RunNotFoundError, run_directories
from esper.karn.store.run_files import acknowledgements
from esper.karn.store.run_files.console_tail import ConsoleTail
from esper.leyline.errors import EsperError
from esper.leyline.files.regular_files import read_regular
from esper.leyline.health import Verdict
from esper.leyline.text.command_lines import command_line

#: The status with which a past moment is judged: by its lights and figures, not by the run's end.
_THEN: Final = RunStatus(StatusKind.LIVE, None, "as it was")


class UpdateNotFoundError(EsperError, ValueError):
    """The run has no update of that number."""


class Observer(Protocol):
    """Reads the current state of a run, or its state after an update."""

    def __call__(self, now: float) -> View:
        """Return a view of the run; `now` is in seconds since the epoch."""

    def go_to(self, update: int | None) -> None:
        """From the next call on, return the state after an update; None for the newest state."""

    def play(self, speed: int) -> None:
        """Move forward by `speed` updates per second from the moment shown; 0 pauses."""

    def close(self) -> None:
        """Close the run's store."""


class RunObserver:
    """Reads a run at each call, from one thread; `go_to` and `play` may be called from any.

    Args:
        directory: the run's directory, or None for the first run that appears in `run_dir`.
        run_dir: the folder that holds runs.
        at: the update to start at; None for now.
        ticks: returns seconds of a monotonic clock.
    """

    def __init__(
        self,
        directory: Path | None,
        run_dir: Path,
        *,
        at: int | None = None,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        start = command_line("esper", "ppo", *run_dir_options(run_dir))
        self._waiting = f"waiting for the first run in {run_dir.resolve()}; start one with: {start}"
        self._ticks = ticks
        self._run = None if directory is None else self._follow(directory)
        self._nothing_yet = SanctumSnapshot()
        self._lock = threading.Lock()
        self._playback = Playback(update=at)

    def go_to(self, update: int | None) -> None:
        """From the next call on, return the state after an update; None for the newest state.

        Before the first update or beyond the last, it is that of the nearest update.
        """
        with self._lock:
            self._playback = self._playback.going_to(update)

    def play(self, speed: int) -> None:
        """From the next call on, move forward by `speed` updates per second; 0 pauses.

        Playing starts at the moment shown, or at the first update if that is now. At the last
        update it pauses if the run has ended, and else returns to now.
        """
        with self._lock:
            self._playback = self._playback.playing(speed)

    def close(self) -> None:
        """Close the run's store; the next call opens it again."""
        if self._run is not None:
            self._run.follower.close()

    def __call__(self, now: float) -> View:
        """Return a view of the run, after a bounded amount of work.

        Args:
            now: seconds since the epoch.
        """
        frame = self._poll(now)
        view = _view(frame, now)
        if self._run is None:
            return view
        view = self._run.with_files(view)
        follower = self._run.follower
        if frame.is_behind:
            return view  # not all updates have been read yet
        with self._lock:
            self._playback = self._playback.advanced(
                now, follower.updates, is_over=frame.status.is_over
            )
            playback = self._playback
        if playback.update is None or not follower.updates:
            return view
        position = TimePosition(playback.update, follower.updates, playback.speed)
        return _past_view(view, follower, position)

    def _follow(self, directory: Path) -> "_Run":
        return _Run(directory, self._ticks, stays_open=True)

    def _poll(self, now: float) -> Frame:
        if self._run is None:
            waiting = RunStatus(StatusKind.WAITING, None, self._waiting)
            try:
                runs = run_directories(self._run_dir)
            except RunNotFoundError as error:
                return Frame(self._nothing_yet, waiting, Completeness(unreadable=str(error)))
            if not runs:
                return Frame(self._nothing_yet, waiting)
            self._run = self._follow(runs[-1])
        return self._run.follower.poll(now)


class _Run:
    """One run: its store and the files next to it."""

    def __init__(
        self,
        directory: Path,
        ticks: Callable[[], float] = time.monotonic,
        *,
        stays_open: bool = False,
    ) -> None:
        self.follower = RunFollower(directory, stays_open=stays_open, ticks=ticks)
        self._directory = directory
        self._console = ConsoleTail(directory)
        self._acknowledged = acknowledgements.Acknowledged()
        self._stamp: FileStamp | None = None
        self._plan: Plan | None = None

    def with_files(self, view: View) -> View:
        """Return a view with the console output and the acknowledgements of the run."""
        stamp = file_stamp(self._directory / acknowledgements.ACKNOWLEDGEMENTS_NAME)
        if stamp != self._stamp:
            self._acknowledged = acknowledgements.read(self._directory)
            self._stamp = stamp
        if not view.snapshot.run.episodes and self._plan is None:
            self._plan = plan_of(self._directory)
        view = replace(
            view,
            plan=None if view.snapshot.run.episodes else self._plan,
            console=self._console.lines(),
            directory=self._directory,
            acknowledgements=self._acknowledged.entries,
            doubt=replace(view.doubt, acknowledgements=self._acknowledged.error),
        )
        if not view.acknowledgements:
            return view
        return replace(view, verdict=_verdict_on(view, view.status))


def plan_of(directory: Path) -> Plan | None:
    """Return the plan of a run from its settings file; None if that cannot be read."""
    path = directory / CONFIG_NAME
    try:
        created_at = path.stat().st_mtime
        found = tomllib.loads(read_regular(path).decode())
    except (OSError, ValueError):
        return None
    episodes, environments = found.get("episodes"), found.get("envs")
    return Plan(
        task=str(found.get("task", "")),
        episodes=episodes if isinstance(episodes, int) else 0,
        environments=environments if isinstance(environments, int) else 0,
        created_at=created_at,
    )


def read_view(directory: Path, now: float | None = None, at: int | None = None) -> View:
    """Return a view of a run, read to its end.

    Args:
        directory: the run's directory.
        now: seconds since the epoch; the current time if None.
        at: the update to return the state after; None for the newest state.

    Raises:
        UpdateNotFoundError: the run has no such update.
    """
    now = time.time() if now is None else now
    run = _Run(directory)
    follower = run.follower
    frame = follower.catch_up()
    view = run.with_files(_view(frame, now))
    if at is None:
        return view
    if frame.completeness.unreadable is None and not 1 <= at <= follower.updates:
        damaged = frame.snapshot.run.damaged_events
        raise UpdateNotFoundError(
            _no_such_update(directory.resolve().name, at, follower.updates, damaged)
        )
    return _past_view(view, follower, TimePosition(at, follower.updates))


def _no_such_update(run: str, update: int, updates: int, damaged: int) -> str:
    if damaged:
        known = f"give a number from 1 to {updates}" if updates else "no update can be read"
        return f"{run} has no readable update {update}, because events are damaged: {known}"
    if not updates:
        return f"{run} has no update {update}: it has not completed one yet"
    return f"{run} has no update {update}: give a number from 1 to {updates}"


def _view(frame: Frame, now: float) -> View:
    return View(
        status=frame.status,
        verdict=master_verdict(frame.snapshot, frame.status, doubt=frame.doubt),
        now=now,
        snapshot=frame.snapshot,
        doubt=frame.doubt,
        is_behind=frame.is_behind,
        ranks=frame.ranks,
    )


def _verdict_on(view: View, status: RunStatus) -> Verdict:
    return master_verdict(view.snapshot, status, acknowledged(view), view.doubt)


def _past_view(view: View, follower: RunFollower, position: TimePosition) -> View:
    """Return the view with the state after an update instead of the newest state."""
    try:
        snapshot = follower.state_after(position.update)
    except RunStoreError as error:
        unread = replace(view.doubt, error=view.doubt.error or str(error), is_unread=True)
        return replace(view, doubt=unread)
    if snapshot is None:
        return view
    is_newest = snapshot.last_event_id == view.snapshot.last_event_id
    doubt = replace(view.doubt, damaged_events=snapshot.run.damaged_events)
    past = replace(view, snapshot=snapshot, doubt=doubt)
    return replace(
        past,
        verdict=_verdict_on(past, view.status if is_newest else _THEN),
        position=replace(position, lit_now=tuple(lights_on(view.snapshot))),
    )
