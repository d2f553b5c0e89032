"""TensorBoard's event files, written by tensorboardX without loading PyTorch."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


def event_writer(folder: Path) -> Any:
    """Return a `SummaryWriter` of tensorboardX for a folder."""
    with _without_torch():
        from tensorboardX import SummaryWriter

    # Its files are named by the second: a second writer would overwrite the first one's.
    return SummaryWriter(str(folder), filename_suffix=f".{uuid4().hex}")


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
