"""What was read of a run at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esper.karn.sanctum.fold.doubt import Doubt
from esper.karn.sanctum.fold.ranks.rank_state import RankState
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.liveness import RunStatus
from esper.karn.store.reading.completeness import COMPLETE, Completeness


@dataclass(frozen=True)
class Frame:
    """The state of a run at one moment."""

    snapshot: SanctumSnapshot
    status: RunStatus
    completeness: Completeness = COMPLETE
    is_behind: bool = False  # there is more to read: poll again without waiting
    wal_bytes: int = 0  # size of the WAL of a store that is being written
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the last start or resume
    ranks: tuple[RankState, ...] = ()  # in order; empty for a run of one process

    @property
    def doubt(self) -> Doubt:
        """What of the run is unread, missing or damaged."""
        return Doubt.of(self.completeness)
