"""What a telemetry record is: the written contract of one field, from its source to the screen."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Thresholds:
    """Where a figure stops being healthy. A figure without bounds is shown and not judged."""

    healthy: str = "any finite value"
    warn_above: float | None = None
    warn_below: float | None = None
    is_critical_when_true: bool = False  # of a latch
    nonfinite_is_legal: bool = False  # otherwise a figure that is NaN or Inf is worth a warning
    judged_from_update: int = 1  # earlier values are shown and not judged

    @property
    def warning(self) -> str:
        """Say in words when a warning is due."""
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
        """Say in words when the state is critical."""
        return "lit" if self.is_critical_when_true else "none"


@dataclass(frozen=True)
class Wiring:
    """The way of a field from where it is born to where it is seen.

    Places in code are written as `module:name`, so that a test can look them up.
    """

    source: str  # module:function that measures it
    emission: str  # module:function that emits it
    payload: str  # event type and field; "" if it comes from a file beside the store
    aggregation: str  # module:function that folds it
    snapshot: str  # path from the holder; `[…]` stands for a key or an index
    widget: str  # module:class that shows it
    label: str  # what stands beside it on the screen; "" if its place alone says what it is
    holder: str = "SanctumSnapshot"  # or "View", of what the store does not tell


@dataclass(frozen=True)
class TelemetryRecord:
    """The contract of one field that Sanctum shows."""

    # TELE-1xx the run, 2xx the update, 3xx the heads, 4xx the hosts, 5xx decisions:
    id: str
    name: str
    category: str
    priority: str  # P0 critical, P1 important, P2 useful
    question: str  # that it answers
    audience: tuple[str, ...]
    when: str  # it changes
    type: str
    unit: str
    range: str
    default: str  # before anything was measured
    meaning: str
    wiring: Wiring
    keys: str = ""  # of a mapping
    causes: tuple[str, ...] = ()  # of an unhealthy value, the usual ones
    thresholds: Thresholds = field(default_factory=Thresholds)
    companions: tuple[str, ...] = ()  # ids
    proven_by: tuple[str, ...] = ()  # tests beyond the one that runs over every record
