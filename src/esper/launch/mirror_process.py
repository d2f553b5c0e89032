"""A process that copies a run's figures to experiment trackers while it trains."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from esper.karn.mirror.trackers import Destination, destination_of
from esper.karn.reports.run_commands import run_command
from esper.karn.store.run_directory import STORE_NAME

MIRROR_LOG_NAME: Final = "mirror.log"
_SECONDS_TO_END: Final = 60.0


def check_trackers(log_to: Sequence[str]) -> None:
    """Check what --log-to names, before a run is made.

    Raises:
        DestinationError: there is no such tracker, or its library is not installed.
    """
    for text in log_to:
        destination_of(text, Path())


class MirrorProcess:
    """`esper mirror` in a session of its own, so that it outlives training whatever happens to it.

    Args:
        run: the run's directory.
        log_to: the trackers, as on the command line; without any, no process is started.
    """

    def __init__(self, run: Path, log_to: Sequence[str]) -> None:
        self._run = run
        self._process: subprocess.Popen[bytes] | None = None
        self._destinations: list[Destination] = [destination_of(text, run) for text in log_to]
        if not log_to:
            return
        command = [sys.executable, "-m", "esper", "mirror", str(run.absolute())]
        for text in log_to:
            command += ["--log-to", text]
        log: IO[bytes]
        with (run / MIRROR_LOG_NAME).open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def detach(self) -> None:
        """Leave the process to itself: `wait` does nothing any more."""
        self._process = None

    def wait(self) -> str:
        """Wait until everything is copied after the end of training.

        Returns:
            A sentence if that was not so or takes long; else an empty string.
        """
        if self._process is None:
            return ""
        if not (self._run / STORE_NAME).exists():  # nothing was recorded, or ever will be
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_SECONDS_TO_END)
            if code <= 0:
                return ""
            named = (word for one in self._destinations for word in ("--log-to", one.label))
            again = run_command(self._run, "esper", "mirror", more=tuple(named))
            return f"Not all figures were copied ({self._run / MIRROR_LOG_NAME}). Again: {again}"
        return f"Figures are still being copied, in process {self._process.pid}."
