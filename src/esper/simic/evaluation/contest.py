"""A contest: policies against baselines, from checkpoints to figures with intervals."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from esper.growth.tasks.summary import summary_lines
from esper.simic.command_progress import Report, no_report
from esper.simic.environment import resolve_device
from esper.simic.evaluation.arena import Arena, agent_player
from esper.simic.evaluation.baselines import Contestant, run_baseline, turns_of
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

#: What is compared, each a field of `Outcomes`.
MEASURES = ("test_accuracy", "score")


@dataclass(frozen=True)
class Standing:
    """What one contestant came to in one measure.

    Attributes:
        iqm, mean: interquartile mean and mean over all episodes.
        agent_better: probability that the agent is better in an episode than the contestant in
            another; None for the agent.
        agent_better_alike: the same in the same episode, where both have the same first weights
            and order of data.
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
    """What came of a contest; the agent is the first entry.

    Attributes:
        policies: evaluated, in the order of the agent's strata.
        task, steps: that all contestants lived through.
        host_parameters: of a host before any growth.
        largest_class: test accuracy of always answering with the largest class.
        episodes, seed: of the evaluation.
        entries: the agent, then the baselines.
    """

    policies: tuple[TrainedPolicy, ...]
    task: str
    steps: int
    host_parameters: int
    largest_class: float
    episodes: int
    seed: int
    entries: tuple[Entry, ...]


def evaluate(
    policies: Sequence[TrainedPolicy],
    *,
    episodes: int,
    against: Sequence[str],
    seed: int,
    say: Callable[[str], None],
    report: Report = no_report,
) -> Evaluation:
    """Let policies and baselines live through the same episodes, and compare them.

    The same arguments give the same figures, bit for bit, on CPU with as many processes
    and threads.

    Args:
        policies: of one task; several are the agent's strata (training runs with other seeds).
        episodes: that each of them lives through.
        against: names of `BASELINES`, in the order in which they are told of.
        seed: of everything random.
        say: receives a line when a contestant begins and when it ends.
        report: receives what is being done after every step.

    Raises:
        EvaluationError: policies do not belong together, or too few episodes.
    """
    config = policies[0].config
    check_evaluation([(each.name, each.config) for each in policies], episodes, seed)
    device = resolve_device(config.device)
    with contextlib.closing(Arena(config, device, episodes=episodes, seed=seed)) as arena:
        task = arena.settings.task
        for line in summary_lines(task):
            say(line)
        for trained in policies:
            if trained.data and trained.data != task.fingerprint:
                say(f"note: the data of {task.name} is not what {trained.name} was trained on")
        turns = len(policies) + sum(turns_of(name, arena, len(policies)) for name in against)
        arena.turns = Turns(turns, task.test.largest_class, say, report)
        played = []
        for number, trained in enumerate(policies, start=1):
            policy = trained.policy.to(device)
            played.append(arena.play("agent", trained.name, agent_player(policy, seed, number)))
        agent = Contestant("agent", tuple(each.outcomes for each in played))
        contestants = [agent]
        for name in against:
            contestants += run_baseline(name, arena, played)
    generator = np.random.default_rng(seed)
    return Evaluation(
        policies=tuple(policies),
        task=arena.settings.task.name,
        steps=config.steps,
        host_parameters=arena.settings.host_parameters,
        largest_class=task.test.largest_class,
        episodes=episodes,
        seed=seed,
        entries=tuple(_entry(each, agent, generator) for each in contestants),
    )


def _entry(contestant: Contestant, agent: Contestant, generator: np.random.Generator) -> Entry:
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
