"""Telemetry records: the written contract of one field, from its source to the screen."""

from dataclasses import dataclass, field
from typing import Final

from esper.leyline.thresholds import Thresholds

#: The class that folds all events; `Wiring.aggregation` adds the method.
AGGREGATOR: Final = "esper.karn.sanctum.aggregator:SanctumAggregator"
#: The function that emits the figures of an update.
EMIT_UPDATE: Final = "esper.simic.telemetry.emitters:emit_ppo_update_event"


@dataclass(frozen=True)
class Wiring:
    """The path of a field from its source to the screen.

    Places in code are written as `module:name`, so that a test can look them up.
    """

    source: str  # module:function that measures it
    emission: str  # module:function that emits it
    payload: str  # event type and field; "" if it comes from a file next to the store
    aggregation: str  # module:function that folds it
    snapshot: str  # path from the holder; `[…]` is a key or an index
    widget: str  # module:class that shows it
    label: str  # its label on the screen; "" if it has none
    holder: str = "SanctumSnapshot"  # or "View", for what does not come from the store


@dataclass(frozen=True)
class TelemetryRecord:
    """The contract of one field that Sanctum shows."""

    # TELE-1xx the run, 2xx the update, 3xx the heads, 4xx the hosts, 5xx decisions,
    # 6xx runs that are watched from outside:
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
