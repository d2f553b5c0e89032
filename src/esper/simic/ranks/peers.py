"""Connections between the ranks of a run, which report ended ranks and stop requests quickly.

A collective operation detects a missing rank only by its timeout, and a rank that waits in one does
not respond. So every rank has a connection to rank 0, read by a separate thread. When a process
ends, its operating system closes the connection, and rank 0 informs the others within a second. A
machine that loses power does not close its connections, so a silent rank also counts as lost.
"""

import json
import os
import secrets
import selectors
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

#: Seconds between two heartbeats.
BEAT_SECONDS: Final = 1.0
#: Seconds without a heartbeat after which a rank counts as lost.
SILENCE_SECONDS: Final = 20.0
#: Seconds that a process has to exit after it was informed that the run is over.
GRACE_SECONDS: Final = 10.0
_TURN_SECONDS: Final = 0.05
_LONGEST_LINE: Final = 1 << 16
_CONNECT_SECONDS: Final = 60.0


@dataclass(frozen=True)
class RankName:
    """A rank and its process.

    Attributes:
        rank: number of the rank, counted from 0.
        pid: process ID.
        machine: name of its machine.
    """

    rank: int
    pid: int
    machine: str

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.machine})"


def own_name(rank: int) -> RankName:
    """Return the name of this process."""
    return RankName(rank, os.getpid(), socket.gethostname())


class Listener(Protocol):
    """Receives reports of the other ranks; its methods run in the thread of the connections."""

    def stop(self) -> None:
        """Handle a request to stop at once, which another rank received."""

    def write_checkpoint(self) -> None:
        """Handle a request for a checkpoint, which another rank received; called in rank 0 only."""

    def lost(self, sentence: str) -> None:
        """Handle the end of another rank; the sentence says which and how."""

    def overdue(self, sentence: str) -> None:
        """Handle that this process has not ended `GRACE_SECONDS` after a `stop` or `lost`."""


