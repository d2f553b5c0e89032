"""The alert process: look at runs, claim what is new, send it, record what was delivered."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from esper.karn.alerts.delivery import FIRST_WAIT, Delivery
from esper.karn.alerts.edges import Edge
from esper.karn.alerts.facts import RunView
from esper.karn.alerts.messages import Message, message_of, new_message_id
from esper.karn.alerts.polling import FolderPoll, Rules, RunPoll
from esper.karn.alerts.record import RECORD_NAME, AlertRecord, Debt, Told, this_process
from esper.karn.alerts.sinks.heartbeat import Heart, HeartbeatSink
from esper.karn.alerts.sinks.sink import Sink, SinkError
from esper.karn.store.liveness import process_start_time
from esper.karn.store.run_directory import RunNotFoundError

#: Edges that come within so many seconds after the first one are one message.
WINDOW_SECONDS: Final = 10.0
#: Seconds between two looks at the files of runs.
LOOK_SECONDS: Final = 2.0
#: Most seconds of one look for runs that were not looked at before.
_NEW_RUNS_SECONDS: Final = 2.0
#: Seconds after which claims of other processes are looked at again.
_DEBT_SECONDS: Final = 30.0
#: How long the end of the process waits for sinks that accept messages, in seconds.
_LAST_SECONDS: Final = 10.0
#: How long a process that was started with a run tries to deliver after its end, in seconds.
_RETRY_AT_END: Final = 600.0
#: A run whose program is gone and whose end is not known is given up after so many seconds.
_GIVE_UP_SECONDS: Final = 60.0
#: Tolerance between two readings of a process's start time, in seconds.
_CLOCK_STEP: Final = 2.0
#: Attempts of `--once`, and the seconds before the second one.
_ATTEMPTS_AT_ONCE: Final = 3


#: Takes the state of runs, the number of waiting messages by the name of their sink, and the number
#: of runs without a state.
Publish = Callable[[Sequence[RunView], Mapping[str, int], int], None]


@dataclass(frozen=True)
class Sources:
    """What is watched.

    Attributes:
        folders: folders of runs.
        runs: runs.
    """

    folders: tuple[Path, ...] = ()
    runs: tuple[Path, ...] = ()


@dataclass
class _Known:
    """A run's record, and what is known of it in memory."""

    record: AlertRecord
    told: Told
    edges: dict[str, Edge] = field(default_factory=dict)  # by key, with those of this process
    has_debts: bool = False  # of other processes
    is_unwritable: bool = False


