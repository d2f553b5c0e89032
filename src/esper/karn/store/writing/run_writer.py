"""Writes a run's events into its store from a separate thread, and never stops the training.

`emit` encodes the event and puts it into a queue. The thread commits the queue every 200 ms, or at
once when an event is durable. A new latch is written to `latches.jsonl` first. `emit` never raises
because of the store: while it cannot be written, events wait in bounded memory and the thread
retries; events that do not fit are counted; the first failure and the recovery are reported.
"""

import atexit
import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self, cast, get_args

from esper.karn.store.errors import RunStoreError
from esper.karn.store.run_directory import STORE_NAME
from esper.karn.store.run_files.latch_file import LatchWriter
from esper.karn.store.run_files.side_files import SideFiles
from esper.karn.store.shared_disks import sentence_about, shared_disk_of
from esper.karn.store.sightings import has_sightings, reproduction_of, source_of
from esper.karn.store.tables.event_rows import update_index_of
from esper.karn.store.tables.thinning import COMMON_KINDS
from esper.karn.store.wal import LARGE_WAL_BYTES, wal_of
from esper.karn.store.writing.machine_load import GpuMeter, no_gpu
from esper.karn.store.writing.store_connection import (
    BUSY_MILLISECONDS,
    StoreConnection,
    StoredEvent,
)
from esper.karn.store.writing.wal_watch import WalWatch
from esper.leyline.telemetry import (
    KIND_BY_TYPE,
    EpisodesCompleted,
    IncidentRecorded,
    NonfiniteSighting,
    Notice,
    Payload,
    PPOUpdatePayload,
    RunStarted,
    encode_payload,
    kind_of,
)
from esper.leyline.text.plurals import counted, plural

HEARTBEAT_SECONDS: Final = 2.0
COMMIT_SECONDS: Final = 0.2
#: Maximum number and size of the events that wait while the store cannot be written.
QUEUE_LIMIT: Final = 16_384
QUEUE_BYTES: Final = 64 << 20
#: Maximum size of all waiting events once only durable ones are accepted.
QUEUE_BYTES_DURABLE: Final = 128 << 20
#: Maximum time that a durable `emit` waits for the disk.
DURABLE_SECONDS: Final = 10.0
_BATCH: Final = 4_096
_RETRY_SECONDS: Final = (0.1, 5.0)  # first and longest pause between two attempts
_CLOSE_SECONDS: Final = 5.0
_HURRY_SECONDS: Final = 0.1  # between two checks of whether to wait any longer
_THINNING_SECONDS: Final = 0.2  # per heartbeat, while the store is over its limit
_FINISH_SECONDS: Final = 2.0  # to wait for a moment without a reader, to make the store one file
#: Payloads that the writer's thread needs in addition to their bytes (`StoredEvent.payload`).
_Kept = PPOUpdatePayload | EpisodesCompleted | RunStarted | IncidentRecorded
_KEPT_TYPES: Final = frozenset(get_args(_Kept))
_UPDATE_KIND: Final = KIND_BY_TYPE[PPOUpdatePayload]
_STORE_ERRORS: Final = (sqlite3.Error, OSError, RunStoreError, UnicodeDecodeError)

#: Receives one line of text about a problem of the store.
Report = Callable[[str], None]


