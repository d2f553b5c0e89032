"""Opponents whose search costs as much as the agent's training, and that then play the result.

`random-best` tries random plans; `halving` tries fixed networks of the agent's size, each drawn
with its learning rate, and stops the worse ones early: successive halving (Jamieson and Talwalkar
2016, "Non-stochastic best arm identification and hyperparameter optimization") in the asynchronous
form of Optuna's `SuccessiveHalvingPruner` (Li et al. 2020, "A system for massively parallel
hyperparameter tuning"). A trial is measured by its mean over a few hosts, the same for all trials,
whose random seeds belong to no evaluated episode.
"""

from typing import TYPE_CHECKING

import numpy as np

from esper.growth.static_networks import StaticShape, StaticTraining, static_shapes
from esper.simic.evaluation.arena import Arena, Player, choices_seed
from esper.simic.evaluation.contestants import Agents, Contestant
from esper.simic.evaluation.plans import (
    Plan,
    fixed_plan_player,
    plan_player,
    plan_words,
    random_plan,
)
from esper.simic.evaluation.static_opponents import run_static
from esper.simic.evaluation.tuning import LEARNING_RATES, Pace

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

#: Number of hosts that a trial is the mean of, unless a batch of episodes has fewer.
SEARCH_HOSTS = 8
#: Share of an episode's steps after which the first trials are stopped.
_FIRST_RUNG = 1 / 8
#: Reduction factor: at each rung the best one in so many trials continues, for that many times as
#: many steps.
_REDUCTION = 2
#: Learning rates of trials, drawn uniformly in their logarithm.
_RATES = (min(LEARNING_RATES) / 2, max(LEARNING_RATES) * 2)
_PLAN_PLAYER, _TRIAL_PLAYER = 2**20, 2**20 + 1  # policies count from 1


def random_best(arena: Arena, agents: Agents) -> Contestant:
    """Return the random plan with the best mean score among as many as the budget pays for."""
    arena.turns.begin("random-best: trying random plans")
    plans, scores, spent = _tried_plans(arena, agents.search_budget)
    best = plans[int(np.argmax(scores))]
    arena.turns.finish(f"best of {len(plans)} random plans: {plan_words(best)}")
    what = f"{plan_words(best)}; best of {len(plans)} random plans"
    played = arena.play("random-best", what, fixed_plan_player(best))
    return Contestant("random-best", (played.outcomes,), search_multiply_adds=spent)


def _tried_plans(arena: Arena, budget: float) -> tuple[list[Plan], list[float], float]:
    """Return random plans, their mean scores, and the multiply-adds of trying them."""
    generator = np.random.default_rng(choices_seed(arena.rng_seed, _PLAN_PLAYER, 0))
    lockstep = len(arena.batches[0])
    hosts = min(SEARCH_HOSTS, lockstep)
    at_a_time = lockstep // hosts
    seeds = arena.further_seeds(hosts) * at_a_time
    plans: list[Plan] = []
    scores: list[float] = []
    spent = 0.0
    while spent < budget or not plans:
        tried = [random_plan(generator) for _ in range(at_a_time)]
        outcomes = arena.run("", _each_plan_player(tried, hosts), [seeds]).outcomes
        plans += tried
        scores += outcomes.score.reshape(at_a_time, hosts).mean(axis=1).tolist()
        spent += float(outcomes.multiply_adds.sum())
        arena.turns.at(min(1.0, spent / budget))
    return plans, scores, spent


def _each_plan_player(plans: list[Plan], hosts: int) -> Player:
    """Return a player that follows each plan in that many hosts."""
    by_host = [plan for plan in plans for _ in range(hosts)]
    return plan_player(lambda _hosts, _batch: by_host)


def halving(arena: Arena, agents: Agents) -> Contestant:
    """Return the fixed network that successive halving finds."""
    shapes = static_shapes(arena.settings.host_shape, round(agents.parameters))
    arena.turns.begin("halving: trying fixed networks")
    study, spent = _halved(arena, shapes, agents.search_budget)
    shape, pace = _choice(study.best_trial, shapes)
    trials = len(study.trials)
    arena.turns.finish(f"best of {trials} fixed networks: {shape.name}, {pace.words}")
    arena.turns.begin(f"halving: {shape.name}")
    outcomes = run_static(arena, shape, pace, f"; best of {trials} by successive halving")
    arena.turns.end(outcomes)
    return Contestant("halving", (outcomes,), search_multiply_adds=spent)


def _halved(arena: Arena, shapes: list[StaticShape], budget: float) -> tuple["Study", float]:
    """Return a study of fixed networks, and the multiply-adds that its trials spent."""
    import optuna  # an extra

    env = arena.settings
    seeds = arena.further_seeds(min(SEARCH_HOSTS, len(arena.batches[0])))
    first = max(1, round(env.steps * _FIRST_RUNG))
    rungs = [first * _REDUCTION**rung for rung in range(env.steps)]
    stops = [*(rung for rung in rungs if rung < env.steps), env.steps]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(
            seed=choices_seed(arena.rng_seed, _TRIAL_PLAYER, 0) % 2**32
        ),
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=first, reduction_factor=_REDUCTION
        ),
    )
    spent = 0.0
    while spent < budget or not study.trials:
        trial = study.ask()
        _draw_choice(trial, len(shapes))
        shape, pace = _choice(trial, shapes)
        training = StaticTraining(env, shape, seeds, pace.rates(env.steps))
        done = 0
        for stop in stops:
            training.advance(stop - done)
            done = stop
            value = float(np.nan_to_num(training.validation_accuracy()).mean())
            if stop == env.steps:
                study.tell(trial, value)
                break
            trial.report(value, stop)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        spent += float(training.multiply_adds * len(seeds))
        arena.turns.at(min(1.0, spent / budget))
    return study, spent


def _draw_choice(trial: "Trial", shapes: int) -> None:
    trial.suggest_int("shape", 0, shapes - 1)
    trial.suggest_float("rate", *_RATES, log=True)
    trial.suggest_categorical("is_falling", (False, True))


def _choice(trial: "Trial | FrozenTrial", shapes: list[StaticShape]) -> tuple[StaticShape, Pace]:
    chosen = trial.params
    return shapes[chosen["shape"]], Pace(chosen["rate"], chosen["is_falling"])
