"""Replaces shared memory of a forked child by private memory.

A fork does not copy the memory of batches of DataLoader workers, tensors in shared memory,
memory-mapped arrays, and locks and semaphores of `multiprocessing`. A second run would change them
for all processes, and a child that is killed while it holds a lock would never release it.
"""

import ctypes
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper.leyline.errors import EsperError

#: Maximum size in bytes of shared memory that is copied. Memory of open files is not copied as a
#: whole, but page by page when the child writes to it.
COPY_LIMIT: Final = 1 << 30
_NO_ACCESS: Final = 0  # PROT_NONE
_MAP_FIXED: Final = 0x10
_MOVE: Final = 1 | 2  # MREMAP_MAYMOVE | MREMAP_FIXED
_FAILED: Final = ctypes.c_void_p(-1).value
_File = tuple[int, int]  # device and inode


class SharedMemoryError(EsperError):
    """Shared memory cannot be replaced; the message says why."""


@dataclass(frozen=True)
class _Mapping:
    """One entry of `/proc/self/maps`."""

    start: int
    size: int
    permissions: str
    offset: int
    file: _File
    path: str

    @property
    def protection(self) -> int:
        bits = zip(
            self.permissions, (mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC), strict=False
        )
        return sum(bit for letter, bit in bits if letter != "-")

    @property
    def is_of_device(self) -> bool:
        try:
            return stat.S_ISCHR(os.stat(self.path).st_mode)
        except (OSError, ValueError):
            return False


def make_memory_private() -> None:
    """Make all writable shared memory of this process private, at the same addresses.

    Its contents are kept. Memory of devices becomes inaccessible.

    Raises:
        SharedMemoryError: there is too much shared memory, or a system call fails.
    """
    try:
        shared = list(_shared())
        descriptors = _open_files() if shared else {}
    except OSError as error:
        raise SharedMemoryError(f"shared memory cannot be found: {error}") from None
    copied = 0
    for one in shared:
        if one.is_of_device:
            _map(one.start, one.size, _NO_ACCESS, mmap.MAP_ANONYMOUS | _MAP_FIXED)
        elif not _map_file_again(one, descriptors):
            copied += one.size
            if copied > COPY_LIMIT:
                limit = f"{COPY_LIMIT / 2**30:g} GiB"
                raise SharedMemoryError(f"more than {limit} of shared memory would be copied")
            _copy(one)


def _shared() -> Iterator[_Mapping]:
    """Yield the writable shared mappings of this process."""
    for line in Path("/proc/self/maps").read_bytes().splitlines():
        addresses, permissions, offset, device, inode, *path = os.fsdecode(line).split(None, 5)
        if "w" not in permissions or "s" not in permissions:
            continue
        start, end = (int(one, 16) for one in addresses.split("-"))
        major, minor = (int(one, 16) for one in device.split(":"))
        file = os.makedev(major, minor), int(inode)
        yield _Mapping(start, end - start, permissions, int(offset, 16), file, "".join(path))


def _open_files() -> dict[_File, int]:
    """Return the descriptors of files that can be read."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
            mode = fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_ACCMODE
        except OSError:  # the descriptor of the listing itself
            continue
        if stat.S_ISREG(status.st_mode) and mode != os.O_WRONLY:
            found[status.st_dev, status.st_ino] = int(name)
    return found


def _map_file_again(one: _Mapping, descriptors: dict[_File, int]) -> bool:
    """Map a file privately (copy on write); return whether this succeeded."""
    own = None
    try:
        if (descriptor := descriptors.get(one.file)) is None:
            descriptor = own = os.open(one.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(own)
            if (status.st_dev, status.st_ino) != one.file:
                return False
        _map(one.start, one.size, one.protection, _MAP_FIXED, descriptor, one.offset)
        return True
    except (OSError, ValueError, SharedMemoryError):
        return False
    finally:
        if own is not None:
            os.close(own)


def _copy(one: _Mapping) -> None:
    """Copy shared memory to private memory, and move that to its address."""
    if not one.protection & mmap.PROT_READ:
        raise SharedMemoryError("shared memory cannot be read")
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    start = _map(0, one.size, writable, mmap.MAP_ANONYMOUS)
    ctypes.memmove(start, one.start, one.size)
    libc = _libc()
    libc.mremap.restype = ctypes.c_void_p
    size, target = ctypes.c_size_t(one.size), ctypes.c_void_p(one.start)
    moved = libc.mremap(ctypes.c_void_p(start), size, size, _MOVE, target)
    is_executable = one.protection != writable
    if moved == _FAILED or (is_executable and libc.mprotect(target, size, one.protection)):
        raise _refusal()


def _map(
    start: int, size: int, protection: int, flags: int, descriptor: int = -1, offset: int = 0
) -> int:
    """Create a private mapping; return its address."""
    libc = _libc()
    libc.mmap.restype = ctypes.c_void_p
    address: int | None = libc.mmap(
        ctypes.c_void_p(start),
        ctypes.c_size_t(size),
        protection,
        flags | mmap.MAP_PRIVATE,
        descriptor,
        ctypes.c_long(offset),
    )
    if address is None or address == _FAILED:
        raise _refusal()
    return address


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _refusal() -> SharedMemoryError:
    return SharedMemoryError(f"shared memory cannot be copied: {os.strerror(ctypes.get_errno())}")
