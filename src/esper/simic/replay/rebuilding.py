"""Rebuilds the agent and the rollout of a capsule."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.config import TrainingConfig, updated
from esper.simic.replay.incidents import Capsule, IncidentError
from esper.tamiyo.policy import RecurrentPolicy

_OPTIMIZER_NUMBERS = ("lr", "betas", "eps", "weight_decay")


def rebuild_agent(capsule: Capsule) -> tuple[PPOAgent, torch.device]:
    """Return the agent with its state at the start of the update, and its device.

    Raises:
        IncidentError: this version cannot build the agent.
    """
    device = torch.device("cpu")
    if capsule.device.startswith("cuda") and torch.cuda.is_available():
        device = torch.device("cuda")
    try:
        config = updated(TrainingConfig(), capsule.config)
        weights = capsule.agent["policy"]
        feature_size, observation_size = weights["features.weight"].shape
        rows, lstm_size = weights["lstm.weight_hh_l0"].shape
        inner = tuple(weights["lstm.weight_ih_l0"].shape)
        choices = len(weights["heads.bias"])
        # A small file must not lead to a large network.
        if (rows, inner) != (4 * lstm_size, (4 * lstm_size, feature_size)):
            raise ValueError("the weights of its LSTM do not fit one another")
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise IncidentError(
            f"the capsule holds no agent that this version knows: {error}"
        ) from None
    if choices != sum(HEAD_SIZES):
        raise IncidentError(
            f"the capsule's policy has {choices} choices over all heads; "
            f"this version builds one with {sum(HEAD_SIZES)} ({', '.join(HEAD_NAMES)})"
        )
    policy = RecurrentPolicy(observation_size, feature_size=feature_size, lstm_size=lstm_size)
    agent = PPOAgent(policy.to(device), config, rng_seed=config.rng_seed)
    state = deepcopy(capsule.agent)  # else the optimizer would change the capsule's tensors
    if device.type != torch.device(capsule.device).type:
        # Its format depends on the device, and an update draws nothing from it.
        state["action_generator"] = agent.action_generator.get_state()
    try:
        agent.load_state_dict(state)
        _check_state(agent, capsule.agent)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IncidentError(f"the capsule's agent cannot be built: {reason}") from None
    return agent, device


def _check_state(agent: PPOAgent, state: Mapping[str, Any]) -> None:
    """Check shapes and types of an optimizer's state, which loading does not check.

    Raises:
        ValueError: the state does not fit the agent.
    """
    for parameter, moments in agent.optimizer.state.items():
        for name, value in moments.items():
            shape = () if name == "step" else parameter.shape
            if not isinstance(value, Tensor) or value.shape != shape:
                raise ValueError(f"its optimizer's {name} does not fit the policy")
    if not {len(moments) for moments in agent.optimizer.state.values()} <= {0, 3}:
        raise ValueError("its optimizer lacks a moment")
    own = torch.optim.Adam([torch.zeros(1)], fused=True, eps=1e-5).param_groups[0]
    (group,) = agent.optimizer.param_groups
    for name, value in own.items():
        if name not in ("params", *_OPTIMIZER_NUMBERS) and group.get(name, value) != value:
            raise ValueError(f"its optimizer has another {name}")
    # Any number is accepted: a bad one may be what broke the run.
    for name in _OPTIMIZER_NUMBERS:
        numbers = group[name] if name == "betas" else [group[name]]
        if not all(type(number) in (int, float) for number in numbers):
            raise ValueError(f"its optimizer's {name} is not a number")
    if len(group["betas"]) != 2:
        raise ValueError("its optimizer has no two betas")
    if any(value.dim() for value in state["loss_scale"].values()):
        raise ValueError("its loss scale is not a number")


def rebuild_rollout(capsule: Capsule, device: torch.device) -> Rollout:
    """Return the rollout of a capsule.

    Raises:
        IncidentError: it does not fit this version.
    """
    fields = dict(capsule.rollout)
    hidden, cell = fields.pop("initial_state")
    learnable = fields.pop("learnable", None)
    try:
        return Rollout(
            **{name: tensor.to(device) for name, tensor in fields.items()},
            initial_state=(hidden.to(device), cell.to(device)),
            learnable=learnable,
        )
    except TypeError as error:
        raise IncidentError(f"the capsule's rollout is not one of this version: {error}") from None
