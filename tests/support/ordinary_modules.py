"""Hosts and seeds as anyone would write them: ordinary torch modules, one network at a time.

This is the slow and obviously right twin of `esper.growth`: the tests hold the lockstep result
against it, and the benchmark measures how much faster lockstep is than a loop over it. Features are
`[B, C, *P]` here, as torch has them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from esper.leyline.heads import BLUEPRINT_CHOICES, STYLE_CHOICES


class Pointwise(nn.Linear):
    """A linear map of the channels at each position."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class Norm(nn.Module):
    """A scale and a shift of each channel, which begin at zero."""

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(channels, *(1,) * axes))
        self.shift = nn.Parameter(torch.zeros(channels, *(1,) * axes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.scale + self.shift


class Attention(nn.Module):
    """Self-attention over positions, one head of half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = Pointwise(channels, 3 * (channels // 2), bias=False)
        self.out = Pointwise(channels // 2, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        flat = features.flatten(2) if features.dim() > 2 else features.unsqueeze(2)
        query, key, value = self.projection(flat).transpose(1, 2).chunk(3, dim=2)  # [B, L, D]
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return self.out(seen).view_as(features)


class Scale(nn.Module):
    """The counterpart of a depthwise convolution for features without positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.weight + self.bias


def pointwise_convolution(
    inputs: int, outputs: int, kernel: int, padding: int = 0, groups: int = 1
) -> nn.Module:
    """Return the equivalent of a convolution for inputs without positions."""
    return nn.Linear(inputs, outputs) if groups == 1 else Scale(inputs)


def make_blueprint(name: str, channels: int, axes: int) -> nn.Module:
    """Return the module of a blueprint; its parameters come in the order of the real one's."""
    conv = (pointwise_convolution, nn.Conv1d, nn.Conv2d)[axes]
    half, quarter = channels // 2, channels // 4
    match name:
        case "norm":
            return Norm(channels, axes)
        case "depthwise":
            return conv(channels, channels, 3, padding=1, groups=channels)
        case "pointwise":
            return Pointwise(channels, channels)
        case "conv":
            return conv(channels, channels, 3, padding=1)
        case "bottleneck":
            return nn.Sequential(
                Pointwise(channels, half),
                nn.ReLU(),
                conv(half, half, 3, padding=1),
                nn.ReLU(),
                Pointwise(half, channels),
            )
        case "attention":
            return Attention(channels)
        case "mlp":
            return nn.Sequential(
                Pointwise(channels, 4 * channels), nn.ReLU(), Pointwise(4 * channels, channels)
            )
        case "low_rank":
            return nn.Sequential(
                Pointwise(channels, quarter, bias=False), Pointwise(quarter, channels)
            )
    raise AssertionError(name)


class Seed(nn.Module):
    """A seed with its style; `alpha` is set from outside."""

    def __init__(self, blueprint: int, style: int, channels: int, axes: int) -> None:
        super().__init__()
        self.module = make_blueprint(BLUEPRINT_CHOICES[blueprint], channels, axes)
        self.style = STYLE_CHOICES[style]
        self.gate = Norm(channels, axes)

    def forward(self, features: torch.Tensor, alpha: float) -> torch.Tensor:
        normal = F.layer_norm(features, features.shape[1:])
        change = self.module(normal)
        match self.style:
            case "linear_add":
                return features + alpha * change
            case "linear_multiply":
                return features * (1 + 2 * alpha * torch.tanh(change))
            case "sigmoid_add":
                low, high = 1 / (1 + math.exp(4.0)), 1 / (1 + math.exp(-4.0))
                amount = (1 / (1 + math.exp(-8.0 * (alpha - 0.5))) - low) / (high - low)
                return features + amount * change
            case "gated":
                return features + alpha * torch.sigmoid(self.gate(normal)) * change
        raise AssertionError(self.style)


class TransformerBlock(nn.Module):
    """Attention and a hidden layer, each after a norm and added to what came in; `[B, C, L]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.widen = nn.Linear(channels, 2 * channels)
        self.narrow = nn.Linear(2 * channels, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        rows = features.mT  # [B, L, C]
        query, key, value = self.projection(F.layer_norm(rows, rows.shape[-1:])).chunk(3, dim=2)
        weights = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        rows = rows + self.out(weights @ value)
        hidden = self.widen(F.layer_norm(rows, rows.shape[-1:])).relu()
        return (rows + self.narrow(hidden)).mT


class Transformer(nn.Module):
    """A host without seeds that reads symbols `[B, L]`."""

    def __init__(self, length: int, classes: int, channels: int, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, channels)
        self.position = nn.Embedding(length, channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels) for _ in range(3))
        self.classifier = nn.Linear(channels, classes)

    def run_block(self, number: int, features: torch.Tensor) -> torch.Tensor:
        """Run a block; the first one on symbols."""
        if number == 0:
            features = (self.embedding(features.long()) + self.position.weight).mT
        return self.blocks[number](features)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        last = features[:, :, -1]
        return self.classifier(F.layer_norm(last, last.shape[-1:]))


class Host(nn.Module):
    """A host without seeds: three convolution blocks (or linear ones) and a classifier."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, channels: int = 8) -> None:
        super().__init__()
        inputs, *positions = input_shape
        if not positions:
            self.blocks = nn.ModuleList(
                nn.Linear(inputs if number == 0 else channels, channels) for number in range(3)
            )
            self.classifier = nn.Linear(channels, classes)
            return
        conv = nn.Conv1d if len(positions) == 1 else nn.Conv2d
        kernels, strides = ((5, 3, 3), (2, 2, 2)) if len(positions) == 1 else ((3,) * 3, (2, 2, 1))
        self.blocks = nn.ModuleList(
            conv(inputs if number == 0 else channels, channels, kernel, stride, padding=1)
            for number, (kernel, stride) in enumerate(zip(kernels, strides, strict=True))
        )
        self.classifier = nn.Linear(channels, classes)

    def run_block(self, number: int, features: torch.Tensor) -> torch.Tensor:
        """Run a block."""
        return F.relu(self.blocks[number](features))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.classifier(features.flatten(2).mean(2) if features.dim() > 2 else features)


@dataclass
class Slot:
    """What sits in a slot: a seed that is in the host by alpha, or one TRAINING in its shadow."""

    seed: Seed
    alpha: float
    training: bool


@dataclass
class Network:
    """One host with its seeds and their optimizer."""

    host: Host | Transformer
    slots: dict[int, Slot] = field(default_factory=dict)
    optimizer: torch.optim.Optimizer | None = None

    def adapt(self, fused: bool = False) -> None:
        """Give the host an Adam, or add the parameters of new seeds to the one it has."""
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(self.host.parameters(), lr=1e-2, fused=fused)
        known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for slot in self.slots.values():
            fresh = [p for p in slot.seed.parameters() if id(p) not in known]
            if fresh:
                self.optimizer.add_param_group({"params": fresh})

    def forward(self, inputs: torch.Tensor, forked: int | None = None) -> torch.Tensor:
        """Return the logits; in the shadow of the TRAINING seed in slot `forked`, if given."""
        features = inputs
        for number in range(len(self.host.blocks)):
            features = self.host.run_block(number, features)
            slot = self.slots.get(number)
            if number == forked:
                assert slot is not None
                features = slot.seed(features.detach(), slot.alpha)
            elif slot is not None and not slot.training:
                features = slot.seed(features, slot.alpha)
        return self.host.classify(features)

    def training_slots(self) -> Iterable[int]:
        return (number for number, slot in self.slots.items() if slot.training)

    def train_step(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one optimizer step on one minibatch."""
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        F.cross_entropy(self.forward(inputs), labels).backward()
        for number in self.training_slots():
            parameters = list(self.slots[number].seed.parameters())
            loss = F.cross_entropy(self.forward(inputs, forked=number), labels)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        self.optimizer.step()

    @torch.no_grad()
    def evaluate(
        self, inputs: torch.Tensor, labels: torch.Tensor, forked: int | None = None
    ) -> tuple[float, float]:
        """Return loss and accuracy."""
        logits = self.forward(inputs, forked)
        loss = F.cross_entropy(logits, labels).item()
        return loss, (logits.argmax(1) == labels).double().mean().item()


def read_parameters(module: nn.Module) -> torch.Tensor:
    """Return all parameters of a module end to end, in order."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def write_parameters(module: nn.Module, values: torch.Tensor) -> None:
    """Set all parameters of a module from one vector."""
    with torch.no_grad():
        pieces = values.split([parameter.numel() for parameter in module.parameters()])
        for parameter, piece in zip(module.parameters(), pieces, strict=True):
            parameter.copy_(piece.view_as(parameter))
