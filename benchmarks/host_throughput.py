"""Training speed of N hosts in lockstep, compared with a loop over N ordinary torch networks.

    uv run python benchmarks/host_throughput.py [--processes 2] [--hosts 1 4 16 64 256]
    uv run python benchmarks/host_throughput.py --memory

Both sides do the same work for each host and step: 16 minibatches of 50 samples with Adam, then
loss and accuracy on the 800 validation samples. The lockstep side is the environment of training,
with hosts divided among processes, observations, rewards and masks. The loop uses the modules that
the tests prove equal to lockstep, with torch's fused Adam and nothing else, in one process with all
cores. Both sides alternate, and each figure is the median over the rounds. "occupied" means three
seeds in each host, of mixed blueprints and styles, all blended in. An env step is a step of all
hosts together. On a busy machine, `--processes 1 --loop-threads 1 --cpu-time` measures processor
time instead of wall-clock time. The loop runs over at most `--loop-hosts` hosts and is extrapolated
to all of them, as the table shows, because its cost for each host does not depend on their number.

`--memory` measures memory for each host instead: the arrays and tensors that are kept between
steps, and the peak resident memory of a process that steps N hosts minus that of one with a single
host, divided by N - 1.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import ordinary_modules
import torch
from benchmark_output import make_console
from rich.table import Table

from esper.growth.environment.divided import DividedHosts
from esper.growth.environment.env import GrowthVectorEnv
from esper.leyline.heads import (
    BLUEPRINT_CHOICES,
    HEAD_NAMES,
    SLOT_CHOICES,
    STYLE_CHOICES,
    Op,
    Stage,
)

BATCH, BATCHES = 50, 16


def actions(hosts: int, **choices: np.ndarray | int) -> np.ndarray:
    """Return one action for each host; heads that are not given are 0. `[N, 8]`"""
    result = np.zeros((hosts, len(HEAD_NAMES)), dtype=np.int64)
    for head, choice in choices.items():
        result[:, HEAD_NAMES.index(head)] = choice
    return result


def mixed_seeds(hosts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return blueprints and styles drawn for every slot, each `[N, S]`."""
    generator = np.random.default_rng(0)
    size = (hosts, len(SLOT_CHOICES))
    blueprints = generator.integers(len(BLUEPRINT_CHOICES), size=size)
    return blueprints, generator.integers(len(STYLE_CHOICES), size=size)


def make_hosts(
    hosts: int, processes: int, blueprints: np.ndarray, styles: np.ndarray, occupied: bool
) -> DividedHosts:
    """Return hosts that, if `occupied`, hold the given seeds `[N, S]`."""
    env = DividedHosts(hosts, processes, steps=10**9, batch=BATCH, batches=BATCHES)
    env.reset(range(hosts))
    if not occupied:
        return env
    for slot in range(len(SLOT_CHOICES)):
        seeds = {"blueprint": blueprints[:, slot], "style": styles[:, slot], "alpha_target": 2}
        env.step(actions(hosts, op=Op.GERMINATE, slot=slot, **seeds))
    for slot in range(len(SLOT_CHOICES)):
        info = env.step(actions(hosts, op=Op.ADVANCE, slot=slot))[-1]
    while not (info["stage"] == Stage.HOLDING).all():
        info = env.step(actions(hosts))[-1]
    return env


