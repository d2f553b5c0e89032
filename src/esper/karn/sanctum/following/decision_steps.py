"""Reads the decisions of earlier steps of an update from the store."""

from collections.abc import Mapping, Sequence
from typing import Final

from esper.karn.sanctum.fold.decision_states import damage_of, decision_states
from esper.karn.sanctum.schema import DecisionState
from esper.karn.store.reading.run_reader import RunReader
from esper.leyline.telemetry import DecisionsTaken

#: Events that are read at a time.
_READ_AT_ONCE: Final = 32
#: Steps in which an action is looked for, backwards from the newest.
_LOOKED_THROUGH: Final = 2_048
_OP: Final = "op"
_WAIT: Final = "WAIT"

#: The decisions of a step, one per host.
Step = tuple[DecisionState, ...]


def steps_of_update(
    reader: RunReader, update: int, up_to: int, heads: Mapping[str, Sequence[str]]
) -> tuple[Step, ...]:
    """Return the decisions of an update's steps, oldest first; damaged ones are left out.

    If an update was trained again after a resume, its last steps are returned.

    Args:
        reader: reads the run's store.
        update: the update; the newest one with decisions up to `up_to`.
        up_to: id of the last event of the state shown.
        heads: names of the run's heads, in order, with the names of their choices.

    Raises:
        RunStoreError: the store cannot be read.
    """
    steps: list[Step] = []
    earliest: int | None = None
    with reader.session():
        while events := reader.read_last("decisions_taken", _READ_AT_ONCE, up_to=up_to):
            for event in events:
                taken = event.payload
                if not isinstance(taken, DecisionsTaken) or damage_of(taken, heads) is not None:
                    continue
                if taken.update != update or (earliest is not None and taken.step >= earliest):
                    return tuple(reversed(steps))
                earliest = taken.step
                steps.append(decision_states(taken, heads))
            up_to = events[-1].id - 1
    return tuple(reversed(steps))


def waits(step: Step, heads: Mapping[str, Sequence[str]]) -> bool:
    """Return whether every host waits in a step."""
    choices = heads.get(_OP, ())
    if _WAIT not in choices or not step:
        return False
    wait = choices.index(_WAIT)
    return all(one.choice == wait for host in step for one in host.heads if one.head == _OP)


def last_act(
    reader: RunReader, up_to: int, heads: Mapping[str, Sequence[str]]
) -> tuple[Step, tuple[Step, ...]] | None:
    """Return the newest step with an action, and the steps of its update.

    Args:
        reader: of the run's store.
        up_to: the last event that is part of what is shown.
        heads: names of the run's heads, in order, with the names of their choices.

    Returns:
        None if none of the newest steps has an action.

    Raises:
        RunStoreError: the store cannot be read.
    """
    looked, end, last = 0, up_to, up_to
    newest: int | None = None  # update
    while looked < _LOOKED_THROUGH:
        events = reader.read_last("decisions_taken", _READ_AT_ONCE, up_to=end)
        for event in events:
            taken = event.payload
            if not isinstance(taken, DecisionsTaken) or damage_of(taken, heads) is not None:
                continue
            if taken.update != newest:
                newest, last = taken.update, event.id  # the last step of its update
            step = decision_states(taken, heads)
            if step and not waits(step, heads):
                return step, steps_of_update(reader, taken.update, last, heads)
        if not events:
            return None
        looked += len(events)
        end = events[-1].id - 1
    return None


def moved(steps: Sequence[Step], step: int, by: int) -> Step | None:
    """Return the step `by` places after a step; None after the last one, or if there are none.

    Args:
        steps: of one update, oldest first.
        step: the number of the step to start from.
        by: number of places; before the first step, the first is returned.
    """
    numbers = [taken[0].step for taken in steps]
    at = sum(number < step for number in numbers) + by
    return steps[max(0, at)] if steps and at < len(steps) else None
