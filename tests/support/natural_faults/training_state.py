"""Faults in the settings of a run and in the state of its optimizer."""

import math
from typing import Any

import torch

from esper.leyline.heads import HEAD_NAMES
from natural_faults.cause import (
    ADD_ENTROPY_LOSS,
    ADD_VALUE_LOSS,
    CRITIC,
    ENTROPY_DERIVATIVE,
    JOINT_RATIO,
    OPTIMIZER,
    TRUNK,
    VALUES,
    Plant,
    index_text,
)
from natural_faults.stage import BACKWARD, STEP, Setup, Truth


def huge_learning_rate(_setup: Setup) -> Truth:
    """One step puts every weight near the learning rate, and layer norm's variance overflows."""
    phases = ("forward",)
    return Truth(("native_layer_norm",), (TRUNK,), "policy.feature_norm", phases, ("input",))


def bad_learning_rate(kind: str) -> Plant:
    def plant(setup: Setup) -> Truth:
        setup.agent.set_learning_rate(VALUES[kind])
        words = ("learning rate", kind)
        return Truth(("add",), (ADD_ENTROPY_LOSS,), phases=("forward",), words=words)

    return plant


def huge_value_coefficient(setup: Setup) -> Truth:
    """A weight of the value loss that makes a loss of ordinary size overflow."""
    setup.change(rewards=setup.rollout.rewards * 3000)
    words = ("alpha = 3e+38", "value_coefficient")
    return Truth(("add",), (ADD_VALUE_LOSS,), phases=("forward",), words=words)


def huge_value_coefficient_and_rewards(setup: Setup) -> Truth:
    """Large rewards, and a large weight of the value loss: only their product overflows."""
    setup.change(rewards=setup.rollout.rewards * 1e13)
    words = ("alpha = 1e+30", "value_coefficient")
    return Truth(("add",), (ADD_VALUE_LOSS,), phases=("forward",), words=words)


@torch.no_grad()
def huge_entropy_coefficient(setup: Setup) -> Truth:
    """A weight of the entropy that overflows in the entropy's derivative."""
    setup.policy.heads.bias[setup.rows("op").start] = -1e5
    words = ("-1e+05 (self)",)
    return Truth(("mul",), (ENTROPY_DERIVATIVE,), phases=BACKWARD, words=words)


@torch.no_grad()
def exploding_ratio(setup: Setup) -> Truth:
    """A choice that was all but impossible becomes likely by one step that is far too long."""
    for parameter in setup.policy.lstm.parameters():
        parameter.zero_()  # so that the step changes the logits through their biases alone
    ops = setup.rollout.actions[..., HEAD_NAMES.index("op")]
    taken = torch.arange(ops.shape[0]).unsqueeze(1).expand_as(ops) % 2
    actions, active = setup.rollout.actions.clone(), torch.zeros_like(setup.rollout.active)
    actions[..., HEAD_NAMES.index("op")] = taken
    active[..., HEAD_NAMES.index("op")] = True  # so that the joint ratio is the head's own
    rewards = torch.where(taken == 0, 1.0, -1.0)
    zeros = torch.zeros_like(rewards)
    setup.change(
        actions=actions, active=active, rewards=rewards, values=zeros, next_values=zeros,
        masks=torch.ones_like(setup.rollout.masks),
    )  # fmt: skip
    setup.policy.heads.bias[setup.rows("op").start] = -150.0
    words = ("exp", "argument reaches")
    return Truth(("exp",), (JOINT_RATIO,), phases=("forward",), words=words)


@torch.no_grad()
def hidden_weight_of_the_critic(setup: Setup) -> Truth:
    """A unit of the trunk that is 0 hides a huge weight of the critic, but not its derivative."""
    for parameter in setup.policy.lstm.parameters():
        parameter.unflatten(0, (4, -1))[:, 0] = 0.0  # all gates of the unit
    setup.policy.critic.weight[0, 0] = 3e38
    setup.change(rewards=setup.rollout.rewards * 1e6)
    words = ("weight critic.weight", "3e+38", "derivative")
    return Truth(("mm", "mul"), (CRITIC,), "policy.critic", BACKWARD, words)


# The optimizer


def bad_moment(kind_of_moment: str) -> Plant:
    """Return a fault: a moment of some weight is not finite."""

    def plant(setup: Setup) -> Truth:
        setup.train()
        names = [name for name, _ in setup.policy.named_parameters()]
        name = setup.random.choice(names)
        kind, value = setup.random.choice((("nan", math.nan), ("+inf", math.inf)))
        moments = setup.agent.state.moments_of(setup.policy.get_parameter(name))
        index = setup.put(moments[kind_of_moment], value)
        words = ("optimizer state", f"{kind_of_moment} of {name}{index_text(index)}", kind)
        return Truth(("_fused_adam",), (OPTIMIZER,), phases=STEP, words=words)

    return plant


def negative_second_moment(setup: Setup) -> Truth:
    """One flipped bit of sign in a second moment."""
    setup.train()
    name = setup.random.choice([name for name, _ in setup.policy.named_parameters()])
    moments = setup.agent.state.moments_of(setup.policy.get_parameter(name))
    setup.put(moments["exp_avg_sq"], -10.0)
    words = (f"exp_avg_sq of {name}", "negative")
    return Truth(("_fused_adam",), (OPTIMIZER,), phases=STEP, words=words)


def huge_first_moment(setup: Setup) -> Truth:
    """One flipped bit of the exponent in a first moment: the step itself overflows."""
    setup.train()
    name = setup.random.choice([name for name, _ in setup.policy.named_parameters()])
    moments = setup.agent.state.moments_of(setup.policy.get_parameter(name))
    index = setup.put(moments["exp_avg"], 3e38)
    with torch.no_grad():
        moments["exp_avg_sq"][index] = 0.0
    words = (f"exp_avg of {name}", "e+38")  # a later step sees what is left of it, 2.7e+38
    return Truth(("_fused_adam",), (OPTIMIZER,), phases=STEP, words=words)


def bad_clock(value: float, words: tuple[str, ...]) -> Plant:
    """Return a fault: the number of steps that Adam counts is not a possible one."""

    def plant(setup: Setup) -> Truth:
        setup.train()
        (state,) = setup.agent.optimizer.state.values()
        state["step"].fill_(value)
        operations = ("_fused_adam", "_foreach_add")  # which counts the step before it is used
        return Truth(operations, (OPTIMIZER,), phases=STEP, words=("step", *words))

    return plant


def bad_group(word: str, **settings: Any) -> Plant:
    """Return a fault: a setting of the optimizer that no constructor would accept, set later."""

    def plant(setup: Setup) -> Truth:
        setup.agent.optimizer.param_groups[0].update(settings)
        return Truth(("_fused_adam",), (OPTIMIZER,), phases=STEP, words=(word,))

    return plant


def no_eps(setup: Setup) -> Truth:
    """Adam without eps: 0 / 0 where a gradient is exactly 0, as of a head that is never active."""
    active = torch.zeros_like(setup.rollout.active)
    active[..., HEAD_NAMES.index("op")] = True
    setup.change(active=active)
    setup.agent.optimizer.param_groups[0]["eps"] = 0.0
    return Truth(("_fused_adam",), (OPTIMIZER,), phases=STEP, words=("eps = 0",))
