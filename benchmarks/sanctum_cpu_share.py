"""CPU share of Sanctum while it shows a busy run, in its own terminal.

A process writes a run like `esper ppo` (16 hosts, the same number of events per second). Sanctum is
opened over it in a pseudo-terminal, and its processor time is measured on each screen and at each
size of the terminal. `--training` measures instead the steps per second of `esper ppo` with Sanctum
open over it and without, alternately.

    uv run python benchmarks/sanctum_cpu_share.py [--screen log] [--size 200x60] [--rate 80]
    uv run python benchmarks/sanctum_cpu_share.py --training [--turns 3]
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pexpect
import psutil
from synthetic_run import STEPS, payloads_of_a_step, payloads_of_an_end, start_of

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunReader, RunWriter
from esper.leyline.telemetry import StepCompleted

HOSTS = 16
#: Steps of all hosts in a second. `esper ppo` makes 3.5 to 5.7 with seeds in its slots on two idle
#: cores; with so many, as many events are written as it writes then: 70 to 100 a second.
RATE = 6.5
#: Updates in the run before Sanctum starts: enough for a full log and long histories.
UPDATES_BEFORE = 60
SCREENS = {"overview": "1", "heads": "2", "hosts": "3", "decisions": "4", "log": "5", "runs": "6"}
SIZES = ("80x24", "120x40", "200x60")
ATTACH_SECONDS = 4.0
SETTLING_SECONDS = 2.0
SANCTUM = "from esper.cli import sanctum_main; raise SystemExit(sanctum_main())"
TRAINING = ("--episodes", "1000000", "--envs", "16", "--seed", "1", "--no-sanctum")


def write(directory: Path, steps_per_second: float) -> None:
    """Write a run without end; its first updates are written at once."""
    with RunWriter(directory) as writer:
        writer.emit(start_of(HOSTS))
        due = time.monotonic()
        update = 0
        while True:
            update += 1
            for step in range(1, STEPS + 1):
                for payload in payloads_of_a_step(update, step, HOSTS):
                    writer.emit(payload)
                if update > UPDATES_BEFORE:
                    due += 1 / steps_per_second
                    time.sleep(max(0.0, due - time.monotonic()))
            for payload in payloads_of_an_end(update, HOSTS):
                writer.emit(payload)
            if update == UPDATES_BEFORE:
                writer.flush()
                due = time.monotonic()


@contextmanager
def running(*command: str) -> Iterator[psutil.Process]:
    """Run a program in parallel to this one, and end it."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


@dataclass
class Cockpit:
    """Sanctum in a terminal."""

    process: psutil.Process
    press: Callable[[str], object]
    written: int = 0  # bytes, to its terminal


@contextmanager
def sanctum_over(directory: Path, size: str) -> Iterator[Cockpit]:
    """Open Sanctum in a pseudo-terminal, and read its output as a terminal does."""
    columns, lines = (int(number) for number in size.split("x"))
    program = pexpect.spawn(
        sys.executable,
        ["-c", SANCTUM, "--run-dir", str(directory.parent), str(directory)],
        dimensions=(lines, columns),
        env={**os.environ, "TERM": "xterm-256color"},
    )
    cockpit = Cockpit(psutil.Process(program.pid), program.send)
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            try:
                cockpit.written += len(program.read_nonblocking(1 << 16, timeout=0.2))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield cockpit
    finally:
        program.send("q")
        time.sleep(0.5)
        is_over.set()
        reader.join()
        program.close(force=True)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def print_shares(screens: Sequence[str], sizes: Sequence[str], rate: float, seconds: float) -> None:
    """Print Sanctum's share of a core while a writer adds a number of steps per second."""
    with TemporaryDirectory() as folder:
        directory = Path(folder) / "20260101-000000-busy"
        directory.mkdir()
        with running(__file__, "--write", str(directory), "--rate", str(rate)):
            while RunFollower(directory).catch_up().snapshot.run.update < UPDATES_BEFORE:
                time.sleep(0.2)
            for size in sizes:
                with sanctum_over(directory, size) as sanctum:
                    time.sleep(ATTACH_SECONDS)
                    for screen in screens:
                        sanctum.press(SCREENS[screen])
                        time.sleep(SETTLING_SECONDS)
                        print(f"{size:>6}  {screen:<9}  {_share(sanctum, directory, seconds)}")


def _share(sanctum: Cockpit, directory: Path, seconds: float) -> str:
    """Measure for some seconds, and return the result as a line."""
    events, written = RunReader(directory).last_id(), sanctum.written
    before, start = cpu_seconds(sanctum.process), time.monotonic()
    time.sleep(seconds)
    used, took = cpu_seconds(sanctum.process) - before, time.monotonic() - start
    events = RunReader(directory).last_id() - events
    written = sanctum.written - written
    return (
        f"{100 * used / took:5.2f} % of a core, {written / took / 1000:5.1f} kB/s to the terminal, "
        f"{events / took:4.0f} events/s, {sanctum.process.memory_info().rss / 1e6:.0f} MB"
    )


def print_training(size: str, seconds: float, turns: int) -> None:
    """Print the speed of `esper ppo` with and without Sanctum, alternately."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    for is_open in (False, True, True, False) * turns:
        with TemporaryDirectory() as folder:
            run_dir = Path(folder)
            with running("-m", "esper", "ppo", *TRAINING, "--run-dir", folder):
                while not (runs := list(run_dir.iterdir())) or _updates(runs[0]) < 2:
                    time.sleep(0.2)
                with sanctum_over(runs[0], size) if is_open else nullcontext():
                    rates[is_open].append(_steps_per_second(runs[0], seconds))
    without, with_it = (median(rates[is_open]) for is_open in (False, True))
    print("without:", *(f"{rate:.2f}" for rate in rates[False]), "steps/s")
    print("with:   ", *(f"{rate:.2f}" for rate in rates[True]), "steps/s")
    print(f"medians: with Sanctum {with_it / without:.3f} of the speed without")


def _updates(run: Path) -> int:
    return RunFollower(run, brief=True).catch_up().snapshot.run.update


def _steps_per_second(run: Path, seconds: float) -> float:
    """Return the speed from the last step of now to the last one in so many seconds."""
    first, first_at = _last_step(run)
    time.sleep(seconds)
    last, last_at = _last_step(run)
    return (last - first) / (last_at - first_at)


def _last_step(run: Path) -> tuple[int, float]:
    """Return the number of steps in the run, and the time of the last one."""
    (event,) = RunReader(run).read_last("step_completed", 1)
    assert isinstance(event.payload, StepCompleted)
    return (event.payload.update - 1) * STEPS + event.payload.step, event.time


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--screen", nargs="+", choices=SCREENS, default=list(SCREENS))
    parser.add_argument("--size", nargs="+", default=SIZES, metavar="COLUMNSxLINES")
    parser.add_argument("--rate", type=float, default=RATE, help="steps per second of the run")
    parser.add_argument("--seconds", type=float, default=10.0, help="to measure each for")
    parser.add_argument("--training", action="store_true", help="measure training, too")
    parser.add_argument("--turns", type=int, default=1, help="with --training: pairs of pairs")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        write(options.write, options.rate)
    if options.training:
        print_training(options.size[-1], options.seconds, options.turns)
    else:
        print_shares(options.screen, options.size, options.rate, options.seconds)


if __name__ == "__main__":
    main()
