"""Polls runs: reads a store only if its files changed or the run may have died.

A live run writes a heartbeat every 2 s. While its files change, its store is read only every
`READ_SECONDS`. A light is also written to a small separate file; when that file changes, the store
is read at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from esper.karn.alerts.alert_types import Alert
from esper.karn.alerts.facts import FAILING_SECONDS, RunView, alerts_of, ended_at, failure_of
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.following.run_frame import Frame
from esper.karn.store.errors import RunStoreError
from esper.karn.store.file_stamps import FileStamp, file_stamp
from esper.karn.store.liveness import StatusKind
from esper.karn.store.reading.run_reader import RunReader
from esper.karn.store.run_directory import STORE_NAME, run_directories
from esper.karn.store.run_files.acknowledgements import ACKNOWLEDGEMENTS_NAME
from esper.karn.store.run_files.acknowledgements import read as read_acknowledgements
from esper.karn.store.run_files.latch_file import LATCHES_NAME
from esper.leyline.files.incident_files import INCIDENTS_NAME
from esper.leyline.telemetry import PPOUpdatePayload

#: Seconds between two reads of an active run's store while its files change.
READ_SECONDS: Final = 10.0
#: After this many seconds without a change, heartbeats are missing: check the run's process.
_QUIET_SECONDS: Final = 6.0
#: Maximum seconds between two listings of a folder.
_LIST_SECONDS: Final = 10.0
#: A store looks damaged while it is moved or copied, so report trouble only if it lasts this long.
_TROUBLE_SECONDS: Final = 5.0

_URGENT: Final = (LATCHES_NAME, INCIDENTS_NAME, ACKNOWLEDGEMENTS_NAME)
_STORE: Final = (STORE_NAME, f"{STORE_NAME}-wal")
_Stamps = tuple[FileStamp | None, ...]


@dataclass(frozen=True)
class Rules:
    """Rules for creating alerts.

    Attributes:
        kinds: the alert kinds to send.
        stalled_after: seconds without an update that count as a stall.
        started_at: alerts before this time are marked as past; seconds since the epoch.
        is_single: whether runs are checked only once, so that trouble is reported immediately.
        keep_seconds: how long the state of a run is kept in memory after its end, in seconds.
    """

    kinds: frozenset[str]
    stalled_after: float
    started_at: float
    is_single: bool = False
    keep_seconds: float = FAILING_SECONDS


class UpdateClock:
    """Measures the time since a run's last update; a new training process resets it."""

    def __init__(self) -> None:
        self._seen: tuple[object, int] | None = None  # process and update
        self._since = 0.0  # by the monotonic clock

    def note(self, process: object, update: int, age: float, ticks: float) -> float:
        """Return the seconds since the last update.

        Args:
            process: id of the training process.
            update: number of the last update.
            age: seconds since the last update according to the store; used by the first call only.
            ticks: current time on a monotonic clock, in seconds.
        """
        if self._seen is None:
            self._since = ticks - max(0.0, age)
        elif self._seen != (process, update):
            self._since = ticks
        self._seen = process, update
        return ticks - self._since


