"""The settings that a run was started with, as its store has them."""

from pathlib import Path
from typing import Any

from esper.karn.store.run_reader import RunReader
from esper.karn.store.run_tables import RunStoreError
from esper.leyline.telemetry import RunStarted


def settings_at_start(run: Path) -> dict[str, Any] | None:
    """Return the settings in the last start event of a run; None if there is none to be read."""
    try:
        events = RunReader(run).read_last("run_started", 1)
    except RunStoreError:
        return None
    starts = [event.payload for event in events if isinstance(event.payload, RunStarted)]
    return starts[0].config if starts else None
