"""Rows of the table `events`, and events made from them."""

import math
from typing import Any, Final

from esper.leyline.telemetry import (
    DamagedEventError,
    DamagedPayload,
    Event,
    Payload,
    decode_payload,
)

INSERT_EVENTS: Final = "INSERT INTO events (time, kind, update_index, payload) VALUES"
#: Selects the columns that `event_of` takes.
SELECT_EVENTS: Final = "SELECT id, time, kind, payload FROM events"

#: The last day of the year 9999: a later time has no date on every platform.
_LATEST: Final = 253_402_214_400.0


def update_index_of(payload: Payload) -> int | None:
    """Return the update that an event belongs to; None if it belongs to none."""
    return getattr(payload, "update", None)


def plausible_time(at: Any) -> float:
    """Return a stored time in seconds since the epoch; 0 if the value is not a valid time."""
    if not isinstance(at, float) or not math.isfinite(at):
        return 0.0
    return at if 0.0 <= at <= _LATEST else 0.0


def event_of(number: int, at: Any, kind: Any, data: Any) -> Event:
    """Return the event of a row; a damaged one has a `DamagedPayload`."""
    # A column of SQLite can hold a value of any type, whatever its declaration.
    when = plausible_time(at)
    try:
        if not isinstance(kind, str) or not isinstance(data, bytes):
            raise DamagedEventError("its columns hold values of the wrong type")
        return Event(id=number, time=when, payload=decode_payload(kind, data))
    except DamagedEventError as error:
        return damaged_event(number, str(error), kind=str(kind), at=when)


def damaged_event(number: int, reason: str, *, kind: str = "unreadable", at: float = 0.0) -> Event:
    """Return the placeholder for an event that cannot be read."""
    return Event(id=number, time=at, payload=DamagedPayload(kind=kind, reason=reason))
