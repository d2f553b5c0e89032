"""Reads a run's store, whether the run is live, finished or dead, and never writes into it.

Between calls (or sessions of a few calls) a reader holds no connection and so no lock: the writer
can turn the store into one plain file whenever it is done, and a store that is removed or replaced
is noticed at the next call. Who looks several times a second may keep the connection from one
session to the next, for opening it is a third of such a look; then it has to let go in time.
"""

import math
import operator
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import starmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from esper.karn.store.damaged_pages import (
    indexes_agree,
    last_plausible_id,
    read_one_by_one,
    thinned_is_whole,
)
from esper.karn.store.event_rows import SELECT_EVENTS, event_of, plausible_time
from esper.karn.store.file_stamps import FileStamp, file_stamp
from esper.karn.store.run_directory import STORE_NAME
from esper.karn.store.run_tables import (
    COMMON_KINDS,
    RARE,
    RunStoreError,
    RunStoreMissingError,
    Thinned,
    check_store,
    columns_of,
    sightings_in,
    store_id_of,
    thinned_of,
)
from esper.karn.store.wal import wal_damage, wal_of
from esper.leyline.sighting_words import KIND_WORDS
from esper.leyline.telemetry import Event, Heartbeat, NonfiniteSighting

_MAGIC: Final = b"SQLite format 3\x00"
_HEADER_BYTES: Final = 100
_WAL_HEADER_BYTES: Final = 32
_WAL_VERSION: Final = b"\x02\x02"  # bytes 18 and 19 of the header of a database in WAL mode
_BUSY_SECONDS: Final = 2.0
#: File systems stamp changes no finer than the kernel's tick, so a file that changed this recently
#: may have changed since without a new stamp ("racily clean", as Git's index has it).
_RACY_NANOSECONDS: Final = 100_000_000

_NEWEST: Final = 2**63 - 1  # the largest id there can be
#: What was seen, as the tables beside the events have it. Older stores have fewer columns.
_SIGHTINGS: Final = (
    "SELECT * FROM latches WHERE first_update <= ?",
    "SELECT * FROM sightings WHERE update_index <= ?",
)
_LIGHTS: Final = "SELECT DISTINCT head, kind FROM latches WHERE first_update <= ?"
_HEARTBEAT_TYPES: Final = (float, int, float, str, int, int, str, str)
#: What a heartbeat tells of the machine, with the type of each; an older store has none of it.
_LOAD_COLUMNS: Final[dict[str, type]] = {
    "cpu_percent": float,
    "memory_bytes": int,
    "gpu_percent": float,
    "gpu_memory_bytes": int,
    "gpu_total_bytes": int,
}
#: How long one session may take; a store can be made in which a query never ends.
SESSION_SECONDS: Final = 20.0
_TOO_LONG: Final = f"a query took longer than {SESSION_SECONDS:.0f} s"
#: Steps of SQLite's machine between two looks at the clock: about a millisecond.
_STEPS_PER_LOOK: Final = 100_000
#: Longer than any value that the writer stores.
_LONGEST_VALUE: Final = 64 << 20
#: What reading a damaged store raises, beside what SQLite reports itself: its own messages may be
#: no UTF-8, and numbers may be out of range.
_FAILURES: Final = (sqlite3.Error, sqlite3.Warning, OSError, UnicodeDecodeError, OverflowError)
#: What SQLite calls a file that is not what it should be, or that lacks one of our tables.
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class Journal(NamedTuple):
    """How a store keeps what is not in the database file yet."""

    is_wal: bool  # the store is in WAL mode: it was not closed, or someone was reading then
    has_frames: bool  # there is a WAL with something in it
    damage: str | None  # what is wrong with the WAL; known only while no one writes


class _Opened(NamedTuple):
    connection: sqlite3.Connection
    path: Path  # of the store, or of a private copy of it
    identity: tuple[int, int] | None  # of the file, from just before it was opened
    is_live: bool  # it sees what is written from now on


_Stamps = tuple[FileStamp | None, ...]


