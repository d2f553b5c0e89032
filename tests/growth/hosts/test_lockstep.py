"""Lockstep training equals a loop of ordinary modules, all through the lives of the seeds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from esper.growth.environment.masks import legal_slots
from esper.growth.hosts import seeds as life
from esper.growth.hosts.seeds import Seeds
from esper.growth.tasks.loading import Task
from esper.leyline.heads import BLUEPRINT_CHOICES, STYLE_CHOICES, Op, Stage

STYLES = len(STYLE_CHOICES)
KINDS = len(BLUEPRINT_CHOICES) * STYLES
TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}


def assert_equal_to_mirror(colony: Any, mirror: Any) -> None:
    for host, network in enumerate(mirror.networks):
        expected = mirror.state(network, network.host)
        torch.testing.assert_close(colony.host_state(host), expected, **TOLERANCE)
        for number, slot in network.slots.items():
            expected = mirror.state(network, slot.seed)
            torch.testing.assert_close(colony.seed_state(host, number), expected, **TOLERANCE)


def assert_measures_like_mirror(colony: Any, mirror: Any) -> None:
    measured, split = colony.measure(), colony.task.validation
    for host, network in enumerate(mirror.networks):
        loss, accuracy = network.evaluate(split.inputs, split.labels)
        assert measured.losses.loss[host] == pytest.approx(loss, rel=1e-9)
        assert measured.accuracy[host] == pytest.approx(accuracy)
        gains = np.zeros(3)
        for number in network.training_slots():
            gains[number] = loss - network.evaluate(split.inputs, split.labels, forked=number)[0]
        np.testing.assert_allclose(measured.losses.gain[host], gains, atol=1e-9)


def live(seeds: Seeds, generator: np.random.Generator, kinds: list[int], colony: Any) -> None:
    """Do something legal with every slot, most of the time."""
    legal = legal_slots(seeds)
    for host, slot in np.ndindex(seeds.stage.shape):
        ops = [op for op in Op if op is not Op.WAIT and legal[host, op, slot]]
        if not ops or generator.random() < 0.3:
            continue
        speed, curve = int(generator.choice([0, 2, 3])), int(generator.integers(5))
        match ops[generator.integers(len(ops))]:
            case Op.GERMINATE:
                kind = kinds.pop() if kinds else int(generator.integers(KINDS))
                blueprint, style = divmod(kind, STYLES)
                target = float(generator.choice([0.5, 0.7, 1.0]))
                colony.germinate(host, slot, blueprint=blueprint, style=style, target=target)
            case Op.ADVANCE:
                life.advance(seeds, host, slot)
            case Op.SET_ALPHA_TARGET:
                life.set_alpha_target(seeds, host, slot, target=0.5, length=speed, curve=curve)
            case Op.PRUNE:
                life.prune(seeds, host, slot, length=speed, curve=curve)
            case Op.FOSSILIZE:
                life.fossilize(seeds, host, slot)


@pytest.mark.parametrize(
    ("input_shape", "symbols"),
    [((1, 16), 0), ((2, 6, 7), 0), ((6,), 0), ((9,), 5), ((30,), 5)],
    ids=["conv1d", "conv2d", "mlp", "transformer", "transformer of many positions"],
)
def test_lockstep_equals_ordinary_modules_through_whole_lives(
    colony: Callable[..., Any],
    mirror: Callable[[Any], Any],
    small_task: Callable[..., Task],
    input_shape: tuple[int, ...],
    symbols: int,
) -> None:
    ours = colony(hosts=12, task=small_task(input_shape, symbols=symbols))
    theirs = mirror(ours)
    generator = np.random.default_rng(11)
    kinds = list(generator.permutation(KINDS))
    seen: set[tuple[Stage, int, int]] = set()
    for _ in range(14):
        live(ours.seeds, generator, kinds, ours)
        life.begin_slice(ours.seeds)
        theirs.follow()
        drawn = ours.draw()
        ours.train(drawn)
        theirs.train(drawn)
        seen |= set(
            zip(
                ours.seeds.stage.flat, ours.seeds.blueprint.flat, ours.seeds.style.flat, strict=True
            )
        )
        assert_equal_to_mirror(ours, theirs)
        assert_measures_like_mirror(ours, theirs)
        life.end_slice(ours.seeds)
    lived = {(blueprint, style) for _, blueprint, style in seen if blueprint >= 0}
    assert len(lived) == KINDS, (
        "a blueprint and style had no life: the test covers less than it says"
    )
    assert {stage for stage, _, _ in seen} == set(Stage) - {Stage.GERMINATED}


def test_a_plan_trains_a_host_the_same_next_to_any_other_hosts(colony: Callable[..., Any]) -> None:
    together, alone = colony(hosts=4), colony(hosts=1, rng_seeds=[2])
    for ours, host in ((together, 2), (alone, 0)):
        ours.germinate(host, 1, blueprint=5, style=3)
    together.germinate(0, 1, blueprint=5, style=1)
    together.germinate(3, 0, blueprint=6, style=2)
    for ours in (together, alone):
        life.begin_slice(ours.seeds)
    for _ in range(3):
        drawn = together.draw()
        together.train(drawn)
        alone.train(drawn[2:3])
    torch.testing.assert_close(together.host_state(2), alone.host_state(0), **TOLERANCE)
    torch.testing.assert_close(together.seed_state(2, 1), alone.seed_state(0, 1), **TOLERANCE)


def test_fresh_seed_has_no_past(colony: Callable[..., Any]) -> None:
    ours = colony(hosts=1)
    ours.germinate(0, 0, blueprint=3)
    ours.live_on()
    old = ours.seed_state(0, 0)
    assert not old[1].eq(0).all(), "the old seed learnt nothing: there is nothing to be left over"
    life.prune(ours.seeds, 0, 0, length=0, curve=0)
    ours.live_on(life.EMBARGO_STEPS + 1)
    ours.germinate(0, 0, blueprint=3)
    fresh = ours.seed_state(0, 0)
    assert fresh[1:].eq(0).all()
    assert not fresh[0].equal(old[0])
    assert ours.population.seed_clock[0, 0] == 0
