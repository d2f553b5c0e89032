"""A training script as a process of its own, whose output is kept in its run."""

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
    """The command of a script cannot be run; the message says why."""


def prepare_script_run(run_dir: Path, name: str, command: Sequence[str]) -> Path:
    """Check a command and create the directory of its run.

    Args:
        run_dir: the folder that holds runs.
        name: of the run; the script's name if empty.
        command: the program and its arguments.

    Raises:
        ScriptError: there is no such program or script, or the directory cannot be created.
    """
    if not command:
        raise ScriptError("give the command after --, such as: esper run -- python train.py")
    if shutil.which(command[0]) is None:
        raise ScriptError(f"there is no program {command[0]!r}; the command is what follows --")
    script = next((Path(part) for part in command[1:] if part.endswith(".py")), None)
    if script is not None and not script.exists():
        raise ScriptError(f"there is no script {str(script)!r}")
    try:
        return create_run(run_dir, name or (script.stem if script else Path(command[0]).name))
    except OSError as error:
        raise ScriptError(f"cannot make a run in {run_dir}: {error.strerror}") from error


class ScriptProcess:
    """A training script. It outlives the terminal if its output only goes to the run.

    Args:
        run: directory of its run.
        command: the program and its arguments.
        echo: receives the output, too; None if it only goes to the run's console log.
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
        """Pass the output on until the script ends; return its exit code, as shells do."""
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
