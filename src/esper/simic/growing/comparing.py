"""The comparison: a grown network and its opponents are finished alike, and one is chosen."""

from collections.abc import Callable, Sequence

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.export.module_files import PortableModule, portable_module
from esper.growth.from_scratch import initial_network
from esper.growth.plain_modules import plain_module
from esper.growth.plain_networks import PlainShape
from esper.growth.tasks.folds import Folds
from esper.growth.tasks.task import Task
from esper.simic.growing.candidates import NAMES, Candidate, Kind, choose, size_of
from esper.simic.growing.episode import Say
from esper.simic.growing.finishing import Budget, finish, finish_data
from esper.simic.growing.records import Comparison, Episode
from esper.simic.requests import Limits


def compare(
    envs: Sequence[GrowthVectorEnv],
    folds: Folds,
    episodes: Sequence[Episode],
    fold: int,
    task: Task,
    rng_seed: int,
    limits: Limits,
    budget: Budget,
    say: Say,
    on_progress: Callable[[str, float], None],
) -> Comparison:
    """Finish the grown network and its opponents, and choose one.

    Args:
        envs, episodes: of each fold.
        folds: the folds.
        fold: the fold whose first weights the last run on all samples begins with.
        task: the task.
        rng_seed: the random seed.
        limits: what the network may cost.
        budget: time that is left.
        say: receives the result of each network.
        on_progress: receives what is finished, and the fraction that is done.
    """
    data = finish_data(task, folds)
    if data.is_folded:
        say(
            f"few samples: validation accuracies are means over {len(folds.tasks)} stratified "
            "folds, and the last training uses all samples but those for test"
        )
    sample = data.test.inputs[:1]
    starts: dict[Kind, list[PortableModule]] = {
        "grown": [portable_module(each.network, task) for each in episodes],
        "host": [portable_module(each.initial, task) for each in episodes],
    }
    if episodes[fold].network.seeds:
        starts["scratch"] = [
            portable_module(
                initial_network(env, each.architecture, each.rng_seeds[each.host]), task
            )
            for env, each in zip(envs, episodes, strict=True)
        ]
    grown_size = size_of(starts["grown"][fold], sample)
    about = dict.fromkeys(starts, "")
    if shape := _plain_shape(envs[0], task, grown_size.parameters, limits):
        starts["plain"] = [
            plain_module(shape, task, rng_seed + number) for number in range(len(envs))
        ]
        about["plain"] = shape.name
    growing = sum(each.seconds for each in episodes)
    candidates: list[Candidate] = []
    for number, (kind, networks) in enumerate(starts.items()):
        say(f"finishing {NAMES[kind]}")
        finished = finish(
            networks,
            data,
            rng_seed=rng_seed,
            last=fold,
            device=envs[0].device,
            budget=budget.share(len(starts) - number),
            report=_reporter(on_progress, f"finishing {NAMES[kind]}", number, len(starts)),
        )
        size = size_of(finished.portable, sample)
        candidates.append(
            Candidate(
                kind,
                about[kind],
                size,
                finished,
                finished.seconds + growing * (kind == "grown"),
                size.excess(limits),
            )
        )
    chosen, reason = choose(candidates, limits, envs[0].host_parameters)
    sources = [start.source for start in starts["grown"]]
    return Comparison(
        candidates=tuple(candidates),
        chosen=chosen,
        reason=reason,
        folds=len(folds.tasks) // folds.repeats,
        repeats=folds.repeats,
        grown_alike=sources.count(sources[fold]),
    )


def _reporter(
    on_progress: Callable[[str, float], None], what: str, number: int, parts: int
) -> Callable[[float], None]:
    """Return a function that reports the fraction of one of several parts."""
    return lambda done: on_progress(what, (number + done) / parts)


def _plain_shape(
    env: GrowthVectorEnv, task: Task, parameters: int, limits: Limits
) -> PlainShape | None:
    """Return the plain network of at most a size that is within the limits; None if there is none.

    A network of one channel is within its size always, but not within its limits.
    """
    like = env.host_shape
    sample = task.raw(task.test)[:1]
    narrowest = PlainShape(like.input_shape, like.classes, 1, like.symbols)

    def fits(shape: PlainShape) -> bool:
        if shape.channels > 1 and shape.parameters > parameters:
            return False
        return not size_of(plain_module(shape, task, 0), sample).excess(limits)

    return narrowest.within(fits)
