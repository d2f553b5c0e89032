"""Opens Sanctum on this terminal, with the user's settings and what the terminal can show."""

import gc
import sys
from pathlib import Path
from typing import Final, cast

from msgspec.structs import replace

from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.cockpit.observer import RunObserver
from esper.karn.sanctum.cockpit.settings import SettingsFile, ThemeName, default_settings_path
from esper.karn.sanctum.cockpit.signal_exit import alarm_over
from esper.karn.sanctum.dialogs.trainer import Outcome, TrainerChild
from esper.karn.terminal import shows_signs

#: Allocations between two runs of the garbage collector; Python's default is 700.
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
    """Open Sanctum on this terminal, and return how the user left it.

    Args:
        directory: the run's directory, or None for the first run that appears in `run_dir`.
        run_dir: the folder that holds runs.
        child: the training process started together with Sanctum, if any. Sanctum does not stop it:
            the caller does, if the result is "stop".
        at: the update to show the state after; None for the newest state.
        theme: overrides the theme of the settings.
        ascii_only: whether to show ASCII characters only, whatever the settings say.

    Raises:
        SystemExit: SIGTERM or SIGHUP ended it, with 128 plus the signal's number, as shells do; a
            training process keeps running.
    """
    settings_file = SettingsFile(default_settings_path())
    settings = settings_file.settings
    # Textual writes to this stream.
    ascii_only = ascii_only or settings.ascii or not shows_signs(sys.__stderr__)
    theme_name = cast(ThemeName, theme or settings.theme)
    settings = replace(settings, theme=theme_name, ascii=ascii_only)
    app = SanctumApp(
        directory,
        run_dir,
        child=child,
        observer=RunObserver(directory, run_dir, at=at),
        settings=settings,
        settings_file=settings_file,
    )
    # Imported modules live as long as the process, and snapshots leave almost no cycles. Collecting
    # garbage at Python's default rate would take a tenth of Sanctum's CPU time.
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    with alarm_over():
        outcome = app.run()
    if app.ended_by is not None:
        raise SystemExit(128 + app.ended_by)
    # None means that the terminal went away: training must continue.
    if outcome is None:
        return "quit" if child is None or child.poll() is not None else "detach"
    return outcome