def make_loop(
    env: GrowthVectorEnv, blueprints: np.ndarray, styles: np.ndarray, occupied: bool, hosts: int
) -> Callable[[], None]:
    """Return a function that trains and measures so many ordinary networks for one step."""
    task, channels, axes = env.task, 8, len(env.task.input_shape) - 1
    networks = []
    for host in range(hosts):
        network = ordinary_modules.Network(
            ordinary_modules.Host(task.input_shape, task.classes, channels)
        )
        if occupied:
            for slot in range(len(SLOT_CHOICES)):
                seed = ordinary_modules.Seed(
                    blueprints[host, slot], styles[host, slot], channels, axes
                )
                network.slots[slot] = ordinary_modules.Slot(seed, alpha=1.0, training=False)
        network.adapt(fused=True)
        networks.append(network)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        for network in networks:
            order = torch.randperm(len(task.train), generator=generator)
            for index in order[: BATCH * BATCHES].split(BATCH):
                network.train_step(task.train.inputs[index], task.train.labels[index])
            network.evaluate(task.validation.inputs, task.validation.labels)

    return step


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the seconds that the work takes once."""
    start = clock()
    work()
    return clock() - start


def measure(
    hosts: int, loop_hosts: int, occupied: bool, options: argparse.Namespace, rounds: int
) -> tuple[float, float]:
    """Return the median seconds of a step of all hosts, in lockstep and in the loop.

    The loop runs over `loop_hosts` of the hosts, and its time is extrapolated to all of them.
    """
    clock = time.process_time if options.cpu_time else time.perf_counter
    blueprints, styles = mixed_seeds(hosts)
    torch.set_num_threads(1)
    env = make_hosts(hosts, options.processes, blueprints, styles, occupied)
    loop = make_loop(env.env, blueprints, styles, occupied, loop_hosts)
    wait = actions(hosts)
    pairs = []
    for _ in range(2 + rounds):
        torch.set_num_threads(1)
        lockstep = seconds(lambda: env.step(wait), clock)
        torch.set_num_threads(options.loop_threads)
        pairs.append((lockstep, seconds(loop, clock)))
    env.close()
    # First calls allocate and choose kernels.
    lockstep, ordinary = (statistics.median(times) for times in zip(*pairs[2:], strict=True))
    return lockstep, ordinary * hosts / loop_hosts


def at_rest(env: GrowthVectorEnv) -> int:
    """Return the bytes of all arrays and tensors that are kept from one step to the next."""
    cohort = env._cohort
    parts = [vars(part) for part in (cohort.population, cohort.seeds, cohort.order)]
    parts += [vars(cohort.progress), vars(cohort)]
    values = [value for part in parts for value in part.values()]
    return sum(v.nbytes for v in values if isinstance(v, np.ndarray | torch.Tensor))


def step_once_in_a_process(hosts: int, occupied: bool, pipe: Connection) -> None:
    """Step so many hosts, and send bytes at rest and the highest resident bytes so far."""
    torch.set_num_threads(1)
    divided = make_hosts(hosts, 1, *mixed_seeds(hosts), occupied)
    for _ in range(2):
        divided.step(actions(hosts))
    highest = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB on Linux
    pipe.send((at_rest(divided.env), highest))


def memory(hosts: int, occupied: bool) -> tuple[int, int]:
    """Return bytes at rest and highest resident bytes of a fresh process with so many hosts."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=step_once_in_a_process, args=(hosts, occupied, sender))
    process.start()
    measured: tuple[int, int] = receiver.recv()
    process.join()
    return measured


def memory_table(hosts: list[int]) -> Table:
    """Measure memory for each host."""
    table = Table(title="memory for each host, in kB")
    for heading in ("hosts", "slots", "at rest", "at most while training"):
        table.add_column(heading, justify="right")
    for occupied in (False, True):
        single = memory(1, occupied)[1]
        for count in hosts:
            if count == 1:
                continue
            rest, highest = memory(count, occupied)
            table.add_row(
                str(count),
                "occupied" if occupied else "empty",
                f"{rest / count / 1000:,.0f}",
                f"{(highest - single) / (count - 1) / 1000:,.0f}",
            )
    return table


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 4, 16, 64, 256], metavar="N")
    parser.add_argument("--processes", type=int, default=2, help="that lockstep hosts live in")
    parser.add_argument("--loop-threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser.add_argument(
        "--loop-hosts", type=int, default=64, metavar="N", help="hosts in the loop, at most"
    )
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each figure")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time")
    parser.add_argument("--memory", action="store_true", help="measure memory, not speed")
    options = parser.parse_args()
    if options.memory:
        make_console().print(memory_table(options.hosts))
        return
    if options.cpu_time and options.processes > 1:
        parser.error("--cpu-time counts this process alone: say --processes 1")

    unit = "second of processor time" if options.cpu_time else "second"
    table = Table(
        title=f"samples trained on per {unit}, with validation: lockstep in up to "
        f"{options.processes} processes, the loop on {options.loop_threads} threads"
    )
    headings = (
        "hosts",
        "slots",
        "lockstep samples",
        "loop samples",
        "loop over",
        "ratio",
        "env steps",
        "ms/host",
        "loop ms/host",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for occupied in (False, True):
        for hosts in options.hosts:
            rounds = options.rounds if hosts <= 64 else max(options.rounds // 3, 3)
            loop_hosts = min(hosts, options.loop_hosts)
            lockstep, loop = measure(hosts, loop_hosts, occupied, options, rounds)
            samples = hosts * BATCH * BATCHES
            table.add_row(
                str(hosts),
                "occupied" if occupied else "empty",
                f"{samples / lockstep:,.0f}",
                f"{samples / loop:,.0f}",
                f"{loop_hosts} of {hosts}",
                f"{loop / lockstep:.2f}x",
                f"{1 / lockstep:,.1f}",
                f"{1000 * lockstep / hosts:.2f}",
                f"{1000 * loop / hosts:.2f}",
            )
    make_console().print(table)


if __name__ == "__main__":
    main()
