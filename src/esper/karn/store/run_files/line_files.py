"""Reading of files with one record per line, some of which may be damaged."""

from collections.abc import Sequence
from pathlib import Path

from esper.leyline.files.regular_files import open_regular


def read_beginning(path: Path, max_bytes: int) -> bytes | None:
    """Return at most `max_bytes` from the beginning of a file; None if there is no file.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            return file.read(max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return None


def damaged_lines_words(lines: Sequence[int]) -> str:
    """Return "line 3" or "line 3 and 2 more"."""
    return f"line {lines[0]}" if len(lines) == 1 else f"line {lines[0]} and {len(lines) - 1} more"
