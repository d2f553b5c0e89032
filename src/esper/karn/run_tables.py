"""The tables of a run's store, and the rows that one event becomes in them.

`events` holds every event as it was emitted. The other tables are kept beside it, in the same
transaction, so that a run can be asked in plain SQL: `head_health` has one row per update, head and
figure; `latches` has the first sighting of each kind of non-finite value, and `sightings` one row
for each update in which one was seen, which the view `evidence` adds up; `heartbeat` is a single
row that says the writer is alive; `meta` says what this file is. docs/store.md tells of them all.
"""

import math
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

from esper.karn.sightings import last_place, sightings_of
from esper.leyline.telemetry import NonfiniteSighting, Payload, PPOUpdatePayload

#: Raised when the meaning of a table changes; a reader refuses a store with a higher one.
STORE_VERSION: Final = 1
STORE_FORMAT: Final = "esper run"

_TABLE_NAMES: Final = ("meta", "events", "head_health", "latches", "sightings", "heartbeat")

#: The kinds of events that come many times an update.
COMMON_KINDS: Final = ("step_completed", "decisions_taken", "seed_transitioned")
#: Holds of events of all other kinds: attaching to a long run can pass over the old ones of these.
#: This is the condition of the partial index `rare_events`, to be repeated word by word in a query
#: that wants it: https://www.sqlite.org/partialindex.html, section 3.
RARE: Final = "kind NOT IN ('step_completed', 'decisions_taken', 'seed_transitioned')"

#: The per-head figures of an update that get rows in `head_health`; each is a field `head_…` of
#: `PPOUpdatePayload`.
HEAD_FIGURES: Final = (
    "entropy",
    "gradient_norm",
    "ratio_max",
    "clip_fraction",
    "kl",
    "log_prob_min",
    "log_prob_max",
    "active_fraction",
)

# SQLite stores NaN as NULL, and a CHECK that evaluates to NULL passes: hence IS and CASE, which
# never do. 9e999 is how SQL spells infinity.
_TABLES: Final = (
    """
    CREATE TABLE IF NOT EXISTS meta (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS events (
        id INTEGER PRIMARY KEY,
        time REAL NOT NULL,
        kind TEXT NOT NULL,
        update_index INTEGER,
        payload BLOB NOT NULL
    )
    """,
    f"CREATE INDEX IF NOT EXISTS rare_events ON events (id) WHERE {RARE}",
    "CREATE INDEX IF NOT EXISTS events_by_kind ON events (kind)",
    """
    CREATE TABLE IF NOT EXISTS head_health (
        update_index INTEGER NOT NULL,
        head TEXT NOT NULL,
        quantity TEXT NOT NULL,
        value REAL,
        class TEXT NOT NULL CHECK (
            CASE class
                WHEN 'finite' THEN typeof(value) = 'real' AND abs(value) IS NOT 9e999
                WHEN 'nan' THEN value IS NULL
                WHEN '+inf' THEN value IS 9e999
                WHEN '-inf' THEN value IS -9e999
                ELSE 0
            END
        ),
        PRIMARY KEY (update_index, head, quantity)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS latches (
        head TEXT NOT NULL,
        kind TEXT NOT NULL,
        quantity TEXT NOT NULL,
        first_update INTEGER NOT NULL,
        first_epoch INTEGER NOT NULL,
        first_minibatch INTEGER NOT NULL,
        PRIMARY KEY (head, kind, quantity)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS sightings (
        head TEXT NOT NULL,
        quantity TEXT NOT NULL,
        kind TEXT NOT NULL,
        update_index INTEGER NOT NULL,
        minibatches INTEGER NOT NULL,
        first_epoch INTEGER NOT NULL,
        first_minibatch INTEGER NOT NULL,
        last_epoch INTEGER NOT NULL,
        last_minibatch INTEGER NOT NULL,
        PRIMARY KEY (head, quantity, kind, update_index)
    ) WITHOUT ROWID
    """,
    """
    CREATE VIEW IF NOT EXISTS evidence AS
        SELECT
            head, quantity, kind,
            first_update, first.first_epoch, first.first_minibatch,
            last_update, last.last_epoch, last.last_minibatch,
            updates, total AS minibatches
        FROM (
            SELECT
                head, quantity, kind,
                min(update_index) AS first_update,
                max(update_index) AS last_update,
                count(*) AS updates,
                sum(minibatches) AS total
            FROM sightings GROUP BY head, quantity, kind
        )
        JOIN sightings AS first USING (head, quantity, kind)
        JOIN sightings AS last USING (head, quantity, kind)
        WHERE first.update_index = first_update AND last.update_index = last_update
    """,
    """
    CREATE TABLE IF NOT EXISTS heartbeat (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        time REAL NOT NULL,
        pid INTEGER NOT NULL,
        process_start_time REAL NOT NULL,
        machine TEXT NOT NULL,
        events_lost INTEGER NOT NULL,
        resident_bytes INTEGER NOT NULL,
        error TEXT NOT NULL,
        pid_namespace TEXT NOT NULL DEFAULT ''
    )
    """,
)

