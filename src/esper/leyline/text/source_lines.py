"""The lines of running code's source files."""

import linecache
import os
import stat
from contextlib import suppress
from typing import Final

_MOST_BYTES: Final = 16 << 20


def source_lines(file: str) -> list[str]:
    """Return the lines of a source file; empty if there is none that can be read at once.

    A script may run from a pipe, whose reading would not end: only regular files up to 16 MiB are
    read, and what Python already keeps, such as the cells of a notebook.

    Args:
        file: path of the source file, as a code object names it.
    """
    if file not in linecache.cache:
        with suppress(OSError, ValueError):  # not a file: linecache asks what loaded the module
            status = os.stat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
                return []
    return linecache.getlines(file)
