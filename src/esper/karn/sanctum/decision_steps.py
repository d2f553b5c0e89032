"""What was decided in the earlier steps of an update: read from the store when it is asked for."""

from collections.abc import Mapping, Sequence
from typing import Final

from esper.karn.run_reader import RunReader
from esper.karn.sanctum.decisions import damage_of, decision_states
from esper.karn.sanctum.schema import DecisionState
from esper.leyline.telemetry import DecisionsTaken

#: Events that are read at a time.
_READ_AT_ONCE: Final = 32

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
