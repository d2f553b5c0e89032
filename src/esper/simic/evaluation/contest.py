"""An evaluation: policies against baselines, from checkpoints to figures with intervals."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from esper.growth.tasks.summary import summary_lines
from esper.simic.command_progress import Report, no_report
from esper.simic.environment import resolve_device
from esper.simic.evaluation.arena import Arena, agent_player
from esper.simic.evaluation.baselines import run_baseline, turns_of
from esper.simic.evaluation.contestants import Agents, Contestant
from esper.simic.evaluation.statistics import (
    Estimate,
    improvement_estimate,
    iqm_estimate,
    mean_estimate,
    paired_improvement_estimate,
)
from esper.simic.evaluation.turns import Turns
from esper.simic.requests import check_evaluation
from esper.simic.training.trained_policy import TrainedPolicy

#: The compared measures, fields of `Outcomes`.
MEASURES = ("test_accuracy", "score")


@dataclass(frozen=True)
class Standing:
    """The figures of one contestant in one measure.

    Attributes:
        iqm, mean: interquartile mean and mean over all episodes.
        agent_better: probability that the agent is better in one episode than the contestant in
            another; None for the agent.
        agent_better_alike: the same within one episode, where both have the same first weights and
            order of data.
    """

    iqm: Estimate
    mean: Estimate
    agent_better: Estimate | None
    agent_better_alike: Estimate | None


@dataclass(frozen=True)
class Entry:
    """A contestant with its standings, by measure."""

    contestant: Contestant
    standings: dict[str, Standing]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        policies: the evaluated policies, in the order of the agent's strata.
        task, steps: task and steps of all episodes.
        host_parameters: number of parameters of a host before any growth.
        largest_class: test accuracy of always answering with the largest class.
        episodes: number of episodes.
        rng_seed: random seed of the evaluation.
        entries: the agent, then the baselines.
    """

    policies: tuple[TrainedPolicy, ...]
    task: str
    steps: int
    host_parameters: int
    largest_class: float
    episodes: int
    rng_seed: int
    entries: tuple[Entry, ...]


def evaluate(
    policies: Sequence[TrainedPolicy],
    *,
    episodes: int,
    against: Sequence[str],
    rng_seed: int,
    search_episodes: int | None = None,
    say: Callable[[str], None],
    report: Report = no_report,
) -> Evaluation:
    """Compare policies with baselines on the same episodes.

    On CPU, with the same number of processes and threads, the same arguments give bitwise the same
    figures.

    Args:
        policies: policies of one task; several are training runs of one agent with different
            random seeds, and become its strata.
        episodes: number of episodes of each contestant.
        against: names of baselines, in the order of the report.
        rng_seed: random seed of the evaluation.
        search_episodes: episodes of the agent whose multiply-adds each of `SEARCHES` may spend on
            its search; by default as many as the policies were trained with.
        say: receives a line when a contestant begins and when it ends.
        report: receives the progress after every step.

    Raises:
        EvaluationError: the policies do not belong together, or there are too few episodes.
    """
    config = policies[0].config
    check_evaluation([(each.name, each.config) for each in policies], episodes, rng_seed)
    device = resolve_device(config.device)
    with contextlib.closing(Arena(config, device, episodes=episodes, rng_seed=rng_seed)) as arena:
        task = arena.settings.task
        for line in summary_lines(task):
            say(line)
        for trained in policies:
            if trained.data and trained.data != task.fingerprint:
                say(f"note: the data of {task.name} is not what {trained.name} was trained on")
        turns = len(policies) + sum(turns_of(name, arena, len(policies)) for name in against)
        arena.turns = Turns(turns, task.test.largest_class, say, report)
        players = [
            agent_player(trained.policy.to(device), rng_seed, number)
            for number, trained in enumerate(policies, start=1)
        ]
        agents = Agents(
            players,
            [
                arena.play("agent", trained.name, player)
                for trained, player in zip(policies, players, strict=True)
            ],
            [trained.episodes for trained in policies],
            search_episodes,
        )
        agent = Contestant(
            "agent",
            tuple(each.outcomes for each in agents.played),
            search_multiply_adds=agents.training_multiply_adds,
        )
        contestants = [agent]
        for name in against:
            contestants += run_baseline(name, arena, agents)
    return Evaluation(
        policies=tuple(policies),
        task=arena.settings.task.name,
        steps=config.steps,
        host_parameters=arena.settings.host_parameters,
        largest_class=task.test.largest_class,
        episodes=episodes,
        rng_seed=rng_seed,
        entries=tuple(_entry(each, agent, rng_seed) for each in contestants),
    )


def _entry(contestant: Contestant, agent: Contestant, rng_seed: int) -> Entry:
    """Return a contestant with its standings, which do not depend on the other contestants."""
    generator = np.random.default_rng([rng_seed, *contestant.name.encode()])
    standings = {}
    for measure in MEASURES:
        values = [getattr(outcomes, measure) for outcomes in contestant.strata]
        ours = [getattr(outcomes, measure) for outcomes in agent.strata]
        standings[measure] = Standing(
            iqm=iqm_estimate(values, generator),
            mean=mean_estimate(values, generator),
            agent_better=None
            if contestant is agent
            else improvement_estimate(ours, values, generator),
            agent_better_alike=None
            if contestant is agent
            else paired_improvement_estimate(ours, values, generator),
        )
    return Entry(contestant, standings)
