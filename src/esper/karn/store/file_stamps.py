"""Stamps of files: equal as long as a file is unchanged."""

from pathlib import Path
from typing import NamedTuple


class FileStamp(NamedTuple):
    """What changes when a file is written or replaced."""

    device: int
    inode: int
    size: int  # bytes
    modified_ns: int  # nanoseconds since the epoch


def file_stamp(path: Path) -> FileStamp | None:
    """Return the stamp of a file; None where there is none that can be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return FileStamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
