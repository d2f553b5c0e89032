"""Delivery of messages, with one queue and one thread per sink: sinks do not block each other."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from esper.karn.alerts.messages import Message
from esper.karn.alerts.sinks.sink import Sink, SinkError
from esper.karn.text.figures import span_text
from esper.leyline.text.plurals import counted

#: Seconds before the first retry, doubled for each further one up to `LONGEST_WAIT`.
FIRST_WAIT: Final = 5.0
LONGEST_WAIT: Final = 300.0


class Delivery(threading.Thread):
    """Sends messages to one sink in order and retries each one until it is accepted.

    Args:
        sink: the destination.
        delivered: called after the sink accepted a message.
        report: prints a sentence for the operator.
        first_wait: seconds before the first retry.
    """

    def __init__(
        self,
        sink: Sink,
        delivered: Callable[[Message, Sink], None],
        report: Callable[[str], None],
        first_wait: float = FIRST_WAIT,
    ) -> None:
        super().__init__(name=f"delivery {sink.id}", daemon=True)
        self.sink = sink
        self._delivered = delivered
        self._report = report
        self._first_wait = first_wait
        self._queue: deque[Message] = deque()
        self._condition = threading.Condition()
        self._is_stopping = False
        self._is_failing = False  # the last attempt failed

    def put(self, message: Message) -> None:
        """Add a message to the end of the queue."""
        with self._condition:
            self._queue.append(message)
            self._condition.notify_all()

    @property
    def waiting(self) -> int:
        """Number of messages that the sink has not accepted yet."""
        return len(self._queue)

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed."""
        return self._is_failing

    def wait_until_sent(self, end: float, *, despite_failure: bool = False) -> bool:
        """Wait until the queue is empty; return whether it is.

        Args:
            end: deadline on the monotonic clock, in seconds.
            despite_failure: whether to keep waiting after a failed attempt.
        """
        with self._condition:
            while self._queue and (despite_failure or not self._is_failing):
                left = end - time.monotonic()
                if left <= 0 or not self.is_alive():
                    break
                self._condition.wait(left)
            return not self._queue

    def stop(self) -> None:
        """End the thread after the current attempt, and report undelivered messages."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify_all()
        if self._queue:
            self._report(
                f"{self.sink.name}: {counted(len(self._queue), 'message')} not delivered; they are "
                "kept and sent at the next start"
            )

    def run(self) -> None:
        """Send messages until stopped."""
        attempts = 0
        while True:
            with self._condition:
                while not self._queue and not self._is_stopping:
                    self._condition.wait()
                if self._is_stopping:
                    return
                message = self._queue[0]
            wait = self._attempt(message, attempts)
            attempts = 0 if wait is None else attempts + 1
            with self._condition:
                self._is_failing = wait is not None
                if wait is None:
                    self._queue.popleft()
                self._condition.notify_all()
                end = time.monotonic() + (wait or 0.0)
                while not self._is_stopping and (left := end - time.monotonic()) > 0:
                    self._condition.wait(left)

    def _attempt(self, message: Message, attempts: int) -> float | None:
        """Try to send a message; return the seconds until the retry, None if it was accepted."""
        try:
            receipt = self.sink.send(message)
        except SinkError as error:
            wait = min(self._first_wait * 2.0 ** min(attempts, 16), LONGEST_WAIT)
            wait = max(wait, error.retry_after)
            self._report(f"{self.sink.name}: {error}; trying again in {span_text(wait)}")
            return wait
        except Exception as error:  # noqa: BLE001  (a bug in one sink must not silence the others)
            self._report(f"{self.sink.name}: failed ({type(error).__name__}); trying again")
            return LONGEST_WAIT
        self._delivered(message, self.sink)
        self._report(f"{self.sink.name}: sent ({receipt}): {message.title}")
        return None
