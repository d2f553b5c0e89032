"""Host steps per second of `esper ppo` with several ranks, compared with one process.

    uv run python benchmarks/rank_scaling.py [--ranks 1 2] [--envs 32] [--updates 4] [--rounds 3]
        [--per-rank] [--bound]

With `--per-rank`, `--envs` is the number of hosts of each rank: a run of two ranks has twice as
many hosts. Otherwise all runs have the same hosts. `--bound` also trains as many independent
processes as there are ranks, at the same time, each with the hosts of one rank. They exchange
nothing, so their sum is what this machine can do with hosts divided like this.

Each round trains the same run once with each number of ranks, on one thread each, one after the
other. The time is that between the first and the last update in the store of rank 0. So it has all
of training (hosts, acting, gathering, update, events and checkpoints), and neither the start of the
processes nor the first update, in which the allocator and the disk are cold. A host step is a slice
of training of one host, with its measurement. Each figure is the median over the rounds; the ratio
is the median of the ratios of each round, with its smallest and largest.

The last lines say how large the messages are, from which the table in docs/guides/torchrun.md is
extrapolated to more ranks.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from benchmark_output import make_console, rounds_of
from rich.table import Table

from esper.growth.environment.divided import DividedHosts
from esper.karn.store.run_store import RunReader, find_run
from esper.leyline.telemetry import PPOUpdatePayload
from esper.simic.agent.ppo import PPOAgent
from esper.simic.config import TrainingConfig
from esper.simic.ranks.collectives import Share
from esper.simic.ranks.host_rows import packed
from esper.simic.ranks.sighting_exchange import SLAB_BYTES
from esper.simic.training.collecting import collect
from esper.simic.training.ranks.host_sharing import HostSharing
from esper.tamiyo.policy import RecurrentPolicy

_START_SECONDS = 600


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def train(folder: Path, ranks: int, arguments: Sequence[str], *, is_apart: bool = False) -> Path:
    """Train a run in new processes; return its directory.

    Args:
        folder: where the run is made.
        ranks: number of processes.
        arguments: of `esper ppo`.
        is_apart: whether each process trains a separate run; that of the first process is returned.
    """
    port = str(free_port())
    processes = []
    for rank in range(ranks):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        is_alone = is_apart or ranks == 1
        if not is_alone:
            environment |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = folder / str(rank) if is_apart else folder
        own.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "esper", "ppo", "--no-sanctum", *arguments]
        command += ["--processes", "1"] if is_alone else []
        processes.append(
            subprocess.Popen(command, cwd=own, env=environment, stdout=subprocess.DEVNULL)
        )
    codes = [process.wait(_START_SECONDS) for process in processes]
    if any(codes):
        raise SystemExit(f"{ranks} ranks ended with the exit codes {codes}")
    return find_run((folder / "0" if is_apart else folder) / "runs")


def host_steps_per_second(run: Path, host_steps_per_update: int) -> float:
    """Return the host steps of a run per second, from its first update to its last."""
    times = [
        event.time
        for event in RunReader(run).read(0, 10_000_000)
        if isinstance(event.payload, PPOUpdatePayload)
    ]
    return host_steps_per_update * (len(times) - 1) / (times[-1] - times[0])


class Recorder:
    """Replaces the ranks of a run, and measures what each would send for one host."""

    def __init__(self) -> None:
        self.bytes_per_host: list[int] = []

    def share(self, hosts: int) -> Share:
        return Share((hosts,), 0)

    def gathered_hosts(self, own: dict[str, np.ndarray], _share: Share) -> dict[str, np.ndarray]:
        self.bytes_per_host.append(packed(own).shape[1])
        return own

    def joined(self, own: list) -> list:
        return own


class Silent:
    """A writer that writes nothing."""

    def emit(self, payload: object, *, durable: bool = False) -> None:
        """Do nothing."""

    def latches(self) -> list:
        return []


def message_bytes(steps: int) -> tuple[int, int]:
    """Return the bytes that a rank sends for each of its hosts: in a step, and in an episode."""
    hosts = DividedHosts(2, 1, task="digits", steps=steps)
    (size,) = hosts.env.single_observation_space.shape
    torch.manual_seed(0)
    agent = PPOAgent(RecurrentPolicy(size), TrainingConfig(), rng_seed=0)
    recorder = Recorder()
    sharing = HostSharing(2, recorder)
    collect(
        hosts, agent, Silent(), seeds=[0, 1], update=1, first_episode=1,
        on_step=lambda _step: None, sharing=sharing,
    )  # fmt: skip
    return recorder.bytes_per_host[0], sum(recorder.bytes_per_host)


def name_of(ranks: int, is_apart: bool) -> str:
    """Return the name of a way to train."""
    return f"{ranks} independent" if is_apart else f"{ranks} rank{'s' if ranks > 1 else ''}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--task", default="mnist1d")
    parser.add_argument("--rounds", type=rounds_of, default=3)
    parser.add_argument("--per-rank", action="store_true")
    parser.add_argument("--bound", action="store_true")
    options = parser.parse_args()

    kinds = [(ranks, False) for ranks in options.ranks]
    if options.bound:
        kinds += [(ranks, True) for ranks in options.ranks if ranks > 1]
    speeds: dict[tuple[int, bool], list[float]] = {kind: [] for kind in kinds}
    for turn in range(options.rounds):
        for ranks, is_apart in kinds:
            hosts = options.envs * (ranks if options.per_rank else 1)
            own = hosts // ranks if is_apart else hosts
            with TemporaryDirectory() as folder:
                arguments = [
                    f"--envs={own}",
                    f"--episodes={own * options.updates}",
                    f"--steps={options.steps}",
                    f"--task={options.task}",
                ]
                run = train(Path(folder), ranks, arguments, is_apart=is_apart)
                speed = host_steps_per_second(run, own * options.steps)
                speeds[ranks, is_apart].append(speed * (ranks if is_apart else 1))
                print(f"round {turn + 1}, {name_of(ranks, is_apart)}: {speed:.1f} host steps/s "
                      f"{'each' if is_apart else ''}", flush=True)  # fmt: skip

    first = options.ranks[0]
    each = " for each rank" if options.per_rank else ""
    table = Table(title=f"{options.envs} hosts of {options.task}{each}, {options.steps} steps")
    for column in ("processes", "host steps/s", f"÷ {first}", "smallest", "largest"):
        table.add_column(column, justify="right")
    for (ranks, is_apart), found in speeds.items():
        ratios = [one / base for one, base in zip(found, speeds[first, False], strict=True)]
        table.add_row(
            name_of(ranks, is_apart),
            f"{statistics.median(found):.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f}",
            f"{max(ratios):.2f}",
        )
    make_console().print(table)
    in_step, in_episode = message_bytes(options.steps)
    print(f"each rank sends {in_step:,} bytes for each of its hosts in a step, ", end="")
    print(f"{in_episode:,} in an episode, and {SLAB_BYTES:,} bytes of sightings in an update")


if __name__ == "__main__":
    main()
