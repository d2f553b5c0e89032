"""Experiment trackers as copy destinations: TensorBoard, W&B, trackio and MLflow.

Each tracker is a separate extra and is imported only when it is opened. Several threads may use one
tracker each. The tracker's run has the id of Esper's run, so a resumed run continues there.
"""

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

from esper.karn.mirror.figure_names import Point
from esper.leyline.errors import EsperError
from esper.leyline.files.tensorboard_files import EventFile
from esper.leyline.text.command_lines import install_command
from esper.leyline.text.suggestions import did_you_mean

#: Default name of the project or experiment.
DEFAULT_PROJECT: Final = "esper"


class DestinationError(EsperError, ValueError):
    """The tracker does not exist, or its library is not installed; the message is one sentence."""


class Tracker(Protocol):
    """An open tracker."""

    def log(self, points: list[Point]) -> None:
        """Write figures; when this returns, they survive the end of this process."""
        ...

    def close(self, is_good: bool, /) -> None:
        """End the tracker's run; `is_good` is False if training failed, was halted or died."""
        ...


@dataclass(frozen=True)
class Destination:
    """A tracker, and the place in it where figures are stored.

    Attributes:
        kind: one of `KINDS`.
        place: project (W&B, trackio), experiment (MLflow) or folder (TensorBoard).
    """

    kind: str
    place: str

    @property
    def label(self) -> str:
        """The destination in command-line form."""
        return f"{self.kind}={self.place}"


def destination_of(text: str, run: Path) -> Destination:
    """Parse `KIND` or `KIND=PLACE`.

    Args:
        text: value of --log-to.
        run: the run's directory, which contains TensorBoard's files by default.

    Raises:
        DestinationError: the tracker does not exist, its library is not installed, or the place is
            empty.
    """
    kind, equals, place = text.partition("=")
    if kind not in KINDS:
        raise DestinationError(
            f"--log-to must be {', '.join(KINDS)}, not {kind!r}{did_you_mean(kind, KINDS)}"
        )
    if equals and not place:
        raise DestinationError(f"--log-to {kind}= has an empty place: write {kind} or {kind}=NAME")
    if find_spec(KINDS[kind].module) is None:
        raise DestinationError(
            f"--log-to {kind} needs {KINDS[kind].module}; install it with: {install_command(kind)}"
        )
    if kind == "tensorboard":
        return Destination(kind, str(Path(place).absolute() if place else run / "tensorboard"))
    return Destination(kind, place or DEFAULT_PROJECT)


def open_tracker(destination: Destination, run: Path, settings: Mapping[str, Any]) -> Tracker:
    """Open a run in a tracker, or continue it.

    Args:
        destination: the tracker.
        run: the run's directory, whose name is the run's id.
        settings: settings of the run, stored by trackers that support it.

    Raises:
        Exception: whatever the tracker's library raises.
    """
    return KINDS[destination.kind].opened(destination.place, run, settings)


class _TensorBoard:
    def __init__(self, folder: str, _run: Path, _settings: Mapping[str, Any]) -> None:
        self._writer = EventFile(Path(folder))

    def log(self, points: list[Point]) -> None:
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.update, point.time)
        self._writer.flush()

    def close(self, _is_good: bool, /) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, project: str, run: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            id=run.name[-128:],
            name=run.name,
            dir=str(run),
            config=dict(settings),
            resume="allow",
            # System metrics and console output of this process do not belong to the training.
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )
        # W&B's own step must increase, but an update number can occur again after a rollback.
        self._run.define_metric("*", step_metric="update")

    def log(self, points: list[Point]) -> None:
        for point in points:
            self._run.log({**point.values, "update": point.update, "time": point.time})

    def close(self, is_good: bool, /) -> None:
        self._run.finish(exit_code=0 if is_good else 1)


class _Trackio:
    def __init__(self, project: str, run: Path, settings: Mapping[str, Any]) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):  # advertisements
            self._run = trackio.init(
                project=project,
                name=run.name,
                config=dict(settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, points: list[Point]) -> None:
        for point in points:
            self._run.log(dict(point.values), step=point.update)

    def close(self, _is_good: bool, /) -> None:
        finish: Callable[[], object] = self._run.finish
        with contextlib.redirect_stdout(io.StringIO()):
            finish()


class _MLflow:
    _TAG = "esper.run"
    _LARGEST_BATCH = 500  # MLflow takes at most 1,000 metrics and 100 parameters in one request
    _MOST_PARAMETERS = 100

    def __init__(self, experiment: str, run: Path, settings: Mapping[str, Any]) -> None:
        # Fail early if the server does not respond; the mirror has its own retries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        known = self._client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else self._client.create_experiment(experiment)
        found = self._client.search_runs([number], f"tags.`{self._TAG}` = '{run.name}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
            return
        self._id = self._client.create_run(
            number, run_name=run.name, tags={self._TAG: run.name}
        ).info.run_id
        parameters = [Param(name, str(value)) for name, value in settings.items()]
        self._client.log_batch(self._id, params=parameters[: self._MOST_PARAMETERS])

    def log(self, points: list[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_mlflow_name(name), value, int(point.time * 1000), point.update)
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), self._LARGEST_BATCH):
            self._client.log_batch(self._id, metrics[start : start + self._LARGEST_BATCH])

    def close(self, is_good: bool, /) -> None:
        self._client.set_terminated(self._id, "FINISHED" if is_good else "FAILED")


def _mlflow_name(name: str) -> str:
    """Return a name with only the characters that MLflow allows: letters, digits, `_-. :/`."""
    plain = name.replace("[", ".").replace("]", "")
    return "".join(sign if sign.isalnum() or sign in "_-. :/" else "_" for sign in plain)


@dataclass(frozen=True)
class _Kind:
    module: str  # the library to import
    opened: Callable[[str, Path, Mapping[str, Any]], Tracker]


#: The trackers by name; the extra has the same name.
KINDS: Final = {
    "wandb": _Kind("wandb", _WandB),
    "tensorboard": _Kind("tensorboardX", _TensorBoard),
    "trackio": _Kind("trackio", _Trackio),
    "mlflow": _Kind("mlflow", _MLflow),
}
