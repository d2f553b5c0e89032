"""The state of a run after any of its updates.

The state after an update is the fold of all events up to the update's own, and of those directly
after it: interventions, its checkpoint, the end of the run if that comes next. The next decision,
step or start of a process is not part of it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.following.folding import first_that_counts, fold_up_to, join_tables
from esper.karn.sanctum.following.update_index import UpdateIndex
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.reading.run_reader import RunReader
from esper.leyline.files.incident_files import Incident
from esper.leyline.telemetry import (
    DecisionsTaken,
    NonfiniteSighting,
    PPOUpdatePayload,
    RunStarted,
    StepCompleted,
)

#: The first events of the next update.
_BEGINNINGS: Final = (DecisionsTaken, StepCompleted, RunStarted, PPOUpdatePayload)
#: Events read at a time to find one of these, which is among the next few.
_READ_AT_ONCE: Final = 16


class TimeTravel:
    """Derives the state after any update: forward from the last one, or from a kept state.

    Args:
        reader: reads the run's store.
        index: the index of updates that the follower maintains.
        sightings: returns sightings from other files, each with its update.
        capsules: returns the incidents kept on the disk; None to use events only.
    """

    def __init__(
        self,
        reader: RunReader,
        index: UpdateIndex,
        sightings: Callable[[], Iterable[tuple[int, NonfiniteSighting]]] = tuple,
        capsules: Callable[[], Sequence[Incident]] | None = None,
    ) -> None:
        self._reader = reader
        self._index = index
        self._sightings = sightings
        self._capsules = capsules
        self._state = SanctumAggregator()
        self._shown = (0, 0)  # the event of the state's update, and the update requested
        self._is_complete = False  # no event of that update can follow

    def state_after(self, update: int, newest: int) -> SanctumSnapshot | None:
        """Return the state after an update or the nearest one; None before the first update.

        Args:
            update: counted from 1.
            newest: the id of the last event read so far.

        Raises:
            RunStoreError: the store cannot be read.
        """
        found = self._index.find(update)
        if found is None:
            return None
        what = found[1], min(update, self._index.updates)
        if what == self._shown and (self._is_complete or self._state.last_id >= newest):
            return self._state.snapshot()
        with self._reader.session():
            # The damaged event of a missing update lies before the events of a later update, so
            # the state includes the damage.
            is_missing = found[0] < update < self._index.updates
            beginning = self._beginning_after(found[1], update if is_missing else None)
            end = self._reader.last_id() if beginning is None else beginning - 1
            if self._state.last_id > end:
                self._state = SanctumAggregator()
            # A kept state lacks the steps that were skipped when it was derived.
            known = self._index.state_before(first_that_counts(self._reader, end) - 1)
            if known.last_id > self._state.last_id:
                self._state = known
            fold_up_to(self._reader, self._state, end)
            shown = update if is_missing else found[0]
            join_tables(self._reader, self._state, up_to_update=shown)
            self._state.join_sightings(one for one in self._sightings() if one[0] <= shown)
            if self._capsules is not None:
                self._state.join_capsules([one for one in self._capsules() if one.update <= shown])
        self._shown, self._is_complete = what, beginning is not None
        return self._state.snapshot()

    def _beginning_after(self, event_id: int, update: int | None) -> int | None:
        """Return the id of the first event after another one that begins an update, if any.

        Args:
            event_id: the other event.
            update: the update must come after this one; None for any.
        """
        while events := self._reader.read(event_id, _READ_AT_ONCE):
            for event in events:
                if isinstance(event.payload, _BEGINNINGS) and (
                    update is None or getattr(event.payload, "update", update + 1) > update
                ):
                    return event.id
            event_id = events[-1].id
        return None
