"""Stopping when asked: after the current update, or at once.

The first SIGINT asks training to stop after the current update. SIGTERM, SIGHUP or a second SIGINT
ask it to stop at once: the batch under way is given up, and what was learnt before is kept.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class StoppedAtOnce(KeyboardInterrupt):
    """Training was asked to stop at once, within work that can be given up."""


class StopRequest:
    """Whether this process was asked to stop, and how soon.

    Attributes:
        requested: whether to stop after the current update.
        at_once: whether to give up the batch under way.
    """

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False
        self._is_interruptible = False
        self._callbacks: list[Callable[[], None]] = []

    def when_at_once(self, callback: Callable[[], None]) -> None:
        """Have a function called when this is to stop at once.

        Args:
            callback: called by the signal handler, so it may set flags and nothing else.
        """
        self._callbacks.append(callback)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Note the request that a signal makes.

        Raises:
            StoppedAtOnce: the process is to stop at once, and is within `interruptible`.
            KeyboardInterrupt: SIGINT, although the process is to stop at once already.
        """
        if self.at_once:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        is_first = not self.requested
        self.requested = True
        if number == signal.SIGINT and is_first:
            _note("stopping after the current update; a second Ctrl-C stops at once")
            return
        self.at_once = True
        for callback in self._callbacks:
            callback()
        _note("stopping at once: the batch under way is given up")
        if self._is_interruptible:
            raise StoppedAtOnce

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a request to stop at once end the block; elsewhere it waits for the next such block.

        Raises:
            StoppedAtOnce: at the moment of the request, or now if it came before.
        """
        try:
            self._is_interruptible = True
            if self.at_once:
                raise StoppedAtOnce
            yield
        finally:
            self._is_interruptible = False


def _note(line: str) -> None:
    # Not print: a signal may arrive in the middle of one, and that may not be entered again.
    with suppress(OSError):
        os.write(2, f"\n{line}\n".encode())


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and SIGHUP into a request while the block runs.

    A SIGHUP that is ignored, as under nohup, stays ignored.
    """
    request = StopRequest()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, request.handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
