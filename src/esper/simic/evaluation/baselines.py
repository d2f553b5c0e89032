"""The baselines that an agent is compared with, each on the agent's episodes.

| name                | what it is                                                               |
|---------------------|--------------------------------------------------------------------------|
| `none`              | the host without growth                                                  |
| `random`            | a legal op, a legal slot and all other choices, each drawn uniformly     |
| `heuristic`         | the best of the hand-written rules, by score                             |
| `static`            | the best fixed network of about the agent's size, each kind trained with |
|                     | the best of `LEARNING_RATES`, all by validation accuracy                 |
| `same-architecture` | the agent's final networks, trained from the first step                  |
| `same-cost`         | the same, for as many multiply-adds as the agent used; runs with it      |

The best of several candidates is chosen by the reported measure, which favours the baseline.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esper.growth.environment.observation import FEATURES
from esper.growth.environment.reward import final_score
from esper.growth.from_scratch import Architecture, Trained, train_from_scratch
from esper.growth.static_networks import StaticShape, static_shapes, train_static
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES
from esper.simic.evaluation.arena import (
    Arena,
    Decide,
    Outcomes,
    Played,
    Player,
    choices_seed,
    joined,
)
from esper.tamiyo.heuristic import HAND_RULES, HeuristicPolicy, Rule

#: Multiples of the agent's size at which the best kinds of fixed networks are run, too.
OTHER_SIZES = (0.5, 2.0)
#: Number of those best kinds.
KINDS_RESIZED = 3
#: Adam's learning rates that each kind of fixed network is tried with, constant and falling to 0.
LEARNING_RATES = (0.01, 0.02, 0.04, 0.08)
#: Number of episodes by whose validation accuracy a rate is chosen.
TUNING_EPISODES = 16

_RANDOM_PLAYER = 0  # policies count from 1


@dataclass(frozen=True)
class Contestant:
    """One side of a comparison.

    Attributes:
        name: a name in the table above, or `agent`.
        strata: its results: one, or one for each evaluated policy.
        candidates: the results of all candidates, itself included.
        resized: results of smaller and larger networks of its kind, for the size frontier.
    """

    name: str
    strata: tuple[Outcomes, ...]
    candidates: tuple[Outcomes, ...] = ()
    resized: tuple[Outcomes, ...] = ()


@dataclass(frozen=True)
class _Pace:
    """How fast a fixed network learns: Adam's learning rate, and whether it falls to 0."""

    rate: float
    is_falling: bool

    @property
    def words(self) -> str:
        """In words."""
        return f"Adam {self.rate:g}{' falling to 0' if self.is_falling else ''}"

    def rates(self, steps: int) -> list[float]:
        """Return the rate in each step of an episode."""
        return [self.rate * (1 - step / steps if self.is_falling else 1) for step in range(steps)]


_PACES = tuple(_Pace(rate, falls) for rate in LEARNING_RATES for falls in (False, True))


def turns_of(name: str, arena: Arena, agents: int) -> int:
    """Return the number of runs of a baseline, for the progress display.

    Args:
        name: a name in `esper.simic.evaluation.baseline_names.BASELINES`.
        arena: task and episodes.
        agents: number of evaluated policies.
    """
    match name:
        case "heuristic":
            return len(HAND_RULES)
        case "static":
            settings = arena.settings
            kinds = len(static_shapes(settings.host_shape, settings.host_parameters))
            return kinds + len(OTHER_SIZES) * min(KINDS_RESIZED, kinds)
        case "same-architecture":
            return 2 * agents
    return 1


def run_baseline(name: str, arena: Arena, agents: Sequence[Played]) -> list[Contestant]:
    """Run one baseline; `same-architecture` returns `same-cost`, too.

    Args:
        name: a name in `esper.simic.evaluation.baseline_names.BASELINES`.
        arena: task and episodes.
        agents: results of the evaluated policies, for sizes and architectures.
    """
    match name:
        case "none":
            return [Contestant(name, (arena.play(name, "nothing grows", _wait).outcomes,))]
        case "random":
            player = random_player(arena.rng_seed)
            played = arena.play(name, "uniform legal choices", player)
            return [Contestant(name, (played.outcomes,))]
        case "heuristic":
            return [_heuristic(arena)]
        case "static":
            return [_static(arena, agents)]
        case "same-architecture":
            return _same_architecture(arena, agents)
    raise AssertionError(name)


def _wait(hosts: int, _batch: int) -> Decide:
    actions = np.zeros((hosts, len(HEAD_NAMES)), dtype=np.int64)
    return lambda _observations, _info: actions


def random_player(rng_seed: int) -> Player:
    """Return a player that draws a legal op, a slot legal for it, and the rest, uniformly."""

    def begin(_hosts: int, batch: int) -> Decide:
        generator = np.random.default_rng(choices_seed(rng_seed, _RANDOM_PLAYER, batch))

        def decide(_observations: np.ndarray, info: dict[str, Any]) -> np.ndarray:
            legal = info["slot_mask_by_op"]  # [N, ops, S]
            actions = generator.integers(HEAD_SIZES, size=(len(legal), len(HEAD_NAMES)))
            op = _draw(generator, legal.any(axis=2))
            actions[:, HEAD_NAMES.index("op")] = op
            slots = legal[np.arange(len(legal)), op]
            actions[:, HEAD_NAMES.index("slot")] = _draw(generator, slots)
            return actions

        return decide

    return begin


def _draw(generator: np.random.Generator, allowed: np.ndarray) -> np.ndarray:
    """Draw one of the allowed columns of each row, uniformly. `[N, K]` -> `[N]`"""
    drawn: np.ndarray = np.where(allowed, generator.random(allowed.shape), -1.0).argmax(axis=1)
    return drawn


