"""Non-finite observations and rewards from environments: which environment, and at which step.

A NaN observation or reward is harmless until something is computed from it. It is held until then,
so the input and the first result are reported as one incident with place, operation and source
line.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from esper.leyline.telemetry import SHARED
from esper.watching.checks.found import Found
from esper.watching.finding.explaining import Explanation
from esper.watching.model.heads import OUTPUT_QUANTITIES

_NOT_USED: Final = "no operation of the training computed it: the environment returned it"
#: Quantities of the model itself, which no environment returns.
_OF_MODELS: Final = frozenset({"parameters", "moments", "gradient", *OUTPUT_QUANTITIES.values()})
_MOST: Final = 16  # inputs that are held


@dataclass(frozen=True)
class Given:
    """One non-finite input from an environment.

    Attributes:
        found: the finding, with environment and step.
        is_observation: whether the next actions are computed from it.
    """

    found: Found
    is_observation: bool = False


class GivenInputs:
    """Holds non-finite inputs from environments until something is computed from them.

    Attributes:
        is_kept: whether data is kept for later updates, as in a replay buffer.
    """

    def __init__(self) -> None:
        self._waiting: list[Given] = []
        self._old: list[Given] = []  # observations held since before the current update
        self._reported: list[Given] = []  # reported, but not used by any computation so far
        self._explained: list[Given] = []
        self.is_kept = False

    def add(self, given: Given) -> None:
        """Hold an input, unless one with the same quantity and kind is held already."""
        known = {(one.found.quantity, one.found.kind) for one in self._all}
        if len(known) < _MOST and (given.found.quantity, given.found.kind) not in known:
            self._waiting.append(given)

    @property
    def _all(self) -> list[Given]:
        return [*self._reported, *self._old, *self._waiting]

    def __bool__(self) -> bool:
        return bool(self._old or self._waiting)

    def is_consequence(self, explanation: Explanation, phase: str) -> bool:
        """Return whether a finding is a consequence of inputs that were explained before."""
        if self._all or phase != "update" or not _came_in(explanation):
            return False
        return any(self._fits(one, explanation) for one in self._explained)

    def placed(self, explanation: Explanation, phase: str) -> Explanation:
        """Return an explanation, with environments and steps if held inputs are the cause."""
        if not _came_in(explanation):
            return explanation
        is_acting = phase == "acting"
        own = [
            one
            for one in self._all
            if (one.is_observation if is_acting else self._fits(one, explanation))
        ]
        if not own:
            return explanation
        self._explained += own
        for held in (self._reported, self._old, self._waiting):
            held[:] = [one for one in held if one not in own]
        found = [one.found for one in own]
        if is_acting:  # keep the name of the loop's variable
            place = found[0]
            found = [
                replace(one, environment=place.environment, step=place.step)
                for one in explanation.found
            ]
        return replace(explanation, found=tuple(dict.fromkeys(found)), counters="")

    def end_update(self, *, is_last: bool) -> Explanation | None:
        """Return an explanation of inputs that no computation has used; None if there are none.

        Args:
            is_last: whether this is the last update.
        """
        own = [*self._old, *(one for one in self._waiting if is_last or not one.is_observation)]
        self._old = [one for one in self._waiting if one not in own]
        self._waiting.clear()
        if not self.is_kept:
            self._explained.clear()
            self._reported.clear()
        if not own:
            return None
        self._reported += own
        return Explanation(tuple(one.found for one in own), why_no_origin=_NOT_USED)

    def _fits(self, given: Given, explanation: Explanation) -> bool:
        """Return whether a finding in an update may come from a held input.

        With a replay buffer, the names of the quantities must match. Otherwise the update learns
        from everything since the last one, and a bad observation may show in the advantages only.
        """
        words = {_word(one.quantity) for one in explanation.found}
        return not self.is_kept or _word(given.found.quantity) in words


def _word(quantity: str) -> str:
    """Return the common word of related names: "obs" for `replay_data.next_observations`."""
    return next((word for word in ("obs", "reward") if word in quantity.lower()), quantity)


def _came_in(explanation: Explanation) -> bool:
    """Return whether a finding comes from a variable of the loop rather than from the model."""
    found: Sequence[Found] = explanation.found
    if not found or any(one.owner != SHARED or one.quantity in _OF_MODELS for one in found):
        return False
    if explanation.origin is None:
        return True
    poisons = explanation.origin.operation.poisons
    return any(one.name.startswith("variable ") for one in poisons)