INSERT_EVENTS: Final = "INSERT INTO events (time, kind, update_index, payload) VALUES"
INSERT_HEAD_HEALTH: Final = "INSERT OR REPLACE INTO head_health VALUES"
#: Rows that go into one statement; SQLite takes 32,766 values at most.
_ROWS_PER_STATEMENT: Final = 256
# The join of the semilattice: the earlier sighting stands, whatever order they come in.
JOIN_LATCH: Final = """
    INSERT INTO latches VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (head, kind, quantity) DO UPDATE SET
        first_update = excluded.first_update,
        first_epoch = excluded.first_epoch,
        first_minibatch = excluded.first_minibatch
    WHERE (excluded.first_update, excluded.first_epoch, excluded.first_minibatch)
        < (first_update, first_epoch, first_minibatch)
"""
# As `latches`; of what one update says twice, the larger count and the outermost places stand.
JOIN_SIGHTING: Final = """
    INSERT INTO sightings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (head, quantity, kind, update_index) DO UPDATE SET
        minibatches = max(minibatches, excluded.minibatches),
        (first_epoch, first_minibatch) = (
            SELECT * FROM (
                SELECT sightings.first_epoch, sightings.first_minibatch
                UNION ALL SELECT excluded.first_epoch, excluded.first_minibatch
            ) ORDER BY 1, 2 LIMIT 1
        ),
        (last_epoch, last_minibatch) = (
            SELECT * FROM (
                SELECT sightings.last_epoch, sightings.last_minibatch
                UNION ALL SELECT excluded.last_epoch, excluded.last_minibatch
            ) ORDER BY 1 DESC, 2 DESC LIMIT 1
        )
"""
REPLACE_HEARTBEAT: Final = (
    "INSERT OR REPLACE INTO heartbeat (id, time, pid, process_start_time, machine, events_lost,"
    " resident_bytes, error, pid_namespace) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)"
)
#: Columns that were added to tables since `STORE_VERSION` 1: table, column and declaration.
_ADDED_COLUMNS: Final = (("heartbeat", "pid_namespace", "TEXT NOT NULL DEFAULT ''"),)


class RunStoreError(ValueError):
    """A run's store is missing, foreign, newer than this program, or cannot be read."""


class RunStoreMissingError(RunStoreError):
    """There is no store where one was looked for."""


def check_store(connection: sqlite3.Connection, where: str) -> bool:
    """Return whether the store has its tables yet; an empty database has none.

    Raises:
        RunStoreError: the database is not a run's store, or is of a newer version.
    """
    types = dict(connection.execute("SELECT name, type FROM sqlite_master"))
    if not types:
        return False
    meta = {}
    if types.get("meta") == "table":
        meta = dict(connection.execute("SELECT key, value FROM meta LIMIT 100"))
    if meta.get("format") != STORE_FORMAT:
        raise RunStoreError(f"{where} is a database, but not one that Esper wrote")
    for table in _TABLE_NAMES:
        # A view in the place of a table can hold anything, without an end.
        if types.get(table, "table") != "table":
            raise RunStoreError(f"{where} is damaged: {table} is a {types[table]}, not a table")
    told = meta.get("store_version", "nothing")
    if not isinstance(told, str) or not told.isdecimal():
        raise RunStoreError(f"{where} cannot be read: it gives {told!r} as its version")
    version = int(told)
    if version > STORE_VERSION:
        raise RunStoreError(
            f"{where} was written by a newer Esper (store version {version}); this one reads up to "
            f"version {STORE_VERSION}: update Esper to open it"
        )
    return True


