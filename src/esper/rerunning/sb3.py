"""Rebuilds an on-policy algorithm of Stable-Baselines3 from a capsule.

A class is looked up only if it is listed in `esper.recipes.sb3.known_classes`. A small file never
leads to a large model, buffer or number of minibatches.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import gymnasium
import msgspec
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from esper.recipes.sb3.known_classes import (
    ACTIVATIONS,
    ALGORITHMS,
    ARRAYS,
    EXTRACTORS,
    OPTIMIZERS,
    POLICIES,
)
from esper.recipes.sb3.plan import OnPolicyPlan, PolicyPlan, SpacePlan
from esper.recording.capsule import WatchedCapsule
from esper.rerunning.bounded import BoundedMemory
from esper.simic.replay.capsule_check import MOST_MINIBATCHES
from esper.simic.replay.incidents import IncidentError

_MOST_LAYERS: Final = 100
_MOST_PARTS: Final = 1000  # parts of a Dict space, or choices of a discrete one
_SETTINGS: Final = (
    *("learning_rate", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm"),
    *("normalize_advantage", "use_sde", "sde_sample_freq"),
)
_OF_MINIBATCHES: Final = ("batch_size", "n_epochs", "clip_range", "clip_range_vf", "target_kl")
_DTYPES: Final = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
#: Errors that the library raises if the plan and the weights do not fit together.
_MISFITS: Final = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError),
    *(NotImplementedError, OverflowError, ZeroDivisionError, MemoryError),
)


def plan_of(capsule: WatchedCapsule) -> OnPolicyPlan:
    """Return the plan of a capsule.

    Raises:
        IncidentError: the plan is not consistent.
    """
    try:
        plan = msgspec.convert(capsule.plan, OnPolicyPlan)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _refusal(f"its plan does not describe an algorithm ({error})") from None
    if plan.algorithm not in ALGORITHMS or plan.policy not in POLICIES:
        raise _refusal("its algorithm or policy is not one that Esper rebuilds")
    batch_size = 1 if plan.batch_size is None else plan.batch_size
    if min(plan.n_envs, plan.n_steps, plan.n_epochs, batch_size) < 1:
        raise _refusal("its numbers of steps, environments, epochs and samples must be at least 1")
    if plan.n_epochs * plan.minibatches_per_epoch > MOST_MINIBATCHES:
        raise _refusal(f"it has more than {MOST_MINIBATCHES} minibatches")
    return plan


def rebuild(capsule: WatchedCapsule, plan: OnPolicyPlan) -> Any:
    """Return the algorithm with its state at the start of the update, or while it acted.

    Raises:
        IncidentError: the library is missing, or the parts of the capsule do not fit together.
    """
    weights, optimizer = _start_of(capsule)
    if capsule.phase == "acting":  # the library always creates a buffer; make it small
        plan = msgspec.structs.replace(plan, n_steps=2, batch_size=plan.batch_size and 2)
    largest = sum(tensor.numel() for tensor in weights.values())
    if sum(plan.action_space.sizes) + math.prod(plan.action_space.shape) > largest + 1:
        raise _refusal("its action space is larger than its weights")
    observation_space = _space(plan.observation_space)
    _check_data(capsule, plan, observation_space)
    try:
        cls = _class(plan.algorithm, ALGORITHMS)
        with BoundedMemory(list(weights.values())):
            model = _build(cls, plan, observation_space)
        model.policy.load_state_dict(weights)
        state = {index: dict(kept) for index, kept in optimizer["state"].items()}
        groups = model.policy.optimizer.state_dict()["param_groups"]
        groups = [
            {**own, **kept, "params": own["params"]}
            for own, kept in zip(groups, optimizer["groups"], strict=True)
        ]
        model.policy.optimizer.load_state_dict({"state": state, "param_groups": groups})
        _check_optimizer(model.policy.optimizer)
        if capsule.phase == "update":
            _fill(model.rollout_buffer, capsule.data, plan)
    except ImportError as error:
        raise IncidentError(
            f"replaying this capsule needs {error.name}: install it with esper-rl[sb3]"
        ) from None
    except _MISFITS as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise _refusal(f"its algorithm cannot be built ({first_line})") from None
    return model


def _refusal(reason: str) -> IncidentError:
    return IncidentError(f"the capsule cannot be replayed: {reason}")


def _start_of(capsule: WatchedCapsule) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of the policy and the state of its optimizer."""
    match capsule.start:
        case {"weights": [dict() as weights], "optimizers": [dict() as optimizer]}:
            pass
        case _:
            raise _refusal("the weights or the optimizer of its policy are missing")
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise _refusal("its weights are not tensors")
    match optimizer:
        case {"state": dict() as state, "groups": [*groups]}:
            is_whole = all(isinstance(one, dict) for one in (*state.values(), *groups))
        case _:
            is_whole = False
    if not is_whole:
        raise _refusal("the state of its optimizer is incomplete")
    return weights, optimizer


