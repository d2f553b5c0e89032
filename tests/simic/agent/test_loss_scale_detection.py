"""Detection under fp16: an overflow of the loss scale is no fault, unless it repeats."""

from collections.abc import Callable

import pytest
import torch
from update_checks import sources, with_parts

from esper.leyline.telemetry import SHARED
from esper.simic.agent.loss_scale import GROWTH_INTERVAL, LARGEST_SCALE
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout

AgentMaker = Callable[..., PPOAgent]
RolloutMaker = Callable[..., Rollout]


def test_fp16_overflow_of_the_loss_scale_is_counted_apart(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(amp="fp16", ppo_epochs=1, minibatches=2)
    agent.loss_scale.scale.fill_(2.0**126)
    result = agent.update(make_rollout(agent))
    assert result.figures.head_nonfinite == []
    assert result.figures.minibatches_rescaled == 2
    assert result.figures.minibatches_skipped == 0
    assert result.figures.loss_scale == 2.0**124


def test_an_overflow_that_repeats_in_too_many_minibatches_is_an_alarm(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(amp="fp16", ppo_epochs=1, minibatches=4)
    rollout = make_rollout(agent)
    agent.loss_scale.scale.fill_(2.0**126)
    results = [agent.update(rollout) for _ in range(5)]
    assert [result.figures.minibatches_rescaled for result in results] == [4, 4, 4, 4, 0]
    assert [sources(result) for result in results[:4]] == [set()] * 4
    assert {quantity for _, quantity in sources(results[4])} == {"gradient"}
    assert results[4].figures.minibatches_skipped == 4
    assert results[4].figures.loss_scale == 2.0**106  # it keeps falling: it is still too high

    agent.loss_scale.scale.fill_(2.0**10)
    assert sources(agent.update(rollout)) == set()  # a good update, and it starts over
    agent.loss_scale.scale.fill_(2.0**126)
    assert sources(agent.update(rollout)) == set()


def test_a_loss_scale_that_settles_over_many_short_updates_raises_no_alarm(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(amp="fp16", ppo_epochs=1, minibatches=1)
    rollout = make_rollout(agent)
    rollout = with_parts(rollout, rewards=rollout.rewards * 1e4)
    results = [agent.update(rollout) for _ in range(12)]
    assert sum(result.figures.minibatches_rescaled for result in results) > 3
    assert [result.figures.head_nonfinite for result in results] == [[]] * 12


def test_how_often_the_loss_scale_overflowed_is_kept_through_a_resume(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(amp="fp16", ppo_epochs=1, minibatches=4)
    rollout = make_rollout(agent)
    agent.loss_scale.scale.fill_(2.0**126)
    for _ in range(4):
        agent.update(rollout)
    resumed = make_agent(amp="fp16", ppo_epochs=1, minibatches=4)
    resumed.load_state_dict(agent.state_dict())
    assert {quantity for _, quantity in sources(resumed.update(rollout))} == {"gradient"}


@pytest.mark.parametrize("scale", [1.0, 2.0**16])
def test_a_gradient_that_breaks_without_the_loss_scale_is_not_an_overflow(
    make_agent: AgentMaker, make_rollout: RolloutMaker, scale: float
) -> None:
    agent = make_agent(amp="fp16", ppo_epochs=1, minibatches=2)
    agent.loss_scale.scale.fill_(scale)
    agent.policy.heads.bias.register_hook(lambda gradient: gradient * torch.nan)
    result = agent.update(make_rollout(agent))
    assert {quantity for _, quantity in sources(result)} == {"gradient"}
    assert result.figures.minibatches_rescaled == 0
    assert result.figures.minibatches_skipped == 2
    assert result.figures.loss_scale == scale  # it is not to blame


def test_the_loss_scale_never_falls_below_one(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    # At a scale of 1 the scaled gradient is the gradient; only the one that is learnt from breaks.
    agent = make_agent(amp="fp16", ppo_epochs=1, minibatches=1)
    rollout = make_rollout(agent)
    agent.loss_scale.scale.fill_(1.0)
    unscale = agent.loss_scale.unscale_

    def broken(gradient: torch.Tensor) -> None:
        unscale(gradient)
        gradient[0] = torch.inf

    agent.loss_scale.unscale_ = broken
    result = agent.update(rollout)
    assert sources(result) == {(SHARED, "gradient")}
    assert (result.figures.loss_scale, result.figures.minibatches_rescaled) == (1.0, 0)


def test_the_loss_scale_stops_growing(make_agent: AgentMaker) -> None:
    scale = make_agent(amp="fp16").loss_scale
    scale.scale.fill_(2.0**23)
    good = torch.tensor(False)
    for _ in range(3 * GROWTH_INTERVAL):
        scale.update(good, good)
    assert scale.scale.item() == LARGEST_SCALE
