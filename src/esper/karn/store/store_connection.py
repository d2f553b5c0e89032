"""The writer's connection to a run's store: opened when needed, and dropped on error.

What is committed durably is synced to the disk before `write` returns; everything else is synced
by SQLite when it moves the WAL into the database. docs/store.md says what that promises.
"""

import contextlib
import os
import socket
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from esper.karn.store.liveness import pid_namespace, process_start_time
from esper.karn.store.machine_load import GpuMeter, LoadMeter, no_gpu
from esper.karn.store.row_insertion import insert_rows
from esper.karn.store.run_tables import (
    INSERT_EVENTS,
    INSERT_HEAD_HEALTH,
    JOIN_LATCH,
    JOIN_SIGHTING,
    REPLACE_HEARTBEAT,
    check_store,
    create_tables,
    head_health_rows,
    latch_row,
    latch_rows,
    sighting_row,
    sighting_rows,
    sightings_in,
    store_id_of,
    thin,
)
from esper.karn.store.update_tables import write_rows
from esper.karn.store.wal import wal_of
from esper.leyline.durable_files import sync_directory
from esper.leyline.telemetry import (
    EpisodesCompleted,
    NonfiniteSighting,
    PPOUpdatePayload,
    RunStarted,
)
from esper.leyline.version import VERSION

BUSY_MILLISECONDS: Final = 2_000
#: The WAL's file is cut back to this size whenever SQLite begins it again. It is begun again every
#: 4 MB, unless someone reads.
_USUAL_WAL_BYTES: Final = 16 << 20
_THINNED_AT_ONCE: Final = 512
#: The newest events, which a cockpit shows in full.
_NEVER_THINNED: Final = 20_000
#: What SQLite says of a value that no store would take: trying again cannot help.
_VALUE_ERRORS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, OverflowError)


class StoredEvent(NamedTuple):
    """One event on its way into the store."""

    number: int  # in the order of emission, counted from 1; 0 for what the writer itself reports
    time: float  # seconds since the epoch
    kind: str
    update_index: int | None
    data: bytes
    is_durable: bool = False
    #: What other tables have rows of, and what a store that was replaced begins with.
    payload: PPOUpdatePayload | EpisodesCompleted | RunStarted | None = None


