"""The process that copies a run's figures to experiment trackers during training."""

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
    """Check the values of --log-to before a run is created.

    Raises:
        DestinationError: a tracker does not exist, or its library is not installed.
    """
    for text in log_to:
        destination_of(text, Path())


class MirrorProcess:
    """`esper mirror` in a new session, which survives the training process.

    Args:
        run: the run's directory.
        log_to: the values of --log-to; if empty, no process is started.
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
        """Leave the process running; `wait` then returns at once."""
        self._process = None

    def wait(self) -> str:
        """Wait up to 60 s after the end of training until everything is copied.

        Returns:
            A sentence if copying failed or takes longer; otherwise an empty string.
        """
        if self._process is None:
            return ""
        if not (self._run / STORE_NAME).exists():  # nothing was or will be recorded
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_SECONDS_TO_END)
            if code <= 0:
                return ""
            named = (word for one in self._destinations for word in ("--log-to", one.label))
            again = run_command(self._run, "esper", "mirror", more=tuple(named))
            return f"Not all figures were copied ({self._run / MIRROR_LOG_NAME}). Retry: {again}"
        return f"Figures are still being copied by process {self._process.pid}."
