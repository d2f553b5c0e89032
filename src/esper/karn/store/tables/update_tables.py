"""Tables with one row for each update, head and figure, or for each episode of a host.

`update_figures` has the figures of each update, `head_health` those of its heads, `logged_figures`
those that a watched training loop logged, `episodes` the result of each episode, and the view
`updates` joins figures and episodes. Rows are written in the transaction of their event; a store of
an older version is filled from its events. SQLite has no NaN and stores NULL instead; a figure that
is not measured is NULL, too. `head_health` and `logged_figures` therefore have an extra column with
the class of a value (finite, NaN, Inf).
"""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from esper.karn.store.tables.row_insertion import insert_rows
from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.telemetry import (
    DamagedEventError,
    EpisodesCompleted,
    PPOUpdatePayload,
    decode_payload,
)
from esper.leyline.text.sighting_words import nonfinite_kind

UPDATE_TABLE_NAMES: Final = ("update_figures", "episodes", "logged_figures")

_COUNTS: Final = (
    "episodes_done",
    "minibatches",
    "minibatches_skipped",
    "minibatches_stopped",
    "minibatches_rescaled",
)
_FIGURES: Final = (
    "policy_loss",
    "value_loss",
    "entropy",
    "approximate_kl",
    "clip_fraction",
    "explained_variance",
    "gradient_norm",
    "learning_rate",
    "loss_scale",
    "rollout_seconds",
    "update_seconds",
    "samples_per_second",
)
#: Columns of the view `updates` that are fields of an update's payload.
UPDATE_COLUMNS: Final = (*_COUNTS, *_FIGURES)
#: Columns of `episodes`, in order, with the lists of the payload that they come from.
_OF_EPISODES: Final = {
    "score": "score",
    "reward_sum": "returns",
    "accuracy": "accuracy",
    "parameters": "parameters",
    "fossilized": "fossilized",
}

#: Columns with a value and its class. SQLite stores NaN as NULL, and a CHECK that evaluates to NULL
#: passes: hence IS and CASE, which never do. 9e999 is how SQL spells infinity.
VALUE_AND_CLASS: Final = """
        value REAL,
        class TEXT NOT NULL CHECK (
            CASE class
                WHEN 'finite' THEN typeof(value) = 'real' AND abs(value) IS NOT 9e999
                WHEN 'nan' THEN value IS NULL
                WHEN '+inf' THEN value IS 9e999
                WHEN '-inf' THEN value IS -9e999
                ELSE 0
            END
        )
"""

UPDATE_TABLES: Final = (
    f"""
    CREATE TABLE IF NOT EXISTS logged_figures (
        update_index INTEGER NOT NULL,
        name TEXT NOT NULL,
        {VALUE_AND_CLASS},
        PRIMARY KEY (update_index, name)
    ) WITHOUT ROWID
    """,
    f"""
    CREATE TABLE IF NOT EXISTS update_figures (
        update_index INTEGER PRIMARY KEY,
        time REAL NOT NULL,
        {", ".join(f"{name} INTEGER NOT NULL" for name in _COUNTS)},
        {", ".join(f"{name} REAL" for name in _FIGURES)}
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS episodes (
        update_index INTEGER NOT NULL,
        host INTEGER NOT NULL,
        episode INTEGER NOT NULL,
        time REAL NOT NULL,
        score REAL,
        reward_sum REAL,
        accuracy REAL,
        parameters INTEGER NOT NULL,
        fossilized INTEGER NOT NULL,
        PRIMARY KEY (update_index, host)
    ) WITHOUT ROWID
    """,
    f"""
    CREATE VIEW IF NOT EXISTS updates AS
        SELECT
            update_index, time, episodes_done,
            (SELECT avg(score) FROM episodes AS own
                WHERE own.update_index = update_figures.update_index) AS score,
            (SELECT avg(accuracy) FROM episodes AS own
                WHERE own.update_index = update_figures.update_index
                    AND score IS NOT NULL) AS accuracy,
            {", ".join((*_FIGURES, *_COUNTS[1:]))}
        FROM update_figures
    """,
)

INSERT_HEAD_HEALTH: Final = "INSERT OR REPLACE INTO head_health VALUES"
INSERT_FIGURES: Final = "INSERT OR REPLACE INTO update_figures VALUES"
INSERT_LOGGED: Final = "INSERT OR REPLACE INTO logged_figures VALUES"
INSERT_EPISODES: Final = "INSERT OR REPLACE INTO episodes VALUES"
DELETE_EPISODES: Final = "DELETE FROM episodes WHERE update_index = ?"


def class_of(value: float) -> str:
    """Return "finite", "nan", "+inf" or "-inf"."""
    return nonfinite_kind(value) or "finite"


def head_health_rows(payload: PPOUpdatePayload) -> Iterator[tuple[int, str, str, float, str]]:
    """Yield the rows of `head_health` for an update."""
    for figure in HEAD_FIGURES:
        for head, value in figure.of(payload).items():
            yield payload.update, head, figure.column, value, class_of(value)


def figures_row(time: float, payload: PPOUpdatePayload) -> tuple[Any, ...]:
    """Return the row of `update_figures` for an update."""
    return payload.update, time, *(getattr(payload, name) for name in UPDATE_COLUMNS)


def logged_rows(payload: PPOUpdatePayload) -> Iterator[tuple[Any, ...]]:
    """Yield a row of `logged_figures` for each figure that a watched training loop logged."""
    for name, value in payload.logged.items():
        yield payload.update, name, value, class_of(value)


def episode_rows(time: float, payload: EpisodesCompleted) -> Iterator[tuple[Any, ...]]:
    """Yield a row of `episodes` for each host."""
    lists = (getattr(payload, name) for name in _OF_EPISODES.values())
    for host, values in enumerate(zip(*lists, strict=False)):
        yield payload.update, host, payload.first_episode + host, time, *values


def fill_from_events(connection: sqlite3.Connection) -> None:
    """Fill the tables of a store of an older version from its events.

    Unreadable events are left out. The caller holds a transaction.
    """
    query = "SELECT time, kind, payload FROM events WHERE kind = ? ORDER BY id"
    found: list[tuple[float, str, bytes]] = []
    with suppress(sqlite3.DatabaseError):
        found += connection.execute(query, ("episodes_completed",)).fetchall()
        found += connection.execute(query, ("ppo_update",)).fetchall()
    for time, kind, data in found:
        with suppress(DamagedEventError, TypeError, sqlite3.IntegrityError, OverflowError):
            write_rows(connection, time, decode_payload(kind, data))


def write_rows(connection: sqlite3.Connection, time: float, payload: object) -> None:
    """Write the rows of one event; rows of the same update are replaced.

    The caller holds a transaction.
    """
    if isinstance(payload, PPOUpdatePayload):
        insert_rows(connection, INSERT_FIGURES, [figures_row(time, payload)])
        insert_rows(connection, INSERT_LOGGED, list(logged_rows(payload)))
    elif isinstance(payload, EpisodesCompleted):
        connection.execute(DELETE_EPISODES, (payload.update,))
        insert_rows(connection, INSERT_EPISODES, list(episode_rows(time, payload)))
