"""Hosts and seeds as layers of torch.nn: how each is written, and where its parameters go."""

from collections.abc import Iterator
from dataclasses import dataclass

from esper.growth.hosts.host import BlockShape
from esper.growth.kernel.seed_layers import KERNEL

#: Name and shape of a parameter of a module.
Parameter = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layer:
    """A module in source.

    Attributes:
        source: the expression that makes it; a sequence has one line for each of its modules.
        parameters: in the order in which Esper keeps them.
        needs: the helper class that the expression uses, if any.
    """

    source: str
    parameters: tuple[Parameter, ...] = ()
    needs: str = ""


def host_block(block: BlockShape) -> Layer:
    """Return a block of a host of convolutions or, over no positions, linear maps."""
    return _convolution(
        block.inputs,
        block.outputs,
        block.kernel,
        len(block.positions),
        stride=block.stride,
        padding=block.padding,
    )


def classifier(inputs: int, classes: int) -> Layer:
    """Return the linear map that ends every host."""
    return _linear(inputs, classes)


def seed_layer(blueprint: str, channels: int, axes: int) -> Layer:
    """Return the module of a blueprint, on features `[B, C, *P]`."""
    half, quarter = max(1, channels // 2), max(1, channels // 4)
    relu = Layer("nn.ReLU()")
    match blueprint:
        case "norm":
            return channel_scale(channels, axes)
        case "depthwise" if axes == 0:
            return channel_scale(channels, axes)
        case "depthwise":
            return _convolution(channels, channels, KERNEL, axes, groups=channels)
        case "pointwise":
            return _pointwise(channels, channels, axes)
        case "conv":
            return _convolution(channels, channels, KERNEL, axes)
        case "bottleneck":
            return _sequence(
                _pointwise(channels, half, axes),
                relu,
                _convolution(half, half, KERNEL, axes),
                relu,
                _pointwise(half, channels, axes),
            )
        case "attention":
            return Layer(
                f"Attention({channels}, {half})",
                (
                    ("projection.weight", (3 * half, channels)),
                    ("out.weight", (channels, half)),
                    ("out.bias", (channels,)),
                ),
                needs="Attention",
            )
        case "mlp":
            return _sequence(
                _pointwise(channels, 4 * channels, axes),
                relu,
                _pointwise(4 * channels, channels, axes),
            )
        case "low_rank":
            return _sequence(
                _pointwise(channels, quarter, axes, bias=False),
                _pointwise(quarter, channels, axes),
            )
    raise AssertionError(blueprint)


def channel_scale(channels: int, axes: int) -> Layer:
    """Return a scale and a shift of each channel."""
    shape = (channels, *(1,) * axes)
    return Layer(
        f"ChannelScale({', '.join(map(str, shape))})",
        (("weight", shape), ("bias", shape)),
        needs="ChannelScale",
    )


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> Layer:
    options = "" if bias else ", bias=False"
    return Layer(f"nn.Linear({inputs}, {outputs}{options})", _affine((outputs, inputs), bias=bias))


def _pointwise(inputs: int, outputs: int, axes: int, *, bias: bool = True) -> Layer:
    if axes == 0:
        return _linear(inputs, outputs, bias=bias)
    options = "" if bias else ", bias=False"
    return Layer(
        f"nn.Conv{axes}d({inputs}, {outputs}, 1{options})",
        _affine((outputs, inputs, *(1,) * axes), bias=bias),
    )


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    axes: int,
    *,
    stride: int = 1,
    padding: int = KERNEL // 2,
    groups: int = 1,
) -> Layer:
    if axes == 0:
        return _linear(inputs, outputs)
    options = "".join(
        f", {name}={value}"
        for name, value, default in (
            ("stride", stride, 1),
            ("padding", padding, 0),
            ("groups", groups, 1),
        )
        if value != default
    )
    return Layer(
        f"nn.Conv{axes}d({inputs}, {outputs}, {kernel}{options})",
        _affine((outputs, inputs // groups, *(kernel,) * axes)),
    )


def _affine(weight: tuple[int, ...], *, bias: bool = True) -> tuple[Parameter, ...]:
    return (("weight", weight), ("bias", weight[:1])) if bias else (("weight", weight),)


def _sequence(*layers: Layer) -> Layer:
    lines = "".join(f"    {layer.source},\n" for layer in layers)
    return Layer(f"nn.Sequential(\n{lines})", tuple(_numbered(layers)))


def _numbered(layers: tuple[Layer, ...]) -> Iterator[Parameter]:
    for number, layer in enumerate(layers):
        for name, shape in layer.parameters:
            yield f"{number}.{name}", shape
