"""The hosts in training: their last step and the earlier steps of this episode."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from esper.karn.sanctum.schema import HostState, SlotState
from esper.leyline.telemetry import StepCompleted

#: Maximum number of steps in a host's histories; of a longer episode, the last ones are kept.
STEPS_KEPT: Final = 128


def damage_of(step: StepCompleted) -> str | None:
    """Return what is wrong with a step's lists; None if each has an entry for every host."""
    hosts = len(step.accuracy)
    lists: list[Sequence[Any]] = [step.loss, step.parameters, step.reward]
    lists += [step.stages, step.alphas, step.blueprints, *step.reward_terms.values()]
    if any(len(values) != hosts for values in lists):
        return "its lists are of different lengths"
    for stages, alphas, blueprints in zip(step.stages, step.alphas, step.blueprints, strict=True):
        if not len(stages) == len(alphas) == len(blueprints):
            return "the lists of its slots are of different lengths"
    return None


class HostLedger:
    """The undamaged steps of this episode, and the state of each host after them."""

    def __init__(self) -> None:
        self._steps: deque[StepCompleted] = deque(maxlen=STEPS_KEPT)  # of this episode
        # Slots by host and step, computed once and only when they are read.
        self._slots: deque[tuple[tuple[SlotState, ...], ...]] = deque(maxlen=STEPS_KEPT)
        self._slots_due = 0  # number of last steps whose slots are not computed yet

    @property
    def last(self) -> StepCompleted | None:
        """The last step; None before the first."""
        return self._steps[-1] if self._steps else None

    def samples_per_second(self) -> float | None:
        """Return the speed over the steps of this episode; None before the first.

        All steps have equally many samples, so it is the harmonic mean of their speeds. An invalid
        speed is returned unchanged.
        """
        speeds = [step.samples_per_second for step in self._steps]
        for speed in speeds:
            if not (math.isfinite(speed) and speed > 0.0):
                return speed
        return len(speeds) / math.fsum(1.0 / speed for speed in speeds) if speeds else None

    def add(self, step: StepCompleted) -> None:
        """Add a step. The first step of another batch of episodes replaces all earlier ones."""
        before = self.last
        is_next = (
            before is not None
            and before.first_episode == step.first_episode
            and before.step < step.step
            and len(before.accuracy) == len(step.accuracy)
        )
        if not is_next:
            self.clear()
        self._steps.append(step)
        self._slots_due = min(self._slots_due + 1, STEPS_KEPT)

    def clear(self) -> None:
        """Remove all steps."""
        self._steps.clear()
        self._slots.clear()
        self._slots_due = 0

    def copy(self) -> "HostLedger":
        """Return an independent copy."""
        copy = HostLedger()
        copy._steps = self._steps.copy()
        copy._slots = self._slots.copy()
        copy._slots_due = self._slots_due
        return copy

    def states(self) -> tuple[HostState, ...]:
        """Return the hosts after the last step, with their histories in this episode."""
        last = self.last
        if last is None:
            return ()
        for index in range(len(self._steps) - self._slots_due, len(self._steps)):
            self._slots.append(tuple(_slots_by_host(self._steps[index])))
        self._slots_due = 0
        steps = self._steps
        accuracies = list(zip(*[step.accuracy for step in steps], strict=True))
        losses = list(zip(*[step.loss for step in steps], strict=True))
        rewards = list(zip(*[step.reward for step in steps], strict=True))
        parameters = list(zip(*[step.parameters for step in steps], strict=True))
        terms = {
            # A step without a term has no point in its history.
            name: list(
                zip(
                    *[step.reward_terms[name] for step in steps if name in step.reward_terms],
                    strict=True,
                )
            )
            for name in last.reward_terms
        }
        slots = list(zip(*self._slots, strict=True))
        return tuple(
            HostState(
                host=host,
                episode=last.first_episode + host,
                accuracy=accuracy,
                loss=last.loss[host],
                parameters=last.parameters[host],
                reward=last.reward[host],
                slots=slots[host][-1],
                accuracy_history=accuracies[host],
                loss_history=losses[host],
                reward_history=rewards[host],
                parameters_history=parameters[host],
                slot_history=slots[host],
                reward_terms={name: values[host] for name, values in last.reward_terms.items()},
                reward_terms_history={name: by_host[host] for name, by_host in terms.items()},
            )
            for host, accuracy in enumerate(last.accuracy)
        )


def _slots_by_host(step: StepCompleted) -> Iterator[tuple[SlotState, ...]]:
    for stages, alphas, blueprints in zip(step.stages, step.alphas, step.blueprints, strict=True):
        yield tuple(map(_slot, stages, alphas, blueprints))


# Most slots do not change from one step to the next.
@lru_cache(maxsize=1024)
def _slot(stage: int, alpha: float, blueprint: int) -> SlotState:
    return SlotState(stage, alpha, blueprint)
