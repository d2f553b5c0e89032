"""Writes a grown network as the source of an ordinary `torch.nn.Module`, which needs only torch.

The source holds exactly the layers that the network has. It takes raw samples, as the user's file
has them: the mean and std of the training data are part of the network.

Weights are read by a few lines of the source's own: safetensors is a header in JSON and then plain
numbers, so nothing needs to be installed for it, and unlike a pickle it cannot run anything.
"""

import textwrap
from collections.abc import Iterator, Sequence

import torch

from esper.growth.blueprints.module_text import (
    HELPERS,
    ModuleText,
    channel_scale_text,
    convolution_text,
    linear_text,
)
from esper.growth.blueprints.table import BLUEPRINT_BY_NAME
from esper.growth.hosts.finished import FinishedNetwork, FinishedSeed
from esper.growth.hosts.host import BlockShape
from esper.growth.kernel.transformer import WIDENING
from esper.growth.tasks.task import Task
from esper.leyline.heads import SLOT_CHOICES
from esper.leyline.task_names import UnknownTaskError, parse_task_name

_LOAD = '''
def load(path: str | Path = Path(__file__).with_name("weights.safetensors")) -> Network:
    """Return the network with its weights; safetensors is a header in JSON, then plain numbers."""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    entries.pop("__metadata__", None)
    state = {}
    for name, entry in entries.items():
        first, last = entry["data_offsets"]
        dtype = {"F32": torch.float, "F64": torch.double}[entry["dtype"]]
        numbers = torch.frombuffer(bytearray(data[start + first : start + last]), dtype=dtype)
        state[name] = numbers.reshape(entry["shape"])
    network = Network()
    network.load_state_dict(state)
    return network.eval()
'''


def module_source(network: FinishedNetwork, task: Task) -> str:
    """Return the source of a module that computes what the network does, from raw samples."""
    layers = _layers(network)
    needs = frozenset().union(*(layer.needs for layer in layers.values()))
    return network_document(
        "A network that grew on" if network.seeds else "A network for",
        network.parameters,
        task,
        [f"self.{name} = {layer.source}" for name, layer in layers.items()],
        list(_computation(network)),
        helpers="".join(f"\n{text}" for helper, text in HELPERS.items() if helper in needs),
        about="The network and how it grew." if network.seeds else "The network.",
    )


def network_document(
    title: str,
    parameters: int,
    task: Task,
    construction: Sequence[str],
    computation: Sequence[str],
    *,
    helpers: str = "",
    about: str = "The network.",
) -> str:
    """Return the source of a module from its parts.

    Args:
        title: what it is, before "the task".
        parameters: number of parameters.
        task: the task of the network.
        construction: lines of `__init__` that make the layers.
        computation: lines of `forward` from the standardised samples or symbols `x` on.
        helpers: source of classes that the layers use.
        about: docstring of the network.
    """
    description = [
        f"{title} the task {_quoted(short_name(task))}, written by Esper.",
        "",
        f"It has {parameters:,} parameters and takes {_takes(task)}.",
        "CLASSES[n] is the label of output n"
        + (": the character that follows the sample." if task.vocabulary else "."),
    ]
    lines = [
        '"""' + "\n".join(textwrap.fill(line, 97) for line in description),
        '"""',
        "",
        "import json",
        "from pathlib import Path",
        "",
        "import torch",
        "import torch.nn.functional as F",
        "from torch import nn",
        "",
        f"CLASSES = {_classes(task)}",
        "",
    ]
    source = "\n".join(lines) + helpers
    source += f'\n\nclass Network(nn.Module):\n    """{about}"""\n\n'
    source += "    def __init__(self) -> None:\n        super().__init__()\n"
    source += textwrap.indent("\n".join([*_standardisation(task), *construction]), " " * 8)
    source += "\n\n    def forward(self, inputs: torch.Tensor) -> torch.Tensor:\n"
    source += f'        """Return the logits, [B, {task.classes}]."""\n'
    source += textwrap.indent("\n".join([*_samples(task), *computation]), " " * 8)
    return source + "\n\n" + _LOAD


