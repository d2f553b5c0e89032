"""One non-finite quantity, as a check or an explanation names it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """One non-finite quantity that no other finding explains."""

    owner: str  # a head, a group, or SHARED
    quantity: str
    kind: str  # "nan", "+inf" or "-inf"
    part: str = ""  # the tensor
    environment: int | None = None  # number of its environment, as the library counts
    step: int | None = None  # of that environment, counted from 1; 0: its first reset


#: What was found, without its kinds: a fault that lasts may make an Inf once, and then a NaN.
Look = frozenset[tuple[str, str, str]]


def look_of(found: Iterable[Found]) -> Look:
    """Return owner, quantity and part of the findings."""
    return frozenset((one.owner, one.quantity, one.part) for one in found)
