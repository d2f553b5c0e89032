"""Removal of old steps, decisions and seed transitions from a store that is over its size limit."""

import sqlite3
from typing import Final, NamedTuple

#: The kinds with many events per update.
COMMON_KINDS: Final = ("step_completed", "decisions_taken", "seed_transitioned")
#: Condition for all other kinds. It is the condition of the partial index `rare_events`, which a
#: query only uses if it repeats the condition literally:
#: https://www.sqlite.org/partialindex.html, section 3.
RARE: Final = "kind NOT IN ('step_completed', 'decisions_taken', 'seed_transitioned')"


class Thinned(NamedTuple):
    """The events removed from a store to keep it small: old steps, decisions and transitions."""

    up_to: int  # id up to which events of `COMMON_KINDS` were removed; 0 for none
    removed: int  # number of removed events


def thinned_of(connection: sqlite3.Connection) -> Thinned:
    """Return which events were removed from a store; none if its record of them is implausible.

    Raises:
        sqlite3.Error: the table `meta` cannot be read.
    """
    query = "SELECT key, value FROM meta WHERE key IN ('thinned_up_to', 'thinned_events')"
    found = dict(connection.execute(query).fetchall())
    try:
        up_to, removed = int(found["thinned_up_to"]), int(found["thinned_events"])
    except (KeyError, TypeError, ValueError):
        return Thinned(0, 0)
    return Thinned(up_to, removed) if 0 <= removed <= up_to else Thinned(0, 0)


def thin(connection: sqlite3.Connection, events: int, kept: int) -> bool:
    """Remove common events among the oldest ones; return whether there were any to check.

    The caller holds a transaction.

    Args:
        connection: connection to the store.
        events: number of ids to check.
        kept: number of the newest events that are not removed.
    """
    before = thinned_of(connection)
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
    up_to = min(before.up_to + events, last - kept)
    if up_to <= before.up_to:
        return False
    removed = connection.execute(
        f"DELETE FROM events WHERE id > ? AND id <= ? AND NOT ({RARE})", (before.up_to, up_to)
    ).rowcount
    connection.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)",
        [("thinned_up_to", str(up_to)), ("thinned_events", str(before.removed + removed))],
    )
    return True
