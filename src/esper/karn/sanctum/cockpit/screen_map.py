"""The screens and the keys that open them."""

from importlib import import_module
from typing import Final

from esper.karn.sanctum.frame.run_screen import RunScreen
from esper.karn.sanctum.schema import RunState
from esper.leyline.errors import EsperError

#: By the key that opens them: title, and "module:class", imported when first opened.
SCREENS: Final = {
    "1": ("Overview", "esper.karn.sanctum.overview.screen:OverviewScreen"),
    "2": ("Heads", "esper.karn.sanctum.heads.screen:HeadsScreen"),
    "3": ("Hosts", "esper.karn.sanctum.hosts.screen:HostsScreen"),
    "4": ("Decisions", "esper.karn.sanctum.decisions.screen:DecisionsScreen"),
    "5": ("Log", "esper.karn.sanctum.log.screen:LogScreen"),
    "6": ("Runs", "esper.karn.sanctum.runs.screen:RunsScreen"),
}

#: Screens that show nothing of a watched run, which has no hosts and no decisions.
_WITH_HOSTS: Final = ("Hosts", "Decisions")


class NoSuchScreenError(EsperError, ValueError):
    """A run has nothing that the screen could show."""


def offers(run: RunState, title: str) -> bool:
    """Return whether a run has what a screen shows."""
    return not (run.is_watched and title in _WITH_HOSTS)


def check_offered(run: RunState, title: str) -> None:
    """Check that a run has what a screen shows.

    Raises:
        NoSuchScreenError: it has not; the message names the screens that there are.
    """
    if not offers(run, title):
        others = [name.lower() for name, _ in SCREENS.values() if offers(run, name)]
        raise NoSuchScreenError(
            f"{run.name or run.run_id} has no {title.lower()}, because it is a watched run "
            f"({run.library}); its screens are {', '.join(others)}"
        )


def make_screen(where: str) -> RunScreen:
    """Import and create a screen, given as "module:class"."""
    module, _, name = where.partition(":")
    screen = getattr(import_module(module), name)()
    assert isinstance(screen, RunScreen)
    return screen
