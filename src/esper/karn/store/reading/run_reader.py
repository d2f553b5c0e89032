"""Reads a run's store, whether the run is live, ended or dead; damage is part of what it returns.

Which damage is recognised is written in docs/store.md.
"""

import math
import operator
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from itertools import starmap
from typing import Any, Final

from esper.karn.store.errors import RunStoreError
from esper.karn.store.reading.damaged_pages import (
    indexes_agree,
    last_plausible_id,
    read_one_by_one,
    thinned_is_whole,
)
from esper.karn.store.reading.read_only_store import ReadOnlyStore
from esper.karn.store.tables.event_rows import SELECT_EVENTS, event_of, plausible_time
from esper.karn.store.tables.run_tables import columns_of, store_id_of
from esper.karn.store.tables.sighting_rows import sightings_in
from esper.karn.store.tables.thinning import COMMON_KINDS, RARE, Thinned, thinned_of
from esper.leyline.telemetry import DamagedPayload, Event, Heartbeat, NonfiniteSighting
from esper.leyline.text.sighting_words import KIND_WORDS

_NEWEST: Final = 2**63 - 1  # the largest possible id
#: Sightings in the tables other than `events`. Older stores have fewer columns.
_SIGHTINGS: Final = (
    "SELECT * FROM latches WHERE first_update <= ?",
    "SELECT * FROM sightings WHERE update_index <= ?",
)
_LIGHTS: Final = "SELECT DISTINCT head, kind FROM latches WHERE first_update <= ?"
_HEARTBEAT_TYPES: Final = (float, int, float, str, int, int, str, str)
#: Columns of the machine's load, with their types; stores of older versions lack them.
_LOAD_COLUMNS: Final[dict[str, type]] = {
    "cpu_percent": float,
    "memory_bytes": int,
    "gpu_percent": float,
    "gpu_memory_bytes": int,
    "gpu_total_bytes": int,
}


