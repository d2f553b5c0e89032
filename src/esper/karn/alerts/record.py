"""The record of what was told of a run: `alerts.jsonl`, next to its acknowledgements.

Each line is one JSON object. A message is *claimed* before it is sent: the line has the edge, the
sinks that it is owed to, and the process that sends it. After a sink has accepted the message, it
is recorded as *delivered*. So:

- A process that is killed before it claims an edge finds the edge again when it starts again.
- One that is killed after that leaves a claim, which the next process sends under the same id.
- Only one that is killed between the acceptance by the sink and the next line lets the next process
  send the message a second time; receivers can tell it by its id. That is the time that the answer
  of the sink takes to arrive, and less than a millisecond after it for each run of the message.

Lines are only appended, under a lock, so any number of alert processes can share the file: an edge
that one of them has claimed for a sink is not claimed for this sink by another one, unless the
first is gone.
"""

import fcntl
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from esper.karn.alerts.edges import Edge
from esper.karn.store.liveness import pid_namespace, process_start_time
from esper.karn.store.run_files.line_files import read_beginning

RECORD_NAME: Final = "alerts.jsonl"
#: Maximum number of bytes that are read: a run has at most a few hundred edges.
_MAX_BYTES: Final = 8 << 20
#: A process of another machine or container cannot be looked up: its claim counts for so long.
_FOREIGN_SECONDS: Final = 120.0
_START_TIME_TOLERANCE: Final = 2.0


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """A process that sends messages."""

    pid: int
    start_time: float  # seconds since the epoch
    machine: str
    pid_namespace: str = ""


class Claimed(msgspec.Struct, frozen=True, kw_only=True, tag="claimed", tag_field="record"):
    """An edge will be sent in a message."""

    time: float  # seconds since the epoch
    message: str  # id
    owner: Owner
    sinks: tuple[str, ...]
    edge: Edge


class TakenOver(msgspec.Struct, frozen=True, kw_only=True, tag="taken", tag_field="record"):
    """Another process sends a message, because its owner is gone."""

    time: float
    message: str
    owner: Owner
    sink: str


class Delivered(msgspec.Struct, frozen=True, kw_only=True, tag="delivered", tag_field="record"):
    """A sink has accepted a message."""

    time: float
    message: str
    sink: str


_Line = Claimed | TakenOver | Delivered
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


@dataclass(frozen=True)
class Debt:
    """A message that a sink has not accepted yet."""

    message: str
    sink: str
    owner: Owner
    time: float  # when it was claimed or taken over
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Told:
    """The content of a record.

    Attributes:
        edges: the edges that were claimed, by key.
        sinks: the sinks for which an edge was claimed, by key.
        debts: messages that were not delivered.
    """

    edges: Mapping[str, Edge] = field(default_factory=dict)
    sinks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    debts: tuple[Debt, ...] = ()


def this_process() -> Owner:
    """Return this process as an owner."""
    pid = os.getpid()
    return Owner(
        pid=pid,
        start_time=process_start_time(pid) or 0.0,
        machine=socket.gethostname(),
        pid_namespace=pid_namespace(),
    )


def is_gone(debt: Debt, me: Owner, now: float) -> bool:
    """Return whether the process that owes a message is gone.

    Args:
        debt: the message.
        me: this process.
        now: seconds since the epoch.
    """
    owner = debt.owner
    if (owner.machine, owner.pid_namespace) != (me.machine, me.pid_namespace):
        return now - debt.time > _FOREIGN_SECONDS
    started = process_start_time(owner.pid)
    return started is None or abs(started - owner.start_time) > _START_TIME_TOLERANCE


class AlertRecord:
    """The record of one run; every method may raise OSError.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Told:
        """Return what is recorded; damaged lines are skipped."""
        return _folded(_lines(read_beginning(self._path, _MAX_BYTES) or b""))

    def claim(
        self,
        message: str,
        edges: Sequence[Edge],
        sinks: Sequence[str],
        owner: Owner,
        now: float,
    ) -> list[tuple[Edge, tuple[str, ...]]]:
        """Claim edges for a message; return each that is new with the sinks that it is owed to.

        An edge that is past and was told to any sink is not new.
        """
        claimed: list[tuple[Edge, tuple[str, ...]]] = []

        def lines() -> Iterable[_Line]:
            told = self.read()
            for edge in edges:
                known = told.sinks.get(edge.key, frozenset())
                owed = tuple(sink for sink in sinks if sink not in known)
                if owed and not (known and edge.past):
                    claimed.append((edge, owed))
                    yield Claimed(time=now, message=message, owner=owner, sinks=owed, edge=edge)

        self._append(lines)
        return claimed

    def take_over(self, sinks: Sequence[str], owner: Owner, now: float) -> list[Debt]:
        """Take over the messages to these sinks whose processes are gone, and return them."""
        taken: list[Debt] = []

        def lines() -> Iterable[_Line]:
            for debt in self.read().debts:
                if debt.sink in sinks and debt.owner != owner and is_gone(debt, owner, now):
                    taken.append(debt)
                    yield TakenOver(time=now, message=debt.message, owner=owner, sink=debt.sink)

        self._append(lines)
        return taken

    def delivered(self, message: str, sink: str, now: float) -> None:
        """Record that a sink has accepted a message."""
        self._append(lambda: [Delivered(time=now, message=message, sink=sink)])

    def _append(self, lines: Callable[[], Iterable[_Line]]) -> None:
        """Append lines and sync them; they are made under the lock, from what is recorded."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            data = b"".join(_encode(line) + b"\n" for line in lines())
            if not data:
                return
            size = os.fstat(descriptor).st_size
            # A line that was cut short must not damage the next one.
            is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = b"\n" + data if is_torn else data
            if os.write(descriptor, data) != len(data):
                os.ftruncate(descriptor, size)
                raise OSError(0, "only a part was written")
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


def _folded(lines: Iterable[_Line]) -> Told:
    edges: dict[str, Edge] = {}
    sinks: dict[str, frozenset[str]] = {}
    debts: dict[tuple[str, str], Debt] = {}
    for line in lines:
        match line:
            case Claimed():
                edges.setdefault(line.edge.key, line.edge)
                sinks[line.edge.key] = sinks.get(line.edge.key, frozenset()) | set(line.sinks)
                for sink in line.sinks:
                    before = debts.get((line.message, sink))
                    known = () if before is None else before.edges
                    debts[line.message, sink] = Debt(
                        line.message, sink, line.owner, line.time, (*known, line.edge)
                    )
            case TakenOver():
                if (debt := debts.get((line.message, line.sink))) is not None:
                    debts[line.message, line.sink] = Debt(
                        line.message, line.sink, line.owner, line.time, debt.edges
                    )
            case Delivered():
                debts.pop((line.message, line.sink), None)
    return Told(edges, sinks, tuple(debts.values()))
