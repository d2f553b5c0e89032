"""What a repetition of the current minibatch begins with: the states of random generators."""

import sys
from functools import partial
from typing import Any

from esper.watching.finding.frames import variables_around
from esper.watching.guard import Guard
from esper.watching.model.generators import GeneratorStates
from esper.watching.model.random_states import RandomStates


class Starts:
    """States of torch's and of other random generators after the last optimizer steps.

    Args:
        guard: of the watch.
        is_alone: whether a single optimizer steps, so that only its last step matters.

    Attributes:
        rngs: the states of torch's generator.
    """

    def __init__(self, guard: Guard, *, is_alone: bool = False) -> None:
        self._guard = guard
        self.rngs = RandomStates(is_alone=is_alone)
        self._others = GeneratorStates()

    def step_over(self, *, is_first: bool) -> None:
        """Take note that an optimizer's step is over.

        Args:
            is_first: whether to find the generators that the training's functions have.
        """
        self.rngs.step_over()
        if is_first:
            with self._guard:
                self._others.find(partial(variables_around, sys._getframe()))
        self._others.step_over()

    def states(self) -> dict[str, Any]:
        """Return the states that the minibatch may have begun at, by name."""
        return {"rngs": self.rngs.of_minibatch(), "generators": self._others.of_minibatch()}
