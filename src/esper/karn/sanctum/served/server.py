"""Serves Sanctum to browsers: by textual-serve, kept to this machine and to no internet.

A page is only served to who asks under the server's own name, and a cockpit is only opened for a
page that came from here: another site that is open in the same browser gets neither.
"""

import hmac
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

_COOKIE: Final = "sanctum-token"
_CLOSING_SECONDS: Final = 1.0  # for pages that are open when the server ends
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SanctumServer(Server):
    """Opens a cockpit of its own for each page.

    A subclass, since textual-serve asks for one where its page is to be another.
    """

    def __init__(self, options: ServeOptions, command: str) -> None:
        super().__init__(
            command,
            host=options.host,
            port=options.port,
            title="Sanctum",
            templates_path=Path(__file__).parent / "templates",
        )
        self._token = options.token

    def serve(self, debug: bool = False) -> None:  # noqa: ARG002  (textual-serve has it)
        """Serve until interrupted; without textual-serve's logging and its own handlers."""
        web.run_app(
            self._make_app(),
            host=self.host,
            port=self.port,
            print=lambda _said: self._say_where(),  # once the address is taken
            access_log=None,
            shutdown_timeout=_CLOSING_SECONDS,
        )

    async def on_startup(self, app: web.Application) -> None:
        """Say nothing yet."""

    def _say_where(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = "/?token=…" if self._token else ""
        print(f"Sanctum is at http://{host}:{self.port}{query} until Ctrl-C ends it", flush=True)

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return web.Response(status=403, text=f"{refusal}\n")
        response = await handler(request)
        if self._token and not response.prepared:
            response.set_cookie(_COOKIE, self._token, httponly=True, samesite="Strict")
        return response

    def _refusal(self, request: web.Request) -> str | None:
        """Return why a request is refused, in one sentence; None if it is not."""
        name = urlsplit(f"//{request.host}").hostname or ""
        if not self._token and not is_local(name):
            return f"Sanctum is served to this machine only, not as {name!r}"
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            return f"Sanctum is not opened from {origin}"
        given = request.query.get("token") or request.cookies.get(_COOKIE, "")
        if self._token and not hmac.compare_digest(given.encode(), self._token.encode()):
            return "Sanctum was started with a token: open it as /?token=TOKEN"
        return None

    async def handle_index(self, request: web.Request) -> web.Response:
        """Return the page; textual-serve's own asks the web for its font."""
        base = f"{request.scheme}://{request.host}"
        context = {
            "static": f"{base}/static/",
            "websocket": f"{base.replace('http', 'ws', 1)}/ws",
        }
        response = aiohttp_jinja2.render_template("page.html", request, context)
        response.headers["Cache-Control"] = "no-store"
        # Nothing from outside is ever asked for, whatever the page's scripts may come to hold.
        response.headers["Content-Security-Policy"] = (
            "default-src 'self' data: blob:; connect-src 'self' ws: wss:; "
            "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
            "style-src 'self' 'unsafe-inline'"
        )
        response.headers["Referrer-Policy"] = "no-referrer"  # a token must not leave in one
        return response


def serve(options: ServeOptions, run_dir: Path, directory: Path | None) -> None:
    """Serve Sanctum until it is interrupted.

    Args:
        options: where to, and to whom.
        run_dir: the folder that holds runs.
        directory: the run's directory; None for the first run that appears.

    Raises:
        ServeError: the address cannot be had.
    """
    command = [sys.executable, "-m", "esper.karn.sanctum.served.cockpit"]
    command += [str(run_dir), str(directory or ""), options.theme or ""]
    command.append("ascii" if options.ascii else "")
    try:
        SanctumServer(options, shlex.join(command)).serve()
    except OSError as error:
        where = f"{options.host} port {options.port}"
        raise ServeError(f"cannot serve at {where}: {error.strerror or error}") from error
