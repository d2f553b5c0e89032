"""Values that may be secret: given directly, or as `env:NAME` or `file:PATH`."""

import hashlib
import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from esper.leyline.errors import EsperError

_LONGEST: Final = 1 << 16


class AlertSettingsError(EsperError, ValueError):
    """Invalid settings of `esper alert`; the message is one sentence without secrets."""


def revealed(text: str, what: str, folder: Path) -> str:
    """Return the value that a setting refers to.

    Args:
        text: the value, `env:NAME` or `file:PATH`.
        what: the option or key, for error messages.
        folder: base folder of relative file paths.

    Raises:
        AlertSettingsError: the variable is not set, or the file cannot be read or is empty.
    """
    if text.startswith("env:"):
        name = text.removeprefix("env:")
        value = os.environ.get(name, "").strip()
        if not value:
            raise AlertSettingsError(f"{what}: the environment variable {name} is not set")
        return value
    if text.startswith("file:"):
        path = folder / Path(text.removeprefix("file:")).expanduser()
        try:
            value = path.read_bytes()[:_LONGEST].decode("utf-8", "replace").strip()
        except OSError as error:
            raise AlertSettingsError(f"{what}: cannot read {path}: {error.strerror}") from None
        if not value:
            raise AlertSettingsError(f"{what}: {path} is empty")
        return value
    return text


def checked_url(url: str, what: str) -> str:
    """Return the URL if it is an http or https URL.

    Raises:
        AlertSettingsError: it is not; the message does not contain the URL.
    """
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        is_usable = False
    if not is_usable or any(sign.isspace() or not sign.isprintable() for sign in url):
        raise AlertSettingsError(
            f"{what} must be a URL that begins with http:// or https://, or env:NAME or file:PATH "
            "with such a URL"
        )
    return url


def sink_id(kind: str, text: str) -> str:
    """Return a sink id that does not reveal the secret.

    For `env:NAME` and `file:PATH`, the id does not change when the secret changes.
    """
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def sink_name(kind: str, text: str, *, is_public: bool = False) -> str:
    """Return a sink's display name: its variable or file, or the host of its URL.

    Args:
        kind: the sink type, such as "webhook".
        text: the setting as the user wrote it.
        is_public: whether the URL's host may be shown; in an apprise URL it may be a secret.
    """
    if text.startswith(("env:", "file:")):
        return f"{kind} {text}"
    parts = urlsplit(text)
    shown = parts.hostname if is_public else f"{parts.scheme}://…"
    return f"{kind} {shown}"