class Alerting:
    """Watches runs and tells of them.

    Args:
        sources: what is watched.
        rules: what is told.
        sinks: where messages go.
        hearts: where the heartbeat goes.
        report: prints a sentence for the operator.
        publish: called after each look, for figures of the runs.
        window: seconds in which edges are one message.
        first_wait: seconds before the second attempt of a sink.
    """

    def __init__(
        self,
        sources: Sources,
        rules: Rules,
        sinks: Sequence[Sink],
        hearts: Sequence[HeartbeatSink],
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
        self._known: dict[Path, _Known] = {}
        self._pending: dict[tuple[Path, str], Edge] = {}
        self._pending_since: float | None = None  # by the monotonic clock
        self._debts_at = 0.0
        self._paths: dict[str, list[Path]] = {}  # runs of each message that is being sent
        self._unlisted: set[str] = set()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._sinks = {sink.id: sink for sink in sinks}
        self._deliveries = {
            sink.id: Delivery(sink, self._delivered, report, first_wait) for sink in sinks
        }
        self._beats = list(hearts)
        self._hearts = [Heart(heart, report) for heart in hearts]

    def stop(self) -> None:
        """End the watch; what was found is sent first."""
        self._stopping.set()

    def watch(self, with_process: int | None = None) -> bool:
        """Watch until stopped; return whether everything was delivered.

        Args:
            with_process: id of a process; once it is gone and the watched runs are over, the watch
                ends by itself.
        """
        started = None if with_process is None else process_start_time(with_process)
        gone_at: float | None = None
        for thread in (*self._deliveries.values(), *self._hearts):
            thread.start()
        while not self._stopping.is_set():
            self.look()
            if with_process is not None:
                is_gone = not _is_running(with_process, started)
                gone_at = (gone_at or time.monotonic()) if is_gone else None
                if gone_at is not None and self._is_finished(gone_at):
                    break
            self._stopping.wait(LOOK_SECONDS)
        self.look(is_last=True)
        end = time.monotonic() + (_RETRY_AT_END if gone_at is not None else _LAST_SECONDS)
        sent = [
            one.wait_until_sent(end, despite_failure=gone_at is not None)
            for one in self._deliveries.values()
        ]
        for delivery in self._deliveries.values():
            delivery.stop()
        for heart in self._hearts:
            heart.stop()
        return all(sent)

    def once(self) -> bool:
        """Look at all runs once, tell what is new; return whether everything was delivered."""
        self.look(is_last=True, is_whole=True)
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

    def _beat_once(self, heart: HeartbeatSink) -> bool:
        try:
            heart.beat(self._failures())
        except SinkError as error:
            self._report(f"{heart.name}: {error}")
            return False
        return True

    @property
    def polls(self) -> list[RunPoll]:
        """The runs that are watched now."""
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

    def look(self, *, is_last: bool = False, is_whole: bool = False) -> None:
        """Look at runs, and send what is due.

        Runs that were not looked at yet are read for a bounded time, newest first; the next look
        goes on with them. What is past waits until all are read.

        Args:
            is_last: whether to send what was found without waiting for more.
            is_whole: whether to look at all runs, however long that takes.
        """
        end = math.inf if is_whole else time.monotonic() + _NEW_RUNS_SECONDS
        owed: list[tuple[Path, Debt]] = []
        looks_at_debts = time.monotonic() - self._debts_at >= _DEBT_SECONDS
        if looks_at_debts:
            self._debts_at = time.monotonic()
        news = 0
        is_behind = False
        for poll in self.polls:
            if poll.is_new and news and time.monotonic() >= end:
                is_behind = True
                continue
            news += poll.is_new
            known = self._known.get(poll.directory)
            if known is None:
                known = self._known[poll.directory] = self._first(poll)
            if known.has_debts and looks_at_debts:
                owed += [(poll.directory, debt) for debt in self._taken_over(poll.directory, known)]
            self._look_at(poll, known)
        self._send_owed(owed)
        for heart in self._hearts:
            heart.note(self._failures())
        if self._publish is not None:
            views = [poll.view for poll in self.polls if poll.view is not None]
            waiting = {one.sink.name: one.waiting for one in self._deliveries.values()}
            self._publish(views, waiting, len(self.polls) - len(views))
        since = self._pending_since
        if since is not None and (is_last or time.monotonic() - since >= self._window):
            self._send_pending(with_past=not is_behind or is_last)

    def _look_at(self, poll: RunPoll, known: _Known) -> None:
        has_news = any(directory == poll.directory for directory, _ in self._pending)
        # A damaged store can cause any exception; the other runs must still be watched.
        try:
            found = poll.look(time.time(), time.monotonic(), known.edges, has_news=has_news)
        except Exception as error:  # noqa: BLE001
            self._report(f"{poll.directory.name} cannot be looked at: {error!r}")
            return
        if found is None or not self._sinks:  # a heartbeat alone tells no edges
            return
        current = {edge.key for edge in found}
        for edge in found:
            if edge.key not in known.edges:
                # The newest words: the operation of a light may be found a moment after it.
                self._pending[poll.directory, edge.key] = edge
                if self._pending_since is None:
                    self._pending_since = time.monotonic()
        for key in [key for key in self._pending if key[0] == poll.directory]:
            # A light that was acknowledged in the meantime needs no message.
            if key[1] not in current and self._pending[key].kind == "light":
                del self._pending[key]

    def _first(self, poll: RunPoll) -> _Known:
        """Read the record of a run that is looked at for the first time."""
        record = AlertRecord(poll.directory / RECORD_NAME)
        try:
            told = record.read()
        except OSError as error:
            self._report(f"{poll.directory / RECORD_NAME} cannot be read: {error.strerror}")
            told = Told()
        known = _Known(record, told, dict(told.edges), bool(told.debts))
        self._debts_at = 0.0 if told.debts else self._debts_at
        return known

    def _taken_over(self, directory: Path, known: _Known) -> list[Debt]:
        """Take over the messages about a run whose processes are gone."""
        try:
            taken = known.record.take_over(tuple(self._sinks), self._me, time.time())
            left = known.record.read().debts
        except OSError as error:
            self._complain(directory, known, error)
            return []
        known.has_debts = any(debt.owner != self._me for debt in left)
        return taken

    def _send_owed(self, owed: Sequence[tuple[Path, Debt]]) -> None:
        """Send the messages that other processes left, each under its id."""
        messages: dict[tuple[str, str], list[Edge]] = {}
        for directory, debt in owed:
            late = [msgspec.structs.replace(edge, past=True) for edge in debt.edges]
            messages.setdefault((debt.message, debt.sink), []).extend(late)
            with self._lock:
                self._paths.setdefault(debt.message, []).append(directory)
        for (message, sink), edges in messages.items():
            self._deliveries[sink].put(message_of(message, edges))

    def _send_pending(self, *, with_past: bool) -> None:
        """Claim what is pending and give it to the sinks."""
        pending = {key: one for key, one in self._pending.items() if with_past or not one.past}
        self._pending = {key: one for key, one in self._pending.items() if key not in pending}
        if not self._pending:
            self._pending_since = None
        if not pending:
            return
        message = new_message_id()
        by_run: dict[Path, list[Edge]] = {}
        for (directory, _), edge in pending.items():
            by_run.setdefault(directory, []).append(edge)
        edges: dict[str, list[Edge]] = {sink: [] for sink in self._sinks}
        for directory, found in by_run.items():
            for edge, sinks in self._claimed(directory, message, found):
                for sink in sinks:
                    edges[sink].append(edge)
        with self._lock:
            self._paths[message] = list(by_run)
        for sink, owed in edges.items():
            if owed:
                self._deliveries[sink].put(message_of(message, owed))

    def _claimed(
        self, directory: Path, message: str, edges: list[Edge]
    ) -> list[tuple[Edge, tuple[str, ...]]]:
        known = self._known[directory]
        known.edges |= {edge.key: edge for edge in edges}
        sinks = tuple(self._sinks)
        try:
            claimed = known.record.claim(message, edges, sinks, self._me, time.time())
        except FileNotFoundError:
            return []  # the run was removed
        except OSError as error:
            # Telling matters more than telling once: the disk may be full, which ended the run.
            self._complain(directory, known, error)
            return [(edge, sinks) for edge in edges]
        if len(claimed) < len(edges):
            known.has_debts = True  # another process has claimed some of them
        return claimed

    def _delivered(self, message: Message, sink: Sink) -> None:
        """Record that a sink has accepted a message; called from its thread."""
        with self._lock:
            directories = list(self._paths.get(message.id, ()))
        paths = {edge.path for edge in message.edges}
        for directory in directories:
            if str(directory.absolute()) in paths:
                known = self._known[directory]
                try:
                    known.record.delivered(message.id, sink.id, time.time())
                except FileNotFoundError:
                    continue  # the run was removed
                except OSError as error:
                    self._complain(directory, known, error)

    def _complain(self, directory: Path, known: _Known, error: OSError) -> None:
        """Say once that a record cannot be written."""
        if not known.is_unwritable:
            known.is_unwritable = True
            self._report(
                f"{directory / RECORD_NAME} cannot be written ({error.strerror}): after a restart "
                "its alerts may be told again"
            )

    def _failures(self) -> list[str]:
        return [words for poll in self.polls if (words := poll.failure()) is not None]

    def _is_finished(self, gone_at: float) -> bool:
        """Return whether all runs are over, or will not be known to be."""
        polls = self.polls
        if all(poll.is_over or poll.is_waiting for poll in polls):
            return True
        is_unknown = not any(poll.is_training for poll in polls)
        return is_unknown and time.monotonic() - gone_at > _GIVE_UP_SECONDS


def _is_running(pid: int, started: float | None) -> bool:
    """Return whether a process is still there that started at this time."""
    now = process_start_time(pid)
    return now is not None and started is not None and not abs(now - started) > _CLOCK_STEP
