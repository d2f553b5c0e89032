"""Stable-Baselines3 and sb3-contrib: PPO, A2C, MaskablePPO, RecurrentPPO, DQN, SAC, TD3, …"""

from typing import Any, Final

import torch
from torch import nn

from esper.recipes.recipe import Recipe, Subject
from esper.recipes.sb3.figures import environment_id, figures_of, rollout_of, settings_of
from esper.recipes.sb3.planning import rebuilding_of
from esper.watching.model.heads import Head

#: Paths of the layer that computes logits, means or values of actions.
_OUTPUT_LAYERS: Final = ("action_net", "actor.mu", "q_net.q_net.-1", "quantile_net.quantile_net.-1")


def subject_of(model: Any) -> Subject | None:
    """Return the `Subject` of an algorithm; None for any other object of the library."""
    policy = getattr(model, "policy", None)
    if not isinstance(policy, nn.Module) or not hasattr(model, "action_space"):
        return None
    layer = _output_layer(policy)
    is_on_policy = hasattr(model, "rollout_buffer")
    return Subject(
        models=[policy],
        optimizers=_optimizers(model, policy),
        heads=_heads(model.action_space, layer, is_of_values=hasattr(model, "exploration_rate")),
        output_layer=layer,
        library="sb3-contrib" if type(model).__module__.startswith("sb3_contrib") else _SB3,
        task=environment_id(model),
        seed=model.seed,
        config={"algorithm": type(model).__name__} | settings_of(model),
        figures=lambda: figures_of(model),
        inputs=lambda: rollout_of(model),
        rebuilding_of=(lambda phase: rebuilding_of(model, phase)) if is_on_policy else None,
        why_not_rebuilt="only on-policy algorithms of Stable-Baselines3 can be rebuilt elsewhere",
    )


_SB3: Final = "stable-baselines3"
RECIPE: Final = Recipe("stable_baselines3", subject_of)


def _output_layer(policy: nn.Module) -> nn.Module | None:
    for path in _OUTPUT_LAYERS:
        found: Any = policy
        for name in path.split("."):
            found = found[-1] if name == "-1" and found is not None else getattr(found, name, None)
        if isinstance(found, nn.Sequential):  # an activation or a bound may come after the layer
            linear = [module for module in found if isinstance(module, nn.Linear)]
            found = linear[-1] if linear else found
        if isinstance(found, nn.Module):
            return found
    return None


def _heads(space: Any, layer: nn.Module | None, *, is_of_values: bool) -> Any:
    """Return the heads: components of the action space, or one head for action values.

    MaskablePPO has two logits for each bit of a `MultiBinary` space, one per value.
    """
    width = getattr(layer, "out_features", None)
    if type(space).__name__ == "MultiBinary" and width == 2 * space.n:
        return [Head(f"action[{n}]", "binary", range(2 * n, 2 * n + 2)) for n in range(space.n)]
    if type(space).__name__ == "Discrete" and width is not None and is_of_values:
        return [Head("action", "value", range(width))]
    return space


def _optimizers(model: Any, policy: nn.Module) -> list[torch.optim.Optimizer]:
    candidates = [
        getattr(policy, "optimizer", None),
        *(getattr(getattr(policy, part, None), "optimizer", None) for part in ("actor", "critic")),
        getattr(model, "ent_coef_optimizer", None),
    ]
    found = [one for one in candidates if isinstance(one, torch.optim.Optimizer)]
    return list(dict.fromkeys(found))
