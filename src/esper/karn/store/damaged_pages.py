"""Finds out where pages of a store are damaged, and reads what can be read there all the same.

SQLite believes what a page says, as long as the page has the right form: one wrong byte can make an
id far too high, and all that comes after it in the order of ids is then passed over without an
error. But the writer numbers events from 1 on without a gap, and each has an entry in an index or
two. So what is missing shows, and can be counted.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final

from esper.karn.store.event_rows import SELECT_EVENTS, damaged_event, event_of
from esper.karn.store.run_tables import COMMON_KINDS, RARE, thinned_of
from esper.leyline.telemetry import Event

#: Less than any event takes of a store.
_BYTES_OF_AN_EVENT: Final = 16
#: Where the last ids are to be found: in the table, and in indexes that hold each of them once.
_LAST_IDS: Final = tuple(
    f"SELECT id FROM events {where} ORDER BY id DESC LIMIT 3"
    for where in ("", f"WHERE {RARE}", *(f"WHERE kind = '{kind}'" for kind in COMMON_KINDS))
)
_COUNTED: Final = "SELECT count(*), coalesce(sum(id), 0) FROM events WHERE id <= ?1 AND"


def _between_common_kinds() -> Iterator[str]:
    """Yield conditions that hold of the rare kinds, of a form for which `events_by_kind` serves."""
    kinds = sorted(COMMON_KINDS)
    yield f"kind < '{kinds[0]}'"
    yield from (f"kind > '{kind}' AND kind < '{following}'" for kind, following in pairwise(kinds))
    yield f"kind > '{kinds[-1]}'"


_RARE_BY_KIND: Final = tuple(f"{_COUNTED} {condition}" for condition in _between_common_kinds())


def last_plausible_id(connection: sqlite3.Connection) -> int | None:
    """Return the last id that can be: 0 if there are no events, None if no id makes sense.

    It is one whose predecessor is known, too: of a few ids at the end, from the table and from the
    indexes, a single wrong one stands alone.

    Raises:
        sqlite3.DatabaseError: the table cannot be read at all, nor its indexes.
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
    """Return whether both indexes have the same ids of the rare kinds, up to one."""
    try:
        (rare,) = connection.execute(f"{_COUNTED} {RARE}", (up_to,))
        rows = [connection.execute(query, (up_to,)).fetchone() for query in _RARE_BY_KIND]
        is_whole = thinned_is_whole(connection)
    except sqlite3.DatabaseError:
        return False
    counts, sums = zip(*rows, strict=True)
    return is_whole and bool(rare == (sum(counts), sum(sums)))


def thinned_is_whole(connection: sqlite3.Connection) -> bool:
    """Return whether of the part of a store that was thinned no other event is missing.

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
    """Return an event for each id there has to be; what is missing comes as `DamagedPayload`.

    Args:
        connection: to the store.
        after: the last id that is known already.
        last: the last one that there is, or that is asked for.
        limit: how many to return at most.
    """
    rows: dict[int, tuple[Any, ...]] = {}
    removed_up_to = thinned_of(connection).up_to
    # Behind an id that is wrong, a search goes astray and reading on does not; where a page is
    # wrong it is the other way round.
    with suppress(sqlite3.DatabaseError):
        query = f"{SELECT_EVENTS} WHERE id > ? ORDER BY id LIMIT ?"
        for row in connection.execute(query, (after, limit)):
            rows.setdefault(row[0], row)
    events = []
    for number in range(after + 1, min(last, after + limit) + 1):
        found = rows.get(number)
        if found is None and number <= removed_up_to:
            continue  # `thinned_is_whole` says whether all of these were removed on purpose
        reason = "it is not where it should be"
        if found is None:
            try:
                found = connection.execute(f"{SELECT_EVENTS} WHERE id = ?", (number,)).fetchone()
            except sqlite3.DatabaseError:
                reason = "the page that it is on is damaged"
        events.append(damaged_event(number, reason) if found is None else event_of(*found))
    return events


def _size_of(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * size)
