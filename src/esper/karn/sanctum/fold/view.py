"""What the screens are given to show: one look at one run."""

from dataclasses import dataclass, field
from pathlib import Path

from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.acknowledgements import Acknowledgement
from esper.karn.store.liveness import RunStatus
from esper.leyline.health import Verdict
from esper.leyline.plurals import counted, plural


@dataclass(frozen=True)
class TimePosition:
    """Which moment of the run is shown, where it is not simply the newest."""

    update: int  # the last update that is part of what is shown
    updates: int  # how many the run has by now
    speed: int = 0  # updates per second while playing; 0 stands still
    #: The lights that are on by now: a head's or a group's name, and "inf" or "nan".
    lit_now: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Return "PAST, update 1 of 5"."""
        return f"PAST, update {self.update} of {self.updates}"


@dataclass(frozen=True)
class Plan:
    """What a run was asked to do, as its settings say before its first event."""

    task: str = ""
    episodes: int = 0
    environments: int = 0
    created_at: float | None = None  # seconds since the epoch


@dataclass(frozen=True)
class View:
    """A run as it was found at `now`: what its events tell, and what was made of that."""

    status: RunStatus
    verdict: Verdict
    now: float  # seconds since the epoch
    snapshot: SanctumSnapshot = field(default_factory=SanctumSnapshot)
    error: str | None = None  # one sentence, where the run could not be read
    is_unread: bool = False  # that is because of its store: what is dark is only not known
    store_doubt: str | None = None  # why else what is dark is only not known
    is_behind: bool = False  # events are still being taken in: there is more to see at once
    position: TimePosition | None = None  # None: the newest state, followed
    acknowledgements: tuple[Acknowledgement, ...] = ()
    acknowledgements_error: str | None = None  # one sentence, where some could not be read
    console: tuple[str, ...] = ()  # the last lines of the run's console output
    directory: Path | None = None  # of the run; None while there is none
    plan: Plan | None = None  # until its first event says the same

    @property
    def doubt(self) -> str | None:
        """Why a light that is not lit is only not known to be; None where it is known."""
        if self.is_unread:
            return "the store cannot be read"
        return "events are damaged" if self.snapshot.run.damaged_events else self.store_doubt

    @property
    def trouble(self) -> str | None:
        """One sentence on why what is shown may not be all there is; None where it is."""
        if self.error is not None:
            return self.error
        said = []
        if damaged := self.snapshot.run.damaged_events:
            events = f"{counted(damaged, 'event')} {plural(damaged, 'is', 'are')}"
            said.append(f"{events} damaged and left out: figures may have gaps")
        elif self.store_doubt is not None:
            said.append(f"lights that are not lit are not known: {self.store_doubt}")
        if self.acknowledgements_error is not None:
            said.append(self.acknowledgements_error)
        return "; ".join(said) or None
