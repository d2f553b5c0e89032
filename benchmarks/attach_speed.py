"""Time that Sanctum needs to open a long run, to jump to another update, and to draw a frame.

Writes a run of many events, in the proportions of `esper ppo` or (`--no-seeds`) with several times
as many updates. Prints the seconds until the newest state is shown, the slowest jump to another
update, and the cost of a poll and of a frame in an open run, in wall-clock and in processor time.
Processor time is the better measure on a busy machine.

    uv run python benchmarks/attach_speed.py [--events 1000000] [--no-seeds]
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from synthetic_run import payloads_of_a_run

from esper.karn.sanctum.cockpit.capture import render_once
from esper.karn.sanctum.cockpit.observer import RunObserver
from esper.karn.store.run_store import RunWriter

JUMPS = 30


class Seconds(NamedTuple):
    """How long something took."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:6.3f} s ({self.processor:.3f} s of the processor)"


def seconds_of(work: Callable[[], object]) -> Seconds:
    """Return the seconds that `work` takes."""
    start = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - start[0], time.process_time() - start[1])


def median(taken: list[Seconds]) -> Seconds:
    """Return the median of each of both times."""
    return Seconds(*(statistics.median(times) for times in zip(*taken, strict=True)))


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
    observer = RunObserver(directory, directory.parent)

    def catch_up() -> None:
        while observer(time.time()).is_behind:
            pass

    print(f"attach                          {seconds_of(catch_up)}")
    updates = observer(time.time()).snapshot.run.update
    chance = random.Random(1)
    jumps = []
    for _ in range(JUMPS):
        observer.go_to(chance.randint(1, updates))
        jumps.append(seconds_of(lambda: observer(time.time())))
    print(f"a jump in {updates:6} updates, median {median(jumps)}")
    print(f"                        slowest {max(jumps)}")
    observer.go_to(updates // 2)
    observer(time.time())
    back = []
    for update in range(updates // 2 - 1, updates // 2 - 11, -1):
        observer.go_to(update)
        back.append(seconds_of(lambda: observer(time.time())))
    print(f"one update back, median         {median(back)}")
    observer.go_to(None)
    looks = [seconds_of(lambda: observer(time.time())) for _ in range(50)]
    print(f"a poll, nothing new, median     {median(looks)}")
    view = observer(time.time())
    frames = [seconds_of(lambda: render_once(view, 120)) for _ in range(20)]
    print(f"a frame as text, median         {median(frames)}")


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
