"""Faults that the environment and the rollout bring."""

import torch

from esper.leyline.heads import HEAD_NAMES
from natural_faults.cause import (
    DELTAS,
    FLOAT32_MAX,
    FUTURE,
    LINEAR,
    PICK,
    RUNNING,
    SIBLINGS,
    SOFTMAX,
    TAKE_OBSERVATIONS,
    TAKE_STATE,
    TRUNK,
    VALUE_LOSS,
    any_value,
    index_text,
)
from natural_faults.stage import Setup, Truth


def bad_observation(setup: Setup) -> Truth:
    """An observation that is not finite."""
    kind, value = any_value(setup)
    index = setup.put_in_rollout("observations", value)
    words = (f"observations{index_text(index)}", kind)
    return Truth(("index_select",), (TAKE_OBSERVATIONS,), words=words)


def huge_observation(setup: Setup) -> Truth:
    """A finite observation so large that layer norm's variance overflows."""
    step, host = setup.any_place()
    observations = setup.rollout.observations.clone()
    observations[step, host] *= 1e26 / observations[step, host].abs().max()
    setup.change(observations=observations)
    return Truth(("native_layer_norm",), (TRUNK,), "policy.feature_norm", words=("input",))


def overflowing_observation(setup: Setup) -> Truth | None:
    """A finite observation so large that its product with the weights overflows."""
    step, host = setup.any_place()
    weights = setup.policy.features.weight.detach().double()
    signs = weights[0].sign()
    if weights[0].abs().sum() * 3e38 < 1.1 * FLOAT32_MAX:
        return None
    observations = setup.rollout.observations.clone()
    observations[step, host] = 3e38 * signs
    setup.change(observations=observations)
    return Truth(LINEAR, (TRUNK,), "policy.features", words=("observations", "3e+38"))


def bad_reward(setup: Setup) -> Truth:
    """A reward that is not finite."""
    kind, value = any_value(setup)
    index = setup.put_in_rollout("rewards", value)
    return Truth(("add",), (DELTAS,), words=(f"rewards{index_text(index)}", kind))


def bad_value(setup: Setup) -> Truth:
    """A value from acting that is not finite."""
    kind, value = any_value(setup)
    index = setup.put_in_rollout("values", value)
    return Truth(("sub",), (DELTAS,), words=(f"values{index_text(index)}", kind))


def bad_next_value(setup: Setup) -> Truth:
    """The value of what followed a step is not finite."""
    kind, value = any_value(setup)
    host = setup.any_place()[1]
    values = setup.rollout.next_values.clone()
    values[0, host] = value
    setup.change(next_values=values)
    return Truth(("mul",), (FUTURE,), words=(f"next_values{index_text((0, host))}", kind))


def huge_reward(setup: Setup) -> Truth:
    """A reward whose square overflows in the value loss."""
    setup.put_in_rollout("rewards", 10 ** setup.random.uniform(23, 33))
    return Truth(("mse_loss",), (VALUE_LOSS,), words=("target",), phases=("forward",))


def overflowing_return(setup: Setup) -> Truth:
    """Rewards that are finite, and whose sum over an episode is not."""
    setup.change(rewards=torch.full_like(setup.rollout.rewards, 1.5e38))
    return Truth(("add",), (RUNNING,), words=("1.5e+38",))


def overflowing_siblings(setup: Setup) -> Truth:
    """Scores that are finite, and whose sum over siblings is not."""
    rewards = torch.zeros_like(setup.rollout.rewards)
    rewards[-1] = 1.5e38
    zeros = torch.zeros_like(rewards)
    setup.change(rewards=rewards, values=zeros, next_values=zeros)
    return Truth(("sum",), (SIBLINGS,), words=("self", "1.5e+38"))


def opposite_value_and_reward(setup: Setup) -> Truth:
    """A critic and a reward at opposite ends of float32."""
    step, host = setup.any_place()
    rewards, values = setup.rollout.rewards.clone(), setup.rollout.values.clone()
    rewards[step, host], values[step, host] = 3e38, -3e38
    setup.change(rewards=rewards, values=values)
    return Truth(("sub",), (DELTAS,), words=("values", "3e+38"))


def reward_and_future_too_large(setup: Setup) -> Truth:
    """A reward and a value of the future that are finite, and not together."""
    host = setup.any_place()[1]
    rewards, following = setup.rollout.rewards.clone(), setup.rollout.next_values.clone()
    rewards[0, host] = following[0, host] = 3e38
    setup.change(rewards=rewards, next_values=following)
    return Truth(("add",), (DELTAS,), words=("rewards", "3e+38"))


def bad_initial_state(setup: Setup) -> Truth:
    """A recurrent state, carried over from acting, that is not finite."""
    kind, value = any_value(setup)
    states = [state.clone() for state in setup.rollout.initial_state]
    which = setup.random.randrange(2)
    index = setup.put(states[which], value)
    setup.change(initial_state=tuple(states))
    name = ("initial hidden state", "initial cell state")[which]
    return Truth(("index_select",), (TAKE_STATE,), words=(f"{name}{index_text(index)}", kind))


def forbidden_choice_taken(setup: Setup) -> Truth | None:
    """A mask that forbids the choice that was taken."""
    head = setup.any_head()
    place = setup.active_place(head)
    if place is None or len(setup.rows(head)) < 2:
        return None
    masks, rows = setup.rollout.masks.clone(), setup.rows(head)
    masks[(*place, slice(rows.start, rows.stop))] = True
    masks[(*place, rows.start + int(setup.rollout.actions[(*place, HEAD_NAMES.index(head))]))] = (
        False
    )
    setup.change(masks=masks)
    return Truth(("gather",), (PICK,), words=("probability zero", "mask"))


def every_choice_forbidden(setup: Setup) -> Truth | None:
    """A mask that forbids every choice of a head that counts."""
    head = setup.any_head()
    place = setup.active_place(head)
    if place is None:
        return None
    masks, rows = setup.rollout.masks.clone(), setup.rows(head)
    masks[(*place, slice(rows.start, rows.stop))] = False
    setup.change(masks=masks)
    return Truth(("_log_softmax",), (SOFTMAX,), words=("every choice", "masked"))
