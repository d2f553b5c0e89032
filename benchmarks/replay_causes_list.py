"""The causes of the replay benchmark, each with the truth about where it begins.

What must be named was worked out from the arithmetic of each fault, not from what a replay says.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import replay_user_code as user_code
import torch
from replay_stage import BACKWARD, FORWARD, STEP, Line, Setup, Truth
from torch import Tensor

from esper.leyline.heads import HEAD_NAMES
from esper.simic.agent import loss_scale, losses, ppo, rollout
from esper.tamiyo import categorical
from esper.tamiyo import policy as policy_module

FLOAT32_MAX = torch.finfo(torch.float32).max

# Every line of Esper that a truth names.
TRUNK = Line(policy_module, "trunk, state = self.lstm(self.feature_norm(")
HEADS = Line(policy_module, "logits = self.heads(trunk)")
CRITIC = Line(policy_module, "values = self.critic(trunk)")
SOFTMAX = Line(categorical, "return log_softmax(masked, dim=0)")
PICK = Line(categorical, "return log_probs.gather(")
ENTROPY_DERIVATIVE = Line(categorical, "gradient = finite.add(entropies).mul_(")
TAKE_OBSERVATIONS = Line(losses, "observations=self.observations.index_select(")
TAKE_STATE = Line(losses, "initial_state=(hidden.index_select(")
JOINT_RATIO = Line(losses, "joint_ratio = log_ratio.exp()")
VALUE_LOSS = Line(losses, "value_loss = 0.5 * mse_loss(")
ADD_VALUE_LOSS = Line(losses, "policy_and_value = policy_loss.add(")
ADD_ENTROPY_LOSS = Line(losses, "loss=policy_and_value.add(entropy_loss")
FUTURE = Line(rollout, "future = torch.where(rollout.terminated")
DELTAS = Line(rollout, "deltas = rollout.rewards + future")
RUNNING = Line(rollout, "running = deltas[step] + torch.where(")
SIBLINGS = Line(rollout, "total = known.sum(1, keepdim=True)")
SCALE_LOSS = Line(loss_scale, "return loss * self.scale")
OPTIMIZER = Line(ppo, "self.optimizer.step()")

#: What the LSTM may be made of: one kernel, or products written out under autocast.
LSTM = ("mkldnn_rnn_layer", "lstm", "mm", "addmm", "linear", "_to_copy", "add", "mul")
LINEAR = ("addmm", "linear")
AUTOCAST_LINEAR = (*LINEAR, "_to_copy")
VALUES = {"nan": math.nan, "+inf": math.inf, "-inf": -math.inf}
INFINITE = ("+inf", "-inf")
Plant = Callable[[Setup], Truth | None]


@dataclass(frozen=True)
class Cause:
    """A kind of fault.

    Attributes:
        plant: makes it and returns the truth, or None if it does not fit that setup.
        settings: settings of the run that it needs.
        precisions: in which it behaves as its truth says.
        sizes: settings that are drawn for each case.
    """

    name: str
    plant: Plant
    settings: tuple[tuple[str, Any], ...] = ()
    precisions: tuple[str, ...] = ("off", "bf16", "fp16")
    draw: Callable[[Random], dict[str, Any]] | None = None

    def settings_for(self, random: Random) -> dict[str, Any]:
        """Return the settings of a case."""
        drawn = self.draw(random) if self.draw else {}
        return {"amp": random.choice(self.precisions), **dict(self.settings), **drawn}


def _index(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]"


def _any_value(setup: Setup) -> tuple[str, float]:
    kind = setup.random.choice(tuple(VALUES))
    return kind, VALUES[kind]


# Weights that are not finite


def _bad_weight(
    name: str, operations: tuple[str, ...], line: Line, *, kinds: tuple[str, ...] = ("nan",)
) -> Plant:
    """Return a fault: a weight is not finite, of one of these kinds."""

    def plant(setup: Setup) -> Truth:
        kind = setup.random.choice(kinds)
        value = VALUES[kind]
        index = setup.put(setup.policy.get_parameter(name), value)
        module = f"policy.{name.rpartition('.')[0]}"
        return Truth(operations, (line,), module, words=(f"weight: {name}{_index(index)}", kind))

    return plant


def two_weights_of_two_heads(setup: Setup) -> Truth:
    """Two heads broken: explained must be the first that lit."""
    bias = setup.policy.heads.bias
    first, second = sorted(setup.random.sample(range(len(HEAD_NAMES)), 2))
    row, other = setup.any_row(HEAD_NAMES[first]), setup.any_row(HEAD_NAMES[second])
    with torch.no_grad():
        bias[row] = bias[other] = math.nan
    return Truth(LINEAR, (HEADS,), "policy.heads", words=(f"heads.bias{_index((row,))}",))


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


def _bad_loss_scale(value: float, kind: str) -> Plant:
    def plant(setup: Setup) -> Truth:
        setup.agent.loss_scale.scale.fill_(value)
        phases = (*FORWARD, *BACKWARD)  # it scales the loss in between
        return Truth(("mul",), (SCALE_LOSS,), phases=phases, words=("loss scale", kind))

    return plant


# What the environment and the rollout bring


def bad_observation(setup: Setup) -> Truth:
    """An observation that is not finite."""
    kind, value = _any_value(setup)
    index = setup.put_in_rollout("observations", value)
    words = (f"observations{_index(index)}", kind)
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
    kind, value = _any_value(setup)
    index = setup.put_in_rollout("rewards", value)
    return Truth(("add",), (DELTAS,), words=(f"rewards{_index(index)}", kind))


def bad_value(setup: Setup) -> Truth:
    """A value from acting that is not finite."""
    kind, value = _any_value(setup)
    index = setup.put_in_rollout("values", value)
    return Truth(("sub",), (DELTAS,), words=(f"values{_index(index)}", kind))


def bad_next_value(setup: Setup) -> Truth:
    """The value of what followed a step is not finite."""
    kind, value = _any_value(setup)
    host = setup.any_place()[1]
    values = setup.rollout.next_values.clone()
    values[0, host] = value
    setup.change(next_values=values)
    return Truth(("mul",), (FUTURE,), words=(f"next_values{_index((0, host))}", kind))


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
    kind, value = _any_value(setup)
    states = [state.clone() for state in setup.rollout.initial_state]
    which = setup.random.randrange(2)
    index = setup.put(states[which], value)
    setup.change(initial_state=tuple(states))
    name = ("initial hidden state", "initial cell state")[which]
    return Truth(("index_select",), (TAKE_STATE,), words=(f"{name}{_index(index)}", kind))


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


# Settings of the run


def huge_learning_rate(_setup: Setup) -> Truth:
    """One step puts every weight near the learning rate, and layer norm's variance overflows."""
    phases = ("forward",)
    return Truth(("native_layer_norm",), (TRUNK,), "policy.feature_norm", phases, ("input",))


