"""Thresholds: the range in which a figure counts as healthy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Bounds of a healthy figure. A figure without bounds is shown but never judged.

    Attributes:
        healthy: the healthy range in words.
        warn_above: largest healthy value; None for no upper bound.
        warn_below: smallest healthy value; None for no lower bound.
        is_critical_when_true: True for a latch, which is critical as soon as it is lit.
        nonfinite_is_legal: True where NaN and Inf are ordinary values. Otherwise a bounded figure
            that is NaN or Inf is a warning.
        judged_from_update: first update whose value is judged, counted from 1.
        problem_of_one, problem_of_many: for a count whose bound is 0, the sentences of its warning
            for one and for `{}` of what is counted.
    """

    healthy: str = "any finite value"
    warn_above: float | None = None
    warn_below: float | None = None
    is_critical_when_true: bool = False
    nonfinite_is_legal: bool = False
    judged_from_update: int = 1
    problem_of_one: str = ""
    problem_of_many: str = ""

    @property
    def warning(self) -> str:
        """The condition of a warning, in words."""
        bounds = []
        if self.warn_above is not None:
            bounds.append(f"above {self.warn_above:g}")
        if self.warn_below is not None:
            bounds.append(f"below {self.warn_below:g}")
        if bounds and self.judged_from_update > 1:
            bounds[-1] += f" from update {self.judged_from_update} on"
        if not (self.is_critical_when_true or self.nonfinite_is_legal or not bounds):
            bounds.append("NaN or Inf")
        return ", ".join(bounds) or "none"

    @property
    def critical(self) -> str:
        """The condition of a critical state, in words."""
        return "lit" if self.is_critical_when_true else "none"
