"""Requests to stop training, after the current update or at once, and to write a checkpoint.

The first SIGINT stops training after the current update. SIGTERM, SIGHUP or a second SIGINT stop it
at once: the current batch is discarded, and the state after the last update is kept. SIGUSR1 asks
for a checkpoint, and training continues.
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
        checkpoint_wanted: whether to write a checkpoint of the last update and continue.
        lost: the reason why training cannot continue, if another process of the run ended.
        is_noticed: whether the work in progress has ended because of a request to stop at once.
    """

    def __init__(self, report: Callable[[str], None] = lambda _line: None) -> None:
        self._report = report
        self.requested = False
        self.at_once = False
        self.checkpoint_wanted = False
        self.lost = ""
        self.is_noticed = False
        self._is_interruptible = False
        self._callbacks: list[Callable[[], None]] = []
        self._checkpoint_callbacks: list[Callable[[], None]] = []

    def when_at_once(self, callback: Callable[[], None]) -> None:
        """Add a function to call at a request to stop at once.

        Args:
            callback: called by the signal handler, so it must only set flags.
        """
        self._callbacks.append(callback)

    def when_checkpoint_wanted(self, callback: Callable[[], None]) -> None:
        """Add a function to call at a request for a checkpoint.

        Args:
            callback: called by the signal handler, so it must only set flags.
        """
        self._checkpoint_callbacks.append(callback)

    def check(self) -> None:
        """Do nothing, unless this process was asked to stop at once.

        Raises:
            StoppedAtOnce: it was.
        """
        if self.at_once:
            self.is_noticed = True
            raise StoppedAtOnce

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal.

        Raises:
            StoppedAtOnce: the process stops at once, and is inside `interruptible`.
            KeyboardInterrupt: SIGINT, after a request to stop at once.
        """
        if number == signal.SIGUSR1:
            self.checkpoint_wanted = True
            for callback in self._checkpoint_callbacks:
                callback()
            return
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
        self._report(self.lost or "stopping at once: the current batch is discarded")
        if self._is_interruptible:
            self.check()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Allow a request to stop at once to end the block. Elsewhere it waits for the next one.

        Raises:
            StoppedAtOnce: at the request, or on entry if the request came before.
        """
        try:
            self._is_interruptible = True
            self.check()
            yield
        finally:
            self._is_interruptible = False


@contextmanager
def stop_on_signal(report: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM, SIGHUP and SIGUSR1 into requests while the block runs.

    A SIGHUP that is ignored, as under nohup, stays ignored.

    Args:
        report: receives a line for each request, see `StopRequest`.
    """
    request = StopRequest(report)
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, request.handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
