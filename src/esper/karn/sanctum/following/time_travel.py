"""The state of a run after any of its updates.

The state after an update is the fold of all events up to the one that told it, and of what follows
directly: what was done about it, its checkpoint, the end of the run if that came next. The next
decision, step or start of a process is no part of it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.following.folding import first_that_counts, fold_up_to, join_tables
from esper.karn.sanctum.following.update_index import UpdateIndex
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.run_reader import RunReader
from esper.leyline.incident_files import Incident
from esper.leyline.telemetry import (
    DecisionsTaken,
    NonfiniteSighting,
    PPOUpdatePayload,
    RunStarted,
    StepCompleted,
)

#: With these the next update begins.
_BEGINNINGS: Final = (DecisionsTaken, StepCompleted, RunStarted, PPOUpdatePayload)
#: Events that are read at a time to find one of those: it is among the next few.
_READ_AT_ONCE: Final = 16


class TimeTravel:
    """Goes to any update of a run: forwards from where it is, else from the nearest kept state.

    Args:
        reader: of the run's store.
        index: kept by the follower of the run.
        sightings: returns what else is known to have been seen, each with its update.
        capsules: returns the incidents that are kept on the disk; None to go by events alone.
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
        self._shown = (0, 0)  # the event of the update that the state is of, and what was asked for
        self._is_whole = False  # nothing more can follow that update directly

    def state_after(self, update: int, newest: int) -> SanctumSnapshot | None:
        """Return the state after an update, the nearest there is; None if there is none yet.

        Args:
            update: counted from 1.
            newest: the id of the last event that is known to be there.

        Raises:
            RunStoreError: the store cannot be read.
        """
        found = self._index.find(update)
        if found is None:
            return None
        what = found[1], min(update, self._index.updates)
        if what == self._shown and (self._is_whole or self._state.last_id >= newest):
            return self._state.snapshot()
        with self._reader.session():
            # The event of an update that is missing among others lies before what is of a later
            # one. So where it is damaged, the damage is part of what is shown.
            is_missing = found[0] < update < self._index.updates
            beginning = self._beginning_after(found[1], update if is_missing else None)
            end = self._reader.last_id() if beginning is None else beginning - 1
            if self._state.last_id > end:
                self._state = SanctumAggregator()
            # A kept state lacks the steps that were passed over when it was made.
            known = self._index.state_before(first_that_counts(self._reader, end) - 1)
            if known.last_id > self._state.last_id:
                self._state = known
            fold_up_to(self._reader, self._state, end)
            shown = update if is_missing else found[0]
            join_tables(self._reader, self._state, up_to_update=shown)
            self._state.join_sightings(one for one in self._sightings() if one[0] <= shown)
            if self._capsules is not None:
                self._state.join_capsules([one for one in self._capsules() if one.update <= shown])
        self._shown, self._is_whole = what, beginning is not None
        return self._state.snapshot()

    def _beginning_after(self, event_id: int, update: int | None) -> int | None:
        """Return the first event after another with which an update begins, if there is one.

        Args:
            event_id: the other.
            update: after which the update has to come; None for any.
        """
        while events := self._reader.read(event_id, _READ_AT_ONCE):
            for event in events:
                if isinstance(event.payload, _BEGINNINGS) and (
                    update is None or getattr(event.payload, "update", update + 1) > update
                ):
                    return event.id
            event_id = events[-1].id
        return None
