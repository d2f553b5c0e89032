"""The user's note on a run: one line in a file next to the store."""

import contextlib
import os
from pathlib import Path
from typing import Final

from esper.leyline.errors import EsperError
from esper.leyline.text.plain_text import printable_line

NOTE_NAME: Final = "note.txt"
LONGEST_NOTE: Final = 500  # characters


class NoteError(EsperError, ValueError):
    """A note cannot be written; the message says why."""


def read_note(directory: Path) -> str:
    """Return the note of a run; empty if there is none or it cannot be read."""
    try:
        with (directory / NOTE_NAME).open(encoding="utf-8", errors="replace") as file:
            text = file.read(LONGEST_NOTE)
    except OSError:
        return ""
    return printable_line(" ".join(text.split()))


def write_note(directory: Path, text: str) -> None:
    """Write the note of a run; an empty text removes it.

    Raises:
        NoteError: the note cannot be written; the old note is kept.
    """
    path = directory / NOTE_NAME
    line = printable_line(" ".join(text.split()))[:LONGEST_NOTE]
    new = path.with_name(f"{NOTE_NAME}.{os.getpid()}")
    try:
        if not line:
            path.unlink(missing_ok=True)
            return
        new.write_text(f"{line}\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise NoteError(f"the note cannot be written to {path}: {error.strerror}") from error
