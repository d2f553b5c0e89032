"""A grown network on disk: its source, its weights, and the proof that they say what it says."""

import importlib.util
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from esper import __version__
from esper.growth.finished import FinishedNetwork
from esper.growth.module_source import module_source, module_state, short_name
from esper.growth.task import Task

SOURCE_NAME = "model.py"
WEIGHTS_NAME = "weights.safetensors"


def write_module(network: FinishedNetwork, task: Task, directory: Path) -> None:
    """Write a network as `model.py` and `weights.safetensors`.

    Raises:
        OSError: the directory does not take them.
    """
    source = module_source(network, task)
    (directory / SOURCE_NAME).write_text(source, encoding="utf-8")
    metadata = {"format": "pt", "task": short_name(task), "esper": __version__}
    save_file(module_state(network, task), directory / WEIGHTS_NAME, metadata=metadata)


def load_module(directory: Path) -> nn.Module:
    """Run the `model.py` of a directory and return its network, as a user would."""
    spec = importlib.util.spec_from_file_location("grown_model", directory / SOURCE_NAME)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.load()
    return network


def logits_of(module: nn.Module, inputs: torch.Tensor, chunk: int = 500) -> torch.Tensor:
    """Return what a module says of raw samples. `[n, classes]`"""
    with torch.no_grad():
        return torch.cat([module(part) for part in inputs.split(chunk)])
