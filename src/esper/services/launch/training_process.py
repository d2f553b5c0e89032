"""A training process behind Sanctum."""

import signal
import subprocess
import sys
from typing import IO

from esper.karn.store.run_directory import CONSOLE_NAME
from esper.services.run_lock import HeldRun


class TrainingProcess:
    """A training process in a new session, which survives the end of the terminal.

    Args:
        run: the run, locked; the process takes over the lock.
    """

    def __init__(self, run: HeldRun) -> None:
        lock = run.descriptor
        train = ["-m", "esper", "_train", str(run.directory), "--lock", str(lock)]
        self._log: IO[bytes] = (run.directory / CONSOLE_NAME).open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", *train],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
        run.close()  # the process inherited the lock and releases it when it ends

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Request a checkpoint and a stop after the current update; do not wait."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Wait for the process to end; return its exit code."""
        return self._process.wait()
