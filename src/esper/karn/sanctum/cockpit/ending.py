"""Ends Sanctum at a signal, also where its terminal is gone and nothing can be written any more.

The thread in which Textual writes dies with its terminal, and from then on the queue in front of it
fills up and whoever writes waits for ever: the event loop, which then hears of no signal, or the
end of the app. So a signal also sets an alarm, which does not need the event loop. Python runs the
handlers of signals in the main thread while it waits for a queue, a lock or a thread.
"""

import os
import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

#: How long leaving in order may take.
_SECONDS: Final = 2.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


def end_at_signals(loop: AbstractEventLoop, end: Callable[[signal.Signals], None]) -> None:
    """At SIGTERM and SIGHUP call `end` in the event loop, and see to it that the process does end.

    Until `alarm_over`, the process has two seconds, and exits with 128 and the signal's number.
    """
    for number in _SIGNALS:
        loop.add_signal_handler(number, end, number)
        # The loop hears of signals by another way than Python's own handler, which does nothing.
        signal.signal(number, _set_alarm)


def _set_alarm(number: int, _frame: FrameType | None) -> None:
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        return  # it is set: a second signal gives no more time
    signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)


@contextmanager
def alarm_over() -> Iterator[None]:
    """Switch off the alarm at the end: the terminal was left."""
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
