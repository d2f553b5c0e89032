"""Serves Sanctum to browsers with textual-serve, without resources from the internet.

Every page needs the token, because other users of this machine could open one otherwise. The token
is exchanged for a session, which the browser keeps. Pages are only served under the server's own
name, and a cockpit is only opened for a page of this server, so another site in the same browser
cannot open one.
"""

import asyncio
import hmac
import secrets
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp_jinja2
from aiohttp import web
from textual_serve.server import Server

from esper.karn.sanctum.served.options import ServeError, ServeOptions, is_local
from esper.karn.sanctum.served.pages import (
    LONGEST_MESSAGE,
    CockpitProcess,
    size_of,
    take_messages,
)

_COOKIE: Final = "sanctum-session"
_CLOSING_SECONDS: Final = 1.0  # for open pages when the server exits
#: Most pages open at once: each has a cockpit process.
TABS: Final = 8
_SESSIONS_KEPT: Final = 64
_HEADERS: Final = {
    "Referrer-Policy": "no-referrer",  # it could contain a token
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SanctumServer(Server):
    """Opens a cockpit for each page.

    A subclass, as textual-serve requires for a page of one's own.

    Args:
        options: address, token and theme.
        command: starts a cockpit.
        announce: receives the server's address once it is open.
        warn: receives a sentence about each page that sends an invalid message.
    """

    def __init__(
        self,
        options: ServeOptions,
        command: str,
        announce: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(
            command,
            host=options.host,
            port=options.port,
            title="Sanctum",
            templates_path=Path(__file__).parent / "templates",
        )
        self._announce = announce
        self._warn = warn
        self._token = options.token or secrets.token_urlsafe(24)
        self._is_token_made = options.token is None
        self._sessions: dict[str, None] = {}  # oldest first
        self._cockpits: set[CockpitProcess] = set()

    def serve(self, debug: bool = False) -> None:
        """Serve until interrupted, without textual-serve's logging and signal handlers."""
        web.run_app(
            self._make_app(),
            host=self.host,
            port=self.port,
            print=lambda _said: self._say_where(),  # once the address is bound
            access_log=None,
            shutdown_timeout=_CLOSING_SECONDS,
        )

    async def on_startup(self, app: web.Application) -> None:
        """Print nothing: `serve` prints the address."""

    def _say_where(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = f"/?token={self._token if self._is_token_made else '…'}"
        self._announce(f"Sanctum is at http://{host}:{self.port}{query} until Ctrl-C ends it")

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return web.Response(status=403, text=f"{refusal}\n", headers=_HEADERS)
        if request.path == "/" and "token" in request.query:
            # The address that the browser keeps has no token in it, nor has the cookie.
            answer = web.Response(status=303, headers={**_HEADERS, "Location": "/"})
            answer.set_cookie(_COOKIE, self._new_session(), httponly=True, samesite="Strict")
            return answer
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _new_session(self) -> str:
        session = secrets.token_urlsafe(24)
        self._sessions[session] = None
        while len(self._sessions) > _SESSIONS_KEPT:
            del self._sessions[next(iter(self._sessions))]
        return session

    def _refusal(self, request: web.Request) -> str | None:
        """Return why a request is refused, in one sentence; None if it is not."""
        name = urlsplit(f"//{request.host}").hostname or ""
        if is_local(self.host) and not is_local(name):
            return f"Sanctum is served to this machine only, not as {name!r}"
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            return f"Sanctum is not opened from {origin}"
        session = request.cookies.get(_COOKIE, "")
        if any(hmac.compare_digest(session.encode(), one.encode()) for one in self._sessions):
            return None
        given = request.query.get("token", "")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return "Sanctum was started with a token: open it as /?token=TOKEN"
        return None

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Open a cockpit for a page, and keep it until the page closes."""
        socket = web.WebSocketResponse(heartbeat=15, max_msg_size=LONGEST_MESSAGE)
        await socket.prepare(request)
        if len(self._cockpits) >= TABS:
            await socket.close(code=1013, message=f"{TABS} pages are open: close one".encode())
            return socket

        async def close() -> None:
            await socket.close()

        cockpit = CockpitProcess(
            self.command,
            write_bytes=socket.send_bytes,
            write_str=socket.send_str,
            close=close,
            download_manager=self.download_manager,
        )
        self._cockpits.add(cockpit)
        try:
            query = request.query
            await cockpit.start(*_size_asked_for(query.get("width"), query.get("height")))
            await take_messages(socket, cockpit, self._warn)
        except ConnectionError:
            pass  # the page closed while something was sent to it
        finally:
            await cockpit.stop()
            self._cockpits.discard(cockpit)
        return socket

    async def on_shutdown(self, app: web.Application) -> None:
        """Stop every cockpit that is left."""
        await asyncio.gather(*(cockpit.stop() for cockpit in tuple(self._cockpits)))

    async def handle_index(self, request: web.Request) -> web.Response:
        """Return the page; that of textual-serve loads its font from the web."""
        base = f"{request.scheme}://{request.host}"
        context = {
            "static": f"{base}/static/",
            "websocket": f"{base.replace('http', 'ws', 1)}/ws",
        }
        response = aiohttp_jinja2.render_template("page.html", request, context)
        response.headers["Cache-Control"] = "no-store"
        # The browser loads nothing from other servers, whatever the scripts of the page contain.
        response.headers["Content-Security-Policy"] = (
            "default-src 'self' data: blob:; connect-src 'self' ws: wss:; "
            "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
            "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
        )
        return response


def _size_asked_for(width: str | None, height: str | None) -> tuple[int, int]:
    try:
        return size_of(width or "80", height or "24")
    except ValueError:
        return 80, 24


def serve(
    options: ServeOptions,
    run_dir: Path,
    directory: Path | None,
    *,
    announce: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Serve Sanctum until it is interrupted.

    Args:
        options: address, token and theme.
        run_dir: the folder that holds runs.
        directory: the run's directory; None for the first run that appears.
        announce: receives the server's address once it is open.
        warn: receives a sentence about each page that sends an invalid message.

    Raises:
        ServeError: the address cannot be bound.
    """
    command = [sys.executable, "-m", "esper.karn.sanctum.served.cockpit_main"]
    command += [str(run_dir), str(directory or ""), options.theme or ""]
    command.append("ascii" if options.ascii else "")
    try:
        SanctumServer(options, shlex.join(command), announce, warn).serve()
    except OSError as error:
        where = f"{options.host} port {options.port}"
        raise ServeError(f"cannot serve at {where}: {error.strerror or error}") from error
