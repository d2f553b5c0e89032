"""A file with one JSON object per message."""

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
        id: identifies it in records.
        name: names it in output.
        path: the file; None for `output`.
        output: receives the lines, if there is no file.
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
                    raise SinkError("only a part was written")
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise SinkError(f"cannot be written: {getattr(error, 'strerror', error)}") from None
        return "written"
