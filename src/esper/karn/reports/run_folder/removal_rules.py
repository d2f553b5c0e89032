"""Rules for the runs that `esper prune` may delete and `esper archive` may move."""

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from esper.karn.reports.run_folder.run_summary import RunSummary, summary_of
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_directory import STORE_NAME
from esper.karn.store.wal import wal_of

_DAY_SECONDS: Final = 86_400.0

IS_LINK: Final = "a link, which is not followed"
NOT_OVER: Final = "not over"
UNREADABLE: Final = "not readable"
TOO_NEW: Final = "changed since"
LIT: Final = "lit"
MAYBE_LIT: Final = "possibly lit, as a light may be lost"


@dataclass(frozen=True)
class RemovalRules:
    """Conditions for deleting or moving a run; its store is read again before that.

    Attributes:
        takes_lit: whether to include runs with a light, and runs that may have lost one.
        older_than_days: minimum number of days since the last change of the store; None for none.
    """

    takes_lit: bool
    older_than_days: float | None = None

    def reason_to_stay(self, run: RunSummary, now: float) -> str | None:
        """Return in a few words why a run is kept; None if it is removed.

        Args:
            run: the run.
            now: seconds since the epoch.
        """
        try:
            if stat.S_ISLNK(os.lstat(run.path).st_mode):
                return IS_LINK
        except OSError:
            return UNREADABLE
        if run.status.kind is StatusKind.UNREADABLE or run.doubt.is_unread:
            return UNREADABLE
        if not run.status.is_over:
            return NOT_OVER
        if self.older_than_days is not None and (
            now - _changed_at(run) < self.older_than_days * _DAY_SECONDS
        ):
            return TOO_NEW
        if self.takes_lit:
            return None
        if run.is_lit:
            return LIT
        return None if run.doubt.lights is None else MAYBE_LIT


@dataclass(frozen=True)
class RemovalPlan:
    """The selected runs to remove, and the selected runs to keep, with the reason."""

    going: tuple[RunSummary, ...]
    staying: tuple[tuple[RunSummary, str], ...]

    def reasons(self) -> dict[str, int]:
        """Return the number of kept runs by reason, most frequent first."""
        found: dict[str, int] = {}
        for _, reason in self.staying:
            found[reason] = found.get(reason, 0) + 1
        return dict(sorted(found.items(), key=lambda one: -one[1]))


def plan_removal(runs: Sequence[RunSummary], rules: RemovalRules) -> RemovalPlan:
    """Return the removal plan according to the rules."""
    now = time.time()
    judged = [(run, rules.reason_to_stay(run, now)) for run in runs]
    return RemovalPlan(
        tuple(run for run, reason in judged if reason is None),
        tuple((run, reason) for run, reason in judged if reason is not None),
    )


def reason_to_stay_now(run: RunSummary, rules: RemovalRules) -> str | None:
    """Return why a run is kept, from the current state of its store; None if it is removed."""
    follower = RunFollower(run.path, brief=True, keeps_histories=False)
    return rules.reason_to_stay(summary_of(run.path, follower.catch_up()), time.time())


def _changed_at(run: RunSummary) -> float:
    """Return when the store of a run last changed, in seconds since the epoch."""
    store = run.path / STORE_NAME
    times = [0.0]
    for path in (store, wal_of(store)):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times)
