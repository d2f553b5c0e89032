"""Whether everything that a run reported is known: one value for reports, the API and the cockpit.

docs/store.md says which damage is recognised.
"""

from dataclasses import dataclass

from esper.karn.store.errors import RunStoreError
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.store.reading.read_only_store import Journal
from esper.karn.store.reading.run_reader import RunReader
from esper.karn.store.run_files.side_files import SideRecords
from esper.karn.store.tables.thinning import Thinned
from esper.leyline.text.plurals import counted

_WRITING = (StatusKind.LIVE, StatusKind.STARTING, StatusKind.STUCK)


@dataclass(frozen=True)
class Completeness:
    """Whether everything that a run reported is known, and if not, what is missing and why.

    Attributes:
        unreadable: why the store cannot be read, as a sentence; None if it can.
        damaged_events: number of events in the store that cannot be read.
        gap: what else the store lacks and why, as a sentence; None if nothing.
    """

    unreadable: str | None = None
    damaged_events: int = 0
    gap: str | None = None

    @property
    def doubt(self) -> str | None:
        """Why a light that is not lit is not known to be off; None if the run is complete."""
        if self.unreadable is not None:
            return self.unreadable
        if self.damaged_events:
            are = "is" if self.damaged_events == 1 else "are"
            return f"{counted(self.damaged_events, 'event')} {are} damaged"
        return self.gap


COMPLETE = Completeness()


@dataclass(frozen=True)
class EventsRead:
    """The part of a run that its readable events tell.

    Attributes:
        last_id: id of the newest event; 0 for none.
        newest_update: the newest update; 0 for none.
        lacks_updates: whether the run was resumed after an update that has no event.
        lacks_light: whether a file next to the store has a light that no event has.
    """

    last_id: int
    newest_update: int
    lacks_updates: bool
    lacks_light: bool


class GapCheck:
    """Checks whether a readable store lacks something that the run once reported.

    Attributes:
        store_id: id of the store that was read last; None if it has none.

    Args:
        reader: reader of the run's store.
    """

    def __init__(self, reader: RunReader) -> None:
        self._reader = reader
        self.start_over()

    def start_over(self) -> None:
        """Forget the store that was read: another file has taken its place."""
        self._has_tables = False
        self.store_id: str | None = None
        self._thinned = Thinned(0, 0)
        self._is_thinned_whole = True
        self._journal: Journal | None = None

    def note_change(self) -> None:
        """Read the journal again at the next check: the store may have changed."""
        self._journal = None

    def read(self) -> None:
        """Read what the check needs from the store, in the reader's session.

        Raises:
            RunStoreError: the store cannot be read.
        """
        self._has_tables = self._reader.has_tables()
        self.store_id = self._reader.store_id()
        if (thinned := self._reader.thinned()) != self._thinned:
            self._thinned = thinned
            self._is_thinned_whole = self._reader.thinned_is_whole()

    def gap(self, records: SideRecords, events: EventsRead, status: RunStatus) -> str | None:
        """Return what the store lacks and why, as a sentence; None if nothing.

        Args:
            records: the records in the files next to the store.
            events: summary of the events that were read.
            status: status of the run's process.
        """
        latch_file = records.latch_file
        if latch_file.missing is not None:
            return latch_file.missing
        if latch_file.error is not None:
            return latch_file.error
        stores = latch_file.stores
        if stores and (len(stores) > 1 or self.store_id != stores[-1]):
            return "the store was replaced by another one during the run"
        if events.last_id < latch_file.last_event:
            return "the store is older than the run: its newest events are missing"
        if events.lacks_updates:
            return "the store does not have the updates before the run was resumed"
        if (newest := records.newest_update) > events.newest_update:
            return f"the store ends before update {newest}, which has a checkpoint or capsule"
        if not self._is_thinned_whole:
            return "events are missing among the old ones of the store"
        if events.lacks_light:
            return "the store lacks a light that the files next to it have"
        return self._gap_in_journal(status)

    def _gap_in_journal(self, status: RunStatus) -> str | None:
        if status.kind is StatusKind.WAITING:
            is_new = not self._has_tables and not self._reader.has_wal()
            return None if is_new else "the store has no events"
        if status.kind in _WRITING:
            return None  # the writer changes the journal while it is read
        if self._journal is None:
            try:
                self._journal = self._reader.journal()
            except RunStoreError as error:
                return str(error)
        journal = self._journal
        if journal.damage is not None:
            return journal.damage
        if journal.is_open and not status.is_ended:
            if journal.lacks_wal:
                return "the store was in use when it was copied or damaged, and its WAL is missing"
            return "the run was killed, so its last moments may be missing"
        return None
