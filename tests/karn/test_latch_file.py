"""The second home of the latches: written before anything is announced, read with any damage."""

import contextlib
import errno
import json
import os
import sqlite3
import zlib

import msgspec
import pytest

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_files.latch_file import LATCHES_NAME, LatchWriter, read_latch_file
from esper.karn.store.run_store import RunWriter
from esper.leyline.telemetry import NonfiniteSighting


def sources(run):
    return [(update, seen.head, seen.kind) for update, seen in read_latch_file(run).sightings]


@pytest.fixture
def latched(run, payloads):
    """A run directory with a latch file that knows of two lights."""
    writer = LatchWriter(run)
    writer.note_store("a store", 0)
    writer.note_update(payloads.broken_update(2, "op", "+inf"))
    writer.note_update(payloads.broken_update(5, "slot", "nan"))
    return run


def test_the_first_sighting_of_each_kind_is_kept_once(latched, payloads):
    writer = LatchWriter(latched)  # of a resumed run
    for update in (6, 7):
        writer.note_update(payloads.broken_update(update, "op", "+inf"))
    writer.note_update(payloads.update(8))

    assert sources(latched) == [(2, "op", "+inf"), (5, "slot", "nan")]
    assert [update for update, _ in writer.sightings()] == [2, 5]
    lines = (latched / LATCHES_NAME).read_text().splitlines()
    assert json.loads(lines[1])["sighting"]["quantity"] == "logits"


def test_every_flipped_bit_is_noticed_or_changes_nothing(latched):
    path = latched / LATCHES_NAME
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 9):  # in each byte another one
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        found = read_latch_file(latched)
        # Without its line end the last line counts as one that was never acknowledged.
        is_last_end = bit // 8 == len(whole) - 1
        assert found.error is not None or is_last_end, bit


def test_a_truncated_record_is_skipped_and_the_others_are_kept(latched, payloads):
    path = latched / LATCHES_NAME
    whole = path.read_bytes()
    for size in range(whole.rindex(b"\n", 0, -1) + 2, len(whole)):
        path.write_bytes(whole[:size])
        assert read_latch_file(latched).error is None
        writer = LatchWriter(latched)
        assert sources(latched) == [(2, "op", "+inf")]
        writer.note_update(payloads.broken_update(9, "tempo", "nan"))
        assert sources(latched) == [(2, "op", "+inf"), (9, "tempo", "nan")]
        assert read_latch_file(latched).error is None


def test_lines_of_another_program_are_kept_and_reported(latched, payloads):
    path = latched / LATCHES_NAME
    path.write_bytes(path.read_bytes() + b"plain text")
    LatchWriter(latched).note_update(payloads.broken_update(9, "tempo", "nan"))

    assert b"plain text\n" in path.read_bytes()
    assert sources(latched)[-1] == (9, "tempo", "nan")
    assert "is damaged in line 4" in read_latch_file(latched).error


def test_a_file_that_is_removed_is_written_again(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.broken_update(1, "op", "+inf"), durable=True)
        (run / LATCHES_NAME).unlink()
        writer.emit(payloads.broken_update(2, "slot", "nan"), durable=True)
        assert {head for _, head, _ in sources(run)} == {"op", "slot"}


def test_the_file_and_the_store_complete_each_other(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.broken_update(1, "op", "+inf"))
        writer.emit(payloads.finish())
    (run / LATCHES_NAME).unlink()  # as in a run that an older Esper began
    with RunWriter(run):
        pass
    assert sources(run) == [(1, "op", "+inf")]
    assert RunFollower(run).catch_up().doubt.lights is None

    (run / "run.sqlite").unlink()
    with RunWriter(run) as writer:
        writer.emit(payloads.start(resumed_from_update=1))
        writer.emit(payloads.finish())
    frame = RunFollower(run).catch_up()
    assert frame.snapshot.tamiyo.head_inf_latch["op"]
    assert frame.doubt.lights is not None


@pytest.mark.parametrize("update_lost", [False, True])
def test_a_store_that_recovers_is_whole_again_unless_updates_are_missing(run, update_lost):
    writer = LatchWriter(run)
    writer.note_failure("database is locked")
    assert "database is locked" in read_latch_file(run).missing
    writer.note_recovery(int(update_lost))
    missing = read_latch_file(run).missing
    assert missing == ("1 update was not stored" if update_lost else None)


def test_a_store_that_fails_again_and_again_does_not_fill_the_disk(run, payloads, monkeypatch):
    monkeypatch.setattr("esper.karn.store.run_files.latch_file._STORE_RECORDS_BYTES", 2_000)
    writer = LatchWriter(run)
    for _ in range(40):
        writer.note_failure("full")
        writer.note_recovery(0)
    writer.note_update(payloads.broken_update(1, "op", "+inf"))

    assert (run / LATCHES_NAME).stat().st_size < 4_000
    assert sources(run) == [(1, "op", "+inf")]


def test_a_folder_that_cannot_be_written_is_survived(tmp_path, payloads):
    writer = LatchWriter(tmp_path / "nowhere")
    writer.note_update(payloads.broken_update(1, "op", "+inf"))
    assert not writer.is_whole
    (tmp_path / "nowhere").mkdir()
    writer.write()
    assert writer.is_whole
    assert sources(tmp_path / "nowhere") == [(1, "op", "+inf")]


