"""Reads the run, and the list of runs for a screen that shows it, in a thread; posts the results.

Stores are read in this thread only, so the thread that draws never waits for a disk.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.karn.sanctum.cockpit.observer import Observer
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.run_screen import RunScreen, RunsUpdated, ViewUpdated
from esper.karn.store.run_directory import RunNotFoundError

if TYPE_CHECKING:
    from esper.karn.reports.run_catalogue import RunCatalogue

#: Time between two readings of the run.
PERIOD_SECONDS: Final = 0.25
#: The same for a run that has ended: it changes only if it is resumed, and Textual draws the whole
#: screen behind a dialog again at each look.
OVER_SECONDS: Final = 1.0
#: Time between two readings of the folder of runs, while a screen shows it.
RUNS_SECONDS: Final = 1.0


class Poller:
    """Reads until `end` is called. All methods except `run` may be called from any thread.

    Args:
        observer: reads the run.
        run_dir: the folder that holds runs.
        clock: returns the current time in seconds since the epoch.
        screen: returns the screen to post to, or None if there is none; a screen receives messages
            once its panels exist.
        complete: adds the state of the child process to a view.
    """

    def __init__(
        self,
        observer: Observer,
        run_dir: Path,
        *,
        clock: Callable[[], float],
        screen: Callable[[], RunScreen | None],
        complete: Callable[[View], View],
    ) -> None:
        self.observer = observer
        self._run_dir = run_dir
        self._clock = clock
        self._screen = screen
        self._complete = complete
        self._ending = threading.Event()
        self._wake = threading.Event()
        self._catalogue: RunCatalogue | None = None  # created when a screen first shows all runs
        self._runs_due = 0.0  # by the monotonic clock
        self._had_folder = False  # whether the folder of runs has existed

    def poll_now(self) -> None:
        """Read now instead of at the next interval, for example after a key press."""
        self._runs_due = 0.0
        self._wake.set()

    def end(self) -> None:
        """Stop reading."""
        self._ending.set()
        self._wake.set()

    def run(self) -> None:
        """Read until `end` is called, in the calling thread."""
        self._had_folder = self._run_dir.is_dir()
        while not self._ending.is_set():
            with closing(self.observer) as observer:
                while observer is self.observer and not self._ending.is_set():
                    self._read(observer)
        if self._catalogue is not None:
            self._catalogue.save()

    def _read(self, observer: Observer) -> None:
        view = self._complete(observer(self._clock()))
        if observer is not self.observer:
            return  # another run was opened in the meantime
        screen = self._screen()
        is_behind = False
        if screen is not None:
            screen.post_message(ViewUpdated(view))
            is_behind = screen.WANTS_RUNS and self._read_runs(screen)
        if not view.is_behind and not is_behind:
            plays = view.position is not None and view.position.speed > 0
            rests = view.status.is_over and not plays
            self._wake.wait(OVER_SECONDS if rests else PERIOD_SECONDS)
            self._wake.clear()

    def _read_runs(self, screen: RunScreen) -> bool:
        """Read the folder of runs; return whether there is more to read without waiting."""
        if time.monotonic() < self._runs_due:
            return False
        from esper.karn.reports.run_catalogue import RunCatalogue  # not needed for the first paint

        if self._catalogue is None:
            self._catalogue = RunCatalogue(self._run_dir)
        try:
            found = self._catalogue.look(self._clock())
        except RunNotFoundError as error:
            screen.post_message(RunsUpdated((), error=str(error)))
            return False
        is_there = self._run_dir.is_dir()
        is_gone = self._had_folder and not is_there
        self._had_folder |= is_there
        trouble = f"the folder {self._run_dir} is gone" if is_gone else None
        screen.post_message(RunsUpdated(found.runs, is_behind=found.is_behind, error=trouble))
        if not found.is_behind:
            self._runs_due = time.monotonic() + RUNS_SECONDS
        return found.is_behind
