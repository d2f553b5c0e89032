"""Files that are written whole or not at all, and survive a power loss once written."""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Errors of file systems that have no sync for directories.
_CANNOT_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.EROFS)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power loss, where that is possible.

    Raises:
        OSError: the directory is not there, or the disk failed.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # it may be entered and not listed, as the home of another user
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_file(path: Path, parts: Iterable[bytes]) -> None:
    """Write and sync a file, under its own name from the start.

    Args:
        path: the file; what it held is lost.
        parts: its new content, in order.

    Raises:
        OSError: the disk does not take it; a part of it may be there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, parts: Iterable[bytes], partial: Path | None = None) -> None:
    """Write a file so that readers find the old content or the new one, and never a part of it.

    The file is written and synced under another name, and then renamed; the folder is synced, too.

    Args:
        path: the file.
        parts: its new content, in order.
        partial: the other name, in the same folder. It is always the same one, so that processes
            that are killed leave at most one such file.

    Raises:
        OSError: the disk does not take it. The old content is there, and nothing is left behind;
            after a failed sync of the folder the new content is there and may not last.
    """
    partial = partial or path.with_name(f"{path.name}.partial")
    try:
        write_file(partial, parts)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    sync_directory(path.parent)


def write_output(path: Path, text: str) -> None:
    """Write a file that a user asked for: all of it, or what was there before stays.

    A device, a pipe and whatever else is no regular file is written to as it is. A link stays a
    link.

    Raises:
        OSError: the disk does not take it; nothing is left behind.
    """
    data = text.encode("utf-8", "backslashreplace")  # names of files can hold what is no text
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.write(data)
        return
    replace_file(path.resolve(), [data])
