"""What a watch reports, and to whom: incidents at once, updates when they end, the end."""

import math
import time
from dataclasses import dataclass, field
from typing import Protocol

from esper.watching.finding.explaining import Explanation


@dataclass(frozen=True)
class Trouble:
    """One incident: what was found, where, and when."""

    update: int
    minibatch: int  # counted from 1 within the update; 0 while acting
    phase: str  # "acting" or "update"
    explanation: Explanation
    is_repeat: bool = False  # of a fault that lasts and was reported: it only counts


class Recorder(Protocol):
    """Where a watch reports what it finds. An error that it raises is counted by the watch."""

    @property
    def last_finding(self) -> str:
        """The last incident in one or two lines; empty without one."""

    def found(self, trouble: Trouble) -> None:
        """Record an incident at once, before the process does anything that may crash."""

    def updated(self, record: "UpdateRecord") -> None:
        """Record an update that ended."""

    def failed(self, count: int, sentence: str) -> None:
        """Record that the watch itself failed, for the `count`-th time."""

    def ended(self, status: str, reason: str) -> None:
        """Record the end: `status` is "finished", "stopped", "halted" or "failed"."""


class NoRecorder:
    """Records nothing."""

    last_finding = ""

    def found(self, trouble: Trouble) -> None: ...

    def updated(self, record: "UpdateRecord") -> None: ...

    def failed(self, count: int, sentence: str) -> None: ...

    def ended(self, status: str, reason: str) -> None: ...


@dataclass
class UpdateRecord:
    """The figures of one update.

    Attributes:
        number: counted from 1.
        steps: optimizer steps that were due.
        skipped: of those, left out because something was not finite.
        left_out: of those, left out by the watch, and not by a loss scaler.
        norm_sum: sum of the finite gradient norms of these steps.
        norm_max: largest of them.
        norms: number of them.
        troubles: what was found.
        owner_norms: gradient norms of heads and groups at the first step, before clipping; by name.
        figures: that the training loop logged, by name.
        learning_rate: of the first parameter group at the last step; None before.
        still_updates: updates up to this one that moved no weight although steps were due.
        update_seconds: part of it that was spent learning, not acting; None if unknown.
        is_whole: whether it came to its end; False if an error or a halt ended it before.
        began: time of its first sign, by the monotonic clock.
        ended: time of its end.
    """

    number: int
    steps: int = 0
    skipped: int = 0
    left_out: int = 0
    norm_sum: float = 0.0
    norm_max: float = 0.0
    norms: int = 0
    troubles: list[Trouble] = field(default_factory=list)
    owner_norms: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    still_updates: int = 0
    update_seconds: float | None = None
    is_whole: bool = True
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0

    @property
    def is_still(self) -> bool:
        """Whether no step was made, or every gradient was 0, so that nothing was learnt.

        As where a library replaces gradients that are NaN: momentum still moves the weights.
        """
        all_left_out = self.left_out > 0 and self.steps == self.skipped
        return all_left_out or (self.norms > 0 and self.norm_max == 0.0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened in it."""
        return not (self.steps or self.troubles or self.figures)

    def forget_steps(self) -> None:
        """Begin to count steps again: those before were none."""
        self.steps = self.norms = 0
        self.norm_sum = self.norm_max = 0.0

    def log(self, name: str, number: float) -> None:
        """Add a figure; of several, the last one counts, but a NaN or an infinity stays."""
        if not math.isfinite(number) or math.isfinite(self.figures.get(name, 0.0)):
            self.figures[name] = number
