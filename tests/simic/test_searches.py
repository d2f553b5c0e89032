"""Searches: what they spend, counted by hand, and that they play the best that they tried."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from esper.growth.static_networks import StaticTraining
from esper.simic.config import TrainingConfig
from esper.simic.evaluation import searches
from esper.simic.evaluation.arena import Arena, Played
from esper.simic.evaluation.contestants import Agents
from esper.simic.evaluation.outcomes import Outcomes
from esper.simic.evaluation.plans import Plan, plan_words, random_plan
from esper.simic.evaluation.searches import halving, random_best

CONFIG = TrainingConfig(task="digits", steps=8, device="cpu")


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with contextlib.closing(Arena(CONFIG, torch.device("cpu"), episodes=4, rng_seed=0)) as made:
        yield made


def agents(arena: Arena, search_episodes: int | None = None) -> Agents:
    """Return one policy that did nothing in its episodes and was trained in six."""
    played = arena.run("", lambda hosts, _: lambda *_: np.zeros((hosts, 8), int), arena.batches)
    return Agents([], [played], [6], search_episodes)


def test_budgets_are_training_episodes_at_the_cost_of_the_evaluated_ones(arena: Arena) -> None:
    ours = agents(arena)
    cost = ours.played[0].outcomes.multiply_adds.sum() / 4
    assert ours.multiply_adds == cost
    assert ours.training_multiply_adds == ours.search_budget == 6 * cost
    assert agents(arena, search_episodes=2).search_budget == 2 * cost
    assert ours.parameters == arena.settings.host_parameters


def test_random_best_plays_the_best_of_its_plans(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Plan] = []
    tried: list[tuple[list[int], Outcomes]] = []
    run = Arena.run

    def draw(generator: np.random.Generator) -> Plan:
        drawn.append(random_plan(generator))
        return drawn[-1]

    def watched(self: Arena, what: str, player: object, batches: list[list[int]], **rest) -> Played:
        played = run(self, what, player, batches, **rest)
        if batches is not self.batches:
            tried.append((batches[0], played.outcomes))
        return played

    ours = agents(arena)
    monkeypatch.setattr(searches, "random_plan", draw)
    monkeypatch.setattr(Arena, "run", watched)
    monkeypatch.setattr(searches, "SEARCH_HOSTS", 2)
    found = random_best(arena, ours)
    assert all(seeds[:2] == seeds[2:] for seeds, _ in tried), "two plans in the same two hosts"
    assert not {seed for seeds, _ in tried for seed in seeds} & set(arena.batches[0])
    scores = np.concatenate([outcomes.score for _, outcomes in tried]).reshape(-1, 2).mean(axis=1)
    assert len(scores) == len(drawn)
    (best,) = found.strata
    assert best.what == f"{plan_words(drawn[scores.argmax()])}; best of {len(drawn)} random plans"
    spent = [int(outcomes.multiply_adds.sum()) for _, outcomes in tried]
    assert found.search_multiply_adds == sum(spent)
    assert sum(spent[:-1]) < ours.search_budget <= sum(spent)


def test_halving_trains_every_trial_to_its_last_rung(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    made: list[StaticTraining] = []
    steps: list[list[int]] = []
    start, advance = StaticTraining.__init__, StaticTraining.advance

    def started(self: StaticTraining, *args: object) -> None:
        made.append(self)
        steps.append([])
        start(self, *args)

    def advanced(self: StaticTraining, count: int) -> None:
        steps[-1].append(count)
        advance(self, count)

    monkeypatch.setattr(searches, "StaticTraining", StaticTraining)
    monkeypatch.setattr(StaticTraining, "__init__", started)
    monkeypatch.setattr(StaticTraining, "advance", advanced)
    ours = agents(arena, search_episodes=16)
    found = halving(arena, ours)
    trials = steps[: len(made) - 1] if steps[-1] == [CONFIG.steps] else steps
    rungs = [1, 1, 2, 4]
    assert all(each == rungs[: len(each)] for each in trials)
    assert trials[0] == rungs, "the first has no rival"
    assert 0 < sum(each == rungs for each in trials) < len(trials) / 2
    shapes = [training._shape.training_multiply_adds for training in made]
    samples = arena.settings.batch * arena.settings.batches * 4
    spent = sum(sum(each) * shape * samples for each, shape in zip(trials, shapes, strict=False))
    assert found.search_multiply_adds == spent
    assert ours.search_budget <= spent
    finished = [
        (training.validation_accuracy().mean(), training._shape.name)
        for training, each in zip(made, trials, strict=False)
        if each == rungs
    ]
    (best,) = found.strata
    assert best.what.startswith(max(finished)[1])
    assert best.what.endswith(f"best of {len(trials)} by successive halving")
