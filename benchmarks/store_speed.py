"""Time that training waits for an event to be stored, and speed of reading a run.

Prints the time of `RunWriter.emit` for an ordinary and for a durable event; and for a run of many
events the time to store it, to fold all of it, and to attach to it as Sanctum does.

    uv run python benchmarks/store_speed.py [--events 100000] [--hosts 16]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from synthetic_run import payloads_of_a_run, step_of, update_of

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunReader, RunWriter
from esper.leyline.telemetry import Payload

EMITS_TIMED = 10_000
DURABLE_EMITS_TIMED = 500
SECONDS_BETWEEN_EMITS = 50e-6


def time_of(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spin(seconds: float) -> None:
    """Keep the interpreter busy, as training does between events."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def time_emits(writer: RunWriter, payload: Payload, number: int, *, durable: bool) -> list[float]:
    """Return the seconds of each emit, sorted."""
    seconds = []
    for _ in range(number):
        seconds.append(time_of(lambda: writer.emit(payload, durable=durable)))
        spin(SECONDS_BETWEEN_EMITS)
    return sorted(seconds)


def print_latencies(folder: Path, hosts: int) -> None:
    """Print the time of an emit for its caller."""
    cases = (
        ("step of all hosts", step_of(1, 1, hosts), EMITS_TIMED, False),
        ("PPO update", update_of(1, hosts), EMITS_TIMED, False),
        ("PPO update, durable", update_of(1, hosts), DURABLE_EMITS_TIMED, True),
    )
    with RunWriter(folder) as writer:
        for name, payload, number, durable in cases:
            seconds = time_emits(writer, payload, number, durable=durable)
            writer.flush()
            median, late = statistics.median(seconds), seconds[int(0.99 * number)]
            print(f"emit {name:22} median {1e6 * median:8.1f} µs   p99 {1e6 * late:8.1f} µs")
        assert writer.events_lost == 0, writer.last_error


def print_reading(folder: Path, events: int, hosts: int) -> None:
    """Print the time to store and to read a run of many events."""

    def store() -> None:
        with RunWriter(folder) as writer:
            for number, payload in enumerate(payloads_of_a_run(events, hosts)):
                writer.emit(payload)
                if number % 4_096 == 0:
                    writer.flush()
        assert writer.events_lost == 0, writer.last_error

    def fold() -> None:
        reader, aggregator, after = RunReader(folder), SanctumAggregator(), 0
        while read := reader.read(after, 128):
            for event in read:
                aggregator.apply(event)
            after = read[-1].id
        aggregator.snapshot()

    print(f"store {events:9,} events     {time_of(store):8.2f} s")
    size = (folder / "run.sqlite").stat().st_size
    print(f"      size on the disk      {size / 1e6:8.1f} MB")
    print(f"fold every one of them      {time_of(fold):8.2f} s")
    print(f"attach as Sanctum does      {time_of(lambda: RunFollower(folder).catch_up()):8.2f} s")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--hosts", type=int, default=16)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        (Path(folder) / "latency").mkdir()
        print_latencies(Path(folder) / "latency", options.hosts)
        (Path(folder) / "run").mkdir()
        print_reading(Path(folder) / "run", options.events, options.hosts)


if __name__ == "__main__":
    main()
