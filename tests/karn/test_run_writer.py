"""The writer: nothing acknowledged is lost, and nothing wrong with the store reaches training."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunReader, RunWriter
from esper.karn.store.writing.store_connection import StoreConnection
from esper.leyline.telemetry import Heartbeat, Notice, RunFinished

DEADLINE = 20.0


def notice(number):
    return Notice(level="info", text=str(number))


def texts(run):
    return [
        event.payload.text
        for event in RunReader(run).read(0, 1_000_000)
        if isinstance(event.payload, Notice)
    ]


def eventually(condition):
    """Wait for what another thread or process is to bring about; fail if it does not."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_events_come_back_in_order_with_their_times(run, payloads):
    before = time.time()
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for number in range(100):
            writer.emit(notice(number))

    events = RunReader(run).read(0, 1_000)
    assert [event.id for event in events] == list(range(1, 102))
    assert events[0].payload == payloads.start()
    assert texts(run) == [str(number) for number in range(100)]
    times = [event.time for event in events]
    assert times == sorted(times)
    assert before <= times[0]
    assert times[-1] <= time.time()


def test_a_durable_event_can_be_read_as_soon_as_emit_returns(run):
    with RunWriter(run) as writer:
        for number in range(10):
            writer.emit(notice(number), durable=True)
            assert texts(run)[-1] == str(number)


def test_a_closed_store_is_one_plain_file(finished_run):
    assert [path.name for path in finished_run.glob("run.sqlite*")] == ["run.sqlite"]
    header = (finished_run / "run.sqlite").read_bytes()[:20]
    assert header[18:20] == b"\x01\x01"  # the rollback journal's format, not WAL's


def test_a_store_becomes_one_plain_file_while_it_is_being_watched(run):
    reader = RunReader(run)
    with RunWriter(run) as writer:
        writer.emit(notice(1), durable=True)
        assert len(reader.read(0, 10)) == 1

    assert [path.name for path in run.glob("run.sqlite*")] == ["run.sqlite"]
    assert len(reader.read(0, 10)) == 1


def test_a_store_that_a_reader_keeps_open_becomes_one_plain_file_once_it_lets_go(run):
    reader = RunReader(run)
    with RunWriter(run) as writer:
        writer.emit(notice(1), durable=True)
        with reader.session(stays_open=True):
            assert reader.last_id() == 1
        writer.emit(notice(2), durable=True)
        assert reader.last_id() == 2, "what comes later is seen, too"
        releasing = threading.Timer(0.2, reader.release)
        releasing.start()

    releasing.join()
    assert [path.name for path in run.glob("run.sqlite*")] == ["run.sqlite"]


def test_a_resumed_run_is_written_on(run):
    for number in range(3):
        with RunWriter(run) as writer:
            writer.emit(notice(number))

    assert texts(run) == ["0", "1", "2"]


