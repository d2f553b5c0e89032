"""Isolates a forked child process from files, sockets and other processes."""

import fcntl
import io
import logging
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

import torch

from esper.watching.finding.child.landlock import deny_changes
from esper.watching.finding.child.seccomp import deny_system_calls

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Audit events, or prefixes of their names, with effects outside the process.
_OUTSIDE: Final = (
    "ftplib.", "os.chmod", "os.chown", "os.exec", "os.fork", "os.kill", "os.link", "os.mkdir",
    "os.posix_spawn", "os.putenv", "os.remove", "os.rename", "os.rmdir", "os.setxattr", "os.spawn",
    "os.symlink", "os.system", "os.truncate", "os.utime", "pty.", "shutil.", "smtplib.", "socket.",
    "sqlite3.", "subprocess.", "syslog.", "tempfile.", "urllib.", "webbrowser.",
)  # fmt: skip
_NOT_AUDITED: Final = ("mkfifo", "mknod")  # functions of `os` that make files

#: Refused actions of this process, each as the end of a sentence.
REFUSED: Final[list[str]] = []


def cut_off(kept: int) -> None:
    """Isolate this process permanently from files, sockets and other processes.

    Args:
        kept: file descriptor that remains usable.
    """
    logging.disable(logging.CRITICAL)
    sys.dont_write_bytecode = True
    _replace_descriptors(kept)
    sys.addaudithook(_refuse)
    for name in _NOT_AUDITED:
        setattr(os, name, _refusing(f"os.{name}"))
    if not deny_changes():  # by C code, which has no audit events
        deny_system_calls()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file grows
    writer = torch._C.PyTorchFileWriter  # opens files without an audit event

    def into_memory(target: Any, *args: Any, **kwargs: Any) -> Any:
        is_path = isinstance(target, (str, bytes, os.PathLike))
        return writer(io.BytesIO() if is_path else target, *args, **kwargs)

    vars(torch._C)["PyTorchFileWriter"] = into_memory


def _replace_descriptors(kept: int) -> None:
    """Reopen files that are open for reading, to leave the training's file positions unchanged.

    All other descriptors, such as sockets, pipes and writable files, become the null device.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number in (kept, null):
            continue
        try:
            mode = os.fstat(number).st_mode
            other = null
            if stat.S_ISREG(mode) and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == 0:
                other = os.open(f"/proc/self/fd/{number}", os.O_RDONLY)
                os.lseek(other, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
        except OSError:  # the descriptor of the listing itself, or a file that cannot be reopened
            other = null
        os.dup2(other, number)
        if other != null:
            os.close(other)


def _refusing(name: str) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        _refuse_because(f"would call {name}()")

    return refuse


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = args
        if isinstance(path, int) or path == os.devnull or not flags & _WRITING:
            return
    elif not event.startswith(_OUTSIDE):
        return
    _refuse_because("would write a file" if event == "open" else f"would call {event}()")


def _refuse_because(reason: str) -> NoReturn:
    REFUSED.append(reason)
    raise PermissionError(f"it {reason}")
