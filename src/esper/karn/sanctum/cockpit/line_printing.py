"""Prints a run as one line, for status bars; without Textual, as they call every few seconds."""

from pathlib import Path

from rich.console import Console

from esper.karn.sanctum.cockpit.observer import read_view
from esper.karn.sanctum.drawing.ascii import text_in_ascii
from esper.karn.sanctum.fold.attention import lights_on
from esper.karn.sanctum.frame.status_line import render_line
from esper.karn.store.errors import RunStoreError
from esper.karn.text.palette import TERMINAL
from esper.karn.text.plain_console import PlainConsole


def print_status_line(
    directory: Path,
    *,
    console: Console | None = None,
    at: int | None = None,
    theme: str | None = None,
    ascii_only: bool = False,
) -> int:
    """Print a run as one line; return 1 if a light is on, else 0.

    Args:
        directory: the run's directory.
        console: where to print; standard output by default.
        at: the update to show the state after; None for the newest state.
        theme: one of `settings.THEME_NAMES`; the terminal's own colours by default.
        ascii_only: whether to print ASCII characters only.

    Raises:
        UpdateNotFoundError: the run has no such update.
        RunStoreError: no light is known to be on, but one may be.
    """
    console = console or PlainConsole(highlight=False)
    palette = TERMINAL
    if theme is not None:
        from esper.karn.sanctum.drawing.themes import (  # with it comes Textual
            palette_of,
            theme_called,
        )

        palette = palette_of(theme_called(theme))
    view = read_view(directory, None, at)
    line = render_line(view, None, palette)
    console.print(text_in_ascii(line) if ascii_only else line, soft_wrap=True)
    if lights_on(view.snapshot):
        return 1
    if view.doubt.lights is not None:
        raise RunStoreError(view.doubt.sentence or view.doubt.lights)
    if not view.snapshot.last_event_id:
        raise RunStoreError(f"{directory.name} has no events yet, so its health is not known")
    return 0
