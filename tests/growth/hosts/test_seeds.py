"""The life of a seed: its table, its ramps, and what no sequence of deeds can do to it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.growth.environment.masks import legal_slots
from esper.growth.hosts import seeds as life
from esper.growth.hosts.seeds import (
    EMBARGO_STEPS,
    EMPTY,
    EVENT_OF_OP,
    TRANSITIONS,
    IllegalTransitionError,
    SeedEvent,
    Seeds,
)
from esper.leyline.heads import (
    ALPHA_SPEED_STEPS,
    ALPHA_TARGETS,
    CURVE_CHOICES,
    TEMPO_STEPS,
    Op,
    Stage,
)

HOSTS, SLOTS = 2, 3


def do(seeds: Seeds, op: Op, host: int, slot: int, target: float, length: int, curve: int) -> None:
    match op:
        case Op.GERMINATE:
            life.germinate(
                seeds, host, slot, blueprint=1, style=2, tempo=max(1, length), target=target
            )
        case Op.ADVANCE:
            life.advance(seeds, host, slot)
        case Op.SET_ALPHA_TARGET:
            life.set_alpha_target(seeds, host, slot, target=target, length=length, curve=curve)
        case Op.PRUNE:
            life.prune(seeds, host, slot, length=length, curve=curve)
        case Op.FOSSILIZE:
            life.fossilize(seeds, host, slot)


def step(seeds: Seeds) -> list[life.Transition]:
    return life.begin_slice(seeds) + life.end_slice(seeds)


def bring_to(stage: Stage, target: float = 1.0, tempo: int = 3) -> Seeds:
    """Return one slot whose seed is in the given stage."""
    seeds = life.empty_seeds(1, 1)
    if stage is Stage.DORMANT:
        return seeds
    life.germinate(seeds, 0, 0, blueprint=1, style=0, tempo=tempo, target=target)
    if stage is Stage.GERMINATED:
        return seeds
    step(seeds)
    if stage is Stage.TRAINING:
        return seeds
    life.advance(seeds, 0, 0)
    if stage is Stage.BLENDING:
        return seeds
    for _ in range(tempo):
        step(seeds)
    if stage is Stage.HOLDING:
        return seeds
    if stage is Stage.FOSSILIZED:
        life.fossilize(seeds, 0, 0)
        return seeds
    life.prune(seeds, 0, 0, length=0, curve=0)
    if stage is Stage.EMBARGOED:
        step(seeds)
    return seeds


def snapshot(seeds: Seeds) -> dict[str, Any]:
    return {name: values.copy() for name, values in vars(seeds).items()}


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_can_be_reached(stage: Stage) -> None:
    assert bring_to(stage).stage[0, 0] == stage


def test_a_fossil_is_for_good_and_everything_else_moves_on() -> None:
    left = {stage for stage, _ in TRANSITIONS}
    assert left == set(Stage) - {Stage.FOSSILIZED}


@pytest.mark.parametrize("op", [op for op in Op if op is not Op.WAIT])
@pytest.mark.parametrize("stage", Stage)
def test_ops_do_what_the_table_says_and_nothing_else(stage: Stage, op: Op) -> None:
    seeds = bring_to(stage)
    before = snapshot(seeds)
    after = TRANSITIONS.get((stage, EVENT_OF_OP[op]))
    assert legal_slots(seeds)[0, op, 0] == (after is not None)
    if after is None:
        with pytest.raises(IllegalTransitionError, match=stage.name):
            do(seeds, op, 0, 0, 0.5, 3, 0)
        for name, values in snapshot(seeds).items():
            np.testing.assert_array_equal(values, before[name], err_msg=name)
    else:
        do(seeds, op, 0, 0, 0.5, 3, 0)
        assert seeds.stage[0, 0] == after
        assert seeds.stage_steps[0, 0] == 0


deeds = st.tuples(
    st.sampled_from([op for op in Op if op is not Op.WAIT]),
    st.integers(0, HOSTS - 1),
    st.integers(0, SLOTS - 1),
    st.sampled_from(ALPHA_TARGETS),
    st.sampled_from(ALPHA_SPEED_STEPS),
    st.integers(0, len(CURVE_CHOICES) - 1),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(deeds, max_size=4), max_size=30))
def test_no_sequence_of_deeds_reaches_an_illegal_state(slices: list[list[Any]]) -> None:
    seeds = life.empty_seeds(HOSTS, SLOTS)
    fossils: dict[tuple[int, int], float] = {}
    for deeds_of_slice in slices:
        for op, host, slot, *rest in deeds_of_slice:
            if legal_slots(seeds)[host, op, slot]:
                do(seeds, op, host, slot, *rest)
            else:
                with pytest.raises(IllegalTransitionError):
                    do(seeds, op, host, slot, *rest)
        for transition in step(seeds):
            known = TRANSITIONS[transition.from_stage, transition.cause]
            assert known is transition.to_stage
        stage = seeds.stage
        empty = np.isin(stage, (Stage.DORMANT, Stage.EMBARGOED))
        assert ((seeds.blueprint == EMPTY) == empty).all()
        assert ((seeds.style == EMPTY) == empty).all()
        assert not (stage == Stage.GERMINATED).any(), "a slice began and the seed slept on"
        assert ((seeds.alpha >= 0) & (seeds.alpha <= 1)).all()
        outside = np.isin(stage, (Stage.DORMANT, Stage.TRAINING, Stage.EMBARGOED))
        assert (seeds.alpha[outside] == 0).all()
        settled = np.isin(stage, (Stage.HOLDING, Stage.FOSSILIZED))
        assert (seeds.alpha[settled] == seeds.target[settled]).all()
        assert (seeds.alpha[settled] > 0).all()
        for at, alpha in fossils.items():
            assert stage[at] == Stage.FOSSILIZED
            assert seeds.alpha[at] == alpha
        for host, slot in np.argwhere(stage == Stage.FOSSILIZED):
            fossils.setdefault((int(host), int(slot)), float(seeds.alpha[host, slot]))


@pytest.mark.parametrize("tempo", TEMPO_STEPS)
@pytest.mark.parametrize("target", ALPHA_TARGETS)
def test_first_blend_reaches_its_target_in_exactly_its_tempo(tempo: int, target: float) -> None:
    seeds = bring_to(Stage.BLENDING, target, tempo)
    alphas = []
    for number in range(1, tempo + 1):
        life.begin_slice(seeds)
        alphas.append(seeds.alpha[0, 0])
        assert alphas[-1] == pytest.approx(target * number / tempo)
        moved = life.end_slice(seeds)
        assert bool(moved) == (number == tempo)
    assert alphas[-1] == target
    assert seeds.stage[0, 0] == Stage.HOLDING


@pytest.mark.parametrize("curve", range(len(CURVE_CHOICES)), ids=CURVE_CHOICES)
@pytest.mark.parametrize("length", [length for length in ALPHA_SPEED_STEPS if length])
@pytest.mark.parametrize("goal", [0.0, 0.5, 1.0])
def test_ramps_are_monotone_and_end_exactly_on_time(curve: int, length: int, goal: float) -> None:
    seeds = bring_to(Stage.HOLDING, target=0.7)
    if goal:
        life.set_alpha_target(seeds, 0, 0, target=goal, length=length, curve=curve)
    else:
        life.prune(seeds, 0, 0, length=length, curve=curve)
    alphas = [0.7]
    for _ in range(length):
        assert seeds.stage[0, 0] in (Stage.BLENDING, Stage.PRUNED)
        life.begin_slice(seeds)
        alphas.append(float(seeds.alpha[0, 0]))
        life.end_slice(seeds)
    assert alphas[-1] == goal
    moves = np.diff(alphas) * np.sign(goal - 0.7)
    assert (moves > 0).all()
    assert seeds.stage[0, 0] == (Stage.HOLDING if goal else Stage.EMBARGOED)


def test_instant_speed_moves_alpha_at_once() -> None:
    seeds = bring_to(Stage.HOLDING, target=0.5)
    life.set_alpha_target(seeds, 0, 0, target=1.0, length=0, curve=0)
    assert seeds.alpha[0, 0] == 1.0
    step(seeds)
    assert seeds.stage[0, 0] == Stage.HOLDING
    life.prune(seeds, 0, 0, length=0, curve=0)
    assert seeds.alpha[0, 0] == 0.0


def test_retargeting_while_blending_goes_on_from_where_alpha_is() -> None:
    seeds = bring_to(Stage.BLENDING, target=1.0, tempo=8)
    for _ in range(4):
        step(seeds)
    assert seeds.alpha[0, 0] == pytest.approx(0.5)
    life.set_alpha_target(seeds, 0, 0, target=0.7, length=5, curve=0)
    step(seeds)
    assert seeds.alpha[0, 0] == pytest.approx(0.54)


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING])
def test_pruning_a_seed_that_never_entered_its_host_takes_no_ramp(stage: Stage) -> None:
    seeds = bring_to(stage)
    life.prune(seeds, 0, 0, length=8, curve=0)
    step(seeds)
    assert seeds.stage[0, 0] == Stage.EMBARGOED


def test_embargo_lasts_as_long_as_it_says() -> None:
    seeds = bring_to(Stage.EMBARGOED)
    stages = []
    for _ in range(EMBARGO_STEPS):
        stages.append(seeds.stage[0, 0])
        step(seeds)
    assert stages == [Stage.EMBARGOED] * EMBARGO_STEPS
    assert seeds.stage[0, 0] == Stage.DORMANT


def test_transitions_tell_the_whole_story() -> None:
    seeds = life.empty_seeds(2, 3)
    transitions = [life.germinate(seeds, 1, 2, blueprint=4, style=0, tempo=1, target=0.7)]
    transitions += step(seeds)
    transitions.append(life.advance(seeds, 1, 2))
    transitions += step(seeds)
    transitions.append(life.fossilize(seeds, 1, 2))
    assert {(t.host, t.slot, t.blueprint) for t in transitions} == {(1, 2, 4)}
    assert [t.cause for t in transitions] == [
        SeedEvent.GERMINATE,
        SeedEvent.BEGIN,
        SeedEvent.ADVANCE,
        SeedEvent.ARRIVE,
        SeedEvent.FOSSILIZE,
    ]
    assert [t.from_stage for t in transitions[1:]] == [t.to_stage for t in transitions[:-1]]
    assert transitions[-1].alpha == 0.7


def test_clearing_some_hosts_leaves_the_others_alone() -> None:
    seeds = life.empty_seeds(3, 3)
    for host in range(3):
        life.germinate(seeds, host, 1, blueprint=4, style=0, tempo=1, target=0.7)
    life.clear_hosts(seeds, np.array([0, 2]))
    assert seeds.stage[:, 1].tolist() == [Stage.DORMANT, Stage.GERMINATED, Stage.DORMANT]
    assert seeds.germinations[:, 1].tolist() == [0, 1, 0]