def _bad_learning_rate(kind: str) -> Plant:
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


def _bad_moment(kind_of_moment: str) -> Plant:
    """Return a fault: a moment of some weight is not finite."""

    def plant(setup: Setup) -> Truth:
        setup.train()
        names = [name for name, _ in setup.policy.named_parameters()]
        name = setup.random.choice(names)
        kind, value = setup.random.choice((("nan", math.nan), ("+inf", math.inf)))
        moments = setup.agent.moments_of(setup.policy.get_parameter(name))
        index = setup.put(moments[kind_of_moment], value)
        words = ("optimizer state", f"{kind_of_moment} of {name}{_index(index)}", kind)
        return Truth(("_fused_adam",), (OPTIMIZER,), phases=STEP, words=words)

    return plant


def negative_second_moment(setup: Setup) -> Truth:
    """One flipped bit of sign in a second moment."""
    setup.train()
    name = setup.random.choice([name for name, _ in setup.policy.named_parameters()])
    moments = setup.agent.moments_of(setup.policy.get_parameter(name))
    setup.put(moments["exp_avg_sq"], -10.0)
    words = (f"exp_avg_sq of {name}", "negative")
    return Truth(("_fused_adam",), (OPTIMIZER,), phases=STEP, words=words)


def huge_first_moment(setup: Setup) -> Truth:
    """One flipped bit of the exponent in a first moment: the step itself overflows."""
    setup.train()
    name = setup.random.choice([name for name, _ in setup.policy.named_parameters()])
    moments = setup.agent.moments_of(setup.policy.get_parameter(name))
    index = setup.put(moments["exp_avg"], 3e38)
    with torch.no_grad():
        moments["exp_avg_sq"][index] = 0.0
    words = (f"exp_avg of {name}", "e+38")  # a later step sees what is left of it, 2.7e+38
    return Truth(("_fused_adam",), (OPTIMIZER,), phases=STEP, words=words)


