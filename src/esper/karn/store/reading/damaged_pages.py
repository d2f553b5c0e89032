"""Finds damaged pages of a store, and reads what is still readable in them.

SQLite trusts the content of a page that has the right form. One wrong byte can make an id far too
high, and SQLite then skips all later events without an error. But the writer numbers events from 1
without gaps, and each has an entry in one or two indexes. So missing events can be counted.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final

from esper.karn.store.tables.event_rows import SELECT_EVENTS, damaged_event, event_of
from esper.karn.store.tables.thinning import COMMON_KINDS, RARE, thinned_of
from esper.leyline.telemetry import Event

#: Less than the size of any event in a store.
_BYTES_OF_AN_EVENT: Final = 16
#: Queries for the last ids: in the table, and in the indexes, which have each id once.
_LAST_IDS: Final = tuple(
    f"SELECT id FROM events {where} ORDER BY id DESC LIMIT 3"
    for where in ("", f"WHERE {RARE}", *(f"WHERE kind = '{kind}'" for kind in COMMON_KINDS))
)
_COUNTED: Final = "SELECT count(*), coalesce(sum(id), 0) FROM events WHERE id <= ?1 AND"


def _between_common_kinds() -> Iterator[str]:
    """Yield conditions for the rare kinds in a form that uses the index `events_by_kind`."""
    kinds = sorted(COMMON_KINDS)
    yield f"kind < '{kinds[0]}'"
    yield from (f"kind > '{kind}' AND kind < '{following}'" for kind, following in pairwise(kinds))
    yield f"kind > '{kinds[-1]}'"


_RARE_BY_KIND: Final = tuple(f"{_COUNTED} {condition}" for condition in _between_common_kinds())


def last_plausible_id(connection: sqlite3.Connection) -> int | None:
    """Return the last plausible id: 0 if there are no events, None if no id is plausible.

    An id is plausible if its predecessor exists, too: among the last ids of the table and the
    indexes, a single wrong id has none.

    Raises:
        sqlite3.DatabaseError: neither the table nor its indexes can be read.
    """
    found: set[int] = set()
    error: sqlite3.DatabaseError | None = None
    is_read = False
    for query in _LAST_IDS:
        try:
            # An index can hold a NULL where its row is damaged.
            found.update(n for (n,) in connection.execute(query) if isinstance(n, int))
            is_read = True
        except sqlite3.DatabaseError as raised:
            error = error or raised
    if error is not None and not is_read:
        raise error
    last = max((n for n in found if n == 1 or (n > 1 and n - 1 in found)), default=0)
    stored = last - thinned_of(connection).removed
    if (found and not last) or stored * _BYTES_OF_AN_EVENT > _size_of(connection):
        return None
    return last


def indexes_agree(connection: sqlite3.Connection, up_to: int) -> bool:
    """Return whether both indexes have the same ids of rare events, up to the id `up_to`."""
    try:
        (rare,) = connection.execute(f"{_COUNTED} {RARE}", (up_to,))
        rows = [connection.execute(query, (up_to,)).fetchone() for query in _RARE_BY_KIND]
        is_whole = thinned_is_whole(connection)
    except sqlite3.DatabaseError:
        return False
    counts, sums = zip(*rows, strict=True)
    return is_whole and bool(rare == (sum(counts), sum(sums)))


def thinned_is_whole(connection: sqlite3.Connection) -> bool:
    """Return whether the thinned part of a store lacks only events that were removed on purpose.

    Raises:
        sqlite3.DatabaseError: the index cannot be read.
    """
    thinned = thinned_of(connection)
    if not thinned.up_to:
        return True
    count, _ = connection.execute(f"{_COUNTED} {RARE}", (thinned.up_to,)).fetchone()
    return bool(count + thinned.removed == thinned.up_to)


def read_one_by_one(
    connection: sqlite3.Connection, after: int, last: int, limit: int
) -> list[Event]:
    """Return an event for each expected id; a missing one has a `DamagedPayload`.

    Args:
        connection: connection to the store.
        after: the last id that the caller has.
        last: the last id to return.
        limit: maximum number of events.
    """
    rows: dict[int, tuple[Any, ...]] = {}
    removed_up_to = thinned_of(connection).up_to
    # A scan finds events after a wrong id, where a search by id fails. On a damaged page it is the
    # other way round.
    with suppress(sqlite3.DatabaseError):
        query = f"{SELECT_EVENTS} WHERE id > ? ORDER BY id LIMIT ?"
        for row in connection.execute(query, (after, limit)):
            rows.setdefault(row[0], row)
    events = []
    for number in range(after + 1, min(last, after + limit) + 1):
        found = rows.get(number)
        if found is None and number <= removed_up_to:
            continue  # `thinned_is_whole` checks whether all of these were removed on purpose
        reason = "it is missing"
        if found is None:
            try:
                found = connection.execute(f"{SELECT_EVENTS} WHERE id = ?", (number,)).fetchone()
            except sqlite3.DatabaseError:
                reason = "its page is damaged"
        events.append(damaged_event(number, reason) if found is None else event_of(*found))
    return events


def _size_of(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * size)
