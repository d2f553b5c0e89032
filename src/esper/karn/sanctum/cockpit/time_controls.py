"""Keys that move through the time of a run."""

from typing import Final

from esper.karn.sanctum.cockpit.observer import Observer
from esper.karn.sanctum.fold.view import View

#: Updates per second at which a run can be played.
SPEEDS: Final = (1, 4, 16)


class TimeControls:
    """Moves an observer through time, also while an earlier move is not shown yet."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._requested: int | None = None  # an update that is not shown yet
        self.speed: int = SPEEDS[0]

    def seen(self, view: View) -> None:
        """Note the moment that is shown now."""
        if view.position is None or view.position.update == self._requested or view.position.speed:
            self._requested = None

    def step(self, view: View, by: int) -> None:
        """Move by a number of updates; after the last one comes now."""
        updates = view.snapshot.run.update if view.position is None else view.position.updates
        if not updates:
            return
        shown = view.snapshot.run.update if view.position is None else view.position.update
        wanted = (shown if self._requested is None else self._requested) + by
        if wanted > updates or (by > 0 and view.position is None and self._requested is None):
            self.go_to(None)
        else:
            self.go_to(max(1, wanted))

    def go_to(self, update: int | None) -> None:
        """Show the state of the run after an update; with None, its current state."""
        self._requested = update
        self._observer.go_to(update)

    def toggle_play(self, view: View) -> None:
        """Play from the moment shown, or from the first update if that is now; or pause."""
        if view.position is None:
            if view.snapshot.run.update:
                self.go_to(1)
                self._observer.play(self.speed)
        else:
            self._observer.play(0 if view.position.speed else self.speed)

    def cycle_speed(self, view: View) -> None:
        """Choose the next speed, also for what is playing."""
        self.speed = SPEEDS[(SPEEDS.index(self.speed) + 1) % len(SPEEDS)]
        if view.position is not None and view.position.speed:
            self._observer.play(self.speed)
