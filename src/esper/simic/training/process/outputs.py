"""Text streams that never raise: a full disk or a closed terminal must not end training."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

#: Errors of a stream: of the disk or the terminal, of a closed file, of a missing stream.
_ERRORS: Final = (OSError, ValueError, AttributeError)


class OutputTroubles:
    """Reports the first failure of an output and its recovery to other outputs, a line each.

    The other outputs can fail, too: a failure during a report is not reported.
    """

    def __init__(self) -> None:
        self._places: list[Callable[[str], None]] = []
        self._is_busy = False

    def add(self, place: Callable[[str], None]) -> None:
        """Add a function that receives the lines."""
        self._places.append(place)

    def __call__(self, line: str) -> None:
        """Report a line."""
        if self._is_busy:
            return
        self._is_busy = True
        try:
            for place in self._places:
                place(line)
        finally:
            self._is_busy = False


class GuardedStream:
    """A text stream whose errors are counted and reported instead of raised.

    Args:
        stream: returns the stream to write to; called at each write.
        name: name of the stream in reports, such as "standard output".
        report: receives one line at the first failure and one at the recovery.
    """

    def __init__(
        self,
        stream: Callable[[], "TextIO | LogFile"],
        name: str,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self._stream = stream
        self._name = name
        self._report = report
        self._wrote = False  # since the last flush
        self._failed = 0  # failed writes in a row

    def write(self, text: str) -> int:
        """Write a text; characters that cannot be encoded are written as escapes."""
        if not text:  # print() with an empty end
            return 0
        try:
            try:
                self._stream().write(text)
            except UnicodeEncodeError as error:
                encoding = error.encoding
                safe = text.encode(encoding, "backslashreplace").decode(encoding, "replace")
                self._stream().write(safe)
            self._wrote = True
        except _ERRORS as error:
            self._wrote = False
            self._note_failure(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream().flush()
        except _ERRORS as error:
            self._note_failure(error)
        else:
            if self._wrote:
                self._note_success()
        self._wrote = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)

    def _note_failure(self, error: Exception) -> None:
        self._failed += 1
        # A closed pipe is not a failure: its reader has finished.
        if self._failed == 1 and self._report and not isinstance(error, BrokenPipeError):
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._report(f"{self._name} cannot be written: {reason}; training continues")

    def _note_success(self) -> None:
        failed, self._failed = self._failed, 0
        if failed and self._report:
            lines = "1 line was" if failed == 1 else f"about {failed} lines were"
            self._report(f"{self._name} can be written again; {lines} late or lost")


class LogFile:
    """A file for appending lines, each in one write without a buffer.

    Args:
        path: the file; it is created if it does not exist.

    Raises:
        OSError: it cannot be opened.
    """

    encoding: Final = "utf-8"

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666
        )
        self._is_torn = False

    def write(self, text: str) -> int:
        """Append a text.

        Raises:
            OSError: not all of it was written.
        """
        data = (b"\n" if self._is_torn else b"") + text.encode("utf-8", "backslashreplace")
        written = os.write(self._descriptor, data)
        self._is_torn = written != len(data) and (written > 0 or self._is_torn)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(text)

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def isatty(self) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
