"""A server on this machine that receives POST requests, as a webhook does."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Received:
    """What came.

    Attributes:
        url: address of the server.
        code: how it answers.
        headers: headers of the answers.
        bodies: the bodies that it accepted, as text, each with its path.
        refused: those that it answered with a code of 300 or more.
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
        """Wait until so many requests came, accepted or not; fail if they do not in time."""
        with self.arrived:
            came = self.arrived.wait_for(
                lambda: len(self.bodies) + len(self.refused) >= number, seconds
            )
        assert came, f"{number} requests did not come within {seconds:g} s"


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
