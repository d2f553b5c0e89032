"""Keeps failures of a watch from affecting training."""

from contextlib import suppress
from types import TracebackType

from esper.watching.recorder import Recorder


class Guard:
    """A context manager that catches, counts and reports failures of the watch.

    Args:
        recorder: receives each failure.

    Attributes:
        failures: number of failures.
        last_failure: the last failure, as a sentence.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.failures = 0
        self.last_failure = ""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.count(error)
        return True

    def count(self, error: Exception) -> None:
        """Count and report a failure that was caught."""
        self.failures += 1
        with suppress(Exception):
            self.last_failure = f"{type(error).__name__}: {error}"
            self.recorder.failed(self.failures, self.last_failure)
