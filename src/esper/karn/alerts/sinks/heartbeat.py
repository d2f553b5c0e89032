"""Heartbeats for healthchecks.io and similar services.

A POST to the URL means that the alert process works and no run fails; a POST to URL/fail lists the
runs that fail. If no request arrives, because the machine is down, the service raises the alarm.
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

#: Seconds without a check of the runs that are reported as a failure of the alert process.
HUNG_SECONDS: Final = 120.0
_HEADERS: Final = {"Content-Type": "text/plain; charset=utf-8"}


@dataclass(frozen=True)
class HeartbeatSink:
    """Sends the state of all runs.

    Attributes:
        id: unique id.
        name: display name.
        url: URL for success; secret.
        every: seconds between two heartbeats while the state does not change.
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
            SinkError: the service did not accept it.
        """
        body = "\n".join(failures) or "all runs are fine"
        return post(_failing(self.url) if failures else self.url, body.encode(), _HEADERS)

    def send(self, message: Message) -> str:
        """Send a failure and then a recovery, for `esper alert --test`; see `Sink`."""
        return f"failure: {self.beat([message.title])}, recovery: {self.beat([])}"


def _failing(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/fail"))


class HeartbeatThread(threading.Thread):
    """Sends heartbeats periodically, and immediately when the state changes.

    Args:
        sink: the destination.
        report: prints a sentence for the operator.
    """

    def __init__(self, sink: HeartbeatSink, report: Callable[[str], None]) -> None:
        super().__init__(name=f"heartbeat {sink.id}", daemon=True)
        self._sink = sink
        self._report = report
        self._changed = threading.Event()
        self._is_stopping = False
        self._failures: tuple[str, ...] | None = None  # None before the first check
        self._noted_at = 0.0  # by the monotonic clock
        self._is_unreachable = False

    def set_failures(self, failures: Sequence[str]) -> None:
        """Set the failures found by the last check of the runs."""
        before, self._failures = self._failures, tuple(failures)
        self._noted_at = time.monotonic()
        if before is None or bool(before) != bool(self._failures):
            self._changed.set()

    def stop(self) -> None:
        """End the thread without waiting for a heartbeat that is being sent."""
        self._is_stopping = True
        self._changed.set()

    def run(self) -> None:
        """Send heartbeats until stopped."""
        self._changed.wait()
        while not self._is_stopping:
            self._changed.clear()
            self._beat()
            self._changed.wait(self._sink.every)

    def _beat(self) -> None:
        failures = self._failures or ()
        hung = time.monotonic() - self._noted_at
        if hung > HUNG_SECONDS:
            failures = (f"esper alert has not checked the runs for {hung:.0f} s", *failures)
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
