"""Growing: a trained policy grows networks on a task, and the best network is returned."""

import time
from collections import Counter

import numpy as np

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.export.module_files import portable_module
from esper.growth.from_scratch import train_from_scratch
from esper.growth.tasks.folds import Folds, folds_of, is_folded, unfolded
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.summary import summary_lines
from esper.leyline.text.plurals import counted
from esper.simic.command_progress import Report, no_report
from esper.simic.config import updated
from esper.simic.environment import make_environment, resolve_device
from esper.simic.evaluation.arena import agent_player, evaluation_seeds
from esper.simic.growing.candidates import size_of
from esper.simic.growing.comparing import compare
from esper.simic.growing.decisions import decision_lines
from esper.simic.growing.episode import Say, grow_hosts, leave_alone, waiting
from esper.simic.growing.finishing import Budget
from esper.simic.growing.limiting import Limiter
from esper.simic.growing.records import Episode, Grown, Measured
from esper.simic.growing.writing import check_module
from esper.simic.requests import GrowingError, Limits, check_growing
from esper.simic.training.trained_policy import TrainedPolicy

#: Share of the time of `--minutes` that growing may take; finishing takes the rest.
_GROWING_SHARE = 0.4
#: A step in which hosts grow takes about so many times as long as one in which they do not.
_GROWING_COST = 3.0
#: Share of the work that is finishing, for the progress display.
_FINISHING_WORK = 0.7


def grow(
    policy: TrainedPolicy,
    task: str,
    *,
    num_hosts: int,
    rng_seed: int,
    steps: int | None,
    limits: Limits | None = None,
    finishes: bool = True,
    say: Say,
    report: Report = no_report,
) -> Grown:
    """Let a policy grow networks, and return the best network.

    A task with few samples is divided into stratified folds, and networks grow in each of them.
    After growing, networks are finished and compared (`esper.simic.growing.finishing`).

    On CPU, with the same number of threads and no limit of time, the same arguments give bitwise
    the same network.

    Args:
        policy: the policy that grows them.
        task: name of the task.
        num_hosts: number of networks to grow, in each fold if there are folds.
        rng_seed: random seed; training never uses the hosts that it leads to.
        steps: steps of the episode; as many as in the training of the policy if None.
        limits: what the network may cost.
        finishes: whether networks are trained to convergence and compared; otherwise the network is
            returned as it is when growing ends.
        say: receives lines of progress.
        report: receives the progress after every step.

    Raises:
        GrowingError, UnknownTaskError, InvalidTaskError, HostShapeError, SliceSizeError: an
            argument or the data cannot be used.
        GrowingError: no grown network is finite, or none is within the limits.
    """
    check_growing(num_hosts, rng_seed, steps)
    began = time.monotonic()
    limits = limits or Limits()
    changes = {"task": task} | ({} if steps is None else {"steps": steps})
    config = updated(policy.config, changes)
    device = resolve_device(config.device)
    loaded = load_task(config.task)
    for line in summary_lines(loaded):
        say(line)
    folds = folds_of(loaded) if finishes and is_folded(loaded) else unfolded(loaded)
    envs = [make_environment(config, num_hosts, device, each) for each in folds.tasks]
    rng_seeds = evaluation_seeds(rng_seed, num_hosts * len(envs))
    by_fold = [rng_seeds[n * num_hosts : (n + 1) * num_hosts] for n in range(len(envs))]
    player = agent_player(policy.policy.to(device), rng_seed, 1)

    first = envs[0]
    first.reset(seed=by_fold[0])
    check_module(first)
    host = portable_module(first.finished_network(0), loaded)
    sample = loaded.raw(loaded.test)[:1]
    host_size = size_of(host, sample)
    limiters = [Limiter(env, limits, host_size) for env in envs]
    notes = _fit_into_time(envs, by_fold[0], limits, say)
    _say_growing(folds, num_hosts, first.steps, say)
    work = _Work(len(envs), first.steps, num_hosts, finishes, report)
    episodes: list[Episode] = []
    for number, (env, seeds) in enumerate(zip(envs, by_fold, strict=True)):
        progress = _StepLines(env, folds, say)

        def on_step(
            step: int, best: float, number: int = number, line: _StepLines = progress
        ) -> None:
            work.grown(number, step)
            line(step, best)

        episodes.append(
            grow_hosts(env, player, number, seeds, limiters[number], on_step=on_step, say=say)
        )
    if limited := sum(each.limited_steps for each in limiters):
        notes.append(f"in {counted(limited, 'step')} a seed that would exceed it was ruled out")
    fold = _most_frequent(episodes)
    env, episode = envs[fold], episodes[fold]
    say(
        "training for comparison: the same host without growth, and the same architecture from "
        "scratch"
    )
    trained = train_from_scratch(
        env,
        episode.architecture,
        [episode.rng_seeds[episode.host]],
        np.array([env.steps]),
        work.trained,
    )
    without_growth, idle_accuracy = leave_alone(
        env, episode.rng_seeds, episode.host, work.left_alone
    )
    comparison = None
    portable, logits = portable_module(episode.network, loaded), episode.logits
    if finishes:
        ends = None if limits.minutes is None else began + 60 * limits.minutes
        comparison = compare(
            envs, folds, episodes, fold, loaded, rng_seed, limits, Budget(ends), say, work.finished
        )
        if cut := sum(each.finished.is_cut_short for each in comparison.candidates):
            notes.append(
                f"--minutes {limits.minutes:g} left no time to finish {counted(cut, 'network')}"
            )
        chosen = comparison.chosen.finished
        portable, logits = chosen.portable, chosen.logits
    elif excess := size_of(portable, sample).excess(limits):
        raise GrowingError(f"the grown network has {excess}; raise the limit or finish it")
    return Grown(
        policy=policy,
        task=loaded,
        rng_seed=rng_seed,
        steps=env.steps,
        samples=env.batch * env.batches,
        limits=limits,
        portable=portable,
        logits=logits,
        episode=episode,
        without_growth=without_growth,
        idle_accuracy=idle_accuracy,
        from_scratch=Measured(
            int(trained.parameters[0]),
            float(trained.validation_accuracy[0]),
            float(trained.test_accuracy[0]),
            float(trained.multiply_adds[0]),
        ),
        comparison=comparison,
        decisions=tuple(decision_lines(policy, episode, device, loaded)),
        notes=tuple(notes),
    )