def module_state(network: FinishedNetwork, task: Task) -> dict[str, torch.Tensor]:
    """Return the weights of that module by name: float32, or float64 where digits would be lost."""
    state = standardisation_state(task)
    state |= {name: tensor.float() for name, tensor in network.host.items()}
    layers = _layers(network)
    for seed in network.seeds:
        state |= _seed_state(_name(seed), layers, seed.tensors)
        if seed.gate is not None:
            state |= _seed_state(_gate_name(seed), layers, seed.gate)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def standardisation_state(task: Task) -> dict[str, torch.Tensor]:
    """Return the mean and std that are part of a network; nothing if samples are used as is."""
    scale = task.standardisation
    if scale is None:
        return {}
    by_channel = (-1, *(1,) * (len(task.input_shape) - 1))
    dtype = torch.float64 if scale.needs_float64 else torch.float32
    return {
        name: torch.tensor(values, dtype=dtype).view(by_channel)
        for name, values in (("mean", scale.mean), ("std", scale.std))
    }


def _seed_state(
    name: str, layers: dict[str, ModuleText], tensors: tuple[torch.Tensor, ...]
) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{parameter}": tensor.float().reshape(shape)
        for (parameter, shape), tensor in zip(layers[name].parameters, tensors, strict=True)
    }


def _name(seed: FinishedSeed) -> str:
    return f"{seed.slot}_{seed.blueprint}"


def _gate_name(seed: FinishedSeed) -> str:
    return f"{seed.slot}_gate"


def _layers(network: FinishedNetwork) -> dict[str, ModuleText]:
    """Return the modules of the network by the names of their attributes, in order of use."""
    shape = network.shape
    layers: dict[str, ModuleText] = {}
    by_slot = {seed.slot: seed for seed in network.seeds}
    if shape.symbols:
        (length,) = shape.input_shape
        layers["embedding"] = ModuleText(f"nn.Embedding({shape.symbols}, {shape.channels})")
        layers["position"] = ModuleText(f"nn.Embedding({length}, {shape.channels})")
    for number, (block, slot) in enumerate(zip(shape.blocks, SLOT_CHOICES, strict=True)):
        if isinstance(block, BlockShape):
            layers[f"block{number}"] = convolution_text(
                block.inputs,
                block.outputs,
                block.kernel,
                len(block.positions),
                stride=block.stride,
                padding=block.padding,
            )
        else:
            hidden = WIDENING * shape.channels
            layers[f"block{number}"] = ModuleText(
                f"Block({shape.channels}, {hidden})", needs=frozenset({"Block"})
            )
        if (seed := by_slot.get(slot)) is not None:
            blueprint = BLUEPRINT_BY_NAME[seed.blueprint]
            layers[_name(seed)] = blueprint.text(shape.channels, shape.axes)
            if seed.gate is not None:
                layers[_gate_name(seed)] = channel_scale_text(shape.channels, shape.axes)
    layers["classifier"] = linear_text(shape.features, shape.classes)
    return layers


def _standardisation(task: Task) -> Iterator[str]:
    """Yield the lines of `__init__` that hold the standardisation."""
    if task.standardisation is None:
        return
    axes = len(task.input_shape) - 1
    size = ", ".join(map(str, (task.input_shape[0], *(1,) * axes)))
    dtype = ""
    yield "# of the training data, in each channel"
    if task.standardisation.needs_float64:
        yield "# float32 would round samples before the mean is subtracted"
        dtype = ", dtype=torch.double"
    yield f'self.register_buffer("mean", torch.zeros({size}{dtype}))'
    yield f'self.register_buffer("std", torch.ones({size}{dtype}))'


def _samples(task: Task) -> Iterator[str]:
    """Yield the lines of `forward` that turn raw samples into standardised ones, or symbols."""
    if task.vocabulary:
        yield "x = inputs.long()"
        return
    scale = task.standardisation
    precise = scale is not None and scale.needs_float64
    samples = {
        "none": "inputs.unsqueeze(1)",
        "last": "inputs.movedim(-1, 1)",
        "first": "inputs",
    }[task.channel_axis]
    yield f"x = {samples}.{'double' if precise else 'float'}()"
    if scale is not None:
        standard = "(x - self.mean) / self.std"
        yield f"x = ({standard}).float()" if precise else f"x = {standard}"


