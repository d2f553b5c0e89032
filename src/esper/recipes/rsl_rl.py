"""rsl_rl (Isaac Lab): a runner, or its algorithm."""

from typing import Any, Final

from torch import nn

from esper.recipes.recipe import Recipe, Subject, last_linear
from esper.watching.model.heads import Head

_SETTINGS: Final = (
    *("num_learning_epochs", "num_mini_batches", "clip_param", "gamma", "lam", "value_loss_coef"),
    *("entropy_coef", "learning_rate", "max_grad_norm", "schedule", "desired_kl"),
)


def subject_of(thing: Any) -> Subject | None:
    """Return the watched parts of a runner or an algorithm; None for another object."""
    algorithm = getattr(thing, "alg", thing)
    actor, critic = getattr(algorithm, "actor", None), getattr(algorithm, "critic", None)
    if not isinstance(actor, nn.Module) or not isinstance(critic, nn.Module):
        return None
    layer = last_linear(actor)
    values = {name: getattr(algorithm, name, None) for name in _SETTINGS}
    return Subject(
        models=[actor, critic],
        optimizers=[algorithm.optimizer],
        heads=_heads(actor, layer),
        output_layer=layer,
        library="rsl-rl-lib",
        task=_task(getattr(thing, "env", None)),
        config={name: value for name, value in values.items() if value is not None},
        update_method=(algorithm, "update"),
        figures_of_result=lambda losses: losses if isinstance(losses, dict) else {},
        inputs=lambda: _rollout(algorithm),
    )


RECIPE: Final = Recipe("rsl_rl", subject_of)


def _heads(actor: nn.Module, layer: nn.Module | None) -> list[Head] | None:
    """Return one head for each dimension of an action: its mean is an output of the layer."""
    distribution = getattr(actor, "distribution", None)
    dimensions = getattr(distribution, "output_dim", None)
    if dimensions is None or getattr(layer, "out_features", None) != dimensions:
        return None
    return [Head(f"action[{n}]", "gaussian", range(n, n + 1)) for n in range(dimensions)]


def _task(env: Any) -> str:
    cfg = getattr(env, "cfg", None)
    return "" if cfg is None or isinstance(cfg, dict) else type(cfg).__name__


def _rollout(algorithm: Any) -> dict[str, Any]:
    """Return the tensors from which advantages and returns are computed."""
    storage = getattr(algorithm, "storage", None)
    held = {name: getattr(storage, name, None) for name in ("rewards", "values")}
    return {name: values for name, values in held.items() if values is not None}
