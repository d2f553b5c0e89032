"""Detection: what went non-finite in an update, in which head, and what was done about it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import SHARED, Payload, PPOUpdatePayload, UpdateFigures
from esper.simic.agent import ppo
from esper.simic.agent.drill_hook import update_with_drills
from esper.simic.agent.figures import UpdateResult
from esper.simic.agent.loss_scale import GROWTH_INTERVAL, LARGEST_SCALE
from esper.simic.agent.ppo import PPOAgent, ppo_loss
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


def test_only_the_bad_minibatch_is_skipped_and_training_goes_on(
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


def poisoned(rollout: Rollout, **parts: torch.Tensor) -> Rollout:
    return Rollout(**{**rollout.__dict__, **parts})


def sources(result: UpdateResult) -> set[tuple[str, str]]:
    return {(seen.head, seen.quantity) for seen in result.figures.head_nonfinite}


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
    assert agent.update(poisoned(rollout, masks=masks)).figures.head_nonfinite == []

    rollout.actions[..., HEAD_NAMES.index("blueprint")] = 1
    result = agent.update(poisoned(rollout, masks=masks))
    assert lit(result.head_inf_detected) == {"blueprint"}


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
    assert (
        results[4].figures.loss_scale == 2.0**106
    )  # it goes on falling: it is too high all the same

    agent.loss_scale.scale.fill_(2.0**10)
    assert sources(agent.update(rollout)) == set()  # a good update, and it starts over
    agent.loss_scale.scale.fill_(2.0**126)
    assert sources(agent.update(rollout)) == set()


def test_a_loss_scale_that_settles_over_many_short_updates_is_no_alarm(
    make_agent: AgentMaker, make_rollout: RolloutMaker
) -> None:
    agent = make_agent(amp="fp16", ppo_epochs=1, minibatches=1)
    rollout = make_rollout(agent)
    rollout = poisoned(rollout, rewards=rollout.rewards * 1e4)
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
def test_a_gradient_that_breaks_without_the_loss_scale_is_no_overflow(
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


@contextmanager
def passes(agent: PPOAgent) -> Iterator[list[int]]:
    """Count passes over the minibatches of updates: the list gets an entry for each."""
    count: list[int] = []
    learn = agent.learn

    def counted(*arguments: Any) -> Any:
        count.append(1)
        return learn(*arguments)

    agent.learn = counted
    try:
        yield count
    finally:
        agent.learn = learn


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


def test_gradients_whose_squares_overflow_are_clipped_and_learnt_from(
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
    parameters.clip(gradient, norm, 0.5)
    assert parameters.gradient.isfinite().all()
    assert (parameters.gradient > 0).all()


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


def test_an_event_carries_every_figure(make_agent: AgentMaker, make_rollout: RolloutMaker) -> None:
    agent = make_agent()
    result = agent.update(make_rollout(agent))
    payload: Any = emitted(result, update=7)
    for name in UpdateFigures.__struct_fields__:
        assert getattr(payload, name) == getattr(result.figures, name), name
    assert payload.update == 7
