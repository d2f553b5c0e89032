"""What a repetition of the current minibatch begins with: the states of random generators."""

import sys
from collections import deque
from typing import Any, Final

import torch

from esper.watching.finding.frames import variables_around
from esper.watching.guard import Guard
from esper.watching.model.generators import GeneratorStates

_STEPS_OF_A_LOOP: Final = 4  # as many optimizers may step in one pass of a loop


class Starts:
    """States of torch's and of other random generators after the last optimizer steps.

    Args:
        guard: of the watch.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._rngs = deque([torch.get_rng_state()], maxlen=_STEPS_OF_A_LOOP)
        self._others = GeneratorStates()

    def step_over(self, *, is_first: bool) -> None:
        """Take note that an optimizer's step is over.

        Args:
            is_first: whether to find the generators that the training's functions have.
        """
        self._rngs.appendleft(torch.get_rng_state())
        if is_first:
            with self._guard:
                self._others.find(variables_around(sys._getframe()))
        self._others.step_over()

    def states(self) -> dict[str, Any]:
        """Return the states that the minibatch may have begun at, by name."""
        return {"rngs": tuple(self._rngs), "generators": self._others.of_minibatch()}
