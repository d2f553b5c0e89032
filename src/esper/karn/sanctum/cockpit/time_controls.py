"""Moving through the time of a run: turns keys into what a watch is asked for."""

from typing import Final

from esper.karn.sanctum.cockpit.watch import Watch
from esper.karn.sanctum.fold.view import View

#: Updates per second at which a run can be played.
SPEEDS: Final = (1, 4, 16)


class TimeControls:
    """Knows which moment was asked for, also while the watch is still on its way there."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._asked: int | None = None  # for an update that was not seen yet
        self.speed: int = SPEEDS[0]

    def seen(self, view: View) -> None:
        """Take note of what the watch has arrived at."""
        if view.position is None or view.position.update == self._asked or view.position.speed:
            self._asked = None

    def step(self, view: View, by: int) -> None:
        """Move by a number of updates; beyond the last one is now."""
        updates = view.snapshot.run.update if view.position is None else view.position.updates
        if not updates:
            return
        shown = view.snapshot.run.update if view.position is None else view.position.update
        wanted = (shown if self._asked is None else self._asked) + by
        if wanted > updates or (by > 0 and view.position is None and self._asked is None):
            self.go_to(None)
        else:
            self.go_to(max(1, wanted))

    def go_to(self, update: int | None) -> None:
        """Show the run as it was after an update, or with None as it is now."""
        self._asked = update
        self._watch.go_to(update)

    def toggle_play(self, view: View) -> None:
        """Play on from the moment that is shown, from the first one if that is now; or pause."""
        if view.position is None:
            if view.snapshot.run.update:
                self.go_to(1)
                self._watch.play(self.speed)
        else:
            self._watch.play(0 if view.position.speed else self.speed)

    def cycle_speed(self, view: View) -> None:
        """Choose the next speed; what is playing goes on with it."""
        self.speed = SPEEDS[(SPEEDS.index(self.speed) + 1) % len(SPEEDS)]
        if view.position is not None and view.position.speed:
            self._watch.play(self.speed)
