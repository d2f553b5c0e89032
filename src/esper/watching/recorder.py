"""The interface of recorders, which receive incidents, updates and the end of a watched run."""

import math
import time
from dataclasses import dataclass, field
from typing import Final, Protocol

from esper.watching.finding.explaining import Explanation

_UPDATE_SECONDS: Final = 1.0  # length of an update if the loop shows no boundary
#: Its length in optimizer steps, where several ranks train: their clocks would differ.
_STEPS_OF_AN_UPDATE: Final = 16


@dataclass(frozen=True)
class Trouble:
    """One incident: findings, place and time."""

    update: int
    minibatch: int  # counted from 1 within the update; 0 while acting
    phase: str  # "acting" or "update"
    explanation: Explanation
    is_repeat: bool = False  # a lasting fault that was reported before; only counted


class Recorder(Protocol):
    """Receives the findings of a watch. If a recorder raises an exception, the watch counts it."""

    @property
    def last_finding(self) -> str:
        """The last incident in one or two lines; empty if there is none."""

    def found(self, trouble: Trouble) -> None:
        """Record an incident immediately, before anything that may crash the process."""

    def updated(self, record: "UpdateRecord") -> None:
        """Record an update that ended."""

    def failed(self, count: int, sentence: str) -> None:
        """Record the `count`-th failure of the watch itself."""

    def ended(self, status: str, reason: str) -> None:
        """Record the end: `status` is "finished", "stopped", "halted" or "failed".

        The reason of "halted" is empty, or names the other ranks that had non-finite values.
        """


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
        number: number of the update, counted from 1.
        steps: number of optimizer steps, including skipped ones.
        skipped: number of steps skipped because of non-finite values.
        left_out: number of steps skipped by the watch (not by a loss scaler).
        blamed_ranks: other ranks that caused the watch to skip steps.
        norm_sum: sum of the finite gradient norms of these steps.
        norm_max: largest of these norms.
        norms: number of these norms.
        troubles: the incidents.
        owner_norms: gradient norms of heads and groups at the first step, before clipping; by name.
        figures: figures logged by the training loop, by name.
        learning_rate: learning rate of the first parameter group at the last step; None before.
        still_updates: number of consecutive updates, up to this one, with steps in which no weight
            moved.
        update_seconds: seconds spent learning, not acting; None if unknown.
        is_stepping: whether the last of these steps is not over.
        first_step_at: time of the first of them on the monotonic clock.
        is_whole: whether the update was completed; False if an error or a halt interrupted it.
        began: start time on the monotonic clock.
        ended: end time on the monotonic clock.
    """

    number: int
    steps: int = 0
    skipped: int = 0
    left_out: int = 0
    blamed_ranks: set[int] = field(default_factory=set)
    norm_sum: float = 0.0
    norm_max: float = 0.0
    norms: int = 0
    troubles: list[Trouble] = field(default_factory=list)
    owner_norms: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    still_updates: int = 0
    update_seconds: float | None = None
    is_stepping: bool = False
    first_step_at: float = 0.0
    is_whole: bool = True
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0

    @property
    def is_still(self) -> bool:
        """Whether nothing was learnt, because all steps were skipped or every gradient was 0.

        A library may replace NaN gradients by 0; momentum then still moves the weights.
        """
        all_left_out = self.left_out > 0 and self.steps == self.skipped
        return all_left_out or (self.norms > 0 and self.norm_max == 0.0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened in it."""
        return not (self.steps or self.troubles or self.figures)

    @property
    def minibatch(self) -> int:
        """Number of the current minibatch, which ends with its step, counted from 1."""
        return self.steps + (not self.is_stepping)

    def begin_step(self) -> None:
        """Count a step that begins."""
        self.steps += 1
        self.is_stepping = True
        if self.steps == 1:
            self.first_step_at = time.monotonic()

    def is_long(self, *, counts_steps: bool) -> bool:
        """Return whether it is long enough for a loop that shows no boundary.

        Args:
            counts_steps: whether its steps count, instead of its time.
        """
        if counts_steps:
            return self.steps >= _STEPS_OF_AN_UPDATE
        return time.monotonic() - self.first_step_at > _UPDATE_SECONDS

    def add_norm(self, norm: float) -> None:
        """Add the finite gradient norm of a step."""
        self.norm_sum += norm
        self.norms += 1
        self.norm_max = max(self.norm_max, norm)

    def add_learning_time(self, since: float) -> None:
        """Add the time since a moment on the monotonic clock."""
        self.update_seconds = (self.update_seconds or 0.0) + time.monotonic() - since

    def forget_steps(self) -> None:
        """Count steps from 0 again, because the counted backward passes were not steps."""
        self.steps = self.norms = 0
        self.norm_sum = self.norm_max = 0.0

    def log(self, name: str, number: float) -> None:
        """Set a figure; a later value replaces an earlier one, unless that is NaN or infinite."""
        if not math.isfinite(number) or math.isfinite(self.figures.get(name, 0.0)):
            self.figures[name] = number
