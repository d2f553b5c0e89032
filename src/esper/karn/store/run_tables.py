"""The tables of a run's store, and the rows that one event becomes in them.

`events` holds every event as it was emitted. The other tables are kept beside it, in the same
transaction, so that a run can be asked in plain SQL: `head_health` has one row per update, head and
figure; `latches` has the first sighting of each kind of non-finite value, and `sightings` one row
for each update in which one was seen, which the view `evidence` adds up; `heartbeat` is a single
row that says the writer is alive; `meta` says what this file is. `update_tables` adds
`update_figures`, `episodes` and the view `updates`. docs/store.md describes them all.

A table that gains a column gains it at its end and with a default, so that a store of an older
version can be read without it, and gets it as soon as it is written on (`create_tables`).
"""

import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from esper.karn.store.sightings import (
    last_moment_of,
    minibatches_of,
    reproduction_of,
    sightings_of,
    states_reproduction,
    steps_of,
)
from esper.karn.store.update_tables import UPDATE_TABLE_NAMES, UPDATE_TABLES, fill_from_events
from esper.leyline.errors import EsperError
from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.sighting_words import KIND_WORDS, nonfinite_kind
from esper.leyline.telemetry import PHASES, NonfiniteSighting, Payload, PPOUpdatePayload

#: Raised when the meaning of a table changes; a reader refuses a store with a higher one.
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

#: The kinds of events that come many times an update.
COMMON_KINDS: Final = ("step_completed", "decisions_taken", "seed_transitioned")
#: Holds of events of all other kinds: attaching to a long run can pass over the old ones of these.
#: This is the condition of the partial index `rare_events`, to be repeated word by word in a query
#: that wants it: https://www.sqlite.org/partialindex.html, section 3.
RARE: Final = "kind NOT IN ('step_completed', 'decisions_taken', 'seed_transitioned')"

#: Columns that tables have gained, in the order in which they stand at the end of each.
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

#: The column that a phase is counted in.
_COUNTS: Final = {"update": "minibatches", "acting": "steps", "hosts": "steps"}
#: What a row of `latches` or `sightings` lacks: a latch has no counts and no last place, and an
#: older store has not all columns.
_ROW_DEFAULTS: Final[dict[str, Any]] = {
    "minibatches": 0,
    "steps": 0,
    "last_epoch": 0,
    "last_minibatch": 0,
    "first_phase": "update",
    "first_host": None,
    "first_step": None,
    "first_part": "",
    "reproduced": 1,
    "planted": 0,
}
_ROW_TYPES: Final[dict[str, Any]] = {
    "update_index": int,
    "head": str,
    "quantity": str,
    "kind": str,
    "minibatches": int,
    "steps": int,
    "first_epoch": int,
    "first_minibatch": int,
    "first_phase": str,
    "first_host": int | None,
    "first_step": int | None,
    "first_part": str,
    "last_epoch": int,
    "last_minibatch": int,
    "last_phase": str,
    "last_part": str,
    "reproduced": int,
    "planted": int,
}

INSERT_EVENTS: Final = "INSERT INTO events (time, kind, update_index, payload) VALUES"
INSERT_HEAD_HEALTH: Final = "INSERT OR REPLACE INTO head_health VALUES"


def _phase_rank(column: str) -> str:
    """Return `sightings.phase_rank` in SQL."""
    cases = " ".join(f"WHEN '{phase}' THEN {rank}" for rank, phase in enumerate(PHASES))
    return f"CASE {column} {cases} ELSE {len(PHASES)} END"


def _outermost(table: str, columns: Sequence[str], order: str) -> str:
    """Return an assignment of several columns from that of two rows which comes first."""
    names = ", ".join(columns)
    known = ", ".join(f"{table}.{name} AS {name}" for name in columns)
    new = ", ".join(f"excluded.{name}" for name in columns)
    rows = f"SELECT {known} UNION ALL SELECT {new}"
    return f"({names}) = (SELECT * FROM ({rows}) ORDER BY {order} LIMIT 1)"


