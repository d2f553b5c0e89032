"""The screens and the keys that open them."""

from importlib import import_module
from typing import Final

from esper.karn.sanctum.frame.run_screen import RunScreen

#: By the key that opens them: title, and "module:class", imported when first opened.
SCREENS: Final = {
    "1": ("Overview", "esper.karn.sanctum.overview.screen:OverviewScreen"),
    "2": ("Heads", "esper.karn.sanctum.heads.screen:HeadsScreen"),
    "3": ("Hosts", "esper.karn.sanctum.hosts.screen:HostsScreen"),
    "4": ("Decisions", "esper.karn.sanctum.decisions.screen:DecisionsScreen"),
    "5": ("Log", "esper.karn.sanctum.log.screen:LogScreen"),
    "6": ("Runs", "esper.karn.sanctum.runs.screen:RunsScreen"),
}


def make_screen(where: str) -> RunScreen:
    """Import and create a screen, given as "module:class"."""
    module, _, name = where.partition(":")
    screen = getattr(import_module(module), name)()
    assert isinstance(screen, RunScreen)
    return screen
