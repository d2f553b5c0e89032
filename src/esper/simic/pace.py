"""Elapsed time of work, and an estimate of the remaining time."""

import time
from collections.abc import Callable


class Pace:
    """Elapsed time, and an estimate of the time left.

    The estimate assumes a constant speed since `begin`, so that imports and the earlier part of a
    resumed run do not distort it.

    Args:
        total: amount of work, in any unit.
        clock: returns the seconds of a monotonic clock.
    """

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self._clock = clock
        self._created = clock()
        self._began = self._created
        self._done_before = 0.0

    def begin(self, done: float = 0.0) -> None:
        """Start to measure the pace.

        Args:
            done: work that was done earlier.
        """
        self._began, self._done_before = self._clock(), done

    @property
    def elapsed(self) -> float:
        """Seconds since this object was created."""
        return self._clock() - self._created

    def left(self, done: float) -> float | None:
        """Return the seconds left, or None before any work is done.

        Args:
            done: work done so far, including earlier work.
        """
        own = done - self._done_before
        if own <= 0:
            return None
        return max(0.0, self.total - done) * (self._clock() - self._began) / own

    def words(self, done: float) -> str:
        """Return "1:05 elapsed, about 4:10 left"."""
        left = self.left(done)
        rest = "" if left is None else f", about {duration(left)} left"
        return f"{duration(self.elapsed)} elapsed{rest}"


def duration(seconds: float) -> str:
    """Return seconds as "0:05", "12:34" or "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
