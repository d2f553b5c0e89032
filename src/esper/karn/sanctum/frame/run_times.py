"""How long a run has been going, how far it is, and how long it will take."""

from typing import Final

from esper.karn.sanctum.fold.view import View
from esper.karn.store.liveness import StatusKind

#: The clock of such a run goes on.
_MOVING: Final = (
    StatusKind.WAITING,
    StatusKind.STARTING,
    StatusKind.LIVE,
    StatusKind.STALLED,
    StatusKind.STALE,
)


def elapsed_seconds(view: View) -> float | None:
    """Return how long the run has been going, went on for, or had been going at a past moment.

    Before its first event, it counts from when its directory was made.
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
    """Return how long the run will go on at the pace of its last batches; None if not known."""
    run = view.snapshot.run
    if run.expected_end is None or run.last_event_at is None:
        return None
    if view.position is not None:
        return max(0.0, run.expected_end - run.last_event_at)
    if view.status.kind not in _MOVING:
        return None
    return max(0.0, run.expected_end - view.now)


def planned_episodes(view: View) -> int:
    """Return how many episodes the run is to have; 0 where that is not known yet."""
    run = view.snapshot.run
    return run.episodes or (view.plan.episodes if view.plan is not None else 0)


def progress_share(view: View) -> float:
    """Return how much of the planned episodes is done, 0 to 1; those under way count by steps."""
    run, planned = view.snapshot.run, planned_episodes(view)
    return min(1.0, max(run.progress, run.episodes_done) / planned) if planned else 0.0