def rule_player(rule: Rule) -> Player:
    """Return a player that decides by a hand-written rule."""
    policy = HeuristicPolicy([feature.name for feature in FEATURES], rule)

    def begin(_hosts: int, _batch: int) -> Decide:
        return lambda observations, info: policy.act(observations, info["slot_mask_by_op"])

    return begin


def _heuristic(arena: Arena) -> Contestant:
    candidates = [
        arena.play("heuristic", what, rule_player(rule)).outcomes
        for what, rule in HAND_RULES.items()
    ]
    best = max(candidates, key=lambda outcomes: outcomes.score.mean())
    return Contestant("heuristic", (best,), tuple(candidates))


def _static(arena: Arena, agents: Sequence[Played]) -> Contestant:
    settings = arena.settings
    parameters = float(np.median([agent.outcomes.parameters for agent in agents]))

    def trained(shape: StaticShape, pace: _Pace, seeds: Sequence[int]) -> list[Trained]:
        rates = pace.rates(settings.steps)
        divided = functools.partial(_static_arguments, shape, seeds, rates)
        parts: list[Trained] = arena.hosts(len(seeds)).call(train_static, divided)
        return parts

    def best_pace(shape: StaticShape) -> _Pace:
        seeds = arena.batches[0][:TUNING_EPISODES]
        found = {}
        for number, pace in enumerate(_PACES, start=1):
            tried = train_static(settings, shape, seeds, pace.rates(settings.steps))
            found[pace] = float(np.nan_to_num(tried.validation_accuracy).mean())
            arena.turns.at(number / (len(_PACES) + len(arena.batches)))
        return max(_PACES, key=lambda pace: found[pace])

    def run(shape: StaticShape, known: _Pace | None = None) -> tuple[Outcomes, _Pace]:
        arena.turns.begin(f"static: {shape.name}")
        pace = known or best_pace(shape)
        parts = []
        for number, seeds in enumerate(arena.batches, start=1):
            parts += trained(shape, pace, seeds)
            arena.turns.at((len(_PACES) + number) / (len(_PACES) + len(arena.batches)))
        what = f"{shape.name}, {pace.words}"
        outcomes = joined([_scored(arena, what, each) for each in parts])
        arena.turns.end(outcomes)
        return outcomes, pace

    shapes = static_shapes(settings.host_shape, round(parameters))
    candidates, paces = zip(*map(run, shapes), strict=True)
    ranked = sorted(
        range(len(shapes)), key=lambda kind: -candidates[kind].validation_accuracy.mean()
    )
    return Contestant(
        "static",
        (candidates[ranked[0]],),
        tuple(candidates),
        tuple(
            run(shapes[kind].resized(round(parameters * size)), paces[kind])[0]
            for size in OTHER_SIZES
            for kind in ranked[:KINDS_RESIZED]
        ),
    )


def _same_architecture(arena: Arena, agents: Sequence[Played]) -> list[Contestant]:
    what = "same-architecture: the agent's final networks, trained from the first step"
    whole = [_from_scratch(arena, what, agent, None) for agent in agents]
    what = "same-cost: the same, for as many multiply-adds as the agent used"
    cut = [
        _from_scratch(arena, what, agent, _affordable_steps(arena, agent, same))
        for agent, same in zip(agents, whole, strict=True)
    ]
    return [
        Contestant("same-architecture", tuple(whole)),
        Contestant("same-cost", tuple(cut)),
    ]


def _affordable_steps(arena: Arena, agent: Played, same: Outcomes) -> np.ndarray:
    """Return the number of steps a final network can train for at the agent's cost. `[E]`"""
    each_step = same.multiply_adds / arena.settings.steps
    steps = np.rint(agent.outcomes.multiply_adds / each_step).astype(np.int64)
    return np.maximum(steps, 1)


def _from_scratch(arena: Arena, turn: str, agent: Played, steps: np.ndarray | None) -> Outcomes:
    arena.turns.begin(turn)
    what = "grown network from its first step"
    parts, start = [], 0
    for seeds in arena.batches:
        here = slice(start, start + len(seeds))
        lengths = np.full(len(seeds), arena.settings.steps) if steps is None else steps[here]
        divided = functools.partial(_grown, agent.architecture.take(here), seeds, lengths)
        trained = arena.hosts(len(seeds)).call(train_from_scratch, divided)
        parts += [_scored(arena, what, each) for each in trained]
        start += len(seeds)
        arena.turns.at(start / sum(map(len, arena.batches)))
    outcomes = joined(parts)
    arena.turns.end(outcomes)
    return outcomes


def _static_arguments(
    shape: StaticShape, seeds: Sequence[int], rates: Sequence[float], part: slice
) -> tuple[StaticShape, Sequence[int], Sequence[float]]:
    return shape, seeds[part], rates


def _grown(
    architecture: Architecture, seeds: Sequence[int], steps: np.ndarray, part: slice
) -> tuple[Architecture, Sequence[int], np.ndarray]:
    return architecture.take(part), seeds[part], steps[part]


def _scored(arena: Arena, what: str, trained: Trained) -> Outcomes:
    """Return the results of networks that were trained without an environment."""
    env = arena.settings
    added_ratio = trained.parameters / env.host_parameters - 1
    return Outcomes(
        what,
        test_accuracy=trained.test_accuracy,
        validation_accuracy=trained.validation_accuracy,
        score=final_score(trained.validation_accuracy, added_ratio, env.reward_settings),
        parameters=trained.parameters,
        multiply_adds=trained.multiply_adds,
    )
