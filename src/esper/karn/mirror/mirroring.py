"""Follows a run and copies its figures to experiment trackers, with one thread per tracker."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from esper.karn.mirror.figure_names import Point, points_of
from esper.karn.mirror.trackers import Destination, Tracker, open_tracker
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.errors import RunStoreError, RunStoreMissingError
from esper.karn.store.liveness import StatusKind
from esper.karn.store.reading.recorded_settings import settings_at_start
from esper.karn.store.reading.run_reader import RunReader
from esper.leyline.files.durable_files import replace_file

#: File in a run's folder with the last copied event of each tracker.
MIRRORED_NAME: Final = "mirrored.json"
_EVENTS_PER_READ: Final = 2_000
_SECONDS_BETWEEN_POLLS: Final = 2.0
_LONGEST_WAIT: Final = 60.0
_SECONDS_TO_STOP: Final = 10.0
#: After the run's end, give up after this many failures in a row.
_MOST_FAILURES: Final = 4


@dataclass(frozen=True)
class MirrorResult:
    """The result of copying to one tracker.

    Attributes:
        destination: the tracker.
        updates: number of updates copied by this call.
        failure: why figures are missing in the tracker; None if it has all.
    """

    destination: Destination
    updates: int
    failure: str | None


def mirror(
    run: Path,
    destinations: Sequence[Destination],
    report: Callable[[str], None],
    *,
    follow: bool,
    done: Callable[[MirrorResult], None],
    wait: Callable[[float], bool] | None = None,
) -> list[MirrorResult]:
    """Copy the figures of a run to trackers; return the result for each tracker.

    The last copied event is recorded in the run's folder after each batch, so figures are not
    copied again. If this process is killed between a batch and its record, the batch is copied
    twice.

    Args:
        run: the run's directory.
        destinations: the trackers.
        report: receives sentences about failing trackers; called from several threads.
        follow: whether to continue until the run has ended.
        done: receives each tracker's result when it is complete; called from several threads.
        wait: waits for a number of seconds and returns whether to stop early; by default, only
            Ctrl-C stops early.
    """
    record = _Record(run / MIRRORED_NAME, report)
    stop = threading.Event()
    results: list[MirrorResult] = []

    def work(destination: Destination) -> None:
        copier = _Copier(run, destination, record, report, wait or stop.wait)
        result = copier.run_to_end(follow=follow)
        results.append(result)
        done(result)

    threads = [threading.Thread(target=work, args=(one,), daemon=True) for one in destinations]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stop.set()
        for thread in threads:
            thread.join(_SECONDS_TO_STOP)
        raise
    order = {one.label: place for place, one in enumerate(destinations)}
    return sorted(results, key=lambda one: order[one.destination.label])


class _Record:
    """The last copied event of each tracker; thread-safe."""

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._path = path
        self._report = report
        self._lock = threading.Lock()
        self._last_ids = self._read()

    def last_id(self, destination: Destination) -> int:
        with self._lock:
            return self._last_ids.get(destination.label, 0)

    def write(self, destination: Destination, last_id: int) -> None:
        with self._lock:
            # Another process may copy the same run to other trackers.
            self._last_ids = {**self._read(), destination.label: last_id}
            try:
                replace_file(self._path, [msgspec.json.encode(self._last_ids)])
            except OSError as error:
                self._report(
                    f"cannot write {self._path} ({error.strerror}): figures may be copied again "
                    "later"
                )

    def _read(self) -> dict[str, int]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            self._report(f"{self._path} cannot be read ({error}): figures may be copied again")
            return {}


class _Copier:
    """Copies one run to one tracker."""

    def __init__(
        self,
        run: Path,
        destination: Destination,
        record: _Record,
        report: Callable[[str], None],
        wait: Callable[[float], bool],
    ) -> None:
        self._run, self._destination, self._record = run, destination, record
        self._report, self._wait = report, wait
        self._reader = RunReader(run)
        self._tracker: Tracker | None = None
        self._updates: set[int] = set()
        self._start_over()

    def run_to_end(self, *, follow: bool) -> MirrorResult:
        """Copy until the run has ended, or once; return the result."""
        follower = RunFollower(self._run, brief=True)
        failures, trouble, is_good, parent = 0, None, True, os.getppid()
        while True:
            status = follower.poll(time.time()).status  # before copying, so that nothing is missed
            is_last = not follow or status.is_over
            is_good = status.kind not in (StatusKind.FAILED, StatusKind.HALTED, StatusKind.DEAD)
            try:
                self._copy_new()
                failures, trouble = 0, None
            # A tracker's library can raise any exception: report it and retry.
            except Exception as error:  # noqa: BLE001
                failures += 1
                trouble = f"{self._destination.label}: {type(error).__name__}: {error}"
                if failures == 1:
                    self._report(f"{trouble}; trying again")
                self._abandon()
            if is_last and (trouble is None or failures >= _MOST_FAILURES):
                break
            pause = min(2.0**failures, _LONGEST_WAIT) if failures else _SECONDS_BETWEEN_POLLS
            is_orphan = status.kind is StatusKind.WAITING and os.getppid() != parent
            if is_orphan or self._wait(pause):  # the run will never start
                break
        return MirrorResult(
            self._destination, len(self._updates), self._closed(is_good=is_good) or trouble
        )

    def _start_over(self) -> None:
        """Read from the first event again; figures that the tracker has are skipped."""
        self._cursor = 0
        self._lit: set[str] = set()

    def _copy_new(self) -> None:
        while True:
            try:
                events = self._reader.read(self._cursor, _EVENTS_PER_READ, bulk=False)
            except RunStoreMissingError:
                return  # the run is being created
            except RunStoreError as error:
                raise RuntimeError(f"the run cannot be read: {error}") from error
            if not events:
                return
            known = self._record.last_id(self._destination)
            points = [one for one in points_of(events, self._lit) if one.event_id > known]
            if points:
                self._log(points)
            self._cursor = events[-1].id

    def _log(self, points: list[Point]) -> None:
        if self._tracker is None:
            settings = settings_at_start(self._run) or {}
            self._tracker = open_tracker(self._destination, self._run, settings)
        self._tracker.log(points)
        self._record.write(self._destination, points[-1].event_id)
        self._updates |= {one.update for one in points}

    def _abandon(self) -> None:
        """Close a tracker that failed, so that the next attempt opens it again."""
        self._closed(is_good=False)
        self._start_over()

    def _closed(self, *, is_good: bool) -> str | None:
        """Close the tracker; return why closing failed, or None."""
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return None
        try:
            tracker.close(is_good)
        # As above.
        except Exception as error:  # noqa: BLE001
            return f"{self._destination.label}: {type(error).__name__}: {error}"
        return None
