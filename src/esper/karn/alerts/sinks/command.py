"""Sink that runs a command with the message on standard input and in environment variables."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from esper.karn.alerts.messages import Message
from esper.karn.alerts.sinks.sink import SinkError
from esper.karn.text.figures import cut
from esper.leyline.text.plain_text import printable_line

_LONGEST_ERROR: Final = 200


@dataclass(frozen=True)
class CommandSink:
    """Runs a command for each message, without a shell.

    Attributes:
        id: id in alert records.
        name: display name.
        command: the program and its arguments.
        seconds: time limit, after which the command and its children are killed.
    """

    id: str
    name: str
    command: tuple[str, ...]
    seconds: float

    def send(self, message: Message) -> str:
        """Run the command; see `Sink`."""
        try:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, **environment_of(message)},
                start_new_session=True,
            )
        except OSError as error:
            raise SinkError(f"cannot be started: {error.strerror}") from None
        try:
            _, errors = process.communicate(
                (json.dumps(message.as_json()) + "\n").encode(), timeout=self.seconds
            )
        except subprocess.TimeoutExpired:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise SinkError(f"took longer than {self.seconds:g} s and was killed") from None
        if process.returncode:
            lines = errors.decode("utf-8", "replace").strip().splitlines()
            why = f": {cut(printable_line(lines[-1]), _LONGEST_ERROR)}" if lines else ""
            raise SinkError(f"exit code {process.returncode}{why}")
        return "exit code 0"


def environment_of(message: Message) -> dict[str, str]:
    """Return the environment variables that describe a message."""
    found = {
        "ESPER_ALERT_ID": message.id,
        "ESPER_ALERT_TITLE": message.title,
        "ESPER_ALERT_TEXT": message.text,
        "ESPER_ALERT_KINDS": ",".join(dict.fromkeys(alert.kind for alert in message.alerts)),
        "ESPER_ALERT_RUNS": ",".join(dict.fromkeys(alert.run for alert in message.alerts)),
        "ESPER_ALERT_PAST": str(int(message.is_past)),
        "ESPER_ALERT_DRILL": str(int(message.is_drill)),
    }
    # Far below the operating system's limit for one variable.
    return {name: cut(value.replace("\0", ""), 30_000) for name, value in found.items()}