class RunReader(ReadOnlyStore):
    """Queries on one run's store.

    Args:
        directory: the run's directory; it need not exist yet.
    """

    def has_tables(self) -> bool:
        """Return whether the store has its tables; an empty file has none.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            return connection is not None

    def store_id(self) -> str | None:
        """Return the unique id of the store; None if an older version of Esper wrote it.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            return None if connection is None else store_id_of(connection)

    def read(
        self, after: int, limit: int, *, up_to: int = _NEWEST, bulk: bool = True
    ) -> list[Event]:
        """Return events in the order of their ids.

        Ids have no gaps. So there is an event for each id: one that is damaged or missing has a
        `DamagedPayload`, except where events were removed on purpose (`thinned`).

        Args:
            after: the last id that the caller has; 0 for none.
            limit: maximum number of events.
            up_to: the last id to return.
            bulk: whether to include the kinds with many events per update: steps, decisions and
                seed transitions. Without them, damaged parts may still return some of them, and
                other events may be missing unless `rare_is_whole`.

        Raises:
            RunStoreError: there is no store, or it cannot be read.
        """
        with self._connection() as connection:
            if connection is None:
                return []
            removed_up_to = min(thinned_of(connection).up_to, up_to) if bulk else 0
            events: list[Event] = []
            if after < removed_up_to:
                events = self._read(connection, after, limit, removed_up_to, bulk=False)
                if len(events) == limit:
                    return events
                after, limit = removed_up_to, limit - len(events)
            return events + self._read(connection, after, limit, up_to, bulk=bulk)

    def _read(
        self, connection: sqlite3.Connection, after: int, limit: int, up_to: int, *, bulk: bool
    ) -> list[Event]:
        where = "" if bulk else f"AND {RARE}"
        query = f"{SELECT_EVENTS} WHERE id > ? AND id <= ? {where} ORDER BY id LIMIT ?"
        try:
            rows = connection.execute(query, (after, up_to, limit)).fetchall()
            if bulk:
                end = after + len(rows)
                is_whole = [row[0] for row in rows] == list(range(after + 1, end + 1)) and (
                    len(rows) == limit or end >= min(up_to, self._last_id(connection))
                )
            else:
                is_whole = not any(row[2] in COMMON_KINDS for row in rows) and _ascends(
                    [after, *(row[0] for row in rows)]
                )
        except sqlite3.DatabaseError:
            is_whole = False  # a damaged page
        if is_whole:
            return list(starmap(event_of, rows))
        last = min(up_to, self._last_id(connection))
        return read_one_by_one(connection, after, last, limit)

    def read_these(self, ids: Sequence[int]) -> list[Event]:
        """Return the events with these ids that can be read, in the order of their ids.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            if connection is None or not ids:
                return []
            query = f"{SELECT_EVENTS} WHERE id IN ({', '.join(map(str, ids))}) ORDER BY id"
            found = starmap(event_of, connection.execute(query).fetchall())
            return [event for event in found if not isinstance(event.payload, DamagedPayload)]

    def read_kind(self, kind: str, after: int, limit: int) -> list[Event]:
        """Return events of one kind in the order of their ids.

        Args:
            kind: the kind, as stored.
            after: the last id that the caller has; 0 for none.
            limit: maximum number of events.

        Raises:
            RunStoreError: the store or its index cannot be read.
        """
        query = f"{SELECT_EVENTS} WHERE kind = ? AND id > ? ORDER BY id LIMIT ?"
        with self._connection() as connection:
            if connection is None:
                return []
            rows = connection.execute(query, (kind, after, limit)).fetchall()
            if not _ascends([after, *(row[0] for row in rows)]):
                raise RunStoreError(f"{self._path} is damaged: its events are out of order")
            return list(starmap(event_of, rows))

    def update_marks(self) -> list[tuple[int, int | None]]:
        """Return the ids of the ends of updates, each with its update, and of starts, with None.

        Raises:
            RunStoreError: as `read_kind`.
        """
        query = (
            "SELECT id, CASE kind WHEN 'ppo_update' THEN update_index END FROM events "
            "WHERE kind IN ('ppo_update', 'run_started') ORDER BY id"
        )
        with self._connection() as connection:
            return [] if connection is None else list(connection.execute(query))

    def thinned(self) -> Thinned:
        """Return which events were removed from the store to keep it small.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            return Thinned(0, 0) if connection is None else thinned_of(connection)

    def thinned_is_whole(self) -> bool:
        """Return whether the thinned part lacks only the events that were removed on purpose.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            return connection is None or thinned_is_whole(connection)

    def rare_is_whole(self, up_to: int) -> bool:
        """Return whether the indexes agree on all events but steps, decisions and transitions.

        Args:
            up_to: the last id to check.

        Raises:
            RunStoreError: as `read`.
        """
        with self._connection() as connection:
            return connection is None or indexes_agree(connection, up_to)

    def last_ids(self, kind: str, count: int, *, up_to: int = _NEWEST) -> list[int]:
        """Return the ids of the last events of a kind, newest first, up to the id `up_to`.

        Raises:
            RunStoreError: the store or its index cannot be read.
        """
        query = "SELECT id FROM events WHERE kind = ? AND id <= ? ORDER BY id DESC LIMIT ?"
        return [number for (number,) in self._newest_first(query, (kind, up_to, count))]

    def read_last(self, kind: str, count: int, *, up_to: int = _NEWEST) -> list[Event]:
        """Return the last events of a kind, newest first, up to the id `up_to`.

        Raises:
            RunStoreError: as `last_ids`.
        """
        query = f"{SELECT_EVENTS} WHERE kind = ? AND id <= ? ORDER BY id DESC LIMIT ?"
        return list(starmap(event_of, self._newest_first(query, (kind, up_to, count))))

    def read_last_rare(self, count: int, *, up_to: int = _NEWEST) -> list[Event]:
        """Return the last events, except steps, decisions and transitions, newest first.

        Raises:
            RunStoreError: as `last_ids`.
        """
        query = f"{SELECT_EVENTS} WHERE id <= ? AND {RARE} ORDER BY id DESC LIMIT ?"
        return list(starmap(event_of, self._newest_first(query, (up_to, count))))

    def _newest_first(self, query: str, given: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._connection() as connection:
            if connection is None:
                return []
            rows = connection.execute(query, given).fetchall()
            if not _ascends([row[0] for row in reversed(rows)]):
                raise RunStoreError(f"{self._path} is damaged: its events are out of order")
            return rows

    def last_id(self) -> int:
        """Return the id of the newest event; 0 if there is none.

        Raises:
            RunStoreError: there is no store, or its ids are impossible.
        """
        with self._connection() as connection:
            return 0 if connection is None else self._last_id(connection)

    def _last_id(self, connection: sqlite3.Connection) -> int:
        last = last_plausible_id(connection)
        if last is None:
            raise RunStoreError(f"{self._path} is damaged: its events have impossible numbers")
        return last

    def lights(self, *, up_to_update: int = _NEWEST) -> set[tuple[str, str]]:
        """Return head and kind of each row of the table `latches`; unreadable rows are left out."""
        rows: list[tuple[Any, ...]] = []
        with self._connection() as connection:
            if connection is None:
                return set()
            with suppress(sqlite3.DatabaseError):
                rows.extend(connection.execute(_LIGHTS, (up_to_update,)))
        return {(head, kind) for head, kind in rows if type(head) is str and kind in KIND_WORDS}

    def sightings(self, *, up_to_update: int = _NEWEST) -> list[tuple[int, NonfiniteSighting]]:
        """Return the sightings in the tables `latches` and `sightings`, each with its update.

        They repeat those of the events, and serve where events are damaged. Unreadable rows are
        left out.
        """
        rows: list[dict[str, Any]] = []
        with self._connection() as connection:
            if connection is None:
                return []
            for query in _SIGHTINGS:
                # Rows read before an error are kept; an older store has no table `sightings`.
                with suppress(sqlite3.DatabaseError):
                    found = connection.execute(query, (up_to_update,))
                    names = [column[0] for column in found.description]
                    rows.extend(dict(zip(names, row, strict=True)) for row in found)
        return [sighting for row in rows for sighting in sightings_in(row)]

    def heartbeat(self) -> Event | None:
        """Return the writer's last heartbeat, as an event with the id 0."""
        with self._connection() as connection:
            if connection is None:
                return None
            known = columns_of(connection, "heartbeat")
            namespace = "pid_namespace" if "pid_namespace" in known else "''"
            load = [name if name in known else "NULL" for name in _LOAD_COLUMNS]
            row = connection.execute(
                "SELECT time, pid, process_start_time, machine, events_lost, resident_bytes, error,"
                f" {namespace}, {', '.join(load)} FROM heartbeat"
            ).fetchone()
        if row is None:
            return None
        row, load_values = row[: len(_HEARTBEAT_TYPES)], row[len(_HEARTBEAT_TYPES) :]
        if tuple(map(type, row)) != _HEARTBEAT_TYPES or not all(map(math.isfinite, row[:3:2])):
            raise RunStoreError(f"{self._path} is damaged: its heartbeat has impossible values")
        beat = Heartbeat(
            pid=row[1],
            process_start_time=row[2],
            machine=row[3],
            events_lost=row[4],
            resident_bytes=row[5],
            error=row[6],
            pid_namespace=row[7],
            **_load_of(load_values),
        )
        return Event(id=0, time=plausible_time(row[0]), payload=beat)


def _load_of(values: Sequence[Any]) -> dict[str, Any]:
    """Return the load of the machine in a heartbeat; impossible values are left out."""
    return {
        name: value
        for (name, kind), value in zip(_LOAD_COLUMNS.items(), values, strict=True)
        if isinstance(value, int | float) and type(value) is kind and 0 <= value < math.inf
    }


def _ascends(ids: Sequence[int]) -> bool:
    # A damaged row can have NULL as its id.
    return all(type(number) is int for number in ids) and all(map(operator.lt, ids, ids[1:]))