def create_tables(connection: sqlite3.Connection, esper_version: str) -> None:
    """Create the tables in one transaction; those that exist are left as they are."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        connection.execute(statement)
    for table, column, declaration in _ADDED_COLUMNS:
        if column not in columns_of(connection, table):
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {declaration}")
    connection.executemany(
        "INSERT OR IGNORE INTO meta VALUES (?, ?)",
        [
            ("format", STORE_FORMAT),
            ("store_version", str(STORE_VERSION)),
            ("esper_version", esper_version),
            ("store_id", uuid.uuid4().hex),
        ],
    )
    connection.execute("COMMIT")


def columns_of(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns."""
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


class Thinned(NamedTuple):
    """What was removed from a store to keep it small: old steps, decisions and transitions."""

    up_to: int  # id up to which events of `COMMON_KINDS` were removed; 0 for none
    removed: int  # how many


def thinned_of(connection: sqlite3.Connection) -> Thinned:
    """Return what was removed from a store; nothing where it does not say so in a way that can be.

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
    """Remove common events among the next so many oldest events; return whether there were any.

    The caller holds a transaction.

    Args:
        connection: to the store.
        events: how many ids to go through.
        kept: newest events that are not touched.
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


def store_id_of(connection: sqlite3.Connection) -> str | None:
    """Return what tells this store from every other; None for one of an older Esper."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'store_id'").fetchone()
    return row[0] if row is not None and isinstance(row[0], str) else None


def insert_rows(
    connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """Insert rows, many in one statement.

    `executemany` would let go of the interpreter's lock at every row, and beside a thread that
    computes in Python it may take 5 ms (`sys.getswitchinterval`) to get it back.
    """
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        chunk = rows[start : start + _ROWS_PER_STATEMENT]
        row = f"({', '.join('?' * len(chunk[0]))})"
        values = list(chain.from_iterable(chunk))
        connection.execute(f"{insert} {', '.join([row] * len(chunk))}", values)


def class_of(value: float) -> str:
    """Return "finite", "nan", "+inf" or "-inf"."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "+inf" if value > 0 else "-inf"
    return "finite"


def update_index_of(payload: Payload) -> int | None:
    """Return the update that an event belongs to, if it belongs to one."""
    return getattr(payload, "update", None)


def head_health_rows(payload: PPOUpdatePayload) -> Iterator[tuple[int, str, str, float, str]]:
    """Yield rows of `head_health`."""
    for figure in HEAD_FIGURES:
        for head, value in getattr(payload, f"head_{figure}").items():
            yield payload.update, head, figure, value, class_of(value)


def latch_rows(payload: PPOUpdatePayload) -> Iterator[tuple[str, str, str, int, int, int]]:
    """Yield rows of `latches`; a detection without provenance has the quantity "unknown"."""
    for seen in sightings_of(payload):
        yield latch_row(payload.update, seen)


def latch_row(update: int, seen: NonfiniteSighting) -> tuple[str, str, str, int, int, int]:
    """Return the row of `latches` for one sighting."""
    return seen.head, seen.kind, seen.quantity, update, seen.epoch, seen.minibatch


def sighting_rows(
    payload: PPOUpdatePayload,
) -> Iterator[tuple[str, str, str, int, int, int, int, int, int]]:
    """Yield rows of `sightings`."""
    for seen in sightings_of(payload):
        yield sighting_row(payload.update, seen)


def sighting_row(
    update: int, seen: NonfiniteSighting
) -> tuple[str, str, str, int, int, int, int, int, int]:
    """Return the row of `sightings` for what one update saw."""
    what = seen.head, seen.quantity, seen.kind
    return *what, update, seen.count, seen.epoch, seen.minibatch, *last_place(seen)
