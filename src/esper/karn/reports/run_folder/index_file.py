"""The index of a folder of runs: a file that saves reading their stores again.

The summary of an ended run is used only while the stamps of the run's files are unchanged. For an
active run, the index only contains which events of its store matter (`Digest`). The index may be
deleted at any time. It is replaced atomically; a damaged index, or one of another version of Esper,
is ignored.
"""

import fcntl
import os
import socket
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from esper.karn.reports.run_folder.run_summary import RunSummary
from esper.karn.sanctum.following.digest import Digest
from esper.karn.store.file_stamps import FileStamp
from esper.karn.store.liveness import StatusKind
from esper.leyline.version import VERSION

INDEX_NAME: Final = ".esper-runs-index"
_PARTIAL_NAME: Final = ".esper-runs-index.partial"
#: Increased when the meaning of a field changes.
_MAGIC: Final = f"esper runs index 1 {VERSION}\n".encode()
_CHECKSUM_BYTES: Final = 4
#: Maximum size in bytes, enough for 100,000 runs; a larger file is not read.
_MOST_BYTES: Final = 1 << 28

Stamps = tuple[FileStamp | None, ...]


class IndexedRun(msgspec.Struct, frozen=True, array_like=True):
    """A run in the index: a summary with its stamps, or a digest.

    Attributes:
        name: name of the run's folder.
        stamps: stamps of the run's files when its summary was read.
        summary: summary of an ended run.
        digest: digest of an active run.
    """

    name: str
    stamps: Stamps = ()
    summary: RunSummary | None = None
    digest: Digest | None = None


class _Index(msgspec.Struct, array_like=True):
    machine: str
    runs: list[IndexedRun]


def _encoded(run: IndexedRun) -> msgspec.Raw | None:
    """Return a run's index entry; None if it has none, for example if its name is not UTF-8."""
    try:
        return msgspec.Raw(_encode(run))
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        return None


def _from_path(value: Any) -> Any:
    return str(value)


def _to_path(kind: type, value: Any) -> Any:
    return kind(value)


_encode = msgspec.msgpack.Encoder(enc_hook=_from_path).encode
_decode = msgspec.msgpack.Decoder(_Index, dec_hook=_to_path).decode


def read_index(run_dir: Path) -> dict[str, IndexedRun]:
    """Return the index entries by name of the run's folder; empty if the index cannot be used."""
    try:
        descriptor = os.open(run_dir / INDEX_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            data = file.read(_MOST_BYTES)
    except OSError:
        return {}
    start = len(_MAGIC) + _CHECKSUM_BYTES
    body = memoryview(data)[start:]
    if data[: len(_MAGIC)] != _MAGIC or _checksum(body) != data[len(_MAGIC) : start]:
        return {}
    try:
        index = _decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return {}
    is_here = index.machine == socket.gethostname()
    return {
        run.name: run
        for run in index.runs
        # Whether a process is gone can only be checked on its own machine.
        if is_here or run.summary is None or run.summary.status.kind is not StatusKind.DEAD
    }


def write_index(run_dir: Path, runs: Iterable[IndexedRun]) -> bool:
    """Replace the index; return whether it was written.

    It is not written if the folder is not writable, or if another process is writing the index.
    """
    body = _encode((socket.gethostname(), [one for one in map(_encoded, runs) if one is not None]))
    partial = run_dir / _PARTIAL_NAME
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(partial, flags, 0o666)
    except OSError:
        return False
    with open(descriptor, "r+b") as file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), os.lstat(partial)):
                return False  # another process has just made it the index
            file.truncate(0)
            file.writelines((_MAGIC, _checksum(body), body))
            file.flush()
            os.replace(partial, run_dir / INDEX_NAME)
        except OSError:
            with suppress(OSError):
                file.truncate(0)  # the disk may be full
            return False
    return True


def _checksum(data: bytes | memoryview) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "big")
