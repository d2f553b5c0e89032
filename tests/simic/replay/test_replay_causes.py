"""Replay names the origin of a non-finite value: operation, line and operand."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from update_checks import with_parts

from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import SHARED
from esper.simic.agent import drill_hook, ppo
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.drill import Injection
from esper.simic.replay.replay_report import chain_lines, unconnected
from esper.simic.replay.replaying import Replay, replay
from esper.simic.replay.verdict import REPRODUCED
from esper.tamiyo import categorical
from esper.tamiyo import policy as policy_module
from esper.tracing.operations import Poison, Scalar
from esper.tracing.origin import Origin, origin_in_poison

#: An update of two epochs with two minibatches each.
SMALL: dict[str, Any] = {"ppo_epochs": 2, "minibatches": 2}


class Update(NamedTuple):
    """A small update: its agent, its rollout, and a function that replays it.

    The function takes drills, and parts of the rollout to replace.
    """

    agent: PPOAgent
    rollout: Rollout
    replayed_with: Callable[..., Replay]


UpdateMaker = Callable[..., Update]


@pytest.fixture
def make_update(make_agent: Any, make_rollout: Any, make_capsule: Any) -> UpdateMaker:
    """Return a function that makes a small update with other settings of the agent."""

    def make(**settings: Any) -> Update:
        agent = make_agent(**SMALL, **settings)
        rollout = make_rollout(agent)

        def replayed_with(*drills: Injection, **parts: torch.Tensor) -> Replay:
            given = with_parts(rollout, **parts)
            return replay(make_capsule(agent, given, *drills))

        return Update(agent, rollout, replayed_with)

    return make


def line_of(module: ModuleType, code: str) -> tuple[str, int]:
    """Return file and number of the only line of a module that begins with `code`."""
    numbers = [
        number
        for number, line in enumerate(inspect.getsource(module).splitlines(), start=1)
        if line.strip().startswith(code)
    ]
    assert len(numbers) == 1, f"{code!r} stands on lines {numbers}"
    assert module.__file__ is not None
    return module.__file__, numbers[0]


def origin_of(replayed: Replay) -> Origin:
    assert replayed.verdict == REPRODUCED, replayed.differences
    assert replayed.origin is not None
    return replayed.origin


def at(origin: Origin) -> tuple[str, int]:
    place = origin.operation.place
    return str(Path(place.file)), place.line


def first(replayed: Replay) -> tuple[str, str, str]:
    one = replayed.seen[0]
    return one.head, one.quantity, one.kind


def rows_of(agent: PPOAgent, head: str) -> slice:
    layout = agent.policy.layout
    start = layout.offsets[layout.names.index(head)]
    return slice(start, start + layout.sizes[layout.names.index(head)])


@pytest.mark.parametrize("head", ["op", "tempo"])
def test_a_huge_finite_weight_overflows_in_the_product_of_its_head(
    make_update: UpdateMaker, head: str
) -> None:
    agent, _rollout, replayed_with = make_update()
    with torch.no_grad():
        agent.policy.heads.weight[rows_of(agent, head).start] = 3e38
        agent.policy.lstm.bias_ih_l0[:] = 5.0  # a trunk whose sum is well above 1
    replayed = replayed_with()
    origin = origin_of(replayed)
    assert first(replayed) == (head, "logits", "+inf")
    assert origin.operation.name == "aten.addmm.default"
    assert origin.operation.module == "policy.heads"
    assert at(origin) == line_of(policy_module, "logits = self.heads(trunk)")
    assert origin.operation.phase == "preparation"
    assert origin.cause.startswith("matmul overflow: factors reach 3e+38")
    assert [part.plus_inf > 0 for part in origin.operation.outputs] == [True]
    assert not any(part.kinds for part in origin.operation.inputs)


@pytest.mark.parametrize("kind", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("quantity", ["logits", "log_prob"])
def test_an_infinite_logit_of_a_drill_is_named_as_planted(
    make_update: UpdateMaker, kind: str, quantity: str
) -> None:
    _agent, _rollout, replayed_with = make_update()
    drill = Injection("op", quantity, kind, 37)
    replayed = replayed_with(drill)
    origin = origin_of(replayed)
    assert first(replayed)[:2] == ("op", quantity)
    code = {
        "logits": "planted[0, 0, column] = DRILL_VALUES[injection.kind]",
        "log_prob": "planted[step, host, head] = torch.as_tensor(DRILL_VALUES[injection.kind])",
    }
    assert at(origin) == line_of(drill_hook, code[quantity])
    assert origin.cause == f"planted by a drill: op.{quantity}:{kind}@37"


def test_of_two_faults_the_one_of_the_head_that_lit_is_named(make_update: UpdateMaker) -> None:
    _agent, _rollout, replayed_with = make_update()
    drills = Injection("op", "logits", "inf", 37), Injection("slot", "logits", "nan", 37)
    replayed = replayed_with(*drills)
    origin = origin_of(replayed)
    assert first(replayed) == ("slot", "logits", "nan")
    assert origin.cause == "planted by a drill: slot.logits:nan@37"
    assert origin.operation.outputs[0].nan == 1
    assert all(step.outputs[0].nan for step in origin.chain)
    assert "the origin is that of slot, which lit first; op lit, too" in replayed.remarks


def test_a_number_among_the_arguments_is_named(make_update: UpdateMaker) -> None:
    _agent, _rollout, replayed_with = make_update(learning_rate=3e38)
    replayed = replayed_with()
    origin = origin_of(replayed)
    assert origin.operation.name == "aten._fused_adam_.default"
    assert origin.cause.startswith(
        "overflow in the optimizer's step: its input reaches lr = 3e+38 (learning rate)"
    )
    assert Scalar("lr", 3e38, "setting learning rate") in origin.operation.scalars


def test_an_infinite_bias_is_a_poisoned_weight_and_named_with_its_index(
    make_update: UpdateMaker,
) -> None:
    agent, _rollout, replayed_with = make_update()
    row = rows_of(agent, "blueprint").start + 1
    with torch.no_grad():
        agent.policy.heads.bias[row] = torch.inf
    replayed = replayed_with()
    origin = origin_of(replayed)
    assert first(replayed) == ("blueprint", "parameters", "+inf")
    assert origin.cause == f"poisoned weight: heads.bias[{row}] is +inf"
    assert origin.operation.name == "aten.addmm.default"
    assert at(origin) == line_of(policy_module, "logits = self.heads(trunk)")
    assert [str(poison) for poison in replayed.poisons] == [f"weight heads.bias[{row}]"]


def test_a_choice_of_probability_zero_that_was_taken(make_update: UpdateMaker) -> None:
    agent, rollout, replayed_with = make_update()
    masks = rollout.masks.clone()
    taken = rows_of(agent, "op").start + int(rollout.actions[3, 2, HEAD_NAMES.index("op")])
    masks[3, 2, taken] = False
    replayed = replayed_with(masks=masks)
    origin = origin_of(replayed)
    assert first(replayed) == ("op", "old_log_prob", "-inf")
    assert origin.operation.name == "aten.gather.default"
    assert at(origin) == line_of(categorical, "return log_probs.gather(")
    assert origin.cause.startswith("log of 0: the choice taken has probability zero")


def test_logits_that_lie_too_far_apart(make_update: UpdateMaker) -> None:
    """Finite logits, a finite mask, and yet the log of a probability of 0."""
    agent, rollout, replayed_with = make_update()
    head = HEAD_NAMES.index("op")
    rollout.actions[..., head] = 0
    rows = rows_of(agent, "op")
    with torch.no_grad():
        agent.policy.heads.bias[rows.start] = -3e38
        agent.policy.heads.bias[rows.start + 1] = 3e38
    replayed = replayed_with()
    origin = origin_of(replayed)
    assert first(replayed) == ("op", "old_log_prob", "-inf")
    assert origin.operation.name == "aten._log_softmax.default"
    assert at(origin) == line_of(categorical, "return log_softmax(masked, dim=0)")
    assert origin.cause.startswith("log of 0: logits")


def test_a_nan_from_the_environment(make_update: UpdateMaker) -> None:
    _agent, rollout, replayed_with = make_update()
    observations = rollout.observations.clone()
    observations[2, 3, 5] = torch.nan
    replayed = replayed_with(observations=observations)
    assert first(replayed) == (SHARED, "observations", "nan")
    assert origin_of(replayed).cause == "poisoned input: observations[2, 3, 5] is nan"


def test_a_nan_advantage_comes_from_a_reward(make_update: UpdateMaker) -> None:
    _agent, rollout, replayed_with = make_update()
    rewards = rollout.rewards.clone()
    rewards[-1, 4] = torch.nan
    replayed = replayed_with(rewards=rewards)
    origin = origin_of(replayed)
    assert first(replayed) == (SHARED, "advantages", "nan")
    assert origin.cause == "poisoned input: rewards[5, 4] is nan"
    assert origin.operation.phase == "preparation"
    assert at(origin) == line_of(ppo, "deltas = rollout.rewards + future")


def test_a_huge_finite_reward_overflows_in_the_value_loss(make_update: UpdateMaker) -> None:
    _agent, rollout, replayed_with = make_update()
    rewards = rollout.rewards.clone()
    rewards[-1, 4] = 1e25
    replayed = replayed_with(rewards=rewards)
    origin = origin_of(replayed)
    assert at(origin)[0] == ppo.__file__
    assert replayed.seen[0].head == SHARED


def test_an_exploding_ratio(make_update: UpdateMaker) -> None:
    """A choice that was all but impossible becomes likely by one step that is far too long."""
    agent, rollout, replayed_with = make_update(
        learning_rate=200.0, target_kl=0.0, gamma=0.0, gae_lambda=0.0
    )
    op = rollout.actions[..., HEAD_NAMES.index("op")]
    op[::2], op[1::2] = 0, 1
    rewards = torch.where(op == 0, 1.0, -1.0)
    with torch.no_grad():
        agent.policy.heads.bias[rows_of(agent, "op").start] = -150.0
    replayed = replayed_with(rewards=rewards)
    origin = origin_of(replayed)
    assert first(replayed) == ("op", "ratio", "+inf")
    assert origin.operation.name == "aten.exp.default"
    # The ratio of a head is displayed only; the joint one of the same step is learnt from.
    assert at(origin) == line_of(ppo, "joint_ratio = log_ratio.exp()")
    assert origin.cause.startswith("overflow in exp: its argument reaches")
    assert origin.reached == "the loss"


def test_an_exploding_lstm_is_shared(make_update: UpdateMaker) -> None:
    agent, _rollout, replayed_with = make_update()
    with torch.no_grad():
        agent.policy.lstm.weight_ih_l0.fill_(3e38)
        agent.policy.lstm.weight_hh_l0.fill_(-3e38)
    replayed = replayed_with()
    origin = origin_of(replayed)
    assert replayed.seen[0].head == SHARED
    assert {one.head for one in replayed.seen} == {SHARED}
    assert origin.operation.module == "policy.lstm"
    assert at(origin) == line_of(policy_module, "trunk, state = self.lstm(")
    assert origin.cause.startswith("matmul overflow")


@pytest.mark.parametrize("factor", [1e3, 1e6])
def test_an_overflow_in_half_precision(make_update: UpdateMaker, factor: float) -> None:
    """In float32 there is nothing wrong with these weights."""
    agent, _rollout, replayed_with = make_update(amp="fp16")
    with torch.no_grad():
        agent.policy.features.weight.mul_(0).add_(6e4 if factor == 1e3 else 1e6)
    replayed = replayed_with()
    origin = origin_of(replayed)
    assert {one.head for one in replayed.seen} == {SHARED}
    assert origin.operation.module == "policy.features"
    if factor == 1e3:
        assert origin.operation.name == "aten.addmm.default"
        assert origin.cause.startswith("matmul overflow")
    else:
        assert origin.operation.name == "aten._to_copy.default"
        assert origin.cause.startswith("overflow in a cast to float16: values reach 1e+06")
    assert origin.cause.endswith("the largest float16 is 6.55e+04")


def test_an_inactive_head_stays_dark_when_another_lights(make_update: UpdateMaker) -> None:
    """A forbidden choice in a head that does not count is nothing, and is not taken for a cause."""
    agent, rollout, replayed_with = make_update()
    masks = rollout.masks.clone()
    curve = HEAD_NAMES.index("alpha_curve")
    rollout.active[..., curve] = False
    rollout.actions[..., curve] = 0
    masks[..., rows_of(agent, "alpha_curve").start] = False
    rollout = with_parts(rollout, masks=masks)
    assert agent.update(rollout).figures.head_nonfinite == []
    taken = rows_of(agent, "op").start + int(rollout.actions[3, 2, HEAD_NAMES.index("op")])
    masks[3, 2, taken] = False
    replayed = replayed_with(masks=masks)
    assert {one.head for one in replayed.seen} == {"op"}
    assert origin_of(replayed).operation.base == "gather"


def test_a_nan_that_only_the_backward_pass_has(make_update: UpdateMaker) -> None:
    """A unit of the trunk that is 0 hides a huge weight of the critic, but not its derivative."""
    agent, rollout, replayed_with = make_update()
    lstm = agent.policy.lstm
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.unflatten(0, (4, -1))[:, 0] = 0.0  # all gates of the unit
        agent.policy.critic.weight[0, 0] = 3e38
    rewards = 1e5 * rollout.rewards
    replayed = replayed_with(rewards=rewards)
    origin = origin_of(replayed)
    assert first(replayed)[:2] == (SHARED, "gradient")
    assert origin.operation.phase == "backward"
    assert origin.operation.name == "aten.mm.default"
    assert origin.operation.autograd == "AddmmBackward0"
    assert origin.operation.module == "policy.critic"
    assert at(origin) == line_of(policy_module, "values = self.critic(trunk).squeeze(-1)")
    assert origin.cause.startswith("matmul overflow")
    assert origin.cause.endswith("in the derivative of Addmm")


def test_a_corrupted_moment_of_the_optimizer(make_update: UpdateMaker) -> None:
    agent, rollout, replayed_with = make_update()
    agent.update(rollout)
    row = rows_of(agent, "style").start
    agent.state.moments_of(agent.policy.heads.weight)["exp_avg"][row, 3] = torch.nan
    replayed = replayed_with()
    origin = origin_of(replayed)
    assert first(replayed) == ("style", "moments", "nan")
    assert origin.operation.name == "aten._fused_adam_.default"
    assert origin.operation.phase == "step"
    assert at(origin) == line_of(ppo, "self.optimizer.step()")
    assert origin.cause == (f"corrupted optimizer state: exp_avg of heads.weight[{row}, 3] is nan")


def test_a_negative_second_moment_is_found_though_all_was_finite(make_update: UpdateMaker) -> None:
    agent, rollout, replayed_with = make_update()
    agent.update(rollout)
    agent.state.moments_of(agent.policy.critic.bias)["exp_avg_sq"][0] = -10.0
    replayed = replayed_with()
    origin = origin_of(replayed)
    assert first(replayed)[0] == SHARED
    assert origin.operation.name == "aten._fused_adam_.default"
    assert origin.cause == "corrupted optimizer state: exp_avg_sq of critic.bias[0] is negative"


def test_of_two_broken_moments_that_of_the_head_that_lit_is_named(make_update: UpdateMaker) -> None:
    """All moments lie in one tensor, and the optimizer takes it whole."""
    agent, rollout, replayed_with = make_update()
    agent.update(rollout)
    slot, op = rows_of(agent, "slot").start, rows_of(agent, "op").start
    agent.state.moments_of(agent.policy.heads.bias)["exp_avg"][slot] = torch.nan
    agent.state.moments_of(agent.policy.heads.weight)["exp_avg"][op, 3] = torch.nan
    replayed = replayed_with()
    assert first(replayed) == ("slot", "moments", "nan")
    cause = origin_of(replayed).cause
    assert cause == f"corrupted optimizer state: exp_avg of heads.bias[{slot}] is nan"


def test_a_fault_of_the_derivative_in_closed_form_has_its_own_line(
    make_update: UpdateMaker,
) -> None:
    agent, _rollout, replayed_with = make_update(entropy_coefficient=1e37)
    with torch.no_grad():
        agent.policy.heads.bias[rows_of(agent, "op").start] = -1e4
    replayed = replayed_with()
    origin = origin_of(replayed)
    assert first(replayed)[0] == "op"
    assert origin.operation.autograd == "_LikelihoodsBackward"
    assert at(origin) == line_of(categorical, "gradient = finite.add(entropies)")


def test_a_nan_loss_scale_is_named_in_the_report(make_update: UpdateMaker) -> None:
    agent, _rollout, replayed_with = make_update(amp="fp16")
    agent.loss_scale.scale.fill_(torch.nan)
    replayed = replayed_with()
    origin = origin_of(replayed)
    assert first(replayed) == (SHARED, "loss_scale", "nan")
    assert origin.cause == "poisoned input: loss scale is nan"
    assert origin.operation.base == "mul"
    assert Poison("loss scale", (), "nan") in replayed.poisons


def test_an_origin_on_the_path_to_the_loss_reaches_the_loss(make_update: UpdateMaker) -> None:
    agent, rollout, replayed_with = make_update(
        learning_rate=200.0, target_kl=0.0, gamma=0.0, gae_lambda=0.0
    )
    op = rollout.actions[..., HEAD_NAMES.index("op")]
    op[::2], op[1::2] = 0, 1
    with torch.no_grad():
        agent.policy.heads.bias[rows_of(agent, "op").start] = -150.0
    rewards = torch.where(op == 0, 1.0, -1.0)
    replayed = replayed_with(rewards=rewards)
    line = chain_lines(replayed, origin_of(replayed))[-1]
    assert line == "reached the loss; seen in op ratio as Inf"


def test_poison_that_no_operation_used_is_still_reported(make_update: UpdateMaker) -> None:
    agent, _rollout, replayed_with = make_update()
    with torch.no_grad():
        agent.policy.heads.bias[3] = torch.nan
    replayed = replace(replayed_with(), origin=None)
    assert unconnected(replayed).endswith("inputs of the update: weight heads.bias[3] = nan.")
    assert origin_in_poison(replayed.seen[0], replayed.poisons, lambda _: None) is None
