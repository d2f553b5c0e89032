"""Elapsed time, progress and remaining time of a run."""

from typing import Final

from esper.karn.sanctum.fold.view import View
from esper.karn.store.liveness import StatusKind

#: Statuses in which the elapsed time grows.
_MOVING: Final = (
    StatusKind.WAITING,
    StatusKind.STARTING,
    StatusKind.LIVE,
    StatusKind.STUCK,
    StatusKind.STALE,
    StatusKind.DEGRADED,
)


def elapsed_seconds(view: View) -> float | None:
    """Return the elapsed seconds of the run, until now, its end or the past moment shown.

    Before its first event, they count from the creation of its directory.
    """
    run = view.snapshot.run
    started = run.started_at
    if started is None:
        started = view.plan.created_at if view.plan is not None else None
    if started is None:
        return None
    is_now = view.status.kind in _MOVING and view.position is None
    end = view.now if is_now else run.last_event_at
    return max(0.0, (started if end is None else end) - started)


def remaining_seconds(view: View) -> float | None:
    """Return the remaining seconds at the speed of the last batches; None if not known."""
    run = view.snapshot.run
    if run.expected_end is None or run.last_event_at is None:
        return None
    if view.position is not None:
        return max(0.0, run.expected_end - run.last_event_at)
    if view.status.kind not in _MOVING:
        return None
    return max(0.0, run.expected_end - view.now)


def planned_episodes(view: View) -> int:
    """Return the number of planned episodes; 0 if not known yet."""
    run = view.snapshot.run
    return run.episodes or (view.plan.episodes if view.plan is not None else 0)


def progress_share(view: View) -> float:
    """Return the done share of the planned episodes, 0 to 1; running ones count by their steps."""
    run, planned = view.snapshot.run, planned_episodes(view)
    return min(1.0, max(run.progress, run.episodes_done) / planned) if planned else 0.0
