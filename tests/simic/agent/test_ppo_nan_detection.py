"""Detection: what went non-finite in an update, in which head, and what was done about it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from update_checks import emitted, lit, passes, sources, with_parts

from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import SHARED, UpdateFigures
from esper.simic.agent.drill_hook import update_with_drills
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.drill import Injection

AgentMaker = Callable[..., PPOAgent]
RolloutMaker = Callable[..., Rollout]


def snapshot_of(agent: PPOAgent) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in agent.policy.parameters()]


@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize("kind", ["inf", "-inf"])
@pytest.mark.parametrize("quantity", ["logits", "log_prob"])
def test_head_inf_detection_logic(
    make_agent: AgentMaker, make_rollout: RolloutMaker, head: str, kind: str, quantity: str
) -> None:
    """An Inf in one head lights exactly that head, in the update and in its event."""
    agent = make_agent()
    # With that many hosts every head is active somewhere in the first minibatch.
    rollout = make_rollout(agent, hosts=64)
    result = update_with_drills(agent, rollout, [Injection(head, quantity, kind, 1)])
    payload = emitted(result)

    assert lit(payload.head_inf_detected) == {head}
    assert lit(payload.head_nan_detected) <= {head}
    first = payload.head_nonfinite[0]
    assert (first.head, first.quantity) == (head, quantity)
    assert first.kind == ("+inf" if kind == "inf" else kind)
    assert (first.epoch, first.minibatch, first.count) == (1, 1, 1)
    assert {seen.head for seen in payload.head_nonfinite} == {head}
    assert payload.minibatches_skipped == 1
    assert payload.minibatches == 16


@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize("quantity", ["logits", "log_prob"])
def test_nan_lights_the_nan_light_of_its_head_alone(
    make_agent: AgentMaker, make_rollout: RolloutMaker, head: str, quantity: str
) -> None:
    agent = make_agent()
    rollout = make_rollout(agent, hosts=64)
    result = update_with_drills(agent, rollout, [Injection(head, quantity, "nan", 1)])
    assert lit(result.head_nan_detected) == {head}
    assert lit(result.head_inf_detected) == set()


def test_a_clean_update_lights_nothing(make_agent: AgentMaker, make_rollout: RolloutMaker) -> None:
    agent = make_agent()
    payload = emitted(agent.update(make_rollout(agent)))
    assert lit(payload.head_inf_detected) == lit(payload.head_nan_detected) == set()
    assert payload.head_nonfinite == []
    assert payload.minibatches_skipped == 0


@pytest.mark.parametrize("kind", ["inf", "nan", "-inf"])
def test_an_update_whose_every_minibatch_was_bad_still_reports(
    make_agent: AgentMaker, make_rollout: RolloutMaker, kind: str
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=1)
    before = snapshot_of(agent)
    payload = emitted(
        update_with_drills(agent, make_rollout(agent), [Injection("op", "logits", kind, 1)])
    )
    detected = payload.head_nan_detected if kind == "nan" else payload.head_inf_detected
    assert lit(detected) == {"op"}
    assert payload.minibatches_skipped == payload.minibatches == 1
    for old, new in zip(before, agent.policy.parameters(), strict=True):
        assert torch.equal(old, new)
    assert all(not state["step"] for state in agent.optimizer.state.values())


def test_only_the_bad_minibatch_is_skipped_and_training_continues(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=2, minibatches=2)
    before = snapshot_of(agent)
    rollout = make_rollout(agent)
    update_with_drills(agent, rollout, [Injection("tempo", "logits", "nan", 1)])
    assert {state["step"].item() for state in agent.optimizer.state.values()} == {3.0}
    assert any(
        not torch.equal(old, new)
        for old, new in zip(before, agent.policy.parameters(), strict=True)
    )
    assert all(parameter.isfinite().all() for parameter in agent.policy.parameters())
    assert agent.update(rollout).figures.head_nonfinite == []


#: Figures of an update that are taken over minibatches.
OVER_MINIBATCHES = (
    "policy_loss", "value_loss", "entropy", "approximate_kl", "clip_fraction", "gradient_norm",
)  # fmt: skip


@pytest.mark.parametrize("quantity", ["logits", "log_prob"])
@pytest.mark.parametrize("kind", ["nan", "inf", "-inf"])
def test_a_minibatch_that_was_left_out_is_in_no_figure(
    make_agent: AgentMaker, make_rollout: RolloutMaker, quantity: str, kind: str
) -> None:
    agent = make_agent()
    result = update_with_drills(agent, make_rollout(agent), [Injection("op", quantity, kind, 1)])
    assert result.figures.minibatches_skipped == 1
    for name in OVER_MINIBATCHES:
        assert math.isfinite(getattr(result.figures, name)), name
    for figure in HEAD_FIGURES:
        by_head = figure.of(result.figures)
        assert "op" in by_head
        assert all(map(math.isfinite, by_head.values())), figure.field


def test_an_update_of_which_every_minibatch_was_left_out_has_no_figures(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=1)
    result = update_with_drills(agent, make_rollout(agent), [Injection("op", "logits", "nan", 1)])
    assert (result.figures.minibatches, result.figures.minibatches_skipped) == (1, 1)
    for name in OVER_MINIBATCHES:
        assert math.isnan(getattr(result.figures, name)), name
    for figure in HEAD_FIGURES:
        assert figure.of(result.figures) == {}, figure.field
    assert result.head_nan_detected["op"]


def test_a_minibatch_after_an_early_stop_is_in_no_figure(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(learning_rate=0.05, target_kl=1e-4, ppo_epochs=5, minibatches=2)
    free = make_agent(learning_rate=0.05, target_kl=0.0, ppo_epochs=5, minibatches=2)
    rollout = make_rollout(agent)
    make_rollout(free)  # so that both have drawn as many random numbers
    stopped, whole = agent.update(rollout), free.update(rollout)
    assert stopped.figures.minibatches_stopped >= 7
    assert max(stopped.figures.head_ratio_max.values()) < max(whole.figures.head_ratio_max.values())
    assert min(stopped.figures.head_log_prob_min.values()) > min(
        whole.figures.head_log_prob_min.values()
    )


def test_a_drill_of_a_head_that_was_never_active_waits(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    rollout.active[..., HEAD_NAMES.index("alpha_curve")] = False
    drill = Injection("alpha_curve", "log_prob", "inf", 1)
    result = update_with_drills(agent, rollout, [drill])
    assert result.not_planted == (drill,)
    assert result.figures.head_nonfinite == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_shared_failure_is_shared_and_not_eight_broken_heads(
    make_agent: AgentMaker, make_rollout: RolloutMaker, value: float
) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    observations = rollout.observations.clone()
    observations[2, 3, 0] = value
    result = agent.update(with_parts(rollout, observations=observations))
    assert sources(result) == {(SHARED, "observations")}
    assert lit(result.head_inf_detected) == lit(result.head_nan_detected) == set()
    assert (
        result.figures.minibatches_skipped == 4
    )  # the host's minibatch, once in each of four epochs


def test_a_broken_trunk_is_shared(make_agent: AgentMaker, make_rollout: RolloutMaker) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    with torch.no_grad():
        agent.policy.feature_norm.weight[0] = torch.nan
    result = agent.update(rollout)
    assert sources(result) == {(SHARED, "parameters")}
    (seen,) = result.figures.head_nonfinite
    assert (seen.phase, seen.part) == ("given", "feature_norm.weight")
    assert result.figures.minibatches_skipped == result.figures.minibatches


def test_a_non_finite_reward_is_found_in_the_advantages(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    rewards = rollout.rewards.clone()
    rewards[-1, 0] = torch.inf
    result = agent.update(with_parts(rollout, rewards=rewards))
    assert sources(result) == {(SHARED, "advantages")}


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_a_broken_weight_of_a_head_is_that_heads(
    make_agent: AgentMaker, make_rollout: RolloutMaker, head: str
) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    layout = agent.policy.layout
    with torch.no_grad():
        row = layout.offsets[layout.names.index(head)]
        agent.policy.heads.weight[row] = torch.nan
    result = agent.update(rollout)
    assert lit(result.head_nan_detected) == {head}


def test_minus_infinity_on_a_forbidden_choice_is_legal_and_on_the_one_taken_is_not(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=1)
    rollout = make_rollout(agent)
    masks = rollout.masks.clone()
    blueprint = agent.policy.layout.offsets[HEAD_NAMES.index("blueprint")]
    rollout.actions[..., HEAD_NAMES.index("blueprint")] = 0
    masks[..., blueprint + 1] = False
    with torch.no_grad():
        agent.policy.heads.bias[blueprint + 1] = -torch.inf
    assert agent.update(with_parts(rollout, masks=masks)).figures.head_nonfinite == []

    rollout.actions[..., HEAD_NAMES.index("blueprint")] = 1
    result = agent.update(with_parts(rollout, masks=masks))
    assert lit(result.head_inf_detected) == {"blueprint"}


@pytest.mark.parametrize("name", ["lstm.bias_ih_l0", "feature_norm.bias"])
def test_an_infinite_weight_that_saturates_is_reported_once(
    make_agent: AgentMaker, make_rollout: RolloutMaker, name: str
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=2)
    rollout = make_rollout(agent)
    with torch.no_grad():
        agent.policy.get_parameter(name)[0] = torch.inf
    result = agent.update(rollout)
    (seen,) = result.figures.head_nonfinite
    assert (seen.head, seen.quantity, seen.kind) == (SHARED, "parameters", "+inf")
    assert (seen.phase, seen.part) == ("given", name)
    assert result.figures.minibatches_skipped == 0
    for _ in range(2):
        with passes(agent) as count:
            assert agent.update(rollout).figures.head_nonfinite == []
        assert len(count) == 1
    # Other failures in the same update are found as usual.
    result = update_with_drills(agent, rollout, [Injection("op", "logits", "nan", 1)])
    assert {head for head, _ in sources(result)} == {"op"}


def test_raw_minus_infinity_on_forbidden_choices_costs_no_second_pass(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=2)
    rollout = make_rollout(agent)
    run = agent._run

    def masked(batch: Any) -> Any:
        output = run(batch)
        illegal = agent.policy.table.joint(batch.illegal)
        return output._replace(logits=output.logits.masked_fill(illegal, -torch.inf))

    agent._run = masked
    with passes(agent) as count:
        assert agent.update(rollout).figures.head_nonfinite == []
    assert len(count) == 1


def test_a_loss_that_overflows_as_a_whole_is_shared_however_few_heads_took_part(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=1, value_coefficient=3e38)
    rollout = make_rollout(agent)
    rollout.active[...] = False
    rollout.active[..., HEAD_NAMES.index("op")] = True
    rollout.rewards[...] = 10.0
    assert sources(agent.update(rollout)) == {(SHARED, "loss")}


@pytest.mark.parametrize("layer", ["features", "critic"])
def test_a_weight_that_was_nan_from_the_start_is_not_called_an_advantage(
    make_agent: AgentMaker, make_rollout: RolloutMaker, layer: str
) -> None:
    agent = make_agent(ppo_epochs=1, minibatches=2)
    with torch.no_grad():
        getattr(agent.policy, layer).weight[0, 0] = torch.nan
    assert sources(agent.update(make_rollout(agent))) == {(SHARED, "parameters")}


def test_an_event_carries_every_figure(make_agent: AgentMaker, make_rollout: RolloutMaker) -> None:
    agent = make_agent()
    result = agent.update(make_rollout(agent))
    payload: Any = emitted(result, update=7)
    for name in UpdateFigures.__struct_fields__:
        assert getattr(payload, name) == getattr(result.figures, name), name
    assert payload.update == 7
