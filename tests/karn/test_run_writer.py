"""The writer: nothing acknowledged is lost, and nothing wrong with the store reaches training."""

import os
import signal
import sqlite3
import threading
import time

import pytest
from store_checks import DEADLINE, eventually, notice, run_python, texts

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunReader, RunWriter
from esper.karn.store.writing.store_connection import StoreConnection
from esper.leyline.telemetry import Heartbeat, Notice


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
