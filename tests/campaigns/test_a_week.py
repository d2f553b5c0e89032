"""Campaign: a week of training, written as fast as the writer takes it, and followed meanwhile.

    uv run pytest -m slow -n 0 -s tests/campaigns/test_a_week.py

`ESPER_CAMPAIGN` scales it (1.0 is a week), `ESPER_SEED` repeats it. Full size is 50,400 updates:
what the default training, 32 hosts of mnist1d on one thread, makes in a week at 12 s an update. On
two cores with a load of 9 an update took 35 s of CPU time, and writing one took 64 ms; so a week is
written in 54 minutes there, of which 17 are CPU time.

The store keeps within its default limit; the memory of the process that writes, and of one that
follows as a cockpit does, stays flat; lights, evidence, updates and episodes are whole at the end.
"""

import gc
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import msgspec
import psutil
import pytest
from synthetic_run import STEPS, payloads_of_a_step, payloads_of_an_end, start_of

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import NonfiniteSighting, PPOUpdatePayload
from esper.simic.config import TrainingConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_400)]
SCALE = float(os.environ.get("ESPER_CAMPAIGN", "1.0"))
HOSTS = 32
SECONDS = 12.0
UPDATES = int(7 * 86_400 / SECONDS)
LIMIT = TrainingConfig().store_megabytes << 20
#: Below this, the newest events, which always stay, are a large part of what a store may have.
SMALLEST_LIMIT = 96 << 20
#: What is written from one heartbeat to the next, after which old events go. A week that goes by in
#: minutes writes some hundred times as much meanwhile.
BETWEEN_HEARTBEATS = 16 << 20
#: What memory may grow by from the first tenth to the end.
GROWTH = 32 << 20
#: A week goes by in minutes, so the heart beats as often as there is work for it: removing old
#: events is done with a heartbeat, and takes at most a tenth of the time of real training.
HEARTBEAT_SECONDS = 0.2
FOLLOWER = """
import json, sys, time
from pathlib import Path
import psutil
from esper.karn.sanctum.following.follower import RunFollower

follower, process = RunFollower(Path(sys.argv[1]), stays_open=True), psutil.Process()
first, polls, slowest = None, 0, 0.0
while True:
    begin = time.monotonic()
    frame = follower.poll(time.time())
    slowest = max(slowest, time.monotonic() - begin)
    assert frame.completeness.unreadable is None, frame.completeness.unreadable
    polls += 1
    if first is None and frame.snapshot.run.update >= int(sys.argv[2]):
        first = process.memory_info().rss
    if frame.status.is_over and not frame.is_behind:
        break
    time.sleep(0.1)  # behind or not: in a week that takes a week, it is idle nearly all the time
lit = [head for head, is_lit in frame.snapshot.tamiyo.head_nan_latch.items() if is_lit]
print(json.dumps({
    "first": first, "last": process.memory_info().rss, "polls": polls, "slowest": slowest,
    "update": frame.snapshot.run.update, "lit": lit, "doubt": frame.doubt.lights,
}))
"""


def broken(payload: PPOUpdatePayload, head: str) -> PPOUpdatePayload:
    """Return an update in which a head was not finite."""
    seen = NonfiniteSighting(head=head, quantity="ratio", kind="nan", count=1, epoch=1, minibatch=1)
    return msgspec.structs.replace(payload, head_nan_detected={head: True}, head_nonfinite=[seen])


def memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def test_a_week_fits_into_its_limit_and_leaves_memory_flat(
    tmp_path: Path, payloads: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("ESPER_SEED", time.time_ns() % 2**32))
    updates = max(400, int(UPDATES * SCALE))
    limit = max(SMALLEST_LIMIT, min(LIMIT, int(LIMIT * SCALE)))
    print(f"ESPER_SEED={seed} ESPER_CAMPAIGN={SCALE}: {updates} updates, limit {limit >> 20} MiB")
    chance = random.Random(seed)
    monkeypatch.setattr("esper.karn.store.writing.run_writer.HEARTBEAT_SECONDS", HEARTBEAT_SECONDS)
    run = create_run(tmp_path, "week")
    broken_in: dict[str, int] = {}
    first, largest, largest_wal = 0, 0, 0
    begin = time.monotonic()
    with RunWriter(run, limit_bytes=limit) as writer:
        writer.emit(start_of(HOSTS), durable=True)
        follower = subprocess.Popen(
            [sys.executable, "-c", FOLLOWER, str(run), str(updates // 10)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for update in range(1, updates + 1):
            for step in range(1, STEPS + 1):
                for payload in payloads_of_a_step(update, step, HOSTS):
                    writer.emit(payload)
            for payload in payloads_of_an_end(update, HOSTS):
                is_update = isinstance(payload, PPOUpdatePayload)
                if isinstance(payload, PPOUpdatePayload) and chance.random() < 0.01:
                    head = chance.choice(HEAD_NAMES)
                    broken_in[head] = broken_in.get(head, 0) + 1
                    payload = broken(payload, head)
                writer.emit(payload, durable=is_update)
            if update == updates // 10:
                first = memory()
            if update % 20 == 0:
                largest = max(largest, (run / "run.sqlite").stat().st_size)
                largest_wal = max(largest_wal, (run / "run.sqlite-wal").stat().st_size)
        last = memory()
        seconds = time.monotonic() - begin
        writer.emit(payloads.finish(update=updates, episodes_done=updates * HOSTS), durable=True)
    assert writer.events_lost == 0, writer.last_error
    out, _ = follower.communicate(timeout=600)
    followed = json.loads(out)
    print(
        f"written in {seconds:.0f} s ({1000 * seconds / updates:.0f} ms an update); store at most "
        f"{largest >> 20} MiB, WAL {largest_wal >> 20} MiB; memory of the writer's process "
        f"{first >> 20} MiB after a tenth, {last >> 20} MiB at the end; of the follower's "
        f"{followed['first'] >> 20} and {followed['last'] >> 20} MiB, {followed['polls']} polls, "
        f"the slowest {followed['slowest']:.2f} s"
    )
    place = (seed, updates)
    assert largest <= limit + BETWEEN_HEARTBEATS, place
    assert last - first < GROWTH, place
    assert followed["last"] - followed["first"] < GROWTH, place
    assert (followed["update"], followed["doubt"]) == (updates, None), place
    assert sorted(followed["lit"]) == sorted(broken_in), place
    frame = RunFollower(run).catch_up()
    assert frame.doubt.lights is None, place
    counted = {row.head: row.updates for row in frame.snapshot.tamiyo.evidence}
    assert counted == broken_in, place
    with closing(sqlite3.connect(run / "run.sqlite")) as store:
        found = {
            name: store.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in ("updates", "episodes")
        }
        kinds = dict(store.execute("SELECT kind, count(*) FROM events GROUP BY kind"))
    assert found == {"updates": updates, "episodes": updates * HOSTS}, place
    assert (kinds["ppo_update"], kinds["episodes_completed"]) == (updates, updates), place
    if updates > UPDATES // 50:
        assert kinds["step_completed"] < updates * STEPS, place  # something was removed
