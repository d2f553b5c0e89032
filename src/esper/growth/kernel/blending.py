"""How a seed's output enters the host's features: four styles, each the identity at alpha 0.

With features x, the seed's change f of them, and alpha a between 0 and 1:

| style           | result                                                                        |
|-----------------|-------------------------------------------------------------------------------|
| linear_add      | x + a f                                                                       |
| linear_multiply | x (1 + 2a tanh f), so that a feature is at most tripled or negated            |
| sigmoid_add     | x + s(a) f, where s is a sigmoid scaled to s(0) = 0 and s(1) = 1              |
| gated           | x + a σ(w n + b) f, n the normalised features, w and b trained per channel    |
"""

from enum import IntEnum

import numpy as np
import torch

from esper.growth.kernel.curves import normalised_sigmoid
from esper.leyline.heads import STYLE_CHOICES

#: Factor of alpha in `linear_multiply`. At 1, early and middle seeds would be weaker
#: (docs/learning.md); a late one does better with less, which the agent can choose.
MULTIPLIED = 2.0
#: Steepness of the sigmoid of `sigmoid_add` between alpha 0 and 1.
SIGMOID_STEEPNESS = 8.0


class Style(IntEnum):
    """The styles of blending; the value is the choice of the `style` head."""

    LINEAR_ADD = 0
    LINEAR_MULTIPLY = 1
    SIGMOID_ADD = 2
    GATED = 3


assert tuple(style.name.lower() for style in Style) == STYLE_CHOICES


class Mixing(IntEnum):
    """The arithmetic of a style; the two that add only differ in their coefficient."""

    ADD = 0
    MULTIPLY = 1
    GATE = 2


#: The arithmetic of each style, indexed by style.
MIXING_OF_STYLE = np.array([Mixing.ADD, Mixing.MULTIPLY, Mixing.ADD, Mixing.GATE])


def coefficient(style: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return the factor of the change: alpha, doubled or through a sigmoid in some styles."""
    eased = np.where(
        style == Style.SIGMOID_ADD, normalised_sigmoid(alpha, SIGMOID_STEEPNESS), alpha
    )
    return np.where(style == Style.LINEAR_MULTIPLY, MULTIPLIED * alpha, eased)


def mix(
    mixing: Mixing,
    features: torch.Tensor,
    change: torch.Tensor,
    normal: torch.Tensor,
    amount: torch.Tensor,
    gate: torch.Tensor | None,
) -> torch.Tensor:
    """Blend the change of n seeds of one arithmetic into their hosts' features.

    Args:
        mixing: the arithmetic of all n seeds.
        features: x, `[n, C, *P, B]`.
        change: f, same shape.
        normal: the layer-normalised features, same shape.
        amount: how far each seed is blended in, `[n, 1, ...]`, as many axes as the features.
        gate: w and b of the gate, end to end, `[n, 2C]`; only used by `Mixing.GATE`.

    Returns:
        The blended features, same shape; exactly `features` where the amount is 0.
    """
    if mixing is Mixing.MULTIPLY:
        return torch.addcmul(features, torch.tanh(change) * features, amount)
    if mixing is Mixing.GATE:
        assert gate is not None
        weight, bias = _by_channel(gate, features)
        opening = torch.addcmul(bias, normal, weight).sigmoid_()
        return torch.addcmul(features, opening * change, amount)
    return torch.addcmul(features, change, amount)


def _by_channel(gate: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return w and b of a gate `[n, 2C]`, shaped to broadcast over features `[n, C, *P, B]`."""
    weight, bias = gate.view(len(gate), -1, *(1,) * (features.dim() - 2)).chunk(2, dim=1)
    return weight, bias
