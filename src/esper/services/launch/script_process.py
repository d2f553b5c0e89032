"""A training script as a child process whose output is saved in its run."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

from esper.karn.store.run_directory import CONSOLE_NAME, WATCHED_RUN, create_run
from esper.leyline.errors import EsperError

_CHUNK: Final = 1 << 16


class ScriptError(EsperError, ValueError):
    """The script's command cannot be run; the message says why."""


def prepare_script_run(run_dir: Path, name: str, command: Sequence[str]) -> Path:
    """Check a command and create the directory of its run.

    Args:
        run_dir: the folder that contains runs.
        name: name of the run; the script's name if empty.
        command: the program and its arguments.

    Raises:
        ScriptError: there is no such program or script, or the directory cannot be created.
    """
    if not command:
        raise ScriptError("give the command after --, such as: esper run -- python train.py")
    if shutil.which(command[0]) is None:
        raise ScriptError(f"there is no program {command[0]!r}; give the command after --")
    script = next((Path(part) for part in command[1:] if part.endswith(".py")), None)
    if script is not None and not script.exists():
        raise ScriptError(f"there is no script {str(script)!r}")
    try:
        return create_run(run_dir, name or (script.stem if script else Path(command[0]).name))
    except OSError as error:
        raise ScriptError(f"cannot create a run in {run_dir}: {error.strerror}") from error


class ScriptProcess:
    """A training script.

    Args:
        run: directory of its run.
        command: the program and its arguments.
        echo: receives a copy of the output. If None, the output goes only to the run's console log,
            and the script survives the end of the terminal.
    """

    def __init__(
        self, run: Path, command: Sequence[str], echo: Callable[[bytes], None] | None = None
    ) -> None:
        self._echo = echo
        self._log: IO[bytes] = (run / CONSOLE_NAME).open("ab")
        environment = {**os.environ, WATCHED_RUN: str(run.absolute()), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL if echo is None else None,
            stdout=self._log if echo is None else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=echo is None,
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        code = self._process.poll()
        return None if code is None else _as_shells_do(code)

    def stop(self) -> None:
        """Interrupt the script, as Ctrl-C does; do not wait."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send the script a SIGTERM; do not wait."""
        if self.poll() is None:
            self._process.terminate()

    def wait(self) -> int:
        """Forward the output until the script ends; return its exit code as a shell would."""
        output = self._process.stdout
        if output is not None and self._echo is not None:
            while chunk := os.read(output.fileno(), _CHUNK):
                self._log.write(chunk)
                self._log.flush()
                self._echo(chunk)
        return _as_shells_do(self._process.wait())


def _as_shells_do(code: int) -> int:
    """Return 128 plus the number of the signal that ended a process, or its exit code."""
    return 128 - code if code < 0 else code
