"""Adam over one flat vector whose parts have different step counts.

Kingma and Ba, "Adam: a method for stochastic optimization" (2015), with the bias corrections of
`torch.optim.Adam`: equal to running it on each host and each seed alone. A seed has fewer
steps than its host; with the step count of the host, its first step would be several times too
long.
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class AdamSettings:
    """The settings of `torch.optim.Adam`, by its names."""

    learning_rate: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


def step_coefficients(
    settings: AdamSettings, clocks: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return step lengths and epsilons of the next `steps` steps, for owners with own step counts.

    torch computes `lr / c1 * m / (sqrt(v) / sqrt(c2) + epsilon)` with c1 = 1 - beta1**t and
    c2 = 1 - beta2**t; this is `lr * sqrt(c2) / c1 * m / (sqrt(v) + epsilon * sqrt(c2))`.

    Args:
        settings: settings of the optimizer.
        clocks: steps that each owner has taken. `[owners]`
        steps: number of further steps.

    Returns:
        `lr * sqrt(c2) / c1` and `epsilon * sqrt(c2)`, each `[steps, owners]`.
    """
    time = clocks[None, :] + np.arange(1, steps + 1)[:, None]
    # A negative clock makes NaN here. It is reported as a fault of its host, not as a warning.
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(1.0 - settings.beta2**time)
        length = settings.learning_rate * root / (1.0 - settings.beta1**time)
    return length, settings.epsilon * root


def adam_step_(
    state: torch.Tensor,
    gradient: torch.Tensor,
    length: torch.Tensor,
    epsilon: torch.Tensor,
    settings: AdamSettings,
) -> None:
    """Take one step in place.

    Args:
        state: parameters, first and second moments. `[3, D]`
        gradient: gradient of the loss. `[D]`
        length, epsilon: from `step_coefficients`, by element. `[D]`
        settings: settings of the optimizer.
    """
    parameters, first, second = state
    first.lerp_(gradient, 1.0 - settings.beta1)
    second.mul_(settings.beta2).addcmul_(gradient, gradient, value=1.0 - settings.beta2)
    parameters.sub_((first * length).div_(second.sqrt().add_(epsilon)))
