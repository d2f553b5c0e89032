"""A reader that keeps a transaction open: the WAL grows, is reported, and shrinks again."""

import json
import sqlite3
from contextlib import contextmanager

import pytest

from esper.commands.health import print_health
from esper.karn.store.reading.run_reader import RunReader
from esper.karn.store.run_store import RunStoreError, RunWriter
from esper.leyline.telemetry import Notice, PPOUpdatePayload, StepCompleted

LARGE, USUAL, LIMIT = 256 << 10, 64 << 10, 1 << 20


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Set limits that a test reaches at once, checked at every commit."""
    monkeypatch.setattr("esper.karn.store.writing.run_writer.HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr("esper.karn.store.writing.run_writer.LARGE_WAL_BYTES", LARGE)
    monkeypatch.setattr("esper.karn.reports.health.LARGE_WAL_BYTES", LARGE)
    monkeypatch.setattr("esper.karn.store.writing.store_connection._USUAL_WAL_BYTES", USUAL)
    monkeypatch.setattr("esper.karn.store.writing.store_connection._NEVER_THINNED", 200)


@contextmanager
def held(run):
    """Hold a read transaction open, as a program that is stopped in the middle of one does."""
    connection = sqlite3.connect(f"file:{run / 'run.sqlite'}?mode=ro", uri=True)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM events").fetchone()
    yield
    connection.close()


def train(writer, payloads, updates):
    for update in updates:
        for step in range(1, 9):
            writer.emit(payloads.step(step, hosts=100, update=update))
        writer.emit(payloads.update(update), durable=True)


def wal_size(run):
    return (run / "run.sqlite-wal").stat().st_size


def test_a_wal_that_a_reader_holds_is_reported_and_emptied_when_it_lets_go(run, payloads, capsys):
    lines = []
    with RunWriter(run, lines.append) as writer:
        writer.emit(payloads.start(), durable=True)
        with held(run):
            train(writer, payloads, range(1, 31))
            assert writer.flush()
            assert wal_size(run) > LARGE
            print_health(run.parent, str(run))
            print_health(run.parent, str(run), as_json=True)
            text, _, report = capsys.readouterr().out.partition("{")
            assert "the WAL of the store has grown to" in text
            assert json.loads("{" + report)["wal_bytes"] > LARGE
        train(writer, payloads, range(31, 33))
        assert writer.flush()
        assert wal_size(run) < LARGE
        print_health(run.parent, str(run))
        assert "WAL" not in capsys.readouterr().out
    assert [line.split(" MiB")[0] for line in lines] == [
        "run.sqlite-wal has grown to 0",
        "run.sqlite-wal is small again: no program keeps a transaction open any more",
    ]
    events = RunReader(run).read(0, 1_000)
    assert [e.payload.text for e in events if isinstance(e.payload, Notice)] == lines
    assert sum(isinstance(e.payload, StepCompleted) for e in events) == 32 * 8
    assert writer.events_lost == 0


def test_a_wal_grows_beyond_the_limit_of_the_store_by_what_is_never_removed_only(run, payloads):
    lines = []
    with RunWriter(run, lines.append, limit_bytes=LIMIT) as writer:
        writer.emit(payloads.start(), durable=True)
        with held(run):
            train(writer, payloads, range(1, 11))
            growth, update = wal_size(run), 10
            while not writer.events_lost:
                update += 1
                train(writer, payloads, [update])
                assert update < 500
            before = wal_size(run)
            train(writer, payloads, range(update + 1, update + 11))
            assert wal_size(run) - before < growth / 2
            lost = writer.events_lost
            assert lost >= 8 * 10
            assert "steps, decisions and seed transitions are not stored" in lines[1]
            assert writer.last_error == lines[1]
        train(writer, payloads, range(update + 11, update + 13))
        assert writer.flush()
        assert wal_size(run) < LARGE
    assert len(lines) == 4, lines  # the third: it is small again; the last: what was lost
    assert f"{writer.events_lost} events were not stored (run.sqlite-wal has grown" in lines[3]
    assert writer.events_lost - lost <= 8  # until the writer looked again
    events = RunReader(run).read(0, 10_000)
    assert sum(isinstance(e.payload, PPOUpdatePayload) for e in events) == update + 12


def test_a_session_of_many_short_queries_ends_in_time(finished_run, monkeypatch):
    monkeypatch.setattr("esper.karn.store.reading.read_only_store.SESSION_SECONDS", -1.0)
    reader = RunReader(finished_run)
    with reader.session(), pytest.raises(RunStoreError, match="a query took longer"):
        reader.last_id()
