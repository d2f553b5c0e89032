"""Tianshou, from version 2: an algorithm."""

from typing import Any, Final

import torch
from torch import nn

from esper.recipes.recipe import Recipe, Subject, last_linear


def subject_of(algorithm: Any) -> Subject | None:
    """Return the watched parts of an algorithm; None for another object."""
    policy = getattr(algorithm, "policy", None)
    wrappers = getattr(algorithm, "_optimizers", None)
    if not isinstance(policy, nn.Module) or not isinstance(wrappers, list):
        return None
    optimizers = [getattr(wrapper, "_optim", None) for wrapper in wrappers]
    return Subject(
        models=[algorithm],
        optimizers=[one for one in optimizers if isinstance(one, torch.optim.Optimizer)],
        heads=getattr(policy, "action_space", None),
        output_layer=_output_layer(policy),
        library="tianshou",
        config={"algorithm": type(algorithm).__name__},
        update_method=(algorithm, "update"),
        figures_of_result=_figures,
    )


RECIPE: Final = Recipe("tianshou", subject_of)


def _output_layer(policy: nn.Module) -> nn.Module | None:
    """Return the layer of logits, means or values of actions."""
    actor: Any = getattr(policy, "actor", None) or getattr(policy, "model", policy)
    mean = getattr(actor, "mu", None)  # of a Gaussian; standard deviations may have a layer, too
    return last_linear(mean if isinstance(mean, nn.Module) else actor)


def _figures(result: Any) -> dict[str, float]:
    """Return the losses among the statistics that an update returns."""
    losses: dict[str, Any] = getattr(result, "get_loss_stats_dict", dict)()
    return {name: float(value) for name, value in losses.items() if isinstance(value, (int, float))}
