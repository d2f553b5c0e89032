"""The events that ranks other than rank 0 write to their own stores."""

from typing import Final

from esper.leyline.telemetry import (
    HostsStalled,
    IncidentRecorded,
    NonfiniteSighting,
    Notice,
    Payload,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
)
from esper.simic.telemetry.emitters import EventWriter

#: Events about one rank. All other events are about the run; rank 0 writes them for all hosts.
_OWN: Final = (RunStarted, PPOUpdatePayload, IncidentRecorded, HostsStalled, RunFinished)


class OwnEvents:
    """Writes the events that are about this rank, and drops those that rank 0 writes.

    Args:
        writer: the writer of the rank's store.
    """

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer

    def emit(self, payload: Payload, *, durable: bool = False) -> None:
        """Write an event if it is about this rank."""
        is_trouble = isinstance(payload, Notice) and payload.level != "info"
        if is_trouble or isinstance(payload, _OWN):
            self._writer.emit(payload, durable=durable)

    def latches(self) -> list[tuple[int, NonfiniteSighting]]:
        """Return the first sighting of each head, quantity and kind in this rank."""
        return self._writer.latches()
