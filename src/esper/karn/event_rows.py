"""Rows of the table `events`, as events."""

import math
from typing import Any, Final

from esper.leyline.telemetry import DamagedEventError, DamagedPayload, Event, decode_payload

#: Asks for the columns of which `event_of` makes an event.
SELECT_EVENTS: Final = "SELECT id, time, kind, payload FROM events"


def event_of(number: int, at: Any, kind: Any, data: Any) -> Event:
    """Return the event of a row; what is damaged comes as `DamagedPayload`."""
    # A column can hold a value of any type, whatever it was declared as.
    when = at if isinstance(at, float) and math.isfinite(at) else 0.0
    try:
        if not isinstance(kind, str) or not isinstance(data, bytes):
            raise DamagedEventError("its columns hold values of the wrong type")
        return Event(id=number, time=when, payload=decode_payload(kind, data))
    except DamagedEventError as error:
        return damaged_event(number, str(error), kind=str(kind), at=when)


def damaged_event(number: int, reason: str, *, kind: str = "unreadable", at: float = 0.0) -> Event:
    """Return what stands for an event that cannot be read."""
    return Event(id=number, time=at, payload=DamagedPayload(kind=kind, reason=reason))
