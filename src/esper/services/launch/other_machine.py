"""Detects that a process on another machine, or in another container, trains a run.

On this machine the lock decides: it ends with the process that holds it. A lock of another machine
may not be visible here, so a new heartbeat counts as well.
"""

import time
from collections.abc import Callable
from pathlib import Path

from esper.karn.store.errors import RunStoreError
from esper.karn.store.liveness import HEARTBEAT_STALE_SECONDS, is_looked_up_here
from esper.karn.store.reading.run_reader import RunReader
from esper.leyline.telemetry import Heartbeat
from esper.simic.config import ConfigError

_POLL_SECONDS = 0.2


def check_not_trained_elsewhere(run: Path, *, force: bool, report: Callable[[str], None]) -> None:
    """Check that no process on another machine trains a run; wait for its next heartbeat if needed.

    Args:
        run: the run's directory.
        force: accept a fresh heartbeat from another machine.
        report: receives one sentence before a wait, or about a heartbeat that was accepted.

    Raises:
        ConfigError: another process trains the run.
    """
    beat = _fresh_beat_elsewhere(run)
    if beat is None:
        return
    where = beat.machine or "another machine"
    if force:
        report(
            f"--force: resuming although process {beat.pid} on {where} sent a heartbeat seconds "
            "ago. If that process is alive, both will write this run."
        )
        return
    report(f"waiting to see whether process {beat.pid} on {where} is alive")
    if _beats_again(run, beat):
        raise ConfigError(
            f"{run.name} is still being trained by process {beat.pid} on {where}: stop that first, "
            "or resume with --force"
        )


def _fresh_beat_elsewhere(run: Path) -> Heartbeat | None:
    """Return the last heartbeat if it is fresh and its process cannot be looked up here."""
    beat, at = _last_beat(run)
    if beat is None or time.time() - at > HEARTBEAT_STALE_SECONDS or is_looked_up_here(beat):
        return None
    return beat


def _beats_again(run: Path, beat: Heartbeat) -> bool:
    first = _last_beat(run)[1]
    end = time.monotonic() + HEARTBEAT_STALE_SECONDS - max(0.0, time.time() - first)
    while time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        now, at = _last_beat(run)
        if now is not None and now.pid == beat.pid and at != first:
            return True
    return False


def _last_beat(run: Path) -> tuple[Heartbeat | None, float]:
    """Return the last heartbeat and its time; None if the store has none that can be read."""
    try:
        event = RunReader(run).heartbeat()
    except RunStoreError:
        event = None
    if event is None or not isinstance(event.payload, Heartbeat):
        return None, 0.0
    return event.payload, event.time
