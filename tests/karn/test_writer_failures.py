"""The writer when the store fails: what cannot be stored is counted, and training never waits."""

import contextlib
import sqlite3
import threading
import time

import pytest
from store_checks import DEADLINE, eventually, notice, run_python, texts

from esper.karn.store.run_store import RunReader, RunWriter
from esper.karn.store.writing.store_connection import StoreConnection
from esper.leyline.telemetry import RunFinished

#: The thread of the writer ends with an exception in these tests, which pytest reports.
_ENDS_ON_PURPOSE = pytest.mark.filterwarnings(
    "ignore:Exception in thread run-writer:pytest.PytestUnhandledThreadExceptionWarning"
)


def test_an_event_that_the_store_refuses_is_counted_and_the_others_are_stored(run):
    with RunWriter(run) as writer:
        writer.emit(notice(1))
        writer.emit(RunFinished(status="finished", update=2**63, episodes_done=0))
        writer.emit(notice(2))
        writer.flush()
        assert writer.events_lost == 1
        assert "run_finished" in writer.last_error
    assert texts(run) == ["1", "2"]
    beat = RunReader(run).heartbeat().payload
    assert beat.events_lost == 1
    assert "run_finished" in beat.error


def test_an_event_refused_at_the_very_end_is_in_the_last_heartbeat(run):
    with RunWriter(run) as writer:
        writer.emit(RunFinished(status="finished", update=2**63, episodes_done=0))
    assert RunReader(run).heartbeat().payload.events_lost == 1


def test_events_after_the_end_are_counted_as_lost(run):
    writer = RunWriter(run)
    writer.close()
    writer.emit(notice(1), durable=True)

    assert writer.events_lost == 1


def test_a_missing_directory_does_not_stop_training(tmp_path):
    with RunWriter(tmp_path / "nowhere") as writer:
        started = time.monotonic()
        for number in range(20):
            writer.emit(notice(number), durable=True)
        assert time.monotonic() - started < DEADLINE / 4
        assert writer.is_failing
        assert "run.sqlite could not be written" in writer.last_error
    assert writer.events_lost == 20


def test_what_was_held_back_is_written_when_the_store_is_back(run):
    aside = run.with_name("aside")
    with RunWriter(run) as writer:
        writer.emit(notice(1), durable=True)
        run.rename(aside)
        writer.emit(notice(2), durable=True)
        writer.emit(notice(3))
        assert writer.is_failing
        aside.rename(run)
        eventually(lambda: writer.flush() or not writer.is_failing)
    first, second, third, fourth = texts(run)

    assert (first, third, fourth) == ("1", "2", "3")
    assert "written again after" in second
    assert "events lost: 0" in second
    assert RunReader(run).heartbeat().payload.error


def test_a_removed_store_is_created_again_with_the_run_in_it(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(notice(1), durable=True)
        for path in run.glob("run.sqlite*"):
            path.unlink()
        writer.emit(notice(2), durable=True)
        events = RunReader(run).read(0, 10)

    assert events[0].payload == payloads.start()
    assert events[1].payload == notice(2)


def test_a_foreign_file_is_not_written_into(run):
    (run / "run.sqlite").write_text("plain text")
    with RunWriter(run) as writer:
        writer.emit(notice(1), durable=True)
        assert writer.is_failing

    assert writer.events_lost == 1
    assert (run / "run.sqlite").read_text() == "plain text"


def test_another_program_s_database_is_not_written_into(run):
    with sqlite3.connect(run / "run.sqlite") as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    with RunWriter(run) as writer:
        writer.emit(notice(1), durable=True)
        assert "not one that Esper wrote" in writer.last_error

    with sqlite3.connect(run / "run.sqlite") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("cats",)]


