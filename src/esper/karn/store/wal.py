"""Finds damage in a store's write-ahead log that SQLite ignores.

When SQLite opens a WAL that no process has open, it uses the frames before the first invalid one
and drops the rest without an error: a commit may have been cut short. So a damaged frame hides all
later ones. This module checks the frames that SQLite dropped.
The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

import os
import struct
import sys
from pathlib import Path
from typing import Final

from esper.leyline.files.regular_files import open_regular

#: A WAL grows above this size only if a reader keeps a transaction open for long.
LARGE_WAL_BYTES: Final = 64 << 20
_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_MAGIC: Final = (0x377F0682, 0x377F0683)  # checksums are little-endian, big-endian
_VERSION: Final = 3_007_000
#: Offset in the WAL index of the number of the last valid frame.
_LAST_FRAME_AT: Final = 16


def wal_of(store: Path) -> Path:
    """Return the path of a store's WAL."""
    return store.with_name(store.name + "-wal")


def rollback_journal_of(store: Path) -> Path:
    """Return the path of a store's rollback journal, which it has instead on a shared disk."""
    return store.with_name(store.name + "-journal")


def wal_damage(store: Path) -> str | None:
    """Return what is wrong with the WAL of a store that no process writes; None if nothing.

    Call it while a connection has the store open, so that the WAL index is current.

    Raises:
        OSError: a file cannot be read.
    """
    wal = wal_of(store)
    if not wal.exists():
        return None
    with open_regular(wal) as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        if size == 0:
            return None
        header = os.pread(descriptor, _HEADER, 0)
        if not _is_header(header):
            return "the header of its WAL is damaged"
        taken = _frames_taken(store)
        if taken is None:
            return None
        return _damage_after(descriptor, size, header, taken)


def _is_header(header: bytes) -> bool:
    if len(header) < _HEADER:
        return False
    magic, version, page_size = struct.unpack_from(">III", header)
    if magic not in _MAGIC or version != _VERSION:
        return False
    if not 512 <= page_size <= 65_536 or page_size & (page_size - 1):
        return False
    order = _order_of(magic)
    return _checksum(header[:24], order, (0, 0)) == struct.unpack_from(">II", header, 24)


def _order_of(magic: int) -> str:
    return ">" if magic & 1 else "<"


def _frames_taken(store: Path) -> int | None:
    """Return the number of frames that SQLite uses; None without a WAL index."""
    try:
        with open_regular(store.with_name(store.name + "-shm")) as file:
            start = file.read(_LAST_FRAME_AT + 4)
    except FileNotFoundError:
        return None
    if len(start) < _LAST_FRAME_AT + 4:
        return None
    return int.from_bytes(start[_LAST_FRAME_AT:], sys.byteorder)


def _damage_after(descriptor: int, size: int, header: bytes, taken: int) -> str | None:
    magic, _, page_size = struct.unpack_from(">III", header)
    order, salts = _order_of(magic), struct.unpack_from(">II", header, 16)
    stride = _FRAME_HEADER + page_size
    frames, rest = divmod(size - _HEADER, stride)
    if taken > frames:
        return "its WAL is cut short"
    if rest:
        return "the last frame of its WAL is cut short"
    checksum: tuple[int, ...] = struct.unpack_from(">II", header, 24)
    if taken:
        before = os.pread(descriptor, _FRAME_HEADER, _HEADER + (taken - 1) * stride)
        checksum = struct.unpack_from(">II", before, 16)
    is_chained = True  # every frame so far belongs to this WAL, without a gap
    for number in range(taken, frames):
        place = _HEADER + number * stride
        frame = os.pread(descriptor, _FRAME_HEADER, place)
        found = struct.unpack_from(">II", frame, 8)
        if found[0] != salts[0] and found[1] != salts[1]:
            is_chained = False  # left over from before the WAL was restarted
            continue
        damage = f"frame {number + 1} of its WAL is damaged"
        if found != salts or not is_chained:
            return damage
        data = frame[:8] + os.pread(descriptor, page_size, place + _FRAME_HEADER)
        checksum = _checksum(data, order, checksum)
        if checksum != struct.unpack_from(">II", frame, 16):
            return damage
    # Complete frames without a commit were never acknowledged.
    return None


def _checksum(data: bytes, order: str, start: tuple[int, ...]) -> tuple[int, int]:
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
