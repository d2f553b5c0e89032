"""What was decided in the earlier steps of an update: read from the store when it is asked for."""

from collections.abc import Mapping, Sequence
from typing import Final

from esper.karn.sanctum.fold.decision_states import damage_of, decision_states
from esper.karn.sanctum.schema import DecisionState
from esper.karn.store.run_reader import RunReader
from esper.leyline.telemetry import DecisionsTaken

#: Events that are read at a time.
_READ_AT_ONCE: Final = 32
#: Steps in which an act is looked for, from the newest on backwards.
_LOOKED_THROUGH: Final = 2_048
_OP: Final = "op"
_WAIT: Final = "WAIT"

#: The decisions of a step, one for each host.
Step = tuple[DecisionState, ...]


def steps_of_update(
    reader: RunReader, update: int, up_to: int, heads: Mapping[str, Sequence[str]]
) -> tuple[Step, ...]:
    """Return the decisions of an update's steps, oldest first; damaged ones are left out.

    Of an update that was trained again after a resume, it is the last time that counts.

    Args:
        reader: of the run's store.
        update: whose steps; the newest that was decided for by `up_to`.
        up_to: the last event that is part of what is shown.
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
    """Return whether nothing was done in a step: every host waits."""
    choices = heads.get(_OP, ())
    if _WAIT not in choices or not step:
        return False
    wait = choices.index(_WAIT)
    return all(one.choice == wait for host in step for one in host.heads if one.head == _OP)


def last_act(
    reader: RunReader, up_to: int, heads: Mapping[str, Sequence[str]]
) -> tuple[Step, tuple[Step, ...]] | None:
    """Return the newest step in which something was done, and the steps of its update.

    Args:
        reader: of the run's store.
        up_to: the last event that is part of what is shown.
        heads: names of the run's heads, in order, with the names of their choices.

    Returns:
        None if nothing was done in the newest steps.

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
    """Return the step so many places after a step; None beyond the last one, or where none is.

    Args:
        steps: of one update, oldest first.
        step: the number of the one to start from.
        by: how many places; before the first there is the first.
    """
    numbers = [taken[0].step for taken in steps]
    at = sum(number < step for number in numbers) + by
    return steps[max(0, at)] if steps and at < len(steps) else None
