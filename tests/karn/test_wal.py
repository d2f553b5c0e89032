"""Damage to the write-ahead log, or its absence, never makes a run look healthy."""

import random
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunWriter

STORE, WAL = "run.sqlite", "run.sqlite-wal"
#: Trains nothing: writes 12 updates, of which the last one lights op, and dies.
CODE = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from conftest import Payloads
    from esper.karn.store.run_store import RunWriter

    payloads = Payloads()
    writer = RunWriter(Path(sys.argv[1]))
    writer.emit(payloads.start(), durable=True)
    for update in range(1, 12):
        writer.emit(payloads.update(update), durable=True)
    writer.emit(payloads.broken_update(12, "op", "+inf"), durable=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(run, request):
    """A run that was killed with its light in the WAL alone: nothing else knows of it."""
    arguments = [
        sys.executable,
        "-c",
        textwrap.dedent(CODE),
        run,
        request.config.rootpath / "tests",
    ]
    ended = subprocess.run(arguments, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    (run / f"{STORE}-shm").unlink()
    return run


def look(run):
    return RunFollower(run).catch_up()


def test_a_run_that_was_killed_is_known_in_full(killed):
    frame = look(killed)
    assert frame.snapshot.tamiyo.head_inf_latch["op"]
    assert frame.snapshot.run.update == 12
    assert frame.status.kind == "DEAD"
    assert "was killed" in frame.doubt.lights  # no one knows what it saw last


@pytest.mark.parametrize("has_latch_file", [True, False])
def test_no_damage_to_the_wal_reassures(killed, has_latch_file):
    wal, chance = (killed / WAL).read_bytes(), random.Random(7)
    frame_size = 4096 + 24
    damages = [b"", wal[:10], wal[:32], wal[: 32 + frame_size], wal[:-1], wal[:-frame_size], None]
    for _ in range(60):
        data = bytearray(wal)
        bit = chance.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        damages.append(bytes(data))
    for place in range(32, len(wal), frame_size):  # salts and checksums of every frame
        data = bytearray(wal)
        data[place + 8 + chance.randrange(16)] ^= 0x10
        damages.append(bytes(data))
    first, second = wal[32 : 32 + frame_size], wal[32 + frame_size : 32 + 2 * frame_size]
    damages.append(wal[:32] + second + first + wal[32 + 2 * frame_size :])
    latches = (killed / "latches.jsonl").read_bytes()
    store = (killed / STORE).read_bytes()
    for number, damage in enumerate(damages):
        for path in killed.glob(f"{STORE}*"):
            path.unlink()
        (killed / STORE).write_bytes(store)
        if damage is not None:
            (killed / WAL).write_bytes(damage)
        if has_latch_file:
            (killed / "latches.jsonl").write_bytes(latches)
        else:
            (killed / "latches.jsonl").unlink(missing_ok=True)
        frame = look(killed)
        is_lit = frame.snapshot.tamiyo.head_inf_latch["op"]
        assert is_lit or frame.doubt.lights is not None, number
        assert is_lit or not has_latch_file, number


def test_a_damaged_frame_is_named(killed):
    wal = bytearray((killed / WAL).read_bytes())
    wal[32 + 5 * (4096 + 24) + 100] ^= 1
    (killed / WAL).write_bytes(wal)
    assert look(killed).doubt.lights == "frame 6 of its WAL is damaged"


def test_a_copy_without_its_wal_is_not_known(killed, tmp_path):
    copy = tmp_path / "copies" / killed.name
    copy.mkdir(parents=True)
    shutil.copyfile(killed / STORE, copy / STORE)
    frame = look(copy)
    assert not frame.snapshot.tamiyo.head_inf_latch["op"]
    assert frame.completeness.unreadable is not None or frame.status.kind in ("WAITING", "DEAD")
    assert frame.doubt.lights is not None


def test_a_run_that_is_resumed_without_its_wal_stays_in_doubt(killed, payloads):
    for name in (WAL, "latches.jsonl"):
        (killed / name).unlink()
    with RunWriter(killed) as writer:
        writer.emit(payloads.start(resumed_from_update=8))
        writer.emit(payloads.update(9))
        writer.emit(payloads.finish(update=9))
    assert "before the run was resumed" in look(killed).doubt.lights


@pytest.mark.parametrize("name", ["checkpoints/update-000020.pt", "incidents/0007/incident.json"])
def test_a_store_that_ends_before_a_file_of_the_run_is_not_known(finished_run, name):
    assert look(finished_run).doubt.lights is None
    path = finished_run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"number": 7, "update": 20, "sightings": []}')
    assert "ends before update 20" in look(finished_run).doubt.lights


def test_what_a_capsule_saw_is_lit(finished_run):
    path = finished_run / "incidents" / "0001" / "incident.json"
    path.parent.mkdir(parents=True)
    path.write_text(
        '{"number": 1, "update": 2, "sightings": [{"head": "slot", "quantity": "logits",'
        ' "kind": "nan", "count": 1, "epoch": 1, "minibatch": 1}]}'
    )
    frame = look(finished_run)
    assert frame.snapshot.tamiyo.head_nan_latch["slot"]
    assert "lacks a light" in frame.doubt.lights


def test_an_older_copy_of_the_store_is_not_known(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1))
    older = (run / STORE).read_bytes()
    with RunWriter(run) as writer:
        writer.emit(payloads.update(2))
    with RunWriter(run) as writer:
        writer.emit(payloads.finish(update=2))
    assert look(run).doubt.lights is None
    (run / STORE).write_bytes(older)
    assert "older than the run" in look(run).doubt.lights


def test_a_store_that_was_replaced_during_the_run_is_not_known(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.broken_update(1, "op", "+inf"), durable=True)
        follower = RunFollower(run)
        assert follower.catch_up().snapshot.tamiyo.head_inf_latch["op"]
        for path in run.glob(f"{STORE}*"):
            path.unlink()
        writer.emit(payloads.update(2), durable=True)
        for frame in (follower.catch_up(), look(run)):
            assert frame.snapshot.tamiyo.head_inf_latch["op"], "a light never goes out"
            assert "replaced by another one" in frame.completeness.gap
