"""A layer under everything that writers and readers ask of the system, in which any call can fail.

`Faults` counts each open, read, write, sync, truncation, rename and SQLite statement that concerns
a folder, and makes the one with a chosen number fail. A test runs its subject with number 1, 2, 3
and so on until nothing fails any more: then every call has failed once.
"""

import builtins
import errno
import io
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ON_DESCRIPTORS = ("write", "pread", "fsync", "ftruncate")
_ON_PATHS = ("replace", "rename", "unlink", "listdir", "mkdir")


class Faults:
    """Counts calls on the files of a folder; the chosen one fails.

    Args:
        folder: that the calls have to concern.
        at: number of the call that fails, counted from 1; 0 for none.
        lasting: whether every later call fails, too.
        late: whether the failing call is carried out first: as where a sync fails after a write.
        error: number of the error that files fail with.
    """

    def __init__(
        self,
        folder: Path,
        at: int = 0,
        *,
        lasting: bool = False,
        late: bool = False,
        error: int = errno.EIO,
    ) -> None:
        self.folder = str(folder)
        self.at = at
        self.lasting = lasting
        self.late = late
        self.error = error
        self.calls: list[str] = []
        self.failed: list[str] = []
        self._lock = threading.Lock()

    def is_ours(self, path: object) -> bool:
        """Return whether a path lies in the folder."""
        try:
            return os.fsdecode(path).startswith(self.folder)
        except TypeError:
            return False

    def fails(self, call: str) -> bool:
        """Count a call; return whether it is to fail."""
        with self._lock:
            self.calls.append(call)
            number = len(self.calls)
            is_chosen = self.at and (number == self.at or (self.lasting and number > self.at))
            if is_chosen:
                self.failed.append(call)
            return bool(is_chosen)


class _File:
    """A file whose reading and writing are counted."""

    def __init__(self, file: Any, faults: Faults, path: object) -> None:
        self._file, self._faults, self._path = file, faults, path

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)
        if name not in ("read", "write", "flush", "readline"):
            return found

        def counted(*arguments: Any) -> Any:
            if self._faults.fails(f"{name} {self._path}"):
                raise OSError(self._faults.error, "injected", os.fsdecode(self._path))
            return found(*arguments)

        return counted

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__(*exception)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


@contextmanager
def injected(faults: Faults) -> Iterator[Faults]:
    """Put the layer under this process while the block runs."""
    before = {name: getattr(os, name) for name in (*_ON_DESCRIPTORS, *_ON_PATHS, "open", "close")}
    opened, connect = io.open, sqlite3.connect
    ours: dict[int, str] = {}

    def fail(path: object) -> None:
        raise OSError(faults.error, "injected", os.fsdecode(path))

    def os_open(path: Any, *arguments: Any, **options: Any) -> int:
        if not faults.is_ours(path):
            return int(before["open"](path, *arguments, **options))
        if faults.fails(f"os.open {path}"):
            fail(path)
        descriptor = int(before["open"](path, *arguments, **options))
        ours[descriptor] = os.fsdecode(path)
        return descriptor

    def os_close(descriptor: int) -> None:
        ours.pop(descriptor, None)
        before["close"](descriptor)

    def on_descriptor(name: str) -> Any:
        def counted(descriptor: int, *arguments: Any) -> Any:
            path = ours.get(descriptor)
            if path is None or not faults.fails(f"os.{name} {path}"):
                return before[name](descriptor, *arguments)
            if faults.late:
                before[name](descriptor, *arguments)
            elif name == "write":  # half of it reaches the file
                before[name](descriptor, arguments[0][: len(arguments[0]) // 2])
            return fail(path)

        return counted

    def on_path(name: str) -> Any:
        def counted(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            if faults.is_ours(path) and faults.fails(f"os.{name} {path}"):
                fail(path)
            return before[name](path, *arguments, **options)

        return counted

    def io_open(path: Any, *arguments: Any, **options: Any) -> Any:
        if not faults.is_ours(path):
            return opened(path, *arguments, **options)
        if faults.fails(f"open {path}"):
            fail(path)
        return _File(opened(path, *arguments, **options), faults, path)

    class Connection(sqlite3.Connection):
        def execute(self, query: str, *arguments: Any) -> sqlite3.Cursor:
            if not faults.fails(f"SQLite {query.split()[0]} {query.split()[1:3]}"):
                return super().execute(query, *arguments)
            if faults.late:
                super().execute(query, *arguments)
            raise sqlite3.OperationalError("disk I/O error (injected)")

        def executemany(self, query: str, *arguments: Any) -> sqlite3.Cursor:
            if faults.fails(f"SQLite many {query.split()[0]}"):
                raise sqlite3.OperationalError("disk I/O error (injected)")
            return super().executemany(query, *arguments)

    def sqlite_connect(path: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        place = os.fsdecode(path).removeprefix("file://").partition("?")[0]
        if not faults.is_ours(place):
            return connect(path, *arguments, **options)
        if faults.fails(f"SQLite connect {place}"):
            raise sqlite3.OperationalError("unable to open database file (injected)")
        return connect(path, *arguments, factory=Connection, **options)

    patched = {name: on_descriptor(name) for name in _ON_DESCRIPTORS}
    patched |= {name: on_path(name) for name in _ON_PATHS}
    patched |= {"open": os_open, "close": os_close}
    try:
        for name, function in patched.items():
            setattr(os, name, function)
        io.open = builtins.open = io_open
        sqlite3.connect = sqlite_connect
        yield faults
    finally:
        for name, function in before.items():
            setattr(os, name, function)
        io.open = builtins.open = opened
        sqlite3.connect = connect
