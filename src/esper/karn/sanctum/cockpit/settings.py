"""The user's preferences for Sanctum, kept in a TOML file of the user's configuration folder."""

import contextlib
import os
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from esper.leyline.errors import EsperError
from esper.leyline.settings import SettingError, checked_settings, read_toml

ThemeName = Literal["dark", "light", "ansi", "contrast"]
#: The names of the themes in settings and options.
THEME_NAMES: Final[tuple[str, ...]] = get_args(ThemeName)
_MAX_FILE_BYTES: Final = 1 << 16
_HEADING: Final = "# Sanctum writes this file when a setting is changed in it.\n"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How Sanctum looks and behaves."""

    theme: ThemeName = "dark"
    reduced_motion: bool = False  # lights stand out without blinking
    bell: bool = True  # the terminal bell rings at a new light
    ascii: bool = False  # only ASCII characters on the screen
    closing: bool = True  # the closing screen opens when a run ends, or an ended run is opened
    visited: str = ""  # titles of the screens that were opened before, separated by spaces


class SettingsError(EsperError, ValueError):
    """The settings file cannot be read or written, or a setting is invalid; one clear sentence."""


def default_settings_path() -> Path:
    """Return where the user's settings are kept."""
    from platformdirs import user_config_path

    return user_config_path("esper", appauthor=False) / "sanctum.toml"


def read_settings(path: Path) -> Settings:
    """Return the settings in a file; the defaults if there is none.

    Raises:
        SettingsError: the file is damaged, or a setting is unknown or invalid.
    """
    try:
        found = read_toml(path, _MAX_FILE_BYTES)
    except FileNotFoundError:
        return Settings()
    except SettingError as error:
        raise SettingsError(str(error)) from error
    try:
        return Settings(**checked_settings(Settings, found))
    except SettingError as error:
        raise SettingsError(f"{path}: {error}") from error


def write_settings(settings: Settings, path: Path) -> None:
    """Write settings to a file, creating its folder.

    Raises:
        SettingsError: the file cannot be written.
    """
    lines = [
        f'{name} = "{value}"\n' if isinstance(value, str) else f"{name} = {str(value).lower()}\n"
        for name, value in msgspec.structs.asdict(settings).items()
    ]
    # Renamed into place, so that another cockpit never reads half of it.
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(_HEADING + "".join(lines), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # it may not exist
            new.unlink()
        raise SettingsError(f"cannot write the settings {path}: {error.strerror}") from error


class SettingsFile:
    """The settings file of a cockpit. A damaged file is not changed; the defaults apply instead.

    Attributes:
        settings: the settings in the file, with all changes since.
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
        """Why the file could not be read, as a sentence; None if it was read."""
        if self._error is None:
            return None
        return f"{self._error}; Sanctum uses the defaults"

    def change(self, **changes: str | bool) -> None:
        """Change settings and write them to the file.

        Raises:
            SettingsError: they cannot be written, or the file is damaged and the user may want to
                repair it. They apply to this cockpit nevertheless.
        """
        self.settings = msgspec.structs.replace(self.settings, **changes)
        if self._error is not None:
            raise SettingsError(f"the change was not saved: {self._error}")
        write_settings(self.settings, self._path)
