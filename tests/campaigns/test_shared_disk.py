"""Campaign: a run on a disk that two machines share, written on one and read on the other.

    ESPER_MOUNTS=/mnt/a:/mnt/b uv run pytest -m slow -n 0 -s tests/campaigns/test_shared_disk.py

`/mnt/a` and `/mnt/b` are two mounts of one folder that do not share their caches, for example NFS
with `-o nosharecache` and two versions of the protocol. `ESPER_CAMPAIGN` scales it, `ESPER_SEED`
repeats one. docs/store.md gives the results.
"""

import contextlib
import fcntl
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import create_run
from esper.karn.store.shared_disks import shared_disk_of

MOUNTS = [Path(each) for each in os.environ.get("ESPER_MOUNTS", "").split(":") if each]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7_200),
    pytest.mark.skipif(len(MOUNTS) != 2, reason="ESPER_MOUNTS does not name two mounts"),
]
ROUNDS = max(1, int(100 * float(os.environ.get("ESPER_CAMPAIGN", "1.0"))))
SUPPORT = Path(__file__).parents[1] / "support"
STORE = "run.sqlite"
#: NFS looks up a file that was not there again after 60 s at the latest (acdirmax).
LATEST_SECONDS = 70.0


def test_another_machine_sees_every_announced_light_and_never_damage():
    rng_seed = int(os.environ.get("ESPER_SEED", time.time_ns() % 2**32))
    chance = random.Random(rng_seed)
    disk = shared_disk_of(MOUNTS[0]) or "a local disk"
    print(f"ESPER_SEED={rng_seed}, {ROUNDS} rounds on {disk}")
    here, there = (mount / f"campaign-{rng_seed}" for mount in MOUNTS)
    unreadable = []
    late = []
    waited = []
    for number in range(ROUNDS):
        run = create_run(here, f"s{number}")
        reader = RunFollower(there / run.name)
        lights, seen_at = _kill_while_read(run, reader, chance, unreadable)
        late += seen_at
        waited.append(_wait_for(lights, there / run.name))
        assert lights <= _lit_in_store(run), number
        connection = sqlite3.connect(run / STORE)  # rolls back what was not committed
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), number
        connection.close()
        assert lights <= _lit(RunFollower(there / run.name).catch_up()), number
    print(
        f"{len(late)} lights seen while it was written, after {_median(late):.2f} s (median), "
        f"{max(late, default=0.0):.2f} s at most; all of them at most {max(waited):.1f} s after "
        f"the kill; unreadable meanwhile: {len(unreadable)} times {unreadable[:3]}"
    )
    if _locks_reach_the_other_machine(here, there):
        assert unreadable == []


def _locks_reach_the_other_machine(here, there):
    """Return whether the file system has locks that both machines see; if not, reads can be torn.

    FUSE file systems have none, unless their server forwards them.
    """
    with (here / "lock").open("w") as own, (there / "lock").open("w") as other:
        fcntl.lockf(own, fcntl.LOCK_EX)
        program = "import fcntl; fcntl.lockf(0, fcntl.LOCK_EX | fcntl.LOCK_NB)"
        result = subprocess.run(
            [sys.executable, "-c", program], stdin=other.fileno(), stderr=subprocess.DEVNULL
        )
    return result.returncode != 0


def _kill_while_read(run, reader, chance, unreadable):
    """Return what was announced, and how many seconds later the reader saw each light."""
    process = subprocess.Popen(
        [sys.executable, SUPPORT / "runs_that_end.py", run, "60", str(chance.randrange(2**30))],
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = []
    thread = threading.Thread(
        target=lambda: lines.extend((time.monotonic(), line) for line in process.stdout)
    )
    thread.start()
    end = time.monotonic() + chance.uniform(1.0, 5.0)
    seen = {}
    while time.monotonic() < end:
        frame = reader.catch_up()
        if lines and (frame.doubt.error is not None or frame.doubt.damaged_events):
            unreadable.append((run.name, frame.doubt.error, frame.doubt.damaged_events))
        for light in _lit(frame):
            seen.setdefault(light, time.monotonic())
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    thread.join()
    announced = {}
    for moment, line in lines:
        for light in _announced(line):
            announced.setdefault(light, moment)
    late = [seen[light] - announced[light] for light in announced if light in seen]
    return set(announced), [max(0.0, each) for each in late]


def _wait_for(lights, folder):
    """Return how many seconds the other machine needs until it sees all lights."""
    start = time.monotonic()
    while not lights <= _lit(RunFollower(folder).catch_up()) & _lit_in_store(folder):
        assert time.monotonic() - start < LATEST_SECONDS, (folder, lights)
        time.sleep(0.2)
    return time.monotonic() - start


def _announced(line):
    """Return head and light of a whole line that announces one."""
    words = line.split()
    is_light = line.endswith("\n") and words[:1] == ["light"]
    return [(words[1], "nan" if words[2] == "nan" else "inf")] if is_light else []


def _lit(frame):
    tamiyo = frame.snapshot.tamiyo
    latches = {"inf": tamiyo.head_inf_latch, "nan": tamiyo.head_nan_latch}
    return {(head, kind) for kind, heads in latches.items() for head, lit in heads.items() if lit}


def _lit_in_store(folder):
    """Return the lights of the store alone, without the files next to it."""
    with tempfile.TemporaryDirectory() as own:
        for name in (STORE, f"{STORE}-journal", f"{STORE}-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(folder / name, Path(own) / name)
        return _lit(RunFollower(Path(own)).catch_up())


def _median(values):
    return sorted(values)[len(values) // 2] if values else 0.0
