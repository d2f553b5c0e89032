"""A process that holds hosts for another one: it does what it is told, until nobody is there.

    python -m esper.growth.host_process DESCRIPTOR

It is a session of its own, so that a key pressed in the terminal reaches only the process that
asked, and it ends when that one's end of the connection closes, however it closes.
"""

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch

from esper.growth.env import GrowthVectorEnv

#: How long a process may take to end when it was told to, in seconds.
_PATIENCE = 5.0


class HostProcessError(RuntimeError):
    """A process that held hosts is gone; the message says how."""


class HostProcess:
    """Some hosts in a process of their own.

    It starts at once, and what it takes to start goes on beside the caller's work.
    """

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def make(self, threads: int, settings: dict[str, Any]) -> None:
        """Let it make a `GrowthVectorEnv` of these settings, its torch using so many threads."""
        self._send((threads, settings))

    def tell(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Let it call a function of some module with its environment and the arguments."""
        self._send((function, arguments))

    def answer(self) -> Any:
        """Wait for what the function returned.

        Raises:
            HostProcessError: the process is gone; what it died of is on its standard error.
        """
        try:
            return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._gone() from error

    def close(self) -> None:
        """End the process and wait until it is over."""
        self._connection.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, what: tuple[Any, ...]) -> None:
        try:
            self._connection.send_bytes(pickle.dumps(what))
        except OSError as error:
            raise self._gone() from error

    def _gone(self) -> HostProcessError:
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return HostProcessError(f"process {self.pid}, which held hosts, does not answer")
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return HostProcessError(f"process {self.pid}, which held hosts, {how}")


def serve(connection: Connection) -> None:
    """Make an environment, then do what is asked of it until the other end closes."""
    threads, settings = pickle.loads(connection.recv_bytes())
    torch.set_num_threads(threads)
    env = GrowthVectorEnv(**settings)
    while True:
        function, arguments = pickle.loads(connection.recv_bytes())
        # Not `send`: torch would have tensors go through memory that both must share.
        connection.send_bytes(pickle.dumps(function(env, *arguments)))


def main() -> None:
    """Serve whoever started this process."""
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, ConnectionError):  # nobody is there any more
        serve(connection)


if __name__ == "__main__":
    main()