class _Connection:
    """One end of a connection, which sends and receives lines of JSON without blocking."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end
        self.name: RankName | None = None
        self.heard_at = time.monotonic()
        self.has_ended = False  # the other end reported that it ends
        self._received = b""

    def send(self, **message: Any) -> None:
        """Send a message; errors are ignored, because a broken connection is detected later."""
        with suppress(OSError):
            self.end.send(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the messages that have arrived; None if the other end is closed."""
        try:
            data = self.end.recv(_LONGEST_LINE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data or len(self._received) > _LONGEST_LINE:
            return None
        self.heard_at = time.monotonic()
        *lines, self._received = (self._received + data).split(b"\n")
        try:
            return [message for line in lines if isinstance(message := json.loads(line), dict)]
        except ValueError:
            return None


class _Peers(ABC):
    """Common part of both ends: the reading thread, and the messages to send.

    Attributes:
        name: this process.
    """

    def __init__(self, name: RankName, listener: Listener) -> None:
        self.name = name
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._wants_stop = False
        self._wants_checkpoint = False
        self._over = ""  # why the run ends, once it does
        self._over_at = 0.0
        self._last_words: dict[str, Any] | None = None
        self._beat_due = 0.0
        self._thread = threading.Thread(target=self._run, name="rank-peers", daemon=True)

    def ask_to_stop(self) -> None:
        """Ask all ranks to stop at once; a signal handler may call this."""
        self._wants_stop = True

    def ask_for_checkpoint(self) -> None:
        """Ask rank 0 for a checkpoint; a signal handler may call this."""
        self._wants_checkpoint = True

    def close(self, failure: str = "") -> None:
        """Report the end of this rank to the others, and end the thread.

        Args:
            failure: sentence that says why it ends early; empty for a regular end.
        """
        self._last_words = {"failed": failure} if failure else {"ended": True}
        self._thread.join(2.0)

    @abstractmethod
    def _others(self) -> Iterable[_Connection]:
        """Return the open connections."""

    @abstractmethod
    def _receive(self, connection: _Connection, message: dict[str, Any]) -> None:
        """Handle a message."""

    @abstractmethod
    def _is_closed(self, connection: _Connection) -> None:
        """Handle the end of a connection."""

    @abstractmethod
    def _accept(self) -> None:
        """Take a new connection."""

    def _run(self) -> None:
        while self._last_words is None:
            for key, _ in self._selector.select(_TURN_SECONDS):
                connection = key.data
                if connection is None:
                    self._accept()
                    continue
                messages = connection.receive()
                for message in messages or ():
                    self._receive(connection, message)
                if messages is None:
                    self._is_closed(connection)
            self._take_turn(time.monotonic())
        self._take_turn(time.monotonic())  # sends a request that arrived last
        for connection in self._others():
            connection.send(**self._last_words)
        for key in list(self._selector.get_map().values()):
            with suppress(OSError):
                key.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered
        self._selector.close()

    def _take_turn(self, now: float) -> None:
        if self._wants_stop and not self._over:
            self._end("it was asked to stop", now)
            self._send({"stop": True})
        if now >= self._beat_due:
            self._beat_due = now + BEAT_SECONDS
            self._send({"alive": True})
        for connection in list(self._others()):
            if now - connection.heard_at > SILENCE_SECONDS and not connection.has_ended:
                self._lose(f"{connection.name} was silent for {SILENCE_SECONDS:.0f} s")
                self._drop(connection)
        if self._over and now - self._over_at > GRACE_SECONDS:
            self._over_at = now
            self._listener.overdue(self._over)

    def _send(self, message: dict[str, Any], but: _Connection | None = None) -> None:
        for connection in self._others():
            if connection is not but:
                connection.send(**message)

    def _lose(self, sentence: str) -> None:
        """Report a lost rank, unless the run is already ending."""
        if not self._over:
            self._end(sentence, time.monotonic())
            self._listener.lost(sentence)

    def _end(self, why: str, now: float) -> None:
        self._over, self._over_at = why, now

    def _stop(self) -> None:
        if not self._over:
            self._end("it was asked to stop", time.monotonic())
            self._listener.stop()

    def _drop(self, connection: _Connection) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(connection.end)
        connection.end.close()


class Hub(_Peers):
    """Rank 0's end of the connections to all others.

    Args:
        name: this process.
        world_size: number of ranks.
        listener: receives the reports of the others.

    Attributes:
        port: port to which the others connect.
        token: secret that they must send first.
    """

    def __init__(self, name: RankName, world_size: int, listener: Listener) -> None:
        super().__init__(name, listener)
        self._world_size = world_size
        self._known: list[_Connection] = []
        self._socket = socket.create_server(("", 0), backlog=world_size)
        self._socket.setblocking(False)
        self._selector.register(self._socket, selectors.EVENT_READ, None)
        self.port: int = self._socket.getsockname()[1]
        self.token = secrets.token_hex(16)
        self._thread.start()

    def _others(self) -> list[_Connection]:
        return self._known

    def _accept(self) -> None:
        with suppress(OSError):
            end, _ = self._socket.accept()
            connection = _Connection(end)
            self._selector.register(end, selectors.EVENT_READ, connection)

    def _receive(self, connection: _Connection, message: dict[str, Any]) -> None:
        if connection.name is None:
            if message.get("token") != self.token:
                self._drop(connection)
                return
            connection.name = RankName(
                int(message["rank"]), int(message["pid"]), str(message["machine"])
            )
            self._known.append(connection)
            return
        if "stop" in message:
            self._send(message, but=connection)
            self._stop()
        if "checkpoint" in message:
            self._listener.write_checkpoint()
        if "ended" in message:
            connection.has_ended = True
        if "failed" in message:
            connection.has_ended = True
            self._lose(f"{connection.name} failed: {message['failed']}")

    def _is_closed(self, connection: _Connection) -> None:
        self._drop(connection)
        if connection.name is not None and not connection.has_ended:
            self._lose(f"{connection.name} was killed or crashed")

    def _drop(self, connection: _Connection) -> None:
        super()._drop(connection)
        if connection in self._known:
            self._known.remove(connection)

    def _lose(self, sentence: str) -> None:
        if not self._over:
            self._send({"lost": sentence})
        super()._lose(sentence)


class Spoke(_Peers):
    """The connection of another rank to rank 0.

    Args:
        name: this process.
        hub: the process of rank 0.
        address: name or address of its machine.
        port, token: port and token of its `Hub`.
        listener: receives the reports of the others.

    Raises:
        OSError: rank 0 cannot be reached.
    """

    def __init__(
        self,
        name: RankName,
        hub: RankName,
        address: str,
        port: int,
        token: str,
        listener: Listener,
    ) -> None:
        super().__init__(name, listener)
        end = socket.create_connection((address, port), timeout=_CONNECT_SECONDS)
        self._hub = _Connection(end)
        self._hub.name = hub
        self._hub.send(token=token, rank=name.rank, pid=name.pid, machine=name.machine)
        self._selector.register(end, selectors.EVENT_READ, self._hub)
        self._thread.start()

    def _accept(self) -> None:
        """Do nothing: only rank 0 listens."""

    def _others(self) -> list[_Connection]:
        return [self._hub]

    def _receive(self, connection: _Connection, message: dict[str, Any]) -> None:
        if "stop" in message:
            self._stop()
        if "lost" in message:
            self._lose(str(message["lost"]))
        if "ended" in message:
            connection.has_ended = True
        if "failed" in message:
            connection.has_ended = True
            self._lose(f"{connection.name} failed: {message['failed']}")

    def _is_closed(self, connection: _Connection) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(connection.end)
        if not connection.has_ended:
            connection.has_ended = True
            self._lose(f"{connection.name} was killed or crashed")

    def _take_turn(self, now: float) -> None:
        super()._take_turn(now)
        if self._wants_checkpoint:
            self._wants_checkpoint = False
            self._hub.send(checkpoint=True)
