"""Campaign: kill -9 of a real training's trainer, of a process that holds hosts, and of a reader.

    uv run pytest -m slow -n 0 -s tests/campaigns/test_training_killed.py

`ESPER_CAMPAIGN` scales it (1.0 is 100 trainings), `ESPER_SEED` repeats the moments. The writer of a
store alone is killed far more often in `test_lights_survive.py`; here whole programs are, also
while they write a checkpoint or an incident.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import STORE_NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_400)]
SCALE = float(os.environ.get("ESPER_CAMPAIGN", "1.0"))
ESPER = (sys.executable, "-m", "esper")
EPISODES = 96
SETTINGS = (
    "--envs", "16", "--steps", "2", "--processes", "2", "--feature-size", "8", "--lstm-size", "8",
    "--ppo-epochs", "1", "--inject", "op:inf@1", "--inject", "slot:nan@3",
)  # fmt: skip
VICTIMS = ("trainer", "worker", "reader")
#: A reader that runs until it is killed.
READING = "import sys; from pathlib import Path\n"
READING += "from esper.karn.sanctum.following.follower import RunFollower\n"
READING += "while True: RunFollower(Path(sys.argv[1])).catch_up()"


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a command whose lines can be read."""
    return subprocess.Popen(
        [*ESPER, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def announced(lines: list[str]) -> set[tuple[str, str]]:
    """Return head and light of every light that the console announced."""
    words = [line.split() for line in lines if line.startswith("NON-FINITE")]
    return {(w[3], "nan" if w[4] == "NaN" else "inf") for w in words}


def lit(run: Path) -> set[tuple[str, str]]:
    """Return head and light of every light that is on."""
    tamiyo = RunFollower(run).catch_up().snapshot.tamiyo
    return {
        (head, light)
        for light in ("inf", "nan")
        for head, is_lit in tamiyo.latch(light).items()
        if is_lit
    }


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:  # noqa: UP028  ("yield from" would close the stream at a break)
        yield line


def test_killing_any_process_loses_no_light(tmp_path: Path) -> None:
    seed = int(os.environ.get("ESPER_SEED", time.time_ns() % 2**32))
    number = max(1, round(100 * SCALE))
    chance = random.Random(seed)
    for turn in range(number):
        victim = VICTIMS[turn % 3]
        runs = tmp_path / str(turn)
        training = start(
            "ppo", "--no-sanctum", "--run-dir", runs, "--episodes", EPISODES, *SETTINGS
        )
        lines: list[str] = []
        wanted = chance.randrange(1, 5)  # updates before the kill
        for line in lines_of(training):
            lines.append(line)
            if line.startswith("update ") and line.split()[1] == str(wanted):
                break
        (run,) = runs.iterdir()
        assert (run / STORE_NAME).exists()
        workers = psutil.Process(training.pid).children(recursive=True)
        assert workers, "the run has no process of hosts"
        with subprocess.Popen([sys.executable, "-c", READING, str(run)]) as reader:
            try:
                time.sleep(chance.random() * 0.3)  # a random moment
                killed = {"trainer": training.pid, "worker": workers[0].pid, "reader": reader.pid}
                os.kill(killed[victim], signal.SIGKILL)
                lines += lines_of(training)
                code = training.wait()
            finally:
                reader.kill()
                training.kill()
        expected = {"trainer": (-signal.SIGKILL,), "worker": (0, 1), "reader": (0,)}[victim]
        place = (seed, turn, victim, wanted)
        assert code in expected, (place, code, lines)
        assert announced(lines) <= lit(run), place
        psutil.wait_procs(workers, timeout=30)
        assert not any(worker.is_running() for worker in workers), place

        if code != 0:
            resumed = start(
                "ppo",
                "--no-sanctum",
                "--run-dir",
                runs,
                "--resume",
                run.name,
                "--episodes",
                EPISODES,
            )
            more = list(lines_of(resumed))
            assert resumed.wait() == 0, (place, more)
            assert announced(lines + more) <= lit(run), place
    print(f"\nESPER_SEED={seed} ESPER_CAMPAIGN={SCALE}: {number} trainings")
