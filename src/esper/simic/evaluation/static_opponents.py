"""Fixed networks of about the agent's size, each kind at its best pace."""

import functools
from collections.abc import Sequence

from esper.growth.from_scratch import Trained
from esper.growth.static_networks import StaticShape, static_shapes, train_static
from esper.simic.evaluation.arena import Arena, joined
from esper.simic.evaluation.contestants import Agents, Contestant, scored
from esper.simic.evaluation.outcomes import Outcomes
from esper.simic.evaluation.tuning import PACES, Pace, best_pace

#: Multiples of the agent's size at which the best kinds of fixed networks are run, too.
OTHER_SIZES = (0.5, 2.0)
#: Number of those best kinds.
KINDS_RESIZED = 3


def static_turns(arena: Arena) -> int:
    """Return the number of runs of `static`."""
    settings = arena.settings
    kinds = len(static_shapes(settings.host_shape, settings.host_parameters))
    return kinds + len(OTHER_SIZES) * min(KINDS_RESIZED, kinds)


def static(arena: Arena, agents: Agents) -> Contestant:
    """Return the kind of fixed network with the best validation accuracy."""
    settings = arena.settings
    spent = 0.0

    def tuned(shape: StaticShape) -> tuple[Outcomes, Pace]:
        nonlocal spent
        arena.turns.begin(f"static: {shape.name}")

        def train(seeds: Sequence[int], pace: Pace) -> Trained:
            return train_static(settings, shape, seeds, pace.rates(settings.steps))

        pace, tuning = best_pace(arena, PACES, train)
        outcomes = run_static(arena, shape, pace)
        spent += tuning + float(outcomes.multiply_adds.sum())
        arena.turns.end(outcomes)
        return outcomes, pace

    def resized(shape: StaticShape, pace: Pace) -> Outcomes:
        arena.turns.begin(f"static: {shape.name}")
        outcomes = run_static(arena, shape, pace)
        arena.turns.end(outcomes)
        return outcomes

    shapes = static_shapes(settings.host_shape, round(agents.parameters))
    candidates, paces = zip(*map(tuned, shapes), strict=True)
    ranked = sorted(
        range(len(shapes)), key=lambda kind: -candidates[kind].validation_accuracy.mean()
    )
    best = candidates[ranked[0]]
    return Contestant(
        "static",
        (best,),
        tuple(candidates),
        tuple(
            resized(shapes[kind].resized(round(agents.parameters * size)), paces[kind])
            for size in OTHER_SIZES
            for kind in ranked[:KINDS_RESIZED]
        ),
        spent - float(best.multiply_adds.sum()),
    )


def run_static(arena: Arena, shape: StaticShape, pace: Pace, remark: str = "") -> Outcomes:
    """Train a fixed network for every episode.

    Args:
        arena: task and episodes.
        shape: its architecture.
        pace: its learning rate.
        remark: end of its description.
    """
    rates = pace.rates(arena.settings.steps)
    parts = []
    for number, seeds in enumerate(arena.batches, start=1):
        divided = functools.partial(_arguments, shape, seeds, rates)
        parts += arena.hosts(len(seeds)).call(train_static, divided)
        arena.turns.at(0.5 + 0.5 * number / len(arena.batches))
    what = f"{shape.name}, {pace.words}{remark}"
    return joined([scored(arena, what, each) for each in parts])


def _arguments(
    shape: StaticShape, seeds: Sequence[int], rates: Sequence[float], part: slice
) -> tuple[StaticShape, Sequence[int], Sequence[float]]:
    return shape, seeds[part], rates
