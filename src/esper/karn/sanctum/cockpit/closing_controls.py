"""Shows how a run ended, when it ends or when an ended run is opened."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from esper.karn.sanctum.fold.view import View

if TYPE_CHECKING:
    from esper.karn.reports.run_end import RunEnd
    from esper.karn.sanctum.cockpit.app import SanctumApp


class EndRead(Message):
    """The end of a run was read from its store."""

    def __init__(self, directory: Path, end: "RunEnd") -> None:
        super().__init__()
        self.directory = directory
        self.end = end


class ClosingControls:
    """Opens the closing screen of the run that is shown.

    Args:
        app: the app that shows the run.
    """

    def __init__(self, app: "SanctumApp") -> None:
        self._app = app
        self._shown: Path | None = None  # the run whose end was shown

    def seen(self, view: View) -> None:
        """Show the end of a run once: when it ends, or when it is opened and has ended.

        Not over another dialog, nor in a past moment, nor on a terminal too small for a screen.
        """
        if not view.status.is_over:
            self._shown = None  # the run may end again after a resume
            return
        is_due = self._app.settings.closing and view.directory not in (None, self._shown)
        is_busy = view.is_behind or view.position is not None or len(self._app.screen_stack) > 1
        if is_due and not is_busy and not self._app.run_screen.is_small:
            self._shown = view.directory
            self.show()

    def show(self) -> None:
        """Read how the run ended, in a thread; the app then receives an `EndRead`."""
        view = self._app.view
        if view is not None and view.directory is not None:
            read = partial(self._read, view.directory)
            self._app.run_worker(read, thread=True, group="closing", exclusive=True)

    def _read(self, directory: Path) -> None:
        from esper.karn.reports.run_end import end_of  # not needed for the first paint

        # Not `call_from_thread`: it waits forever for the event loop if the app ends meanwhile.
        self._app.post_message(EndRead(directory, end_of(directory)))

    def show_read(self, message: EndRead) -> None:
        """Open the closing screen, unless another run or dialog is shown by now."""
        from esper.karn.sanctum.dialogs.closing import ClosingScreen  # as above

        view = self._app.view
        is_open = view is not None and view.directory == message.directory
        if is_open and len(self._app.screen_stack) == 1:
            self._app.push_screen(ClosingScreen(message.end), self._closed)

    def _closed(self, key: str | None) -> None:
        if key is not None:
            self._app.simulate_key(key)
