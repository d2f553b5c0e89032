"""Texts that may be secrets: written out, or as `env:NAME` or `file:PATH`."""

import hashlib
import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from esper.leyline.errors import EsperError

_LONGEST: Final = 1 << 16


class AlertSettingsError(EsperError, ValueError):
    """The settings of `esper alert` cannot be used; one sentence without secrets."""


def revealed(text: str, what: str, folder: Path) -> str:
    """Return a secret.

    Args:
        text: the secret, `env:NAME` or `file:PATH`.
        what: the option or key, for errors.
        folder: folder that relative paths of files start from.

    Raises:
        AlertSettingsError: the variable is not set, or the file cannot be read, or is empty.
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
    """Return a URL of http or https.

    Raises:
        AlertSettingsError: it is none; the message does not contain it.
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
    """Return an id of a sink that does not reveal its secret.

    A secret from a variable or a file keeps its id when it is replaced by another one.
    """
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def sink_name(kind: str, text: str, *, is_public: bool = False) -> str:
    """Return a name of a sink for output: its variable or file, or the host of its URL.

    Args:
        kind: "webhook" and so on.
        text: the setting, as it was given.
        is_public: whether the host of the URL is no secret; of apprise's URLs it may be one.
    """
    if text.startswith(("env:", "file:")):
        return f"{kind} {text}"
    parts = urlsplit(text)
    shown = parts.hostname if is_public else f"{parts.scheme}://…"
    return f"{kind} {shown}"
