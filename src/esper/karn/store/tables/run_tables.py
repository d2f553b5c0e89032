"""The tables of a run's store: their definition, creation, migration and check.

`events` holds every event as it was emitted. The other tables are derived from the events and
written in the same transaction, so that plain SQL can query a run. docs/store.md describes them
all; `update_tables` and `sighting_rows` make their rows.

A new column is appended to its table with a default. A store of an older version is read without
it, and gets it when a writer opens the store (`create_tables`).
"""

import sqlite3
import uuid
from collections.abc import Sequence
from typing import Final

from esper.karn.store.errors import RunStoreError
from esper.karn.store.tables.thinning import RARE
from esper.karn.store.tables.update_tables import (
    UPDATE_TABLE_NAMES,
    UPDATE_TABLES,
    VALUE_AND_CLASS,
    fill_from_events,
)

#: Increased when the meaning of a table changes; a reader refuses a store with a higher version.
STORE_VERSION: Final = 1
STORE_FORMAT: Final = "esper run"

_TABLE_NAMES: Final = (
    "meta",
    "events",
    "head_health",
    "latches",
    "sightings",
    "heartbeat",
    *UPDATE_TABLE_NAMES,
)

#: Columns added to tables since the first version, in their order at the end of each table.
_ADDED_COLUMNS: Final = {
    "latches": (
        "first_phase TEXT NOT NULL DEFAULT 'update'",
        "first_host INTEGER",
        "first_step INTEGER",
        "first_part TEXT NOT NULL DEFAULT ''",
        "reproduced INTEGER NOT NULL DEFAULT 1",
        "planted INTEGER NOT NULL DEFAULT 0",
    ),
    "sightings": (
        "first_phase TEXT NOT NULL DEFAULT 'update'",
        "first_host INTEGER",
        "first_step INTEGER",
        "first_part TEXT NOT NULL DEFAULT ''",
        "last_phase TEXT NOT NULL DEFAULT 'update'",
        "last_part TEXT NOT NULL DEFAULT ''",
        "steps INTEGER NOT NULL DEFAULT 0",
        "reproduced INTEGER NOT NULL DEFAULT 1",
        "planted INTEGER NOT NULL DEFAULT 0",
    ),
    "heartbeat": (
        "pid_namespace TEXT NOT NULL DEFAULT ''",
        "cpu_percent REAL",
        "memory_bytes INTEGER",
        "gpu_percent REAL",
        "gpu_memory_bytes INTEGER",
        "gpu_total_bytes INTEGER",
    ),
}

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
    f"""
    CREATE TABLE IF NOT EXISTS head_health (
        update_index INTEGER NOT NULL,
        head TEXT NOT NULL,
        quantity TEXT NOT NULL,
        {VALUE_AND_CLASS},
        PRIMARY KEY (update_index, head, quantity)
    ) WITHOUT ROWID
    """,
    f"""
    CREATE TABLE IF NOT EXISTS latches (
        head TEXT NOT NULL,
        kind TEXT NOT NULL,
        quantity TEXT NOT NULL,
        first_update INTEGER NOT NULL,
        first_epoch INTEGER NOT NULL,
        first_minibatch INTEGER NOT NULL,
        {", ".join(_ADDED_COLUMNS["latches"])},
        PRIMARY KEY (head, kind, quantity)
    ) WITHOUT ROWID
    """,
    f"""
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
        {", ".join(_ADDED_COLUMNS["sightings"])},
        PRIMARY KEY (head, quantity, kind, update_index)
    ) WITHOUT ROWID
    """,
    """
    CREATE VIEW IF NOT EXISTS evidence AS
        SELECT
            head, quantity, kind,
            first_update, first.first_epoch, first.first_minibatch,
            last_update, last.last_epoch, last.last_minibatch,
            updates, all_minibatches AS minibatches,
            first.first_phase, first.first_host, first.first_step, first.first_part,
            last.last_phase, last.last_part,
            all_steps AS steps, was_reproduced AS reproduced, is_planted AS planted
        FROM (
            SELECT
                head, quantity, kind,
                min(update_index) AS first_update,
                max(update_index) AS last_update,
                count(*) AS updates,
                sum(minibatches) AS all_minibatches,
                sum(steps) AS all_steps,
                max(reproduced) AS was_reproduced,
                min(planted) AS is_planted
            FROM sightings GROUP BY head, quantity, kind
        )
        JOIN sightings AS first USING (head, quantity, kind)
        JOIN sightings AS last USING (head, quantity, kind)
        WHERE first.update_index = first_update AND last.update_index = last_update
    """,
    f"""
    CREATE TABLE IF NOT EXISTS heartbeat (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        time REAL NOT NULL,
        pid INTEGER NOT NULL,
        process_start_time REAL NOT NULL,
        machine TEXT NOT NULL,
        events_lost INTEGER NOT NULL,
        resident_bytes INTEGER NOT NULL,
        error TEXT NOT NULL,
        {", ".join(_ADDED_COLUMNS["heartbeat"])}
    )
    """,
    *UPDATE_TABLES,
)

