"""Tables of stores that older versions of Esper wrote."""

import sqlite3
from contextlib import closing

import pytest
from store_checks import empty_tables

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunReader, RunWriter

#: The tables of the version before a sighting had a phase, word by word.
OLDER_TABLES = """
    DROP VIEW evidence; DROP TABLE latches; DROP TABLE sightings;
    CREATE TABLE latches (
        head TEXT NOT NULL,
        kind TEXT NOT NULL,
        quantity TEXT NOT NULL,
        first_update INTEGER NOT NULL,
        first_epoch INTEGER NOT NULL,
        first_minibatch INTEGER NOT NULL,
        PRIMARY KEY (head, kind, quantity)
    ) WITHOUT ROWID;
    CREATE TABLE sightings (
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
    ) WITHOUT ROWID;
    CREATE VIEW evidence AS
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
        WHERE first.update_index = first_update AND last.update_index = last_update;
    INSERT INTO latches VALUES ('op', '+inf', 'logits', 2, 1, 1);
    INSERT INTO sightings VALUES ('op', 'logits', '+inf', 2, 3, 1, 1, 2, 4);
"""


@pytest.fixture
def older_run(finished_run):
    """A run whose tables are those of the version before a sighting had a phase."""
    with closing(sqlite3.connect(finished_run / "run.sqlite")) as connection:
        connection.executescript(OLDER_TABLES)
    return finished_run


def test_an_older_store_is_read_as_it_is(older_run, payloads):
    before = (older_run / "run.sqlite").read_bytes()
    latch = (2, payloads.sighting(count=0))
    sighting = (2, payloads.sighting(count=3, last_epoch=2, last_minibatch=4))
    assert RunReader(older_run).sightings() == [latch, sighting]
    assert (older_run / "run.sqlite").read_bytes() == before

    with closing(sqlite3.connect(older_run / "run.sqlite")) as connection:
        connection.execute("UPDATE events SET payload = x'c1' WHERE kind = 'ppo_update'")
        connection.commit()
    snapshot = RunFollower(older_run).catch_up().snapshot
    assert snapshot.run.damaged_events == 2
    (row,) = snapshot.tamiyo.evidence
    assert (row.first_update, row.last_epoch, row.minibatches, row.reproduced) == (2, 2, 3, True)
    assert (row.first_phase, row.first_host, row.first_part, row.steps) == ("update", None, "", 0)


def test_an_older_store_gains_its_columns_when_its_run_is_resumed(older_run, payloads, ask):
    again = payloads.sighting(
        kind="+inf", phase="acting", host=1, step=7, count=2, epoch=0, minibatch=0
    )
    other = payloads.sighting(
        head="shared", quantity="trunk", kind="nan", part="weight", reproduced=False
    )
    with RunWriter(older_run) as writer:
        writer.emit(payloads.start(resumed_from_update=2))
        writer.emit(payloads.update(3, head_nonfinite=[again, other]))
        writer.emit(payloads.finish(update=3, episodes_done=6))
        assert writer.events_lost == 0

    assert ask("SELECT * FROM latches") == [
        ("op", "+inf", "logits", 2, 1, 1, "update", None, None, "", 1, 0),
        ("shared", "nan", "trunk", 3, 1, 1, "update", None, None, "weight", 0, 0),
    ]
    columns = "head, first_update, last_update, last_phase, minibatches, steps, reproduced"
    assert ask(f"SELECT {columns} FROM evidence ORDER BY head") == [
        ("op", 2, 3, "acting", 3, 2, 1),
        ("shared", 3, 3, "update", 1, 0, 0),
    ]
    assert ask("SELECT value FROM meta WHERE key = 'store_version'") == [("1",)]
    with closing(empty_tables()) as connection:
        for name in ("latches", "sightings", "evidence"):
            layout = f"SELECT name FROM pragma_table_info('{name}')"
            assert ask(layout) == connection.execute(layout).fetchall()


def test_an_older_store_gets_what_was_added_when_it_is_written_on(run, payloads, ask):
    with RunWriter(run) as writer:
        writer.emit(payloads.broken_update(1, "op", "nan"))
    with closing(sqlite3.connect(run / "run.sqlite")) as connection:
        connection.executescript(
            "DROP VIEW evidence; DROP TABLE sightings; DROP INDEX events_by_kind;"
        )
    with RunWriter(run) as writer:
        writer.emit(payloads.broken_update(2, "op", "nan"))

    assert ask("SELECT first_update FROM evidence") == [(2,)]
    assert ask("SELECT count(*) FROM events") == [(2,)]
