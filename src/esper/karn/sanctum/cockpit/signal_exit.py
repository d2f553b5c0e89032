"""Ends Sanctum at a signal, also after its terminal has gone.

Textual's writer thread ends with its terminal. Its queue then fills up, and the event loop or the
exit of the app blocks on it forever, so a handler in the event loop may never run. A signal
therefore also sets an alarm, which does not need the event loop: Python runs signal handlers in the
main thread even while that waits for a queue, a lock or a thread.
"""

import os
import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

#: How long an orderly exit may take.
_SECONDS: Final = 2.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


def end_at_signals(loop: AbstractEventLoop, end: Callable[[signal.Signals], None]) -> None:
    """At SIGTERM and SIGHUP, call `end` in the event loop, and exit within two seconds.

    The exit code is then 128 plus the signal's number. `alarm_over` cancels that.
    """
    for number in _SIGNALS:
        loop.add_signal_handler(number, end, number)
        # The loop receives signals through a file descriptor, so Python's own handler is free.
        signal.signal(number, _set_alarm)


def _set_alarm(number: int, _frame: FrameType | None) -> None:
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        return  # set already: a second signal does not extend the time
    signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)


@contextmanager
def alarm_over() -> Iterator[None]:
    """Cancel the alarm on exit, when the terminal is restored."""
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
