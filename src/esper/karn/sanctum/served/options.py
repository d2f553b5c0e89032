"""Where Sanctum is served, and to whom: checked before anything is loaded for it."""

import ipaddress
from dataclasses import dataclass
from typing import Final

_SHORTEST_TOKEN: Final = 8
DEFAULT_PORT: Final = 8000


class ServeError(ValueError):
    """Sanctum cannot be served like that; one clear sentence."""


@dataclass(frozen=True)
class ServeOptions:
    """How Sanctum is served.

    Raises:
        ServeError: other machines could reach it without a token, or the token is too short.
    """

    host: str = "localhost"
    port: int = DEFAULT_PORT
    token: str | None = None
    theme: str | None = None  # instead of the one that is remembered
    ascii: bool = False

    def __post_init__(self) -> None:
        if self.token is None and not is_local(self.host):
            raise ServeError(
                f"{self.host} can be reached from other machines, and a cockpit can do what you "
                "can: give --token SECRET, which everybody who opens it must know"
            )
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise ServeError(f"the token must have at least {_SHORTEST_TOKEN} characters")
        if not 1 <= self.port <= 65_535:
            raise ServeError(f"a port is from 1 to 65535, not {self.port}")


def is_local(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
