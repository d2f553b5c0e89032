"""The form of a checkpoint file: a state, a summary that is read without torch, and two digests.

    state | summary | length of the summary | SHA-256 of the summary | SHA-256 of all that | mark

The state is the output of `torch.save`. The summary is JSON for programs that do not load torch:
progress, settings and latches of the run. Lengths are little-endian.

Checkpoints of format 2 are read, too; `esper.leyline.files.unsealed_checkpoint` describes them.
"""

import hashlib
import os
import re
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from esper.leyline.errors import EsperError
from esper.leyline.files.regular_files import open_regular, read_regular
from esper.leyline.files.unsealed_checkpoint import (
    UNSEALED_FORMAT,
    UnsealedCheckpoint,
    read_unsealed,
    scan_unsealed,
)
from esper.leyline.telemetry import NonfiniteSighting

CHECKPOINTS_NAME: Final = "checkpoints"  # their folder in a run
FORMAT: Final = 3
_MARK: Final = b"ESPERCKP"
_FOOTER: Final = struct.Struct("<I32s32s8s")
_BEFORE_DIGEST: Final = 4 + 32  # bytes of the footer that the digest of the whole file covers
_NAME: Final = re.compile(r"update-(\d{1,12})\.pt")
#: Maximum size of a summary in bytes: more than a few hundred latches of 300 bytes.
_LONGEST_SUMMARY: Final = 4 << 20


class CheckpointError(EsperError, ValueError):
    """A checkpoint cannot be read; the message is one clear sentence."""


class CheckpointSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of a run in a checkpoint.

    Attributes:
        format: format of the state.
        update: updates completed.
        episodes_done: episodes completed.
        update_was_good: whether everything in the last update was finite.
        settings: all settings of the run, by name; empty in format 2.
        latches: the first sighting of each head, quantity and kind in the run, with its update;
            empty in format 2.
    """

    format: int
    update: int
    episodes_done: int
    update_was_good: bool = False
    settings: dict[str, Any] = {}
    latches: list[tuple[int, NonfiniteSighting]] = []

    @property
    def is_sealed(self) -> bool:
        """Whether the file has digests that detect any change."""
        return self.format != UNSEALED_FORMAT


class NumberedCheckpoint(NamedTuple):
    """A file with the name of a checkpoint."""

    update: int
    path: Path


class NewestCheckpoint(NamedTuple):
    """The newest undamaged checkpoint of a folder.

    Attributes:
        path: its file; None if there is no undamaged checkpoint.
        summary: what it says of its run; None as above.
        passed_over: a sentence for each newer one that is damaged.
    """

    path: Path | None
    summary: CheckpointSummary | None
    passed_over: list[str]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(CheckpointSummary).decode


def checkpoints_in(directory: Path) -> list[NumberedCheckpoint]:
    """Return the checkpoints of a folder, oldest first; none if it cannot be listed."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    found = [
        NumberedCheckpoint(int(matched[1]), directory / name)
        for name in names
        if (matched := _NAME.fullmatch(name))
    ]
    return sorted(found)


def checkpoint_path(directory: Path, update: int) -> Path:
    """Return the path of the checkpoint of an update."""
    return directory / f"update-{update:06d}.pt"


def sealed(state: bytes, summary: CheckpointSummary) -> list[bytes]:
    """Return the content of a checkpoint file, in parts.

    Args:
        state: the output of `torch.save`.
        summary: the summary of the run.
    """
    text = _encode(summary)
    begin = struct.pack("<I", len(text)) + hashlib.sha256(text).digest()
    digest = hashlib.sha256(state)
    digest.update(text)
    digest.update(begin)
    return [state, text, begin, digest.digest() + _MARK]


def read_summary(path: Path) -> CheckpointSummary:
    """Read the summary of a checkpoint; the state is neither read nor checked.

    Raises:
        CheckpointError: it is damaged, or of a format that this version does not read.
    """
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            if size < _FOOTER.size:
                raise _damaged(path)
            file.seek(size - _FOOTER.size)
            footer = file.read(_FOOTER.size)
            if not footer.endswith(_MARK):
                return _unsealed(path, scan_unsealed(file))
            length, digest = _footer(path, footer)[:2]
            if length > size - _FOOTER.size:
                raise _damaged(path)
            file.seek(size - _FOOTER.size - length)
            return _summary(path, file.read(length), digest)
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error.strerror}") from error


def read_checkpoint(path: Path) -> tuple[memoryview, CheckpointSummary]:
    """Read and verify a checkpoint; return its state and its summary.

    Format 2 has a CRC-32 of each part of its state instead of a digest.

    Raises:
        CheckpointError: it is damaged, or of a format that this version does not read.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
    return parse_checkpoint(data, path)


def parse_checkpoint(content: bytes, path: Path) -> tuple[memoryview, CheckpointSummary]:
    """Return the state and the summary in the content of a checkpoint file.

    Args:
        content: content of the file.
        path: path of the file, for messages.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    data = memoryview(content)
    end = len(data) - _FOOTER.size
    if end < 0:
        raise _damaged(path)
    if bytes(data[-len(_MARK) :]) != _MARK:
        unsealed = read_unsealed(data)
        if unsealed is None:
            raise _damaged(path)
        return memoryview(unsealed[0]), _unsealed(path, unsealed[1])
    length, summary_digest, digest = _footer(path, data[end:])
    if length > end or hashlib.sha256(data[: end + _BEFORE_DIGEST]).digest() != digest:
        raise _damaged(path)
    begin = end - length
    return data[:begin], _summary(path, data[begin:end], summary_digest)


def newest_whole(directory: Path) -> NewestCheckpoint:
    """Find the newest checkpoint of a folder that passes verification."""
    passed_over = []
    for update, path in reversed(checkpoints_in(directory)):
        try:
            summary = read_checkpoint(path)[1]
            check_number(path, update, summary.update)
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        return NewestCheckpoint(path, summary, passed_over)
    return NewestCheckpoint(None, None, passed_over)


def check_number(path: Path, update: int, actual: int) -> None:
    """Check that name and content of a checkpoint agree.

    Args:
        path: the file.
        update: the update in its name.
        actual: the update in its content.

    Raises:
        CheckpointError: it is of another update than its name says.
    """
    if actual != update:
        raise CheckpointError(f"the checkpoint {path} holds update {actual}: it was renamed")


def unsealed_sentence(path: Path) -> str:
    """Return the notice about the use of a checkpoint of format 2."""
    return (
        f"{path} was written by an older version of Esper and has no digest: only the CRC-32 of "
        "its parts was checked"
    )


def _unsealed(path: Path, found: UnsealedCheckpoint | None) -> CheckpointSummary:
    if found is None:
        raise _damaged(path)
    return CheckpointSummary(
        format=UNSEALED_FORMAT, update=found.update, episodes_done=found.episodes_done
    )


def _footer(path: Path, data: bytes | memoryview) -> tuple[int, bytes, bytes]:
    length, summary_digest, digest, mark = _FOOTER.unpack(data)
    if mark != _MARK or length > _LONGEST_SUMMARY:
        raise _damaged(path)
    return length, summary_digest, digest


def _summary(path: Path, text: bytes | memoryview, digest: bytes) -> CheckpointSummary:
    if hashlib.sha256(text).digest() != digest:
        raise _damaged(path)
    try:
        summary: CheckpointSummary = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path) from error
    if summary.format != FORMAT:
        raise CheckpointError(
            f"the checkpoint {path} is of format {summary.format}, and this version reads {FORMAT}"
        )
    return summary


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} is damaged: its digest is missing or not that of its content"
    )
