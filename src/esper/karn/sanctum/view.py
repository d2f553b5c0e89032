"""What the screens are given to show: one look at one run."""

from dataclasses import dataclass, field

from esper.karn.liveness import RunStatus
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.leyline.health import Verdict


@dataclass(frozen=True)
class View:
    """A run as it was found at `now`: what its events tell, and what was made of that."""

    status: RunStatus
    verdict: Verdict
    now: float  # seconds since the epoch
    snapshot: SanctumSnapshot = field(default_factory=SanctumSnapshot)
    error: str | None = None  # one sentence, where the run could not be read
    is_behind: bool = False  # events are still being taken in: there is more to see at once
