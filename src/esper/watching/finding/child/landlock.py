"""Denies a process all changes of files by Linux's Landlock, which also applies to C code."""

import ctypes
import os
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, on all architectures
_GET_VERSION: Final = 1
_NO_NEW_PRIVILEGES: Final = 38
_PATH_BENEATH: Final = 1
#: Denied rights, by the Landlock version that introduced them: everything except reading.
_RIGHTS: Final = {
    1: 0x1FFF & ~(1 << 2 | 1 << 3),  # execute, write, remove and make; not read file or directory
    2: 1 << 13,  # link and rename across directories
    3: 1 << 14,  # truncate
}
_WRITE_FILE: Final = 1 << 1
_NETWORK: Final = (4, 0b11)  # since version 4: bind and connect
_SCOPES: Final = (6, 0b11)  # since version 6: abstract sockets and signals to other processes


class _Rules(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


class _Path(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def deny_changes() -> bool:
    """Deny this thread, and all threads and processes that it starts, to change files, permanently.

    If Landlock supports it, connections and signals to other processes are denied, too. Open files
    stay usable, and the null device can be opened for writing.

    Returns:
        Whether the system supports it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)
    if version < 1:
        return False
    files = sum(rights for first, rights in _RIGHTS.items() if first <= version)
    network, scopes = (bits if first <= version else 0 for first, bits in (_NETWORK, _SCOPES))
    rules = _Rules(files, network, scopes)
    ruleset = libc.syscall(
        _CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(ctypes.sizeof(rules)), 0
    )
    if ruleset < 0:
        return False
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        path = _Path(_WRITE_FILE | (files & _RIGHTS[3]), null)
        return not (
            libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(path), 0)
            or libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
            or libc.syscall(_RESTRICT_SELF, ruleset, 0)
        )
    finally:
        os.close(null)
        os.close(ruleset)
