"""Curves of a ramp of alpha between its start and its end."""

import math

import numpy as np

from esper.leyline.heads import CURVE_CHOICES

#: Steepness of each sigmoid curve: the argument of the logistic function runs over ± half of it.
SIGMOID_STEEPNESS = {"sigmoid_gentle": 6.0, "sigmoid": 10.0, "sigmoid_steep": 20.0}


def normalised_sigmoid(fraction: np.ndarray, steepness: float) -> np.ndarray:
    """Return the logistic function over `fraction`, scaled to run from exactly 0 to exactly 1.

    σ(z) is ½ (1 + tanh(z/2)), so the scaled curve is a ratio of two tanh, whose ends are exact.
    """
    end = math.tanh(steepness / 4.0)
    return 0.5 + 0.5 * np.tanh(steepness * (np.asarray(fraction) - 0.5) / 2.0) / end


def ramp(curve: int, fraction: float) -> float:
    """Return the completed part of a ramp after `fraction` of its steps, both from 0 to 1.

    Args:
        curve: index into `CURVE_CHOICES`.
        fraction: 0 at the start, 1 at the end.
    """
    name = CURVE_CHOICES[curve]
    if name == "linear":
        return fraction
    if name == "cosine":
        return 0.5 - 0.5 * math.cos(math.pi * fraction)
    return float(normalised_sigmoid(np.asarray(fraction), SIGMOID_STEEPNESS[name]))
