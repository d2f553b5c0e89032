"""What somebody likes Sanctum to look like: remembered in a small file of their own."""

import contextlib
import os
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from esper.leyline.errors import EsperError
from esper.leyline.plain_text import short_repr

#: The themes by the names that settings and options call them.
THEME_NAMES: Final = ("dark", "light", "ansi", "contrast")
_LONGEST: Final = 1 << 16  # bytes that are read at most
_HEADING: Final = "# Sanctum writes this file when a setting is changed in it.\n"


@dataclass(frozen=True)
class Settings:
    """How Sanctum looks and behaves."""

    theme: str = "dark"  # one of THEME_NAMES
    reduced_motion: bool = False  # lights stand out without blinking
    bell: bool = True  # a new light rings
    ascii: bool = False  # no character beyond ASCII on the screen
    closing: bool = True  # how a run ended is shown when it ends, or is opened
    visited: str = ""  # titles of the screens that were opened before, with blanks between


class SettingsError(EsperError, ValueError):
    """A settings file that cannot be read, or a setting that cannot be; one clear sentence."""


def default_settings_path() -> Path:
    """Return where the user's settings are kept."""
    from platformdirs import user_config_path

    return user_config_path("esper", appauthor=False) / "sanctum.toml"


def read_settings(path: Path) -> Settings:
    """Return the settings of a file; the defaults if there is none.

    Raises:
        SettingsError: the file is damaged, or says what cannot be.
    """
    try:
        with path.open("rb") as file:
            found = tomllib.loads(file.read(_LONGEST).decode())
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise SettingsError(f"cannot read the settings {path}: {error.strerror}") from error
    except (ValueError, RecursionError):  # numbers of thousands of digits, and deep nesting, too
        raise SettingsError(f"the settings {path} are damaged: they are not TOML") from None
    return _checked(found, path)


def _checked(found: dict[str, Any], path: Path) -> Settings:
    settings = Settings()
    known = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    for name, value in found.items():
        if name not in known:
            raise SettingsError(
                f"the settings {path} have no {short_repr(name)}; only {', '.join(known)}"
            )
        if type(value) is not known[name] or (name == "theme" and value not in THEME_NAMES):
            right = " or ".join(THEME_NAMES) if name == "theme" else "true or false"
            raise SettingsError(
                f"{name} in the settings {path} must be {right}, not {short_repr(value)}"
            )
    return replace(settings, **found)


def write_settings(settings: Settings, path: Path) -> None:
    """Write settings to a file, making its folder.

    Raises:
        SettingsError: that is not possible.
    """
    lines = [
        f'{name} = "{value}"\n' if isinstance(value, str) else f"{name} = {str(value).lower()}\n"
        for name, value in asdict(settings).items()
    ]
    # All at once: another cockpit never reads half of it.
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(_HEADING + "".join(lines), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # it may never have come into being
            new.unlink()
        raise SettingsError(f"cannot write the settings {path}: {error.strerror}") from error


class SettingsFile:
    """The settings of a file, changed one at a time; a damaged file counts as none.

    Attributes:
        settings: what the file says, with all changes since.
        problem: one sentence, where the file could not be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.settings = Settings()
        self._error: SettingsError | None = None
        try:
            self.settings = read_settings(path)
        except SettingsError as error:
            self._error = error

    @property
    def problem(self) -> str | None:
        """Why they could not be read, as a sentence; None if they could."""
        if self._error is None:
            return None
        return f"{self._error}; Sanctum goes on with the defaults"

    def change(self, **changes: str | bool) -> None:
        """Change settings and write them down.

        Raises:
            SettingsError: they cannot be written; they are changed nevertheless. A damaged file is
                left as it is: somebody may want to mend it.
        """
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]  # by name
        if self._error is not None:
            raise SettingsError(f"not remembered: {self._error}")
        write_settings(self.settings, self._path)
