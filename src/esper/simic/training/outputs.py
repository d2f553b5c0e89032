"""Text streams that never raise: a full disk or a dead terminal must not end training."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

#: What a stream raises: the disk or the terminal, a closed file, a stream that is not there.
_ERRORS: Final = (OSError, ValueError, AttributeError)


class OutputTroubles:
    """Passes on one line at the first failure of an output and one at its recovery.

    The places that receive the lines are outputs themselves, so they may fail, too: a trouble that
    comes up while one is passed on is not passed on.
    """

    def __init__(self) -> None:
        self._places: list[Callable[[str], None]] = []
        self._is_busy = False

    def add(self, place: Callable[[str], None]) -> None:
        """Add a function that receives lines."""
        self._places.append(place)

    def __call__(self, line: str) -> None:
        """Pass on a line."""
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
        stream: returns the stream to write to; it is asked at each write.
        name: of the stream, for reports: "standard output".
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
        self._failed = 0  # writes that failed since the last one that did not

    def write(self, text: str) -> int:
        """Write a text; what cannot be encoded is written as an escape."""
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
        """Bring what was written to the file or the terminal."""
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
        # A reader of a pipe that had enough is no trouble.
        if self._failed == 1 and self._report and not isinstance(error, BrokenPipeError):
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._report(f"{self._name} cannot be written: {reason}; training continues")

    def _note_success(self) -> None:
        failed, self._failed = self._failed, 0
        if failed and self._report:
            lines = "1 line was" if failed == 1 else f"about {failed} lines were"
            self._report(f"{self._name} is written again; {lines} late or lost")


class LogFile:
    """A file that lines are appended to, each in one write, so that nothing waits in a buffer.

    Args:
        path: the file; it is made if it is not there.

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
            OSError: the disk did not take all of it.
        """
        data = (b"\n" if self._is_torn else b"") + text.encode("utf-8", "backslashreplace")
        written = os.write(self._descriptor, data)
        self._is_torn = written != len(data) and (written > 0 or self._is_torn)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def isatty(self) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
