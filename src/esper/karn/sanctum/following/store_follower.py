"""Reads new events of one store and folds them, for a live, stopped or dead process alike."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.fold.attention import Light, light_of, lit_lights
from esper.karn.sanctum.following.digest import Digest, DigestNotes
from esper.karn.sanctum.following.folding import EVENTS_PER_READ, first_that_counts, join_tables
from esper.karn.sanctum.following.run_frame import Frame
from esper.karn.sanctum.following.time_travel import TimeTravel
from esper.karn.sanctum.following.update_index import UpdateIndex
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.errors import RunStoreError, RunStoreMissingError
from esper.karn.store.liveness import Pulse, RunStatus, StatusKind, process_start_time, run_status
from esper.karn.store.reading.completeness import Completeness, EventsRead, GapCheck
from esper.karn.store.reading.run_reader import RunReader
from esper.karn.store.run_files.side_files import SideFiles, SideRecords
from esper.leyline.files.incident_files import Incident
from esper.leyline.telemetry import Heartbeat, NonfiniteSighting

_Sighting = tuple[int, NonfiniteSighting]  # with its update

#: Most events of one poll: about 200 ms of work.
EVENTS_PER_POLL: Final = 8_192


class StoreFollower:
    """Reads one store by cursor, a bounded number of events at a time; for use from one thread.

    Args:
        directory: the directory of a run, or of a rank in it; it need not exist yet.
        brief: whether to skip events that come many times per update, for a summary; hosts,
            decisions and speed then stay unknown.
        digest: of a summary follower that read this run before: the events to read. Ignored if the
            run's store is another one, or lacks one of them.
        keeps_histories: whether the snapshot has the histories of figures. Without them, and with
            `brief`, the follower makes a digest.
        stays_open: whether to keep the store open while it changes, which makes frequent polls
            cheaper; `close` must then be called at the end.
        ticks: returns seconds of a monotonic clock.
    """

    def __init__(
        self,
        directory: Path,
        *,
        brief: bool = False,
        keeps_histories: bool = True,
        digest: Digest | None = None,
        stays_open: bool = False,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._is_brief = brief
        self._keeps_histories = keeps_histories
        self._given_digest = digest
        self._stays_open = stays_open
        self._ticks = ticks
        self._reader = RunReader(directory)
        self._side_files = SideFiles(directory)
        self._records = SideRecords()
        #: Run and lights of a store that was replaced by another one.
        self._before: tuple[str, list[_Sighting]] = "", []
        self._missing: tuple[SanctumSnapshot, SideRecords, SanctumSnapshot] | None = None
        self._identity: tuple[int, int] | None = None
        self._error: str | None = None
        self._is_gone = False  # the store, which was there before
        self._is_behind = True
        self._looked_up: tuple[tuple[int, int], float | None] | None = None  # by process and second
        self._joined: tuple[SideRecords, int] | None = None  # and the newest update at that time
        self._gap_check = GapCheck(self._reader)
        self._start_over()

    def poll(self, now: float) -> Frame:
        """Read new events and return the state; never raises because of the store.

        Args:
            now: seconds since the epoch.
        """
        # Before the store, which then contains all that they contain, unless something is wrong.
        self._records = self._side_files.records()
        if self._reader.changed() or self._is_behind or self._error is not None:
            self._gap_check.note_change()
            before = self._cursor, self._heartbeat_at
            try:
                self._advance()
                self._error = None
                if before == (self._cursor, self._heartbeat_at):
                    self._reader.release()  # its writer may be about to make one plain file of it
            except RunStoreMissingError as error:
                self._is_behind = False
                self._is_gone = self._identity is not None
                # A run that is being created has a directory before it has a store.
                is_new = (
                    self._identity is None
                    and self._directory.is_dir()
                    and self._records.is_empty
                    and not self._reader.has_wal()
                )
                self._error = None if is_new else _vanished(self._directory, error)
            # A damaged store can cause any exception; the cockpit and the list of runs must show
            # it like other damage.
            except Exception as error:  # noqa: BLE001
                self._is_behind = False
                self._error = (
                    str(error)
                    if isinstance(error, RunStoreError)
                    else f"the store of {self._directory} is damaged: {error!r}"
                )
                with suppress(Exception):  # reported above; the light tables may be readable
                    self._aggregator.join_sightings(self._reader.sightings())
        else:
            self._reader.release()
        snapshot = self._snapshot()
        status = run_status(
            phase=snapshot.run.phase,
            reason=snapshot.run.reason,
            heartbeat=self._heartbeat,
            age=self._pulse.age(self._heartbeat_at, now, self._ticks()),
            finished_at=snapshot.run.finished_at,
            is_end_lost=self._aggregator.is_end_lost,
            start_time_of=lambda pid: self._start_time_of(pid, now),
        )
        if status.is_over:
            self._reader.release()  # as above
        # The end of a store that exists but cannot be read to its end is not known.
        is_in_doubt = status.kind in (StatusKind.WAITING, StatusKind.DEAD) and not self._is_gone
        if self._error is not None and (is_in_doubt or not snapshot.last_event_id):
            status = RunStatus(StatusKind.UNREADABLE, None, self._error)
        completeness = Completeness(
            unreadable=self._error,
            damaged_events=snapshot.run.damaged_events,
            gap=None if self._is_behind or self._error is not None else self._gap(status),
        )
        wal_bytes = 0 if status.is_over else self._reader.wal_bytes()
        settings = self._aggregator.settings
        return Frame(snapshot, status, completeness, self._is_behind, wal_bytes, settings)

    def catch_up(self) -> Frame:
        """Poll until all events are read."""
        while (frame := self.poll(time.time())).is_behind:
            pass
        return frame

    def digest(self) -> Digest | None:
        """Return the events that a summary of the run depends on; None if it must be read whole."""
        if self._is_behind or self._notes is None or self._error is not None:
            return None
        return self._notes.digest(self._gap_check.store_id, self._cursor)

    @property
    def heartbeat(self) -> Heartbeat | None:
        """The last heartbeat; None if there is none."""
        return self._heartbeat

    @property
    def heartbeat_at(self) -> float | None:
        """When it was sent by the clock of its machine, in seconds since the epoch."""
        return self._heartbeat_at

    def close(self) -> None:
        """Close the store."""
        self._reader.release()

    @property
    def updates(self) -> int:
        """The last update of the run so far; 0 before the first."""
        return self._index.updates

    def state_after(self, update: int) -> SanctumSnapshot | None:
        """Return the state after an update, or after the nearest update read so far.

        It is None before the first update.

        Raises:
            RunStoreError: the store cannot be read.
        """
        return self._time_travel.state_after(update, self._aggregator.last_id)

    def _snapshot(self) -> SanctumSnapshot:
        """Return the current state, with lights and incidents from all files of the run."""
        self._aggregator.join_capsules(self._capsules())
        if not self._is_behind:
            newest = self._aggregator.newest_update
            if self._joined != (self._records, newest):
                self._joined = self._records, newest
                before = set(lit_lights(self._aggregator.snapshot().tamiyo))
                known = [one for one in self._other_sightings() if one[0] <= newest]
                self._aggregator.join_sightings(known)
                if self._error is None and not before >= {_light_of(one) for one in known}:
                    self._is_light_missing = True
        snapshot = self._aggregator.snapshot()
        newer = [
            one
            for one in self._other_sightings()
            if self._is_behind or one[0] > self._aggregator.newest_update
        ]
        if not newer:
            return snapshot
        # Not into the aggregator, which earlier states of the run are derived from.
        if self._missing is None or self._missing[:2] != (snapshot, self._records):
            whole = self._aggregator.copy()
            whole.join_sightings(newer)
            self._missing = snapshot, self._records, whole.snapshot()
        return self._missing[2]

    def _capsules(self) -> tuple[Incident, ...]:
        """Return the incidents kept on the disk."""
        capsules = self._records.capsules
        if self._aggregator.lacks_capsule(capsules):  # written since the files were read?
            capsules = self._side_files.records().capsules
        return capsules

    def _other_sightings(self) -> list[_Sighting]:
        """Return the sightings that other files than this store have."""
        run_id, lights = self._before
        is_same = self._run_id in ("", run_id)
        return [*self._records.sightings, *(lights if is_same else [])]

    @property
    def _run_id(self) -> str:
        return self._aggregator.snapshot().run.run_id

    def _gap(self, status: RunStatus) -> str | None:
        events = EventsRead(
            last_id=self._aggregator.last_id,
            newest_update=self._aggregator.newest_update,
            lacks_updates=self._aggregator.lacks_updates,
            lacks_light=self._is_light_missing,
        )
        return self._gap_check.gap(self._records, events, status)

    def _start_time_of(self, pid: int, now: float) -> float | None:
        """Look up a process, at most once a second, because that is expensive."""
        if self._looked_up is None or self._looked_up[0] != (pid, int(now)):
            self._looked_up = (pid, int(now)), process_start_time(pid)
        return self._looked_up[1]

    def _start_over(self) -> None:
        self._aggregator = SanctumAggregator(keeps_histories=self._keeps_histories)
        is_summary = self._is_brief and not self._keeps_histories
        self._notes = DigestNotes() if is_summary else None
        self._index = UpdateIndex()
        self._time_travel = TimeTravel(
            self._reader, self._index, self._other_sightings, self._capsules
        )
        self._joined = None
        self._is_light_missing = False  # in the store, that another file has
        self._gap_check.start_over()
        self._cursor = 0
        self._counts_from: int | None = None  # frequent events before it are skipped
        self._heartbeat: Heartbeat | None = None
        self._heartbeat_at: float | None = None
        self._pulse = Pulse()

    def _remember_lights(self) -> None:
        """Keep the lights of a store that is no longer read: a light of a run never goes out."""
        run_id, lights = self._before
        is_same = self._run_id in ("", run_id)
        self._before = (
            self._run_id or run_id,
            [
                *(lights if is_same else []),
                *self._aggregator.sightings(),
            ],
        )

    def _advance(self) -> None:
        identity = self._reader.identity()
        if identity is not None and (identity != self._identity or self._is_gone):
            if self._identity is not None:
                self._remember_lights()
                self._start_over()  # the store was replaced by another one
            self._identity, self._is_gone = identity, False
        with self._reader.session(stays_open=self._stays_open):
            newest = self._reader.last_id()
            if self._cursor and not newest:
                raise RunStoreError(
                    f"the store of {self._directory} was emptied: what is shown was read before"
                )
            if newest < self._cursor:
                self._remember_lights()
                self._start_over()  # replaced, with the same file number: stores never lose events
            self._gap_check.read()
            self._begin_with_digest(newest)
            if self._counts_from is None:
                self._counts_from = 1 if self._is_brief else first_that_counts(self._reader, newest)
            self._apply_new(self._counts_from, newest)
            if not self._is_behind:
                join_tables(self._reader, self._aggregator)
            beat = self._reader.heartbeat()
        if beat is not None and isinstance(beat.payload, Heartbeat):
            if _shown(beat.payload) != _shown(self._heartbeat):
                self._aggregator.apply(beat)
            self._heartbeat, self._heartbeat_at = beat.payload, beat.time

    def _begin_with_digest(self, newest: int) -> None:
        """Apply the events of a digest, and skip the others up to its last."""
        digest, self._given_digest = self._given_digest, None
        if digest is None or self._notes is None or self._cursor or newest < digest.up_to:
            return
        if digest.store_id != self._gap_check.store_id:
            return
        events = self._reader.read_these(digest.ids)
        if tuple(event.id for event in events) != digest.ids:
            return
        for event in events:
            self._aggregator.apply(event)
            self._notes.note(event)
        self._aggregator.skip_to(digest.up_to)
        self._cursor = digest.up_to

    def _apply_new(self, counts_from: int, newest: int) -> None:
        bulk = not self._is_brief or not self._reader.rare_is_whole(newest)
        budget = EVENTS_PER_POLL
        while budget > 0:
            is_old = self._cursor < counts_from - 1
            end = counts_from - 1 if is_old else newest
            limit = min(EVENTS_PER_READ, budget)
            events = self._reader.read(self._cursor, limit, up_to=end, bulk=bulk and not is_old)
            for event in events:
                self._aggregator.apply(event)
                if self._notes is not None:
                    self._notes.note(event)
                if not self._is_brief:
                    self._index.note(event, self._aggregator)
            budget -= len(events)
            if len(events) == limit:
                self._cursor = events[-1].id
                continue
            self._cursor = end
            if not is_old:
                self._is_behind = False
                return
        self._is_behind = True


def _light_of(one: _Sighting) -> Light:
    return one[1].head, light_of(one[1].kind)


def _shown(beat: Heartbeat | None) -> tuple[object, ...]:
    # Other fields change with every heartbeat, and an unchanged screen must not be redrawn.
    if beat is None:
        return ()
    cpu = None if beat.cpu_percent is None else round(beat.cpu_percent)
    memory = None if beat.memory_bytes is None else beat.memory_bytes // 10**8
    gpu = beat.gpu_percent, beat.gpu_memory_bytes
    return beat.pid, beat.process_start_time, beat.events_lost, cpu, memory, gpu


def _vanished(directory: Path, error: RunStoreMissingError) -> str:
    return str(error) if directory.is_dir() else f"the run's directory {directory} is not there"
