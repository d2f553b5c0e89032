"""`esper runs` and Sanctum's Runs screen on a folder of a thousand runs, a hundred of them live.

The folder is synthetic: a sweep over learning rates and random seeds, with runs that finished, that
were halted with lights on, and that died. Another process writes the live ones: a heartbeat every
2 s and an update every 4 s for each. Sanctum is opened in a pseudo-terminal.

    uv run python benchmarks/many_runs.py [--runs 1000] [--live 100] [--updates 200]
"""

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pexpect
import psutil
import pyte
from run_starts import run_started
from synthetic_run import update_of

from esper.karn.reports.run_folder.index_file import INDEX_NAME
from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.telemetry import (
    EpisodesCompleted,
    NonfiniteSighting,
    PPOUpdatePayload,
    RunFinished,
)

HOSTS = 2
LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
#: Share of runs with a light, by learning rate.
LIT_SHARES = (0.0, 0.05, 0.1, 0.3, 0.65)
LIT_HEADS = ("op", "op", "op", "slot", "blueprint")
#: From one update of a live run to the next.
UPDATE_SECONDS = 4.0
SIZE = (160, 45)
TIMEOUT_SECONDS = 60
PROGRAMS = {
    name: f"from esper.cli import {main}; raise SystemExit({main}())"
    for name, main in (("esper", "main"), ("sanctum", "sanctum_main"))
}


def begin(folder: Path, number: int) -> RunWriter:
    """Create the n-th run of the sweep, counted from 0, and write its start."""
    rate = LEARNING_RATES[number % len(LEARNING_RATES)]
    directory = create_run(folder, f"sweep-{number:04}", now=1_700_000_000.0 + 60 * number)
    writer = RunWriter(directory)
    seed = number // len(LEARNING_RATES)
    writer.emit(
        run_started(
            directory.name,
            HOSTS,
            name=f"sweep-{number:04}",
            seed=seed,
            config={"learning_rate": rate, "seed": seed, "envs": HOSTS, "clip_range": 0.2},
        )
    )
    return writer


def emit_update(writer: RunWriter, number: int, update: int, *, lit_at: int) -> None:
    """Write the events of an update of the n-th run."""
    score = 0.5 + 0.4 * update / (update + 50) - 0.01 * (number % 7)
    writer.emit(
        EpisodesCompleted(
            update=update,
            first_episode=(update - 1) * HOSTS + 1,
            episodes_done=update * HOSTS,
            score=[score] * HOSTS,
            accuracy=[score] * HOSTS,
            parameters=[858] * HOSTS,
            returns=[score] * HOSTS,
            fossilized=[0] * HOSTS,
        )
    )
    writer.emit(_broken(number, update) if update == lit_at else update_of(update, HOSTS))


