"""Telemetry records: the written contract of one field, from its source to the screen."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Thresholds:
    """Limits of healthy values. A figure without bounds is shown and not judged."""

    healthy: str = "any finite value"
    warn_above: float | None = None
    warn_below: float | None = None
    is_critical_when_true: bool = False  # of a latch
    nonfinite_is_legal: bool = False  # otherwise a figure that is NaN or Inf is worth a warning
    judged_from_update: int = 1  # earlier values are shown and not judged

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


@dataclass(frozen=True)
class Wiring:
    """The path of a field from its source to the screen.

    Places in code are written as `module:name`, so that a test can look them up.
    """

    source: str  # module:function that measures it
    emission: str  # module:function that emits it
    payload: str  # event type and field; "" if it comes from a file beside the store
    aggregation: str  # module:function that folds it
    snapshot: str  # path from the holder; `[…]` stands for a key or an index
    widget: str  # module:class that shows it
    label: str  # its label on the screen; "" if it has none
    holder: str = "SanctumSnapshot"  # or "View", for what does not come from the store


@dataclass(frozen=True)
class TelemetryRecord:
    """The contract of one field that Sanctum shows."""

    # TELE-1xx the run, 2xx the update, 3xx the heads, 4xx the hosts, 5xx decisions:
    id: str
    name: str
    category: str
    priority: str  # P0 critical, P1 important, P2 useful
    question: str  # the question it answers
    audience: tuple[str, ...]
    when: str  # when it changes
    type: str
    unit: str
    range: str
    default: str  # before the first measurement
    meaning: str
    wiring: Wiring
    keys: str = ""  # keys of a mapping
    causes: tuple[str, ...] = ()  # usual causes of an unhealthy value
    thresholds: Thresholds = field(default_factory=Thresholds)
    companions: tuple[str, ...] = ()  # ids
    proven_by: tuple[str, ...] = ()  # tests beyond the one that runs over every record
