"""`esper alert`: watch runs and send alerts."""

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.commands.options import OptionError, add_run_dir, add_verb
from esper.commands.output import print_warning
from esper.karn.alerts.alert_types import ALERT_KINDS, DEFAULT_KINDS
from esper.karn.store.run_directory import find_run, is_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.karn.alerts.alerting import Publish, Sources
    from esper.karn.alerts.facts import RunView
    from esper.karn.alerts.settings import AlertSettings
    from esper.karn.alerts.sinks.heartbeat import HeartbeatSink
    from esper.karn.alerts.sinks.sink import Sink


#: With --once, alerts older than this many seconds are marked as past.
_PAST_SECONDS = 3600.0


def add_alert(verbs: Any) -> None:
    """Add `alert` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "alert",
        alert,
        "watch runs and send an alert once for each light, halt, dead process or stall",
    )
    parser.add_argument(
        "what",
        nargs="*",
        metavar="FOLDER|RUN",
        help="folders that contain runs, or single runs (default: --run-dir)",
    )
    add_run_dir(parser)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="settings file; options override its values, and sinks are added to its sinks",
    )
    kinds = "; ".join(f"{kind}: {meaning}" for kind, meaning in ALERT_KINDS.items())
    parser.add_argument(
        "--on",
        metavar="KINDS",
        help="alert kinds to send, separated by commas, or `all`. "
        f"{kinds} (default: {','.join(DEFAULT_KINDS)})",
    )
    parser.add_argument(
        "--stalled-after",
        metavar="TIME",
        help="time without an update that counts as a stall, such as 90s or 2h (default: 15m)",
    )
    sinks = parser.add_argument_group("sinks (each can be given several times)")
    sinks.add_argument(
        "--exec",
        action="append",
        default=[],
        metavar="CMD",
        help="run a command with the message as JSON on standard input",
    )
    sinks.add_argument(
        "--webhook",
        action="append",
        default=[],
        metavar="URL",
        help="POST the message as JSON, or in Slack's or Discord's format to their hosts and to "
        "slack+URL or discord+URL; URL can be env:NAME or file:PATH, which keeps it secret",
    )
    sinks.add_argument(
        "--notify",
        action="append",
        default=[],
        metavar="URL",
        help="send mail, chat or phone messages through apprise (extra notify); URL can be "
        "env:NAME or file:PATH",
    )
    sinks.add_argument(
        "--heartbeat",
        action="append",
        default=[],
        metavar="URL",
        help="POST to URL every minute, or to URL/fail while a run fails, for services such as "
        "healthchecks.io; URL can be env:NAME or file:PATH",
    )
    sinks.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="FILE",
        help="append each message to a file as a line of JSON; - is standard output",
    )
    figures = parser.add_argument_group("Prometheus metrics (extra metrics)")
    figures.add_argument(
        "--metrics",
        metavar="[HOST:]PORT",
        help="serve Prometheus metrics (default host: 127.0.0.1, reachable from this machine only)",
    )
    figures.add_argument(
        "--textfile",
        metavar="FILE.prom",
        help="write metrics to a file for the textfile collector of node_exporter",
    )
    parser.add_argument(
        "--test",
        action="store_true",
        help="send a test message to every sink, print which ones accepted it, and exit",
    )
    parser.add_argument(
        "--once", action="store_true", help="check the runs once, send new alerts, and exit"
    )
    # `esper ppo` and `esper run` pass this option, so that alerts end after their run.
    parser.add_argument("--with-process", type=int, help=argparse.SUPPRESS)


def add_alert_config(parser: argparse.ArgumentParser) -> None:
    """Add --alert-config, which starts `esper alert` for a run."""
    parser.add_argument(
        "--alert-config",
        type=Path,
        metavar="FILE.toml",
        help="start `esper alert` for this run with this settings file; the alert process "
        "survives if training is killed (default: environment variable ESPER_ALERT_CONFIG)",
    )


def alert(options: argparse.Namespace) -> int:
    """Run `esper alert`; return the exit code."""
    from esper.karn.alerts.settings import kinds_of, seconds_of, sinks_of

    settings, folder = _settings(options)
    kinds = kinds_of(settings.on)
    stalled_after = seconds_of(settings.stalled_after, "--stalled-after")
    # Paths in options are relative to the working directory, those in a file to its folder.
    sinks, heartbeats = sinks_of(_given_sinks(options), Path(), sys.stdout)
    more_sinks, more_heartbeats = sinks_of(settings, folder, sys.stdout)
    sinks += [one for one in more_sinks if one.id not in {known.id for known in sinks}]
    heartbeats += [
        one for one in more_heartbeats if one.id not in {known.id for known in heartbeats}
    ]
    if not (sinks or heartbeats or settings.metrics or settings.textfile):
        raise OptionError(
            "give at least one sink: --exec, --webhook, --notify, --heartbeat or --log "
            "(--log - prints the messages)"
        )
    if options.test:
        if options.once:
            raise OptionError("--test and --once exclude each other")
        return _test(sinks, heartbeats)
    from esper.karn.alerts.alerting import Alerting
    from esper.karn.alerts.polling import Rules

    sources = _sources(options, settings, folder)
    past = _PAST_SECONDS if options.once else 0.0
    rules = Rules(kinds, stalled_after, time.time() - past, is_single=options.once)
    if settings.metrics or settings.textfile:
        from esper.karn.alerts.metrics import SECONDS_SHOWN

        rules = replace(rules, keep_seconds=SECONDS_SHOWN)
    publish = _publisher(settings, folder, options)
    alerting = Alerting(sources, rules, sinks, heartbeats, print_warning, publish=publish)
    if options.once:
        return 0 if alerting.once() else 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: alerting.stop())
    names = ", ".join(sink.name for sink in (*sinks, *heartbeats)) or "no sink"
    watched = ", ".join(str(path) for path in (*sources.folders, *sources.runs))
    print_warning(f"watching {watched}; alerts go to {names}")
    return 0 if alerting.watch(options.with_process) else 1


def _settings(options: argparse.Namespace) -> "tuple[AlertSettings, Path]":
    """Return the settings, with single-valued options overriding the file's, and its folder."""
    import msgspec

    from esper.karn.alerts.settings import AlertSettings, read_settings

    settings, folder = AlertSettings(), Path()
    if options.config is not None:
        settings, folder = read_settings(options.config), options.config.absolute().parent
    given: dict[str, Any] = {}
    if options.on is not None:
        given["on"] = tuple(kind.strip() for kind in options.on.split(",") if kind.strip())
    if options.stalled_after is not None:
        given["stalled_after"] = options.stalled_after
    for name in ("metrics", "textfile"):
        if (value := getattr(options, name)) is not None:
            given[name] = value
    return msgspec.structs.replace(settings, **given), folder


