"""Writing a network, and comparing what was written with the network in memory."""

import tempfile
from pathlib import Path

import torch

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.export.module_files import (
    PortableModule,
    load_module,
    logits_of,
    portable_module,
    write_portable,
)
from esper.growth.export.onnx_file import write_onnx
from esper.growth.tasks.task import Task
from esper.simic.growing.records import Grown
from esper.simic.requests import GrowingError

#: Largest allowed difference between the logits of the written module and the network in memory,
#: relative to the largest logit.
_TOLERANCE = 1e-3


def write_checked(grown: Grown, directory: Path) -> float:
    """Write a network's module, and compare its logits on the test part with those in memory.

    Returns:
        The largest difference of any logit.

    Raises:
        RuntimeError: they differ by more than rounding errors.
    """
    return _write_compared(grown.portable, grown.task, grown.logits, directory)


def write_onnx_checked(grown: Grown, directory: Path) -> float:
    """Write the network in a folder as ONNX, and compare its logits on the test part as above.

    Args:
        grown: the network.
        directory: its folder, after `write_checked`.

    Returns:
        The largest difference of any logit between ONNX Runtime and the network in memory.

    Raises:
        OSError: the file cannot be written.
        RuntimeError: they differ by more than rounding errors.
    """
    written = write_onnx(load_module(directory), grown.task, directory)
    return _difference(written, grown.logits, f"the ONNX file in {directory}")


def check_module(env: GrowthVectorEnv) -> None:
    """Write and compare a host before growth, so that a failure appears before hours of growing."""
    with tempfile.TemporaryDirectory() as folder:
        logits = env.test_logits()[0].cpu()
        if not logits.isfinite().all():
            raise GrowingError(
                f"an untrained host has non-finite logits on the test part of {env.task.name}: the "
                "values in the data are too large for a network"
            )
        portable = portable_module(env.finished_network(0), env.task)
        _write_compared(portable, env.task, logits, Path(folder))


def _write_compared(
    portable: PortableModule, task: Task, logits: torch.Tensor, directory: Path
) -> float:
    write_portable(portable, directory)
    written = logits_of(load_module(directory), task.raw(task.test))
    return _difference(written, logits, f"the module in {directory}")


def _difference(written: torch.Tensor, logits: torch.Tensor, what: str) -> float:
    """Return the largest difference between logits `[n, classes]` of a file and in memory.

    Raises:
        RuntimeError: it is more than rounding errors.
    """
    difference = float((written - logits).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(logits.abs().max())):
        raise RuntimeError(f"{what} differs from its network by {difference}")
    return difference
