"""The PPO updates of a run: the last ones, their histories, and what is counted over the run."""

import copy
from collections import deque
from typing import Final

from esper.karn.sanctum.fold.ledgers.update_history import score_history, update_history
from esper.karn.sanctum.fold.states import training_state
from esper.karn.sanctum.schema import TrainingState
from esper.leyline.telemetry import STALLED_UPDATES, PPOUpdatePayload

#: Number of last updates that are kept whole; a resume rarely goes back further.
UPDATES_KEPT: Final = 32


class UpdateLedger:
    """The completed updates of a run.

    Attributes:
        newest: number of the newest update ever completed, including updates before a resume
            went back.
        lacks_updates: whether the run was resumed after an update that has no event.

    Args:
        keeps_histories: whether to keep the histories of figures, which take most of the time; the
            history of scores is always kept.
    """

    def __init__(self, *, keeps_histories: bool = True) -> None:
        self._keeps_histories = keeps_histories
        self.newest = 0
        self.lacks_updates = False
        self._kept: deque[PPOUpdatePayload] = deque(maxlen=UPDATES_KEPT)
        self._history = update_history()
        self._scores = score_history()
        self._skipped = 0
        self._rescaled = 0
        self._stalled_since: int | None = None
        self._histories: dict[str, tuple[float, ...]] | None = None

    @property
    def last(self) -> PPOUpdatePayload | None:
        """The last update; None before the first."""
        return self._kept[-1] if self._kept else None

    def copy(self) -> "UpdateLedger":
        """Return an independent copy."""
        other = copy.copy(self)
        other._kept = self._kept.copy()
        other._history = self._history.copy()
        other._scores = self._scores.copy()
        return other

    def add(self, payload: PPOUpdatePayload) -> None:
        """Add a completed update."""
        self._kept.append(payload)
        if self._keeps_histories:
            self._history.add(payload.update, payload)
        self._histories = None
        self._skipped += payload.minibatches_skipped
        self._rescaled += payload.minibatches_rescaled

    def add_score(self, update: int, score: float) -> None:
        """Add the mean score of the episodes of an update."""
        self._scores.add(update, score)

    def go_back_to(self, update: int) -> None:
        """Drop the updates after a checkpoint, which are trained and reported again."""
        self.lacks_updates |= update > self.newest
        while self._kept and self._kept[-1].update > update:
            self._kept.pop()
        self._history.drop_after(update)
        self._scores.drop_after(update)
        self._histories = None

    def note_stalled(self, payload: PPOUpdatePayload) -> bool:
        """Record whether training took steps that moved no weight.

        Returns:
            Whether this was seen for the first time in the run.
        """
        if payload.still_updates < STALLED_UPDATES:
            return False
        since = payload.update - payload.still_updates + 1
        before = self._stalled_since
        self._stalled_since = since if before is None else min(before, since)
        return before is None

    def histories(self) -> dict[str, tuple[float, ...]]:
        """Return the values of `update_history`, the same object until an update changes them."""
        if self._histories is None:
            self._histories = self._history.values()
        return self._histories

    def training_state(self, *, is_watched: bool) -> TrainingState:
        """Return the figures of the last update, with their histories."""
        return training_state(
            self.last,
            self.histories(),
            self._scores.values().get("score", ()),
            skipped_in_run=self._skipped,
            rescaled_in_run=self._rescaled,
            stalled_since=self._stalled_since,
            is_watched=is_watched,
        )
