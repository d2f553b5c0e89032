"""Campaigns: kill -9, power loss and damaged stores at random; no announced light is ever dark.

    uv run pytest -m slow tests/campaigns

`ESPER_CAMPAIGN` scales them (1.0 is full size), `ESPER_SEED` repeats one. Each prints its seed.
"""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from esper.commands.folder.runs import print_runs
from esper.commands.health import print_health
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunStoreError, create_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7_200)]
SUPPORT = Path(__file__).parents[1] / "support"
SCALE = float(os.environ.get("ESPER_CAMPAIGN", "1.0"))
STORE = "run.sqlite"


@pytest.fixture
def seed():
    """The seed of a campaign, printed."""
    value = int(os.environ.get("ESPER_SEED", time.time_ns() % 2**32))
    print(f"ESPER_SEED={value} ESPER_CAMPAIGN={SCALE}")
    return value


def times(full):
    return max(1, int(full * SCALE))


def subject(run, updates, seed, **environment):
    return subprocess.Popen(
        [sys.executable, SUPPORT / "runs_that_end.py", run, str(updates), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def lights_of(lines):
    """Return head and light of what was announced."""
    words = [line.split() for line in lines]
    return {(w[1], "nan" if w[2] == "nan" else "inf") for w in words if w[0] == "light"}


def is_kept(run, lights):
    """Return whether every light is lit, or every dark one is shown as unknown."""
    frame = RunFollower(run).catch_up()
    latches = {
        "inf": frame.snapshot.tamiyo.head_inf_latch,
        "nan": frame.snapshot.tamiyo.head_nan_latch,
    }
    missing = [one for one in lights if not latches[one[1]].get(one[0])]
    return not missing, not missing or frame.doubt.lights is not None


def health_of(run):
    console = Console(file=io.StringIO())
    assert print_runs(run.parent, console=console) == 0
    try:
        return print_health(run.parent, str(run), console=console)
    except RunStoreError:
        return 2


def announced_until(process, moment):
    """Return the lines that came until a moment, and kill the process then."""
    lines = []
    while len(lines) < moment and (line := process.stdout.readline()):
        lines.append(line)
    process.send_signal(signal.SIGKILL)
    lines += [line for line in process.stdout.read().splitlines(keepends=True) if "\n" in line]
    process.wait()
    return lines


def test_kill_9(tmp_path, seed):
    chance = random.Random(seed)
    for number in range(times(1_000)):
        run = create_run(tmp_path, f"k{number}")
        process = subject(run, 60, chance.randrange(2**30))
        lines = announced_until(process, chance.randrange(60))
        lights = lights_of(lines)
        is_lit, _ = is_kept(run, lights)
        assert is_lit, (number, lights)
        assert health_of(run) in ((1,) if lights else (1, 2)), number
        shutil.rmtree(run)


@pytest.fixture
def preloaded(tmp_path):
    """The library that keeps a copy of what was synced."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler on this machine")
    library = tmp_path / "synced.so"
    command = ["cc", "-shared", "-fPIC", "-o", library, SUPPORT / "synced.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


def restored(image, run, destination):
    """Make the folder that a power loss leaves, from the copy of what was synced."""
    destination.mkdir()
    listing = image / f"d{run.stat().st_ino}"
    if not listing.exists():
        return
    for line in listing.read_text().splitlines():
        inode, _, name = line.partition(" ")
        content = image / f"i{inode}"
        if (run / name).is_dir():
            (destination / name).mkdir()
        elif name.endswith("-shm"):
            continue
        elif content.exists():
            shutil.copyfile(content, destination / name)
        else:
            (destination / name).touch()  # its name was synced, what is in it was not


def test_power_loss(tmp_path, seed, preloaded):
    chance = random.Random(seed)
    for number in range(times(100)):
        run = create_run(tmp_path / "runs", f"p{number}")
        image = tmp_path / f"image{number}"
        image.mkdir()
        process = subject(
            run,
            40,
            chance.randrange(2**30),
            LD_PRELOAD=str(preloaded),
            FOLDER=str(run),
            IMAGE=str(image),
        )
        lines = announced_until(process, chance.randrange(1, 40))
        after = tmp_path / "after" / run.name
        after.parent.mkdir(exist_ok=True)
        restored(image, run, after)
        lights = lights_of(lines)
        is_lit, _ = is_kept(after, lights)
        assert is_lit, (number, lights, sorted(path.name for path in after.iterdir()))
        assert health_of(after) in ((1,) if lights else (1, 2)), number
        updates = [int(line.split()[-1]) for line in lines if line.split()[-1].isdigit()]
        (after / "latches.jsonl").unlink(missing_ok=True)  # the store alone has it all, too
        frame = RunFollower(after).catch_up()
        assert frame.snapshot.run.update >= max(updates, default=0), number
        assert is_kept(after, lights)[0], number
        for folder in (run, image, after):
            shutil.rmtree(folder)


def mutated(data, other, chance):
    """Return a file after one kind of damage; `other` is an earlier state of it."""
    changed = bytearray(data)
    size = max(1, len(data))
    match chance.randrange(7):
        case 0:
            changed[chance.randrange(size)] ^= 1 << chance.randrange(8)
        case 1:  # a page
            start = chance.randrange(size) // 4096 * 4096
            changed[start : start + 4096] = chance.randbytes(min(4096, len(data) - start))
        case 2:
            del changed[chance.randrange(size) :]
        case 3:  # a stale page
            start = chance.randrange(size) // 4096 * 4096
            changed[start : start + 4096] = other[start : start + 4096]
        case 4:  # two pages swapped
            pages = max(1, len(data) // 4096)
            a, b = (4096 * chance.randrange(pages) for _ in range(2))
            changed[a : a + 4096], changed[b : b + 4096] = data[b : b + 4096], data[a : a + 4096]
        case 5:
            return bytes(other)
        case _:
            return None
    return bytes(changed)


@pytest.mark.parametrize("has_latch_file", [True, False], ids=["latch file", "store alone"])
def test_damaged_stores(tmp_path, seed, has_latch_file):
    """With the latch file every light is lit; the store alone never reassures."""
    chance = random.Random(seed)
    run = create_run(tmp_path / "runs", "d")
    older: dict[str, bytes] = {}
    process = subject(run, 200, 11)
    lines = []
    while line := process.stdout.readline():
        lines.append(line)
        if line.endswith(" 20\n"):
            older = {path.name: path.read_bytes() for path in run.glob(f"{STORE}*")}
        if line.endswith(" 40\n"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    lights = lights_of(lines)
    assert lights
    whole = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    whole.pop(f"{STORE}-shm", None)
    older.pop(f"{STORE}-shm", None)
    if not has_latch_file:
        del whole["latches.jsonl"]
    dark = 0
    for number in range(times(50_000)):
        for path in run.iterdir():
            if path.is_file():
                path.unlink()
        target = chance.choice((STORE, f"{STORE}-wal"))
        for name, data in whole.items():
            if name == target:
                damaged = mutated(data, older.get(name, b""), chance)
                if damaged is not None:
                    (run / name).write_bytes(damaged)
            else:
                (run / name).write_bytes(data)
        is_lit, is_safe = is_kept(run, lights)
        dark += not is_lit
        assert is_safe, (number, target, sorted(path.name for path in run.iterdir()))
        assert is_lit or not has_latch_file, number
        assert health_of(run) in (1, 2), number
    print(f"{times(50_000)} mutations, of which {dark} left a light unknown")
