"""The settings of a run in its store."""

from pathlib import Path
from typing import Any

from esper.karn.store.errors import RunStoreError
from esper.karn.store.reading.run_reader import RunReader
from esper.leyline.telemetry import RunStarted


def settings_at_start(run: Path) -> dict[str, Any] | None:
    """Return the settings in the last start event of a run; None if none is readable."""
    try:
        events = RunReader(run).read_last("run_started", 1)
    except RunStoreError:
        return None
    starts = [event.payload for event in events if isinstance(event.payload, RunStarted)]
    return starts[0].config if starts else None