def _bad_clock(value: float, words: tuple[str, ...]) -> Plant:
    """Return a fault: the number of steps that Adam counts is not a possible one."""

    def plant(setup: Setup) -> Truth:
        setup.train()
        (state,) = setup.agent.optimizer.state.values()
        state["step"].fill_(value)
        operations = ("_fused_adam", "_foreach_add")  # which counts the step before it is used
        return Truth(operations, (OPTIMIZER,), phases=STEP, words=("step", *words))

    return plant


def _bad_group(word: str, **settings: Any) -> Plant:
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


# User code around a layer


def _user(
    code: Callable[[Tensor], Tensor],
    operations: tuple[str, ...],
    fragment: str,
    *words: str,
    layers: tuple[str, ...] = ("heads",),
    phases: tuple[str, ...] = FORWARD,
) -> Cause:
    def plant(setup: Setup) -> Truth:
        layer = setup.random.choice(layers)
        setup.add_user_code(layer, code)
        lines = (Line(user_code, fragment),)
        return Truth(operations, lines, f"policy.{layer}", phases, words)

    # Under autocast torch chooses the precision of each operation in user code.
    return Cause(f"user code: {code.__name__}", plant, precisions=("off",))


_U = user_code
ANY = ("heads", "feature_norm")  # tanh hides an infinity after the norm, but not a NaN
USER_CODE = (
    _user(_U.divided_by_temperature, ("div",), "return values / temperature", "other = 0"),
    _user(
        _U.divided_by_tensor_temperature, ("div",), "return values.div(temperature)", "other", "0"
    ),
    _user(_U.scaled_by_float, ("mul",), "return (values + 100) * 1e37", "other = 1e+37"),
    _user(_U.scaled_by_int, ("mul",), "return (values + 1e21) * 10**18", "other = 1e+18", "1e+21"),
    _user(
        _U.scaled_by_zero_dim_tensor, ("mul",), "return (values + 100) * scale", "other", "2e+38"
    ),
    _user(_U.scaled_in_place, ("mul",), "scaled.mul_(3e37)", "other = 3e+37"),
    _user(
        _U.added_with_float_alpha,
        ("add",),
        "return values.add(bonus, alpha=3e38)",
        "other",
        "300",
        "alpha = 3e+38",
    ),
    _user(
        _U.added_with_int_alpha,
        ("add",),
        "return values.add(bonus, alpha=10**18)",
        "other",
        "1e+21",
        "alpha = 1e+18",
    ),
    _user(
        _U.subtracted_with_alpha, ("sub",), "return values.sub(baseline", "other", "alpha = 1e+38"
    ),
    _user(_U.subtracted_from_number, ("rsub", "sub"), "return 3e38 - masked", "3e+38"),
    _user(_U.added_twice_the_lowest, ("add",), "return once + lowest", "self", "other", "3.4"),
    _user(_U.product_of_three, ("addcmul",), "return torch.addcmul(", "value = 1e+36"),
    _user(_U.quotient_added, ("addcdiv",), "return torch.addcdiv(", "tensor2", "1e-36"),
    _user(
        _U.interpolated_with_number,
        ("lerp",),
        "return torch.lerp(values, target, 1e37)",
        "weight = 1e+37",
    ),
    _user(
        _U.interpolated_with_tensor,
        ("lerp",),
        "return torch.lerp(values, target, weight)",
        "weight",
        "1e+37",
    ),
    _user(_U.lists_scaled, ("_foreach_mul", "mul"), "pair = torch._foreach_mul(", "1e+37"),
    _user(_U.lists_added, ("_foreach_add", "add"), "pair = torch._foreach_add(", "alpha = 3e+38"),
    _user(
        _U.lists_of_products,
        ("_foreach_addcmul", "addcmul"),
        "pair = torch._foreach_addcmul(",
        "value = 1e+36",
    ),
    _user(_U.lists_divided, ("_foreach_div", "div"), "pair = torch._foreach_div(", "0"),
    _user(_U.high_power, ("pow",), "return (values + 100).pow(40)", "exponent = 40"),
    _user(_U.high_power_of_number, ("pow",), "return 10.0 ** (values", "exponent", "self = 10"),
    _user(_U.negative_power_of_zero, ("pow", "reciprocal"), "return zeros**-1", "0"),
    _user(
        _U.fractional_power_of_negative,
        ("pow", "sqrt"),
        "return (values - 100) ** 0.5",
        "negative",
        layers=ANY,
    ),
    _user(_U.softplus_by_hand, ("exp",), "return (1 + (values + 200).exp()).log()", "argument"),
    _user(_U.log_of_softmax, ("log",), "return sharp.softmax(-1).log()", "log of 0"),
    _user(_U.log_of_negative, ("log",), "return (values - 100).log()", "log of", layers=ANY),
    _user(_U.log1p_of_minus_one, ("log1p",), "return (values * 0 - 1).log1p()", "log of", "-1"),
    _user(_U.root_of_negative, ("sqrt",), "return (values - 100).sqrt()", "negative", layers=ANY),
    _user(
        _U.inverse_root_of_zero, ("rsqrt",), "return zeros * zeros.square()", "1 / 0", layers=ANY
    ),
    _user(
        _U.standardised_constant,
        ("div",),
        "return (constant - 2) / constant.std(",
        "0 / 0",
        layers=ANY,
    ),
    _user(_U.unit_vector_of_zeros, ("div",), "return zeros / zeros.norm(", "0 / 0", layers=ANY),
    _user(_U.unit_vector_with_eps_of_zero, ("div",), "return normalize(", "0 / 0", layers=ANY),
    _user(_U.arc_cosine_above_one, ("acos",), "return cosine.acos()", "1.0001", layers=ANY),
    _user(_U.area_hyperbolic_tangent_of_one, ("atanh",), "return squashed.atanh()", "1"),
    _user(_U.reciprocal_of_zero, ("reciprocal",), "return (values * 0).reciprocal()", "0"),
    _user(_U.remainder_by_zero, ("fmod",), "return torch.fmod(", "other = 0", layers=ANY),
    _user(_U.running_sum, ("cumsum",), "return large.cumsum(-1)", "2e+37"),
    _user(_U.running_product, ("cumprod",), "return (values * 0 + 50.0).cumprod(-1)", "50"),
    _user(_U.sum_of_large, ("sum",), "return values + large.sum(", "2e+37"),
    _user(
        _U.product_of_matrices, ("mm", "bmm", "addmm"), "return (values + 100) @ mixing", "1e+38"
    ),
    _user(_U.batched_product_with_alpha, ("baddbmm",), "return torch.baddbmm(", "alpha = 1e+37"),
    _user(_U.constant_infinity, ("add",), "return values + math.inf", "other is +inf"),
    _user(
        _U.constant_nan_tensor,
        ("add", "lift_fresh", "lift_fresh_copy"),
        "return values + default",
        "constant",
        "nan",
        layers=ANY,
    ),
    _user(
        _U.filled_with_nan,
        ("masked_fill",),
        "return values.masked_fill(",
        "value is nan",
        layers=ANY,
    ),
    _user(
        _U.where_with_log,
        ("div",),
        "safe = torch.where(",
        "0 / 0",
        "derivative of Log",
        phases=BACKWARD,
    ),
    _user(
        _U.root_of_zero,
        ("div",),
        "return values + zeros.sqrt()",
        "derivative of Sqrt",
        phases=BACKWARD,
    ),
    _user(
        _U.power_of_zero,
        ("pow", "mul", "div", "sqrt"),
        "return values + zeros.pow(0.5)",
        "derivative of",
        phases=BACKWARD,
    ),
    _user(
        _U.arc_sine_of_one,
        ("rsqrt",),
        "return values + edge.asin()",
        "derivative of Asin",
        phases=BACKWARD,
    ),
    _user(
        _U.clamped_exponential,
        ("exp",),
        "return values + large.exp().clamp(",
        "argument",
        phases=(*FORWARD, *BACKWARD),
    ),
    _user(
        _U.squared_and_clamped_root,
        ("div",),
        "distance = difference.square()",
        "derivative of Sqrt",
        phases=BACKWARD,
    ),
)


