"""The states of torch's random generator from which the last minibatches began."""

from collections import deque
from typing import Final

import torch
from torch import Tensor

_STEPS_OF_A_LOOP: Final = 4  # as many optimizers may step in one pass of a loop
_COMPARED_EACH: Final = 8  # steps
_QUIET_AFTER: Final = 4  # comparisons


class RandomStates:
    """States of torch's generator after the last optimizer steps.

    In a training, a copy of the state takes 4 µs, since 12 kB are moved: as much as the check of
    an output. So while a loop draws nothing between its steps, the state is copied at every eighth
    step only: those in between are the same. Most on-policy algorithms only draw while acting.

    Args:
        is_alone: whether a single optimizer steps, so that only its last step matters.

    Attributes:
        has_acted: whether the model acted since the last copy; set by the caller.
    """

    def __init__(self, *, is_alone: bool = False) -> None:
        newest = torch.default_generator.get_state()
        self._states = deque([newest], maxlen=1 if is_alone else _STEPS_OF_A_LOOP)
        self._compared = newest
        self._steps = 0  # since the last comparison
        self._equal = 0  # comparisons in a row in which nothing had been drawn
        self.has_acted = False

    def step_over(self) -> None:
        """Take note that an optimizer's step is over."""
        self._steps += 1
        if self._equal >= _QUIET_AFTER and self._steps < _COMPARED_EACH and not self.has_acted:
            return
        state = torch.default_generator.get_state()
        self._states.appendleft(state)
        if self.has_acted:  # actions were drawn, which says nothing on the steps
            self._compared, self._steps, self.has_acted = state, 0, False
        elif self._steps >= _COMPARED_EACH:
            self._equal = self._equal + 1 if torch.equal(state, self._compared) else 0
            self._compared, self._steps = state, 0

    def of_minibatch(self) -> tuple[Tensor, ...]:
        """Return the states that the current minibatch may have begun at, the newest first.

        Where several optimizers step in a pass of the loop, it is one of the last steps'.
        """
        return tuple(self._states)
