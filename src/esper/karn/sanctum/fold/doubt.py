"""What of a run is unread, missing or damaged: one answer for panels, header and reports."""

from dataclasses import dataclass
from typing import Final, Self

from esper.karn.store.reading.completeness import Completeness
from esper.leyline.text.plurals import counted, plural


@dataclass(frozen=True)
class Doubt:
    """Why what is known of a run may not be everything; empty where nothing is in doubt.

    Attributes:
        error: one sentence, where the run cannot be read; its state is then that of the last read.
        is_unread: whether the error comes from the run's store.
        damaged_events: events that cannot be read and are left out.
        store: why the store is not known to be complete, although it can be read.
        acknowledgements: one sentence, where some acknowledgements cannot be read.
    """

    error: str | None = None
    is_unread: bool = False
    damaged_events: int = 0
    store: str | None = None
    acknowledgements: str | None = None

    @classmethod
    def of(cls, completeness: Completeness) -> Self:
        """Return the doubt that a run's store leaves."""
        return cls(
            error=completeness.unreadable,
            is_unread=completeness.unreadable is not None,
            damaged_events=completeness.damaged_events,
            store=completeness.gap,
        )

    @property
    def lights(self) -> str | None:
        """Why a light that is off may have to be on, in a few words; None if off means off."""
        if self.is_unread:
            return "the store cannot be read"
        return Completeness(None, self.damaged_events, self.store).doubt

    @property
    def unknown_lights(self) -> str | None:
        """A sentence on lights in doubt because the store is not complete; None if it is."""
        if self.store is None or self.damaged_events:
            return None
        return f"lights that are off are not known to be off: {self.store}"

    @property
    def sentence(self) -> str | None:
        """All of it in one sentence; None where nothing is in doubt."""
        if self.error is not None:
            return self.error
        damaged = None
        if self.damaged_events:
            number = self.damaged_events
            events = f"{counted(number, 'event')} {plural(number, 'is', 'are')}"
            damaged = f"{events} damaged and left out: figures may have gaps"
        parts = (damaged, self.unknown_lights, self.acknowledgements)
        return "; ".join(part for part in parts if part) or None


NO_DOUBT: Final = Doubt()
