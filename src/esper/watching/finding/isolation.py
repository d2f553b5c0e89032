"""Keeps a forked child from the files, sockets and processes of the training."""

import fcntl
import io
import logging
import os
import stat
import sys
from typing import Any, Final

import torch

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Audit events, or the beginnings of their names, of what reaches beyond the process.
_OUTSIDE: Final = (
    "ftplib.", "os.chmod", "os.chown", "os.exec", "os.fork", "os.kill", "os.link", "os.mkdir",
    "os.posix_spawn", "os.putenv", "os.remove", "os.rename", "os.rmdir", "os.spawn", "os.symlink",
    "os.system", "os.truncate", "os.utime", "shutil.", "smtplib.", "socket.", "sqlite3.",
    "subprocess.", "tempfile.", "urllib.",
)  # fmt: skip


#: What this process was refused, as the end of a sentence.
REFUSED: Final[list[str]] = []


def cut_off(kept: int) -> None:
    """Cut this process off from all that outlives it, for good.

    Args:
        kept: file descriptor that stays usable.
    """
    logging.disable(logging.CRITICAL)
    sys.dont_write_bytecode = True
    _replace_descriptors(kept)
    sys.addaudithook(_refuse)
    writer = torch._C.PyTorchFileWriter  # opens files without an audit event

    def into_memory(target: Any, *args: Any, **kwargs: Any) -> Any:
        is_path = isinstance(target, (str, bytes, os.PathLike))
        return writer(io.BytesIO() if is_path else target, *args, **kwargs)

    vars(torch._C)["PyTorchFileWriter"] = into_memory


def _replace_descriptors(kept: int) -> None:
    """Let open files be read from where they are, without moving the training's own position.

    All others, such as sockets, pipes and files that are written, become the null device.
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
        except OSError:  # it was open for the listing only, or its file cannot be opened again
            other = null
        os.dup2(other, number)
        if other != null:
            os.close(other)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = args
        if isinstance(path, int) or path == os.devnull or not flags & _WRITING:
            return
    elif not event.startswith(_OUTSIDE):
        return
    REFUSED.append("would write a file" if event == "open" else f"would call {event}()")
    raise PermissionError(f"it {REFUSED[-1]}")