def _broken(number: int, update: int) -> PPOUpdatePayload:
    head = LIT_HEADS[number // len(LEARNING_RATES) % len(LIT_HEADS)]
    healthy = update_of(update, HOSTS)
    seen = NonfiniteSighting(
        head=head, quantity="logits", kind="nan", count=1, epoch=1, minibatch=1
    )
    return msgspec.structs.replace(
        healthy,
        head_nan_detected=healthy.head_nan_detected | {head: True},
        head_nonfinite=[seen],
        minibatches_skipped=1,
    )


def lit_at(number: int, updates: int) -> int:
    """Return the update at which the light of the n-th run comes on; 0 for never."""
    share = LIT_SHARES[number % len(LEARNING_RATES)]
    place = (number * 0.618) % 1.0
    return 1 + int(place / share * (updates - 1)) if place < share else 0


def write_ended(folder: Path, runs: int, updates: int) -> None:
    """Write runs that have ended or died; every ninth has no end."""
    for number in range(runs):
        with begin(folder, number) as writer:
            light = lit_at(number, updates)
            for update in range(1, updates + 1):
                emit_update(writer, number, update, lit_at=light)
            if number % 9:
                status = "halted" if light and number % 2 else "finished"
                writer.emit(
                    RunFinished(status=status, update=updates, episodes_done=HOSTS * updates)
                )


def write_live(folder: Path, first: int, runs: int, updates: int) -> None:
    """Write runs without end; their first updates are written at once."""
    with ExitStack() as stack:
        writers = [stack.enter_context(begin(folder, first + one)) for one in range(runs)]
        for number, writer in enumerate(writers, start=first):
            for update in range(1, updates + 1):
                emit_update(writer, number, update, lit_at=lit_at(number, updates))
            writer.flush()
        print("live", flush=True)
        update = updates
        while True:
            update += 1
            for number, writer in enumerate(writers, start=first):
                emit_update(writer, number, update, lit_at=0)
                time.sleep(UPDATE_SECONDS / runs)


@contextmanager
def live_runs(folder: Path, first: int, runs: int, updates: int) -> Iterator[None]:
    """Write live runs in another process while the context is open."""
    if not runs:
        yield
        return
    numbers = ("--first", str(first), "--live", str(runs), "--updates", str(updates))
    process = subprocess.Popen(
        [sys.executable, __file__, "--write", str(folder), *numbers], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def seconds_of(*arguments: str) -> tuple[float, str]:
    """Run `esper`, and return the seconds it took and its output."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS["esper"], *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - started, done.stdout


class Cockpit:
    """Sanctum in a terminal that a thread reads."""

    def __init__(self, folder: Path) -> None:
        columns, lines = SIZE
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._program = pexpect.spawn(
            sys.executable,
            ["-c", PROGRAMS["sanctum"], "--run-dir", str(folder)],
            dimensions=(lines, columns),
            env={**os.environ, "TERM": "xterm-256color"},
        )
        self._process = psutil.Process(self._program.pid)
        self._is_over = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._is_over.is_set():
            try:
                self._stream.feed(self._program.read_nonblocking(1 << 16, timeout=0.2))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                return

    def seconds_until(self, keys: str, is_shown: Callable[[str], object]) -> float:
        """Press keys, and return the seconds until the screen shows something."""
        started = time.perf_counter()
        self._program.send(keys)
        while not is_shown("\n".join(self.screen.display)):
            if time.perf_counter() - started > TIMEOUT_SECONDS:
                raise TimeoutError("\n".join(self.screen.display))
            time.sleep(0.01)
        return time.perf_counter() - started

    def cpu_share(self, seconds: float) -> float:
        """Return its share of a CPU core, measured for some seconds."""
        before, started = self._process.cpu_times(), time.monotonic()
        time.sleep(seconds)
        after, took = self._process.cpu_times(), time.monotonic() - started
        return (after.user + after.system - before.user - before.system) / took

    @property
    def megabytes(self) -> float:
        """Its resident memory."""
        return float(self._process.memory_info().rss) / 1e6

    def close(self) -> None:
        """End Sanctum."""
        self._program.send("q")
        time.sleep(0.5)
        self._is_over.set()
        self._reader.join()
        self._program.close(force=True)


def print_commands(folder: Path) -> None:
    """Print how long `esper runs` takes, cold and warm."""
    place = ("--run-dir", str(folder))
    took, _ = seconds_of("runs", *place)
    size = (folder / INDEX_NAME).stat().st_size
    print(f"esper runs, no index:            {took:6.2f} s, then an index of {size / 1e6:.1f} MB")
    for name, arguments in (
        ("esper runs", ()),
        ("esper runs --json", ("--json",)),
        ("esper runs lit:op …>=1e-3", ("lit:op", "learning_rate>=1e-3")),
        ("esper runs --funnel …", ("--funnel", "learning_rate")),
        ("esper prune (dry run)", None),
    ):
        words = ("prune", "status:dead") if arguments is None else ("runs", *arguments)
        times = sorted(seconds_of(*words, *place)[0] for _ in range(3))
        print(f"{name:32} {times[1]:6.2f} s, median of 3")


def print_screen(folder: Path, runs: int, seconds: float) -> None:
    """Print how fast the Runs screen responds, and its cost while it is open."""
    with closing(Cockpit(folder)) as cockpit:
        cockpit.seconds_until("", lambda text: "UPDATE" in text.upper())
        time.sleep(1)
        first = cockpit.seconds_until("6", re.compile(r"\d runs · sorted").search)
        took = first + cockpit.seconds_until("", re.compile(rf"\b{runs} runs").search)
        print(f"Runs screen, first lines:        {first:6.2f} s after the key")
        print(f"Runs screen, all runs listed:    {took:6.2f} s after the key")
        time.sleep(5)
        share = cockpit.cpu_share(seconds)
        print(
            f"Runs screen, open for {seconds:3.0f} s:     {100 * share:6.2f} % of a core, "
            f"{cockpit.megabytes:.0f} MB"
        )
        is_whole = re.compile(rf"(?<!of ){runs} runs").search
        for name, keys, is_shown in (
            ("choose the last, and mark it", "\x1b[F ", _holds("1 marked")),
            ("mark another", "\x1b[A ", _holds("2 marked")),
            ("open the filter", "/", _holds("status:dead")),
            ("filter", "lit:op learning_rate>=1e-3\r", _holds(f" of {runs} runs")),
            ("end the filter", "\x1b", is_whole),
            ("funnel", "f", _holds("by learning_rate")),
            ("end the funnel", "\x1b", lambda text: "by learning_rate" not in text),
            ("compare two", "c", _holds("best score")),
            ("end the comparison", "\x1b", is_whole),
            ("open the last run", "\x1b[F\r", _holds("Action heads")),
        ):
            took = cockpit.seconds_until(keys, is_shown)
            print(f"{name:32} {took:6.2f} s")


def _holds(shown: str) -> Callable[[str], bool]:
    return lambda text: shown in text


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=1000, help="in the folder")
    parser.add_argument("--live", type=int, default=100, help="of them, live")
    parser.add_argument("--updates", type=int, default=200, help="of each run at the start")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure the screen for")
    parser.add_argument("--keep", type=Path, help="folder to write the runs to; it is kept")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.write is not None and options.first is None:
        write_ended(options.write, options.runs, options.updates)
    elif options.write is not None:
        write_live(options.write, options.first, options.live, options.updates)
    else:
        with TemporaryDirectory() as temporary:
            folder = options.keep or Path(temporary)
            ended = options.runs - options.live
            # In a separate process: a run without an end counts as dead once its process has ended.
            numbers = ("--runs", str(ended), "--updates", str(options.updates))
            started = time.perf_counter()
            subprocess.run([sys.executable, __file__, "--write", str(folder), *numbers], check=True)
            with live_runs(folder, ended, options.live, options.updates):
                took = time.perf_counter() - started
                print(f"{options.runs} runs, {options.live} live, written in {took:.0f} s")
                print_commands(folder)
                print_screen(folder, options.runs, options.seconds)


if __name__ == "__main__":
    main()