class RunReader:
    """A read-only view of one run's store.

    Args:
        directory: the run's directory; it need not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / STORE_NAME
        self._seen: _Stamps | None = None
        self._seen_at = 0  # nanoseconds since the epoch
        self._copy: TemporaryDirectory[str] | None = None
        self._held: sqlite3.Connection | None = None  # by the session of now
        self._held_path = self._path
        self._kept: _Opened | None = None  # from one session to the next
        self._deadline = math.inf  # of the session of now, by the monotonic clock

    @contextmanager
    def session(self, *, stays_open: bool = False) -> Iterator[None]:
        """Hold the store open for several calls, which all see it as it was at the first of them.

        Args:
            stays_open: whether to keep it open from now on, until `release`.

        Raises:
            RunStoreError: as the calls themselves.
        """
        with self._connection(stays_open=stays_open) as connection:
            self._held = connection
            try:
                if connection is not None:
                    connection.execute("BEGIN")
                yield
                if connection is not None and connection.in_transaction:
                    # Nothing was written; COMMIT fails after an error in a damaged page.
                    connection.execute("ROLLBACK")
            finally:
                self._held = None

    def __del__(self) -> None:
        """Let go of what was kept open: a follower that is forgotten holds up no writer."""
        self.release()

    def release(self) -> None:
        """Let go of a store that was kept open: a writer that is done waits for this a moment."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.connection.close()

    def changed(self) -> bool:
        """Return whether the store may have changed since the last call; the first returns True."""
        now = time.time_ns()
        stamp = self._stamp()
        newest = max((entry[3] for entry in stamp if entry is not None), default=0)
        # The stamp of before is compared as of when it was taken, not as of now.
        is_racy = newest > self._seen_at - _RACY_NANOSECONDS
        has_changed = stamp != self._seen or is_racy
        self._seen, self._seen_at = stamp, now
        if has_changed and self._copy is not None:
            self._copy.cleanup()
            self._copy = None
        return has_changed

    def identity(self) -> tuple[int, int] | None:
        """Return what tells this store's file from another that took its place."""
        stamp = file_stamp(self._path)
        return None if stamp is None else stamp[:2]

    def wal_bytes(self) -> int:
        """Return the size of the WAL's file; 0 if there is none."""
        try:
            return wal_of(self._path).stat().st_size
        except OSError:
            return 0

    def has_wal(self) -> bool:
        """Return whether there is a WAL with something in it."""
        return self.wal_bytes() > _WAL_HEADER_BYTES

    def has_tables(self) -> bool:
        """Return whether the store has its tables; an empty file has none yet.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            return connection is not None

    def store_id(self) -> str | None:
        """Return what tells this store from every other; None for one of an older Esper.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            return None if connection is None else store_id_of(connection)

    def journal(self) -> Journal:
        """Return how the store keeps what is not in the database file yet.

        Raises:
            RunStoreError: as `read`.
        """
        try:
            is_wal = self._header()[18:20] == _WAL_VERSION
            if not self.has_wal():
                return Journal(is_wal, False, None)
            with self._connection() as connection:
                if connection is not None:  # so that SQLite's index is there
                    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                return Journal(is_wal, True, wal_damage(self._held_path))
        except (OSError, struct.error) as error:  # the latter where a file is cut short meanwhile
            raise RunStoreError(f"{self._path} {_trouble_with(error)}") from error

    def read(
        self, after: int, limit: int, *, up_to: int = _NEWEST, bulk: bool = True
    ) -> list[Event]:
        """Return events in the order of their ids; what is damaged comes as `DamagedPayload`.

        Ids have no gaps: a missing event is a damaged one.

        Args:
            after: the id of the last event that is known already; 0 for none.
            limit: how many to return at most.
            up_to: the last id to return.
            bulk: whether to return those too that come many times an update: steps, decisions and
                transitions of seeds. Where something is damaged they may come all the same; and
                unless `rare_is_whole`, others may be left out.

        Raises:
            RunStoreError: there is no store, or it is not one that this program can read.
        """
        with self._connection() as connection:
            if connection is None:
                return []
            removed_up_to = min(thinned_of(connection).up_to, up_to) if bulk else 0
            events: list[Event] = []
            if after < removed_up_to:
                events = self._read(connection, after, limit, removed_up_to, bulk=False)
                if len(events) == limit:
                    return events
                after, limit = removed_up_to, limit - len(events)
            return events + self._read(connection, after, limit, up_to, bulk=bulk)

    def _read(
        self, connection: sqlite3.Connection, after: int, limit: int, up_to: int, *, bulk: bool
    ) -> list[Event]:
        where = "" if bulk else f"AND {RARE}"
        query = f"{SELECT_EVENTS} WHERE id > ? AND id <= ? {where} ORDER BY id LIMIT ?"
        try:
            rows = connection.execute(query, (after, up_to, limit)).fetchall()
            if bulk:
                end = after + len(rows)
                is_whole = [row[0] for row in rows] == list(range(after + 1, end + 1)) and (
                    len(rows) == limit or end >= min(up_to, self._last_id(connection))
                )
            else:
                is_whole = not any(row[2] in COMMON_KINDS for row in rows) and _ascends(
                    [after, *(row[0] for row in rows)]
                )
        except sqlite3.DatabaseError:
            is_whole = False  # a damaged page
        if is_whole:
            return list(starmap(event_of, rows))
        last = min(up_to, self._last_id(connection))
        return read_one_by_one(connection, after, last, limit)

    def thinned(self) -> Thinned:
        """Return what was removed from the store to keep it small.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            return Thinned(0, 0) if connection is None else thinned_of(connection)

    def thinned_is_whole(self) -> bool:
        """Return whether nothing else is missing from the part of the store that was thinned.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            return connection is None or thinned_is_whole(connection)

    def rare_is_whole(self, up_to: int) -> bool:
        """Return whether it is known where all events are that do not come many times an update.

        Args:
            up_to: the last id that matters.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            return connection is None or indexes_agree(connection, up_to)

    def last_ids(self, kind: str, count: int, *, up_to: int = _NEWEST) -> list[int]:
        """Return the ids of the last events of a kind, newest first; none beyond `up_to`.

        Raises:
            RunStoreError: the store or its index cannot be read.
        """
        query = "SELECT id FROM events WHERE kind = ? AND id <= ? ORDER BY id DESC LIMIT ?"
        return [number for (number,) in self._newest_first(query, (kind, up_to, count))]

    def read_last(self, kind: str, count: int, *, up_to: int = _NEWEST) -> list[Event]:
        """Return the last events of a kind, newest first; none beyond `up_to`.

        Raises:
            RunStoreError: as `last_ids`.
        """
        query = f"{SELECT_EVENTS} WHERE kind = ? AND id <= ? ORDER BY id DESC LIMIT ?"
        return list(starmap(event_of, self._newest_first(query, (kind, up_to, count))))

    def read_last_rare(self, count: int, *, up_to: int = _NEWEST) -> list[Event]:
        """Return the last events of those that do not come many times an update, newest first.

        Raises:
            RunStoreError: as `last_ids`.
        """
        query = f"{SELECT_EVENTS} WHERE id <= ? AND {RARE} ORDER BY id DESC LIMIT ?"
        return list(starmap(event_of, self._newest_first(query, (up_to, count))))

    def _newest_first(self, query: str, given: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._connection() as connection:
            if connection is None:
                return []
            rows = connection.execute(query, given).fetchall()
            if not _ascends([row[0] for row in reversed(rows)]):
                raise RunStoreError(f"{self._path} is damaged: its events are out of order")
            return rows

    def last_id(self) -> int:
        """Return the id of the newest event; 0 if there is none.

        Raises:
            RunStoreError: there is no store, or its ids make no sense.
        """
        with self._connection() as connection:
            return 0 if connection is None else self._last_id(connection)

    def _last_id(self, connection: sqlite3.Connection) -> int:
        last = last_plausible_id(connection)
        if last is None:
            raise RunStoreError(f"{self._path} is damaged: its events have impossible numbers")
        return last

    def lights(self, *, up_to_update: int = _NEWEST) -> set[tuple[str, str]]:
        """Return heads and kinds of what the table `latches` says was ever seen.

        What cannot be read is left out.
        """
        rows: list[tuple[Any, ...]] = []
        with self._connection() as connection:
            if connection is None:
                return set()
            with suppress(sqlite3.DatabaseError):
                rows.extend(connection.execute(_LIGHTS, (up_to_update,)))
        return {(head, kind) for head, kind in rows if type(head) is str and kind in KIND_WORDS}

    def sightings(self, *, up_to_update: int = _NEWEST) -> list[tuple[int, NonfiniteSighting]]:
        """Return what the tables `latches` and `sightings` say was seen, each with its update.

        Events tell the same; this is for where they are damaged. What cannot be read is left out.
        """
        rows: list[dict[str, Any]] = []
        with self._connection() as connection:
            if connection is None:
                return []
            for query in _SIGHTINGS:
                # What was read before an error stays; an older store has no table `sightings`.
                with suppress(sqlite3.DatabaseError):
                    found = connection.execute(query, (up_to_update,))
                    names = [column[0] for column in found.description]
                    rows.extend(dict(zip(names, row, strict=True)) for row in found)
        return [sighting for row in rows for sighting in sightings_in(row)]

    def heartbeat(self) -> Event | None:
        """Return the writer's last heartbeat, as an event with the id 0."""
        with self._connection() as connection:
            if connection is None:
                return None
            known = columns_of(connection, "heartbeat")
            namespace = "pid_namespace" if "pid_namespace" in known else "''"
            load = [name if name in known else "NULL" for name in _LOAD_COLUMNS]
            row = connection.execute(
                "SELECT time, pid, process_start_time, machine, events_lost, resident_bytes, error,"
                f" {namespace}, {', '.join(load)} FROM heartbeat"
            ).fetchone()
        if row is None:
            return None
        row, load_values = row[: len(_HEARTBEAT_TYPES)], row[len(_HEARTBEAT_TYPES) :]
        if tuple(map(type, row)) != _HEARTBEAT_TYPES or not all(map(math.isfinite, row[:3:2])):
            raise RunStoreError(f"{self._path} is damaged: its heartbeat is not one")
        beat = Heartbeat(
            pid=row[1],
            process_start_time=row[2],
            machine=row[3],
            events_lost=row[4],
            resident_bytes=row[5],
            error=row[6],
            pid_namespace=row[7],
            **_load_of(load_values),
        )
        return Event(id=0, time=plausible_time(row[0]), payload=beat)

    @contextmanager
    def _connection(self, *, stays_open: bool = False) -> Iterator[sqlite3.Connection | None]:
        """Open the store for the length of one call; None while it has no tables yet.

        Every error of SQLite that leaves the body becomes a `RunStoreError`.
        """
        try:
            if self._held is not None:
                # A reader holds up the writer's WAL: many short queries may not take longer either.
                if self._is_late():
                    raise RunStoreError(f"{self._path} cannot be read: {_TOO_LONG}")
                yield self._held
                return
            if self._kept is not None and self._kept.identity != self.identity():
                self.release()  # another file has its name now, or none
            stays_open = stays_open or self._kept is not None
            self._deadline = time.monotonic() + SESSION_SECONDS
            opened, self._kept = self._kept or self._opened(), None
            if opened is None:
                yield None
                return
            self._held_path = opened.path
            try:
                yield opened.connection
            except BaseException:
                opened.connection.close()
                raise
            if stays_open and opened.is_live:
                self._kept = opened
            else:
                opened.connection.close()
        except _FAILURES as error:
            raise RunStoreError(f"{self._path} {_trouble_with(error)}") from error

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _opened(self) -> _Opened | None:
        identity = self.identity()
        header = self._header()
        if not header:
            return None
        # Opening a database in WAL mode makes a WAL if there is none, which would be writing.
        is_live = header[18:20] != _WAL_VERSION or wal_of(self._path).exists()
        path = self._path
        try:
            connection = _open(path, "mode=ro" if is_live else "mode=ro&immutable=1", self._is_late)
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
                raise
            # A dead run's WAL in a directory that we may not write to, where SQLite cannot make
            # the index that goes with it: https://www.sqlite.org/wal.html, "Read-Only Databases".
            path, is_live = self._copied(), False
            connection = _open(path, "mode=rw", self._is_late)
        try:
            is_made = check_store(connection, str(self._path))
        except BaseException:
            connection.close()
            raise
        if not is_made:
            connection.close()
            return None
        return _Opened(connection, path, identity, is_live)

    def _header(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                header = file.read(_HEADER_BYTES)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunStoreMissingError(f"there is no run store at {self._path}") from error
        if header and not header.startswith(_MAGIC):
            raise RunStoreError(f"{self._path} is not a run store: it is not an SQLite database")
        return header

    def _copied(self) -> Path:
        if self._copy is None:
            self._copy = TemporaryDirectory(prefix="esper-run-")
            for path in (self._path, wal_of(self._path)):
                if path.exists():
                    shutil.copyfile(path, Path(self._copy.name) / path.name)
        return Path(self._copy.name) / self._path.name

    def _stamp(self) -> _Stamps:
        return tuple(file_stamp(path) for path in (self._path, wal_of(self._path)))


def _open(path: Path, options: str, is_late: Callable[[], bool]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        isolation_level=None,
        timeout=_BUSY_SECONDS,
        check_same_thread=False,
    )
    # A damaged kind is to be shown, not to end the reading.
    connection.text_factory = _text_of
    connection.set_progress_handler(is_late, _STEPS_PER_LOOK)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _load_of(values: Sequence[Any]) -> dict[str, Any]:
    """Return what a heartbeat tells of the machine; a value that cannot be one is left out."""
    return {
        name: value
        for (name, kind), value in zip(_LOAD_COLUMNS.items(), values, strict=True)
        if isinstance(value, int | float) and type(value) is kind and 0 <= value < math.inf
    }


def _ascends(ids: Sequence[int]) -> bool:
    # A damaged row can have a NULL for its id.
    return all(type(number) is int for number in ids) and all(map(operator.lt, ids, ids[1:]))


def _trouble_with(error: Exception) -> str:
    """Return what is wrong with a store, to follow its path in a sentence."""
    if isinstance(error, IsADirectoryError):
        return "is a directory, not a run store"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    # The lowest byte tells the kind of an error, the others tell it more exactly.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_INTERRUPT:
        return f"cannot be read: {_TOO_LONG}"
    if code in _DAMAGED or not isinstance(error, sqlite3.Error):
        return "is cut short or damaged: what is left of it cannot be read"
    return f"cannot be read: {error}"


def _text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")
