"""The writer's connection to a run's store: opened when needed, closed after an error.

Durable events are synced to the disk before `write` returns; SQLite syncs all others when it copies
the WAL into the database. docs/store.md says what is promised.
"""

import contextlib
import os
import socket
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from esper.karn.store.file_stamps import file_identity
from esper.karn.store.liveness import pid_namespace, process_start_time
from esper.karn.store.tables.event_rows import INSERT_EVENTS
from esper.karn.store.tables.row_insertion import insert_rows
from esper.karn.store.tables.run_tables import (
    REPLACE_HEARTBEAT,
    check_store,
    create_tables,
    store_id_of,
)
from esper.karn.store.tables.sighting_rows import (
    JOIN_LATCH,
    JOIN_SIGHTING,
    latch_row,
    latch_rows,
    sighting_row,
    sighting_rows,
    sightings_in,
)
from esper.karn.store.tables.thinning import thin
from esper.karn.store.tables.update_tables import INSERT_HEAD_HEALTH, head_health_rows, write_rows
from esper.karn.store.wal import wal_of
from esper.karn.store.writing.machine_load import GpuMeter, LoadMeter, no_gpu
from esper.leyline.files.durable_files import sync_directory
from esper.leyline.telemetry import (
    EpisodesCompleted,
    IncidentRecorded,
    NonfiniteSighting,
    PPOUpdatePayload,
    RunStarted,
)
from esper.leyline.version import VERSION

BUSY_MILLISECONDS: Final = 2_000
#: The WAL's file is truncated to this size when SQLite restarts it: every 4 MB, unless a reader is
#: active.
_USUAL_WAL_BYTES: Final = 16 << 20
_THINNED_AT_ONCE: Final = 512
#: Number of the newest events that are never removed: the cockpit shows them in full.
_NEVER_THINNED: Final = 20_000
#: SQLite's errors for values that no store accepts: a retry cannot help.
_VALUE_ERRORS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, OverflowError)


class StoredEvent(NamedTuple):
    """An event that waits to be stored."""

    number: int  # in the order of emission, counted from 1; 0 for notices of the writer itself
    time: float  # seconds since the epoch
    kind: str
    update_index: int | None
    data: bytes
    is_durable: bool = False
    #: Source of the rows in other tables, and of the first event of a store that replaces another.
    payload: PPOUpdatePayload | EpisodesCompleted | RunStarted | IncidentRecorded | None = None


