"""What a process and its workers take of the machine, from the system to the snapshot."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.reading.run_reader import RunReader
from esper.karn.store.run_store import RunWriter
from esper.karn.store.writing.machine_load import LoadMeter
from esper.leyline.gpu_load import GpuLoad

MEGABYTE = 2**20


def test_workers_are_part_of_the_load():
    meter = LoadMeter(os.getpid())
    alone = meter.read()
    code = "data = bytearray(60 * 2**20); print('ready', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as worker:
        assert worker.stdout.readline()
        both = meter.read()
        worker.communicate(b"\n")
    assert both.memory_bytes - alone.memory_bytes > 50 * MEGABYTE
    assert both.own_memory_bytes < both.memory_bytes


def test_processor_time_counts_from_the_reading_before():
    ticks = iter([0.0, 2.0])
    meter = LoadMeter(os.getpid(), ticks=lambda: next(ticks))
    assert meter.read().cpu_percent is None
    begin = os.times()
    while sum(os.times()[:2]) - sum(begin[:2]) < 0.1:
        sum(range(10_000))
    assert meter.read().cpu_percent >= 4.0  # a tenth of a second of two


def test_a_process_that_is_gone_has_no_load():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    load = LoadMeter(process.pid).read()
    assert (load.memory_bytes, load.own_memory_bytes) == (None, 0)


def test_the_load_is_in_the_heartbeat_and_in_the_snapshot(run, payloads):
    gpu = GpuLoad(percent=45.0, memory_bytes=3_000_000_000, total_bytes=80_000_000_000)
    with RunWriter(run, gpu=lambda: gpu) as writer:
        writer.emit(payloads.start())
    machine = RunFollower(run).catch_up().snapshot.machine
    assert machine.memory_bytes > 10 * MEGABYTE
    assert machine.cpu_percent >= 0.0
    assert (machine.gpu_percent, machine.gpu_memory_bytes) == (45.0, 3_000_000_000)
    assert machine.gpu_total_bytes == 80_000_000_000


@pytest.mark.parametrize("value", ["'much'", "-1.0", "9e999", "NULL"])
def test_a_load_that_cannot_be_one_is_left_out(finished_run, value):
    with closing(sqlite3.connect(finished_run / "run.sqlite")) as store:
        store.execute(f"UPDATE heartbeat SET cpu_percent = {value}")
        store.commit()
    assert RunReader(finished_run).heartbeat().payload.cpu_percent is None


def test_an_older_store_has_no_load(finished_run):
    with closing(sqlite3.connect(finished_run / "run.sqlite")) as store:
        for name in ("cpu_percent", "memory_bytes", "gpu_percent"):
            store.execute(f"ALTER TABLE heartbeat DROP COLUMN {name}")
        store.commit()
    frame = RunFollower(finished_run).catch_up()
    assert frame.completeness.unreadable is None
    assert frame.snapshot.machine.memory_bytes is None
