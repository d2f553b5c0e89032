"""The moment of a run that is shown: now, or an update, which may play forward."""

from dataclasses import dataclass, replace
from typing import Final

#: Most seconds played at once, for example after the machine was suspended or its clock jumped.
_LONGEST_STEP_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Playback:
    """An immutable position in a run."""

    update: int | None = None  # None: now, followed
    speed: int = 0  # updates per second; 0 while paused
    seconds: float = 0.0  # played since `update` was reached
    at: float | None = None  # time of the last call of `advanced`, seconds since the epoch

    def going_to(self, update: int | None) -> "Playback":
        """Return this at another update, still playing if it was; None is now, without playing."""
        return replace(self, update=update, seconds=0.0, speed=0 if update is None else self.speed)

    def playing(self, speed: int) -> "Playback":
        """Return this at another speed; from now, playing starts with the first update."""
        update = 1 if self.update is None and speed > 0 else self.update
        return replace(self, update=update, speed=max(0, speed), seconds=0.0, at=None)

    def advanced(self, now: float, updates: int, *, is_over: bool) -> "Playback":
        """Return this as of `now`.

        At the last update, playing pauses if the run has ended, and else returns to now.

        Args:
            now: seconds since the epoch; if it went backwards, nothing is played.
            updates: the last update of the run so far.
            is_over: whether there will be no more.
        """
        if self.update is None or updates == 0:
            return replace(self, at=now)
        update = min(max(self.update, 1), updates)
        if self.speed == 0 or self.at is None:
            return replace(self, update=update, at=now)
        passed = min(max(0.0, now - self.at), _LONGEST_STEP_SECONDS)
        seconds = self.seconds + passed
        steps = int(seconds * self.speed)
        if update + steps < updates:
            left = seconds - steps / self.speed
            return replace(self, update=update + steps, seconds=left, at=now)
        if is_over:
            return Playback(update=updates, at=now)
        return Playback(at=now)
