"""Detection: what went non-finite in an update, in which head, and what was done about it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import SHARED, Payload, PPOUpdatePayload
from esper.simic.agent.figures import UpdateResult
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.drill import Injection
from esper.simic.telemetry.emitters import emit_ppo_update_event

AgentMaker = Callable[..., PPOAgent]
RolloutMaker = Callable[..., Rollout]


class Collector:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.durable: list[Payload] = []

    def emit(self, payload: Payload, *, durable: bool = False) -> None:
        assert durable, "an update must be committed before the process goes on"
        self.durable.append(payload)


def emitted(result: UpdateResult, update: int = 1) -> PPOUpdatePayload:
    writer = Collector()
    payload = emit_ppo_update_event(
        writer,
        result,
        update=update,
        episodes_done=8,
        rollout_seconds=1.0,
        update_seconds=0.1,
        samples_per_second=1000.0,
    )
    assert writer.durable == [payload]
    return payload


def lit(detected: dict[str, bool]) -> set[str]:
    assert set(detected) == set(HEAD_NAMES)
    return {head for head, on in detected.items() if on}


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
    result = agent.update(rollout, [Injection(head, quantity, kind, 1)])
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
    result = agent.update(make_rollout(agent), [Injection(head, quantity, "nan", 1)])
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
    payload = emitted(agent.update(make_rollout(agent), [Injection("op", "logits", kind, 1)]))
    detected = payload.head_nan_detected if kind == "nan" else payload.head_inf_detected
    assert lit(detected) == {"op"}
    assert payload.minibatches_skipped == payload.minibatches == 1
    for old, new in zip(before, agent.policy.parameters(), strict=True):
        assert torch.equal(old, new)
    assert all(not state["step"] for state in agent.optimizer.state.values())


def test_only_the_bad_minibatch_is_skipped_and_training_goes_on(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(ppo_epochs=2, minibatches=2)
    before = snapshot_of(agent)
    rollout = make_rollout(agent)
    agent.update(rollout, [Injection("tempo", "logits", "nan", 1)])
    assert {state["step"].item() for state in agent.optimizer.state.values()} == {3.0}
    assert any(
        not torch.equal(old, new)
        for old, new in zip(before, agent.policy.parameters(), strict=True)
    )
    assert all(parameter.isfinite().all() for parameter in agent.policy.parameters())
    assert agent.update(rollout).head_nonfinite == []


def test_a_skipped_minibatch_leaves_no_trace_in_the_means(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent()
    result = agent.update(make_rollout(agent), [Injection("op", "logits", "nan", 1)])
    for value in (result.policy_loss, result.entropy, result.gradient_norm, result.approximate_kl):
        assert torch.tensor(value).isfinite()
    # Extremes are over everything: what was NaN is shown as NaN.
    assert torch.tensor(result.head_ratio_max["op"]).isnan()
    assert result.head_ratio_max["tempo"] >= 1.0


def test_a_drill_of_a_head_that_was_never_active_waits(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    rollout.active[..., HEAD_NAMES.index("alpha_curve")] = False
    drill = Injection("alpha_curve", "log_prob", "inf", 1)
    result = agent.update(rollout, [drill])
    assert result.not_planted == (drill,)
    assert result.head_nonfinite == []


def poisoned(rollout: Rollout, **parts: torch.Tensor) -> Rollout:
    return Rollout(**{**rollout.__dict__, **parts})


def sources(result: UpdateResult) -> set[tuple[str, str]]:
    return {(seen.head, seen.quantity) for seen in result.head_nonfinite}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_shared_failure_is_shared_and_not_eight_broken_heads(
    make_agent: AgentMaker, make_rollout: RolloutMaker, value: float
) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    observations = rollout.observations.clone()
    observations[2, 3, 0] = value
    result = agent.update(poisoned(rollout, observations=observations))
    assert sources(result) == {(SHARED, "observations")}
    assert lit(result.head_inf_detected) == lit(result.head_nan_detected) == set()
    assert result.minibatches_skipped == 4  # the host's minibatch, once in each of four epochs


def test_a_broken_trunk_is_shared(make_agent: AgentMaker, make_rollout: RolloutMaker) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    with torch.no_grad():
        agent.policy.feature_norm.weight[0] = torch.nan
    result = agent.update(rollout)
    assert sources(result) == {(SHARED, "trunk")}
    assert result.minibatches_skipped == result.minibatches


def test_a_non_finite_reward_is_found_in_the_advantages(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent()
    rollout = make_rollout(agent)
    rewards = rollout.rewards.clone()
    rewards[-1, 0] = torch.inf
    result = agent.update(poisoned(rollout, rewards=rewards))
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
    assert agent.update(poisoned(rollout, masks=masks)).head_nonfinite == []

    rollout.actions[..., HEAD_NAMES.index("blueprint")] = 1
    result = agent.update(poisoned(rollout, masks=masks))
    assert lit(result.head_inf_detected) == {"blueprint"}


def test_fp16_overflow_of_the_loss_scale_is_counted_apart(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(amp="fp16", ppo_epochs=1, minibatches=2)
    agent.loss_scale.scale.fill_(2.0**126)
    result = agent.update(make_rollout(agent))
    assert result.head_nonfinite == []
    assert result.minibatches_rescaled == 2
    assert result.minibatches_skipped == 0
    assert result.loss_scale == 2.0**124


def test_an_event_carries_every_figure(make_agent: AgentMaker, make_rollout: RolloutMaker) -> None:
    agent = make_agent()
    result = agent.update(make_rollout(agent))
    payload: Any = emitted(result, update=7)
    for name, value in result.__dict__.items():
        if name not in ("not_planted", "reproduced", "start"):
            assert getattr(payload, name) == value, name
    assert payload.update == 7
