"""Requests to stop training: after the current update, or at once.

The first SIGINT stops training after the current update. SIGTERM, SIGHUP or a second SIGINT stop it
at once: the current batch is discarded, and the state after the last update is kept.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedAtOnce(KeyboardInterrupt):
    """A request to stop at once arrived in work that can be discarded."""


class StopRequest:
    """Whether the user asked this process to stop, and how soon.

    Args:
        report: receives a line for each request. The signal handler calls it, so it must not use
            `print`, which is not reentrant.

    Attributes:
        requested: whether to stop after the current update.
        at_once: whether to discard the current batch.
    """

    def __init__(self, report: Callable[[str], None] = lambda _line: None) -> None:
        self._report = report
        self.requested = False
        self.at_once = False
        self._is_interruptible = False
        self._callbacks: list[Callable[[], None]] = []

    def when_at_once(self, callback: Callable[[], None]) -> None:
        """Add a function to call at a request to stop at once.

        Args:
            callback: called by the signal handler, so it must only set flags.
        """
        self._callbacks.append(callback)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal.

        Raises:
            StoppedAtOnce: the process stops at once, and is inside `interruptible`.
            KeyboardInterrupt: SIGINT, after a request to stop at once.
        """
        if self.at_once:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        is_first = not self.requested
        self.requested = True
        if number == signal.SIGINT and is_first:
            self._report("stopping after the current update; a second Ctrl-C stops at once")
            return
        self.at_once = True
        for callback in self._callbacks:
            callback()
        self._report("stopping at once: the current batch is discarded")
        if self._is_interruptible:
            raise StoppedAtOnce

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Allow a request to stop at once to end the block. Elsewhere it waits for the next one.

        Raises:
            StoppedAtOnce: at the request, or on entry if the request came before.
        """
        try:
            self._is_interruptible = True
            if self.at_once:
                raise StoppedAtOnce
            yield
        finally:
            self._is_interruptible = False


@contextmanager
def stop_on_signal(report: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and SIGHUP into a request to stop while the block runs.

    A SIGHUP that is ignored, as under nohup, stays ignored.

    Args:
        report: receives a line for each request, see `StopRequest`.
    """
    request = StopRequest(report)
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, request.handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
