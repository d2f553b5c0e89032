"""Source lines of running code."""

import linecache
import os
import stat
from contextlib import suppress
from typing import Final

_MOST_BYTES: Final = 16 << 20


def source_lines(file: str) -> list[str]:
    """Return the lines of a source file; empty if it cannot be read.

    Only regular files up to 16 MiB are read (a script may run from a pipe, which would block), and
    sources that Python already has in memory, such as notebook cells.

    Args:
        file: path of the source file, as in a code object.
    """
    if file not in linecache.cache:
        with suppress(OSError, ValueError):  # not a file: linecache asks what loaded the module
            status = os.stat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
                return []
    return linecache.getlines(file)
