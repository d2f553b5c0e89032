"""A grown network on disk: its source and its weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from esper.growth.export.module_source import module_source, module_state
from esper.growth.hosts.finished import FinishedNetwork
from esper.growth.tasks.task import Task

SOURCE_NAME = "model.py"
WEIGHTS_NAME = "weights.safetensors"


def write_module(network: FinishedNetwork, task: Task, directory: Path) -> None:
    """Write a network as `model.py` and `weights.safetensors`.

    Raises:
        OSError: the directory is not writable, or the disk is full.
    """
    source = module_source(network, task)
    (directory / SOURCE_NAME).write_text(source, encoding="utf-8")
    # A single metadata entry: the order of several is random, so that bytes would differ.
    weights = save(module_state(network, task), metadata={"format": "pt"})
    (directory / WEIGHTS_NAME).write_bytes(weights)


def load_module(directory: Path) -> nn.Module:
    """Run the `model.py` of a directory and return its network."""
    path = directory / SOURCE_NAME
    # not imported, which would leave bytecode next to the source
    namespace: dict[str, Any] = {"__name__": "model", "__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), namespace)
    network: nn.Module = namespace["load"]()
    return network


def logits_of(module: nn.Module, inputs: torch.Tensor, chunk: int = 500) -> torch.Tensor:
    """Return the logits of a module for raw samples. `[n, classes]`"""
    with torch.no_grad():
        return torch.cat([module(part) for part in inputs.split(chunk)])