class StoreConnection:
    """One writer's connection to the store of a run.

    Args:
        path: path of the store.
        gpu: returns the GPU load of this process.
        shared_disk: type of its file system if machines may share it; else empty.
    """

    def __init__(self, path: Path, gpu: GpuMeter = no_gpu, shared_disk: str = "") -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode
        self._start: StoredEvent | None = None
        self._pid = os.getpid()
        self._process_start_time = process_start_time(self._pid) or 0.0
        self._pid_namespace = pid_namespace()
        self._machine = socket.gethostname()
        self._meter = LoadMeter(self._pid, gpu)
        self._is_synchronous = True  # SQLite's default: every commit is synced
        self._last_id = 0
        # Of an attempt to commit: store, its last id before, and number of events.
        self._unsure: tuple[str, int, int] | None = None
        self.store_id = ""
        self._shared_disk = shared_disk

    @property
    def last_id(self) -> int:
        """Id of the newest event that this connection has seen or written."""
        return self._last_id

    def open(self) -> bool:
        """Connect to the file that currently has the store's name.

        A removed file can be written without an error until it is closed (POSIX), but no reader
        would see it.

        Returns:
            Whether this call opened the store.

        Raises:
            sqlite3.Error, OSError, RunStoreError: the file cannot be opened, or is not a run's
                store.
        """
        if self._connection is not None:
            if self._file == file_identity(self._path):
                return False
            self.abandon()
        was_open = self._file is not None
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            timeout=BUSY_MILLISECONDS / 1000,
            check_same_thread=False,
        )
        try:
            is_made = check_store(connection, str(self._path))
            self._set_journal_mode(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # fsync is not enough on macOS
            connection.execute(f"PRAGMA journal_size_limit = {_USUAL_WAL_BYTES}").fetchall()
            # A store of an older version may lack tables.
            create_tables(connection, VERSION, () if is_made else self._beat(0, ""))
            if not is_made:
                # Checkpointed, so that the file is a run's store even without its WAL. In another
                # journal mode this does nothing.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                sync_directory(self._path.parent)
            self.store_id = store_id_of(connection) or ""
            (self._last_id,) = connection.execute(
                "SELECT coalesce(max(id), 0) FROM events"
            ).fetchone()
        except BaseException:  # KeyboardInterrupt, too; raised again
            connection.close()
            raise
        self._connection, self._is_synchronous = connection, True
        self._file = file_identity(self._path)
        if was_open and not is_made and self._start is not None:
            self._write([self._start])  # the new store needs a start event, too
        return True

    def _set_journal_mode(self, connection: sqlite3.Connection) -> None:
        """Use a write-ahead log, or a rollback journal where the file system may be shared.

        Raises:
            sqlite3.Error: neither is possible.
        """
        if not self._shared_disk:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode == ("wal",):
                return
            self._shared_disk = "no shared memory"
        # Its file stays, empty between commits, until the store is closed: it shows that a process
        # writes, or was killed.
        connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()

    def count_committed(self) -> int:
        """Return how many events of the last failed attempt are in the store nevertheless.

        A commit can succeed and its sync fail.
        """
        unsure, self._unsure = self._unsure, None
        if unsure is None or unsure[0] != self.store_id:
            return 0
        _, before, tried = unsure
        return tried if self._last_id - before == tried else 0

    def latches(self) -> list[tuple[int, NonfiniteSighting]]:
        """Return the sightings in the table `latches`, each with its update.

        Raises:
            sqlite3.Error: the table cannot be read.
        """
        assert self._connection is not None
        found = self._connection.execute("SELECT * FROM latches")
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found]
        return [known for row in rows for known in sightings_in(row)]

    def join_latches(self, sightings: Sequence[tuple[int, NonfiniteSighting]]) -> None:
        """Merge latches from other files into the tables.

        Raises:
            sqlite3.Error: the store cannot be written.
        """
        connection = self._connection
        assert connection is not None
        if sightings:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(JOIN_LATCH, [latch_row(*known) for known in sightings])
            counted = [sighting_row(*known) for known in sightings if known[1].count]
            connection.executemany(JOIN_SIGHTING, counted)
            connection.execute("COMMIT")

    def write(self, batch: Sequence[StoredEvent]) -> list[str]:
        """Commit a batch of events; return a sentence for each event that SQLite refused.

        Raises:
            sqlite3.Error: the store cannot be written.
        """
        if not batch:
            return []
        try:
            self._write(batch)
        except _VALUE_ERRORS as error:
            self._roll_back()
            if len(batch) == 1:
                return [f"the store refused a {batch[0].kind} event: {error}"]
            return [sentence for event in batch for sentence in self.write([event])]
        return []

    def _write(self, batch: Sequence[StoredEvent]) -> None:
        connection = self._connection
        assert connection is not None
        self.synchronous(any(event.is_durable for event in batch))
        self._unsure = self.store_id, self._last_id, len(batch)
        connection.execute("BEGIN IMMEDIATE")
        insert_rows(
            connection,
            INSERT_EVENTS,
            [(event.time, event.kind, event.update_index, event.data) for event in batch],
        )
        updates = [e.payload for e in batch if isinstance(e.payload, PPOUpdatePayload)]
        figures = [row for update in updates for row in head_health_rows(update)]
        insert_rows(connection, INSERT_HEAD_HEALTH, figures)
        seen = [
            e.payload for e in batch if isinstance(e.payload, (PPOUpdatePayload, IncidentRecorded))
        ]
        if latched := [row for payload in seen for row in latch_rows(payload)]:
            connection.executemany(JOIN_LATCH, latched)
            rows = (row for payload in seen for row in sighting_rows(payload))
            connection.executemany(JOIN_SIGHTING, rows)
        for event in batch:
            write_rows(connection, event.time, event.payload)
            if isinstance(event.payload, RunStarted):
                self._start = event
        connection.execute("COMMIT")
        self._last_id += len(batch)
        self._unsure = None

    def synchronous(self, is_wanted: bool) -> None:
        """Set whether the following commits are synced to the disk."""
        if is_wanted != self._is_synchronous:
            assert self._connection is not None
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if is_wanted else 'NORMAL'}")
            self._is_synchronous = is_wanted

    def beat(self, events_lost: int, error: str) -> None:
        """Replace the heartbeat.

        Raises:
            sqlite3.Error: the store cannot be written.
        """
        assert self._connection is not None
        self._connection.execute(REPLACE_HEARTBEAT, self._beat(events_lost, error))

    def _beat(self, events_lost: int, error: str) -> tuple[object, ...]:
        """Return the current values of `REPLACE_HEARTBEAT`."""
        load = self._meter.read()
        return (
            time.time(),
            self._pid,
            self._process_start_time,
            self._machine,
            events_lost,
            load.own_memory_bytes,
            error,
            self._pid_namespace,
            load.cpu_percent,
            load.memory_bytes,
            *(load.gpu or (None, None, None)),
        )

    def thin(self, limit_bytes: int, seconds: float) -> None:
        """Remove the oldest common events while the store is near or above a limit.

        SQLite uses the space again, so the file does not grow beyond the limit. Removing begins at
        15/16 of it, because events arrive faster for a while than a call removes them.

        Args:
            limit_bytes: limit of the used pages of the database file, in bytes.
            seconds: maximum time; the next call continues.

        Raises:
            sqlite3.Error: the store cannot be written.
        """
        connection = self._connection
        assert connection is not None
        end = time.monotonic() + seconds
        self.synchronous(False)
        begins_at = limit_bytes - limit_bytes // 16
        while self._used_bytes() > begins_at and time.monotonic() < end:
            connection.execute("BEGIN IMMEDIATE")
            is_more = thin(connection, _THINNED_AT_ONCE, _NEVER_THINNED)
            connection.execute("COMMIT")
            if not is_more:
                return

    def shrink_wal(self, limit_bytes: int) -> int:
        """Empty the WAL if it is above a limit and no reader is active; return its size in bytes.

        SQLite only restarts a WAL when no reader is active, so a reader that keeps a transaction
        open makes it grow. This does not wait for readers.

        Raises:
            sqlite3.Error, OSError: the store cannot be written.
        """
        connection = self._connection
        assert connection is not None
        wal = wal_of(self._path)
        if self._shared_disk:
            return 0
        if (size := wal.stat().st_size) <= limit_bytes:
            return size
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        return wal.stat().st_size

    def _used_bytes(self) -> int:
        assert self._connection is not None
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def abandon(self) -> None:
        """Close a connection that failed; SQLite rolls back what was not committed."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # closed because of an error
                self._connection.close()
            self._connection = None

    def finish(self, seconds: float) -> None:
        """Turn the store into one plain file, or leave it in WAL mode while a reader is active.

        Args:
            seconds: maximum time to wait for a moment without a reader.
        """
        connection = self._connection
        if connection is None:
            return
        # Readers release the store within milliseconds, or at their next poll without news. If this
        # fails, all events are committed and the store can be opened.
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA busy_timeout = 0")
                self.synchronous(True)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                if connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",):
                    break
            time.sleep(0.01)
        self.abandon()
        with contextlib.suppress(OSError):  # as above
            sync_directory(self._path.parent)

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
