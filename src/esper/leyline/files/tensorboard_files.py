"""TensorBoard's event files, written by tensorboardX without loading PyTorch."""

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

#: The largest number that event files can hold: they have single precision.
LARGEST_FIGURE: Final = float.fromhex("0x1.fffffep+127")


def event_writer(folder: Path) -> Any:
    """Return a `SummaryWriter` of tensorboardX for a folder."""
    with _without_torch():
        from tensorboardX import SummaryWriter

    # It warns of each NaN, without a name; here NaN is what is to be shown.
    logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
    # Its files are named by the second: a second writer would overwrite the first one's.
    return SummaryWriter(str(folder), filename_suffix=f".{uuid4().hex}")


def add_scalar(writer: Any, name: str, value: float, step: int, time: float) -> None:
    """Write a figure; a finite one stays finite, however large.

    Args:
        writer: from `event_writer`.
        name: the figure's name.
        value: the figure. Above `LARGEST_FIGURE`, that is written: single precision would turn it
            into an infinity.
        step: the update.
        time: seconds since the epoch.
    """
    if math.isfinite(value):
        value = max(-LARGEST_FIGURE, min(LARGEST_FIGURE, value))
    writer.add_scalar(name, value, step, time)


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
