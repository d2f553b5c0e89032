"""Entries of the command palette: the actions of all keys, themes, settings and runs."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from textual.app import SystemCommand
from textual.screen import Screen

from esper.karn.sanctum.cockpit.settings import THEME_NAMES
from esper.karn.store.run_directory import RunNotFoundError, run_directories

if TYPE_CHECKING:
    from esper.karn.sanctum.cockpit.app import SanctumApp

#: How many of the newest runs are listed; the screen Runs has all.
_RUNS_OFFERED = 50
#: Actions that are not listed.
_SCROLLING = ("scroll_", "page", "command_palette", "screen.copy_text")


def entries_of(app: "SanctumApp", screen: Screen[object]) -> Iterable[SystemCommand]:
    """Yield an entry for each action on a screen."""
    offered = set()
    for active in screen.active_bindings.values():
        binding = active.binding
        meaning = active.tooltip or binding.tooltip
        is_scrolling = binding.action.startswith(_SCROLLING)
        if meaning and active.enabled and meaning not in offered and not is_scrolling:
            offered.add(meaning)
            key = f"key {app.get_key_display(binding)}"
            title = binding.description or meaning
            description = key if title == meaning else f"{meaning}, {key}"
            run = partial(app.run_action, binding.action, default_namespace=active.node)
            yield SystemCommand(title, description, run)
    for name in THEME_NAMES:
        yield SystemCommand(
            f"Theme: {name}", f"Switch to the theme {name}", partial(app.choose_theme, name)
        )
    settings = app.settings
    for name, title, is_on in (
        ("reduced_motion", "reduced motion", settings.reduced_motion),
        ("bell", "the bell", settings.bell),
        ("closing", "the closing screen", settings.closing),
        ("ascii", "ASCII only", settings.ascii),
    ):
        yield SystemCommand(
            f"Turn {title} {'off' if is_on else 'on'}",
            f"Currently {'on' if is_on else 'off'}",
            partial(app.change_setting, name, not is_on),
        )
    try:
        runs = run_directories(app.run_dir)[-_RUNS_OFFERED:]
    except RunNotFoundError:
        return  # the screens show the error
    for directory in reversed(runs):
        yield SystemCommand(
            f"Run: {directory.name}", "Show this run", partial(app.open_run, directory)
        )
