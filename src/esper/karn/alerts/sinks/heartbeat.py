"""A heartbeat, as healthchecks.io and its kin expect it.

A POST to the URL says that alerts are alive and no run fails; one to URL/fail says which runs fail.
If nothing comes, because the machine is down, the service raises the alarm by itself.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from esper.karn.alerts.messages import Message
from esper.karn.alerts.sinks.post import post
from esper.karn.alerts.sinks.sink import SinkError

#: A watch loop that has not looked at runs for so long hangs: that is a failure.
HUNG_SECONDS: Final = 120.0
_HEADERS: Final = {"Content-Type": "text/plain; charset=utf-8"}


@dataclass(frozen=True)
class HeartbeatSink:
    """Sends the state of all runs.

    Attributes:
        id: identifies it in records, where it never occurs.
        name: names it in output.
        url: where success is sent; a secret.
        every: seconds between two beats while the state is the same.
    """

    id: str
    name: str
    url: str
    every: float

    def beat(self, failures: Sequence[str]) -> str:
        """Send the state.

        Args:
            failures: one sentence for each run that fails.

        Raises:
            SinkError: it was not accepted.
        """
        body = "\n".join(failures) or "no run fails"
        return post(_failing(self.url) if failures else self.url, body.encode(), _HEADERS)

    def send(self, message: Message) -> str:
        """Send a failure and then a recovery, for `esper alert --test`; see `Sink`."""
        return f"failure: {self.beat([message.title])}, recovery: {self.beat([])}"


def _failing(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/fail"))


class Heart(threading.Thread):
    """Sends a heartbeat from time to time, and at once when it changes.

    Args:
        sink: where to.
        report: prints a sentence.
    """

    def __init__(self, sink: HeartbeatSink, report: Callable[[str], None]) -> None:
        super().__init__(name=f"heartbeat {sink.id}", daemon=True)
        self._sink = sink
        self._report = report
        self._changed = threading.Event()
        self._is_stopping = False
        self._failures: tuple[str, ...] | None = None  # None until runs were looked at
        self._noted_at = 0.0  # by the monotonic clock
        self._is_unreachable = False

    def note(self, failures: Sequence[str]) -> None:
        """Take the state of the last look at runs."""
        before, self._failures = self._failures, tuple(failures)
        self._noted_at = time.monotonic()
        if before is None or bool(before) != bool(self._failures):
            self._changed.set()

    def stop(self) -> None:
        """Let the thread end; what is being sent is not waited for."""
        self._is_stopping = True
        self._changed.set()

    def run(self) -> None:
        """Beat until stopped."""
        self._changed.wait()
        while not self._is_stopping:
            self._changed.clear()
            self._beat()
            self._changed.wait(self._sink.every)

    def _beat(self) -> None:
        failures = self._failures or ()
        hung = time.monotonic() - self._noted_at
        if hung > HUNG_SECONDS:
            failures = (f"esper alert has not looked at runs for {hung:.0f} s", *failures)
        try:
            self._sink.beat(failures)
        except SinkError as error:
            if not self._is_unreachable:
                self._report(
                    f"{self._sink.name}: {error}; trying again every {self._sink.every:g} s"
                )
            self._is_unreachable = True
        else:
            if self._is_unreachable:
                self._report(f"{self._sink.name}: reachable again")
            self._is_unreachable = False