def _given_sinks(options: argparse.Namespace) -> "AlertSettings":
    from esper.karn.alerts.settings import (
        AlertSettings,
        CommandSettings,
        HeartbeatSettings,
        LogSettings,
        NotifySettings,
        WebhookSettings,
    )

    return AlertSettings(
        exec=tuple(CommandSettings(command=one) for one in options.exec),
        webhook=tuple(WebhookSettings(url=one) for one in options.webhook),
        notify=tuple(NotifySettings(url=one) for one in options.notify),
        heartbeat=tuple(HeartbeatSettings(url=one) for one in options.heartbeat),
        log=tuple(LogSettings(path=one) for one in options.log),
    )


def _sources(options: argparse.Namespace, settings: "AlertSettings", folder: Path) -> "Sources":
    """Return the folders and runs to watch; options replace those of the file."""
    from esper.karn.alerts.alerting import Sources

    if options.what:
        given = [(word, Path(word).expanduser()) for word in options.what]
    else:
        given = [(word, folder / Path(word).expanduser()) for word in settings.watch]
    if not given:
        return Sources(folders=(options.run_dir,))  # may not exist yet
    folders: dict[Path, None] = {}
    runs: dict[Path, None] = {}
    for word, path in given:
        if path.is_dir() and not is_run(path):
            folders[path] = None
        else:
            found = path if is_run(path) else find_run(options.run_dir, word)
            runs[found] = None
    return Sources(tuple(folders), tuple(runs))


def _publisher(
    settings: "AlertSettings", folder: Path, options: argparse.Namespace
) -> "Publish | None":
    """Return the function that exports metrics after each check; None if none are requested."""
    if not (settings.metrics or settings.textfile):
        return None
    if settings.metrics and options.once:
        raise OptionError("--metrics cannot be combined with --once; use --textfile instead")
    from esper.karn.alerts.metrics import Metrics, address_of, samples_of

    metrics = Metrics()
    base = Path() if options.textfile is not None else folder
    path = base / Path(settings.textfile).expanduser() if settings.textfile else None
    if path is not None and not path.parent.is_dir():
        raise OptionError(f"--textfile: there is no folder {path.parent}")
    if settings.metrics:
        address = address_of(settings.metrics)
        port = metrics.serve(address)
        print_warning(f"metrics at http://{address.host}:{port}/metrics")
    is_reported = False

    def publish(views: "Sequence[RunView]", waiting: "Mapping[str, int]", others: int) -> None:
        nonlocal is_reported
        metrics.publish(samples_of(views, waiting, time.time(), others))
        if path is None:
            return
        try:
            metrics.write(path)
            is_reported = False
        except OSError as error:
            if not is_reported:
                print_warning(f"{path} cannot be written: {error.strerror}")
            is_reported = True

    return publish


def _test(sinks: "list[Sink]", heartbeats: "list[HeartbeatSink]") -> int:
    """Send a test message to every sink; return 1 if a sink did not accept it."""
    from esper.karn.alerts.messages import drill_message
    from esper.karn.alerts.sinks.sink import SinkError
    from esper.leyline.text.plain_text import printable

    message = drill_message()
    failed = 0
    for sink in (*sinks, *heartbeats):
        try:
            line = f"arrived: {sink.name} ({sink.send(message)})"
        except SinkError as error:
            failed += 1
            line = f"did not arrive: {sink.name}: {error}"
        print(printable(line))
        sys.stdout.flush()
    return 1 if failed else 0
