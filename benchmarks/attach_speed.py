"""How long Sanctum takes to open a long run, to jump about in it, and to draw a frame of it.

Makes a run of many events, in the mixture of `esper ppo` or (`--no-seeds`) with several times as
many updates, and prints the seconds until the newest state is known, the slowest of jumps to other
updates, and what a look and a frame cost once it is open.

    uv run python benchmarks/attach_speed.py [--events 1000000] [--no-seeds]
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from synthetic_run import payloads_of_a_run

from esper.karn.run_store import RunWriter
from esper.karn.sanctum.capture import render_once
from esper.karn.sanctum.watch import RunWatch

JUMPS = 30


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_run(directory: Path, events: int, hosts: int, *, seeds: bool) -> None:
    """Write a run of at least so many events."""
    with RunWriter(directory) as writer:
        for number, payload in enumerate(payloads_of_a_run(events, hosts, seeds=seeds)):
            writer.emit(payload)
            if number % 4_096 == 0:
                writer.flush()
        assert writer.events_lost == 0, writer.last_error


def measure(directory: Path) -> None:
    """Print what it takes to open the run and to move in it."""
    watch = RunWatch(directory, directory.parent)

    def catch_up() -> None:
        while watch(time.time()).is_behind:
            pass

    print(f"attach                     {seconds_of(catch_up):8.3f} s")
    updates = watch(time.time()).snapshot.run.update
    chance = random.Random(1)
    jumps = []
    for _ in range(JUMPS):
        watch.go_to(chance.randint(1, updates))
        jumps.append(seconds_of(lambda: watch(time.time())))
    print(f"a jump among {updates:6} updates median {statistics.median(jumps):6.3f} s, ", end="")
    print(f"slowest {max(jumps):.3f} s")
    watch.go_to(updates // 2)
    watch(time.time())
    back = []
    for update in range(updates // 2 - 1, updates // 2 - 11, -1):
        watch.go_to(update)
        back.append(seconds_of(lambda: watch(time.time())))
    print(f"one update back            median {statistics.median(back):6.3f} s")
    watch.go_to(None)
    looks = [seconds_of(lambda: watch(time.time())) for _ in range(50)]
    print(f"a look, nothing new        median {1000 * statistics.median(looks):6.3f} ms")
    view = watch(time.time())
    frames = [seconds_of(lambda: render_once(view, 120)) for _ in range(20)]
    print(f"a frame drawn whole as text median {1000 * statistics.median(frames):5.1f} ms")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--no-seeds", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        directory.mkdir()
        write_run(directory, options.events, options.hosts, seeds=not options.no_seeds)
        print(f"{options.events:,} events, {options.hosts} hosts")
        measure(directory)


if __name__ == "__main__":
    main()
