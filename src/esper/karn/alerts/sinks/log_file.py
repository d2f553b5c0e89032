"""Sink that appends each message to a file as one line of JSON."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from esper.karn.alerts.messages import Message
from esper.karn.alerts.sinks.sink import SinkError


@dataclass(frozen=True)
class LogSink:
    """Appends each message to a file, or prints it.

    Attributes:
        id: id in alert records.
        name: display name.
        path: the file; None to write to `output`.
        output: stream for the lines if `path` is None.
    """

    id: str
    name: str
    path: Path | None
    output: TextIO | None = None

    def send(self, message: Message) -> str:
        """Append a message; see `Sink`."""
        line = json.dumps(message.as_json()) + "\n"
        try:
            if self.path is None:
                if self.output is None:
                    raise SinkError("there is no output")
                self.output.write(line)
                self.output.flush()
                return "written"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o666)
            try:
                if os.write(descriptor, data := line.encode()) != len(data):
                    raise SinkError("the line was written only in part")
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise SinkError(f"cannot be written: {getattr(error, 'strerror', error)}") from None
        return "written"
