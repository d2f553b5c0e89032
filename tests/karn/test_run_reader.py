"""The reader: reads live, finished, dead, damaged and foreign stores, and never writes."""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.karn.store.run_store import RunReader, RunStoreError, RunStoreMissingError, RunWriter
from esper.karn.store.tables.run_tables import STORE_VERSION
from esper.karn.store.tables.thinning import RARE
from esper.leyline.telemetry import DamagedPayload, Notice, UnknownPayload

STORE = "run.sqlite"


def notice(number):
    return Notice(level="info", text=str(number))


def texts(events):
    return [event.payload.text for event in events]


def changed_sql(run, *statements):
    with sqlite3.connect(run / STORE) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def fingerprint(run):
    """Return what is in the files that hold data; `-shm` is SQLite's scratch, made from the WAL."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.iterdir()
        if path.is_file() and not path.name.endswith("-shm")
    }


@pytest.fixture
def killed_run(run):
    """A run whose process was killed with its events still in the WAL."""
    code = """
        import os, signal, sys
        from pathlib import Path
        from esper.karn.store.run_store import RunWriter
        from esper.leyline.telemetry import Notice

        writer = RunWriter(Path(sys.argv[1]))
        for number in range(10):
            writer.emit(Notice(level="info", text=str(number)), durable=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code), run], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert (run / f"{STORE}-wal").stat().st_size > 0
    return run