def _most_frequent(episodes: list[Episode]) -> int:
    """Return the first fold with the most frequent architecture, the smaller one of equals."""
    keys = [
        (each.architecture.blueprint.tobytes(), each.architecture.style.tobytes())
        for each in episodes
    ]
    counts = Counter(keys)
    return min(
        range(len(episodes)),
        key=lambda fold: (-counts[keys[fold]], episodes[fold].result.parameters, fold),
    )


def _fit_into_time(
    envs: list[GrowthVectorEnv], rng_seeds: list[int], limits: Limits, say: Say
) -> list[str]:
    """Shorten the episodes of all folds to the time that growing may take; return what was done."""
    if limits.minutes is None:
        return []
    env = envs[0]
    decide = waiting(env.num_envs, 0)
    observations, info = env.reset(seed=rng_seeds)
    begin = time.monotonic()
    env.step(decide(observations, info))
    of_a_step = (time.monotonic() - begin) * _GROWING_COST * len(envs)
    most = max(1, int(_GROWING_SHARE * 60 * limits.minutes / of_a_step))
    if most >= env.steps:
        return []
    note = f"--minutes {limits.minutes:g} left time for {most} of {env.steps} steps of growing"
    say(note)
    for each in envs:
        each.steps = most
    return [note]


def _say_growing(folds: Folds, num_hosts: int, steps: int, say: Say) -> None:
    count = len(folds.tasks)
    where = ""
    if count > 1:
        twice = ", drawn twice" if folds.repeats == 2 else ""
        where = f" in each of {count // folds.repeats} folds{twice}"
    say(f"growing {counted(num_hosts, 'network')}{where}, {counted(steps, 'step')}")


class _StepLines:
    """Says four times in an episode how far it is, if there is only one."""

    def __init__(self, env: GrowthVectorEnv, folds: Folds, say: Say) -> None:
        self._env, self._say = env, say
        self._is_single = len(folds.tasks) == 1

    def __call__(self, step: int, best: float) -> None:
        steps = self._env.steps
        if self._is_single and step % max(1, steps // 4) == 0:
            largest = self._env.task.validation.largest_class
            self._say(
                f"step {step} of {steps}: best accuracy {best:.3f} (largest class {largest:.3f})"
            )


class _Work:
    """Reports the progress of growing, weighted by the time that its parts take.

    A step of all hosts without seeds takes about half as long as one in which they grow, and a
    step of one network a fraction of that.
    """

    def __init__(
        self, folds: int, steps: int, num_hosts: int, finishes: bool, report: Report
    ) -> None:
        self._folds, self._steps = folds, steps
        self._parts = (float(folds), 1.0 / num_hosts, 0.5)
        self._share = 1 - _FINISHING_WORK * finishes
        self._report = report

    def grown(self, fold: int, step: int) -> None:
        self._at(0, "growing", (fold + step / self._steps) / self._folds, step)

    def trained(self, step: int) -> None:
        self._at(1, "the same architecture from scratch", step / self._steps, step)

    def left_alone(self, step: int) -> None:
        self._at(2, "the same host without growth", step / self._steps, step)

    def finished(self, what: str, fraction: float) -> None:
        self._report(what, self._share + (1 - self._share) * fraction)

    def _at(self, part: int, what: str, fraction: float, step: int) -> None:
        before = sum(self._parts[:part])
        done = (before + self._parts[part] * fraction) / sum(self._parts)
        self._report(f"{what}, step {step} of {self._steps}", self._share * done)
