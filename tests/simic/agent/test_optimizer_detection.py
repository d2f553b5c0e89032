"""Detection of broken optimizer state and of gradients that overflow."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from update_checks import lit, sources

from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import SHARED
from esper.simic.agent import ppo
from esper.simic.agent.drill_hook import update_with_drills
from esper.simic.agent.ppo import PPOAgent, ppo_loss
from esper.simic.agent.rollout import Rollout
from esper.simic.drill import Injection

AgentMaker = Callable[..., PPOAgent]
RolloutMaker = Callable[..., Rollout]


def test_a_negative_second_moment_is_found_before_its_root_breaks_a_weight(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=1)
    rollout = make_rollout(agent)
    assert agent.update(rollout).figures.head_nonfinite == []
    first_of_op = agent.policy.layout.offsets[-1]
    agent.state.moments_of(agent.policy.heads.bias)["exp_avg_sq"][first_of_op] = -10.0
    result = agent.update(rollout)
    assert sources(result) == {("op", "moments")}
    assert lit(result.head_nan_detected) == {"op"}
    (seen,) = result.figures.head_nonfinite
    assert (seen.phase, seen.part) == ("given", "exp_avg_sq of heads.bias")
    assert agent.policy.heads.bias.isfinite().all()
    assert agent.state.unsound() == ["exp_avg_sq of heads.bias"]


@pytest.mark.parametrize(("step", "kind"), [(torch.nan, "nan"), (torch.inf, "+inf"), (-1.0, "nan")])
def test_a_broken_step_counter_of_the_optimizer_is_named(
    make_agent: AgentMaker, make_rollout: RolloutMaker, step: float, kind: str
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=2)
    rollout = make_rollout(agent)
    agent.update(rollout)
    agent.optimizer.state[agent.parameters.flat]["step"].fill_(step)
    result = agent.update(rollout)
    (seen,) = result.figures.head_nonfinite
    assert (seen.head, seen.quantity, seen.kind) == (SHARED, "moments", kind)
    assert (seen.phase, seen.part) == ("given", "step counter")
    assert result.figures.minibatches_skipped == 2
    assert all(parameter.isfinite().all() for parameter in agent.policy.parameters())


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("head", ["op", SHARED])
def test_a_moment_that_is_not_finite_is_found_before_it_does_harm(
    make_agent: AgentMaker, make_rollout: RolloutMaker, name: str, head: str
) -> None:
    agent = make_agent(ppo_epochs=2, minibatches=2)
    rollout = make_rollout(agent)
    agent.update(rollout)
    layer = agent.policy.heads if head == "op" else agent.policy.critic
    agent.state.moments_of(layer.bias)[name][-1] = torch.inf
    result = agent.update(rollout)
    assert sources(result) == {(head, "moments")}
    assert result.figures.minibatches_skipped == 4
    assert agent.state.unsound() == [f"{name} of {'heads' if head == 'op' else 'critic'}.bias"]


def test_gradients_whose_squares_overflow_are_clipped_and_used(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=2, value_coefficient=1e30)
    before = agent.policy.critic.weight.clone()
    result = agent.update(make_rollout(agent))
    assert sources(result) == set()
    assert result.figures.gradient_norm > 1e20
    assert not agent.policy.critic.weight.equal(before)


def test_a_norm_beyond_float32_does_not_make_the_gradient_zero(make_agent: AgentMaker) -> None:
    parameters = make_agent().parameters
    gradient = torch.full_like(parameters.gradient, 3e38)
    norm = parameters.norm(gradient)
    assert norm > torch.finfo(torch.float32).max
    parameters.clip(gradient, norm / 0.5)
    assert parameters.gradient.isfinite().all()
    assert (parameters.gradient > 0).all()


def test_what_was_kept_of_an_update_that_was_undone_is_not_kept_of_the_first(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=2)
    rollout = make_rollout(agent)
    drill = Injection("op", "logits", "inf", 1)
    for _ in range(3):  # back to the very start, where the optimizer had no moments
        result = update_with_drills(agent, rollout, [drill])
        assert result.start is not None
        agent.state.roll_back()
        assert not agent.optimizer.state
    result = update_with_drills(agent, rollout, [drill])
    assert result.start is not None
    assert result.start.agent["optimizer"]["state"] == {}


def test_a_backward_pass_that_broke_for_all_is_shared_also_with_an_inactive_head(
    make_agent: AgentMaker, make_rollout: RolloutMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=1)
    rollout = make_rollout(agent)
    rollout.active[..., HEAD_NAMES.index("tempo")] = False

    def broken(*arguments: Any) -> Any:
        terms = ppo_loss(*arguments)
        loss = terms.loss + 0
        loss.register_hook(lambda gradient: gradient * torch.nan)
        return replace(terms, loss=loss)

    monkeypatch.setattr(ppo, "ppo_loss", broken)
    assert sources(agent.update(rollout)) == {(SHARED, "gradient")}


def test_heads_whose_gradients_broke_each_by_itself_are_named(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=1)
    agent.policy.heads.bias.register_hook(lambda gradient: gradient * torch.nan)
    rollout = make_rollout(agent, hosts=64)
    assert {quantity for _, quantity in sources(agent.update(rollout))} == {"gradient"}
    rollout.active[..., :-1] = False
    # Nothing is sent to an inactive head, but 0 times NaN is NaN: the weights are what broke.
    assert lit(agent.update(rollout).head_nan_detected) == set(HEAD_NAMES)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["policy_loss", "value_loss", "entropy_loss", "loss"])
def test_a_broken_loss_alone_keeps_its_minibatch_from_making_a_step(
    name: str,
    value: float,
    make_agent: AgentMaker,
    make_rollout: RolloutMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=1)
    before = agent.parameters.flat.detach().clone()

    def broken(*arguments: Any) -> Any:
        terms = ppo_loss(*arguments)
        return replace(terms, **{name: getattr(terms, name) + value})

    monkeypatch.setattr(ppo, "ppo_loss", broken)
    result = agent.update(make_rollout(agent))
    assert sources(result) == {(SHARED, name)}
    assert result.figures.minibatches_skipped == 1
    assert agent.parameters.flat.equal(before)