class RunWriter:
    """The only writer of a run's store. Thread-safe.

    Args:
        directory: the run's existing directory. An existing store is continued.
        report: receives one line about a shared disk, at the first failure, at the recovery, and at
            the end if events were lost. The writer's thread calls it, too; it must not block.
        limit_bytes: size of the store above which old steps, decisions and transitions are
            removed, and size of the WAL above which new ones are dropped. 0 for no limit.
        gpu: returns the GPU load of this process for the heartbeat; called from the writer's
            thread.
    """

    def __init__(
        self,
        directory: Path,
        report: Report | None = None,
        *,
        limit_bytes: int = 0,
        gpu: GpuMeter = no_gpu,
    ) -> None:
        directory = directory.absolute()
        self._path = directory / STORE_NAME
        self._report = report
        self._shared_disk = shared_disk_of(directory)
        if self._shared_disk:
            self._announce(sentence_about(self._shared_disk))
        self._limit_bytes = limit_bytes
        self._gpu = gpu
        self._queue: deque[StoredEvent] = deque()
        self._queue_bytes = 0
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._emitted = 0  # number of the last queued event
        self._tried = 0  # number of the last event with an attempted commit
        self._syncs_wanted = self._syncs_tried = 0
        self._in_last_try = 0  # events in the last attempt
        self._heartbeat_due = 0.0  # by the monotonic clock
        self._lost = 0
        self._updates_lost = 0
        self._last_error: str | None = None
        self._failing_since: float | None = None
        self._is_recovering = False  # written again, but some events still wait
        self._wal = WalWatch(wal_of(self._path).name, LARGE_WAL_BYTES, limit_bytes)
        self._is_hurried = False  # `emit` no longer waits
        self._is_closing = False
        self._is_closed = False
        self._latches_lock = threading.Lock()
        self._latches = LatchWriter(directory)
        # Capsules and checkpoints are removed some day, so their sightings are copied.
        self._latches.note_sightings(SideFiles(directory).records().sightings)
        self._thread = self._started()
        # The thread is a daemon, so that a forgotten close() cannot hang the interpreter. This
        # commits what is queued at exit.
        atexit.register(self.close)
        # A forked child has no such thread, and must never wait for a lock that it held.
        own = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget_at_exit(own()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def events_lost(self) -> int:
        """Number of events that could not be stored."""
        return self._lost

    @property
    def last_error(self) -> str | None:
        """The last error, as a sentence, whether or not it was recovered from."""
        return self._last_error

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._failing_since is not None

    def latches(self) -> list[tuple[int, NonfiniteSighting]]:
        """Return the first sighting of each head, quantity and kind in this run, with its update.

        Sightings of earlier processes of the run are included.
        """
        with self._latches_lock:
            return self._latches.sightings()

    def emit(self, payload: Payload, *, durable: bool = False) -> None:
        """Queue an event, stamped with the current time.

        Args:
            payload: the event.
            durable: whether to return only when the event is committed and synced, so that it
                survives `kill -9` and a power loss; or when the attempt has failed, or the store
                is known to be failing.

        Raises:
            TypeError: msgpack cannot encode a value of the payload.
        """
        data = encode_payload(payload)
        now = time.time()
        if isinstance(payload, (PPOUpdatePayload, IncidentRecorded)) and has_sightings(payload):
            with self._latches_lock:
                self._latches.note_update(payload)
        kept = None
        if type(payload) in _KEPT_TYPES:  # a third of the time of isinstance
            kept = cast(_Kept, payload)
        kind, update = kind_of(payload), update_index_of(payload)
        with self._changed:
            number = self._emitted + 1
            event = StoredEvent(number, now, kind, update, data, durable, kept)
            is_left_out = self._wal.is_full and kind in COMMON_KINDS
            if self._is_closing or is_left_out or not self._fits(event):
                self._count_lost(event)
                return
            self._emitted = number
            self._queue.append(event)
            self._queue_bytes += len(data)
        if durable:
            self._wait_until(lambda: self._tried >= number, DURABLE_SECONDS)

    def hurry(self) -> None:
        """Stop `emit` from waiting, from now on; a signal handler may call this.

        Events are still committed, as far as `close` has time.
        """
        self._is_hurried = True

    def flush(self, timeout: float = DURABLE_SECONDS) -> bool:
        """Wait until all events so far are committed and synced; return whether they are.

        Like a durable `emit`, it does not wait for a store that is known to be failing.
        """
        with self._changed:
            self._syncs_wanted += 1
            wanted = self._syncs_wanted
        self._wait_until(lambda: self._syncs_tried >= wanted, timeout)
        with self._changed:
            return self._syncs_tried >= wanted and self._failing_since is None

    def close(self, timeout: float = _CLOSE_SECONDS + BUSY_MILLISECONDS / 1000) -> None:
        """Commit the queue, make the store one plain file, and end the thread.

        Args:
            timeout: maximum time in seconds; events that are not committed by then are lost.
        """
        atexit.unregister(self.close)
        with self._changed:
            if self._is_closed:
                return
            self._is_closing = True
        self._wake.set()
        self._thread.join(timeout)
        with self._changed:
            self._is_closed = True
            for event in self._queue:
                self._count_lost(event)
            self._queue.clear()
        with self._latches_lock:
            self._latches.write()
            is_whole = self._latches.is_whole
        if self._lost:
            self._announce(_lost(self._lost, self._last_error))
        if not is_whole:
            self._announce("the lights of this run could not be written to latches.jsonl either")

    def _fits(self, event: StoredEvent) -> bool:
        size = self._queue_bytes + len(event.data)
        if event.is_durable:
            return size <= QUEUE_BYTES_DURABLE
        return len(self._queue) < QUEUE_LIMIT and size <= QUEUE_BYTES

    def _count_lost(self, event: StoredEvent) -> None:
        self._lost += 1
        self._updates_lost += event.kind == _UPDATE_KIND

    def _wait_until(self, is_done: Callable[[], bool], timeout: float) -> None:
        with self._changed:
            if self._is_thread_over and not self._is_closing:
                self._thread = self._started()
            if self._failing_since is not None:
                return
            self._wake.set()

            def is_over() -> bool:
                is_failing = self._failing_since is not None or self._is_thread_over
                return is_done() or is_failing or self._is_hurried

            end = time.monotonic() + timeout
            while (left := end - time.monotonic()) > 0:
                if self._changed.wait_for(is_over, min(left, _HURRY_SECONDS)):
                    return

    def _started(self) -> threading.Thread:
        self._is_thread_over = False
        thread = threading.Thread(target=self._run, name="run-writer", daemon=True)
        thread.start()
        return thread

    def _announce(self, line: str) -> None:
        if self._report is not None:
            # The output of the report may fail, too: a full disk, a closed terminal.
            with contextlib.suppress(OSError, ValueError):
                self._report(line)

    # The methods below run in the writer's thread.

    def _run(self) -> None:
        store = StoreConnection(self._path, self._gpu, self._shared_disk)
        try:
            pause = _RETRY_SECONDS[0]
            while True:
                is_last = self._is_closing
                try:
                    if self._write_what_is_due(store, is_last=is_last):
                        pause = _RETRY_SECONDS[0]
                        if is_last and not self._queue:
                            break
                        if len(self._queue) < _BATCH:
                            self._pause(COMMIT_SECONDS, for_close_only=False)
                        continue
                # Only this thread can store events, so it must survive any error, such as
                # exhausted memory or a bug in the writer.
                except Exception as error:  # noqa: BLE001
                    self._note_failure(store, repr(error))
                if is_last:
                    break
                # Durable events set the event that _pause waits for. They must not turn this pause
                # into a busy loop, so it only ends early at close().
                self._pause(pause, for_close_only=True)
                pause = min(2 * pause, _RETRY_SECONDS[1])
        finally:
            with self._changed:
                self._is_thread_over = True
                self._changed.notify_all()  # this thread writes nothing any more
            if self._is_closing:
                store.finish(_FINISH_SECONDS)
            else:
                store.abandon()  # another thread continues

    def _pause(self, seconds: float, *, for_close_only: bool) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._is_closing:
            self._wake.wait(left)
            self._wake.clear()
            if not for_close_only:
                return

    def _write_what_is_due(self, store: StoreConnection, *, is_last: bool) -> bool:
        """Write the queue and the heartbeat if due; return whether that succeeded."""
        is_due = time.monotonic() >= self._heartbeat_due
        if not (self._queue or is_due or is_last or self._syncs_wanted > self._syncs_tried):
            return True
        try:
            self._write(store, with_heartbeat=is_due or is_last)
        except _STORE_ERRORS as error:
            self._note_failure(store, str(error))
            return False
        if is_due:
            self._heartbeat_due = time.monotonic() + HEARTBEAT_SECONDS
            with self._latches_lock:
                self._latches.write()
        return True

    def _write(self, store: StoreConnection, *, with_heartbeat: bool) -> None:
        if store.open():
            self._join_latches(store)
            if store.count_committed():
                self._take_from_queue(self._in_last_try)
        with self._changed:
            batch = [self._queue[index] for index in range(min(len(self._queue), _BATCH))]
            is_all = len(batch) == len(self._queue)
            syncs = self._syncs_wanted if is_all else self._syncs_tried
            self._in_last_try = len(batch)
        recovered = self._failing_since
        notices = []
        if recovered is not None:
            notices.append(_notice_of_recovery(recovered, self._last_error, self._lost))
        refused = store.write([*notices, *batch])
        must_sync = syncs > self._syncs_tried
        if with_heartbeat or must_sync:
            store.synchronous(must_sync)
            error = refused[-1] if refused else self._last_error
            store.beat(self._lost + len(refused), error or "")
            self._look_at_wal(store)
            if self._limit_bytes and not self._wal.is_large:  # removing makes the WAL grow
                store.thin(self._limit_bytes, _THINNING_SECONDS)
        if refused:
            with self._changed:
                self._lost += len(refused)
                self._last_error = refused[-1]
        self._take_from_queue(len(batch), syncs)
        if recovered is not None:
            self._is_recovering = True
            self._announce(f"{self._path} is written again; events lost: {self._lost}")
        if self._is_recovering and is_all:
            self._is_recovering = False
            with self._latches_lock:
                self._latches.note_recovery(self._updates_lost)

    def _look_at_wal(self, store: StoreConnection) -> None:
        """Empty a large WAL; report once when that fails, and once when it succeeds again."""
        line = self._wal.update(store.shrink_wal(self._wal.large_bytes))
        if line is None:
            return
        if self._wal.is_full:
            with self._changed:
                self._last_error = line
        self._announce(line)
        store.write([_notice(line)])

    def _take_from_queue(self, number: int, syncs: int = 0) -> None:
        """Remove written events from the queue, and wake the threads that wait for them."""
        with self._changed:
            for _ in range(number):
                event = self._queue.popleft()
                self._queue_bytes -= len(event.data)
                self._tried = event.number
            self._syncs_tried = max(self._syncs_tried, syncs)
            self._failing_since = None
            self._changed.notify_all()

    def _join_latches(self, store: StoreConnection) -> None:
        """Copy latches between the store and `latches.jsonl` in both directions."""
        stored: list[tuple[int, NonfiniteSighting]] = []
        with contextlib.suppress(sqlite3.DatabaseError):  # of a damaged table
            stored = store.latches()
        with self._latches_lock:
            self._latches.note_store(store.store_id, store.last_id)
            self._latches.note_sightings(stored)
            known = self._latches.sightings()
        in_store = {_what_is_known(seen) for _, seen in stored}
        store.join_latches([one for one in known if _what_is_known(one[1]) not in in_store])

    def _note_failure(self, store: StoreConnection, error: str) -> None:
        store.abandon()
        sentence = f"{self._path} could not be written: {error}"
        is_first = self._failing_since is None
        with self._changed:
            self._last_error = sentence
            if is_first:
                self._failing_since = time.time()
            self._changed.notify_all()
        if is_first:
            with self._latches_lock:
                self._latches.note_failure(error)
            self._announce(
                f"{sentence}; training continues, events wait in memory, and lights are written "
                "to latches.jsonl"
            )


def _what_is_known(seen: NonfiniteSighting) -> tuple[object, ...]:
    return source_of(seen), reproduction_of(seen), seen.planted


def _notice_of_recovery(since: float, error: str | None, lost: int) -> StoredEvent:
    again = f"the store is written again after {time.time() - since:.1f} s"
    return _notice(f"{again} ({error}); events lost: {lost}")


def _notice(text: str) -> StoredEvent:
    notice = Notice(level="warning", text=text)
    return StoredEvent(0, time.time(), kind_of(notice), None, encode_payload(notice))


def _lost(number: int, error: str | None) -> str:
    events = f"{counted(number, 'event')} {plural(number, 'was', 'were')}"
    return f"{events} not stored ({error}); lights are in latches.jsonl"


def _forget_at_exit(writer: RunWriter | None) -> None:
    if writer is not None:
        atexit.unregister(writer.close)
