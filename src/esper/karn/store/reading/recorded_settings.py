"""What a run's store says of its start: its settings, and who trains it."""

from pathlib import Path
from typing import Any

from esper.karn.store.errors import RunStoreError
from esper.karn.store.reading.run_reader import RunReader
from esper.leyline.telemetry import RunStarted


def settings_at_start(run: Path) -> dict[str, Any] | None:
    """Return the settings in the last start event of a run; None if none is readable."""
    start = _start_of(run)
    return None if start is None else start.config


def watched_library(run: Path) -> str:
    """Return the library that trains a watched run; empty for a run of Esper's own agent."""
    start = _start_of(run)
    return "" if start is None else start.library


def _start_of(run: Path) -> RunStarted | None:
    try:
        events = RunReader(run).read_last("run_started", 1)
    except RunStoreError:
        return None
    starts = [event.payload for event in events if isinstance(event.payload, RunStarted)]
    return starts[0] if starts else None
