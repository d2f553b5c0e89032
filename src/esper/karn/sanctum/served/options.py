"""Options of the web server, checked before it is imported."""

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper.leyline.errors import EsperError

_SHORTEST_TOKEN: Final = 8
_LONGEST_TOKEN: Final = 4_096
#: Environment variable of the token, if neither option gives it.
TOKEN_VARIABLE: Final = "SANCTUM_TOKEN"
DEFAULT_PORT: Final = 8000


class ServeError(EsperError, ValueError):
    """Sanctum cannot be served with these options."""


@dataclass(frozen=True)
class ServeOptions:
    """How Sanctum is served.

    Raises:
        ServeError: other machines could reach it without a token, or the token is too short.
    """

    host: str = "localhost"
    port: int = DEFAULT_PORT
    token: str | None = None  # None: the server creates one
    theme: str | None = None  # overrides the theme of the settings
    ascii: bool = False

    def __post_init__(self) -> None:
        if self.token is None and not is_local(self.host):
            raise ServeError(
                f"{self.host} can be reached from other machines, and a viewer can act as you: "
                "give --token SECRET or --token-file FILE, and send the token to every viewer"
            )
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise ServeError(f"the token must have at least {_SHORTEST_TOKEN} characters")
        if not 1 <= self.port <= 65_535:
            raise ServeError(f"--port must be from 1 to 65535, not {self.port}")


def token_from(given: str | None, file: Path | None) -> str | None:
    """Return the token: as given, from a file, or from the environment; None if there is none.

    Raises:
        ServeError: two are given, or the file cannot be read.
    """
    if given is not None and file is not None:
        raise ServeError("--token and --token-file exclude each other: give one of them")
    # Removed from the environment, which child processes inherit.
    from_environment = os.environ.pop(TOKEN_VARIABLE, None)
    if file is None:
        return given if given is not None else from_environment or None
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(_LONGEST_TOKEN).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ServeError(f"cannot read the token from {file}: {reason}") from error


def is_local(host: str) -> bool:
    """Return whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
