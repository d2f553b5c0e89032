"""Writes a run's events into its store, from a thread of its own, and never harms the training.

`emit` encodes the event and puts it into a queue; the thread commits what has gathered there every
50 ms, or at once when an event is to be durable. Whatever is wrong with the store, `emit` does not
raise: events wait in a bounded queue while the thread tries again, those that no longer fit are
counted, and the count, the last error and a notice are written as soon as anything can be.
"""

import atexit
import contextlib
import os
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from esper import __version__
from esper.karn.liveness import process_start_time
from esper.karn.run_directory import STORE_NAME
from esper.karn.run_tables import (
    INSERT_EVENTS,
    INSERT_HEAD_HEALTH,
    JOIN_LATCH,
    JOIN_SIGHTING,
    REPLACE_HEARTBEAT,
    RunStoreError,
    check_store,
    create_tables,
    head_health_rows,
    insert_rows,
    latch_rows,
    sighting_rows,
    update_index_of,
)
from esper.leyline.telemetry import (
    Notice,
    Payload,
    PPOUpdatePayload,
    RunStarted,
    encode_payload,
    kind_of,
)

HEARTBEAT_SECONDS: Final = 2.0
COMMIT_SECONDS: Final = 0.05
#: Events that wait for a store that cannot be written; durable ones are kept beyond it.
QUEUE_LIMIT: Final = 16_384
#: How long a durable `emit` waits for a disk that does not answer at all.
DURABLE_SECONDS: Final = 10.0
_BATCH: Final = 4_096
_BUSY_MILLISECONDS: Final = 2_000
_RETRY_SECONDS: Final = (0.1, 5.0)  # first and longest pause between two tries
_CLOSE_SECONDS: Final = 5.0
_FINISH_SECONDS: Final = 2.0  # for a moment without a reader, in which the store becomes one file
_STORE_ERRORS = (sqlite3.Error, OSError, RunStoreError)
#: What SQLite says of a value that no store would take: trying again cannot help.
_VALUE_ERRORS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, OverflowError)


class _Waiting(NamedTuple):
    number: int  # in the order of emission, counted from 1
    time: float
    payload: Payload
    data: bytes