REPLACE_HEARTBEAT: Final = (
    "INSERT OR REPLACE INTO heartbeat (id, time, pid, process_start_time, machine, events_lost,"
    " resident_bytes, error, pid_namespace, cpu_percent, memory_bytes, gpu_percent,"
    " gpu_memory_bytes, gpu_total_bytes) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


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
        # A view in the place of a table could return rows without end.
        if types.get(table, "table") != "table":
            raise RunStoreError(f"{where} is damaged: {table} is a {types[table]}, not a table")
    stored = meta.get("store_version")
    if not isinstance(stored, str) or not stored.isdecimal():
        raise RunStoreError(f"{where} cannot be read: its version is {stored!r}, not a number")
    version = int(stored)
    if version > STORE_VERSION:
        raise RunStoreError(
            f"{where} was written by a newer Esper (store version {version}); this one reads up to "
            f"version {STORE_VERSION}: update Esper to open it"
        )
    return True


def create_tables(
    connection: sqlite3.Connection, esper_version: str, heartbeat: Sequence[object] = ()
) -> None:
    """Create the missing tables and columns in one transaction.

    Args:
        connection: connection to the store, outside a transaction.
        esper_version: version of the writer.
        heartbeat: values of `REPLACE_HEARTBEAT` for a new store. Without a heartbeat, a new store
            looks like one that lost its events.
    """
    connection.execute("BEGIN IMMEDIATE")
    _add_columns(connection)
    known = columns_of(connection, "events"), columns_of(connection, UPDATE_TABLE_NAMES[0])
    for statement in _TABLES:
        connection.execute(statement)
    if known[0] and not known[1]:
        fill_from_events(connection)
    connection.executemany(
        "INSERT OR IGNORE INTO meta VALUES (?, ?)",
        [
            ("format", STORE_FORMAT),
            ("store_version", str(STORE_VERSION)),
            ("esper_version", esper_version),
            ("store_id", uuid.uuid4().hex),
        ],
    )
    if heartbeat:
        connection.execute(REPLACE_HEARTBEAT, heartbeat)
    connection.execute("COMMIT")


def _add_columns(connection: sqlite3.Connection) -> None:
    """Add the columns that tables of an older version lack."""
    for table, columns in _ADDED_COLUMNS.items():
        known = columns_of(connection, table)
        missing = [column for column in columns if column.split()[0] not in known]
        if not known or not missing:
            continue  # a missing table is created with all columns
        for column in missing:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        connection.execute("DROP VIEW IF EXISTS evidence")  # created again, with the columns


def columns_of(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns."""
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def store_id_of(connection: sqlite3.Connection) -> str | None:
    """Return the unique id of a store; None if an older version of Esper wrote it."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'store_id'").fetchone()
    return row[0] if row is not None and isinstance(row[0], str) else None
