"""The data needed to repeat an update of an on-policy algorithm of Stable-Baselines3."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import torch

from esper.leyline.errors import EsperError
from esper.recipes.recipe import Rebuilding
from esper.recipes.sb3.known_classes import (
    ACTIVATIONS,
    ALGORITHMS,
    ARRAYS,
    BUFFERS,
    EXTRACTORS,
    OPTIMIZERS,
    POLICIES,
)
from esper.recipes.sb3.plan import REBUILDER, OnPolicyPlan

_MOST_BOUNDS: Final = 10_000  # bounds of a Box that are written out


class _CannotPlanError(EsperError):
    """A part of an algorithm is not a class of the library; the message names it."""


def rebuilding_of(model: Any, phase: str) -> Rebuilding:
    """Return the data needed to repeat the current update, or the current choice of actions."""
    try:
        plan = _plan(model)
        data = _seen(model) if phase == "acting" else _rollout(model, plan)
    except (_CannotPlanError, msgspec.ValidationError, AttributeError, TypeError) as error:
        return Rebuilding(reason=f"{error}: it cannot be repeated in another process")
    return Rebuilding(REBUILDER, msgspec.to_builtins(plan), data)


def _plan(model: Any) -> OnPolicyPlan:
    policy, buffer = model.policy, model.rollout_buffer
    _known(type(buffer), BUFFERS, "its rollout buffer")
    progress = model._current_progress_remaining
    recurrent: dict[str, Any] = {}
    if hasattr(policy, "lstm_actor"):
        recurrent = {
            "lstm_hidden_size": policy.lstm_output_dim,
            "n_lstm_layers": policy.lstm_hidden_state_shape[0],
            **{name: getattr(policy, name) for name in _RECURRENT},
        }
    distribution = getattr(policy, "dist_kwargs", None) or {}
    given = {
        **{name: getattr(policy, name, default) for name, default in _OF_POLICY.items()},
        **{name: distribution.get(name, False) for name in _OF_DISTRIBUTION},
        "squash_output": policy.squash_output,
        "activation_fn": _known(policy.activation_fn, ACTIVATIONS, "its activation function"),
        "features_extractor_class": _known(
            policy.features_extractor_class, EXTRACTORS, "its features extractor"
        ),
        "optimizer_class": _known(policy.optimizer_class, OPTIMIZERS, "its optimizer"),
        **recurrent,
    }
    settings = {name: getattr(model, name) for name in _SETTINGS if hasattr(model, name)}
    for name in ("clip_range", "clip_range_vf"):
        if callable(schedule := getattr(model, name, None)):
            settings[name] = float(schedule(progress))
    return msgspec.convert(
        {
            "algorithm": _known(type(model), ALGORITHMS, "the algorithm"),
            "policy": _known(type(policy), POLICIES, "its policy"),
            "observation_space": _space(model.observation_space),
            "action_space": _space(model.action_space),
            "arguments": given,
            "learning_rate": float(model.lr_schedule(progress)),
            "is_flat": buffer.generator_ready,
            **settings,
        },
        OnPolicyPlan,
        strict=False,
    )


#: Arguments of a policy that are also its attributes, with the value if a class lacks them.
_OF_POLICY: Final[Mapping[str, Any]] = {
    "net_arch": None,
    "use_sde": False,
    "log_std_init": 0.0,
    "features_extractor_kwargs": {},
    "share_features_extractor": True,
    "normalize_images": True,
    "optimizer_kwargs": {},
}
_OF_DISTRIBUTION: Final = ("full_std", "use_expln")
_RECURRENT: Final = ("shared_lstm", "enable_critic_lstm", "lstm_kwargs")
_SETTINGS: Final = (
    *("n_envs", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm"),
    *("use_sde", "sde_sample_freq", "normalize_advantage", "batch_size", "n_epochs", "target_kl"),
)


def _known(cls: type, known: Any, what: str) -> str:
    path = f"{cls.__module__}.{cls.__qualname__}"
    if path not in known:
        raise _CannotPlanError(f"{what} {path} is not one that Esper rebuilds")
    return path


def _space(space: Any) -> dict[str, Any]:
    kind = type(space).__name__
    if kind == "Dict":
        return {"kind": kind, "parts": {name: _space(part) for name, part in space.items()}}
    if kind in ("Discrete", "MultiDiscrete"):
        sizes = np.atleast_1d(space.n if kind == "Discrete" else space.nvec)
        return {"kind": kind, "sizes": sizes.reshape(-1).tolist()}
    if kind == "MultiBinary":
        return {"kind": kind, "shape": list(space.shape)}
    if kind == "Box":
        bounds = {name: _bounds(getattr(space, name)) for name in ("low", "high")}
        return {"kind": kind, "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    raise _CannotPlanError(f"its space {kind} is not one that Esper rebuilds")


def _bounds(values: Any) -> list[float]:
    if (values == values.flat[0]).all():
        return [float(values.flat[0])]
    if values.size > _MOST_BOUNDS:
        raise _CannotPlanError(f"a Box with {values.size} different bounds is too large")
    return [float(value) for value in values.flat]


def _rollout(model: Any, plan: OnPolicyPlan) -> dict[str, Any]:
    """Return the arrays of the rollout buffer as tensors, which share its memory."""
    buffer = model.rollout_buffer
    data: dict[str, Any] = {}
    for name in (*ARRAYS, *ALGORITHMS[plan.algorithm]):
        values = getattr(buffer, name)
        parts = (
            {f"{name}.{key}": part for key, part in values.items()}
            if isinstance(values, dict)
            else {name: values}
        )
        data |= {path: torch.from_numpy(np.ascontiguousarray(part)) for path, part in parts.items()}
    return data


def _seen(model: Any) -> dict[str, Any]:
    """Return the inputs of the policy while acting."""
    seen = model._last_obs
    parts = (
        {f"observations.{key}": part for key, part in seen.items()}
        if isinstance(seen, dict)
        else {"observations": seen}
    )
    data = {path: torch.as_tensor(np.array(part)) for path, part in parts.items()}
    if (states := getattr(model, "_last_lstm_states", None)) is not None:
        pairs = {"hidden_states_pi": states.pi[0], "cell_states_pi": states.pi[1]}
        pairs |= {"hidden_states_vf": states.vf[0], "cell_states_vf": states.vf[1]}
        data |= {name: tensor.detach().clone() for name, tensor in pairs.items()}
        data["episode_starts"] = torch.as_tensor(np.array(model._last_episode_starts)).float()
    return data
