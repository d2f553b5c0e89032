"""What the runs in a folder came to: one line for each."""

from dataclasses import dataclass
from pathlib import Path

from esper.karn.liveness import RunStatus
from esper.karn.run_directory import run_directories
from esper.karn.sanctum.follower import RunFollower


@dataclass(frozen=True)
class RunSummary:
    """One run, as of now."""

    run_id: str
    path: Path
    status: RunStatus
    name: str
    started_at: float | None  # seconds since the epoch
    update: int
    episodes_done: int
    episodes: int
    score: float | None
    inf_heads: tuple[str, ...]  # heads whose Inf light is on
    nan_heads: tuple[str, ...]
    is_shared_inf: bool
    is_shared_nan: bool
    error: str | None  # one sentence, if the store could not be read


def list_runs(run_dir: Path) -> list[RunSummary]:
    """Return the runs in a folder, oldest first; a run that cannot be read says so in its error."""
    return [_summary_of(directory) for directory in run_directories(run_dir)]


def _summary_of(directory: Path) -> RunSummary:
    frame = RunFollower(directory).catch_up()
    run, tamiyo = frame.snapshot.run, frame.snapshot.tamiyo
    return RunSummary(
        run_id=directory.name,
        path=directory,
        status=frame.status,
        name=run.name,
        started_at=run.started_at,
        update=run.update,
        episodes_done=run.episodes_done,
        episodes=run.episodes,
        score=frame.snapshot.training.score,
        inf_heads=tuple(head for head, lit in tamiyo.head_inf_latch.items() if lit),
        nan_heads=tuple(head for head, lit in tamiyo.head_nan_latch.items() if lit),
        is_shared_inf=tamiyo.shared_inf_latch,
        is_shared_nan=tamiyo.shared_nan_latch,
        error=frame.error,
    )
