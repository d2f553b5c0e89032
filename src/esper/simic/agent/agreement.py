"""What several processes that make the same update agree on, before any of them decides.

A process that trains alone agrees with itself. `esper.simic.ranks` has the processes of torchrun.
Every process makes the same calls in the same order, whatever its own values are.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from torch import Tensor

from esper.leyline.telemetry import NonfiniteSighting


class Agreement(Protocol):
    """Joins what the processes of a run found."""

    def is_any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        ...

    def any_of(self, flags: Tensor) -> Tensor:
        """Return which flags are set in any process.

        Args:
            flags: bool or uint8, of the same shape in each process.

        Returns:
            The maximum over the processes, of the same shape and type, on the same device.
        """
        ...

    def joined(self, own: Sequence[NonfiniteSighting]) -> list[NonfiniteSighting]:
        """Return the sightings of all processes, each kind of them once."""
        ...


class Alone:
    """The agreement of a process that trains alone."""

    def is_any(self, flag: bool) -> bool:
        """Return the flag."""
        return flag

    def any_of(self, flags: Tensor) -> Tensor:
        """Return the flags."""
        return flags

    def joined(self, own: Sequence[NonfiniteSighting]) -> list[NonfiniteSighting]:
        """Return the sightings."""
        return list(own)


ALONE: Final = Alone()
