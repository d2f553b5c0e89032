"""Blinks, tests and acknowledges the lights on the screens of the cockpit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.karn.sanctum.fold.attention import (
    Attention,
    Lamps,
    Light,
    light_words,
    lights_on,
    unacknowledged,
)
from esper.karn.sanctum.fold.view import View
from esper.leyline.text.plurals import counted, plural

if TYPE_CHECKING:
    from esper.karn.sanctum.cockpit.app import SanctumApp

#: From one phase of a blinking light to the next.
BLINK_SECONDS: Final = 0.5
LAMP_TEST_SECONDS: Final = 2.0


class LightControls:
    """Controls how lights are shown, and writes acknowledgements.

    Args:
        app: the app whose screens show the lights.
        clock: returns the current time in seconds since the epoch.
        acknowledged: called from a thread once an acknowledgement is written, or cannot be.
    """

    def __init__(
        self, app: "SanctumApp", clock: Callable[[], float], acknowledged: Callable[[], None]
    ) -> None:
        self._app = app
        self._clock = clock
        self._acknowledged = acknowledged
        self._attention = Attention()
        self.lamps = Lamps()

    def start(self) -> None:
        """Set up the blinking; called once the app runs."""
        self._blinking = self._app.set_interval(BLINK_SECONDS, self._blink, pause=True)

    def seen(self, view: View) -> None:
        """Ring for a new light, and blink while there is one that is not acknowledged."""
        settings = self._app.settings
        if self._attention.rings(view) and settings.bell:
            self._app.bell()
        if unacknowledged(view) and not settings.reduced_motion:
            self._blinking.resume()
        else:
            self._blinking.pause()
            self._show(replace(self.lamps, bright=True))

    def test(self) -> None:
        """Show all lights as on for a moment; nothing is stored."""
        self._show(replace(self.lamps, is_test=True))
        self._app.set_timer(LAMP_TEST_SECONDS, self._end_test)

    def acknowledge_one(self) -> None:
        """Acknowledge the chosen light, or else the first of those not acknowledged."""
        waiting = self._waiting()
        if waiting is None:
            return
        light = self._app.run_screen.chosen_light()
        if light is None:
            self._app.notify(
                "this row has no light: choose a row with one, or press A for all lights"
            )
        elif light not in waiting:
            self._app.notify(f"{light_words(light)} is acknowledged already", markup=False)
        else:
            self._acknowledge([light], len(waiting) - 1)

    def acknowledge_all(self) -> None:
        """Acknowledge every light that is on."""
        waiting = self._waiting()
        if waiting is not None:
            self._acknowledge(sorted(waiting), 0)

    def _blink(self) -> None:
        self._show(replace(self.lamps, bright=not self.lamps.bright))

    def _show(self, lamps: Lamps) -> None:
        if lamps != self.lamps:
            self.lamps = lamps
            self._app.run_screen.show_lamps(lamps)

    def _end_test(self) -> None:
        self._show(replace(self.lamps, is_test=False))

    def _waiting(self) -> frozenset[Light] | None:
        """Return the lights not acknowledged; None, with a message, where there are none."""
        view = self._app.view
        if view is None or not lights_on(view.snapshot):
            self._app.notify("no light is on: there is nothing to acknowledge")
            return None
        waiting = unacknowledged(view)
        if not waiting:
            self._app.notify("all lights are acknowledged already")
            return None
        return waiting

    def _acknowledge(self, lights: Sequence[Light], left: int) -> None:
        view = self._app.view
        if view is not None and view.directory is not None:
            write = partial(self._write, view.directory, lights, left)
            self._app.run_worker(write, thread=True, group="acknowledge")

    def _write(self, directory: Path, lights: Sequence[Light], left: int) -> None:
        """Write an acknowledgement to its own file: the cockpit never writes to a run's store.

        Args:
            directory: of the run.
            lights: to acknowledge.
            left: how many lights remain unacknowledged.
        """
        from esper.karn.store.run_files.acknowledgements import (
            AcknowledgementError,
            acknowledge,
            who_am_i,
        )

        try:
            acknowledge(directory, lights, who_am_i(), self._clock())
        except AcknowledgementError as error:
            self._app.notify(str(error), severity="error", markup=False)
        else:
            message = f"acknowledged: {', '.join(map(light_words, lights))}"
            if left:
                remain = f"{counted(left, 'light')} {plural(left, 'remains', 'remain')}"
                message += f"; {remain}: a for the next, A for all"
            self._app.notify(message, markup=False)
        self._acknowledged()
