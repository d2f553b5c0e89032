"""Runs side by side: their settings, figures and histories."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esper.karn.reports.run_folder.run_summary import RunSummary, summary_of
from esper.karn.sanctum.fold.ledgers.logged_figures import logged_figures
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.reading.recorded_settings import settings_at_start
from esper.karn.text.light_signs import UNKNOWN
from esper.karn.text.run_names import shortened

#: Figures that are compared, by label.
_FIGURES: Final[dict[str, Callable[[RunSummary, SanctumSnapshot], Any]]] = {
    "score": lambda run, _: run.score,
    "best score": lambda run, _: run.best_score,
    "status": lambda run, _: str(run.status.kind),
    "updates": lambda run, _: run.update,
    "episodes": lambda run, _: None if run.library else run.episodes_done,
    "incidents": lambda run, _: run.incidents,
    "Inf seen in": lambda run, _: _lit(run, "Inf"),
    "NaN seen in": lambda run, _: _lit(run, "NaN"),
    "minibatches skipped": lambda _, snapshot: snapshot.training.skipped_in_run,
    "policy loss": lambda _, snapshot: snapshot.training.policy_loss,
    "value loss": lambda _, snapshot: snapshot.training.value_loss,
    "entropy": lambda _, snapshot: snapshot.training.entropy,
    "KL": lambda _, snapshot: snapshot.training.approximate_kl,
    "explained variance": lambda _, snapshot: snapshot.training.explained_variance,
    "host parameters": lambda _, snapshot: snapshot.run.host_parameters or None,
    "device": lambda _, snapshot: snapshot.run.device,
}
#: Histories that are compared, by label: fields of the training's state.
_HISTORIES: Final = {
    "Score": "score_history",
    "Entropy": "entropy_history",
    "KL": "approximate_kl_history",
    "Explained variance": "explained_variance_history",
    "Gradient norm": "gradient_norm_history",
    "Value loss": "value_loss_history",
}
#: Names up to this length keep their common prefix.
_SHORT_ENOUGH: Final = 12


@dataclass(frozen=True)
class Compared:
    """A setting, figure or history of several runs; None for a run without it."""

    name: str
    values: tuple[Any, ...]  # one per run

    @property
    def differs(self) -> bool:
        """Whether the values differ; NaN equals NaN."""
        return len({repr(value) for value in self.values}) > 1

    @property
    def difference(self) -> float | None:
        """Of two runs the second minus the first, of more the largest minus the smallest.

        None if a value is not a finite number, or if all are equal.
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
    settings: tuple[Compared, ...]  # all, in order of their names
    figures: tuple[Compared, ...]
    histories: tuple[Compared, ...]  # each over the whole run, oldest first


def compare_runs(*directories: Path) -> RunComparison:
    """Return the comparison of runs in their current state; unreadable parts are empty."""
    frames = [RunFollower(directory, brief=True).catch_up() for directory in directories]
    summaries = tuple(map(summary_of, directories, frames))
    snapshots = [frame.snapshot for frame in frames]
    settings = [settings_at_start(directory) or {} for directory in directories]
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
        histories=_histories(snapshots),
    )


def _histories(snapshots: Sequence[SanctumSnapshot]) -> tuple[Compared, ...]:
    """Return the histories that are compared; of watched runs, those of the figures they logged."""
    own = [
        Compared(name, tuple(getattr(snapshot.training, field) for snapshot in snapshots))
        for name, field in _HISTORIES.items()
    ]
    logged = dict.fromkeys(
        one.name
        for snapshot in snapshots
        if snapshot.run.is_watched
        for one in logged_figures(snapshot.training)
        if one.name in snapshot.training.logged_history
    )
    if not logged:
        return tuple(own)
    found = [
        Compared(name, tuple(one.training.logged_history.get(name, ()) for one in snapshots))
        for name in logged
    ]
    return (*found, *(one for one in own if any(one.values)))


def short_names(runs: Sequence[RunSummary]) -> list[str]:
    """Return the shortest distinct name of each run.

    The creation time is left out if the name alone is distinct. So is the common prefix of long
    names.
    """
    names = shortened([run.name or run.run_id for run in runs])
    if len(names) > 1 and max(map(len, names)) > _SHORT_ENOUGH:
        common = _common_parts(names)
        names = [name[common:] or name for name in names]
    return names


def _common_parts(names: Sequence[str]) -> int:
    """Return the length of the common prefix, up to the end of a part."""
    first = min(names)
    same = 0
    for place, character in enumerate(first):
        if any(name[place : place + 1] != character for name in names):
            break
        if character in "-_":
            same = place + 1
    return same


def _lit(run: RunSummary, light: str) -> str:
    unknown = [] if run.doubt.lights is None else [UNKNOWN]
    return ", ".join([*run.lights()[light], *unknown])
