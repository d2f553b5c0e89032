"""The alert process: check runs, claim new alerts, send them, record their delivery."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from esper.karn.alerts.alert_types import Alert
from esper.karn.alerts.delivery import FIRST_WAIT, Delivery
from esper.karn.alerts.facts import RunView
from esper.karn.alerts.messages import Message, message_of, new_message_id
from esper.karn.alerts.polling import FolderPoll, Rules, RunPoll
from esper.karn.alerts.record import (
    RECORD_NAME,
    AlertHistory,
    AlertRecord,
    Undelivered,
    this_process,
)
from esper.karn.alerts.sinks.heartbeat import HeartbeatSink, HeartbeatThread
from esper.karn.alerts.sinks.sink import Sink, SinkError
from esper.karn.store.liveness import process_start_time
from esper.karn.store.run_directory import RunNotFoundError

#: Alerts found within this many seconds after the first one are sent as one message.
WINDOW_SECONDS: Final = 10.0
#: Seconds between two checks of the runs' files.
CHECK_SECONDS: Final = 2.0
#: Time limit per check for reading runs for the first time, in seconds.
_NEW_RUNS_SECONDS: Final = 2.0
#: Seconds between two checks of claims made by other processes.
_CLAIM_SECONDS: Final = 30.0
#: At exit, the maximum wait for sinks that accept messages, in seconds.
_LAST_SECONDS: Final = 10.0
#: Maximum time for retries after the run's end, for a process started with a run, in seconds.
_RETRY_AT_END: Final = 600.0
#: Wait for a run whose program is gone and whose store shows no end, in seconds.
_GIVE_UP_SECONDS: Final = 60.0
#: Tolerance between two readings of a process's start time, in seconds.
_CLOCK_STEP: Final = 2.0
#: Maximum number of attempts per message with `--once`.
_ATTEMPTS_AT_ONCE: Final = 3


#: Receives the runs' states, the number of queued messages per sink name, and the number of runs
#: whose state is not kept.
Publish = Callable[[Sequence[RunView], Mapping[str, int], int], None]


@dataclass(frozen=True)
class Sources:
    """The folders and runs to watch.

    Attributes:
        folders: folders that contain runs.
        runs: directories of single runs.
    """

    folders: tuple[Path, ...] = ()
    runs: tuple[Path, ...] = ()


@dataclass
class _RunState:
    """The alert record of one run, and its alerts so far."""

    record: AlertRecord
    alerts: dict[str, Alert] = field(default_factory=dict)  # by key; recorded or found here
    has_foreign_claims: bool = False  # another process has claimed messages
    is_unwritable: bool = False


class Alerting:
    """Watches runs and sends alerts.

    Args:
        sources: the folders and runs to watch.
        rules: which alerts to send.
        sinks: destinations of messages.
        heartbeats: destinations of heartbeats.
        report: prints a sentence for the operator.
        publish: called after each check with the runs' states, to export metrics.
        window: seconds during which alerts are collected into one message.
        first_wait: seconds before the first retry.
    """

    def __init__(
        self,
        sources: Sources,
        rules: Rules,
        sinks: Sequence[Sink],
        heartbeats: Sequence[HeartbeatSink],
        report: Callable[[str], None],
        *,
        publish: Publish | None = None,
        window: float = WINDOW_SECONDS,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        self._rules = rules
        self._folders = [FolderPoll(folder, rules) for folder in sources.folders]
        self._runs = [RunPoll(run, rules, was_there=True) for run in sources.runs]
        self._report = report
        self._publish = publish
        self._window = window
        self._me = this_process()
        self._states: dict[Path, _RunState] = {}
        self._pending: dict[tuple[Path, str], Alert] = {}
        self._pending_since: float | None = None  # by the monotonic clock
        self._claims_checked_at = 0.0
        self._paths: dict[str, list[Path]] = {}  # runs by id of a message that is being sent
        self._unlisted: set[str] = set()  # errors of listing folders that were printed
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._sinks = {sink.id: sink for sink in sinks}
        self._deliveries = {
            sink.id: Delivery(sink, self._delivered, report, first_wait) for sink in sinks
        }
        self._beats = list(heartbeats)
        self._heartbeats = [HeartbeatThread(heartbeat, report) for heartbeat in heartbeats]

    def stop(self) -> None:
        """Stop watching after sending the alerts found so far."""
        self._stopping.set()

    def watch(self, with_process: int | None = None) -> bool:
        """Watch until stopped; return whether everything was delivered.

        Args:
            with_process: id of a process. Watching also ends when this process is gone and the
                watched runs have ended.
        """
        started = None if with_process is None else process_start_time(with_process)
        gone_at: float | None = None
        for thread in (*self._deliveries.values(), *self._heartbeats):
            thread.start()
        while not self._stopping.is_set():
            self.check_runs()
            if with_process is not None:
                is_gone = not _is_running(with_process, started)
                gone_at = (gone_at or time.monotonic()) if is_gone else None
                if gone_at is not None and self._is_finished(gone_at):
                    break
            self._stopping.wait(CHECK_SECONDS)
        self.check_runs(is_last=True)
        end = time.monotonic() + (_RETRY_AT_END if gone_at is not None else _LAST_SECONDS)
        sent = [
            one.wait_until_sent(end, despite_failure=gone_at is not None)
            for one in self._deliveries.values()
        ]
        for delivery in self._deliveries.values():
            delivery.stop()
        for heartbeat in self._heartbeats:
            heartbeat.stop()
        return all(sent)

    def once(self) -> bool:
        """Check all runs once and send new alerts; return whether everything was delivered."""
        self.check_runs(is_last=True, is_whole=True)
        for delivery in self._deliveries.values():
            delivery.start()
        seconds = sum(FIRST_WAIT * 2**attempt for attempt in range(_ATTEMPTS_AT_ONCE - 1))
        end = time.monotonic() + seconds + _LAST_SECONDS
        sent = [
            delivery.wait_until_sent(end, despite_failure=True)
            for delivery in self._deliveries.values()
        ]
        for delivery in self._deliveries.values():
            delivery.stop()
        return all([*sent, *map(self._beat_once, self._beats)])

    def _beat_once(self, heartbeat: HeartbeatSink) -> bool:
        try:
            heartbeat.beat(self._failures())
        except SinkError as error:
            self._report(f"{heartbeat.name}: {error}")
            return False
        return True

    @property
    def polls(self) -> list[RunPoll]:
        """The runs that are currently watched."""
        ticks = time.monotonic()
        found = list(self._runs)
        for folder in self._folders:
            try:
                found += folder.runs(ticks)
            except RunNotFoundError as error:
                if str(error) not in self._unlisted:
                    self._unlisted.add(str(error))
                    self._report(str(error))
        return found

    def check_runs(self, *, is_last: bool = False, is_whole: bool = False) -> None:
        """Check the runs and send the messages that are due.

        Reading new runs has a time limit per call, newest first; the next call continues. Alerts
        about the past are held back until all runs were read.

        Args:
            is_last: whether to send the alerts found so far without waiting for more.
            is_whole: whether to read all runs, without the time limit.
        """
        end = math.inf if is_whole else time.monotonic() + _NEW_RUNS_SECONDS
        taken: list[tuple[Path, Undelivered]] = []
        checks_claims = time.monotonic() - self._claims_checked_at >= _CLAIM_SECONDS
        if checks_claims:
            self._claims_checked_at = time.monotonic()
        news = 0
        is_behind = False
        for poll in self.polls:
            if poll.is_new and news and time.monotonic() >= end:
                is_behind = True
                continue
            news += poll.is_new
            state = self._states.get(poll.directory)
            if state is None:
                state = self._states[poll.directory] = self._first(poll)
            if state.has_foreign_claims and checks_claims:
                taken += [
                    (poll.directory, entry) for entry in self._taken_over(poll.directory, state)
                ]
            self._check_run(poll, state)
        self._send_taken_over(taken)
        for heartbeat in self._heartbeats:
            heartbeat.set_failures(self._failures())
        if self._publish is not None:
            views = [poll.view for poll in self.polls if poll.view is not None]
            waiting = {one.sink.name: one.waiting for one in self._deliveries.values()}
            self._publish(views, waiting, len(self.polls) - len(views))
        since = self._pending_since
        if since is not None and (is_last or time.monotonic() - since >= self._window):
            self._send_pending(with_past=not is_behind or is_last)

    def _check_run(self, poll: RunPoll, state: _RunState) -> None:
        has_news = any(directory == poll.directory for directory, _ in self._pending)
        # A damaged store can cause any exception; the other runs must still be watched.
        try:
            found = poll.check(time.time(), time.monotonic(), state.alerts, has_news=has_news)
        except Exception as error:  # noqa: BLE001
            self._report(f"{poll.directory.name} cannot be checked: {error!r}")
            return
        if found is None or not self._sinks:  # a heartbeat alone sends no alerts
            return
        current = {alert.key for alert in found}
        for alert in found:
            if alert.key not in state.alerts:
                # Keep the newest text: a light's first operation may be found a moment later.
                self._pending[poll.directory, alert.key] = alert
                if self._pending_since is None:
                    self._pending_since = time.monotonic()
        for key in [key for key in self._pending if key[0] == poll.directory]:
            # A light that was acknowledged in the meantime needs no message.
            if key[1] not in current and self._pending[key].kind == "light":
                del self._pending[key]

    def _first(self, poll: RunPoll) -> _RunState:
        """Read the alert record of a run that is checked for the first time."""
        record = AlertRecord(poll.directory / RECORD_NAME)
        try:
            history = record.read()
        except OSError as error:
            self._report(f"{poll.directory / RECORD_NAME} cannot be read: {error.strerror}")
            history = AlertHistory()
        state = _RunState(record, dict(history.alerts), bool(history.undelivered))
        self._claims_checked_at = 0.0 if history.undelivered else self._claims_checked_at
        return state

    def _taken_over(self, directory: Path, state: _RunState) -> list[Undelivered]:
        """Take over undelivered messages about a run from processes that are gone."""
        try:
            taken = state.record.take_over(tuple(self._sinks), self._me, time.time())
            left = state.record.read().undelivered
        except OSError as error:
            self._warn_unwritable(directory, state, error)
            return []
        state.has_foreign_claims = any(entry.owner != self._me for entry in left)
        return taken

    def _send_taken_over(self, taken: Sequence[tuple[Path, Undelivered]]) -> None:
        """Send the messages taken over from other processes, each with its original id."""
        messages: dict[tuple[str, str], list[Alert]] = {}
        for directory, entry in taken:
            late = [msgspec.structs.replace(alert, past=True) for alert in entry.alerts]
            messages.setdefault((entry.message, entry.sink), []).extend(late)
            with self._lock:
                self._paths.setdefault(entry.message, []).append(directory)
        for (message, sink), alerts in messages.items():
            self._deliveries[sink].put(message_of(message, alerts))

    def _send_pending(self, *, with_past: bool) -> None:
        """Claim the pending alerts and queue them for the sinks."""
        pending = {key: one for key, one in self._pending.items() if with_past or not one.past}
        self._pending = {key: one for key, one in self._pending.items() if key not in pending}
        if not self._pending:
            self._pending_since = None
        if not pending:
            return
        message = new_message_id()
        by_run: dict[Path, list[Alert]] = {}
        for (directory, _), alert in pending.items():
            by_run.setdefault(directory, []).append(alert)
        alerts: dict[str, list[Alert]] = {sink: [] for sink in self._sinks}
        for directory, found in by_run.items():
            for alert, sinks in self._claimed(directory, message, found):
                for sink in sinks:
                    alerts[sink].append(alert)
        with self._lock:
            self._paths[message] = list(by_run)
        for sink, due in alerts.items():
            if due:
                self._deliveries[sink].put(message_of(message, due))

    def _claimed(
        self, directory: Path, message: str, alerts: list[Alert]
    ) -> list[tuple[Alert, tuple[str, ...]]]:
        state = self._states[directory]
        state.alerts |= {alert.key: alert for alert in alerts}
        sinks = tuple(self._sinks)
        try:
            claimed = state.record.claim(message, alerts, sinks, self._me, time.time())
        except FileNotFoundError:
            return []  # the run was removed
        except OSError as error:
            # Sending matters more than sending once: a full disk may be what ended the run.
            self._warn_unwritable(directory, state, error)
            return [(alert, sinks) for alert in alerts]
        if len(claimed) < len(alerts):
            state.has_foreign_claims = True  # another process has claimed some of them
        return claimed

    def _delivered(self, message: Message, sink: Sink) -> None:
        """Record that a sink accepted a message; called from the sink's thread."""
        with self._lock:
            directories = list(self._paths.get(message.id, ()))
        paths = {alert.path for alert in message.alerts}
        for directory in directories:
            if str(directory.absolute()) in paths:
                state = self._states[directory]
                try:
                    state.record.delivered(message.id, sink.id, time.time())
                except FileNotFoundError:
                    continue  # the run was removed
                except OSError as error:
                    self._warn_unwritable(directory, state, error)

    def _warn_unwritable(self, directory: Path, state: _RunState, error: OSError) -> None:
        """Print once that a run's alert record cannot be written."""
        if not state.is_unwritable:
            state.is_unwritable = True
            self._report(
                f"{directory / RECORD_NAME} cannot be written ({error.strerror}): its alerts may "
                "be sent again after a restart"
            )

    def _failures(self) -> list[str]:
        return [words for poll in self.polls if (words := poll.failure()) is not None]

    def _is_finished(self, gone_at: float) -> bool:
        """Return whether all runs have ended, or it is time to stop waiting for their end."""
        polls = self.polls
        if all(poll.is_over or poll.is_waiting for poll in polls):
            return True
        is_unknown = not any(poll.is_training for poll in polls)
        return is_unknown and time.monotonic() - gone_at > _GIVE_UP_SECONDS


def _is_running(pid: int, started: float | None) -> bool:
    """Return whether the process with this id and start time is running."""
    now = process_start_time(pid)
    return now is not None and started is not None and not abs(now - started) > _CLOCK_STEP
