"""Disks that machines share: their stores have a rollback journal, and lose nothing either."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunWriter
from esper.karn.store.shared_disks import is_shared, sentence_about, shared_disk_of
from esper.karn.store.writing import run_writer, store_connection

STORE, JOURNAL = "run.sqlite", "run.sqlite-journal"
Mount = namedtuple("Mount", "mountpoint fstype")
#: Writes 12 updates, of which the last one lights op, and a transaction that is never committed.
CODE = """
import os, signal, sqlite3, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import Payloads
from esper.karn.store.run_store import RunWriter
from esper.karn.store.writing import run_writer

run_writer.shared_disk_of = lambda _: "nfs4"
payloads = Payloads()
writer = RunWriter(Path(sys.argv[1]))
writer.emit(payloads.start(), durable=True)
for update in range(1, 12):
    writer.emit(payloads.update(update), durable=True)
writer.emit(payloads.broken_update(12, "op", "+inf"), durable=True)
connection = sqlite3.connect(Path(sys.argv[1]) / "run.sqlite", isolation_level=None)
connection.execute("PRAGMA journal_mode = TRUNCATE")
connection.execute("PRAGMA cache_size = 1")  # so that pages are written before the commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE events SET payload = randomblob(4000)")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def shared(monkeypatch):
    """Makes every disk one that machines share."""
    monkeypatch.setattr(run_writer, "shared_disk_of", lambda _: "nfs4")


@pytest.mark.parametrize(
    ("mounts", "path", "found"),
    [
        ([("/", "ext4")], "/runs/a", ""),
        ([("/", "ext4"), ("/runs", "nfs4")], "/runs/a", "nfs4"),
        ([("/runs", "nfs4"), ("/", "ext4")], "/runs", "nfs4"),
        ([("/", "ext4"), ("/runs", "nfs4")], "/runs2/a", ""),
        ([("/", "nfs"), ("/scratch", "xfs")], "/scratch/a", ""),
        ([("/", "overlay"), ("/a", "ext4"), ("/a", "fuse.sshfs")], "/a/b", "fuse.sshfs"),
        ([("/", "ext4"), ("/a", "lustre"), ("/a/b", "tmpfs")], "/a/b/c/d", ""),
        ([], "/a", ""),
    ],
)
def test_the_innermost_mount_counts(monkeypatch, mounts, path, found):
    monkeypatch.setattr(psutil, "disk_partitions", lambda *, all: [Mount(*each) for each in mounts])
    assert shared_disk_of(Path(path)) == found


@pytest.mark.parametrize(
    ("file_system", "expected"),
    [
        ("nfs4", True), ("cifs", True), ("smb3", True), ("lustre", True), ("fuse", True),
        ("fuse.gcsfuse", True), ("fuse.sshfs", True), ("macfuse", True), ("9p", True),
        ("ext4", False), ("xfs", False), ("btrfs", False), ("apfs", False), ("tmpfs", False),
        ("overlay", False), ("fuseblk", False), ("fuse.ntfs-3g", False), ("", False),
    ],
)  # fmt: skip
def test_which_file_systems_are_shared(file_system, expected):
    assert is_shared(file_system) is expected


def test_mounts_that_cannot_be_listed_count_as_local(monkeypatch):
    def refuse(*, all):
        raise PermissionError("no /proc here")

    monkeypatch.setattr(psutil, "disk_partitions", refuse)
    assert shared_disk_of(Path("/a")) == ""


def test_a_store_on_a_shared_disk_has_no_wal_and_the_user_is_informed(run, payloads, shared):
    lines = []
    with RunWriter(run, lines.append) as writer:
        writer.emit(payloads.start(), durable=True)
        assert (run / JOURNAL).exists()
        assert not (run / f"{STORE}-wal").exists()
        writer.emit(payloads.broken_update(1, "op", "+inf"), durable=True)
        frame = RunFollower(run).catch_up()
        assert frame.snapshot.tamiyo.head_inf_latch["op"]
        assert frame.status.kind == "LIVE"
        writer.emit(payloads.finish(update=1))
    assert lines == [sentence_about("nfs4")]
    assert {file.name for file in run.glob(f"{STORE}*")} == {STORE}
    assert RunFollower(run).catch_up().completeness.doubt is None


def test_a_store_that_was_begun_on_a_local_disk_continues_on_a_shared_one(
    run, payloads, monkeypatch
):
    with RunWriter(run) as writer:
        writer.emit(payloads.start(), durable=True)
    monkeypatch.setattr(run_writer, "shared_disk_of", lambda _: "lustre")
    with RunWriter(run) as writer:
        writer.emit(payloads.update(1), durable=True)
        assert not (run / f"{STORE}-wal").exists()
    assert RunFollower(run).catch_up().snapshot.run.update == 1


def test_a_disk_without_shared_memory_gets_a_rollback_journal(run, payloads, monkeypatch):
    class NoSharedMemory(sqlite3.Connection):
        def execute(self, sql, *args):
            return super().execute(sql.replace("journal_mode = WAL", "journal_mode"), *args)

    real = sqlite3.connect
    monkeypatch.setattr(
        store_connection.sqlite3,
        "connect",
        lambda *args, **options: real(*args, factory=NoSharedMemory, **options),
    )
    with RunWriter(run) as writer:
        writer.emit(payloads.start(), durable=True)
        assert (run / JOURNAL).exists()


@pytest.fixture
def killed(run, request):
    """A run on a shared disk that was killed in the middle of a transaction."""
    tests = request.config.rootpath / "tests"
    ended = subprocess.run([sys.executable, "-c", CODE, run, tests], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert (run / JOURNAL).stat().st_size > 0
    for name in ("latches.jsonl",):  # the store alone must know
        (run / name).unlink(missing_ok=True)
    return run


@pytest.mark.parametrize("is_read_only", [False, True])
def test_a_transaction_that_was_cut_short_is_left_out(killed, is_read_only):
    if is_read_only:
        os.chmod(killed, 0o555)
    frame = RunFollower(killed).catch_up()
    os.chmod(killed, 0o755)
    assert frame.snapshot.tamiyo.head_inf_latch["op"]
    assert frame.snapshot.run.update == 12
    assert frame.completeness.damaged_events == 0
    assert "was killed" in frame.doubt.lights
    assert (killed / JOURNAL).stat().st_size > 0  # a reader changes nothing


def test_a_resumed_run_goes_on_from_there(killed, payloads, shared):
    with RunWriter(killed) as writer:
        writer.emit(payloads.update(13), durable=True)
    frame = RunFollower(killed).catch_up()
    assert frame.snapshot.run.update == 13
    assert frame.snapshot.tamiyo.head_inf_latch["op"]
    with closing(sqlite3.connect(killed / STORE)) as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_copy_without_the_journal_is_not_taken_for_whole(killed, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copyfile(killed / STORE, copy / STORE)
    assert RunFollower(copy).catch_up().completeness.doubt is not None
