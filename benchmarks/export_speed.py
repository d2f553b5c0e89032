"""Export of a synthetic run: seconds and peak memory of each format, for two store sizes.

CPU seconds are printed as well: they show the cost of an export while other programs run.

Memory is flat if the large store takes no more than the small one. Each export is a process of its
own, as a user starts it.

    uv run python benchmarks/export_speed.py [--events 1000000] [--hosts 16]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from synthetic_run import payloads_of_a_run

from esper.karn.store.run_store import RunWriter, create_run

FORMS = ("parquet", "csv", "jsonl", "tensorboard")
#: Runs a command and prints its seconds, its CPU seconds and its peak memory in MiB.
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def written(folder: Path, events: int, hosts: int) -> tuple[Path, int]:
    """Write a run with at least this many events; return its directory and the number of events."""
    run = create_run(folder, f"events-{events}")
    number = 0
    with RunWriter(run) as writer:
        for payload in payloads_of_a_run(events, hosts):
            writer.emit(payload)
            number += 1
            if number % 10_000 == 0:
                writer.flush()
    return run, number


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--hosts", type=int, default=16)
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for events in (options.events // 10, options.events):
            start = time.perf_counter()
            run, number = written(folder, events, options.hosts)
            size = sum(one.stat().st_size for one in run.iterdir() if one.is_file()) >> 20
            print(
                f"{number:,} events of {options.hosts} hosts, {size} MiB "
                f"(written in {time.perf_counter() - start:.0f} s)"
            )
            for form in FORMS:
                out = folder / f"{events}.{form}"
                command = [sys.executable, "-m", "esper", "export", str(run)]
                command += ["--to", form, "--out", str(out)]
                measured = subprocess.run(
                    [sys.executable, "-c", MEASURE, *command],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout.split()
                seconds, cpu, peak = map(float, measured)
                files = [out] if out.is_file() else [one for one in out.rglob("*") if one.is_file()]
                size = sum(one.stat().st_size for one in files) >> 20
                print(
                    f"  {form:12} {seconds:6.1f} s  {cpu:6.1f} s of CPU  peak {peak:4.0f} MiB  "
                    f"wrote {size} MiB"
                )


if __name__ == "__main__":
    main()
