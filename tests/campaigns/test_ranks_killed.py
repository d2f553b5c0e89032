"""Campaign: kill -9 and SIGTERM of the ranks of a training, at random moments, and restarts.

    uv run pytest -m slow -n 0 -s tests/campaigns/test_ranks_killed.py

`ESPER_CAMPAIGN` scales it (1.0 is 300 trainings), `ESPER_SEED` repeats the moments. Each training
is interrupted and resumed until it is complete. No announced light is lost, no rank outlives
another for long, and the weights are those of a training without an interruption, bit for bit.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked_ranks import ForkedRanks, end_fork_server
from run_equality import same

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import find_run
from esper.simic.training.checkpoint import Checkpoint, load_latest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_400)]
SCALE = float(os.environ.get("ESPER_CAMPAIGN", "1.0"))
EPISODES = 25
ARGUMENTS = (
    "ppo", "--no-sanctum", "--name", "killed", "--resume", "auto", "--episodes", str(EPISODES),
    "--envs", "3", "--steps", "2", "--task", "digits", "--feature-size", "4", "--lstm-size", "4",
    "--ppo-epochs", "1", "--minibatches", "2", "--inject", "op:inf@2", "--inject", "slot:nan@5",
)  # fmt: skip
#: Which ranks get which signal.
BLOWS = (
    ((0,), signal.SIGKILL),
    ((1,), signal.SIGKILL),
    ((0, 1), signal.SIGKILL),
    ((0,), signal.SIGTERM),
    ((1,), signal.SIGTERM),
    ((1,), signal.SIGUSR1),
)
#: Longest time from a signal to the end of all ranks.
LIMIT_SECONDS = 30.0


@pytest.fixture(autouse=True)
def no_server_is_left() -> Iterator[None]:
    """End the process that the ranks were forked from."""
    yield
    end_fork_server()


def announced(output: str) -> set[tuple[str, str]]:
    """Return head and light of every light that rank 0 announced."""
    words = [line.split() for line in output.splitlines() if line.startswith("NON-FINITE")]
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


def checkpoint_of(run: Path) -> Checkpoint:
    """Return the newest checkpoint of a run."""
    checkpoint, _ = load_latest(run / "checkpoints", torch.device("cpu"))
    assert checkpoint is not None
    return checkpoint


def test_no_interruption_of_ranks_loses_a_light_or_changes_a_weight(tmp_path: Path) -> None:
    seed = int(os.environ.get("ESPER_SEED", time.time_ns() % 2**32))
    number = max(1, round(300 * SCALE))
    chance = random.Random(seed)
    whole = ForkedRanks(tmp_path, ARGUMENTS)
    assert whole.wait()[0] == [0, 0]
    straight = checkpoint_of(find_run(tmp_path / "runs"))

    longest, blows = 0.0, 0
    for turn in range(number):
        folder = tmp_path / str(turn)
        folder.mkdir()
        seen: set[tuple[str, str]] = set()
        for start in range(4):  # the last is not interrupted
            ranks = ForkedRanks(folder, ARGUMENTS)
            victims, number_of_signal = chance.choice(BLOWS)
            place = (seed, turn, start, victims, number_of_signal)
            if start < 3:
                ranks.wait_for("\nrun ")
                time.sleep(chance.random() * 0.8)  # a random moment
                for victim in victims:
                    ranks.signal(victim, number_of_signal)
                blows += 1
            codes, seconds = ranks.wait(2 * LIMIT_SECONDS)
            seen |= announced(ranks.output(0))
            if number_of_signal is not signal.SIGUSR1 and codes != [0, 0]:
                longest = max(longest, seconds)
                assert seconds < LIMIT_SECONDS, place
            assert seen <= lit(find_run(folder / "runs")), place
            if codes == [0, 0]:
                break
        run = find_run(folder / "runs")
        assert codes == [0, 0], (place, ranks.output(0))
        assert len(list((folder / "runs").iterdir())) == 1, place
        assert same(checkpoint_of(run).agent, straight.agent), place
        assert {("op", "inf"), ("slot", "nan")} <= lit(run), place
    print(f"seed {seed}: {number} trainings, {blows} signals, longest end {longest:.1f} s")