class RunPoll:
    """Polls one run.

    Args:
        directory: the run's directory.
        rules: rules for creating alerts.
        was_there: whether the run existed when the alert process started.
    """

    def __init__(self, directory: Path, rules: Rules, *, was_there: bool) -> None:
        self.directory = directory
        #: State at the last check; None before the first, and `keep_seconds` after the run's end.
        self.view: RunView | None = None
        self._status: StatusKind | None = None  # at the last check
        self._is_over = False
        self._rules = rules
        self._was_there = was_there
        self._follower: RunFollower | None = None
        self._clock = UpdateClock()
        self._urgent: _Stamps | None = None
        self._store: _Stamps | None = None
        self._changed_at = self._read_at = 0.0  # by the monotonic clock
        self._troubles: dict[str, float] = {}  # first seen, by key

    @property
    def is_new(self) -> bool:
        """Whether the run has not been checked yet."""
        return self._status is None

    @property
    def is_over(self) -> bool:
        """Whether the run had ended at the last check."""
        return self._is_over

    @property
    def is_waiting(self) -> bool:
        """Whether the run had no event at the last check."""
        return self._status in (None, StatusKind.WAITING)

    @property
    def is_training(self) -> bool:
        """Whether the run's process was sending heartbeats at the last check."""
        return self._status in (
            StatusKind.LIVE,
            StatusKind.STARTING,
            StatusKind.STUCK,
            StatusKind.DEGRADED,
        )

    def failure(self) -> str | None:
        """Return why the heartbeat fails for this run; None if nothing is wrong."""
        return None if self.view is None else failure_of(self.view)

    def check(
        self, now: float, ticks: float, earlier: Mapping[str, Alert], *, has_news: bool = False
    ) -> list[Alert] | None:
        """Return all alerts for the run, sent before or not; None if nothing was read.

        Args:
            now: current time in seconds since the epoch.
            ticks: current time on a monotonic clock, in seconds.
            earlier: alerts that were sent or claimed before, by key.
            has_news: whether alerts of this run are waiting to be sent; forces a read, because
                their details may have changed.
        """
        if self.view is not None and self._is_over and not self._is_kept(self.view, now):
            self.view = None
        if not self._is_due(ticks) and not has_news:
            return None
        is_first = self.is_new
        frame = self._read(now)
        self._status, self._is_over = frame.status.kind, frame.status.is_over
        acknowledged = read_acknowledgements(self.directory).entries
        run = frame.snapshot.run
        process = run.pid, run.process_start_time
        age = self._age(frame, now) if is_first else 0.0
        view = RunView(
            directory=self.directory,
            frame=frame,
            now=now,
            acknowledged=frozenset((one.head, one.light) for one in acknowledged),
            still_seconds=self._clock.note(process, run.update, age, ticks),
            stalled_after=self._rules.stalled_after,
            earlier=earlier,
        )
        self.view = view if self._is_kept(view) else None
        found = [alert for alert in alerts_of(view) if alert.kind in self._rules.kinds]
        return [self._marked(alert, is_first) for alert in self._lasting(found, ticks)]

    def _is_due(self, ticks: float) -> bool:
        store = _stamps(self.directory, _STORE)
        urgent = _stamps(self.directory, _URGENT)
        if store != self._store:
            self._store, self._changed_at = store, ticks
        is_urgent = urgent != self._urgent
        self._urgent = urgent
        if self.is_new or is_urgent or self._is_in_doubt():
            due = True
        elif self.is_over:
            due = self._changed_at > self._read_at
        else:
            waited = ticks - self._read_at
            quiet = ticks - self._changed_at
            # At the end of training the store is merged into one file and then stays unchanged.
            due = waited >= READ_SECONDS or (quiet >= _QUIET_SECONDS and waited >= _QUIET_SECONDS)
        if due:
            self._read_at = ticks
        return due

    def _is_kept(self, view: RunView, now: float | None = None) -> bool:
        """Return whether the run's state is still needed after this check."""
        ended = ended_at(view)
        now = view.now if now is None else now
        return not self._is_over or (ended is not None and now - ended < self._rules.keep_seconds)

    def _is_in_doubt(self) -> bool:
        """Return whether there is new trouble that must be checked again."""
        # Compare with the last read, so that trouble is read once more before it is reported.
        return any(self._read_at - since < _TROUBLE_SECONDS for since in self._troubles.values())

    def _read(self, now: float) -> Frame:
        if self._follower is None:
            self._follower = RunFollower(self.directory, brief=True)
        frame = self._follower.poll(now)
        while frame.is_behind:
            frame = self._follower.poll(now)
        if frame.status.kind in (StatusKind.DEAD, StatusKind.DEGRADED):
            # The process may have written its end between the read and the check of the process.
            # It is gone now, so one more read finds everything.
            frame = self._follower.poll(now)
        if frame.status.is_over and frame.completeness.unreadable is None:
            self._follower.close()
            self._follower = None
        return frame

    def _age(self, frame: Frame, now: float) -> float:
        """Return the seconds since the last update or process start, according to the store."""
        run = frame.snapshot.run
        begun = run.process_start_time or run.started_at or now
        if frame.status.is_over or not run.update:
            return now - begun
        try:
            events = RunReader(self.directory).read_last("ppo_update", 1)
        except RunStoreError:
            return 0.0
        updates = [event.time for event in events if isinstance(event.payload, PPOUpdatePayload)]
        return now - max([begun, *updates])

    def _lasting(self, alerts: Sequence[Alert], ticks: float) -> list[Alert]:
        """Return the alerts without trouble that has not lasted `_TROUBLE_SECONDS` yet."""
        if self._rules.is_single:
            return list(alerts)
        seen = {alert.key for alert in alerts if alert.kind == "trouble"}
        self._troubles = {key: self._troubles.get(key, ticks) for key in seen}
        lasting = {k for k, since in self._troubles.items() if ticks - since >= _TROUBLE_SECONDS}
        return [alert for alert in alerts if alert.kind != "trouble" or alert.key in lasting]

    def _marked(self, alert: Alert, is_first: bool) -> Alert:
        """Return an alert, marked as past if it happened before the alert process started."""
        if alert.time is None or alert.kind == "stalled":  # a stall found now is still current
            is_past = is_first and self._was_there and alert.kind != "stalled"
        else:
            is_past = alert.time < self._rules.started_at
        return msgspec.structs.replace(alert, past=True) if is_past else alert


class FolderPoll:
    """Lists the runs in a folder, periodically and when the folder changes.

    Args:
        folder: the folder that contains runs; it may not exist yet.
        rules: rules for creating alerts.
    """

    def __init__(self, folder: Path, rules: Rules) -> None:
        self._folder = folder
        self._rules = rules
        self._runs: dict[Path, RunPoll] = {}
        self._listed_at: float | None = None  # by the monotonic clock
        self._stamp: FileStamp | None = None

    def runs(self, ticks: float) -> list[RunPoll]:
        """Return the runs, newest first.

        Args:
            ticks: current time on a monotonic clock, in seconds.

        Raises:
            RunNotFoundError: the folder cannot be listed.
        """
        stamp = file_stamp(self._folder)  # changes with each new run
        waited = ticks - (self._listed_at or 0.0)
        if self._listed_at is None or stamp != self._stamp or waited >= _LIST_SECONDS:
            is_first = self._listed_at is None
            self._runs = {
                one: self._runs.get(one) or RunPoll(one, self._rules, was_there=is_first)
                for one in reversed(run_directories(self._folder))
            }
            self._listed_at, self._stamp = ticks, stamp
        return list(self._runs.values())


def _stamps(directory: Path, names: Sequence[str]) -> _Stamps:
    return tuple(file_stamp(directory / name) for name in names)
