"""Faults in weights: not finite, finite and far too large, beyond half precision."""

import math

import torch

from esper.leyline.heads import HEAD_NAMES
from natural_faults.cause import (
    CRITIC,
    FLOAT32_MAX,
    HEADS,
    LINEAR,
    LSTM,
    SCALE_LOSS,
    SOFTMAX,
    TRUNK,
    VALUE_LOSS,
    VALUES,
    Plant,
    index_text,
)
from natural_faults.stage import BACKWARD, FORWARD, Line, Setup, Truth


def bad_weight(
    name: str, operations: tuple[str, ...], line: Line, *, kinds: tuple[str, ...] = ("nan",)
) -> Plant:
    """Return a fault: a weight is not finite, of one of these kinds."""

    def plant(setup: Setup) -> Truth:
        kind = setup.random.choice(kinds)
        value = VALUES[kind]
        index = setup.put(setup.policy.get_parameter(name), value)
        module = f"policy.{name.rpartition('.')[0]}"
        return Truth(
            operations, (line,), module, words=(f"weight: {name}{index_text(index)}", kind)
        )

    return plant


def two_weights_of_two_heads(setup: Setup) -> Truth:
    """Two heads broken: explained must be the first that lit."""
    bias = setup.policy.heads.bias
    first, second = sorted(setup.random.sample(range(len(HEAD_NAMES)), 2))
    row, other = setup.any_row(HEAD_NAMES[first]), setup.any_row(HEAD_NAMES[second])
    with torch.no_grad():
        bias[row] = bias[other] = math.nan
    return Truth(LINEAR, (HEADS,), "policy.heads", words=(f"heads.bias{index_text((row,))}",))


# Weights that are finite and far too large


@torch.no_grad()
def _large_trunk(setup: Setup) -> None:
    """Have every unit of the trunk near 1, so that sums over it are large."""
    setup.policy.lstm.bias_ih_l0.fill_(6.0)


@torch.no_grad()
def huge_weight_of_a_head(setup: Setup) -> Truth:
    """A head's weights far too large."""
    _large_trunk(setup)
    setup.policy.heads.weight[setup.any_row(setup.any_head())] = 3e38
    return Truth(LINEAR, (HEADS,), "policy.heads", words=("weight heads.weight", "3e+38"))


@torch.no_grad()
def huge_weight_of_the_critic(setup: Setup) -> Truth:
    """The critic's weights far too large."""
    _large_trunk(setup)
    setup.policy.critic.weight.fill_(setup.random.choice((2e38, 3e38)))
    return Truth(LINEAR, (CRITIC,), "policy.critic", words=("weight critic.weight", "e+38"))


@torch.no_grad()
def huge_bias_of_the_critic(setup: Setup) -> Truth:
    """A bias of the critic whose square overflows in the value loss."""
    setup.policy.critic.bias.fill_(10 ** setup.random.uniform(22, 30))
    return Truth(("mse_loss",), (VALUE_LOSS,), words=("self",), phases=("forward",))


@torch.no_grad()
def huge_weights_of_the_features(setup: Setup) -> Truth:
    """Weights of the features so large that layer norm's variance overflows."""
    setup.policy.features.weight.mul_(10 ** setup.random.uniform(25, 34))
    return Truth(("native_layer_norm",), (TRUNK,), "policy.feature_norm", words=("input",))


@torch.no_grad()
def overflowing_features(setup: Setup) -> Truth:
    """Weights of the features so large that their product overflows."""
    setup.policy.features.weight.fill_(3e38)
    setup.change(observations=setup.rollout.observations.abs() + 1)
    words = ("weight features.weight", "3")  # bfloat16 holds 3.004e+38
    return Truth(LINEAR, (TRUNK,), "policy.features", words=words)


@torch.no_grad()
def exploding_lstm(setup: Setup) -> Truth:
    """An LSTM whose two products overflow to infinities of opposite sign."""
    setup.policy.feature_norm.bias.fill_(5.0)  # features near 1
    setup.policy.lstm.weight_ih_l0.fill_(3e38)
    setup.policy.lstm.weight_hh_l0.fill_(-3e38)
    setup.change(initial_state=tuple(torch.ones_like(s) for s in setup.rollout.initial_state))
    return Truth(LSTM, (TRUNK,), "policy.lstm", words=("weight lstm.weight_", "3e+38"))


@torch.no_grad()
def logits_too_far_apart(setup: Setup) -> Truth | None:
    """Two logits of one head at both ends of float32, the lower one taken."""
    head = setup.any_head()
    rows, place = setup.rows(head), setup.active_place(head)
    if place is None or len(rows) < 2:
        return None
    taken = int(setup.rollout.actions[(*place, HEAD_NAMES.index(head))])
    legal = setup.rollout.masks[(*place, slice(rows.start, rows.stop))].nonzero().flatten().tolist()
    others = [choice for choice in legal if choice != taken]
    if not others:
        return None
    setup.policy.heads.bias[rows.start + taken] = -3e38
    setup.policy.heads.bias[rows.start + others[0]] = 3e38
    return Truth(("_log_softmax",), (SOFTMAX,), words=("logits", "-3e+38", "3e+38"))


# Half precision


@torch.no_grad()
def half_overflow_of_a_weight(setup: Setup) -> Truth:
    """A weight beyond fp16 that float32 holds with ease."""
    name = setup.random.choice(("features.weight", "features.bias", "lstm.weight_ih_l0"))
    setup.put(setup.policy.get_parameter(name), setup.random.choice((-1, 1)) * 1e5)
    module = f"policy.{name.rpartition('.')[0]}"
    words = (f"weight {name}", "1e+05", "float16")
    return Truth(("_to_copy",), (TRUNK,), module, words=words)


@torch.no_grad()
def half_overflow_of_a_product(setup: Setup) -> Truth:
    """Weights that fp16 holds, and whose product it does not."""
    setup.policy.features.weight.fill_(4e4)
    setup.change(observations=setup.rollout.observations.abs() + 2)
    words = ("weight features.weight", "4e+04", "float16")
    return Truth(LINEAR, (TRUNK,), "policy.features", words=words)


def half_overflow_of_an_observation(setup: Setup) -> Truth:
    """An observation beyond fp16, such as a raw count of pixels."""
    setup.put_in_rollout("observations", setup.random.choice((-1, 1)) * 1e6)
    words = ("observations", "1e+06", "float16")
    return Truth(("_to_copy",), (TRUNK,), "policy.features", words=words)


@torch.no_grad()
def brain_float_overflow_of_a_weight(setup: Setup) -> Truth:
    """The largest float32 rounds up to infinity in bfloat16."""
    setup.put(setup.policy.features.weight, FLOAT32_MAX)
    words = ("weight features.weight", "bfloat16")
    return Truth(("_to_copy",), (TRUNK,), "policy.features", words=words)


def bad_loss_scale(value: float, kind: str) -> Plant:
    def plant(setup: Setup) -> Truth:
        setup.agent.loss_scale.scale.fill_(value)
        phases = (*FORWARD, *BACKWARD)  # it scales the loss in between
        return Truth(("mul",), (SCALE_LOSS,), phases=phases, words=("loss scale", kind))

    return plant
