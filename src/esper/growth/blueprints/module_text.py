"""Layers as source: how each is written as a module of `torch.nn`, and where its parameters go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Name and shape of a parameter of a module.
Parameter = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModuleText:
    """A module in source.

    Attributes:
        source: the expression that makes it; a sequence has one line for each of its modules.
        parameters: in the order in which Esper keeps them.
        needs: the helper classes that the expression uses, keys of `HELPERS`.
    """

    source: str
    parameters: tuple[Parameter, ...] = ()
    needs: frozenset[str] = frozenset()


#: Helper classes that `torch.nn` lacks, in the order in which they are written.
HELPERS = {
    "ChannelScale": '''
class ChannelScale(nn.Module):
    """A scale and a shift of each channel."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.weight + self.bias
''',
    "Attention": '''
class Attention(nn.Module):
    """Self-attention over all positions, with one head."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 3 * inner, bias=False)
        self.out = nn.Linear(inner, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        rows = features.view(*features.shape[:2], -1).mT.unsqueeze(1)  # [B, 1, positions, C]
        query, key, value = self.projection(rows).chunk(3, dim=-1)
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.out(seen).squeeze(1).mT.reshape(features.shape)
''',
    "Block": '''
class Block(nn.Module):
    """Attention and a hidden layer, each after a norm and added to what came in."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.widen = nn.Linear(channels, hidden)
        self.narrow = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = F.layer_norm(x, x.shape[-1:]).unsqueeze(1)  # [B, 1, positions, C]
        query, key, value = self.projection(rows).chunk(3, dim=-1)
        x = x + self.out(F.scaled_dot_product_attention(query, key, value)).squeeze(1)
        return x + self.narrow(F.relu(self.widen(F.layer_norm(x, x.shape[-1:]))))
''',
}


def linear_text(inputs: int, outputs: int, *, bias: bool = True) -> ModuleText:
    """Return a linear map."""
    options = "" if bias else ", bias=False"
    return ModuleText(
        f"nn.Linear({inputs}, {outputs}{options})", _weight_and_bias((outputs, inputs), bias=bias)
    )


def pointwise_text(inputs: int, outputs: int, axes: int, *, bias: bool = True) -> ModuleText:
    """Return a linear map of the channels at each position."""
    if axes == 0:
        return linear_text(inputs, outputs, bias=bias)
    options = "" if bias else ", bias=False"
    return ModuleText(
        f"nn.Conv{axes}d({inputs}, {outputs}, 1{options})",
        _weight_and_bias((outputs, inputs, *(1,) * axes), bias=bias),
    )


def convolution_text(
    inputs: int,
    outputs: int,
    kernel: int,
    axes: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> ModuleText:
    """Return a convolution or, over no positions, a linear map."""
    if axes == 0:
        return linear_text(inputs, outputs)
    options = "".join(
        f", {name}={value}"
        for name, value, default in (
            ("stride", stride, 1),
            ("padding", padding, 0),
            ("groups", groups, 1),
        )
        if value != default
    )
    return ModuleText(
        f"nn.Conv{axes}d({inputs}, {outputs}, {kernel}{options})",
        _weight_and_bias((outputs, inputs // groups, *(kernel,) * axes)),
    )


def channel_scale_text(channels: int, axes: int) -> ModuleText:
    """Return a scale and a shift of each channel."""
    shape = (channels, *(1,) * axes)
    return ModuleText(
        f"ChannelScale({', '.join(map(str, shape))})",
        (("weight", shape), ("bias", shape)),
        needs=frozenset({"ChannelScale"}),
    )


def attention_text(channels: int, inner: int) -> ModuleText:
    """Return self-attention with one head of `inner` channels."""
    return ModuleText(
        f"Attention({channels}, {inner})",
        (
            ("projection.weight", (3 * inner, channels)),
            ("out.weight", (channels, inner)),
            ("out.bias", (channels,)),
        ),
        needs=frozenset({"Attention"}),
    )


def sequence_text(modules: Sequence[ModuleText]) -> ModuleText:
    """Return modules that run one after the other; a single one is returned unchanged."""
    if len(modules) == 1:
        return modules[0]
    lines = "".join(f"    {module.source},\n" for module in modules)
    needs = frozenset().union(*(module.needs for module in modules))
    return ModuleText(f"nn.Sequential(\n{lines})", tuple(_numbered(modules)), needs)


def _weight_and_bias(weight: tuple[int, ...], *, bias: bool = True) -> tuple[Parameter, ...]:
    return (("weight", weight), ("bias", weight[:1])) if bias else (("weight", weight),)


def _numbered(modules: Sequence[ModuleText]) -> Iterator[Parameter]:
    for number, module in enumerate(modules):
        for name, shape in module.parameters:
            yield f"{number}.{name}", shape
