"""Plain networks as standalone modules, with initial values drawn by PyTorch."""

from collections.abc import Iterator

import torch

from esper.growth.export.module_files import PortableModule
from esper.growth.export.module_source import network_document, standardisation_state
from esper.growth.plain_networks import PlainShape
from esper.growth.tasks.task import Task


def plain_module(shape: PlainShape, task: Task, rng_seed: int) -> PortableModule:
    """Return an untrained plain network.

    Args:
        shape: its architecture, with the inputs and classes of the task.
        task: its task.
        rng_seed: random seed of its initial values.
    """
    source = network_document(
        "A plain network for",
        shape.parameters,
        task,
        [f"self.{name} = {text}" for name, text in _layers(shape)],
        list(_computation(shape)),
    )
    fixed = standardisation_state(task)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(rng_seed)
        drawn = PortableModule(source, {}).untrained()
    weights = PortableModule(source, {}).with_weights(drawn).state
    return PortableModule(source, weights | fixed)


def _layers(shape: PlainShape) -> Iterator[tuple[str, str]]:
    """Yield the name of each layer and the expression that makes it."""
    channels, axes = shape.channels, shape.axes
    if shape.symbols:
        yield "embedding", f"nn.Embedding({shape.symbols}, {channels})"
    for number, (inputs, kernel, stride, _) in enumerate(shape.layers()):
        if axes == 0:
            yield f"layer{number}", f"nn.Linear({inputs}, {channels}, bias=False)"
        else:
            step = f", stride={stride}" if stride > 1 else ""
            yield (
                f"layer{number}",
                f"nn.Conv{axes}d({inputs}, {channels}, {kernel}{step}, padding={kernel // 2}, "
                "bias=False)",
            )
        yield f"norm{number}", f"nn.BatchNorm{max(axes, 1)}d({channels})"
    yield "classifier", f"nn.Linear({channels}, {shape.classes})"


def _computation(shape: PlainShape) -> Iterator[str]:
    if shape.symbols:
        yield "x = self.embedding(x).mT"
    for number, _ in enumerate(shape.layers()):
        yield f"x = F.relu(self.norm{number}(self.layer{number}(x)))"
    yield (
        "return self.classifier(x.flatten(2).mean(2))"
        if shape.axes
        else ("return self.classifier(x)")
    )