def _computation(network: FinishedNetwork) -> Iterator[str]:
    """Yield the lines of `forward` after the standardisation."""
    shape = network.shape
    by_slot = {seed.slot: seed for seed in network.seeds}
    if shape.symbols:
        yield "x = self.embedding(x) + self.position.weight"
    for number, slot in enumerate(SLOT_CHOICES):
        block = f"self.block{number}(x)"
        yield f"x = {block}" if shape.symbols else f"x = F.relu({block})"
        if (seed := by_slot.get(slot)) is not None:
            yield from _blending(seed, transposed=bool(shape.symbols))
    if shape.symbols:
        yield "return self.classifier(F.layer_norm(x[:, -1], x.shape[-1:]))"
    else:
        yield (
            "return self.classifier(x)"
            if shape.axes == 0
            else "return self.classifier(x.flatten(2).mean(2))"
        )


def _blending(seed: FinishedSeed, *, transposed: bool) -> Iterator[str]:
    """Yield the lines that blend a seed in, as its style does."""
    transpose = ".mT" if transposed else ""  # seeds have channels before positions
    yield f"# grown: {seed.blueprint}, {seed.style}, alpha {seed.alpha:g}"
    yield f"normal = F.layer_norm(x, x.shape[1:]){transpose}"
    change = f"self.{_name(seed)}(normal){transpose}"
    amount = "" if seed.coefficient == 1.0 else f"{seed.coefficient!r} * "
    match seed.style:
        case "linear_multiply":
            yield f"x = x * (1 + {amount}torch.tanh({change}))"
        case "gated":
            yield f"gate = torch.sigmoid(self.{_gate_name(seed)}(normal){transpose})"
            yield f"x = x + {amount}gate * {change}"
        case _:
            yield f"x = x + {amount}{change}"


def short_name(task: Task) -> str:
    """Return the name of the task for titles."""
    try:
        return parse_task_name(task.name).short
    except UnknownTaskError:
        return task.name  # a task object of the user's own


def _classes(task: Task) -> str:
    """Return the labels of the classes in source: a tuple or, of characters, a text."""
    if task.vocabulary:
        return _text("".join(task.class_names))
    labels = task.class_labels or task.class_names or tuple(range(task.classes))
    if labels == tuple(range(task.classes)) and not any(type(label) is bool for label in labels):
        return f"tuple(range({task.classes}))"
    literals = [_literal(label) for label in labels]
    line = f"({', '.join(literals)})"
    if len(line) <= 80:
        return line
    lines = [""]
    for item in literals:
        if lines[-1] and len(lines[-1]) + len(item) > 92:
            lines.append("")
        lines[-1] += f" {item}," if lines[-1] else f"{item},"
    return "(\n" + textwrap.indent("\n".join(lines), "    ") + "\n)  # fmt: skip"


def _literal(label: object) -> str:
    """Return a label in source: a text, bytes, a number or a bool."""
    if isinstance(label, str):
        return _text(label)
    if isinstance(label, bytes):
        return "b" + _text("".join(chr(byte) for byte in label), ascii_only=True)
    return repr(label)


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _text(text: str, *, ascii_only: bool = False) -> str:
    """Return a text in source, in double quotes, with what cannot be seen written as escapes."""
    characters = []
    for character in text:
        code = ord(character)
        if character in _ESCAPES:
            characters.append(_ESCAPES[character])
        elif character.isprintable() and (code < 0x80 or not ascii_only):
            characters.append(character)
        elif code < 0x100:
            characters.append(f"\\x{code:02x}")
        else:
            characters.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(characters) + '"'


def _quoted(text: str) -> str:
    """Return text that can stand in a docstring."""
    return " ".join(text.replace("\\", "/").replace('"', "'").split())


def _takes(task: Task) -> str:
    """Describe the samples that the module takes."""
    sizes = list(task.input_shape)
    if task.vocabulary:
        return f"numbers of characters in CLASSES, [B, {sizes[0]}]"
    if task.channel_axis == "none":
        sizes = sizes[1:]
    elif task.channel_axis == "last":
        sizes = [*sizes[1:], sizes[0]]
    return f"raw samples, [B, {', '.join(map(str, sizes))}]"
