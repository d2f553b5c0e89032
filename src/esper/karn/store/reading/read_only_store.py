"""Read-only access to the file of a run's store.

Between calls a reader holds no connection and therefore no lock: the writer can turn the store into
one plain file at any time, and a store that is removed or replaced is noticed at the next call. A
frequent reader may keep the connection between sessions, since opening takes a third of a session's
time; it must release the connection soon after the store stops changing.
"""

import math
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from esper.karn.store.errors import RunStoreError, RunStoreMissingError
from esper.karn.store.file_stamps import FileStamp, are_racy, file_identity, file_stamp
from esper.karn.store.run_directory import STORE_NAME
from esper.karn.store.tables.run_tables import check_store
from esper.karn.store.wal import rollback_journal_of, wal_damage, wal_of
from esper.leyline.files.regular_files import open_regular

#: Maximum length of one session, in seconds: a crafted store can make a query run without end.
SESSION_SECONDS: Final = 20.0

_MAGIC: Final = b"SQLite format 3\x00"
_HEADER_BYTES: Final = 100
_WAL_HEADER_BYTES: Final = 32
_WAL_VERSION: Final = b"\x02\x02"  # bytes 18 and 19 of the header of a database in WAL mode
_BUSY_SECONDS: Final = 2.0
_TOO_LONG: Final = f"a query took longer than {SESSION_SECONDS:.0f} s"
#: Virtual machine steps between two checks of the deadline: about a millisecond.
_STEPS_PER_CHECK: Final = 100_000
#: Longer than any value that the writer stores.
_MAX_VALUE_BYTES: Final = 64 << 20
#: Raised when a damaged store is read, besides SQLite's own errors: its messages may be invalid
#: UTF-8, and numbers may be out of range.
_FAILURES: Final = (sqlite3.Error, sqlite3.Warning, OSError, UnicodeDecodeError, OverflowError)
#: SQLite's errors for a damaged file, and for a missing table.
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)

_Stamps = tuple[FileStamp | None, ...]


class Journal(NamedTuple):
    """Where a store keeps commits that are not yet in the database file."""

    is_open: bool  # the store was not closed, or a reader was active when it was
    lacks_wal: bool  # it is in WAL mode, and the WAL has no frame
    damage: str | None  # what is wrong with the WAL; only known while no process writes


class _Opened(NamedTuple):
    connection: sqlite3.Connection
    path: Path  # the store, or a private copy of it
    identity: tuple[int, int] | None  # of the file, from just before it was opened
    is_live: bool  # the connection sees later commits


