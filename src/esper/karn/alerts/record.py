"""The alert record of a run: `alerts.jsonl`, next to its acknowledgements.

Each line is one JSON object. An alert is *claimed* before it is sent: the line holds the alert, its
sinks, and the process that sends it. When a sink has accepted the message, the message is recorded
as *delivered*. If an alert process is killed,

- before the claim, the next process finds the alert again;
- after the claim, the next process sends the message with the same id;
- after the sink accepted the message and before the "delivered" line, the next process sends it a
  second time, with the same id. This window is the time until the sink's response arrives, plus
  less than a millisecond for each run in the message.

Lines are only appended, under a lock, so any number of alert processes can share the file. An alert
that one process has claimed for a sink is claimed by another only if the first is gone.
"""

import fcntl
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from esper.karn.alerts.alert_types import Alert
from esper.karn.store.liveness import pid_namespace, process_start_time
from esper.karn.store.run_files.line_files import read_beginning

RECORD_NAME: Final = "alerts.jsonl"
#: Maximum number of bytes to read; a run has at most a few hundred alerts.
_MAX_BYTES: Final = 8 << 20
#: Seconds for which a claim from another machine or container counts; its process is not visible.
_FOREIGN_SECONDS: Final = 120.0
_START_TIME_TOLERANCE: Final = 2.0


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """A process that sends messages."""

    pid: int
    start_time: float  # seconds since the epoch
    machine: str
    pid_namespace: str = ""


class Claimed(msgspec.Struct, frozen=True, kw_only=True, tag="claimed", tag_field="record"):
    """A line: this process is going to send an alert in a message."""

    time: float  # seconds since the epoch
    message: str  # id
    owner: Owner
    sinks: tuple[str, ...]
    alert: Alert = msgspec.field(name="edge")  # the name in the files


class TakenOver(msgspec.Struct, frozen=True, kw_only=True, tag="taken", tag_field="record"):
    """A line: another process is going to send a message, because its owner is gone."""

    time: float
    message: str
    owner: Owner
    sink: str


class Delivered(msgspec.Struct, frozen=True, kw_only=True, tag="delivered", tag_field="record"):
    """A line: a sink accepted a message."""

    time: float
    message: str
    sink: str


_Line = Claimed | TakenOver | Delivered
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


@dataclass(frozen=True)
class Undelivered:
    """A message that was claimed for a sink and not accepted yet."""

    message: str
    sink: str
    owner: Owner
    time: float  # when it was claimed or taken over
    alerts: tuple[Alert, ...]


@dataclass(frozen=True)
class AlertHistory:
    """The content of an alert record.

    Attributes:
        alerts: the claimed alerts, by key.
        sinks: the sinks for which each alert was claimed, by its key.
        undelivered: the messages that were not delivered.
    """

    alerts: Mapping[str, Alert] = field(default_factory=dict)
    sinks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    undelivered: tuple[Undelivered, ...] = ()


def this_process() -> Owner:
    """Return the `Owner` of this process."""
    pid = os.getpid()
    return Owner(
        pid=pid,
        start_time=process_start_time(pid) or 0.0,
        machine=socket.gethostname(),
        pid_namespace=pid_namespace(),
    )


def is_gone(entry: Undelivered, me: Owner, now: float) -> bool:
    """Return whether the process that claimed a message is gone.

    Args:
        entry: the message.
        me: this process.
        now: current time in seconds since the epoch.
    """
    owner = entry.owner
    if (owner.machine, owner.pid_namespace) != (me.machine, me.pid_namespace):
        return now - entry.time > _FOREIGN_SECONDS
    started = process_start_time(owner.pid)
    return started is None or abs(started - owner.start_time) > _START_TIME_TOLERANCE


class AlertRecord:
    """The alert record of one run; every method may raise OSError.

    Args:
        path: the file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> AlertHistory:
        """Return the content of the file; damaged lines are skipped."""
        return _folded(_lines(read_beginning(self._path, _MAX_BYTES) or b""))

    def claim(
        self,
        message: str,
        alerts: Sequence[Alert],
        sinks: Sequence[str],
        owner: Owner,
        now: float,
    ) -> list[tuple[Alert, tuple[str, ...]]]:
        """Claim alerts for a message; return the new ones, each with the sinks to send it to.

        An alert about the past is not new if it was claimed for any sink.
        """
        claimed: list[tuple[Alert, tuple[str, ...]]] = []

        def lines() -> Iterable[_Line]:
            history = self.read()
            for alert in alerts:
                known = history.sinks.get(alert.key, frozenset())
                due = tuple(sink for sink in sinks if sink not in known)
                if due and not (known and alert.past):
                    claimed.append((alert, due))
                    yield Claimed(time=now, message=message, owner=owner, sinks=due, alert=alert)

        self._append(lines)
        return claimed

    def take_over(self, sinks: Sequence[str], owner: Owner, now: float) -> list[Undelivered]:
        """Take over the messages to these sinks from processes that are gone; return them."""
        taken: list[Undelivered] = []

        def lines() -> Iterable[_Line]:
            for entry in self.read().undelivered:
                if entry.sink in sinks and entry.owner != owner and is_gone(entry, owner, now):
                    taken.append(entry)
                    yield TakenOver(time=now, message=entry.message, owner=owner, sink=entry.sink)

        self._append(lines)
        return taken

    def delivered(self, message: str, sink: str, now: float) -> None:
        """Record that a sink accepted a message."""
        self._append(lambda: [Delivered(time=now, message=message, sink=sink)])

    def _append(self, lines: Callable[[], Iterable[_Line]]) -> None:
        """Append lines and sync; `lines` is called under the lock and may read the file."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            data = b"".join(_encode(line) + b"\n" for line in lines())
            if not data:
                return
            size = os.fstat(descriptor).st_size
            # End a truncated line first, so that it does not damage the new one.
            is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = b"\n" + data if is_torn else data
            if os.write(descriptor, data) != len(data):
                os.ftruncate(descriptor, size)
                raise OSError(0, "the line was written only in part")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lines(data: bytes) -> list[_Line]:
    found: list[_Line] = []
    for line in data.split(b"\n"):
        try:
            found.append(_decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return found


def _folded(lines: Iterable[_Line]) -> AlertHistory:
    alerts: dict[str, Alert] = {}
    sinks: dict[str, frozenset[str]] = {}
    undelivered: dict[tuple[str, str], Undelivered] = {}
    for line in lines:
        match line:
            case Claimed():
                alerts.setdefault(line.alert.key, line.alert)
                sinks[line.alert.key] = sinks.get(line.alert.key, frozenset()) | set(line.sinks)
                for sink in line.sinks:
                    before = undelivered.get((line.message, sink))
                    known = () if before is None else before.alerts
                    undelivered[line.message, sink] = Undelivered(
                        line.message, sink, line.owner, line.time, (*known, line.alert)
                    )
            case TakenOver():
                if (entry := undelivered.get((line.message, line.sink))) is not None:
                    undelivered[line.message, line.sink] = Undelivered(
                        line.message, line.sink, line.owner, line.time, entry.alerts
                    )
            case Delivered():
                undelivered.pop((line.message, line.sink), None)
    return AlertHistory(alerts, sinks, tuple(undelivered.values()))