def _check_data(
    capsule: WatchedCapsule, plan: OnPolicyPlan, observation_space: spaces.Space[Any]
) -> None:
    """Check that the arrays have the sizes of the plan, so no more memory is allocated."""
    data = capsule.data
    if not all(isinstance(tensor, Tensor) for tensor in data.values()):
        raise _refusal("its data are not tensors")
    if capsule.phase != "update":
        samples = plan.n_envs
    else:
        samples = plan.n_envs * plan.n_steps
        for name in ("rewards", "values", "log_probs", "advantages", "returns", "episode_starts"):
            if name not in data or data[name].numel() != samples:
                raise _refusal(
                    f"its {name} must have one value for each step of {plan.n_envs} environments"
                )
        actions = data.get("actions")
        if actions is None or actions.numel() != samples * _action_size(plan.action_space):
            raise _refusal("its actions do not fit the action space")
    parts = dict(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else None
    for path, space in (
        {f"observations.{name}": part for name, part in parts.items()}
        if parts is not None
        else {"observations": observation_space}
    ).items():
        size = math.prod(space.shape or ())
        if path not in data or size < 1 or data[path].numel() != samples * size:
            raise _refusal(f"its {path} do not fit the observation space")


def _action_size(plan: SpacePlan) -> int:
    """Return the number of elements of an action."""
    return len(plan.sizes) or math.prod(plan.shape)


def _space(plan: SpacePlan, depth: int = 0) -> spaces.Space[Any]:
    """Return a space.

    Raises:
        IncidentError: Esper cannot rebuild this space.
    """
    sizes, shape = plan.sizes, tuple(plan.shape)
    if len(sizes) > _MOST_PARTS or any(not 1 <= size < 2**31 for size in (*sizes, *shape)):
        raise _refusal("a space has a size below 1, or too many parts")
    if plan.kind == "Dict" and plan.parts and depth == 0 and len(plan.parts) <= _MOST_PARTS:
        return spaces.Dict({name: _space(part, 1) for name, part in plan.parts.items()})
    if plan.kind == "Discrete" and len(sizes) == 1:
        return spaces.Discrete(sizes[0])
    if plan.kind == "MultiDiscrete" and sizes:
        return spaces.MultiDiscrete(sizes)
    if plan.kind == "MultiBinary" and len(shape) == 1 and shape[0] <= _MOST_PARTS:
        return spaces.MultiBinary(shape[0])
    count = math.prod(shape)
    if plan.kind == "Box" and plan.dtype in _DTYPES and count < 1 << 26:
        bounds = [_bound(values, shape, count, plan.dtype) for values in (plan.low, plan.high)]
        try:
            return spaces.Box(*bounds, dtype=np.dtype(plan.dtype).type)
        except (ValueError, AssertionError, gymnasium.error.Error) as error:
            raise _refusal(f"the bounds of a Box do not fit ({error})") from None
    raise _refusal(f"its space {plan.kind[:40]!r} is not one that Esper rebuilds")


def _bound(values: Sequence[float], shape: tuple[int, ...], count: int, dtype: str) -> Any:
    if len(values) not in (1, count):
        raise _refusal("the bounds of a Box must be one number, or one for each element")
    try:
        return np.broadcast_to(np.asarray(values).astype(dtype).reshape(-1), count).reshape(shape)
    except (ValueError, OverflowError):
        raise _refusal("the bounds of a Box do not fit its type") from None


def _class(path: str, known: Any) -> Any:
    """Return a class of the library by its path, if the path is in a list of known classes.

    Raises:
        IncidentError: the path is not in the list.
        ImportError: the library is not installed.
    """
    if path not in known:
        raise _refusal(f"{path[:80]!r} is not a class that Esper rebuilds")
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _build(cls: Any, plan: OnPolicyPlan, observation_space: spaces.Space[Any]) -> Any:
    policy = _class(plan.policy, POLICIES)
    settings = {name: getattr(plan, name) for name in _SETTINGS}
    if plan.batch_size is not None:
        settings |= {name: getattr(plan, name) for name in _OF_MINIBATCHES}
    # The policy is passed as a class, so the library does not look up a name.
    model = cls(
        policy,
        None,
        policy_kwargs=_accepted(policy, _policy_kwargs(plan.arguments)),
        device="cpu",
        _init_setup_model=False,
        **_accepted(cls, settings),
    )
    model.observation_space = observation_space
    model.action_space = _space(plan.action_space)
    model.n_envs = plan.n_envs
    model.verbose = 0
    model._setup_model()
    model._logger = _SilentLogger()
    return model


def _accepted(cls: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that the constructor of a class accepts."""
    names = inspect.signature(cls.__init__).parameters
    return {name: value for name, value in arguments.items() if name in names}


def _policy_kwargs(plan: PolicyPlan) -> dict[str, Any]:
    arch = plan.net_arch
    lists = list(arch.values()) if isinstance(arch, dict) else [arch]
    if sum(map(len, lists)) > _MOST_LAYERS or not 0 <= plan.n_lstm_layers <= _MOST_LAYERS:
        raise _refusal(f"its policy has more than {_MOST_LAYERS} layers")
    kwargs: dict[str, Any] = {
        "net_arch": arch,
        "activation_fn": _class(plan.activation_fn, ACTIVATIONS),
        "ortho_init": False,  # weights are loaded anyway
        "features_extractor_class": _class(plan.features_extractor_class, EXTRACTORS),
        "optimizer_class": _class(plan.optimizer_class, OPTIMIZERS),
        "optimizer_kwargs": {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in plan.optimizer_kwargs.items()
        },
        **{
            name: getattr(plan, name)
            for name in (
                *("log_std_init", "full_std", "use_expln", "squash_output"),
                *("features_extractor_kwargs", "share_features_extractor", "normalize_images"),
            )
        },
    }
    if plan.lstm_hidden_size:
        names = ("lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm")
        kwargs |= {name: getattr(plan, name) for name in (*names, "lstm_kwargs")}
    return kwargs


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Check shapes and types of an optimizer's state, which loading does not check."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            is_fitting = (
                value.shape in (parameter.shape, torch.Size())
                if isinstance(value, Tensor)
                else value is None or isinstance(value, (bool, int, float))
            )
            if not is_fitting:
                raise ValueError(f"its optimizer's {name} does not fit the policy")


def _fill(buffer: Any, data: Mapping[str, Tensor], plan: OnPolicyPlan) -> None:
    """Put the rollout into a buffer; arrays must have the sizes of the buffer's arrays."""
    for name in (*ARRAYS, *ALGORITHMS[plan.algorithm]):
        own = getattr(buffer, name)
        if isinstance(own, dict):
            filled: Any = {key: _array(data, f"{name}.{key}", own[key]) for key in own}
        else:
            filled = _array(data, name, own)
        setattr(buffer, name, filled)
    buffer.generator_ready = plan.is_flat
    buffer.full, buffer.pos = True, buffer.buffer_size


def _array(data: Mapping[str, Tensor], name: str, own: Any) -> Any:
    if name not in data or data[name].numel() != own.size:
        raise ValueError(f"its {name} do not fit the rollout")
    return data[name].numpy().copy()


class _SilentLogger:
    """Discards what the library logs."""

    def record(self, *_: object, **__: object) -> None: ...

    def record_mean(self, *_: object, **__: object) -> None: ...
