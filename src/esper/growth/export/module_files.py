"""A network as a standalone PyTorch module: its source and its weights, in memory and on disk."""

from dataclasses import dataclass
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
#: Counters of batch normalisation, which a network does not need to compute.
_COUNTERS = "num_batches_tracked"


@dataclass(frozen=True)
class PortableModule:
    """A network that needs only torch and takes raw samples.

    Attributes:
        source: the text of `model.py`.
        state: its weights and buffers by name.
    """

    source: str
    state: dict[str, torch.Tensor]

    def untrained(self) -> nn.Module:
        """Return a new network with initial values drawn by PyTorch."""
        namespace: dict[str, Any] = {"__name__": "model", "__file__": SOURCE_NAME}
        exec(compile(self.source, SOURCE_NAME, "exec"), namespace)
        network: nn.Module = namespace["Network"]()
        return network

    def module(self) -> nn.Module:
        """Return a new network with these weights."""
        network = self.untrained()
        network.load_state_dict(self.state)
        return network.eval()

    def with_weights(self, network: nn.Module) -> "PortableModule":
        """Return the same network with a copy of the weights of one that was made from it."""
        state = {
            name: tensor.detach().cpu().clone()
            for name, tensor in network.state_dict().items()
            if not name.endswith(_COUNTERS)
        }
        return PortableModule(self.source, state)

    @property
    def parameters(self) -> int:
        """Number of parameters that are trained."""
        return sum(parameter.numel() for parameter in self.untrained().parameters())

    @property
    def bytes(self) -> int:
        """Bytes of all weights and buffers."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state.values())


def portable_module(network: FinishedNetwork, task: Task) -> PortableModule:
    """Return a grown network as a standalone module."""
    return PortableModule(module_source(network, task), module_state(network, task))


def write_module(network: FinishedNetwork, task: Task, directory: Path) -> None:
    """Write a grown network as `model.py` and `weights.safetensors`.

    Raises:
        OSError: the directory is not writable, or the disk is full.
    """
    write_portable(portable_module(network, task), directory)


def write_portable(portable: PortableModule, directory: Path) -> None:
    """Write a network as `model.py` and `weights.safetensors`.

    Raises:
        OSError: the directory is not writable, or the disk is full.
    """
    (directory / SOURCE_NAME).write_text(portable.source, encoding="utf-8")
    # A single metadata entry: the order of several is random, so that bytes would differ.
    weights = save(portable.state, metadata={"format": "pt"})
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
