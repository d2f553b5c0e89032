"""Plans: what an agent does most often, and what is played without looking."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from esper.growth.hosts.seeds import EMPTY
from esper.leyline.heads import (
    ALPHA_TARGETS,
    BLUEPRINT_CHOICES,
    HEAD_NAMES,
    STYLE_CHOICES,
    TEMPO_STEPS,
    Op,
)
from esper.simic.config import TrainingConfig
from esper.simic.evaluation.arena import Arena, Decide
from esper.simic.evaluation.plans import (
    Plan,
    PlannedSeed,
    PlanRecorder,
    fixed_plan_player,
    plan_player,
    plan_words,
    random_plan,
)

CONFIG = TrainingConfig(task="digits", steps=9, device="cpu")
CONV, NORM = (BLUEPRINT_CHOICES.index(name) for name in ("conv", "norm"))
LATE_NORM = PlannedSeed(2, NORM, 1, tempo=0, alpha_target=2, germinate_at=2, advance_at=4)
EARLY_CONV = PlannedSeed(0, CONV, 0, tempo=0, alpha_target=0, germinate_at=3, advance_at=5)


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with contextlib.closing(Arena(CONFIG, torch.device("cpu"), episodes=3, rng_seed=0)) as made:
        yield made


def test_a_plan_is_played_at_its_steps_and_fossilized(arena: Arena) -> None:
    """Against its actions, written out by hand."""

    def by_hand(hosts: int, _batch: int) -> Decide:
        steps = iter(
            [
                {},
                {},
                {"op": Op.GERMINATE, "slot": 2, "blueprint": NORM, "style": 1, "alpha_target": 2},
                {"op": Op.GERMINATE, "slot": 0, "blueprint": CONV},
                {"op": Op.ADVANCE, "slot": 2},
                {"op": Op.ADVANCE, "slot": 0},
                {"op": Op.FOSSILIZE, "slot": 0},
                {"op": Op.FOSSILIZE, "slot": 2},
                {},
            ]
        )

        def decide(_observations: np.ndarray, _info: dict[str, Any]) -> np.ndarray:
            choice = next(steps)
            return np.array([[int(choice.get(head, 0)) for head in HEAD_NAMES]] * hosts)

        return decide

    plan = (LATE_NORM, EARLY_CONV)
    ours = arena.run("", fixed_plan_player(plan), arena.batches)
    theirs = arena.run("", by_hand, arena.batches)
    assert (ours.architecture.blueprint == [CONV, EMPTY, NORM]).all()
    for name, values in vars(ours.outcomes).items():
        np.testing.assert_array_equal(values, getattr(theirs.outcomes, name), err_msg=name)
    assert plan_words(plan) == "early conv linear_add 0.5, late norm linear_multiply 1"


def test_the_most_frequent_plan_is_found_with_its_median_steps(arena: Arena) -> None:
    later = PlannedSeed(2, NORM, 1, tempo=0, alpha_target=2, germinate_at=4, advance_at=6)
    other = (PlannedSeed(1, CONV, 0, tempo=0, alpha_target=0),)
    plans: list[Plan] = [(LATE_NORM,), other, (later,)]
    recorder = PlanRecorder(plan_player(lambda hosts, _batch: plans))
    played = arena.run("", recorder, arena.batches)
    plan, count = recorder.most_frequent(played.architecture)
    assert count == 2
    assert plan == (PlannedSeed(2, NORM, 1, tempo=0, alpha_target=2, germinate_at=3, advance_at=5),)
    again = PlanRecorder(fixed_plan_player(plan))
    assert again.most_frequent(arena.run("", again, arena.batches).architecture) == (plan, 3)


def test_seeds_that_do_not_stay_belong_to_no_plan(arena: Arena) -> None:
    too_late = PlannedSeed(1, CONV, 0, tempo=0, alpha_target=0, germinate_at=8)
    recorder = PlanRecorder(fixed_plan_player((LATE_NORM, too_late)))
    played = arena.run("", recorder, arena.batches)
    assert recorder.most_frequent(played.architecture) == ((LATE_NORM,), 3)
    idle = PlanRecorder(fixed_plan_player(()))
    assert idle.most_frequent(arena.run("", idle, arena.batches).architecture) == ((), 3)
    assert plan_words(()) == "nothing grows"


def test_random_plans_have_a_seed_in_every_slot_and_every_choice() -> None:
    generator = np.random.default_rng(0)
    plans = [random_plan(generator) for _ in range(300)]
    assert all([seed.slot for seed in plan] == [0, 1, 2] for plan in plans)
    seeds = [seed for plan in plans for seed in plan]
    assert {TEMPO_STEPS[seed.tempo] for seed in seeds} == {1}
    for name, choices in (
        ("blueprint", BLUEPRINT_CHOICES),
        ("style", STYLE_CHOICES),
        ("alpha_target", ALPHA_TARGETS),
    ):
        counts = np.bincount([getattr(seed, name) for seed in seeds])
        np.testing.assert_allclose(counts / len(seeds), 1 / len(choices), atol=0.05)


def test_more_steps_than_the_settings_are_played_and_put_back(arena: Arena) -> None:
    player = fixed_plan_player(())
    usual = arena.run("", player, arena.batches)
    longer = arena.run("", player, arena.batches, steps=12)
    assert (longer.outcomes.multiply_adds * 9 == usual.outcomes.multiply_adds * 12).all()
    assert (usual.last_step * 9 == usual.outcomes.multiply_adds).all()
    assert arena.settings.steps == 9
    seeds = arena.further_seeds(3)
    assert not set(seeds) & set(arena.batches[0])
