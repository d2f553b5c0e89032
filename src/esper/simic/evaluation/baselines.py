"""The baselines that an agent is compared with, each on the agent's episodes.

| name                  | what it is                                                             |
|-----------------------|------------------------------------------------------------------------|
| `none`                | the host without growth                                                |
| `none-tuned`          | the same at the best of `PACES`, by validation accuracy                |
| `none-same-cost`      | the same, trained until the agent's mean multiply-adds are spent       |
| `random`              | a legal op, a legal slot and all other choices, each drawn uniformly   |
| `random-plan`         | a random seed in every slot of every host, blended in at once          |
| `random-best`         | the random plan with the best score among as many as the agent's       |
|                       | training paid for                                                      |
| `constant`            | the agent's most frequent plan in other episodes, played without       |
|                       | looking                                                                |
| `heuristic`           | the best of the hand-written rules, by score                           |
| `heuristic-same-cost` | the same, each with as many steps as the agent's multiply-adds pay     |
|                       | for; runs with it                                                      |
| `static`              | the best fixed network of about the agent's size, each kind at the     |
|                       | best of `PACES`, all by validation accuracy                            |
| `halving`             | the same, found by successive halving with the multiply-adds that the  |
|                       | agent was trained with                                                 |
| `cnn`                 | a plain PyTorch network of the agent's size, at the best of            |
|                       | `LEARNING_RATES` by validation accuracy                                |
| `same-architecture`   | the agent's final networks, trained from the first step                |
| `same-cost`           | the same, for as many multiply-adds as the agent used; runs with it    |

The best of several candidates is chosen by the reported measure, which favours the baseline.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.environment.observation import FEATURES
from esper.growth.from_scratch import Architecture, Trained, bare_hosts, train_from_scratch
from esper.growth.hosts.seeds import empty_seeds
from esper.growth.hosts.training_cost import training_multiply_adds
from esper.growth.plain_networks import PlainShape, plain_shape, train_plain
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES
from esper.simic.evaluation.arena import (
    Arena,
    Decide,
    Played,
    Player,
    choices_seed,
    joined,
)
from esper.simic.evaluation.contestants import Agents, Contestant, scored, whole
from esper.simic.evaluation.outcomes import Outcomes
from esper.simic.evaluation.plans import (
    Plan,
    PlanRecorder,
    fixed_plan_player,
    plan_player,
    plan_words,
    random_plan,
)
from esper.simic.evaluation.searches import halving, random_best
from esper.simic.evaluation.static_opponents import static, static_turns
from esper.simic.evaluation.tuning import LEARNING_RATES, PACES, Pace, best_pace
from esper.tamiyo.heuristic import HAND_RULES, HeuristicPolicy, Rule

# Numbers of players; policies count from 1.
_RANDOM_PLAYER, _RANDOM_PLAN_PLAYER = 0, 2**20 + 2


def turns_of(name: str, arena: Arena, agents: int) -> int:
    """Return the number of runs of a baseline, for the progress display.

    Args:
        name: a name in `esper.simic.evaluation.baseline_names.BASELINES`.
        arena: task and episodes.
        agents: number of evaluated policies.
    """
    match name:
        case "constant":
            return 2 * agents
        case "random-best" | "halving":
            return 2
        case "heuristic":
            return 2 * len(HAND_RULES)
        case "static":
            return static_turns(arena)
        case "same-architecture":
            return 2 * agents
    return 1


def run_baseline(name: str, arena: Arena, agents: Agents) -> list[Contestant]:
    """Run one baseline, and the one that always runs with it, if any.

    Args:
        name: a name in `esper.simic.evaluation.baseline_names.BASELINES`.
        arena: task and episodes.
        agents: the evaluated policies.
    """
    match name:
        case "none":
            return [Contestant(name, (arena.play(name, "nothing grows", _wait).outcomes,))]
        case "none-tuned":
            return [_bare(name, arena, arena.settings.steps)]
        case "none-same-cost":
            return [_bare(name, arena, _steps_for(arena, agents.multiply_adds))]
        case "random":
            player = random_player(arena.rng_seed)
            played = arena.play(name, "uniform legal choices", player)
            return [Contestant(name, (played.outcomes,))]
        case "random-plan":
            player = random_plan_player(arena.rng_seed)
            played = arena.play(name, "a random plan in every host", player)
            return [Contestant(name, (played.outcomes,))]
        case "random-best":
            return [random_best(arena, agents)]
        case "constant":
            return [_constant(arena, agents)]
        case "heuristic":
            return _heuristic(arena, agents)
        case "static":
            return [static(arena, agents)]
        case "halving":
            return [halving(arena, agents)]
        case "cnn":
            return [_cnn(arena, agents)]
        case "same-architecture":
            return _same_architecture(arena, agents.played)
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


def random_plan_player(rng_seed: int) -> Player:
    """Return a player that follows another random plan in every host."""

    def plans(hosts: int, batch: int) -> list[Plan]:
        generator = np.random.default_rng(choices_seed(rng_seed, _RANDOM_PLAN_PLAYER, batch))
        return [random_plan(generator) for _ in range(hosts)]

    return plan_player(plans)


def _steps_for(arena: Arena, multiply_adds: float) -> int:
    """Return the number of steps that a bare host can train for at a cost."""
    env = arena.settings
    (of_a_sample,) = training_multiply_adds(env.host_shape, empty_seeds(1))
    return max(1, round(multiply_adds / (of_a_sample * env.batch * env.batches)))


def _bare(name: str, arena: Arena, steps: int) -> Contestant:
    """Return hosts without growth, trained for a number of steps at their best pace."""

    def train(seeds: Sequence[int], pace: Pace) -> list[Trained]:
        divided = functools.partial(_bare_arguments, seeds, pace.rates(steps))
        trained: list[Trained] = arena.hosts(len(seeds)).call(_train_bare, divided)
        return trained

    arena.turns.begin(f"{name}: nothing grows, {steps} steps")
    pace, spent = best_pace(arena, PACES, lambda seeds, pace: whole(train(seeds, pace)))
    parts: list[Trained] = []
    for seeds in arena.batches:
        parts += train(seeds, pace)
    outcomes = scored(arena, f"nothing grows, {steps} steps, {pace.words}", whole(parts))
    arena.turns.end(outcomes)
    return Contestant(name, (outcomes,), search_multiply_adds=spent)


def _bare_arguments(
    seeds: Sequence[int], rates: Sequence[float], part: slice
) -> tuple[Sequence[int], Sequence[float]]:
    return seeds[part], rates


def _train_bare(env: GrowthVectorEnv, seeds: Sequence[int], rates: Sequence[float]) -> Trained:
    steps = np.full(len(seeds), len(rates))
    return train_from_scratch(env, bare_hosts(len(seeds)), seeds, steps, learning_rates=rates)


def _cnn(arena: Arena, agents: Agents) -> Contestant:
    shape = plain_shape(arena.settings.host_shape, round(agents.parameters))

    def train(seeds: Sequence[int], pace: Pace) -> list[Trained]:
        divided = functools.partial(_plain_arguments, shape, seeds, pace.rate)
        trained: list[Trained] = arena.hosts(len(seeds)).call(train_plain, divided)
        return trained

    arena.turns.begin(f"cnn: {shape.name}")
    paces = [Pace(rate, is_falling=True) for rate in LEARNING_RATES]
    pace, spent = best_pace(arena, paces, lambda seeds, pace: whole(train(seeds, pace)))
    parts: list[Trained] = []
    for number, seeds in enumerate(arena.batches, start=1):
        parts += train(seeds, pace)
        arena.turns.at(0.5 + 0.5 * number / len(arena.batches))
    outcomes = scored(arena, f"{shape.name}, one-cycle Adam {pace.rate:g}", whole(parts))
    arena.turns.end(outcomes)
    return Contestant("cnn", (outcomes,), search_multiply_adds=spent)


def _plain_arguments(
    shape: PlainShape, seeds: Sequence[int], rate: float, part: slice
) -> tuple[PlainShape, Sequence[int], float]:
    return shape, seeds[part], rate


def _constant(arena: Arena, agents: Agents) -> Contestant:
    strata, spent = [], agents.training_multiply_adds
    for player in agents.players:
        arena.turns.begin("constant: looking for the agent's most frequent plan")
        recorder = PlanRecorder(player)
        others = arena.further_seeds(len(arena.batches[0]))
        played = arena.run("", recorder, [others], first=len(arena.batches), report=arena.turns.at)
        plan, count = recorder.most_frequent(played.architecture)
        arena.turns.finish(f"{count} of {len(others)} hosts: {plan_words(plan)}")
        spent += float(played.outcomes.multiply_adds.sum()) / len(agents.players)
        what = f"{plan_words(plan)}; {count} of {len(others)} other hosts of the agent"
        strata.append(arena.play("constant", what, fixed_plan_player(plan)).outcomes)
    return Contestant("constant", tuple(strata), search_multiply_adds=spent)


def _heuristic(arena: Arena, agents: Agents) -> list[Contestant]:
    steps = arena.settings.steps
    played = {
        what: arena.play("heuristic", what, rule_player(rule)) for what, rule in HAND_RULES.items()
    }
    longer = []
    for what, short in played.items():
        left = agents.multiply_adds - short.outcomes.multiply_adds.mean()
        paid = max(1, steps + int(left // short.last_step.mean()))
        player = rule_player(HAND_RULES[what])
        words = f"{what}, {paid} steps"
        longer.append(arena.play("heuristic-same-cost", words, player, steps=paid).outcomes)
    return [
        _best_by_score("heuristic", [each.outcomes for each in played.values()]),
        _best_by_score("heuristic-same-cost", longer),
    ]


def _best_by_score(name: str, candidates: Sequence[Outcomes]) -> Contestant:
    best = max(candidates, key=lambda outcomes: outcomes.score.mean())
    spent = sum(float(each.multiply_adds.sum()) for each in candidates if each is not best)
    return Contestant(name, (best,), tuple(candidates), search_multiply_adds=spent)


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
        parts += [scored(arena, what, each) for each in trained]
        start += len(seeds)
        arena.turns.at(start / sum(map(len, arena.batches)))
    outcomes = joined(parts)
    arena.turns.end(outcomes)
    return outcomes


def _grown(
    architecture: Architecture, seeds: Sequence[int], steps: np.ndarray, part: slice
) -> tuple[Architecture, Sequence[int], np.ndarray]:
    return architecture.take(part), seeds[part], steps[part]
