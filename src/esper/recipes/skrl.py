"""skrl: an agent."""

import math
from typing import Any, Final

import torch
from torch import nn

from esper.recipes.recipe import Recipe, Subject

#: Keys of the model that chooses actions.
_ACTORS: Final = ("policy", "q_network")
_OPTIMIZERS: Final = ("optimizer", "policy_optimizer", "critic_optimizer", "entropy_optimizer")


def subject_of(agent: Any) -> Subject | None:
    """Return the watched parts of an agent; None for another object."""
    held = getattr(agent, "models", None)
    if not isinstance(held, dict) or not hasattr(agent, "tracking_data"):
        return None
    models = {name: model for name, model in held.items() if isinstance(model, nn.Module)}
    trained = [model for name, model in models.items() if "target" not in name]
    actor = next((models[name] for name in _ACTORS if name in models), None)
    if actor is None:
        return None
    optimizers = [getattr(agent, name, None) for name in _OPTIMIZERS]
    return Subject(
        models=[actor, *(model for model in dict.fromkeys(trained) if model is not actor)],
        optimizers=[one for one in optimizers if isinstance(one, torch.optim.Optimizer)],
        heads=agent.action_space,
        output_layer=_output_layer(actor, agent.action_space),
        library="skrl",
        config={"algorithm": type(agent).__name__},
        update_method=(agent, "update"),
        figures=lambda: _figures(agent),
        inputs=lambda: _rollout(agent),
    )


RECIPE: Final = Recipe("skrl", subject_of)


def _output_layer(actor: nn.Module, space: Any) -> nn.Module | None:
    """Return the last layer with one output for each choice, or each dimension of an action."""
    sizes = getattr(space, "nvec", None)
    width = int(space.n) if hasattr(space, "n") else math.prod(getattr(space, "shape", None) or ())
    width = int(sizes.sum()) if sizes is not None else width
    layers = [
        module
        for module in actor.modules()
        if isinstance(module, nn.Linear) and module.out_features == width
    ]
    return layers[-1] if layers else None


def _figures(agent: Any) -> dict[str, float]:
    """Return the means of the figures that the agent tracked since its last write."""
    return {
        name: float(sum(values) / len(values))
        for name, values in agent.tracking_data.items()
        if values
    }


def _rollout(agent: Any) -> dict[str, Any]:
    """Return the tensors from which advantages and returns are computed."""
    tensors = getattr(agent.memory, "tensors", {})
    return {name: tensors[name] for name in ("rewards", "values") if name in tensors}
