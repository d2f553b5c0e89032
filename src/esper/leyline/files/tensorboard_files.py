"""Writes TensorBoard event files with tensorboardX, without loading PyTorch."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

#: The largest finite value in an event file, which uses single precision.
LARGEST_FIGURE: Final = float.fromhex("0x1.fffffep+127")


class EventFile:
    """An event file with scalars.

    It is written in the caller's thread, so that errors reach the caller; `SummaryWriter` writes in
    a separate thread and loses errors.

    Args:
        folder: the folder of the file; created if it does not exist.

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
        # File names contain only the time in seconds, so add a unique suffix.
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{uuid4().hex}")

    def add_scalar(self, name: str, value: float, step: int, time: float) -> None:
        """Write a scalar.

        Args:
            name: the scalar's name.
            value: the value. Finite values are clipped to ±`LARGEST_FIGURE`, because single
                precision would turn them into infinities.
            step: number of the update.
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
        """Make all scalars visible to readers of the file."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def is_event_file(path: Path) -> bool:
    """Return whether a path is a file with the name of an event file."""
    return path.name.startswith("events.out.tfevents.") and path.is_file()


@contextmanager
def _without_torch() -> Iterator[None]:
    """Make `import torch` fail unless PyTorch is already loaded.

    tensorboardX imports PyTorch if it can, which takes 450 MB and a second, but only needs it for
    tensors.
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
