"""Notices in a store, empty tables, and waiting for another thread or process."""

import sqlite3
import subprocess
import sys
import textwrap
import time

from esper.karn.store.run_store import RunReader
from esper.karn.store.tables.run_tables import create_tables
from esper.leyline.telemetry import Notice

DEADLINE = 20.0


def notice(number):
    return Notice(level="info", text=str(number))


def texts(run):
    return [
        event.payload.text
        for event in RunReader(run).read(0, 1_000_000)
        if isinstance(event.payload, Notice)
    ]


def eventually(condition):
    """Wait for what another thread or process is to bring about; fail if it does not."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def empty_tables():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(connection, "0")
    return connection
