"""Two runs side by side: in what they were set differently, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esper.karn.run_catalogue import RunSummary, summary_of
from esper.karn.run_reader import RunReader
from esper.karn.run_tables import RunStoreError
from esper.karn.sanctum.follower import RunFollower
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.leyline.telemetry import RunStarted

#: What is compared beside the settings, by the name it is shown with.
_FIGURES: Final[dict[str, Callable[[RunSummary, SanctumSnapshot], Any]]] = {
    "status": lambda run, _: str(run.status.kind),
    "updates": lambda run, _: run.update,
    "episodes": lambda run, _: run.episodes_done,
    "score": lambda run, _: run.score,
    "best score": lambda run, _: run.best_score,
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


@dataclass(frozen=True)
class Compared:
    """One thing that both runs have, or that one of them has; None where it does not."""

    name: str
    left: Any
    right: Any

    @property
    def differs(self) -> bool:
        """Whether the runs are unlike in it; NaN is like NaN."""
        return self.left != self.right and repr(self.left) != repr(self.right)


@dataclass(frozen=True)
class RunComparison:
    """Two runs side by side."""

    left: RunSummary
    right: RunSummary
    settings: tuple[Compared, ...]  # all, in the order of their names
    figures: tuple[Compared, ...]
    histories: tuple[Compared, ...]  # each over the whole run, oldest first


def compare_runs(left: Path, right: Path) -> RunComparison:
    """Return two runs side by side, as they stand; what cannot be read is empty.

    Args:
        left: directory of one run.
        right: directory of the other.
    """
    runs = (left, right)
    frames = [RunFollower(directory, brief=True).catch_up() for directory in runs]
    summaries = [
        summary_of(directory, frame) for directory, frame in zip(runs, frames, strict=True)
    ]
    snapshots = [frame.snapshot for frame in frames]
    settings = [_settings_of(directory) for directory in runs]
    return RunComparison(
        left=summaries[0],
        right=summaries[1],
        settings=tuple(
            Compared(name, settings[0].get(name), settings[1].get(name))
            for name in sorted(settings[0].keys() | settings[1].keys())
        ),
        figures=tuple(
            Compared(name, *map(read, summaries, snapshots)) for name, read in _FIGURES.items()
        ),
        histories=tuple(
            Compared(name, *(getattr(snapshot.training, field) for snapshot in snapshots))
            for name, field in _HISTORIES.items()
        ),
    )


def _settings_of(directory: Path) -> dict[str, Any]:
    try:
        starts = RunReader(directory).read_last("run_started", 1)
    except RunStoreError:
        return {}
    payload = starts[0].payload if starts else None
    return payload.config if isinstance(payload, RunStarted) else {}


def _lit(run: RunSummary, light: str) -> str:
    unknown = [] if run.is_whole else ["?"]
    return ", ".join([*run.lights()[light], *unknown])
