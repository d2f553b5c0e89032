"""The last lines of a run's console output, read as the file grows."""

import codecs
import re
from collections import deque
from pathlib import Path
from typing import Final

from esper.karn.store.run_directory import CONSOLE_NAME
from esper.leyline.files.regular_files import open_regular

LINES_KEPT: Final = 200
#: Maximum number of bytes read at once; older ones are skipped.
_BYTES_READ: Final = 1 << 16
#: Maximum length of a line: some programs never end one.
_LONGEST_LINE: Final = 1_000

# Control sequences of terminals (ECMA-48): those that begin with CSI, strings such as OSC up to
# their end, and other escapes of two characters.
_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class ConsoleTail:
    """Reads the end of a run's `console.log`.

    Args:
        directory: the run's directory; the file need not be there.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / CONSOLE_NAME
        self._file: tuple[int, int] | None = None  # device and inode
        self._start_over()

    def lines(self) -> tuple[str, ...]:
        """Return the last lines as plain text; the same object while nothing was added.

        A file that cannot be read adds nothing.
        """
        try:
            self._read_on()
        except OSError:
            self._file = None  # the next file may have the same inode
            return self._lines
        return self._lines

    def _start_over(self) -> None:
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._kept: deque[str] = deque(maxlen=LINES_KEPT)
        self._begun = ""  # a line that has no end yet
        self._lines: tuple[str, ...] = ()

    def _read_on(self) -> None:
        found = self._path.stat()
        file = found.st_dev, found.st_ino
        if file != self._file or found.st_size < self._offset:
            self._start_over()
            self._file = file
        if found.st_size == self._offset:
            return
        with open_regular(self._path) as log:
            start = max(self._offset, found.st_size - _BYTES_READ)
            log.seek(start)
            data = log.read(_BYTES_READ)
        if start > self._offset:  # begins in the middle of a line
            self._decoder.reset()
            self._begun = ""
            data_start = data.find(b"\n") + 1
            data = data[data_start:]
            start += data_start
        self._offset = start + len(data)
        text = self._begun + self._decoder.decode(data)
        *whole, self._begun = text.split("\n")
        self._begun = self._begun[-_LONGEST_LINE:]
        self._kept.extend(plain(line) for line in whole[-LINES_KEPT:])
        begun = plain(self._begun)
        self._lines = (*self._kept, begun)[-LINES_KEPT:] if begun else tuple(self._kept)


def plain(line: str) -> str:
    """Return a line as a terminal shows it: without control sequences and overwritten text."""
    line = _SEQUENCES.sub("", line).rstrip("\r").rpartition("\r")[2]
    return _CONTROLS.sub("", line.expandtabs())[:_LONGEST_LINE]
