"""Looks at the run, and where a screen wants it at all runs, from a thread; posts what it saw.

The store is only ever read here: the thread that draws never waits for a disk.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.karn.sanctum.cockpit.watch import Watch
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.run_screen import RunScreen, RunsSeen, Seen
from esper.karn.store.run_directory import RunNotFoundError

if TYPE_CHECKING:
    from esper.karn.reports.run_catalogue import RunCatalogue

#: How long it waits between two looks at the run.
PERIOD_SECONDS: Final = 0.25
#: The same at a run that is over, and that stands still: it only changes if it is resumed. Textual
#: draws the whole screen behind a dialog again at each look.
OVER_SECONDS: Final = 1.0
#: How long it waits between two looks at the folder of runs, while a screen shows that.
RUNS_SECONDS: Final = 1.0


class Lookout:
    """Looks until it is told to end; everything but `run` may be called from any thread.

    Args:
        watch: what to look at the run with.
        run_dir: the folder that holds runs.
        clock: returns the time of now, in seconds since the epoch.
        screen: returns the screen to post to, which takes messages once its panels are there; None
            where there is nothing to be shown on.
        complete: adds to a view what only the app knows.
    """

    def __init__(
        self,
        watch: Watch,
        run_dir: Path,
        *,
        clock: Callable[[], float],
        screen: Callable[[], RunScreen | None],
        complete: Callable[[View], View],
    ) -> None:
        self.watch = watch
        self._run_dir = run_dir
        self._clock = clock
        self._screen = screen
        self._complete = complete
        self._leaving = threading.Event()
        self._wake = threading.Event()
        self._catalogue: RunCatalogue | None = None  # once a screen wants to show all runs
        self._runs_due = 0.0  # by the monotonic clock
        self._was_there = False  # the folder of runs

    def look_at_once(self) -> None:
        """There is a reason not to wait: a key was pressed."""
        self._runs_due = 0.0
        self._wake.set()

    def end(self) -> None:
        """Look no more."""
        self._leaving.set()
        self._wake.set()

    def run(self) -> None:
        """Look again and again, in this thread."""
        self._was_there = self._run_dir.is_dir()
        while not self._leaving.is_set():
            with closing(self.watch) as watch:
                while watch is self.watch and not self._leaving.is_set():
                    self._look(watch)

    def _look(self, watch: Watch) -> None:
        view = self._complete(watch(self._clock()))
        if watch is not self.watch:
            return  # another run was opened meanwhile
        screen = self._screen()
        is_behind = False
        if screen is not None:
            screen.post_message(Seen(view))
            is_behind = screen.WANTS_RUNS and self._look_at_runs(screen)
        if not view.is_behind and not is_behind:
            plays = view.position is not None and view.position.speed > 0
            rests = view.status.is_over and not plays
            self._wake.wait(OVER_SECONDS if rests else PERIOD_SECONDS)
            self._wake.clear()

    def _look_at_runs(self, screen: RunScreen) -> bool:
        """Look at the folder of runs; return whether there is more to be read at once."""
        if time.monotonic() < self._runs_due:
            return False
        from esper.karn.reports.run_catalogue import RunCatalogue  # not needed for the first paint

        if self._catalogue is None:
            self._catalogue = RunCatalogue(self._run_dir)
        try:
            found = self._catalogue.look(self._clock())
        except RunNotFoundError as error:
            screen.post_message(RunsSeen((), error=str(error)))
            return False
        is_there = self._run_dir.is_dir()
        is_gone = self._was_there and not is_there
        self._was_there |= is_there
        trouble = f"the folder {self._run_dir} is gone" if is_gone else None
        screen.post_message(RunsSeen(found.runs, is_behind=found.is_behind, error=trouble))
        if not found.is_behind:
            self._runs_due = time.monotonic() + RUNS_SECONDS
        return found.is_behind