def _huge_rate(random: Random) -> dict[str, Any]:
    return {"learning_rate": 10 ** random.uniform(23, 34)}


OFF, HALF, BRAIN = ("off",), ("fp16",), ("bf16",)
WIDE = ("off", "bf16")
CAUSES: tuple[Cause, ...] = (
    Cause("weight of a head", _bad_weight("heads.weight", LINEAR, HEADS)),
    Cause("bias of a head", _bad_weight("heads.bias", LINEAR, HEADS)),
    Cause("infinite bias of a head", _bad_weight("heads.bias", LINEAR, HEADS, kinds=tuple(VALUES))),
    Cause("weight of the critic", _bad_weight("critic.weight", LINEAR, CRITIC)),
    Cause("bias of the critic", _bad_weight("critic.bias", LINEAR, CRITIC, kinds=tuple(VALUES))),
    Cause("weight of the features", _bad_weight("features.weight", AUTOCAST_LINEAR, TRUNK)),
    Cause("bias of the features", _bad_weight("features.bias", AUTOCAST_LINEAR, TRUNK)),
    Cause("gain of the norm", _bad_weight("feature_norm.weight", ("native_layer_norm",), TRUNK)),
    Cause("bias of the norm", _bad_weight("feature_norm.bias", ("native_layer_norm",), TRUNK)),
    Cause("input weight of the LSTM", _bad_weight("lstm.weight_ih_l0", LSTM, TRUNK)),
    Cause("state weight of the LSTM", _bad_weight("lstm.weight_hh_l0", LSTM, TRUNK)),
    Cause("bias of the LSTM", _bad_weight("lstm.bias_ih_l0", LSTM, TRUNK)),
    Cause(
        "infinite bias of the norm",
        _bad_weight("feature_norm.bias", ("native_layer_norm",), TRUNK, kinds=INFINITE),
    ),
    Cause("infinite bias of the LSTM", _bad_weight("lstm.bias_ih_l0", LSTM, TRUNK, kinds=INFINITE)),
    Cause(
        "infinite state bias of the LSTM",
        _bad_weight("lstm.bias_hh_l0", LSTM, TRUNK, kinds=INFINITE),
    ),
    Cause("two heads at once", two_weights_of_two_heads),
    Cause("huge weight of a head", huge_weight_of_a_head),
    Cause("huge weight of the critic", huge_weight_of_the_critic),
    Cause("huge bias of the critic", huge_bias_of_the_critic),
    Cause("huge weights of the features", huge_weights_of_the_features, precisions=WIDE),
    Cause("overflowing features", overflowing_features, precisions=WIDE),
    Cause("exploding LSTM", exploding_lstm, precisions=OFF),
    Cause("logits too far apart", logits_too_far_apart),
    Cause("fp16 weight", half_overflow_of_a_weight, precisions=HALF),
    Cause("fp16 product", half_overflow_of_a_product, precisions=HALF),
    Cause("fp16 observation", half_overflow_of_an_observation, precisions=HALF),
    Cause("bf16 weight", brain_float_overflow_of_a_weight, precisions=BRAIN),
    Cause("loss scale NaN", _bad_loss_scale(math.nan, "nan"), precisions=HALF),
    Cause("loss scale infinite", _bad_loss_scale(math.inf, "+inf"), precisions=HALF),
    Cause("observation", bad_observation),
    Cause("huge observation", huge_observation, precisions=WIDE),
    Cause("overflowing observation", overflowing_observation, precisions=OFF),
    Cause("reward", bad_reward),
    Cause("value", bad_value),
    Cause("value of what followed", bad_next_value),
    Cause("huge reward", huge_reward),
    Cause("overflowing return", overflowing_return, (("gamma", 1.0), ("siblings", 1))),
    Cause("overflowing siblings", overflowing_siblings, (("siblings", 4),)),
    Cause("opposite value and reward", opposite_value_and_reward),
    Cause("reward and future", reward_and_future_too_large, (("gamma", 1.0),)),
    Cause("initial state", bad_initial_state),
    Cause("forbidden choice", forbidden_choice_taken),
    Cause("every choice forbidden", every_choice_forbidden),
    Cause("huge learning rate", huge_learning_rate, precisions=WIDE, draw=_huge_rate),
    Cause("learning rate NaN", _bad_learning_rate("nan")),
    Cause("learning rate infinite", _bad_learning_rate("+inf")),
    Cause("value coefficient", huge_value_coefficient, (("value_coefficient", 3e38),)),
    Cause(
        "value coefficient and rewards",
        huge_value_coefficient_and_rewards,
        (("value_coefficient", 1e30),),
    ),
    # Under fp16 the loss scale multiplies the coefficient first, and overflows by itself.
    Cause(
        "entropy coefficient",
        huge_entropy_coefficient,
        (("entropy_coefficient", 3e37),),
        precisions=WIDE,
    ),
    Cause(
        "exploding ratio",
        exploding_ratio,
        (
            ("learning_rate", 200.0),
            ("gamma", 0.0),
            ("gae_lambda", 0.0),
            ("siblings", 1),
            ("entropy_coefficient", 0.0),
        ),
    ),
    Cause("hidden weight of the critic", hidden_weight_of_the_critic, precisions=OFF),
    Cause("first moment", _bad_moment("exp_avg")),
    Cause("second moment", _bad_moment("exp_avg_sq")),
    Cause("negative second moment", negative_second_moment),
    Cause("huge first moment", huge_first_moment),
    Cause("step NaN", _bad_clock(math.nan, ("nan",))),
    Cause("step infinite", _bad_clock(math.inf, ("inf",))),
    Cause("step of -1", _bad_clock(-1.0, ())),
    Cause("step below -1", _bad_clock(-7.0, ())),
    Cause("beta1 of 1", _bad_group("beta1 = 1", betas=(1.0, 0.999))),
    Cause("beta2 of 1", _bad_group("beta2 = 1", betas=(0.9, 1.0))),
    Cause("weight decay", _bad_group("weight_decay = 1e+38", weight_decay=1e38)),
    Cause("no eps", no_eps),
    *USER_CODE,
)
