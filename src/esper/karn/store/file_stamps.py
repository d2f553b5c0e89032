"""Stamps of files: equal as long as a file is unchanged."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

#: File systems update modification times at the kernel's tick. A file that changed this recently
#: may change again with the same stamp ("racily clean" in Git's index).
_RACY_NANOSECONDS: Final = 100_000_000


class FileStamp(NamedTuple):
    """What changes when a file is written or replaced."""

    device: int
    inode: int
    size: int  # bytes
    modified_ns: int  # nanoseconds since the epoch


def file_stamp(path: Path) -> FileStamp | None:
    """Return the stamp of a file; None if it does not exist or cannot be read."""
    return _stamp(str(path))


def stamps_in(directory: Path, names: Iterable[str]) -> tuple[FileStamp | None, ...]:
    """Return the stamps of files in a directory."""
    start = f"{directory}{os.sep}"
    return tuple([_stamp(start + name) for name in names])


def _stamp(path: str) -> FileStamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return FileStamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file; None if it does not exist or cannot be read."""
    stamp = file_stamp(path)
    return None if stamp is None else (stamp.device, stamp.inode)


def are_racy(stamps: Iterable[FileStamp | None], taken_at: int) -> bool:
    """Return whether a file can have changed without a new stamp.

    Args:
        stamps: stamps of the files.
        taken_at: when the stamps were taken, in nanoseconds since the epoch.
    """
    newest = max((stamp.modified_ns for stamp in stamps if stamp is not None), default=0)
    return newest > taken_at - _RACY_NANOSECONDS
