"""A process that holds hosts for the training process and serves its calls.

    python -m esper.growth.environment.host_process DESCRIPTOR

It runs in a separate session, so Ctrl+C in the terminal does not reach it. It ends when the
training process closes its end of the connection or dies.
"""

import contextlib
import ctypes
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, Protocol

import torch

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.environment.messages import MessageSocket
from esper.leyline.errors import EsperError

#: Seconds without an answer after which a process is reported as silent.
SILENCE: Final = 20.0
#: The same before its first answer: it loads PyTorch first, perhaps from a cold disk.
SILENCE_AT_START: Final = 60.0
#: Seconds of silence after which a process counts as lost.
LONGEST_SILENCE: Final = 300.0
#: Seconds between two checks of a process that does not answer.
_LOOK: Final = 1.0
#: Seconds for a process to end after its connection was closed.
_PATIENCE: Final = 0.5
#: Seconds to wait for the exit code of a process that closed its connection.
_DYING: Final = 5.0
_SET_PARENT_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG in <linux/prctl.h>


class SilenceListener(Protocol):
    """Receives reports on a process that does not answer.

    It is called once a second while the process is silent, and once when it answers again. An
    exception that it raises ends the waiting.
    """

    def __call__(self, pid: int, seconds: float, *, answered: bool) -> None:
        """Receive a report.

        Args:
            pid: process ID.
            seconds: seconds of silence so far.
            answered: whether the silence is over.
        """


class HostProcessError(EsperError, RuntimeError):
    """A process with hosts ended or does not answer; the message says which."""


class HostProcess:
    """Hosts in a separate process, which starts in the background."""

    def __init__(self) -> None:
        self._has_answered = False
        self._messages = MessageSocket()
        theirs = self._messages.theirs
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
        """Process ID."""
        return self._process.pid

    def make(
        self, threads: int, settings: dict[str, Any], on_silence: SilenceListener | None = None
    ) -> None:
        """Have the process create a `GrowthVectorEnv` with these settings and torch threads.

        Raises and reports like `answer` if the process does not receive the message.
        """
        self._send((threads, settings), on_silence)

    def tell(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        on_silence: SilenceListener | None = None,
    ) -> None:
        """Have the process call a module-level function with its environment and the arguments.

        Raises and reports like `answer` if the process does not receive the message.
        """
        self._send((function, arguments), on_silence)

    def answer(self, patience: float = 0.0, on_silence: SilenceListener | None = None) -> Any:
        """Wait for the result of the function.

        Args:
            patience: seconds that the same work took elsewhere, to tell slow from silent.
            on_silence: receives reports while the process is silent, also within an answer.

        Raises:
            HostProcessError: the process ended (its standard error has the reason), or was silent
                for too long.
            Exception: raised by `on_silence`.
        """
        silence = self._silence(patience, on_silence)
        try:
            answer = pickle.loads(self._messages.receive(_LOOK, silence))
            self._has_answered = True
        except (EOFError, OSError) as error:
            raise self._gone() from error
        silence.end()
        return answer

    def hang_up(self) -> None:
        """Signal the process to end, without waiting."""
        self._messages.close()

    def close(self, deadline: float | None = None) -> None:
        """End the process and wait for it.

        Args:
            deadline: time on the monotonic clock at which the process is killed; by default half a
                second from now.
        """
        self.hang_up()
        left = _PATIENCE if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            self._process.wait(left)
        except subprocess.TimeoutExpired:
            self._process.kill()  # this ends a stopped process, too
            self._process.wait()

    def _send(self, what: tuple[Any, ...], on_silence: SilenceListener | None) -> None:
        silence = self._silence(0.0, on_silence)
        try:
            self._messages.send(pickle.dumps(what), _LOOK, silence)
        except OSError as error:
            raise self._gone() from error
        silence.end()

    def _silence(self, patience: float, on_silence: SilenceListener | None) -> "_Silence":
        ordinary = max(SILENCE if self._has_answered else SILENCE_AT_START, patience)
        longest = max(LONGEST_SILENCE, 10 * patience, ordinary)
        return _Silence(self.pid, ordinary, longest, on_silence)

    def _gone(self) -> HostProcessError:
        try:
            code = self._process.wait(_DYING)
        except subprocess.TimeoutExpired:
            return HostProcessError(f"process {self.pid}, which held hosts, does not answer")
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return HostProcessError(f"process {self.pid}, which held hosts, {how}")


class _Silence:
    """Reports a process that does not answer, and raises after a limit.

    Args:
        pid: the process.
        ordinary: seconds of silence that are not reported.
        longest: seconds of silence after which the process counts as lost.
        listener: receives the reports.
    """

    def __init__(
        self, pid: int, ordinary: float, longest: float, listener: SilenceListener | None
    ) -> None:
        self._pid = pid
        self._ordinary = ordinary
        self._longest = longest
        self._listener = listener
        self._start = time.monotonic()
        self._is_reported = False

    def __call__(self, seconds: float) -> None:
        """Handle a number of seconds of silence.

        Raises:
            HostProcessError: it is above the limit.
        """
        if seconds > self._longest:
            raise HostProcessError(
                f"process {self._pid}, which held hosts, was silent for {seconds:.0f} s"
            )
        if seconds >= self._ordinary and self._listener is not None:
            self._is_reported = True
            self._listener(self._pid, seconds, answered=False)

    def end(self) -> None:
        """Report the end of the silence, if it was reported."""
        if self._is_reported and self._listener is not None:
            self._listener(self._pid, time.monotonic() - self._start, answered=True)


def _end_with_parent() -> None:
    """Have the system kill this process when its parent ends, even if it is stopped or stuck.

    Linux only; elsewhere the closed connection ends a process that reads from it.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))


def serve(connection: Connection) -> None:
    """Create an environment, then serve calls until the other end closes."""
    threads, settings = pickle.loads(connection.recv_bytes())
    torch.set_num_threads(threads)
    env = GrowthVectorEnv(**settings)
    while True:
        function, arguments = pickle.loads(connection.recv_bytes())
        # not `send`, which would pass tensors through shared memory
        connection.send_bytes(pickle.dumps(function(env, *arguments)))


def main() -> None:
    """Serve the process that started this one."""
    _end_with_parent()
    # Schedulers send it to all processes of a job; only the trainer writes checkpoints.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, ConnectionError):  # the other process ended
        serve(connection)


if __name__ == "__main__":
    main()