def test_a_latch_is_in_the_file_and_synced_before_its_event_is_queued(run, payloads, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(sources(run)), fsync(descriptor))
    )
    with RunWriter(run) as writer:
        writer.flush()
        synced.clear()
        writer.emit(payloads.broken_update(3, "op", "+inf"))
        assert [(3, "op", "+inf")] in synced


def test_on_a_full_disk_there_is_room_for_latches(run, payloads, monkeypatch):
    writer = LatchWriter(run)
    writer.note_store("a store", 0)
    reserve, write = run / "latches.reserve", os.write

    def full_while_reserved(descriptor, data):
        if reserve.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full_while_reserved)
    writer.note_update(payloads.broken_update(1, "op", "+inf"))

    assert writer.is_whole
    assert sources(run) == [(1, "op", "+inf")]
    monkeypatch.undo()
    LatchWriter(run).note_store("a store", 0)
    assert reserve.stat().st_size == 65_536, "a later process takes the room again"


def host_failure(*, reproduced=True, **where):
    return NonfiniteSighting(
        head="hosts",
        quantity="loss",
        kind="nan",
        count=2,
        epoch=0,
        minibatch=0,
        phase="hosts",
        host=3,
        step=7,
        part="seed",
        reproduced=reproduced,
        **where,
    )


def test_the_place_of_a_failed_group_survives_the_loss_of_its_store(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(msgspec.structs.replace(payloads.update(1), head_nonfinite=[host_failure()]))
        writer.emit(payloads.finish())
    assert read_latch_file(run).sightings == ((1, host_failure()),)

    (run / "run.sqlite").unlink()
    tamiyo = RunFollower(run).catch_up().snapshot.tamiyo
    assert tamiyo.latch("nan")["hosts"]
    assert not any(tamiyo.latch("inf").values())

    with RunWriter(run) as writer:  # the new store takes it from the file
        writer.emit(payloads.start(resumed_from_update=1))
        writer.emit(payloads.finish())
    (run / LATCHES_NAME).unlink()
    with RunWriter(run):  # and the new file from the store, where a latch has no count
        pass
    ((update, seen),) = read_latch_file(run).sightings
    assert (update, seen) == (1, msgspec.structs.replace(host_failure(), count=0))


def test_what_is_reproduced_later_stays_where_it_was_first_seen(run, payloads):
    writer = LatchWriter(run)
    once, again = host_failure(reproduced=False), host_failure()
    for update, seen in ((2, once), (3, once), (4, again), (5, again)):
        writer.note_sightings([(update, seen)])
    assert read_latch_file(run).sightings == ((2, once), (2, again))
    assert LatchWriter(run).sightings() == [(2, again)]

    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.finish())
    (first,) = RunFollower(run).catch_up().snapshot.tamiyo.first
    assert (first.update, first.host, first.step, first.reproduced) == (2, 3, 7, True)


def test_a_later_fault_without_a_drill_is_not_marked_as_one(run, payloads):
    writer = LatchWriter(run)
    drill, fault = payloads.sighting(planted=True), payloads.sighting(epoch=2)
    for update, seen in ((2, drill), (3, drill), (4, fault), (5, drill)):
        writer.note_sightings([(update, seen)])
    joined = msgspec.structs.replace(drill, planted=False)
    assert read_latch_file(run).sightings == ((2, drill), (2, joined))
    assert LatchWriter(run).sightings() == [(2, joined)]

    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(6, head_nonfinite=[drill]))
        writer.emit(payloads.finish())
    tamiyo = RunFollower(run).catch_up().snapshot.tamiyo
    assert tamiyo.latch("inf")["op"]
    assert not tamiyo.planted("inf")["op"]
    with contextlib.closing(sqlite3.connect(run / "run.sqlite")) as store:
        assert store.execute("SELECT planted FROM latches").fetchall() == [(0,)]


def test_of_one_update_the_earliest_sighting_is_kept(run):
    late = NonfiniteSighting(
        head="op", quantity="logits", kind="nan", count=1, epoch=1, minibatch=2
    )
    early = msgspec.structs.replace(late, epoch=0, minibatch=0, phase="acting", host=1, step=4)
    writer = LatchWriter(run)
    writer.note_sightings([(1, late), (1, early)])
    # The second line states that it was reproduced, which a sighting while acting never does.
    assert read_latch_file(run).sightings == ((1, early), (1, late))
    writer.note_sightings([(2, early), (2, late)])
    assert LatchWriter(run).sightings() == [(1, early), (1, late)]


def test_a_line_of_an_older_writer_has_defaults(run):
    sighting = '{"head":"op","quantity":"logits","kind":"nan","count":1,"epoch":1,"minibatch":2}'
    body = f'{{"record":"latch","time":1.0,"update":3,"sighting":{sighting}'
    line = f'{body},"crc32":"{zlib.crc32(body.encode()):08x}"}}\n'
    (run / LATCHES_NAME).write_text(line)
    found = read_latch_file(run)
    assert found.error is None
    ((update, seen),) = found.sightings
    assert (update, seen.phase, seen.host, seen.step, seen.part) == (3, "update", None, None, "")
    assert seen.reproduced
