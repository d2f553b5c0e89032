"""What a telemetry record is: the written contract of one field, from its source to the screen."""

from dataclasses import dataclass, field

from esper.leyline.thresholds import Thresholds


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
