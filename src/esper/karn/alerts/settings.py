"""The settings of `esper alert`: a TOML file, and the sinks that the settings define."""

import math
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

import msgspec

from esper.karn.alerts.alert_types import ALERT_KINDS, DEFAULT_KINDS
from esper.karn.alerts.secrets import (
    AlertSettingsError,
    checked_url,
    revealed,
    sink_id,
    sink_name,
)
from esper.karn.alerts.sinks.command import CommandSink
from esper.karn.alerts.sinks.heartbeat import HeartbeatSink
from esper.karn.alerts.sinks.log_file import LogSink
from esper.karn.alerts.sinks.notify import NotifySink, NotifyUrlError
from esper.karn.alerts.sinks.sink import Sink
from esper.karn.alerts.sinks.webhook import SHAPES, WebhookSink, shape_of
from esper.leyline.files.regular_files import read_regular
from esper.leyline.text.suggestions import did_you_mean

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_STALLED_AFTER: Final = "15m"

_Duration = str | int | float


class CommandSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An [[exec]] table."""

    command: str
    time_limit: _Duration = "30s"


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A [[webhook]] table."""

    url: str
    shape: str = ""  # one of SHAPES; empty: chosen from the URL's host


class NotifySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A [[notify]] table."""

    url: str


class HeartbeatSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A [[heartbeat]] table."""

    url: str
    every: _Duration = "60s"


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A [[log]] table."""

    path: str


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a settings file.

    Attributes:
        watch: folders that contain runs, and single runs.
        on: the alert kinds to send.
        stalled_after: time without an update that counts as a stall, such as "15m".
        exec: commands to run.
        webhook: webhooks.
        notify: apprise services.
        heartbeat: heartbeat monitoring services.
        log: log files.
        metrics: address for serving Prometheus metrics, such as "9108".
        textfile: metrics file for node_exporter.
    """

    watch: tuple[str, ...] = ()
    on: tuple[str, ...] = DEFAULT_KINDS
    stalled_after: _Duration = _STALLED_AFTER
    exec: tuple[CommandSettings, ...] = ()
    webhook: tuple[WebhookSettings, ...] = ()
    notify: tuple[NotifySettings, ...] = ()
    heartbeat: tuple[HeartbeatSettings, ...] = ()
    log: tuple[LogSettings, ...] = ()
    metrics: str = ""
    textfile: str = ""


def read_settings(path: Path) -> AlertSettings:
    """Read a settings file.

    Raises:
        AlertSettingsError: the file cannot be read, or has an unknown key or an invalid value.
    """
    try:
        content = tomllib.loads(read_regular(path).decode())
    except OSError as error:
        raise AlertSettingsError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AlertSettingsError(f"{path} is not a TOML file: {error}") from None
    try:
        return msgspec.convert(content, AlertSettings)
    except msgspec.ValidationError as error:
        raise AlertSettingsError(f"{path}: {_plain(str(error))}") from None


def _plain(error: str) -> str:
    """Return msgspec's error message as a sentence, with a suggestion for an unknown key."""
    what, _, place = error.partition(" - at ")
    at = place.strip("`").removeprefix("$.").removeprefix("$")
    if (unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what)) is not None:
        table = re.sub(r"\[.*", "", at)
        known = _KEYS.get(table, AlertSettings).__struct_fields__
        where = f" in [[{table}]]" if table else ""
        hint = did_you_mean(unknown[1], known) or f"; the keys are {', '.join(known)}"
        return f"unknown key {unknown[1]!r}{where}{hint}"
    return f"{at}: {what[:1].lower()}{what[1:]}".replace("`", "") if at else what


_KEYS: Final[dict[str, type[msgspec.Struct]]] = {
    "exec": CommandSettings,
    "webhook": WebhookSettings,
    "notify": NotifySettings,
    "heartbeat": HeartbeatSettings,
    "log": LogSettings,
}


def usable(settings: AlertSettings, path: Path) -> AlertSettings:
    """Return the settings after checking kinds, times and that there is at least one sink.

    Args:
        settings: the settings.
        path: the settings file, for error messages.

    Raises:
        AlertSettingsError: the settings are invalid.
    """
    kinds_of(settings.on)
    seconds_of(settings.stalled_after, "stalled_after")
    if not any(getattr(settings, kind) for kind in (*_KEYS, "metrics", "textfile")):
        tables = ", ".join(f"[[{kind}]]" for kind in _KEYS)
        raise AlertSettingsError(f"{path} has no sink; give at least one of {tables}")
    return settings