class ReadOnlyStore:
    """The store of a run, opened for reading only.

    Args:
        directory: the run's directory; it need not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / STORE_NAME
        self._seen: _Stamps | None = None
        self._seen_at = 0  # nanoseconds since the epoch
        self._copy: TemporaryDirectory[str] | None = None
        self._held: sqlite3.Connection | None = None  # of the current session
        self._held_path = self._path
        self._kept: _Opened | None = None  # between sessions
        self._deadline = math.inf  # of the current session, by the monotonic clock

    def __del__(self) -> None:
        """Release the connection, so that a forgotten reader does not block the writer."""
        self.release()

    @contextmanager
    def session(self, *, stays_open: bool = False) -> Iterator[None]:
        """Hold one connection and one read transaction for several calls.

        Args:
            stays_open: whether to keep the connection after the session, until `release`.

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

    def release(self) -> None:
        """Close a connection that was kept after a session."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.connection.close()

    def changed(self) -> bool:
        """Return whether the store may have changed since the last call; True at the first."""
        now = time.time_ns()
        stamps = tuple(file_stamp(path) for path in (self._path, wal_of(self._path)))
        # The stamps equal the previous ones, which were taken at the previous call.
        has_changed = stamps != self._seen or are_racy(stamps, self._seen_at)
        self._seen, self._seen_at = stamps, now
        if has_changed and self._copy is not None:
            self._copy.cleanup()
            self._copy = None
        return has_changed

    def identity(self) -> tuple[int, int] | None:
        """Return device and inode of the store's file; None if there is no file."""
        return file_identity(self._path)

    def wal_bytes(self) -> int:
        """Return the size of the WAL's file; 0 if there is none."""
        try:
            return wal_of(self._path).stat().st_size
        except OSError:
            return 0

    def has_wal(self) -> bool:
        """Return whether there is a WAL with at least one frame."""
        return self.wal_bytes() > _WAL_HEADER_BYTES

    def journal(self) -> Journal:
        """Return where the store keeps commits that are not yet in the database file.

        Raises:
            RunStoreError: the store cannot be read.
        """
        try:
            is_wal = self._header()[18:20] == _WAL_VERSION
            if not self.has_wal():
                is_open = is_wal or rollback_journal_of(self._path).exists()
                return Journal(is_open, is_wal, None)
            with self._connection() as connection:
                if connection is not None:  # makes SQLite create its index of the WAL
                    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                return Journal(is_wal, False, wal_damage(self._held_path))
        except (OSError, struct.error) as error:  # the latter if a file is truncated meanwhile
            raise RunStoreError(f"{self._path} {_description(error)}") from error

    @contextmanager
    def _connection(self, *, stays_open: bool = False) -> Iterator[sqlite3.Connection | None]:
        """Open the store for the length of one call; None while it has no tables yet.

        Every SQLite error that leaves the body becomes a `RunStoreError`.
        """
        try:
            if self._held is not None:
                # A reader prevents the writer from restarting the WAL, so the deadline also
                # applies to a session of many short queries.
                if self._is_late():
                    raise RunStoreError(f"{self._path} cannot be read: {_TOO_LONG}")
                yield self._held
                return
            if self._kept is not None and self._kept.identity != self.identity():
                self.release()  # the store was replaced or removed
            stays_open = stays_open or self._kept is not None
            self._deadline = time.monotonic() + SESSION_SECONDS
            opened, self._kept = self._kept or self._opened(), None
            if opened is None:
                yield None
                return
            self._held_path = opened.path
            try:
                yield opened.connection
            except BaseException:  # KeyboardInterrupt, too; raised again
                opened.connection.close()
                raise
            if stays_open and opened.is_live:
                self._kept = opened
            else:
                opened.connection.close()
        except _FAILURES as error:
            raise RunStoreError(f"{self._path} {_description(error)}") from error

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _opened(self) -> _Opened | None:
        identity = self.identity()
        header = self._header()
        if not header:
            return None
        # Opening a database in WAL mode creates a missing WAL, which would be writing.
        is_live = header[18:20] != _WAL_VERSION or wal_of(self._path).exists()
        path = self._path
        try:
            connection = _open(path, "mode=ro" if is_live else "mode=ro&immutable=1", self._is_late)
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
                raise
            # The WAL of a dead run in a read-only directory, where SQLite cannot create its index:
            # https://www.sqlite.org/wal.html, "Read-Only Databases". Or a rollback journal of a
            # killed process, which only a writer may apply.
            path, is_live = self._copied(), False
            connection = _open(path, "mode=rw", self._is_late)
        try:
            has_tables = check_store(connection, str(self._path))
        except BaseException:  # KeyboardInterrupt, too; raised again
            connection.close()
            raise
        if not has_tables:
            connection.close()
            return None
        return _Opened(connection, path, identity, is_live)

    def _header(self) -> bytes:
        try:
            with open_regular(self._path) as file:
                header = file.read(_HEADER_BYTES)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunStoreMissingError(f"there is no run store at {self._path}") from error
        if header and not header.startswith(_MAGIC):
            raise RunStoreError(f"{self._path} is not a run store: it is not an SQLite database")
        return header

    def _copied(self) -> Path:
        if self._copy is None:
            self._copy = TemporaryDirectory(prefix="esper-run-")
            for path in (self._path, wal_of(self._path), rollback_journal_of(self._path)):
                with suppress(FileNotFoundError):
                    shutil.copyfile(path, Path(self._copy.name) / path.name)
        return Path(self._copy.name) / self._path.name


def _open(path: Path, options: str, is_late: Callable[[], bool]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        isolation_level=None,
        timeout=_BUSY_SECONDS,
        check_same_thread=False,
    )
    # Damaged text is shown with replacement characters and does not stop reading.
    connection.text_factory = _decoded
    connection.set_progress_handler(is_late, _STEPS_PER_CHECK)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:  # KeyboardInterrupt, too; raised again
        connection.close()
        raise
    return connection


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _description(error: Exception) -> str:
    """Return what is wrong with a store, to follow its path in a sentence."""
    if isinstance(error, IsADirectoryError):
        return "is a directory, not a run store"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    # The lowest byte is the primary error code, the others refine it.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_INTERRUPT:
        return f"cannot be read: {_TOO_LONG}"
    if code in _DAMAGED or not isinstance(error, sqlite3.Error):
        return "is cut short or damaged: what is left of it cannot be read"
    return f"cannot be read: {error}"
