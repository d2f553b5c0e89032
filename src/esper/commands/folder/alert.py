"""`esper alert`: tell people and machines what happens in runs."""

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.commands.options import OptionError, add_run_dir, add_verb
from esper.commands.output import print_warning
from esper.karn.alerts.edges import DEFAULT_KINDS, EDGE_KINDS
from esper.karn.store.run_directory import find_run, is_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.karn.alerts.alerting import Publish, Sources
    from esper.karn.alerts.facts import RunView
    from esper.karn.alerts.settings import AlertSettings
    from esper.karn.alerts.sinks.heartbeat import HeartbeatSink
    from esper.karn.alerts.sinks.sink import Sink

_SECRET = "; env:NAME or file:PATH keep it out of the command line"
#: What happened before is marked as past, in seconds before a look with --once.
_PAST_SECONDS = 3600.0


def add_alert(verbs: Any) -> None:
    """Add `alert` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "alert",
        alert,
        "watch runs, and tell people and machines of lights, halts, deaths and stalls, each once",
    )
    parser.add_argument(
        "what",
        nargs="*",
        metavar="FOLDER|RUN",
        help="folders that contain runs, and runs (default: --run-dir)",
    )
    add_run_dir(parser)
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="settings file; options are added to it"
    )
    kinds = "; ".join(f"{kind}: {meaning}" for kind, meaning in EDGE_KINDS.items())
    parser.add_argument(
        "--on",
        metavar="KINDS",
        help=f"what is told, with commas, or all. {kinds} (default: {','.join(DEFAULT_KINDS)})",
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
        help="run a command, with the message as JSON on its standard input",
    )
    sinks.add_argument(
        "--webhook",
        action="append",
        default=[],
        metavar="URL",
        help="send JSON in a POST request; the URLs of Slack and Discord get their own forms, "
        f"slack+URL and discord+URL do as well{_SECRET}",
    )
    sinks.add_argument(
        "--notify",
        action="append",
        default=[],
        metavar="URL",
        help="send by apprise (extra notify): mail, chats, phones",
    )
    sinks.add_argument(
        "--heartbeat",
        action="append",
        default=[],
        metavar="URL",
        help="send a sign of life every minute, and URL/fail while a run fails, as "
        "healthchecks.io expects it",
    )
    sinks.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="FILE",
        help="append each message to a file as a line of JSON; - is standard output",
    )
    figures = parser.add_argument_group("figures (extra metrics)")
    figures.add_argument(
        "--metrics",
        metavar="[HOST:]PORT",
        help="serve figures for Prometheus; to this machine alone, unless HOST says otherwise",
    )
    figures.add_argument(
        "--textfile",
        metavar="FILE.prom",
        help="write figures for the textfile collector of node_exporter",
    )
    parser.add_argument(
        "--test", action="store_true", help="send a drill through every sink, and say what arrived"
    )
    parser.add_argument(
        "--once", action="store_true", help="look at the runs once, tell what is new, and end"
    )
    # `esper ppo` and `esper run` start the process that ends with their run.
    parser.add_argument("--with-process", type=int, help=argparse.SUPPRESS)


def add_alert_config(parser: argparse.ArgumentParser) -> None:
    """Add --alert-config, which starts alerts with a run."""
    parser.add_argument(
        "--alert-config",
        type=Path,
        metavar="FILE.toml",
        help="tell of this run as the settings file of `esper alert` says, in a process that "
        "outlives this one (default: ESPER_ALERT_CONFIG)",
    )


def alert(options: argparse.Namespace) -> int:
    """Watch as the options say; return the exit code."""
    from esper.karn.alerts.settings import kinds_of, seconds_of, sinks_of

    settings, folder = _settings(options)
    kinds = kinds_of(settings.on)
    stalled_after = seconds_of(settings.stalled_after, "--stalled-after")
    # Options are relative to the working directory, keys to the folder of their file.
    sinks, hearts = sinks_of(_given_sinks(options), Path(), sys.stdout)
    more_sinks, more_hearts = sinks_of(settings, folder, sys.stdout)
    sinks += [one for one in more_sinks if one.id not in {known.id for known in sinks}]
    hearts += [one for one in more_hearts if one.id not in {known.id for known in hearts}]
    if not (sinks or hearts or settings.metrics or settings.textfile):
        raise OptionError(
            "give at least one sink: --exec, --webhook, --notify, --heartbeat or --log "
            "(--log - prints the messages)"
        )
    if options.test:
        if options.once:
            raise OptionError("--test and --once exclude each other")
        return _test(sinks, hearts)
    from esper.karn.alerts.alerting import Alerting
    from esper.karn.alerts.polling import Rules

    sources = _sources(options, settings, folder)
    past = _PAST_SECONDS if options.once else 0.0
    rules = Rules(kinds, stalled_after, time.time() - past, is_single=options.once)
    if settings.metrics or settings.textfile:
        from esper.karn.alerts.metrics import SECONDS_SHOWN

        rules = replace(rules, keep_seconds=SECONDS_SHOWN)
    publish = _publisher(settings, folder, options)
    alerting = Alerting(sources, rules, sinks, hearts, print_warning, publish=publish)
    if options.once:
        return 0 if alerting.once() else 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: alerting.stop())
    names = ", ".join(sink.name for sink in (*sinks, *hearts)) or "nobody"
    watched = ", ".join(str(path) for path in (*sources.folders, *sources.runs))
    print_warning(f"watching {watched}; telling {names}")
    return 0 if alerting.watch(options.with_process) else 1


def _settings(options: argparse.Namespace) -> "tuple[AlertSettings, Path]":
    """Return the settings of the file, with single-valued options over them, and its folder."""
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
    """Return the folders and runs that are watched; options replace those of the file."""
    from esper.karn.alerts.alerting import Sources

    if options.what:
        given = [(word, Path(word).expanduser()) for word in options.what]
    else:
        given = [(word, folder / Path(word).expanduser()) for word in settings.watch]
    if not given:
        return Sources(folders=(options.run_dir,))  # it need not exist yet
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
    """Return what publishes figures after each look at runs; None if nobody wants them."""
    if not (settings.metrics or settings.textfile):
        return None
    if settings.metrics and options.once:
        raise OptionError("--metrics needs a process that stays: not with --once")
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


def _test(sinks: "list[Sink]", hearts: "list[HeartbeatSink]") -> int:
    """Send a drill through every sink; return 1 if it did not arrive everywhere."""
    from esper.karn.alerts.messages import drill_message
    from esper.karn.alerts.sinks.sink import SinkError
    from esper.leyline.text.plain_text import printable

    message = drill_message()
    failed = 0
    for sink in (*sinks, *hearts):
        try:
            line = f"arrived: {sink.name} ({sink.send(message)})"
        except SinkError as error:
            failed += 1
            line = f"did not arrive: {sink.name}: {error}"
        print(printable(line))
        sys.stdout.flush()
    return 1 if failed else 0
