"""An axis of a plot: values to pixels, with round ticks."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels, with its ticks."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Return round values on the axis, two to six of them."""
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def _round_step(rough: float) -> float:
    magnitude: float = 10.0 ** math.floor(math.log10(rough))
    return magnitude * next(each for each in (1, 2, 5, 10) if each * magnitude >= rough)
