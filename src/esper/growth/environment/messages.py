"""Messages to and from another process, with a callback while waiting.

The other end is a `multiprocessing.connection.Connection`. At this end, it would block until the
rest of a message arrives, so that a process stopped in the middle would go unnoticed.
"""

import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

#: The length of a message; for a long one -1, and then the length.
_LENGTH: Final = struct.Struct("!i")
_LONG_LENGTH: Final = struct.Struct("!Q")
_LONGEST_SHORT: Final = 0x7FFF_FFFF
_PIECE: Final = 1 << 20

#: Called at each check with the seconds since the last data; an exception ends the waiting.
OnWait = Callable[[float], None]


class MessageSocket:
    """One end of a connection to another process.

    Attributes:
        theirs: the other end, to be closed in this process once the other process has it.
    """

    def __init__(self) -> None:
        self._socket, self.theirs = socket.socketpair()
        self._socket.setblocking(False)

    def send(self, data: bytes, look: float, on_wait: OnWait) -> None:
        """Send a message.

        Args:
            data: the message.
            look: seconds between two checks.
            on_wait: called at each check while the other process receives nothing.

        Raises:
            OSError: the other end is closed.
        """
        size = len(data)
        is_short = size <= _LONGEST_SHORT
        head = _LENGTH.pack(size) if is_short else _LENGTH.pack(-1) + _LONG_LENGTH.pack(size)
        for part in (head, data):
            left = memoryview(part)
            while left:
                self._wait(select.POLLOUT, look, on_wait)
                left = left[self._socket.send(left[:_PIECE]) :]

    def receive(self, look: float, on_wait: OnWait) -> bytearray:
        """Return a message.

        Args:
            look: seconds between two checks.
            on_wait: called at each look while nothing comes.

        Raises:
            EOFError, OSError: the other end is closed.
        """

        def exactly(size: int) -> bytearray:
            data = bytearray()
            while len(data) < size:
                self._wait(select.POLLIN, look, on_wait)
                piece = self._socket.recv(min(_PIECE, size - len(data)))
                if not piece:
                    raise EOFError
                data += piece
            return data

        (size,) = _LENGTH.unpack(exactly(_LENGTH.size))
        if size == -1:
            (size,) = _LONG_LENGTH.unpack(exactly(_LONG_LENGTH.size))
        return exactly(size)

    def close(self) -> None:
        """Close this end of the connection; the other process then ends."""
        self._socket.close()

    def _wait(self, event: int, look: float, on_wait: OnWait) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        start = time.monotonic()
        while not poll.poll(1_000 * look):
            on_wait(time.monotonic() - start)
