"""Runs side by side: the settings in which they differ, and what came of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esper.karn.reports.run_catalogue import RunSummary, summary_of
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.run_reader import RunReader
from esper.karn.store.run_tables import RunStoreError
from esper.karn.text.light_signs import UNKNOWN
from esper.karn.text.run_names import shortened
from esper.leyline.telemetry import RunStarted

#: What is compared beside the settings, by the name it is shown with.
_FIGURES: Final[dict[str, Callable[[RunSummary, SanctumSnapshot], Any]]] = {
    "score": lambda run, _: run.score,
    "best score": lambda run, _: run.best_score,
    "status": lambda run, _: str(run.status.kind),
    "updates": lambda run, _: run.update,
    "episodes": lambda run, _: run.episodes_done,
    "incidents": lambda run, _: run.incidents,
    "Inf seen in": lambda run, _: _lit(run, "Inf"),
    "NaN seen in": lambda run, _: _lit(run, "NaN"),
    "minibatches skipped": lambda _, snapshot: snapshot.training.skipped_in_run,
    "policy loss": lambda _, snapshot: snapshot.training.policy_loss,
    "value loss": lambda _, snapshot: snapshot.training.value_loss,
    "entropy": lambda _, snapshot: snapshot.training.entropy,
    "KL": lambda _, snapshot: snapshot.training.approximate_kl,
    "explained variance": lambda _, snapshot: snapshot.training.explained_variance,
    "host parameters": lambda _, snapshot: snapshot.run.host_parameters,
    "device": lambda _, snapshot: snapshot.run.device,
}
#: Histories that are compared, by the name they are shown with: fields of the training's state.
_HISTORIES: Final = {
    "Score": "score_history",
    "Entropy": "entropy_history",
    "KL": "approximate_kl_history",
    "Explained variance": "explained_variance_history",
    "Gradient norm": "gradient_norm_history",
    "Value loss": "value_loss_history",
}
#: Names up to this length are not shortened by what they have in common.
_SHORT_ENOUGH: Final = 12


@dataclass(frozen=True)
class Compared:
    """One thing that the runs are compared in; None for a run that does not have it."""

    name: str
    values: tuple[Any, ...]  # by run

    @property
    def differs(self) -> bool:
        """Whether the runs are unlike in it; NaN is like NaN."""
        return len({repr(value) for value in self.values}) > 1

    @property
    def difference(self) -> float | None:
        """Of two runs the second less the first, of more the largest less the smallest.

        None where a value is no finite number, or where they are the same.
        """
        numbers = [
            value
            for value in self.values
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        if len(numbers) < len(self.values) or not all(map(math.isfinite, numbers)):
            return None
        if not self.differs:
            return None
        if len(numbers) == 2:
            return float(numbers[1]) - float(numbers[0])
        return float(max(numbers)) - float(min(numbers))


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side."""

    runs: tuple[RunSummary, ...]
    settings: tuple[Compared, ...]  # all, in the order of their names
    figures: tuple[Compared, ...]
    histories: tuple[Compared, ...]  # each over the whole run, oldest first


def compare_runs(*directories: Path) -> RunComparison:
    """Return runs side by side, as they stand; what cannot be read is empty."""
    frames = [RunFollower(directory, brief=True).catch_up() for directory in directories]
    summaries = tuple(map(summary_of, directories, frames))
    snapshots = [frame.snapshot for frame in frames]
    settings = [_settings_of(directory) for directory in directories]
    names = sorted(set().union(*settings))
    return RunComparison(
        runs=summaries,
        settings=tuple(
            Compared(name, tuple(known.get(name) for known in settings)) for name in names
        ),
        figures=tuple(
            Compared(name, tuple(map(read, summaries, snapshots)))
            for name, read in _FIGURES.items()
        ),
        histories=tuple(
            Compared(name, tuple(getattr(snapshot.training, field) for snapshot in snapshots))
            for name, field in _HISTORIES.items()
        ),
    )


def short_names(runs: Sequence[RunSummary]) -> list[str]:
    """Return a name for each run that is as short as it can be and still is its own.

    The time at which a run was created is left out where its name alone is its own, as is what
    long names begin with alike.
    """
    names = shortened([run.name or run.run_id for run in runs])
    if len(names) > 1 and max(map(len, names)) > _SHORT_ENOUGH:
        common = _common_parts(names)
        names = [name[common:] or name for name in names]
    return names


def _common_parts(names: Sequence[str]) -> int:
    """Return the length of what all names begin with, up to the end of a part."""
    first = min(names)
    same = 0
    for place, sign in enumerate(first):
        if any(name[place : place + 1] != sign for name in names):
            break
        if sign in "-_":
            same = place + 1
    return same


def _settings_of(directory: Path) -> dict[str, Any]:
    try:
        starts = RunReader(directory).read_last("run_started", 1)
    except RunStoreError:
        return {}
    payload = starts[0].payload if starts else None
    return payload.config if isinstance(payload, RunStarted) else {}


def _lit(run: RunSummary, light: str) -> str:
    unknown = [] if run.doubt.lights is None else [UNKNOWN]
    return ", ".join([*run.lights()[light], *unknown])
