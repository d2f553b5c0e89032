"""View: the input of a screen, the state of one run at one time."""

from dataclasses import dataclass, field
from pathlib import Path

from esper.karn.sanctum.fold.doubt import NO_DOUBT, Doubt
from esper.karn.sanctum.fold.ranks.rank_state import RankState
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.liveness import RunStatus
from esper.karn.store.run_files.acknowledgements import Acknowledgement
from esper.leyline.health import Verdict


@dataclass(frozen=True)
class TimePosition:
    """The time in the run that is shown, when it is not the newest."""

    update: int  # the last update that is shown
    updates: int  # number of updates of the run so far
    speed: int = 0  # updates per second while playing; 0 when paused
    #: The lights that are on at the newest time: name of a head or group, and "inf" or "nan".
    lit_now: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Return "PAST, update 1 of 5"."""
        return f"PAST, update {self.update} of {self.updates}"


@dataclass(frozen=True)
class Plan:
    """Settings of a run, known before its first event."""

    task: str = ""
    episodes: int = 0
    environments: int = 0
    created_at: float | None = None  # seconds since the epoch


@dataclass(frozen=True)
class View:
    """State of a run at `now`: its snapshot, status and verdict."""

    status: RunStatus
    verdict: Verdict
    now: float  # seconds since the epoch
    snapshot: SanctumSnapshot = field(default_factory=SanctumSnapshot)
    doubt: Doubt = NO_DOUBT  # what of it is unread, missing or damaged
    is_behind: bool = False  # events are still being taken in: there is more to see at once
    position: TimePosition | None = None  # None: the newest state, followed
    acknowledgements: tuple[Acknowledgement, ...] = ()
    console: tuple[str, ...] = ()  # the last lines of the run's console output
    directory: Path | None = None  # of the run; None while there is none
    plan: Plan | None = None  # until its first event says the same
    ranks: tuple[RankState, ...] = ()  # in order; empty for a run of one process

    @property
    def is_of_script(self) -> bool:
        """Whether a script trains it: a watched run, or one with neither events nor settings."""
        run = self.snapshot.run
        is_bare = self.directory is not None and not run.run_id and self.plan is None
        return run.is_watched or is_bare
