"""Opens Sanctum on this terminal: as somebody likes it to look, and as the terminal can show it."""

import gc
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.cockpit.ending import alarm_over
from esper.karn.sanctum.cockpit.settings import SettingsFile, default_settings_path
from esper.karn.sanctum.cockpit.watch import RunWatch
from esper.karn.sanctum.dialogs.trainer import Outcome, TrainerChild
from esper.karn.terminal import shows_signs

#: New ones, before the garbage collector looks for cycles among them; Python's own choice is 700.
_OBJECTS_BETWEEN_COLLECTIONS: Final = 10_000


def run_sanctum(
    directory: Path | None,
    run_dir: Path,
    child: TrainerChild | None = None,
    *,
    at: int | None = None,
    theme: str | None = None,
    ascii_only: bool = False,
) -> Outcome:
    """Open Sanctum on this terminal, and return how it was left.

    Args:
        directory: the run's directory, or None for the first run that appears in `run_dir`.
        run_dir: the folder that holds runs.
        child: a training process that Sanctum is opened over. Where the answer is "stop", it is for
            the caller to stop it: Sanctum itself touches no process.
        at: the update to show the run as of; None for the newest.
        theme: instead of the one that is remembered, for this time.
        ascii_only: show no character beyond ASCII, this time.

    Raises:
        SystemExit: SIGTERM or SIGHUP ended it, with 128 and the signal's number, as shells have it;
            a training process goes on.
    """
    settings_file = SettingsFile(default_settings_path())
    settings = settings_file.settings
    # Textual writes to this one.
    ascii_only = ascii_only or settings.ascii or not shows_signs(sys.__stderr__)
    settings = replace(settings, theme=theme or settings.theme, ascii=ascii_only)
    app = SanctumApp(
        directory,
        run_dir,
        child=child,
        watch=RunWatch(directory, run_dir, at=at),
        settings=settings,
        settings_file=settings_file,
    )
    # What was imported lives as long as the process. Walking it again and again for garbage, of
    # which snapshots leave next to none, would be a tenth of all that Sanctum takes of a core.
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    with alarm_over():
        outcome = app.run()
    if app.ended_by is not None:
        raise SystemExit(128 + app.ended_by)
    # None is returned only where the terminal went away: then training must go on.
    if outcome is None:
        return "quit" if child is None or child.poll() is not None else "detach"
    return outcome