class RunWriter:
    """The one writer of a run's store; use it from any thread.

    Args:
        directory: the run's directory, which exists. A store that is there is written on.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory.absolute() / STORE_NAME
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._emitted = 0  # number of the last event that was queued
        self._tried = 0  # up to which number a commit has been tried
        self._lost = 0
        self._last_error: str | None = None
        self._failing_since: float | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="run-writer", daemon=True)
        self._thread.start()
        # The thread is a daemon so that a forgotten close() cannot hang the interpreter; this
        # brings what is queued into the store all the same.
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def events_lost(self) -> int:
        """Events that will never be in the store."""
        return self._lost

    @property
    def last_error(self) -> str | None:
        """The last thing that went wrong, as a sentence, whether or not it has passed."""
        return self._last_error

    @property
    def is_failing(self) -> bool:
        """Whether the last try to write failed."""
        return self._failing_since is not None

    def emit(self, payload: Payload, *, durable: bool = False) -> None:
        """Queue an event, stamped with the time of now.

        Args:
            payload: what happened.
            durable: return only when the event is committed, so that it survives the process being
                killed; or when a try to commit it has failed, or the store is known to be failing.

        Raises:
            TypeError: the payload holds a value that msgpack has no form for.
        """
        data = encode_payload(payload)
        now = time.time()
        with self._changed:
            if self._is_closing or (len(self._queue) >= QUEUE_LIMIT and not durable):
                self._lost += 1
                return
            self._emitted += 1
            number = self._emitted
            self._queue.append(_Waiting(number, now, payload, data))
        if durable:
            self._wait_for(number, DURABLE_SECONDS)

    def flush(self, timeout: float = DURABLE_SECONDS) -> bool:
        """Wait until all that was emitted so far is committed; return whether it is.

        Like a durable `emit` it does not wait for a store that is known to be failing.
        """
        self._wait_for(self._emitted, timeout)
        with self._changed:
            return not self._queue and self._failing_since is None

    def close(self) -> None:
        """Commit what is queued, make the store one plain file, and end the thread."""
        atexit.unregister(self.close)
        with self._changed:
            self._is_closing = True
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS + _BUSY_MILLISECONDS / 1000)
        with self._changed:
            self._lost += len(self._queue)
            self._queue.clear()

    def _wait_for(self, number: int, timeout: float) -> None:
        with self._changed:
            if self._failing_since is not None:
                return
            self._wake.set()
            self._changed.wait_for(
                lambda: self._tried >= number or not self._thread.is_alive(), timeout
            )

    # What follows runs in the thread.

    def _run(self) -> None:
        store = _Store(self._path)
        pause = _RETRY_SECONDS[0]
        heartbeat_due = 0.0
        try:
            while True:
                is_last = self._is_closing
                is_due = time.monotonic() >= heartbeat_due
                if self._queue or is_due or is_last:
                    if self._try_to_write(store, with_heartbeat=is_due or is_last):
                        pause = _RETRY_SECONDS[0]
                        if is_due:
                            heartbeat_due = time.monotonic() + HEARTBEAT_SECONDS
                    elif is_last:
                        break
                    else:
                        # Durable events set the flag that _pause sleeps on, and must not turn the
                        # pause between tries into a busy loop: so this waits for close() only.
                        self._pause(pause, for_close_only=True)
                        pause = min(2 * pause, _RETRY_SECONDS[1])
                        continue
                if is_last and not self._queue:
                    break
                if not self._queue_is_long():
                    self._pause(COMMIT_SECONDS, for_close_only=False)
        except BaseException as error:
            self._note_failure(f"the thread that writes {self._path} failed: {error!r}")
            raise
        finally:
            store.finish()

    def _queue_is_long(self) -> bool:
        return len(self._queue) >= _BATCH

    def _pause(self, seconds: float, *, for_close_only: bool) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._is_closing:
            self._wake.wait(left)
            self._wake.clear()
            if not for_close_only:
                return

    def _try_to_write(self, store: "_Store", *, with_heartbeat: bool) -> bool:
        with self._changed:
            batch = [self._queue[index] for index in range(min(len(self._queue), _BATCH))]
        recovered = self._failing_since
        notices = []
        if recovered is not None:
            notices.append(_notice_of_recovery(recovered, self._last_error, self._lost))
        try:
            store.open()
            refused = store.write([*notices, *batch])
            if with_heartbeat:
                error = refused[-1] if refused else self._last_error
                store.beat(self._lost + len(refused), error or "")
        except _STORE_ERRORS as error:
            store.abandon()
            self._note_failure(f"{self._path} could not be written: {error}")
            return False
        with self._changed:
            for _ in batch:
                self._queue.popleft()
            if refused:
                self._lost += len(refused)
                self._last_error = refused[-1]
            if batch:
                self._tried = batch[-1].number
            self._failing_since = None
            self._changed.notify_all()
        return True

    def _note_failure(self, sentence: str) -> None:
        with self._changed:
            self._last_error = sentence
            if self._failing_since is None:
                self._failing_since = time.time()
            self._tried = self._emitted
            self._changed.notify_all()


def _notice_of_recovery(since: float, error: str | None, lost: int) -> _Waiting:
    now = time.time()
    text = f"the store is written again after {now - since:.1f} s ({error}); events lost: {lost}"
    notice = Notice(level="warning", text=text)
    return _Waiting(0, now, notice, encode_payload(notice))


class _Store:
    """The thread's connection: opened when needed, dropped on error, and known by its file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode
        self._start: _Waiting | None = None
        self._pid = os.getpid()
        self._process_start_time = process_start_time(self._pid) or 0.0
        self._machine = socket.gethostname()

    def open(self) -> None:
        """Make sure that there is a connection, and that it is to the file that has the name.

        A file that was removed can be written on for ever without an error (POSIX keeps it until
        it is closed), and nobody would see it.
        """
        if self._connection is not None:
            if self._file == _identity(self._path):
                return
            self.abandon()
        was_open = self._file is not None
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            timeout=_BUSY_MILLISECONDS / 1000,
            check_same_thread=False,
        )
        try:
            is_made = check_store(connection, str(self._path))
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            create_tables(connection, __version__)  # an older store may lack one that was added
        except (sqlite3.Error, RunStoreError):
            connection.close()
            raise
        self._connection = connection
        self._file = _identity(self._path)
        if was_open and not is_made and self._start is not None:
            self._write([self._start])  # else the new store would not know what it is about

    def write(self, batch: Sequence[_Waiting]) -> list[str]:
        """Commit a batch of events; return why some were refused, a sentence for each."""
        if not batch:
            return []
        try:
            self._write(batch)
        except _VALUE_ERRORS as error:
            self._roll_back()
            if len(batch) == 1:
                return [f"a {kind_of(batch[0].payload)} event was refused by the store: {error}"]
            return [sentence for waiting in batch for sentence in self.write([waiting])]
        return []

    def _write(self, batch: Sequence[_Waiting]) -> None:
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        insert_rows(connection, INSERT_EVENTS, [_event_row(waiting) for waiting in batch])
        updates = [w.payload for w in batch if isinstance(w.payload, PPOUpdatePayload)]
        figures = [row for update in updates for row in head_health_rows(update)]
        insert_rows(connection, INSERT_HEAD_HEALTH, figures)
        if latched := [row for update in updates for row in latch_rows(update)]:
            connection.executemany(JOIN_LATCH, latched)
            rows = (row for update in updates for row in sighting_rows(update))
            connection.executemany(JOIN_SIGHTING, rows)
        for waiting in batch:
            if isinstance(waiting.payload, RunStarted):
                self._start = waiting
        connection.execute("COMMIT")

    def beat(self, events_lost: int, error: str) -> None:
        """Replace the heartbeat."""
        import psutil

        assert self._connection is not None
        self._connection.execute(
            REPLACE_HEARTBEAT,
            (
                time.time(),
                self._pid,
                self._process_start_time,
                self._machine,
                events_lost,
                psutil.Process(self._pid).memory_info().rss,
                error,
            ),
        )

    def abandon(self) -> None:
        """Drop a connection that failed; what was not committed is undone by SQLite."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # it is being dropped because of one
                self._connection.close()
            self._connection = None

    def finish(self) -> None:
        """Turn the store into one plain file; while someone reads in it, leave it in WAL mode."""
        connection = self._connection
        if connection is None:
            return
        connection.execute("PRAGMA busy_timeout = 0")
        # Readers let go within milliseconds, or at their next look when nothing is new, so there is
        # a moment without one. Whatever fails here, all events are committed and the store opens as
        # it is.
        end = time.monotonic() + _FINISH_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                if connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",):
                    break
            time.sleep(0.01)
        self.abandon()

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _event_row(waiting: _Waiting) -> tuple[float, str, int | None, bytes]:
    payload = waiting.payload
    return waiting.time, kind_of(payload), update_index_of(payload), waiting.data


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
