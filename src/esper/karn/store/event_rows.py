"""Rows of the table `events`, as events."""

import math
from typing import Any, Final

from esper.leyline.telemetry import DamagedEventError, DamagedPayload, Event, decode_payload

#: Asks for the columns of which `event_of` makes an event.
SELECT_EVENTS: Final = "SELECT id, time, kind, payload FROM events"


#: Until when a clock may be set: what is later cannot be shown as a date everywhere.
_LATEST: Final = 253_402_214_400.0  # the last day of the year 9999


def plausible_time(at: Any) -> float:
    """Return a time in seconds since the epoch; 0 where it is none, or one that cannot be."""
    if not isinstance(at, float) or not math.isfinite(at):
        return 0.0
    return at if 0.0 <= at <= _LATEST else 0.0


def event_of(number: int, at: Any, kind: Any, data: Any) -> Event:
    """Return the event of a row; what is damaged comes as `DamagedPayload`."""
    # A column can hold a value of any type, whatever it was declared as.
    when = plausible_time(at)
    try:
        if not isinstance(kind, str) or not isinstance(data, bytes):
            raise DamagedEventError("its columns hold values of the wrong type")
        return Event(id=number, time=when, payload=decode_payload(kind, data))
    except DamagedEventError as error:
        return damaged_event(number, str(error), kind=str(kind), at=when)


def damaged_event(number: int, reason: str, *, kind: str = "unreadable", at: float = 0.0) -> Event:
    """Return what stands for an event that cannot be read."""
    return Event(id=number, time=at, payload=DamagedPayload(kind=kind, reason=reason))
