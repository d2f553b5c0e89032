"""A TRAINING seed learns from an output that includes it, and its host does not change."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from esper.growth.hosts import seeds as life
from esper.growth.hosts.forward import cut, run
from esper.growth.hosts.host import input_columns
from esper.growth.hosts.plan import make_plan
from esper.growth.tasks.loading import Task, load_task
from esper.leyline.heads import BLUEPRINT_CHOICES, STYLE_CHOICES


@pytest.fixture(scope="module", params=[torch.float32, torch.float64])
def task(request: pytest.FixtureRequest, small_task: Callable[..., Task]) -> Task:
    return small_task((1, 40), dtype=request.param)


def test_host_learns_bit_for_bit_the_same_with_and_without_shadows(
    colony: Callable[..., Any], task: Task
) -> None:
    plain, shaded = colony(hosts=8, task=task), colony(hosts=8, task=task)
    for host, slot in np.ndindex(8, 3):
        shaded.germinate(host, slot, blueprint=host, style=(host + slot) % len(STYLE_CHOICES))
    for ours in (plain, shaded):
        ours.live_on(4)
    for host in range(8):
        assert plain.host_state(host).equal(shaded.host_state(host))
        for slot in range(3):
            assert not shaded.seed_state(host, slot)[1].eq(0).all(), "this seed never learnt"


def test_shadows_send_the_host_neither_features_nor_gradient(
    colony: Callable[..., Any], task: Task
) -> None:
    ours = colony(hosts=3, task=task)
    columns = input_columns(
        task.train.inputs[:24].view(3, 8, *task.input_shape).movedim(1, -1),
        ours.population.shape,
    )

    def forward() -> tuple[torch.Tensor, torch.Tensor, Any]:
        plan = make_plan(ours.population, ours.seeds)
        flat = ours.population.state[0].index_select(0, plan.columns).requires_grad_()
        of_plan = cut(plan, flat)
        return run(plan, ours.population.shape, of_plan, columns), flat, plan

    before, _, _ = forward()
    for host, slot in ((0, 0), (0, 2), (1, 1), (2, 0)):
        ours.germinate(host, slot, blueprint=3)
    life.begin_slice(ours.seeds)
    after, flat, plan = forward()
    assert plan.order.tolist() == [0, 1, 2]
    assert after[:3].equal(before)
    assert after.shape[0] == 3 + 4
    (gradient,) = torch.autograd.grad(after[3:].square().sum(), flat)
    of_hosts, of_seeds = gradient.split([plan.sizes[0], sum(plan.sizes[1:])])
    assert of_hosts.eq(0).all()
    assert of_seeds.ne(0).any()


@pytest.mark.parametrize("blueprint", range(len(BLUEPRINT_CHOICES)), ids=BLUEPRINT_CHOICES)
def test_gain_says_what_switching_the_seed_on_will_do(
    colony: Callable[..., Any], small_task: Callable[..., Task], blueprint: int
) -> None:
    ours = colony(hosts=1, task=small_task((1, 40)))
    ours.germinate(0, 1, blueprint=blueprint, tempo=1, target=0.7)
    ours.live_on(3)
    off = ours.measure().losses
    life.advance(ours.seeds, 0, 1)
    life.begin_slice(ours.seeds)  # the tempo is one step, so alpha is at its target now
    on = ours.measure().losses
    assert off.loss[0] - off.gain[0, 1] == pytest.approx(on.loss[0], rel=1e-12)
    assert off.gain[0, 1] != 0


def test_trained_conv_seed_switched_on_helps_more_than_an_untrained_one(
    colony: Callable[..., Any],
) -> None:
    """With straight-through incubation a conv seed took this loss from 1.5 to 7.9 (design, 6)."""
    task, hosts, steps = load_task("mnist1d"), 16, 12
    trained, untrained = colony(hosts, task), colony(hosts, task)
    conv = BLUEPRINT_CHOICES.index("conv")
    for host in range(hosts):
        trained.germinate(host, 0, blueprint=conv, tempo=1, target=1.0)
    for step in range(steps):
        drawn = np.random.default_rng(step).integers(len(task.train), size=(hosts, 800))
        for ours in (trained, untrained):
            life.begin_slice(ours.seeds)
            ours.train(drawn, batch=100)
            life.end_slice(ours.seeds)
    for host in range(hosts):
        untrained.germinate(host, 0, blueprint=conv, tempo=1, target=1.0)
    life.begin_slice(untrained.seeds)
    without = untrained.measure()
    for ours in (trained, untrained):
        for host in range(hosts):
            assert ours.host_state(host).equal(trained.host_state(host))
            life.advance(ours.seeds, host, 0)
        life.begin_slice(ours.seeds)
        assert (ours.seeds.alpha[:, 0] == 1.0).all()
    on, on_untrained = trained.measure(), untrained.measure()
    np.testing.assert_allclose(on_untrained.losses.loss, without.losses.loss, rtol=1e-5)
    assert on.losses.loss.mean() < on_untrained.losses.loss.mean() - 0.02
    assert on.accuracy.mean() > on_untrained.accuracy.mean() + 0.005
    assert (on.losses.loss < on_untrained.losses.loss + 0.1).all(), "a trained seed did real harm"
