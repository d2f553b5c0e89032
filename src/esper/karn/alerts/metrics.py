"""Prometheus metrics of runs, scraped over HTTP or written to a file for node_exporter.

The number of series is bounded: the newest `RUNS_SHOWN` runs that are active or ended within
`SECONDS_SHOWN`, with at most `GROUPS_SHOWN` groups and `LOGGED_SHOWN` logged figures each.
`esper_runs_left_out` counts the other runs. NaN and Inf values are exported as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.karn.alerts.facts import RunView
from esper.karn.alerts.secrets import AlertSettingsError
from esper.karn.sanctum.fold.attention import lit_lights
from esper.karn.sanctum.schema import TrainingState

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

RUNS_SHOWN: Final = 200
SECONDS_SHOWN: Final = 86_400.0
GROUPS_SHOWN: Final = 64
LOGGED_SHOWN: Final = 32

#: Labels and description of each metric, by name. Names that end in `_total` are counters.
METRICS: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "esper_latch": (
        ("run", "group", "kind"),
        "Whether a head or group ever produced an inf or a nan; absent if that is not known.",
    ),
    "esper_stalled_latch": (("run",), "Whether no weight moved for several updates at any time."),
    "esper_nonfinite_updates_total": (("run",), "Updates in which something was not finite."),
    "esper_update": (("run",), "Updates completed."),
    "esper_seconds_since_update": (("run",), "Time since the last update of an active run."),
    "esper_heartbeat_age_seconds": (("run",), "Time since the last heartbeat of an active run."),
    "esper_run_status": (("run", "status"), "1 for the status that a run has."),
    "esper_run_active": (("run",), "Whether a run has not ended and its process is not gone."),
    "esper_episodes": (("run",), "Episodes completed."),
    "esper_episodes_planned": (("run",), "Episodes planned."),
    "esper_score": (("run",), "Mean terminal score of the last batch of episodes."),
    "esper_figure": (("run", "figure"), "A figure of the last update, such as approx_kl."),
    "esper_logged": (("run", "name"), "A figure that a watched training loop logged."),
    "esper_events_lost_total": (("run",), "Events that could not be stored."),
    "esper_messages_waiting": (("sink",), "Messages that a sink has not accepted yet."),
    "esper_runs_left_out": (
        (),
        "Runs without metrics, because there are too many or they are too old.",
    ),
}
_FIGURES: Final[Mapping[str, Callable[[TrainingState], float | None]]] = {
    "policy_loss": lambda training: training.policy_loss,
    "value_loss": lambda training: training.value_loss,
    "entropy": lambda training: training.entropy,
    "approx_kl": lambda training: training.approximate_kl,
    "clip_fraction": lambda training: training.clip_fraction,
    "explained_variance": lambda training: training.explained_variance,
    "grad_norm": lambda training: training.gradient_norm,
    "learning_rate": lambda training: training.learning_rate,
    "loss_scale": lambda training: training.loss_scale,
}

#: Metric name, label values, value.
Sample = tuple[str, tuple[str, ...], float]


def samples_of(
    views: Iterable[RunView], waiting: Mapping[str, int], now: float, others: int = 0
) -> list[Sample]:
    """Return the samples of all metrics.

    Args:
        views: states of the runs, newest first.
        waiting: number of messages not accepted yet, by sink name.
        now: current time in seconds since the epoch.
        others: number of runs whose state is not kept.
    """
    samples: list[Sample] = []
    shown, left_out = 0, others
    for view in views:
        if shown < RUNS_SHOWN and _is_recent(view, now):
            shown += 1
            samples += _samples_of_run(view, now)
        else:
            left_out += 1
    samples += [("esper_messages_waiting", (sink,), count) for sink, count in waiting.items()]
    return [*samples, ("esper_runs_left_out", (), left_out)]


def _is_recent(view: RunView, now: float) -> bool:
    run = view.frame.snapshot.run
    at = run.finished_at or run.last_event_at
    return not view.frame.status.is_over or (at is not None and now - at < SECONDS_SHOWN)


def _samples_of_run(view: RunView, now: float) -> Iterator[Sample]:
    frame, name = view.frame, view.directory.name
    snapshot = frame.snapshot
    run, training, done = snapshot.run, snapshot.training, snapshot.interventions
    one = (name,)
    yield "esper_run_status", (name, str(frame.status.kind)), 1
    yield "esper_run_active", one, not frame.status.is_over
    yield "esper_update", one, run.update
    yield "esper_nonfinite_updates_total", one, done.incidents
    yield "esper_events_lost_total", one, run.events_lost
    if not frame.status.is_over:
        later = now - view.now
        yield "esper_seconds_since_update", one, view.still_seconds + later
        if frame.status.seconds is not None:
            yield "esper_heartbeat_age_seconds", one, frame.status.seconds + later
    yield from _lights(view)
    if run.episodes:
        yield "esper_episodes", one, run.episodes_done
        yield "esper_episodes_planned", one, run.episodes
    if training.score is not None:
        yield "esper_score", one, training.score
    for figure, value_in in _FIGURES.items():
        if (value := value_in(training)) is not None:
            yield "esper_figure", (name, figure), value
    for logged in sorted(training.logged)[:LOGGED_SHOWN]:
        yield "esper_logged", (name, logged), training.logged[logged]


def _lights(view: RunView) -> Iterator[Sample]:
    """Yield the lights, lit ones first; skip dark ones if the store may have lost a light."""
    tamiyo, training = view.frame.snapshot.tamiyo, view.frame.snapshot.training
    name = view.directory.name
    lit = set(lit_lights(tamiyo))
    is_known = view.frame.doubt.lights is None
    groups = sorted(tamiyo.latch("inf"), key=lambda one: not {(one, "inf"), (one, "nan")} & lit)
    for group in groups[:GROUPS_SHOWN]:
        for kind in ("inf", "nan"):
            if is_known or (group, kind) in lit:
                yield "esper_latch", (name, group, kind), (group, kind) in lit
    if training.stalled_latch or (is_known and view.frame.snapshot.run.is_watched):
        yield "esper_stalled_latch", (name,), training.stalled_latch


@dataclass(frozen=True)
class Address:
    """The address where metrics are served."""

    host: str
    port: int


def address_of(text: str) -> Address:
    """Parse "PORT" or "HOST:PORT"; the default host is 127.0.0.1, reachable from this machine only.

    Raises:
        AlertSettingsError: the text is not an address.
    """
    host, _, port = text.rpartition(":")
    if not (port.isdecimal() and 0 <= int(port) < 1 << 16):
        raise AlertSettingsError(f"--metrics must be PORT or HOST:PORT, not {text!r}")
    return Address(host.strip("[]") or "127.0.0.1", int(port))


class Metrics:
    """A prometheus-client collector that holds the latest samples.

    Raises:
        AlertSettingsError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        try:
            import prometheus_client
        except ImportError:
            raise AlertSettingsError(
                "--metrics and --textfile need prometheus-client: install Esper with the extra "
                "`metrics`"
            ) from None
        self._client = prometheus_client
        self._samples: Sequence[Sample] = ()
        self.registry: CollectorRegistry = prometheus_client.CollectorRegistry()
        self.registry.register(self)

    def publish(self, samples: Sequence[Sample]) -> None:
        """Replace the samples."""
        self._samples = samples

    def collect(self) -> Iterator[Any]:
        """Yield the metrics with their samples, for prometheus-client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        by_name: dict[str, list[Sample]] = {}
        for sample in self._samples:
            by_name.setdefault(sample[0], []).append(sample)
        for name, samples in by_name.items():
            labels, meaning = METRICS[name]
            family: Any = (
                CounterMetricFamily(name.removesuffix("_total"), meaning, labels=labels)
                if name.endswith("_total")
                else GaugeMetricFamily(name, meaning, labels=labels)
            )
            for _, values, value in samples:
                family.add_metric(values, float(value))
            yield family

    def serve(self, address: Address) -> int:
        """Serve the metrics in a separate thread; return the port.

        Raises:
            AlertSettingsError: the address cannot be used.
        """
        try:
            server, _ = self._client.start_http_server(
                address.port, addr=address.host, registry=self.registry
            )
        except OSError as error:
            place = f"{address.host}:{address.port}"
            raise AlertSettingsError(
                f"--metrics: cannot serve on {place}: {error.strerror}"
            ) from None
        return int(server.server_port)

    def write(self, path: Path) -> None:
        """Write the metrics to a file atomically.

        Raises:
            OSError: the file cannot be written.
        """
        self._client.write_to_textfile(str(path), self.registry)