def test_somebody_who_locks_the_store_only_delays_it(run):
    with RunWriter(run) as writer:
        writer.emit(notice(1), durable=True)
        blocker = sqlite3.connect(run / "run.sqlite", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        writer.emit(notice(2), durable=True)  # returns when the try has failed
        assert writer.is_failing
        blocker.execute("ROLLBACK")
        blocker.close()
        eventually(lambda: not writer.is_failing)
    assert texts(run)[0] == "1"
    assert texts(run)[-1] == "2"


def test_a_full_disk_is_counted_and_survived(run):
    ended = run_python(
        """
        import resource, signal, sys
        from pathlib import Path
        from esper.karn.store.run_store import RunWriter
        from esper.leyline.telemetry import Notice

        # No file may grow beyond 200 kB, as if the disk were full.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        writer = RunWriter(Path(sys.argv[1]))
        for number in range(200):
            writer.emit(Notice(level="info", text="x" * 4_000), durable=True)
        assert writer.is_failing
        print(writer.last_error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        writer.close()
        print(writer.events_lost)
        """,
        run,
    )

    assert ended.returncode == 0, ended.stderr
    error, lost = ended.stdout.strip().splitlines()
    assert "could not be written" in error
    assert lost == "0"
    stored = texts(run)
    assert len(stored) == 201
    assert sum("written again" in text for text in stored) == 1


def test_a_queue_that_is_full_counts_what_no_longer_fits(tmp_path, monkeypatch):
    monkeypatch.setattr("esper.karn.store.writing.run_writer.QUEUE_LIMIT", 100)
    with RunWriter(tmp_path / "nowhere") as writer:
        writer.emit(notice(0), durable=True)
        for number in range(1, 151):
            writer.emit(notice(number))
        assert writer.events_lost == 51
        writer.emit(notice(151), durable=True)  # a durable event is the last to be dropped
        assert writer.events_lost == 51
        (tmp_path / "nowhere").mkdir()
        eventually(lambda: not writer.is_failing)
        writer.flush()
    stored = texts(tmp_path / "nowhere")
    assert "events lost: 51" in stored[0]
    assert stored[1:] == [*map(str, range(100)), "151"]
    assert RunReader(tmp_path / "nowhere").heartbeat().payload.events_lost == 51


def test_a_writer_that_is_closed_in_a_hurry_waits_for_no_locked_store(run):
    writer = RunWriter(run)
    writer.emit(notice(1), durable=True)
    with contextlib.closing(sqlite3.connect(run / "run.sqlite", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        writer.emit(notice(2))
        start = time.monotonic()
        writer.close(0.1)
        assert time.monotonic() - start < 1.5
        assert writer.events_lost == 1


def test_no_one_waits_for_a_store_that_is_busy_once_there_is_a_hurry(run):
    with RunWriter(run) as writer:
        writer.emit(notice(1), durable=True)
        locker = sqlite3.connect(run / "run.sqlite", isolation_level=None)
        locker.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(0.2, writer.hurry)
        timer.start()
        start = time.monotonic()
        writer.emit(notice(2), durable=True)
        assert time.monotonic() - start < 1.5  # SQLite itself waits for 2 s
        timer.join()
        locker.close()
    assert texts(run) == ["1", "2"]


def test_the_first_failure_the_recovery_and_what_was_lost_are_one_line_each(run):
    lines = []
    with RunWriter(run, lines.append) as writer:
        writer.emit(notice(1), durable=True)
        for _ in range(2):
            blocker = sqlite3.connect(run / "run.sqlite", isolation_level=None)
            blocker.execute("BEGIN IMMEDIATE")
            for number in range(3):
                writer.emit(notice(number), durable=True)
            eventually(lambda: writer.is_failing)
            blocker.execute("ROLLBACK")
            blocker.close()
            eventually(lambda: not writer.is_failing)
    failed, recovered = lines[:2]
    assert len(lines) == 4
    assert "could not be written: database is locked" in failed
    assert "is written again; events lost: 0" in recovered

    (run / "run.sqlite").unlink()
    (run / "run.sqlite").mkdir()
    lines.clear()
    with RunWriter(run, lines.append) as writer:
        writer.emit(notice(1), durable=True)
    assert len(lines) == 2
    assert lines[1].startswith("1 event was not stored")


def test_a_report_that_cannot_be_written_does_not_stop_the_writer(tmp_path):
    def full(_line):
        raise OSError(28, "No space left on device")

    with RunWriter(tmp_path / "nowhere", full) as writer:
        writer.emit(notice(1), durable=True)
        assert writer.is_failing


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), ValueError("odd")])
def test_the_writer_survives_any_error_of_one_write(run, error, monkeypatch):
    write, left = StoreConnection.write, [error, error]

    def once(self, batch):
        if left and batch:
            raise left.pop()
        return write(self, batch)

    monkeypatch.setattr(StoreConnection, "write", once)
    with RunWriter(run) as writer:
        writer.emit(notice(1), durable=True)
        eventually(lambda: not writer.is_failing and writer.flush())
    assert writer.events_lost == 0
    assert "1" in texts(run)


@_ENDS_ON_PURPOSE
def test_a_writer_s_thread_that_ended_is_started_again(run, monkeypatch):
    write, left = StoreConnection.write, [SystemExit()]

    def once(self, batch):
        if left and batch:
            raise left.pop()
        return write(self, batch)

    monkeypatch.setattr(StoreConnection, "write", once)
    with RunWriter(run) as writer:
        writer.emit(notice(1), durable=True)
        writer.emit(notice(2), durable=True)
        assert texts(run) == ["1", "2"]


@_ENDS_ON_PURPOSE
def test_no_one_waits_for_a_writer_s_thread_that_ends(run, monkeypatch):
    """A durable emit returns while the thread is still on its way out."""
    write, abandon, left, released = StoreConnection.write, StoreConnection.abandon, [1], []
    may_end = threading.Event()

    def once(self, batch):
        if left and batch:
            left.pop()
            raise SystemExit
        return write(self, batch)

    def slowly(self):
        released.append(may_end.wait(DEADLINE))
        abandon(self)

    monkeypatch.setattr(StoreConnection, "write", once)
    monkeypatch.setattr("esper.karn.store.writing.run_writer._HURRY_SECONDS", DEADLINE)
    monkeypatch.setattr("esper.karn.store.writing.run_writer.DURABLE_SECONDS", DEADLINE)
    with RunWriter(run) as writer:
        assert writer.flush()
        monkeypatch.setattr(StoreConnection, "abandon", slowly)
        begin = time.monotonic()
        writer.emit(notice(1), durable=True)
        assert time.monotonic() - begin < DEADLINE / 2
        assert not released
        may_end.set()
        writer.emit(notice(2), durable=True)
        assert texts(run) == ["1", "2"]
    assert released[0]
