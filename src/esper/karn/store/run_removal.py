"""Deletes runs, or moves them to another folder, without following links.

A run is first renamed into `.removing` in the same folder, in one step, where it is no longer
listed, and is then deleted. An interrupted removal therefore leaves either a complete run or
something in `.removing`, which the next removal deletes. Moving a run is one rename.
"""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from esper.karn.store.run_directory import LOCK_NAME
from esper.leyline.errors import EsperError

REMOVING_NAME: Final = ".removing"
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RemovalError(EsperError, ValueError):
    """A run cannot be removed or moved and was kept; the message says why."""


def remove_run(run: Path) -> None:
    """Remove a run with all its files.

    Raises:
        RemovalError: a process trains the run, it is a link, or the folder cannot be written.
    """
    with _folder(run.parent) as parent:
        with suppress(FileExistsError):
            _try(lambda: os.mkdir(REMOVING_NAME, 0o777, dir_fd=parent), run)
        with _locked(run, parent), _inside(run, parent, REMOVING_NAME) as trash:
            if _exists(run.name, trash):
                shutil.rmtree(run.name, dir_fd=trash)  # of an earlier run with the same name
            _try(lambda: os.rename(run.name, run.name, src_dir_fd=parent, dst_dir_fd=trash), run)
    finish_removals(run.parent)


def removals_begun(run_dir: Path) -> list[str]:
    """Return the runs whose removal was interrupted."""
    try:
        if stat.S_ISLNK(os.lstat(run_dir / REMOVING_NAME).st_mode):
            return []
        return sorted(os.listdir(run_dir / REMOVING_NAME))
    except OSError:
        return []


def finish_removals(run_dir: Path) -> None:
    """Finish interrupted removals.

    Raises:
        RemovalError: a file cannot be deleted.
    """
    if not (run_dir / REMOVING_NAME).exists():
        return
    with _folder(run_dir) as parent:
        with _inside(run_dir, parent, REMOVING_NAME) as trash:
            for name in os.listdir(trash):
                _try(partial(_delete, name, trash), run_dir / REMOVING_NAME / name)
        with suppress(OSError):  # another process may have put a run there
            os.rmdir(REMOVING_NAME, dir_fd=parent)


def move_run(run: Path, folder: Path) -> Path:
    """Move a run into another folder on the same file system; return its new path.

    Args:
        run: the run.
        folder: where to move it; created if missing.

    Raises:
        RemovalError: a process trains the run, it is a link, there is a run of its name already,
            or the folder is on another file system or cannot be written.
    """
    _try(lambda: folder.mkdir(parents=True, exist_ok=True), folder)
    with _folder(run.parent) as parent, _folder(folder) as target, _locked(run, parent):
        if _exists(run.name, target):
            raise RemovalError(f"{folder} already holds {run.name}: it is not moved")
        try:
            os.rename(run.name, run.name, src_dir_fd=parent, dst_dir_fd=target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise RemovalError(f"{run.name} cannot be moved: {error.strerror}") from error
            raise RemovalError(
                f"{folder} is on another file system than {run.parent}: choose a folder on the "
                "same one, or copy the run there and remove it with esper prune"
            ) from error
    return folder / run.name


def bytes_of(run: Path) -> int:
    """Return the size of all files of a run; links are not followed."""
    total = 0
    for folder, _, names in os.walk(run):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    """Open a folder that the user named, which may be a link."""
    try:
        descriptor = os.open(path, _OPEN_FOLDER & ~os.O_NOFOLLOW)
    except OSError as error:
        raise RemovalError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _inside(what: Path, parent: int, name: str) -> Iterator[int]:
    """Open a folder inside another one; never through a link."""
    try:
        descriptor = os.open(name, _OPEN_FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise RemovalError(f"{what}: {name} is a link or not a folder; it is kept") from error
        raise RemovalError(f"{what}: {name} cannot be opened: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(run: Path, parent: int) -> Iterator[None]:
    """Hold the lock of a run, so that no process can begin to train it.

    A run without a lock file was never trained by Esper's own agent; none is created.
    """
    with _inside(run, parent, run.name) as directory:
        try:
            lock = os.open(LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            yield
            return
        except OSError as error:
            raise RemovalError(f"{run.name}: {LOCK_NAME}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise RemovalError(f"{run.name} is being trained: it is kept") from None
        except OSError:
            pass  # a file system without locks
        try:
            yield
        finally:
            os.close(lock)


def _exists(name: str, folder: int) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _delete(name: str, folder: int) -> None:
    if stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
        with suppress(FileNotFoundError):  # another process deletes it, too
            shutil.rmtree(name, dir_fd=folder)
    else:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _try(action: Callable[[], object], what: Path) -> None:
    try:
        action()
    except FileExistsError:
        raise
    except OSError as error:
        raise RemovalError(f"{what} cannot be removed: {error.strerror}") from error
