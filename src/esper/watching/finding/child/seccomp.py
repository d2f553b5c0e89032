"""Denies a process the system calls that change files, for a Linux without Landlock."""

import ctypes
import os
import platform
import struct
from dataclasses import dataclass
from typing import Final

_NO_NEW_PRIVILEGES, _SET_FILTER, _FILTER_MODE = 38, 22, 2  # of prctl()
_LOAD, _IS_EQUAL, _HAS_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06  # instructions of the filter
_ALLOW: Final = 0x7FFF0000
_DENY: Final = 0x00050000 | 13  # fails with EACCES
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in the filter's input
_CHANGING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class _Calls:
    """Numbers of system calls on one architecture.

    Attributes:
        architecture: number of the architecture in Linux's audit system.
        opening: calls that open files, with the position of the argument that holds the flags.
        denied: calls that change files, connect, start programs or signal other processes.
    """

    architecture: int
    opening: tuple[tuple[int, int], ...]
    denied: tuple[int, ...]


_COMMON: Final = (425, 437, 452)  # io_uring_setup, openat2, fchmodat2
_CALLS: Final = {
    "x86_64": _Calls(
        0xC000003E,
        ((2, 1), (257, 2)),  # open, openat
        (
            *_COMMON,
            *(76, 82, 83, 84, 85, 86, 87, 88),  # truncate, rename, mkdir, rmdir, creat ... symlink
            *(90, 92, 94, 132, 133, 235),  # chmod, chown, lchown, utime, mknod, utimes
            *(258, 259, 260, 261, 263, 264, 265, 266, 268, 280, 316),  # the same with "at"
            *(42, 49, 59, 62, 322),  # connect, bind, execve, kill, execveat
        ),
    ),
    "aarch64": _Calls(
        0xC00000B7,
        ((56, 2),),  # openat
        (
            *_COMMON,
            *(33, 34, 35, 36, 37, 38, 45),  # mknodat, mkdirat ... renameat, truncate
            *(53, 54, 88, 276),  # fchmodat, fchownat, utimensat, renameat2
            *(129, 200, 203, 221, 281),  # kill, bind, connect, execve, execveat
        ),
    ),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def deny_system_calls() -> bool:
    """Make the calls that change files fail in this process, permanently.

    Returns:
        Whether the system supports it.
    """
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return False
    instructions = _instructions(calls)
    content = b"".join(struct.pack("HBBI", *one) for one in instructions)
    program = _Program(len(instructions), content)
    libc = ctypes.CDLL(None, use_errno=True)
    return not (
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        or libc.prctl(_SET_FILTER, _FILTER_MODE, ctypes.byref(program), 0, 0)
    )


def _instructions(calls: _Calls) -> list[tuple[int, int, int, int]]:
    """Return the filter's instructions: code, two jump distances, and value of each."""
    allow, deny = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _DENY)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IS_EQUAL, 1, 0, calls.architecture),
        allow,
        (_LOAD, 0, 0, _NUMBER),
    ]
    for number, position in calls.opening:
        program += [
            (_IS_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * position),
            (_HAS_BITS, 0, 1, _CHANGING),
            deny,
            allow,
        ]
    for number in calls.denied:
        program += [(_IS_EQUAL, 0, 1, number), deny]
    return [*program, allow]
