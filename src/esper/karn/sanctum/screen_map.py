"""Which screens there are, and the key that opens each."""

from importlib import import_module
from typing import Final

from esper.karn.sanctum.screens.run_screen import RunScreen

#: By the key that opens them: title, and "module:class", imported when first opened.
SCREENS: Final = {
    "1": ("Overview", "esper.karn.sanctum.screens.overview:OverviewScreen"),
    "2": ("Heads", "esper.karn.sanctum.screens.heads:HeadsScreen"),
    "3": ("Hosts", "esper.karn.sanctum.screens.hosts:HostsScreen"),
    "4": ("Decisions", "esper.karn.sanctum.screens.decisions:DecisionsScreen"),
    "5": ("Log", "esper.karn.sanctum.screens.log:LogScreen"),
    "6": ("Runs", "esper.karn.sanctum.screens.runs:RunsScreen"),
}


def make_screen(where: str) -> RunScreen:
    """Import and make a screen, given as "module:class"."""
    module, _, name = where.partition(":")
    screen = getattr(import_module(module), name)()
    assert isinstance(screen, RunScreen)
    return screen
