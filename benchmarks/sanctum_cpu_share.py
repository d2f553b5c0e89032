"""What share of a core Sanctum takes beside a busy run, in a terminal of its own.

A process writes a run as `esper ppo` does (16 hosts; the rate is what was measured on two cores),
and ten times as fast; the real program is opened over it in a pseudo-terminal, and the CPU seconds
of its process are counted once it has settled. With `--training` it is measured instead how many
steps a second `esper ppo` makes with Sanctum open over it, and without.

    uv run python benchmarks/sanctum_cpu_share.py [--seconds 20] [--size 120x40] [--training]
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pexpect
import psutil
from synthetic_run import STEPS, payloads_of_a_step, payloads_of_an_end, start_of

from esper.karn.run_store import RunReader, RunWriter
from esper.karn.sanctum.follower import RunFollower
from esper.leyline.telemetry import StepCompleted

HOSTS = 16
#: Steps of all hosts in a second: as many as `esper ppo` makes with seeds in its slots on two idle
#: cores (100 k training samples a second, 12.8 k a step), and ten times as many.
RATES = (8.0, 80.0)
SETTLING_SECONDS = 5.0
SANCTUM = "from esper.cli import sanctum_main; raise SystemExit(sanctum_main())"
TRAINING = ("--episodes", "1000000", "--envs", "16", "--seed", "1", "--no-sanctum")


def write(directory: Path, steps_per_second: float) -> None:
    """Write a run for ever."""
    with RunWriter(directory) as writer:
        writer.emit(start_of(HOSTS))
        due = time.monotonic()
        update = 0
        while True:
            update += 1
            for step in range(1, STEPS + 1):
                for payload in payloads_of_a_step(update, step, HOSTS):
                    writer.emit(payload)
                due += 1 / steps_per_second
                time.sleep(max(0.0, due - time.monotonic()))
            for payload in payloads_of_an_end(update, HOSTS):
                writer.emit(payload)


@contextmanager
def running(*command: str) -> Iterator[psutil.Process]:
    """Run a program beside this one, and end it."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


@contextmanager
def sanctum_over(directory: Path, columns: int, lines: int) -> Iterator[psutil.Process]:
    """Open Sanctum in a pseudo-terminal whose output somebody reads, as a terminal would."""
    program = pexpect.spawn(
        sys.executable,
        ["-c", SANCTUM, "--run-dir", str(directory.parent), str(directory)],
        dimensions=(lines, columns),
        env={**os.environ, "TERM": "xterm-256color"},
    )
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            try:
                program.read_nonblocking(1 << 16, timeout=0.2)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield psutil.Process(program.pid)
    finally:
        program.send("q")
        time.sleep(0.5)
        is_over.set()
        reader.join()
        program.close(force=True)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has taken."""
    times = process.cpu_times()
    return float(times.user + times.system)


def print_share(rate: float, seconds: float, columns: int, lines: int) -> None:
    """Print Sanctum's share of a core beside a writer of that many steps a second."""
    with TemporaryDirectory() as folder:
        directory = Path(folder) / "20260101-000000-busy"
        directory.mkdir()
        with running(__file__, "--write", str(directory), "--rate", str(rate)):
            while not RunFollower(directory).catch_up().snapshot.run.update:
                time.sleep(0.1)
            with sanctum_over(directory, columns, lines) as sanctum:
                time.sleep(SETTLING_SECONDS)
                events = RunReader(directory).last_id()
                before, start = cpu_seconds(sanctum), time.monotonic()
                time.sleep(seconds)
                used, took = cpu_seconds(sanctum) - before, time.monotonic() - start
                events = RunReader(directory).last_id() - events
                megabytes = sanctum.memory_info().rss / 1e6
    print(
        f"{rate:5.0f} steps/s, {events / took:6.0f} events/s: {100 * used / took:5.2f} % of a core,"
        f" {megabytes:.0f} MB"
    )


def print_training(seconds: float, columns: int, lines: int) -> None:
    """Print how fast `esper ppo` trains with and without Sanctum, in turns."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    for is_open in (False, True, True, False):
        with TemporaryDirectory() as folder:
            run_dir = Path(folder)
            with running("-m", "esper", "ppo", *TRAINING, "--run-dir", folder):
                while not (runs := list(run_dir.iterdir())) or _updates(runs[0]) < 2:
                    time.sleep(0.2)
                if is_open:
                    with sanctum_over(runs[0], columns, lines):
                        rates[True].append(_steps_per_second(runs[0], seconds))
                else:
                    rates[False].append(_steps_per_second(runs[0], seconds))
    without, with_it = (sum(rates[is_open]) / len(rates[is_open]) for is_open in (False, True))
    print(f"training without Sanctum {without:6.3f} steps/s, with it {with_it:6.3f}: ", end="")
    print(f"{with_it / without:.3f} of the speed")


def _updates(run: Path) -> int:
    return RunFollower(run, brief=True).catch_up().snapshot.run.update


def _steps_per_second(run: Path, seconds: float) -> float:
    """Return the speed from the last step of now to the last one in so many seconds."""
    first, first_at = _last_step(run)
    time.sleep(seconds)
    last, last_at = _last_step(run)
    return (last - first) / (last_at - first_at)


def _last_step(run: Path) -> tuple[int, float]:
    """Return how many steps were made in the run, and when the last of them was."""
    (event,) = RunReader(run).read_last("step_completed", 1)
    assert isinstance(event.payload, StepCompleted)
    return (event.payload.update - 1) * STEPS + event.payload.step, event.time


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--size", default="120x40", metavar="COLUMNSxLINES")
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        write(options.write, options.rate)
    columns, lines = (int(number) for number in options.size.split("x"))
    if options.training:
        print_training(options.seconds, columns, lines)
        return
    for rate in RATES:
        print_share(rate, options.seconds, columns, lines)


if __name__ == "__main__":
    main()
