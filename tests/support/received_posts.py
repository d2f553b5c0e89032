"""A local HTTP server that receives POST requests, like a webhook."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Received:
    """The received requests, and settings of the server.

    Attributes:
        url: address of the server.
        code: status code of the responses.
        headers: headers of the responses.
        bodies: path and body of each accepted request.
        refused: path and body of each request answered with a code of 300 or more.
    """

    url: str = ""
    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def messages(self) -> list[dict[str, Any]]:
        """Return the accepted bodies, decoded."""
        return [json.loads(body) for _, body in self.bodies]

    def wait_for(self, number: int, seconds: float = 20.0) -> None:
        """Wait until this many requests arrived, accepted or not; fail after a timeout."""
        with self.arrived:
            came = self.arrived.wait_for(
                lambda: len(self.bodies) + len(self.refused) >= number, seconds
            )
        assert came, f"{number} requests did not arrive within {seconds:g} s"


@contextmanager
def webhook() -> Iterator[Received]:
    """Run a server for the length of a test."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.send_response(received.code)
            for name, value in received.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with received.arrived:
                kept = received.bodies if received.code < 300 else received.refused
                kept.append((self.path, body))
                received.arrived.notify_all()

        def log_message(self, *_given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield received
        server.shutdown()
        thread.join()
