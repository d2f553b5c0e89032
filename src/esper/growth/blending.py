"""How a seed's output enters the host's features: four styles, each the identity at alpha 0.

With features x, the seed's change f of them, and alpha a between 0 and 1:

| style           | result                                                                        |
|-----------------|-------------------------------------------------------------------------------|
| linear_add      | x + a f                                                                       |
| linear_multiply | x (1 + 2a tanh f), so that a feature is at most tripled, or turned over       |
| sigmoid_add     | x + s(a) f, where s is a sigmoid scaled to s(0) = 0 and s(1) = 1              |
| gated           | x + a σ(w n + b) f, n the normalised features, w and b learnt by channel      |
"""

from enum import IntEnum

import numpy as np
import torch

from esper.growth.curves import normalised_sigmoid
from esper.leyline.heads import STYLE_CHOICES

#: What alpha counts for in `linear_multiply`. At 1, early and middle seeds would be held back
#: (docs/learning.md); a late one does better with less, which the agent may choose.
MULTIPLIED = 2.0
#: How steep the sigmoid of `sigmoid_add` is between alpha 0 and 1.
SIGMOID_STEEPNESS = 8.0


class Style(IntEnum):
    """The styles of blending; the value is the choice of the `style` head."""

    LINEAR_ADD = 0
    LINEAR_MULTIPLY = 1
    SIGMOID_ADD = 2
    GATED = 3


assert tuple(style.name.lower() for style in Style) == STYLE_CHOICES


class Mixing(IntEnum):
    """The arithmetic of a style: the two that add differ in their coefficient alone."""

    ADD = 0
    MULTIPLY = 1
    GATE = 2


#: The arithmetic of each style, indexed by style.
MIXING_OF_STYLE = np.array([Mixing.ADD, Mixing.MULTIPLY, Mixing.ADD, Mixing.GATE])


def coefficient(style: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return what alpha counts for: twice for `linear_multiply`, its sigmoid for `sigmoid_add`."""
    eased = np.where(
        style == Style.SIGMOID_ADD, normalised_sigmoid(alpha, SIGMOID_STEEPNESS), alpha
    )
    return np.where(style == Style.LINEAR_MULTIPLY, MULTIPLIED * alpha, eased)


def mix(
    mixing: Mixing,
    features: torch.Tensor,
    change: torch.Tensor,
    normal: torch.Tensor,
    coefficients: torch.Tensor,
    gate_weight: torch.Tensor,
    gate_bias: torch.Tensor,
) -> torch.Tensor:
    """Blend the change of n seeds of one arithmetic into their hosts' features.

    Args:
        mixing: the arithmetic they share.
        features: x, `[n, C, *P, B]`.
        change: f, same shape.
        normal: the layer-normalised features, same shape.
        coefficients: of each seed, `[n]`.
        gate_weight, gate_bias: of the gate, each `[n, C]`; used where the arithmetic is GATE.

    Returns:
        The blended features, same shape; exactly `features` where the coefficient is 0.
    """
    amount = coefficients.view(-1, *(1,) * (features.dim() - 1))
    if mixing is Mixing.MULTIPLY:
        # tanh f is 2 (σ(2f) - ½), and torch's tanh takes eight times as long as its sigmoid
        half = torch.sigmoid(2.0 * change) - 0.5
        return torch.addcmul(features, half * features, 2.0 * amount)
    if mixing is Mixing.GATE:
        trailing = (1,) * (features.dim() - 2)
        weight = gate_weight.view(*gate_weight.shape, *trailing)
        bias = gate_bias.view(*gate_bias.shape, *trailing)
        change = torch.addcmul(bias, normal, weight).sigmoid() * change
    return torch.addcmul(features, change, amount)
