"""Figures, settings and names of an algorithm of Stable-Baselines3."""

import numbers
from typing import Any, Final

_SETTINGS: Final = (
    *("learning_rate", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef"),
    *("vf_coef", "max_grad_norm", "buffer_size", "learning_starts", "tau", "train_freq"),
)


def environment_id(model: Any) -> str:
    """Return the id of the environment; empty if it is unknown."""
    env = model.get_env()
    try:
        specs = env.get_attr("spec") if env is not None else [None]
    except AttributeError:
        return ""
    return str(getattr(specs[0], "id", "") or "")


def settings_of(model: Any) -> dict[str, Any]:
    """Return the settings of an algorithm that are plain values."""
    values = {name: getattr(model, name, None) for name in _SETTINGS}
    return {name: value for name, value in values.items() if isinstance(value, (int, float, str))}


def rollout_of(model: Any) -> dict[str, Any]:
    """Return the sources of advantages and returns, by name.

    Empty for off-policy algorithms, and during a rollout, when they are not used.
    """
    buffer = getattr(model, "rollout_buffer", None)
    if not getattr(buffer, "full", False):
        return {}
    held = {name: getattr(buffer, name, None) for name in ("rewards", "values")}
    return {name: values for name, values in held.items() if values is not None}


def run_name(model: Any) -> str:
    """Return the name of a run: algorithm and environment."""
    return "-".join(filter(None, [type(model).__name__, environment_id(model)]))


def figures_of(model: Any) -> dict[str, float]:
    """Return the figures in the library's logger, and the mean return and length of episodes."""
    logger = getattr(model, "_logger", None)
    held = {} if logger is None else dict(logger.name_to_value)
    held["time/total_timesteps"] = model.num_timesteps
    episodes = [dict(one) for one in (model.ep_info_buffer or ())]
    if episodes:
        held["rollout/ep_rew_mean"] = sum(one["r"] for one in episodes) / len(episodes)
        held["rollout/ep_len_mean"] = sum(one["l"] for one in episodes) / len(episodes)
    return {name: float(value) for name, value in held.items() if isinstance(value, numbers.Real)}
