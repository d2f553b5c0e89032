"""Atomic writes of files that survive a power loss."""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Errors of file systems that have no sync for directories.
_CANNOT_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.EROFS)


def sync_directory(directory: Path) -> None:
    """Sync a directory, so that the names in it survive a power loss.

    Raises:
        OSError: the directory does not exist, or the disk failed.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # a directory that can be entered but not listed, such as another user's home
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_file(path: Path, parts: Iterable[bytes]) -> None:
    """Write and sync a file in place.

    Args:
        path: the file; its old content is lost.
        parts: the new content, in order.

    Raises:
        OSError: writing failed; a part of the content may be there.
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
    """Write a file atomically: readers find the old content or the new one.

    The file is written and synced under another name and then renamed; the folder is synced, too.

    Args:
        path: the file.
        parts: the new content, in order.
        partial: the other name, in the same folder. The default is a fixed name, so that killed
            processes leave at most one such file.

    Raises:
        OSError: writing failed. The old content is kept, and no partial file is left. After a
            failed sync of the folder, the new content is there but may not survive a power loss.
    """
    partial = partial or path.with_name(f"{path.name}.partial")
    try:
        write_file(partial, parts)
        os.replace(partial, path)
    except BaseException:  # KeyboardInterrupt, too; raised again
        with suppress(OSError):
            os.unlink(partial)
        raise
    sync_directory(path.parent)


def write_output(path: Path, text: str) -> None:
    """Write an output file of a command atomically.

    Devices, pipes and other special files are written directly. A symbolic link is followed.

    Raises:
        OSError: writing failed; the old content is kept, and no partial file is left.
    """
    data = text.encode("utf-8", "backslashreplace")  # file names may be invalid UTF-8
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.write(data)
        return
    replace_file(path.resolve(), [data])