class StoreConnection:
    """One writer's connection to the store of a run.

    Args:
        path: of the store.
        gpu: returns what this process takes of its GPU.
    """

    def __init__(self, path: Path, gpu: GpuMeter = no_gpu) -> None:
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
        self._unsure: tuple[str, int, int] | None = None  # store, its last id, and events of a try
        self.store_id = ""

    @property
    def last_id(self) -> int:
        """The id of the newest event in the store, as this connection knows it."""
        return self._last_id

    def open(self) -> bool:
        """Make sure that there is a connection to the file that has the store's name now.

        A file that was removed can be written on for ever without an error (POSIX keeps it until it
        is closed), and no reader would see it.

        Returns:
            Whether the store was opened by this call.

        Raises:
            sqlite3.Error, OSError, RunStoreError: it cannot be opened, or is not a run's store.
        """
        if self._connection is not None:
            if self._file == _identity(self._path):
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
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # macOS has a sync that is none
            connection.execute(f"PRAGMA journal_size_limit = {_USUAL_WAL_BYTES}").fetchall()
            # An older store may lack a table that was added.
            create_tables(connection, VERSION, () if is_made else self._beat(0, ""))
            if not is_made:
                # The tables reach the database itself: without its WAL it is still a run's store.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                sync_directory(self._path.parent)
            self.store_id = store_id_of(connection) or ""
            (self._last_id,) = connection.execute(
                "SELECT coalesce(max(id), 0) FROM events"
            ).fetchone()
        except BaseException:
            connection.close()
            raise
        self._connection, self._is_synchronous = connection, True
        self._file = _identity(self._path)
        if was_open and not is_made and self._start is not None:
            self._write([self._start])  # else the new store would not know what it is about
        return True

    def count_committed(self) -> int:
        """Return how many events of the try that failed last are in the store all the same.

        A commit can fail after it was made, when its sync fails.
        """
        unsure, self._unsure = self._unsure, None
        if unsure is None or unsure[0] != self.store_id:
            return 0
        _, before, tried = unsure
        return tried if self._last_id - before == tried else 0

    def latches(self) -> list[tuple[int, NonfiniteSighting]]:
        """Return what the table `latches` says, each with its update.

        Raises:
            sqlite3.Error: it cannot be read.
        """
        assert self._connection is not None
        found = self._connection.execute("SELECT * FROM latches")
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found]
        return [known for row in rows for known in sightings_in(row)]

    def join_latches(self, sightings: Sequence[tuple[int, NonfiniteSighting]]) -> None:
        """Join latches that are known from elsewhere into the tables.

        Raises:
            sqlite3.Error: the store cannot be written.
        """
        connection = self._connection
        assert connection is not None
        if sightings:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(JOIN_LATCH, [latch_row(*known) for known in sightings])
            told = [sighting_row(*known) for known in sightings if known[1].count]
            connection.executemany(JOIN_SIGHTING, told)
            connection.execute("COMMIT")

    def write(self, batch: Sequence[StoredEvent]) -> list[str]:
        """Commit a batch of events; return why some were refused, a sentence for each.

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
                return [f"a {batch[0].kind} event was refused by the store: {error}"]
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
        if latched := [row for update in updates for row in latch_rows(update)]:
            connection.executemany(JOIN_LATCH, latched)
            rows = (row for update in updates for row in sighting_rows(update))
            connection.executemany(JOIN_SIGHTING, rows)
        for event in batch:
            write_rows(connection, event.time, event.payload)
            if isinstance(event.payload, RunStarted):
                self._start = event
        connection.execute("COMMIT")
        self._last_id += len(batch)
        self._unsure = None

    def synchronous(self, is_wanted: bool) -> None:
        """Have the commits from now on synced to the disk, or left to the next durable one."""
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
        """Return the values of `REPLACE_HEARTBEAT` for now."""
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
        """Remove the oldest common events while the store holds more than so many bytes.

        The space is used again by what comes, so the file does not grow beyond the limit.

        Args:
            limit_bytes: of the database file.
            seconds: how long to go on at the most; the rest is left to the next call.

        Raises:
            sqlite3.Error: the store cannot be written.
        """
        connection = self._connection
        assert connection is not None
        end = time.monotonic() + seconds
        self.synchronous(False)
        while self._used_bytes() > limit_bytes and time.monotonic() < end:
            connection.execute("BEGIN IMMEDIATE")
            is_more = thin(connection, _THINNED_AT_ONCE, _NEVER_THINNED)
            connection.execute("COMMIT")
            if not is_more:
                return

    def shrink_wal(self, limit_bytes: int) -> int:
        """Empty the WAL if it is beyond a size and no one reads it; return its size in bytes then.

        SQLite begins a WAL again only at a moment without a reader, so one that never lets go makes
        it grow. This does not wait for such a moment.

        Raises:
            sqlite3.Error, OSError: the store cannot be written.
        """
        connection = self._connection
        assert connection is not None
        wal = wal_of(self._path)
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
        """Drop a connection that failed; what was not committed is undone by SQLite."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # it is being dropped because of one
                self._connection.close()
            self._connection = None

    def finish(self, seconds: float) -> None:
        """Turn the store into one plain file; while someone reads in it, leave it in WAL mode.

        Args:
            seconds: how long to wait for a moment without a reader.
        """
        connection = self._connection
        if connection is None:
            return
        # Readers let go within milliseconds, or at their next look when nothing is new, so there is
        # a moment without one. Whatever fails here, all events are committed and the store opens as
        # it is.
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


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
