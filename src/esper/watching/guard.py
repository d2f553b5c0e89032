"""Keeps failures of a watch away from the training that it watches."""

from contextlib import suppress
from types import TracebackType

from esper.watching.recorder import Recorder


class Guard:
    """A context in which a failure of the watch is counted and reported, and never stops training.

    Args:
        recorder: receives each failure.

    Attributes:
        failures: how often the watch failed.
        last_failure: the last of these, as a sentence.
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
        """Count and report a failure that was dealt with."""
        self.failures += 1
        with suppress(Exception):
            self.last_failure = f"{type(error).__name__}: {error}"
            self.recorder.failed(self.failures, self.last_failure)
