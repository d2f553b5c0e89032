"""Campaign: kill -9 of ranks, launchers and nodes, and signals, at random moments, and restarts.

    uv run pytest -m slow -n 0 -s tests/campaigns/test_ranks_killed.py [-k ranks|launcher|nodes]

`ESPER_CAMPAIGN` scales it (1.0 is 300 × kill -9 of each kind), `ESPER_SEED` repeats the choices.
Each training is interrupted and resumed again and again until it is complete. No announced light is
lost, no process outlives another for long, and the weights are those of a training without an
interruption, bit for bit.

- `ranks`: two processes without a launcher; one or both are killed.
- `launcher`: an agent of torchrun with two ranks; it, or a rank, is killed.
- `nodes`: two agents with a rank each, as on two machines; the agent and the rank of one are killed
  at the same time, or one agent alone.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from forked_nodes import ForkedNodes
from forked_ranks import ForkedRanks, end_fork_server
from run_equality import same

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import find_run
from esper.simic.training.checkpoint import Checkpoint, load_latest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_400)]
SCALE = float(os.environ.get("ESPER_CAMPAIGN", "1.0"))
EPISODES = 60  # 20 updates
ARGUMENTS = (
    "ppo", "--no-sanctum", "--name", "killed", "--resume", "auto", "--episodes", str(EPISODES),
    "--envs", "3", "--steps", "2", "--task", "digits", "--feature-size", "4", "--lstm-size", "4",
    "--ppo-epochs", "1", "--minibatches", "2", "--inject", "op:inf@2", "--inject", "slot:nan@5",
)  # fmt: skip
#: Longest time from a blow to the end of all processes.
LIMIT_SECONDS = 30.0
#: Longest time of a training without an interruption, on a machine that has other work to do.
PATIENCE_SECONDS = 600.0
#: Interruptions of one training; after them it runs to its end.
MOST_BLOWS = 10

Processes = ForkedRanks | ForkedNodes
Blow = Callable[[Processes], None]


def to_ranks(number: signal.Signals, *victims: int) -> Blow:
    """Return a blow: a signal to some ranks."""

    def strike(processes: Processes) -> None:
        for victim in victims:
            processes.signal(victim, number)

    return strike


def to_launcher(node: int) -> Blow:
    """Return a blow: SIGKILL to the launcher of a node alone."""
    return lambda processes: processes.kill_launcher(node)  # type: ignore[union-attr]  # has some


def to_node(node: int) -> Blow:
    """Return a blow: SIGKILL to all processes of a node."""
    return lambda processes: processes.kill_node(node)  # type: ignore[union-attr]  # has some


KILL, TERM = signal.SIGKILL, signal.SIGTERM
#: How each kind starts, and its blows with the number of kill -9 in each.
KINDS: dict[str, tuple[Callable[[Path], Processes], tuple[tuple[Blow, int], ...]]] = {
    "ranks": (
        lambda folder: ForkedRanks(folder, ARGUMENTS),
        (
            (to_ranks(KILL, 0), 1),
            (to_ranks(KILL, 1), 1),
            (to_ranks(KILL, 0, 1), 1),
            (to_ranks(KILL, 1, 0), 1),
            (to_ranks(TERM, 0), 0),
            (to_ranks(TERM, 1), 0),
        ),
    ),
    "launcher": (
        lambda folder: ForkedNodes(folder, ARGUMENTS),
        ((to_launcher(0), 1), (to_launcher(0), 1), (to_ranks(KILL, 0), 1), (to_ranks(KILL, 1), 1)),
    ),
    "nodes": (
        lambda folder: ForkedNodes(folder, ARGUMENTS, nodes=2, ranks=1),
        ((to_node(0), 1), (to_node(1), 1), (to_launcher(0), 1), (to_launcher(1), 1)),
    ),
}


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


def wait_for_moment(processes: Processes, chance: random.Random) -> None:
    """Wait until a random moment: of the start, or after an update or two; or until the end."""
    is_late = chance.random() < 0.8
    updates, seconds = chance.randint(1, 3), chance.random() * (0.15 if is_late else 0.6)
    end = time.monotonic() + LIMIT_SECONDS
    wanted = updates if is_late else 0
    while time.monotonic() < end:
        printed = processes.output(0)
        if printed.count("\nupdate ") >= wanted and "\nrun " in printed:
            break
        if "\nnext:" in printed:
            return
        time.sleep(0.005)
    time.sleep(seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_no_interruption_loses_a_light_or_changes_a_weight(kind: str, tmp_path: Path) -> None:
    start, blows = KINDS[kind]
    seed = int(os.environ.get("ESPER_SEED", time.time_ns() % 2**32))
    chance = random.Random(f"{seed} {kind}")
    whole = ForkedRanks(tmp_path, ARGUMENTS)
    assert whole.wait(PATIENCE_SECONDS)[0] == [0, 0]
    straight = checkpoint_of(find_run(tmp_path / "runs"))

    longest, kills, signals, trainings = 0.0, 0, 0, 0
    number = max(1, round(300 * SCALE))
    while kills < number:
        folder = tmp_path / str(trainings)
        folder.mkdir()
        seen: set[tuple[str, str]] = set()
        codes: list[int | None] = []
        for turn in range(MOST_BLOWS + 1):
            processes = start(folder)
            place = (seed, kind, trainings, turn)
            if turn < MOST_BLOWS:
                wait_for_moment(processes, chance)
                if chance.random() < 0.2:  # a checkpoint is being written
                    to_ranks(signal.SIGUSR1, 1)(processes)
                    time.sleep(chance.random() * 0.1)
                    signals += 1
                blow, is_kill = chance.choice(blows)
                blow(processes)
                kills += is_kill
                signals += not is_kill
            patience = 2 * LIMIT_SECONDS if turn < MOST_BLOWS else PATIENCE_SECONDS
            codes, seconds = processes.wait(patience)
            if turn < MOST_BLOWS:
                longest = max(longest, seconds)
                assert seconds < LIMIT_SECONDS, (place, processes.output(0))
            seen |= announced(processes.output(0))
            assert seen <= lit(find_run(folder / "runs")), place
            if set(codes) == {0}:
                break
        run = find_run(folder / "runs")
        assert set(codes) == {0}, (place, processes.output(0))
        assert len(list((folder / "runs").iterdir())) == 1, place
        assert same(checkpoint_of(run).agent, straight.agent), place
        assert {("op", "inf"), ("slot", "nan")} <= lit(run), place
        trainings += 1
        print(f"{kind}: {trainings} trainings, {kills} x kill -9, {longest:.1f} s", flush=True)
    print(
        f"{kind}, seed {seed}: {trainings} trainings, {kills} x kill -9, {signals} other signals, "
        f"longest end {longest:.1f} s"
    )