# The order of `sightings.Moment`. Of `last_…`, no host and no step is known.
_FIRST_ORDER: Final = (
    f"{_phase_rank('first_phase')}, first_phase, first_epoch, first_minibatch,"
    " ifnull(first_step, -1), ifnull(first_host, -1), first_part"
)
_LAST_ORDER: Final = (
    f"{_phase_rank('last_phase')} DESC, last_phase DESC, last_epoch DESC, last_minibatch DESC,"
    " last_part DESC"
)
_FIRST: Final = (
    "first_phase",
    "first_epoch",
    "first_minibatch",
    "first_step",
    "first_host",
    "first_part",
)
_LAST: Final = ("last_phase", "last_epoch", "last_minibatch", "last_part")
# The join of the semilattice: the earlier sighting stands, whatever order they come in, what was
# reproduced once is reproduced (`sightings.reproduction_of`), and what was not planted once is not
# planted.
JOIN_LATCH: Final = f"""
    INSERT INTO latches (
        head, kind, quantity, first_update, first_epoch, first_minibatch,
        first_phase, first_host, first_step, first_part, reproduced, planted
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (head, kind, quantity) DO UPDATE SET
        {_outermost("latches", ("first_update", *_FIRST), f"first_update, {_FIRST_ORDER}")},
        reproduced = max(reproduced, excluded.reproduced),
        planted = min(planted, excluded.planted)
"""
# As `latches`; of what one update reports twice, the larger counts and the outermost places stand.
JOIN_SIGHTING: Final = f"""
    INSERT INTO sightings (
        head, quantity, kind, update_index,
        minibatches, first_epoch, first_minibatch, last_epoch, last_minibatch,
        first_phase, first_host, first_step, first_part, last_phase, last_part, steps, reproduced,
        planted
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (head, quantity, kind, update_index) DO UPDATE SET
        minibatches = max(minibatches, excluded.minibatches),
        {_outermost("sightings", _FIRST, _FIRST_ORDER)},
        {_outermost("sightings", _LAST, _LAST_ORDER)},
        steps = max(steps, excluded.steps),
        reproduced = max(reproduced, excluded.reproduced),
        planted = min(planted, excluded.planted)
"""
REPLACE_HEARTBEAT: Final = (
    "INSERT OR REPLACE INTO heartbeat (id, time, pid, process_start_time, machine, events_lost,"
    " resident_bytes, error, pid_namespace, cpu_percent, memory_bytes, gpu_percent,"
    " gpu_memory_bytes, gpu_total_bytes) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class RunStoreError(EsperError, ValueError):
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


def create_tables(
    connection: sqlite3.Connection, esper_version: str, heartbeat: Sequence[object] = ()
) -> None:
    """Create the tables in one transaction; those that exist gain the columns that they lack.

    Args:
        connection: to the store, outside a transaction.
        esper_version: of the writer.
        heartbeat: values of `REPLACE_HEARTBEAT` for a new store: one that has tables and no
            heartbeat cannot be told from one that lost its events.
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
    """Bring the tables of an older version up to date."""
    for table, columns in _ADDED_COLUMNS.items():
        known = columns_of(connection, table)
        missing = [column for column in columns if column.split()[0] not in known]
        if not known or not missing:
            continue  # a table that is not there is created whole
        for column in missing:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        connection.execute("DROP VIEW IF EXISTS evidence")  # it is created again, with the columns


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


def class_of(value: float) -> str:
    """Return "finite", "nan", "+inf" or "-inf"."""
    return nonfinite_kind(value) or "finite"


def update_index_of(payload: Payload) -> int | None:
    """Return the update that an event belongs to, if it belongs to one."""
    return getattr(payload, "update", None)


def head_health_rows(payload: PPOUpdatePayload) -> Iterator[tuple[int, str, str, float, str]]:
    """Yield rows of `head_health`."""
    for figure in HEAD_FIGURES:
        for head, value in figure.of(payload).items():
            yield payload.update, head, figure.column, value, class_of(value)


def latch_rows(payload: PPOUpdatePayload) -> Iterator[tuple[Any, ...]]:
    """Yield rows of `latches`; a detection without provenance has the quantity "unknown"."""
    for seen in sightings_of(payload):
        yield latch_row(payload.update, seen)


def latch_row(update: int, seen: NonfiniteSighting) -> tuple[Any, ...]:
    """Return the row of `latches` for one sighting."""
    return (
        *(seen.head, seen.kind, seen.quantity),
        *(update, seen.epoch, seen.minibatch),
        *(seen.phase, seen.host, seen.step, seen.part),
        *(reproduction_of(seen), int(seen.planted)),
    )


def sighting_rows(payload: PPOUpdatePayload) -> Iterator[tuple[Any, ...]]:
    """Yield rows of `sightings`."""
    for seen in sightings_of(payload):
        yield sighting_row(payload.update, seen)


def sighting_row(update: int, seen: NonfiniteSighting) -> tuple[Any, ...]:
    """Return the row of `sightings` for what one update saw."""
    last = last_moment_of(update, seen)
    return (
        *(seen.head, seen.quantity, seen.kind, update),
        *(minibatches_of(seen), seen.epoch, seen.minibatch, last.epoch, last.minibatch),
        *(seen.phase, seen.host, seen.step, seen.part, last.phase, last.part),
        *(steps_of(seen), reproduction_of(seen), int(seen.planted)),
    )


def sightings_in(row: Mapping[str, Any]) -> list[tuple[int, NonfiniteSighting]]:
    """Return what a row of `latches` or `sightings` says was seen, each with its update.

    A row of `sightings` keeps the first and the last place, the counts and what was reproduced, so
    there is a sighting for each of these that the others do not cover; together they join to the
    row. A row with a value of a wrong type yields nothing, and a column that an older store lacks
    has its default.

    Args:
        row: value by name of column.
    """
    values = _ROW_DEFAULTS | dict(row)
    values.setdefault("update_index", values.get("first_update"))
    values.setdefault("last_phase", values["first_phase"])
    values.setdefault("last_part", values["first_part"])
    if values.get("kind") not in KIND_WORDS or not all(
        isinstance(values.get(name), types) for name, types in _ROW_TYPES.items()
    ):
        return []
    first_phase, last_phase = values["first_phase"], values["last_phase"]
    first_place = values["first_epoch"], values["first_minibatch"]
    last_place = values["last_epoch"], values["last_minibatch"]

    def seen(
        phase: str,
        part: str,
        first: tuple[int, int],
        last: tuple[int, int],
        host: int | None = None,
        step: int | None = None,
    ) -> tuple[int, NonfiniteSighting]:
        return values["update_index"], NonfiniteSighting(
            head=values["head"],
            quantity=values["quantity"],
            kind=values["kind"],
            count=values[_COUNTS[phase]] if phase in _COUNTS else 0,
            epoch=first[0],
            minibatch=first[1],
            last_epoch=last[0],
            last_minibatch=last[1],
            phase=phase,
            host=host,
            step=step,
            part=part,
            reproduced=bool(values["reproduced"]),
            planted=bool(values["planted"]),
        )

    host, step = values["first_host"], values["first_step"]
    is_one = (first_phase, values["first_part"]) == (last_phase, values["last_part"])
    end = last_place if is_one else (0, 0)
    found = [seen(first_phase, values["first_part"], first_place, end, host, step)]
    if not is_one:
        start, later = last_place, None
        if first_phase == last_phase:
            # One step later, so that it never comes before the first sighting.
            start, later = max(first_place, last_place), 0 if step is None else step + 1
        found.append(seen(last_phase, values["last_part"], start, last_place, step=later))
    for phases, column in ((("hosts", "acting"), "steps"), (("update",), "minibatches")):
        if values[column] and not {first_phase, last_phase} & set(phases):
            found.append(seen(phases[-1], "", (0, 0), (0, 0)))
    is_stated = any(states_reproduction(one) for _, one in found)
    if values["reproduced"] == 1 and first_phase != last_phase and not is_stated:
        found.append(seen("hosts", "", (0, 0), (0, 0)))  # the only phase between these two
    return found