def kinds_of(kinds: Sequence[str]) -> frozenset[str]:
    """Return a checked set of alert kinds; "all" selects all kinds.

    Raises:
        AlertSettingsError: a kind does not exist.
    """
    found: set[str] = set()
    for kind in kinds:
        if kind != "all" and kind not in ALERT_KINDS:
            known = (*ALERT_KINDS, "all")
            hint = did_you_mean(kind, known) or f"; the kinds are {', '.join(known)}"
            raise AlertSettingsError(f"there is no alert kind {kind!r}{hint}")
        found |= set(ALERT_KINDS) if kind == "all" else {kind}
    return frozenset(found)


def seconds_of(duration: _Duration, what: str) -> float:
    """Return a duration such as 90, "90s", "15m", "2h" or "1d" in seconds.

    Args:
        duration: the duration.
        what: the option or key, for error messages.

    Raises:
        AlertSettingsError: it is not a positive duration.
    """
    matched = _DURATION.fullmatch(str(duration).strip())
    seconds = 0.0 if matched is None else float(matched[1]) * _UNITS[matched[2]]
    if not 0 < seconds < math.inf:
        raise AlertSettingsError(f"{what} must be a time such as 90s, 15m or 2h, not {duration!r}")
    return seconds


def sinks_of(
    settings: AlertSettings, folder: Path, output: TextIO | None = None
) -> tuple[list[Sink], list[HeartbeatSink]]:
    """Return the message sinks and the heartbeat sinks.

    Args:
        settings: the settings.
        folder: base folder of relative paths.
        output: standard output, for a log named `-`.

    Raises:
        AlertSettingsError: a secret is missing, or a value is invalid.
    """
    sinks: dict[str, Sink] = {}
    for sink in _sinks(settings, folder, output):
        sinks.setdefault(sink.id, sink)  # drop duplicates
    heartbeats = {one.id: one for one in _heartbeats(settings, folder)}
    return list(sinks.values()), list(heartbeats.values())


def _sinks(settings: AlertSettings, folder: Path, output: TextIO | None) -> Iterator[Sink]:
    for command in settings.exec:
        words = _command_words(revealed(command.command, "--exec", folder))
        seconds = seconds_of(command.time_limit, "time_limit")
        name = f"exec {Path(words[0]).name}"
        yield CommandSink(sink_id("exec", command.command), name, words, seconds)
    for hook in settings.webhook:
        shape, given = _with_shape(hook.url)
        url = checked_url(revealed(given, "--webhook", folder), "--webhook")
        shape = hook.shape or shape or shape_of(url)
        if shape not in SHAPES:
            raise AlertSettingsError(
                f"the shape of a webhook must be one of {', '.join(SHAPES)}, not {shape!r}"
            )
        name = sink_name("webhook", given, is_public=True)
        yield WebhookSink(sink_id("webhook", given), name, url, shape)
    for service in settings.notify:
        url = revealed(service.url, "--notify", folder)
        notify = NotifySink(sink_id("notify", service.url), sink_name("notify", service.url), url)
        try:
            notify.check()
        except NotifyUrlError as error:
            raise AlertSettingsError(str(error)) from None
        yield notify
    for log in settings.log:
        path = None if log.path == "-" else folder / Path(log.path).expanduser()
        if path is not None and not path.parent.is_dir():
            raise AlertSettingsError(f"--log: there is no folder {path.parent}")
        name = "standard output" if path is None else f"log {path}"
        yield LogSink(sink_id("log", str(path and path.absolute())), name, path, output)


def _heartbeats(settings: AlertSettings, folder: Path) -> Iterator[HeartbeatSink]:
    for beat in settings.heartbeat:
        url = checked_url(revealed(beat.url, "--heartbeat", folder), "--heartbeat")
        yield HeartbeatSink(
            sink_id("heartbeat", beat.url),
            sink_name("heartbeat", beat.url, is_public=True),
            url,
            seconds_of(beat.every, "every"),
        )


def _with_shape(url: str) -> tuple[str, str]:
    """Split an option such as `slack+https://…` into its shape, which may be empty, and the URL."""
    for shape in SHAPES:
        if url.startswith(f"{shape}+"):
            return shape, url.removeprefix(f"{shape}+")
    return "", url


def _command_words(command: str) -> tuple[str, ...]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise AlertSettingsError(f"--exec: the command cannot be parsed: {error}") from None
    if not words:
        raise AlertSettingsError("--exec: the command is empty")
    if shutil.which(words[0]) is None:
        raise AlertSettingsError(f"--exec: there is no program {words[0]!r}")
    return tuple(words)
