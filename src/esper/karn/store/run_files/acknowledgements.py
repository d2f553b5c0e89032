"""Acknowledgements of latched lights, in a file next to the run's store.

A run's `acknowledgements.jsonl` has one line of JSON for each acknowledged light. Lines are only
appended, each in one write and under a lock, so that several cockpits can share the file. A damaged
line is reported and skipped. The first acknowledgement of a light counts.
"""

import fcntl
import getpass
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from esper.karn.store.run_files.line_files import damaged_lines_words, read_beginning
from esper.leyline.errors import EsperError

ACKNOWLEDGEMENTS_NAME: Final = "acknowledgements.jsonl"
_LIGHTS: Final = ("inf", "nan", "stalled")
#: Maximum number of bytes that are read: more than all lights need.
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Acknowledgement:
    """An operator has seen a latched light: it stops calling for attention and stays lit."""

    head: str  # a head's or a group's name; "training" for a run that is stalled
    light: str  # "inf", "nan" or "stalled"
    who: str
    time: float  # seconds since the epoch


_decode = msgspec.json.Decoder(Acknowledgement).decode


class AcknowledgementError(EsperError, ValueError):
    """An acknowledgement cannot be written; the message says why."""


@dataclass(frozen=True)
class Acknowledged:
    """The acknowledgements of a run."""

    entries: tuple[Acknowledgement, ...] = ()  # one for each light, in the order of the file
    error: str | None = None  # one sentence, if something could not be read


def read(directory: Path) -> Acknowledged:
    """Return the acknowledgements of a run; never raises because of the file."""
    path = directory / ACKNOWLEDGEMENTS_NAME
    try:
        data = read_beginning(path, _MAX_BYTES)
    except OSError as error:
        return Acknowledged(
            error=f"{path} cannot be read ({error.strerror}), so no light counts as acknowledged: "
            "make it readable or move it away"
        )
    if data is None:
        return Acknowledged()
    entries: dict[tuple[str, str], Acknowledgement] = {}
    damaged: list[int] = []  # numbers of lines, counted from 1
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            damaged.append(number)
            continue
        entries.setdefault((entry.head, entry.light), entry)
    return Acknowledged(tuple(entries.values()), _damage(path, damaged) if damaged else None)


def _damage(path: Path, lines: Sequence[int]) -> str:
    them = "that line" if len(lines) == 1 else "those lines"
    return (
        f"{path} is damaged in {damaged_lines_words(lines)}: acknowledge the missing lights again "
        f"and delete {them}"
    )


def acknowledge(
    directory: Path, lights: Iterable[tuple[str, str]], who: str, when: float
) -> tuple[Acknowledgement, ...]:
    """Acknowledge lights of a run; earlier acknowledgements are kept.

    Args:
        directory: the run's directory.
        lights: head (or group) and "inf" or "nan" of each light; or "training" and "stalled".
        who: user and machine.
        when: time in seconds since the epoch.

    Returns:
        The acknowledgements that were written.

    Raises:
        AcknowledgementError: a light is none of "inf", "nan" and "stalled", or the file cannot be
            written.
    """
    wanted = [Acknowledgement(head, light, who, when) for head, light in lights]
    for entry in wanted:
        if entry.light not in _LIGHTS:
            raise AcknowledgementError(f"a light is inf, nan or stalled, not {entry.light!r}")
    path = directory / ACKNOWLEDGEMENTS_NAME
    try:
        # Opened for reading too, to see how the file ends.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            known = {(entry.head, entry.light) for entry in read(directory).entries}
            new = tuple(entry for entry in wanted if (entry.head, entry.light) not in known)
            _append(descriptor, new)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AcknowledgementError(
            f"the acknowledgement cannot be written to {path}: {error.strerror}"
        ) from error
    return new


def who_am_i() -> str:
    """Return the current user and machine, as `user@machine`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in many containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _append(descriptor: int, entries: tuple[Acknowledgement, ...]) -> None:
    if not entries:
        return
    lines = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
    size = os.fstat(descriptor).st_size
    # A line that was cut short must not damage the next one.
    is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    lines = b"\n" + lines if is_torn else lines
    written = os.write(descriptor, lines)
    if written != len(lines):
        os.ftruncate(descriptor, size)
        raise OSError(0, "only a part was written")
