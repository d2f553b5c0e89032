"""An index of a run's updates among its events, with some states of the run to start from."""

from array import array
from bisect import bisect_right
from typing import Final

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.leyline.telemetry import Event, PPOUpdatePayload, RunStarted

#: States that are kept, spread evenly over the updates: some 300 kB each in a long run.
STATES_KEPT: Final = 16


class UpdateIndex:
    """The updates of a run, and a bounded number of states between them.

    An update that was trained again after a resume has its last event. Updates after the one that a
    resume started from are not part of the run until they are recorded again.
    """

    def __init__(self) -> None:
        self._updates = array("q")
        self._ids = array("q")  # of their events
        self._states: list[SanctumAggregator] = []  # by their last id
        self._spacing = 1  # updates from one kept state to the next
        self._since_kept = 0

    @property
    def updates(self) -> int:
        """The last update of the run; 0 before the first."""
        return self._updates[-1] if self._updates else 0

    def note(self, event: Event, aggregator: SanctumAggregator) -> None:
        """Update the index with an event that `aggregator` has just applied."""
        payload = event.payload
        if isinstance(payload, RunStarted):
            self._drop_after(payload.resumed_from_update or 0)  # 0: it begins again
        elif isinstance(payload, PPOUpdatePayload) and 0 < payload.update < 2**62:
            self._drop_after(payload.update - 1)
            self._updates.append(payload.update)
            self._ids.append(event.id)
            self._keep(aggregator)

    def find(self, update: int) -> tuple[int, int] | None:
        """Return the last update that is not after `update`, and the id of its event.

        Before the first update, the first is returned; None if there is no update yet.
        """
        if not self._updates:
            return None
        place = max(0, bisect_right(self._updates, update) - 1)
        return self._updates[place], self._ids[place]

    def state_before(self, event_id: int) -> SanctumAggregator:
        """Return the last kept state that is not after an event."""
        place = bisect_right(self._states, event_id, key=lambda state: state.last_id)
        return self._states[place - 1].copy() if place else SanctumAggregator()

    def _drop_after(self, update: int) -> None:
        end = bisect_right(self._updates, update)
        del self._updates[end:]
        del self._ids[end:]

    def _keep(self, aggregator: SanctumAggregator) -> None:
        self._since_kept += 1
        if self._since_kept < self._spacing:
            return
        self._since_kept = 0
        self._states.append(aggregator.without_heartbeat())
        if len(self._states) > STATES_KEPT:
            del self._states[::2]
            self._spacing *= 2
