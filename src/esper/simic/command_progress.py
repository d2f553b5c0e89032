"""Progress of `esper grow`, `eval` and `replay`.

On a terminal it is a bar with a clock below the printed lines. Elsewhere it is a plain line every
ten seconds, so that a log shows how far a long command is.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from esper.leyline.text.plain_text import printable
from esper.simic.pace import Pace
from esper.simic.time_left import TimeLeftColumn

#: Receives the current work, and the fraction of all work that is done, 0 to 1.
Report = Callable[[str, float], None]

#: Seconds between two lines of progress where there is no terminal.
SECONDS_BETWEEN_LINES = 10.0


def no_report(_what: str, _done: float) -> None:
    """Ignore progress."""


class NoProgress:
    """Shows no progress, for callers in Python; warnings become Python warnings."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def say(self, sentence: str) -> None:
        """Ignore a line."""

    def warn(self, sentence: str) -> None:
        """Issue a `UserWarning`."""
        warnings.warn(sentence, stacklevel=4)  # the caller of `evaluate` or `grow`

    def report(self, what: str, done: float) -> None:
        """Ignore progress."""


NO_PROGRESS = NoProgress()


class CommandProgress:
    """Shows the progress of a command; use it as a context manager.

    Args:
        console: the console to show it on.
        clock: returns the seconds of a monotonic clock.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._pace = Pace(1.0, clock)
        self._is_begun = False
        self._last_line = clock()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
                TimeLeftColumn(self._pace),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("loading PyTorch", total=1.0)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, sentence: str) -> None:
        """Print a line."""
        self._last_line = self._clock()
        if self._bar is not None:
            self._console.print(printable(sentence), markup=False)
            return
        with suppress(BrokenPipeError):  # not by `print` of the console, which wraps lines
            self._console.file.write(f"{printable(sentence)}\n")
            self._console.file.flush()

    def warn(self, sentence: str) -> None:
        """Print a warning."""
        self.say(sentence)

    def report(self, what: str, done: float) -> None:
        """Show the current work, and the fraction of all work that is done."""
        if not self._is_begun:
            self._is_begun = True
            self._pace.begin(done)
        if self._bar is not None:
            self._bar.update(self._task, description=what, completed=done)
        elif self._clock() - self._last_line >= SECONDS_BETWEEN_LINES:
            self.say(f"{what}: {done:.0%} of the work done, {self._pace.words(done)}")