@contextmanager
def unable_to_write(run):
    """Make a copy of a run that this process cannot write to, not even as root."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / run.name
        shutil.copytree(run, copy)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        Path(folder).chmod(0o755)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65_534)
        try:
            assert not os.access(copy, os.W_OK, effective_ids=True)
            yield copy
        finally:
            if is_root:
                os.seteuid(0)
            copy.chmod(0o755)


def test_a_cursor_sees_each_event_once(run):
    reader = RunReader(run)
    with RunWriter(run) as writer:
        seen = []
        for number in range(20):
            writer.emit(notice(number), durable=True)
            after = seen[-1].id if seen else 0
            seen += reader.read(after, 3)
    assert texts(seen) == [str(number) for number in range(20)]


def test_no_more_is_read_than_asked_for(run):
    with RunWriter(run) as writer:
        for number in range(10):
            writer.emit(notice(number))
    reader = RunReader(run)

    assert texts(reader.read(0, 4)) == ["0", "1", "2", "3"]
    assert texts(reader.read(4, 4, up_to=6)) == ["4", "5"]
    assert reader.read(10, 4) == []
    assert reader.last_id() == 10


def test_steps_and_decisions_can_be_skipped(run, payloads):
    with RunWriter(run) as writer:
        for step in range(1, 6):
            writer.emit(payloads.step(step))
        writer.emit(notice(1))
        writer.emit(payloads.update())
        writer.emit(payloads.step(6))
    reader = RunReader(run)

    assert [event.id for event in reader.read(0, 10, bulk=False)] == [6, 7]
    assert [event.id for event in reader.read(6, 10, bulk=False)] == [7]
    assert reader.last_ids("step_completed", 3) == [8, 5, 4]
    assert [event.id for event in reader.read_last_rare(1)] == [7]
    assert [event.id for event in reader.read_last_rare(9, up_to=6)][:1] == [6]


def test_passing_over_uses_the_index_made_for_it(finished_run):
    with sqlite3.connect(finished_run / STORE) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT id FROM events WHERE id > 1 AND id <= 9 "
            f"AND {RARE} ORDER BY id LIMIT 5"
        ).fetchall()
    assert "rare_events" in str(plan)


def test_the_last_events_of_a_kind_are_found_by_an_index(finished_run):
    with sqlite3.connect(finished_run / STORE) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT id FROM events WHERE kind = 'step_completed' AND id <= 9 "
            "ORDER BY id DESC LIMIT 5"
        ).fetchall()
    assert "events_by_kind" in str(plan)
    assert "B-TREE" not in str(plan)  # nothing is sorted


def test_a_live_store_is_noticed_to_change_and_to_rest(run):
    reader = RunReader(run)
    assert reader.changed()
    writer = RunWriter(run)
    writer.emit(notice(1), durable=True)
    assert reader.changed()
    writer.emit(notice(2), durable=True)
    assert reader.changed()
    writer.close()
    assert reader.changed()
    # A finished store is not read again once its last change is so old that a later one would have
    # another time stamp.
    os.utime(run / STORE, ns=(0, 0))
    reader.changed()
    assert not reader.changed()
    assert not reader.changed()


def test_no_change_of_a_live_store_is_missed(run):
    reader = RunReader(run)
    with RunWriter(run) as writer:
        for number in range(300):
            writer.emit(notice(number), durable=True)
            assert reader.changed()
            assert texts(reader.read(number, 10)) == [str(number)]


def test_a_file_that_changed_just_now_is_looked_at_again(finished_run):
    # Within one tick of the clock it may change once more, and have the same size and time.
    reader = RunReader(finished_run)
    soon = time.time_ns() + 60_000_000_000
    os.utime(finished_run / STORE, ns=(soon, soon))
    assert reader.changed()
    assert reader.changed()


def test_a_killed_run_is_read_in_full_and_left_as_it_was(killed_run):
    before = fingerprint(killed_run)

    for _ in range(2):
        reader = RunReader(killed_run)
        assert texts(reader.read(0, 100)) == [str(number) for number in range(10)]
        assert reader.heartbeat() is not None

    assert fingerprint(killed_run) == before


def test_a_killed_run_can_be_read_where_nothing_can_be_written(killed_run):
    with unable_to_write(killed_run) as copy:
        assert texts(RunReader(copy).read(0, 100)) == [str(number) for number in range(10)]


def test_a_killed_run_without_its_scratch_file_can_be_read_where_nothing_can_be_written(killed_run):
    (killed_run / f"{STORE}-shm").unlink()
    with unable_to_write(killed_run) as copy:
        reader = RunReader(copy)
        for _ in range(2):
            reader.changed()  # drops the private copy that the first reading was made from
            assert texts(reader.read(0, 100)) == [str(number) for number in range(10)]


def test_a_finished_run_can_be_read_where_nothing_can_be_written(finished_run):
    with unable_to_write(finished_run) as copy:
        assert RunReader(copy).last_id() == 8


def test_a_store_in_wal_mode_whose_wal_was_left_behind_gets_no_new_one(killed_run, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    with sqlite3.connect(killed_run / STORE) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(killed_run / STORE, copy / STORE)
    connection.close()

    assert len(RunReader(copy).read(0, 100)) == 10
    assert [path.name for path in copy.iterdir()] == [STORE]


def test_a_run_that_was_just_created_has_no_events_yet(run):
    with pytest.raises(RunStoreMissingError, match="there is no run store at"):
        RunReader(run).read(0, 10)
    (run / STORE).touch()
    assert RunReader(run).read(0, 10) == []
    assert RunReader(run).heartbeat() is None
    assert RunReader(run).last_id() == 0


def test_a_reader_made_before_its_run_sees_it_begin(run):
    reader = RunReader(run)
    reader.changed()
    with RunWriter(run) as writer:
        writer.emit(notice(1), durable=True)
        assert reader.changed()
        assert texts(reader.read(0, 10)) == ["1"]


def test_a_store_that_replaced_another_is_recognised_as_different(run):
    with RunWriter(run) as writer:
        writer.emit(notice(1))
    reader = RunReader(run)
    before = reader.identity()
    # The old file stays for a while, so that its inode is not used again.
    shutil.copyfile(run / STORE, run / "new")
    (run / "new").replace(run / STORE)

    assert reader.identity() != before


@pytest.mark.parametrize("content", [b"plain text", b"SQLite format 3 is a format", b"\0" * 4096])
def test_a_file_that_is_not_a_database_is_reported_in_one_sentence(run, content):
    (run / STORE).write_bytes(content)

    with pytest.raises(RunStoreError, match=r"not a run store|cannot be read") as caught:
        RunReader(run).read(0, 10)
    assert "\n" not in str(caught.value)


def test_another_program_s_database_is_one_sentence(run):
    changed_sql(run, "CREATE TABLE events (id INTEGER)")

    with pytest.raises(RunStoreError, match="a database, but not one that Esper wrote"):
        RunReader(run).read(0, 10)


def test_a_store_of_a_newer_version_is_refused_with_advice(finished_run):
    newer = STORE_VERSION + 1
    changed_sql(finished_run, f"UPDATE meta SET value = '{newer}' WHERE key = 'store_version'")

    with pytest.raises(RunStoreError, match=rf"newer Esper \(store version {newer}\).*update"):
        RunReader(finished_run).read(0, 10)


def test_a_damaged_row_is_named_and_the_others_are_read(finished_run):
    changed_sql(
        finished_run,
        "UPDATE events SET payload = x'c1' WHERE id = 2",
        "UPDATE events SET payload = 7 WHERE id = 3",
        "UPDATE events SET kind = CAST(x'ff' AS TEXT) WHERE id = 4",
        "UPDATE events SET time = 'noon' WHERE id = 5",
    )
    events = RunReader(finished_run).read(0, 100)

    assert [event.id for event in events] == list(range(1, 9))
    second, third, fourth, fifth = events[1:5]
    assert isinstance(second.payload, DamagedPayload)
    assert second.payload.kind == "step_completed"
    assert "step_completed event is damaged" in second.payload.reason
    assert isinstance(third.payload, DamagedPayload)
    assert isinstance(fourth.payload, UnknownPayload)
    assert fifth.time == 0.0


def test_a_damaged_page_in_the_middle_loses_its_own_rows_only(run):
    with RunWriter(run) as writer:
        for number in range(2_000):
            writer.emit(Notice(level="info", text=f"{number}: " + "x" * 100))
    data = bytearray((run / STORE).read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    (run / STORE).write_bytes(data)

    reader = RunReader(run)
    events = []
    while more := reader.read(events[-1].id if events else 0, 500):
        events += more

    lost = [event for event in events if isinstance(event.payload, DamagedPayload)]
    whole = [event.payload.text for event in events if isinstance(event.payload, Notice)]
    assert [event.id for event in events] == list(range(1, 2_001))
    assert 0 < len(lost) < 100
    assert len(whole) == 2_000 - len(lost)
    assert all(event.payload.kind == "unreadable" for event in lost)


def test_a_truncated_store_is_one_sentence(run):
    with RunWriter(run) as writer:
        for number in range(2_000):
            writer.emit(Notice(level="info", text=f"{number}: " + "x" * 100))
    os.truncate(run / STORE, 4096)

    with pytest.raises(RunStoreError, match="cannot be read") as caught:
        RunReader(run).read(0, 10)
    assert "\n" not in str(caught.value)


floats = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(floats, st.dictionaries(st.text(max_size=5), floats)), max_size=20))
def test_every_float_comes_back_from_the_store_as_it_went_in(payloads, values):
    sent = [
        payloads.update(number, policy_loss=loss, head_kl=by_head)
        for number, (loss, by_head) in enumerate(values, start=1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        with RunWriter(Path(folder)) as writer:
            for payload in sent:
                writer.emit(payload)
        assert writer.events_lost == 0
        received = [event.payload for event in RunReader(Path(folder)).read(0, 100)]

    # NaN is not equal to itself, but its text is, and so is that of every other float.
    assert repr(received) == repr(sent)
