"""Faults that something else used to hide: known infinities, other hosts, what was seen acting."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from math import inf, nan
from random import Random
from typing import Any

import pytest
import torch
from detection.faults import planted
from detection.stage import Stage, Where, with_parts

from esper.leyline.telemetry import SHARED, NonfiniteSighting
from esper.simic.agent import ppo
from esper.simic.agent.figures import UpdateResult

MakeStage = Callable[..., Stage]
BIAS = "lstm.bias_ih_l0"


@pytest.fixture
def make_stage() -> Iterator[MakeStage]:
    """Return a function that makes the first stage with eight heads and a number of hosts."""
    with ExitStack() as exits:

        def make(hosts: int, amp: str = "off", **settings: Any) -> Stage:
            for seed in range(1, 200):
                stage = Stage(Random(seed), exits, amp=amp, warm=True, ppo_epochs=1, **settings)
                if len(stage.layout.names) == 8 and stage.rollout.hosts == hosts:
                    return stage
            raise LookupError("no such stage")

        yield make


def seen_in(result: UpdateResult) -> list[tuple[str, str, str, str, int | None]]:
    """Return group, quantity, kind, phase and host of each sighting."""
    return [(s.head, s.quantity, s.kind, s.phase, s.host) for s in result.figures.head_nonfinite]


def acting(head: str, quantity: str) -> NonfiniteSighting:
    return NonfiniteSighting(
        head=head, quantity=quantity, kind="nan", count=1, epoch=0, minibatch=0, phase="acting",
        host=0, step=1,
    )  # fmt: skip


def forbid_by_bias(stage: Stage) -> int:
    """Forbid the first choice of `op` by mask and by a bias of -inf; return another choice."""
    head = len(stage.layout.names) - 1
    column = stage.layout.offsets[head]
    masks, actions = stage.rollout.masks.clone(), stage.rollout.actions.clone()
    was_taken = actions[..., head] == 0
    actions[..., head][was_taken] = 1
    masks[..., column + 1] |= was_taken
    masks[..., column] = False
    stage.rollout = with_parts(stage.rollout, masks=masks, actions=actions)
    stage.policy.heads.bias.data[column] = -inf
    return column + 1


def break_logit(stage: Stage, where: Where, column: int, value: float) -> None:
    place = (where.step, stage.position(where), column)
    stage.change_output(stage.policy.heads, where, lambda output: planted(output, place, value))


def break_trunk(stage: Stage, where: Where) -> None:
    place = (0, stage.position(where), 0)
    stage.change_output(
        stage.policy.feature_norm, where, lambda output: planted(output, place, nan)
    )


def break_in_step(stage: Stage, where: Where, parameter: torch.Tensor, place: int) -> None:
    def change(_result: Any) -> None:
        if stage.fires(where):
            parameter.data[place] = nan

    stage.wrap(stage.agent.optimizer, "step", change)


def test_a_bias_that_forbids_a_choice_is_legal_and_hides_nothing(make_stage: MakeStage) -> None:
    stage = make_stage(3, minibatches=2)
    column = forbid_by_bias(stage)
    assert seen_in(stage.update()) == []
    assert stage.agent.state.unsound() == []
    stage.plan_again()
    assert seen_in(stage.update()) == []
    assert stage.passes == 1
    stage.plan_again()
    where = stage.where(head=7, lasting=True)
    break_logit(stage, where, column, nan)
    result = stage.update()
    # Where a logit is NaN, so is what is computed from it.
    assert seen_in(result)[0] == ("op", "logits", "nan", "update", where.host)
    assert {seen.head for seen in result.figures.head_nonfinite} == {"op"}
    assert result.head_nan_detected["op"]
    assert not result.head_inf_detected["op"]


def test_it_is_also_legal_where_no_host_is_used_for_learning(make_stage: MakeStage) -> None:
    stage = make_stage(3, minibatches=2)
    forbid_by_bias(stage)
    no_hosts = torch.zeros(stage.rollout.hosts, dtype=torch.bool)
    stage.rollout = replace(stage.rollout, learnable=no_hosts)
    assert seen_in(stage.update()) == []


def test_a_known_infinity_is_reported_again_once_it_is_another(make_stage: MakeStage) -> None:
    stage = make_stage(3, minibatches=2)
    bias = stage.policy.lstm.bias_ih_l0.data
    for value, kinds in ((inf, ["+inf"]), (inf, []), (-inf, ["-inf"]), (0.0, []), (inf, ["+inf"])):
        bias[0] = value
        result = stage.update()
        assert seen_in(result) == [(SHARED, "parameters", kind, "given", None) for kind in kinds]
        stage.plan_again()


def test_a_known_infinity_among_legal_ones_costs_no_second_pass(make_stage: MakeStage) -> None:
    stage = make_stage(3, minibatches=2)
    forbid_by_bias(stage)
    stage.policy.lstm.bias_ih_l0.data[0] = inf
    stage.update()
    stage.plan_again()
    assert seen_in(stage.update()) == []
    assert stage.passes == 1


@pytest.mark.parametrize("is_known", [True, False])
def test_a_saturating_bias_does_not_explain_a_trunk(make_stage: MakeStage, is_known: bool) -> None:
    stage = make_stage(3, minibatches=3)
    stage.policy.lstm.bias_ih_l0.data[0] = inf
    if is_known:
        stage.update()
        stage.plan_again()
    where = stage.where(step=0, lasting=True, index=1)
    break_trunk(stage, where)
    given = [] if is_known else [(SHARED, "parameters", "+inf", "given", None)]
    assert seen_in(stage.update()) == [*given, (SHARED, "trunk", "nan", "update", where.host)]


def test_a_weight_explains_nothing_before_it_broke(make_stage: MakeStage) -> None:
    stage = make_stage(3, minibatches=3)
    first = stage.where(head=7, lasting=False, index=0)
    column = stage.layout.offsets[7]
    break_logit(stage, first, column, inf)
    then = stage.where(head=7, lasting=False, index=1)
    break_in_step(stage, then, stage.policy.heads.bias, column + 1)
    result = stage.update()
    seen = {
        (s.head, s.quantity, s.kind): (s.minibatch, s.reproduced)
        for s in result.figures.head_nonfinite
    }
    assert seen["op", "logits", "+inf"] == (1, False)
    assert seen["op", "parameters", "nan"] == (2, False)
    assert result.head_inf_detected["op"]


def test_a_trunk_that_broke_once_is_reported_together_with_a_weight(make_stage: MakeStage) -> None:
    stage = make_stage(3, minibatches=3)
    first = stage.where(step=0, lasting=False, index=0)
    break_trunk(stage, first)
    break_in_step(stage, stage.where(lasting=False, index=1), stage.policy.lstm.bias_ih_l0, 0)
    assert seen_in(stage.update()) == [
        (SHARED, "trunk", "nan", "update", first.host),
        (SHARED, "parameters", "nan", "update", None),
    ]


def test_what_only_the_second_pass_shows_is_left_out_and_was_not_reproduced(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(3, minibatches=2)
    break_trunk(stage, stage.where(step=0, lasting=False, index=1))
    early = stage.where(head=7, lasting=True, index=0)
    place = (early.step, stage.position(early), stage.layout.offsets[7])
    stage.change_output(
        stage.policy.heads,
        early,
        lambda output: planted(output, place, nan) if stage.passes == 2 else output,
    )
    result = stage.update()
    assert {(s.head, s.minibatch, s.reproduced) for s in result.figures.head_nonfinite} == {
        ("op", 1, False),
        (SHARED, 2, False),
    }
    assert result.figures.minibatches_skipped == 1
    assert result.reproduced, "an update that lacks a minibatch does not stand as it is"


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_displayed_ratio_that_breaks_costs_no_step(make_stage: MakeStage, amp: str) -> None:
    """It is no part of the loss: both passes make the step, and later faults are compared."""
    undisturbed = make_stage(4, amp, minibatches=2)
    undisturbed.update()
    stage = make_stage(4, amp, minibatches=2)
    ratio = stage.where(head=7, lasting=True, index=0)

    def change(terms: Any) -> Any:
        if not stage.fires(ratio):
            return terms
        place = (ratio.step, stage.position(ratio), 7)
        return replace(terms, ratios=planted(terms.ratios, place, inf))

    stage.wrap(ppo, "ppo_loss", change)
    norm = stage.where(lasting=False, index=1)
    real_norm = stage.agent.parameters.norm
    stage.agent.parameters.norm = lambda gradient: (  # type: ignore[method-assign]
        real_norm(gradient) * (nan if stage.fires(norm) else 1.0)
    )
    result = stage.update()
    seen = {(s.quantity, s.minibatch, s.reproduced) for s in result.figures.head_nonfinite}
    assert seen == {("ratio", 1, True), ("gradient", 2, False)}
    assert result.figures.minibatches_skipped == 0
    weights = stage.agent.parameters.flat
    torch.testing.assert_close(weights, undisturbed.agent.parameters.flat, rtol=0, atol=0)


def test_what_a_head_showed_while_acting_explains_no_value(make_stage: MakeStage) -> None:
    stage = make_stage(3, minibatches=2)
    values = planted(stage.rollout.values, (0, 1), nan)
    stage.rollout = with_parts(stage.rollout, values=values)
    result = stage.update(before=[acting("slot", "logits")])
    assert (SHARED, "advantages", "nan", "update", 1) in seen_in(result)


def test_an_observation_of_one_host_hides_none_of_another(make_stage: MakeStage) -> None:
    stage = make_stage(3, minibatches=2)
    observations = planted(stage.rollout.observations, (0, 0, 0), nan)
    observations = planted(observations, (1, 1, 0), nan)
    learnable = torch.tensor([False, True, True])
    stage.rollout = replace(
        with_parts(stage.rollout, observations=observations), learnable=learnable
    )
    result = stage.update(before=[acting(SHARED, "observations")])
    assert (SHARED, "observations", "nan", "update", 1) in seen_in(result)


@pytest.mark.parametrize("scale", [0.0, -1.0, 0.25])
def test_a_loss_scale_below_1_is_broken(make_stage: MakeStage, scale: float) -> None:
    stage = make_stage(3, "fp16", minibatches=2)
    agent = stage.agent
    agent.loss_scale.scale = torch.tensor(scale)
    assert agent.state.unsound() == ["the loss scale"]
    assert (SHARED, "loss_scale", "nan", "given", None) in seen_in(stage.update())
    assert {seen.head for seen in stage.update().figures.head_nonfinite} == {SHARED}
    assert agent.state.roll_back()
    assert agent.state.unsound() == []


def test_what_is_kept_of_the_loss_scale_is_a_copy(make_stage: MakeStage) -> None:
    stage = make_stage(3, "fp16", minibatches=2)
    agent = stage.agent
    stage.update()
    for _ in range(2):
        agent.loss_scale.scale.fill_(nan)
        stage.update()
        assert agent.state.roll_back()
        assert agent.state.unsound() == []


def test_a_joint_log_ratio_that_overflows_is_not_left_out_silently(make_stage: MakeStage) -> None:
    """Finite log-ratios of two heads whose sum is -inf: ratio 0, infinite divergence."""
    stage = make_stage(4, minibatches=2)
    active = stage.rollout.active.sum(2)
    step, host = (active >= 2).nonzero()[0].tolist()
    index = next(index for index, hosts in enumerate(stage.plan) if host in hosts)
    heads = stage.rollout.active[step, host].nonzero().flatten().tolist()[:2]
    where = Where(index, host, step, heads[0])

    def change(taken: Any) -> Any:
        if not stage.fires(where):
            return taken
        log_probs = planted(taken.log_probs, (step, stage.position(where), heads), -3e38)
        return taken._replace(log_probs=log_probs)

    stage.wrap(ppo, "likelihoods", change)
    result = stage.update()
    assert seen_in(result) == [(SHARED, "joint_ratio", "-inf", "update", host)]
    assert (result.figures.minibatches_skipped, result.reproduced) == (1, True)


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_norm_that_breaks_once_is_reported_and_repeated(make_stage: MakeStage, amp: str) -> None:
    """The norm alone breaks; the gradient is finite."""
    stage = make_stage(4, amp, minibatches=2)
    where = Where(1, stage.plan[1][0], 0, 0, lasting=False)
    norm = stage.agent.parameters.norm
    stage.agent.parameters.norm = lambda gradient: (
        norm(gradient) * (nan if stage.fires(where) else 1.0)
    )
    result = stage.update()
    assert seen_in(result) == [(SHARED, "gradient", "nan", "update", None)]
    assert [seen.part for seen in result.figures.head_nonfinite] == ["norm"]
    assert (result.figures.minibatches_skipped, result.figures.minibatches_rescaled) == (0, 0)
    assert not result.reproduced


@pytest.mark.parametrize("name", ["weight", "exp_avg_sq", "step"])
def test_state_that_breaks_in_the_second_pass_alone_is_not_reproduced(
    make_stage: MakeStage, name: str
) -> None:
    stage = make_stage(4, minibatches=3)
    where = Where(2, stage.plan[2][0], 0, 0, lasting=False)
    break_logit(stage, where, 0, nan)  # has the update repeated
    agent = stage.agent

    def change(_result: Any) -> None:
        if stage.passes == 2 and stage.index == 0:
            tensors = agent.state.moments_of(agent.policy.heads.weight)
            tensors |= {"weight": agent.policy.heads.weight.data}
            tensors |= {"step": agent.optimizer.state[agent.parameters.flat]["step"]}
            tensors[name].view(-1)[-1] = -1.0 if name == "exp_avg_sq" else nan

    stage.wrap(agent.optimizer, "step", change)
    state = {"moments", "parameters"}
    found = [seen for seen in stage.update().figures.head_nonfinite if seen.quantity in state]
    assert found
    assert not any(seen.reproduced for seen in found)


def test_a_bias_of_minus_infinity_is_sound_only_where_it_broke_nothing(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(4)
    other = forbid_by_bias(stage)
    stage.update()
    assert stage.agent.state.unsound() == []
    stage.policy.heads.bias.data[other] = -inf
    masks = stage.rollout.masks.clone()
    masks[..., other] = True
    stage.rollout = with_parts(stage.rollout, masks=masks)
    stage.update()
    assert stage.agent.state.unsound() == ["heads.bias"]
