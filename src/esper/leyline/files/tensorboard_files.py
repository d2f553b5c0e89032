"""TensorBoard's event files, written by tensorboardX without loading PyTorch."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

#: The largest number that event files can hold: they have single precision.
LARGEST_FIGURE: Final = float.fromhex("0x1.fffffep+127")


class EventFile:
    """An event file of figures.

    The caller's thread writes it, so that an error reaches the caller; `SummaryWriter` loses an
    error in a thread of its own.

    Args:
        folder: the folder of the file, which is created.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        with _without_torch():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.proto.summary_pb2 import Summary

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        # Files are named by the second: a second one would overwrite the first.
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{uuid4().hex}")

    def add_scalar(self, name: str, value: float, step: int, time: float) -> None:
        """Write a figure; a finite one stays finite, however large.

        Args:
            name: the figure's name.
            value: the figure. Beyond `LARGEST_FIGURE`, that is written: single precision would turn
                it into an infinity.
            step: the update.
            time: seconds since the epoch.

        Raises:
            OSError: the file cannot be written.
        """
        if math.isfinite(value):
            value = max(-LARGEST_FIGURE, min(LARGEST_FIGURE, value))
        figure = self._summary.Value(tag=name, simple_value=value)
        summary = self._summary(value=[figure])
        self._writer.write_event(self._event(summary=summary, step=step, wall_time=time))

    def flush(self) -> None:
        """Make all figures visible to readers of the file."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def is_event_file(path: Path) -> bool:
    """Return whether a path has the name of an event file."""
    return path.name.startswith("events.out.tfevents.") and path.is_file()


@contextmanager
def _without_torch() -> Iterator[None]:
    """Make `import torch` fail where it is not loaded already.

    tensorboardX loads it if it can, which takes 450 MB and a second, and needs it for tensors only.
    """
    if "torch" in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None
    try:
        yield
    finally:
        del modules["torch"]
