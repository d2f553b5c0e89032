"""The cockpit process of each page: messages, size and exit."""

import asyncio
import contextlib
import os
import shlex
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from aiohttp import WSMsgType, web
from textual_serve.app_service import AppService

#: Bytes of one message of a page: a key or pasted text.
LONGEST_MESSAGE: Final = 1 << 16
#: Messages per second of one page; a held key makes about thirty.
MESSAGES_PER_SECOND: Final = 500
#: Allowed width and height of a page in cells, each from and to.
_SIZES: Final = ((20, 500), (5, 200))
#: Time that a cockpit has to exit before it is killed.
_ENDING_SECONDS: Final = 5.0


class CockpitProcess(AppService):
    """A cockpit in its own process group, which is killed if it does not exit.

    A subclass, because textual-serve starts a shell and waits for it without a limit.
    """

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(self.command),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=self._build_environment(width=width, height=height),
            start_new_session=True,
        )
        assert process.stdin is not None
        self._process, self._stdin = process, process.stdin
        return process

    async def stop(self) -> None:
        """Ask the cockpit to exit, and kill its process group after a while."""
        process = self._process
        try:
            await asyncio.wait_for(super().stop(), _ENDING_SECONDS)
        except (TimeoutError, ConnectionError):
            self._task = None
        if process is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def take_messages(
    socket: web.WebSocketResponse, cockpit: AppService, warn: Callable[[str], None]
) -> None:
    """Pass a page's messages to its cockpit until the page closes or sends an invalid message.

    Args:
        socket: the connection to the page.
        cockpit: the page's cockpit.
        warn: receives a sentence about an invalid message.
    """
    times: deque[float] = deque(maxlen=MESSAGES_PER_SECOND)
    async for message in socket:
        now = time.monotonic()
        is_flood = len(times) == MESSAGES_PER_SECOND and now - times[0] < 1.0
        times.append(now)
        if is_flood or message.type is not WSMsgType.TEXT:
            await socket.close(code=1008, message=b"invalid message")
            return
        try:
            envelope = message.json()
            if not isinstance(envelope, list):
                raise TypeError("a message is a list")
            kind, *rest = envelope
            data: Any = rest[0] if rest else None
            if kind == "stdin":
                await cockpit.send_bytes(data.encode("utf-8", "replace"))
            elif kind == "resize":
                await cockpit.set_terminal_size(*size_of(data["width"], data["height"]))
            elif kind == "ping":
                await socket.send_json(["pong", data])
            elif kind in ("blur", "focus"):
                await getattr(cockpit, kind)()
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            warn(f"a page sent an invalid message: {error!r}"[:200])
            await socket.close(code=1007, message=b"invalid message")
            return


def size_of(width: Any, height: Any) -> tuple[int, int]:
    """Return the terminal size that a page requests, within bounds.

    Raises:
        ValueError, TypeError: it is not a size.
    """
    sizes = (int(width), int(height))
    columns, rows = (
        max(least, min(size, most)) for size, (least, most) in zip(sizes, _SIZES, strict=True)
    )
    return columns, rows