def test_events_of_many_threads_are_all_stored(run):
    with RunWriter(run) as writer:
        threads = [
            threading.Thread(
                target=lambda first=first: [
                    writer.emit(notice(first + number), durable=number % 10 == 0)
                    for number in range(100)
                ]
            )
            for first in range(0, 800, 100)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(map(int, texts(run))) == list(range(800))


def test_nothing_acknowledged_is_lost_by_sigkill(run):
    killed = run_python(
        """
        import os, signal, sys
        from pathlib import Path
        from esper.karn.store.run_store import RunWriter
        from esper.leyline.telemetry import Notice

        writer = RunWriter(Path(sys.argv[1]))
        for number in range(50):
            writer.emit(Notice(level="info", text=str(number)))
        writer.emit(Notice(level="info", text="last words"), durable=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        run,
    )

    assert killed.returncode == -signal.SIGKILL
    assert (run / "run.sqlite-wal").exists()
    assert texts(run) == [*map(str, range(50)), "last words"]


def test_a_latch_is_in_the_store_as_soon_as_its_event_is(run):
    killed = run_python(
        """
        import os, signal, sys
        from pathlib import Path
        import msgspec
        from esper.karn.store.run_store import RunWriter
        from esper.leyline.telemetry import NonfiniteSighting, PPOUpdatePayload

        sighting = NonfiniteSighting(
            head="op", quantity="logits", kind="+inf", count=1, epoch=1, minibatch=2
        )
        required = [field for field in msgspec.structs.fields(PPOUpdatePayload) if field.required]
        names = [field.name for field in required]
        payload = PPOUpdatePayload(
            **dict.fromkeys(names, 0.0)
            | {
                "update": 3,
                "head_inf_detected": {"op": True},
                "head_nan_detected": {},
                "head_nonfinite": [sighting],
            }
        )
        writer = RunWriter(Path(sys.argv[1]))
        writer.emit(payload, durable=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        run,
    )

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with sqlite3.connect(run / "run.sqlite") as connection:
        assert connection.execute("SELECT * FROM latches").fetchall() == [
            ("op", "+inf", "logits", 3, 1, 2, "update", None, None, "", 1, 0)
        ]


def test_a_forgotten_writer_does_not_hang_and_loses_nothing(run):
    ended = run_python(
        """
        import sys
        from pathlib import Path
        from esper.karn.store.run_store import RunWriter
        from esper.leyline.telemetry import Notice

        writer = RunWriter(Path(sys.argv[1]))
        for number in range(1_000):
            writer.emit(Notice(level="info", text=str(number)))
        """,
        run,
    )

    assert ended.returncode == 0, ended.stderr
    assert len(texts(run)) == 1_000


def test_the_heartbeat_says_whose_it_is(run):
    with RunWriter(run) as writer:
        eventually(lambda: (run / "run.sqlite").exists() and RunReader(run).heartbeat())
        event = RunReader(run).heartbeat()
        writer.emit(notice(1))

    assert isinstance(event.payload, Heartbeat)
    assert event.payload.pid == os.getpid()
    assert event.payload.process_start_time < time.time()
    assert event.payload.resident_bytes > 1_000_000
    assert event.payload.events_lost == 0
    assert abs(event.time - time.time()) < DEADLINE


def test_many_heartbeats_are_one_row(run):
    for _ in range(3):
        RunWriter(run).close()
    with sqlite3.connect(run / "run.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM heartbeat").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)


def test_a_payload_that_has_no_encoding_fails_loudly(run, payloads):
    with RunWriter(run) as writer:
        with pytest.raises(TypeError):
            writer.emit(payloads.start(config={"policy": object()}))
        writer.emit(notice(1))
    assert texts(run) == ["1"]


def test_an_event_that_the_store_refuses_is_counted_and_takes_no_other_with_it(run):
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


def test_a_report_that_cannot_be_written_harms_nothing(tmp_path):
    def full(_line):
        raise OSError(28, "No space left on device")

    with RunWriter(tmp_path / "nowhere", full) as writer:
        writer.emit(notice(1), durable=True)
        assert writer.is_failing


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), ValueError("odd")])
def test_the_writer_outlives_whatever_one_try_meets(run, error, monkeypatch):
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


def test_what_waits_takes_bounded_memory(tmp_path, payloads, monkeypatch):
    monkeypatch.setattr("esper.karn.store.writing.run_writer.QUEUE_BYTES", 20_000)
    monkeypatch.setattr("esper.karn.store.writing.run_writer.QUEUE_BYTES_DURABLE", 40_000)
    with RunWriter(tmp_path / "nowhere") as writer:
        for _ in range(50):
            writer.emit(Notice(level="info", text="x" * 1_000))
        assert 29 <= writer.events_lost <= 32
        for _ in range(50):
            writer.emit(Notice(level="info", text="x" * 1_000), durable=True)
        assert 59 <= writer.events_lost <= 64


def test_the_latches_of_a_run_are_known_to_its_writer(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.broken_update(2, "op", "+inf"), durable=True)
    with RunWriter(run) as writer:
        writer.emit(payloads.broken_update(3, "op", "+inf"), durable=True)
        writer.emit(payloads.broken_update(4, "slot", "nan"), durable=True)
        known = [(update, seen.head) for update, seen in writer.latches()]
    assert known == [(2, "op"), (4, "slot")]


def test_a_new_store_has_its_tables_in_the_database_itself(run):
    with RunWriter(run) as writer:
        writer.flush()
        with sqlite3.connect(f"file:{run / 'run.sqlite'}?immutable=1", uri=True) as alone:
            names = {name for (name,) in alone.execute("SELECT name FROM sqlite_master")}
        alone.close()
    assert {"events", "latches", "meta"} <= names


def test_a_store_never_has_tables_without_a_heartbeat(run):
    store = StoreConnection(run / "run.sqlite")
    store.open()  # and nothing is written yet
    frame = RunFollower(run).catch_up()
    store.abandon()
    assert frame.status.kind == "STARTING"
    assert frame.doubt.lights is None
