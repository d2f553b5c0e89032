"""Learning rates that opponents are tried with, and the choice among them by validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from esper.growth.from_scratch import Trained
from esper.simic.evaluation.arena import Arena

#: Adam's learning rates that an opponent is tried with, constant and falling to 0.
LEARNING_RATES = (0.01, 0.02, 0.04, 0.08)
#: Number of episodes by whose validation accuracy a rate is chosen.
TUNING_EPISODES = 16


@dataclass(frozen=True)
class Pace:
    """How fast a network learns: Adam's learning rate, and whether it falls to 0."""

    rate: float
    is_falling: bool

    @property
    def words(self) -> str:
        """In words."""
        return f"Adam {self.rate:g}{' falling to 0' if self.is_falling else ''}"

    def rates(self, steps: int) -> list[float]:
        """Return the rate in each of that many steps."""
        return [self.rate * (1 - step / steps if self.is_falling else 1) for step in range(steps)]


PACES = tuple(Pace(rate, falls) for rate in LEARNING_RATES for falls in (False, True))


def best_pace(
    arena: Arena, paces: Sequence[Pace], train: Callable[[Sequence[int], Pace], Trained]
) -> tuple[Pace, float]:
    """Return the pace with the highest mean validation accuracy, and the multiply-adds of trying.

    Args:
        arena: task and episodes; the first episodes are used.
        paces: to choose from.
        train: trains a network for each random seed at a pace.
    """
    seeds = arena.batches[0][:TUNING_EPISODES]
    found, spent = {}, 0.0
    for number, pace in enumerate(paces, start=1):
        tried = train(seeds, pace)
        found[pace] = float(np.nan_to_num(tried.validation_accuracy).mean())
        spent += float(tried.multiply_adds.sum())
        arena.turns.at(0.5 * number / len(paces))
    return max(paces, key=lambda pace: found[pace]), spent
